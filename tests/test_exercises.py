# ruff: noqa: E501 (one line for each wrong answer)
"""The checks: they accept every right answer, and say the right thing about every wrong one."""

import builtins
import contextlib
import copy
import functools
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from torch import nn

from course_utils import attacks
from course_utils.exercises import CheckResult, check, engine, error_hints, properties, sandbox
from course_utils.exercises import fgsm as fgsm_checks

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))  # what a notebook may have lying around
BUDGET = 0.25
WEIGHTS = torch.randn(50, generator=torch.Generator().manual_seed(0))


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.clone().detach().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def unit(g, dim=1):
    return g / g.flatten(1).norm(dim=dim).clamp_min(1e-12).view(-1, 1, 1, 1)


# --- right answers ----------------------------------------------------------------------------------------------------


def step_with_backward(model, x, y, eps, direction):
    adv = x.clone().detach()
    adv.requires_grad = True
    F.cross_entropy(model(adv), y).backward()
    model.zero_grad()
    return torch.clip(adv + eps * direction(adv.grad), 0, 1).detach()


def step_and_none(model, x, y, eps, direction):
    x = x.detach().clone().requires_grad_(True)
    loss = nn.CrossEntropyLoss(reduction="sum")(input=model(x), target=y)
    loss.backward()
    for p in model.parameters():
        p.grad = None
    with torch.no_grad():
        return torch.clamp(x + eps * direction(x.grad), min=0.0, max=1.0)


def step_with_zeros(model, x, y, eps, direction):
    x = x.clone().detach().requires_grad_()
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    model.zero_grad(set_to_none=False)
    return (x + eps * direction(x.grad)).detach().clamp(0, 1)


def step_on_a_copy(model, x, y, eps, direction):
    model = copy.deepcopy(model).eval()
    x = x.clone().requires_grad_()
    F.nll_loss(F.log_softmax(model(x), dim=-1), y).backward()
    new = x.data + eps * direction(x.grad.data)
    return torch.min(torch.max(new, torch.zeros_like(x)), torch.ones_like(x))


def step_functional(model, x, y, eps, direction):
    def loss(x):
        z = model(x)
        return (z.logsumexp(1) - (z * F.one_hot(y, z.shape[1])).sum(1)).sum()

    return (x + eps * direction(torch.func.grad(loss)(x).detach())).clamp(0, 1)


def step_with_delta(model, x, y, eps, direction):
    was = model.training
    model.eval()
    delta = torch.zeros_like(x, requires_grad=True)
    (g,) = torch.autograd.grad(F.cross_entropy(model(x + delta), y), [delta])
    model.train(was)
    return (x + eps * direction(g)).clamp_(0, 1)


def step_one_by_one(model, x, y, eps, direction):
    news = []
    for image, label in zip(x, y, strict=True):
        image = image.unsqueeze(0).clone().requires_grad_()
        g = torch.autograd.grad(-model(image).log_softmax(1)[0, label], image)[0]
        news.append((image.detach() + float(eps) * direction(g)).clamp(0, 1))
    return torch.cat(news)


def step_frozen(model, x, y, eps, direction):
    for p in model.parameters():
        p.requires_grad_(False)
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    for p in model.parameters():
        p.requires_grad_(True)
    return (x.detach() + eps * direction(x.grad)).clip(0, 1)


STEPS = (
    step_with_backward,
    step_and_none,
    step_with_zeros,
    step_on_a_copy,
    step_functional,
    step_with_delta,
    step_one_by_one,
    step_frozen,
)


def all_steps(direction):
    return {s.__name__: lambda model, x, y, eps, s=s: s(model, x, y, eps, direction) for s in STEPS}


def unit_by_sum(g):
    return g / (g.pow(2).sum(dim=(1, 2, 3), keepdim=True).sqrt() + 1e-8)


def unit_by_mask(g):
    length = torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True)
    return torch.where(length > 0, g / length, torch.zeros_like(g))


def rate_by_loop(model, x, adv, y):
    device = next(model.parameters()).device
    right = fooled = 0
    for i in range(len(x)):
        if model(x[i : i + 1].to(device)).argmax() == y[i]:
            right += 1
            fooled += int(model(adv[i].unsqueeze(0)).argmax() != y[i])
    return fooled / right


@torch.no_grad()
def rate_by_masks(model, x, adv, y):
    before, after = model(x).max(dim=1).indices == y, model(adv).max(dim=1)[1] == y
    return (before & ~after).sum() / before.sum()


def rate_in_numpy(model, x, adv, y):
    before, after = (model(v).detach().numpy().argmax(1) for v in (x, adv))
    return 1 - np.mean(after[before == y.numpy()] == y.numpy()[before == y.numpy()])


RIGHT = {
    "fgsm": {
        "reference": lambda model, x, y, eps: (x + eps * gradient(model, x, y).sign()).clamp(0, 1),
        "library": attacks.fgsm,
        "two values": lambda model, x, y, eps: (x + eps * torch.where(gradient(model, x, y) > 0, 1.0, -1.0)).clamp(
            0, 1
        ),
        "early return": lambda model, x, y, eps: x if eps == 0 else attacks.fgsm(model, x, y, eps),
        **all_steps(torch.sign),
    },
    "targeted_fgsm": {
        "reference": lambda model, x, target, eps: (x - eps * gradient(model, x, target).sign()).clamp(0, 1),
        "library": lambda model, x, target, eps: attacks.fgsm(model, x, target, eps, targeted=True),
        "minus the loss": lambda model, x, target, eps: (
            x + eps * gradient(model, x, target, lambda z, t: -F.cross_entropy(z, t)).sign()
        ).clamp(0, 1),
        "log-probability": lambda model, x, target, eps: (
            x + eps * gradient(model, x, target, lambda z, t: z.log_softmax(1).gather(1, t[:, None]).sum()).sign()
        ).clamp(0, 1),
        **all_steps(lambda g: -torch.sign(g)),
    },
    "l2_step": {
        "reference": lambda model, x, y, eps: (x + eps * unit(gradient(model, x, y))).clamp(0, 1),
        "library": lambda model, x, y, eps: attacks.fgsm(model, x, y, eps, norm="l2"),
        "nan_to_num": lambda model, x, y, eps: (
            x + eps * torch.nan_to_num((g := gradient(model, x, y)) / g.flatten(1).norm(dim=1)[:, None, None, None])
        ).clamp(0, 1),
        "normalize": lambda model, x, y, eps: (
            x + eps * F.normalize(gradient(model, x, y).flatten(1)).view(x.shape)
        ).clamp(0, 1),
        **all_steps(unit_by_sum),
        **{f"{name} masked": f for name, f in all_steps(unit_by_mask).items()},
    },
    "success_rate": {
        "reference": lambda model, x, adv, y: (
            (model(adv[(r := model(x).argmax(1) == y)]).argmax(1) != y[r]).float().mean().item()
        ),
        "loop": rate_by_loop,
        "masks": rate_by_masks,
        "numpy": rate_in_numpy,
        "changed among right": lambda model, x, adv, y: (
            (model(adv).argmax(1) != model(x).argmax(1))[model(x).argmax(1) == y].float().mean()
        ),
        "one minus kept": lambda model, x, adv, y: (
            1 - ((model(x).argmax(1) == y) & (model(adv).argmax(1) == y)).sum() / (model(x).argmax(1) == y).sum()
        ),
        "topk": lambda model, x, adv, y: (
            (model(adv).topk(1).indices[:, 0] != y)[model(x).softmax(1).topk(1)[1].squeeze(1) == y].double().mean()
        ),
    },
}


