"""Where the files of runs are kept: a folder, or an object store that papermill can reach.

Whatever is read has been written whole, and a run that one worker has claimed is not claimed by another.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..core.files import with_oserror_hint, write_text
from ..core.settings import is_address, local_path

LOCKS = ".locks"
SCHEMES = ("s3://", "gs://", "abs://", "adl://", "hdfs://")  # those to which papermill can write
LEASE = 60.0  # seconds after which a claim in an object store that nobody renews is void
SETTLE = 1.0  # seconds in which whatever was written to an object store can be read


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


class Folder:
    """A folder, which may be shared by several machines if its file locks are."""

    def __init__(self, path: Path):
        self.path = path.resolve()

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> set[str]:
        """Return the names of all files."""
        return {p.name for p in self.path.iterdir()} if self.path.is_dir() else set()

    def read(self, name: str) -> str:
        """Return a file's text."""
        return (self.path / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: the folder cannot be written; the message says what to do.
        """
        write_text(self.path / name, text)

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Yield whether this run is now ours alone; the system ends the claim of a process that is killed.

        Raises:
            OSError: as `write`.
        """
        from filelock import FileLock, Timeout

        with with_oserror_hint(self.path):
            (self.path / LOCKS).mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCKS / f"{name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                yield False
                return
        try:
            yield True
        finally:
            lock.release()

    def is_claimed(self, name: str) -> bool:
        """Tell whether somebody is at work on this run."""
        if not (self.path / LOCKS / f"{name}.lock").exists():
            return False
        with self.claim(name) as is_free:
            return not is_free

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Yield an empty folder for the run that we have claimed; what a killed predecessor left in it is removed.

        It lies beside the run's lock, so that it is taken for nobody else's, and is nobody else's while we hold that.

        Raises:
            OSError: as `write`.
        """
        folder = self.path / LOCKS / f"{name}.scratch"
        with with_oserror_hint(self.path):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)  # the run is done; the next one removes what stays


class Bucket:
    """A folder of an object store, through papermill's handlers.

    The store sees to it that an object is written whole. There are no locks: a claim is an object that its holder
    renews, taken by Fischer's algorithm (Lamport 1987): see that it is free, write, wait, see that it is still ours.
    A store slower than `SETTLE`, or clocks that differ by as much as `LEASE`, may cost a run done twice, no more.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")

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

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Yield whether this run is now ours alone; the claim of a worker that is killed ends after `LEASE`."""
        token = uuid.uuid4().hex
        is_ours = not self.is_claimed(name)
        if is_ours:
            self._hold(name, token)
            time.sleep(SETTLE)
            is_ours = self._holder(name)["token"] == token
        if not is_ours:
            yield False
            return
        ended = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(name, token, ended), daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            ended.set()
            renewal.join()
            self._hold(name, token, seconds=0)

    def is_claimed(self, name: str) -> bool:
        """Tell whether somebody is at work on this run."""
        return self._holder(name)["until"] > time.time()

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Yield an empty folder of this machine."""
        with tempfile.TemporaryDirectory(prefix=f"{name}.") as folder:
            yield Path(folder)

    @property
    def _handlers(self) -> Any:
        from papermill.iorw import papermill_io

        return papermill_io

    def _holder(self, name: str) -> dict[str, Any]:
        file = f"{name}.claim.json"
        return json.loads(self.read(file)) if file in self.names() else {"token": None, "until": 0.0}

    def _hold(self, name: str, token: str, seconds: float | None = None) -> None:
        until = time.time() + (LEASE if seconds is None else seconds)
        self.write(f"{name}.claim.json", json.dumps({"token": token, "until": until}))

    def _renew(self, name: str, token: str, ended: threading.Event) -> None:
        while not ended.wait(LEASE / 4):
            with suppress(Exception):  # each store has errors of its own; there are three more chances
                self._hold(name, token)
