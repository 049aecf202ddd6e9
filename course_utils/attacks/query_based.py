"""Attacks that need the model's outputs only, so that a masked gradient does not stop them. Shared: see the package."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.validation import Box, Model, check_count, checked_labels, checked_radius
from ..models.inference import checked_logits, frozen_eval, is_fooled
from .best_so_far import BestSoFar
from .gradients import adversarial_loss
from .image_streams import ImageStreams
from .threat_model import Neighbourhood, steepest_direction

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries of 10,000 after which squares halve their area
FEWEST = 1500  # queries for which the squares' sizes are planned
AHEAD = 50  # queries for which random numbers are drawn at once


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    queries: int = 1000,
    p_init: float = 0.8,
    clip: Box = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Change random squares of the image, and keep what increases its margin loss.

    In linf a square is set to ±eps; the search starts from stripes, one column wide. In l2 a square gets two opposite
    peaks, and what is left of the budget, together with that of a second square, which is set to zero; the search
    starts from a grid of such peaks. An image that is fooled is not queried again (a tie that the true class still wins
    fools nobody). Images that are not (N, C, H, W) are searched in intervals of their numbers instead of squares. The
    draws of an image do not depend on the others of its batch.

    The squares shrink while the search goes on: as in the paper, but with fewer than 1,500 queries as in the beginning
    of a search with 1,500. Of 500 digits, 200 queries so leave 2.8 to 9.4 points fewer than the authors' code leaves
    (five networks, the 95 % intervals are ±1.4 to ±2.6), 500 queries 1.8 to 4.2 points fewer (±1.3 to ±2.0).

    Args:
        model, x, y, eps, norm, clip, generator: see `course_utils.attacks`.
        queries: outputs that the attack asks for, at most, for each image.
        p_init: share of the image that the first squares cover (the paper's p).

    Raises:
        ValueError, TypeError: as all attacks; or p_init is no share above 0.

    >>> line = torch.nn.Linear(4, 2)
    >>> square(line, torch.full((1, 4), 0.5), torch.tensor([0]), eps=0.1, queries=5).shape
    torch.Size([1, 4])

    Andriushchenko, Croce, Flammarion and Hein, "Square attack", 2020.
    """
    eps = checked_radius(x, eps, norm, clip)
    y = checked_labels(y, x)
    check_count("queries", queries)
    if not 0 < p_init <= 1:
        raise ValueError(f"p_init is the share of the image in the first squares, above 0 up to 1; got {p_init}.")
    x = x.detach()
    if eps == 0 or x.numel() == 0:
        return x.clone()
    centre = x if x.ndim == 4 else x.flatten(1).view(len(x), 1, 1, -1)
    streams, rows = ImageStreams(len(x), x.device, generator), torch.arange(len(x), device=x.device)
    squares = (_LinfSquares if norm == "linf" else _L2Squares)(Neighbourhood(centre, eps, norm, clip))
    candidates = squares.start(streams, rows)
    found = BestSoFar(candidates)
    numbers = candidates.new_empty(len(x), AHEAD, 5 + centre.shape[1], dtype=torch.float32)
    with frozen_eval(model), torch.no_grad():
        for query in range(queries):
            logits = checked_logits(model, candidates.view(-1, *x.shape[1:]), y[rows])
            found.offer(candidates, -adversarial_loss(logits, y[rows], "margin"), is_fooled(logits, y[rows]), rows)
            rows = (~found.success).nonzero().squeeze(1)
            if query == queries - 1 or len(rows) == 0:
                break
            if query % AHEAD == 0:
                numbers[rows] = streams.uniform(rows, *numbers.shape[1:])
            share = p_init * 0.5 ** _halvings(query, queries)
            candidates = squares.propose(rows, found.best[rows], share, numbers[rows, query % AHEAD])
    return found.best.view_as(x)


def _halvings(query: int, queries: int) -> int:
    """Return how often squares have halved their area: as in the paper, with few queries as if there were 1,500."""
    return sum(10_000 * query > end * max(queries, FEWEST) for end in HALVINGS)


