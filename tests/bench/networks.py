"""What is attacked: digit networks of the course, each trained in another way, and a classifier of photographs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.data import load_images, load_photos, preprocess
from course_utils.models import load_classifier, predict, small_cnn
from course_utils.training import ADVERSARIAL_RECIPES, fit, load_or_train, train_all

EPS = 0.2  # of the trainings, and of the attacks on what comes out of them
ROBUST, STANDARD, PHOTOS = {"linf": EPS, "l2": 1.5}, {"linf": 0.1, "l2": 1.0}, {"linf": 0.5 / 255, "l2": 0.25}


@dataclass(frozen=True)
class Task:
    """A network in eval mode, the images to attack with their labels, and the radius in each norm."""

    model: nn.Module
    x: Tensor
    y: Tensor
    radii: Mapping[str, float]


class Scaled(nn.Module):
    """A network whose logits are multiplied: the softmax saturates, and gradients of the cross-entropy become zero."""

    def __init__(self, model: nn.Module, scale: float):
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K)."""
        return self.scale * self.model(x)


def output_bounds(network: nn.Sequential, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the logits are at least and at most (N, K), for images (N, ...) anywhere between low and high.

    Gowal et al., "On the effectiveness of interval bound propagation", 2018.
    """
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            centre, radius = layer((low + high) / 2), (high - low) / 2
            size = layer.weight.abs()
            if isinstance(layer, nn.Linear):
                radius = F.linear(radius, size)
            else:
                radius = F.conv2d(radius, size, stride=layer.stride, padding=layer.padding)
            low, high = centre - radius, centre + radius
        else:  # normalisation, ReLU and the like never decrease
            low, high = layer(low), layer(high)
    return low, high


class Bounded(nn.Module):
    """A network that in training returns its logits, their lower and their upper bounds, (N, 3·K).

    From 10 to 60 % of the steps the radius grows, and the loss moves from the logits to the bounds.
    """

    def __init__(self, network: nn.Sequential, eps: float, steps: int):
        super().__init__()
        self.network, self.eps, self.steps, self.done = network, eps, steps, 0

    @property
    def share(self) -> float:
        """How far the radius has grown, from 0 to 1."""
        return min(1.0, max(0.0, (self.done / self.steps - 0.1) / 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 3·K) in training, else to (N, K)."""
        if not self.training:
            return self.network(x)
        self.done += 1
        radius = self.eps * self.share
        low, high = output_bounds(self.network, (x - radius).clamp(0, 1), (x + radius).clamp(0, 1))
        return torch.cat([self.network(x), low, high], dim=1)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean loss of the logits, and of the worst logits that the bounds admit."""
        logits, low, high = outputs.chunk(3, dim=1)
        worst = torch.where(F.one_hot(y, logits.shape[1]).bool(), low, high)
        return (1 - self.share) * F.cross_entropy(logits, y) + self.share * F.cross_entropy(worst, y)


def interval_trained(x: Tensor, y: Tensor) -> nn.Module:
    """Return a small CNN trained with interval bounds, from the cache if it was trained before."""
    options = {"epochs": 20, "lr": 3e-3, "batch_size": 64, "augmented": True}

    def train(network: nn.Sequential) -> None:
        bounded = Bounded(network, EPS, options["epochs"] * math.ceil(len(x) / options["batch_size"]))
        fit(bounded, x, y, loss=bounded.loss, progress=False, **options)

    network, recipe = small_cnn(width=8, dropout=0.0), options | {"eps": EPS, "radius": "10 to 60 %"}
    return load_or_train(network, train, name="bench_interval", data=(x, y), recipe=recipe)


RECIPES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "standard": lambda x, y: {},
    "fgsm_rs": lambda x, y: ADVERSARIAL_RECIPES["fgsm_rs"](EPS),
    "pgd": lambda x, y: ADVERSARIAL_RECIPES["pgd"](EPS),
    "free": lambda x, y: ADVERSARIAL_RECIPES["free"](EPS),
    "interval": lambda x, y: lambda: interval_trained(x, y),
}
MASKED, PHOTOGRAPHS = "masked", "photos"  # logits of "pgd" × 50; EfficientNet-Lite
NAMES = (*RECIPES, MASKED, PHOTOGRAPHS)


def tasks(names: tuple[str, ...], images: int) -> dict[str, Task]:
    """Return what these names stand for; networks are trained if the cache has none.

    Args:
        names: of `NAMES`. images: digits of the test set to attack, at most 1,000; there are six photographs.
    """
    trained = {name: RECIPES[name] for name in RECIPES if name in names or (name == "pgd" and MASKED in names)}
    made = {}
    if trained:
        x, y = load_images("mnist5k")
        attacked = load_images("mnist5k", "test", n=images)
        recipes = {name: recipe(x, y) for name, recipe in trained.items()}
        models = train_all(recipes, x, y, network="cnn", workers=1)
        made = {name: Task(models[name], *attacked, STANDARD if name == "standard" else ROBUST) for name in models}
        if "pgd" in models:
            made[MASKED] = Task(Scaled(models["pgd"], 50).eval(), *attacked, ROBUST)
    if PHOTOGRAPHS in names:
        model, photos = load_classifier(), preprocess(load_photos())
        made[PHOTOGRAPHS] = Task(model, photos, predict(model, photos).argmax(1), PHOTOS)  # there is no other label
    for task in made.values():  # foolbox and ART would otherwise compute the gradients of the weights, too
        task.model.requires_grad_(False)
    return {name: made[name] for name in names}
