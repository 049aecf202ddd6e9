"""Checks of chapter 07: attacks on photographs, in levels of 255, and attacks that survive what is done to a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks.transformations import jpeg
from ..models.layers import Normalize
from .engine import exercise, expect
from .pgd import CLASSES, OTHER_CLASSES, OTHER_SHAPE, TWO_CLAMPS, put_back, softmaxed
from .properties import (
    Mistakes,
    as_tensor_like,
    broadcast_like,
    call_with_copies,
    close,
    diagnose_mistake,
    labelled_images,
    loss_gradient,
    no_side_effects,
    smooth_network,
    treats_each_alone,
)

SEED = 33  # on the right steps no gradient is near 0, so that rounding decides nothing
SHAPE = (3, 6, 6)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's photographs
OWN_LABEL = "You use the model's own prediction as the label. Use the {} that was passed in."
ONLY_ARGUMENTS = "Take shapes, classes and numbers from the arguments, and use nothing but the arguments."


def _network(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a network that takes pixels in [0, 1] and normalises them itself."""
    flatten, first, *rest = smooth_network(SEED, shape, classes, spread=0.3)
    mean, std = (torch.tensor(values).view(-1, 1, 1).expand(shape).flatten() for values in (MEAN, STD))
    first.bias.data += first.weight.data @ mean  # takes back what normalisation does: confident for no picture
    first.weight.data *= std
    return nn.Sequential(Normalize(MEAN, STD), flatten, first, *rest).eval()


def _pictures(model: nn.Module, n: int, shape: tuple[int, ...], low: float = 0.3) -> tuple[Tensor, Tensor]:
    """Return 8-bit pictures and labels; with `low` below 0, some pixels are black and some white."""
    x, y = labelled_images(model, n, shape, low)
    return (255 * x.clamp(0, 1)).round() / 255, y


def _stepped(
    model: nn.Module,
    start: Tensor,
    labels: Tensor,
    size: float,
    *,
    at: Tensor | None = None,
    loss: Callable = F.cross_entropy,
    move: Callable[[Tensor], Tensor] = torch.sign,
) -> Tensor:
    """Return start plus size times the sign of the gradient, not clipped; a negative size goes down."""
    return start + size * move(loss_gradient(model, start if at is None else at, labels, loss))


def _slips(model: nn.Module, start: Tensor, labels: Tensor, size: float, image: str, label: str) -> Mistakes:
    """What goes wrong in a signed step from `start`, before anything is clipped; `image` and `label` are their names."""
    predicted, shift = model(start).argmax(1), torch.tensor(MEAN).view(3, 1, 1)
    normalised = (start - shift) / torch.tensor(STD).view(3, 1, 1)

    def step(labels: Tensor = labels, size: float = size, **keywords: object) -> Tensor:
        return _stepped(model, start, labels, size, **keywords)

    way = "You walk downhill: FGSM makes the loss larger, so add the step."
    if size < 0:
        way = (
            "You walk uphill, and make the target less likely. Go down the loss of the target: subtract the step, once."
        )
    own = OWN_LABEL.format(label)
    inside = f"You normalise {image} before the model does it again. It takes pixels in [0, 1], and normalises inside."
    itself = "You step along the gradient itself, whose entries are tiny and unequal. Take its sign."
    of_loss = (
        f"Every pixel moved the same way. Take the sign of the gradient with respect to {image}, not that of the loss."
    )
    alone = "That is the change alone. Return the picture: where you started, plus the change."
    logits = f"Give F.cross_entropy the logits, model({image}), as they are: it takes the softmax by itself."
    unlikely = f"You use the least likely class as the label. Use the {label} that was passed in."
    spread = "You rescale the step by the channels' std. Pixels stay pixels: normalisation is the model's own business."
    deviation = torch.tensor(STD).view(3, 1, 1)
    yield from (
        (start, f"Nothing moved: did you return {image} instead of the new picture?"),
        (step(size=-size), way),
        (step() - start, alone),
        (step(predicted), own),
        (step(predicted, -size), own + " And check the direction."),
        (step(model(start).argmin(1)), unlikely),
        (step(loss=softmaxed), logits),
        (step(loss=F.nll_loss), f"F.nll_loss wants log-probabilities. Take F.cross_entropy(model({image}), {label})."),
        (step(size=-size, loss=F.nll_loss), f"That differentiates a logit. Take F.cross_entropy(model({image}), {label})."),
        (step(move=lambda g: g), itself),
        (step(move=lambda g: g / len(g)), itself),  # the loss may be a sum or a mean
        (step(move=lambda g: g / broadcast_like(g.flatten(1).norm(dim=1))), "You divide by the gradient's length: a step for the Euclidean norm. Take the sign."),
        (start + size, of_loss),
        (start - size, of_loss),
        (step(at=normalised), inside),
        (normalised + size * loss_gradient(model, normalised, labels).sign(), inside + " And return pixels, too."),
        (step(move=lambda g: g.sign() / deviation), spread),
        (step(move=lambda g: g.sign() * deviation), spread),
        (step(size=2 * size), "Your step is twice as long as it should be."),
        (step(size=size / 2), "Your step is half as long as it should be."),
    )  # fmt: skip


