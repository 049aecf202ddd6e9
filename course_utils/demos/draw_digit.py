"""A digit drawn by hand: what the classifier says of it, and how little it takes to change its mind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import torch
import torch.nn.functional as F
import traitlets
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..attacks.gradients import input_gradient
from ..models.inference import predict
from .artists import called, moving_classes, moving_image
from .widget import Demo, Update, eps_slider

SIDE = 84  # of a sketch, in pixels; sketch.js knows it, too
MNIST_SIDE, MNIST_BOX = 28, 20
KEPT = 16  # sketches whose gradient is remembered


class Sketch(anywidget.AnyWidget):
    """A square to draw on with the mouse, a finger or the keyboard; `value` holds SIDE × SIDE bytes, or none."""

    _esm = Path(__file__).with_name("sketch.js")
    value = traitlets.CBytes(b"").tag(sync=True)

    @traitlets.validate("value")
    def _whole(self, proposal: Mapping[str, Any]) -> bytes:
        ink = proposal["value"]
        if len(ink) not in (0, SIDE * SIDE):
            raise traitlets.TraitError(f"a sketch has {SIDE} × {SIDE} bytes, or none; got {len(ink)}.")
        return ink


def draw_digit(
    models: Mapping[str, nn.Module], *, example: Tensor | None = None, names: Sequence[str] | None = None
) -> Demo:
    """Let the reader draw a digit, say what a model sees in it, and attack it with FGSM (chapter 02).

    The drawing is brought to the place and size of MNIST's digits. The attack goes away from what the model says.

    Args:
        models: by the name shown. example: a digit (1, 28, 28) that the static picture shows. names: of the classes.
    """

    @lru_cache(KEPT)
    def seen(model: str, sketch: bytes) -> tuple[Tensor, Tensor, Tensor]:
        """Return the digit (1, 1, 28, 28), the model's answer (1,), and the signs of the gradient."""
        x = as_mnist(ink_of(sketch))[None]
        answer = predict(models[model], x).argmax(1)
        return x, answer, input_gradient(models[model], x, answer).sign()

    def frame(sketch: bytes, model: str, eps: float) -> dict[str, Any]:
        x, answer, signs = seen(model, sketch)
        empty = not x.any()
        adv = x if empty else (x + eps * signs).clamp(0, 1)
        probabilities = predict(models[model], adv).softmax(1)[0]
        return {
            "adv": adv[0],
            "change": (adv - x)[0],
            "probabilities": torch.zeros_like(probabilities) if empty else probabilities,
            "answer": int(answer),
            "empty": empty,
            "eps": eps,
        }

    def draw(fig: Figure) -> Update:
        left, middle, right = fig.axes
        show_image, show_change = (moving_image(ax, (MNIST_SIDE,) * 2, signed=ax is middle) for ax in (left, middle))
        show_classes = moving_classes(right, names, "hatched: the answer without attack")

        def update(f: dict[str, Any]) -> None:
            show_image(f["adv"], "draw a digit" if f["empty"] else f"what the model sees, ε = {f['eps']:.3f}")
            show_change(f["change"], "change, magnified")
            show_classes(f["probabilities"], f["answer"])

        return update

    def alt(f: dict[str, Any]) -> str:
        if f["empty"]:
            return "The square is empty: draw a digit in it, with the mouse, a finger, or the arrow keys and space."
        best = int(f["probabilities"].argmax())
        return (
            f"At ε = {f['eps']:.3f} the model says {called(best, names)} with {100 * f['probabilities'][best]:.0f} %; "
            f"without attack it says {called(f['answer'], names)}."
        )

    controls = {
        "sketch": Sketch(),
        "model": widgets.Dropdown(options=list(models), description="model"),
        "eps": eps_slider(),
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.5}
    static = {} if example is None else {"sketch": ink_from(example), "eps": 0.1}
    return Demo("Draw a digit", controls, frame, draw, alt, size, static, handle="eps")


def ink_of(sketch: bytes) -> Tensor:
    """Return a sketch as an image (1, SIDE, SIDE) in [0, 1]; an empty one is black."""
    levels = torch.frombuffer(bytearray(sketch or bytes(SIDE * SIDE)), dtype=torch.uint8)
    return levels.view(1, SIDE, SIDE).float() / 255


def ink_from(image: Tensor) -> bytes:
    """Return an image (1, H, W) in [0, 1], enlarged, as the bytes of a sketch."""
    large = F.interpolate(image[None], size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return bytes((255 * large).round().to(torch.uint8).flatten().tolist())


def as_mnist(ink: Tensor) -> Tensor:
    """Return an image (1, H, W) as MNIST has its digits: in a box of 20 pixels, the centre of mass in the middle.

    Returns:
        (1, 28, 28) in [0, 1]; black, where there is no ink.

    >>> as_mnist(torch.eye(84)[None]).shape
    torch.Size([1, 28, 28])

    LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    rows, columns = ((ink[0] > 0.1).any(axis).nonzero().squeeze(1) for axis in (1, 0))
    if not len(rows):
        return ink.new_zeros(1, MNIST_SIDE, MNIST_SIDE)
    box = ink[None, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    longer = max(box.shape[2:])
    height, width = (max(1, round(MNIST_BOX * side / longer)) for side in box.shape[2:])
    digit = F.interpolate(box, size=(height, width), mode="bilinear", antialias=True)[0, 0]
    mass = digit.sum()
    top = _start((digit.sum(1) * torch.arange(height)).sum() / mass, height)
    left = _start((digit.sum(0) * torch.arange(width)).sum() / mass, width)
    whole = ink.new_zeros(1, MNIST_SIDE, MNIST_SIDE)
    whole[0, top : top + height, left : left + width] = digit.clamp(0, 1)
    return whole


def _start(centre: Tensor, side: int) -> int:
    """Return where a digit begins whose centre of mass comes to lie in the middle, as far as it stays inside."""
    return min(max(round(MNIST_SIDE / 2 - float(centre)), 0), MNIST_SIDE - side)
