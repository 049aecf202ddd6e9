"""What fools one model, tried on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from ..attacks.gradient_based import fgsm
from ..attacks.nondifferentiable import generate
from ..core.validation import Model
from .comparison import Attack, Comparison, compare
from .metrics import correct, worst_case

RULE = "share of initially correct images fooled"


# From model to model ------------------------------------------------------------------------------------------------


def transfer_matrix(
    sources: Mapping[str, Model],
    targets: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    attack: Callable[..., Tensor] = fgsm,
    **attack_kwargs: object,
) -> pd.DataFrame:
    """Return the share of images that each source's adversarial images fool each target on, sources × targets.

    Every cell is over the same images: those that all sources and all targets classify correctly at first. So cells
    can be compared along rows and columns, and each of them is a success rate.

    Args:
        sources, targets: networks and SklearnClassifiers by name; one name stands for one model.
        x, y, eps: as in `fgsm`.
        attack: called as attack(source, x, y, eps, **attack_kwargs), once for each source and batch; see
            `attacks.generate` for sources that are no network.

    Returns:
        A frame with `attrs`: n (the images that count), eps, rule; see `matrix_title`.

    Raises:
        ValueError: no model, a name for two models, no image that all classify correctly, a targeted attack.
        TypeError: models without names. ValueError, TypeError, RuntimeError: as `attacks.generate`.

    >>> import torch
    >>> line = torch.nn.Linear(2, 2)
    >>> x = torch.rand(9, 2)
    >>> transfer_matrix({"line": line}, {"line": line}, x, line(x).argmax(1), eps=0).loc["line", "line"].item()
    0.0

    Papernot, McDaniel and Goodfellow, "Transferability in machine learning", 2016.
    """
    models = _checked_models(sources, targets)
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
        rows[name] = [1 - correct(target, adv, y).float().mean().item() for target in targets.values()]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=pd.Index(targets, name="target"))
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


def _checked_models(sources: Mapping[str, Model], targets: Mapping[str, Model]) -> dict[str, Model]:
    """Return all models by name, or refuse."""
    for role, models in (("sources", sources), ("targets", targets)):
        if not isinstance(models, Mapping):
            raise TypeError(f"{role} must be a mapping from name to model, got a {type(models).__name__}.")
        if not models:
            raise ValueError(f"{role} holds no model: name at least one.")
    twofold = [name for name in sources if name in targets and sources[name] is not targets[name]]
    if twofold:
        raise ValueError(f"{twofold} stand for one model among the sources and another among the targets: rename one.")
    return {**sources, **targets}


def compare_transfer(
    sources: Sequence[Model],
    targets: Mapping[Any, Model | Sequence[Model]],
    x: Tensor,
    y: Tensor,
    attacks: Mapping[Any, Attack],
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Attack the source of every seed with every attack, and count what the targets still classify correctly.

    Only the images count that all sources and all targets classify correctly at first. So an accuracy is 1 minus the
    share that transfers, cells can be compared along rows and columns, and attacks as pairs (`Comparison.difference`).

    Args:
        sources: one model from several seeds; the attack of each is made once, for all targets.
        targets: by name, one model, or one for each source. Give the sources themselves to see the white box, too.
        x, y: images (N, ...) and labels (N,). attacks: by name, called as attack(source, x, y).
        workers, progress: as in `compare`.

    Raises:
        ValueError: no source, targets of another number than the sources, no image that all classify correctly.
            ValueError, TypeError: as `compare`.

    >>> import torch
    >>> x, line = torch.rand(9, 2), torch.nn.Linear(2, 2)
    >>> attacks = {"FGSM": lambda model, x, y: fgsm(model, x, y, 0.1)}
    >>> found = compare_transfer([line], {"line": line}, x, line(x).argmax(1), attacks, workers=1, progress=False)
    >>> found.frame.n[0].item()
    9
    """
    sources = list(sources)
    if not sources or not isinstance(targets, Mapping) or not targets:
        raise ValueError("expected at least one source in a list, and at least one target by name.")
    rows = [_of_seed(targets, seed, len(sources)) for seed in range(len(sources))]
    everyone = {id(model): model for model in [*sources, *(model for row in rows for model in row.values())]}
    common = worst_case(*(correct(model, x, y) for model in everyone.values()))
    if not common.any():
        raise ValueError(f"none of the {len(x)} images is classified correctly by all models: leave the weakest out.")
    x, y = x[common], y.to(x.device)[common]
    made = compare({"source": sources}, x, y, attacks, workers=workers, progress=progress)
    frames, masks = [], {}
    for seed, row in enumerate(rows):
        images = {name: made.images["source", name, seed] for name in attacks}
        found = compare(row, x, y, images, workers=1, progress=False)
        frames.append(found.frame.assign(seed=seed))
        masks |= {(target, name, seed): mask for (target, name, _), mask in found.masks.items()}
    return Comparison(pd.concat(frames, ignore_index=True), masks, made.images)


def _of_seed(targets: Mapping[Any, Model | Sequence[Model]], seed: int, seeds: int) -> dict[Any, Model]:
    """Return the targets of one seed by name, or refuse."""
    row = {}
    for name, given in targets.items():
        several = isinstance(given, list | tuple)
        if several and len(given) != seeds:
            raise ValueError(f"{name!r} holds {len(given)} models for {seeds} sources: one for each, or one model.")
        row[name] = given[seed] if several else given
    return row
