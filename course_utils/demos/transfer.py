"""What crosses from one model to another (chapter 04)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..evaluation import correct, predict, worst_case
from ..plotting import COLOURS, show_image
from ..victims import craft
from .demo import Demo, check_images, eps_slider


def transfer_picker(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    largest: float = 0.3,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show one cell of the transfer matrix, source × victim × eps, and one of its images (chapter 04).

    What a source makes and a victim answers is kept, so that a handle that comes back costs nothing.

    Args:
        models: networks and ClassicalVictims by the name shown.
        x: images (N, C, H, W) in [0, 1]. y: labels (N,). Those that all models classify correctly are used.
        largest: eps of the slider's right end, pixel units. names: of the classes.

    Raises:
        ValueError: wrong images, or none that all models classify correctly.
    """
    check_images(x, y)
    common = worst_case(*(correct(model, x, y) for model in models.values()))
    if not common.any():
        raise ValueError(f"none of the {len(x)} images is classified correctly by all of {', '.join(models)}.")
    x, y = x[common], y[common]
    made: dict[tuple[str, float], Tensor] = {}
    said: dict[tuple[str, str, float], Tensor] = {}

    def answers(source: str, victim: str, eps: float) -> Tensor:
        if (source, eps) not in made:
            made[source, eps] = craft(models[source], x, y, eps)
        if (source, victim, eps) not in said:
            said[source, victim, eps] = predict(models[victim], made[source, eps]).argmax(1)
        return said[source, victim, eps]

    def frame(source: str, victim: str, image: int, eps: float) -> dict[str, Any]:
        answer = {role: answers(source, model, eps) for role, model in (("source", source), ("victim", victim))}
        return {
            "clean": x[image],
            "adv": made[source, eps][image],
            "true": int(y[image]),
            "said": {role: int(labels[image]) for role, labels in answer.items()},
            "fooled": {role: float((labels != y).float().mean()) for role, labels in answer.items()},
            "pair": f"{source} → {victim}",
            "eps": eps,
        }

    def name(label: int) -> str:
        return str(label) if names is None else names[label]

    def draw(fig: Figure, f: dict[str, Any]) -> None:
        left, middle, right = fig.axes
        show_image(left, f["clean"], f"true: {name(f['true'])}")
        show_image(middle, f["adv"], f"ε = {f['eps']:.3f}; victim: {name(f['said']['victim'])}")
        right.barh([0, 1], f["fooled"].values(), color=[COLOURS[4], COLOURS[0]])
        right.set_yticks([0, 1], [f"{role}\n{100 * share:.0f} %" for role, share in f["fooled"].items()])
        right.set(xlim=(0, 1), ylim=(1.6, -0.6), xlabel=f"fooled, n = {len(x)}")
        right.set_title(f["pair"], fontsize=9)

    def alt(f: dict[str, Any]) -> str:
        source, victim = f["fooled"].values()
        return (
            f"{f['pair']} at ε = {f['eps']:.3f}: the source is fooled on {100 * source:.0f} %, the victim on "
            f"{100 * victim:.0f} % of {len(x)} images. This {name(f['true'])}: the source says "
            f"{name(f['said']['source'])}, the victim {name(f['said']['victim'])}."
        )

    first, second = [*models, *models][:2]
    slider = eps_slider(largest=largest, value=0.0)
    slider.step = largest / 15  # each position costs an answer of the victim
    controls = {
        "source": widgets.Dropdown(options=list(models), value=first, description="source"),
        "victim": widgets.Dropdown(options=list(models), value=second, description="victim"),
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "eps": slider,
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.5}
    return Demo(
        "One cell of the transfer matrix",
        controls,
        frame,
        draw,
        alt,
        size,
        {"eps": largest * 2 / 3},
        handle="eps",
        example="image",
    )