# FGSM in whole levels


def _in_whole_levels(model: nn.Module, x: Tensor, y: Tensor, levels: float) -> Tensor:
    sign = loss_gradient(model, x, y).sign()
    return (255 * x + math.floor(levels) * sign).round().clamp(0, 255) / 255


def _level_mistakes(model: nn.Module, x: Tensor, y: Tensor, levels: float) -> Mistakes:
    sign, size, right = loss_gradient(model, x, y).sign(), levels / 255, _in_whole_levels(model, x, y, levels)
    far = "Every pixel went all the way to black or white. Pixels go from 0 to 1: the step is levels / 255 times the sign."
    change = "Every step down is lost: clip the new picture, not the change."
    wrapped = (
        "uint8 counts in a circle: 255 + 1 is 0, and 0 − 1 is 255. Add the step to floats, clip, and only then convert."
    )
    left = "You leave a pixel as it is if its step would leave [0, 1]. It may go as far as black or white: clip."
    fits = (x + size * sign - 0.5).abs() <= 0.5
    mistakes = [
        (x + levels * sign, far),
        (x + sign, far),
        (255 * x + levels * sign, "That picture goes from 0 to 255. Divide it by 255: it is to be like x."),
        ((255 * x + levels * sign).clamp(0, 255), "That picture goes from 0 to 255. Divide it by 255: it is to be like x."),
        (x + levels / 256 * sign, "256 levels have 255 steps between them: divide by 255."),
        (x + size / 255 * sign, "You divide by 255 twice."),
        (x + (size * sign).clamp(0, 1), change),
        ((255 * x + levels * sign).round().remainder(256) / 255, wrapped),
        (torch.where(fits, x + size * sign, x), left),
        (_stepped(model, x, y, size, at=255 * x), "You give the model 255 · x. It takes pixels in [0, 1]."),
        *_slips(model, x, y, size, "x", "y"),
    ]  # fmt: skip
    yield x, "Nothing moved: did you return x, or did rounding take the whole step away?"
    for wrong, hint in mistakes:
        for made in (wrong, wrong.clamp(0, 1), (255 * wrong).round().clamp(0, 255) / 255):
            if not close(made, x) and not close(made, right):  # rounding undoes small steps, and small mistakes
                yield made, hint


def _is_truncated(adv: Tensor, right: Tensor) -> bool:
    """Tell whether some pixels are one level too dark, and all others right."""
    off = 255 * (adv - right)
    return bool(((off.abs() < 1e-2) | ((off + 1).abs() < 1e-2)).all() and (off < -0.5).any())


