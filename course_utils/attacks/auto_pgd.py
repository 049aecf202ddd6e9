"""APGD: projected gradient ascent that sets its step sizes itself. Shared arguments: see the package's docstring."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..core.validation import Box, Model, check_count, check_loss, checked_labels, checked_radius
from ..models.inference import frozen_eval, is_fooled
from .best_so_far import BestSoFar
from .gradients import loss_and_input_grad, warn_if_masked
from .threat_model import Neighbourhood, broadcast_like, draw_in_ball, projected, steepest_direction

LOSSES = ("ce", "margin", "dlr")
MOMENTUM = 0.75  # weight of the new step against the last one
INCREASES = 0.75  # share of the steps since the last checkpoint that has to raise the loss, or the step is halved


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    steps: int = 100,
    restarts: int = 1,
    targeted: bool = False,
    loss: str = "ce",
    target: Tensor | None = None,
    clip: Box = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maximise the loss by projected gradient steps with momentum, and halve the step where they do not raise it.

    The step begins with 2·eps. At checkpoints, which come closer and closer, it is halved for each image whose loss has
    risen in fewer than 3 of 4 steps, or not beyond its best; such an image goes on from its best point. Every restart
    begins at a uniform point of the ball. The best iterate of every image is kept, as in `pgd`.

    Args:
        model, x, y, eps, norm, restarts, targeted, clip, generator: see `course_utils.attacks`.
        steps: of each restart.
        loss: "ce", "margin", or "dlr", the margin over the difference between the first and the third logit.
        target: labels (N,) that are to win against y, instead of the strongest other one ("ce" then is the margin). Any
            label but y counts as success.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks; "dlr" for fewer than 3 classes (with a target: 4).

    >>> apgd(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.1, steps=3).shape
    torch.Size([1, 2])

    Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    2020.
    """
    eps = checked_radius(x, eps, norm, clip)
    y = checked_labels(y, x)
    target = None if target is None else checked_labels(target, x)
    check_loss(loss, LOSSES)
    check_count("steps", steps)
    check_count("restarts", restarts)
    if eps == 0 or x.numel() == 0:
        return x.detach().clone()
    given = x.detach()
    asked, x = in_single_precision(model, given)
    best = BestSoFar(x)
    ball = Neighbourhood(x, eps, norm, clip)
    with frozen_eval(model), torch.enable_grad():
        for restart in range(restarts):
            start = ball.project(draw_in_ball(x, eps, norm, generator))
            options = {"target": target, "targeted": targeted, "warn": restart == 0}
            found, _ = ascend(asked, ball, y, start, steps=steps, loss=loss, **options)
            best.offer(found.best, found.cost, found.success)
    return best.best if x is given else projected(best.best.to(given.dtype), given, eps, norm, clip)


def in_single_precision(model: Model, x: Tensor) -> tuple[Model, Tensor]:
    """Return model and images as they are or, in half precision, where small steps would be lost, in float32."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return model, x
    return (lambda points: model(points.to(x.dtype))), x.float()


@dataclass
class _Objective:
    """What an ascent makes large."""

    model: Model
    loss: str
    y: Tensor
    target: Tensor | None
    targeted: bool

    def at(self, points: Tensor, *, warn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return the value (N,), which images are fooled (N,), and the gradient, like the points."""
        value, logits, gradient = loss_and_input_grad(self.model, points, self.y, self.loss, target=self.target)
        if warn:
            warn_if_masked(logits, gradient, stacklevel=6)  # of whoever called the attack
        fooled = is_fooled(logits, self.y, targeted=self.targeted)
        return (-value, fooled, -gradient) if self.targeted else (value, fooled, gradient)

    def __getitem__(self, rows: Tensor) -> _Objective:
        return replace(self, y=self.y[rows], target=None if self.target is None else self.target[rows])


def checkpoints(steps: int) -> set[int]:
    """Return the steps after which step sizes are looked at: 22 % of the steps, then less by 3 %, but at least 6 %."""
    ends, last, length = [], 0.0, 0.22
    while last < 1:
        last += length
        ends.append(math.ceil(round(last * steps, 6)))
        length = max(length - 0.03, 0.06)
    return {end for end in ends if end < steps}


