"""What moves in a demo's picture. Each function puts something up, with room for its longest text, and returns what
sets it to new values. What it returns marks as animated stays out of the background, which is drawn only once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import IdentityTransform
from torch import Tensor

from ..plotting.figures import COLOURS, PLAIN_BAR, TRUE_BAR, centre_colours, pixels, show_image

LONGEST_NAME = 22  # letters of a class's name that are shown
KEPT_TEXTS = 200  # of one label, some kilobytes each
TOP = 5  # classes that bars are shown for


def moving(*artists: Artist) -> None:
    """Let these be drawn with every frame."""
    for artist in artists:
        artist.set_animated(True)


def moving_image(
    ax: Axes, shape: Sequence[int], *, signed: bool = False, limit: float | None = None, lines: int = 1
) -> Callable[[Tensor, str], None]:
    """Put up an image with a title, as `plotting.show_image` draws it, and return what shows another one.

    Args:
        shape: of the images. signed, limit: as in `show_image`. lines: of the title.
    """
    show_image(ax, torch.zeros(tuple(shape)), "\n" * (lines - 1) + " ", signed=signed)
    (picture,) = ax.images
    moving(picture, ax.title)

    def show(image: Tensor, title: str) -> None:
        picture.set_data(pixels(image))
        if signed:
            centre_colours(picture, limit)
        ax.title.set_text(title)

    return show


def moving_title(ax: Axes) -> Callable[[str], None]:
    """Put up a title of one line, and return what writes another one."""
    ax.set_title(" ", fontsize=9)
    moving(ax.title)
    return ax.title.set_text


def moving_bars(
    ax: Axes, styles: Sequence[dict[str, Any]], longest: str
) -> Callable[[Sequence[float], Sequence[str]], None]:
    """Put up horizontal bars, and return what sets their lengths and their labels.

    Args:
        styles: of each bar, from the top. longest: the label that takes the most room.
    """
    rows = range(len(styles))
    bars = ax.barh(rows, [0.0] * len(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    labels = _moving_labels(ax, rows, longest)
    moving(*bars)
    for bar, style in zip(bars, styles, strict=True):
        bar.set(**style)

    def show(values: Sequence[float], texts: Sequence[str]) -> None:
        for bar, label, value, text in zip(bars, labels, values, texts, strict=True):
            bar.set_width(value)
            label.set_text(text)

    return show


def moving_classes(
    ax: Axes, names: Sequence[str] | None, title: str = "hatched: the true class"
) -> Callable[[Tensor, int], None]:
    """Put up bars for the likeliest classes, and return what shows other probabilities (K,) and the hatched class.

    Args:
        names: of the classes, default their numbers.
    """
    longest = max((shortened(name) for name in names or ["0"]), key=len)
    show_bars = moving_bars(ax, [PLAIN_BAR] * TOP, longest)
    ax.set(xlim=(0, 1), xlabel="probability")
    ax.set_title(title, fontsize=9, loc="right")  # longer than its axes where names are long
    bars = list(ax.patches)

    def show(probabilities: Tensor, true: int) -> None:
        likeliest = probabilities.detach().cpu().sort(descending=True, stable=True)
        order = likeliest.indices[:TOP].tolist()
        empty = TOP - len(order)  # fewer classes than bars
        for bar, k in zip(bars, order, strict=False):
            bar.set(**TRUE_BAR if k == true else PLAIN_BAR)
        texts = [shortened(called(k, names)) for k in order]
        show_bars(likeliest.values[:TOP].tolist() + [0.0] * empty, texts + [""] * empty)

    return show


def moving_curve(ax: Axes, x: Sequence[float]) -> Callable[[Sequence[float], int], None]:
    """Put up a curve over x on a scale of its own, and return what shows other values, marked up to one of them."""
    (whole,) = ax.plot(x, [0.0] * len(x), color="0.7", marker="", linestyle="-")
    (so_far,) = ax.plot([], [], color=COLOURS[0], marker="", linestyle="-")
    (here,) = ax.plot([], [], color=COLOURS[1], marker="o")
    ax.set_ylim(-0.05, 1.05)
    labels = _moving_labels(ax, (0, 1), "88.88")
    moving(whole, so_far, here)

    def show(values: Sequence[float], place: int) -> None:
        low, high = min(values), max(values)
        heights = [(value - low) / ((high - low) or 1.0) for value in values]
        whole.set_ydata(heights)
        so_far.set_data(x[: place + 1], heights[: place + 1])
        here.set_data([x[place]], [heights[place]])
        for label, value in zip(labels, (low, high), strict=True):
            label.set_text(f"{value:.2f}")

    return show


def _moving_labels(ax: Axes, rows: Sequence[float], longest: str) -> list[Text]:
    """Put labels beside the y axis: to set the texts of an axis takes matplotlib longer than to draw all the rest."""
    ax.set_yticks(rows, [""] * len(rows))
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "center"}
    at |= {"transform": IdentityTransform(), "clip_on": False}
    labels = [_Label(longest, (0, row), (-7, 0), **at) for row in rows]
    for label in labels:
        ax.add_artist(label)
    moving(*labels)
    return labels


class _Label(Annotation):
    """A text where nothing else moves: drawn once for each of its contents, which takes milliseconds, then copied."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._drawn: dict[str, Any] = {}

    def draw(self, renderer: Any) -> None:
        text = self.get_text()
        if text in self._drawn:
            renderer.restore_region(self._drawn[text])
            return
        super().draw(renderer)
        if text and self.get_animated():  # else it is only asked how much room it takes
            if len(self._drawn) == KEPT_TEXTS:
                self._drawn.clear()
            self._drawn[text] = renderer.copy_from_bbox(self.get_window_extent(renderer).padded(1))


def called(label: int, names: Sequence[str] | None) -> str:
    """Return the name of a class, by default its number."""
    return str(label) if names is None else names[label]


def shortened(name: str) -> str:
    """Return a name that fits beside a bar."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1].rstrip()}…"
