"""Exercises of chapter 05: attacks on a model whose gradient nobody shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks import mi_fgsm, neighbour_attack
from ..models import ensemble_logits
from ..training import jacobian_augmentation
from . import inputs, mistakes
from .engine import expect
from .exercise import Case, Exercise, Property
from .mistakes import Mistake, gradient_step, l2_norm, max_normalized, pgd, project
from .properties import as_tensor_like, broadcast_like, call_with_copies, loss_gradient, norms

ONLY_ARGUMENTS = mistakes.ONLY_ARGUMENTS.format("sizes and numbers")
NO_SLOPE = "Where the gradient is 0, its sign is 0, too: the pixel stays as it is."


# --- neighbour_step ---------------------------------------------------------------------------------------------------


def _labelled(eps: float, n: int = 6, m: int = 30, shape: tuple[int, ...] = inputs.SHAPE, classes: int = 3) -> tuple:
    """Return n images to attack with their labels, m labelled training images, and eps."""
    generator = torch.Generator().manual_seed(m)
    x, x_train = (torch.rand(count, *shape, generator=generator) for count in (n, m))
    bright = torch.rand(m, generator=generator) < 0.5
    x_train[bright] = x_train[bright].sqrt()  # so that other distances find other neighbours
    x_train[: min(n, m) : 2] = (x[:m:2] + 0.02 * x_train[: min(n, m) : 2]).clamp(0, 1)  # near, and with the same label
    return x, torch.arange(n) % classes, x_train, torch.arange(m) % classes, eps


def _neighbour(
    x: Tensor, y: Tensor, x_train: Tensor, y_train: Tensor, distance: Callable = torch.cdist, allowed: Callable = torch.ne, otherwise: Callable = lambda distances: math.inf, pick: Callable = torch.argmin
) -> Tensor:  # fmt: skip
    """Return the nearest training image with another label, or another one.

    Args:
        distance: from rows of pixels to others, (N, M). allowed: which labels may be gone to, from both.
        otherwise: the distances that the others get, from those that they have. pick: the place of the one to go to, from the distances.
    """
    distances = distance(x.flatten(1), x_train.flatten(1))
    distances = torch.where(allowed(y[:, None], y_train[None]), distances, otherwise(distances))
    return x_train[pick(distances, dim=1)]


def _moved(
    limit: Callable = lambda change, eps: change.clamp(-eps, eps), goal: Callable = _neighbour
) -> Callable[..., Tensor]:
    """Return an answer that goes to another image, or limits the change in another way."""
    return lambda x, y, x_train, y_train, eps: x + limit(goal(x, y, x_train, y_train) - x, eps)


def _neighbour_step(x: Tensor, y: Tensor, x_train: Tensor, y_train: Tensor, eps: float) -> Tensor:
    return _moved()(x, y, x_train, y_train, eps)


def _class_mean(x: Tensor, y: Tensor, x_train: Tensor, y_train: Tensor) -> Tensor:
    means = torch.stack([x_train[y_train == k].mean(0) for k in y_train.unique()])
    return _neighbour(x, y, means, y_train.unique())


def _misnumbered(x: Tensor, y: Tensor, x_train: Tensor, y_train: Tensor) -> Tensor:
    changes = [x_train[y_train != label] - image for image, label in zip(x, y, strict=True)]
    return torch.stack([x_train[norms(change).argmin()] for change in changes])


def _to(words: str, *goals: Callable[..., Tensor]) -> list[Mistake]:
    """Return the mistake of going to another image, with the limit and without it."""
    farther = words + " And no pixel may move by more than eps."
    whole = [_moved(lambda change, eps: change, goal) for goal in goals]
    return [Mistake(words, *(_moved(goal=goal) for goal in goals)), Mistake(farther, *whole)]


EACH = "Each pixel has a limit of its own: clamp the change neighbour - x."
EUCLIDEAN = "The classifier measures the Euclidean distance: the root of the sum of squares."
Exercise(
    "neighbour_step",
    reference=_neighbour_step,
    cases=[
        Case("goes to the nearest image with another label", [partial(_labelled, 1.0)], "With eps = 1 the result is the neighbour itself: the training image at the smallest distance, over all pixels, among those with another label."),
        Case("no pixel moves by more than eps, or beyond its value in that image", [partial(_labelled, 0.2)], "A pixel goes to its value in the neighbour, but by no more than eps. " + EACH),
        Case("eps = 0 changes nothing", [partial(_labelled, 0.0)], "Use the eps that is passed in."),
        Case("works for other numbers and sizes of images", [partial(_labelled, 0.1, 5, 6, inputs.OTHER_SHAPE, 2), partial(_labelled, 0.1, 1, 12, (1, 28, 28), 10), partial(_labelled, 0.1, 3, 60, (1, 2, 2), 5)], ONLY_ARGUMENTS),
    ],
    mistakes=[
        Mistake("Nothing changed. Add the clamped change to x, and return that.", lambda x, *_: x),
        Mistake("That is the neighbour itself. No pixel may move by more than eps.", _moved(lambda c, eps: c)),
        Mistake(mistakes.CHANGE_ALONE.format("clamped "), lambda x, *rest: _neighbour_step(x, *rest) - x),
        Mistake(mistakes.CHANGE_ALONE.format(""), lambda x, *rest: _neighbour(x, *rest[:3]) - x),
        Mistake("Pixels overshoot the neighbour's: one that is closer to it than eps goes only that far. Clamp the change, do not take its sign.", _moved(lambda c, eps: eps * c.sign()), lambda *given: _moved(lambda c, eps: eps * c.sign())(*given).clamp(0, 1)),
        Mistake("You move away from the neighbour: the change is neighbour - x, not x - neighbour.", _moved(lambda c, eps: -c.clamp(-eps, eps)), lambda *given: _moved(lambda c, eps: -c.clamp(-eps, eps))(*given).clamp(0, 1)),
        Mistake("You go the share eps of the way. " + EACH, _moved(lambda c, eps: eps * c)),
        Mistake("You limit the Euclidean length of the change. " + EACH, _moved(lambda c, eps: c * (eps / l2_norm(c)).clamp(max=1)), _moved(lambda c, eps: eps * c / l2_norm(c))),
        Mistake("You shrink the whole change. " + EACH, _moved(lambda c, eps: c * (eps / broadcast_like(c.abs().flatten(1).amax(1))).clamp(max=1)), _moved(lambda c, eps: eps * max_normalized(c))),
        Mistake("Clamp the change at both ends, from −eps to eps.", _moved(lambda c, eps: c.clamp(max=eps)), _moved(lambda c, eps: c.clamp(min=-eps))),
        Mistake("Every step down is lost: clamp the change from −eps to eps.", _moved(lambda c, eps: c.clamp(0, eps))),
        Mistake("You mixed up what limits what: the result is no farther than eps from the neighbour. It may be no farther than eps from x.", _moved(lambda c, eps: c - c.clamp(-eps, eps))),
        Mistake("A pixel that is farther than eps from the neighbour's stays as it is. It moves as well, by eps.", _moved(lambda c, eps: torch.where(c.abs() > eps, 0, c))),
        Mistake("You clamp the neighbour, and not the change neighbour - x. Then add x.", lambda x, y, x_train, y_train, eps: _neighbour(x, y, x_train, y_train).clamp(-eps, eps), lambda x, y, x_train, y_train, eps: x + _neighbour(x, y, x_train, y_train).clamp(-eps, eps)),
        *_to("You go to the nearest of all training images, whatever its label. Those with the label y must not win.", partial(_neighbour, allowed=lambda a, b: (a == b) | (a != b))),
        *_to("You go to the nearest image with the same label. The mask is the wrong way round.", partial(_neighbour, allowed=torch.eq)),
        *_to("You go to the first image with the same label. What must not win needs an infinite distance, not a small one, and the smallest wins: argmin.", *(partial(_neighbour, otherwise=lambda d, low=low: low) for low in (0.0, 1.0)), partial(_neighbour, pick=torch.argmax)),
        *_to("A label that agrees makes the distance larger, but not large enough. It must be infinite.", *(partial(_neighbour, otherwise=lambda d, more=more: d + more) for more in (1, 10))),
        *_to("You go to the farthest image with another label: argmin, not argmax.", partial(_neighbour, otherwise=lambda d: -math.inf, pick=torch.argmax)),
        *_to("You sum the absolute differences. " + EUCLIDEAN, partial(_neighbour, distance=lambda a, b: torch.cdist(a, b, p=1.0))),
        *_to("You take the largest difference of a pixel. " + EUCLIDEAN, partial(_neighbour, distance=lambda a, b: torch.cdist(a, b, p=math.inf))),
        *_to("You measure the angle between the images. " + EUCLIDEAN, partial(_neighbour, distance=lambda a, b: -F.normalize(a) @ F.normalize(b).T), partial(_neighbour, distance=lambda a, b: -a @ b.T)),
        *_to("You add up differences with their signs, which cancel. " + EUCLIDEAN, partial(_neighbour, distance=lambda a, b: (a.sum(1)[:, None] - b.sum(1)).abs())),
        *_to("You measure the training images alone. Measure the distance to each x.", partial(_neighbour, distance=lambda a, b: b.norm(dim=1).expand(len(a), -1))),
        *_to("All images go to one and the same neighbour. Each has its own, and a row of distances of its own.", lambda *given: _neighbour(*given)[:1].expand_as(given[0])),
        *_to("You use the label of the first image for all of them. Each image has its own.", lambda x, y, *known: _neighbour(x, y[:1].expand(len(y)), *known)),
        *_to("The number from argmin counts among the images with another label. Take the image from these, and not from all of x_train.", _misnumbered),
        *_to("You go to the first training image with another label. Go to the nearest.", partial(_neighbour, distance=lambda a, b: torch.zeros(len(a), len(b)))),
        *_to("You go to the mean image of another class. The classifier knows single images: go to the nearest of them.", _class_mean),
    ],
    batched=("x", "y"),
    untouched=("x", "y", "x_train", "y_train"),
    library=(neighbour_attack,),
).register()  # fmt: skip


# --- log_mean_probability ---------------------------------------------------------------------------------------------


def _random_logits(models: int, n: int, classes: int) -> tuple[list[Tensor]]:
    generator = torch.Generator().manual_seed(models)
    return ([*(3 * torch.randn(models, n, classes, generator=generator))],)


def _large_logits() -> tuple[list[Tensor]]:
    one = [[1000.0, 0.0, -1000.0, 0.0], [1000.0, 0.0, -500.0, -700.0], [900.0, 500.0, -800.0, 0.0]]
    other = [[0.0, 0.0, 0.0, 0.0], [-1000.0, 1000.0, 1000.0, 0.0], [0.0, -1000.0, 0.0, 1000.0]]
    return ([torch.tensor(model) for model in zip(one, other, strict=True)],)


def _stacked(combine: Callable[[Tensor], Tensor]) -> Callable[[list[Tensor]], Tensor]:
    """Return an answer that works on all logits in one tensor, (models, N, K)."""
    return lambda logits: combine(torch.stack(logits))


def _log_mean(logits: list[Tensor]) -> Tensor:
    logs = torch.stack(logits).double().log_softmax(2)
    return (logs.logsumexp(0) - math.log(len(logits))).to(logits[0])


def _shifted(shift: Callable[[Tensor], float]) -> Callable[[list[Tensor]], Tensor]:
    """Return an answer that subtracts another number from the logarithm of the sum; `shift` gets all logits."""
    return _stacked(lambda z: z.log_softmax(2).logsumexp(0) - shift(z))


def _value_and_gradient(answer: Callable, logits: list[Tensor]) -> dict[str, Tensor]:
    """Return what the answer gives, (N, K), and the gradient of its weighted sum by the logits, (models, N, K)."""
    value = call_with_copies(answer, logits)
    finite = not isinstance(value, Tensor) or value.isfinite().all()
    expect(finite, "the result contains NaN or infinite values.", LEFT_LOGARITHMS)
    value = as_tensor_like(value, logits[0], "each model's logits")
    leaves = [z.clone().requires_grad_() for z in logits]
    with torch.enable_grad():
        result = answer([z * 1 for z in leaves])  # no leaves, so that a change in place is left to the last property
        total = (result * torch.arange(1.0, 1 + value.numel()).view_as(value)).mean()
    slopes = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else [None] * len(leaves)
    slopes = [torch.zeros_like(z) if slope is None else slope for z, slope in zip(leaves, slopes, strict=True)]
    return {
        "the result": value,
        "its gradient": torch.stack(slopes).nan_to_num(9.0),
    }  # a NaN would not even equal itself


LAST = "The average is over probabilities: the logarithm comes last."
LEFT_LOGARITHMS = "exp(−1000) rounds to 0, whose logarithm is −inf, and exp(1000) is inf; a small number added or a limit before the logarithm is wrong as well. Stay with logarithms all the way: torch knows the logarithm of a softmax and that of a sum of exp."
Exercise(
    "log_mean_probability",
    reference=_log_mean,
    cases=[
        Case("is the logarithm of the mean of the models' probabilities, with a gradient for every model", [partial(_random_logits, 3, 5, 4)], "Each model's logits become probabilities by themselves, then comes the mean over the models, and last the logarithm; an attack differentiates all of it."),
        Case("is right for logits such as 1000 and −1000", [_large_logits], LEFT_LOGARITHMS),
        Case("works for any number of models, images and classes", [partial(_random_logits, *sizes) for sizes in ((1, 4, 6), (2, 1, 10), (5, 7, 2))], ONLY_ARGUMENTS),
    ],
    mistakes=[
        Mistake("That is the mean of the probabilities. Return its logarithm.", _stacked(lambda z: z.softmax(2).mean(0))),
        Mistake("That is the sum of the probabilities. Take the mean, and return its logarithm.", _stacked(lambda z: z.softmax(2).sum(0))),
        Mistake("You average the logits. Each model's logits become probabilities first. " + LAST, _stacked(lambda z: z.mean(0)), _stacked(lambda z: z.mean(0).log_softmax(1)), _stacked(lambda z: z.mean(0).softmax(1))),
        Mistake("You add the logits. Each model's logits become probabilities first. " + LAST, _stacked(lambda z: z.sum(0).log_softmax(1)), _stacked(lambda z: z.sum(0))),
        Mistake("You average the log-probabilities, which gives the geometric mean. " + LAST, _stacked(lambda z: z.log_softmax(2).mean(0))),
        Mistake("You add the log-probabilities, which multiplies the probabilities. " + LAST, _stacked(lambda z: z.log_softmax(2).sum(0))),
        Mistake("That is the logarithm of the sum. To divide by the number of models, subtract its logarithm.", _shifted(lambda z: 0.0)),
        Mistake("To divide by the number of models, subtract its logarithm; you add it.", _shifted(lambda z: -math.log(len(z)))),
        Mistake("Divide inside the logarithm: there a division is a subtraction of logarithms.", _stacked(lambda z: z.log_softmax(2).logsumexp(0) / len(z))),
        Mistake("Subtract the logarithm of the number of models, not the number itself.", _shifted(len)),
        Mistake("Use the natural logarithm, as math.log and torch.log are.", _shifted(lambda z: math.log2(len(z))), _shifted(lambda z: math.log10(len(z))), _stacked(lambda z: z.softmax(2).mean(0).log2()), _stacked(lambda z: z.softmax(2).mean(0).log10())),
        Mistake("Divide by the number of models, not by that of the images or classes.", _shifted(lambda z: math.log(z.shape[1])), _shifted(lambda z: math.log(z.shape[2]))),
        Mistake("Those are logits, not log-probabilities: each model's log-softmax over the classes comes first.", _stacked(lambda z: z.logsumexp(0) - math.log(len(z))), _stacked(lambda z: z.logsumexp(0)), _stacked(lambda z: z.exp().mean(0).log())),
        Mistake("You take logits for log-probabilities, and the softmax last. Each model's softmax comes before the mean.", _stacked(lambda z: z.logsumexp(0).log_softmax(1))),
        Mistake("You take the softmax twice: log_softmax wants logits, not probabilities.", _stacked(lambda z: z.softmax(2).mean(0).log_softmax(1)), _stacked(lambda z: z.softmax(2).log_softmax(2).logsumexp(0) - math.log(len(z)))),
        Mistake("That is the sigmoid of each logit alone. The probabilities of all classes add up to 1: take the softmax.", _stacked(lambda z: F.logsigmoid(z).logsumexp(0) - math.log(len(z)))),
        Mistake("That is the most confident model for each class. Take the mean over the models.", _stacked(lambda z: z.log_softmax(2).amax(0))),
        Mistake("The sign is wrong: logarithms of probabilities are negative.", lambda logits: -_log_mean(logits)),
        Mistake("Your softmax runs over the images. In (N, K) the classes are dimension 1.", _stacked(lambda z: z.log_softmax(1).logsumexp(0) - math.log(len(z)))),
        Mistake("Your softmax runs over the models. In (N, K) the classes are dimension 1; stacked, they are dimension 2.", _stacked(lambda z: z.log_softmax(0).logsumexp(0) - math.log(len(z)))),
        Mistake("That is one model's answer alone. Use all the models in the list.", lambda logits: logits[0].log_softmax(1), lambda logits: logits[-1].log_softmax(1)),
        Mistake("The result carries no gradient back to some of the logits: no .detach(), .data, .item(), NumPy or torch.no_grad() on the way.", torch.no_grad()(_log_mean), lambda logits: _log_mean([logits[0], *(z.detach() for z in logits[1:])])),
        Mistake(LEFT_LOGARITHMS, _stacked(lambda z: z.softmax(2).mean(0).log()), *(_stacked(lambda z, tiny=tiny: (z.softmax(2).mean(0) + tiny).log()) for tiny in (1e-12, 1e-30)), *(_stacked(lambda z, tiny=tiny: z.softmax(2).mean(0).clamp_min(tiny).log()) for tiny in (1e-12, 1e-30)), _stacked(lambda z: (z.softmax(2) + 1e-12).log().logsumexp(0) - math.log(len(z)))),
    ],
    like="logits",
    untouched=("logits",),
    returns="one number for each image and class",
    observe=_value_and_gradient,
    tolerance=1e-3,
    library=(ensemble_logits,),
).register()  # fmt: skip


# --- jacobian_augment -------------------------------------------------------------------------------------------------


def _attacked(
    *numbers: float, n: int = 6, sizes: tuple = (inputs.SHAPE, inputs.CLASSES), low: float = 0.3, blind: int = 0, scale: float = 1.0, plateau: bool = False, misread: bool = False
) -> tuple[Any, ...]:  # fmt: skip
    """Return a model, n labelled images, and the numbers that an attack takes.

    Args:
        low: as in `labelled_images`, 0 for black and white ones. blind: pixels at which the model does not look.
        scale: of the logits. plateau: the model has slopes in a narrow band only, and is flat on both sides.
        misread: only images that the model reads wrongly.
    """
    model = inputs.unsaturated_network(*sizes)
    model[1].weight.data[:, :blind] = 0.0
    if plateau:
        model[1].weight.data[:], model[1].bias.data[:], model[2] = model[1].weight[:1], model[1].bias[:1], nn.Hardtanh()
    draw = inputs.labelled_images if low else inputs.black_and_white_images
    x, y = draw(model, n, sizes[0])
    for parameter in model[3].parameters():
        parameter.data *= scale
    first = 2 if misread else 0
    return model, x[first:], y[first:], *numbers


def _logit(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    return logits.gather(1, labels[:, None]).sum()


def _margin(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    others = logits.scatter(1, labels[:, None], -math.inf)
    return _logit(logits, labels, reduction) - others.amax(1).sum()


def _points(size: Callable = lambda lam: lam, at: Callable | None = None, **mistake: Any) -> tuple[Callable, Callable]:
    """Return answers that go to other points, clipped and not.

    Args:
        size: of the step, from lam. at: labels from logits. mistake: keywords of `gradient_step`.
    """

    def answer(model: nn.Module, x: Tensor, labels: Tensor, lam: float) -> Tensor:
        labels = at(model(x)) if at else labels
        return gradient_step(model, x, labels, size(lam), **{"loss": _logit, **mistake})

    return lambda *given: answer(*given).clamp(0, 1), answer


def _jacobian_augment(model: nn.Module, x: Tensor, labels: Tensor, lam: float) -> Tensor:
    return gradient_step(model, x, labels, lam, loss=_logit).clamp(0, 1)


OF_LOSS = "You differentiate the cross-entropy or the probability, which mix in the other logits. Differentiate the logit of the label alone."
OWN = "You use the model's own prediction. Use the labels that were passed in: the black box has given them."
Exercise(
    "jacobian_augment",
    reference=_jacobian_augment,
    cases=[
        Case("moves every pixel by lam, along the gradient of the logit of the label", [partial(_attacked, 0.1)], "Differentiate the entry of model(x) that belongs to the label, with respect to x; the new point is x plus lam times the sign."),
        Case("goes the other way for a negative lam, and nowhere for 0", [partial(_attacked, -0.05), partial(_attacked, 0.0)], "Use the lam that is passed in, with its sign, and not a number of your own."),
        Case("stays inside [0, 1]", [partial(_attacked, 0.3, n=4, low=0.0)], "There is nothing blacker than 0 or whiter than 1. Take the step everywhere, then clip the new point, and not the change."),
        Case("leaves a pixel as it is that the logit does not depend on", [partial(_attacked, 0.1, blind=9)], NO_SLOPE),
        Case("takes the whole step where the gradient is small", [partial(_attacked, 0.1, scale=1e-13)], "Only the sign of the gradient counts, however small it is."),
        Case("works for other sizes of images and numbers of classes", [partial(_attacked, 0.1, n=5, sizes=(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES))], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("Nothing changed. Return the new points, x plus lam times the sign of the gradient.", lambda model, x, *_: x),
        Mistake("Return the new points only, one for each of x: no torch.cat with x. The caller puts them together.", *(lambda model, x, *rest, join=join: join([x, _jacobian_augment(model, x, *rest)]) for join in (torch.cat, torch.stack))),
        Mistake("You step the wrong way: add lam times the sign of the logit's gradient.", *_points(scale=-1)),
        Mistake("lam may be negative, and then the step goes the other way: no abs, no clamp of lam.", *_points(abs), *_points(lambda lam: max(lam, 0.0))),
        Mistake(OF_LOSS, *_points(loss=F.cross_entropy), *_points(loss=F.cross_entropy, scale=-1)),
        Mistake("You differentiate the margin, the logit of the label minus the largest other one. Differentiate the logit of the label alone.", *_points(loss=_margin), *_points(loss=_margin, scale=-1)),
        Mistake(OWN, *_points(at=lambda z: z.argmax(1)), *_points(at=lambda z: z.argmax(1), scale=-1)),
        Mistake(OWN + " And differentiate the logit, not the loss.", *_points(loss=mistakes.of_prediction), *_points(loss=mistakes.of_prediction, scale=-1)),
        Mistake("You differentiate the logit of the least likely class. Use the labels that were passed in.", *_points(at=lambda z: z.argmin(1))),
        Mistake("You differentiate the sum of all logits, or the first one. Pick the one of the label.", *_points(loss=lambda z, y, reduction: z.sum()), *_points(loss=lambda z, y, reduction: z[:, 0].sum())),
        Mistake("model(x)[:, labels] picks the logits of all labels for every image. Pick one for each.", *_points(loss=lambda z, y, reduction: z[:, y].sum())),
        Mistake("Only one image has moved. Sum the logits of all images before you differentiate.", *_points(loss=lambda z, y, reduction: z[0, y[0]])),
        Mistake("Did you forget to multiply by lam? The sign alone has size 1.", *_points(lambda lam: 1.0)),
        Mistake("You multiply by lam twice.", *_points(lambda lam: lam * lam)),
        *mistakes.sign_mistakes(lambda **mistake: _points(**mistake)[0], "lam"),
        Mistake("You divide the gradient by its absolute value plus a small number, which shortens the step where the gradient is small: take its sign.", *(_points(move=lambda g, tiny=tiny: g / (g.abs() + tiny))[0] for tiny in (1e-6, 1e-8, 1e-12))),
        Mistake(NO_SLOPE + " No comparison with 0 says that.", *_points(move=lambda g: torch.where(g > 0, 1.0, -1.0)), *_points(move=lambda g: torch.where(g >= 0, 1.0, -1.0))),
        Mistake("That is the change alone. Return the new points: x plus lam times the sign.", lambda model, x, *rest: _points()[1](model, x, *rest) - x, lambda model, x, *rest: (_points()[1](model, x, *rest) - x).clamp(0, 1)),
        Mistake("That is the gradient, or its sign. Return the new points: x plus lam times the sign.", lambda model, x, labels, lam: loss_gradient(model, x, labels, _logit), lambda model, x, labels, lam: loss_gradient(model, x, labels, _logit).sign()),
        Mistake("The new points leave [0, 1]: clip them, at both ends.", _points()[1], lambda *given: _points()[1](*given).clamp_min(0), lambda *given: _points()[1](*given).clamp_max(1)),
        Mistake("Every step down is lost: clip the new point to [0, 1], and not the step.", *_points(move=lambda g: g.sign().clamp(0, 1))),
    ],
    batched=("x", "labels"),
    untouched=("model", "x", "labels"),
    returns="one new point for each of x",
    library=(jacobian_augmentation,),
).register()  # fmt: skip


# --- to_boundary ------------------------------------------------------------------------------------------------------


class _Counting(nn.Module):
    """A model of which only the labels can be used: its logits are 0 and 1. It counts the images that it is shown."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.asked = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        logits = self.model(x)
        return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits)


