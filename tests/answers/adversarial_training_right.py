"""Right answers to the exercises of chapter 06, unlike the solutions."""

import copy
import itertools

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks, training


def mixed_by_hand(model, x, y, eps, mix):
    mode = model.training
    model.eval()
    adv = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(adv), y, reduction="sum"), adv)
    adv = torch.clamp(adv.detach() + eps * torch.sign(g), 0, 1)
    model.train(mode)
    losses = torch.stack([F.cross_entropy(model(v), y) for v in (x, adv)])
    return losses @ torch.tensor([1 - mix, mix])


def mixed_on_a_copy(model, x, y, eps, mix):
    seen = copy.deepcopy(model).eval()
    adv = x.detach().clone()
    adv.requires_grad = True
    nn.CrossEntropyLoss()(seen(adv), y).backward()
    adv = (adv + eps * adv.grad.sign()).clamp(0, 1).detach()
    return nn.CrossEntropyLoss()(model(x), y).mul(1 - mix) + nn.CrossEntropyLoss()(model(adv), y).mul(mix)


def mixed_by_lerp(model, x, y, eps, mix):
    adv = training.ATTACKS["fgsm"](model, x, y, eps)
    return torch.lerp(F.nll_loss(model(x).log_softmax(1), y), F.nll_loss(model(adv).log_softmax(1), y), mix)


def mixed_with_clean_first(model, x, y, eps, mix):
    loss = (1 - mix) * F.cross_entropy(model(x), y, reduction="none").mean()
    return loss + mix * F.cross_entropy(model(attacks.fgsm(model, x, y, eps)), y, reduction="sum") / len(y)


LADDER = ["transfer", "FGSM", "PGD-40", "PGD-40 x 5"]


def masked_by_loops(matrix):
    best, largest = None, -1
    for name in matrix.index:
        for weak, strong in itertools.combinations(LADDER, 2):
            if matrix.loc[name, strong] - matrix.loc[name, weak] > largest:
                best, largest = name, matrix.loc[name, strong] - matrix.loc[name, weak]
    return best


def masked_in_numpy(matrix):
    values = matrix[LADDER].to_numpy()
    return matrix.index[(values - np.minimum.accumulate(values, axis=1)).max(axis=1).argmax()]


def masked_by_pairs(matrix):
    gaps = [matrix[strong] - matrix[weak] for weak, strong in itertools.combinations(LADDER, 2)]
    return pd.concat(gaps, axis=1).max(axis=1).sort_values().index[-1]


def masked_with_clean(matrix):
    table = matrix.T.loc[["clean", *LADDER]]
    return (table - table.cummin()).max().idxmax()


RIGHT = {
    "mixed_loss": [mixed_by_hand, mixed_on_a_copy, mixed_by_lerp, mixed_with_clean_first],
    "eps_schedule": [
        lambda step, steps, eps, warmup: np.interp(step, [0, warmup * steps], [0, eps]) if warmup else eps,
        lambda step, steps, eps, warmup: eps if warmup == 0 else eps * torch.tensor(step / steps / warmup).clamp(max=1),
        lambda step, steps, eps, warmup: min(1.0, step / (warmup * steps)) * eps if warmup > 0 else eps,
        lambda step, steps, eps, warmup: (
            eps * min(1, step / max(warmup * steps, 1e-9)) if step else eps * (warmup == 0)
        ),
        lambda step, steps, eps, warmup: eps * step / (warmup * steps) if step < warmup * steps else eps,
    ],
    "most_masked": [masked_by_loops, masked_in_numpy, masked_by_pairs, masked_with_clean],
}
