"""The state of a training: its history, all else that changes on the way, and a file to go on from after a kill."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from .models import load_state, save_state


@dataclass
class History:
    """What happened in each epoch of a fit, and whether Ctrl-C ended it."""

    rows: list[dict[str, float]] = field(default_factory=list)
    interrupted: bool = False

    def to_frame(self) -> pd.DataFrame:
        """Return one row per epoch.

        loss, train_accuracy (running means over the epoch), gradient_passes (how often an image was sent forward and
        back, for the weights or for an attack, per training image), seconds; with `validation` also clean_accuracy
        and, where a radius is known, pgd_accuracy.
        """
        return pd.DataFrame(self.rows)


@dataclass
class Run:
    """All that changes while a model is trained."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.OneCycleLR
    generator: torch.Generator
    history: History = field(default_factory=History)
    best: dict[str, Tensor] | None = None

    @classmethod
    def of(cls, model: nn.Module, lr: float, steps: int, seed: int) -> Run:
        """Start a training with Adam and a one-cycle learning rate."""
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
        return cls(model, optimizer, schedule, torch.Generator().manual_seed(seed))

    @property
    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs: tensors and plain values."""
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        streams = {"order": self.generator.get_state(), "global": torch.get_rng_state()}
        return parts | streams | {"rows": self.history.rows, "best": self.best}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on where another run was; None changes nothing."""
        if state is None:
            return
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["order"])
        torch.set_rng_state(state["global"])
        self.history.rows, self.best = state["rows"], state["best"]

    def scores(self) -> list[float]:
        """Return what each epoch is judged by: PGD accuracy, else clean accuracy, else 0."""
        return [row.get("pgd_accuracy", row.get("clean_accuracy", 0.0)) for row in self.history.rows]

    def end_epoch(self, row: dict[str, float], *, keep_best: bool) -> None:
        """Add the epoch's row to the history; keep its weights if it is the best one."""
        before = max(self.scores(), default=-1.0)
        self.history.rows.append(row)
        if keep_best and self.scores()[-1] > before:
            self.best = deepcopy(self.model.state_dict())

    def is_stale(self, patience: int | None) -> bool:
        """Tell whether the last `patience` epochs were no better than one before."""
        scores = self.scores()
        return patience is not None and bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience


class Checkpoint:
    """The state of one training on disk: written whole or not at all, removed when the training is finished.

    Args:
        path: the file; None keeps nothing.
        fingerprint: returns what stands for the training, since another one's state is not taken; asked if there is
            a path.
    """

    def __init__(self, path: Path | str | None, fingerprint: Callable[[], str]):
        self.path = None if path is None else Path(path)
        self.fingerprint = "" if path is None else fingerprint()

    def load(self) -> dict[str, Any] | None:
        """Return the state, or None if there is none; a file that is damaged or of another training is a warning.

        Raises:
            ValueError: a sound file that is no checkpoint, which the training would overwrite.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            state = load_state(self.path)
            if not isinstance(state, dict) or "fingerprint" not in state:
                state = None
            elif state.pop("fingerprint") != self.fingerprint:
                raise ValueError("other data, network or settings")
        except Exception as error:  # zip, pickle and torch each have their own error for a broken file
            warnings.warn(
                f"{self.path} is damaged or of another training ({error}): training starts anew.", stacklevel=3
            )
            return None
        if state is None:
            raise ValueError(
                f"{self.path} is no checkpoint of a training, which would overwrite it: name another file."
            )
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write the state; a place that cannot be written is a warning, since the training itself can go on."""
        if self.path is None:
            return
        try:
            save_state(state | {"fingerprint": self.fingerprint}, self.path)
        except OSError as error:
            warnings.warn(f"the training goes on without a checkpoint: {error}", stacklevel=3)

    def remove(self) -> None:
        """Remove the file, if there is one."""
        if self.path is not None and self.path.exists():
            self.path.unlink()
