"""Mistakes in gradient steps, each once and under the field's name: what the exercises of several chapters know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .properties import broadcast_like, loss_gradient, norms

Function = Callable[..., Any]  # takes the arguments of an exercise


class Mistake:
    """What a student may have got wrong.

    Args:
        words: what to say. functions: wrong answers to the exercise, all to be mended as the words say.
    """

    def __init__(self, words: str, *functions: Function):
        self.words, self.functions = words, functions


ONLY_ARGUMENTS = "Take {} from the arguments, and use nothing but the arguments."
FROM_MODEL = "Take shapes and classes from x and from the model, and use nothing but the arguments."
SAME_FOR_EVERY = "The result is the same for every {0}. Use the {0} that is passed in, not a number of your own."
WRONG_SIGN = "You walk downhill: add the step, do not subtract it. The attack makes the loss larger."
OWN_PREDICTION = "You use the model's own prediction as the label. Use the {} that was passed in."
SOFTMAX_TWICE = (
    "Cross-entropy wants logits, not probabilities: it applies softmax itself, so give it model({}) as it is."
)
NO_LOG_SOFTMAX = "F.nll_loss alone wants log-probabilities: use F.cross_entropy, which takes model({}) as it is."
CHANGE_ALONE = "That is the change alone. Return the changed image: x plus the {}change."
LEFT_OUT = "You leave a pixel as it is if its step would leave [0, 1]. It may go as far as {}."
WIDE_BALL = "Your ball is twice as wide: a pixel may be eps away from x, on either side."

LOG_OF_ZERO = "Where a probability rounds to 0, its logarithm is −∞, and the gradient is NaN or 0. A loss that takes logits, such as F.cross_entropy, has one."
NO_CHANCE = "copes with a target whose probability rounds to 0"
EATEN = "You guard a division by the gradient's size with a number so large that a small gradient gives only a part of the step, or none. Take .sign()."
SIGN_OF_LENGTH = "That has the right length, but the sign forgets the gradient's proportions. "
PART_OF_LENGTH = (
    "An image's gradient has one length, over all its pixels. You take it over another part of the tensor. "
)
SQUARED_LENGTH = "You divide by the squared length. Take the square root, as .norm() does. "
SOME_STILL = (
    "Some images did not move at all (number {}). Attack every image of the batch, whatever the model makes of it."
)


def listed(mask: Tensor) -> str:
    """Return the places where a mask (N,) is true, in words."""
    return ", ".join(map(str, mask.nonzero().flatten().tolist()))


def some_still(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, *_: Any) -> str:
    """Return which images did not move at all, in words, or nothing: what an exercise explains itself by."""
    still = (got == x).flatten(1).all(1)
    return SOME_STILL.format(listed(still)) if still.any() else ""


def project(images: Tensor, x: Tensor, eps: float) -> Tensor:
    """Return the images projected into the ball around x, and then into [0, 1]."""
    return (x + (images - x).clamp(-eps, eps)).clamp(0, 1)


def l2_norm(images: Tensor) -> Tensor:
    """Return each image's Euclidean norm in a shape that divides images, (N, 1, 1, 1)."""
    return broadcast_like(norms(images))


def l2_normalized(gradient: Tensor) -> Tensor:
    """Return each image's gradient divided by its own Euclidean norm; one that is 0 stays 0."""
    largest = broadcast_like(gradient.abs().flatten(1).amax(1))
    scaled = gradient / largest.clamp_min(1e-37)  # float32 rounds the squares of tiny entries to 0
    return scaled / l2_norm(scaled).clamp_min(1)


def max_normalized(gradient: Tensor) -> Tensor:
    """Return each image's gradient divided by its own largest entry."""
    return gradient / broadcast_like(gradient.abs().flatten(1).amax(1))


