"""Networks that were trained against attacks, side by side (chapter 05)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as widgets
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..attacks.gradient_based import fgsm, pgd
from ..attacks.gradients import input_gradient
from ..evaluation.metrics import accuracy
from ..models.inference import predict
from ..plotting.figures import COLOURS, line, pixels
from .artists import called, moving, moving_bars, moving_image, moving_title
from .widget import Demo, Update, check_images, eps_slider

ATTACK_STEPS = (1, 2, 3, 5, 10, 20, 40)


def accuracy_curves(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, largest: float = 0.3) -> Demo:
    """Show accuracy against eps for several models; the handle sets how many steps the attack takes (chapter 05).

    One step is FGSM, more are PGD from a random start. What an attack leaves is kept for the next visit.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        largest: eps at the right end, pixel units.
    """
    check_images(x, y)
    radii = [largest * i / 5 for i in range(6)]

    def left(model: nn.Module, eps: float, steps: int) -> float:
        if steps == 1:
            return accuracy(model, fgsm(model, x, y, eps), y)
        generator = torch.Generator(x.device).manual_seed(0)
        return accuracy(model, pgd(model, x, y, eps, steps=steps, generator=generator), y)

    @cache
    def curves(steps: int) -> dict[str, list[float]]:
        return {name: [left(model, eps, steps) for eps in radii] for name, model in models.items()}

    def frame(steps: int) -> dict[str, Any]:
        return {"steps": steps, "curves": curves(steps)}

    def draw(fig: Figure) -> Update:
        (ax,) = fig.axes
        for name in models:
            line(ax, radii, [0.0] * len(radii), name)
        moving(*ax.lines)
        show_title = moving_title(ax)
        ax.set(xlabel="ε", ylabel=f"accuracy, n = {len(x)}", ylim=(-0.02, 1.02))
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))

        def update(f: dict[str, Any]) -> None:
            for drawn, shares in zip(ax.lines, f["curves"].values(), strict=True):
                drawn.set_ydata(shares)
            show_title("FGSM" if f["steps"] == 1 else f"PGD, {f['steps']} steps")

        return update

    def alt(f: dict[str, Any]) -> str:
        attack = "FGSM" if f["steps"] == 1 else f"{f['steps']} steps of PGD"
        rows = (
            f"{name} {100 * shares[0]:.0f} % → {100 * shares[3]:.0f} % → {100 * shares[-1]:.0f} %"
            for name, shares in f["curves"].items()
        )
        return f"Accuracy under {attack} at ε = 0, {radii[3]:g} and {radii[-1]:g}: {'; '.join(rows)}."

    controls = {"steps": widgets.SelectionSlider(options=ATTACK_STEPS, description="steps")}
    size = {"rows": 1, "columns": 1, "width": 6.2, "height": 3.2}
    return Demo("Accuracy against ε", controls, frame, draw, alt, size, {"steps": 10}, handle="steps", example=None)


COMPARED_RADII = 15  # positions of the handle, besides 0
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
    """Show one image as each model's own attack changes it, and how sure each still is of the truth (chapter 05).

    All positions of the handle are computed at once for each image and attack.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        largest: eps of the slider's right end, pixel units. steps: of PGD. names: of the classes.
    """
    check_images(x, y)
    step = largest / COMPARED_RADII

    @cache
    def attacked(model: str, image: int, attack: str) -> tuple[Tensor, Tensor]:
        """Return what the attack makes with each radius (R, C, H, W), and the probabilities of the model (R, K)."""
        one, label = x[image : image + 1], y[image : image + 1]

        def at(eps: float) -> Tensor:
            if attack == "FGSM":
                return fgsm(models[model], one, label, eps)
            generator = torch.Generator(x.device).manual_seed(0)
            return pgd(models[model], one, label, eps, steps=steps, generator=generator)

        adv = torch.cat([at(step * i) for i in range(COMPARED_RADII + 1)])
        return adv, predict(models[model], adv).softmax(1)

    def frame(image: int, attack: str, eps: float) -> dict[str, Any]:
        place = round(eps / step)
        shown = {name: tuple(part[place] for part in attacked(name, image, attack)) for name in models}
        return {
            "adv": [adv for adv, _ in shown.values()],
            "said": [int(probabilities.argmax()) for _, probabilities in shown.values()],
            "sure": [float(probabilities[y[image]]) for _, probabilities in shown.values()],
            "true": int(y[image]),
            "title": f"{attack}, ε = {step * place:.2f}",
        }

    def draw(fig: Figure) -> Update:
        *pictures, right = fig.axes
        show_images = [moving_image(ax, x.shape[1:], lines=2) for ax in pictures]
        show_bars = moving_bars(right, [{"color": COLOURS[0]}] * len(models), max(models, key=len))
        show_title = moving_title(right)
        right.set(xlim=(0, 1), xlabel="probability of the truth")

        def update(f: dict[str, Any]) -> None:
            for show_image, adv, name, said in zip(show_images, f["adv"], models, f["said"], strict=True):
                show_image(adv, f"{name}:\n{called(said, names)} {'✓' if said == f['true'] else '✗'}")
            show_bars(f["sure"], list(models))
            show_title(f["title"])

        return update

    def alt(f: dict[str, Any]) -> str:
        rows = (
            f"{name} says {called(said, names)} (the truth has {100 * sure:.0f} %)"
            for name, said, sure in zip(models, f["said"], f["sure"], strict=True)
        )
        return f"{f['title']}, true is {called(f['true'], names)}: {'; '.join(rows)}."

    slider = eps_slider(largest=largest)
    slider.step = step
    controls = {
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "attack": widgets.Dropdown(options=COMPARED_ATTACKS, description="attack"),
        "eps": slider,
    }
    widths = [1.0] * len(models) + [1.5]
    size = {"rows": 1, "columns": len(models) + 1, "width": 1.6, "height": 2.3}
    size["gridspec_kw"] = {"width_ratios": widths}
    static = {"attack": "PGD", "eps": step * round(2 * COMPARED_RADII / 3)}
    return Demo("Several models, one image", controls, frame, draw, alt, size, static, handle="eps", example="image")


HIGHEST_LOSS = 8.0  # of the colours and the scale: beyond it, a network is as sure as can be of a wrong answer
TILTS = range(0, 91, 3)  # degrees
SURFACE_POINTS = 13  # along each side
SIDEWAYS = ("PGD", "random signs")


def loss_tilt(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, eps: float = 0.3) -> Demo:
    """Show the loss over the plane of FGSM's direction and another one; the handle turns a line in it (chapter 05).

    A network that hides its gradient is flat along FGSM's own direction: turn away from it, and its loss rises.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        eps: how far the plane reaches, pixel units.
    """
    check_images(x, y)
    reach = torch.linspace(0, eps, SURFACE_POINTS).to(x)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).sign().to(x)

    @cache
    def directions(model: str, image: int, sideways: str) -> tuple[Tensor, Tensor]:
        one, label = x[image : image + 1], y[image : image + 1]
        if sideways == "PGD":
            generator = torch.Generator(x.device).manual_seed(0)
            across = (pgd(models[model], one, label, eps, steps=10, generator=generator) - one) / eps
        else:
            across = noise[image : image + 1]
        return input_gradient(models[model], one, label).sign(), across

    def losses(model: str, image: int, sideways: str, along: Tensor, across: Tensor) -> Tensor:
        """Return the loss at every pair of distances, (...)."""
        forward, aside = directions(model, image, sideways)
        points = x[image] + along.reshape(-1, 1, 1, 1) * forward + across.reshape(-1, 1, 1, 1) * aside
        logits = predict(models[model], points.clamp(0, 1))
        return F.cross_entropy(logits, y[image].expand(len(logits)), reduction="none").view(along.shape)

    @cache
    def plane(model: str, image: int, sideways: str) -> Tensor:
        return losses(model, image, sideways, *torch.meshgrid(reach, reach, indexing="xy"))

    @cache
    def profile(model: str, image: int, sideways: str, tilt: int) -> list[float]:
        angle = math.radians(tilt)
        return losses(model, image, sideways, math.cos(angle) * reach, math.sin(angle) * reach).tolist()

    def frame(image: int, sideways: str, tilt: int) -> dict[str, Any]:
        return {
            "planes": {name: plane(name, image, sideways) for name in models},
            "profiles": {name: profile(name, image, sideways, tilt) for name in models},
            "sideways": sideways,
            "tilt": tilt,
        }

    def draw(fig: Figure) -> Update:
        *maps, right = fig.axes
        pictures, arrows = [], []
        for ax, name in zip(maps, models, strict=True):
            place = {"extent": (0, eps, 0, eps), "origin": "lower", "vmin": 0, "vmax": HIGHEST_LOSS}
            pictures.append(ax.imshow(pixels(torch.zeros(SURFACE_POINTS, SURFACE_POINTS)), cmap="cividis", **place))
            arrows += ax.plot([], [], color="white", linewidth=2.5, linestyle="-", marker="")
            ax.set_title(name, fontsize=9)
            ax.set(xlabel="FGSM", xticks=(0, eps), yticks=(0, eps))
        for name in models:
            line(right, reach.tolist(), [0.0] * len(reach), name)
        show_title = moving_title(right)
        maps[0].set_ylabel("sideways")
        right.set(ylim=(0, HIGHEST_LOSS), xlabel="distance along the line", ylabel="loss")
        moving(*pictures, *arrows, *right.lines)

        def update(f: dict[str, Any]) -> None:
            angle = math.radians(f["tilt"])
            for picture, arrow, name in zip(pictures, arrows, models, strict=True):
                picture.set_data(pixels(f["planes"][name]))
                arrow.set_data([0, eps * math.cos(angle)], [0, eps * math.sin(angle)])
            for drawn, name in zip(right.lines, models, strict=True):
                drawn.set_ydata(f["profiles"][name])
            show_title(f"{f['tilt']}° from FGSM to {f['sideways']}")

        return update

    def alt(f: dict[str, Any]) -> str:
        rows = (f"{name} {row[0]:.1f} → {max(row):.1f}" for name, row in f["profiles"].items())
        where = f"{f['tilt']}° from FGSM to {f['sideways']}"
        return f"Loss on the image, and the highest along the line {where}: {'; '.join(rows)}."

    controls = {
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "sideways": widgets.Dropdown(options=SIDEWAYS, description="sideways"),
        "tilt": widgets.IntSlider(0, min=TILTS.start, max=TILTS[-1], step=TILTS.step, description="tilt"),
    }
    size = {"rows": 1, "columns": len(models) + 1, "width": 2.1, "height": 2.5}
    size["gridspec_kw"] = {"width_ratios": [1.0] * len(models) + [1.5]}
    return Demo("Tilt the loss surface", controls, frame, draw, alt, size, {"tilt": 45}, handle="tilt", example="image")