@exercise("fgsm_in_levels", takes="(model, x, y, levels)")
def _fgsm_in_levels(answer: Callable) -> Iterator[str]:
    def made() -> Tensor:
        return as_tensor_like(call_with_copies(answer, model, x, y, levels), x)

    def why(otherwise: str) -> Callable[[], str]:
        cut = (
            "Some pixels are one level too dark: .int(), .to(torch.uint8), // and floor cut off, and make 2 of 2.9999998. "
            "Use .round()."
        )
        otherwise = cut if _is_truncated(adv, right) else otherwise
        return lambda: diagnose_mistake(adv, _level_mistakes(model, x, y, levels), otherwise)

    model, levels = _network(SHAPE, CLASSES), 8
    x, y = _pictures(model, 6, SHAPE)

    yield "returns new pictures like x"
    adv, right = made(), _in_whole_levels(model, x, y, levels)

    yield "moves every pixel by so many levels, uphill"
    change = 255 * (adv - x)
    uphill = (change.sign() == (right - x).sign()).float().mean().item()
    what = (
        f"with levels = {levels} the pixels changed by {change.abs().min():.4g} to {change.abs().max():.4g} levels of 255, "
        f"{100 * uphill:.0f} % of them in the direction that makes the loss larger."
    )
    hint = "Add levels / 255 times the sign of the gradient of F.cross_entropy(model(x), y) with respect to x."
    expect(close(adv, right), what, why(hint))

    yield "stays inside [0, 1]: clipped as pixels"
    x, y = _pictures(model, 4, SHAPE, low=-0.05)
    adv, right = made(), _in_whole_levels(model, x, y, levels)
    low, high = adv.min().item(), adv.max().item()
    what = f"pictures with black and white pixels came back with values from {low:.2f} to {high:.2f}."
    hint = (
        "Clip the new picture, after the step, with .clamp(0, 1). Limits such as −2.1 and 2.6, or ±3, are those of "
        "normalised pixels: only the model sees these."
    )
    expect(low >= 0 and high <= 1, what, hint)
    off = 100 * (~torch.isclose(adv, right, atol=1e-5)).float().mean().item()
    what = f"{off:.0f} % of the pixels of pictures with black and white are not where they should be."
    expect(close(adv, right), what, why("Take the step everywhere, then clip the new picture to [0, 1]."))

    yield "makes 8-bit pictures, also with a budget that is no whole number"
    x, y = _pictures(model, 6, SHAPE)
    for levels in (2.5, 3.7, 0.6):
        adv, right = made(), _in_whole_levels(model, x, y, levels)
        off = (255 * adv - (255 * adv).round()).abs().max().item()
        what = (
            f"with levels = {levels} a pixel is {off:.2f} of a level beside the next value that an 8-bit file can hold."
        )
        floor = (
            f"Within {levels} levels a pixel of an 8-bit picture can move by {math.floor(levels)}: math.floor(levels)."
        )
        expect(off < 1e-2, what, f"A file holds k / 255, with whole k. {floor}")
        farthest = 255 * (adv - x).abs().max().item()
        what = f"with levels = {levels} a pixel moved by {farthest:.2f} levels: rounding took it out of the budget."
        expect(
            farthest <= levels + 1e-2, what, f"Round the budget down before the step, not the picture after it. {floor}"
        )
        what = f"with levels = {levels} a pixel moved by {255 * (adv - x).abs().min():.2f} levels."
        expect(close(adv, right), what, why(floor))

    yield "gives a picture alone what it gives it in a batch"
    treats_each_alone(answer, 6, lambda part: (model, x[part], y[part], 3), 1e-5)

    yield "works for other sizes, budgets and numbers of classes"
    model, levels = _network(OTHER_SHAPE, OTHER_CLASSES), 5
    x, y = _pictures(model, 5, OTHER_SHAPE)
    adv, right = made(), _in_whole_levels(model, x, y, levels)
    what = f"for pictures of shape {OTHER_SHAPE}, {OTHER_CLASSES} classes and levels = {levels} the result is another."
    expect(close(adv, right), what, why(ONLY_ARGUMENTS))

    yield "leaves no trace on the model and on x"
    for training in (False, True):
        no_side_effects(answer, "model x y levels", model.train(training), x, y, levels)


# One step towards a target


class _Aim(NamedTuple):
    """What a step towards a target is given."""

    model: nn.Module
    x: Tensor
    target: Tensor
    adv: Tensor
    eps: float
    step_size: float


