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
    asked, given, x = model, x.detach(), x.detach()
    if x.dtype in (torch.float16, torch.bfloat16):  # small steps would be lost in half precision

        def asked(points: Tensor) -> Tensor:
            return model(points.to(given.dtype))

        x = x.float()
    found = BestSoFar(x)
    ball = Neighbourhood(x, eps, norm, clip)
    with frozen_eval(model), torch.enable_grad():
        for restart in range(restarts):
            start = ball.project(draw_in_ball(x, eps, norm, generator))
            options = {"target": target, "targeted": targeted, "warn": restart == 0}
            end = ascend(asked, ball, y, start, steps=steps, loss=loss, **options)
            found.offer(end.best, -end.value, end.fooled)
    best = found.best
    return best if best.dtype == given.dtype else projected(best.to(given.dtype), given, eps, norm, clip)


@dataclass
class Ascent:
    """Where an ascent has come to; every entry has one value for each image."""

    point: Tensor  # (N, ...)
    previous: Tensor
    best: Tensor  # the point of the highest loss, or the first that fools
    best_gradient: Tensor
    value: Tensor  # the highest loss, (N,)
    last: Tensor  # the loss of the last point
    step: Tensor  # its size
    rises: Tensor  # how often the loss rose since the last checkpoint
    value_then: Tensor  # the highest loss at the last checkpoint
    halved_then: Tensor  # whether the step was halved there
    fooled: Tensor
    passes: Tensor  # forward passes so far

    def __getitem__(self, rows: Tensor) -> Ascent:
        return Ascent(*(getattr(self, field.name)[rows] for field in fields(self)))

    def put(self, rows: Tensor, part: Ascent) -> None:
        """Write what has become of some of the images."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(part, field.name)


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
) -> Ascent:
    """Return where APGD leads from `start`; the model is frozen, and the arguments are checked.

    With `until_fooled`, images that are fooled are left out of the batch, every ten steps.
    """
    objective = _Objective(model, loss, y, target, targeted)
    value, fooled, gradient = objective.at(start, warn=warn)
    every = _begin(start, value, gradient, 2 * ball.eps, fooled)
    rows = torch.arange(len(y), device=y.device)
    now, looked, last = every[rows], checkpoints(steps), 0
    for number in range(1, steps + 1):
        if until_fooled and number % 10 == 1 and now.fooled.any():
            every.put(rows, now)
            on = ~now.fooled
            rows, now, gradient, ball, objective = rows[on], now[on], gradient[on], ball[on], objective[on]
        if len(rows) == 0:
            break
        gradient = _step(objective, ball, now, gradient, MOMENTUM if number > 1 else 1.0)
        if number in looked:
            gradient = _halve(now, gradient, number - last)
            last = number
    every.put(rows, now)
    return every


def _begin(start: Tensor, value: Tensor, gradient: Tensor, step: float, fooled: Tensor) -> Ascent:
    none, yes = torch.zeros_like(value), torch.ones_like(fooled)
    size = torch.full_like(value, step)
    begun = Ascent(start, start, start, gradient, value, value, size, none, value, yes, fooled, none + 1)
    return begun[torch.arange(len(value), device=value.device)]  # copies: no two fields share their memory


def _step(objective: _Objective, ball: Neighbourhood, now: Ascent, gradient: Tensor, momentum: float) -> Tensor:
    """Take one step, note what it brought, and return the gradient at the new point."""
    move = broadcast_like(now.step, now.point) * steepest_direction(gradient, ball.norm)
    new = ball.project(now.point + move)
    if momentum < 1:
        new = ball.project(torch.lerp(now.point, new, momentum) + (1 - momentum) * (now.point - now.previous))
    value, fools, gradient = objective.at(new)
    better = torch.where(fools == now.fooled, value > now.value, fools)
    kept = broadcast_like(better, new)
    now.best, now.best_gradient = torch.where(kept, new, now.best), torch.where(kept, gradient, now.best_gradient)
    now.value = torch.where(better, value, now.value)
    now.rises, now.passes = now.rises + (value > now.last), now.passes + 1
    now.previous, now.point, now.last, now.fooled = now.point, new, value, now.fooled | fools
    return gradient


def _halve(now: Ascent, gradient: Tensor, steps: int) -> Tensor:
    """Halve the step of the images whose loss does not rise, and take them and their gradient back to their best."""
    stuck = (now.rises <= INCREASES * steps) | (~now.halved_then & (now.value <= now.value_then))
    now.halved_then, now.value_then, now.rises = stuck, now.value, torch.zeros_like(now.rises)
    now.step = torch.where(stuck, now.step / 2, now.step)
    back = broadcast_like(stuck, now.point)
    now.point = torch.where(back, now.best, now.point)
    return torch.where(back, now.best_gradient, gradient)
