"""Wrong answers to the exercises of chapter 07 beside their known mistakes, and what is said about them."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks, models


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


WRONG = {
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
    "branch_step": [
        (lambda model, x, y, eps, branch: step_on_branches(model, x, y, eps, models.branch), "not with models.branch"),
        (looks_first, "every pass counts in the statistics"),
        (with_gradients, "Leave .backward() to whoever called you"),
        (lambda *task: step_on_branches(*task).detach(), "without torch.no_grad()"),
        (lambda model, *rest: step_on_branches(nn.Module.eval(model), *rest), "still in evaluation mode"),
    ],
}
