# ruff: noqa: E501
"""Right answers to the exercises of chapter 01 that differ from the solution and from one another."""

import numpy as np
import torch
import torch.nn.functional as F


def fall(w, eps):
    return eps * w.norm(p=1)


def margin(w, b, x, y):
    return y * (x.matmul(w) + b)


def attacked(w, b, x, y, eps):
    return (x - eps * y.unsqueeze(1) * torch.sign(w)) @ w + b


def share_image_by_image(weight, bias, x, y, eps):
    safe = 0
    for image, label in zip(x.double(), y.tolist(), strict=True):
        apart = weight[label].double() - weight.double()
        lead = apart @ image + (bias[label] - bias).double() - eps * apart.abs().sum(1)
        safe += all(lead[j] > 0 for j in range(len(lead)) if j != label)
    return safe / len(x)


def share_by_attacks(weight, bias, x, y, eps):
    safe = torch.ones(len(x), dtype=torch.bool)
    for j in range(len(weight)):
        changed = x + eps * torch.sign(weight[j] - weight[y])
        logits = changed @ weight.T + bias
        safe &= logits[torch.arange(len(x)), y] >= logits[:, j]
    return safe.float().mean()


def share_with_a_mask(weight, bias, x, y, eps):
    logits = torch.addmm(bias, x, weight.T)
    reach = eps * torch.cdist(weight, weight, p=1)[y]
    raised = (logits + reach).masked_fill(F.one_hot(y, len(weight)).bool(), -float("inf"))
    return (logits.gather(1, y[:, None])[:, 0] > raised.amax(1)).double().mean().item()


def share_of_the_smallest_lead(weight, bias, x, y, eps):
    apart = weight[y].unsqueeze(1) - weight
    lead = (apart * x.unsqueeze(1)).sum(2) + bias[y].unsqueeze(1) - bias - eps * apart.norm(p=1, dim=2)
    lead[torch.arange(len(y)), y] = torch.inf
    return float((lead.min(1).values > 0).numpy().mean())


def change_by_loop(w, eps):
    change = torch.empty_like(w)
    for i in range(len(w)):
        change[i] = eps if w[i] > 0 else -eps
    return change


def loss_by_class(w, b, x, y, eps):
    up, down = x @ w + b + fall(w, eps), x @ w + b - fall(w, eps)
    return (F.softplus(-down)[y > 0].sum() + F.softplus(up)[y < 0].sum()) / len(y)


def loss_of_two_logits(w, b, x, y, eps):
    worst = attacked(w, b, x, y, eps)
    return F.cross_entropy(torch.stack([torch.zeros_like(worst), worst], dim=1), (y > 0).long())


RIGHT = {
    "worst_perturbation": [
        lambda w, eps: torch.where(w >= 0, eps, -eps).to(w.dtype),
        lambda w, eps: torch.from_numpy(np.sign(w.numpy())) * eps,
        lambda w, eps: eps * ((w > 0).float() - (w < 0).float()),
        lambda w, eps: w / w.abs().clamp_min(1e-30) * eps,
        lambda w, eps: torch.nan_to_num(w / w.abs()) * eps,
        lambda w, eps: torch.copysign(torch.full_like(w, eps), w),
        lambda w, eps: eps * torch.autograd.grad((v := w.clone().requires_grad_()).abs().sum(), v)[0],
        lambda w, eps: (1e38 * w).clamp(-eps, eps),
        change_by_loop,
    ],
    "exact_accuracy": [
        share_image_by_image,
        share_by_attacks,
        share_with_a_mask,
        share_of_the_smallest_lead,
    ],
    "to_uint8": [
        lambda x: torch.round(x * 255).byte(),
        lambda x: (x * 255 + 0.5).to(torch.uint8),
        lambda x: torch.floor(x * 255 + 0.5).clamp(0, 255).type(torch.uint8),
        lambda x: (x.double() * 255).round().long().to(torch.uint8),
        lambda x: torch.from_numpy(np.rint(x.numpy() * 255).astype(np.uint8)),
        lambda x: x.clone().mul_(255).round_().byte(),
        lambda x: (x.unsqueeze(-1) - torch.arange(256) / 255).abs().argmin(-1).to(torch.uint8),
    ],
    "robust_loss": [
        lambda w, b, x, y, eps: -F.logsigmoid(margin(w, b, x, y) - fall(w, eps)).mean(),
        lambda w, b, x, y, eps: F.binary_cross_entropy_with_logits(attacked(w, b, x, y, eps), (y + 1) / 2),
        lambda w, b, x, y, eps: F.softplus(-y * attacked(w, b, x, y, eps)).mean().reshape(1),
        lambda w, b, x, y, eps: torch.logaddexp(torch.zeros_like(y), fall(w, eps) - margin(w, b, x, y)).sum() / len(y),
        lambda w, b, x, y, eps: (z := fall(w, eps) - margin(w, b, x, y)).relu().add(torch.log1p(torch.exp(-z.abs()))).mean(),
        lambda w, b, x, y, eps: F.softplus(-y.double() * ((x.double() - eps * y[:, None] * w.double().sign()) @ w.double() + b)).mean(),
        loss_by_class,
        loss_of_two_logits,
    ],
}  # fmt: skip
