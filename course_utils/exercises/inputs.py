"""What answers are tried on: small untrained networks, and images for which no gradient is near 0."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SHAPE, CLASSES = (1, 6, 6), 5  # small, for the sake of speed …
OTHER_SHAPE, OTHER_CLASSES = (3, 5, 7), 4  # … and for an answer that has taken these from elsewhere


def smooth_network(seed: int, shape: tuple[int, ...], classes: int, spread: float = 1.5) -> nn.Module:
    """Return a smooth, untrained little network for images of this shape (C, H, W); `spread` makes it more confident."""
    generator = torch.Generator().manual_seed(seed)
    n = math.prod(shape)
    model = nn.Sequential(nn.Flatten(), nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, classes)).eval()
    nn.init.normal_(model[1].weight, 0, 8 * n**-0.5, generator=generator)
    nn.init.normal_(model[3].weight, 0, spread, generator=generator)
    nn.init.normal_(model[3].bias, 0, 0.3, generator=generator)
    model[1].bias.data = -0.5 * model[1].weight.data.sum(1)  # grey has no influence, so that the answers vary
    return model


def unsaturated_network(shape: tuple[int, ...], classes: int, seed: int = 309) -> nn.Module:
    """Return a network that is never so sure that rounding takes a part of its gradient.

    With its seed no gradient is near 0 on the right paths, so that rounding decides nothing.
    """
    return smooth_network(seed, shape, classes, spread=0.3)


def labelled_images(model: nn.Module, n: int, shape: tuple[int, ...], low: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return images with pixels in [low, 1 - low], and labels: the model is right about the first two, wrong about the rest."""
    generator = torch.Generator().manual_seed(n)
    x = low + (1 - 2 * low) * torch.rand(n, *shape, generator=generator)
    with torch.no_grad():
        logits = model(x)
    return x, (logits.argmax(1) + (torch.arange(n) - 1).clamp_min(0)) % logits.shape[1]


def black_and_white_images(model: nn.Module, n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return labelled images, many of whose pixels are black or white."""
    x, y = labelled_images(model, n, shape, low=0.0)
    return (1.1 * x - 0.05).clamp(0, 1), y
