"""What a training has measured, and what changes while it goes on."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn


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
