"""Figures: colour-blind-safe, readable in grey (every line has its own dash and marker), with an alt text.

Nothing here touches pyplot's global state: `figure` makes a plain Figure, `show` displays it once, as a PNG.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

if TYPE_CHECKING:  # seconds to import, which the report of a sweep does without
    from torch import Tensor

DPI = 80
# Okabe and Ito's palette, without the yellow that is too light for lines
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#000000")
TRUE_BAR = {"facecolor": COLOURS[0], "hatch": "///", "hatchcolor": "white"}
PLAIN_BAR = {"facecolor": COLOURS[1], "hatch": None}
_CYCLE = cycler(
    color=COLOURS, linestyle=["-", "--", "-.", ":", (0, (5, 1, 1, 1)), "-"], marker=["o", "s", "^", "D", "v", "x"]
)


def figure(rows: int = 1, columns: int = 1, *, width: float = 3.6, height: float = 2.8, **subplots: Any) -> tuple:
    """Return a Figure and its Axes (one, or an array) in the course's style.

    Args:
        rows, columns: of the grid. width, height: of one cell, in inches. **subplots: as in Figure.subplots.

    >>> fig, ax = figure(width=4)
    >>> fig.get_size_inches().tolist()
    [4.0, 2.8]
    """
    fig = Figure(figsize=(columns * width, rows * height), dpi=DPI, layout="constrained")
    axes = fig.subplots(rows, columns, **subplots)
    for ax in np.atleast_1d(axes).flat:
        ax.set_prop_cycle(_CYCLE)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return fig, axes


def to_png(fig: Figure) -> bytes:
    """Return the figure as the bytes of a PNG with at most 128 colours."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI)
    return packed_png(Image.open(buffer).convert("RGB"))


