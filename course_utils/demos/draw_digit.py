"""A digit drawn by hand: what the classifier says of it, and how large a perturbation changes the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import torch
import torch.nn.functional as F
import traitlets
from torch import Tensor, nn

from ..attacks.gradients import input_gradient
from ..models.inference import predict
from .panels import Values, class_name, class_panel, image_panel, top_class
from .widget import Demo, dropdown, eps_slider

SIDE = 84  # of a sketch, in pixels; sketch.js has the same number
MNIST_SIDE, MNIST_BOX = 28, 20
CACHED_SKETCHES = 16  # sketches whose gradient is kept


class Sketch(anywidget.AnyWidget):
    """A square to draw on with the mouse, a finger or the keyboard; `value` holds SIDE × SIDE bytes, or none."""

    _esm = Path(__file__).with_name("sketch.js")
    value = traitlets.CBytes(b"").tag(sync=True)

    @traitlets.validate("value")
    def _check_length(self, proposal: Mapping[str, Any]) -> bytes:
        sketch = proposal["value"]
        if len(sketch) not in (0, SIDE * SIDE):
            raise traitlets.TraitError(f"a sketch has {SIDE} × {SIDE} bytes, or none; got {len(sketch)}.")
        return sketch


def draw_digit(
    models: Mapping[str, nn.Module], *, example: Tensor | None = None, names: Sequence[str] | None = None
) -> Demo:
    """Let the reader draw a digit, say how a model classifies it, and attack it with FGSM (chapter 02).

    The drawing is brought to the place and size of MNIST's digits. The attack goes away from what the model says.

    Args:
        models: by the name shown. example: a digit (1, 28, 28) that the static picture shows. names: of the classes.
    """

    @lru_cache(CACHED_SKETCHES)
    def clean(model: str, sketch: bytes) -> tuple[Tensor, Tensor, Tensor]:
        """Return the digit (1, 1, 28, 28), the model's answer (1,), and the signs of the gradient."""
        x = to_mnist(sketch_to_image(sketch))[None]
        answer = predict(models[model], x).argmax(1)
        return x, answer, input_gradient(models[model], x, answer).sign()

    def compute(sketch: bytes, model: str, eps: float) -> Values:
        x, answer, signs = clean(model, sketch)
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

    def alt(values: Values) -> str:
        if values["empty"]:
            return "The square is empty: draw a digit in it, with the mouse, a finger, or the arrow keys and space."
        return (
            f"At ε = {values['eps']:.3f} the model says {top_class(values['probabilities'], names)}; "
            f"without attack it says {class_name(values['answer'], names)}."
        )

    def model_input(values: Values) -> tuple[Tensor, str]:
        title = "draw a digit" if values["empty"] else f"what the model sees, ε = {values['eps']:.3f}"
        return values["adv"], title

    panels = [
        image_panel((MNIST_SIDE,) * 2, model_input),
        image_panel((MNIST_SIDE,) * 2, lambda values: (values["change"], "change, magnified"), signed=True),
        class_panel(names, "hatched: the answer without attack", hatched="answer"),
    ]
    controls = {"sketch": Sketch(), "model": dropdown("model", models), "eps": eps_slider()}
    static_state = {} if example is None else {"sketch": image_to_sketch(example), "eps": 0.1}
    return Demo("Draw a digit", controls, compute, panels, alt, static_state, slider="eps")


def sketch_to_image(sketch: bytes) -> Tensor:
    """Return a sketch as an image (1, SIDE, SIDE) in [0, 1]; an empty one is black."""
    levels = torch.frombuffer(bytearray(sketch or bytes(SIDE * SIDE)), dtype=torch.uint8)
    return levels.view(1, SIDE, SIDE).float() / 255


def image_to_sketch(image: Tensor) -> bytes:
    """Return an image (1, H, W) in [0, 1], enlarged, as the bytes of a sketch."""
    large = F.interpolate(image[None], size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return bytes((255 * large).round().to(torch.uint8).flatten().tolist())


def to_mnist(image: Tensor) -> Tensor:
    """Place and scale a digit (1, H, W) as MNIST does: in a box of 20 pixels, the centre of mass in the middle.

    Returns:
        (1, 28, 28) in [0, 1]; black, where nothing is drawn.

    >>> to_mnist(torch.eye(84)[None]).shape
    torch.Size([1, 28, 28])

    LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
    """
    rows, columns = ((image[0] > 0.1).any(axis).nonzero().squeeze(1) for axis in (1, 0))
    if not len(rows):
        return image.new_zeros(1, MNIST_SIDE, MNIST_SIDE)
    box = image[None, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    longer = max(box.shape[2:])
    height, width = (max(1, round(MNIST_BOX * side / longer)) for side in box.shape[2:])
    digit = F.interpolate(box, size=(height, width), mode="bilinear", antialias=True)[0, 0]
    mass = digit.sum()
    top = _centred_start((digit.sum(1) * torch.arange(height)).sum() / mass, height)
    left = _centred_start((digit.sum(0) * torch.arange(width)).sum() / mass, width)
    placed = image.new_zeros(1, MNIST_SIDE, MNIST_SIDE)
    placed[0, top : top + height, left : left + width] = digit.clamp(0, 1)
    return placed


def _centred_start(centre: Tensor, side: int) -> int:
    """Return where a digit begins whose centre of mass comes to lie in the middle, as far as it stays inside."""
    return min(max(round(MNIST_SIDE / 2 - float(centre)), 0), MNIST_SIDE - side)
