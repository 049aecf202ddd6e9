"""The mould of every demo: what is computed, how it is painted and said, and the shell of widgets around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from html import escape
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure
from torch import Tensor

from ..plotting import figure, to_png

EPS_STEPS = 100


@dataclass(frozen=True)
class Demo:
    """A slider demo: `frame(**state)` computes, `draw(figure, frame)` paints, `alt(frame)` says it in words.

    In a notebook, end a cell with it. `demo.render(**state)` returns the picture of one state as a PNG.
    """

    title: str
    controls: Mapping[str, widgets.Widget]
    frame: Callable[..., Any]
    draw: Callable[[Figure, Any], None]
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
        return self._picture(self.frame(**self.state | state))

    def describe(self, **state: Any) -> str:
        """Return the state in words, as a reader hears it who cannot see the picture."""
        return self.alt(self.frame(**self.state | state))

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
        """Return the live shell: the controls, a picture of fixed size, and a line that says what it shows."""
        picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        message = widgets.HTML()

        def update(_: object = None) -> None:
            try:
                frame = self.frame(**self.state)
                picture.value = self._picture(frame)
                message.value = f"<span role='status'>{escape(self.alt(frame))}</span>"
            except (ValueError, TypeError) as error:
                message.value = f"<strong role='alert'>{escape(str(error))}</strong>"

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

    def _picture(self, frame: Any) -> bytes:
        fig, _ = figure(**self.size)
        self.draw(fig, frame)
        return to_png(fig)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        alt = f"{self.title} (static picture of the slider). {self.describe(**self.static)}"
        # One bundle: front ends with widgets take the live shell, pages and print take the picture.
        bundle = self.widget()._repr_mimebundle_() | {"image/png": self.render(**self.static), "text/plain": alt}
        display(bundle, metadata={"image/png": {"alt": alt}}, raw=True)


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
