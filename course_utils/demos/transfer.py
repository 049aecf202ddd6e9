"""What crosses from one model to another (chapter 04)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..attacks.nondifferentiable import generate
from ..evaluation.metrics import correct, worst_case
from ..models.inference import predict
from ..plotting.figures import COLOURS
from .artists import called, moving_bars, moving_image, moving_title
from .widget import Demo, Update, check_images, eps_slider


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

    @cache
    def made(source: str, eps: float) -> Tensor:
        return generate(models[source], x, y, eps)

    @cache
    def answers(source: str, victim: str, eps: float) -> Tensor:
        return predict(models[victim], made(source, eps)).argmax(1)

    def frame(source: str, victim: str, image: int, eps: float) -> dict[str, Any]:
        answer = {role: answers(source, model, eps) for role, model in (("source", source), ("victim", victim))}
        return {
            "clean": x[image],
            "adv": made(source, eps)[image],
            "true": int(y[image]),
            "said": {role: int(labels[image]) for role, labels in answer.items()},
            "fooled": {role: float((labels != y).float().mean()) for role, labels in answer.items()},
            "pair": f"{source} → {victim}",
            "eps": eps,
        }

    def draw(fig: Figure) -> Update:
        left, middle, right = fig.axes
        show_clean, show_adv = (moving_image(ax, x.shape[1:]) for ax in (left, middle))
        show_bars = moving_bars(right, [{"color": COLOURS[4]}, {"color": COLOURS[0]}], "source\n100 %")
        show_pair = moving_title(right)
        right.set(xlim=(0, 1), xlabel=f"fooled, n = {len(x)}")

        def update(f: dict[str, Any]) -> None:
            show_clean(f["clean"], f"true: {called(f['true'], names)}")
            show_adv(f["adv"], f"ε = {f['eps']:.3f}; victim: {called(f['said']['victim'], names)}")
            show_bars([*f["fooled"].values()], [f"{role}\n{100 * share:.0f} %" for role, share in f["fooled"].items()])
            show_pair(f["pair"])

        return update

    def alt(f: dict[str, Any]) -> str:
        source, victim = f["fooled"].values()
        return (
            f"{f['pair']} at ε = {f['eps']:.3f}: the source is fooled on {100 * source:.0f} %, the victim on "
            f"{100 * victim:.0f} % of {len(x)} images. This {called(f['true'], names)}: the source says "
            f"{called(f['said']['source'], names)}, the victim {called(f['said']['victim'], names)}."
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
