"""The mould of every demo: what is computed, how it is painted and said, and the shell of widgets around it."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..plotting.figures import figure, packed_png

EPS_STEPS = 100

Update = Callable[[Any], None]  # sets the artists of a picture to a frame


@dataclass(frozen=True)
class Demo:
    """A slider demo: `frame(**state)` computes, what `draw(figure)` returns paints, `alt(frame)` says it in words.

    `draw` puts up everything once; what it returns is called with each frame, and changes only what `artists.moving`
    has marked. In a notebook, end a cell with a demo. `demo.render(**state)` returns the picture of one state as a PNG.
    """

    title: str
    controls: Mapping[str, widgets.Widget]
    frame: Callable[..., Any]
    draw: Callable[[Figure], Update]
    alt: Callable[[Any], str]
    size: Mapping[str, Any]  # arguments of plotting.figure
    static: Mapping[str, Any]  # the state that readers without a kernel see
    handle: str  # the control that is dragged
    example: str | None = None  # the control that steps through examples
    first: Mapping[str, Any] = field(init=False, repr=False)  # what the controls hold at the beginning

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", self.state)

    @property
    def state(self) -> dict[str, Any]:
        """What the controls hold now."""
        return {name: control.value for name, control in self.controls.items()}

    def render(self, **state: Any) -> bytes:
        """Return the PNG of the state; what is not given keeps the control's value."""
        return packed_png(self._stage.paint(self._computed(state)))

    def describe(self, **state: Any) -> str:
        """Return the state in words, as a reader hears it who cannot see the picture."""
        return self.alt(self._computed(state))

    def reset(self) -> None:
        """Put every control back to where it was at the beginning."""
        self._move(self.first)

    def next_example(self) -> None:
        """Go on to the next example, after the last one to the first; without examples nothing happens."""
        if self.example is None:
            return
        control = self.controls[self.example]
        if isinstance(control, widgets.IntSlider):
            values = range(control.min, control.max + 1)
        else:
            values = control.options
        self._move({self.example: values[(values.index(control.value) + 1) % len(values)]})

    def widget(self) -> widgets.VBox:
        """Return the live shell: the controls, a picture of fixed size, and a line that says what it shows.

        It is one shell, however often it is asked for, so that a demo shown twice does not work twice.
        """
        return self._shell

    @cached_property
    def _shell(self) -> widgets.VBox:
        picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        message = widgets.HTML()

        shown = None

        def update(_: object = None) -> None:
            nonlocal shown
            state = self.state
            if state == shown:  # several controls moved at once, and each of them tells
                return
            try:
                frame = self._computed(state)
                picture.value = _quick_png(self._stage.paint(frame))
                message.value = f"<span role='status'>{escape(self.alt(frame))}</span>"
                shown = state
            except Exception as error:  # whatever went wrong, the next move may work
                message.value = alert(error)
                shown = None

        for control in self.controls.values():
            control.observe(update, names="value")
        update()
        heading = widgets.HTML(f"<strong>{escape(self.title)}</strong>")
        row = widgets.Layout(flex_flow="row wrap")
        return widgets.VBox([heading, widgets.Box(list(self.controls.values()), layout=row), picture, message])

    def _move(self, state: Mapping[str, Any]) -> None:
        with ExitStack() as held:  # all controls move before the first of them tells
            for name in state:
                held.enter_context(self.controls[name].hold_trait_notifications())
            for name, value in state.items():
                self.controls[name].value = value

    def _computed(self, state: Mapping[str, Any]) -> Any:
        for name, value in state.items():
            if name in self.controls:
                _check_value(name, value, self.controls[name])
        return self.frame(**self.state | dict(state))

    @cached_property
    def _stage(self) -> _Stage:
        return _Stage(self.size, self.draw)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        alt = f"{self.title} (static picture of the slider). {self.describe(**self.static)}"
        # One bundle: front ends with widgets take the live shell, pages and print take the picture.
        bundle = self.widget()._repr_mimebundle_() | {"image/png": self.render(**self.static), "text/plain": alt}
        display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)


class _Stage:
    """One figure: what stays in it is laid out and drawn once, what moves is drawn with every frame."""

    def __init__(self, size: Mapping[str, Any], draw: Callable[[Figure], Update]):
        fig, _ = figure(**size)
        self.canvas = FigureCanvasAgg(fig)
        self.update = draw(fig)
        self.moving = sorted(fig.findobj(Artist.get_animated), key=Artist.get_zorder)
        for artist in self.moving:  # they take their room, too
            artist.set_animated(False)
        fig.draw_without_rendering()
        fig.set_layout_engine("none")
        for artist in self.moving:
            artist.set_animated(True)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(fig.bbox)

    def paint(self, frame: Any) -> Image.Image:
        """Return the picture of a frame; whatever was painted before leaves no trace."""
        self.update(frame)
        self.canvas.restore_region(self.background)
        for artist in self.moving:
            artist.draw(self.canvas.get_renderer())
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB")


def _check_value(name: str, value: Any, control: widgets.Widget) -> None:
    if hasattr(control, "min") and not control.min <= value <= control.max:  # not a number is not in between, either
        raise ValueError(f"{name} must be a number from {control.min:g} to {control.max:g}, got {value}.")
    if hasattr(control, "options") and value not in control.options:
        raise ValueError(f"{name} must be one of {', '.join(map(str, control.options))}; got {value!r}.")


def _quick_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


def alert(error: Exception) -> str:
    """Return HTML that says what went wrong, as a screen reader tells it at once.

    >>> alert(ValueError("eps is < 0."))
    "<strong role='alert'>eps is &lt; 0.</strong>"
    """
    written_for_readers = isinstance(error, ValueError | TypeError | OSError)
    words = str(error) if written_for_readers else f"this cannot be shown ({type(error).__name__}: {error})."
    return f"<strong role='alert'>{escape(words)}</strong>"


def eps_slider(*, largest: float = 0.3, value: float = 0.0) -> widgets.FloatSlider:
    """Return the slider every demo uses for eps, in pixel units."""
    return widgets.FloatSlider(
        value, min=0, max=largest, step=largest / EPS_STEPS, description="ε", readout_format=".3f"
    )


def check_images(x: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless x is images (N, C, H, W) and y one label each."""
    if x.ndim != 4 or len(x) == 0 or len(y) != len(x):
        raise ValueError(
            f"expected images (N, C, H, W) with one label each and N >= 1, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
