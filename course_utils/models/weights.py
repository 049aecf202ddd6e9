"""Files of weights: tensors and plain values, written whole, checked when they are read, and never run as code."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.files import atomic_write


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state dict to `path`, whole or not at all.

    Raises:
        OSError: the folder cannot be written; the message says what to do.
    """
    # Through a Python file: torch's own writer reports a full disk as a RuntimeError.
    with atomic_write(Path(path)) as part, part.open("wb") as file:
        torch.save(model.state_dict(), file)


def load_state(path: Path) -> dict[str, Any]:
    """Read a file of weights: what `save_weights` wrote, or any other.

    Raises:
        FileNotFoundError: no such file. ValueError: it is damaged, or holds more than tensors and plain values.
    """
    try:
        if zipfile.is_zipfile(path):  # not what torch wrote before 2020
            _check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, pickle and torch each have their own error for a broken file
        reason = str(error) if isinstance(error, OSError) else "it is damaged, or holds more than weights"
        # Not "from error": torch's message advises to run the code in the file.
        raise ValueError(reason) from None


def _check_zip(path: Path) -> None:
    """Compare the checksums that the file holds; torch.load does not."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise ValueError("wrong checksum")


def load_weights(model: nn.Module, path: Path) -> None:
    """Read a state dict into the model: what `save_weights` wrote, or a file in a form that `unwrapped` knows.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, or of another architecture; nothing is changed then.
    """
    try:
        state = load_state(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as weights: {error}. Take another copy.") from None
    state, own = unwrapped(state), model.state_dict()
    # Before anything is copied: load_state_dict finds a wrong shape when half the model is overwritten.
    if difference := _difference(state, unwrapped(own)):
        raise ValueError(f"{path} is of another network: {difference}. Build the network that it was saved from.")
    model.load_state_dict(dict(zip(own, (state[name] for name in unwrapped(own)), strict=True)))


def unwrapped(state: Any) -> Any:
    """Return a state dict without what was put around it or before its names; anything else as it is.

    Training scripts keep it under "state_dict", beside an optimiser's; nn.DataParallel puts "module." before every
    name, and torch.compile "_orig_mod." into them.
    """
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        return state
    if any("_orig_mod." in name for name in state):
        state = {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    while state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _difference(state: Any, expected: Mapping[str, Tensor]) -> str:
    """Say in what the weights of a file differ from those that are expected; "" if in nothing."""
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        return "it does not hold tensors by name, a state dict"
    missing = [name for name in expected if name not in state]
    strange = [name for name in state if name not in expected]
    if missing or strange:
        lists = {"lacks": missing, "has besides": strange}
        return "it " + " and ".join(f"{verb} {_some(names)}" for verb, names in lists.items() if names)
    for name, value in expected.items():
        if state[name].shape != value.shape:
            return f"{name!r} has shape {tuple(state[name].shape)} instead of {tuple(value.shape)}"
    return ""


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:2])) + (f" and {len(names) - 2} more names" if len(names) > 2 else "")
