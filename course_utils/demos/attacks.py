"""Attacks on one image: in one step (chapter 02), step by step (chapter 03), as little as possible (chapter 04)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import ipywidgets as widgets
import torch
from torch import Tensor, nn

from ..attacks.gradient_based import pgd
from ..attacks.gradients import input_gradient
from ..models.inference import predict
from .panels import Values, class_name, class_panel, image_panel, path_panel, top_class
from .widget import Demo, check_images, dropdown, eps_slider, int_slider


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

    def compute(model: str, image: int, eps: float) -> Values:
        one = x[image : image + 1]
        adv = (one + eps * sign(model, image)).clamp(0, 1)
        probabilities = predict(models[model], adv).softmax(1)[0]
        true = int(y[image])
        return {"adv": adv[0], "change": (adv - one)[0], "probabilities": probabilities, "true": true, "eps": eps}

    def alt(values: Values) -> str:
        top, true = top_class(values["probabilities"], names), class_name(values["true"], names)
        return f"At ε = {values['eps']:.3f} the model says {top}; true is {true}."

    panels = [
        image_panel(x.shape[1:], lambda values: (values["adv"], f"ε = {values['eps']:.3f}")),
        image_panel(x.shape[2:], lambda values: (values["change"].mean(0), "change, magnified"), signed=True),
        class_panel(names),
    ]
    controls = {"model": dropdown("model", models), "image": int_slider("image", len(x) - 1), "eps": eps_slider()}
    return Demo("FGSM on one image", controls, compute, panels, alt, {"eps": 0.1}, slider="eps", example="image")


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
    """Show the change δ that minimises c·‖δ‖² + cross-entropy(x + δ, target); the slider sets c (chapter 04).

    All positions of the slider are one batch of gradient descent, computed once for each model, image and target.

    Args:
        models: by the name shown. x: images (N, C, H, W) in [0, 1]. y: labels (N,).
        steps, lr: of the gradient descent. names: of the classes.
    """
    check_images(x, y)
    classes = predict(next(iter(models.values())), x[:1]).shape[1]
    labels = [class_name(k, names) for k in range(classes)]
    weights = torch.tensor(NOISE_WEIGHTS).to(x).view(-1, *[1] * (x.ndim - 1))

    @cache
    def optimised(model: str, image: int, target: int) -> tuple[Tensor, Tensor]:
        copies = x[image].expand(len(weights), *x.shape[1:])
        goal = y.new_full((len(weights),), target)
        noise = torch.zeros_like(copies)
        for _ in range(steps):
            gradient = 2 * weights * noise + input_gradient(models[model], copies + noise, goal)
            noise = (copies + noise - lr * gradient).clamp(0, 1) - copies
        adv = (copies + noise).clamp(0, 1)
        return adv, predict(models[model], adv).softmax(1)

    def compute(model: str, image: int, target: str, c: float) -> Values:
        goal, index = labels.index(target), NOISE_WEIGHTS.index(c)
        adv, probabilities = (part[index] for part in optimised(model, image, goal))
        noise, true = adv - x[image], int(y[image])
        values = {"adv": adv, "noise": noise, "length": float(noise.norm()), "probabilities": probabilities}
        return values | {"target": goal, "true": true, "c": c}

    def alt(values: Values) -> str:
        target, true = (class_name(values[which], names) for which in ("target", "true"))
        return (
            f"With c = {values['c']:g} the noise has length {values['length']:.2f}, and the model says "
            f"{top_class(values['probabilities'], names)}; the target is {target}, true is {true}."
        )

    def noise_and_length(values: Values) -> tuple[Tensor, str]:
        return values["noise"].mean(0), f"δ, magnified; ‖δ‖₂ = {values['length']:.2f}"

    panels = [
        image_panel(x.shape[1:], lambda values: (values["adv"], f"c = {values['c']:g}")),
        image_panel(x.shape[2:], noise_and_length, signed=True),
        class_panel(names, "hatched: the target", hatched="target"),
    ]
    controls = {
        "model": dropdown("model", models),
        "image": int_slider("image", len(x) - 1),
        "target": dropdown("target", labels, labels[(int(y[0]) + 1) % classes]),
        "c": widgets.SelectionSlider(options=NOISE_WEIGHTS, description="c"),
    }
    return Demo("Optimised noise", controls, compute, panels, alt, {"c": 0.03}, slider="c", example="image")


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

    The attack runs once for each model, image and start; the slider chooses one of its steps.

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
        stacked = torch.stack(points)
        return stacked, losses, predict(models[model], stacked).softmax(1)

    def compute(model: str, image: int, start: bool, step: int) -> Values:
        points, losses, probabilities = path(model, image, start)
        values = {"adv": points[step], "change": points[step] - x[image], "probabilities": probabilities[step]}
        return values | {"losses": losses, "true": int(y[image]), "step": step}

    def alt(values: Values) -> str:
        step, top = values["step"], top_class(values["probabilities"], names)
        return (
            f"After step {step} the loss is {values['losses'][step]:.2f} and the model says {top}; "
            f"true is {class_name(values['true'], names)}."
        )

    def change(values: Values) -> tuple[Tensor, str]:
        return values["change"].mean(0), "change (full colour: ε)"

    panels = [
        image_panel(x.shape[1:], lambda values: (values["adv"], f"step {values['step']} of {steps}, ε = {eps:g}")),
        image_panel(x.shape[2:], change, signed=True, limit=eps),
        path_panel(range(steps + 1), lambda values: (values["losses"], values["step"]), xlabel="step", title="loss"),
        class_panel(names),
    ]
    controls = {
        "model": dropdown("model", models),
        "image": int_slider("image", len(x) - 1),
        "start": widgets.Checkbox(True, description="random start"),
        "step": int_slider("step", steps),
    }
    static_state, layout = {"step": steps // 4}, {"width": 2.3, "height": 2.3}
    return Demo("PGD step by step", controls, compute, panels, alt, static_state, "step", "image", layout)
