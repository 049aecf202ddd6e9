"""The range of a generator: the projection onto it, and walks in it (chapter 06)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..defences.robust_manifold.projection import check_latents, latent_size, project_to_range
from ..models.inference import frozen_eval, predict
from .artists import called, moving_classes, moving_image
from .widget import Demo, Update, check_images

KEPT = 512  # projections


def projection_slider(
    classifier: nn.Module,
    generator: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    restarts: int = 6,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show the projection of one attacked image after so many steps from so many random starts (chapter 06).

    The starts of an image are drawn once: with one restart more, the earlier ones stay as they were.

    Args:
        classifier: maps images to logits. generator: maps z to images; has an attribute `latent`.
        x: attacked images (N, C, H, W) in [0, 1]. y: their true labels (N,).
        steps, restarts: the ends of the handles. names: of the classes.
    """
    check_images(x, y)
    stream = torch.Generator().manual_seed(0)
    starts = torch.randn(restarts, len(x), latent_size(generator), generator=stream).to(x)

    @lru_cache(KEPT)
    def projected(image: int, restarts: int, steps: int) -> Tensor:
        one = slice(image, image + 1)
        init = starts[:restarts, one]
        return project_to_range(generator, x[one], steps=steps, restarts=restarts, init=init)[1]

    def frame(image: int, restarts: int, steps: int) -> dict[str, Any]:
        one = slice(image, image + 1)
        x_star = projected(image, restarts, steps)
        logits = predict(classifier, torch.cat([x[one], x_star]))
        return {
            "x": x[image],
            "x_star": x_star[0],
            "error": float((x_star - x[one]).square().sum()),
            "before": int(logits[0].argmax()),
            "probabilities": logits[1].softmax(0),
            "true": int(y[image]),
            "effort": f"{steps} steps, {restarts} restart{'s' * (restarts > 1)}",
        }

    def draw(fig: Figure) -> Update:
        left, middle, right = fig.axes
        show_image, show_projection = (moving_image(ax, x.shape[1:], lines=2) for ax in (left, middle))
        show_classes = moving_classes(right, names)

        def update(f: dict[str, Any]) -> None:
            show_image(f["x"], f"attacked; classified as {called(f['before'], names)}")
            show_projection(f["x_star"], f"{f['effort']}\nsquared distance {f['error']:.1f}")
            show_classes(f["probabilities"], f["true"])

        return update

    def alt(f: dict[str, Any]) -> str:
        said = called(int(f["probabilities"].argmax()), names)
        return (
            f"After {f['effort']} the squared distance is {f['error']:.1f} and the projection is classified as {said}; "
            f"true is {called(f['true'], names)}, and the attacked image is classified as {called(f['before'], names)}."
        )

    controls = {
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "restarts": widgets.IntSlider(1, min=1, max=restarts, description="restarts"),
        "steps": widgets.IntSlider(1, min=1, max=steps, description="steps"),
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.6}
    return Demo(
        "The projection",
        controls,
        frame,
        draw,
        alt,
        size,
        {"restarts": min(2, restarts), "steps": steps},
        handle="steps",
        example="image",
    )


def latent_walk(
    classifier: nn.Module, generator: nn.Module, z: Tensor, z_prime: Tensor, *, names: Sequence[str] | None = None
) -> Demo:
    """Walk on the straight line from z to z' and see what is drawn there, and how it is classified (chapter 06).

    Args:
        classifier: maps images to logits. generator: maps z to images; has an attribute `latent`.
        z, z_prime: the ends of the walks, (N, latent) each. names: of the classes.

    Raises:
        ValueError: ends that do not match, or no walk at all.
    """
    if not len(z):
        raise ValueError("expected at least one walk, got none.")
    for end in (z, z_prime):
        check_latents(end, len(z), latent_size(generator))

    with frozen_eval(generator), torch.no_grad():
        shape = generator(z[:1]).shape[1:]

    def frame(pair: int, way: float) -> dict[str, Any]:
        ends = torch.stack([z[pair], torch.lerp(z[pair], z_prime[pair], way)])
        with frozen_eval(generator), torch.no_grad():
            start, here = generator(ends)
        logits = predict(classifier, torch.stack([start, here]))
        return {
            "start": start,
            "here": here,
            "first": int(logits[0].argmax()),
            "probabilities": logits[1].softmax(0),
            "distance": float((here - start).norm()),
            "way": way,
        }

    def draw(fig: Figure) -> Update:
        left, middle, right = fig.axes
        show_start, show_here = (moving_image(ax, shape, lines=2) for ax in (left, middle))
        show_classes = moving_classes(right, names, "hatched: the class of the start")

        def update(f: dict[str, Any]) -> None:
            show_start(f["start"], f"start: {called(f['first'], names)}")
            show_here(f["here"], f"{f['way']:.0%} of the way\nL2 distance {f['distance']:.2f}")
            show_classes(f["probabilities"], f["first"])

        return update

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        return (
            f"After {f['way']:.0%} of the way the image is {f['distance']:.2f} from the start in L2 and classified as "
            f"{called(best, names)} with {100 * f['probabilities'][best]:.0f} %; the start is classified as "
            f"{called(f['first'], names)}."
        )

    controls = {
        "pair": widgets.IntSlider(0, min=0, max=len(z) - 1, description="pair"),
        "way": widgets.FloatSlider(0, min=0, max=1, step=0.02, description="way", readout_format=".2f"),
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.6}
    return Demo(
        "A walk in the latent space", controls, frame, draw, alt, size, {"way": 0.5}, handle="way", example="pair"
    )
