"""Checks of chapter 03: many small steps, projected into ball and box, and several starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import inputs, mistakes
from .engine import exercise, expect
from .mistakes import TWO_CLAMPS, l2_norm, l2_normalized, pgd, wrong_steps
from .properties import (
    Attempt,
    Mistakes,
    as_tensor_like,
    broadcast_like,
    call_with_copies,
    close,
    diagnose_mistake,
    expect_in_box,
    in_both_modes,
    loss_gradient,
    misplaced,
    no_side_effects,
    norms,
    percent_off,
    shown,
    treats_each_alone,
    with_hint,
)


def _perturbed_images(seed: int, shape: tuple[int, ...], low: float, reach: float) -> tuple[Tensor, Tensor]:
    """Points adv up to `reach` away from images x with pixels in [low, 1 - low]."""
    generator = torch.Generator().manual_seed(seed)
    x = low + (1 - 2 * low) * torch.rand(shape, generator=generator)
    return x + reach * (2 * torch.rand(shape, generator=generator) - 1), x


def _project_mistakes(adv: Tensor, x: Tensor, eps: float) -> Mistakes:
    change = adv - x
    clipped = change.clamp(-eps, eps)
    ends = "Clamp the change at both ends, from −eps to eps."
    wrongs = [
        (x, "That is x itself: nothing of adv is left. " + TWO_CLAMPS),
        (adv, "adv comes back as it was. Clamping adv to a range around itself does nothing. Put adv into the ball as well: x + (adv - x).clamp(-eps, eps), then .clamp(0, 1)."),
        (clipped, mistakes.CHANGE_ALONE.format("clamped ")),
        (x + eps * change.sign(), "You move every pixel by the whole eps. One that is within eps of x stays where it is: clamp the change, do not take its sign."),
        (adv.clamp(-eps, eps), "You clamp adv itself to ±eps, which is a ball around black. The ball is around x: clamp adv - x, then add x."),
        (adv.clamp(0, eps), "You clamp adv itself to [0, eps], which is around black. The ball is around x: clamp adv - x, then add x."),
        (x + change.clamp(-2 * eps, 2 * eps), mistakes.WIDE_BALL),
        (x + change.clamp(-eps / 2, eps / 2), "Your ball is half as wide: a pixel may be eps away from x, on either side."),
        (x + change * (eps / l2_norm(change)).clamp(max=1), "That is the Euclidean ball. Here every pixel alone may be eps away from x: clamp the change."),
        *with_hint("You shrink the whole change until its largest entry fits. Each pixel has a limit of its own: clamp the change.", x + eps * mistakes.max_normalized(change), x + eps * change / change.abs().max()),
        (x + eps * change, "You multiply the change by eps. eps is a limit: clamp the change to [-eps, eps]."),
        *with_hint(ends, x + change.clamp(max=eps), x + change.clamp(min=-eps)),
        (x + change.clamp(0, eps), ends + " Every step down is lost."),
        *with_hint("You mixed up the two ends: the result must be at least x - eps (torch.maximum) and at most x + eps (torch.minimum).", x + eps, x - eps),
        (x - clipped, "The change goes the wrong way: it is adv - x, not x - adv."),
        (adv + clipped, "Add the clamped change to x, not to adv."),
        (adv - clipped, "Add the clamped change to x: x + (adv - x).clamp(-eps, eps)."),
        (torch.where(change.abs() > eps, x, adv), "You take a pixel that went too far back to x. It may go as far as eps: clamp the change."),
    ]  # fmt: skip
    return [*wrongs, *((wrong.clamp(0, 1), hint) for wrong, hint in wrongs)]


@exercise("project", takes="(adv, x, eps)")
def _project(answer: Callable) -> Iterator[str]:
    def why(otherwise: str) -> Callable[[], str]:
        return lambda: diagnose_mistake(got, _project_mistakes(adv, x, eps), otherwise)

    def right() -> Tensor:
        return mistakes.project(adv, x, eps)

    yield "returns new images like x"
    eps, (adv, x) = 0.1, _perturbed_images(0, (4, *inputs.SHAPE), 0.3, 0.28)
    got = as_tensor_like(call_with_copies(answer, adv, x, eps), x)

    yield "no pixel is farther than eps from x"
    farthest = (got - x).abs().max().item()
    what = f"with eps = {eps} a pixel is {farthest:.3g} away from x; the box is far away from all of them."
    expect(farthest <= eps + 1e-6, what, why(TWO_CLAMPS))

    yield "a pixel within eps stays as it is, and one beyond goes to the end of its range"
    inside = (adv - x).abs() <= eps
    moved, short = (got - adv)[inside].abs().max().item(), (eps - (got - x).abs())[~inside].max().item()
    what = f"with eps = {eps} a pixel that was inside the ball moved by {moved:.3g}, and one from outside ends {short:.3g} short of eps."
    expect(close(got, right()), what, why("Take the nearest point of the ball. " + TWO_CLAMPS))

    yield "stays inside [0, 1]"
    adv, x = _perturbed_images(1, (4, *inputs.SHAPE), 0.0, 0.3)
    x[:, :, 0], x[:, :, -1] = 0.0, 1.0
    got = as_tensor_like(call_with_copies(answer, adv, x, eps), x)
    what = f"with black and white pixels in x the result has values from {got.min():.3g} to {got.max():.3g}."
    hint = "The ball reaches beyond black and white: end with .clamp(0, 1), at both ends."
    expect(got.min() >= -1e-6 and got.max() <= 1 + 1e-6, what, why(hint))
    hint = "Clamp the image and not the change to [0, 1], and leave alone what is inside. " + TWO_CLAMPS
    what = f"{percent_off(got, right()):.0f} % of the pixels are not where they should be."
    expect(close(got, right()), what, why(hint))

    yield "works for every eps and every size of images"
    for eps, shape in ((0.03, (5, *inputs.OTHER_SHAPE)), (0.2, (1, 1, 28, 28)), (0.0, (2, 3, 4, 4))):
        adv, x = _perturbed_images(2, shape, 0.1, 0.3)
        got = as_tensor_like(call_with_copies(answer, adv, x, eps), x)
        what = f"for eps = {eps} and images of shape {shape} a pixel is {(got - right()).abs().max():.3g} away from where it should be."
        expect(close(got, right()), what, "Use the eps that is passed in, and nothing but the arguments.")

    yield "leaves adv and x as they were"
    no_side_effects(answer, "adv x eps", *_perturbed_images(1, (4, *inputs.SHAPE), 0.0, 0.3), 0.1)


class _Task(NamedTuple):
    """What an attack of many steps is given."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    steps: int
    step_size: float


