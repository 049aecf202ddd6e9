"""Wrong answers to the exercises of chapter 07 beside their known mistakes, and what is said about them."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks, models


def step_from(model, x, y, eps, start):
    start = start.clamp(0, 1).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
    return (start.detach() + eps * g.sign()).clamp(0, 1)


def from_start(draw):
    return lambda model, x, y, eps, noise: step_from(model, x, y, eps, x + draw(x, noise))


def seeded(model, x, y, eps, noise):
    torch.manual_seed(0)
    return step_from(model, x, y, eps, x + noise * (2 * torch.rand_like(x) - 1))


def in_numpy(x, noise):
    return torch.from_numpy(np.random.uniform(-noise, noise, x.shape)).float()  # noqa: NPY002


def free(at=lambda x, d: (x + d).clamp(0, 1), step=lambda d, g, eps: (d + eps * g.sign()).clamp(-eps, eps), rate=1.0):
    def answer(model, x, y, delta, eps, replays, lr):
        optimizer = torch.optim.SGD(model.parameters(), rate * lr)
        for _ in range(replays):
            adv = at(x, delta).detach().requires_grad_()
            optimizer.zero_grad()
            F.cross_entropy(model(adv), y).backward()
            optimizer.step()
            delta = step(delta, adv.grad, eps)
        return delta.detach()

    return answer


def with_momentum(model, x, y, delta, eps, replays, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for _ in range(replays):
        adv = (x + delta).clamp(0, 1).requires_grad_()
        optimizer.zero_grad()
        F.cross_entropy(model(adv), y).backward()
        optimizer.step()
        delta = (delta + eps * adv.grad.sign()).clamp(-eps, eps)
    return delta


def moves_after_all(model, x, y, delta, eps, replays, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for _ in range(replays):
        adv = (x + delta).clamp(0, 1).requires_grad_()
        optimizer.zero_grad()
        F.cross_entropy(model(adv), y).backward()
        optimizer.step()
    return (delta + eps * adv.grad.sign()).clamp(-eps, eps)


def in_place_of_delta(model, x, y, delta, eps, replays, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for _ in range(replays):
        adv = (x + delta).clamp(0, 1).requires_grad_()
        optimizer.zero_grad()
        F.cross_entropy(model(adv), y).backward()
        optimizer.step()
        delta += eps * adv.grad.sign()
        delta.clamp_(-eps, eps)
    return delta.clone()


def random_start(model, x, y, delta, eps, *rest):
    return free()(model, x, y, eps * (2 * torch.rand_like(x) - 1), eps, *rest)


def returns_nothing_new(model, x, y, delta, *rest):
    free()(model, x, y, delta, *rest)
    return delta.clone()


def trades(logits, attacked, y, beta):
    p = logits.softmax(1)
    return F.cross_entropy(logits, y) + beta * (p * (logits.log_softmax(1) - attacked.log_softmax(1))).sum(1).mean()


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
    "n_fgsm_step": [
        (lambda model, x, y, eps, noise: x.clone(), "no random start"),
        (seeded, "Do not seed"),
        (from_start(in_numpy), "Draw with torch.rand"),
        (from_start(lambda x, noise: noise * torch.rand_like(x)), "one-sided"),
        (from_start(lambda x, noise: noise * (torch.rand_like(x) - 0.5)), "half of the ball"),
        (from_start(lambda x, noise: noise / 3 * torch.randn_like(x)), "not uniform"),
        (from_start(lambda x, noise: noise * torch.randn_like(x).sign()), "corners"),
        (from_start(lambda x, noise: noise * (2 * torch.rand(len(x), 1, 1, 1) - 1)), "one for each pixel"),
        (lambda model, x, y, eps, noise: attacks.fgsm_rs(model, x, y, eps), "You project on a ball"),
    ],
    "free_batch": [
        (lambda model, x, y, delta, eps, replays, lr: delta.clone(), "same for every eps"),
        (free(at=lambda x, d: x), "You train on x itself"),
        (free(at=lambda x, d: x + d), "clip x + delta to [0, 1]"),
        (free(step=lambda d, g, eps: d + eps * g.sign()), "back into the ball"),
        (free(step=lambda d, g, eps: (d - eps * g.sign()).clamp(-eps, eps)), "goes downhill"),
        (free(step=lambda d, g, eps: (d + eps * g).clamp(-eps, eps)), "Take its sign"),
        (free(step=lambda d, g, eps: eps * g.sign()), "added to the one before"),
        (free(step=lambda d, g, eps: d), "never moves"),
        (free(rate=0.0), "weights never learn"),
        (random_start, "no randomness"),
        (returns_nothing_new, "not the one that came in"),
        (with_momentum, "without momentum"),
        (moves_after_all, "moves only once"),
        (in_place_of_delta, "delta"),
        (lambda *task: free()(*task).requires_grad_(), "detach"),
        (lambda *task: None, "return"),
    ],
    "trades_loss": [
        (lambda *task: trades(*task).item(), "without .item()"),
        (torch.no_grad()(trades), "without torch.no_grad()"),
        (lambda z, w, y, beta: trades(w, z, y, beta), "take no part"),
        (lambda z, w, y, beta: F.cross_entropy(z, y) + beta * F.kl_div(w.log_softmax(1), z.softmax(1)), "batchmean"),
        (
            lambda z, w, y, beta: (
                F.cross_entropy(z, y) + beta * F.kl_div(z.log_softmax(1), w.softmax(1), reduction="batchmean")
            ),
            "F.kl_div takes log p' first",
        ),
        (lambda z, w, y, beta: F.cross_entropy(z, y) + beta * F.cross_entropy(w, y), "compares the answers"),
        (lambda z, w, y, beta: F.cross_entropy(z, y) + beta * F.cross_entropy(w, z.softmax(1)), "entropy of p"),
        (lambda z, w, y, beta: F.cross_entropy(z, y) + beta * F.mse_loss(z, w), "Compare the probabilities"),
        (lambda z, w, y, beta: F.cross_entropy(z, y) + 6.0 * (trades(z, w, y, 1.0) - F.cross_entropy(z, y)), "beta"),
        (lambda z, w, y, beta: trades(z, w, y, beta).unsqueeze(0).repeat(2), "Return one number"),
        (
            lambda z, w, y, beta: F.cross_entropy(z, y) - beta * (trades(z, w, y, 1.0) - F.cross_entropy(z, y)),
            "wrong sign",
        ),
        (lambda z, w, y, beta: trades(z.detach(), w, y, beta), "clean"),
    ],
    "branch_step": [
        (lambda model, x, y, eps, branch: step_on_branches(model, x, y, eps, models.branch), "not with models.branch"),
        (looks_first, "every pass counts in the statistics"),
        (with_gradients, "Leave .backward() to whoever called you"),
        (lambda *task: step_on_branches(*task).detach(), "without torch.no_grad()"),
        (lambda model, *rest: step_on_branches(nn.Module.eval(model), *rest), "still in evaluation mode"),
    ],
}
