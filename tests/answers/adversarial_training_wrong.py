"""Wrong answers to the exercises of chapter 06 beside their known mistakes, and what is said about them."""

import itertools

import torch
import torch.nn.functional as F

from course_utils import attacks


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
    "most_masked": [
        (lambda matrix: "none", "the same name for every table"),
        (lambda matrix: int(rises(matrix).max(axis=1).argmax()), "Return its name"),
        (lambda matrix: rises(matrix).max(axis=1).max(), "idxmax() in place of .max()"),
        (lambda matrix: rises(matrix).max(axis=1), "more than one value"),
        (lambda matrix: rises(matrix).max().idxmax(), "axis=1"),
        (in_place, "work on a part of it"),
    ],
}
