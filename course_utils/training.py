"""Train the course's networks: one fit loop, its history, and the recipes of networks and of adversarial training."""

from __future__ import annotations

import inspect
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import models
from .adversaries import ATTACKS, Adversary, Attack, FreeAdversary
from .attacks import frozen
from .attacks.gradients import checked_logits
from .attacks.inputs import check_batch, check_count, check_images, checked_labels
from .checkpoints import Checkpoint, History, Run
from .evaluation import accuracy, robust_accuracy
from .names import nearest

__all__ = [
    "ADVERSARIAL_RECIPES",
    "ATTACKS",
    "RECIPES",
    "Adversary",
    "FreeAdversary",
    "History",
    "Recipe",
    "adversarial_fit",
    "augment",
    "fit",
    "trained",
]

Loss = Callable[[Tensor, Tensor], Tensor]


def augment(x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return each image (N, C, H, W) turned by up to 12°, scaled by up to 10 % and moved by up to 6 % of its width.

    Raises:
        ValueError, TypeError: what are no images in [0, 1], which the result is clipped to.

    >>> augment(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 1, 28, 28])
    """
    check_batch(x)
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


def fit(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epochs: int,
    lr: float = 2e-3,
    batch_size: int = 128,
    augmented: bool = False,
    loss: Loss = F.cross_entropy,
    attack: Attack | None = None,
    mix: float = 1.0,
    branch: str = "main",
    validation: tuple[Tensor, Tensor] | None = None,
    validation_eps: float | None = None,
    patience: int | None = None,
    checkpoint: Path | str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train a model in place with Adam and a one-cycle learning rate; leave it in eval mode.

    Ctrl-C ends the training with a warning: the model keeps what it has learned, the history says `interrupted`.

    Args:
        model: maps x (N, C, H, W) to logits. x, y: images in [0, 1] and labels (N,).
        epochs: passes over the data. lr: highest learning rate. augmented: see `augment`.
        batch_size: images of a step. A last batch of one image, which batch norm refuses, joins the one before.
        loss: of logits (N, K) and labels (N,).
        attack: called as attack(model, x, y) on every batch, for example an `Adversary`; None for clean training. A
            `FreeAdversary` takes several steps on each batch.
        mix: weight of the adversarial images' loss; the clean ones have the rest. Accuracy counts the adversarial.
        branch: of dual batch norm, through which adversarial images are made and trained on; clean ones take the main.
        validation: images and labels (200 are enough) whose clean and PGD accuracy are measured after each epoch,
            through the main branch.
        validation_eps: radius of these 10 steps of PGD, by default the attack's own; without either there is no PGD.
        patience: stop after so many epochs without a better PGD accuracy (without PGD: clean accuracy), and keep the
            weights of the best epoch.
        checkpoint: a file, written after every epoch, from which the same call goes on after it was killed: on a CPU
            to the same weights. Removed at the end.
        seed: of order, augmentation, dropout and random starts.
        progress: show a bar with the time left.

    Raises:
        ValueError, TypeError: no data, images or labels that an attack would refuse, also if they are to be augmented
            and are not in [0, 1]; a model without logits (N, K) for them, a count below 1, a mix outside [0, 1], a PGD
            check or patience without validation, or a branch that the model does not have.
        FloatingPointError: the loss is no longer finite.
    """
    y = _checked_data(x, y, augmented)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    _check_validation(validation, validation_eps, patience)
    if not 0 <= mix <= 1:
        raise ValueError(f"mix is the share of the adversarial loss, between 0 and 1; got {mix}.")
    settings = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "augmented": augmented, "loss": _name(loss)}
    settings |= {"attack": _name(attack), "mix": mix, "branch": branch, "validation_eps": validation_eps}
    settings |= {"patience": patience, "seed": seed}
    file = Checkpoint(checkpoint, lambda: models.fingerprint([str(model), settings], (x, y, *(validation or ()))))
    objective = _Objective(loss, attack, mix, branch)
    check = partial(_measure, validation=validation, eps=validation_eps, attack=attack, seed=seed)
    steps = epochs * len(_batches(torch.arange(len(x)), batch_size)) * objective.replays
    run = Run.of(model, lr, steps, seed)
    devices = [x.device] if x.device.type == "cuda" else []
    # A notebook gets several messages for each redraw, and a client that does not read them loses all beyond 1,000
    bar = tqdm(total=steps, disable=not progress, unit="step", mininterval=1)
    with torch.random.fork_rng(devices), bar:
        with models.branch(model, branch), frozen(model), torch.no_grad():
            checked_logits(model, x[:2], y)  # refused before anything is learned
        torch.manual_seed(seed)  # dropout and random starts draw from the global stream
        run.restore(file.load())
        bar.update(run.schedule.last_epoch)
        try:
            while len(run.history.rows) < epochs and not run.is_stale(patience):
                row = _train_epoch(run, objective, x, y, batch_size, augmented, bar)
                run.end_epoch(row | check(model), keep_best=patience is not None)
                file.save(run.state())
                bar.set_postfix(_readable(run.history.rows[-1]))
            file.remove()
        except KeyboardInterrupt:
            run.history.interrupted = True
            warnings.warn(
                f"interrupted in epoch {len(run.history.rows) + 1} of {epochs}: the model keeps what it has learned.",
                stacklevel=2,
            )
        finally:
            run.optimizer.zero_grad()
            model.eval()
    if run.best is not None:
        model.load_state_dict(run.best)
    return run.history


