"""Checks of chapter 07: attacks on photographs, in levels of 255, and attacks that survive what is done to a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks.transformations import jpeg
from ..models.layers import Normalize
from . import inputs, mistakes
from .engine import exercise, expect
from .mistakes import OWN_PREDICTION, TWO_CLAMPS, gradient_step, project, wrong_steps
from .properties import (
    Mistakes,
    as_tensor_like,
    broadcast_like,
    call_with_copies,
    close,
    diagnose_mistake,
    expect_close,
    expect_in_box,
    in_both_modes,
    loss_gradient,
    misplaced,
    no_side_effects,
    percent_off,
    treats_each_alone,
    with_hint,
)

SEED = 33  # on the right steps no gradient is near 0, so that rounding decides nothing
SHAPE = (3, 6, 6)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's photographs
ONLY_ARGUMENTS = mistakes.ONLY_ARGUMENTS.format("shapes, classes and numbers")
BLACK_AND_WHITE = "pictures with black and white pixels"


def _network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a network that takes pixels in [0, 1] and normalises them itself."""
    flatten, first, *rest = inputs.unsaturated_network(shape, classes, SEED)
    mean, std = (torch.tensor(values).view(-1, 1, 1).expand(shape).flatten() for values in (MEAN, STD))
    first.bias.data += first.weight.data @ mean  # takes back what normalisation does: confident for no picture
    first.weight.data *= std
    return nn.Sequential(Normalize(MEAN, STD), flatten, first, *rest).eval()


