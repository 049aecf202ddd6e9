"""Write files whole or not at all, say what to do where that is impossible, and tell one state of the sources apart."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from .settings import cache_dir
from .suggestions import did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]
OSERROR_HINTS = {
    errno.ENOSPC: "the disk is full: free some space, or",
    errno.EDQUOT: "your share of the disk is full: free some space, or",
    errno.EROFS: "it is read-only:",
    errno.EACCES: "you may not write there:",
    errno.EPERM: "you may not write there:",
    errno.ENOTDIR: "a part of that path is a file:",
    errno.EEXIST: "there is a file of that name:",
}
_UMASK = os.umask(0)  # can only be read by setting it
os.umask(_UMASK)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that is renamed to it at the end, or removed if anything goes wrong.

    Once renamed it outlasts a power cut, too. A process that is killed leaves it: its name ends in ".course-part".

    Raises:
        OSError: the folder cannot be made or written, or the disk is full; the message says what to do.
    """
    with with_oserror_hint(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".course-part")
        os.close(handle)
        try:
            yield Path(name)
            os.chmod(name, 0o666 & ~_UMASK)  # mkstemp's files are for one user only; caches are shared
            _sync(name)  # a name that reaches the disk before its content is an empty file after a power cut
            os.replace(name, path)
            if os.name == "posix":  # elsewhere a folder cannot be opened
                _sync(path.parent)
        finally:
            Path(name).unlink(missing_ok=True)


def _sync(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step: nobody ever sees half of it.

    Raises:
        OSError: as `atomic_write`.
    """
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def with_oserror_hint(folder: Path) -> Iterator[None]:
    """Say what to do about a folder that cannot be written or a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in OSERROR_HINTS:
            raise
        is_cache = folder.is_relative_to(cache_dir())
        cure = "set COURSE_CACHE to a folder that you can write" if is_cache else "choose another folder"
        raise OSError(error.errno, f"cannot write to {folder}: {OSERROR_HINTS[error.errno]} {cure}") from error


@cache
def source_hash(*rooms: str) -> str:
    """Return a hash of the Python sources in some rooms of this package: the key of what was computed with them.

    It is the same on every system, whatever ends the lines of a file. A room's name is that of its folder. The sources
    are read once in each process.

    Args:
        *rooms: names such as "models"; their order does not matter.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError: no room, or one that this package does not have.

    >>> source_hash("models", "training") == source_hash("training", "models")
    True
    """
    known = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    for room in rooms or ("",):
        if room not in known:
            near = did_you_mean(room, known)
            raise ValueError(f"expected the names of rooms of {PACKAGE.name}, got {room!r}. {near}")
    digest = hashlib.sha256()
    for path in sorted(path for room in set(rooms) for path in (PACKAGE / room).rglob("*.py")):
        text = b"\n".join(path.read_bytes().splitlines())
        name = path.relative_to(PACKAGE).as_posix().encode()
        digest.update(b"%d %s %d %s" % (len(name), name, len(text), text))  # with lengths no two trees read alike
    return digest.hexdigest()[:16]
