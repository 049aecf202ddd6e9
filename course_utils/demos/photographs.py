"""Photographs under attack, and one of your own (chapter 07)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..attacks import bim, input_gradient
from ..evaluation import predict
from ..photos import preprocess, read_photo
from ..plotting import class_bars, show_image
from .demo import Demo

PHOTO_LEVELS = (0, 0.25, 0.5, 1, 2, 4, 8)
PHOTO_ATTACKS = ("FGSM", "PGD", "targeted PGD")
UPLOADED = "your upload"
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
    size = next(iter(photos.values())).shape[-1]
    made: dict[tuple[Any, ...], Tensor] = {}

    def opened(photo: str, upload: Sequence[Mapping[str, Any]]) -> tuple[Any, Tensor]:
        """Return a photo (1, 3, H, W), and what tells it from the others."""
        if photo != UPLOADED:
            return photo, photos[photo][None]
        if not upload:
            raise ValueError("choose a photo of your own with the button first.")
        content = bytes(upload[-1]["content"])
        return content, preprocess(read_photo(content), size).to(next(iter(photos.values())))

    def attacked(key: Any, x: Tensor, y: Tensor, attack: str, target: str, level: float) -> Tensor:
        eps = level / 255
        if attack == "FGSM":
            if (key, attack) not in made:
                made[key, attack] = input_gradient(model, x, y).sign()
            return (x + eps * made[key, attack]).clamp(0, 1)
        aimed = attack != "PGD"
        place = (key, attack, target if aimed else None, level)
        if place not in made:
            goal = torch.full_like(y, names.index(target)) if aimed else y
            made[place] = bim(model, x, goal, eps, steps=steps, targeted=aimed)
        return made[place]

    def frame(photo: str, upload: Sequence[Mapping[str, Any]], attack: str, target: str, level: float) -> dict:
        key, x = opened(photo, upload)
        if key not in made:
            made[key] = predict(model, x).argmax(1)
        adv = attacked(key, x, made[key], attack, target, level)
        return {
            "adv": adv[0],
            "change": (adv - x)[0],
            "probabilities": predict(model, adv).softmax(1)[0],
            "true": int(made[key]),
            "title": f"{attack}, ε = {level:g}/255",
        }

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, middle, right = fig.axes
        show_image(left, f["adv"], f["title"])
        show_image(middle, 0.5 + MAGNIFIED * f["change"], f"change × {MAGNIFIED}")
        right.set_axis_on()
        class_bars(right, f["probabilities"], true=f["true"], names=names, top=5)
        right.set_title("hatched: the answer without attack", fontsize=9)

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        return (
            f"{f['title']}: the model says {names[best]} with {100 * f['probabilities'][best]:.0f} %; "
            f"without attack it says {names[f['true']]}."
        )

    choice = widgets.Dropdown(options=[*photos, UPLOADED], description="photo")
    upload = widgets.FileUpload(accept="image/*", description="your photo")
    upload.observe(lambda _: setattr(choice, "value", UPLOADED), names="value")
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