def _checked_data(x: Tensor, y: Tensor, augmented: bool) -> Tensor:
    """Return one int64 label for each of at least one image, or refuse."""
    if augmented:
        check_batch(x)
    check_images(x, None)
    if len(x) == 0:
        raise ValueError("expected at least one image with its label, got none.")
    return checked_labels(y, x)


def _check_validation(validation: tuple[Tensor, Tensor] | None, eps: float | None, patience: int | None) -> None:
    if validation is None:
        if eps is not None or patience is not None:
            raise ValueError("validation_eps and patience need validation=(x, y): images that are not trained on.")
        return
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation must be a pair (images, labels), got a {type(validation).__name__}.")
    x, y = validation
    check_images(x, None, "the images of validation")
    if len(x) == 0 or len(x) != len(y) or (eps is not None and eps < 0) or (patience is not None and patience < 1):
        raise ValueError(
            "expected validation images with one label each, validation_eps of at least 0 and patience of at least 1; "
            f"got {len(x)} images, {len(y)} labels, validation_eps={eps}, patience={patience}."
        )
    checked_labels(y, x)


def _name(part: Any) -> Any:
    """Return JSON values by which a loss or an attack is known again."""
    return asdict(part) if is_dataclass(part) else getattr(part, "__qualname__", type(part).__qualname__)


def _batches(order: Tensor, size: int) -> list[Tensor]:
    *batches, last = order.split(size)
    if batches and len(last) == 1 < size:
        return [*batches[:-1], torch.cat([batches[-1], last])]
    return [*batches, last]


def _readable(row: dict[str, float]) -> dict[str, str]:
    return {name: f"{row[name]:.3f}" for name in ("loss", "clean_accuracy", "pgd_accuracy") if name in row}


@dataclass(frozen=True)
class _Objective:
    """What the training makes small: the loss on adversarial images, on clean ones, or on both."""

    loss: Loss
    attack: Attack | None
    mix: float
    branch: str

    @property
    def replays(self) -> int:
        return getattr(self.attack, "replays", 1)

    def at(self, progress: float) -> _Objective:
        return replace(self, attack=self.attack.at(progress)) if isinstance(self.attack, Adversary) else self

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.attack is None:
            logits = model(x)
            return self.loss(logits, y), logits
        with models.branch(model, self.branch):
            logits = model(self.attack(model, x, y))
        value = self.loss(logits, y)
        if self.mix < 1:
            with models.branch(model, "main"):
                # A clone: some models normalise their input in place, and a replay needs it again.
                value = self.mix * value + (1 - self.mix) * self.loss(model(x.clone()), y)
        return value, logits


