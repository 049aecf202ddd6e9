"""The panels of a demo's figure, each updated in place.

A panel is a function that draws into its Axes once, with room for its longest text, and returns a function that
updates what it has drawn to other values. What changes is animated, in matplotlib's sense: it stays out of the
background, which is drawn only once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import IdentityTransform
from torch import Tensor

from ..plotting.figures import COLOURS, PLAIN_BAR, TRUE_BAR, centre_colours, line, pixels, show_image

MAX_NAME_LENGTH = 22  # letters of a class's name that are shown
CACHED_TEXTS = 200  # of one label, some kilobytes each
TOP = 5  # classes that bars are shown for

Values = Mapping[str, Any]  # what a demo computes from the state of its controls
Update = Callable[[Values], None]
Panel = Callable[[Axes], Update]


def animate(*artists: Artist) -> None:
    """Leave these out of the background and draw them at every update."""
    for artist in artists:
        artist.set_animated(True)


def image_panel(
    shape: Sequence[int],
    show: Callable[[Values], tuple[Tensor, str]],
    *,
    signed: bool = False,
    limit: float | None = None,
    title_lines: int = 1,
) -> Panel:
    """Return a panel with an image and its title, as `plotting.show_image` draws them.

    Args:
        shape: of the images. show: returns the image and the title. signed, limit: as in `show_image`.
        title_lines: how many lines the title may have.
    """

    def draw(ax: Axes) -> Update:
        show_image(ax, torch.zeros(tuple(shape)), "\n" * (title_lines - 1) + " ", signed=signed)
        (drawn,) = ax.images
        animate(drawn, ax.title)

        def update(values: Values) -> None:
            image, title = show(values)
            drawn.set_data(pixels(image))
            if signed:
                centre_colours(drawn, limit)
            ax.title.set_text(title)

        return update

    return draw


def bar_panel(
    styles: Sequence[Mapping[str, Any]],
    longest_label: str,
    show: Callable[[Values], tuple[Sequence[float], Sequence[str]]],
    **axes: Any,
) -> Panel:
    """Return a panel with labelled horizontal bars, and the value "title" above them.

    Args:
        styles, longest_label: as in `animated_bars`.
        show: returns the lengths and the labels. **axes: as in Axes.set.
    """

    def draw(ax: Axes) -> Update:
        set_bars = animated_bars(ax, styles, longest_label)
        set_title = animated_title(ax)
        ax.set(**axes)

        def update(values: Values) -> None:
            set_bars(*show(values))
            set_title(values["title"])

        return update

    return draw


def class_panel(names: Sequence[str] | None, title: str = "hatched: the true class", *, hatched: str = "true") -> Panel:
    """Return a panel with bars for the most likely classes, which shows the value "probabilities", (K,).

    Args:
        names: of the classes, default their numbers. hatched: the name of the value that holds the hatched class.
    """

    def draw(ax: Axes) -> Update:
        longest = max((_shortened(name) for name in names or ["0"]), key=len)
        set_bars = animated_bars(ax, [PLAIN_BAR] * TOP, longest)
        ax.set(xlim=(0, 1), xlabel="probability")
        ax.set_title(title, fontsize=9, loc="right")  # longer than its axes where names are long
        bars = list(ax.patches)

        def update(values: Values) -> None:
            top = values["probabilities"].detach().cpu().sort(descending=True, stable=True)
            order = top.indices[:TOP].tolist()
            for bar, k in zip(bars, order, strict=False):
                bar.set(**TRUE_BAR if k == values[hatched] else PLAIN_BAR)
            absent = TOP - len(order)  # fewer classes than bars
            texts = [_shortened(class_name(k, names)) for k in order]
            set_bars(top.values[:TOP].tolist() + [0.0] * absent, texts + [""] * absent)

        return update

    return draw


def path_panel(x: Sequence[float], show: Callable[[Values], tuple[Sequence[float], int]], **axes: Any) -> Panel:
    """Return a panel with one curve over x on a scale of its own, marked up to one of its points.

    Args:
        show: returns the heights and the index of the point. **axes: as in Axes.set.
    """

    def draw(ax: Axes) -> Update:
        (whole,) = ax.plot(x, [0.0] * len(x), color="0.7", marker="", linestyle="-")
        (so_far,) = ax.plot([], [], color=COLOURS[0], marker="", linestyle="-")
        (point,) = ax.plot([], [], color=COLOURS[1], marker="o")
        ax.set_ylim(-0.05, 1.05)
        labels = _animated_labels(ax, (0, 1), "88.88")
        animate(whole, so_far, point)
        ax.set(**axes)
        ax.title.set_fontsize(9)

        def update(values: Values) -> None:
            heights, index = show(values)
            low, high = min(heights), max(heights)
            scaled = [(height - low) / ((high - low) or 1.0) for height in heights]
            whole.set_ydata(scaled)
            so_far.set_data(x[: index + 1], scaled[: index + 1])
            point.set_data([x[index]], [scaled[index]])
            for label, value in zip(labels, (low, high), strict=True):
                label.set_text(f"{value:.2f}")

        return update

    return draw


def line_panel(
    x: Sequence[float],
    names: Sequence[str],
    show: Callable[[Values], Mapping[str, Sequence[float]]],
    *,
    legend: Mapping[str, Any] | None = None,
    **axes: Any,
) -> Panel:
    """Return a panel with a labelled line over x for each name, and the value "title" above them.

    Args:
        show: returns the heights of each line, by name.
        legend: as in Axes.legend. **axes: as in Axes.set.
    """

    def draw(ax: Axes) -> Update:
        for name in names:
            line(ax, x, [0.0] * len(x), name)
        animate(*ax.lines)
        set_title = animated_title(ax)
        ax.set(**axes)
        if legend:
            ax.legend(fontsize=8, **legend)

        def update(values: Values) -> None:
            heights = show(values)
            for drawn, name in zip(ax.lines, names, strict=True):
                drawn.set_ydata(heights[name])
            set_title(values["title"])

        return update

    return draw


def animated_bars(
    ax: Axes, styles: Sequence[Mapping[str, Any]], longest_label: str
) -> Callable[[Sequence[float], Sequence[str]], None]:
    """Draw horizontal bars, and return what sets their lengths and their labels.

    Args:
        styles: of each bar, from the top. longest_label: the label that takes the most room.
    """
    rows = range(len(styles))
    bars = ax.barh(rows, [0.0] * len(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    labels = _animated_labels(ax, rows, longest_label)
    animate(*bars)
    for bar, style in zip(bars, styles, strict=True):
        bar.set(**style)

    def update(lengths: Sequence[float], texts: Sequence[str]) -> None:
        for bar, label, length, text in zip(bars, labels, lengths, texts, strict=True):
            bar.set_width(length)
            label.set_text(text)

    return update


def animated_title(ax: Axes) -> Callable[[str], None]:
    """Give the axes a title of one line, and return what sets its text."""
    ax.set_title(" ", fontsize=9)
    animate(ax.title)
    return ax.title.set_text


def class_name(label: int, names: Sequence[str] | None) -> str:
    """Return the name of a class, by default its number."""
    return str(label) if names is None else names[label]


def top_class(probabilities: Tensor, names: Sequence[str] | None) -> str:
    """Return the most likely class and its probability in words.

    >>> top_class(torch.tensor([0.2, 0.8]), ["cat", "dog"])
    'dog with 80 %'
    """
    best = int(probabilities.argmax())
    return f"{class_name(best, names)} with {100 * probabilities[best]:.0f} %"


def _shortened(name: str) -> str:
    """Return a name that fits beside a bar."""
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1].rstrip()}…"


def _animated_labels(ax: Axes, rows: Sequence[float], longest: str) -> list[Text]:
    """Put labels beside the y axis: matplotlib takes longer to set its tick labels than to draw all the rest."""
    ax.set_yticks(rows, [""] * len(rows))
    at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "center"}
    at |= {"transform": IdentityTransform(), "clip_on": False}
    labels = [_CachedText(longest, (0, row), (-7, 0), **at) for row in rows]
    for label in labels:
        ax.add_artist(label)
    animate(*labels)
    return labels


class _CachedText(Annotation):
    """A text on an unchanging background: each content is drawn once, which takes milliseconds, and then copied."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._drawn: dict[str, Any] = {}

    def draw(self, renderer: Any) -> None:
        text = self.get_text()
        if text in self._drawn:
            renderer.restore_region(self._drawn[text])
            return
        super().draw(renderer)
        if text:
            if len(self._drawn) == CACHED_TEXTS:
                self._drawn.clear()
            self._drawn[text] = renderer.copy_from_bbox(self.get_window_extent(renderer).padded(1))
