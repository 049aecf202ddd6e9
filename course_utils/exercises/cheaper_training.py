"""Exercises of chapter 07: the one-step attack of a cheap training, and the step on two branches of batch norm."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import attacks, models
from . import inputs, mistakes
from .adversarial_training import (
    CUT,
    SEES_EVAL,
    WRONG_AND_SURE,
    _attack_mistakes,
    _batch_norm,
    _fgsm,
    _leaves_the_model,
    _loss,
    _of_those_right,
    _task,
    _two_losses,
)
from .engine import expect
from .exercise import Case, Exercise, Property
from .mistakes import Mistake, gradient_step, project
from .properties import as_tensor_like, call_with_copies, close, loss_gradient, strong_pixels

# --- fgsm_rs_step -----------------------------------------------------------------------------------------------------


def _random_start(x: Tensor, eps: float) -> Tensor:
    return (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)


def _rs(
    *, start: Callable = _random_start, at: Callable | None = None, size: Callable | None = None, put: Callable = project,
    **mistake: Any,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that makes mistakes.

    Args:
        start: from x and eps. at: where the gradient is taken, from x and eps.
        size: of the step, from eps and step_size. put: puts images back, from them, x and eps.
        mistake: keywords of `gradient_step`.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float) -> Tensor:
        step_size = size(eps, step_size) if size else step_size
        step = gradient_step(model, start(x, eps), y, step_size, at=at(x, eps) if at else None, **mistake)
        return put(step, x, eps)

    return answer


def _fgsm_rs_step(model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float) -> Tensor:
    return _rs()(model, x, y, eps, step_size)


def _random_images(
    eps: float, step_size: float, n: int = 4, sizes: tuple = (inputs.SHAPE, inputs.CLASSES), low: float = 0.3, blind: int = 0
) -> tuple[Any, ...]:  # fmt: skip
    """Return what the step is given: n images with pixels in [low, 1 - low]; the model does not see the first `blind`."""
    model = inputs.unsaturated_network(*sizes)
    x, y = inputs.labelled_images(model, n, sizes[0], low)
    model[1].weight.data[:, :blind] = 0.0
    return model, x.clamp(0, 1), y, eps, step_size


def _run(answer: Callable, seed: int, model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float) -> Tensor:
    """Return what an answer gives after torch's random stream was seeded."""
    torch.manual_seed(seed)
    return as_tensor_like(call_with_copies(answer, model, x, y, eps, step_size), x)


def _missing(answer: Callable, model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float) -> dict:
    """Return how far an answer's images are from where the right step leads from its own start."""
    start, adv = (_run(answer, 0, model, x, y, eps, size) for size in (0.0, step_size))
    gradient = loss_gradient(model, start, y)
    missing = project(start + step_size * gradient.sign(), x, eps) - adv
    clear = strong_pixels(gradient) | (gradient == 0)  # the others are a matter of rounding
    return {MISSING: torch.where(clear, missing, 0).round(decimals=6) + 0.0}


def _starts_at_random(answer: Callable) -> None:
    """Refuse a start that is x, or that torch.manual_seed does not decide."""
    task = _random_images(0.2, 0.0)
    first, other, again = (_run(answer, seed, *task) for seed in (1, 2, 1))
    what = "with step_size = 0, which shows the start alone, "
    hint = "There is no random start: the step begins at x, and not at a random point of the ball."
    expect(not close(first, task[1], 1e-4), what + "the images come back as they were.", hint)
    hint = "Do not seed in your function: torch.rand draws other numbers in every call by itself."
    expect(not close(first, other, 1e-4), what + "two calls give the same images.", hint)
    hint = "Draw with torch.rand or torch.rand_like: torch.manual_seed then makes a training repeatable."
    expect(close(first, again), what + "two calls after the same torch.manual_seed differ.", hint)


def _starts_uniformly(answer: Callable) -> None:
    """Refuse a start that is not uniform in the ball."""
    task = _random_images(0.2, 0.0, sizes=((1, 28, 28), inputs.CLASSES), low=0.5)
    start = _run(answer, 0, *task)
    u = start / 0.2 - GREY
    hint = next((said for wrong, said in STARTS if wrong(u)), "")
    if hint and close(start, _run(answer, 0, *task[:-1], 0.1), 1e-4):
        hint = mistakes.SAME_FOR_EVERY.format("step_size")
    what = f"with step_size = 0 the pixels of grey images moved by {u.min():.2f}·eps to {u.max():.2f}·eps, {100 * (u.abs() > 0.999).float().mean():.0f} % of them by ±eps or more."
    expect(not hint, what, hint)


