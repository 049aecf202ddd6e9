"""Robust accuracy by an ensemble of attacks, each on the images that the ones before it have left.

AutoAttack (Croce and Hein 2020) runs its four attacks in this way. The stages here find as much in less than a tenth of
its time, for two reasons. APGD's loss is the log-odds, which never saturate, and its targets are the nearest rivals,
nearest in the linear approximation (MALT, Melamed et al. 2024). And a short first stage shows which images are near to
being fooled: the longer stages attack only these, because on the others no attack finds anything. A black-box attack on
all that are left is the test of masked gradients. What an ensemble leaves is an upper bound of the robust accuracy: a
better attack may find more.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..attacks import square
from ..attacks.auto_pgd import ascend, in_single_precision
from ..attacks.gradients import adversarial_loss, loss_and_input_grad, warn_if_masked
from ..attacks.threat_model import Neighbourhood, broadcast_like, draw_in_ball, projected, steepest_direction
from ..core.intervals import percent, wilson
from ..core.validation import Box, Model, check_count, checked_labels, checked_radius
from ..models.ensemble import ensemble_logits
from ..models.inference import batched_logits, checked_logits, frozen_eval

CLEAN = "no attack"
CANDIDATES = 10  # classes, the likeliest, among which the nearest rivals are looked for
ENOUGH = 32  # images that every stage attacks, if so many are left
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
    margin: Tensor  # of the strongest other class at adv, (N,): above 0 the image is fooled
    passes: Tensor  # (N,), one for each image that goes forward, and one for each that goes back
    agrees: bool  # whether the model answers the same when it is asked twice
    stage: list[str]  # which stage fooled each image
    trace: list[tuple[str, float, float, float]] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(
        cls,
        model: Model,
        x: Tensor,
        y: Tensor,
        eps: float,
        *,
        norm: str,
        clip: Box,
        batch_size: int,
        seed: int,
        twice: bool,
    ) -> Run:
        """Return the state before any attack; with `twice` it is known whether the model answers the same again."""
        generator, begun = torch.Generator(x.device).manual_seed(seed), time.perf_counter()
        adv, (model, x) = x.detach().clone(), in_single_precision(model, x.detach())
        logits = batched_logits(model, x, y, batch_size)
        again = batched_logits(model, x, y, batch_size) if twice else logits
        agrees, correct = torch.allclose(logits, again, rtol=1e-4, atol=1e-5), logits.argmax(1) == y
        margin = adversarial_loss(logits, y, "margin")
        stage, passes = ["" if right else CLEAN for right in correct.tolist()], torch.full_like(y, 1 + twice)
        state = (model, x, y, eps, norm, clip, generator, batch_size, adv, correct)
        run = cls(*state, margin, passes, agrees, stage, begun=begun)
        run.note(CLEAN)
        return run

    def note(self, name: str) -> None:
        """Add what is left now to the trace."""
        accuracy, passes = (values.float().mean().item() for values in (self.correct, self.passes))
        self.trace.append((name, accuracy, passes, time.perf_counter() - self.begun))

    def warn_if_masked(self) -> None:
        """Look at the first batch's gradients: the stages themselves say nothing."""
        x, y = self.x[: self.batch_size], self.y[: self.batch_size]
        _, logits, gradient = loss_and_input_grad(self.model, x, y, "ce")
        warn_if_masked(logits, gradient)
        self.passes[: self.batch_size] += 2

    def attack(self, name: str, stage: Stage, *, progress: bool) -> None:
        """Let a stage attack what is left, or the part that is nearest to being fooled, and note what it fooled."""
        left = self.correct.nonzero().squeeze(1)
        if len(left) == 0:
            return
        nearest = self.margin[left].argsort(descending=True)[: max(ceil(stage.nearest * len(left)), ENOUGH)]
        left = left[nearest.sort().values]
        stage.attack(self, left, partial(self.batches, stage=name, progress=progress))
        for i in left[~self.correct[left]].tolist():
            self.stage[i] = name
        self.note(name)

    def batches(self, left: Tensor, stage: str, progress: bool) -> Iterator[Tensor]:
        """Yield the numbers of the images of each batch, with a progress bar."""
        parts = left.split(self.batch_size) if len(left) else ()  # an empty tensor would be split into one
        return iter(tqdm(parts, desc=stage, leave=False, disable=not progress or len(parts) < 2, unit="batch"))

    def ball(self, rows: Tensor) -> Neighbourhood:
        """Return where these images may go."""
        return Neighbourhood(self.x[rows], self.eps, self.norm, self.clip)

    def starts(self) -> Tensor:
        """Draw a start for every image, also for those that are not attacked: so a batch does not matter."""
        return draw_in_ball(self.x, self.eps, self.norm, self.generator)

    def keep(self, rows: Tensor, adv: Tensor) -> None:
        """Keep what an attack made of images where it is better than what was there, and which it fooled."""
        if adv.dtype != self.adv.dtype:  # what counts is the image in the precision that was asked for
            adv = projected(adv.to(self.adv.dtype), self.x[rows].to(self.adv.dtype), self.eps, self.norm, self.clip)
        logits = batched_logits(self.model, adv, self.y[rows], self.batch_size)
        margin, fooled = adversarial_loss(logits, self.y[rows], "margin"), logits.argmax(1) != self.y[rows]
        better = fooled | (margin > self.margin[rows])
        self.adv[rows] = torch.where(broadcast_like(better, adv), adv, self.adv[rows])
        self.margin[rows] = torch.where(better, margin, self.margin[rows])
        self.correct[rows] = ~fooled
        self.passes[rows] += 1