def _train_epoch(
    run: Run, objective: _Objective, x: Tensor, y: Tensor, batch_size: int, augmented: bool, bar: tqdm
) -> dict[str, float]:
    model, schedule = run.model, run.schedule
    start, total, hits, seen = time.perf_counter(), 0.0, 0, 0
    model.train()
    with _counted_passes(model) as passes:
        for index in _batches(torch.randperm(len(x), generator=run.generator), batch_size):
            images, labels = x[index], y[index]
            images = augment(images, generator=run.generator) if augmented else images
            for _ in range(objective.replays):
                value, logits = objective.at(schedule.last_epoch / schedule.total_steps)(model, images, labels)
                if not value.isfinite():
                    lr = run.optimizer.param_groups[0]["max_lr"]
                    raise FloatingPointError(f"the loss became {value.item()}: try a smaller lr than {lr:g}.")
                run.optimizer.zero_grad()
                value.backward()
                run.optimizer.step()
                schedule.step()
                total += value.item() * len(index)
                hits += int((logits.argmax(1) == labels).sum())
                seen += len(index)
                bar.update()
    means = {"loss": total / seen, "train_accuracy": hits / seen}
    return means | {"gradient_passes": passes["images"] / len(x), "seconds": time.perf_counter() - start}


@contextmanager
def _counted_passes(model: nn.Module) -> Iterator[Counter]:
    """Count the images whose loss is sent back through the model."""
    count: Counter = Counter()

    def watch(_module: nn.Module, _inputs: tuple[Tensor], logits: Tensor) -> None:
        if logits.requires_grad:
            logits.register_hook(lambda gradient: count.update(images=len(gradient)))

    handle = model.register_forward_hook(watch)
    try:
        yield count
    finally:
        handle.remove()


def _measure(
    model: nn.Module,
    validation: tuple[Tensor, Tensor] | None,
    eps: float | None,
    attack: Attack | None,
    seed: int,
) -> dict[str, float]:
    """Return clean and PGD accuracy; the random starts are the same in every epoch."""
    if validation is None:
        return {}
    row = {"clean_accuracy": accuracy(model, *validation)}
    eps = getattr(attack, "eps", None) if eps is None else eps
    if eps is not None:
        norm = getattr(attack, "options", {}).get("norm", "linf")
        generator = torch.Generator(validation[0].device).manual_seed(seed)
        row["pgd_accuracy"] = robust_accuracy(model, *validation, eps, steps=10, norm=norm, generator=generator)
    return row


_DIGITS = {"lr": 3e-3, "batch_size": 64, "augmented": True}  # with the epochs: for the small CNN and 4,000 digits
_HALVES = {"mix": 0.5, "branch": "auxiliary", "epochs": 6}

# What `fit` is told, for a given radius
ADVERSARIAL_RECIPES: dict[str, Callable[[float], dict[str, Any]]] = {
    "fgsm_mix": lambda eps: _DIGITS | {"attack": Adversary("fgsm", eps), "mix": 0.5, "epochs": 6},
    "fgsm_rs": lambda eps: _DIGITS | {"attack": Adversary("fgsm_rs", eps, warmup=0.5), "epochs": 15},
    "free": lambda eps: _DIGITS | {"attack": FreeAdversary(eps, replays=4), "epochs": 6},
    "pgd": lambda eps: _DIGITS | {"attack": Adversary("pgd", eps, {"steps": 3}, warmup=0.5), "epochs": 10},
    "advprop": lambda eps: _DIGITS | _HALVES | {"attack": Adversary("pgd", eps, {"steps": 3})},
}


def adversarial_fit(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, recipe: str = "pgd", **options: Any
) -> History:
    """Train a model in place on adversarial images, by a named recipe.

    "fgsm_mix": half the loss on clean images, half on FGSM's (Goodfellow et al. 2015). "fgsm_rs": one step from
    a random start (Wong et al. 2020). "free": weights and perturbation share each gradient (Shafahi et al. 2019).
    "pgd": a few steps (Madry et al. 2018). "advprop": clean images through the main branch of dual batch norm,
    adversarial ones through the auxiliary (Xie et al. 2020).

    Args:
        model, x, y: as in `fit`. eps: radius of the attack, pixel units. recipe: one of the names above.
        options: of `fit`; they go before the recipe's own.

    Raises:
        ValueError: unknown recipe, "advprop" for a network without dual batch norm, or as `fit`.

    >>> images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    >>> history = adversarial_fit(models.mlp(), images, labels, eps=0.1, recipe="fgsm_mix", epochs=1, progress=False)
    >>> history.to_frame().gradient_passes.tolist()
    [3.0]
    """
    if recipe not in ADVERSARIAL_RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}. {nearest(recipe, ADVERSARIAL_RECIPES)}")
    return fit(model, x, y, **ADVERSARIAL_RECIPES[recipe](eps) | options)