class _LinfSquares:
    """Squares that are set to the lowest or the highest value that each channel may have."""

    def __init__(self, ball: Neighbourhood):
        self.ball = ball

    def start(self, streams: ImageStreams, rows: Tensor) -> Tensor:
        """Return an image of stripes for each of the images."""
        _, channels, _, width = self.ball.x.shape
        up = streams.uniform(rows, channels, 1, width) < 0.5
        return torch.where(up, self.ball.high[rows], self.ball.low[rows])

    def propose(self, rows: Tensor, best: Tensor, share: float, numbers: Tensor) -> Tensor:
        """Return the best images so far (M, C, H, W), each with another square, from random numbers (M, 5 + C)."""
        height, width = best.shape[2:]
        side = max(1, round(math.sqrt(share * height * width)))
        size = (min(side, height), min(side, width)) if min(height, width) > 1 else _strip(best, share, 1)
        inside = []
        for length, part, number in zip((height, width), size, numbers.T, strict=False):
            start = _start(number, length, part)[:, None]
            place = torch.arange(length, device=best.device)
            inside.append((place >= start) & (place < start + part))
        window = (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
        up = (numbers[:, 5:] < 0.5)[:, :, None, None]
        return torch.where(window, torch.where(up, self.ball.high[rows], self.ball.low[rows]), best)


class _L2Squares:
    """Squares that get two opposite peaks and the budget of the ball that is left, or is in another square."""

    def __init__(self, ball: Neighbourhood):
        self.ball = ball

    def start(self, streams: ImageStreams, rows: Tensor) -> Tensor:
        """Return a grid of peaks for each of the images."""
        _, channels, height, width = self.ball.x.shape
        side = max(1, min(height, width) // 5)
        size = (side, side) if min(height, width) > 1 else _strip(self.ball.x, 0.2, 1)
        change = torch.zeros(len(rows), channels, height * width, device=self.ball.x.device)
        tall, wide = height // size[0], width // size[1]
        numbers = streams.uniform(rows, tall * wide, 1 + channels)
        corner = [(height - tall * size[0]) // 2, (width - wide * size[1]) // 2]
        for number, place in enumerate((i, j) for i in range(tall) for j in range(wide)):
            at = torch.tensor([c + k * s for c, k, s in zip(corner, place, size, strict=True)])
            index = _window(at.expand(len(rows), 2).to(change.device), size, width)
            change.scatter_(2, index[:, None].expand(-1, channels, -1), _peaks(size, numbers[:, number]))
        return self._at(rows, change)

    def propose(self, rows: Tensor, best: Tensor, share: float, numbers: Tensor) -> Tensor:
        """Return the best images so far (M, C, H, W), each with another square, from random numbers (M, 5 + C)."""
        channels, height, width = best.shape[1:]
        side = max(3, round(math.sqrt(share * height * width))) // 2 * 2 + 1
        side = min(side, height, width)
        size = (side, side) if min(height, width) > 1 else _strip(best, share, 3)
        windows = []
        for pair in (numbers[:, :2], numbers[:, 2:4]):
            at = [_start(number, *place) for number, *place in zip(pair.T, (height, width), size, strict=True)]
            windows.append(_window(torch.stack(at, 1), size, width)[:, None].expand(-1, channels, -1))
        here, there = windows
        change = (best - self.ball.x[rows]).flatten(2).float()
        rest = change.scatter(2, here, 0).scatter(2, there, 0)
        spent, kept = (part.square().sum(2, keepdim=True) for part in (change, rest))
        left = (self.ball.eps**2 - spent.sum(1, keepdim=True)).clamp_min(0) / channels
        budget = (left + (spent - kept).clamp_min(0)).sqrt()
        new = _peaks(size, numbers[:, 4:]) + _unit(change.gather(2, here))
        return self._at(rows, rest.scatter(2, here, budget * _unit(new)))

    def _at(self, rows: Tensor, change: Tensor) -> Tensor:
        """Return the images with a change of the length of the radius."""
        x = self.ball.x[rows]
        step = self.ball.eps * steepest_direction(change, "l2").view(x.shape)
        return self.ball[rows].project((x + step).to(x))


def _strip(image: Tensor, share: float, least: int) -> tuple[int, int]:
    """Return the height and the width of a part of images that are one row or one column."""
    height, width = image.shape[2:]
    length = min(max(least, round(share * height * width)), height * width)
    return (min(height, length), min(width, length))


def _start(number: Tensor, length: int, part: int) -> Tensor:
    """Return the first of `part` places in a row, for numbers (M,) in [0, 1)."""
    return (number * (length - part + 1)).long().clamp_max(length - part)


def _window(at: Tensor, size: tuple[int, int], width: int) -> Tensor:
    """Return the pixels (M, P) of windows of this size whose first rows and columns are `at`, (M, 2)."""
    tall, wide = (torch.arange(part, device=at.device) for part in size)
    return ((at[:, :1] + tall)[:, :, None] * width + (at[:, 1:] + wide)[:, None, :]).flatten(1)


def _unit(change: Tensor) -> Tensor:
    """Return changes (M, C, P) of norm 1 in each channel; zero where they are zero."""
    return change / change.norm(dim=2, keepdim=True).clamp_min(torch.finfo(change.dtype).tiny)


def _peaks(size: tuple[int, int], numbers: Tensor) -> Tensor:
    """Return a positive and a negative peak in windows of this size, (M, C, P), from numbers (M, 1 + C).

    The first number says whether they are beside or above each other, the others which is the positive one.
    """
    pattern = _two_peaks(*size) if size[0] > 1 else _two_peaks(*size[::-1]).T
    patterns = torch.stack([pattern, pattern.T] if size[0] == size[1] else [pattern, pattern]).flatten(1)
    chosen = patterns.to(numbers.device)[(numbers[:, 0] < 0.5).long()]
    return (2.0 * (numbers[:, 1:] < 0.5) - 1)[:, :, None] * chosen[:, None]


def _two_peaks(tall: int, wide: int) -> Tensor:
    """Return a positive peak above a negative one, (tall, wide), of norm 1."""
    halves = [_peak(part, wide) for part in (tall // 2, tall - tall // 2) if part]
    return torch.cat([halves[0], *(-half for half in halves[1:])]) / torch.cat(halves).norm()


def _peak(tall: int, wide: int) -> Tensor:
    """Return Σ 1/k² of k = r + 1 and above, r being the distance from the middle: pyramids, one on the other."""
    rows, columns = (torch.arange(length) - length // 2 for length in (tall, wide))
    distance = torch.maximum(rows.abs()[:, None], columns.abs()[None, :])
    layers = 1.0 / torch.arange(1, int(distance.max()) + 2).square()
    peak = layers.flip(0).cumsum(0).flip(0)[distance]
    return peak / peak.norm()
