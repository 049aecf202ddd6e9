"""Attacks on one image: in one step (chapter 02) and step by step (chapter 03)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ..attacks.gradient_based import pgd
from ..attacks.gradients import input_gradient
from ..models.inference import predict
from .artists import called, moving_classes, moving_curve, moving_image
from .widget import Demo, Update, check_images, eps_slider


def fgsm_slider(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, *, names: Sequence[str] | None = None) -> Demo:
    """Show one image under FGSM: the image, the magnified change, the most likely classes (chapter 02).

    The sign of the gradient does not depend on eps: it is computed once for each image and model.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,). names: of the classes.
    """
    check_images(x, y)

    @cache
    def sign(model: str, image: int) -> Tensor:
        return input_gradient(models[model], x[image : image + 1], y[image : image + 1]).sign()

    def frame(model: str, image: int, eps: float) -> dict[str, Any]:
        one, label = x[image : image + 1], y[image : image + 1]
        adv = (one + eps * sign(model, image)).clamp(0, 1)
        probabilities = predict(models[model], adv).softmax(1)[0]
        return {"adv": adv[0], "change": (adv - one)[0], "probabilities": probabilities, "true": int(label), "eps": eps}

    def draw(fig: Figure) -> Update:
        left, middle, right = fig.axes
        show_image = moving_image(left, x.shape[1:])
        show_change = moving_image(middle, x.shape[2:], signed=True)
        show_classes = moving_classes(right, names)

        def update(f: dict[str, Any]) -> None:
            show_image(f["adv"], f"ε = {f['eps']:.3f}")
            show_change(f["change"].mean(0), "change, magnified")
            show_classes(f["probabilities"], f["true"])

        return update

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        said, true = called(best, names), called(f["true"], names)
        return (
            f"At ε = {f['eps']:.3f} the model says {said} with {100 * f['probabilities'][best]:.0f} %; true is {true}."
        )

    controls = {
        "model": widgets.Dropdown(options=list(models), description="model"),
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "eps": eps_slider(),
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.5}
    return Demo("FGSM on one image", controls, frame, draw, alt, size, {"eps": 0.1}, handle="eps", example="image")


NOISE_WEIGHTS = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001)


def optimised_noise_slider(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    lr: float = 0.3,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show the noise r that minimises c·‖r‖² + cross-entropy(x + r, target); the handle sets c (chapter 03).

    All positions of the handle are one batch of gradient descent, computed once for each model, image and target.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        steps, lr: of the gradient descent. names: of the classes.
    """
    check_images(x, y)
    classes = predict(next(iter(models.values())), x[:1]).shape[1]
    c = torch.tensor(NOISE_WEIGHTS).to(x).view(-1, *[1] * (x.ndim - 1))

    @cache
    def optimised(model: str, image: int, target: int) -> tuple[Tensor, Tensor]:
        copies = x[image].expand(len(c), *x.shape[1:])
        goal = y.new_full((len(c),), target)
        noise = torch.zeros_like(copies)
        for _ in range(steps):
            slope = 2 * c * noise + input_gradient(models[model], copies + noise, goal)
            noise = (copies + noise - lr * slope).clamp(0, 1) - copies
        adv = (copies + noise).clamp(0, 1)
        return adv, predict(models[model], adv).softmax(1)

    def frame(model: str, image: int, target: str, c: float) -> dict[str, Any]:
        goal, place = labels.index(target), NOISE_WEIGHTS.index(c)
        adv, probabilities = (part[place] for part in optimised(model, image, goal))
        noise = adv - x[image]
        return {
            "adv": adv,
            "noise": noise,
            "length": float(noise.norm()),
            "probabilities": probabilities,
            "target": goal,
            "true": int(y[image]),
            "c": c,
        }

    def draw(fig: Figure) -> Update:
        left, middle, right = fig.axes
        show_image = moving_image(left, x.shape[1:])
        show_noise = moving_image(middle, x.shape[2:], signed=True)
        show_classes = moving_classes(right, names, "hatched: the target")

        def update(f: dict[str, Any]) -> None:
            show_image(f["adv"], f"c = {f['c']:g}")
            show_noise(f["noise"].mean(0), f"r, magnified; ‖r‖₂ = {f['length']:.2f}")
            show_classes(f["probabilities"], f["target"])

        return update

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        return (
            f"With c = {f['c']:g} the noise has length {f['length']:.2f}, and the model says {called(best, names)} "
            f"with {100 * f['probabilities'][best]:.0f} %; the target is {called(f['target'], names)}, true is "
            f"{called(f['true'], names)}."
        )

    labels = [called(k, names) for k in range(classes)]
    controls = {
        "model": widgets.Dropdown(options=list(models), description="model"),
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "target": widgets.Dropdown(options=labels, value=labels[(int(y[0]) + 1) % classes], description="target"),
        "c": widgets.SelectionSlider(options=NOISE_WEIGHTS, description="c"),
    }
    size = {"rows": 1, "columns": 3, "width": 2.5, "height": 2.5}
    return Demo("Optimised noise", controls, frame, draw, alt, size, {"c": 0.03}, handle="c", example="image")