def packed_png(image: Image.Image) -> bytes:
    """Return an RGB image as the bytes of a small PNG: at most 128 colours, packed as well as it can be."""
    buffer = io.BytesIO()
    image.quantize(128, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Display a figure in the notebook.

    Args:
        alt: what a reader who cannot see the figure has to know, in one or two sentences.

    Raises:
        ValueError: the alt text is empty.
    """
    from IPython.display import display

    if not alt.strip():
        raise ValueError("a figure needs an alt text: say in a sentence what it shows.")
    data = {"image/png": to_png(fig), "text/plain": f"Figure: {alt}"}
    display(data, metadata={"image/png": {"alt": alt}}, raw=True)


def show_image(ax: Axes, image: Tensor, title: str = "", *, signed: bool = False, limit: float | None = None) -> Axes:
    """Draw one image (1, H, W), (3, H, W) or (H, W): pixels from 0 to 1, or a signed change around 0.

    Args:
        signed: draw in colours from −limit (blue) through 0 (white) to +limit (red); grey otherwise.
        limit: default the largest absolute value.
    """
    # RdBu: a dark colour at both ends, so it reads in grey as well
    drawn = ax.imshow(pixels(image), cmap="RdBu_r" if signed else "gray", vmin=0, vmax=1, interpolation="nearest")
    if signed:
        centre_colours(drawn, limit)
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()
    return ax


def pixels(image: Tensor) -> np.ndarray:
    """Return what matplotlib draws of an image (1, H, W), (3, H, W) or (H, W): (H, W), or (H, W, 3) in [0, 1]."""
    image = image.detach().cpu().float().squeeze(0)
    return (image.permute(1, 2, 0).clamp(0, 1) if image.ndim == 3 else image).numpy()


def centre_colours(drawn: AxesImage, limit: float | None = None) -> None:
    """Let the colours of a drawn signed change run from −limit to +limit, default its largest absolute value."""
    limit = limit or float(np.abs(drawn.get_array()).max()) or 1.0
    drawn.set_clim(-limit, limit)


def image_grid(
    images: Tensor | Sequence[Tensor],
    titles: Sequence[str] = (),
    *,
    columns: int = 8,
    size: float = 1.15,
    signed: bool = False,
) -> Figure:
    """Return a figure with many images (N, C, H, W), row by row; see `show_image`.

    Raises:
        ValueError: no images.
    """
    if len(images) == 0:
        raise ValueError("expected at least one image, got none.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = size + (0.12 + 0.16 * max(t.count("\n") + 1 for t in titles) if titles else 0.05)
    fig, axes = figure(rows, columns, width=size, height=height, squeeze=False)
    limit = max(float(image.abs().max()) for image in images) if signed else None
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < len(images):
            show_image(ax, images[i], titles[i] if i < len(titles) else "", signed=signed, limit=limit)
    return fig


def changes(x: Tensor, adv: Tensor, titles: Sequence[str] = (), *, size: float = 1.25) -> Figure:
    """Return a figure with two rows: changed images, and below each its change, all on one scale of colours.

    Args:
        x, adv: images (N, C, H, W) before and after. titles: of the changed images. size: of one, in inches.

    Raises:
        ValueError: no images, or not as many before as after.

    >>> import torch
    >>> len(changes(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)).axes)
    4
    """
    if len(x) == 0 or x.shape != adv.shape:
        raise ValueError(f"expected images before and after, got {tuple(x.shape)} and {tuple(adv.shape)}.")
    moved = (adv - x).mean(1)
    limit = float(moved.abs().max())
    fig, axes = figure(2, len(x), width=size, height=size + 0.2, squeeze=False)
    for i, (upper, lower) in enumerate(axes.T):
        show_image(upper, adv[i], titles[i] if i < len(titles) else "")
        show_image(
            lower,
            moved[i],
            f"{moved[i].min():+.2f} to {moved[i].max():+.2f}".replace("-", "−"),
            signed=True,
            limit=limit,
        )
    return fig


def line(
    ax: Axes,
    x: Sequence[float],
    y: Sequence[float],
    label: str,
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    **style: Any,
) -> Axes:
    """Draw a labelled curve with markers and, where given, the band between low and high."""
    (drawn,) = ax.plot(x, y, label=label, markersize=4, **style)
    if low is not None and high is not None:
        ax.fill_between(x, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    ax.legend(fontsize=8)
    return ax


def curves(x: Sequence[float], values: Mapping[str, Sequence[float]], *, width: float = 5.2, **labels: Any) -> Figure:
    """Return a figure with a labelled curve for each name, all over the same x.

    Args:
        x: where the values were measured. values: by name, one number for each x. width: in inches.
        **labels: of the axes, as in Axes.set: xlabel, ylabel, title, ylim, xscale.

    Raises:
        ValueError: no curve, or one of another length than x.

    >>> curves([0, 0.1], {"MLP": [0.97, 0.13]}, xlabel="ε", ylabel="accuracy").axes[0].get_xlabel()
    'ε'
    """
    lengths = {name: len(each) for name, each in values.items()}
    if set(lengths.values()) != {len(x)}:
        raise ValueError(f"expected curves of {len(x)} values, one for each x; got {lengths or 'none'}.")
    fig, ax = figure(width=width, height=3.0)
    for name, each in values.items():
        line(ax, x, each, name)
    ax.set(**labels)
    return fig


def class_curves(x: Sequence[float], logits: Mapping[str, Tensor], *, true: int, **labels: Any) -> Figure:
    """Return a figure with a panel for each name: all logits (len(x), K) over x, the true class thick and in colour.

    Args:
        x: where the logits were measured. logits: by name. true: index of the true class.
        **labels: of the axes, as in Axes.set; those of y stand at the first panel.

    Raises:
        ValueError: no panel, logits of another length than x, or a true class that they do not have.

    >>> fig = class_curves([0, 1], {"line": np.array([[0.0, 1.0], [1.0, 0.0]])}, true=1)
    >>> len(fig.axes[0].lines)
    3
    """
    shapes = {name: tuple(z.shape) for name, z in logits.items()}
    if not shapes or any(len(s) != 2 or s[0] != len(x) or not 0 <= true < s[1] for s in shapes.values()):
        raise ValueError(f"expected logits of shape ({len(x)}, more than {true}) by name, got {shapes or 'none'}.")
    fig, axes = figure(1, len(logits), width=2.9, height=2.8, squeeze=False)
    for ax, (name, z) in zip(axes.flat, logits.items(), strict=True):
        ax.plot(x, np.asarray(z), color="#767676", linewidth=0.8, linestyle="-", marker="")
        ax.plot(x, np.asarray(z[:, true]), color=COLOURS[1], linewidth=3, linestyle="-", marker="")
        ax.set(**{"title": name} | {key: text for key, text in labels.items() if key != "ylabel"})
    axes[0, 0].set_ylabel(labels.get("ylabel", "logits"))
    return fig


def two_pixel_paths(
    model: Callable[[Tensor], Tensor], image: Tensor, label: int, *, radius: float, step_size: float, steps: int = 8
) -> Figure:
    """Return a figure of sign steps that move two pixels of an image, with projection and without.

    The pixels are the two with the largest gradients among those that lie nearer to an end of the box than `radius`,
    so that the box cuts the max-norm ball. Both paths begin in the corner opposite to where the loss rises.

    Args:
        model: to logits. image: (C, H, W) in [0, 1]. label: its class. radius: of the ball, pixel units.
        step_size, steps: of the paths.

    Raises:
        ValueError: fewer than two such pixels.
    """
    import torch
    import torch.nn.functional as F

    from ..attacks import input_gradient, project

    x, y, flat = image[None], torch.tensor([label], device=image.device), image.flatten()
    gradient = input_gradient(model, x, y).flatten()
    near_an_end = (flat.minimum(1 - flat) < radius) & (flat.minimum(1 - flat) > 0.05)
    if near_an_end.sum() < 2:
        raise ValueError(f"two pixels nearer to 0 or 1 than {radius} are needed, found {int(near_an_end.sum())}.")
    pixels = (gradient.abs() * near_an_end).topk(2).indices
    centre, uphill = flat[pixels][None], gradient[pixels].sign()

    def images(points: Tensor) -> Tensor:
        moved = flat.repeat(len(points), 1)
        moved[:, pixels] = points
        return moved.view(-1, *image.shape)

    def path(projected: bool) -> Tensor:
        points = [project(centre - radius * uphill, centre, radius)]
        for _ in range(steps):
            slope = input_gradient(model, images(points[-1]), y).flatten(1)[:, pixels]
            step = points[-1] + step_size * slope.sign()
            points.append(project(step, centre, radius) if projected else step)
        return torch.cat(points).cpu()

    fig, ax = figure(width=6.0, height=4.2)
    axis = torch.linspace(-0.3, 1.3, 40)
    with torch.no_grad():
        logits = model(images(torch.cartesian_prod(axis, axis).to(image)))
    losses = F.cross_entropy(logits, y.expand(len(logits)), reduction="none").view(40, 40).T.cpu()
    ax.clabel(ax.contour(axis, axis, losses, levels=8, colors="#767676", linewidths=0.8), fontsize=7)
    a, b = centre[0].tolist()
    for name, (left, low), side, style in (
        ("box", (0, 0), 1, "-"),
        ("ball", (a - radius, b - radius), 2 * radius, "--"),
    ):
        right, high = left + side, low + side
        across, along = [left, right, right, left, left], [low, low, high, high, low]
        ax.plot(across, along, color="black", linestyle=style, marker="", label=name)
    for name, projected, style in (
        ("free path", False, {"linestyle": ":", "marker": "s", "markerfacecolor": "none"}),
        ("projected path", True, {"linestyle": "-", "marker": "o"}),
    ):
        points = path(projected)
        colour = COLOURS[0 if projected else 1]
        ax.plot(points[:, 0], points[:, 1], label=name, color=colour, markersize=4 if projected else 9, **style)
    ax.plot(a, b, color="black", marker="*", markersize=12, linestyle="", label="image")
    end = (a + 0.16 * uphill[0].item(), b + 0.16 * uphill[1].item())
    ax.annotate("", end, (a, b), arrowprops={"arrowstyle": "-|>", "linewidth": 1.5})
    ax.text(*end, " uphill ", fontsize=9, ha="right" if uphill[0] < 0 else "left", va="center")
    ax.set(xlabel="first pixel", ylabel="second pixel", xlim=(-0.3, 1.3), ylim=(-0.3, 1.3), aspect="equal")
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return fig


def heatmap(ax: Axes, values: np.ndarray | Tensor, rows: Sequence[Any], columns: Sequence[Any]) -> Axes:
    """Draw shares in [0, 1] (rows, columns) as coloured cells, each with its percentage; NaN stays empty.

    Args:
        rows, columns: names.

    Raises:
        ValueError: the names do not match the values.
    """
    values = np.asarray(values, dtype=float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"expected values of shape ({len(rows)}, {len(columns)}), got {values.shape}.")
    ax.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(columns)), columns, rotation=40 if max(map(len, map(str, columns))) > 2 else 0, ha="right")
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color="k" if value > 0.5 else "w")
    return ax


def class_bars(
    ax: Axes, probabilities: Tensor, *, true: int, names: Sequence[str] | None = None, top: int | None = None
) -> Axes:
    """Draw class probabilities (K,) as bars; the true class is hatched, the others are plain.

    Args:
        true: index of the true class. names: of the classes, default their numbers.
        top: show only so many of the most likely classes.
    """
    probabilities = probabilities.detach().cpu()
    order = probabilities.argsort(descending=True)[:top].tolist() if top else list(range(len(probabilities)))
    labels = [str(k) if names is None else names[k] for k in order]
    for bar, k in zip(ax.barh(range(len(order)), probabilities[order].tolist()), order, strict=True):
        bar.set(**TRUE_BAR if k == true else PLAIN_BAR)
    ax.set_yticks(range(len(order)), labels)
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("probability")
    return ax
