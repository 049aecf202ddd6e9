"""A random stream for each image, so that what is drawn for it does not depend on the batch that it is in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class ImageStreams:
    """One random stream for each of N images: images that are attacked in batches, one after the other, draw the same.

    Args:
        count: N. device: of the numbers.
        generator: of which one number is drawn for each image, the seed of its stream; None for the global one.

    >>> streams = ImageStreams(3, "cpu", torch.Generator().manual_seed(0))
    >>> streams.uniform(torch.tensor([0, 2]), 5).shape
    torch.Size([2, 5])
    """

    def __init__(self, count: int, device: torch.device | str, generator: torch.Generator | None):
        where = device if generator is None else generator.device
        seeds = torch.randint(2**63 - 1, (count,), device=where, generator=generator).tolist()
        self.device = torch.device(device)
        self.streams = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def uniform(self, rows: Tensor, *shape: int) -> Tensor:
        """Return numbers in [0, 1) for the images of these numbers, (M, *shape)."""
        return self._draw(torch.rand, rows, shape)

    def normal(self, rows: Tensor, *shape: int) -> Tensor:
        """Return standard normal numbers for the images of these numbers, (M, *shape)."""
        return self._draw(torch.randn, rows, shape)

    def _draw(self, source: Callable[..., Tensor], rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        drawn = torch.empty(len(rows), *shape, device=self.device)
        for one, row in zip(drawn, rows.tolist(), strict=True):
            source(shape, generator=self.streams[row], device=self.device, out=one)
        return drawn
