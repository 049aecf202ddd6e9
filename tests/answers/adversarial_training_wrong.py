"""Wrong answers to the exercises of chapters 06 and 07 beside their known mistakes, and what is said about them."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks, models


def mixed(model, x, y, eps, mix):
    adv = attacks.fgsm(model, x, y, eps)
    return (1 - mix) * F.cross_entropy(model(x), y) + mix * F.cross_entropy(model(adv), y)


def per_image(model, x, y, eps, mix):
    losses = [F.cross_entropy(model(v), y, reduction="none") for v in (x, attacks.fgsm(model, x, y, eps))]
    return (1 - mix) * losses[0] + mix * losses[1]


def sends_back(model, x, y, eps, mix):
    loss = mixed(model, x, y, eps, mix)
    loss.backward()
    return loss


def of_the_first_call():
    made = {}

    def answer(model, x, y, eps, mix):
        adv = made.setdefault((x.shape, eps), attacks.fgsm(model, x, y, eps))
        return (1 - mix) * F.cross_entropy(model(x), y) + mix * F.cross_entropy(model(adv), y)

    return answer


def of_noise(model, x, y, eps, mix):
    adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    return (1 - mix) * F.cross_entropy(model(x), y) + mix * F.cross_entropy(model(adv), y)


def step_from(model, x, y, eps, step_size, start):
    start = start.clamp(0, 1).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
    return attacks.project(start.detach() + step_size * g.sign(), x, eps)


def from_start(noise):
    return lambda model, x, y, eps, step_size: step_from(model, x, y, eps, step_size, x + noise(x, eps))


def seeded(model, x, y, eps, step_size):
    torch.manual_seed(0)
    return step_from(model, x, y, eps, step_size, x + eps * (2 * torch.rand_like(x) - 1))


def in_numpy(x, eps):
    return torch.from_numpy(np.random.uniform(-eps, eps, x.shape)).float()  # noqa: NPY002


def never_falling():
    largest = {}

    def answer(step, steps, eps, warmup):
        radius = eps if step >= warmup * steps else eps * step / (warmup * steps)
        largest[steps, eps, warmup] = max(largest.get((steps, eps, warmup), 0.0), radius)
        return largest[steps, eps, warmup]

    return answer


def counting():
    calls = itertools.count()
    return lambda step, steps, eps, warmup: eps * min(1, (next(calls) % steps) / max(1e-9, warmup * steps))


def step_on_branches(model, x, y, eps, branch):
    with branch(model, "auxiliary"):
        adversarial = F.cross_entropy(model(attacks.fgsm(model, x, y, eps)), y)
    with branch(model, "main"):
        return (F.cross_entropy(model(x), y) + adversarial) / 2


def looks_first(model, x, y, eps, branch):
    with branch(model, "main"):
        model(x).argmax(1)
    return step_on_branches(model, x, y, eps, branch)


def with_gradients(model, x, y, eps, branch):
    F.cross_entropy(model(x), y).backward()
    return step_on_branches(model, x, y, eps, branch)


LADDER = ["transfer", "FGSM", "PGD-40", "PGD-40 x 5"]


def rises(matrix):
    return matrix[LADDER] - matrix[LADDER].cummin(axis=1)


def in_place(matrix):
    matrix.drop(columns="clean", inplace=True)
    return rises(matrix).max(axis=1).idxmax()


WRONG = {
    "mixed_loss": [
        (lambda *task: mixed(*task).item(), "without .item()"),
        (torch.no_grad()(mixed), "without torch.no_grad()"),
        (per_image, "mean over the images"),
        (sends_back, "Leave .backward() to whoever called you"),
        (of_the_first_call(), "anew in every call"),
        (of_noise, "no randomness"),
        (lambda *task: mixed(*task).detach().requires_grad_(), "but not in the gradient"),
    ],
    "fgsm_rs_step": [
        (lambda model, x, y, eps, step_size: x.clone(), "no random start"),
        (seeded, "Do not seed"),
        (from_start(in_numpy), "Draw with torch.rand"),
        (from_start(lambda x, eps: eps * torch.rand_like(x)), "one-sided"),
        (from_start(lambda x, eps: eps * (torch.rand_like(x) - 0.5)), "half of the ball"),
        (from_start(lambda x, eps: eps / 3 * torch.randn_like(x)), "not uniform"),
        (from_start(lambda x, eps: eps * torch.randn_like(x).sign()), "corners"),
        (from_start(lambda x, eps: eps * (2 * torch.rand(len(x), 1, 1, 1) - 1)), "one for each pixel"),
    ],
    "eps_schedule": [
        (never_falling(), "keep nothing between two calls"),
        (counting(), "no randomness"),
        (
            lambda step, steps, eps, warmup: eps * min(1, step / (warmup * steps)),
            "ask first whether the growth is over",
        ),
        (lambda step, steps, eps, warmup: eps * min(1, step / int(warmup * steps)) if warmup else eps, "make 0 of it"),
        (
            lambda step, steps, eps, warmup: 0.3 * min(1, step / (warmup * steps)) if warmup else 0.3,
            "same for every eps",
        ),
        (lambda step, steps, eps, warmup: [eps] * steps, "the radius of this step"),
    ],
    "branch_step": [
        (lambda model, x, y, eps, branch: step_on_branches(model, x, y, eps, models.branch), "not with models.branch"),
        (looks_first, "every pass counts in the statistics"),
        (with_gradients, "Leave .backward() to whoever called you"),
        (lambda *task: step_on_branches(*task).detach(), "without torch.no_grad()"),
        (lambda model, *rest: step_on_branches(nn.Module.eval(model), *rest), "still in evaluation mode"),
    ],
    "most_masked": [
        (lambda matrix: "none", "the same name for every table"),
        (lambda matrix: int(rises(matrix).max(axis=1).argmax()), "Return its name"),
        (lambda matrix: rises(matrix).max(axis=1).max(), "idxmax() in place of .max()"),
        (lambda matrix: rises(matrix).max(axis=1), "more than one value"),
        (lambda matrix: rises(matrix).max().idxmax(), "axis=1"),
        (in_place, "work on a part of it"),
    ],
}
