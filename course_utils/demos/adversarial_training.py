"""Networks that were trained against attacks, side by side (chapters 06 and 07)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache

import ipywidgets as widgets
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor, nn

from ..attacks.gradient_based import fgsm, pgd
from ..attacks.gradients import input_gradient
from ..evaluation.metrics import accuracy
from ..models.inference import predict
from ..plotting.figures import COLOURS, pixels
from .panels import Panel, Update, Values, animate, bar_panel, class_name, image_panel, line_panel
from .widget import Demo, check_images, dropdown, eps_slider, int_slider

ATTACK_STEPS = (1, 2, 3, 5, 10, 20, 40)


def accuracy_curves(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, largest: float = 0.3) -> Demo:
    """Show accuracy against eps for several models; the slider sets how many steps the attack takes (chapter 07).

    One step is FGSM, more are PGD from a random start. The accuracies of each number of steps are kept.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        largest: eps at the right end, pixel units.
    """
    check_images(x, y)
    radii = [largest * i / 5 for i in range(6)]

    @cache
    def curves(steps: int) -> dict[str, list[float]]:
        attack = "FGSM" if steps == 1 else "PGD"
        return {
            name: [accuracy(model, _attacked(attack, model, x, y, eps, steps), y) for eps in radii]
            for name, model in models.items()
        }

    def compute(steps: int) -> Values:
        title = "FGSM" if steps == 1 else f"PGD, {steps} steps"
        return {"steps": steps, "curves": curves(steps), "title": title}

    def alt(values: Values) -> str:
        attack = "FGSM" if values["steps"] == 1 else f"{values['steps']} steps of PGD"
        rows = (
            f"{name} {100 * shares[0]:.0f} % → {100 * shares[3]:.0f} % → {100 * shares[-1]:.0f} %"
            for name, shares in values["curves"].items()
        )
        return f"Accuracy under {attack} at ε = 0, {radii[3]:g} and {radii[-1]:g}: {'; '.join(rows)}."

    legend = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    axes = {"xlabel": "ε", "ylabel": f"accuracy, n = {len(x)}", "ylim": (-0.02, 1.02)}
    panels = [line_panel(radii, list(models), lambda values: values["curves"], legend=legend, **axes)]
    controls = {"steps": widgets.SelectionSlider(options=ATTACK_STEPS, description="steps")}
    layout = {"width": 6.2, "height": 3.2}
    return Demo("Accuracy against ε", controls, compute, panels, alt, {"steps": 10}, "steps", layout=layout)


COMPARED_RADII = 15  # positions of the slider, besides 0
COMPARED_ATTACKS = ("FGSM", "PGD")


def model_comparer(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    largest: float = 0.3,
    steps: int = 10,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show one image as attacked on each model, and the probability that the model gives to the truth (chapter 06).

    All positions of the slider are computed at once for each image and attack.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        largest: eps of the slider's right end, pixel units. steps: of PGD. names: of the classes.
    """
    check_images(x, y)
    step = largest / COMPARED_RADII

    @cache
    def attacked(model: str, image: int, attack: str) -> tuple[Tensor, Tensor]:
        """Return the adversarial images of each radius (R, C, H, W), and the probabilities of the model (R, K)."""
        one = models[model], x[image : image + 1], y[image : image + 1]
        adv = torch.cat([_attacked(attack, *one, step * i, steps) for i in range(COMPARED_RADII + 1)])
        return adv, predict(models[model], adv).softmax(1)

    def compute(image: int, attack: str, eps: float) -> Values:
        index = round(eps / step)
        found = [attacked(name, image, attack) for name in models]
        probabilities = torch.stack([rows[index] for _, rows in found])
        return {
            "adv": [advs[index] for advs, _ in found],
            "predicted": probabilities.argmax(1).tolist(),
            "true_probability": probabilities[:, y[image]].tolist(),
            "true": int(y[image]),
            "title": f"{attack}, ε = {step * index:.2f}",
        }

    def alt(values: Values) -> str:
        rows = (
            f"{name} says {class_name(predicted, names)} (the truth has {100 * probability:.0f} %)"
            for name, predicted, probability in zip(
                models, values["predicted"], values["true_probability"], strict=True
            )
        )
        return f"{values['title']}, true is {class_name(values['true'], names)}: {'; '.join(rows)}."

    def truth(values: Values) -> tuple[list[float], list[str]]:
        return values["true_probability"], list(models)

    colours, axes = [{"color": COLOURS[0]}] * len(models), {"xlim": (0, 1), "xlabel": "probability of the truth"}
    panels = [_attacked_panel(x.shape[1:], model, name, names) for model, name in enumerate(models)]
    panels += [bar_panel(colours, max(models, key=len), truth, **axes)]
    controls = {
        "image": int_slider("image", len(x) - 1),
        "attack": dropdown("attack", COMPARED_ATTACKS),
        "eps": eps_slider(largest=largest, steps=COMPARED_RADII),
    }
    layout = {"width": 1.6, "height": 2.3, "width_ratios": [1.0] * len(models) + [1.5]}
    static_state = {"attack": "PGD", "eps": step * round(2 * COMPARED_RADII / 3)}
    return Demo("Several models, one image", controls, compute, panels, alt, static_state, "eps", "image", layout)


