"""Right answers to the exercises of chapter 07, unlike the solutions."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks


def into_both(adv, x, eps):
    return adv.maximum(x - eps).minimum(x + eps).clip(0, 1)


def rs_with_delta(model, x, y, eps, step_size):
    delta = torch.zeros_like(x).uniform_(-eps, eps)
    delta = torch.max(torch.min(delta, 1 - x), -x).requires_grad_()
    (g,) = torch.autograd.grad(nn.CrossEntropyLoss()(model(x + delta), y), delta)
    delta = torch.clamp(delta.detach() + step_size * torch.sign(g), -eps, eps)
    return x + torch.max(torch.min(delta, 1 - x), -x)


def rs_image_by_image(model, x, y, eps, step_size):
    found = []
    for image, label in zip(x.split(1), y.split(1), strict=True):
        start = (image + eps * (2 * torch.rand(image.shape) - 1)).clamp(0, 1).requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(start), label), start)
        found.append(into_both(start.detach() + step_size * g.sign(), image, eps))
    return torch.cat(found)


def rs_functional(model, x, y, eps, step_size):
    start = attacks.project(attacks.random_in_ball(x, eps), x, eps)
    g = torch.func.grad(lambda v: F.cross_entropy(model(v), y))(start)
    return attacks.project(start + step_size * g.sign(), x, eps).detach()


def rs_with_backward(model, x, y, eps, step_size):
    start = (x + torch.empty_like(x).uniform_(-1, 1) * eps).clamp(0, 1).requires_grad_()
    F.cross_entropy(model(start), y).backward()
    model.zero_grad()
    with torch.no_grad():
        return into_both(start + step_size * start.grad.sign(), x, eps)


def rs_in_evaluation_mode(model, x, y, eps, step_size):
    start = (x - eps + 2 * eps * torch.rand(x.shape)).clamp(0, 1)
    return into_both(attacks.fgsm(model, start, y, step_size), x, eps)


def branch_clean_first(model, x, y, eps, branch):
    with branch(model, "main"):
        losses = [F.cross_entropy(model(x), y)]
    with branch(model, "auxiliary"):
        losses.append(F.cross_entropy(model(attacks.fgsm(model, x, y, eps)), y))
    return torch.stack(losses).mean()


def branch_by_hand(model, x, y, eps, branch):
    mode, adv = model.training, x.clone().requires_grad_()
    with branch(model, "auxiliary"):
        (g,) = torch.autograd.grad(F.cross_entropy(model.eval()(adv), y), adv)
    adv = (adv.detach() + eps * g.sign()).clamp(0, 1)
    model.train(mode)
    loss = 0
    for name, images in (("main", x), ("auxiliary", adv)):
        with branch(model, name):
            loss = loss + 0.5 * nn.CrossEntropyLoss()(model(images), y)
    return loss


def branch_nested(model, x, y, eps, branch):
    with branch(model, "main"):
        with branch(model, "auxiliary") as network:
            adv = attacks.fgsm(network, x, y, eps)
            loss = F.nll_loss(network(adv).log_softmax(1), y)
        return 0.5 * loss + 0.5 * F.cross_entropy(model(x), y)


def branch_on_a_copy(model, x, y, eps, branch):
    twin = copy.deepcopy(model).eval()
    with branch(twin, "auxiliary"):
        adv = attacks.fgsm(twin, x, y, eps)
    with branch(model, "auxiliary"):
        z = model(adv)
    with branch(model, "main"):
        return F.cross_entropy(torch.cat([z, model(x)]), y.repeat(2))


RIGHT = {
    "fgsm_rs_step": [rs_with_delta, rs_image_by_image, rs_functional, rs_with_backward, rs_in_evaluation_mode],
    "branch_step": [branch_clean_first, branch_by_hand, branch_nested, branch_on_a_copy],
}