def _pgd_mistakes(task: _Task, sign: int) -> Mistakes:
    """What goes wrong in projected steps away from the labels (sign 1) or towards them (−1), and what to say."""
    model, x, y, eps, steps, step_size = task

    def go(steps: int = steps, step_size: float = step_size, y: Tensor = y, **keywords: object) -> Tensor:
        return pgd(model, x, y, eps, steps, step_size, sign=sign, **keywords)

    predicted, unlikely, label = model(x).argmax(1), model(x).argmin(1), "y" if sign > 0 else "target"
    wrong_sign = mistakes.WRONG_SIGN
    if sign < 0:
        wrong_sign = "Your steps make the target less likely: they must go against the gradient of the loss for the target. Count your minus signs."
    prediction = mistakes.OWN_PREDICTION.format(label)[:-1] + ", in all steps."
    also = prediction + " And check the direction."
    share = "Every step has the size step_size. You use eps, or a share of it."
    yield from (
        (x, "Nothing changed. Do you return x instead of the new image, or does every step start without the last?"),
        *with_hint(wrong_sign, go(scale=-1), go(scale=-1, stale=True)),
        (go() - x, "That is the change alone. Return the changed image."),
        (go(stale=True), "You compute the gradient only once, at x. Compute it anew in every step, at the point you have reached."),
        (go(keep=lambda new, last: mistakes.project(x + new - last, x, eps)), "Every step starts at x again. Start it at the point the last one has reached."),
        *with_hint(share, go(step_size=eps), go(step_size=eps / steps), go(step_size=2.5 * eps / steps)),
        (go(step_size=step_size * eps), "Every step has the size step_size. You multiply it by eps."),
        (go(step_size=1.0), "Did you forget to multiply by step_size? The sign alone has size 1 in every pixel."),
        (go(1), "You took only one step. Does return stand inside the loop?"),
        (go(steps - 1), "You took one step too few: for _ in range(steps) takes all of them, and the last one is returned."),
        (go(steps + 1), "You took one step too many: for _ in range(steps) takes all of them."),
        (go(y=predicted), prediction),
        (go(y=predicted, scale=-1), also),
        *wrong_steps(go, (prediction, "own prediction"), (also, "own prediction, wrong sign")),
        *with_hint(f"You step by the least likely class. Use the {label} that was passed in.", go(y=unlikely), go(y=unlikely, scale=-1)),
        *wrong_steps(
            go,
            (mistakes.SOFTMAX_TWICE.format("adv"), "softmax twice"),
            (mistakes.NO_LOG_SOFTMAX.format("adv"), "no log-softmax"),
            (f"That differentiates the logit, not the loss: use F.cross_entropy(model(adv), {label}).", "gradient of the logit"),
        ),
        *_projection_mistakes(task, sign, go),
        *wrong_steps(
            go,
            (mistakes.NO_SIGN, "no sign", "no sign, batch mean"),
            ("You divide the gradient by its length, which is the step for the Euclidean norm. Here take the sign.", "Euclidean"),
        ),
        *with_hint(mistakes.NO_SIGN, *(x + sign * step_size * loss_gradient(model, x, y) / n for n in (1, len(x)))),
    )  # fmt: skip


