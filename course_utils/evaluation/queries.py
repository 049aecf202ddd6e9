"""What a decision-based attack costs: accuracy against the labels that it has asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from ..attacks.decision_based import hopskipjump
from ..core.validation import Box, Model
from .metrics import correct, distances


def accuracy_by_queries(
    model: Model,
    x: Tensor,
    y: Tensor,
    sizes: Sequence[float],
    *,
    norm: str = "linf",
    queries: int = 1000,
    seed: int = 0,
    clip: Box = (0.0, 1.0),
) -> pd.DataFrame:
    """Return what `attacks.hopskipjump` leaves of a model, at each of several radii, after each of its steps.

    One run serves all radii: the attack looks for the smallest change, and an image counts as fooled at a radius once
    a change has been found that is no larger.

    Args:
        model, x, y, norm, queries, clip: see `attacks.hopskipjump`. sizes: the radii, pixel units. seed: of its draws.

    Returns:
        accuracies, queries × radii: the index has the queries spent on an image, on average; 0 is without an attack.

    Raises:
        ValueError, TypeError: as `attacks.hopskipjump`.

    >>> x = torch.tensor([[0.4, 0.6], [0.1, 0.9]])
    >>> accuracy_by_queries(lambda x: x, x, x.argmax(1), [0.2], queries=200).iloc[-1].tolist()
    [0.5]
    """
    right = correct(model, x, y)
    rows = {0: [right.float().mean().item()] * len(sizes)}

    def note(step: int, adv: Tensor, spent: Tensor) -> None:
        changed = distances(x, adv, measure=norm).to(right.device)
        fooled = [(changed > 0) & (changed <= size) for size in sizes]  # what nothing was found for is unchanged
        rows[round(spent.float().mean().item())] = [(right & ~each).float().mean().item() for each in fooled]

    generator = torch.Generator(x.device).manual_seed(seed)
    hopskipjump(model, x, y, norm=norm, queries=queries, clip=clip, generator=generator, callback=note)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(sizes)).rename_axis("queries")
