"""What fools one model, tried on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from ..attacks.gradient_based import fgsm
from ..attacks.nondifferentiable import generate
from ..core.validation import Model, check_images, checked_labels
from ..models.inference import check_logits, is_fooled, predict
from .metrics import correct, worst_case

RULE = "share of initially correct images fooled"


# From model to model ------------------------------------------------------------------------------------------------


def transfer_matrix(
    sources: Mapping[str, Model],
    victims: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    attack: Callable[..., Tensor] = fgsm,
    **attack_kwargs: object,
) -> pd.DataFrame:
    """Return the share of images that each source's adversarial images fool each victim on, sources × victims.

    Every cell is over the same images: those that all sources and all victims classify correctly at first. So cells
    can be compared along rows and columns, and each of them is a success rate.

    Args:
        sources, victims: networks and SklearnClassifiers by name; one name stands for one model.
        x, y, eps: as in `fgsm`.
        attack: called as attack(source, x, y, eps, **attack_kwargs), once for each source and batch; see
            `attacks.generate` for sources that are no network.

    Returns:
        A frame with `attrs`: n (the images that count), eps, rule; see `matrix_title`.

    Raises:
        ValueError: no model, a name for two models, no image that all classify correctly, a targeted attack.
        TypeError: models without names. ValueError, TypeError, RuntimeError: as `attacks.generate`.

    >>> line = torch.nn.Linear(2, 2)
    >>> x = torch.rand(9, 2)
    >>> transfer_matrix({"line": line}, {"line": line}, x, line(x).argmax(1), eps=0).loc["line", "line"].item()
    0.0

    Papernot, McDaniel and Goodfellow, "Transferability in machine learning", 2016.
    """
    models = _checked_models(sources, victims)
    if attack_kwargs.get("targeted"):
        raise ValueError("transfer_matrix needs the true labels y, a targeted attack the labels to reach.")
    common = worst_case(*(correct(model, x, y) for model in models.values()))
    if not common.any():
        raise ValueError(
            f"none of the {len(x)} images is classified correctly by all of {', '.join(models)}: "
            "take more images, or leave the weakest model out."
        )
    x, y = x[common], y.to(x.device)[common]
    rows = {}
    for name, source in sources.items():
        adv = generate(source, x, y, eps, attack=attack, **attack_kwargs)
        rows[name] = [1 - correct(victim, adv, y).float().mean().item() for victim in victims.values()]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=pd.Index(victims, name="victim"))
    frame.index.name = "source"
    frame.attrs = {"n": len(x), "eps": float(eps), "rule": RULE}
    return frame


def matrix_title(frame: pd.DataFrame) -> str:
    """Return what the title of a transfer matrix has to say: the rule, how many images, and eps.

    >>> frame = pd.DataFrame([[0.5]])
    >>> frame.attrs = {"n": 812, "eps": 0.2, "rule": RULE}
    >>> matrix_title(frame)
    'share of initially correct images fooled (the same n = 812 in every cell, ε = 0.2)'
    """
    return "{rule} (the same n = {n} in every cell, ε = {eps:g})".format(**frame.attrs)


def _checked_models(sources: Mapping[str, Model], victims: Mapping[str, Model]) -> dict[str, Model]:
    """Return all models by name, or refuse."""
    for role, models in (("sources", sources), ("victims", victims)):
        if not isinstance(models, Mapping):
            raise TypeError(f"{role} must be a mapping from name to model, got a {type(models).__name__}.")
        if not models:
            raise ValueError(f"{role} holds no model: name at least one.")
    twofold = [name for name in sources if name in victims and sources[name] is not victims[name]]
    if twofold:
        raise ValueError(f"{twofold} stand for one model among the sources and another among the victims: rename one.")
    return {**sources, **victims}


class Agreement(NamedTuple):
    """How often two models make the same mistake; NaN where no images can tell."""

    share: float  # of the n images, those on which both give the same wrong class
    chance: float  # that share if the victim's answer is taken from another of these images, of the same true class
    n: int  # images that fool both


def agreement(source: Model, victim: Model, adv: Tensor, y: Tensor) -> Agreement:
    """Return how often source and victim say the same wrong class, among the images that fool both.

    Chance keeps what everybody confuses: a 4 becomes a 9 more often than a 0. What exceeds it is due to the image.

    Args:
        source, victim: models. adv: adversarial images (N, ...), crafted on the source. y: true labels (N,).

    Raises:
        ValueError, TypeError: as `evaluation.correct`.

    >>> line = torch.nn.Linear(2, 2)
    >>> adv = torch.rand(9, 2)
    >>> agreement(line, line, adv, 1 - line(adv).argmax(1)).share
    1.0
    """
    check_images(adv, None, "adv")
    y = checked_labels(y, adv)
    logits = [predict(model, adv) for model in (source, victim)]
    for answer in logits:
        check_logits(answer, len(adv), y)
    fooled = torch.stack([is_fooled(answer, y) for answer in logits]).all(0)
    first, second, y = (labels[fooled] for labels in (*(answer.argmax(1) for answer in logits), y))
    others = (y.unsqueeze(1) == y).fill_diagonal_(False)
    alike = ((first.unsqueeze(1) == second) & others).sum(1) / others.sum(1)
    return Agreement((first == second).float().mean().item(), alike.nanmean().item(), len(y))