def _projection_mistakes(task: _Task, sign: int, go: Callable[..., Tensor]) -> Mistakes:
    """What goes wrong where `go` puts an image back after a step, and what to say."""
    model, x, y, eps, *_ = task

    def frozen_when_fooled(new: Tensor, last: Tensor) -> Tensor:
        done = (model(last).argmax(1) == y) == (sign < 0)
        return torch.where(broadcast_like(done), last, mistakes.project(new, x, eps))

    free, boxed = go(keep=lambda new, _: new), go(keep=lambda new, _: new.clamp(0, 1))
    in_ball = go(keep=lambda new, _: x + (new - x).clamp(-eps, eps))
    yield from (
        (go(keep=frozen_when_fooled), "You stop moving an image as soon as the attack has worked. Here every image takes all its steps."),
        *with_hint("You never put the image back into the ball. After every step: x + (adv - x).clamp(-eps, eps), then .clamp(0, 1).", free, boxed),
        *with_hint("You put the image back into the ball only after the last step. Do it after every step, inside the loop.", mistakes.project(free, x, eps), mistakes.project(boxed, x, eps)),
        *with_hint("You keep to the ball, but not to [0, 1] in every step: after the ball comes .clamp(0, 1), inside the loop.", in_ball, in_ball.clamp(0, 1)),
        (go(keep=lambda new, last: mistakes.project(new, last, eps)), "You keep to a ball around the last point, which moves along. The ball is around the original x: clamp adv - x."),
        (go(keep=lambda new, _: mistakes.project(new, x, 2 * eps)), mistakes.WIDE_BALL),
        *with_hint("You clamp the image itself to ±eps, which is a ball around black. The ball is around x: clamp adv - x, then add x.", go(keep=lambda new, _: new.clamp(-eps, eps)), go(keep=lambda new, _: new.clamp(0, eps))),
    )  # fmt: skip


def _explain(answer: Callable, task: _Task, adv: Tensor) -> str:
    """Return what is wrong with images from how they depend on the arguments, or nothing."""
    if not close(adv, call_with_copies(answer, *task)):
        return "A second call gives another result. This exercise starts at x itself and has no randomness: only gradients decide."
    others = {"steps": task.steps + 2, "step_size": task.step_size / 2, "eps": task.step_size / 2}
    for name, value in others.items():
        if close(adv, call_with_copies(answer, *task._replace(**{name: value}))):
            return mistakes.SAME_FOR_EVERY.format(name)
    still = (adv == task.x).flatten(1).all(1)
    return mistakes.SOME_STILL.format(mistakes.listed(still)) if still.any() else ""


