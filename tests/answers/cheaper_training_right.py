"""Right answers to the exercises of chapter 07, unlike the solutions."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks


def noisy_with_delta(model, x, y, eps, noise):
    delta = torch.zeros_like(x).uniform_(-noise, noise)
    delta = torch.max(torch.min(delta, 1 - x), -x).requires_grad_()
    (g,) = torch.autograd.grad(nn.CrossEntropyLoss()(model(x + delta), y), delta)
    return (x + delta.detach() + eps * torch.sign(g)).clip(0, 1)


def noisy_image_by_image(model, x, y, eps, noise):
    found = []
    for image, label in zip(x.split(1), y.split(1), strict=True):
        start = (image + noise * (2 * torch.rand(image.shape) - 1)).clamp(0, 1).requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(start), label), start)
        found.append((start.detach() + eps * g.sign()).clamp(0, 1))
    return torch.cat(found)


def noisy_functional(model, x, y, eps, noise):
    start = attacks.project(attacks.random_in_ball(x, noise), x, noise)
    g = torch.func.grad(lambda v: F.cross_entropy(model(v), y))(start)
    return (start + eps * g.sign()).clamp(0, 1).detach()


def noisy_with_backward(model, x, y, eps, noise):
    start = (x + torch.empty_like(x).uniform_(-1, 1) * noise).clamp(0, 1).requires_grad_()
    F.cross_entropy(model(start), y).backward()
    model.zero_grad()
    with torch.no_grad():
        return (start + eps * start.grad.sign()).clamp(0, 1)


def free_with_sgd(model, x, y, delta, eps, replays, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for _ in range(replays):
        adv = (x + delta).clamp(0, 1).requires_grad_()
        loss = F.cross_entropy(model(adv), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        delta = (delta + eps * adv.grad.sign()).clamp(-eps, eps)
    return delta


def free_by_hand(model, x, y, delta, eps, replays, lr):
    weights = list(model.parameters())
    for _ in range(replays):
        adv = torch.clamp(x + delta, 0, 1).requires_grad_()
        slope, *slopes = torch.autograd.grad(F.cross_entropy(model(adv), y), [adv, *weights])
        with torch.no_grad():
            for w, g in zip(weights, slopes, strict=True):
                w -= lr * g
            delta = torch.clamp(delta + eps * torch.sign(slope), min=-eps, max=eps)
    return delta


def free_with_the_perturbation_first(model, x, y, delta, eps, replays, lr):
    """Move the perturbation before the weights, along the gradient of the same pass."""
    count = 0
    while count < replays:
        adv = (x + delta).clip(0, 1).detach().requires_grad_(True)
        for p in model.parameters():
            p.grad = None
        nn.CrossEntropyLoss()(model(adv), y).backward()
        delta = torch.maximum(torch.minimum(delta + eps * adv.grad.sign(), torch.tensor(eps)), torch.tensor(-eps))
        for p in model.parameters():
            p.data = p.data - lr * p.grad
        count += 1
    return delta.detach()


def free_with_functions(model, x, y, delta, eps, replays, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0)
    move = delta.clone()
    for _ in range(replays):
        images = (x + move).clamp(0, 1)
        images.requires_grad = True
        model.zero_grad()
        (-model(images).log_softmax(1)[torch.arange(len(y)), y].mean()).backward()
        optimizer.step()
        move.add_(images.grad.sign(), alpha=eps).clamp_(-eps, eps)
    return move


def trades_kl_div(logits, attacked, y, beta):
    robust = F.kl_div(attacked.log_softmax(1), logits.softmax(1), reduction="batchmean")
    return F.cross_entropy(logits, y) + beta * robust


def trades_log_target(logits, attacked, y, beta):
    p, q = F.log_softmax(logits, dim=-1), F.log_softmax(attacked, dim=-1)
    return F.nll_loss(p, y) + beta * nn.KLDivLoss(reduction="batchmean", log_target=True)(q, p)


def trades_by_sums(logits, attacked, y, beta):
    log_p, log_q = (z - z.logsumexp(1, keepdim=True) for z in (logits, attacked))
    natural = -log_p[torch.arange(len(y)), y].mean()
    return natural + beta * (log_p.exp() * (log_p - log_q)).sum() / len(y)


def trades_by_entropies(logits, attacked, y, beta):
    p = logits.softmax(1)
    cross, entropy = -(p * attacked.log_softmax(1)).sum(1), -(p * logits.log_softmax(1)).sum(1)
    return (F.cross_entropy(logits, y, reduction="none") + beta * (cross - entropy)).mean()


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
    "n_fgsm_step": [noisy_with_delta, noisy_image_by_image, noisy_functional, noisy_with_backward],
    "free_batch": [free_with_sgd, free_by_hand, free_with_the_perturbation_first, free_with_functions],
    "trades_loss": [trades_kl_div, trades_log_target, trades_by_sums, trades_by_entropies],
    "branch_step": [branch_clean_first, branch_by_hand, branch_nested, branch_on_a_copy],
}
