"""An attack that sees labels only: no logits, no gradient. Shared arguments: see the package's docstring.

Like the attacks in `minimum_norm` it looks for the smallest change, and an image that is misclassified already, or for
which nothing was found, comes back unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core.validation import NORMS, Model, check_box, check_count, check_images, checked_labels
from ..models.inference import checked_logits, frozen_eval, is_fooled
from .best_so_far import BestSoFar
from .image_streams import ImageStreams
from .threat_model import broadcast_like, clamp, steepest_direction

Callback = Callable[[int, Tensor, Tensor], None]

TRIES = 100  # images that are tried as a start
PROBE = 0.01  # length of a probe, as a share of the distance
PROBES = 100  # of the first step; the step of number t has √t times as many
AT_ONCE = 100  # probes that go through the model together
FEWEST = 20  # probes that are worth a step
SHRINKS = 20  # how often a step is halved, at most, until it ends in a wrong label


def hopskipjump(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "l2",
    queries: int = 1000,
    targeted: bool = False,
    start: Tensor | None = None,
    clip: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Walk along the decision boundary towards the image, asking the model for labels only.

    A start with a wrong label is moved to the boundary by bisection. There random probes of both labels tell the
    normal of the boundary; a step along it, which is halved until the label is wrong, and another bisection end one
    step. An image's queries, draws and result do not depend on the others of its batch.

    Args:
        model, x, y, targeted, generator: see `course_utils.attacks`; of the logits the argmax alone is used.
        norm: "l2" or "linf": the distance to be small.
        queries: labels that the attack asks for, at most, for each image.
        start: images like x, to begin with; where they do not succeed, and by default, noise is tried. A target class
            is seldom reached by noise: give images of that class.
        clip: as everywhere, but not None.
        callback: called as callback(step, adv, queries) after the first bisection (step 0) and after every step, with
            copies of the nearest successes so far, like x, and of the queries spent on each image, (N,).

    Returns:
        Images like x, the nearest successes; unchanged where x itself succeeds or nothing was found.

    Raises:
        ValueError, TypeError: as all attacks; `clip=None`, since noise is drawn from the box; a start that is not like
            x, or outside of the box.

    >>> hopskipjump(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), queries=50).shape
    torch.Size([1, 2])

    Chen, Jordan and Wainwright, "HopSkipJumpAttack: a query-efficient decision-based attack", 2020.
    """
    if clip is None:
        raise ValueError("hopskipjump draws noise from the box: give clip=(lowest, highest), not None.")
    check_box(clip)
    check_images(x, clip)
    y = checked_labels(y, x)
    check_count("queries", queries)
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}.")
    if start is not None:
        check_images(start, clip, "start")
        if start.shape != x.shape:
            raise ValueError(f"start must have the shape of x, {tuple(x.shape)}; got {tuple(start.shape)}.")
    x = x.detach()
    if x.numel() == 0:
        return x.clone()
    streams = ImageStreams(len(x), x.device, generator)
    with frozen_eval(model), torch.no_grad():
        walk = _Walk(model, x, y, norm=norm, targeted=targeted, clip=clip, queries=queries, streams=streams)
        walk.begin(None if start is None else start.detach().to(walk.x))
        step = 0
        while True:
            if callback is not None:
                callback(step, walk.found.best.clone(), walk.spent.clone())
            step += 1
            rows = walk.ready(step)
            if len(rows) == 0:
                return walk.found.best
            walk.step(rows, step)


