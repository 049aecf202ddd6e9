"""A substitute: a network that is trained on the labels that an oracle gives, and attacked in its place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..attacks.threat_model import clamp
from ..core.validation import Box, Model, check_box, check_count, check_images, checked_labels, checked_number
from ..models.inference import checked_logits, frozen_eval, predict
from .fitting import fit

Augmentation = Callable[..., Tensor]


# The substitute -----------------------------------------------------------------------------------------------------


class QueryBudgetExceeded(RuntimeError):
    """A call would ask an oracle for more labels than are left of its budget."""


class Oracle:
    """A model of which the attacker sees the labels only, and of these only so many.

    Args:
        model: a network or a SklearnClassifier. budget: labels that it gives, None for no end.

    Raises:
        ValueError, TypeError: a budget that is no whole number of at least 1.

    >>> oracle = Oracle(nn.Linear(2, 2), budget=10)
    >>> oracle(torch.rand(4, 2)).shape, oracle.queries, oracle.left
    (torch.Size([4]), 4, 6)
    """

    def __init__(self, model: Model, *, budget: int | None = None):
        if budget is not None:
            check_count("budget", budget)
        # A closure instead of an attribute: neither the model's logits nor its gradient are at hand.
        self._label = lambda x: predict(model, x).argmax(1)
        self._budget = math.inf if budget is None else budget
        self._queries = 0

    @property
    def queries(self) -> int:
        """Labels given so far, one for each image."""
        return self._queries

    @property
    def left(self) -> float:
        """Labels that are left of the budget; infinite without one."""
        return self._budget - self._queries

    def __call__(self, x: Tensor) -> Tensor:
        """Return the labels (N,), int64, of images x (N, ...).

        Raises:
            QueryBudgetExceeded: more images than are left; nothing is answered or counted then.
        """
        self.reserve(len(x))
        labels = self._label(x)
        self._queries += len(x)
        return labels

    def reserve(self, queries: int) -> None:
        """Refuse, before any is spent, more queries than are left.

        Raises:
            QueryBudgetExceeded: says how many are asked for and left.
        """
        if queries > self.left:
            raise QueryBudgetExceeded(f"{queries:,} labels are asked for, {self.left:,} of {self._budget:,} are left.")


@dataclass(frozen=True)
class Substitute:
    """What the attacker ends up with: a network of their own, and the points whose labels they asked for."""

    model: nn.Module
    x: Tensor  # (points, ...): seeds first, then round by round
    y: Tensor  # the oracle's labels (points,)
    history: pd.DataFrame  # one row per round: round, points, queries, loss, train_accuracy, seconds


def train_substitute(
    oracle: Oracle,
    seeds: Tensor,
    *,
    build: Callable[[], nn.Module],
    rounds: int = 6,
    lam: float = 0.1,
    flip_every: int = 3,
    epochs: int = 10,
    lr: float = 4e-3,
    augment: Augmentation | None = None,
    seed: int = 0,
    clip: Box = (0.0, 1.0),
    progress: bool = True,
    callback: Callable[[int, nn.Module, Tensor, Tensor], None] | None = None,
) -> Substitute:
    """Train a network on the labels of an oracle, at points that the network itself asks for.

    Label the seeds. In each round, train a new network on all points; then, but for the last round, add for each point
    a step to where the network's answer changes fastest (`jacobian_augmentation`) and ask for the new points' labels.
    The set doubles: 150 seeds and 6 rounds cost 4,800 queries. All queries are planned, so that a budget that is too
    small is refused before any of it is spent.

    Args:
        oracle: gives labels. seeds: a few images (N, ...) in `clip`.
        build: returns a new network, for example models.small_cnn.
        rounds: trainings. lam: step of the augmentation, pixel units; its sign turns every `flip_every` rounds.
        epochs, lr: of each training (`training.fit`).
        augment: makes new points, called as augment(model, x, y, lam, clip=clip); default `jacobian_augmentation`.
        seed: of weights and trainings. clip: range of valid pixels, None for none.
        progress: show a bar with the time left.
        callback: called as callback(round, model, x, y) after each training, rounds counted from 1.

    Raises:
        QueryBudgetExceeded: the plan needs more queries than the oracle has left.
        ValueError, TypeError: seeds as x in `fgsm`; a count below 1; a network that does not fit images or labels.

    >>> oracle = Oracle(nn.Linear(2, 2))
    >>> train_substitute(oracle, torch.rand(5, 2), build=lambda: nn.Linear(2, 2), rounds=3, progress=False).x.shape
    torch.Size([20, 2])

    Papernot et al., "Practical black-box attacks against machine learning", 2017.
    """
    plan, augment = query_plan(len(seeds), rounds), augment or jacobian_augmentation
    check_count("flip_every", flip_every)
    check_count("epochs", epochs)
    lam = checked_number("lam", lam)
    _check_plan(oracle, seeds, plan, clip)
    _built(build, seeds, torch.zeros(len(seeds), dtype=torch.int64), seed)  # before any label is spent in vain
    rows = []
    x = seeds.detach().clone()
    y = oracle(x)
    with tqdm(total=rounds, disable=not progress, unit="round") as bar:
        for number in range(1, rounds + 1):
            model = _built(build, x, y, seed + number)
            history = fit(model, x, y, epochs=epochs, lr=lr, seed=seed + number, progress=False)
            if history.interrupted:
                raise KeyboardInterrupt
            epoch = history.to_frame()
            rows.append(
                {
                    "round": number,
                    "points": len(x),
                    "queries": sum(plan[:number]),
                    "loss": epoch.loss.iloc[-1],
                    "train_accuracy": epoch.train_accuracy.iloc[-1],
                    "seconds": epoch.seconds.sum(),
                }
            )
            if callback is not None:
                callback(number, model, x, y)
            if number < rounds:
                sign = -1 if (number - 1) // flip_every % 2 else 1
                new = augment(model, x, y, sign * lam, clip=clip)
                x, y = torch.cat([x, new]), torch.cat([y, oracle(new)])
            bar.update()
    return Substitute(model, x, y, pd.DataFrame(rows))


def query_plan(seeds: int, rounds: int) -> list[int]:
    """Return how many labels `train_substitute` asks for before each of its trainings.

    Raises:
        ValueError, TypeError: a count that is no whole number of at least 1.

    >>> query_plan(150, 6), sum(query_plan(150, 6))
    ([150, 150, 300, 600, 1200, 2400], 4800)
    """
    check_count("seeds", seeds)
    check_count("rounds", rounds)
    return [seeds, *(seeds * 2**number for number in range(rounds - 1))]


def jacobian_augmentation(model: Model, x: Tensor, y: Tensor, lam: float, *, clip: Box = (0.0, 1.0)) -> Tensor:
    """Return x + lam·sign(∇ₓ z_y): each point moved to where the network's logit of its label changes fastest.

    Args:
        model: maps points (N, ...) to logits (N, K). x: points in `clip`. y: the oracle's labels (N,).
        lam: step in pixel units; below 0 the logit falls. clip: range of valid pixels, None for none.

    Raises:
        ValueError, TypeError: as `fgsm`.

    >>> jacobian_augmentation(nn.Flatten(), torch.tensor([[0.5, 0.5]]), torch.tensor([1]), 0.1)
    tensor([[0.5000, 0.6000]])

    Papernot et al., "Practical black-box attacks against machine learning", 2017.
    """
    check_box(clip)
    check_images(x, clip)
    y = checked_labels(y, x)
    with frozen_eval(model), torch.enable_grad():
        slopes = [_logit_slope(model, *part) for part in zip(x.split(512), y.split(512), strict=True)]
    return clamp(x.detach() + lam * torch.cat(slopes).sign(), clip)


def _logit_slope(model: Model, x: Tensor, y: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    logits = checked_logits(model, x, y)
    return torch.autograd.grad(logits.gather(1, y.unsqueeze(1)).sum(), x)[0]


def _check_plan(oracle: Oracle, seeds: Tensor, plan: list[int], clip: Box) -> None:
    check_box(clip)
    check_images(seeds, clip)
    if not isinstance(oracle, Oracle):
        raise TypeError(f"expected an Oracle, got a {type(oracle).__name__}: a model becomes Oracle(model).")
    try:
        oracle.reserve(sum(plan))
    except QueryBudgetExceeded as error:
        raise QueryBudgetExceeded(
            f"the plan of {len(plan)} rounds needs more labels than the oracle has: {error} "
            "Take fewer rounds or fewer seeds."
        ) from None


def _built(build: Callable[[], nn.Module], x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """Return a new network with weights of its own seed, or say that it does not fit the points and labels."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = build()
    if not isinstance(model, nn.Module):
        raise TypeError(f"build() must return a new network (nn.Module), got a {type(model).__name__}.")
    model = model.to(x.device)
    with frozen_eval(model), torch.no_grad():
        checked_logits(model, x[:1], y)
    return model
