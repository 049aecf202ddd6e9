"""Who changes the training images: attacks on the network as it is at that moment, ready to be called on a batch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from .. import attacks
from ..attacks.gradient_based import fgsm_rs
from ..attacks.threat_model import uniform_noise
from ..core.suggestions import did_you_mean

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


ATTACKS = {"noise": uniform_noise, "fgsm": attacks.fgsm, "fgsm_rs": fgsm_rs, "bim": attacks.bim, "pgd": attacks.pgd}


@dataclass(frozen=True)
class Adversary:
    """An attack for training, by its name.

    Args:
        attack: "noise", "fgsm", "fgsm_rs", "bim" or "pgd". eps: its radius, pixel units.
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
    Shafahi et al. let the next batch start where the last one ended; a random start is as far from zero.

    Args:
        eps: radius, pixel units. replays: steps of the optimizer on each batch.

    Raises:
        ValueError: replays below 1.

    Shafahi et al., "Adversarial training for free!", 2019.
    """

    eps: float
    replays: int = 4

    def __post_init__(self) -> None:
        if self.replays < 1:
            raise ValueError(f"replays must be at least 1, got {self.replays}.")
        self._batch: Tensor | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the perturbed images of this replay, which wait for their gradient."""
        if x is not self._batch:
            self._batch, self._next = x, uniform_noise(model, x, y, self.eps)
        here = self._next
        adv = here.clone().requires_grad_()
        adv.register_hook(lambda gradient: self._step(here, gradient))
        return adv

    def _step(self, here: Tensor, gradient: Tensor) -> None:
        self._next = attacks.project(here + self.eps * gradient.sign(), self._batch, self.eps)
