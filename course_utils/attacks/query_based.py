"""Attacks that ask for outputs only: what a hidden or misleading gradient cannot stop."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.validation import Box, Model, check_count, checked_labels, checked_radius
from ..models.inference import checked_logits, frozen_eval, is_fooled
from .gradients import adversarial_loss
from .threat_model import broadcast_like, projected


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    queries: int = 1000,
    first: float = 0.3,
    clip: Box = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Paint random squares at the edge of the Linf ball, and keep those that bring an image nearer to a mistake.

    It starts from stripes, one column wide. The squares shrink while the search goes on; an image that is fooled is not
    asked about again (a tie that the true class still wins fools nobody). Images that are not (N, C, H, W) are searched
    in stretches of their numbers instead of squares.

    Args:
        model, x, y, eps, clip: as in `fgsm`. queries: outputs that the attacker asks for, at most, for each image.
        first: share of the image that the first squares cover.
        generator: source of all draws; the global stream is then left alone.

    Raises:
        ValueError, TypeError: as `fgsm`; or first is no share above 0.

    >>> line = torch.nn.Linear(4, 2)
    >>> square(line, torch.full((1, 4), 0.5), torch.tensor([0]), eps=0.1, queries=5).shape
    torch.Size([1, 4])

    Andriushchenko, Croce, Flammarion and Hein, "Square attack", 2020.
    """
    eps = checked_radius(x, eps, "linf", clip)
    y = checked_labels(y, x)
    check_count("queries", queries)
    if not 0 < first <= 1:
        raise ValueError(f"first is the share of the image that the first squares cover, above 0 up to 1; got {first}.")
    x = x.detach()
    if eps == 0 or x.numel() == 0:
        return x.clone()
    centre = x if x.ndim == 4 else x.flatten(1).view(len(x), 1, 1, -1)
    stripes = _signs((len(x), centre.shape[1], 1, centre.shape[3]), centre, generator)
    with frozen_eval(model), torch.no_grad():
        best = projected(centre + eps * stripes, centre, eps, "linf", clip)
        logits = checked_logits(model, best.view_as(x), y)
        value, fooled = adversarial_loss(logits, y, "margin"), is_fooled(logits, y)
        for query in range(1, queries):
            left = (~fooled).nonzero().squeeze(1)
            if len(left) == 0:
                break
            around = centre[left]
            share = first * 0.5 ** math.floor(8 * math.sqrt(query / queries))
            window = _windows(around, share, generator)
            colour = _signs((len(left), centre.shape[1], 1, 1), centre, generator)
            painted = torch.where(window, around + eps * colour, best[left])
            painted = projected(painted, around, eps, "linf", clip)
            logits = checked_logits(model, painted.view(-1, *x.shape[1:]), y[left])
            found, wins = adversarial_loss(logits, y[left], "margin"), is_fooled(logits, y[left])
            better = wins | (found > value[left])  # of two ties, one may be a mistake and the other not
            best[left] = torch.where(broadcast_like(better, painted), painted, best[left])
            value[left] = torch.where(better, found, value[left])
            fooled[left] = wins
    return best.view_as(x)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return 2.0 * torch.randint(2, shape, device=like.device, generator=generator).to(like) - 1


def _windows(x: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """Return a mask (N, 1, H, W): for each image one square, anywhere in it, of about this share of its area."""
    height, width = x.shape[-2:]
    side = max(1, round(math.sqrt(share * height * width)))
    tall, wide = (side, side) if min(height, width) > 1 else (height, max(1, round(share * width)))
    inside = []
    for length, size in ((height, min(tall, height)), (width, min(wide, width))):
        start = torch.randint(length - size + 1, (len(x), 1), device=x.device, generator=generator)
        place = torch.arange(length, device=x.device)
        inside.append((place >= start) & (place < start + size))
    return (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
