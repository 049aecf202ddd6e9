"""Exercises of chapter 03: many small steps, projected into ball and box, and several starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import attacks
from . import inputs, mistakes
from .exercise import Case, Exercise
from .mistakes import Mistake, l2_norm, pgd
from .properties import broadcast_like, loss_gradient, misplaced, norms, shown

# --- project_l2 -------------------------------------------------------------------------------------------------------


def _project(adv: Tensor, x: Tensor, eps: float) -> Tensor:
    return mistakes.project(adv, x, eps)


def _shorter(change: Tensor, eps: float) -> Tensor:
    """Return each change no longer than eps."""
    return change * (eps / l2_norm(change).clamp_min(1e-30)).clamp(max=1)


def _project_l2(adv: Tensor, x: Tensor, eps: float) -> Tensor:
    return (x + _shorter(adv - x, eps)).clamp(0, 1)


def _distant(
    eps: float, distances: Sequence[float], seed: int = 0, shape: tuple[int, ...] = inputs.SHAPE, low: float = 0.4
) -> tuple[Tensor, Tensor, float]:
    """Return points at these distances from images with pixels in [low, 1 - low], the images, and eps."""
    generator = torch.Generator().manual_seed(seed)
    x = (low + (1 - 2 * low) * torch.rand(len(distances), *shape, generator=generator)).clamp(0, 1)
    away = torch.randn(x.shape, generator=generator)
    return x + broadcast_like(torch.tensor(distances)) * away / l2_norm(away), x, eps


def _limited(limit: Callable[[Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """Return an answer that limits the change, its first argument, in another way."""
    return lambda adv, x, eps: (x + limit(adv - x, eps)).clamp(0, 1)


def _misprojected(got: Tensor, right: Tensor, adv: Tensor, x: Tensor, eps: float) -> str:
    return (
        f"with eps = {eps:g} the images come from the distances {shown(norms(adv - x))} from x and end at {shown(norms(got - x))}, "
        f"right are {shown(norms(right - x))}; the values go from {got.min():.3g} to {got.max():.3g}, right are {right.min():.3g} to {right.max():.3g}."
    )


SHORTEN = "Each image has one length, over all of its channels and pixels. Shorten a change that is longer than eps, and leave a shorter one alone."
ONLY_LONGER = "You move every image to the surface of the ball. One inside stays where it is."
ZERO_LENGTH = (
    "An image that has not moved has a change of length 0, and 0/0 is NaN. Guard the division by something tiny."
)
Exercise(
    "project_l2",
    reference=_project_l2,
    cases=[
        Case("no image is farther than eps from x, and one within eps stays as it is", [partial(_distant, 0.3, (0.1, 0.25, 0.5, 0.9)), partial(_distant, 0.2, (0.19, 0.4, 0.1, 0.25), 1), partial(_distant, 0.5, (0.1, 0.2, 0.3), 6)], SHORTEN),
        Case("an image that has not moved stays as it is", [partial(_distant, 0.3, (0.0, 0.5, 0.2))], ZERO_LENGTH),
        Case("stays inside [0, 1]", [partial(_distant, 1.5, (1.0, 3.0, 4.0, 1.4), 2, low=0.0), partial(_distant, 2.0, (1.0, 1.4, 0.5), 7, low=0.0)], "First the ball, then the box: clamp the image and not the change, at both ends."),
        Case("works in a tiny ball, and eps = 0 gives x", [partial(_distant, 5e-4, (8e-4, 2e-4, 6e-4), 3), partial(_distant, 0.0, (0.3, 0.1))], "Does your guard of the division matter beside a small length? A ball of radius 0 holds x alone."),
        Case("works for other sizes of images", [partial(_distant, 0.4, (0.3, 0.6), 4, inputs.OTHER_SHAPE), partial(_distant, 1.0, (2.0,), 5, (1, 28, 28))], "The length goes over all channels and pixels of an image. Take sizes from x.shape."),
    ],
    mistakes=[
        Mistake("That is x itself: nothing of adv is left.", lambda adv, x, eps: x),
        Mistake("adv comes back as it was: the ball does not limit it.", lambda adv, x, eps: adv),
        Mistake("You keep to the box, but not to the ball. " + SHORTEN, lambda adv, x, eps: adv.clamp(0, 1)),
        Mistake("You keep to the ball, but not to the box: the ball reaches beyond black and white.", lambda adv, x, eps: x + _shorter(adv - x, eps)),
        Mistake("You clip to [0, 1] at one end only. Clamp at both.", lambda adv, x, eps: (x + _shorter(adv - x, eps)).clamp_min(0), lambda adv, x, eps: (x + _shorter(adv - x, eps)).clamp_max(1)),
        Mistake("You clip to [0, 1] before you shorten the change, which turns it. First the ball, then the box.", lambda adv, x, eps: x + _shorter(adv.clamp(0, 1) - x, eps)),
        Mistake(mistakes.CHANGE_ALONE.format("shortened "), lambda adv, x, eps: _shorter(adv - x, eps), lambda adv, x, eps: _shorter(adv - x, eps).clamp(0, 1)),
        Mistake("That is the max-norm ball, a limit for every single pixel. Here one length counts for each image.", _limited(lambda c, eps: c.clamp(-eps, eps))),
        Mistake("You take one length for the whole batch. " + SHORTEN, _limited(lambda c, eps: c * (eps / c.norm()).clamp(max=1)), _limited(lambda c, eps: c * (eps / l2_norm(c).max()).clamp(max=1))),
        Mistake(ONLY_LONGER, _limited(lambda c, eps: eps * c / l2_norm(c).clamp_min(1e-30)), _limited(lambda c, eps: c * (eps / l2_norm(c).clamp_min(1e-30)).clamp(min=1))),
        Mistake(ONLY_LONGER + " And 0/0 is NaN.", _limited(lambda c, eps: eps * c / l2_norm(c))),
        Mistake("As soon as one image has left the ball, you move all of them to its surface. One inside stays where it is.", _limited(lambda c, eps: eps * c / l2_norm(c).clamp_min(1e-30) if (norms(c) > eps).any() else c)),
        Mistake("You take an image that left the ball back to x. It goes to the surface only.", _limited(lambda c, eps: torch.where(l2_norm(c) > eps, 0, c))),
        Mistake("You multiply the change by eps. eps is a limit: shorten only what is longer.", _limited(lambda c, eps: eps * c)),
        Mistake("Your ball is twice as wide: its radius is eps.", _limited(lambda c, eps: _shorter(c, 2 * eps))),
        Mistake("Your ball is half as wide: its radius is eps.", _limited(lambda c, eps: _shorter(c, eps / 2))),
        Mistake(mistakes.SQUARED_LENGTH, _limited(lambda c, eps: c * (eps / l2_norm(c).clamp_min(1e-15) ** 2).clamp(max=1))),
        Mistake("You compare the squared length with eps. Take the root of the sum of the squares.", _limited(lambda c, eps: torch.where(l2_norm(c) ** 2 > eps, eps * c / l2_norm(c).clamp_min(1e-30), c))),
        Mistake("You take the sum of the absolute values for the length. The Euclidean length is the root of the sum of the squares.", _limited(lambda c, eps: c * (eps / broadcast_like(c.abs().flatten(1).sum(1)).clamp_min(1e-30)).clamp(max=1))),
        Mistake("You take the root of the mean of the squares for the length. It is the root of their sum.", _limited(lambda c, eps: c * (eps / (l2_norm(c) / c[0].numel() ** 0.5).clamp_min(1e-30)).clamp(max=1))),
        Mistake("You take the largest entry for the length, which is the max norm.", _limited(lambda c, eps: c * (eps / broadcast_like(c.abs().flatten(1).amax(1)).clamp_min(1e-30)).clamp(max=1))),
        Mistake("You shorten adv itself, which is a ball around black. The ball is around x: shorten the change.", lambda adv, x, eps: _shorter(adv, eps).clamp(0, 1)),
        Mistake("Add the shortened change to x, not to adv.", lambda adv, x, eps: (adv + _shorter(adv - x, eps)).clamp(0, 1)),
        Mistake("The change goes the wrong way: it is adv - x, not x - adv.", _limited(lambda c, eps: -_shorter(c, eps))),
        Mistake(ZERO_LENGTH, _limited(lambda c, eps: c * (eps / l2_norm(c)).clamp(max=1) / (l2_norm(c) / l2_norm(c))), _limited(lambda c, eps: c / l2_norm(c) * l2_norm(c).clamp(max=eps))),
        Mistake("Your guard is so large that it shortens small changes, too. Take something tiny.", *(_limited(lambda c, eps, tiny=tiny: c * (eps / (l2_norm(c) + tiny)).clamp(max=1)) for tiny in (1e-2, 1e-3, 1e-4)), _limited(lambda c, eps: c * (eps / l2_norm(c).clamp_min(1e-3)).clamp(max=1))),
        Mistake("You take the length over a part of the tensor. " + SHORTEN, *(_limited(lambda c, eps, dim=dim: c * (eps / c.norm(dim=dim, keepdim=True).clamp_min(1e-30)).clamp(max=1)) for dim in (0, 2, 3))),
        Mistake("You return adv as it is if all images are within eps of x. They may still be blacker than 0 or whiter than 1.", lambda adv, x, eps: adv if (norms(adv - x) <= eps).all() else _project_l2(adv, x, eps)),
    ],
    batched=("adv", "x"),
    untouched=("adv", "x"),
    happened=_misprojected,
    library=(attacks.project,),
).register()  # fmt: skip


# --- pgd and targeted_pgd ---------------------------------------------------------------------------------------------


def _images(
    eps: float, steps: int, step_size: float, n: int = 6, sizes: tuple = (inputs.SHAPE, inputs.CLASSES), low: float = 0.3, seed: int = 309, blind: int = 0, confidence: float = 1.0
) -> tuple[Any, ...]:  # fmt: skip
    """Return what an attack of many steps is given: n images with pixels in [low, 1 - low], or many black and white ones.

    The model does not look at the first `blind` pixels. `confidence` multiplies its logits.
    """
    model = inputs.unsaturated_network(*sizes, seed)
    model[1].weight.data[:, :blind] = 0.0
    model[3].weight.data *= confidence
    draw = inputs.labelled_images if low else inputs.black_and_white_images
    x, y = draw(model, n, sizes[0])
    misread = slice(2 if confidence > 1 else 0, None)  # of the others a gradient would round to 0
    return model, x[misread], y[misread], eps, steps, step_size


def _steps(
    sign: int, *, labels: Callable | None = None, size: Callable | None = None, count: Callable | None = None,
    keep: Callable | None = None, finish: Callable | None = None, **keywords: Any,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return an attack that makes mistakes.

    Args:
        sign: 1 away from the labels, −1 towards them. labels: from logits. size: of a step, from eps, steps, step_size.
        count: of steps, from steps. keep: what becomes of a new point, from it, the last one, x and eps.
        finish: what becomes of the last point, from it, x and eps. keywords: of `mistakes.pgd`.
    """

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float) -> Tensor:
        y = labels(model(x)) if labels else y
        step_size, steps = size(eps, steps, step_size) if size else step_size, count(steps) if count else steps
        kept = (lambda new, last: keep(new, last, x, eps)) if keep else None
        last = pgd(model, x, y, eps, steps, step_size, sign=sign, keep=kept, **keywords)
        return finish(last, x, eps) if finish else last

    return attack