@pytest.mark.parametrize(("name", "variant"), [(name, v) for name, variants in RIGHT.items() for v in variants])
def test_right_answers_pass(name, variant):
    result = check(name, RIGHT[name][variant])
    assert result, result
    assert len(result.passed) >= 4


# --- wrong answers ----------------------------------------------------------------------------------------------------


def attack(change, clip=(0, 1), loss=F.cross_entropy):
    """An attack that adds change(gradient, eps)."""

    def answer(model, x, y, eps):
        adv = x + change(gradient(model, x, y, loss), eps)
        return adv.clamp(*clip) if clip else adv

    return answer


def leave_grad_on_x(direction):
    def answer(model, x, y, eps):
        x.requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]
        return (x + eps * direction(g)).clamp(0, 1).detach()

    return answer


def leave_x_grad(direction):
    def answer(model, x, y, eps):
        x.requires_grad = True
        F.cross_entropy(model(x), y).backward()
        model.zero_grad()
        x.requires_grad = False
        return (x + eps * direction(x.grad)).clamp(0, 1)

    return answer


def pollute(direction):
    def answer(model, x, y, eps):
        model.zero_grad()
        x = x.clone().requires_grad_()
        F.cross_entropy(model(x), y).backward()
        return (x + eps * direction(x.grad)).clamp(0, 1).detach()

    return answer


def in_place(direction):
    def answer(model, x, y, eps):
        g = gradient(model, x, y)
        x += eps * direction(g)
        return x.clamp_(0, 1)

    return answer


def leave_eval(direction):
    def answer(model, x, y, eps):
        model.eval()
        return (x + eps * direction(gradient(model, x, y))).clamp(0, 1)

    return answer


def leave_train(direction):
    def answer(model, x, y, eps):
        model.train()
        return (x + eps * direction(gradient(model, x, y))).clamp(0, 1)

    return answer


def leave_frozen(direction):
    def answer(model, x, y, eps):
        model.requires_grad_(False)
        return (x + eps * direction(gradient(model, x, y))).clamp(0, 1)

    return answer


def leave_no_grad(direction):
    def answer(model, x, y, eps):
        g = gradient(model, x, y)
        torch.set_grad_enabled(False)
        return (x + eps * direction(g)).clamp(0, 1)

    return answer


def train_the_model(direction):
    def answer(model, x, y, eps):
        g = gradient(model, x, y)
        for p in model.parameters():
            p.data -= 0.01 * p.data
        return (x + eps * direction(g)).clamp(0, 1)

    return answer


def own_prediction(direction):
    return lambda model, x, y, eps: (x + eps * direction(gradient(model, x, model(x).argmax(1)))).clamp(0, 1)


def no_grad_around(model, x, y, eps):
    with torch.no_grad():
        x = x.clone().requires_grad_()
        return x + eps * torch.autograd.grad(F.cross_entropy(model(x), y), x)[0].sign()


def detached_logits(model, x, y, eps):
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x).detach(), y).backward()
    return x


def gradient_of_a_copy(model, x, y, eps):
    z = model(x.clone().requires_grad_())
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(z, y), x)[0]


def grad_is_none(model, x, y, eps):
    x = x.clone()
    F.cross_entropy(model(x), y).backward()
    return (x + eps * x.grad.sign()).clamp(0, 1)


def grad_of_non_leaf(model, x, y, eps):
    x = x.clone().requires_grad_() * 1
    F.cross_entropy(model(x), y).backward()
    return (x + eps * x.grad.sign()).clamp(0, 1)


def loss_per_image(model, x, y, eps):
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y, reduction="none").backward()
    return (x + eps * x.grad.sign()).clamp(0, 1)


def leaf_in_place(model, x, y, eps):
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    x += eps * x.grad.sign()
    return x


def still_attached(direction):
    def answer(model, x, y, eps):
        x = x.clone().requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]
        return (x + eps * direction(g)).clamp(0, 1)

    return answer


def only_right_ones(direction):
    def answer(model, x, y, eps):
        right = (model(x).argmax(1) == y).view(-1, 1, 1, 1)
        return torch.where(right, (x + eps * direction(gradient(model, x, y))).clamp(0, 1), x)

    return answer


def only_fooled(direction):
    def answer(model, x, y, eps):
        adv = (x + eps * direction(gradient(model, x, y))).clamp(0, 1)
        return torch.where((model(adv).argmax(1) != y).view(-1, 1, 1, 1), adv, x)

    return answer


def gradient_as_tuple(model, x, y, eps):
    x = x.clone().requires_grad_()
    g = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + eps * g.sign()).clamp(0, 1).detach()


def first_only(direction):
    def answer(model, x, y, eps):
        g = gradient(model, x, y, lambda z, y: F.cross_entropy(z[:1], y[:1]))
        return (x + eps * direction(g)).clamp(0, 1)

    return answer


