"""One attack on one network: what it leaves, how far it goes, what it costs; and the files in which that is kept."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.core import seed_everything
from course_utils.core.files import write_text

from .contestants import Attack, bare_passes
from .networks import Task

TOLERANCE = 1e-5  # beyond ball and box: rounding of the pixels
RUN = f"{int(time.time())}-{os.getpid()}"  # this process


@dataclass
class Cell:
    """One attack on one network: `correct` and `distance` (l2) of each image; passes forward and backward for each
    image; seconds of the processor and of the clock; what the attack warned of; and the process that measured it.
    """

    network: str
    norm: str
    eps: float
    group: str
    attack: str
    correct: list[int]
    distance: list[float]
    forward: float
    backward: float
    seconds: float
    wall: float
    said: list[str]
    run: str
    key: str = ""


class Counted(nn.Module):
    """A network that counts the images which are sent through it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.count = model, Counter()

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) to (N, K)."""
        self.count["forward"] += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.count.update(backward=len(gradient)))
        return logits


def remains_correct(task: Task, adv: Tensor, eps: float | None, norm: str) -> Tensor:
    """Return which images (N,) are right before and after; a change that leaves box or ball (if any) fools nobody."""
    with torch.no_grad():
        right, still = (torch.cat([task.model(p).argmax(1) for p in v.split(250)]) == task.y for v in (task.x, adv))
    change = (adv - task.x).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    inside = (adv.flatten(1) - 0.5).abs().amax(1) <= 0.5 + TOLERANCE
    return right & (still | ~inside | (size > (torch.inf if eps is None else eps) + TOLERANCE))


def attacked(task: Task, attack: Attack, network: str, group: str, norm: str, name: str) -> dict[str, Any]:
    """Attack all images of a task once, and return the values of a `Cell`."""
    model, eps, n = Counted(task.model).eval(), task.radii[norm], len(task.x)
    seed_everything(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seconds, wall = time.process_time(), time.perf_counter()
        adv = attack(model, task.x, task.y, eps, norm).detach()
        seconds, wall = time.process_time() - seconds, time.perf_counter() - wall
    correct = remains_correct(task, adv, eps if group == "ensemble" else None, norm).int().tolist()
    distance = (adv - task.x).flatten(1).norm(dim=1).tolist()
    passes = (model.count["forward"] / n, model.count["backward"] / n)
    said = sorted({str(w.message) for w in caught})
    return asdict(Cell(network, norm, eps, group, name, correct, distance, *passes, seconds, wall, said, RUN))


def pgd_overhead(task: Task, attacks: Mapping[str, Attack], rounds: int) -> dict[str, list[float]]:
    """Return each attack's processor time over that of as many bare passes, for each round, in which all take turns."""

    def seconds(attack: Attack, n: int | None = None) -> float:
        begun = time.process_time()
        attack(task.model, task.x[:n], task.y[:n], task.radii["linf"], "linf")
        return time.process_time() - begun

    ratios: dict[str, list[float]] = {name: [] for name in attacks}
    for attack in attacks.values():
        seconds(attack, 2)  # imports and first calls
    for _ in range(rounds):
        bare = seconds(bare_passes)
        for name, attack in attacks.items():
            ratios[name].append(seconds(attack) / bare)
    return ratios


def key_of(task: Task, *settings: Any) -> str:
    """Return what stands for weights, images and settings: whoever changes one of them measures anew."""
    digest = hashlib.sha256(json.dumps([*settings, torch.__version__, str(task.model)]).encode())
    for tensor in (task.x, task.y, *task.model.state_dict().values()):
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def resumed(path: Path, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what the file keeps under this key; if nothing, or half of it, compute it and write it at once."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept
    except (OSError, ValueError, TypeError, KeyError):
        pass
    made = compute() | {"key": key}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(made))
    return made