def _way(steps: int, n: int = 8, sizes: tuple = (inputs.SHAPE, inputs.CLASSES), seed: int = 5) -> tuple[Any, ...]:
    """Return a model, n images with the labels that it gives, starts with other labels, and a number of halvings."""
    shape, classes = sizes
    model, generator = inputs.smooth_network(seed, shape, classes), torch.Generator().manual_seed(seed)
    some = torch.rand(40 * n, *shape, generator=generator)
    with torch.no_grad():
        labels = model(some).argmax(1)
    x, y = some[:n], labels[:n]
    starts = [some[n:][labels[n:] != label][i] for i, label in enumerate(y)]
    return model, x, y, torch.stack(starts), steps


def _halving(
    *, update: Callable | None = None, wrong: Callable | None = None, finish: Callable = lambda low, high, middle: high, count: Callable = lambda steps: steps,
    point: Callable = lambda x, start, share: x + share * (start - x), middle: Callable = lambda low, high, number: (low + high) / 2, end: Callable | None = None,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return the right answer, or one that makes mistakes.

    Args:
        update: the new ends, from where the label is wrong, both ends and the middle. wrong: that, from the model's labels
            and y. finish: the share that is returned, from both ends and the last middle. count: of halvings.
        point: from x, start and a share. middle: the share that is tried, from both ends and the number of the step.
        end: what is returned, from x, start and the share; default the point.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, steps: int) -> Tensor:
        low, high = x.new_zeros(len(x)), x.new_ones(len(x))
        half = high / 2
        for number in range(count(steps)):
            half = middle(low, high, number)
            with torch.no_grad():
                said = model(point(x, start, broadcast_like(half))).argmax(1)
            fooled = wrong(said, y) if wrong else said != y
            if update:
                low, high = update(fooled, low, high, half)
            else:
                low, high = torch.where(fooled, low, half), torch.where(fooled, half, high)
        share = broadcast_like(finish(low, high, half))
        return (end or point)(x, start, share)

    return answer


