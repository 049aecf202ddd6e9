"""Evaluate models and attacks: accuracy, also under attack, confidence, the report on one attack, the worst of many.

Accuracy is over all images; success rate over the initially correct ones. Every share has its 95 % Wilson interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks.gradient_based import pgd
from ..core.intervals import percent, wilson
from ..core.validation import Model, check_adversarial, check_images, checked_labels
from ..models.inference import batched_logits, frozen_eval, is_fooled, predict


def correct(model: Model, x: Tensor, y: Tensor, *, batch_size: int = 512) -> Tensor:
    """Return which images (N,) the model classifies as y.

    The class is the argmax: of several equal logits the first. Attacks count as a success what is not correct here.

    Raises:
        ValueError, TypeError: as `predict`; y does not hold one label for each image, or one that is no class.
    """
    check_images(x, None)
    y = checked_labels(y, x)
    return ~is_fooled(batched_logits(model, x, y, batch_size), y)


def accuracy(model: Model, x: Tensor, y: Tensor, *, batch_size: int = 512) -> float:
    """Return the share of images x (N, ...) that the model classifies as y (N,).

    Raises:
        ValueError, TypeError: as `correct`.
    """
    return correct(model, x, y, batch_size=batch_size).float().mean().item()


def confidence(model: Model, x: Tensor, *, batch_size: int = 512) -> Tensor:
    """Return the largest class probability (N,) of each image.

    A model that has its own `probabilities(x)` (the RBF network, whose classes are independent) is asked for it;
    any other gets a softmax over its logits.

    Raises:
        ValueError, TypeError: as `predict`.
    """
    own = getattr(model, "probabilities", None)
    with frozen_eval(model):
        if own is None:
            return predict(model, x, batch_size=batch_size).softmax(1).amax(1)
        return predict(own, x, batch_size=batch_size).amax(1)


def accuracy_under_attack(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    attack: Callable[..., Tensor] = pgd,
    batch_size: int = 256,
    **attack_kwargs: object,
) -> float:
    """Return the share of images classified as y both before and after the attack, over all images.

    Args:
        model, x, y: as everywhere. eps: radius of the ball, pixel units.
        attack: called as attack(model, x, y, eps, **attack_kwargs).

    Raises:
        ValueError: a targeted attack, whose y are not the true labels. ValueError, TypeError: as `correct`, for the
            attack's images, too; as the attack.
    """
    if attack_kwargs.get("targeted"):
        raise ValueError(
            "accuracy_under_attack needs the true labels y, a targeted attack the labels to reach: "
            "call the attack yourself and evaluate its images with evaluate_attack."
        )
    robust = correct(model, x, y, batch_size=batch_size)
    y = y.to(x.device)
    for part in torch.arange(len(x), device=x.device).split(batch_size):
        adv = attack(model, x[part], y[part], eps, **attack_kwargs)
        check_adversarial(adv, x[part])
        robust[part] &= correct(model, adv, y[part], batch_size=batch_size)
    return robust.float().mean().item()


@dataclass(frozen=True)
class AttackReport:
    """What one attack did to n images; shares in [0, 1], distances in pixel units."""

    n: int
    clean_correct: int
    robust_correct: int
    linf: float  # largest over the images
    l2: float  # largest over the images

    @property
    def clean_accuracy(self) -> float:
        """Share of all images that are classified correctly before the attack."""
        return self.clean_correct / self.n

    @property
    def robust_accuracy(self) -> float:
        """Share of all images that are classified correctly before and after the attack."""
        return self.robust_correct / self.n

    @property
    def success_rate(self) -> float:
        """Share of the initially correct images that are fooled; NaN if none was correct."""
        return 1 - self.robust_correct / self.clean_correct if self.clean_correct else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the robust accuracy."""
        return wilson(self.robust_correct, self.n)

    def __str__(self) -> str:
        success = percent(self.success_rate, self.clean_correct) if self.clean_correct else "– (none was correct)"
        return (
            f"clean accuracy  {percent(self.clean_accuracy, self.n)}\n"
            f"robust accuracy {percent(self.robust_accuracy, self.n)}\n"
            f"success rate    {success}\n"
            f"largest change  linf {self.linf:.4f}, l2 {self.l2:.3f}"
        )


