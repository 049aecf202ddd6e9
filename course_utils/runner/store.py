"""Where the files of runs are kept: a folder, or an object store that papermill can reach.

One driver at a time writes there: the process that decides what is run and records what became of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..core.files import with_oserror_hint, write_text
from ..core.machine import lock_file
from ..core.settings import is_address, local_path

SCHEMES = ("s3://", "gs://", "abs://", "adl://", "hdfs://")  # those to which papermill can write
LOCK_SECONDS = 1.0  # waited for the lock: whoever asks for the status holds it for a moment


def open_store(place: str | Path) -> Folder | Bucket:
    """Return the store at a path, or at an address like s3://bucket/folder.

    Raises:
        ValueError: an address of another kind, or one that is a `Path`, which has lost a slash.
    """
    if not is_address(place):
        return Folder(local_path(place))
    if not str(place).startswith(SCHEMES):
        expected = f"expected a folder, or as text an address that begins with {', '.join(SCHEMES)}"
        raise ValueError(f"{expected}, got {place}. Name a folder of this machine by its path.")
    return Bucket(str(place))


class _Store:
    """What a folder and an object store have in common: the lock of the driver."""

    _lock: Path

    @contextmanager
    def lock(self, task: str) -> Iterator[None]:
        """Be the only driver here. The system ends the lock of a process that is killed.

        Args:
            task: what is run, for those who are refused meanwhile.

        Raises:
            ValueError: another driver is at work. OSError: the lock cannot be written.
        """
        from filelock import FileLock, Timeout

        with with_oserror_hint(self._lock.parent):
            self._lock.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._lock)
            try:
                lock.acquire(timeout=LOCK_SECONDS)
            except Timeout:
                raise ValueError(self._refusal()) from None
        try:
            about = {"task": task, "pid": os.getpid(), "host": platform.node(), "began": time.time()}
            write_text(self._about, json.dumps(about) + "\n")
            yield
        finally:
            lock.release()

    def driver(self) -> dict[str, Any] | None:
        """Return what is known of the driver at work here: task, pid, host, when it began. None where there is none."""
        from filelock import FileLock, Timeout

        if not self._lock.exists():
            return None
        try:
            with FileLock(self._lock, timeout=0):
                return None
        except (Timeout, PermissionError):  # of another user's lock nobody can say whether it is held
            about = {"task": "a run", "pid": "?", "host": "?", "began": 0.0}
            with suppress(OSError, ValueError):
                about |= json.loads(self._about.read_text(encoding="utf-8"))
            return about

    @property
    def _about(self) -> Path:
        return self._lock.with_name(f"{self._lock.name}.json")

    def _refusal(self) -> str:
        about = self.driver() or {"task": "a run", "pid": "?", "host": "?", "began": time.time()}
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(about["began"]))
        driver = f"{about['task']} (process {about['pid']} on {about['host']}, since {since})"
        return f"{driver} already writes to {self}: wait for it, stop it, or choose another folder"


class Folder(_Store):
    """A folder of this machine, or one that it shares with others."""

    def __init__(self, path: Path):
        self.path = path.resolve()
        self._lock = self.path / ".lock"

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> set[str]:
        """Return the names of all files."""
        return set(os.listdir(self.path)) if self.path.is_dir() else set()

    def read(self, name: str) -> str:
        """Return a file's text."""
        return (self.path / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: the folder cannot be written; the message says what to do.
        """
        write_text(self.path / name, text)


class Bucket(_Store):
    """A folder of an object store, through papermill's handlers; the store sees to it that an object is written whole.

    Its lock is a file of this machine: drivers on two machines do not see each other.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self._lock = lock_file(hashlib.sha256(self.url.encode()).hexdigest()[:16])

    def __str__(self) -> str:
        return self.url

    def names(self) -> set[str]:
        """Return the names of all objects."""
        return {str(address).rpartition("/")[2] for address in self._handlers.listdir(self.url)}

    def read(self, name: str) -> str:
        """Return an object's text."""
        return self._handlers.read(f"{self.url}/{name}", None)

    def write(self, name: str, text: str) -> None:
        """Write an object."""
        self._handlers.write(text, f"{self.url}/{name}", None)

    @property
    def _handlers(self) -> Any:
        from papermill.iorw import papermill_io

        return papermill_io
