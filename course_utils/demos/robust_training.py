"""Networks that were trained against attacks, side by side (chapter 05)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..attacks import fgsm, pgd
from ..evaluation import accuracy
from ..plotting import line
from .artists import moving, moving_title
from .demo import Demo, Update, check_images

ATTACK_STEPS = (1, 2, 3, 5, 10, 20, 40)


def accuracy_curves(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, largest: float = 0.3) -> Demo:
    """Show accuracy against eps for several models; the handle sets how many steps the attack takes (chapter 05).

    One step is FGSM, more are PGD from a random start. What an attack leaves is kept for the next visit.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        largest: eps at the right end, pixel units.
    """
    check_images(x, y)
    radii = [largest * i / 5 for i in range(6)]
    known: dict[int, dict[str, list[float]]] = {}

    def left(model: nn.Module, eps: float, steps: int) -> float:
        if steps == 1:
            return accuracy(model, fgsm(model, x, y, eps), y)
        generator = torch.Generator(x.device).manual_seed(0)
        return accuracy(model, pgd(model, x, y, eps, steps=steps, generator=generator), y)

    def frame(steps: int) -> dict[str, Any]:
        if steps not in known:
            known[steps] = {name: [left(model, eps, steps) for eps in radii] for name, model in models.items()}
        return {"steps": steps, "curves": known[steps]}

    def draw(fig: Figure) -> Update:
        (ax,) = fig.axes
        for name in models:
            line(ax, radii, [0.0] * len(radii), name)
        curves = dict(zip(models, ax.lines, strict=True))
        moving(*ax.lines)
        show_title = moving_title(ax)
        ax.set(xlabel="ε", ylabel=f"accuracy, n = {len(x)}", ylim=(-0.02, 1.02))
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

        def update(f: dict[str, Any]) -> None:
            for name, shares in f["curves"].items():
                curves[name].set_ydata(shares)
            show_title("FGSM" if f["steps"] == 1 else f"PGD, {f['steps']} steps")

        return update

    def alt(f: dict[str, Any]) -> str:
        attack = "FGSM" if f["steps"] == 1 else f"{f['steps']} steps of PGD"
        rows = (
            f"{name} {100 * shares[0]:.0f} % → {100 * shares[3]:.0f} % → {100 * shares[-1]:.0f} %"
            for name, shares in f["curves"].items()
        )
        return f"Accuracy under {attack} at ε = 0, {radii[3]:g} and {radii[-1]:g}: {'; '.join(rows)}."

    controls = {"steps": widgets.SelectionSlider(options=ATTACK_STEPS, description="steps")}
    size = {"rows": 1, "columns": 1, "width": 6.2, "height": 3.2}
    return Demo("Accuracy against ε", controls, frame, draw, alt, size, {"steps": 10}, handle="steps", example=None)