def _pgd_properties(answer: Callable, towards: bool) -> Iterator[str]:
    """The properties of PGD from x itself, away from the labels or towards them."""
    sign, name = (-1, "target") if towards else (1, "y")
    model = inputs.unsaturated_network(inputs.SHAPE, inputs.CLASSES)
    x, y = inputs.labelled_images(model, 6, inputs.SHAPE)

    attempt = Attempt(answer, lambda t: pgd(*t, sign=sign), lambda t: _pgd_mistakes(t, sign), partial(_explain, answer))

    def agrees(hint: str) -> None:
        setting = f"after {task.steps} steps of {task.step_size} with eps = {task.eps}, "
        attempt.agrees(misplaced(setting, model, y, x, adv, right), hint)

    yield "returns new images like x"
    attempt(_Task(model, x, y, 0.2, 3, 0.03))

    yield f"moves every pixel by step_size in one step, {'towards the target' if towards else 'uphill'}"
    task, adv, right = attempt(_Task(model, x, y, 0.2, 1, 0.03))
    change, uphill = (adv - x).abs(), ((adv - x).sign() == (right - x).sign()).float().mean().item()
    what = f"with steps = 1, step_size = 0.03 and eps = 0.2 the pixels changed by {change.min():.3g} to {change.max():.3g}, {100 * uphill:.0f} % of them in the direction that makes the loss {'smaller' if towards else 'larger'}."
    hint = f"Differentiate F.cross_entropy(model(adv), {name}) with respect to adv, and {'subtract' if towards else 'add'} step_size times the sign."
    attempt.agrees(what, hint)

    yield "takes every step at the point that it has reached"
    task, adv, right = attempt(_Task(model, x, y, 0.2, 4, 0.03))
    hint = "In every step: the gradient at the point you have reached, then step_size times its sign from there. Return the last point."
    agrees(hint)

    yield "never ends farther than eps from x"
    task, adv, right = attempt(_Task(model, x, y, 0.06, 6, 0.07))
    what = f"after 6 steps of 0.07 with eps = 0.06 a pixel is {(adv - x).abs().max():.3g} away from x."
    expect((adv - x).abs().max() <= 0.06 + 1e-6, what, attempt.why("After every step: x + (adv - x).clamp(-eps, eps)."))

    yield "goes back into the ball after every step"
    agrees("After every step, and before the next: x + (adv - x).clamp(-eps, eps).")

    yield "stays inside [0, 1], in every step"
    x, y = inputs.black_and_white_images(model, 4, inputs.SHAPE)
    task, adv, right = attempt(_Task(model, x, y, 0.2, 5, 0.06))
    hint = "There is nothing blacker than 0 or whiter than 1: put .clamp(0, 1) after the ball, in every step."
    expect_in_box(adv, attempt.why(hint))
    agrees("After every step first the ball around x, then .clamp(0, 1).")

    yield "eps = 0 changes nothing"
    _, still, _ = attempt(_Task(model, x, y, 0.0, 5, 0.06))
    expect(close(still, x, 1e-6), "with eps = 0 the images change.", "A ball of radius 0 holds x alone.")

    yield "gives an image alone what it gives it in a batch"
    treats_each_alone(answer, 4, lambda part: (model, x[part], y[part], 0.06, 4, 0.03), 1e-5)

    yield "works for other sizes of images and numbers of classes"
    model = inputs.unsaturated_network(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)
    x, y = inputs.labelled_images(model, 5, inputs.OTHER_SHAPE)
    task, adv, right = attempt(_Task(model, x, y, 0.05, 3, 0.03))
    what = f"for images of shape {inputs.OTHER_SHAPE} and {inputs.OTHER_CLASSES} classes the result is another."
    expect(close(adv, right), what, mistakes.FROM_MODEL)

    yield "leaves no trace on the model and on x"
    in_both_modes(answer, f"model x {name} eps steps step_size", *task)


@exercise("pgd", takes="(model, x, y, eps, steps, step_size)")
def _pgd(answer: Callable) -> Iterator[str]:
    yield from _pgd_properties(answer, towards=False)


@exercise("targeted_pgd", takes="(model, x, target, eps, steps, step_size)")
def _targeted_pgd(answer: Callable) -> Iterator[str]:
    yield from _pgd_properties(answer, towards=True)