def _aim(
    shape: tuple[int, ...], classes: int, eps: float, step_size: float, *, low: float = 0.3, reach: float = 0.5
) -> tuple[_Aim, Tensor]:
    """Return a task, and the true labels, which it is not told; adv is up to reach · eps from x."""
    model = _network(shape, classes)
    x, y = _pictures(model, 6, shape, low)
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1
    adv = (x + reach * eps * noise).clamp(0, 1)
    return _Aim(model, x, (y + 2) % classes, adv, eps, step_size), y


def _aimed(task: _Aim, **mistake: object) -> Tensor:
    """Return adv after the right step, before it is put back; keywords as in `_stepped`."""
    return _stepped(task.model, task.adv, task.target, -task.step_size, **mistake)


def _aim_mistakes(task: _Aim, y: Tensor) -> Mistakes:
    model, x, target, adv, eps, step_size = task
    step = _aimed(task)
    right = put_back(step, x, eps)
    truth = "You use the true label. A targeted step is about the label to reach: target."
    ball = "The ball is around x, where the attack began, and not around adv: else every step brings a new ball."
    bare = "Put the picture back into the ball around x, then into [0, 1]. " + TWO_CLAMPS
    around = put_back(step, adv, eps)
    mistakes = [
        (_stepped(model, adv, y, step_size), truth + " You walk away from it, which is the untargeted step."),
        (_stepped(model, adv, y, -step_size), truth),
        (_stepped(model, adv, target, -eps), "Your step has the size eps. One step goes by step_size; eps is the budget for all."),
        (_aimed(task._replace(step_size=1.0)), "Multiply the sign by step_size: alone, it takes every pixel as far as the ball reaches."),
        (_stepped(model, adv, model(x).argmax(1), -step_size), OWN_LABEL.format("target")),
        (_aimed(task._replace(step_size=step_size * eps)), "You multiply step_size by eps. One step goes by step_size."),
        (_aimed(task, at=x), "You take the gradient at x. The attack has come to adv: take it there."),
        (_stepped(model, x, target, -step_size), "You start at x again. The step starts at adv, which has moved already."),
        (_stepped(model, x, target, -step_size, at=adv), "You start at x again. The step starts at adv, which has moved already."),
        *_slips(model, adv, target, -step_size, "adv", "target"),
    ]  # fmt: skip
    yield from ((put_back(wrong, x, eps), hint) for wrong, hint in mistakes)
    yield from (
        (x, "That is x itself. Return adv after its step."),
        (right - x, "That is the change alone. Return the picture: x plus the change."),
        (around, ball),
        (adv + (step - adv).clamp(-eps, eps), ball),
        (step, bare),
        (step.clamp(0, 1), bare),
        (x + (step - x).clamp(-eps, eps), "You keep to the ball, but not to [0, 1]: end with .clamp(0, 1)."),
        (put_back(step, x, 2 * eps), "Your ball is twice as wide: a pixel may be eps away from x, on either side."),
        (put_back(step, x, eps / 255), "eps is in pixels in [0, 1] already: do not divide by 255."),
        (put_back(step, x, step_size), "You clip the change to step_size. The ball around x has the radius eps."),
        (step.clamp(-eps, eps), "You clip adv itself to ±eps, a ball around black. Clip adv - x, and add x."),
    )  # fmt: skip
    yield from (pair for pair in mistakes)


