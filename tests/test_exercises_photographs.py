# ruff: noqa: E501 (one line for each wrong answer)
"""The checks of chapter 07: they accept every right answer, and say the right thing about every wrong one."""

import copy
import itertools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_passes, assert_refused, with_noise
from torch import nn

from course_utils import attacks
from course_utils.exercises import check, engine, inputs, photographs
from course_utils.exercises.properties import close

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(108, 5))  # what a notebook may have lying around
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in (photographs.MEAN, photographs.STD))
EPS = 4 / 255


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.clone().detach().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def into_both(adv, x, eps):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)


def own_prediction(logits, y):
    return F.cross_entropy(logits, logits.argmax(1))


def softmaxed(logits, y):
    return F.cross_entropy(logits.softmax(1), y)


def polluted(model, x, y):
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    return x.grad


# --- right answers ----------------------------------------------------------------------------------------------------


def levels_reference(model, x, y, levels):
    step = math.floor(levels) / 255 * gradient(model, x, y).sign()
    return ((x + step).clamp(0, 1) * 255).round() / 255


def levels_without_rounding(model, x, y, levels):
    return (x + int(levels) / 255 * gradient(model, x, y).sign()).clip(0, 1)


def levels_in_integers(model, x, y, levels):
    whole = (255 * x).round().int() + int(levels // 1) * gradient(model, x, y).sign().int()
    return whole.clamp(0, 255).to(torch.uint8).float() / 255


def levels_in_numpy(model, x, y, levels):
    pixels = np.rint(255 * x.numpy()) + np.floor(levels) * np.sign(gradient(model, x, y).numpy())
    return torch.from_numpy((pixels.clip(0, 255) / 255).astype(np.float32))


def levels_from_the_library(model, x, y, levels):
    return attacks.quantise(attacks.fgsm(model, x, y, math.floor(levels) / 255))


def levels_with_backward(model, x, y, levels):
    model = copy.deepcopy(model).eval()
    x = x.detach().clone()
    x.requires_grad = True
    nn.CrossEntropyLoss(reduction="sum")(model(x), y).backward()
    with torch.no_grad():
        return (255 * x + torch.trunc(levels * x.grad.sign())).round().clamp(0, 255).div(255)


def aim_reference(model, x, target, adv, eps, step_size):
    return into_both(adv - step_size * gradient(model, adv, target).sign(), x, eps)


def aim_from_the_library(model, x, target, adv, eps, step_size):
    return attacks.project(adv - step_size * attacks.input_gradient(model, adv, target).sign(), x, eps)


def aim_with_backward(model, x, target, adv, eps, step_size):
    adv = adv.clone().requires_grad_()
    loss = -nn.CrossEntropyLoss(reduction="sum")(copy.deepcopy(model)(adv), target)
    loss.backward()
    adv = adv.detach() + step_size * torch.sign(adv.grad)
    return torch.clamp(torch.min(torch.max(adv, x - eps), x + eps), 0.0, 1.0)


def aim_with_delta(model, x, target, adv, eps, step_size):
    delta = (adv - x).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(x + delta), target), delta)
    return (x + (delta.detach() - step_size * g.sign()).clip(-eps, eps)).clip(0, 1)


def aim_functional(model, x, target, adv, eps, step_size):
    g = torch.func.grad(lambda v: F.nll_loss(model(v).log_softmax(1), target))(adv)
    return (adv - step_size * g.sign()).clamp(0, 1).maximum(x - eps).minimum(x + eps).detach()


def eot_reference(model, x, y, transformation, samples):
    x, total = x.clone().detach().requires_grad_(), 0
    for _ in range(samples):
        loss = F.cross_entropy(model(transformation(x)), y, reduction="sum")
        total = total + torch.autograd.grad(loss, x)[0]
    return total / samples


def eot_of_the_mean_loss(model, x, y, transformation, samples):
    x = x.clone().detach().requires_grad_()
    losses = [F.cross_entropy(model(transformation(x)), y, reduction="none") for _ in range(samples)]
    return torch.autograd.grad(torch.stack(losses).mean(0).sum(), x)[0]


def eot_in_one_pass(model, x, y, transformation, samples):
    x = x.clone().detach().requires_grad_()
    views = transformation(x.repeat(samples, 1, 1, 1))
    loss = F.cross_entropy(model(views), y.repeat(samples), reduction="sum") / samples
    return torch.autograd.grad(loss, x)[0]


