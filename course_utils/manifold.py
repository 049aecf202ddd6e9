"""The Robust Manifold defence, the attack in the latent space that breaks it, and the training that answers.

The defence replaces an image by the nearest one that a generator can draw, and classifies that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from .adversaries import Adversary
from .attacks import frozen
from .attacks.gradients import checked_logits, is_fooled
from .attacks.inputs import check_count, checked_labels, checked_number
from .projection import check_latents, implicit, latent_size, project_to_range, unrolled
from .training import fit

__all__ = ["LatentPairs", "ManifoldDefense", "latent_attack", "project_to_range", "train_on_manifold"]

Encoder = Callable[[Tensor], Tensor]

GROWTH = 1.03  # of a multiplier of the latent attack, from step to step


class ManifoldDefense(nn.Module):
    """Project, regenerate, classify: logits C(G(z*)) with z* = argmin ‖G(z) − x‖².

    The projection is a search, and its answer has no gradient in x: by default an attack that follows gradients is
    refused. Three options give one to the attacker who knows the defence.

    Args:
        classifier: maps images to logits. generator: maps z (N, latent) to images.
        encoder: its guess is the first start, such as `VAE.encode`; None for random starts only.
        steps, restarts, lr: of `project_to_range`.
        bpda: send the gradient straight through the projection, as if that were the identity (Athalye et al. 2018).
        differentiable: classify G(z) after `unroll` steps of gradient descent, through which the gradient flows: from
            the encoder's guess, or, without an encoder, on from z*.
        implicit: follow z* as a minimum moves when x does (see `projection.implicit`).
        seed: None draws new starts from the global stream in every call. A number gives every image in every call the
            same starts: then the answer depends neither on chance nor on the other images of the batch.

    Raises:
        ValueError: two gradients at once. ValueError, TypeError, FloatingPointError: when called, as
            `project_to_range`.

    >>> from course_utils import generators, models
    >>> defence = ManifoldDefense(models.mlp(), generators.decoder(latent=2), steps=5, seed=0)
    >>> defence(torch.rand(3, 1, 28, 28)).shape
    torch.Size([3, 10])

    Ilyas, Jalal, Asteri, Daskalakis and Dimakis, "The robust manifold defense", 2017.
    """

    def __init__(
        self,
        classifier: nn.Module,
        generator: nn.Module,
        *,
        encoder: Encoder | None = None,
        steps: int = 60,
        restarts: int = 2,
        lr: float = 0.2,
        bpda: bool = False,
        differentiable: bool = False,
        unroll: int = 40,
        implicit: bool = False,
        seed: int | None = None,
    ):
        super().__init__()
        if bpda + differentiable + implicit > 1:
            raise ValueError("bpda, differentiable and implicit are gradients for one projection: choose one.")
        latent_size(generator)
        for name, count in (("steps", steps), ("restarts", restarts)):
            check_count(name, count)
        self.classifier, self.generator, self.encoder = classifier, generator, encoder
        self.steps, self.restarts, self.lr = steps, restarts, lr
        self.bpda, self.differentiable, self.implicit = bpda, differentiable, implicit
        self.unroll, self.seed = unroll, seed

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] → logits (N, K)."""
        return self.classifier(self.purify(x))

    def purify(self, x: Tensor) -> Tensor:
        """Return the images that are classified in the place of x, alike."""
        if self.differentiable:
            start = self.project(x)[0] if self.encoder is None else self.encoder(x.clone())
            return self.generator(unrolled(self.generator, x, start, steps=self.unroll))
        z, x_star = self.project(x)
        if self.implicit:
            return self.generator(implicit(self.generator, x, z))
        return x + (x_star - x).detach() if self.bpda else x_star

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z* (N, latent) and G(z*), without gradients."""
        x = x.detach()
        options = {"steps": self.steps, "restarts": self.restarts, "lr": self.lr}
        return project_to_range(self.generator, x, init=self._starts(x), **options)

    def _starts(self, x: Tensor) -> Tensor | None:
        """Return the starts that are not left to chance, (S, N, latent)."""
        with torch.no_grad():
            starts = [] if self.encoder is None else [self.encoder(x.clone()).unsqueeze(0)]
        missing = self.restarts - len(starts)
        if self.seed is not None and missing:
            stream = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(missing, 1, latent_size(self.generator), generator=stream)
            starts.append(drawn.to(x).expand(-1, len(x), -1))
        return torch.cat(starts) if starts else None


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

    >>> from course_utils import generators, models
    >>> pairs = latent_attack(models.mlp(), generators.decoder(latent=2), torch.randn(5, 2), steps=3)
    >>> pairs.x_prime.shape, pairs.distance.shape
    (torch.Size([5, 1, 28, 28]), torch.Size([5]))

    Ilyas, Jalal, Asteri, Daskalakis and Dimakis, "The robust manifold defense", 2017.
    """
    check_latents(z, len(z), latent_size(generator))
    check_count("steps", steps)
    confidence, lr = checked_number("confidence", confidence), checked_number("lr", lr)
    with frozen(classifier), frozen(generator), torch.enable_grad():
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


def train_on_manifold(
    model: nn.Module,
    generator: nn.Module,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    eps: float = 1.5,
    rounds: int = 3,
    epochs: int = 1,
    pairs: int = 250,
    attack_steps: int = 50,
    confidence: float = 2.0,
    lr: float = 2e-3,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model in place on images, on pairs from the latent space, and on PGD's images in an l2 ball around both.

    Each round looks for new pairs against the model as it is then, starting from the z of some of the images. Pairs
    that are at most eps apart join the training set, both images with the label that the start had.

    Args:
        model: maps images to logits; left in eval mode. generator: maps z to images.
        x, y: images and labels (N,). z: their latents (N, latent), such as an encoder's guess.
        eps: radius of PGD and largest distance of a pair, l2, pixel units.
        rounds: searches for pairs, each followed by so many `epochs`. pairs: starts of each search.
        attack_steps, confidence: of `latent_attack`.
        lr: highest learning rate. seed: of all draws. progress: show bars.

    Returns:
        one row for each epoch: round, pairs (found and used), and the columns of `training.fit`.

    Raises:
        ValueError, TypeError: latents or labels that do not match. FloatingPointError: a loss is no longer finite.
        KeyboardInterrupt: Ctrl-C.

    Ilyas, Jalal, Asteri, Daskalakis and Dimakis, "The robust manifold defense", 2017.
    """
    check_latents(z, len(x), latent_size(generator))
    for name, count in (("rounds", rounds), ("epochs", epochs), ("pairs", pairs)):
        check_count(name, count)
    adversary = Adversary("pgd", checked_number("eps", eps), {"norm": "l2", "steps": 2})
    stream, frames = torch.Generator().manual_seed(seed), []
    for number in range(1, rounds + 1):
        chosen = torch.randperm(len(x), generator=stream)[:pairs].to(x.device)
        met = latent_attack(model, generator, z[chosen], y[chosen], confidence=confidence, steps=attack_steps)
        near = met.distance <= eps
        images = torch.cat([x, met.x[near], met.x_prime[near]])
        labels = torch.cat([y, met.y[near], met.y[near]])
        options = {"epochs": epochs, "lr": lr, "batch_size": 64, "attack": adversary, "mix": 0.5, "augmented": True}
        history = fit(model, images, labels, seed=seed + number, progress=progress, **options)
        if history.interrupted:
            raise KeyboardInterrupt
        frames.append(history.to_frame().assign(round=number, pairs=int(near.sum())))
    return pd.concat(frames, ignore_index=True)
