"""Photographs under attack, and one of your own (chapter 07)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..attacks.gradient_based import bim
from ..attacks.gradients import input_gradient
from ..data.photos import preprocess, read_photo
from ..models.inference import predict
from .artists import moving_classes, moving_image
from .widget import Demo, Update

PHOTO_LEVELS = (0, 0.25, 0.5, 1, 2, 4, 8)
AIMED = "targeted PGD"
PHOTO_ATTACKS = ("FGSM", "PGD", AIMED)
UPLOADED = "your upload"
KEPT = 64  # attacked photos, of about a megabyte each
MAGNIFIED = 16  # how much larger the change is shown than it is


def photo_lab(
    model: nn.Module,
    photos: Mapping[str, Tensor],
    *,
    names: Sequence[str],
    targets: Sequence[str],
    steps: int = 10,
) -> Demo:
    """Show a photo under attack: the picture, the magnified change, the five likeliest classes (chapter 07).

    The label is what the model says on the clean photo. A photo can be dropped in; it is cut to the size of the others.
    What an attack makes is kept: FGSM asks for one gradient of each photo, PGD for `steps` at each position.

    Args:
        model: maps images to logits. photos: by name, (3, H, W) each, all of one size.
        names: of the classes. targets: some of them, for the targeted attack. steps: of PGD.

    Raises:
        ValueError: no photos, or a target that is no class.
    """
    if not photos:
        raise ValueError("expected at least one photo, got none.")
    if unknown := [name for name in targets if name not in names]:
        raise ValueError(f"{unknown[0]!r} is no name of a class.")
    one = next(iter(photos.values()))

    @lru_cache(KEPT)
    def opened(photo: str | bytes) -> tuple[Tensor, Tensor]:
        """Return a photo of that name, or of that content, (1, 3, H, W), and the model's answer to it (1,)."""
        x = preprocess(read_photo(photo), one.shape[-1]).to(one) if isinstance(photo, bytes) else photos[photo][None]
        return x, predict(model, x).argmax(1)

    @lru_cache(KEPT)
    def signs(photo: str | bytes) -> Tensor:
        return input_gradient(model, *opened(photo)).sign()

    @lru_cache(KEPT)
    def attacked(photo: str | bytes, attack: str, target: str | None, level: float) -> tuple[Tensor, Tensor]:
        """Return what the attack makes of a photo, (1, 3, H, W), and the probabilities that the model gives it (K,)."""
        (x, y), eps = opened(photo), level / 255
        if attack == "FGSM":
            adv = (x + eps * signs(photo)).clamp(0, 1)
        else:
            goal = y if target is None else torch.full_like(y, names.index(target))
            adv = bim(model, x, goal, eps, steps=steps, targeted=target is not None)
        return adv, predict(model, adv).softmax(1)[0]

    def frame(photo: str, upload: Sequence[Mapping[str, Any]], attack: str, target: str, level: float) -> dict:
        key = bytes(upload[-1]["content"]) if photo == UPLOADED else photo
        x, y = opened(key)
        adv, probabilities = attacked(key, attack, target if attack == AIMED else None, level)
        return {
            "adv": adv[0],
            "change": (adv - x)[0],
            "probabilities": probabilities,
            "true": int(y),
            "title": f"{attack}, ε = {level:g}/255",
        }

    def draw(fig: Figure) -> Update:
        left, middle, right = fig.axes
        show_photo, show_change = (moving_image(ax, one.shape) for ax in (left, middle))
        show_classes = moving_classes(right, names, "hatched: the answer without attack")

        def update(f: dict[str, Any]) -> None:
            show_photo(f["adv"], f["title"])
            show_change(0.5 + MAGNIFIED * f["change"], f"change × {MAGNIFIED}")
            show_classes(f["probabilities"], f["true"])

        return update

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        return (
            f"{f['title']}: the model says {names[best]} with {100 * f['probabilities'][best]:.0f} %; "
            f"without attack it says {names[f['true']]}."
        )

    choice = widgets.Dropdown(options=list(photos), description="photo")
    upload = widgets.FileUpload(accept="image/*", description="your photo")

    def offer(change: Mapping[str, Any]) -> None:
        chosen = choice.value
        choice.options = [*photos, UPLOADED] if change["new"] else list(photos)
        choice.value = UPLOADED if change["new"] else next(iter(photos)) if chosen == UPLOADED else chosen

    upload.observe(offer, names="value")
    controls = {
        "photo": choice,
        "upload": upload,
        "attack": widgets.Dropdown(options=PHOTO_ATTACKS, description="attack"),
        "target": widgets.Dropdown(options=targets, description="target"),
        "level": widgets.SelectionSlider(options=PHOTO_LEVELS, description="ε in 1/255", continuous_update=False),
    }
    size_of_figure = {"rows": 1, "columns": 3, "width": 2.3, "height": 2.2}
    return Demo(
        "The photo lab",
        controls,
        frame,
        draw,
        alt,
        size_of_figure,
        {"attack": PHOTO_ATTACKS[-1], "level": 2},
        handle="level",
        example="photo",
    )
