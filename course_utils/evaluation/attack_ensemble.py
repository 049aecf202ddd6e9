"""Robust accuracy by an ensemble of attacks, each on the images that the ones before it have left.

AutoAttack (Croce and Hein 2020) runs its four attacks in this way. The stages here are chosen so that most of what it
finds is found in a tenth of its passes: APGD on the log-odds, which never saturate; targeted APGD on the margins to the
nearest rivals, nearest in the linear approximation (MALT, Melamed et al. 2024); a black-box attack as a test of masked
gradients. What an ensemble leaves is an upper bound of the robust accuracy: a better attack may find more.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks import square
from ..attacks.auto_pgd import ascend
from ..attacks.threat_model import Neighbourhood, broadcast_like, draw_in_ball, steepest_direction
from ..core.intervals import percent, wilson
from ..core.validation import Box, Model, check_count, checked_labels, checked_radius
from ..models.inference import batched_logits, checked_logits, frozen_eval

CLEAN = "no attack"
CANDIDATES = 10  # classes, the likeliest, among which the nearest rivals are looked for
SUSPICIOUS = 0.01  # share of the images that a black box may find after the gradient-based attacks


@dataclass
class Run:
    """What the stages work on, and what they have found so far."""

    model: Model
    x: Tensor
    y: Tensor
    eps: float
    norm: str
    clip: Box
    generator: torch.Generator
    batch_size: int
    adv: Tensor
    correct: Tensor  # (N,)
    passes: Tensor  # (N,), one for each image that goes forward, and one for each that goes back

    def batches(self, left: Tensor, stage: str, progress: bool) -> Iterator[Tensor]:
        """Yield the numbers of the images of each batch, with a progress bar."""
        parts = left.split(self.batch_size)
        return iter(tqdm(parts, desc=stage, leave=False, disable=not progress or len(parts) < 2, unit="batch"))

    def ball(self, rows: Tensor) -> Neighbourhood:
        """Return where these images may go."""
        return Neighbourhood(self.x[rows], self.eps, self.norm, self.clip)

    def starts(self) -> Tensor:
        """Draw a start for every image, also for those that are not attacked: so a batch does not matter."""
        return draw_in_ball(self.x, self.eps, self.norm, self.generator)

    def keep(self, rows: Tensor, adv: Tensor, fooled: Tensor) -> None:
        """Keep what an attack made of images, and which it fooled."""
        self.adv[rows], self.correct[rows] = adv, ~fooled


Batches = Callable[[Tensor], Iterator[Tensor]]  # cuts numbers of images into batches
Stage = Callable[[Run, Tensor, Batches], None]  # attacks the images of these numbers


def _apgd(run: Run, left: Tensor, batches: Batches, *, loss: str, steps: int, goals: Tensor | None = None) -> None:
    starts = run.starts()
    for rows in batches(left):
        ball, target = run.ball(rows), None if goals is None else goals[rows]
        options = {"steps": steps, "loss": loss, "target": target, "until_fooled": True}
        found, passes = ascend(run.model, ball, run.y[rows], ball.project(starts[rows]), **options)
        run.passes[rows] += 2 * passes
        run.keep(rows, found.best, found.success)


def _targeted_apgd(run: Run, left: Tensor, batches: Batches, *, loss: str, steps: int, rivals: int) -> None:
    nearest = torch.cat([_rivals(run, rows) for rows in left.split(run.batch_size)])
    loss = "margin" if nearest.shape[1] < 3 else loss  # DLR takes four classes
    for goal in nearest.T[:rivals]:
        goals = torch.zeros_like(run.y)
        goals[left] = goal
        _apgd(run, left[run.correct[left]], batches, loss=loss, steps=steps, goals=goals)


def _rivals(run: Run, rows: Tensor) -> Tensor:
    """Return the likeliest other classes of these images, (M, 10) at most, the nearest first.

    The distance to a class is the margin at x divided by the dual norm of its gradient, as if the model were linear.
    """
    x, y = run.x[rows].clone().requires_grad_(True), run.y[rows]
    logits = checked_logits(run.model, x, y)
    margins = logits.gather(1, y[:, None]) - logits
    others = margins.detach().scatter(1, y[:, None], torch.inf)
    likeliest = others.topk(min(CANDIDATES, logits.shape[1] - 1), largest=False).indices
    distances = []
    for margin in margins.gather(1, likeliest).T:
        (gradient,) = torch.autograd.grad(margin.sum(), x, retain_graph=True)
        size = (gradient * steepest_direction(gradient, run.norm)).flatten(1).sum(1)
        distances.append(margin.detach() / size.clamp_min(torch.finfo(size.dtype).tiny))
    run.passes[rows] += 1 + len(distances)
    return likeliest.gather(1, torch.stack(distances, 1).argsort(1))


def _square(run: Run, left: Tensor, _: Batches, *, queries: int) -> None:
    def model(x: Tensor) -> Tensor:  # in batches here, so that the draws of an image do not depend on them
        return torch.cat([run.model(part) for part in x.split(run.batch_size)])

    x, y = run.x[left], run.y[left]
    adv = square(model, x, y, run.eps, queries=queries, clip=run.clip, generator=run.generator)
    fooled = batched_logits(run.model, adv, y, run.batch_size).argmax(1) != y
    run.passes[left] += queries
    run.keep(left, torch.where(broadcast_like(fooled, adv), adv, run.adv[left]), fooled)


BLACK_BOX = "square attack, 200 queries"
_QUICK: dict[str, Stage] = {
    "APGD, 20 steps": partial(_apgd, loss="ce", steps=20),
    "targeted APGD, 2 rivals": partial(_targeted_apgd, loss="margin", steps=15, rivals=2),
}
_STANDARD: dict[str, Stage] = {
    "APGD, 100 steps": partial(_apgd, loss="ce", steps=100),
    "targeted APGD, 4 rivals": partial(_targeted_apgd, loss="margin", steps=50, rivals=4),
    BLACK_BOX: partial(_square, queries=200),
}
_THOROUGH: dict[str, Stage] = {
    **_STANDARD,
    "targeted APGD on DLR, 9 rivals": partial(_targeted_apgd, loss="dlr", steps=100, rivals=9),
    "APGD on the margin, 100 steps": partial(_apgd, loss="margin", steps=100),
    "square attack, 2,000 queries": partial(_square, queries=2000),
}
EFFORTS = {"quick": _QUICK, "standard": _STANDARD, "thorough": _THOROUGH}


@dataclass(frozen=True, repr=False)
class RobustAccuracy:
    """What an ensemble of attacks has left. In a notebook it shows itself as a table.

    Args:
        correct: which images (N,) are classified correctly before and after every attack.
        adv: the adversarial images, like x; where nothing fooled the model, the last attempt.
        stage: for each image, the stage that fooled it: "no attack" where it was wrong already, "" where none did.
        trace: one row for each stage: stage, accuracy after it, passes (forward and backward ones together, the mean
            over all images, from the beginning) and seconds.
        warnings: reasons not to trust the accuracy.
    """

    correct: Tensor
    adv: Tensor
    stage: list[str]
    trace: pd.DataFrame
    warnings: tuple[str, ...] = field(default=())

    @property
    def accuracy(self) -> float:
        """The share of images that stay correct: an upper bound of the robust accuracy."""
        return self.correct.float().mean().item()

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson(int(self.correct.sum()), len(self.correct))

    def plot(self, ax: Any) -> Any:
        """Draw the accuracy against the passes spent on each image, as one line into a matplotlib Axes."""
        ax.plot(self.trace.passes, 100 * self.trace.accuracy, marker="o", drawstyle="steps-post")
        ax.set(xlabel="passes for each image", ylabel="accuracy (%)", ylim=(0, 103))
        return ax

    def __str__(self) -> str:
        shown = self.trace.assign(accuracy=100 * self.trace.accuracy)
        form = {"accuracy": "{:.1f} %".format, "passes": "{:,.0f}".format, "seconds": "{:.1f}".format}
        table = shown.to_string(index=False, formatters=form)
        lines = [f"robust accuracy at most {percent(self.accuracy, len(self.correct))}", table]
        return "\n".join([*lines, *(f"Do not trust this number: {text}" for text in self.warnings)])

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        rows = [
            f"| {r.stage} | {100 * r.accuracy:.1f} % | {r.passes:,.0f} | {r.seconds:.1f} |"
            for r in self.trace.itertuples()
        ]
        head = ["| after | accuracy | passes for each image | seconds |", "| --- | --- | --- | --- |"]
        notes = [f"Robust accuracy at most {percent(self.accuracy, len(self.correct))}.", *self.warnings]
        return "\n".join([*head, *rows, "", "\n\n".join(notes)])


class _MeanOfDraws(nn.Module):
    """A model that answers differently when asked twice: its mean probability over some draws, in logits."""

    def __init__(self, model: Model, draws: int):
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to (N, K)."""
        return torch.stack([self.model(x).log_softmax(1) for _ in range(self.draws)]).logsumexp(0)