def pgd_scrubber(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 0.1,
    steps: int = 40,
    names: Sequence[str] | None = None,
) -> Demo:
    """Show PGD on one image step by step: image, magnified change, the loss so far, class bars (chapter 03).

    A path is computed once for each model, image and start; the handle then only looks into it.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        eps: radius, pixel units. steps: of PGD. names: of the classes.
    """
    check_images(x, y)

    @cache
    def path(model: str, image: int, start: bool) -> tuple[Tensor, list[float], Tensor]:
        points, losses = [], []

        def keep(restart: int, step: int, adv: Tensor, loss: Tensor) -> None:
            points.append(adv[0])
            losses.append(float(loss[0]))

        one, label = x[image : image + 1], y[image : image + 1]
        generator = torch.Generator(x.device).manual_seed(0)
        pgd(models[model], one, label, eps, steps=steps, random_start=start, generator=generator, callback=keep)
        whole = torch.stack(points)
        return whole, losses, predict(models[model], whole).softmax(1)

    def frame(model: str, image: int, start: bool, step: int) -> dict[str, Any]:
        points, losses, probabilities = path(model, image, start)
        return {
            "adv": points[step],
            "change": points[step] - x[image],
            "losses": losses,
            "probabilities": probabilities[step],
            "true": int(y[image]),
            "step": step,
        }

    def draw(fig: Figure) -> Update:
        left, middle, curve, right = fig.axes
        show_image = moving_image(left, x.shape[1:])
        show_change = moving_image(middle, x.shape[2:], signed=True, limit=eps)
        show_classes = moving_classes(right, names)
        show_losses = moving_curve(curve, range(steps + 1))
        curve.set(xlabel="step")
        curve.set_title("loss", fontsize=9)

        def update(f: dict[str, Any]) -> None:
            show_image(f["adv"], f"step {f['step']} of {steps}, ε = {eps:g}")
            show_change(f["change"].mean(0), "change (full colour: ε)")
            show_losses(f["losses"], f["step"])
            show_classes(f["probabilities"], f["true"])

        return update

    def alt(f: dict[str, Any]) -> str:
        best = int(f["probabilities"].argmax())
        said, true = (str(k) if names is None else names[k] for k in (best, f["true"]))
        return (
            f"After step {f['step']} the loss is {f['losses'][f['step']]:.2f} and the model says {said} with "
            f"{100 * f['probabilities'][best]:.0f} %; true is {true}."
        )

    controls = {
        "model": widgets.Dropdown(options=list(models), description="model"),
        "image": widgets.IntSlider(0, min=0, max=len(x) - 1, description="image"),
        "start": widgets.Checkbox(True, description="random start"),
        "step": widgets.IntSlider(0, min=0, max=steps, description="step"),
    }
    size = {"rows": 1, "columns": 4, "width": 2.3, "height": 2.3}
    return Demo(
        "PGD step by step", controls, frame, draw, alt, size, {"step": steps // 4}, handle="step", example="image"
    )
