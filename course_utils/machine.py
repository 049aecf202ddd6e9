"""What this machine has to offer to runs that go side by side: cores and GPUs."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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

    Without GPUs the environment is empty. The system gives the GPU of a killed run back.
    """
    from filelock import FileLock, Timeout

    lock = None
    while gpus() and lock is None:
        for name in gpus():
            file = f"course-{getpass.getuser()}-{name.replace('/', '-')}.lock"
            try:
                lock = FileLock(Path(tempfile.gettempdir()) / file, timeout=0).acquire()
                break
            except Timeout:
                continue
        else:
            time.sleep(0.5)
    with lock or nullcontext():
        yield {"CUDA_VISIBLE_DEVICES": name} if lock else {}
