"""A linear model under the worst signs (chapter 01)."""

from __future__ import annotations

import ipywidgets as widgets
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ..plotting.figures import COLOURS
from .panels import Update, Values, animate, animated_bars, image_panel
from .widget import Demo, check_images, dropdown, eps_slider, int_slider


def margin_bar(w: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Demo:
    """Show how the margin of one digit falls under the worst signs, beside its prediction (chapter 01).

    Args:
        w, b: the linear model, (n,) and scalar. x: images (N, 1, H, W). y: labels (N,), −1 or +1.
    """
    check_images(x, y)
    noise = torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).to(x)
    # One scale for all images: the clean bar stays as it is while the slider moves.
    span = 1.5 * max(8.0, float((x.flatten(1) @ w + b).abs().max()))

    def compute(image: int, eps: float, signs: str, clip: bool) -> Values:
        step = -y[image] * w.sign().view(x[image].shape) if signs == "worst" else noise[image]
        adv = x[image] + eps * step
        boxed = adv.clamp(0, 1)
        clean, free, clipped = (float(y[image] * (p.flatten() @ w + b)) for p in (x[image], adv, boxed))
        return {
            "adv": boxed,
            "eps": eps,
            "clean": clean,
            "measured": clipped if clip else free,
            "predicted": clean - eps * float(w.abs().sum()) if signs == "worst" else None,
            "difference": clipped - free,
        }

    def alt(values: Values) -> str:
        answer = "right" if values["measured"] > 0 else "wrong"
        words = f"Margin {values['clean']:.1f} clean, {values['measured']:.1f} changed ({answer})"
        if values["predicted"] is not None:
            words += f"; the formula says {values['predicted']:.1f}"
        return f"{words}. Clipping makes a difference of {values['difference']:+.1f}."

    def margins(ax: Axes) -> Update:
        set_bars = animated_bars(ax, [{"color": COLOURS[4]}, {"color": COLOURS[0]}], "changed\n−88.8")
        zero = ax.axvline(0, color="black", linewidth=1)
        predicted = ax.axvline(0, color=COLOURS[1], linestyle="--")
        animate(zero, predicted)
        ax.set_title("dashed: clean − ε‖w‖₁", fontsize=9)
        ax.set(xlim=(-span, span), xlabel="margin (left of 0: wrong)")

        def update(values: Values) -> None:
            clean, changed = values["clean"], values["measured"]
            set_bars([clean, changed], [f"clean\n{clean:.1f}", f"changed\n{changed:.1f}"])
            predicted.set_visible(values["predicted"] is not None)
            predicted.set_xdata([values["predicted"] or 0.0] * 2)

        return update

    panels = [
        image_panel(x.shape[1:], lambda values: (values["adv"], f"ε = {values['eps']:.3f} (shown clipped)")),
        margins,
    ]
    controls = {
        "image": int_slider("image", len(x) - 1),
        "eps": eps_slider(),
        "signs": dropdown("signs", ["worst", "random"]),
        "clip": widgets.Checkbox(False, description="clip to [0, 1]"),
    }
    layout = {"width": 3.4, "height": 2.4, "width_ratios": [1, 1.6]}
    return Demo("The margin bar", controls, compute, panels, alt, {"eps": 0.06}, "eps", "image", layout)
