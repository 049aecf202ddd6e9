"""Attacks on the range of a generator: pairs of latent vectors whose images are near and classified differently."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...core.validation import check_count, checked_labels, checked_number
from ...models.inference import checked_logits, frozen_eval, is_fooled
from .projection import check_latents, latent_size

Encoder = Callable[[Tensor], Tensor]

GROWTH = 1.03  # of a multiplier of the latent attack, from step to step


# In the latent space ------------------------------------------------------------------------------------------------


class LatentPairs(NamedTuple):
    """Pairs of images that a generator draws and a classifier tells apart, N of them; see `found`."""

    z: Tensor  # (N, latent)
    z_prime: Tensor  # (N, latent)
    x: Tensor  # G(z)
    x_prime: Tensor  # G(z')
    y: Tensor  # labels of x
    y_prime: Tensor  # the classifier's labels of x'
    distance: Tensor  # ‖x' − x‖₂, pixel units; infinite where no pair was found

    @property
    def found(self) -> Tensor:
        """Which pairs the classifier tells apart, (N,)."""
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
    """Search pairs z, z' of which the generator draws nearly the same image, and the classifier says two classes.

    The Lagrangian of a game: z and z' make ‖G(z) − G(z')‖² + λ·(what is missing of the two verdicts) small, while λ
    of each pair grows as long as something is missing, and falls afterwards. A projection onto the range changes
    neither image: this attack goes through every defence of that kind.

    Args:
        classifier: maps images to logits. generator: maps z (N, latent) to images. z: starting points.
        y: labels (N,) of G(z); default what the classifier says. Where it is wrong already, the distance is 0.
        anchored: leave z where it is and move z' only, to attack given images.
        confidence: the margin of logits that both verdicts need.
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
        game = _Game(classifier, generator, z, y, confidence)
        game.offer_start(is_fooled(logits, y))
        first, second = z.detach().clone().requires_grad_(not anchored), z.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([part for part in (first, second) if part.requires_grad], lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps + 1):
            loss = game.play(first, second)
            if not loss.isfinite():
                raise FloatingPointError(f"the loss became {loss.item()}: try a smaller lr than {lr:g}.")
            if callback is not None:
                callback(step, game.distance.clone())
            if step < steps:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        return game.pairs()


class _Game:
    """The two points of every pair against their multiplier, and the nearest pair that was found."""

    def __init__(self, classifier: nn.Module, generator: nn.Module, z: Tensor, y: Tensor, confidence: float):
        self.classifier, self.generator, self.y, self.confidence = classifier, generator, y, confidence
        self.weight = torch.ones(len(z), device=z.device)
        self.best = [z.detach().clone(), z.detach().clone()]
        self.distance = torch.full((len(z),), math.inf, device=z.device)

    def offer_start(self, wrong: Tensor) -> None:
        """Where the classifier is wrong about G(z), there is nothing to search."""
        self.distance[wrong] = 0.0

    def play(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss of both points, keep the pairs that are nearer than before, and move the multipliers."""
        x, x_prime = self.generator(first), self.generator(second)
        square = (x - x_prime).flatten(1).square().sum(1)
        stays = self._lead(x) if first.requires_grad else torch.full_like(square, math.inf)
        leaves = -self._lead(x_prime)
        missing = (self.confidence - stays).relu() + (self.confidence - leaves).relu()
        loss = (square + self.weight * missing).sum()
        self._keep(square.detach().sqrt(), (stays > self.confidence) & (leaves > self.confidence), first, second)
        self.weight = self.weight * torch.where(missing > 0, GROWTH, 1 / GROWTH)
        return loss

    def _lead(self, x: Tensor) -> Tensor:
        """Return by how much the logit of y is above the largest other one, (N,)."""
        logits, index = self.classifier(x.clone()), self.y.unsqueeze(1)  # some models normalise their input in place
        return logits.gather(1, index).squeeze(1) - logits.scatter(1, index, -math.inf).amax(1)

    def _keep(self, distance: Tensor, apart: Tensor, *points: Tensor) -> None:
        nearer = apart & (distance < self.distance)
        self.distance = torch.where(nearer, distance, self.distance)
        self.best = [
            torch.where(nearer[:, None], new.detach(), old) for new, old in zip(points, self.best, strict=True)
        ]

    @torch.no_grad()
    def pairs(self) -> LatentPairs:
        x, x_prime = (self.generator(point) for point in self.best)
        return LatentPairs(*self.best, x, x_prime, self.y, self.classifier(x_prime).argmax(1), self.distance)
