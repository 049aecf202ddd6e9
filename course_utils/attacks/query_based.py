"""Attacks that need the model's outputs only, so that a masked gradient does not stop them. Shared: see the package."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.validation import Box, Model, check_count, checked_labels, checked_radius
from ..models.inference import checked_logits, frozen_eval, is_fooled
from .best_so_far import BestSoFar
from .gradients import adversarial_loss
from .threat_model import projected


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    queries: int = 1000,
    p_init: float = 0.3,
    clip: Box = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Set random squares to ±eps, inside the linf ball, and keep those that increase an image's margin loss.

    It starts from stripes, one column wide. The squares shrink while the search goes on; an image that is fooled is not
    queried again (a tie that the true class still wins fools nobody). Images that are not (N, C, H, W) are searched in
    intervals of their numbers instead of squares.

    Args:
        model, x, y, eps, clip, generator: see `course_utils.attacks`.
        queries: outputs that the attack asks for, at most, for each image.
        p_init: share of the image that the first squares cover (the paper's p).

    Raises:
        ValueError, TypeError: as all attacks; or p_init is no share above 0.

    >>> line = torch.nn.Linear(4, 2)
    >>> square(line, torch.full((1, 4), 0.5), torch.tensor([0]), eps=0.1, queries=5).shape
    torch.Size([1, 4])

    Andriushchenko, Croce, Flammarion and Hein, "Square attack", 2020.
    """
    eps = checked_radius(x, eps, "linf", clip)
    y = checked_labels(y, x)
    check_count("queries", queries)
    if not 0 < p_init <= 1:
        raise ValueError(f"p_init is the share of the image in the first squares, above 0 up to 1; got {p_init}.")
    x = x.detach()
    if eps == 0 or x.numel() == 0:
        return x.clone()
    centre = x if x.ndim == 4 else x.flatten(1).view(len(x), 1, 1, -1)
    stripes = _signs((len(x), centre.shape[1], 1, centre.shape[3]), centre, generator)
    candidates, rows = (
        projected(centre + eps * stripes, centre, eps, "linf", clip),
        torch.arange(len(x), device=x.device),
    )
    found = BestSoFar(candidates)
    with frozen_eval(model), torch.no_grad():
        for query in range(1, queries + 1):
            logits = checked_logits(model, candidates.view(-1, *x.shape[1:]), y[rows])
            found.offer(candidates, -adversarial_loss(logits, y[rows], "margin"), is_fooled(logits, y[rows]), rows)
            rows = (~found.success).nonzero().squeeze(1)
            if query == queries or len(rows) == 0:
                break
            around = centre[rows]
            share = p_init * 0.5 ** math.floor(8 * math.sqrt(query / queries))
            window = _windows(around, share, generator)
            colour = _signs((len(rows), centre.shape[1], 1, 1), centre, generator)
            candidates = torch.where(window, around + eps * colour, found.best[rows])
            candidates = projected(candidates, around, eps, "linf", clip)
    return found.best.view_as(x)


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