def eot_interleaved(model, x, y, transformation, samples):
    many = x.repeat_interleave(samples, 0).requires_grad_()
    loss = F.cross_entropy(model(transformation(many)), y.repeat_interleave(samples), reduction="sum")
    return torch.autograd.grad(loss, many)[0].unflatten(0, (len(x), samples)).mean(1)


def eot_with_backward(model, x, y, transformation, samples):
    model = copy.deepcopy(model).eval()
    x = nn.Parameter(x.clone())
    for _ in range(samples):
        nn.CrossEntropyLoss(reduction="sum")(model(transformation(x)), y).div(samples).backward()
    return x.grad


def eot_one_by_one(model, x, y, transformation, samples):
    pairs = zip(x.split(1), y.split(1), strict=True)
    return torch.cat([eot_reference(model, *pair, transformation, samples) for pair in pairs])


def eot_functional(model, x, y, transformation, samples):
    def loss(v):
        return F.nll_loss(model(transformation(v)).log_softmax(1), y, reduction="sum")

    return torch.stack([torch.func.grad(loss)(x) for _ in range(samples)]).mean(0).detach()


def signed_steps(model, x, y, eps, steps=8, slope=None, move=torch.sign, put=into_both):
    """PGD with a slope(model, adv, y), a direction and a way back of one's own."""
    adv = x.clone()
    for _ in range(steps):
        adv = put(adv + eps / 4 * move((slope or gradient)(model, adv, y)), x, eps)
    return adv


def through(seen):
    """The slope of the loss behind what is done to the picture."""
    return lambda model, adv, y: gradient(lambda v: model(seen(v)), adv, y)


def smoothed(g):
    return F.avg_pool2d(g, 9, 1, 4).sign()


def noisy(v):
    return (v + 0.03 * torch.randn_like(v)).clamp(0, 1)


def survive_reference(model, x, y, eps):
    adv = x.clone()
    for _ in range(10):
        adv.requires_grad_()
        loss = F.cross_entropy(model(attacks.jpeg(adv)), y, reduction="sum")
        (g,) = torch.autograd.grad(loss, adv)
        adv = adv.detach() + eps / 4 * g.sign()
        adv = (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)
    return adv


def survive_from_the_library(model, x, y, eps):
    seen = attacks.EOTModel(model, attacks.TRANSFORMATIONS["JPEG, quality 75"])
    return attacks.pgd(seen, x, y, eps, steps=10)


def survive_several_qualities(model, x, y, eps):
    return signed_steps(model, x, y, eps, slope=through(lambda v: attacks.jpeg(v, random.choice([60, 75, 90]))))


def survive_in_one_step(model, x, y, eps):
    return (x + eps * gradient(model, attacks.jpeg(x), y).sign()).clamp(0, 1)


def survive_by_detaching(model, x, y, eps):
    return signed_steps(model, x, y, eps, slope=through(lambda v: v + (attacks.jpeg(v.detach()) - v).detach()))


def survive_behind_a_blur(model, x, y, eps):
    return signed_steps(model, x, y, eps, slope=through(lambda v: attacks.blur(v, 1.0)))


def survive_in_eight_bits(model, x, y, eps):
    return attacks.quantise(survive_reference(model, x, y, math.floor(255 * eps + 1e-6) / 255)).detach()


RIGHT = {
    "fgsm_in_levels": [levels_reference, levels_without_rounding, levels_in_integers, levels_in_numpy, levels_from_the_library, levels_with_backward],
    "targeted_step": [aim_reference, aim_from_the_library, aim_with_backward, aim_with_delta, aim_functional],
    "eot_gradient": [eot_reference, eot_of_the_mean_loss, eot_in_one_pass, eot_interleaved, eot_with_backward, eot_one_by_one, eot_functional],
    "survive_jpeg": [survive_reference, survive_from_the_library, survive_several_qualities, survive_in_one_step, survive_by_detaching, survive_behind_a_blur, survive_in_eight_bits],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variant"), [(name, i) for name, variants in RIGHT.items() for i in range(len(variants))]
)
def test_right_answers_pass(name, variant):
    assert_passes(name, RIGHT[name][variant])


@pytest.mark.parametrize("seed", range(6))
def test_luck_refuses_no_right_answer(seed):
    """Each seed is another draw of the views."""

    def lucky(*task):
        torch.rand(seed + 1)
        return eot_reference(*task)

    assert_passes("eot_gradient", lucky)


def test_the_network_takes_pixels_and_normalises_inside():
    """It answers as the network without normalisation does, for which its weights make up."""
    model = photographs._network(photographs.SHAPE, inputs.CLASSES)
    plain = inputs.smooth_network(photographs.SEED, photographs.SHAPE, inputs.CLASSES, spread=0.3)
    x, _ = photographs._pictures(model, 6, photographs.SHAPE)
    assert torch.equal(x, attacks.quantise(x))
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model[0](x), (x - MEAN) / STD)