Batches = Callable[[Tensor], Iterator[Tensor]]  # cuts numbers of images into batches


@dataclass(frozen=True)
class Stage:
    """An attack on what is left: `attack(run, rows, batches)`, with the numbers of the images.

    Args:
        nearest: the share of them that is attacked, those with the largest margins so far. After fifty steps of APGD
            nearly all that any attack fools is among the third of the largest margins.
    """

    attack: partial[None]
    nearest: float = 1.0


def _apgd(run: Run, left: Tensor, batches: Batches, *, loss: str, steps: int, goals: Tensor | None = None) -> None:
    starts = run.starts()
    for rows in batches(left):
        ball, target = run.ball(rows), None if goals is None else goals[rows]
        options = {"steps": steps, "loss": loss, "target": target, "until_fooled": True, "warn": False}
        found, passes = ascend(run.model, ball, run.y[rows], ball.project(starts[rows]), **options)
        run.passes[rows] += 2 * passes
        run.keep(rows, found.best)


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


def _square(run: Run, left: Tensor, batches: Batches, *, queries: int) -> None:
    options = {"norm": run.norm, "queries": queries, "clip": run.clip, "generator": run.generator}
    for rows in batches(left):
        run.passes[rows] += queries
        run.keep(rows, square(run.model, run.x[rows], run.y[rows], run.eps, **options))


BLACK_BOX = "square attack, 200 queries"
_QUICK = {
    "APGD, 20 steps": Stage(partial(_apgd, loss="ce", steps=20)),
    "targeted APGD, 2 rivals": Stage(partial(_targeted_apgd, loss="margin", steps=15, rivals=2)),
}
_STANDARD = {
    "APGD, 50 steps": Stage(partial(_apgd, loss="ce", steps=50)),
    "targeted APGD on DLR, 4 rivals": Stage(partial(_targeted_apgd, loss="dlr", steps=100, rivals=4), nearest=0.25),
    "targeted APGD on the margin": Stage(partial(_targeted_apgd, loss="margin", steps=100, rivals=4), nearest=0.15),
    "APGD, 200 steps": Stage(partial(_apgd, loss="ce", steps=200), nearest=0.15),
    BLACK_BOX: Stage(partial(_square, queries=200)),
}
_THOROUGH = {
    **_STANDARD,
    "APGD on the margin, 100 steps": Stage(partial(_apgd, loss="margin", steps=100), nearest=0.5),
    "targeted APGD on DLR, 9 rivals": Stage(partial(_targeted_apgd, loss="dlr", steps=100, rivals=9), nearest=0.25),
    "APGD, 200 steps, another start": Stage(partial(_apgd, loss="ce", steps=200), nearest=0.25),
    "square attack, 2,000 queries": Stage(partial(_square, queries=2000), nearest=0.2),
}
EFFORTS: dict[str, dict[str, Stage]] = {"quick": _QUICK, "standard": _STANDARD, "thorough": _THOROUGH}


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


def asked_often(model: Model, draws: int) -> Model:
    """Return the model itself or, for several draws, the mean of as many answers of a model that is random."""
    check_count("draws", draws)
    return model if draws == 1 else ensemble_logits([model] * draws)


@contextmanager
def fixed_draws(x: Tensor, seed: int) -> Iterator[None]:
    """Let a model that draws from the global random stream repeat itself, and leave that stream as it was."""
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


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
    asked = asked_often(model, draws)
    if effort not in EFFORTS:
        raise ValueError(f"effort must be one of {', '.join(map(repr, EFFORTS))}, got {effort!r}.")
    with frozen_eval(model), torch.enable_grad(), fixed_draws(x, seed), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = {"norm": norm, "clip": clip, "batch_size": batch_size, "seed": seed, "twice": draws == 1}
        run = Run.begin(asked, x, y, eps, **options)
        if eps > 0:
            run.warn_if_masked()
            for name, stage in EFFORTS[effort].items():
                run.attack(name, stage, progress=progress)
    trace = pd.DataFrame(run.trace, columns=["stage", "accuracy", "passes", "seconds"])
    said = *dict.fromkeys(str(warning.message) for warning in caught), *_doubts(run)
    return RobustAccuracy(run.correct, run.adv, run.stage, trace, said)


def _doubts(run: Run) -> Iterator[str]:
    """Yield what speaks against the accuracy."""
    if not run.agrees:
        yield "the model answers differently when asked twice; ask for its mean over some draws, with draws=20."
    found = run.stage.count(BLACK_BOX)
    if found > max(1, SUSPICIOUS * len(run.stage)):
        yield f"the square attack, which needs no gradient, fooled {found} more images: gradients are masked."