def softmax_twice(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Return the cross-entropy of probabilities taken for logits."""
    return F.cross_entropy(logits.softmax(1), y, reduction=reduction)


def log_of_softmax(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Return the cross-entropy by way of probabilities, which may round to 0."""
    return F.nll_loss(logits.softmax(1).log(), y, reduction=reduction)


def of_prediction(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Return the cross-entropy of the predicted label."""
    return F.cross_entropy(logits, logits.argmax(1), reduction=reduction)


def of_least_likely(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Return the cross-entropy of the least likely label."""
    return F.cross_entropy(logits, logits.argmin(1), reduction=reduction)


def gradient_step(
    model: nn.Module,
    start: Tensor,
    labels: Tensor,
    size: float,
    *,
    scale: float = 1.0,
    at: Tensor | None = None,
    loss: Callable = F.cross_entropy,
    move: Callable[[Tensor], Tensor] = torch.sign,
) -> Tensor:
    """Return start after one step, not clipped; each keyword makes one mistake.

    Args:
        model, start, labels: of the loss. size: of the step; a negative one goes down the loss.
        scale: another size, −1 the other way. at: where the gradient is taken. loss: what is differentiated.
        move: the step's direction from the gradient.
    """
    return start + scale * size * move(loss_gradient(model, start if at is None else at, labels, loss))


def loss_mistakes(attack: Callable[..., Function], label: str, image: str = "x") -> list[Mistake]:
    """Return what goes wrong in the loss of a gradient step.

    Args:
        attack: takes keywords of `gradient_step`, and returns an answer to the exercise that makes their mistake.
        label, image: what the exercise calls the labels, and the images at which the gradient is taken.
    """
    prediction = OWN_PREDICTION.format(label)
    logit = f"You differentiate the logit of {label} alone{{}}, not the loss. F.nll_loss does so, too: it wants log-probabilities. F.cross_entropy takes model({image}) as it is."
    unlikely = f"You step by the least likely class. Use the {label} that was passed in."
    return [
        Mistake(prediction, attack(loss=of_prediction)),
        Mistake(prediction + " And check the direction.", attack(loss=of_prediction, scale=-1)),
        Mistake(unlikely, attack(loss=of_least_likely), attack(loss=of_least_likely, scale=-1)),
        Mistake(SOFTMAX_TWICE.format(image), attack(loss=softmax_twice)),
        Mistake(logit.format(""), attack(loss=F.nll_loss)),
        Mistake(logit.format(", and go the wrong way"), attack(loss=F.nll_loss, scale=-1)),
    ]


def sign_mistakes(attack: Callable[..., Function], size: str) -> list[Mistake]:
    """Return what goes wrong in the direction of a step along the gradient's sign.

    Args:
        attack: as in `loss_mistakes`. size: what the exercise calls the size of the step.
    """
    take = f"Take its sign, times {size}: every pixel moves by {size}."
    return [
        Mistake(f"You step along the gradient itself, whose size differs from pixel to pixel. {take}", attack(move=lambda g: g), attack(move=lambda g: g / len(g))),
        Mistake(f"You divide the gradient by its largest entry. {take}", attack(move=max_normalized)),
        Mistake(f"You divide the gradient by its length, which is the step for the Euclidean norm. {take}", attack(move=l2_normalized)),
    ]  # fmt: skip


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    steps: int,
    step_size: float,
    *,
    sign: int = 1,
    keep: Callable[[Tensor, Tensor], Tensor] | None = None,
    stale: bool = False,
    **mistake: Any,
) -> Tensor:
    """Return where projected gradient steps lead from x; each keyword makes one mistake.

    Args:
        model, x, y, eps, steps, step_size: as the exercise `pgd` takes them. sign: −1 goes down the loss.
        keep: what becomes of a new point, from it and the last one. stale: the gradient is that at x for all steps.
        mistake: more keywords of `gradient_step`.
    """
    point = x
    for _ in range(steps):
        new = gradient_step(model, point, y, sign * step_size, at=x if stale else None, **mistake)
        point = keep(new, point) if keep else project(new, x, eps)
    return point