class _LogitsInPixels(nn.Module):
    """Takes the first pixels of an image for its logits."""

    def __init__(self, classes: int):
        super().__init__()
        self.scale = nn.Parameter(torch.full((classes,), 8.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)[:, : len(self.scale)]


# For each image, which of four restarts fool the model. The last image is misread as it is, and read rightly in all of them.
_FOOLED = ["1000", "0101", "0010", "0000", "1111", "0110", "1011", "0001", "0011", "0000"]


def _labelled_as(
    labels: Tensor, classes: int, shape: tuple[int, ...], sure: float, generator: torch.Generator
) -> Tensor:
    """Images that a _LogitsInPixels reads as these labels, more confidently the larger `sure` is."""
    x = torch.rand(len(labels), *shape, generator=generator)
    pixels = x.flatten(1)
    pixels[:, :classes] = 0.2 * pixels[:, :classes] + sure * F.one_hot(labels, classes)
    return pixels.view_as(x)


def _restarts(fooled: list[str], classes: int, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """A model, images, labels and restarts, of which those marked with 1 fool the model."""
    generator = torch.Generator().manual_seed(len(fooled))
    y = torch.arange(len(fooled)) % classes
    wrong = (y + 1) % classes
    own = torch.where(torch.arange(len(y)) == len(y) - 1, wrong, y)
    marks = [torch.tensor([column[i] == "1" for column in fooled]) for i in range(len(fooled[0]))]
    sure = [0.8 if i == 1 else 0.3 for i in range(len(marks))]  # so that the loss has favourites of its own
    said = [torch.where(mask, wrong, y) for mask in marks]
    batches = [_labelled_as(labels, classes, shape, s, generator) for labels, s in zip(said, sure, strict=True)]
    return _LogitsInPixels(classes).eval(), _labelled_as(own, classes, shape, 0.3, generator), y, batches


def _keep_mistakes(model: nn.Module, x: Tensor, y: Tensor, restarts: list[Tensor]) -> Mistakes:
    count, batches = len(restarts), torch.stack([*restarts, x])  # the last is what is left when no restart fools
    predicted = torch.stack([model(adv).argmax(1) for adv in restarts])
    losses = torch.stack([F.cross_entropy(model(adv), y, reduction="none") for adv in restarts])
    fooled, changed = predicted != y, predicted != model(x).argmax(1)

    def pick(which: Tensor) -> Tensor:
        return batches[which.expand(len(x)), torch.arange(len(x))]

    def first(mask: Tensor, otherwise: int = count) -> Tensor:
        return pick(torch.where(mask.any(0), mask.float().argmax(0), otherwise))

    def last(mask: Tensor, otherwise: int = count) -> Tensor:
        order = torch.arange(count)[:, None].expand(-1, len(x))
        return pick(torch.where(mask.any(0), torch.where(mask, order, -1).amax(0), otherwise))

    whole = "You keep one whole batch, the {}. Each image has a best restart of its own: keep them image by image."
    later = "A later restart replaces one that already fools the model. Take the first: change only images that are not fooled yet, or go through the restarts backwards."
    inverted = "You keep the restarts that do not fool the model. It is fooled where model(adv).argmax(1) != y."
    compared = "You compare with the model's answer for x. Fooled means an answer other than y."
    fresh = fooled & ~torch.cat([torch.zeros_like(fooled[:1]), fooled[:-1]])
    yield from (
        (x, "That is x: no restart was kept. Does your loop ask whether all images are fooled at once (.all())? Decide image by image."),
        (restarts[0], "You always take the first restart. Go on for the images that it does not fool. Is there a return inside the loop, or an .any() over the batch?"),
        (restarts[-1], "You always take the last restart. A mask must say which images to replace: model(adv).argmax(1) != y."),
        (restarts[fooled.sum(1).argmax()], whole.format("one that fools most")),
        (restarts[losses.mean(1).argmax()], whole.format("one with the highest mean loss")),
        (pick(losses.argmax(0)), "You keep the restart with the highest loss. Asked for is the first that fools: model(adv).argmax(1) != y."),
        (last(fresh), "You remember only the images that the last restart fooled. Remember all that were fooled so far: done = done | fooled."),
    )  # fmt: skip
    for otherwise, name in ((count, ""), (0, "the first restart"), (count - 1, "the last restart")):
        rest = f" Where no restart fools, return the image of x, not of {name}." if name else ""
        yield last(fooled, otherwise), later + rest
        yield from with_hint(inverted + rest, first(~fooled, otherwise), last(~fooled, otherwise))
        yield from with_hint(compared + rest, first(changed, otherwise), last(changed, otherwise))
        if name:
            yield first(fooled, otherwise), rest.strip()
    black = "Where no restart fools, the image is black. Start from x.clone(), not from zeros."
    yield first(fooled) * broadcast_like(fooled.any(0)), black


@exercise("keep_best", takes="(model, x, y, restarts)")
def _keep_best(answer: Callable) -> Iterator[str]:
    task = _restarts(_FOOLED, 4, (1, 3, 3))
    _, x, _, restarts = task

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: diagnose_mistake(best, _keep_mistakes(*task), otherwise)

    def chosen(i: int) -> str:
        """What the answer returned for image i, in words."""
        names = {f"restart {r}": batch for r, batch in enumerate(restarts)} | {"x": x}
        return next((name for name, batch in names.items() if close(best[i], batch[i])), "something else")

    yield "returns one image for each of x"
    best = as_tensor_like(call_with_copies(answer, *task), x)

    yield "keeps, image by image, a restart that fools the model"
    fooling = {i: [r for r in range(4) if marks[r] == "1"] for i, marks in enumerate(_FOOLED) if "1" in marks}
    missed = [i for i, numbers in fooling.items() if chosen(i) not in [f"restart {r}" for r in numbers]]
    what = f"{len(fooling)} of {len(x)} images have a restart that fools the model, and you miss it for {len(missed)} of them"
    for i in missed[:1]:
        what += f": image {i} is fooled by {fooling[i]} of the restarts 0 to 3, and you took {chosen(i)}"
    expect(not missed, what + ".", why("best[fooled] = adv[fooled] with the mask fooled = model(adv).argmax(1) != y."))

    yield "keeps the first restart that fools it"
    hint = "Replace an image only if no earlier restart fooled it, or go through the restarts backwards."
    for i, (first, *_) in fooling.items():
        what = f"image {i} is first fooled by restart {first}, and you took {chosen(i)}."
        expect(chosen(i) == f"restart {first}", what, why(hint))

    yield "keeps x where no restart fools"
    hint = "Start from x.clone(), and replace only what is fooled: model(adv).argmax(1) != y."
    for i in sorted({*range(len(x))} - {*fooling}):
        expect(chosen(i) == "x", f"no restart fools image {i}, and you took {chosen(i)}.", why(hint))

    yield "works for one restart, and for other sizes of images and numbers of classes"
    others = (["1", "0", "0"], 3, (2, 2, 4)), (["00", "01"], 5, (3, 5, 7)), (["01"], 2, (1, 28, 28))
    for fooled, classes, shape in others:
        task = _restarts(fooled, classes, shape)
        _, x, _, restarts = task
        best = as_tensor_like(call_with_copies(answer, *task), x)
        wanted = ["x" if "1" not in marks else f"restart {marks.index('1')}" for marks in fooled]
        got = [chosen(i) for i in range(len(x))]
        what = f"for {len(x)} images of shape {shape}, {classes} classes and {len(restarts)} restarts you took {', '.join(got)}; right is {', '.join(wanted)}."
        expect(got == wanted, what, why(mistakes.ONLY_ARGUMENTS.format("sizes and numbers")))

    yield "leaves its arguments as they were"
    no_side_effects(answer, "model x y restarts", *_restarts(_FOOLED, 4, (1, 3, 3)))


class _L2Task(NamedTuple):
    """What one step in the Euclidean ball is given."""

    point: Tensor
    gradient: Tensor
    x: Tensor
    eps: float
    step_size: float


def _l2_step(task: _L2Task, *, direction: Callable | None = None, limit: Callable | None = None) -> Tensor:
    """Return the right step, or one with another direction or another way back into the ball."""
    point, gradient, x, eps, step_size = task
    change = point + step_size * (direction or l2_normalized)(gradient) - x
    change = limit(change) if limit else change * (eps / l2_norm(change).clamp_min(1e-30)).clamp(max=1)
    return (x + change).clamp(0, 1)


def _l2_mistakes(task: _L2Task) -> Mistakes:
    point, g, x, eps, step_size = task

    def along(direction: Callable) -> Tensor:
        return _l2_step(task, direction=direction)

    def within(limit: Callable) -> Tensor:
        return _l2_step(task, limit=limit)

    own = "Divide each gradient by its own length, gradient.flatten(1).norm(dim=1), and multiply by step_size."
    itself = "You use the gradient as it is, whose length differs from image to image. " + own
    unprojected = "You never put the image back into the ball: shorten adv - x to the length eps where it is longer."
    yield from (
        (point, "The point did not move: add step_size times the gradient divided by its length."),
        (x, "That is x itself. The step starts at point."),
        (_l2_step(task) - x, mistakes.CHANGE_ALONE.format("")),
        (_l2_step(task._replace(gradient=-g)), "You step against the gradient. Add the step: the loss grows along it."),
        (_l2_step(task._replace(point=x)), "The step starts at point, not at x; x is only the centre of the ball."),
        (along(lambda g: g / g.norm()), "You divide by the length of the whole batch, so that all images share one step. " + own),
        (along(torch.sign), "That is the sign step of the max norm: for n pixels its length is √n times too long. (F.normalize without flatten(1) gives the same.) " + own),
        (along(lambda g: g.sign() / g[0].numel() ** 0.5), mistakes.SIGN_OF_LENGTH + own),
        (along(lambda g: g / l2_norm(g).clamp_min(1e-30) ** 2), mistakes.SQUARED_LENGTH + own),
        (along(lambda g: g / broadcast_like(g.abs().flatten(1).sum(1))), "You divide by the sum of the absolute values, not by the Euclidean length. " + own),
        (along(mistakes.max_normalized), "You divide by the largest entry, not by the length. " + own),
        (along(lambda g: g), itself),
        ((point + step_size * g).clamp(0, 1), itself + " Then go back into the ball."),
        (_l2_step(task._replace(step_size=eps)), "The step has the length step_size, not eps."),
        (_l2_step(task._replace(step_size=step_size * eps)), "The step has the length step_size: do not multiply it by eps."),
        (_l2_step(task._replace(step_size=1.0)), "Did you forget to multiply by step_size? Your step has the length 1."),
        (_l2_step(task._replace(eps=2 * eps)), "Your ball is twice as wide: its radius is eps."),
        (within(lambda c: c), unprojected),
        (point + step_size * l2_normalized(g), unprojected + " Then .clamp(0, 1)."),
        (within(lambda c: eps * l2_normalized(c)), "You move every image to the surface of the ball. One inside stays where it is: multiply the change by (eps / length).clamp(max=1)."),
        (within(lambda c: eps * c), "You multiply the change by eps. eps is a limit: multiply by (eps / length).clamp(max=1)."),
        (within(lambda c: c.clamp(-eps, eps)), "That is a ball for every single pixel. Here one length counts for each image: multiply the change by (eps / length).clamp(max=1)."),
        *with_hint("You take one length for the whole batch when you go back into the ball. Each image has its own: (adv - x).flatten(1).norm(dim=1).", within(lambda c: c * (eps / c.norm()).clamp(max=1)), within(lambda c: eps * c / c.norm())),
        (within(lambda c: torch.where(l2_norm(c) > eps, 0, c)), "You take an image that left the ball back to x. It goes to the surface only: shorten its change to eps."),
        (within(lambda c: torch.where(l2_norm(c) > eps, point - x, c)), "You refuse a step that would leave the ball. Take it, then shorten adv - x to eps."),
        *with_hint(mistakes.PART_OF_LENGTH + own, *(along(lambda g, dim=dim: g / g.norm(dim=dim, keepdim=True)) for dim in (0, 2, 3))),
    )  # fmt: skip


def _l2_draw(seed: int, n: int, shape: tuple[int, ...], low: float = 0.45) -> tuple[Tensor, Tensor, Tensor]:
    """Images, directions of length 1 with most of it in one pixel, and gradients of unlike lengths."""
    generator = torch.Generator().manual_seed(seed)
    x = low + (1 - 2 * low) * torch.rand(n, *shape, generator=generator)
    away, gradient = (torch.randn(n, *shape, generator=generator) for _ in range(2))
    away[:, 0, 0, 0] = 20.0
    return x, away / l2_norm(away), gradient * broadcast_like(2.0 ** torch.arange(n))


@exercise("l2_pgd_step", takes="(point, gradient, x, eps, step_size)")
def _l2_pgd_step(answer: Callable) -> Iterator[str]:
    attempt = Attempt(answer, _l2_step, _l2_mistakes)

    x, away, gradient = _l2_draw(0, 4, inputs.SHAPE)
    point = x + 0.1 * away

    yield "returns new images like x"
    task, adv, right = attempt(_L2Task(point, gradient, x, 2.0, 0.2))

    yield "moves every image by the distance step_size, along its own gradient"
    cosine = F.cosine_similarity((adv - point).flatten(1), gradient.flatten(1)).min().item()
    what = f"with step_size = 0.2 the images moved from point by the distances {shown(norms(adv - point))}, and the cosine of the angle to the gradient is {cosine:.2f} or more; the ball and the box are far away."
    hint = "Divide each gradient by its own length, gradient.flatten(1).norm(dim=1), multiply by step_size, and add it to point."
    attempt.agrees(what, hint, 1e-4)

    yield "ends no farther than eps from x"
    reach, outwards = torch.tensor([0.18, 0.18, 0.12, 0.15]), torch.tensor([1, -1, -1, 1])
    uphill = broadcast_like(outwards) * away * l2_norm(gradient)
    task, adv, right = attempt(_L2Task(x + broadcast_like(reach) * away, uphill, x, 0.2, 0.3))
    distances = f"with eps = 0.2 the images end at the distances {shown(norms(adv - x))} from x; right are {shown(norms(right - x))}."
    hint = "Multiply the change adv - x by (eps / its length).clamp(max=1), image by image, and add it to x."
    expect((norms(adv - x) <= 0.2 + 1e-5).all(), distances, attempt.why(hint))

    yield "shortens a change that is too long, and leaves one inside the ball alone"
    attempt.agrees(distances, hint, 1e-4)
    task, adv, right = attempt(_L2Task(x + 0.3 * away, gradient, x, 0.35, 0.2))
    what = f"an image that left the ball ends {norms(adv - right).max():.3g} away from the nearest point of the ball."
    attempt.agrees(what, hint, 1e-4)

    yield "stays inside [0, 1]"
    x, away, gradient = _l2_draw(1, 4, inputs.SHAPE, low=0.0)
    task, adv, right = attempt(_L2Task((x + 0.3 * away).clamp(0, 1), gradient, x, 1.2, 1.0))
    expect_in_box(adv, "After the ball comes the box: end with .clamp(0, 1).", "images with dark and bright pixels")
    what = f"a pixel is {(adv - right).abs().max():.3g} away from where it should be."
    attempt.agrees(what, "First the ball, then .clamp(0, 1): clip the image, not the step.", 1e-4)

    yield "takes the whole step where the gradient is small, and none where it is zero"
    x, away, gradient = _l2_draw(2, 4, inputs.SHAPE)
    guard = "Guard the division by something tiny only, which does not touch a small gradient: length.clamp_min(1e-12)."
    for scale, wanted, hint in ((1e-10, 0.2, guard), (0.0, 0.0, mistakes.NO_DIRECTION)):
        _, adv, _ = attempt(_L2Task(x.clone(), scale * gradient / l2_norm(gradient) * 3, x, 1.0, 0.2))
        moved = norms(adv - x)
        what = f"with step_size = 0.2 and gradients of the length {3 * scale:.0e} the images moved by {shown(moved)}."
        expect(((moved - wanted).abs() < 2e-3).all(), what, hint)

    yield "eps = 0 gives x"
    _, adv, _ = attempt(_L2Task(x + 0.1 * away, gradient, x, 0.0, 0.2))
    what = f"with eps = 0 an image ends {norms(adv - x).max():.3g} away from x."
    expect(close(adv, x, 1e-6), what, "A ball of radius 0 holds x alone.")

    yield "gives an image alone what it gives it in a batch, whatever its size"
    for shape in (inputs.SHAPE, inputs.OTHER_SHAPE):
        x, away, gradient = _l2_draw(3, 3, shape)
        task, adv, right = attempt(_L2Task(x + 0.3 * away, gradient, x, 0.4, 0.3))
        attempt.agrees(f"for images of shape {shape} the result is another.", mistakes.ONE_LENGTH)
    treats_each_alone(answer, 3, lambda part: (task.point[part], gradient[part], x[part], 0.4, 0.3), 1e-5)

    yield "leaves its arguments as they were"
    no_side_effects(answer, "point gradient x eps step_size", *task)
