"""Train the course's networks: one fit loop, its history, and the recipe of each named network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import attacks, models
from .names import nearest


@dataclass
class History:
    """What happened in each epoch of a fit."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per epoch: loss, train_accuracy (both running means over the epoch), seconds."""
        return pd.DataFrame(self.rows)


def augment(x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return each image (N, C, H, W) turned by up to 12°, scaled by up to 10 % and moved by up to 6 % of its width.

    >>> augment(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """
    angle, scale, right, down = 2 * torch.rand(4, len(x), generator=generator) - 1
    angle, scale = 0.21 * angle, 1 + 0.1 * scale
    rows = (
        scale * angle.cos(),
        -scale * angle.sin(),
        0.12 * right,
        scale * angle.sin(),
        scale * angle.cos(),
        0.12 * down,
    )
    theta = torch.stack(rows, dim=1).view(-1, 2, 3).to(x)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


def _noise(model: nn.Module, x: Tensor, y: Tensor, eps: float, **options: Any) -> Tensor:
    return attacks.project(attacks.random_in_ball(x, eps, **options), x, eps, **options)


Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
ATTACKS = {"noise": _noise, "fgsm": attacks.fgsm, "bim": attacks.bim, "pgd": attacks.pgd}


@dataclass(frozen=True)
class Adversary:
    """Who changes the training images: an attack on the network as it is at that moment.

    Args:
        attack: "noise", "fgsm", "bim" or "pgd". eps: its radius, pixel units.
        options: of the attack, such as {"steps": 7}.

    Raises:
        ValueError: unknown attack.

    >>> images = torch.rand(2, 1, 28, 28)
    >>> Adversary("pgd", 0.1, {"steps": 2})(models.mlp(), images, torch.tensor([3, 8])).shape
    torch.Size([2, 1, 28, 28])
    """

    attack: str
    eps: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.attack not in ATTACKS:
            raise ValueError(f"unknown attack {self.attack!r}. {nearest(self.attack, ATTACKS)}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return adversarial images like x."""
        return ATTACKS[self.attack](model, x, y, self.eps, **self.options)


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    lr: float = 2e-3,
    batch_size: int = 128,
    augmented: bool = False,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    attack: Attack | None = None,
    mix: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train a model in place with Adam and a one-cycle learning rate; leave it in eval mode.

    Args:
        model: maps x (N, C, H, W) to logits. x, y: images in [0, 1] and labels (N,).
        epochs: passes over the data. lr: highest learning rate. augmented: see `augment`.
        loss: of logits (N, K) and labels (N,).
        attack: called as attack(model, x, y) on every batch, for example an `Adversary`; None for clean training.
        mix: weight of the adversarial images' loss; the clean ones have the rest. Accuracy counts the adversarial.
        seed: of order, augmentation, dropout and random starts.
        progress: show a bar with the time left.

    Raises:
        ValueError: no data, labels that do not match, or a count below 1.
        FloatingPointError: the loss is no longer finite.
    """
    if len(x) == 0 or len(x) != len(y) or epochs < 1 or batch_size < 1:
        raise ValueError(
            f"expected images with one label each, epochs and batch_size of at least 1; got {len(x)} images, "
            f"{len(y)} labels, epochs={epochs}, batch_size={batch_size}."
        )
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is the share of the adversarial loss, between 0 and 1; got {mix}.")
    history, generator = History(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    batches = -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * batches)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), tqdm(total=epochs * batches, disable=not progress, unit="step") as bar:
        torch.manual_seed(seed)  # dropout draws from the global stream
        model.train()
        for _ in range(epochs):
            start, total, hits = time.perf_counter(), 0.0, 0
            for index in torch.randperm(len(x), generator=generator).split(batch_size):
                images, labels = x[index], y[index]
                images = augment(images, generator=generator) if augmented else images
                value, logits = _loss_and_logits(model, images, labels, loss, attack, mix)
                if not value.isfinite():
                    raise FloatingPointError(f"the loss became {value.item()}: try a smaller lr than {lr:g}.")
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
                total += value.item() * len(index)
                hits += int((logits.argmax(1) == labels).sum())
                bar.update()
            row = {"loss": total / len(x), "train_accuracy": hits / len(x), "seconds": time.perf_counter() - start}
            history.rows.append(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}", accuracy=f"{row['train_accuracy']:.3f}")
    optimizer.zero_grad()
    model.eval()
    return history


def _loss_and_logits(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    attack: Attack | None,
    mix: float,
) -> tuple[Tensor, Tensor]:
    logits = model(x if attack is None else attack(model, x, y))
    value = loss(logits, y)
    if attack is not None and mix < 1:
        value = mix * value + (1 - mix) * loss(model(x), y)
    return value, logits


@dataclass(frozen=True)
class Recipe:
    """How a named network is built from its training data, and trained."""

    build: Callable[[Tensor, Tensor], nn.Module]
    epochs: int
    lr: float
    batch_size: int = 128
    augmented: bool = False
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy


RECIPES = {
    "softmax": Recipe(lambda x, y: models.softmax_regression(pixels=x.shape[1:].numel()), epochs=20, lr=4e-3),
    "mlp": Recipe(lambda x, y: models.mlp(pixels=x.shape[1:].numel()), epochs=30, lr=3e-3, augmented=True),
    "cnn": Recipe(lambda x, y: models.small_cnn(), epochs=6, lr=4e-3, batch_size=64, augmented=True),
    "rbf": Recipe(
        lambda x, y: models.RBFNetwork(models.class_means(x, y)), epochs=30, lr=2e-2, loss=models.independent_loss
    ),
}


def trained(
    name: str,
    x: Tensor,
    y: Tensor,
    *,
    attack: Adversary | None = None,
    mix: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """Return the network `name` trained on (x, y): from the cache, or trained now and kept there.

    Args:
        name: "softmax", "mlp", "cnn" or "rbf". x, y: training images in [0, 1] and labels.
        attack, mix: see `fit`. seed: of the starting weights and of the training.

    Raises:
        ValueError: unknown name, or as `fit`.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown network {name!r}. {nearest(name, RECIPES)}")
    recipe = RECIPES[name]
    settings = {name: getattr(recipe, name) for name in ("epochs", "lr", "batch_size", "augmented")} | {"seed": seed}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = recipe.build(x.cpu(), y.cpu()).to(x.device)
    train = partial(fit, x=x, y=y, loss=recipe.loss, attack=attack, mix=mix, progress=progress, **settings)
    known = settings | {"loss": recipe.loss.__name__} | ({"attack": asdict(attack), "mix": mix} if attack else {})
    return models.load_or_train(model, train, name=name, data=(x, y), recipe=known)