# --- wrong answers ----------------------------------------------------------------------------------------------------

LIKE_X, UPHILL, BOX, BITS, ALONE, OTHER, NO_TRACE = (
    "returns new pictures",
    "moves every pixel",
    "stays inside",
    "makes 8-bit",
    "gives a picture alone",
    "works for other",
    "leaves no trace",
)
DOWN, BALL = "moves adv", "stays within eps"
GRADIENT, THROUGH, DRAWS, MEANS = "returns a gradient", "samples = 1", "draws anew", "is the mean"
FOOLS, MORE = "fools the model", "does so for other"


def fgsm_of(at=None, step=None, sign=1, labels=None, loss=F.cross_entropy, finish=None, whole=math.floor):
    """FGSM in levels with another point, step(g, levels), direction, labels, loss or finish(picture)."""

    def answer(model, x, y, levels):
        y = labels(model, x) if labels else y
        g = gradient(model, at(x) if at else x, y, loss)
        moved = x + sign * (step(g, whole(levels)) if step else whole(levels) / 255 * g.sign())
        return finish(moved) if finish else moved.clamp(0, 1)

    return answer


def rounded(picture):
    return (255 * picture.clamp(0, 1)).round() / 255


def wrapped(model, x, y, levels):
    pixels = (255 * x).round().to(torch.uint8)
    step = math.floor(levels) * gradient(model, x, y).sign()
    return (pixels + step.to(torch.int16).to(torch.uint8)).float() / 255


def clips_before(model, x, y, levels):
    return rounded(x) + math.floor(levels) / 255 * gradient(model, x, y).sign()


def normalised_all_the_way(model, x, y, levels):
    z = (x - MEAN) / STD
    return (z + math.floor(levels) / 255 / STD * gradient(model, z, y).sign()) * STD + MEAN


def stays_if_it_would_leave(model, x, y, levels):
    moved = x + math.floor(levels) / 255 * gradient(model, x, y).sign()
    return torch.where((moved < 0) | (moved > 1), x, moved)


def levels_in_place(model, x, y, levels):
    adv = levels_reference(model, x, y, levels)
    x += 1 / 255
    return adv


def levels_polluting(model, x, y, levels):
    return (x + math.floor(levels) / 255 * polluted(model, x, y).sign()).clamp(0, 1)


def levels_in_eval(model, x, y, levels):
    return levels_reference(model.eval(), x, y, levels)


def of_the_batch(model, x, y, levels):
    g = gradient(model, x, y)
    return rounded(x + math.floor(levels) / 255 * (g * (g.abs() > 0.02 * g.abs().max())).sign())


def aim_of(start=None, at=None, labels=None, sign=-1, size=None, move=torch.sign, put=into_both, loss=F.cross_entropy):
    """A targeted step from another start, with another gradient, labels, direction, size, way back or loss."""

    def answer(model, x, target, adv, eps, step_size):
        g = gradient(model, at(x, adv) if at else adv, labels(model, x, target) if labels else target, loss)
        moved = (start(x, adv) if start else adv) + sign * (size(eps, step_size) if size else step_size) * move(g)
        return put(moved, x, eps)

    return answer


def around_adv(model, x, target, adv, eps, step_size):
    return into_both(adv - step_size * gradient(model, adv, target).sign(), adv, eps)


def projects_first(model, x, target, adv, eps, step_size):
    adv = into_both(adv, x, eps)
    return adv - step_size * gradient(model, adv, target).sign()


def aim_attached(model, x, target, adv, eps, step_size):
    adv = adv.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(adv), target), adv)
    return into_both(adv - step_size * g.sign(), x, eps)


def aim_in_place(model, x, target, adv, eps, step_size):
    new = aim_reference(model, x, target, adv, eps, step_size)
    adv.copy_(new)
    return new


def aim_polluting(model, x, target, adv, eps, step_size):
    return into_both(adv - step_size * polluted(model, adv, target).sign(), x, eps)


def aim_leaves_grad(model, x, target, adv, eps, step_size):
    adv.requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(adv), target), adv)
    return into_both(adv - step_size * g.sign(), x, eps).detach()


