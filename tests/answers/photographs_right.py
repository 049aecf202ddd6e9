# ruff: noqa: E501 (one line for each answer)
"""Right answers to the exercises of chapters 10 and 11 that differ from one another."""

import copy
import math
import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks


def gradient(model, x, y, reduction="mean"):
    x = x.clone().detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction=reduction), x)[0]


def into_both(adv, x, eps):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)


def levels_in_integers(model, x, y, levels):
    whole = (255 * x).round().int() + int(levels // 1) * gradient(model, x, y).sign().int()
    return whole.clamp(0, 255).to(torch.uint8).float() / 255


def levels_in_numpy(model, x, y, levels):
    pixels = np.rint(255 * x.numpy()) + np.floor(levels) * np.sign(gradient(model, x, y).numpy())
    return torch.from_numpy((pixels.clip(0, 255) / 255).astype(np.float32))


def levels_with_backward(model, x, y, levels):
    model = copy.deepcopy(model).eval()
    x = x.detach().clone()
    x.requires_grad = True
    nn.CrossEntropyLoss(reduction="sum")(model(x), y).backward()
    with torch.no_grad():
        return (255 * x + torch.trunc(levels * x.grad.sign())).round().clamp(0, 255).div(255)


def aim_with_backward(model, x, target, adv, eps, step_size):
    adv = adv.clone().requires_grad_()
    (-nn.CrossEntropyLoss(reduction="sum")(copy.deepcopy(model)(adv), target)).backward()
    adv = adv.detach() + step_size * torch.sign(adv.grad)
    return torch.clamp(torch.min(torch.max(adv, x - eps), x + eps), 0.0, 1.0)


def aim_with_delta(model, x, target, adv, eps, step_size):
    delta = (adv - x).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(x + delta), target), delta)
    return (x + (delta.detach() - step_size * g.sign()).clip(-eps, eps)).clip(0, 1)


def aim_functional(model, x, target, adv, eps, step_size):
    g = torch.func.grad(lambda v: F.nll_loss(model(v).log_softmax(1), target))(adv)
    return (adv - step_size * g.sign()).clamp(0, 1).maximum(x - eps).minimum(x + eps).detach()


def eot_summed(model, x, y, transformation, samples):
    x, total = x.clone().detach().requires_grad_(), 0
    for _ in range(samples):
        total = total + torch.autograd.grad(F.cross_entropy(model(transformation(x)), y, reduction="sum"), x)[0]
    return total / samples


def eot_of_the_mean_loss(model, x, y, transformation, samples):
    x = x.clone().detach().requires_grad_()
    losses = [F.cross_entropy(model(transformation(x)), y, reduction="none") for _ in range(samples)]
    return torch.autograd.grad(torch.stack(losses).mean(0).sum(), x)[0]


def eot_in_one_pass(model, x, y, transformation, samples):
    x = x.clone().detach().requires_grad_()
    loss = F.cross_entropy(model(transformation(x.repeat(samples, 1, 1, 1))), y.repeat(samples), reduction="sum")
    return torch.autograd.grad(loss / samples, x)[0]


def eot_interleaved(model, x, y, transformation, samples):
    many = x.repeat_interleave(samples, 0).requires_grad_()
    loss = F.cross_entropy(model(transformation(many)), y.repeat_interleave(samples), reduction="sum")
    return torch.autograd.grad(loss, many)[0].unflatten(0, (len(x), samples)).mean(1)


def eot_with_backward(model, x, y, transformation, samples):
    model, x = copy.deepcopy(model).eval(), nn.Parameter(x.clone())
    for _ in range(samples):
        nn.CrossEntropyLoss(reduction="sum")(model(transformation(x)), y).div(samples).backward()
    return x.grad


def eot_one_by_one(model, x, y, transformation, samples):
    pairs = zip(x.split(1), y.split(1), strict=True)
    return torch.cat([eot_summed(model, *pair, transformation, samples) for pair in pairs])


def eot_functional(model, x, y, transformation, samples):
    def loss(v):
        return F.nll_loss(model(transformation(v)).log_softmax(1), y, reduction="sum")

    return torch.stack([torch.func.grad(loss)(x) for _ in range(samples)]).mean(0).detach()


def steps_behind(seen, steps=8, size=0.25, move=torch.sign):
    def answer(model, x, y, eps):
        adv = x.clone()
        for _ in range(steps):
            adv = into_both(adv + size * eps * move(gradient(lambda v: model(seen(v)), adv, y)), x, eps)
        return adv

    return answer


def survive_with_momentum(model, x, y, eps):
    adv, momentum = x, 0
    for _ in range(10):
        g = gradient(lambda v: model(attacks.jpeg(v)), adv, y, "sum")
        momentum = momentum + g / g.abs().sum((1, 2, 3), keepdim=True)
        adv = into_both(adv + eps / 10 * momentum.sign(), x, eps)
    return adv


def survive_in_eight_bits(model, x, y, eps):
    eps = math.floor(255 * eps + 1e-6) / 255
    return attacks.quantise(steps_behind(attacks.jpeg)(model, x, y, eps)).detach()


RIGHT = {
    "fgsm_in_levels": [
        lambda model, x, y, levels: ((x + math.floor(levels) / 255 * gradient(model, x, y).sign()).clamp(0, 1) * 255).round() / 255,
        lambda model, x, y, levels: (x + int(levels) / 255 * gradient(model, x, y).sign()).clip(0, 1),
        levels_in_integers, levels_in_numpy, levels_with_backward,
    ],
    "targeted_step": [
        lambda model, x, target, adv, eps, a: into_both(adv - a * gradient(model, adv, target).sign(), x, eps),
        lambda model, x, target, adv, eps, a: attacks.project(adv - a * attacks.input_gradient(model, adv, target).sign(), x, eps),
        aim_with_backward, aim_with_delta, aim_functional,
    ],
    "eot_gradient": [eot_summed, eot_of_the_mean_loss, eot_in_one_pass, eot_interleaved, eot_with_backward, eot_one_by_one, eot_functional],
    "survive_jpeg": [
        steps_behind(attacks.jpeg),
        steps_behind(attacks.jpeg, 3, 0.5),
        steps_behind(attacks.jpeg, 20, 0.1),
        steps_behind(lambda v: v + (attacks.jpeg(v.detach()) - v).detach()),
        steps_behind(lambda v: attacks.jpeg(v, random.choice([60, 75, 90]))),
        steps_behind(lambda v: attacks.blur(v, 1.0)),
        steps_behind(attacks.jpeg, 10, move=lambda g: F.avg_pool2d(g, 9, 1, 4).sign()),
        lambda *task: attacks.pgd(attacks.EOTModel(task[0], attacks.TRANSFORMATIONS["JPEG, quality 75"]), *task[1:], steps=10),
        survive_with_momentum, survive_in_eight_bits,
    ],
}  # fmt: skip