@exercise("targeted_step", takes="(model, x, target, adv, eps, step_size)")
def _targeted_step(answer: Callable) -> Iterator[str]:
    def made() -> Tensor:
        return as_tensor_like(call_with_copies(answer, *task), task.x)

    def right() -> Tensor:
        return put_back(_aimed(task), task.x, task.eps)

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: diagnose_mistake(adv, _aim_mistakes(task, y), otherwise)

    def misplaced() -> str:
        off = 100 * (~torch.isclose(adv, right(), atol=1e-5)).float().mean().item()
        before, got, best = (F.cross_entropy(task.model(v), task.target).item() for v in (task.adv, adv, right()))
        return (
            f"with eps = {task.eps} and step_size = {task.step_size} {off:.0f} % of the pixels are not where they should be: "
            f"the loss of the target went from {before:.3g} to {got:.3g}, and not to {best:.3g}."
        )

    yield "returns new pictures like x"
    task, y = _aim(SHAPE, CLASSES, 0.1, 0.02)
    adv = made()

    yield "moves adv by step_size, down the loss of the target"
    hint = (
        "Subtract step_size times the sign of the gradient of F.cross_entropy(model(adv), target) with respect to adv."
    )
    expect(close(adv, right()), misplaced(), why(hint))

    yield "stays within eps of x, wherever adv has come to"
    task, y = _aim(SHAPE, CLASSES, 0.05, 0.07, reach=1.0)
    adv = made()
    farthest = (adv - task.x).abs().max().item()
    what = f"with eps = {task.eps} a pixel ends {farthest:.3g} away from x."
    expect(farthest <= task.eps + 1e-6, what, why("After the step: x + (adv - x).clamp(-eps, eps)."))
    expect(close(adv, right()), misplaced(), why(TWO_CLAMPS))

    yield "stays inside [0, 1]"
    task, y = _aim(SHAPE, CLASSES, 0.1, 0.06, low=-0.05)
    adv = made()
    what = f"pictures with black and white pixels came back with values from {adv.min():.2f} to {adv.max():.2f}."
    hint = "After the ball comes the box: end with .clamp(0, 1). It holds for pixels, whatever the model makes of them inside."
    expect(adv.min() >= 0 and adv.max() <= 1, what, hint)
    expect(close(adv, right()), misplaced(), why(TWO_CLAMPS))

    yield "gives a picture alone what it gives it in a batch"
    model, x, target, start, *sizes = task
    treats_each_alone(answer, 6, lambda part: (model, x[part], target[part], start[part], *sizes), 1e-5)

    yield "works for other sizes, budgets and numbers of classes"
    task, y = _aim(OTHER_SHAPE, OTHER_CLASSES, 0.03, 0.01, reach=0.9)
    adv = made()
    expect(close(adv, right()), misplaced(), why(ONLY_ARGUMENTS))

    yield "leaves no trace on the model, on x and on adv"
    for training in (False, True):
        task.model.train(training)
        no_side_effects(answer, "model x target adv eps step_size", *task)


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


class _Scene(NamedTuple):
    """What the gradient of an expectation is asked of."""

    model: nn.Module
    x: Tensor
    y: Tensor
    samples: int


def _scene(n: int, shape: tuple[int, ...], classes: int, samples: int) -> _Scene:
    model = smooth_network(SEED, shape, classes, spread=0.6)
    return _Scene(model, *labelled_images(model, n, shape, 0.0), samples)


def _expected_gradient(scene: _Scene, draws: _Draws, loss: Callable = F.cross_entropy) -> Tensor:
    """Return the gradient with respect to x of the loss, summed over the views and divided by samples."""
    x = scene.x.clone().requires_grad_()
    logits = scene.model(_view(x[draws.image], draws.shift, draws.light))
    return torch.autograd.grad(loss(logits, scene.y[draws.image], reduction="sum") / scene.samples, x)[0]


def _pooled_gradient(scene: _Scene, draws: _Draws, pool: str) -> Tensor:
    """Return the gradient of one loss per image, that of the mean view, mean logits or mean probabilities."""
    x = scene.x.clone().requires_grad_()

    def mean(values: Tensor) -> Tensor:
        total = torch.zeros(len(x), *values.shape[1:]).index_add(0, draws.image, values)
        return total / scene.samples

    views = _view(x[draws.image], draws.shift, draws.light)
    logits = {
        "view": lambda: scene.model(mean(views)),
        "logits": lambda: mean(scene.model(views)),
        "probabilities": lambda: mean(scene.model(views).softmax(1)).log(),
    }[pool]()
    return torch.autograd.grad(F.cross_entropy(logits, scene.y, reduction="sum"), x)[0]