def ascend(
    model: Model,
    ball: Neighbourhood,
    y: Tensor,
    start: Tensor,
    *,
    steps: int,
    loss: str,
    target: Tensor | None = None,
    targeted: bool = False,
    until_fooled: bool = False,
    warn: bool = True,
) -> tuple[BestSoFar, Tensor]:
    """Return the best point of every image on APGD's way from `start`, its cost the negative loss, and the passes.

    The passes (N,) are forward ones; each has a backward one. With `until_fooled`, images that are fooled are left out
    of the batch, every ten steps. The model is frozen, and the arguments are checked.
    """
    objective, found = _Objective(model, loss, y, target, targeted), BestSoFar(start)
    now = _State.begin(objective, ball, start, found, warn=warn)
    passes, rows = torch.ones_like(y), torch.arange(len(y), device=y.device)
    looked, last = checkpoints(steps), 0
    for number in range(1, steps + 1):
        if until_fooled and number % 10 == 1:
            on = ~found.success[rows]
            rows, now, ball, objective = rows[on], now[on], ball[on], objective[on]
        if len(rows) == 0:
            break
        now.step(objective, ball, found, rows, MOMENTUM if number > 1 else 1.0)
        passes[rows] += 1
        if number in looked:
            now.halve(found, rows, number - last)
            last = number
    return found, passes


@dataclass
class _State:
    """Where an ascent has come to; every entry has one value for each image that is still in the batch."""

    point: Tensor  # (N, ...)
    gradient: Tensor  # there
    value: Tensor  # the loss there, (N,)
    previous: Tensor  # the point before
    best_gradient: Tensor  # at the best point
    size: Tensor  # of the next step
    rises: Tensor  # how often the loss rose since the last checkpoint
    cost_then: Tensor  # of the best point at the last checkpoint
    halved_then: Tensor  # whether the step was halved there

    @classmethod
    def begin(
        cls, objective: _Objective, ball: Neighbourhood, start: Tensor, found: BestSoFar, *, warn: bool
    ) -> _State:
        """Return the state at the start, which is offered as the best point."""
        value, fooled, gradient = objective.at(start, warn=warn)
        found.offer(start, -value, fooled)
        none, size = torch.zeros_like(value), torch.full_like(value, 2 * ball.eps)
        return cls(start, gradient, value, start, gradient, size, none, -value, torch.ones_like(fooled))

    def step(self, objective: _Objective, ball: Neighbourhood, found: BestSoFar, rows: Tensor, momentum: float) -> None:
        """Take one step, and offer the new point."""
        move = broadcast_like(self.size, self.point) * steepest_direction(self.gradient, ball.norm)
        new = ball.project(self.point + move)
        if momentum < 1:
            back = (1 - momentum) * (self.point - self.previous)
            new = ball.project(torch.lerp(self.point, new, momentum) + back)
        value, fooled, gradient = objective.at(new)
        better = broadcast_like(found.offer(new, -value, fooled, rows), new)
        self.best_gradient = torch.where(better, gradient, self.best_gradient)
        self.rises = self.rises + (value > self.value)
        self.previous, self.point, self.value, self.gradient = self.point, new, value, gradient

    def halve(self, found: BestSoFar, rows: Tensor, steps: int) -> None:
        """Halve the step of the images whose loss does not rise, and take them back to their best point."""
        cost = found.cost[rows]
        stuck = (self.rises <= INCREASES * steps) | (~self.halved_then & (cost >= self.cost_then))
        self.halved_then, self.cost_then, self.rises = stuck, cost, torch.zeros_like(self.rises)
        self.size = torch.where(stuck, self.size / 2, self.size)
        back = broadcast_like(stuck, self.point)
        self.point = torch.where(back, found.best[rows], self.point)
        self.gradient = torch.where(back, self.best_gradient, self.gradient)

    def __getitem__(self, rows: Tensor) -> _State:
        return _State(*(getattr(self, field.name)[rows] for field in fields(self)))