def stay_inside(direction):
    def answer(model, x, y, eps):
        adv = x + eps * direction(gradient(model, x, y))
        return torch.where((adv < 0) | (adv > 1), x, adv)

    return answer


def ten_classes(direction):
    def answer(model, x, y, eps):
        g = gradient(model, x, y, lambda z, y: (z.logsumexp(1) - (z * F.one_hot(y, 10)).sum(1)).sum())
        return (x + eps * direction(g)).clamp(0, 1)

    return answer


def fixed_size(direction):
    def answer(model, x, y, eps):
        g = gradient(model, x, y).view(-1, 784)
        return (x.view(-1, 784) + eps * direction(g.view(-1, 1, 28, 28)).view(-1, 784)).clamp(0, 1).view(-1, 1, 28, 28)

    return answer


def scaled_by_batch(model, x, y, eps):
    g = gradient(model, x, y)
    return (x + eps * (g - g.mean()).sign()).clamp(0, 1)


def softmaxed(z, y):
    return F.cross_entropy(z.softmax(1), y)


def steps_gone_wrong(direction):
    """Mistakes that any gradient step can make; `direction` is what a right one would use."""
    return [
        ("nothing", lambda model, x, y, eps: x, "return x instead of the new image"),
        ("a copy", lambda model, x, y, eps: x.clone(), "return x instead of the new image"),
        ("no return", lambda model, x, y, eps: None, "End your function with return"),
        ("the change", lambda model, x, y, eps: eps * direction(gradient(model, x, y)), "the change alone"),
        ("the change, clipped", lambda model, x, y, eps: (eps * direction(gradient(model, x, y))).clamp(0, 1), "the change alone"),
        ("clipped change", attack(lambda g, e: (e * direction(g)).clamp(0, 1)), "Every step down is lost"),
        ("no clip", attack(lambda g, e: e * direction(g), None), "end with .clamp(0, 1)"),
        ("clip 255", attack(lambda g, e: e * direction(g), (0, 255)), "not 255"),
        ("clip from -1", attack(lambda g, e: e * direction(g), (-1, 1)), "not −1"),
        ("clip below only", attack(lambda g, e: e * direction(g), (0, None)), "both ends"),
        ("stays at the edge", stay_inside(direction), "as far as 0 or 1"),
        ("eps squared", attack(lambda g, e: e * e * direction(g)), "multiply by eps twice"),
        ("eps / 255", attack(lambda g, e: e / 255 * direction(g)), "255"),
        ("eps * 255", attack(lambda g, e: e * 255 * direction(g)), "255"),
        ("no eps", attack(lambda g, e: direction(g)), "multiply"),
        ("eps of one's own", attack(lambda g, e: 0.1 * direction(g)), "eps that is passed in"),
        ("eps of the notebook", attack(lambda g, e: BUDGET * direction(g)), "eps that is passed in"),
        ("twice eps", attack(lambda g, e: 2 * e * direction(g)), "eps"),
        ("softmax", attack(lambda g, e: e * direction(g), loss=softmaxed), "logits, not probabilities"),
        ("nll", attack(lambda g, e: e * direction(g), loss=F.nll_loss), "wants log-probabilities"),
        ("noise", lambda model, x, y, eps: (x + eps * direction(torch.randn_like(x))).clamp(0, 1), "no randomness"),
        ("stale model", lambda model, x, y, eps: (x + eps * direction(gradient(MODEL, x, y))).clamp(0, 1), "reads MODEL from the notebook"),
        ("only the right ones", only_right_ones(direction), "Some images did not move"),
        ("only what is fooled", only_fooled(direction), "images did not move"),
        ("only the first", first_only(direction), "Some images did not move"),
        ("attached", still_attached(direction), ".detach()"),
        ("no_grad", no_grad_around, "requires_grad_()"),
        ("detached logits", detached_logits, "requires_grad_()"),
        ("gradient of a copy", gradient_of_a_copy, "the very x"),
        ("loss per image", loss_per_image, "one number first"),
        ("tuple of gradients", gradient_as_tuple, "(gradient,) ="),
        ("the gradient", lambda model, x, y, eps: gradient(model, x, y), "That is the gradient"),
        ("labels as floats", lambda model, x, y, eps: gradient(model, x, y.float()), "whole numbers"),
        ("grad of a non-leaf", grad_of_non_leaf, "x.grad"),
        ("in place", in_place(direction), "in place"),
        ("leaf in place", leaf_in_place, "in place"),
        ("grad on x", leave_grad_on_x(direction), "requires_grad or a .grad"),
        ("grad in x", leave_x_grad(direction), "requires_grad or a .grad"),
        ("p.grad", pollute(direction), "torch.autograd.grad(loss, x)"),
        ("eval", leave_eval(direction), "left it in evaluation mode"),
        ("train", leave_train(direction), "left it in training mode"),
        ("frozen", leave_frozen(direction), "cannot be trained any more"),
        ("grad mode", leave_no_grad(direction), "gradients switched off"),
        ("weights", train_the_model(direction), "changes the image, never the model"),
        ("ten classes", ten_classes(direction), "classes"),
        ("784 pixels", fixed_size(direction), "x.shape"),
        ("numpy", lambda model, x, y, eps: attacks.fgsm(model, x, y, eps).numpy(), "NumPy"),
        ("tuple", lambda model, x, y, eps: (attacks.fgsm(model, x, y, eps), eps), "one tensor only"),
        ("list", lambda model, x, y, eps: list(attacks.fgsm(model, x, y, eps)), "torch.stack"),
        ("float64", lambda model, x, y, eps: attacks.fgsm(model, x, y, eps).double(), "x.dtype"),
        ("flat", lambda model, x, y, eps: attacks.fgsm(model, x, y, eps).flatten(1), "Keep the shape"),
        ("one image", lambda model, x, y, eps: attacks.fgsm(model, x, y, eps)[0], "Keep the shape"),
    ]  # fmt: skip


def rate(score):
    """A success rate from score(before, after, y) of predictions."""
    return lambda model, x, adv, y: score(model(x).argmax(1), model(adv).argmax(1), y)


def mean(condition):
    return condition.float().mean().item()


