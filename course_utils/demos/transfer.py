"""How adversarial examples transfer from one model to another (chapter 05)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from torch import Tensor, nn

from ..attacks.nondifferentiable import generate
from ..evaluation.metrics import correct, worst_case
from ..models.inference import predict
from ..plotting.figures import COLOURS
from .panels import Values, bar_panel, class_name, image_panel
from .widget import Demo, check_images, dropdown, eps_slider, int_slider

RADII = 15  # positions of the slider, besides 0: each costs a prediction of the target


def transfer_picker(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    largest: float = 0.3,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show one cell of the transfer matrix, source × target × eps, and one of its images (chapter 05).

    The images that a source makes and the answers of a target are kept.

    Args:
        models: networks and SklearnClassifiers by the name shown.
        x: images (N, C, H, W) in [0, 1]. y: labels (N,). Those that all models classify correctly are used.
        largest: eps of the slider's right end, pixel units. names: of the classes.

    Raises:
        ValueError: wrong images, or none that all models classify correctly.
    """
    check_images(x, y)
    x, y = _correct_for_all(models, x, y)

    @cache
    def attacked(source: str, eps: float) -> Tensor:
        return generate(models[source], x, y, eps)

    @cache
    def predictions(source: str, model: str, eps: float) -> Tensor:
        return predict(models[model], attacked(source, eps)).argmax(1)

    def compute(source: str, target: str, image: int, eps: float) -> Values:
        labels = {"source": predictions(source, source, eps), "target": predictions(source, target, eps)}
        return {
            "clean": x[image],
            "adv": attacked(source, eps)[image],
            "true": int(y[image]),
            "predicted": {role: int(predicted[image]) for role, predicted in labels.items()},
            "fooled": {role: float((predicted != y).float().mean()) for role, predicted in labels.items()},
            "title": f"{source} → {target}",
            "eps": eps,
        }

    def alt(values: Values) -> str:
        source, target = (f"{100 * share:.0f} %" for share in values["fooled"].values())
        by_source, by_target = (class_name(label, names) for label in values["predicted"].values())
        return (
            f"{values['title']} at ε = {values['eps']:.3f}: the source is fooled on {source}, the target on {target} "
            f"of {len(x)} images. This {class_name(values['true'], names)}: the source says {by_source}, "
            f"the target {by_target}."
        )

    def clean(values: Values) -> tuple[Tensor, str]:
        return values["clean"], f"true: {class_name(values['true'], names)}"

    def adversarial(values: Values) -> tuple[Tensor, str]:
        return values["adv"], f"ε = {values['eps']:.3f}; target: {class_name(values['predicted']['target'], names)}"

    colours = [{"color": COLOURS[4]}, {"color": COLOURS[0]}]
    axes = {"xlim": (0, 1), "xlabel": f"fooled, n = {len(x)}"}
    panels = [image_panel(x.shape[1:], show) for show in (clean, adversarial)]
    panels += [bar_panel(colours, "source\n100 %", _shares, **axes)]
    controls = {
        "source": dropdown("source", models),
        "target": dropdown("target", models, [*models, *models][1]),
        "image": int_slider("image", len(x) - 1),
        "eps": eps_slider(largest=largest, steps=RADII),
    }
    static_state = {"eps": largest * 2 / 3}
    return Demo("One cell of the transfer matrix", controls, compute, panels, alt, static_state, "eps", "image")


def _correct_for_all(models: Mapping[str, nn.Module], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    common = worst_case(*(correct(model, x, y) for model in models.values()))
    if not common.any():
        raise ValueError(f"none of the {len(x)} images is classified correctly by all of {', '.join(models)}.")
    return x[common], y[common]


def _shares(values: Values) -> tuple[list[float], list[str]]:
    """Return the bars of both roles, and their labels."""
    fooled = values["fooled"]
    return list(fooled.values()), [f"{role}\n{100 * share:.0f} %" for role, share in fooled.items()]