def _to_boundary(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, steps: int) -> Tensor:
    return _halving()(model, x, y, start, steps)


def _towards_labels_of_start(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, steps: int) -> Tensor:
    with torch.no_grad():
        other = model(start).argmax(1)
    return _halving(wrong=lambda said, _: said == other)(model, x, y, start, steps)


def _from_the_start(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, steps: int) -> Tensor:
    return _halving()(model, start, y, x, steps)


def _together(decide: Callable[[Tensor], Tensor]) -> Callable:
    return lambda fooled, low, high, half: (
        torch.where(decide(fooled), low, half),
        torch.where(decide(fooled), half, high),
    )


def _asks_once_in_each_step(answer: Callable) -> None:
    for steps in (1, 6):
        model, x, y, start, _ = _way(steps)
        counting = _Counting(model)
        call_with_copies(partial(answer, counting), x, y, start, steps)
        hint = "One label of each image and step: no label of x or of start, which are known, and no scan of the way."
        expect(
            counting.asked <= steps * len(x),
            f"it asks for {counting.asked} labels of {len(x)} images in {steps} steps.",
            hint,
        )


OWN_SHARE = "Each image has its own two ends: torch.where decides for each of them. You move all images alike."
Exercise(
    "to_boundary",
    reference=_to_boundary,
    cases=[
        Case("returns the end with a wrong label, after all halvings", [partial(_way, 7)], "Keep a right and a wrong end for each image. The label half way between them says which of the two moves there."),
        Case("halves as often as steps says", [partial(_way, steps, seed=6) for steps in (1, 2, 11)], "Each step halves once. Where no point with a wrong label was met, the wrong end is still the start."),
        Case("needs nothing but labels", [lambda: (_Counting(_way(0, seed=7)[0]), *_way(6, seed=7)[1:])], "Use model(…).argmax(1) alone: neither logits nor a gradient."),
        Property("asks for one label of each image in each step", _asks_once_in_each_step),
        Case("works for other sizes of images and numbers of classes", [partial(_way, 8, 5, (inputs.OTHER_SHAPE, inputs.OTHER_CLASSES))], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("That is x. Go as far towards the start as the label takes to change.", lambda model, x, *_: x),
        Mistake("That is the start. Halve the way to it, and return the end that is still wrong.", lambda model, x, y, start, steps: start),
        Mistake("That is the end with the right label: its image is not fooled. Return the other end.", _halving(finish=lambda low, high, half: low)),
        Mistake("That is the last point that was tried, and its label may be right. Return the end that is wrong.", _halving(finish=lambda low, high, half: half)),
        Mistake("Nobody has asked about that point, half way between the ends: its label may be right. Return the end that is wrong.", _halving(finish=lambda low, high, half: (low + high) / 2)),
        Mistake("You keep the wrong half. If the label half way is wrong, the boundary lies between x and there: the wrong end moves.", _halving(wrong=torch.eq)),
        Mistake("You always try the middle of the whole way. The next step halves what the last one has left.", _halving(middle=lambda low, high, number: torch.full_like(low, 0.5))),
        Mistake("Only the wrong end moves. Where the label half way is right, the right end moves there.", _halving(update=lambda fooled, low, high, half: (low, torch.where(fooled, half, high)))),
        Mistake("Half of the way is the first step only: the label there says which end moves to it, and the next step halves what is left.", _halving(update=lambda fooled, low, high, half: (half, half))),
        Mistake(OWN_SHARE, _halving(update=_together(lambda fooled: fooled.all())), _halving(update=_together(lambda fooled: fooled.any())), _halving(update=_together(lambda fooled: fooled[0]))),
        Mistake("You took one halving too few: for _ in range(steps) takes all of them.", _halving(count=lambda steps: steps - 1)),
        Mistake("You took one halving too many: for _ in range(steps) takes all of them.", _halving(count=lambda steps: steps + 1)),
        Mistake(mistakes.SAME_FOR_EVERY.format("steps"), *(_halving(count=lambda steps, own=own: own) for own in (3, 10, 20, 30))),
        Mistake("You compare with the label of the start. Any label other than y is wrong, also a third one on the way.", _towards_labels_of_start),
        Mistake("Your labels are those of the first image. Each image has its own label in y.", _halving(wrong=lambda said, y: said != y[0])),
        Mistake("You go from the start to x, so that the wrong and the right end have changed places.", _from_the_start),
        Mistake(mistakes.CHANGE_ALONE.format(""), _halving(end=lambda x, start, share: share * (start - x))),
        Mistake("You step away from x by a share of the start itself. The way is start - x.", _halving(point=lambda x, start, share: x + share * start), _halving(end=lambda x, start, share: x + share * start)),
        Mistake("You step away from the start: the way from x to it is start - x, not x - start.", _halving(point=lambda x, start, share: x + share * (x - start)), _halving(end=lambda x, start, share: x + share * (x - start))),
        Mistake("A third of the way is no half: the middle is half of the sum of the ends.", _halving(middle=lambda low, high, number: low + (high - low) / 3)),
    ],
    batched=("x", "y", "start"),
    untouched=("model", "x", "y", "start"),
).register()  # fmt: skip


# --- momentum_fgsm ----------------------------------------------------------------------------------------------------


def _mean_size(gradient: Tensor) -> Tensor:
    return broadcast_like(gradient.abs().flatten(1).mean(1)).clamp_min(1e-30)


def _momentum(
    *, update: Callable | None = None, by: Callable = _mean_size, direction: Callable = torch.sign, size: Callable = lambda eps, steps: eps / steps, count: Callable = lambda steps: steps,
    start: float = 0.0, late: bool = False, adding: bool = False, label: Callable | None = None, keep: Callable | None = None, finish: Callable | None = None, **mistake: Any,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return the right attack, or one that makes mistakes.

    Args:
        update: of the momentum, from it, the new gradient and decay. by: what a gradient is divided by.
        direction: of a step, from the momentum. size: of a step, from eps and steps. count: of steps.
        start: what share of the first gradient the momentum has before the first step. late: a step follows the last
            momentum. adding: the gradients add up. label: from logits of x. keep: what becomes of a new point, from it, the
            last one, x and eps. finish: what becomes of the last point, from it and x. mistake: keywords of `pgd`.
    """

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, decay: float) -> Tensor:
        momentum: Any = None
        total: Any = 0.0

        def move(gradient: Tensor) -> Tensor:
            nonlocal momentum, total
            total = total + gradient if adding else gradient
            new = total / by(total)
            last = start * new if momentum is None else momentum
            momentum = update(last, new, decay) if update else decay * last + new
            return direction(last if late else momentum)

        kept = (lambda new, last: keep(new, last, x, eps)) if keep else (lambda new, _: new.clamp(0, 1))
        y = label(model(x)) if label else y
        last = pgd(model, x, y, eps, count(steps), size(eps, steps), keep=kept, move=move, **mistake)
        return finish(last, x) if finish else last

    return attack


def _momentum_fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, decay: float) -> Tensor:
    return _momentum()(model, x, y, eps, steps, decay)


def _point(choose: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an attack that returns another point of its path than the last.

    Args:
        choose: the number of the point for each image, (N,) or one of all, from where the model is fooled, and from the
            loss, both (steps + 1, N).
    """

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, decay: float) -> Tensor:
        points = [x, *(_momentum_fgsm(model, x, y, eps * n / steps, n, decay) for n in range(1, steps + 1))]
        fooled = torch.stack([model(point).argmax(1) != y for point in points])
        losses = torch.stack([F.cross_entropy(model(point), y, reduction="none") for point in points])
        return torch.stack(points)[choose(fooled, losses).expand(len(x)), torch.arange(len(x))]

    return attack


def _first(fooled: Tensor) -> Tensor:
    return torch.where(fooled.any(0), fooled.int().argmax(0), -1)


EACH_GRADIENT = "Divide each gradient by its own mean absolute value, one number for each image."
DIVISION = "Where the gradient is 0, 0/0 makes the momentum NaN, and it stays NaN: the image never moves again. Limit the divisor from below, by something tiny only."
TINY_GUARD = "Guard the division by something tiny only, which does not touch a small gradient: a very low limit of the divisor, as 1e-30, and no number that is added."
FROM_LOGITS = "Where a probability rounds to 0, its gradient is 0, its logarithm −∞, and the gradient of that NaN. A loss that takes logits, such as F.cross_entropy, stays finite."
STEP_SIZE = "Every step has the size eps / steps, so that all of them together reach eps."
IN_BALL = {"keep": lambda new, last, x, eps: project(new, x, eps)}
Exercise(
    "momentum_fgsm",
    reference=_momentum_fgsm,
    cases=[
        Case("one step is FGSM: every pixel moves by eps, uphill", [partial(_attacked, 0.1, 1, 0.9)], "Differentiate F.cross_entropy of model(adv) and y with respect to adv, and add the sign, times eps / steps."),
        Case("without momentum, decay = 0, it is FGSM in steps of eps / steps", [partial(_attacked, 0.1, 5, 0.0)], "In every step: the gradient at the point you have reached, then eps / steps times the sign of the momentum from there."),
        Case("adds decay times the old momentum to each new gradient, divided by its mean absolute value", [partial(_attacked, 0.15, 6, decay) for decay in (1.0, 0.5)], "The momentum starts at zero. " + EACH_GRADIENT),
        Case("stays inside [0, 1], in every step", [partial(_attacked, 0.3, 6, 0.9, n=4, low=0.0)], "There is nothing blacker than 0 or whiter than 1: clip the new image after every step, and not the change."),
        Case("returns the last point, whatever the model makes of it", [partial(_attacked, 1.2, 4, 0.3)], "Neither the labels that the model gives nor the loss decide which point comes back: it is the last one."),
        Case("leaves a pixel where it is that the loss does not depend on", [partial(_attacked, 0.1, 3, 0.9, blind=9)], NO_SLOPE),
        Case("keeps its momentum where the gradient is zero, without NaN", [partial(_attacked, 0.1, 3, 0.9, plateau=True)], "A gradient of zero adds nothing to the momentum, and the momentum still moves the image."),
        Case("divides by the mean where the gradient is small", [partial(_attacked, 0.15, 6, 1.0, scale=1e-13)], TINY_GUARD),
        Case("copes with a label whose probability rounds to 0", [partial(_attacked, 0.1, 3, 0.9, scale=400.0, misread=True)], FROM_LOGITS),
        Case("works for other sizes of images and numbers of classes", [partial(_attacked, 0.1, 4, 0.9, n=5, sizes=(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES))], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("Nothing changed. Do you return x instead of the new image, or is your step 0, as eps // steps is?", lambda model, x, *_: x),
        Mistake(mistakes.WRONG_SIGN, _momentum(scale=-1)),
        Mistake("That is the change alone. Return the changed image.", _momentum(finish=lambda last, x: last - x)),
        Mistake("There is no momentum in it: each step forgets the last.", _momentum(update=lambda m, g, decay: g)),
        Mistake("decay takes no part in it: multiply the old momentum by it.", _momentum(update=lambda m, g, decay: m + g)),
        Mistake(mistakes.SAME_FOR_EVERY.format("decay"), *(_momentum(update=lambda m, g, decay, own=own: own * m + g) for own in (0.9, 0.5))),
        Mistake("You multiply the new gradient by decay. Multiply the old momentum.", _momentum(update=lambda m, g, decay: m + decay * g)),
        Mistake("You multiply the new gradient by decay as well. Only the old momentum decays.", _momentum(update=lambda m, g, decay: decay * (m + g))),
        Mistake("That is a moving average. Here the new gradient is added whole to decay times the momentum.", _momentum(update=lambda m, g, decay: decay * m + (1 - decay) * g), _momentum(update=lambda m, g, decay: (1 - decay) * m + decay * g)),
        Mistake("You keep the sign as momentum. Keep the sum itself, and take the sign for the step only.", _momentum(update=lambda m, g, decay: (decay * m + g).sign())),
        Mistake("You add up signs. Add up the gradients, each divided by its mean absolute value, and take the sign last.", _momentum(update=lambda m, g, decay: decay * m + g.sign())),
        Mistake("You divide the momentum. Divide each new gradient before it is added.", _momentum(by=lambda g: 1.0, update=lambda m, g, decay: (decay * m + g) / _mean_size(decay * m + g)), _momentum(update=lambda m, g, decay: (decay * m + g) / _mean_size(decay * m + g))),
        Mistake("The momentum starts at zero. Yours has the first gradient twice.", _momentum(start=1.0)),
        Mistake("You take the step before you update the momentum, so that the first one goes nowhere. First the momentum, then the step.", _momentum(late=True)),
        Mistake("Your gradients add up from step to step, as .backward() adds to .grad. Every step needs the gradient at its own point alone.", _momentum(adding=True)),
        Mistake("The gradients are not normalised, so that the largest one rules. " + EACH_GRADIENT, _momentum(by=lambda g: 1.0)),
        Mistake("You divide by one number for the whole batch. " + EACH_GRADIENT, _momentum(by=lambda g: g.abs().mean().clamp_min(1e-30)), _momentum(by=lambda g: g.norm().clamp_min(1e-30))),
        Mistake("You divide by the Euclidean length. " + EACH_GRADIENT, _momentum(by=lambda g: l2_norm(g).clamp_min(1e-30)), _momentum(by=l2_norm)),
        Mistake("You divide by the largest entry. " + EACH_GRADIENT, _momentum(by=lambda g: broadcast_like(g.abs().flatten(1).amax(1)).clamp_min(1e-30)), _momentum(by=lambda g: g / max_normalized(g))),
        Mistake("You divide by the mean, in which signs cancel. " + EACH_GRADIENT, _momentum(by=lambda g: broadcast_like(g.flatten(1).mean(1))), _momentum(by=lambda g: broadcast_like(g.flatten(1).mean(1)).abs())),
        Mistake("You divide by a mean over a part of the image. " + EACH_GRADIENT, *(_momentum(by=lambda g, dims=dims: g.abs().mean(dims, keepdim=True).clamp_min(1e-30)) for dims in (0, 2, 3, (2, 3)))),
        Mistake(DIVISION, _momentum(by=lambda g: broadcast_like(g.abs().flatten(1).mean(1))), _momentum(by=lambda g: broadcast_like(g.abs().flatten(1).mean(1)), update=lambda m, g, decay: (decay * m + g).nan_to_num())),
        Mistake(TINY_GUARD, *(_momentum(by=lambda g, tiny=tiny: broadcast_like(g.abs().flatten(1).mean(1)) + tiny) for tiny in (1e-8, 1e-12)), *(_momentum(by=lambda g, tiny=tiny: broadcast_like(g.abs().flatten(1).mean(1)).clamp_min(tiny)) for tiny in (1e-8, 1e-12))),
        Mistake("You compute the gradient only once, at x. Compute it anew in every step, at the point you have reached.", _momentum(stale=True)),
        Mistake("You step along the momentum itself. Take its sign, times eps / steps.", _momentum(direction=lambda m: m)),
        Mistake(NO_SLOPE + " No comparison with 0 says that.", _momentum(direction=lambda m: torch.where(m > 0, 1.0, -1.0)), _momentum(direction=lambda m: torch.where(m >= 0, 1.0, -1.0))),
        Mistake(STEP_SIZE + " Yours has the size eps.", _momentum(size=lambda eps, steps: eps), _momentum(size=lambda eps, steps: eps, **IN_BALL)),
        Mistake(STEP_SIZE, _momentum(size=lambda eps, steps: eps / 10), _momentum(size=lambda eps, steps: eps / 10, **IN_BALL), _momentum(size=lambda eps, steps: 2.5 * eps / steps), _momentum(size=lambda eps, steps: 2.5 * eps / steps, **IN_BALL)),
        Mistake("You took one step too few: for _ in range(steps) takes all of them.", _momentum(count=lambda steps: steps - 1)),
        Mistake("You took one step too many: for _ in range(steps) takes all of them.", _momentum(count=lambda steps: steps + 1), _momentum(count=lambda steps: steps + 1, **IN_BALL)),
        Mistake("You took only one step. Does return stand inside the loop?", _momentum(count=lambda steps: 1)),
        Mistake(mistakes.OWN_PREDICTION.format("y") + " In all steps.", _momentum(label=lambda logits: logits.argmax(1))),
        *mistakes.loss_mistakes(_momentum, "y", "adv"),
        Mistake(FROM_LOGITS, *(_momentum(loss=lambda z, y, reduction, of=of: F.nll_loss(of(z.softmax(1)), y, reduction=reduction)) for of in (torch.log, torch.clone))),
        Mistake("Every step down is lost: clip the new image to [0, 1], and not the step.", _momentum(direction=lambda m: m.sign().clamp(0, 1))),
        Mistake("There is nothing blacker than 0 or whiter than 1: clip after every step, at both ends.", *(_momentum(keep=lambda new, last, x, eps, ends=ends: new.clamp(*ends)) for ends in ((-9, 9), (0, 9), (-9, 1)))),
        Mistake("You clip to [0, 1] only after the last step. Do it after every step, inside the loop.", _momentum(keep=lambda new, *_: new, finish=lambda last, _: last.clamp(0, 1))),
        Mistake("Every step starts at x again. Start it at the point the last one has reached.", _momentum(keep=lambda new, last, x, _: (x + new - last).clamp(0, 1))),
        Mistake("You stop moving an image as soon as the model is fooled. Here every image takes all its steps.", _point(lambda fooled, _: _first(fooled))),
        Mistake("You end the loop as soon as the model is fooled by all images. Every image takes all its steps.", _point(lambda fooled, _: _first(fooled.all(1, keepdim=True)))),
        Mistake("You keep the best point of the path. Here return the last one, whatever the model makes of it.", _point(lambda _, losses: losses.argmax(0))),
    ],
    batched=("x", "y"),
    untouched=("model", "x", "y"),
    typical=partial(_attacked, 0.1, 5, 0.9),
    library=(mi_fgsm,),
).register()  # fmt: skip
