"""Who changes the training images: attacks on the network as it is at that moment, ready to be called on a batch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import attacks
from ..attacks.gradient_based import fgsm_rs
from ..attacks.threat_model import uniform_noise
from ..core.suggestions import did_you_mean
from ..models.inference import frozen_eval

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def n_fgsm(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, noise: float = 2.0) -> Tensor:
    """Take FGSM's step from uniform noise of `noise` times eps, and stay inside the box only.

    This is no attack within eps: a pixel moves by up to (1 + noise) * eps. As training images these prevent
    catastrophic overfitting (de Jorge et al., "Make some noise", 2022).

    >>> images = torch.full((1, 1, 2, 2), 0.5)
    >>> moved = n_fgsm(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), images, torch.tensor([1]), 0.1)
    >>> bool((moved - images).abs().max() <= 0.3)
    True
    """
    return attacks.fgsm(model, uniform_noise(model, x, y, noise * eps), y, eps)


ATTACKS = {
    "noise": uniform_noise,
    "fgsm": attacks.fgsm,
    "fgsm_rs": fgsm_rs,
    "n_fgsm": n_fgsm,
    "bim": attacks.bim,
    "pgd": attacks.pgd,
}


@dataclass(frozen=True)
class Adversary:
    """An attack for training, by its name.

    Args:
        attack: "noise", "fgsm", "fgsm_rs", "n_fgsm", "bim" or "pgd". eps: its radius, pixel units.
        options: of the attack, such as {"steps": 7}.
        warmup: the share of the training during which the radius grows from 0 to eps.

    Raises:
        ValueError: unknown attack, or a warmup that is no share. TypeError: an option that the attack does not have.

    >>> import torch
    >>> from course_utils import models
    >>> images = torch.rand(2, 1, 28, 28)
    >>> Adversary("pgd", 0.1, {"steps": 2})(models.mlp(), images, torch.tensor([3, 8])).shape
    torch.Size([2, 1, 28, 28])
    """

    attack: str
    eps: float
    options: Mapping[str, Any] = field(default_factory=dict)
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.attack not in ATTACKS:
            raise ValueError(f"unknown attack {self.attack!r}. {did_you_mean(self.attack, ATTACKS)}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of the training, between 0 and 1; got {self.warmup}.")
        parameters = inspect.signature(ATTACKS[self.attack]).parameters.values()
        known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
        unknown = [option for option in self.options if option not in known]
        if unknown:
            raise TypeError(f"{self.attack!r} has no option {unknown[0]!r}; it takes {', '.join(known)}.")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return adversarial images like x."""
        with warnings.catch_warnings():  # while a network learns, some images have no gradient: no news to a student
            warnings.filterwarnings("ignore", message=".*gradients are exactly zero")
            return ATTACKS[self.attack](model, x, y, self.eps, **self.options)

    def at(self, progress: float) -> Adversary:
        """Return the adversary after this share of the training, with the radius of that moment.

        >>> Adversary("fgsm", 0.2, warmup=0.5).at(0.25).eps
        0.1
        """
        return self if progress >= self.warmup else replace(self, eps=self.eps * progress / self.warmup)


@dataclass
class FreeAdversary:
    """The perturbation of "free" training: each batch is trained on `replays` times, and no pass is spent on an attack.

    A batch starts at a random point. Whenever the training loss is sent back through the network, its gradient with
    respect to the images moves the perturbation by a signed step of eps, for the next replay of the same batch.
    With `carry` the next batch starts where the last one ended, as with Shafahi et al., and the first one at zero.

    Args:
        eps: radius, pixel units. replays: steps of the optimizer on each batch. carry: keep the perturbation.

    Raises:
        ValueError: replays below 1.

    Shafahi et al., "Adversarial training for free!", 2019.
    """

    eps: float
    replays: int = 4
    carry: bool = False

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise ValueError(f"replays must be at least 1, got {self.replays}.")
        self._batch: Tensor | None = None
        self._carried: Tensor | None = None  # the perturbation of the last batch, inside the ball, whatever the box

    def anew(self) -> FreeAdversary:
        """Return this adversary for another training, which knows nothing of the last one."""
        return replace(self)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the perturbed images of this replay, which wait for their gradient."""
        if x is not self._batch:
            self._batch, self._next = x, self._start(model, x, y)
        here = self._next
        adv = here.clone().requires_grad_()
        adv.register_hook(lambda gradient: self._step(here, gradient))
        return adv

    def _start(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if not self.carry:
            return uniform_noise(model, x, y, self.eps)
        if self._carried is None or len(self._carried) < len(x):
            self._carried = torch.zeros_like(x)
        return (x + self._carried[: len(x)]).clamp(0, 1)

    def _step(self, here: Tensor, gradient: Tensor) -> None:
        if not self.carry:
            self._next = attacks.project(here + self.eps * gradient.sign(), self._batch, self.eps)
            return
        n = len(here)
        moved = (self._carried[:n] + self.eps * gradient.sign()).clamp(-self.eps, self.eps)
        self._carried = torch.cat([moved, self._carried[n:]])
        self._next = (self._batch + moved).clamp(0, 1)


def trades_loss(logits: Tensor, attacked: Tensor, y: Tensor, beta: float) -> Tensor:
    """Return the cross-entropy of clean images plus beta times what an attack changes, as a mean over the images.

    The change is the Kullback-Leibler divergence KL(p || p') of the probabilities of clean and attacked images.

    Args:
        logits, attacked: of clean and of attacked images (N, K). y: labels (N,). beta: weight of the second part.

    >>> z = torch.tensor([[2.0, 0.0]])
    >>> bool(trades_loss(z, z, torch.tensor([0]), 6.0) == F.cross_entropy(z, torch.tensor([0])))
    True
    """
    return F.cross_entropy(logits, y) + beta * _divergence(logits, attacked).mean()


def _divergence(logits: Tensor, attacked: Tensor) -> Tensor:
    """Return KL(p || p') of each image, (N,)."""
    clean = logits.log_softmax(1)
    return (clean.exp() * (clean - attacked.log_softmax(1))).sum(1)


@dataclass(frozen=True)
class Trades:
    """The attack and the loss of TRADES, for `fit`: (k + 2) gradient passes for k steps.

    Args:
        eps: radius, pixel units. beta: weight of the robust part. steps: of the attack, each of 2.5 eps / steps.
        warmup: the share of the training during which the radius grows from 0 to eps.

    Raises:
        ValueError: steps below 1, or a warmup that is no share.

    Zhang et al., "Theoretically principled trade-off between robustness and accuracy", 2019.
    """

    eps: float
    beta: float = 6.0
    steps: int = 3
    warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warmup <= 1:
            raise ValueError(f"expected at least 1 step and a warmup in [0, 1], got {self.steps} and {self.warmup}.")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return images whose answers differ much from those of x; the labels take no part."""
        adv = (x + 1e-3 * torch.randn_like(x)).clamp(0, 1)  # at x itself the divergence has its minimum: no gradient
        with frozen_eval(model), torch.enable_grad():
            clean = model(x).detach()
            for _ in range(self.steps):
                adv = adv.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(_divergence(clean, model(adv)).sum(), adv)
                step = 2.5 * self.eps / self.steps * gradient.sign()
                adv = attacks.project(adv.detach() + step, x, self.eps)
        return adv

    def at(self, progress: float) -> Trades:
        """Return TRADES after this share of the training, with the radius of that moment."""
        return self if progress >= self.warmup else replace(self, eps=self.eps * progress / self.warmup)
