"""What a camera leaves of an attack, and patches on photographs that they were not made for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from ..attacks.patch import Scales, _checked_target, apply_patch
from ..attacks.transformations import BATCH, TRANSFORMATIONS, Transformation
from ..core.intervals import wilson
from ..core.validation import Model, check_batch
from .metrics import correct

# What a camera leaves, and what is made for it ----------------------------------------------------------------------


def robustness_to_transformations(
    model: Model,
    x: Tensor,
    attacks: Mapping[str, Tensor],
    y: Tensor,
    transformations: Mapping[str, Transformation] = TRANSFORMATIONS,
    *,
    target: Tensor | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Count the adversarial images of each attack that still are adversarial after each transformation.

    A transformation is no attack: an image counts only if its clean twin, transformed with the same draws, is still
    classified as y, as it was before. Adversarial means classified otherwise than y; with a target, as the target.

    Args:
        model: maps images (N, C, H, W) to logits. x: clean images. y: their true labels (N,).
        attacks: by name, the adversarial images that one made of x. An image that comes twice gets two draws.
        transformations: by name, called as transformation(x, generator).
        target: labels that the attack was to reach (N,). seed: of all draws, anew for each transformation.

    Returns:
        One row for each transformation and attack: transformation, attack, n (images that count), successes, share
        and its 95 % Wilson interval low, high (NaN where no image counts).

    Raises:
        ValueError, TypeError: adversarial images of another shape than x, or no images; labels that do not match.

    >>> flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> x = torch.rand(4, 3, 8, 8)
    >>> list(robustness_to_transformations(flat, x, {"inverted": 1 - x}, flat(x).argmax(1)).columns)
    ['transformation', 'attack', 'n', 'successes', 'share', 'low', 'high']

    Kurakin, Goodfellow and Bengio, "Adversarial examples in the physical world", 2017: their destruction rate is
    one minus this share.
    """
    check_batch(x)
    for name, adv in attacks.items():
        check_batch(adv, f"the images of {name!r}")
        if adv.shape != x.shape:
            raise ValueError(
                f"the images of {name!r} must have the shape of x, {tuple(x.shape)}; got {tuple(adv.shape)}."
            )

    def is_right(images: Tensor) -> Tensor:
        return correct(model, images, y, batch_size=BATCH)

    def fools(images: Tensor) -> Tensor:
        return ~is_right(images) if target is None else correct(model, images, target, batch_size=BATCH)

    right, rows = is_right(x), []
    adversarial = {name: right & fools(adv) for name, adv in attacks.items()}
    for title, transformation in transformations.items():
        stays_right = is_right(transformation(x, torch.Generator().manual_seed(seed)))
        for name, adv in attacks.items():
            changed = transformation(adv, torch.Generator().manual_seed(seed))
            counts = adversarial[name] & stays_right
            rows.append({"transformation": title, "attack": name} | tally(fools(changed)[counts]))
    return pd.DataFrame(rows)


def tally(successes: Tensor) -> dict[str, float]:
    """Return n, successes, their share and its 95 % Wilson interval, of a boolean mask (n,); NaN where it is empty."""
    n, count = len(successes), int(successes.sum())
    low, high = wilson(count, n) if n else (math.nan, math.nan)
    return {"n": n, "successes": count, "share": count / n if n else math.nan, "low": low, "high": high}


def patch_success(
    model: Model,
    x: Tensor,
    patches: Mapping[str, Tensor],
    target: int,
    *,
    scales: Scales = (1.0, 1.0),
    degrees: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare patches on photos that they were not trained on: how many become the target.

    Patches of one size get the same places. A photo that is taken for the target without any patch does not count.

    Args:
        model: maps images (N, C, H, W) to logits. x: photos (N, C, H, W); one that comes twice gets two places.
        patches: by name, (C, h, w) each: the trained one, and controls such as noise or a real photo of the target.
        target, scales, degrees: as in `adversarial_patch`. seed: of all places.

    Returns:
        One row for each patch: patch, n (photos that count), successes, share and its 95 % Wilson interval low, high.

    Raises:
        ValueError, TypeError: as `apply_patch`; no photos; a target that is no class.

    >>> flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> patch_success(flat, torch.rand(4, 3, 8, 8), {"white": torch.ones(3, 2, 2)}, 1).patch.tolist()
    ['white']
    """
    check_batch(x)
    target = _checked_target(target, x)

    def is_target(images: Tensor) -> Tensor:
        return correct(model, images, target.expand(len(images)), batch_size=BATCH)

    counts, rows = ~is_target(x), []
    for name, patch in patches.items():
        generator = torch.Generator().manual_seed(seed)
        patched = apply_patch(x, patch, scales=scales, degrees=degrees, generator=generator)
        rows.append({"patch": name} | tally(is_target(patched)[counts]))
    return pd.DataFrame(rows)