def _pictures(model: nn.Module, n: int, shape: tuple[int, ...], low: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return 8-bit pictures and labels; with `low` below 0, some pixels are black and some white."""
    x, y = inputs.labelled_images(model, n, shape, low)
    return (255 * x.clamp(0, 1)).round() / 255, y


def _step_mistakes(model: nn.Module, start: Tensor, labels: Tensor, size: float, image: str, label: str) -> Mistakes:
    """What goes wrong in a signed step from `start`, before anything is clipped; `image` and `label` are their names."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    normalised, step = (start - mean) / std, partial(gradient_step, model, start, labels, size)
    wrong_sign = "You walk downhill: FGSM makes the loss larger, so add the step."
    if size < 0:
        wrong_sign = "You walk uphill, and make the target less likely. Go down the loss of the target: subtract the step, once."  # fmt: skip
    own = OWN_PREDICTION.format(label)
    inside = f"You normalise {image} before the model does it again. It takes pixels in [0, 1], and normalises inside."
    spread = "You rescale the step by the channels' std. Pixels stay pixels: normalisation is the model's own business."
    yield from (
        (start, f"Nothing moved: did you return {image} instead of the new picture?"),
        (step(scale=-1), wrong_sign),
        (step() - start, "That is the change alone. Return the picture: where you started, plus the change."),
        *wrong_steps(
            step,
            (own, "own prediction"),
            (own + " And check the direction.", "own prediction, wrong sign"),
            (f"You use the least likely class as the label. Use the {label} that was passed in.", "least likely label"),
            (f"Give F.cross_entropy the logits, model({image}), as they are: it takes the softmax by itself.", "softmax twice"),
            (f"F.nll_loss wants log-probabilities. Take F.cross_entropy(model({image}), {label}).", "no log-softmax"),
            (f"That differentiates a logit. Take F.cross_entropy(model({image}), {label}).", "gradient of the logit"),
            ("You step along the gradient itself, whose entries are tiny and unequal. Take its sign.", "no sign", "no sign, batch mean"),
            ("You divide by the gradient's length: a step for the Euclidean norm. Take the sign.", "Euclidean"),
        ),
        *with_hint(f"Every pixel moved the same way. Take the sign of the gradient with respect to {image}, not that of the loss.", start + size, start - size),
        (step(at=normalised), inside),
        (gradient_step(model, normalised, labels, size), inside + " And return pixels, too."),
        *with_hint(spread, *(step(move=lambda g, factor=factor: factor * g.sign()) for factor in (1 / std, std))),
        *wrong_steps(step, ("Your step is twice as long as it should be.", "step twice")),
        *wrong_steps(step, ("Your step is half as long as it should be.", "half a step")),
    )  # fmt: skip


# FGSM in whole levels


def _in_whole_levels(model: nn.Module, x: Tensor, y: Tensor, levels: float) -> Tensor:
    sign = loss_gradient(model, x, y).sign()
    return (255 * x + math.floor(levels) * sign).round().clamp(0, 255) / 255


def _level_mistakes(model: nn.Module, x: Tensor, y: Tensor, levels: float) -> Mistakes:
    sign, size, right = loss_gradient(model, x, y).sign(), levels / 255, _in_whole_levels(model, x, y, levels)
    far = "Every pixel went all the way to black or white. Pixels go from 0 to 1: the step is levels / 255 times the sign."
    scaled = "That picture goes from 0 to 255. Divide it by 255: it is to be like x."
    fits = (x + size * sign - 0.5).abs() <= 0.5
    wrongs = [
        *with_hint(far, x + levels * sign, x + sign),
        *with_hint(scaled, 255 * x + levels * sign, (255 * x + levels * sign).clamp(0, 255)),
        (x + levels / 256 * sign, "256 levels have 255 steps between them: divide by 255."),
        (x + size / 255 * sign, "You divide by 255 twice."),
        (x + (size * sign).clamp(0, 1), "Every step down is lost: clip the new picture, not the change."),
        ((255 * x + levels * sign).round().remainder(256) / 255, "uint8 counts in a circle: 255 + 1 is 0, and 0 − 1 is 255. Add the step to floats, clip, and only then convert."),
        (torch.where(fits, x + size * sign, x), mistakes.LEFT_OUT.format("black or white: clip")),
        (gradient_step(model, x, y, size, at=255 * x), "You give the model 255 · x. It takes pixels in [0, 1]."),
        *_step_mistakes(model, x, y, size, "x", "y"),
    ]  # fmt: skip
    yield x, "Nothing moved: did you return x, or did rounding take the whole step away?"
    for wrong, hint in wrongs:
        for made in (wrong, wrong.clamp(0, 1), (255 * wrong).round().clamp(0, 255) / 255):
            if not close(made, x) and not close(made, right):  # rounding undoes small steps, and small mistakes
                yield made, hint


def _is_truncated(adv: Tensor, right: Tensor) -> bool:
    """Tell whether some pixels are one level too dark, and all others right."""
    off = 255 * (adv - right)
    return bool(((off.abs() < 1e-2) | ((off + 1).abs() < 1e-2)).all() and (off < -0.5).any())


@exercise("fgsm_in_levels", takes="(model, x, y, levels)")
def _fgsm_in_levels(answer: Callable) -> Iterator[str]:
    def run() -> tuple[Tensor, Tensor]:
        """Return what the answer gives, and what is right."""
        adv = as_tensor_like(call_with_copies(answer, model, x, y, levels), x)
        return adv, _in_whole_levels(model, x, y, levels)

    def agrees(what: str, hint: str) -> None:
        if _is_truncated(adv, right):
            hint = "Some pixels are one level too dark: .int(), .to(torch.uint8), // and floor cut off, and make 2 of 2.9999998. Use .round()."
        expect_close(adv, right, what, hint, _level_mistakes(model, x, y, levels))

    model, levels = _network(SHAPE, inputs.CLASSES), 8
    x, y = _pictures(model, 6, SHAPE)

    yield "returns new pictures like x"
    adv, right = run()

    yield "moves every pixel by so many levels, uphill"
    change = 255 * (adv - x)
    uphill = (change.sign() == (right - x).sign()).float().mean().item()
    what = f"with levels = {levels} the pixels changed by {change.abs().min():.4g} to {change.abs().max():.4g} levels of 255, {100 * uphill:.0f} % of them in the direction that makes the loss larger."
    agrees(what, "Add levels / 255 times the sign of the gradient of F.cross_entropy(model(x), y) with respect to x.")

    yield "stays inside [0, 1]: clipped as pixels"
    x, y = _pictures(model, 4, SHAPE, low=-0.05)
    adv, right = run()
    hint = "Clip the new picture, after the step, with .clamp(0, 1). Limits such as −2.1 and 2.6, or ±3, are those of normalised pixels: only the model sees these."
    expect_in_box(adv, hint, BLACK_AND_WHITE)
    off = percent_off(adv, right)
    what = f"{off:.0f} % of the pixels of pictures with black and white are not where they should be."
    agrees(what, "Take the step everywhere, then clip the new picture to [0, 1].")

    yield "makes 8-bit pictures, also with a budget that is no whole number"
    x, y = _pictures(model, 6, SHAPE)
    for levels in (2.5, 3.7, 0.6):
        adv, right = run()
        off, moved = (255 * adv - (255 * adv).round()).abs().max(), 255 * (adv - x).abs()
        whole = f"Within {levels} levels a pixel of an 8-bit picture can move by {math.floor(levels)}: math.floor(levels)."  # fmt: skip
        at = f"with levels = {levels} a pixel"
        what = f"{at} is {off:.2f} of a level beside the next value that an 8-bit file can hold."
        expect(off < 1e-2, what, f"A file holds k / 255, with whole k. {whole}")
        what = f"{at} moved by {moved.max():.2f} levels: rounding took it out of the budget."
        hint = f"Round the budget down before the step, not the picture after it. {whole}"
        expect(moved.max() <= levels + 1e-2, what, hint)
        agrees(f"{at} moved by {moved.min():.2f} levels.", whole)

    yield "gives a picture alone what it gives it in a batch"
    treats_each_alone(answer, 6, lambda part: (model, x[part], y[part], 3), 1e-5)

    yield "works for other sizes, budgets and numbers of classes"
    model, levels = _network(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES), 5
    x, y = _pictures(model, 5, inputs.OTHER_SHAPE)
    adv, right = run()
    what = f"for pictures of shape {inputs.OTHER_SHAPE}, {inputs.OTHER_CLASSES} classes and levels = {levels} the result is another."
    agrees(what, ONLY_ARGUMENTS)

    yield "leaves no trace on the model and on x"
    in_both_modes(answer, "model x y levels", model, x, y, levels)


# One step towards a target


class _Targeted(NamedTuple):
    """What a step towards a target is given."""

    model: nn.Module
    x: Tensor
    target: Tensor
    adv: Tensor
    eps: float
    step_size: float


def _targeted_task(
    shape: tuple[int, ...], classes: int, eps: float, step_size: float, *, low: float = 0.3, reach: float = 0.5
) -> tuple[_Targeted, Tensor]:
    """Return a task, and the true labels, which it is not told; adv is up to reach · eps from x."""
    model = _network(shape, classes)
    x, y = _pictures(model, 6, shape, low)
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1
    adv = (x + reach * eps * noise).clamp(0, 1)
    return _Targeted(model, x, (y + 2) % classes, adv, eps, step_size), y


def _targeted(task: _Targeted, **mistake: object) -> Tensor:
    """Return adv after the right step, before it is put back; keywords as in `gradient_step`."""
    return gradient_step(task.model, task.adv, task.target, -task.step_size, **mistake)


def _targeted_mistakes(task: _Targeted, y: Tensor) -> Mistakes:
    model, x, target, adv, eps, step_size = task
    step, of_truth, from_x = _targeted(task), task._replace(target=y), task._replace(adv=x)
    truth = "You use the true label. A targeted step is about the label to reach: target."
    ball = "The ball is around x, where the attack began, and not around adv: else every step brings a new ball."
    bare = "Put the picture back into the ball around x, then into [0, 1]. " + TWO_CLAMPS
    started = "You start at x again. The step starts at adv, which has moved already."
    wrongs = [
        (_targeted(of_truth, scale=-1), truth + " You walk away from it, which is the untargeted step."),
        (_targeted(of_truth), truth),
        (_targeted(task._replace(step_size=eps)), "Your step has the size eps. One step goes by step_size; eps is the budget for all."),
        (_targeted(task._replace(step_size=1.0)), "Multiply the sign by step_size: alone, it takes every pixel as far as the ball reaches."),
        *wrong_steps(partial(_targeted, task), (OWN_PREDICTION.format("target"), "own prediction")),
        (_targeted(task, scale=eps), "You multiply step_size by eps. One step goes by step_size."),
        (_targeted(task, at=x), "You take the gradient at x. The attack has come to adv: take it there."),
        *with_hint(started, _targeted(from_x), _targeted(from_x, at=adv)),
        *_step_mistakes(model, adv, target, -step_size, "adv", "target"),
    ]  # fmt: skip
    yield from ((project(wrong, x, eps), hint) for wrong, hint in wrongs)
    yield from (
        (x, "That is x itself. Return adv after its step."),
        (project(step, x, eps) - x, "That is the change alone. Return the picture: x plus the change."),
        *with_hint(ball, project(step, adv, eps), adv + (step - adv).clamp(-eps, eps)),
        *with_hint(bare, step, step.clamp(0, 1)),
        (x + (step - x).clamp(-eps, eps), "You keep to the ball, but not to [0, 1]: end with .clamp(0, 1)."),
        (project(step, x, 2 * eps), mistakes.WIDE_BALL),
        (project(step, x, eps / 255), "eps is in pixels in [0, 1] already: do not divide by 255."),
        (project(step, x, step_size), "You clip the change to step_size. The ball around x has the radius eps."),
        (step.clamp(-eps, eps), "You clip adv itself to ±eps, a ball around black. Clip adv - x, and add x."),
        *wrongs,
    )  # fmt: skip


@exercise("targeted_step", takes="(model, x, target, adv, eps, step_size)")
def _targeted_step(answer: Callable) -> Iterator[str]:
    def run(*arguments: object, **choice: float) -> tuple[_Targeted, Tensor, Tensor, Tensor]:
        """Return a task, its true labels, what the answer gives, and what is right."""
        task, y = _targeted_task(*arguments, **choice)
        adv = as_tensor_like(call_with_copies(answer, *task), task.x)
        return task, y, adv, project(_targeted(task), task.x, task.eps)

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: diagnose_mistake(adv, _targeted_mistakes(task, y), otherwise)

    def agrees(hint: str) -> None:
        setting = f"with eps = {task.eps} and step_size = {task.step_size} "
        what = misplaced(setting, task.model, task.target, task.adv, adv, right, " of the target")
        expect(close(adv, right), what, why(hint))

    yield "returns new pictures like x"
    task, y, adv, right = run(SHAPE, inputs.CLASSES, 0.1, 0.02)

    yield "moves adv by step_size, down the loss of the target"
    hint = "Subtract step_size times the sign of the gradient of F.cross_entropy(model(adv), target) with respect to adv."  # fmt: skip
    agrees(hint)

    yield "stays within eps of x, wherever adv has come to"
    task, y, adv, right = run(SHAPE, inputs.CLASSES, 0.05, 0.07, reach=1.0)
    farthest = (adv - task.x).abs().max().item()
    what = f"with eps = {task.eps} a pixel ends {farthest:.3g} away from x."
    expect(farthest <= task.eps + 1e-6, what, why("After the step: x + (adv - x).clamp(-eps, eps)."))
    agrees(TWO_CLAMPS)

    yield "stays inside [0, 1]"
    task, y, adv, right = run(SHAPE, inputs.CLASSES, 0.1, 0.06, low=-0.05)
    hint = "After the ball comes the box: end with .clamp(0, 1). It holds for pixels, whatever the model makes of them inside."
    expect_in_box(adv, hint, BLACK_AND_WHITE)
    agrees(TWO_CLAMPS)

    yield "gives a picture alone what it gives it in a batch"
    model, x, target, start, *sizes = task
    treats_each_alone(answer, 6, lambda part: (model, x[part], target[part], start[part], *sizes), 1e-5)

    yield "works for other sizes, budgets and numbers of classes"
    task, y, adv, right = run(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES, 0.03, 0.01, reach=0.9)
    agrees(ONLY_ARGUMENTS)

    yield "leaves no trace on the model, on x and on adv"
    in_both_modes(answer, "model x target adv eps step_size", *task)


# The expectation over transformations


class _Draws(NamedTuple):
    """Views that a camera took: of which image, moved sideways by so many columns, in how much light; all (R,)."""

    image: Tensor
    shift: Tensor
    light: Tensor


def _view(x: Tensor, shift: Tensor, light: Tensor) -> Tensor:
    columns = (torch.arange(x.shape[-1]) + shift[:, None]) % x.shape[-1]
    return broadcast_like(light) * x.gather(-1, columns[:, None, None].expand_as(x))


class _Camera:
    """Moves every image sideways and takes light from it, by a new draw each time, and remembers its draws."""

    def __init__(self, x: Tensor):
        self.x, self.taken, self.strangers = x, [], 0

    def __call__(self, x: Tensor) -> Tensor:
        shift, light = torch.randint(x.shape[-1], (len(x),)), 0.4 + 0.6 * torch.rand(len(x))
        values = torch.tensor(x.tolist())  # a copy that outlives what torch.func wraps around x
        distance = (values[:, None] - self.x).abs().flatten(2).amax(2)
        self.strangers += int((distance.amin(1) > 1e-5).sum())
        self.taken.append(_Draws(distance.argmin(1), shift, light))
        return _view(x, shift, light)

    def draws(self) -> _Draws:
        """Return all draws so far."""
        return _Draws(*(torch.cat(part) for part in zip(*self.taken, strict=True)))


class _ExpectationTask(NamedTuple):
    """What the gradient of an expectation is asked of."""

    model: nn.Module
    x: Tensor
    y: Tensor
    samples: int


def _expectation_task(n: int, shape: tuple[int, ...], classes: int, samples: int) -> _ExpectationTask:
    model = inputs.smooth_network(SEED, shape, classes, spread=0.6)
    return _ExpectationTask(model, *inputs.labelled_images(model, n, shape, 0.0), samples)


def _expected_gradient(task: _ExpectationTask, draws: _Draws, loss: Callable = F.cross_entropy) -> Tensor:
    """Return the gradient with respect to x of the loss, summed over the views and divided by samples."""
    x = task.x.clone().requires_grad_()
    logits = task.model(_view(x[draws.image], draws.shift, draws.light))
    return torch.autograd.grad(loss(logits, task.y[draws.image], reduction="sum") / task.samples, x)[0]


def _pooled_gradient(task: _ExpectationTask, draws: _Draws, pool: str) -> Tensor:
    """Return the gradient of one loss per image, that of the mean view, mean logits or mean probabilities."""
    x = task.x.clone().requires_grad_()

    def mean(values: Tensor) -> Tensor:
        total = torch.zeros(len(x), *values.shape[1:]).index_add(0, draws.image, values)
        return total / task.samples

    views = _view(x[draws.image], draws.shift, draws.light)
    logits = {
        "view": lambda: task.model(mean(views)),
        "logits": lambda: mean(task.model(views)),
        "probabilities": lambda: mean(task.model(views).softmax(1)).log(),
    }[pool]()
    return torch.autograd.grad(F.cross_entropy(logits, task.y, reduction="sum"), x)[0]


def _draw_of_each(draws: _Draws, count: int, place: int) -> _Draws:
    """Return each image's draw at a place, such as 0 or -1."""
    rows = torch.stack([(draws.image == i).nonzero()[place, 0] for i in range(count)])
    return _Draws(*(part[rows] for part in draws))


def _expectation_mistakes(task: _ExpectationTask, draws: _Draws) -> Mistakes:
    model, x, y, samples = task
    right, count = _expected_gradient(task, draws), len(x)
    of_views = loss_gradient(model, _view(x[draws.image], draws.shift, draws.light), y[draws.image])
    one = task._replace(samples=1)
    total = "You add the gradients up. Divide by samples: the mean is the expectation."
    single = "Only one view counts, the {}. Add the gradients up over all samples, then divide by samples."
    many = "You take one loss of the mean {}. The expectation is over the loss: average the losses, or their gradients."
    scales = (
        (1, ""),
        (samples, total),
        (1 / count, "Each image has a loss of its own: F.cross_entropy takes the mean over the batch, unless reduction='sum'."),
        (samples / count, total + " And mind the mean over the batch: reduction='sum'."),
        (1 / samples, "You divide by samples twice."),
        (-1, "The sign is wrong: the gradient points to where the loss grows."),
    )  # fmt: skip
    wrongs = (
        (right, ""),
        (torch.zeros_like(x).index_add(0, draws.image, of_views) / samples, "That is the gradient with respect to the transformed image. Its pixels are not those of x: call requires_grad_() on x, then transform, so that the gradient comes back through the transformation."),
        (_expected_gradient(one, _draw_of_each(draws, count, 0)), single.format("first")),
        (_expected_gradient(one, _draw_of_each(draws, count, -1)), single.format("last")),
        (_pooled_gradient(task, draws, "view"), many.format("view")),
        (_pooled_gradient(task, draws, "logits"), many.format("of the logits")),
        (_pooled_gradient(task, draws, "probabilities"), many.format("of the probabilities")),
        (loss_gradient(model, x, y), "You differentiate the loss of x itself. Differentiate F.cross_entropy(model(transformation(x)), y)."),
        (_expected_gradient(task._replace(y=model(x).argmax(1)), draws), OWN_PREDICTION.format("y")),
        (_expected_gradient(task, draws, mistakes.softmax_twice), "Give F.cross_entropy the logits as they are: it takes the softmax by itself."),
        (_expected_gradient(task, draws, F.nll_loss), "F.nll_loss wants log-probabilities. Take F.cross_entropy."),
    )  # fmt: skip
    for scale, also in scales:
        yield from ((scale * wrong, f"{hint} {also}".strip()) for wrong, hint in wrongs if hint or also)
    yield right.sign(), "Return the gradient itself; its sign is for the step that an attack takes later."


@exercise("eot_gradient", takes="(model, x, y, transformation, samples)")
def _eot_gradient(answer: Callable) -> Iterator[str]:
    def run() -> tuple[Tensor, _Camera]:
        camera = _Camera(task.x)
        gradient = call_with_copies(answer, *task[:3], camera, task.samples)
        return as_tensor_like(gradient, task.x), camera

    def is_mean(hint: str) -> None:
        """Refuse what is no mean over the views that were taken."""
        got, camera = run()
        draws = camera.draws()
        right = _expected_gradient(task, draws)
        what = f"with samples = {task.samples} the gradient is {100 * (got - right).norm() / right.norm():.0f} % off."
        expect_close(got, right, what, hint, _expectation_mistakes(task, draws))

    yield "returns a gradient like x"
    task = _expectation_task(5, SHAPE, inputs.CLASSES, 1)
    run()

    yield "samples = 1: differentiates through the transformation, back to x"
    _takes_its_views(task, run()[1])
    hint = "x = x.clone().detach().requires_grad_(), then differentiate F.cross_entropy(model(transformation(x)), y) by x."  # fmt: skip
    is_mean(hint)

    yield "draws anew for every sample"
    task = task._replace(samples=6)
    _takes_its_views(task, run()[1])

    yield "is the mean of the samples' gradients"
    is_mean("Add up the gradients of all samples, and divide by samples.")

    yield "works for other sizes and numbers of classes, and for a single image"
    for count in (4, 1):
        task = _expectation_task(count, inputs.OTHER_SHAPE, inputs.OTHER_CLASSES, 3)
        _takes_its_views(task, run()[1])
        is_mean(ONLY_ARGUMENTS)

    yield "leaves no trace on the model and on x"
    in_both_modes(answer, "model x y transformation samples", *task[:3], _Camera(task.x), task.samples)


def _takes_its_views(task: _ExpectationTask, camera: _Camera) -> None:
    """Refuse views of something else than x, too many or too few of them, or twice the same."""
    what = f"{camera.strangers} of the images that it transformed were not images of x."
    hint = "Every sample starts at x itself: do not overwrite x with its view, or the next sample is a view of a view."
    expect(camera.strangers == 0, what, hint)
    expect(camera.taken, "it never called transformation.", "In every sample: model(transformation(x)).")
    draws = camera.draws()
    numbers = torch.bincount(draws.image, minlength=len(task.x))
    what = f"with samples = {task.samples} the views of each image number {sorted(set(numbers.tolist()))}."
    hint = "Call transformation(x) once for every sample, inside the loop: each call is a new draw."
    expect((numbers == task.samples).all(), what, hint)
    apart = all(len(draws.light[draws.image == i].unique()) == task.samples for i in range(len(task.x)))
    hint = "Do not seed a random stream in your function: it would start again with every sample."
    expect(apart, "the same draw came more than once.", hint)


# What survives a JPEG file


class _FineDetailNetwork(nn.Module):
    """Looks at large shapes, and at fine detail wherever a picture has grain: what JPEG takes away, grain included."""

    CELL, CONTRAST, GRAIN, SEEN = 8, 2.4 / 255, 8 / 255, 0.02  # side of a shape; the last is the grain it overlooks

    def __init__(self, shape: tuple[int, int, int], classes: int):
        super().__init__()
        channels, height, width = shape
        generator, n = torch.Generator().manual_seed(0), math.prod(shape)
        cells = (classes, channels, height // self.CELL, width // self.CELL)
        self.shapes = F.interpolate(torch.randn(cells, generator=generator).sign(), scale_factor=self.CELL)
        fine = torch.randn(classes, *shape, generator=generator)
        fine -= F.interpolate(F.avg_pool2d(fine, self.CELL), scale_factor=self.CELL)
        self.large = nn.Parameter(100 / n * self.shapes.flatten(1))
        self.fine = nn.Parameter(800 / n * fine.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] → (N, classes)."""
        grain = (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)).abs().mean((1, 2, 3))
        pixels = (x - 0.5).flatten(1)
        return pixels @ self.large.T + 80 * F.relu(grain - self.SEEN)[:, None] * (pixels @ self.fine.T)

    def pictures(self, n: int) -> tuple[Tensor, Tensor]:
        """Return 8-bit pictures of faint shapes under strong grain, and their classes."""
        y = torch.arange(n) % len(self.shapes)
        noise = torch.randn(n, *self.shapes.shape[1:], generator=torch.Generator().manual_seed(1))
        x = 0.5 + self.CONTRAST * self.shapes[y] + self.GRAIN * noise
        return (255 * x.clamp(0, 1)).round() / 255, y


@exercise("survive_jpeg", takes="(model, x, y, eps)")
def _survive_jpeg(answer: Callable) -> Iterator[str]:
    def made() -> Tensor:
        return as_tensor_like(call_with_copies(answer, model, x, y, eps), x)

    def fooled(images: Tensor) -> int:
        with torch.no_grad():
            return int((model(images).argmax(1) != y).sum())

    def survives(share: float, hint: str) -> None:
        before, after = fooled(adv), fooled(jpeg(adv))
        what = f"with eps = {255 * eps:g}/255 {before} of {len(x)} pictures fool the model as they are, and {after} after a JPEG file of quality 75. At least {math.ceil(share * len(x))} should."
        if before >= share * len(x):
            hint = "Your change is too fine for JPEG, which keeps large shapes and drops detail. Let the attack see what the model will see: differentiate the loss of model(attacks.jpeg(adv)), in every step."
        expect(after >= share * len(x), what, hint)

    model, eps = _FineDetailNetwork((3, 32, 32), 4).eval(), 4 / 255
    x, y = model.pictures(8)

    yield "returns new pictures like x"
    adv = made()

    yield "stays within eps of x"
    farthest = 255 * (adv - x).abs().max().item()
    what = f"with eps = {255 * eps:g}/255 a pixel is {farthest:.3g}/255 away from x."
    hint = "What you return keeps to the budget, and it is JPEG that has to live with it: x + (adv - x).clamp(-eps, eps) comes last. The picture that JPEG gives back is no answer: JPEG alone moves pixels farther than that."
    expect(farthest <= 255 * eps + 1e-3, what, hint)

    yield "stays inside [0, 1]"
    bright = (2 * x).clamp(0, 1)
    shown = as_tensor_like(call_with_copies(answer, model, bright, y, eps), x)
    what = f"pictures with black and white pixels came back with values from {shown.min():.3f} to {shown.max():.3f}."
    expect(shown.min() >= 0 and shown.max() <= 1, what, "Clip to the ball first, then .clamp(0, 1).")

    yield "fools the model after JPEG of quality 75"
    hint = "Too few fool the model, even without JPEG: start from PGD, uphill on the loss of y, with all of eps."
    survives(0.75, hint)

    yield "does so for other sizes, numbers of classes and budgets"
    model, eps = _FineDetailNetwork((3, 24, 40), 3).eval(), 5 / 255
    x, y = model.pictures(6)
    adv = made()
    expect((adv - x).abs().max() <= eps + 1e-5, "with another eps a pixel moved by more than eps.", ONLY_ARGUMENTS)
    survives(0.75, ONLY_ARGUMENTS)

    yield "leaves no trace on the model and on x"
    no_side_effects(answer, "model x y eps", model, x, y, eps)