def evaluate_attack(model: Model, x: Tensor, adv: Tensor, y: Tensor, *, batch_size: int = 512) -> AttackReport:
    """Evaluate the adversarial images themselves, in one pass in eval mode.

    Args:
        x, adv: clean and adversarial images (N, ...). y: true labels (N,).

    Raises:
        ValueError, TypeError: as `correct`; adv and x differ in shape, or adv is not finite.
    """
    check_images(x, None)
    check_adversarial(adv, x)
    clean = correct(model, x, y, batch_size=batch_size)
    robust = clean & correct(model, adv, y, batch_size=batch_size)
    return AttackReport(
        n=len(x),
        clean_correct=int(clean.sum()),
        robust_correct=int(robust.sum()),
        linf=distances(x, adv, measure="linf").max().item(),
        l2=distances(x, adv).max().item(),
    )


DISTANCES = {
    "l2": lambda change: change.norm(dim=1),
    "linf": lambda change: change.abs().amax(1),
    "rms": lambda change: change.square().mean(1).sqrt(),
}


def distances(x: Tensor, adv: Tensor, *, measure: str = "l2") -> Tensor:
    """Return how far each image was moved, (N,), pixel units.

    Args:
        x, adv: images (N, ...). measure: "l2" (length of the change), "linf" (largest pixel), "rms" (length divided by
            the root of the number of pixels, the distortion of Szegedy et al. 2014).

    Raises:
        ValueError, TypeError: unknown measure, or what are no finite images of one shape.

    >>> distances(torch.zeros(1, 4), torch.tensor([[0.3, 0.0, 0.4, 0.0]])).item()
    0.5
    """
    if measure not in DISTANCES:
        raise ValueError(f"measure must be one of {tuple(DISTANCES)}, got {measure!r}.")
    check_images(x, None)
    check_adversarial(adv, x)
    return DISTANCES[measure]((adv - x).flatten(1))


def accuracy_within(distance: Tensor, budgets: Tensor) -> Tensor:
    """Return, for each budget (R,), the share of images whose distance (N,) is larger: those that stay right.

    Args:
        distance: of the nearest change that fools; 0 for an image that is wrong already, infinite where none was found.
        budgets: largest allowed distances, in any order.

    Raises:
        ValueError: no distance, or one that is negative or not a number.

    >>> accuracy_within(torch.tensor([0.0, 1.5, torch.inf]), torch.tensor([1.0, 2.0])).tolist()
    [0.6666666865348816, 0.3333333432674408]
    """
    if distance.ndim != 1 or len(distance) == 0 or not (distance >= 0).all():
        raise ValueError(f"expected distances (N,) of at least 0, got shape {tuple(distance.shape)}: {distance}.")
    return (distance[:, None] > budgets).float().mean(0)


def worst_case(*correct_masks: Tensor) -> Tensor:
    """Return which images (N,) stay correct under every attack: the point-wise worst case, not the worst average.

    Args:
        *correct_masks: one boolean mask (N,) for each attack, as `correct` returns them.

    Raises:
        ValueError: no mask, or masks of different shape. TypeError: a mask that is no tensor, or not boolean.

    >>> worst_case(torch.tensor([True, True]), torch.tensor([False, True])).tolist()
    [False, True]
    """
    strangers = [type(mask).__name__ for mask in correct_masks if not isinstance(mask, Tensor)]
    if strangers:
        raise TypeError(f"masks must be boolean tensors, as `correct` returns them; got {', '.join(strangers)}.")
    if not correct_masks or any(m.shape != correct_masks[0].shape for m in correct_masks):
        raise ValueError(f"expected masks of one shape, got {[tuple(m.shape) for m in correct_masks]}.")
    if any(m.dtype != torch.bool for m in correct_masks):
        raise TypeError(f"masks must be boolean, got {[m.dtype for m in correct_masks]}.")
    return torch.stack(correct_masks).all(0)