def _last_of_each(draws: _Draws, count: int, place: int) -> _Draws:
    """Return each image's draw at a place, such as 0 or -1."""
    rows = torch.stack([(draws.image == i).nonzero()[place, 0] for i in range(count)])
    return _Draws(*(part[rows] for part in draws))


def _expectation_mistakes(scene: _Scene, draws: _Draws) -> Mistakes:
    model, x, y, samples = scene
    right, count = _expected_gradient(scene, draws), len(x)
    views = _view(x[draws.image], draws.shift, draws.light)
    of_views = loss_gradient(model, views, y[draws.image])
    at_views = torch.zeros_like(x).index_add(0, draws.image, of_views) / samples
    one = scene._replace(samples=1)
    first, last = (_expected_gradient(one, _last_of_each(draws, count, place)) for place in (0, -1))
    chain = (
        "That is the gradient with respect to the transformed image. Its pixels are not those of x: call requires_grad_() "
        "on x, then transform, so that the gradient comes back through the transformation."
    )
    batch = "Each image has a loss of its own: F.cross_entropy takes the mean over the batch, unless reduction='sum'."
    total = "You add the gradients up. Divide by samples: the mean is the expectation."
    single = "Only one view counts, the {}. Add the gradients up over all samples, then divide by samples."
    many = "You take one loss of the mean {}. The expectation is over the loss: average the losses, or their gradients."
    own = scene._replace(y=model(x).argmax(1))
    scales = [
        (1, ""),
        (samples, total),
        (1 / count, batch),
        (samples / count, total + " And mind the mean over the batch: reduction='sum'."),
        (1 / samples, "You divide by samples twice."),
        (-1, "The sign is wrong: the gradient points to where the loss grows."),
    ]
    wrongs = [
        (right, ""),
        (at_views, chain),
        (first, single.format("first")),
        (last, single.format("last")),
        (_pooled_gradient(scene, draws, "view"), many.format("view")),
        (_pooled_gradient(scene, draws, "logits"), many.format("of the logits")),
        (_pooled_gradient(scene, draws, "probabilities"), many.format("of the probabilities")),
        (loss_gradient(model, x, y), "You differentiate the loss of x itself. Differentiate F.cross_entropy(model(transformation(x)), y)."),
        (_expected_gradient(own, draws), OWN_LABEL.format("y")),
        (_expected_gradient(scene, draws, softmaxed), "Give F.cross_entropy the logits as they are: it takes the softmax by itself."),
        (_expected_gradient(scene, draws, F.nll_loss), "F.nll_loss wants log-probabilities. Take F.cross_entropy."),
    ]  # fmt: skip
    for scale, also in scales:
        yield from ((scale * wrong, f"{hint} {also}".strip()) for wrong, hint in wrongs if hint or also)
    yield right.sign(), "Return the gradient itself; its sign is for the step that an attack takes later."