def eot_of(view=None, of=None, labels=None, loss=F.cross_entropy, scale=1, reduction="sum", combine=None):
    """An expectation of other views(transformation, x), gradients with respect to `of`, labels, losses or scales."""

    def answer(model, x, y, transformation, samples):
        x, gradients = x.clone().detach().requires_grad_(), []
        y = labels(model, x) if labels else y
        for _ in range(samples):
            seen = view(transformation, x) if view else transformation(x)
            gradients.append(torch.autograd.grad(loss(model(seen), y, reduction=reduction), seen if of else x)[0])
        return scale * (combine(gradients) if combine else sum(gradients) / samples)

    return answer


def view_of_its_own(transformation, x):
    return transformation(x).detach().requires_grad_()


def eot_softmaxed(logits, y, reduction):
    return F.cross_entropy(logits.softmax(1), y, reduction=reduction)


def eot_summed(model, x, y, transformation, samples):
    return samples * eot_reference(model, x, y, transformation, samples)


def eot_summed_mean_loss(model, x, y, transformation, samples):
    return samples / len(x) * eot_reference(model, x, y, transformation, samples)


def transforms_once(model, x, y, transformation, samples):
    x = x.clone().requires_grad_()
    seen = transformation(x)
    losses = [F.cross_entropy(model(seen), y, reduction="sum") for _ in range(samples)]
    return torch.autograd.grad(sum(losses) / samples, x)[0]


def one_sample(model, x, y, transformation, samples):
    return eot_reference(model, x, y, transformation, 1)


def one_too_many(model, x, y, transformation, samples):
    return eot_reference(model, x, y, transformation, samples + 1)


def its_own_number(model, x, y, transformation, samples):
    return eot_reference(model, x, y, transformation, 10)


def view_of_a_view(model, x, y, transformation, samples):
    first = seen = x.clone().requires_grad_()
    total = 0
    for _ in range(samples):
        seen = transformation(seen)
        total = (
            total + torch.autograd.grad(F.cross_entropy(model(seen), y, reduction="sum"), first, retain_graph=True)[0]
        )
    return total / samples


def seeded(model, x, y, transformation, samples):
    def again(v):
        torch.manual_seed(0)
        return transformation(v)

    return eot_reference(model, x, y, again, samples)


def pooled(model, x, y, transformation, samples, pool):
    x = x.clone().requires_grad_()
    logits = pool(model, [transformation(x) for _ in range(samples)])
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)[0]


def of_the_mean_view(*task):
    return pooled(*task, lambda model, views: model(sum(views) / len(views)))


def of_the_mean_logits(*task):
    return pooled(*task, lambda model, views: sum(map(model, views)) / len(views))


def of_the_mean_probabilities(*task):
    return pooled(*task, lambda model, views: (sum(model(v).softmax(1) for v in views) / len(views)).log())


def of_the_mean_answer(model, x, y, transformation, samples):
    seen = attacks.EOTModel(model, lambda v, _: transformation(v), samples=samples)
    return attacks.input_gradient(seen, x, y)


def last_gradient(model, x, y, transformation, samples):
    x = x.clone().requires_grad_()
    for _ in range(samples):
        (g,) = torch.autograd.grad(F.cross_entropy(model(transformation(x)), y, reduction="sum"), x)
    return g


def of_x(model, x, y, transformation, samples):
    for _ in range(samples):
        transformation(x)
    return len(x) * gradient(model, x, y)


def never_transforms(model, x, y, transformation, samples):
    return len(x) * gradient(model, x, y)


def eot_polluting(model, x, y, transformation, samples):
    x = x.clone().requires_grad_()
    for _ in range(samples):
        F.cross_entropy(model(transformation(x)), y, reduction="sum").div(samples).backward()
    return x.grad


def eot_leaves_grad(model, x, y, transformation, samples):
    x.requires_grad_()
    losses = [F.cross_entropy(model(transformation(x)), y, reduction="sum") for _ in range(samples)]
    return torch.autograd.grad(sum(losses) / samples, x)[0]


def eot_with_a_graph(model, x, y, transformation, samples):
    x = x.clone().requires_grad_()
    losses = [F.cross_entropy(model(transformation(x)), y, reduction="sum") for _ in range(samples)]
    return torch.autograd.grad(sum(losses) / samples, x, create_graph=True)[0]


def survive_polluting(model, x, y, eps):
    for_nothing = x.clone().requires_grad_()
    F.cross_entropy(model(for_nothing), y).backward()
    return survive_reference(model, x, y, eps)