def _point(sign: int, choose: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an attack that returns another point of its path than the last.

    Args:
        sign: as in `_steps`. choose: the number of the point for each image, (N,), from where the attack has worked,
            and from how far the loss went, both (steps + 1, N).
    """

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float) -> Tensor:
        points = [x]
        for _ in range(steps):
            step = pgd(model, points[-1], y, eps, 1, step_size, sign=sign, keep=lambda new, _: _project(new, x, eps))
            points.append(step)
        done = torch.stack([(model(p).argmax(1) == y) == (sign < 0) for p in points])
        losses = torch.stack([sign * F.cross_entropy(model(p), y, reduction="none") for p in points])
        return torch.stack(points)[choose(done, losses).expand(len(x)), torch.arange(len(x))]

    return attack


def _first(mask: Tensor, otherwise: int = -1) -> Tensor:
    """Return the number of the first true row in each column, (R, N) to (N,)."""
    return torch.where(mask.any(0), mask.int().argmax(0), otherwise)


def _last(mask: Tensor, otherwise: int = -1) -> Tensor:
    """Return the number of the last true row in each column, (R, N) to (N,)."""
    return torch.where(mask.any(0), len(mask) - 1 - mask.flip(0).int().argmax(0), otherwise)


def _last_step_free(sign: int) -> Callable[..., Tensor]:
    """Return an attack that projects before each step instead of after it."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float) -> Tensor:
        point = pgd(model, x, y, eps, steps - 1, step_size, sign=sign)
        return pgd(model, point, y, eps, 1, step_size, sign=sign, keep=lambda new, _: new)

    return attack


def _adding_up(sign: int, decay: float = 1.0) -> Callable[..., Tensor]:
    """Return an attack that steps along the sum of all gradients so far, of which older ones may count less."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float) -> Tensor:
        point, total = x, torch.zeros_like(x)
        for _ in range(steps):
            total = decay * total + loss_gradient(model, point, y)
            point = _project(point + sign * step_size * total.sign(), x, eps)
        return point

    return attack


def _misstepped(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, y: Tensor, *numbers: float) -> str:
    change, wanted = (got - x).abs(), (right - x).abs()
    setting = (
        "with eps = {}, steps = {} and step_size = {} ".format(*numbers)
        + f"the pixels changed by {change.min():.3g} to {change.max():.3g}, right are {wanted.min():.3g} to {wanted.max():.3g}; "
        + (f"the values go from {got.min():.3g} to {got.max():.3g}; " if got.min() < 0 or got.max() > 1 else "")
    )
    return misplaced(setting, model, y, x, got, right)


def _free(new: Tensor, last: Tensor, x: Tensor, eps: float) -> Tensor:
    return new


def _in_box(new: Tensor, last: Tensor, x: Tensor, eps: float) -> Tensor:
    return new.clamp(0, 1)


def _in_ball(new: Tensor, last: Tensor, x: Tensor, eps: float) -> Tensor:
    return x + (new - x).clamp(-eps, eps)


def _path_mistakes(sign: int, label: str) -> list[Mistake]:
    """Return what goes wrong in a step and its loop."""
    go, back = partial(_steps, sign), partial(_steps, -sign)
    less_likely = "Your steps make the target less likely: they must go against the gradient of the loss for the target. Count your minus signs."
    wrong_sign = mistakes.WRONG_SIGN if sign > 0 else less_likely
    prediction = mistakes.OWN_PREDICTION.format(label)
    stop = "You end the loop as soon as the attack has worked on all images. Every image takes all its steps."
    best = "You keep the {} point of the path. Here return the last one, whatever the model makes of it."
    return [
        Mistake("Nothing changed. Do you return x instead of the new image, or does every step start without the last?", lambda model, x, *_: x),
        Mistake(wrong_sign, back(), back(stale=True)),
        Mistake("That is the change alone. Return the changed image.", go(finish=lambda last, x, eps: last - x)),
        Mistake("You compute the gradient only once, at x. Compute it anew in every step, at the point you have reached.", go(stale=True)),
        Mistake("Your gradients add up from step to step, as .backward() adds to .grad. Every step needs the gradient at its own point alone.", _adding_up(sign)),
        Mistake("Your steps remember earlier gradients, as momentum does. Every step needs the gradient at its own point alone.", _adding_up(sign, 0.9), _adding_up(sign, 0.5)),
        Mistake("Every step starts at x again. Start it at the point the last one has reached.", go(keep=lambda new, last, x, eps: _project(x + new - last, x, eps))),
        Mistake("Every step has the size step_size. You use eps, or a share of it.", *(go(size=size) for size in (lambda eps, steps, size: eps, lambda eps, steps, size: eps / steps, lambda eps, steps, size: 2.5 * eps / steps))),
        Mistake("Every step has the size step_size. You multiply it by eps.", go(size=lambda eps, steps, size: size * eps)),
        Mistake("Did you forget to multiply by step_size? The sign alone has size 1 in every pixel.", *(go(size=lambda eps, steps, size: 1.0, keep=keep) for keep in (None, _in_box))),
        Mistake("That is one step of the size eps, as in FGSM. Take so many steps, each of the size step_size.", go(size=lambda eps, steps, size: eps, count=lambda steps: 1)),
        Mistake("You took only one step. Does return stand inside the loop?", go(count=lambda steps: 1)),
        Mistake("You took one step too few: for _ in range(steps) takes all of them, and the last one is returned.", go(count=lambda steps: steps - 1)),
        Mistake("You took one step too many: for _ in range(steps) takes all of them.", go(count=lambda steps: steps + 1)),
        Mistake(prediction, go(labels=lambda logits: logits.argmax(1))),
        Mistake(prediction + " And check the direction.", back(labels=lambda logits: logits.argmax(1))),
        *mistakes.loss_mistakes(go, label, "adv"),
        Mistake("You stop moving an image as soon as the attack has worked. Here every image takes all its steps.", _point(sign, lambda done, _: _first(done))),
        Mistake(stop, _point(sign, lambda done, _: _first(done.all(1, keepdim=True))), _point(sign, lambda done, _: torch.where(done[1:].all(1).any(), 1 + done[1:].all(1).int().argmax(), -1))),
        Mistake(best.format("last fooling" if sign > 0 else "last successful"), *(_point(sign, lambda done, _, rest=rest: _last(done, rest)) for rest in (-1, 0))),
        Mistake(best.format("best"), _point(sign, lambda _, losses: losses.argmax(0))),
    ]  # fmt: skip


def _projection_mistakes(sign: int) -> list[Mistake]:
    """Return what goes wrong where an image is put back after a step."""
    go = partial(_steps, sign)

    return [
        Mistake("You never put the image back into the ball around x. Every step ends with it: first the ball, then the box.", go(keep=_free), go(keep=_in_box)),
        Mistake("You put the image back into the ball only after the last step. Do it after every step, inside the loop.", *(go(keep=keep, finish=_project) for keep in (_free, _in_box))),
        Mistake("You keep to the ball, but not to [0, 1] in every step: after the ball comes .clamp(0, 1), inside the loop.", go(keep=_in_ball), go(keep=_in_ball, finish=_project), go(keep=lambda *points: _in_ball(*points).clamp_min(0)), go(keep=lambda *points: _in_ball(*points).clamp_max(1))),
        Mistake("You keep to a ball around the last point, which moves along. The ball is around the original x, which never moves.", go(keep=lambda new, last, x, eps: _project(new, last, eps))),
        Mistake(mistakes.WIDE_BALL, go(keep=lambda new, last, x, eps: _project(new, x, 2 * eps))),
        Mistake("Your ball has its limits the wrong way round, from eps to −eps, so that every pixel ends at x - eps." + (" Only the step turns round." if sign < 0 else ""), lambda model, x, y, eps, *_: _project(x, x, -eps)),
        Mistake("You clamp the image itself to ±eps, which is a ball around black. The ball is around x: it limits the change.", go(keep=lambda new, last, x, eps: new.clamp(-eps, eps)), go(keep=lambda new, last, x, eps: new.clamp(0, eps))),
        Mistake("You project before each step, so that the last step stays free. Project after it: the point that comes back is in the ball and in the box.", _last_step_free(sign)),
        Mistake("The step has the size step_size, and the ball the radius eps. You have exchanged them.", lambda model, x, y, eps, steps, step_size: pgd(model, x, y, step_size, steps, eps, sign=sign)),
        *mistakes.sign_mistakes(go, "step_size"),
    ]  # fmt: skip


FAULTS = "{} faults are left."


def _faulty(*, softmax: bool = False, stale: bool = False, moving: bool = False) -> Callable[..., Tensor]:
    """Return the attack of chapter 03 that is to be mended, with some of its three faults.

    Args:
        softmax: the loss gets probabilities for logits. stale: the gradient is always that at x.
        moving: each step is limited to ±eps, not the change: the ball lies around the last point.
    """
    loss = {"loss": mistakes.softmax_twice} if softmax else {}
    keep = (lambda new, last, x, eps: _project(new, last, eps)) if moving else None
    return _steps(1, stale=stale, keep=keep, **loss)


def _fault_mistakes(found: Sequence[Mistake]) -> list[Mistake]:
    """Return the mistakes of the repair of a faulty attack: those found, and how many of its three faults are left."""
    single = ("Cross-entropy wants logits", "You compute the gradient only once", "You keep to a ball around the last")
    pairs = ({"softmax": True, "stale": True}, {"softmax": True, "moving": True}, {"stale": True, "moving": True})
    return [
        Mistake(FAULTS.format("All three") + " Compare each line with the formula: the loss, the point where the gradient is taken, and what is limited to ±eps.", _faulty(softmax=True, stale=True, moving=True)),
        Mistake(FAULTS.format("Two of the three") + " Compare each line with the formula: the loss, the point where the gradient is taken, and what is limited to ±eps.", *(_faulty(**pair) for pair in pairs)),
        *(Mistake("One of the three faults is left. " + m.words, *m.functions) if m.words.startswith(single) else m for m in found),
    ]  # fmt: skip


def _attack(name: str, sign: int, reference: Callable[..., Tensor]) -> Exercise:
    label, direction = ("target", "towards the target") if sign < 0 else ("y", "uphill")
    # Steps so long that the loss goes up and down, and that an image of which the attack had worked turns back.
    seed, classes = (328, 2) if sign > 0 else (300, inputs.CLASSES)
    turning_back = partial(_images, 0.3, 5, 0.3, sizes=(inputs.SHAPE, classes), seed=seed)
    other_sizes = partial(_images, 0.05, 3, 0.03, n=5, sizes=(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES))
    log_of_0 = Mistake(mistakes.LOG_OF_ZERO, _steps(sign, loss=mistakes.log_of_softmax))
    found = [*_path_mistakes(sign, label), *_projection_mistakes(sign), log_of_0]
    return Exercise(
        name,
        reference=reference,
        cases=[
            Case(f"moves every pixel by step_size in one step, {direction}", [partial(_images, 0.2, 1, 0.03)], f"Differentiate F.cross_entropy of model(adv) and {label} with respect to adv; only the sign of that counts, and the direction."),
            Case("takes every step at the point that it has reached", [partial(_images, 0.2, 4, 0.03)], "In every step: the gradient at the point you have reached, then step_size times its sign from there. Return the last point."),
            Case("never ends farther than eps from x, and goes back into the ball after every step", [partial(_images, 0.06, 6, 0.07)], "After every step, and before the next, the image goes back into the ball around x."),
            Case("stays inside [0, 1], in every step", [partial(_images, 0.2, 5, 0.06, n=4, low=0.0)], "There is nothing blacker than 0 or whiter than 1. After every step first the ball around x, then .clamp(0, 1)."),
            Case("returns the last point, whatever the model makes of it", [turning_back], "Neither the labels that the model gives nor the loss decide which point comes back: it is the last one."),
            Case("leaves a pixel where it is that the loss does not depend on", [partial(_images, 0.2, 3, 0.03, blind=9)], "Where the gradient is 0, its sign is 0, too: the pixel stays."),
            Case(f"copes with a {label if sign < 0 else 'label'} whose probability rounds to 0", [partial(_images, 0.2, 1, 0.03, confidence=400.0)], "A logarithm of 0 is −∞, and its gradient NaN. Which loss starts from logits?"),
            Case("eps = 0 changes nothing", [partial(_images, 0.0, 5, 0.06, n=4, low=0.0)], "A ball of radius 0 holds x alone."),
            Case("works for other sizes of images and numbers of classes", [other_sizes], mistakes.FROM_MODEL),
        ],
        mistakes=_fault_mistakes(found) if sign > 0 else found,
        batched=("x", label),
        untouched=("model", "x", label),
        typical=partial(_images, 0.2, 3, 0.03),
        happened=_misstepped,
        explain=mistakes.some_still,
        library=(attacks.pgd, attacks.bim),
    )  # fmt: skip


def _pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, step_size: float) -> Tensor:
    return pgd(model, x, y, eps, steps, step_size)


def _targeted_pgd(model: nn.Module, x: Tensor, target: Tensor, eps: float, steps: int, step_size: float) -> Tensor:
    return pgd(model, x, target, eps, steps, step_size, sign=-1)


_attack("pgd", 1, _pgd).register()
_attack("targeted_pgd", -1, _targeted_pgd).register()


# --- keep_best --------------------------------------------------------------------------------------------------------


class _LogitsInPixels(nn.Module):
    """Takes the first pixels of an image for its logits."""

    def __init__(self, classes: int):
        super().__init__()
        self.scale = nn.Parameter(torch.full((classes,), 8.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)[:, : len(self.scale)]


def _restarts(
    marks: Sequence[str], classes: int = 4, shape: tuple[int, ...] = (1, 3, 3), sure: float = 0.3
) -> tuple[Any, ...]:
    """Return a model, images, labels and restarts.

    Args:
        marks: for each image, 1 for each restart that fools the model; after a space, that it misreads the image itself.
        classes, shape: of the images. sure: how confident the model is; its answers are the largest logits from 0.2 on.
    """
    generator = torch.Generator().manual_seed(len(marks))
    y = torch.arange(len(marks)) % classes

    def read(wrong: list[bool], sure: float) -> Tensor:
        """Return images which the model reads wrongly or rightly, more confidently the larger `sure` is."""
        x = torch.rand(len(y), *shape, generator=generator)
        labels = torch.where(torch.tensor(wrong), (y + 1) % classes, y)
        x.flatten(1)[:, :classes] = 0.2 * x.flatten(1)[:, :classes] + sure * F.one_hot(labels, classes)
        return x

    count = len(marks[0].split()[0])  # the second is surest, so that the loss has favourites of its own
    restarts = [read([m[i] == "1" for m in marks], 0.8 if i == 1 else sure) for i in range(count)]
    return _LogitsInPixels(classes).eval(), read([" " in m for m in marks], 0.3), y, restarts


def _picked(choose: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an answer that takes another restart.

    Args:
        choose: the restart of each image, (N,), or one of all, −1 for x; from which restarts fool, which change the
            model's answer for x, the loss, all (R, N), and which of x the model gets wrong, (N,).
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, restarts: list[Tensor]) -> Tensor:
        predicted = torch.stack([model(adv).argmax(1) for adv in restarts])
        losses = torch.stack([F.cross_entropy(model(adv), y, reduction="none") for adv in restarts])
        own = model(x).argmax(1)
        which = torch.as_tensor(choose(predicted != y, predicted != own, losses, own != y))
        return torch.stack([*restarts, x])[which.expand(len(x)), torch.arange(len(x))]

    return answer


def _keep_best(model: nn.Module, x: Tensor, y: Tensor, restarts: list[Tensor]) -> Tensor:
    return _picked(lambda fooled, *_: _first(fooled))(model, x, y, restarts)


def _mispicked(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, y: Tensor, restarts: list[Tensor]) -> str:
    names = {f"restart {r}": batch for r, batch in enumerate(restarts)} | {"x itself": x}
    wrong = (got != right).flatten(1).any(1).nonzero().flatten().tolist()
    taken, wanted = (
        next((n for n, b in names.items() if torch.equal(b[wrong[0]], v[wrong[0]])), "something else")
        for v in (got, right)
    )
    fooling = ", ".join(str(r) for r, adv in enumerate(restarts) if model(adv).argmax(1)[wrong[0]] != y[wrong[0]])
    return (
        f"Of {len(x)} images you return {len(wrong)} wrongly. Image {wrong[0]}, for instance, is fooled by {f'restart {fooling}' if fooling else 'none'} "
        f"of the {len(restarts)}, counted from 0: you took {taken}, right is {wanted}."
    )  # fmt: skip


def _keep_mistakes() -> list[Mistake]:
    whole = "You keep one whole batch, the {}. Each image has a best restart of its own: keep them image by image."
    later = "A later restart replaces one that already fools the model. Take the first: change only images that are not fooled yet, or go through the restarts backwards."
    inverted = (
        "You keep the restarts that do not fool the model. It is fooled where the class of the largest logit is not y."
    )
    compared = "You compare with the model's answer for x. Fooled means an answer other than y."
    found = [
        Mistake("That is x: no restart was kept. Does your loop ask whether all images are fooled at once (.all())? Decide image by image.", lambda model, x, *_: x),
        Mistake("You always take the first restart. Go on for the images that it does not fool. Is there a return inside the loop, or an .any() over the batch?", _picked(lambda fooled, *_: torch.tensor(0))),
        Mistake("You always take the last restart. A mask must say which images to replace: those whose class of the largest logit is not y.", _picked(lambda fooled, *_: torch.tensor(len(fooled) - 1))),
        Mistake(whole.format("one that fools most"), _picked(lambda fooled, *_: fooled.sum(1).argmax())),
        Mistake(whole.format("one with the highest mean loss"), _picked(lambda fooled, changed, losses, _: losses.mean(1).argmax())),
        Mistake(whole.format("one that fools most") + " It does not help that x takes its place where it fails.", _picked(lambda fooled, *_: torch.where(fooled[fooled.sum(1).argmax()], fooled.sum(1).argmax(), -1))),
        Mistake("You ask whether the probability of y is below one half. Among many classes y can win with less: compare the model's answer with y.", _picked(lambda fooled, changed, losses, _: _first(losses > math.log(2)))),
        Mistake("You keep the restart with the highest loss. Asked for is the first that fools.", _picked(lambda fooled, changed, losses, _: losses.argmax(0))),
        Mistake("You stop at the first restart that fools any image. Go on for the images that it does not fool.", _picked(lambda fooled, *_: torch.where(fooled[first := fooled.any(1).int().argmax()], first, -1))),
        Mistake("The first restart takes no part. Look at all of them.", _picked(lambda fooled, *_: 1 + _first(fooled[1:], -2) if len(fooled) > 1 else torch.tensor(-1))),
        Mistake("You remember only the images that the last restart fooled. Remember all that were fooled so far.", _picked(lambda fooled, *_: _last(fooled & ~torch.cat([torch.zeros_like(fooled[:1]), fooled[:-1]])))),
        Mistake("You leave an image alone that the model gets wrong as it is. Where a restart fools the model, too, return the first of them.", _picked(lambda fooled, changed, losses, wrong: torch.where(wrong, -1, _first(fooled)))),
    ]  # fmt: skip
    for otherwise, name in (
        (lambda fooled: -1, ""),
        (lambda fooled: 0, "the first restart"),
        (lambda fooled: len(fooled) - 1, "the last restart"),
    ):
        rest = f" Where no restart fools, return the image of x, not of {name}." if name else ""
        found += [
            Mistake(later + rest, _picked(lambda fooled, *_, o=otherwise: _last(fooled, o(fooled)))),
            Mistake(inverted + rest, *(_picked(lambda fooled, *_, o=otherwise, which=which: which(~fooled, o(fooled))) for which in (_first, _last))),
            Mistake(compared + rest, *(_picked(lambda _, changed, *__, o=otherwise, which=which: which(changed, o(changed))) for which in (_first, _last))),
        ]  # fmt: skip
        if name:
            found.append(Mistake(rest.strip(), _picked(lambda fooled, *_, o=otherwise: _first(fooled, o(fooled)))))

    def black(model: nn.Module, x: Tensor, y: Tensor, restarts: list[Tensor]) -> Tensor:
        return _keep_best(model, torch.zeros_like(x), y, restarts)

    return [*found, Mistake("Where no restart fools, the image is black. Start from x.clone(), not from zeros.", black)]


OTHER_RESTARTS = (
    (["1", "0", "0 misread"], 3, (2, 2, 4)),
    (["01 misread"], 2, (1, 28, 28)),
    (["00", "01 misread", "10"], 5, (3, 5, 7)),
)
Exercise(
    "keep_best",
    reference=_keep_best,
    cases=[
        Case("keeps, image by image, a restart that fools the model", [partial(_restarts, ["1000", "0100", "0010", "0001", "0010"])], "Which images does a restart fool? A mask with one entry for each image picks them, and only they are replaced."),
        Case("keeps the first restart that fools it", [partial(_restarts, ["1000", "0101", "0010", "1111", "0110", "1011", "0011"])], "Replace an image only if no earlier restart fooled it, or go through the restarts backwards."),
        Case("keeps x where no restart fools, and only there", [partial(_restarts, ["0000", "0000 misread", "0110 misread", "1000", "0001"])], "Start from a copy of x, and replace only what is fooled."),
        Case("asks which answer the model gives, not how sure it is", [partial(_restarts, ["0010", "0001", "1000", "0000", "0110"], 10, (1, 4, 4), 0.21)], "Fooled means that the class of the largest logit is not y: among many classes it wins with a probability below one half."),
        Case("works for one restart, and for other sizes of images and numbers of classes", [partial(_restarts, *other) for other in OTHER_RESTARTS], mistakes.ONLY_ARGUMENTS.format("sizes and numbers")),
    ],
    mistakes=_keep_mistakes(),
    batched=("x", "y", "restarts"),
    untouched=("model", "x", "y", "restarts"),
    returns="one image for each of x",
    happened=_mispicked,
).register()  # fmt: skip