@exercise("eot_gradient", takes="(model, x, y, transformation, samples)")
def _eot_gradient(answer: Callable) -> Iterator[str]:
    def made() -> tuple[Tensor, _Camera]:
        camera = _Camera(scene.x)
        gradient = call_with_copies(answer, scene.model, scene.x, scene.y, camera, scene.samples)
        return as_tensor_like(gradient, scene.x), camera

    def is_mean(hint: str) -> None:
        """Refuse what is no mean over the views that were taken."""
        got, camera = made()
        right = _expected_gradient(scene, camera.draws())
        off = ((got - right).norm() / right.norm()).item()
        what = f"with samples = {scene.samples} the gradient is {100 * off:.0f} % off."
        expect(
            close(got, right, 1e-5),
            what,
            lambda: diagnose_mistake(got, _expectation_mistakes(scene, camera.draws()), hint),
        )

    def takes_its_views() -> None:
        """Refuse views of something else than x, too many or too few of them, or twice the same."""
        _, camera = made()
        what = f"{camera.strangers} of the images that it transformed were not images of x."
        hint = (
            "Every sample starts at x itself: do not overwrite x with its view, or the next sample is a view of a view."
        )
        expect(camera.strangers == 0, what, hint)
        expect(camera.taken, "it never called transformation.", "In every sample: model(transformation(x)).")
        draws = camera.draws()
        numbers = torch.bincount(draws.image, minlength=len(scene.x))
        what = f"with samples = {scene.samples} the views of each image number {sorted(set(numbers.tolist()))}."
        hint = "Call transformation(x) once for every sample, inside the loop: each call is a new draw."
        expect((numbers == scene.samples).all(), what, hint)
        apart = all(len(draws.light[draws.image == i].unique()) == scene.samples for i in range(len(scene.x)))
        hint = "Do not seed a random stream in your function: it would start again with every sample."
        expect(apart, "the same draw came more than once.", hint)

    yield "returns a gradient like x"
    scene = _scene(5, SHAPE, CLASSES, 1)
    made()

    yield "samples = 1: differentiates through the transformation, back to x"
    takes_its_views()
    is_mean(
        "x = x.clone().detach().requires_grad_(), then differentiate F.cross_entropy(model(transformation(x)), y) by x."
    )

    yield "draws anew for every sample"
    scene = scene._replace(samples=6)
    takes_its_views()

    yield "is the mean of the samples' gradients"
    is_mean("Add up the gradients of all samples, and divide by samples.")

    yield "works for other sizes and numbers of classes, and for a single image"
    for count in (4, 1):
        scene = _scene(count, OTHER_SHAPE, OTHER_CLASSES, 3)
        takes_its_views()
        is_mean(ONLY_ARGUMENTS)

    yield "leaves no trace on the model and on x"
    for training in (False, True):
        model, x, y, samples = scene
        no_side_effects(answer, "model x y transformation samples", model.train(training), x, y, _Camera(x), samples)


# What survives a JPEG file


class _Sharp(nn.Module):
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
        what = (
            f"with eps = {255 * eps:g}/255 {before} of {len(x)} pictures fool the model as they are, and {after} after a JPEG "
            f"file of quality 75. At least {math.ceil(share * len(x))} should."
        )
        if before >= share * len(x):
            hint = (
                "Your change is too fine for JPEG, which keeps large shapes and drops detail. Let the attack see what the "
                "model will see: differentiate the loss of model(attacks.jpeg(adv)), in every step."
            )
        expect(after >= share * len(x), what, hint)

    model, eps = _Sharp((3, 32, 32), 4).eval(), 4 / 255
    x, y = model.pictures(8)

    yield "returns new pictures like x"
    adv = made()

    yield "stays within eps of x"
    farthest = 255 * (adv - x).abs().max().item()
    what = f"with eps = {255 * eps:g}/255 a pixel is {farthest:.3g}/255 away from x."
    hint = (
        "What you return keeps to the budget, and it is JPEG that has to live with it: x + (adv - x).clamp(-eps, eps) "
        "comes last. The picture that JPEG gives back is no answer: JPEG alone moves pixels farther than that."
    )
    expect(farthest <= 255 * eps + 1e-3, what, hint)

    yield "stays inside [0, 1]"
    bright = (2 * x).clamp(0, 1)
    shown = as_tensor_like(call_with_copies(answer, model, bright, y, eps), x)
    what = f"pictures with black and white pixels came back with values from {shown.min():.3f} to {shown.max():.3f}."
    expect(shown.min() >= 0 and shown.max() <= 1, what, "Clip to the ball first, then .clamp(0, 1).")

    yield "fools the model after JPEG of quality 75"
    survives(
        0.75, "Too few fool the model, even without JPEG: start from PGD, uphill on the loss of y, with all of eps."
    )

    yield "does so for other sizes, numbers of classes and budgets"
    model, eps = _Sharp((3, 24, 40), 3).eval(), 5 / 255
    x, y = model.pictures(6)
    adv = made()
    expect((adv - x).abs().max() <= eps + 1e-5, "with another eps a pixel moved by more than eps.", ONLY_ARGUMENTS)
    survives(0.75, ONLY_ARGUMENTS)

    yield "leaves no trace on the model and on x"
    no_side_effects(answer, "model x y eps", model, x, y, eps)
