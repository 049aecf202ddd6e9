"""The widget that all demos share: controls, a picture that follows them, and a line that says what it shows."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch import Tensor

from ..core.templates import element
from ..plotting.figures import figure, packed_png
from .panels import Panel, Values

EPS_STEPS = 100
STATIC_PICTURE = " (static picture of the slider)"  # after the title in the alt text


@dataclass
class Demo:
    """A demo with a slider: `compute(**state)` returns values, the panels draw them, `alt(values)` says them in words.

    The state is what the controls hold. In a notebook, end a cell with a demo. `demo.render(**state)` returns the
    picture of one state as a PNG.
    """

    title: str
    controls: Mapping[str, widgets.Widget]
    compute: Callable[..., Values]
    panels: Sequence[Panel]  # from left to right
    alt: Callable[[Values], str]
    static_state: Mapping[str, Any]  # what readers without a kernel see
    slider: str  # the control that is dragged
    example: str | None = None  # the control that steps through examples
    layout: Mapping[str, Any] = field(default_factory=dict)  # arguments of plotting.figure

    def __post_init__(self) -> None:
        self.initial_state = self.state

    @property
    def state(self) -> dict[str, Any]:
        """What the controls hold now."""
        return {name: control.value for name, control in self.controls.items()}

    def render(self, **state: Any) -> bytes:
        """Return the PNG of the state; what is not given keeps the control's value."""
        return packed_png(self._figure.render(self._computed(state)))

    def describe(self, **state: Any) -> str:
        """Return the state in words, as a reader hears it who cannot see the picture."""
        return self.alt(self._computed(state))

    def reset(self) -> None:
        """Put every control back to where it was at the beginning."""
        with ExitStack() as held:  # all controls are set before the first of them notifies
            for control in self.controls.values():
                held.enter_context(control.hold_trait_notifications())
            for name, value in self.initial_state.items():
                self.controls[name].value = value

    def next_example(self) -> None:
        """Go on to the next example, after the last one to the first; without examples nothing happens."""
        if self.example is None:
            return
        control = self.controls[self.example]
        values = values_of(control)
        control.value = values[(values.index(control.value) + 1) % len(values)]

    def widget(self) -> widgets.VBox:
        """Return the controls, a picture of fixed size, and a line that says what it shows.

        It is one widget, however often it is asked for, so that a demo shown twice does not compute twice.
        """
        return self._widget

    @cached_property
    def _widget(self) -> widgets.VBox:
        picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        message = widgets.HTML()

        shown = None

        def update(_: object = None) -> None:
            nonlocal shown
            state = self.state
            if state == shown:  # several controls were set at once, and each of them notifies
                return
            try:
                values = self._computed(state)
                picture.value = _fast_png(self._figure.render(values))
                message.value = element("span", self.alt(values), role="status")
                shown = state
            except Exception as error:  # whatever went wrong, the next change may work
                message.value = alert(error)
                shown = None

        for control in self.controls.values():
            control.observe(update, names="value")
        update()
        heading = widgets.HTML(element("strong", self.title))
        row = widgets.Layout(flex_flow="row wrap")
        return widgets.VBox([heading, widgets.Box(list(self.controls.values()), layout=row), picture, message])

    def _computed(self, state: Mapping[str, Any]) -> Values:
        state = self.state | state
        for name, control in self.controls.items():
            _check_value(name, state[name], control)
        return self.compute(**state)

    @cached_property
    def _figure(self) -> _BlittedFigure:
        return _BlittedFigure(self.panels, self.layout)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        alt = f"{self.title}{STATIC_PICTURE}. {self.describe(**self.static_state)}"
        # One bundle: front ends with widgets take the live widget, pages and print take the picture.
        bundle = self.widget()._repr_mimebundle_() | {"image/png": self.render(**self.static_state), "text/plain": alt}
        display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)


class _BlittedFigure:
    """A figure whose background is laid out and drawn once; only animated artists are drawn at every update."""

    def __init__(self, panels: Sequence[Panel], layout: Mapping[str, Any]):
        fig, _ = figure(1, len(panels), **{"width": 2.5, "height": 2.5} | layout)
        self.canvas = FigureCanvasAgg(fig)
        self.updates = [panel(ax) for panel, ax in zip(panels, fig.axes, strict=True)]
        self.animated = sorted(fig.findobj(Artist.get_animated), key=Artist.get_zorder)
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(fig.bbox)

    def render(self, values: Values) -> Image.Image:
        """Return the picture of these values; it does not depend on what was rendered before."""
        for update in self.updates:
            update(values)
        self.canvas.restore_region(self.background)
        for artist in self.animated:
            artist.draw(self.canvas.get_renderer())
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB")


def _check_value(name: str, value: Any, control: widgets.Widget) -> None:
    if hasattr(control, "min") and not control.min <= value <= control.max:  # NaN is refused, too
        raise ValueError(f"{name} must be a number from {control.min:g} to {control.max:g}, got {value}.")
    if hasattr(control, "options") and value not in control.options:
        raise ValueError(f"{name} must be one of {', '.join(map(str, control.options))}; got {value!r}.")


def _fast_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png", compress_level=1)
    return buffer.getvalue()


def alert(error: Exception) -> str:
    """Return HTML that says what went wrong, which screen readers announce at once.

    >>> alert(ValueError("eps is < 0."))
    '<strong role="alert">eps is &lt; 0.</strong>'
    """
    written_for_readers = isinstance(error, ValueError | TypeError | OSError)
    words = str(error) if written_for_readers else f"this cannot be shown ({type(error).__name__}: {error})."
    return element("strong", words, role="alert")


def eps_slider(*, largest: float = 0.3, steps: int = EPS_STEPS) -> widgets.FloatSlider:
    """Return the slider every demo uses for eps, from 0 to `largest` (pixel units) in so many steps."""
    return widgets.FloatSlider(0.0, min=0, max=largest, step=largest / steps, description="ε", readout_format=".3f")


def values_of(control: widgets.Widget) -> list[Any]:
    """Return all values that a slider or a choice can take, in order."""
    if isinstance(control, widgets.IntSlider):
        return list(range(control.min, control.max + 1, control.step))
    if isinstance(control, widgets.FloatSlider):
        count = round((control.max - control.min) / control.step)
        return [min(control.min + i * control.step, control.max) for i in range(count + 1)]
    return list(control.options)


def int_slider(description: str, last: int, first: int = 0, step: int = 1) -> widgets.IntSlider:
    """Return a slider over whole numbers that begins at the first."""
    return widgets.IntSlider(first, min=first, max=last, step=step, description=description)


def dropdown(description: str, options: Iterable[str], value: str | None = None) -> widgets.Dropdown:
    """Return a choice among names, by default of the first."""
    options = list(options)
    return widgets.Dropdown(options=options, value=value or options[0], description=description)


def check_images(x: Tensor, y: Tensor) -> None:
    """Raise a ValueError unless x is images (N, C, H, W) and y one label each."""
    if x.ndim != 4 or len(x) == 0 or len(y) != len(x):
        raise ValueError(
            f"expected images (N, C, H, W) with one label each and N >= 1, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