WRONG = {
    "fgsm": [
        *steps_gone_wrong(torch.sign),
        ("downhill", attack(lambda g, e: -e * g.sign()), "walk downhill"),
        ("prediction", own_prediction(torch.sign), "prediction as the label"),
        ("gradient", attack(lambda g, e: e * g), "gradient itself"),
        ("summed gradient", attack(lambda g, e: e * g, loss=nn.CrossEntropyLoss(reduction="sum")), "gradient itself"),
        ("gradient, no eps", attack(lambda g, e: g), "gradient itself"),
        ("clamped gradient", attack(lambda g, e: g.clamp(-e, e)), "clip the gradient"),
        ("unit", attack(lambda g, e: e * unit(g)), "Euclidean"),
        ("unit batch", attack(lambda g, e: e * g / g.norm()), "Euclidean"),
        ("max", attack(lambda g, e: e * g / g.abs().max()), "largest entry"),
        ("sign of loss", lambda model, x, y, eps: (x + eps * F.cross_entropy(model(x), y).sign()).clamp(0, 1).detach(), "not of the loss"),
        ("absolute", attack(lambda g, e: e * g.abs().sign()), "same way"),
        ("centred", scaled_by_batch, "Differentiate F.cross_entropy"),
        ("0/0", attack(lambda g, e: e * g / g.abs()), "division by zero"),
        ("grad is None", grad_is_none, "requires_grad_()"),
    ],
    "targeted_fgsm": [
        *[case for case in steps_gone_wrong(lambda g: -g.sign()) if case[0] not in ("leaf in place", "no_grad")],
        ("away", attack(lambda g, e: e * g.sign()), "makes the target less likely"),
        ("prediction", own_prediction(lambda g: -g.sign()), "prediction as the label"),
        ("away from prediction", own_prediction(torch.sign), "prediction as the label"),
        ("gradient", attack(lambda g, e: -e * g), "gradient itself"),
        ("unit", attack(lambda g, e: -e * unit(g)), "Euclidean"),
        ("least likely", lambda model, x, target, eps: attacks.fgsm(model, x, model(x).argmin(1), eps, targeted=True), "least likely class"),
        ("double minus", attack(lambda g, e: -e * g.sign(), loss=lambda z, t: -F.cross_entropy(z, t)), "less likely"),
    ],
    "l2_step": [
        *steps_gone_wrong(unit),
        ("downhill", attack(lambda g, e: -e * unit(g)), "walk downhill"),
        ("prediction", own_prediction(unit), "prediction as the label"),
        ("batch", attack(lambda g, e: e * g / g.norm()), "share one budget"),
        ("sign", attack(lambda g, e: e * g.sign()), "sign step"),
        ("short sign", attack(lambda g, e: e * g.sign() / g[0].numel() ** 0.5), "proportions"),
        ("normalize", attack(lambda g, e: e * F.normalize(g)), "flatten(1)"),
        ("gradient", attack(lambda g, e: e * g), "gradient as it is"),
        ("gradient alone", attack(lambda g, e: g), "gradient as it is"),
        ("squared", attack(lambda g, e: e * g / g.square().sum((1, 2, 3), keepdim=True)), "square root"),
        ("l1", attack(lambda g, e: e * g / g.abs().sum((1, 2, 3), keepdim=True)), "absolute values"),
        ("max", attack(lambda g, e: e * g / g.abs().amax((1, 2, 3), keepdim=True)), "largest entry"),
        ("rows", attack(lambda g, e: e * g / g.norm(dim=-1, keepdim=True)), "one length, over all its pixels"),
        ("over the batch", attack(lambda g, e: e * g / g.norm(dim=0, keepdim=True)), "one length"),
        ("each channel", attack(lambda g, e: e * g / g.norm(dim=(2, 3), keepdim=True).clamp_min(1e-12)), "all channels"),
        ("0/0", attack(lambda g, e: e * g / g.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()), "clamp_min(1e-30)"),
        ("big guard", attack(lambda g, e: e * g / (g.square().sum(dim=(1, 2, 3), keepdim=True).sqrt() + 1e-4)), "tiny only"),
        ("not broadcast", attack(lambda g, e: e * g / g.flatten(1).norm(dim=1)), "shapes"),
    ],
    "success_rate": [
        ("error rate", rate(lambda before, after, y: mean(after != y)), "error rate after the attack"),
        ("over all", rate(lambda before, after, y: mean((before == y) & (after != y))), "divide by all images"),
        ("kept", rate(lambda before, after, y: mean(after[before == y] == y[before == y])), "did not fool"),
        ("accuracy", rate(lambda before, after, y: mean(after == y)), "accuracy after the attack"),
        ("changed", rate(lambda before, after, y: mean(after != before)), "Use y"),
        ("changed over right", rate(lambda before, after, y: (after != before).sum() / (before == y).sum()), "wrong before"),
        ("wrong over right", rate(lambda before, after, y: (after != y).sum() / (before == y).sum()), "wrong before"),
        ("over wrong after", rate(lambda before, after, y: mean(before[after != y] == y[after != y])), "wrong after the attack"),
        ("over changed", rate(lambda before, after, y: mean((before == y)[before != after])), "whose answer changed"),
        ("drop", rate(lambda before, after, y: mean(before == y) - mean(after == y)), "drop of the accuracy"),
        ("relative drop", rate(lambda before, after, y: 1 - mean(after == y) / mean(before == y)), "drop of the accuracy"),
        ("clean accuracy", rate(lambda before, after, y: mean(before == y)), "accuracy before the attack"),
        ("swapped", rate(lambda before, after, y: mean(before[after == y] != y[after == y])), "x for adv"),
        ("x twice", lambda model, x, adv, y: mean((lambda p: p[p == y] != y[p == y])(model(x).argmax(1))), "one prediction from x"),
        ("adv twice", lambda model, x, adv, y: mean((lambda p: p[p == y] != y[p == y])(model(adv).argmax(1))), "one prediction from x"),
        ("count", rate(lambda before, after, y: ((before == y) & (after != y)).sum()), "number of images"),
        ("per cent", rate(lambda before, after, y: 100 * mean(after[before == y] != y[before == y])), "percentage"),
        ("vector", rate(lambda before, after, y: after[before == y] != y[before == y]), "Return one number"),
        ("hard-coded", lambda model, x, adv, y: 10 / 16, "unchanged image"),
        ("argmax over the batch", lambda model, x, adv, y: mean(model(adv).argmax(0) != y), "shapes"),
        ("stale y", lambda model, x, adv, y: mean(model(adv).argmax(1) != WEIGHTS.long()[: len(y)]), "reads WEIGHTS"),
        ("None", lambda model, x, adv, y: None, "return"),
        ("first labels", lambda model, x, adv, y: mean(model(adv[(r := model(x).argmax(1) == y)]).argmax(1) != y[: r.sum()]), "Select first"),
        ("floor division", rate(lambda before, after, y: ((before == y) & (after != y)).sum() // (before == y).sum()), "not //"),
        ("max", lambda model, x, adv, y: mean(model(adv).max(1) != y), "x.argmax(1)"),
        ("logits", lambda model, x, adv, y: mean(model(adv) != y), "shapes"),
        ("in place", lambda model, x, adv, y: (lambda r: mean(model(adv)[r].argmax(1) != y.add_(0)[r]) + 0 * x.zero_().sum().item())(model(x).argmax(1) == y), "in place"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name} {case[0]}") for name, cases in WRONG.items() for case in cases],
)
def test_wrong_answers_are_refused_with_the_right_hint(name, case):
    _, answer, fragment = case
    result = check(name, answer)
    assert result.status == "failed", result
    assert fragment.lower() in f"{result.what} {result.hint}".lower(), result
    assert result.failed
    assert len(result.hint) < 420


def test_every_exercise_has_answers_on_trial():
    here = {
        name
        for name, (checker, _) in engine._CHECKERS.items()
        if checker.__module__.endswith(("fgsm", "linear_models"))
    }
    assert set(RIGHT) == set(WRONG) == here
    assert min(map(len, WRONG.values())) >= 8
    assert min(map(len, RIGHT.values())) >= 4


# --- the engine -------------------------------------------------------------------------------------------------------


def fgsm(model, x, y, eps):
    return attacks.fgsm(model, x, y, eps)


def test_a_stub_is_not_attempted(monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")

    def stub(model, x, y, eps):
        raise NotImplementedError()

    result = check("fgsm", stub)
    assert result.status == "not attempted"
    assert not result
    assert not result.passed
    assert "Write your answer" in repr(result)


def test_torchs_own_not_implemented_error_is_a_failure():
    result = check("worst_perturbation", lambda w, eps: F.softmax(w.long(), 0))
    assert (result.status, "not implemented for" in result.what) == ("failed", True)


def test_an_answer_that_is_half_written_fails():
    def half(w, eps):
        if eps == 0:
            raise NotImplementedError
        return eps * w.sign()

    result = check("worst_perturbation", half)
    assert result.status == "failed"
    assert "still to be written" in result.hint


def test_an_unknown_exercise_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'fgsm'"):
        check("fsgm", fgsm)
    with pytest.raises(ValueError, match=r"Known: .*to_uint8"):
        check("?", fgsm)
    with pytest.raises(ValueError, match="there is no exercise"):
        check(fgsm, "fgsm")


@pytest.mark.parametrize("answer", [None, torch.ones(3), 0.5, "fgsm", [fgsm]])
def test_something_else_than_a_function(answer):
    result = check("fgsm", answer)
    assert result.status == "failed"
    assert type(answer).__name__ in result.what
    assert "without brackets" in result.hint


def test_anything_that_can_be_called_will_do():
    class Attack:
        def __call__(self, *args, clip=(0, 1)):
            return attacks.fgsm(*args, clip=clip)

    assert check("fgsm", Attack())


@pytest.mark.parametrize("answer", [lambda: 1, lambda w: w, lambda w, eps, x: w, lambda w, *, eps: w])
def test_other_arguments_than_the_exercise_has(answer):
    result = check("worst_perturbation", answer)
    assert result.failed == "takes the arguments of the exercise"
    assert "(w, eps)" in result.what


class Rude(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")


def forever(depth):
    return forever(depth + 1)


@pytest.mark.parametrize(
    ("raised", "fragment"),
    [
        (SystemExit(1), "exit()"),
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (KeyError(), "KeyError."),
        (Rude(), "Rude."),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(3), "StopIteration: 3"),
        (BaseExceptionGroup("several", [SystemExit()]), "several"),
        (RuntimeError("x" * 10_000), "x …"),
        (error_hints.CheckFailed("mine", "all mine"), "all mine"),
    ],
)
def test_an_answer_that_raises(raised, fragment):
    def answer(w, eps):
        raise raised

    result = check("worst_perturbation", answer)
    assert result.status == "failed"
    assert result.failed == "returns one change for each weight"
    assert fragment in f"{result.what} {result.hint}"
    assert "second line" not in repr(result)
    assert len(repr(result)) < 1000


def test_endless_recursion():
    assert "without an end" in check("worst_perturbation", lambda w, eps: forever(0)).hint


W64 = WEIGHTS.double()
IMAGES = torch.zeros(2, 3, 8, 8)
TYPES, FLOATS, LABELS, INDEX = "Two data types", "floats are needed", "Class labels", "An index takes"


@pytest.mark.parametrize(
    ("compute", "hint"),
    [
        (lambda w: w @ W64, TYPES),
        (lambda w: w @ w.long(), TYPES),
        (lambda w: w.half() @ w, TYPES),
        (lambda w: w[None] @ W64, TYPES),
        (lambda w: w[None] @ W64[:, None], TYPES),
        (lambda w: w[None, None] @ W64[None, :, None], TYPES),
        (lambda w: torch.einsum("ni,i->n", w[None], w.long()), TYPES),
        (lambda w: torch.tensordot(w, W64, 1), TYPES),
        (lambda w: nn.Linear(50, 2)(w.double()), TYPES),
        (lambda w: nn.Linear(50, 2)(w.long()), TYPES),
        (lambda w: nn.Linear(50, 2)(w.half()), TYPES),
        (lambda w: F.linear(w[None], W64[None]), TYPES),
        (lambda w: nn.Conv2d(3, 4, 3)(IMAGES.double()), TYPES),
        (lambda w: nn.Conv2d(3, 4, 3)(IMAGES.byte()), TYPES),
        (lambda w: nn.Conv2d(3, 4, 3, bias=False)(IMAGES.half()), TYPES),
        (lambda w: nn.BatchNorm2d(3)(IMAGES.double()), TYPES),
        (lambda w: nn.LayerNorm(50)(w.double()), TYPES),
        (lambda w: F.grid_sample(IMAGES, torch.zeros(2, 4, 4, 2).double()), TYPES),
        (lambda w: F.binary_cross_entropy(w.sigmoid(), W64), TYPES),
        (lambda w: w.lerp(W64, 0.5), TYPES),
        (lambda w: w.clone().scatter_(0, torch.arange(50), W64), TYPES),
        (lambda w: w.clone().index_put_((torch.arange(50),), W64), TYPES),
        (lambda w: w.long().mean(), FLOATS),
        (lambda w: w.long().norm(), FLOATS),
        (lambda w: w.long().softmax(0), FLOATS),
        (lambda w: F.cross_entropy(w[None].long(), torch.tensor([1])), FLOATS),
        (lambda w: w.long().requires_grad_(), FLOATS),
        (lambda w: w.long().add_(w), FLOATS),
        (lambda w: (w > 0) - (w < 0), FLOATS),
        (lambda w: torch.rand_like(w.long()), FLOATS),
        (lambda w: F.cross_entropy(w[None], torch.tensor([1.0])), LABELS),
        (lambda w: F.nll_loss(w[None], torch.tensor([1], dtype=torch.int32)), LABELS),
        (lambda w: w[w], INDEX),
        (lambda w: w.gather(0, w), INDEX),
        (lambda w: w.index_select(0, w), INDEX),
        (lambda w: F.embedding(w, w[:, None]), INDEX),
        (lambda w: w[None] @ w[None], "The shapes in a matrix product"),
        (lambda w: w[None] @ w[:3], "The shapes in a matrix product"),
        (lambda w: w @ w[:3], "The shapes in a matrix product"),
        (lambda w: nn.Linear(3, 2)(w), "The shapes in a matrix product"),
        (lambda w: w[None, None] @ w[None, None], "The shapes in a matrix product"),
    ],
)
def test_shapes_and_data_types_that_do_not_fit(compute, hint):
    def answer(w, eps):
        compute(w)
        raise AssertionError("torch has computed it")

    assert check("worst_perturbation", answer).hint.startswith(
        (hint, f"Here are whole numbers or booleans where {hint}")
    )


def in_cell(source, file):
    """Run the source of a cell under the name that a kernel would give it, and return what it defines."""
    names = {"torch": torch}
    exec(compile(source, file, "exec"), names)
    return names


CELLS = ("/tmp/ipykernel_12/345.py", r"C:\Temp\ipykernel_12\345.py", "<ipython-input-3-0123456789ab>")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "library", ["/home/ipython/lib/tools.py", "/usr/lib/ipykernel/kernelbase.py", "/tmp/ipykernel_12/678.py"]
)
def test_the_line_of_an_error_is_the_students_own(cell, library):
    helper = in_cell("\n" * 40 + "def ask(x):\n    raise ValueError('no answer')", library)["ask"]
    names = in_cell("def answer(w, eps):\n    return ask(w)", cell)
    names["ask"] = helper
    for answer in (names["answer"], functools.partial(names["answer"]), torch.no_grad()(names["answer"])):
        assert check("worst_perturbation", answer).what == "it raised ValueError in line 2 of the cell: no answer"


def test_only_a_cell_has_lines_of_a_cell():
    answer = in_cell("def answer(w, eps):\n    raise ValueError('no')", "/home/ipython/ipykernel/course.py")["answer"]
    assert check("worst_perturbation", answer).what == "it raised ValueError: no"


def test_a_misspelt_name():
    assert "misspelt" in check("to_uint8", lambda x: torhc.round(x)).hint  # noqa: F821


def sign_step(w, eps):
    return eps * w.sign()


def meddling(meddle):
    """A right answer that does something else first."""

    def answer(w, eps):
        meddle()
        return sign_step(w, eps)

    return answer


needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")


def interrupt():
    signal.raise_signal(signal.SIGINT)


def interrupt_in_vain():
    with contextlib.suppress(BaseException):
        interrupt()


@pytest.mark.parametrize("meddle", [interrupt, interrupt_in_vain])
def test_the_interrupt_button_works(meddle):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        check("worst_perturbation", meddling(meddle))
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_answer_cannot_press_the_interrupt_button():
    def answer(w, eps):
        raise KeyboardInterrupt

    result = check("worst_perturbation", answer)
    assert result.status == "failed"
    assert "KeyboardInterrupt" in result.what
    assert "Interrupt button" in result.hint


def swallow():
    while True:
        try:
            time.sleep(60)
        except:  # noqa: E722
            continue


def swallow_while_computing():
    while True:
        try:
            torch.ones(100).sum()
        except:  # noqa: E722
            continue


def swallow_twice():
    while True:
        with contextlib.suppress(BaseException):
            try:
                time.sleep(0.01)
            except BaseException:
                time.sleep(0.01)


def swallow_and_keep():
    kept = []
    while True:
        try:
            while True:
                try:
                    time.sleep(0.01)
                except BaseException as error:
                    kept.append(error)
        except BaseException as error:
            kept.append(error)


@needs_timer
@pytest.mark.parametrize("loop", [swallow, swallow_while_computing, swallow_twice, swallow_and_keep])
def test_an_answer_that_never_ends(monkeypatch, loop):
    monkeypatch.setattr(engine, "SECONDS", 0.1)
    monkeypatch.setattr(sandbox, "GRACE", 0.05)
    handler = signal.getsignal(signal.SIGALRM)
    start = time.monotonic()
    result = check("worst_perturbation", meddling(loop))
    assert time.monotonic() - start < 20
    assert "never ends" in result.hint
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@needs_timer
def test_the_interrupt_button_ends_a_loop_that_swallows_it(monkeypatch):
    monkeypatch.setattr(sandbox, "GRACE", 0.05)
    with pytest.raises(KeyboardInterrupt):
        check("worst_perturbation", meddling(lambda: (interrupt_in_vain(), swallow())))


@needs_timer
def test_a_right_answer_that_comes_too_late(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.1)

    def dawdle():
        with contextlib.suppress(BaseException):
            time.sleep(60)

    assert "more than 0.1 seconds" in check("worst_perturbation", meddling(dawdle)).what


def checked_in_a_thread(name, answer):
    results = []
    thread = threading.Thread(target=lambda: results.append(check(name, answer)))
    thread.start()
    thread.join()
    return results[0]


def test_an_answer_outside_the_main_thread():
    assert checked_in_a_thread("fgsm", fgsm)


def test_an_answer_that_never_ends_outside_the_main_thread(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.1)

    def loop():
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    assert "never ends" in checked_in_a_thread("worst_perturbation", meddling(loop)).hint


def test_the_limit_holds_where_the_system_has_no_timer(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.1)
    monkeypatch.delattr(signal, "setitimer", raising=False)
    loop = "def loop():\n    while True:\n        pass"
    assert "never ends" in check("worst_perturbation", meddling(in_cell(loop, "cell")["loop"])).hint


class Shell:
    """What a check needs of a notebook's shell."""

    def __init__(self):
        self.display_pub = types.SimpleNamespace(publish=lambda data: self.shown.append(data), clear_output=None)
        self.shown, self.ends = [], False

    def ask_exit(self):
        self.ends = True


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    return shell


WAYS_OUT = {
    "exit": lambda shell: exit(),
    "quit": lambda shell: quit(1),
    "sys.exit": lambda shell: sys.exit(0),
    "os._exit": lambda shell: os._exit(0),
    "os.abort": lambda shell: os.abort(),
    "exit() of a notebook": lambda shell: shell.ask_exit(),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_leaving_is_refused(shell, way):
    before = os._exit, os.abort, builtins.exit, vars(shell).keys()
    result = check("worst_perturbation", meddling(lambda: WAYS_OUT[way](shell)))
    assert result.status == "failed"
    assert "Do not call exit()" in result.hint
    assert not shell.ends
    assert not sys.stdin.closed
    assert (os._exit, os.abort, builtins.exit, vars(shell).keys()) == before


def test_an_answer_cannot_ask(shell):
    before = builtins.input
    result = check("worst_perturbation", meddling(lambda: input("eps? ")))
    assert "leave out input()" in result.hint
    assert builtins.input is before


def test_leaving_is_refused_even_if_the_answer_goes_on(shell):
    def leave():
        with contextlib.suppress(BaseException):
            shell.ask_exit()

    assert "Do not call exit()" in check("worst_perturbation", meddling(leave)).hint


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_of_the_answers_own_may_end():
    ended = []

    def fork():
        if ended:
            return
        if (child := os.fork()) == 0:
            os._exit(3)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    assert check("worst_perturbation", meddling(fork))
    assert ended == [3]


def yes(*args, **kwargs):
    return True


REPLACEMENTS = {
    "torch.equal": (torch, "equal", yes),
    "Tensor.equal": (torch.Tensor, "equal", yes),
    "Tensor.__le__": (torch.Tensor, "__le__", lambda a, b: torch.ones(1, dtype=torch.bool)),
    "Tensor.all": (torch.Tensor, "all", yes),
    "cross_entropy": (F, "cross_entropy", lambda z, y, **kwargs: z.sum()),
    "Module.__call__": (nn.Module, "__call__", lambda self, x: torch.zeros(len(x), 10)),
    "all": (builtins, "all", yes),
    "expect": (engine, "expect", yes),
    "expect of a chapter": (fgsm_checks, "expect", yes),
    "close": (properties, "close", yes),
    "all of a module": (properties, "all", yes),
    "code": (engine.expect, "__code__", yes.__code__),
    "a constant": (fgsm_checks, "EPS", 0.0),
    "_run": (engine, "_run", lambda name, *_: CheckResult(name, "passed")),
    "CheckResult": (CheckResult, "__bool__", yes),
    "fgsm": (attacks, "fgsm", yes),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_what_the_notebook_has_replaced_is_not_used(monkeypatch, name):
    monkeypatch.setattr(*REPLACEMENTS[name], raising=False)
    passed = [check("fgsm", fgsm), check("fgsm", lambda model, x, y, eps: x), check("worst_perturbation", sign_step)]
    replaced = getattr(*REPLACEMENTS[name][:2]) is REPLACEMENTS[name][2]
    monkeypatch.undo()
    assert [result.status for result in passed] == ["passed", "failed", "passed"]
    assert [bool(result) for result in passed] == [True, False, True]
    assert replaced or name == "code"


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_an_answer_that_replaces_something_is_refused(name):
    place, key, value = REPLACEMENTS[name]
    before = getattr(place, key, None)
    result = check("worst_perturbation", meddling(lambda: setattr(place, key, value)))
    after = getattr(place, key, None)
    if after is not before:  # for the tests to come
        setattr(place, key, before)
    assert after is before
    assert result.status == "failed"
    assert result.what.startswith("your function replaced ")


def test_a_replaced_checker_is_not_used(monkeypatch):
    monkeypatch.setitem(engine._CHECKERS, "fgsm", (lambda answer: iter(()), "(model, x, y, eps)"))
    assert not check("fgsm", lambda model, x, y, eps: x)


COMPILES = """
import torch
from course_utils.exercises import check
def answer(w, eps):
    weights = w.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights])
    weights.sum().backward()
    optimizer.step()
    torch.compile(lambda w: w + 1, backend="eager")(w)
    torch.fx.symbolic_trace(torch.nn.Linear(2, 2))
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2))
    return eps * w.sign()
for _ in range(2):
    check("worst_perturbation", answer, strict=True)
"""


@pytest.mark.slow
def test_what_torch_replaces_itself_is_no_fault_of_the_answer():
    subprocess.run([sys.executable, "-c", COMPILES], check=True)


def test_a_tensor_that_agrees_with_everything_does_not_pass():
    class Yes(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return torch.tensor(True)

    assert not check("worst_perturbation", lambda w, eps: torch.zeros_like(w).as_subclass(Yes))
    assert check("worst_perturbation", lambda w, eps: sign_step(w, eps).as_subclass(Yes))


SETTINGS = {
    "torch.set_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch.set_default_device": lambda: torch.set_default_device("meta"),
    "torch.set_num_threads": lambda: torch.set_num_threads(2),
    "torch.use_deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch.autograd.set_detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "torch.set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("high"),
    "torch.autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "np.seterr": lambda: np.seterr(divide="raise"),
    "sys.setrecursionlimit": lambda: sys.setrecursionlimit(5000),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_an_answer_leaves_behind_are_put_back(name):
    before = sandbox._settings()

    def answer(w, eps):
        result = sign_step(w, eps)
        SETTINGS[name]()
        return result

    result = check("worst_perturbation", answer)
    after = sandbox._settings()
    sandbox._put_back(before)
    assert after == before
    assert result
    assert f"Your function sets {name}," in repr(result)
    assert result.note in result._repr_html_()


def test_what_is_no_setting_of_the_answer_is_no_note():
    with warnings.catch_warnings(), np.errstate(divide="raise"), torch.autograd.set_detect_anomaly(True):
        before = warnings.filters[:]
        result = check("worst_perturbation", meddling(lambda: warnings.simplefilter("error")))
        assert torch.is_anomaly_enabled()
        assert warnings.filters == before
    assert result
    assert not result.note


def test_plots_are_shown_once():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    pyplot.close("all")
    mine, axes = pyplot.subplots()
    pyplot.figure(mine.number)
    try:
        assert check("worst_perturbation", meddling(lambda: pyplot.subplots()[1].plot([1, 2])))
        assert len(pyplot.get_fignums()) == 2
        pyplot.close(pyplot.get_fignums()[-1])
        assert check("worst_perturbation", meddling(lambda: pyplot.plot([1, 2])))
        assert pyplot.get_fignums() == [mine.number]
        assert len(axes.lines) == 1
    finally:
        pyplot.close("all")


def test_displays_are_shown_once(shell, capsys):
    assert check("worst_perturbation", meddling(lambda: shell.display_pub.publish("picture")))
    assert shell.shown == ["picture"]
    shell.display_pub.publish("another")
    assert shell.shown == ["picture", "another"]
    assert "only its first call shows something" in capsys.readouterr().out


@pytest.mark.parametrize("name", list(RIGHT))
def test_the_notebooks_own_state_is_left_alone(name):
    def settings():
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            numpy_state[1].tolist(),
            numpy_state[2:],
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            os.getcwd(),
        )

    def meddle(*args):
        torch.manual_seed(3)
        torch.rand(3), random.random(), np.random.seed(3)  # noqa: NPY002
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        return args[0]

    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            before = settings()
            assert check(name, RIGHT[name]["reference"])
            assert check(name, meddle).status == "failed"
            assert settings() == before


def test_checks_do_not_depend_on_the_notebooks_settings():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.device("meta"):
            assert all(check(name, RIGHT[name]["reference"]) for name in RIGHT)
    finally:
        torch.set_default_dtype(torch.float32)


IN_A_NOTEBOOK = """
def answer(w, eps):
    display("shown"), plt.plot([1, 2]), plt.show(), plt.figure(), plt.plot([1, 2])
    return eps * w.sign()
check("worst_perturbation", answer)
---
def answer(w, eps):
    exit()
check("worst_perturbation", answer)
---
def answer(w, eps):

    input("?")
check("worst_perturbation", answer)
---
display("alive")
"""


@pytest.mark.slow
def test_what_a_notebook_shows():
    setup = "import matplotlib.pyplot as plt\nfrom course_utils.exercises import check"
    cells = [new_code_cell(source) for source in (setup, *IN_A_NOTEBOOK.split("---\n"))]
    NotebookClient(new_notebook(cells=cells), timeout=300).execute()
    _, plots, leaves, asks, last = (
        [output.get("data", {}).get("text/plain", "") for output in cell.outputs] for cell in cells
    )
    assert sum("shown" in text for text in plots) == 1
    assert sum("Figure" in text for text in plots) == 2  # one shown by show(), one at the end of the cell
    assert any("worst_perturbation: passed" in text for text in plots)
    assert "it raised SystemExit in line 2 of the cell" in leaves[0]
    assert "in line 3 of the cell" in asks[0]
    assert last == ["'alive'"]


def test_prints_are_shown_but_not_without_end(capsys):
    def answer(w, eps):
        print("w has the shape", w.shape)
        return eps * w.sign()

    assert check("worst_perturbation", answer)
    assert capsys.readouterr().out.count("w has the shape torch.Size([50])") == 1

    def chatty(w, eps):
        print("again and again " * 100_000)
        return eps * w.sign()

    assert check("worst_perturbation", chatty)
    assert len(capsys.readouterr().out) < 3000


def test_warnings_of_an_answer_are_no_failure():
    def answer(w, eps):
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return eps * w.sign()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check("worst_perturbation", answer)


def test_students_text_is_escaped():
    class Script(Exception):
        pass

    def answer(w, eps):
        raise Script("<script>alert('&')</script>")

    result = check("worst_perturbation", answer)
    assert "<script>alert" in repr(result)
    assert "<script>" not in result._repr_html_()
    assert "&lt;script&gt;" in result._repr_html_()
    assert "<b>" not in CheckResult("<b>", "failed", ("<b>",), "<b>", "<b>", "<b>")._repr_html_()


def test_what_a_result_says():
    passed, failed = check("fgsm", fgsm), check("fgsm", lambda model, x, y, eps: x)
    assert passed.status == "passed"
    assert repr(passed).count("✓") == len(passed.passed) == passed._repr_html_().count("✓")
    assert repr(failed).count("✗") == 1
    assert "What happened: " in repr(failed)
    assert "Hint: " in failed._repr_html_()
    assert (bool(passed), bool(failed)) == (True, False)


@pytest.mark.parametrize(("value", "raises"), [("1", True), ("0", False), ("", False)])
def test_strict_raises_for_failures_only(monkeypatch, value, raises):
    monkeypatch.setenv("COURSE_STRICT", value)
    assert check("fgsm", fgsm)
    if raises:
        with pytest.raises(AssertionError, match="Nothing changed"):
            check("fgsm", lambda model, x, y, eps: x)
    else:
        assert not check("fgsm", lambda model, x, y, eps: x)


def test_no_two_checkers_have_one_name():
    with pytest.raises(ValueError, match="fgsm"):
        engine.exercise("fgsm")(lambda answer: iter(()))
