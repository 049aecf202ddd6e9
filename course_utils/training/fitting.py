"""The fit loop of all networks, and the augmentation of digits."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..core.validation import check_batch, check_count, check_images, checked_labels
from ..evaluation.metrics import accuracy, accuracy_under_attack
from ..models import layers
from ..models.inference import checked_logits, frozen_eval
from .adversary import Adversary, Attack, FreeAdversary, Trades, trades_loss
from .history import History, Run

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
            `FreeAdversary` takes several steps on each batch; `Trades` brings its own loss, without mix and branch.
        mix: weight of the adversarial images' loss; the clean ones have the rest. Accuracy counts the adversarial.
        branch: of dual batch norm, through which adversarial images are made and trained on; clean ones take the main.
        validation: images and labels (200 are enough) whose clean and PGD accuracy are measured after each epoch,
            through the main branch.
        validation_eps: radius of these 10 steps of PGD, by default the attack's own; without either there is no PGD.
        patience: stop after so many epochs without a better PGD accuracy (without PGD: clean accuracy), and keep the
            weights of the best epoch.
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
    objective = _Objective(loss, attack.anew() if isinstance(attack, FreeAdversary) else attack, mix, branch)
    check = partial(_measure, validation=validation, eps=validation_eps, attack=attack, seed=seed)
    steps = epochs * len(_batches(torch.arange(len(x)), batch_size)) * objective.replays
    run = Run.of(model, lr, steps, seed)
    devices = [x.device] if x.device.type == "cuda" else []
    # A notebook gets several messages for each redraw, and a client that does not read them loses all beyond 1,000
    bar = tqdm(total=steps, disable=not progress, unit="step", mininterval=1)
    with torch.random.fork_rng(devices), bar:
        with layers.branch(model, branch), frozen_eval(model), torch.no_grad():
            checked_logits(model, x[:2], y)  # refused before anything is learned
        torch.manual_seed(seed)  # dropout and random starts draw from the global stream
        try:
            while len(run.history.rows) < epochs and not run.is_stale(patience):
                row = _train_epoch(run, objective, x, y, batch_size, augmented, bar)
                run.end_epoch(row | check(model), keep_best=patience is not None)
                bar.set_postfix(_readable(run.history.rows[-1]))
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
        return replace(self, attack=self.attack.at(progress)) if isinstance(self.attack, Adversary | Trades) else self

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.attack is None:
            logits = model(x)
            return self.loss(logits, y), logits
        if isinstance(self.attack, Trades):
            adv, clean = self.attack(model, x, y), model(x)
            logits = model(adv)
            return trades_loss(clean, logits, y, self.attack.beta), logits
        with layers.branch(model, self.branch):
            logits = model(self.attack(model, x, y))
        value = self.loss(logits, y)
        if self.mix < 1:
            with layers.branch(model, "main"):
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
        row["pgd_accuracy"] = accuracy_under_attack(model, *validation, eps, steps=10, norm=norm, generator=generator)
    return row