@dataclass(frozen=True)
class Recipe:
    """How a named network is built from its training data, and trained."""

    build: Callable[[Tensor, Tensor], nn.Module]
    epochs: int
    lr: float
    batch_size: int = 128
    augmented: bool = False
    loss: Loss = F.cross_entropy


RECIPES = {
    "softmax": Recipe(lambda x, y: models.softmax_regression(pixels=x.shape[1:].numel()), epochs=20, lr=4e-3),
    "mlp": Recipe(lambda x, y: models.mlp(pixels=x.shape[1:].numel()), epochs=30, lr=3e-3, augmented=True),
    "cnn": Recipe(lambda x, y: models.small_cnn(), epochs=6, lr=4e-3, batch_size=64, augmented=True),
    "cnn_bn": Recipe(lambda x, y: models.small_cnn(batch_norm=True), epochs=6, lr=4e-3, batch_size=64, augmented=True),
    "cnn_dual_bn": Recipe(
        lambda x, y: models.dual_batch_norm(models.small_cnn(batch_norm=True)),
        epochs=6,
        lr=4e-3,
        batch_size=64,
        augmented=True,
    ),
    "rbf": Recipe(
        lambda x, y: models.RBFNetwork(models.class_means(x, y)), epochs=30, lr=2e-2, loss=models.independent_loss
    ),
}


def trained(
    name: str,
    x: Tensor,
    y: Tensor,
    *,
    attack: Adversary | FreeAdversary | None = None,
    mix: float = 1.0,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> nn.Module:
    """Return the network `name` trained on (x, y): from the cache, or trained now and kept there.

    Args:
        name: of `RECIPES`: "softmax", "mlp", "cnn", "cnn_bn", "cnn_dual_bn" or "rbf".
        x, y: training images in [0, 1] and labels.
        attack, mix: see `fit`. seed: of the starting weights and of the training.
        options: of `fit`, but for loss; they go before the recipe's own, such as epochs=15. An adversarial recipe is
            trained("cnn", x, y, **ADVERSARIAL_RECIPES["pgd"](0.2)).

    Raises:
        ValueError: unknown name, or as `fit`. TypeError: an option that no file can be named after, such as a loss or
            an attack that is a function: train with `fit` then. KeyboardInterrupt: Ctrl-C; half a training is not kept.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown network {name!r}. {nearest(name, RECIPES)}")
    recipe = RECIPES[name]
    _check_options(name, attack, options)
    aside = {key: options.pop(key) for key in ("validation", "checkpoint") if key in options}
    y = _checked_data(x, y, augmented=False)
    own = {key: getattr(recipe, key) for key in ("epochs", "lr", "batch_size", "augmented")}
    settings = own | {"seed": seed} | options
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = recipe.build(x.cpu(), y.cpu()).to(x.device)

    def train(model: nn.Module) -> None:
        history = fit(model, x, y, loss=recipe.loss, attack=attack, mix=mix, progress=progress, **settings, **aside)
        if history.interrupted:
            raise KeyboardInterrupt

    known = settings | {"loss": recipe.loss.__name__} | ({"attack": asdict(attack), "mix": mix} if attack else {})
    data = (x, y, *(aside.get("validation") or ()))
    return models.load_or_train(model, train, name=name, data=data, recipe=known)


OPTIONS = {name for name, option in inspect.signature(fit).parameters.items() if option.kind is option.KEYWORD_ONLY}


def _check_options(name: str, attack: Adversary | FreeAdversary | None, options: dict[str, Any]) -> None:
    """Refuse what `fit` does not take, and functions: a trained network is found again by plain values."""
    cure = "build the network, for example models.small_cnn(), and train it with training.fit"
    if "loss" in options:
        raise TypeError(f"{name!r} is kept with the loss of its recipe, a function names no file: for another {cure}.")
    if not (attack is None or is_dataclass(attack)):
        raise TypeError(f"attack must be an Adversary or a FreeAdversary, got a {type(attack).__name__}: {cure}.")
    unknown = sorted(options.keys() - OPTIONS)
    if unknown:
        raise TypeError(f"trained has no option {unknown[0]!r}. {nearest(unknown[0], OPTIONS)}")
    _check_validation(options.get("validation"), options.get("validation_eps"), options.get("patience"))
