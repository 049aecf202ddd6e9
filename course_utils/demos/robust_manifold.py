"""The range of a generator: the projection onto it, and walks in it (chapters 08 and 09)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import ipywidgets as widgets
import torch
from torch import Tensor, nn

from ..defences.robust_manifold.projection import check_latents, latent_size, project_to_range
from ..models.inference import frozen_eval, predict
from .panels import Values, class_name, class_panel, image_panel, top_class
from .widget import Demo, check_images, int_slider

CACHED_PROJECTIONS = 512


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
    """Show the projection of one attacked image after so many steps from so many random starts (chapter 08).

    The starts of an image are drawn once: with one restart more, the earlier ones stay as they were.

    Args:
        classifier: maps images to logits. generator: maps z to images; has an attribute `latent`.
        x: attacked images (N, C, H, W) in [0, 1]. y: their true labels (N,).
        steps, restarts: the largest values of the sliders. names: of the classes.
    """
    check_images(x, y)
    stream = torch.Generator().manual_seed(0)
    starts = torch.randn(restarts, len(x), latent_size(generator), generator=stream).to(x)

    @lru_cache(CACHED_PROJECTIONS)
    def projected(image: int, restarts: int, steps: int) -> Tensor:
        one = slice(image, image + 1)
        init = starts[:restarts, one]
        return project_to_range(generator, x[one], steps=steps, restarts=restarts, init=init)[1]

    def compute(image: int, restarts: int, steps: int) -> Values:
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

    def alt(values: Values) -> str:
        after = int(values["probabilities"].argmax())
        before, after, true = (class_name(label, names) for label in (values["before"], after, values["true"]))
        return (
            f"After {values['effort']} the squared distance is {values['error']:.1f} and the projection is classified "
            f"as {after}; true is {true}, and the attacked image is classified as {before}."
        )

    def attacked(values: Values) -> tuple[Tensor, str]:
        return values["x"], f"attacked; classified as {class_name(values['before'], names)}"

    def projection(values: Values) -> tuple[Tensor, str]:
        return values["x_star"], f"{values['effort']}\nsquared distance {values['error']:.1f}"

    panels = [*(image_panel(x.shape[1:], show, title_lines=2) for show in (attacked, projection)), class_panel(names)]
    controls = {
        "image": int_slider("image", len(x) - 1),
        "restarts": int_slider("restarts", restarts, first=1),
        "steps": int_slider("steps", steps, first=1),
    }
    static_state = {"restarts": min(2, restarts), "steps": steps}
    return Demo("The projection", controls, compute, panels, alt, static_state, "steps", "image", {"height": 2.6})


def latent_walk(
    classifier: nn.Module, generator: nn.Module, z: Tensor, z_prime: Tensor, *, names: Sequence[str] | None = None
) -> Demo:
    """Walk on the straight line from z to z' and show the image at each point and its class (chapter 09).

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

    def images(latents: Tensor) -> Tensor:
        with frozen_eval(generator), torch.no_grad():
            return generator(latents)

    def compute(pair: int, way: float) -> Values:
        start, here = images(torch.stack([z[pair], torch.lerp(z[pair], z_prime[pair], way)]))
        logits = predict(classifier, torch.stack([start, here]))
        return {
            "start": start,
            "here": here,
            "first": int(logits[0].argmax()),
            "probabilities": logits[1].softmax(0),
            "distance": float((here - start).norm()),
            "way": way,
        }

    def alt(values: Values) -> str:
        return (
            f"After {values['way']:.0%} of the way the image is {values['distance']:.2f} from the start in L2 and "
            f"classified as {top_class(values['probabilities'], names)}; the start is classified as "
            f"{class_name(values['first'], names)}."
        )

    def start(values: Values) -> tuple[Tensor, str]:
        return values["start"], f"start: {class_name(values['first'], names)}"

    def here(values: Values) -> tuple[Tensor, str]:
        return values["here"], f"{values['way']:.0%} of the way\nL2 distance {values['distance']:.2f}"

    shape = images(z[:1]).shape[1:]
    panels = [image_panel(shape, show, title_lines=2) for show in (start, here)]
    panels += [class_panel(names, "hatched: the class of the start", hatched="first")]
    controls = {
        "pair": int_slider("pair", len(z) - 1),
        "way": widgets.FloatSlider(0, min=0, max=1, step=0.02, description="way", readout_format=".2f"),
    }
    static_state, layout = {"way": 0.5}, {"height": 2.6}
    return Demo("A walk in the latent space", controls, compute, panels, alt, static_state, "way", "pair", layout)
