"""Recipes of adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..core.suggestions import did_you_mean
from .adversary import Adversary, FreeAdversary
from .fitting import fit
from .history import History

_DIGITS = {"lr": 3e-3, "batch_size": 64, "augmented": True}  # with the epochs: for the small CNN and 4,000 digits
_HALVES = {"mix": 0.5, "branch": "auxiliary", "epochs": 6}

# What `fit` is told, for a given radius
ADVERSARIAL_RECIPES: dict[str, Callable[[float], dict[str, Any]]] = {
    "fgsm_mix": lambda eps: _DIGITS | {"attack": Adversary("fgsm", eps), "mix": 0.5, "epochs": 6},
    "fgsm_rs": lambda eps: _DIGITS | {"attack": Adversary("fgsm_rs", eps, warmup=0.5), "epochs": 15},
    "free": lambda eps: _DIGITS | {"attack": FreeAdversary(eps, replays=4), "epochs": 6},
    "pgd": lambda eps: _DIGITS | {"attack": Adversary("pgd", eps, {"steps": 3}, warmup=0.5), "epochs": 10},
    "advprop": lambda eps: _DIGITS | _HALVES | {"attack": Adversary("pgd", eps, {"steps": 3})},
}


def adversarial_fit(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, recipe: str = "pgd", **options: Any
) -> History:
    """Train a model in place on adversarial images, by a named recipe.

    "fgsm_mix": half the loss on clean images, half on FGSM's (Goodfellow et al. 2015). "fgsm_rs": one step from
    a random start (Wong et al. 2020). "free": weights and perturbation share each gradient (Shafahi et al. 2019).
    "pgd": a few steps (Madry et al. 2018). "advprop": clean images through the main branch of dual batch norm,
    adversarial ones through the auxiliary (Xie et al. 2020).

    Args:
        model, x, y: as in `fit`. eps: radius of the attack, pixel units. recipe: one of the names above.
        options: of `fit`; they go before the recipe's own.

    Raises:
        ValueError: unknown recipe, "advprop" for a network without dual batch norm, or as `fit`.

    >>> import torch
    >>> from course_utils.models import networks
    >>> images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    >>> history = adversarial_fit(networks.mlp(), images, labels, eps=0.1, recipe="fgsm_mix", epochs=1, progress=False)
    >>> history.to_frame().gradient_passes.tolist()
    [3.0]
    """
    if recipe not in ADVERSARIAL_RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}. {did_you_mean(recipe, ADVERSARIAL_RECIPES)}")
    return fit(model, x, y, **ADVERSARIAL_RECIPES[recipe](eps) | options)