MAX_LOSS = 8.0  # of the colours and the scale: beyond it, a network is as sure as can be of a wrong answer
TILTS = range(0, 91, 3)  # degrees
SURFACE_POINTS = 13  # along each side
SIDEWAYS = ("PGD", "random signs")


def loss_tilt(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, eps: float = 0.3) -> Demo:
    """Show the loss over the plane of FGSM's direction and another one; the slider turns a line in it (chapter 07).

    A network that hides its gradient is flat along FGSM's own direction: turn away from it, and its loss rises.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        eps: how far the plane reaches, pixel units.
    """
    check_images(x, y)
    distances = torch.linspace(0, eps, SURFACE_POINTS).to(x)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign().to(x)

    @cache
    def directions(model: str, image: int, sideways: str) -> tuple[Tensor, Tensor]:
        one = x[image : image + 1], y[image : image + 1]
        if sideways == "PGD":
            across = (_attacked("PGD", models[model], *one, eps, 10) - one[0]) / eps
        else:
            across = noise[image : image + 1]
        return input_gradient(models[model], *one).sign(), across

    def losses(model: str, image: int, sideways: str, along: Tensor, across: Tensor) -> Tensor:
        """Return the loss at every pair of distances, (...)."""
        forward, aside = directions(model, image, sideways)
        points = x[image] + along.reshape(-1, 1, 1, 1) * forward + across.reshape(-1, 1, 1, 1) * aside
        logits = predict(models[model], points.clamp(0, 1))
        return F.cross_entropy(logits, y[image].expand(len(logits)), reduction="none").view(along.shape)

    @cache
    def plane(model: str, image: int, sideways: str) -> Tensor:
        return losses(model, image, sideways, *torch.meshgrid(distances, distances, indexing="xy"))

    @cache
    def profile(model: str, image: int, sideways: str, tilt: int) -> list[float]:
        angle = math.radians(tilt)
        return losses(model, image, sideways, math.cos(angle) * distances, math.sin(angle) * distances).tolist()

    def compute(image: int, sideways: str, tilt: int) -> Values:
        return {
            "planes": {name: plane(name, image, sideways) for name in models},
            "profiles": {name: profile(name, image, sideways, tilt) for name in models},
            "tilt": tilt,
            "title": f"{tilt}° from FGSM to {sideways}",
        }

    def alt(values: Values) -> str:
        rows = (f"{name} {row[0]:.1f} → {max(row):.1f}" for name, row in values["profiles"].items())
        return f"Loss on the image, and the highest along the line {values['title']}: {'; '.join(rows)}."

    axes = {"ylim": (0, MAX_LOSS), "xlabel": "distance along the line", "ylabel": "loss"}
    panels = [_plane_panel(name, eps, "sideways" if i == 0 else "") for i, name in enumerate(models)]
    panels += [line_panel(distances.tolist(), list(models), lambda values: values["profiles"], **axes)]
    controls = {
        "image": int_slider("image", len(x) - 1),
        "sideways": dropdown("sideways", SIDEWAYS),
        "tilt": int_slider("tilt", TILTS[-1], TILTS.start, TILTS.step),
    }
    layout = {"width": 2.1, "height": 2.5, "width_ratios": [1.0] * len(models) + [1.5]}
    return Demo("Tilt the loss surface", controls, compute, panels, alt, {"tilt": 45}, "tilt", "image", layout)


def _attacked(attack: str, model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    """Return what FGSM, or PGD with so many steps from a random start, makes of the images."""
    if attack == "FGSM":
        return fgsm(model, x, y, eps)
    return pgd(model, x, y, eps, steps=steps, generator=torch.Generator(x.device).manual_seed(0))


def _attacked_panel(shape: Sequence[int], model: int, name: str, names: Sequence[str] | None) -> Panel:
    """Return a panel with the image as attacked on one model, by its index, and what that model says of it."""

    def show(values: Values) -> tuple[Tensor, str]:
        predicted = values["predicted"][model]
        mark = "✓" if predicted == values["true"] else "✗"
        return values["adv"][model], f"{name}:\n{class_name(predicted, names)} {mark}"

    return image_panel(shape, show, title_lines=2)


def _plane_panel(name: str, eps: float, ylabel: str) -> Panel:
    """Return a panel with the loss of one model over the plane, and the line that the slider turns."""

    def draw(ax: Axes) -> Update:
        scale = {"extent": (0, eps, 0, eps), "origin": "lower", "vmin": 0, "vmax": MAX_LOSS}
        surface = ax.imshow(pixels(torch.zeros(SURFACE_POINTS, SURFACE_POINTS)), cmap="cividis", **scale)
        (arrow,) = ax.plot([], [], color="white", linewidth=2.5, linestyle="-", marker="")
        ax.set_title(name, fontsize=9)
        ax.set(xlabel="FGSM", ylabel=ylabel, xticks=(0, eps), yticks=(0, eps))
        animate(surface, arrow)

        def update(values: Values) -> None:
            angle = math.radians(values["tilt"])
            surface.set_data(pixels(values["planes"][name]))
            arrow.set_data([0, eps * math.cos(angle)], [0, eps * math.sin(angle)])

        return update

    return draw