class _Walk:
    """Where the attack on each image has come to, and what it has spent."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        norm: str,
        targeted: bool,
        clip: tuple[float, float],
        queries: int,
        streams: ImageStreams,
    ):
        self.model, self.y, self.norm, self.targeted, self.clip = model, y, norm, targeted, clip
        self.queries, self.streams, self.found = queries, streams, BestSoFar(x)
        self.x = x.to(torch.promote_types(x.dtype, torch.float32))  # small steps would be lost in half precision
        self.point = self.x.clone()  # on the boundary, on the side of success
        self.distance = self.x.new_zeros(len(x))  # of the point from x; 0 where there is none
        self.spent = torch.zeros_like(y)
        pixels = x[0].numel()
        # In linf a probe is measured against the l2 length of a change of ±1 everywhere
        self.unit = 1.0 if norm == "l2" else math.sqrt(pixels)
        # A probe moves its length over √d along the normal: a bisection has to be several times finer
        self.bisections = math.ceil(math.log2(8 * math.sqrt(pixels) / PROBE))
        self.shortest = 2 * torch.finfo(x.dtype).eps * math.sqrt(pixels)  # a probe that rounding leaves

    def ask(self, rows: Tensor, points: Tensor) -> Tensor:
        """Return for which of the points, (M, ...), of these images the model's label is a success, (M,).

        An image without queries left is not asked about; that is no success.
        """
        able = self.spent[rows] < self.queries
        success = torch.zeros_like(able)
        if able.any():
            success[able] = self._decide(points[able], self.y[rows[able]])
            self.spent[rows[able]] += 1
        return success

    def _decide(self, points: Tensor, y: Tensor) -> Tensor:
        return is_fooled(checked_logits(self.model, self._as_given(points), y), y, targeted=self.targeted)

    def _as_given(self, points: Tensor) -> Tensor:
        return clamp(points.to(self.found.best.dtype), self.clip)

    def begin(self, start: Tensor | None) -> None:
        """Ask about x itself, look for a start of each image, and move it to the boundary."""
        rows = torch.arange(len(self.x), device=self.x.device)
        left = rows = rows[~self.ask(rows, self.x)]
        ends = self.x.clone()
        for attempt in range(TRIES):
            if len(left) == 0:
                break
            tried = start[left] if start is not None and attempt == 0 else self._noisy(left)
            reached = self.ask(left, tried)
            ends[left[reached]] = tried[reached]
            left = left[~reached]
        self._bisect(rows[~torch.isin(rows, left)], ends)

    def _noisy(self, rows: Tensor) -> Tensor:
        """Return images of which a random share is noise: grey or black and white, in blocks of a random size."""
        low, high = self.clip
        x = self.x[rows].flatten(1)
        numbers = self.streams.uniform(rows, 3 + 2 * x.shape[1]).to(x)
        share, kind, size = numbers[:, :3].T.unsqueeze(2)
        noise, where = (
            numbers[:, 3:].view(len(x), 2, -1).gather(2, self._blocks(size)[:, None].expand(-1, 2, -1)).unbind(1)
        )
        noise = torch.where(kind < 0.5, noise, noise.round())
        return torch.where(where < 2 * share, low + (high - low) * noise, x).view(-1, *self.x.shape[1:])

    def _blocks(self, size: Tensor) -> Tensor:
        """Return for each pixel the one that its block takes the noise from, (M, P), for numbers (M, 1) in [0, 1).

        A block is a square, or an interval where images are not (N, C, H, W); its side is a power of 2.
        """
        shape = self.x.shape[1:] if self.x.ndim == 4 else (1, 1, self.x[0].numel())
        side = 2 ** (size * (math.log2(max(shape[1:])) + 1)).long()
        channel, row, column = (torch.arange(length, device=side.device) for length in shape)
        row, column = row // side * side, column // side * side
        places = channel[None, :, None, None] * shape[1] * shape[2] + row[:, None, :, None] * shape[2]
        return (places + column[:, None, None, :]).flatten(1)

    def _between(self, rows: Tensor, ends: Tensor, share: Tensor) -> Tensor:
        """Return the points from x (share 0) to `ends` (1): in l2 on the line, in linf cut to a smaller ball."""
        x, end, share = self.x[rows], ends[rows], broadcast_like(share, ends)
        if self.norm == "l2":
            return torch.lerp(x, end, share)
        radius = share * broadcast_like((end - x).flatten(1).abs().amax(1), x)
        return torch.minimum(torch.maximum(end, x - radius), x + radius)

    def _bisect(self, rows: Tensor, ends: Tensor) -> None:
        """Move the images to where the label changes between x and their ends (N, ...), and keep the success."""
        low = self.x.new_zeros(len(rows))
        high = torch.ones_like(low)
        for _ in range(self.bisections):
            middle = (low + high) / 2
            success = self.ask(rows, self._between(rows, ends, middle))
            low, high = torch.where(success, low, middle), torch.where(success, middle, high)
        # A little beyond the boundary, so that the answer holds in a batch of any size
        beyond = (2 * high - low).clamp_max(1)
        high = torch.where(self.ask(rows, self._between(rows, ends, beyond)), beyond, high)
        points = self._as_given(self._between(rows, ends, high))
        change = (points.to(self.x) - self.x[rows]).flatten(1)
        self.point[rows] = points.to(self.x)
        self.distance[rows] = change.norm(p=2 if self.norm == "l2" else math.inf, dim=1)
        self.found.offer(points, self.distance[rows], rows=rows)

    def _probes(self, step: int) -> Tensor:
        """Return how many probes each image can pay in this step, and its bisection afterwards, (N,)."""
        left = self.queries - self.spent - self.bisections - 3  # some halvings of the step, and the point beyond
        return left.clamp_max(int(PROBES * math.sqrt(step)))

    def ready(self, step: int) -> Tensor:
        """Return the images that can still be improved."""
        return ((self._probes(step) >= FEWEST) & (self.distance > 0)).nonzero().squeeze(1)

    def step(self, rows: Tensor, step: int) -> None:
        """Estimate the normal of the boundary, go along it to where the label is wrong, and back to the boundary."""
        counts = self._probes(step)[rows].tolist()
        normals = torch.stack([self._normal(row, count) for row, count in zip(rows, counts, strict=True)])
        direction = steepest_direction(normals, self.norm)
        length, ends, left = self.distance[rows] / math.sqrt(step), self.point.clone(), rows
        for _ in range(SHRINKS):
            new = clamp(self.point[left] + broadcast_like(length, direction) * direction, self.clip)
            reached = self.ask(left, new)
            ends[left[reached]] = new[reached]
            left, direction, length = left[~reached], direction[~reached], length[~reached] / 2
            if len(left) == 0:
                break
        self._bisect(rows[~torch.isin(rows, left)], ends)

    def _normal(self, row: Tensor, count: int) -> Tensor:
        """Return the mean of random probes around an image's point, weighted by their labels: like one image."""
        point, radius = self.point[row], max(PROBE * self.unit * self.distance[row].item(), self.shortest)
        total, weighted, successes = torch.zeros_like(point), torch.zeros_like(point), 0
        for done in range(0, count, AT_ONCE):
            size = min(AT_ONCE, count - done)
            noise = self.streams.normal(row[None], size, *point.shape)[0].to(point)
            probes = clamp(point + radius * steepest_direction(noise, "l2"), self.clip)
            success = self._decide(probes, self.y[row].expand(size))
            self.spent[row] += size
            moves = self._as_given(probes).to(point) - point
            total += moves.sum(0)
            weighted += moves[success].sum(0)
            successes += int(success.sum())
        if successes in (0, count):  # all of one label: then they lead there, or away
            return total if successes else -total
        return weighted - successes / count * total
