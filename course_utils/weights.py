"""Files of weights: tensors and plain values, written whole, checked when they are read, and never run as code."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import replacing


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state dict to `path`, whole or not at all.

    Raises:
        OSError: the folder cannot be written; the message says what to do.
    """
    save_state(model.state_dict(), path)


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values to `path`, whole or not at all.

    Raises:
        OSError: as `save_weights`.
    """
    # Through a Python file: torch's own writer reports a full disk as a RuntimeError.
    with replacing(Path(path)) as part, part.open("wb") as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, or any other file of weights.

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
    """Read a state dict written by `save_weights` into the model.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, or of another architecture.
    """
    try:
        state = load_state(path)
        # Before anything is copied: load_state_dict finds a wrong shape when half the model is overwritten.
        if _shapes(state) != _shapes(model.state_dict()):
            raise ValueError("other names or shapes of weights")
        model.load_state_dict(state)
    except FileNotFoundError:
        raise
    except Exception as error:  # what is no state dict at all fails in many ways
        raise ValueError(f"{path} is damaged or of another network ({error}): delete it to train anew.") from error


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}