def robust_accuracy(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    effort: str = "standard",
    seed: int = 0,
    draws: int = 1,
    batch_size: int = 256,
    clip: Box = (0.0, 1.0),
    progress: bool = True,
) -> RobustAccuracy:
    """Attack with an ensemble, and return what it leaves: an upper bound of the robust accuracy.

    Args:
        model, x, y, eps, norm, clip: see `course_utils.attacks`. With `eps=0` the accuracy without attack.
        effort: "quick" for a first look, "standard" for a verdict, "thorough" for one that others may try to break.
            In l2 there is no black-box stage.
        seed: of all random draws. draws: average the probabilities of a model that draws at random over so many draws.
        batch_size: images that go through the model at once. progress: show a bar.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks; an unknown effort; no images.

    >>> line = torch.nn.Linear(2, 3)
    >>> x = torch.rand(20, 2)
    >>> robust_accuracy(line, x, line(x).argmax(1), 0.0, effort="quick").accuracy
    1.0
    """
    eps = checked_radius(x, eps, norm, clip)
    y = checked_labels(y, x)
    check_count("draws", draws)
    if effort not in EFFORTS:
        raise ValueError(f"effort must be one of {', '.join(map(repr, EFFORTS))}, got {effort!r}.")
    begun, x = time.perf_counter(), x.detach()
    generator = torch.Generator(x.device).manual_seed(seed)
    asked = _MeanOfDraws(model, draws) if draws > 1 else model
    logits = batched_logits(asked, x, y, batch_size)
    again = batched_logits(asked, x, y, batch_size) if draws == 1 else logits
    run = Run(asked, x, y, eps, norm, clip, generator, batch_size, x.clone(), logits.argmax(1) == y, torch.ones_like(y))
    stage = ["" if right else CLEAN for right in run.correct.tolist()]
    rows = [(CLEAN, run.correct.float().mean().item(), 1.0, time.perf_counter() - begun)]
    said: list[str] = []
    with frozen_eval(model), torch.enable_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, attack in EFFORTS[effort].items() if eps > 0 else ():
            left = run.correct.nonzero().squeeze(1)
            if len(left) and (norm == "linf" or attack.func is not _square):
                attack(run, left, partial(run.batches, stage=name, progress=progress))
                for i in left[~run.correct[left]].tolist():
                    stage[i] = name
                rows.append(
                    (
                        name,
                        run.correct.float().mean().item(),
                        run.passes.float().mean().item(),
                        time.perf_counter() - begun,
                    )
                )
    said += sorted({str(w.message) for w in caught})
    said += _doubts(rows, stage, again, logits)
    trace = pd.DataFrame(rows, columns=["stage", "accuracy", "passes", "seconds"])
    return RobustAccuracy(run.correct, run.adv, stage, trace, tuple(said))


def _doubts(rows: list[tuple], stage: list[str], again: Tensor, logits: Tensor) -> Iterator[str]:
    """Yield what speaks against the accuracy."""
    if not torch.allclose(again, logits, rtol=1e-4, atol=1e-5):
        yield "the model answers differently when asked twice; ask for its mean over some draws, with draws=20."
    found = stage.count(BLACK_BOX)
    if found > max(1, SUSPICIOUS * len(stage)):
        yield f"the square attack, which needs no gradient, fooled {found} more images: gradients are masked."