def _clips_its_start(answer: Callable) -> None:
    """Refuse a start that is drawn from the part of the ball inside [0, 1], and not from the ball."""
    model, x, *rest = _random_images(0.2, 0.0, sizes=((1, 28, 28), inputs.CLASSES))
    still = 100 * (_run(answer, 0, model, torch.zeros_like(x), *rest) == 0).float().mean().item()
    hint = "Draw from the whole ball, then clip: a pixel that was drawn below 0 starts at 0."
    expect(40 < still < 60, f"of black images {still:.0f} % of the pixels start at 0; half of them are right.", hint)


def _far_from_uniform(u: Tensor) -> bool:
    """Tell whether numbers are not uniform in [−1, 1], by Kolmogorov's test."""
    apart = (u.flatten().sort().values - torch.linspace(-1, 1, u.numel())).abs().max().item() / 2
    return apart > 0.05  # with n = 3,136 a right answer exceeds this less than once in a million times


MISSING = "what is missing to one step from your start (which step_size = 0 shows)"
GREY = 2.5  # the pixels of grey images, in units of eps
DRAW = "torch.rand draws from 0 to 1: double that, shift it to −1 … 1, and multiply by eps."
STARTS: list[tuple[Callable[[Tensor], Any], str]] = [  # what is wrong with starts (N, ...), in units of eps
    (lambda u: (u + GREY).abs().max() < 1.001, mistakes.CHANGE_ALONE.format("")),
    (lambda u: u.flatten(1).std(1).max() == 0, "All pixels of an image move by the same number. Draw one for each pixel: torch.rand_like(x)."),
    (lambda u: close(u[0], u[1], 1e-4), "All images get the same noise. Draw one number for each pixel of each image: torch.rand_like(x)."),
    (lambda u: (u.abs() > 0.999).all(), "Every pixel starts at −eps or at eps: only the corners of the ball, or noise larger than it. " + DRAW),
    (lambda u: u.min() >= -1e-3 or u.max() <= 1e-3, "Your start is one-sided. " + DRAW),
    (lambda u: u.abs().max() <= 0.51, "Your start fills only half of the ball's width: torch.rand(…) − 0.5 ends at 0.5. " + DRAW),
    (_far_from_uniform, "The start is not uniform in the ball (torch.randn is not). " + DRAW),
]  # fmt: skip
AT_START = "Gradient and step both begin at the random start, which is drawn once."
TOO_FAR = "A step from near the edge leaves the ball. Put the image back after the step: its change from x has the limit eps."  # fmt: skip
Exercise(
    "fgsm_rs_step",
    reference=_fgsm_rs_step,
    cases=[
        Property("starts at a random point, another in every call", _starts_at_random),
        Property("the start is uniform in the ball", _starts_uniformly),
        Case("takes one signed step of step_size, uphill from the start", [partial(_random_images, 0.2, 0.0004)], AT_START + " Only the sign of the gradient counts, and step_size is the size of the step."),
        Case("never ends farther than eps from x", [partial(_random_images, 0.1, 0.125)], TOO_FAR + " What is inside stays where it is."),
        Case("stays inside [0, 1], with the start and with the step", [partial(_random_images, 0.2, 0.15, n=6, low=-0.1)], "Clip the start to [0, 1], before the gradient is taken, and the result, after the ball."),
        Property("clips a start that was drawn from the whole ball", _clips_its_start),
        Case("leaves a pixel at its start that the loss does not depend on", [partial(_random_images, 0.2, 0.05, blind=9)], "Where the gradient is 0, its sign is 0, too: the pixel stays at its start."),
        Case("eps = 0 changes nothing", [partial(_random_images, 0.0, 0.15, low=-0.1)], "A ball of radius 0 holds x alone: put the image back into the ball after the step."),
        Case("works for other sizes of images and numbers of classes, and for one image", [partial(_random_images, 0.06, 0.05, n=n, sizes=(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES), low=0.2) for n in (5, 1)], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("You take no step: add step_size times the sign of the gradient to the start.", _rs(scale=0)),
        Mistake(mistakes.WRONG_SIGN, _rs(scale=-1)),
        Mistake("You take the gradient at x. Take it at the random start, where the step begins.", _rs(at=lambda x, eps: x)),
        Mistake("You draw twice, and take the gradient at another point than that at which the step begins. " + AT_START, _rs(at=_random_start)),
        Mistake("The step has the size step_size, which is in pixel units already. You multiply it by eps.", _rs(size=lambda eps, step_size: eps * step_size)),
        Mistake("Your step has twice the size, or half of it. It is step_size.", _rs(scale=2), _rs(scale=0.5)),
        *mistakes.sign_mistakes(_rs, "step_size"),
        *mistakes.loss_mistakes(_rs, "y", "start"),
        Mistake("You leave an image at its start that fools the model already. Every image takes its step.", _rs(loss=_of_those_right)),
        Mistake(TOO_FAR, _rs(put=lambda adv, x, eps: adv.clamp(0, 1)), _rs(put=lambda adv, x, eps: adv)),
        Mistake(mistakes.WIDE_BALL, _rs(put=lambda adv, x, eps: project(adv, x, 2 * eps))),
        Mistake("Put the image back into the ball around x, not around the start.", lambda model, x, y, eps, step_size: (lambda start: project(gradient_step(model, start, y, step_size), start, eps))(_random_start(x, eps))),
        Mistake("A pixel that would leave the ball goes to its edge: do not take it back to x, and do not refuse the step.", _rs(put=lambda adv, x, eps: torch.where((adv - x).abs() > eps, x, adv).clamp(0, 1))),
        Mistake("After the ball comes the box: clip the result to [0, 1], at both ends.", _rs(put=lambda adv, x, eps: x + (adv - x).clamp(-eps, eps)), *(_rs(put=lambda adv, x, eps, box=box: (x + (adv - x).clamp(-eps, eps)).clamp(**box)) for box in ({"min": 0}, {"max": 1}))),
        Mistake("You clip to [0, 1] only at the end, and the network sees a start that is no image. Clip the start as well, before the gradient.", _rs(start=lambda x, eps: x + eps * (2 * torch.rand_like(x) - 1))),
        Mistake("You never clip to [0, 1]: neither the start nor the result.", _rs(start=lambda x, eps: x + eps * (2 * torch.rand_like(x) - 1), put=lambda adv, x, eps: x + (adv - x).clamp(-eps, eps))),
        Mistake("Where the gradient is 0, its sign is 0, too: the pixel stays at its start.", _rs(move=lambda g: torch.where(g > 0, 1.0, -1.0)), _rs(move=lambda g: torch.where(g < 0, -1.0, 1.0))),
    ],
    untouched=("model", "x", "y"),
    typical=partial(_random_images, 0.2, 0.05),
    observe=_missing,
    random=True,
    library=(attacks.fgsm_rs,),
).register()  # fmt: skip


# --- branch_step ------------------------------------------------------------------------------------------------------


def _two_branches(features: int, chosen: str = "main") -> models.DualBatchNorm1d:
    layer = models.DualBatchNorm1d(features)
    layer.main, layer.auxiliary, layer.branch = _batch_norm(features), _batch_norm(features, seed=1), chosen
    return layer


def _branch_task(eps: float, *sizes: Any, chosen: str = "main", **setting: bool) -> tuple[Any, ...]:
    """Return a network with two branches, images, labels, eps, and the function that chooses the branch."""
    return _task(partial(_two_branches, chosen=chosen), models.branch, eps, *sizes, **setting)


def _calls_branch(answer: Callable) -> None:
    """Refuse an answer that does not use the function that is passed in."""
    asked = []

    def branch(model: nn.Module, name: str) -> AbstractContextManager:
        asked.append(name)
        return models.branch(model, name)

    call_with_copies(answer, *_branch_task(0.1)[:-1], branch)
    expect(asked, "it never called branch.", "Choose the branch with the last argument, and not with models.branch.")


def _halves(
    clean: str | None = "main", made: str | None = "auxiliary", adversarial: str | None = "auxiliary",
    combine: Callable = lambda c, a: (c + a) / 2, **mistake: Any,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that sends images through other branches, None for that to which the layers are set.

    Others combine the losses in another way, or make mistakes of `_two_losses`.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float, branch: Callable) -> Tensor:
        names = {"clean": clean, "made": made, "adversarial": adversarial}

        def through(use: str) -> AbstractContextManager:
            return branch(model, names[use]) if names[use] else nullcontext()

        return combine(*_two_losses(model, x, y, eps, through=through, **mistake))

    return answer


def _branch_step(model: nn.Module, x: Tensor, y: Tensor, eps: float, branch: Callable) -> Tensor:
    return _halves()(model, x, y, eps, branch)


def _at_once(name: str) -> Callable[..., Tensor]:
    """Return an answer that sends both kinds of images through one branch in one pass."""

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float, branch: Callable) -> Tensor:
        with branch(model, "auxiliary"):
            adv = _fgsm(model, x, y, eps)
        with branch(model, name):
            return F.cross_entropy(model(torch.cat([x, adv])), torch.cat([y, y]))

    return answer


