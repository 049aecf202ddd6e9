"""A linear model under the worst signs (chapter 01)."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..plotting.figures import COLOURS
from .artists import moving, moving_bars, moving_image
from .widget import Demo, Update, check_images, eps_slider


def margin_bar(w: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Demo:
    """Show how the margin of one digit falls under the worst signs, beside its prediction (chapter 01).

    Args:
        w, b: the linear model, (n,) and scalar. x: images (N, 1, H, W). y: labels (N,), −1 or +1.
    """
    check_images(x, y)
    noise = torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).to(x)
    # One scale for all images: the clean bar stays as it is while the handle moves.
    span = 1.5 * max(8.0, float((x.flatten(1) @ w + b).abs().max()))

    def frame(image: int, eps: float, signs: str, clip: bool) -> dict[str, Any]:
        step = -y[image] * w.sign().view(x[image].shape) if signs == "worst" else noise[image]
        adv = x[image] + eps * step
        boxed = adv.clamp(0, 1)
        clean, free, clipped = (float(y[image] * (p.flatten() @ w + b)) for p in (x[image], adv, boxed))
        worst = clean - eps * float(w.abs().sum())
        return {
            "adv": boxed,
            "eps": eps,
            "clean": clean,
            "measured": clipped if clip else free,
            "predicted": worst if signs == "worst" else None,
            "saved": clipped - free,
        }

    def draw(fig: Figure) -> Update:
        left, right = fig.axes
        show_image = moving_image(left, x.shape[1:])
        show_bars = moving_bars(right, [{"color": COLOURS[4]}, {"color": COLOURS[0]}], "changed\n−88.8")
        moving(right.axvline(0, color="black", linewidth=1))
        predicted = right.axvline(0, color=COLOURS[1], linestyle="--")
        moving(predicted)
        right.set_title("dashed: clean − ε‖w‖₁", fontsize=9)
        right.set(xlim=(-span, span), xlabel="margin (left of 0: wrong)")

        def update(f: dict[str, Any]) -> None:
            show_image(f["adv"], f"ε = {f['eps']:.3f} (shown clipped)")
            show_bars([f["clean"], f["measured"]], [f"clean\n{f['clean']:.1f}", f"changed\n{f['measured']:.1f}"])
            predicted.set_visible(f["predicted"] is not None)
            predicted.set_xdata([f["predicted"] or 0.0] * 2)

        return update

    def alt(f: dict[str, Any]) -> str:
        verdict = "right" if f["measured"] > 0 else "wrong"
        words = f"Margin {f['clean']:.1f} clean, {f['measured']:.1f} changed ({verdict})"
        if f["predicted"] is not None:
            words += f"; the formula says {f['predicted']:.1f}"
        return f"{words}. Clipping makes a difference of {f['saved']:+.1f}."

    controls = {
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "eps": eps_slider(),
        "signs": widgets.Dropdown(options=["worst", "random"], description="signs"),
        "clip": widgets.Checkbox(False, description="clip to [0, 1]"),
    }
    size = {"rows": 1, "columns": 2, "width": 3.4, "height": 2.4, "gridspec_kw": {"width_ratios": [1, 1.6]}}
    return Demo("The margin bar", controls, frame, draw, alt, size, {"eps": 0.06}, handle="eps", example="image")
