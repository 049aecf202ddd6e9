"""The best candidate of every image, as an attack goes on: what all iterative attacks keep."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class BestSoFar:
    """The best candidate so far of every image: one that succeeds before one that does not, then the lower cost.

    Args:
        start: what is best before anything is offered, (N, ...).

    >>> found = BestSoFar(torch.zeros(2, 1))
    >>> found.offer(torch.ones(2, 1), torch.tensor([3.0, math.inf])).tolist()
    [True, False]
    >>> found.best.flatten().tolist(), found.success.tolist()
    ([1.0, 0.0], [True, False])
    """

    def __init__(self, start: Tensor):
        self.best = start.detach().clone()
        self.index = torch.arange(len(start), device=start.device)
        self.cost = torch.full((len(start),), math.inf, device=start.device)
        self.success = torch.zeros(len(start), dtype=torch.bool, device=start.device)

    def offer(
        self, candidates: Tensor, cost: Tensor, success: Tensor | None = None, rows: Tensor | slice = slice(None)
    ) -> Tensor:
        """Keep those of the candidates that are better than what their images have, and return which, (M,).

        Args:
            candidates: (M, ...). cost: (M,); infinite, and no success given: never kept.
            success: (M,), whether the attack has reached its goal; by default where the cost is finite.
            rows: the images that the candidates are for, by default all N of them.
        """
        success = cost.isfinite() if success is None else success
        self.cost = self.cost.to(cost)
        better = torch.where(success == self.success[rows], cost < self.cost[rows], success)
        kept = better.nonzero().squeeze(1)  # only these are copied: images are large, and soon few of them get better
        self.best.index_copy_(0, self.index[rows][kept], candidates.index_select(0, kept))
        self.cost[rows] = torch.where(better, cost, self.cost[rows])
        self.success[rows] |= success
        return better
