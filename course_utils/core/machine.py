"""What this machine has to offer to runs that go side by side: cores and GPUs."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path

_LIBRARIES = ("OMP", "MKL", "OPENBLAS")
_LIST_GPUS = ("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def with_threads(count: int) -> dict[str, str]:
    """Return the environment in which torch and NumPy compute in so many threads.

    >>> with_threads(2)["OMP_NUM_THREADS"]
    '2'
    """
    return {f"{library}_NUM_THREADS": str(count) for library in _LIBRARIES}


@cache
def gpus() -> tuple[str, ...]:
    """Return the names of the GPUs, as `CUDA_VISIBLE_DEVICES` takes them: those that it admits, else all."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        named = (name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(","))
        return tuple(name for name in named if name and not name.startswith("-"))
    if not shutil.which(_LIST_GPUS[0]):
        return ()
    listed = subprocess.run(_LIST_GPUS, capture_output=True, text=True, check=False)
    return tuple(listed.stdout.split()) if listed.returncode == 0 else ()


@contextmanager
def one_gpu() -> Iterator[dict[str, str]]:
    """Yield the environment that shows a run one GPU which no other run on this machine has, waiting for it if need be.

    Without GPUs the environment is empty. The system gives the GPU of a killed run back. Warns of having to wait.
    """
    names, taken, is_told = gpus(), None, False
    while names and not (taken := _take_one(names)):
        if not is_told:
            waits = (
                f"waiting for a GPU: other runs of yours are on {', '.join(names)}. This one begins when one of them"
            )
            warnings.warn(f'{waits} ends; with the parameter device="cpu" it would not wait.', stacklevel=3)
        is_told = True
        time.sleep(0.5)
    if not taken:
        yield {}
        return
    name, lock = taken
    with lock:
        yield {"CUDA_VISIBLE_DEVICES": name}


def _take_one(names: Iterable[str]) -> tuple[str, AbstractContextManager] | None:
    """Lock the first GPU that is free, and return its name and its lock."""
    from filelock import FileLock, Timeout

    for name in names:
        with suppress(Timeout):
            return name, FileLock(lock_file(name), timeout=0).acquire()
    return None


def lock_file(name: str) -> Path:
    """Return the file that stands for something which only one process of this user may have at a time."""
    return Path(tempfile.gettempdir()) / re.sub(r"[^\w.-]", "-", f"course-{_user()}-{name}.lock")


def _user() -> str:
    """Return a name that no other user of this machine has."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may run us with a number of which no name is known
        return str(os.getuid()) if hasattr(os, "getuid") else "user"
