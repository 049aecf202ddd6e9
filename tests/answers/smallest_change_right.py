# ruff: noqa: E501
"""Right answers to the exercises of chapter 04, each written in another way."""

import numpy as np
import torch
import torch.nn.functional as F

from course_utils import attacks


def lengths(images):
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def l2_reference(point, gradient, x, eps, step_size):
    gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-37)
    change = point + step_size * gradient / lengths(gradient).clamp_min(1) - x
    return (x + change * (eps / lengths(change).clamp_min(1e-30)).clamp(max=1)).clamp(0, 1)


def l2_by_masks(point, gradient, x, eps, step_size):
    gradient = gradient.double()
    size = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    change = point + torch.where(size > 0, step_size * gradient / size, torch.zeros_like(gradient)) - x
    far = change.square().sum((1, 2, 3), keepdim=True).sqrt()
    return torch.clip(x + torch.where(far > eps, eps * change / far, change), 0, 1).to(x.dtype)


def l2_with_normalize(point, gradient, x, eps, step_size):
    new = point + step_size * F.normalize(gradient.double().flatten(1), eps=1e-300).view_as(x).float()
    return (x + (new - x).flatten(1).renorm(2, 0, eps).view_as(x)).clamp(0, 1)


def l2_one_by_one(point, gradient, x, eps, step_size):
    images = []
    for p, g, centre in zip(point, gradient, x, strict=True):
        g = g.double()
        new = p + (step_size * g / max(g.norm().item(), 1e-300)).float()
        far = (new - centre).norm().item()
        images.append((centre + (new - centre) * min(1.0, eps / max(far, 1e-30))).clamp(0, 1))
    return torch.stack(images)


def l2_with_nan_to_num(point, gradient, x, eps, step_size):
    change = point + step_size * (gradient.double() / lengths(gradient.double())).nan_to_num().float() - x
    return (x + change * (eps / lengths(change)).nan_to_num(1.0).clamp(max=1)).clamp(0, 1)


def l2_in_numpy(point, gradient, x, eps, step_size):
    point, gradient, centre = (v.double().numpy() for v in (point, gradient, x))

    def size(images):
        return np.maximum(np.sqrt((images**2).sum(axis=(1, 2, 3), keepdims=True)), 1e-300)

    change = point + step_size * gradient / size(gradient) - centre
    return torch.from_numpy(np.clip(centre + change * np.minimum(1, eps / size(change)), 0, 1)).float()


def l2_from_the_library(point, gradient, x, eps, step_size):
    largest = gradient.abs().amax((1, 2, 3), keepdim=True)
    unit = gradient / torch.where(largest > 0, largest, 1)
    step = step_size * unit / lengths(unit).clamp_min(0.5)
    return attacks.project(point + step, x, eps, norm="l2")


def border_by_cdist(weight, bias, x, y):
    rows = torch.arange(len(x))
    logits = torch.addmm(bias, x, weight.T)
    far = (logits[rows, y][:, None] - logits) / torch.cdist(weight[y], weight).clamp_min(1e-30)
    far[rows, y] = float("inf")
    return far.min(1)[0].maximum(torch.zeros(len(x)))


def border_of_pairs(weight, bias, x, y):
    w, b = weight[y][:, None] - weight, bias[y][:, None] - bias  # (n, K, d), (n, K)
    lead, size = torch.einsum("nkd,nd->nk", w, x) + b, w.square().sum(-1).sqrt()
    return torch.where(size > 0, lead / size, torch.inf).amin(1).clip(min=0)


def within_by_sum(distance, budgets):
    return (distance.view(-1, 1) > budgets.view(1, -1)).sum(0) / distance.numel()


def within_in_a_loop(distance, budgets):
    shares = torch.empty_like(budgets)
    for i, budget in enumerate(budgets.tolist()):
        shares[i] = sum(value > budget for value in distance.tolist()) / len(distance)
    return shares


RIGHT = {
    "nearest_border": [border_by_cdist, border_of_pairs],
    "accuracy_within": [within_by_sum, within_in_a_loop],
    "l2_pgd_step": [l2_reference, l2_by_masks, l2_with_normalize, l2_one_by_one, l2_with_nan_to_num, l2_in_numpy, l2_from_the_library],
}  # fmt: skip
