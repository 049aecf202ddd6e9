# ruff: noqa: E501
"""Right answers to the exercises of chapter 02, which differ from one another."""

import copy
from itertools import cycle

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks


def with_backward(model, x, y, eps, direction):
    adv = x.clone().detach()
    adv.requires_grad = True
    F.cross_entropy(model(adv), y).backward()
    model.zero_grad()
    return torch.clip(adv + eps * direction(adv.grad), 0, 1).detach()


def without_grads(model, x, y, eps, direction):
    x = x.detach().clone().requires_grad_(True)
    nn.CrossEntropyLoss(reduction="sum")(input=model(x), target=y).backward()
    for p in model.parameters():
        p.grad = None
    with torch.no_grad():
        return torch.clamp(x + eps * direction(x.grad), min=0.0, max=1.0)


def on_a_copy(model, x, y, eps, direction):
    model = copy.deepcopy(model).eval()
    x = x.clone().requires_grad_()
    F.nll_loss(F.log_softmax(model(x), dim=-1), y).backward()
    new = x.data + eps * direction(x.grad.data)
    return torch.min(torch.max(new, torch.zeros_like(x)), torch.ones_like(x))


def functional(model, x, y, eps, direction):
    def loss(x):
        z = model(x)
        return (z.logsumexp(1) - (z * F.one_hot(y, z.shape[1])).sum(1)).sum()

    return (x + eps * direction(torch.func.grad(loss)(x).detach())).clamp(0, 1)


def with_delta(model, x, y, eps, direction):
    was = model.training
    model.eval()
    delta = torch.zeros_like(x, requires_grad=True)
    (g,) = torch.autograd.grad(F.cross_entropy(model(x + delta), y), [delta])
    model.train(was)
    return (x + eps * direction(g)).clamp_(0, 1)


def one_by_one(model, x, y, eps, direction):
    news = []
    for image, label in zip(x, y, strict=True):
        image = image.unsqueeze(0).clone().requires_grad_()
        g = torch.autograd.grad(-model(image).log_softmax(1)[0, label], image)[0]
        news.append((image.detach() + float(eps) * direction(g)).clamp(0, 1))
    return torch.cat(news)


def frozen(model, x, y, eps, direction):
    model.requires_grad_(False)
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y).backward()
    model.requires_grad_(True)
    return (x.detach() + eps * direction(x.grad)).clip(0, 1)


def of_the_log_odds(model, x, y, eps, direction):
    x = x.clone().requires_grad_()
    z = model(x)
    label = F.one_hot(y, z.shape[1]).bool()
    loss = z.masked_fill(label, -torch.inf).logsumexp(1) - z[label]
    return (x + eps * direction(torch.autograd.grad(loss.sum(), x)[0])).clamp(0, 1).detach()


def of_the_library(model, x, y, eps, direction):
    return (x + eps * direction(attacks.input_gradient(model, x, y))).clamp(0, 1)


STEPS = (with_backward, without_grads, on_a_copy, functional, with_delta, one_by_one, frozen, of_the_log_odds, of_the_library)  # fmt: skip


def steps(*directions):
    """All ways to the gradient, with the directions in turn."""
    return [lambda *task, s=s, d=d: s(*task, d) for s, d in zip(STEPS, cycle(directions), strict=False)]


def by_the_largest(g):
    return g / g.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-37)


UNITS = (
    lambda g: (h := by_the_largest(g)) / h.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1),
    lambda g: (g / (g.double().pow(2).sum(dim=(1, 2, 3), keepdim=True).sqrt() + 1e-60)).float(),
    lambda g: F.normalize(g.double().flatten(1), eps=1e-60).view(g.shape).float(),
    lambda g: F.normalize(torch.nan_to_num(g / g.abs().amax((1, 2, 3), keepdim=True)).flatten(1)).view(g.shape),
    lambda g: torch.where((n := torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True, dtype=torch.float64)) > 0, g / n, 0.0).float(),
)  # fmt: skip


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


def rate_in_one_pass(model, x, adv, y):
    before, after = model(torch.cat([x, adv])).argmax(1).view(2, -1)
    return (after != before)[before == y].float().mean().item()


def rate_of_the_selected(model, x, adv, y):
    r = model(x).softmax(1).topk(1)[1].squeeze(1) == y
    return (model(adv[r]).topk(1).indices[:, 0] != y[r]).double().mean()


def odds_by_mask(logits, y):
    others = logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf)
    return others.logsumexp(1) - logits[torch.arange(len(y)), y]


def odds_of_the_others(logits, y):
    keep = torch.arange(logits.shape[1]) != y[:, None]
    return logits[keep].view(len(y), -1).logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


def odds_image_by_image(logits, y):
    rows = [torch.logsumexp(torch.cat([z[:k], z[k + 1 :]]), 0) - z[k] for z, k in zip(logits, y.tolist(), strict=True)]
    return torch.stack(rows)


def odds_of_differences(logits, y):
    gaps = logits - logits.take_along_dim(y.view(-1, 1), 1)
    return gaps.scatter(1, y.view(-1, 1), -float("inf")).logsumexp(dim=1)


def odds_of_log_probabilities(logits, y):
    p = F.log_softmax(logits, 1)
    return torch.logsumexp(p - 1e9 * F.one_hot(y, p.shape[1]), 1) + F.nll_loss(p, y, reduction="none")


RIGHT = {
    "targeted_fgsm": steps(lambda g: -torch.sign(g), lambda g: torch.where(g > 0, -1.0, 1.0), lambda g: (-g).sign()),
    "l2_step": [*steps(*UNITS), *steps(*UNITS[2:], *UNITS[:2])],
    "log_odds": [odds_by_mask, odds_of_the_others, odds_image_by_image, odds_of_differences, odds_of_log_probabilities],
    "success_rate": [rate_by_loop, rate_by_masks, rate_in_numpy, rate_in_one_pass, rate_of_the_selected],
}