WRONG = {
    "fgsm_in_levels": [
        ("not divided", fgsm_of(step=lambda g, n: n * g.sign()), UPHILL, "all the way to black or white"),
        ("by 256", fgsm_of(step=lambda g, n: n / 256 * g.sign()), UPHILL, "256 levels have 255 steps"),
        ("divided twice", fgsm_of(step=lambda g, n: n / 255 / 255 * g.sign()), UPHILL, "divide by 255 twice"),
        ("0 to 255", fgsm_of(finish=lambda p: 255 * p), UPHILL, "from 0 to 255"),
        ("uint8", fgsm_of(finish=lambda p: (255 * p).round().to(torch.uint8)), LIKE_X, "Keep the type"),
        ("downhill", fgsm_of(sign=-1), UPHILL, "downhill"),
        ("gradient itself", fgsm_of(step=lambda g, n: n / 255 * g), UPHILL, "Take its sign"),
        ("unit length", fgsm_of(step=lambda g, n: n / 255 * F.normalize(g.flatten(1)).view_as(g)), UPHILL, "Euclidean norm"),
        ("sign of the loss", fgsm_of(step=lambda g, n: torch.full_like(g, n / 255)), UPHILL, "not that of the loss"),
        ("no size", fgsm_of(step=lambda g, n: g.sign()), UPHILL, "all the way to black or white"),
        ("change alone", fgsm_of(finish=lambda p: p * 0), UPHILL, "Add levels / 255"),
        ("step alone", lambda model, x, y, n: n / 255 * gradient(model, x, y).sign(), UPHILL, "the change alone"),
        ("x", lambda model, x, y, levels: x, UPHILL, "Nothing moved"),
        ("prediction", fgsm_of(labels=lambda model, x: model(x).argmax(1)), UPHILL, "own prediction"),
        ("least likely", fgsm_of(labels=lambda model, x: model(x).argmin(1)), UPHILL, "least likely class"),
        ("softmax", fgsm_of(loss=softmaxed), UPHILL, "takes the softmax by itself"),
        ("nll", fgsm_of(loss=F.nll_loss), UPHILL, "log-probabilities"),
        ("logit", fgsm_of(loss=F.nll_loss, sign=-1), UPHILL, "differentiates a logit"),
        ("normalises before the model", fgsm_of(at=lambda x: (x - MEAN) / STD), UPHILL, "normalises inside"),
        ("normalises all the way", normalised_all_the_way, UPHILL, "normalises inside"),
        ("returns normalised pixels", fgsm_of(finish=lambda p: (p - MEAN) / STD), UPHILL, "the pixels changed by"),
        ("model of 0 to 255", fgsm_of(at=lambda x: 255 * x), UPHILL, "You give the model 255 · x"),
        ("divided by std", fgsm_of(step=lambda g, n: n / 255 / STD * g.sign()), UPHILL, "rescale the step"),
        ("times std", fgsm_of(step=lambda g, n: n / 255 * STD * g.sign()), UPHILL, "rescale the step"),
        ("clips the change", fgsm_of(step=lambda g, n: (n / 255 * g.sign()).clamp(0, 1)), UPHILL, "not the change"),
        ("truncates", fgsm_of(finish=lambda p: (255 * p.clamp(0, 1)).int() / 255), BOX, "cut off"),
        ("truncates in uint8", fgsm_of(finish=lambda p: (255 * p.clamp(0, 1)).to(torch.uint8).float() / 255), BOX, "cut off"),
        ("no clip", fgsm_of(finish=lambda p: p), BOX, "Clip the new picture"),
        ("clips to ±3", fgsm_of(finish=lambda p: p.clamp(-3, 3)), BOX, "normalised pixels"),
        ("clips to the normalised range", fgsm_of(finish=lambda p: p.maximum(-MEAN / STD).minimum((1 - MEAN) / STD)), BOX, "normalised pixels"),
        ("clips at 255", fgsm_of(finish=lambda p: p.clamp(0, 255)), BOX, "Clip the new picture"),
        ("clips before", clips_before, BOX, "after the step"),
        ("wraps around", wrapped, BOX, "uint8 counts in a circle"),
        ("stays if it would leave", stays_if_it_would_leave, BOX, "as far as black or white"),
        ("no whole levels", fgsm_of(whole=float), BITS, "A file holds k / 255"),
        ("rounds out of the ball", fgsm_of(whole=float, finish=rounded), BITS, "took it out of the budget"),
        ("rounds the budget", fgsm_of(whole=round), BITS, "Round the budget down"),
        ("rounds the budget up", fgsm_of(whole=math.ceil), BITS, "Round the budget down"),
        ("at least one level", fgsm_of(whole=lambda n: max(1, math.floor(n))), BITS, "took it out of the budget"),
        ("half the levels", fgsm_of(whole=lambda n: n // 2), UPHILL, "half as long"),
        ("batch", of_the_batch, UPHILL, "the pixels changed by 0"),
        ("in place", levels_in_place, NO_TRACE, "changed x in place"),
        ("p.grad", levels_polluting, NO_TRACE, "gradients on the model's parameters"),
        ("mode", levels_in_eval, NO_TRACE, "left it in evaluation mode"),
        ("numpy", lambda *task: levels_reference(*task).numpy(), LIKE_X, "NumPy"),
        ("own levels", lambda model, x, y, levels: levels_reference(model, x, y, 8), BITS, "took it out of the budget"),
        ("stale model", lambda model, *rest: levels_reference(MODEL, *rest), UPHILL, "reads MODEL"),
        ("no return", lambda *task: None, LIKE_X, "End your function with return"),
    ],
    "targeted_step": [
        ("uphill", aim_of(sign=1), DOWN, "You walk uphill"),
        ("minus twice", aim_of(loss=lambda z, y: -F.cross_entropy(z, y)), DOWN, "You walk uphill"),
        ("prediction", aim_of(labels=lambda model, x, target: model(x).argmax(1)), DOWN, "own prediction"),
        ("away from the prediction", aim_of(loss=own_prediction, sign=1), DOWN, "own prediction"),
        ("no sign", aim_of(move=lambda g: g), DOWN, "Take its sign"),
        ("unit length", aim_of(move=lambda g: F.normalize(g.flatten(1)).view_as(g)), DOWN, "Euclidean norm"),
        ("eps for the step", aim_of(size=lambda eps, step_size: eps), DOWN, "eps is the budget for all"),
        ("times eps", aim_of(size=lambda eps, step_size: eps * step_size), DOWN, "multiply step_size by eps"),
        ("no size", aim_of(size=lambda eps, step_size: 1.0), DOWN, "Multiply the sign by step_size"),
        ("twice", aim_of(size=lambda eps, step_size: 2 * step_size), DOWN, "twice as long"),
        ("gradient at x", aim_of(at=lambda x, adv: x), DOWN, "take it there"),
        ("starts at x", aim_of(start=lambda x, adv: x), DOWN, "You start at x again"),
        ("all at x", aim_of(start=lambda x, adv: x, at=lambda x, adv: x), DOWN, "You start at x again"),
        ("softmax", aim_of(loss=softmaxed), DOWN, "takes the softmax by itself"),
        ("nll", aim_of(loss=F.nll_loss), DOWN, "log-probabilities"),
        ("normalises before the model", aim_of(at=lambda x, adv: (adv - MEAN) / STD), DOWN, "normalises inside"),
        ("returns adv", lambda model, x, target, adv, *rest: adv, DOWN, "Nothing moved"),
        ("returns x", lambda model, x, *rest: x, DOWN, "That is x itself"),
        ("change alone", lambda model, x, *rest: aim_reference(model, x, *rest) - x, DOWN, "the change alone"),
        ("around adv", around_adv, BALL, "The ball is around x"),
        ("no ball", aim_of(put=lambda adv, x, eps: adv.clamp(0, 1)), BALL, "into the ball around x"),
        ("nothing put back", aim_of(put=lambda adv, x, eps: adv), BALL, "into the ball around x"),
        ("projects first", projects_first, BALL, "into the ball around x"),
        ("wide ball", aim_of(put=lambda adv, x, eps: into_both(adv, x, 2 * eps)), BALL, "twice as wide"),
        ("ball around black", aim_of(put=lambda adv, x, eps: adv.clamp(-eps, eps)), DOWN, "a ball around black"),
        ("eps by 255", aim_of(put=lambda adv, x, eps: into_both(adv, x, eps / 255)), DOWN, "do not divide by 255"),
        ("no box", aim_of(put=lambda adv, x, eps: x + (adv - x).clamp(-eps, eps)), BOX, ".clamp(0, 1)"),
        ("normalised box", aim_of(put=lambda adv, x, eps: (x + (adv - x).clamp(-eps, eps)).clamp(-3, 3)), BOX, "holds for pixels"),
        ("attached", aim_attached, LIKE_X, ".detach()"),
        ("in place", aim_in_place, NO_TRACE, "changed adv in place"),
        ("p.grad", aim_polluting, NO_TRACE, "gradients on the model's parameters"),
        ("leaves requires_grad", aim_leaves_grad, NO_TRACE, "left requires_grad"),
        ("stale model", lambda model, *rest: aim_reference(MODEL, *rest), DOWN, "reads MODEL"),
        ("no return", lambda *task: None, LIKE_X, "End your function with return"),
    ],
    "eot_gradient": [
        ("of the view", eot_of(of="view"), THROUGH, "with respect to the transformed image"),
        ("of a detached view", eot_of(view=view_of_its_own, of="view"), THROUGH, "with respect to the transformed image"),
        ("detached view", eot_of(view=lambda t, x: t(x.detach())), GRADIENT, "the very x that got requires_grad_()"),
        ("no_grad", torch.no_grad()(eot_reference), GRADIENT, "torch.no_grad()"),
        ("of x", of_x, THROUGH, "loss of x itself"),
        ("never transforms", never_transforms, THROUGH, "never called transformation"),
        ("mean of the batch", eot_of(reduction="mean"), THROUGH, "reduction='sum'"),
        ("downhill", eot_of(scale=-1), THROUGH, "The sign is wrong"),
        ("sign", eot_of(combine=lambda g: (sum(g) / len(g)).sign()), THROUGH, "Return the gradient itself"),
        ("prediction", eot_of(labels=lambda model, x: model(x).argmax(1)), THROUGH, "own prediction"),
        ("softmax", eot_of(loss=eot_softmaxed), THROUGH, "takes the softmax by itself"),
        ("nll", eot_of(loss=F.nll_loss), THROUGH, "log-probabilities"),
        ("transforms once", transforms_once, DRAWS, "number [1]"),
        ("one sample", one_sample, DRAWS, "number [1]"),
        ("one too many", one_too_many, THROUGH, "number [2]"),
        ("its own number", its_own_number, THROUGH, "number [10]"),
        ("view of a view", view_of_a_view, DRAWS, "a view of a view"),
        ("same draw", seeded, DRAWS, "Do not seed"),
        ("sum", eot_summed, MEANS, "Divide by samples"),
        ("sum, mean of the batch", eot_summed_mean_loss, THROUGH, "reduction='sum'"),
        ("divided twice", eot_of(combine=lambda g: sum(g) / len(g) ** 2), MEANS, "divide by samples twice"),
        ("last one only", last_gradient, MEANS, "the last"),
        ("first one only", eot_of(combine=lambda g: g[0]), MEANS, "the first"),
        ("last one by samples", eot_of(combine=lambda g: g[-1] / len(g)), MEANS, "the last"),
        ("mean view", of_the_mean_view, MEANS, "one loss of the mean view"),
        ("mean logits", of_the_mean_logits, MEANS, "mean of the logits"),
        ("mean log-probabilities", of_the_mean_answer, MEANS, "one loss of the mean"),
        ("mean probabilities", of_the_mean_probabilities, MEANS, "mean of the probabilities"),
        ("median", eot_of(combine=lambda g: torch.stack(g).median(0).values), MEANS, "Add up the gradients"),
        ("list", eot_of(combine=lambda g: torch.stack(g)), GRADIENT, "Keep the shape"),
        ("tuple", lambda *task: (eot_reference(*task),), GRADIENT, "one tensor only"),
        ("p.grad", eot_polluting, NO_TRACE, "gradients on the model's parameters"),
        ("leaves requires_grad", eot_leaves_grad, NO_TRACE, "left requires_grad"),
        ("graph", eot_with_a_graph, GRADIENT, "result.detach()"),
        ("stale model", lambda model, *rest: eot_reference(MODEL, *rest), THROUGH, "reads MODEL"),
        ("no return", lambda *task: None, GRADIENT, "End your function with return"),
    ],
    "survive_jpeg": [
        ("x", lambda model, x, y, eps: x, FOOLS, "Too few fool the model"),
        ("fgsm", attacks.fgsm, FOOLS, "too fine for JPEG"),
        ("pgd", attacks.pgd, FOOLS, "too fine for JPEG"),
        ("pgd, long", lambda *task: attacks.pgd(*task, steps=100), FOOLS, "too fine for JPEG"),
        ("bim", attacks.bim, FOOLS, "too fine for JPEG"),
        ("pgd in 8 bits", lambda *task: attacks.quantise(signed_steps(*task)), FOOLS, "too fine for JPEG"),
        ("noise", lambda model, x, y, eps: (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1), FOOLS, "Too few fool the model"),
        ("downhill", lambda model, x, y, eps: signed_steps(model, x, y, eps, move=lambda g: -g.sign()), FOOLS, "Too few fool the model"),
        ("noise in the way", lambda *task: signed_steps(*task, slope=through(noisy)), FOOLS, "too fine for JPEG"),
        ("what JPEG gives back", lambda *task: attacks.jpeg(survive_reference(*task)), BALL, "is no answer"),
        ("twice the budget", lambda model, x, y, eps: survive_reference(model, x, y, 2 * eps), BALL, "keeps to the budget"),
        ("own budget", lambda model, x, y, eps: survive_reference(model, x, y, EPS / 4), FOOLS, "with all of eps"),
        ("rounds out of the ball", lambda model, x, y, eps: attacks.quantise((x + (eps + 0.6 / 255) * gradient(model, attacks.jpeg(x), y).sign()).clamp(0, 1)), BALL, "keeps to the budget"),
        ("no box", lambda *task: signed_steps(*task, slope=through(lambda v: attacks.jpeg(v.clamp(0, 1))), put=lambda adv, x, eps: x + (adv - x).clamp(-eps, eps)), BOX, "then .clamp(0, 1)"),
        ("p.grad", survive_polluting, NO_TRACE, "gradients on the model's parameters"),
        ("change alone", lambda model, x, y, eps: survive_reference(model, x, y, eps) - x, BALL, "comes last"),
        ("uint8", lambda *task: (255 * survive_reference(*task)).round().to(torch.uint8), LIKE_X, "Keep the type"),
        ("no return", lambda *task: None, LIKE_X, "End your function with return"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name} {case[0]}") for name, cases in WRONG.items() for case in cases],
)
def test_wrong_answers_are_refused_with_the_right_hint(name, case):
    assert_refused(name, *case[1:])


def test_every_mistake_gives_something_of_its_own():
    """Else a hint would name a mistake that the student did not make. Of a step, in one of two balls."""
    torch.manual_seed(0)
    model = photographs._network(photographs.SHAPE, inputs.CLASSES)
    x, y = photographs._pictures(model, 6, photographs.SHAPE)
    scene = photographs._expectation_task(5, photographs.SHAPE, inputs.CLASSES, 6)
    camera = photographs._Camera(scene.x)
    expected = eot_reference(scene.model, scene.x, scene.y, camera, 6)
    aims = [
        photographs._targeted_task(photographs.SHAPE, inputs.CLASSES, eps, 0.06, low=-0.05, reach=1.0)
        for eps in (0.05, 0.4)
    ]
    for given in (
        [(levels_reference(model, x, y, 8), photographs._level_mistakes(model, x, y, 8))],
        [(aim_reference(*aim), photographs._targeted_mistakes(aim, labels)) for aim, labels in aims],
        [(expected, photographs._expectation_mistakes(scene, camera.draws()))],
    ):
        rows = zip(*([(right, "right"), *mistakes] for right, mistakes in given), strict=True)
        for one, another in itertools.combinations(rows, 2):
            (_, hint), (_, other) = one[0], another[0]
            same = all(close(a, b, 1e-5) for (a, _), (b, _) in zip(one, another, strict=True))
            assert hint == other or not same, (hint, other)


@pytest.mark.parametrize(("shape", "classes", "eps"), [((3, 32, 32), 4, 4 / 255), ((3, 24, 40), 3, 5 / 255)])
def test_jpeg_tells_the_attacks_apart(shape, classes, eps):
    """The network reads its pictures rightly, before and after; only what went through JPEG itself fools it there."""
    model = photographs._FineDetailNetwork(shape, classes).eval()
    x, y = model.pictures(8)

    def fooled(images):
        return (model(images).argmax(1) != y).float().mean().item()

    assert fooled(x) == fooled(attacks.jpeg(x)) == 0
    plain, aware = signed_steps(model, x, y, eps), survive_reference(model, x, y, eps)
    assert fooled(plain) == fooled(attacks.jpeg(aware)) == 1
    assert fooled(attacks.jpeg(plain)) <= 0.25


def test_every_exercise_has_answers_on_trial():
    here = {name for name, (checker, _) in engine._CHECKERS.items() if checker.__module__ == photographs.__name__}
    assert set(RIGHT) == set(WRONG) == here
    assert min(map(len, WRONG.values())) >= 8
    assert min(map(len, RIGHT.values())) >= 4


@pytest.mark.parametrize("name", list(RIGHT))
def test_a_stub_is_not_attempted(name):
    def stub(*args):
        raise NotImplementedError()

    assert check(name, stub, strict=True).status == "not attempted"


def test_checks_do_not_depend_on_the_notebooks_settings(odd_settings):
    assert all(check(name, answers[0]) for name, answers in RIGHT.items())


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("fgsm_in_levels", fgsm_of(step=lambda g, n: n / 255 * with_noise(g).sign())),
        ("targeted_step", aim_of(move=lambda g: with_noise(g).sign())),
    ],
)
def test_rounding_decides_nothing(name, answer):
    assert_passes(name, answer)
