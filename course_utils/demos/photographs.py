"""Photographs under attack, and one of your own (chapter 10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import torch
from torch import Tensor, nn

from ..attacks.gradient_based import bim
from ..attacks.gradients import input_gradient
from ..data.photos import preprocess, read_photo
from ..models.inference import predict
from .panels import Values, class_panel, image_panel, top_class
from .widget import Demo, dropdown

PHOTO_LEVELS = (0, 0.25, 0.5, 1, 2, 4, 8)
TARGETED = "targeted PGD"
PHOTO_ATTACKS = ("FGSM", "PGD", TARGETED)
UPLOADED = "your upload"
CACHED_PHOTOS = 64  # attacked photos, of about a megabyte each
MAGNIFICATION = 16  # how much larger the change is shown than it is


def photo_lab(
    model: nn.Module,
    photos: Mapping[str, Tensor],
    *,
    names: Sequence[str],
    targets: Sequence[str],
    steps: int = 10,
) -> Demo:
    """Show a photo under attack: the picture, the magnified change, the five most likely classes (chapter 10).

    The label is what the model says on the clean photo. A photo can be uploaded; it is cut to the size of the others.
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

    @lru_cache(CACHED_PHOTOS)
    def clean(photo: str | bytes) -> tuple[Tensor, Tensor]:
        """Return a photo of that name, or of that content, (1, 3, H, W), and the model's answer to it (1,)."""
        x = preprocess(read_photo(photo), one.shape[-1]).to(one) if isinstance(photo, bytes) else photos[photo][None]
        return x, predict(model, x).argmax(1)

    @lru_cache(CACHED_PHOTOS)
    def signs(photo: str | bytes) -> Tensor:
        return input_gradient(model, *clean(photo)).sign()

    @lru_cache(CACHED_PHOTOS)
    def attacked(photo: str | bytes, attack: str, target: str | None, level: float) -> tuple[Tensor, Tensor]:
        """Return the attacked photo, (1, 3, H, W), and the probabilities that the model gives it (K,)."""
        (x, y), eps = clean(photo), level / 255
        if attack == "FGSM":
            adv = (x + eps * signs(photo)).clamp(0, 1)
        else:
            goal = y if target is None else torch.full_like(y, names.index(target))
            adv = bim(model, x, goal, eps, steps=steps, targeted=target is not None)
        return adv, predict(model, adv).softmax(1)[0]

    def compute(photo: str, upload: Sequence[Mapping[str, Any]], attack: str, target: str, level: float) -> Values:
        key = bytes(upload[-1]["content"]) if photo == UPLOADED else photo
        x, y = clean(key)
        adv, probabilities = attacked(key, attack, target if attack == TARGETED else None, level)
        values = {"adv": adv[0], "change": (adv - x)[0], "probabilities": probabilities, "true": int(y)}
        return values | {"title": f"{attack}, ε = {level:g}/255"}

    def alt(values: Values) -> str:
        top, true = top_class(values["probabilities"], names), names[values["true"]]
        return f"{values['title']}: the model says {top}; without attack it says {true}."

    panels = [
        image_panel(one.shape, lambda values: (values["adv"], values["title"])),
        image_panel(one.shape, _magnified_change),
        class_panel(names, "hatched: the answer without attack"),
    ]
    controls = _photo_and_upload(photos) | {
        "attack": dropdown("attack", PHOTO_ATTACKS),
        "target": dropdown("target", targets),
        "level": widgets.SelectionSlider(options=PHOTO_LEVELS, description="ε in 1/255", continuous_update=False),
    }
    static_state, layout = {"attack": TARGETED, "level": 2}, {"width": 2.3, "height": 2.2}
    return Demo("The photo lab", controls, compute, panels, alt, static_state, "level", "photo", layout)


def _magnified_change(values: Values) -> tuple[Tensor, str]:
    return 0.5 + MAGNIFICATION * values["change"], f"change × {MAGNIFICATION}"


def _photo_and_upload(photos: Mapping[str, Tensor]) -> dict[str, widgets.Widget]:
    """Return the choice of a photo and the upload, which adds itself to that choice."""
    photo = dropdown("photo", photos)
    upload = widgets.FileUpload(accept="image/*", description="your photo")

    def offer(change: Mapping[str, Any]) -> None:
        chosen = photo.value
        photo.options = [*photos, UPLOADED] if change["new"] else list(photos)
        photo.value = UPLOADED if change["new"] else next(iter(photos)) if chosen == UPLOADED else chosen

    upload.observe(offer, names="value")
    return {"photo": photo, "upload": upload}
