"""Where the course runs: device, seeds, and the folders for cached and mirrored files."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:  # torch takes seconds to import, and most commands do without it
    import torch

# Read by torch's thread pool when it is loaded. By default its idle threads spin; as soon as another program wants
# the cores, small networks then train several times slower.
THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # two letters at least: C:/ is a drive of Windows
PROJECT = Path(__file__).resolve().parents[2]  # the checkout, when installed with `pip install -e .`


def is_address(place: str | Path) -> bool:
    """Tell an address, like s3://bucket/folder, from a path."""
    return _ADDRESS.match(Path(place).as_posix()) is not None


def local_path(place: str | Path) -> Path:
    """Return a path on this machine; a `~` at its start is the home folder.

    Raises:
        ValueError: an address, of which `Path` would make a folder, or the home of nobody.
    """
    if is_address(place):
        raise ValueError(
            f"expected a path on this machine, got the address {place}. Name a local one and copy what is there; "
            "only sweeps write to object stores."
        )
    try:
        return Path(place).expanduser()
    except RuntimeError:
        raise ValueError(f"this machine knows no home folder for {place}: write the path out, from / on") from None


def cache_dir() -> Path:
    """Return the folder for downloads and trained weights (not created).

    `COURSE_CACHE` if set, else `data/cache` of the checkout, else the user's cache folder.

    Raises:
        ValueError: the variable is set to an address.
    """
    if os.environ.get("COURSE_CACHE"):
        return local_path(os.environ["COURSE_CACHE"])
    if (PROJECT / "data" / "claims.yaml").exists():
        return PROJECT / "data" / "cache"
    return Path(platformdirs.user_cache_dir("adversarial-examples-course"))


def mirror_dir() -> Path | None:
    """Return the folder that is looked at before any download (`COURSE_DATA_MIRROR`), or None.

    Raises:
        ValueError: the variable is set to something that is not a folder.
    """
    name = os.environ.get("COURSE_DATA_MIRROR")
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"COURSE_DATA_MIRROR must name an existing folder, got {name!r}. "
            "Correct it, or unset it to download from the original source."
        )
    return folder


def is_offline() -> bool:
    """Tell whether `COURSE_OFFLINE` forbids the network (any value but empty and 0 does)."""
    return os.environ.get("COURSE_OFFLINE", "0") not in ("", "0")


def choose_device(name: str = "auto") -> torch.device:
    """Return the `torch.device` for `name`: "auto", "cpu", "cuda", "cuda:1" or "mps".

    "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: an unknown name, or a device this machine does not have.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f'device must be "auto", "cpu", "cuda", "cuda:N" or "mps", got {name!r}.') from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": has_mps}.get(device.type)
    if present is None:
        raise ValueError(f'device must be "auto", "cpu", "cuda", "cuda:N" or "mps", got {name!r}.')
    if not present or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f'this machine has no device {name!r}. Use device="auto" or device="cpu".')
    return device


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global streams; called once, at the top of a chapter."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)  # noqa: NPY002 - libraries still read the global stream
    torch.manual_seed(seed)


def describe(device: torch.device | None = None) -> str:
    """Say in one line what a chapter runs on: versions, device, threads."""
    import platform

    import torch

    from .. import __version__

    device = device or choose_device()
    return (
        f"course {__version__} · Python {platform.python_version()} · torch {torch.__version__} · "
        f"device {device} · {torch.get_num_threads()} threads"
    )
