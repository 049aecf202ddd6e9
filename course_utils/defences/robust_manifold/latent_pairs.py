"""Attacks on the range of a generator: pairs of latent vectors with near images that are classified differently."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...attacks.best_so_far import BestSoFar
from ...core.validation import check_count, checked_labels, checked_number
from ...models.inference import checked_logits, frozen_eval, is_fooled
from .projection import check_latents, latent_size

Encoder = Callable[[Tensor], Tensor]

GROWTH = 1.03  # of the Lagrange multipliers, from step to step


class LatentPairs(NamedTuple):
    """N pairs of images in the range of a generator that a classifier puts into different classes; see `found`."""

    z: Tensor  # (N, latent)
    z_prime: Tensor  # (N, latent)
    x: Tensor  # G(z)
    x_prime: Tensor  # G(z')
    y: Tensor  # labels of x
    y_prime: Tensor  # the classifier's labels of x'
    distance: Tensor  # ‖x' − x‖₂, pixel units; infinite where no pair was found

    @property
    def found(self) -> Tensor:
        """For which starts a pair was found, (N,)."""
        return self.distance.isfinite()

    def within(self, eps: float) -> float:
        """Return the share of pairs that were found and are at most eps apart: success against distance."""
        return (self.distance <= eps).float().mean().item()


def latent_attack(
    classifier: nn.Module,
    generator: nn.Module,
    z: Tensor,
    y: Tensor | None = None,
    *,
    anchored: bool = False,
    confidence: float = 0.0,
    steps: int = 100,
    lr: float = 0.2,
    callback: Callable[[int, Tensor], None] | None = None,
) -> LatentPairs:
    """Search pairs z, z' whose images are near, while the classifier puts them into different classes.

    A min-max problem: z and z' minimise the Lagrangian ‖G(z) − G(z')‖² + λ·(violation of the two margins), while the
    multiplier λ of each pair grows as long as they are violated, and falls afterwards. A projection onto the range
    changes neither image, so that no defence by projection alone stops this attack.

    Args:
        classifier: maps images to logits. generator: maps z (N, latent) to images. z: starting points.
        y: labels (N,) of G(z); default the predicted ones. Where the prediction is wrong already, the distance is 0.
        anchored: keep z fixed and optimise z' only, to attack given images.
        confidence: margin of the logits that both predictions need.
        steps, lr: of Adam in both z, lr lowered along a cosine.
        callback: called as callback(step, distance) with the shortest distance so far, (N,).

    Raises:
        ValueError, TypeError: z of another latent size, labels that do not match, a classifier without logits (N, K).
        FloatingPointError: the loss is no longer finite.

    >>> from course_utils import models
    >>> pairs = latent_attack(models.mlp(), models.decoder(latent=2), torch.randn(5, 2), steps=3)
    >>> pairs.x_prime.shape, pairs.distance.shape
    (torch.Size([5, 1, 28, 28]), torch.Size([5]))

    Ilyas, Jalal, Asteri, Daskalakis and Dimakis, "The robust manifold defense", 2017.
    """
    check_latents(z, len(z), latent_size(generator))
    check_count("steps", steps)
    confidence, lr = checked_number("confidence", confidence), checked_number("lr", lr)
    with frozen_eval(classifier), frozen_eval(generator), torch.enable_grad():
        y = None if y is None else checked_labels(y, z)
        with torch.no_grad():
            logits = checked_logits(classifier, generator(z), y)
        y = logits.argmax(1) if y is None else y
        lagrangian = _Lagrangian(classifier, generator, z, y, confidence, is_fooled(logits, y))
        first, second = z.detach().clone().requires_grad_(not anchored), z.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([part for part in (first, second) if part.requires_grad], lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps + 1):
            loss = lagrangian(first, second)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss became {loss.item()}: try a smaller lr than {lr:g}.")
            if callback is not None:
                callback(step, lagrangian.best.cost.clone())
            if step < steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return lagrangian.pairs()


class _Lagrangian:
    """The loss of every pair with its multiplier, and the nearest pair that was found.

    Args:
        fooled: where the classifier is wrong about G(z) itself: nothing is to be searched, and the distance is 0.
    """

    def __init__(
        self, classifier: nn.Module, generator: nn.Module, z: Tensor, y: Tensor, confidence: float, fooled: Tensor
    ):
        self.classifier, self.generator, self.y, self.confidence = classifier, generator, y, confidence
        self.multiplier = torch.ones(len(z), device=z.device)
        start = torch.stack([z, z], dim=1)
        self.best = BestSoFar(start)
        self.best.offer(start, torch.zeros_like(self.best.cost).masked_fill(~fooled, math.inf))

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of both points, keep the pairs that are nearer than before, and update the multipliers."""
        x, x_prime = self.generator(first), self.generator(second)
        square = (x - x_prime).flatten(1).square().sum(1)
        margin = self._margin(x) if first.requires_grad else torch.full_like(square, math.inf)
        margin_prime = -self._margin(x_prime)
        violation = (self.confidence - margin).relu() + (self.confidence - margin_prime).relu()
        loss = (square + self.multiplier * violation).sum()
        found = (margin > self.confidence) & (margin_prime > self.confidence)
        pair = torch.stack([first, second], dim=1).detach()
        self.best.offer(pair, square.detach().sqrt().masked_fill(~found, math.inf))
        self.multiplier = self.multiplier * torch.where(violation > 0, GROWTH, 1 / GROWTH)
        return loss

    def _margin(self, x: Tensor) -> Tensor:
        """Return the logit of y minus the largest other one, (N,)."""
        logits, index = self.classifier(x.clone()), self.y.unsqueeze(1)  # some models normalise their input in place
        return logits.gather(1, index).squeeze(1) - logits.scatter(1, index, -math.inf).amax(1)

    @torch.no_grad()
    def pairs(self) -> LatentPairs:
        z, z_prime = self.best.best.unbind(1)
        x, x_prime = self.generator(z), self.generator(z_prime)
        return LatentPairs(z, z_prime, x, x_prime, self.y, self.classifier(x_prime).argmax(1), self.best.cost)