OWN = "Clean images go through the main branch, adversarial ones are made and trained on through the auxiliary one."
MADE_ON_MAIN = "You make the adversarial images through the main branch. They must fool the branch that is trained on them: put the attack inside with branch(model, 'auxiliary')."
MEAN = "Return the mean of both losses, half of each."
Exercise(
    "branch_step",
    reference=_branch_step,
    cases=[
        Case("eps = 0: one loss through each branch, half of each, and their gradient", [partial(_branch_task, 0.0)], "With eps = 0 both losses are of x itself, each through a branch of its own. " + MEAN),
        Case("makes the adversarial images, and trains on them, through the auxiliary branch", [partial(_branch_task, 0.1)], "The attack and the loss of its images share the auxiliary branch; the images are those of attacks.fgsm, made anew in every call."),
        Case("whatever branch the layers are set to, which they have back afterwards", [partial(_branch_task, 0.1, chosen="auxiliary")], "Choose the branch for each use of the network; with branch(model, …): switches back at its end."),
        _leaves_the_model(partial(_branch_task, 0.1)),
        Case("in training mode each branch's running statistics see its own images, once", [partial(_branch_task, 0.1, training=True)], "In training mode every pass counts in the statistics of its branch: one for each loss, and none for the attack. " + SEES_EVAL),
        Case("stays finite where the network is wrong and very sure", [partial(_branch_task, 0.1, chosen="auxiliary", sure=True)], WRONG_AND_SURE),
        Property("chooses the branch with the function that is passed in", _calls_branch),
        Case("works for other sizes of images and numbers of classes, and for one image", [partial(_branch_task, 0.06, n, (inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)) for n in (5, 1)], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("The layers keep the branch they were set to, which need not be the main one: choose it, with branch(model, 'main').", _halves(clean=None)),
        Mistake("The branches are swapped. " + OWN, _halves("auxiliary", "main", "main")),
        Mistake("The losses have swapped branches. " + OWN, _halves("auxiliary", "auxiliary", "main")),
        Mistake(MADE_ON_MAIN, _halves(made="main"), _halves(made=None)),
        Mistake("You make the images through the auxiliary branch, and train on them through the main one. Compute their loss inside the same with block.", _halves(adversarial="main"), _halves(adversarial=None)),
        Mistake("Everything goes through one branch. " + OWN, _halves("main", "main", "main"), _halves(None, None, None), _halves("main", None, None)),
        Mistake("Both losses go through the auxiliary branch. " + OWN, _halves("auxiliary"), _halves("auxiliary", "main")),
        Mistake("That is the sum of the two losses. " + MEAN, _halves(combine=lambda c, a: c + a)),
        Mistake("The adversarial images take no part. " + MEAN, _halves(combine=lambda c, a: c), _halves(attack=lambda model, x, *_: x)),
        Mistake("The clean images take no part. " + MEAN, _halves(combine=lambda c, a: a)),
        Mistake("Half of each loss: you divide by two twice.", _halves(combine=lambda c, a: (c + a) / 4)),
        Mistake("You subtract a loss. " + MEAN, _halves(combine=lambda c, a: (c - a) / 2), _halves(combine=lambda c, a: (a - c) / 2)),
        Mistake("You send both kinds of images through one branch at once. They have different statistics: one pass for each kind.", _at_once("main"), _at_once("auxiliary")),
        Mistake("Do not set the branch by hand: with branch(model, …): gives the layers their own back at its end.", *(lambda model, *rest, name=name: (_branch_step(model, *rest), setattr(model[2], "branch", name))[0] for name in models.BRANCHES)),
        Mistake("The model came in training mode, and you left it, or a part of it, in evaluation mode. Whoever called you is in the middle of training: switch it back.", lambda model, *rest: (_branch_step(model, *rest), model.eval())[0], lambda model, *rest: (_branch_step(model, *rest), model[2].eval())[0]),
        Mistake(CUT.format("clean"), _halves(combine=lambda c, a: (c.detach() + a) / 2)),
        Mistake(CUT.format("adversarial"), _halves(combine=lambda c, a: (c + a.detach()) / 2)),
        *_attack_mistakes(_halves),
    ],
    untouched=("x", "y"),
    typical=partial(_branch_task, 0.1),
    returns="one number that a training step can differentiate",
    observe=_loss,
    tolerance=1e-4,
).register()  # fmt: skip
