"""What this machine needs for the course: `doctor` checks it, one line each, and says how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core import settings

MIN_PYTHON = (3, 11)
MIN_FREE_GB = 1
_INSTALL = "python -m pip install -r requirements.txt -e ."


@dataclass(frozen=True)
class Finding:
    """One line of `course doctor`: ok, a warning (the course runs), or a failure; and the cure."""

    level: str  # "ok", "warning" or "failure"
    text: str
    cure: str = ""

    def __str__(self) -> str:
        mark = {"ok": "✓", "warning": "!", "failure": "✗"}[self.level]
        return f"{mark} {self.text}" + (f" → {self.cure}" if self.cure and self.level != "ok" else "")


class Findings(list):
    """The lines of `doctor()`, which show themselves as text."""

    def __repr__(self) -> str:
        return "\n".join(map(str, self))

    __str__ = __repr__

    def __bool__(self) -> bool:
        return all(finding.level != "failure" for finding in self)


def doctor() -> Findings:
    """Check whether the course can run here; true if it can. Never raises, whatever is missing.

    >>> print(doctor())  # doctest: +SKIP
    ✓ Python 3.12.4
    """
    checks = (_python, _packages, _torch, _cache, _dataset, _kernel, _disk)
    findings = Findings()
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # a broken package may raise anything
            lines = str(error).splitlines() or [""]
            cure = "see data/README.md" if check is _dataset else _INSTALL
            text = f"{check.__name__.strip('_')}: {type(error).__name__}: {lines[0]}"
            findings.append(Finding("failure", text, cure))
    return findings


def _python() -> Iterator[Finding]:
    level = "ok" if sys.version_info >= MIN_PYTHON else "failure"
    wanted = ".".join(map(str, MIN_PYTHON))
    yield Finding(level, f"Python {platform.python_version()}", f"install Python {wanted} or newer")


def _packages() -> Iterator[Finding]:
    pins = _pins()
    if not pins:
        yield Finding("warning", "no requirements.txt found", "work in the course's checkout")
        return
    matching = 0
    for name, wanted in pins.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("failure", f"{name} {wanted} is not installed", _INSTALL)
            continue
        if found.partition("+")[0] == wanted:  # "+cpu" names a build of the same version
            matching += 1
        else:
            yield Finding("warning", f"{name} is {found}, the course was tested with {wanted}", _INSTALL)
    yield Finding("ok", f"{matching} of {len(pins)} packages at the tested version")


def _pins() -> dict[str, str]:
    path = settings.PROJECT / "requirements.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = (line.partition("#")[0].strip().partition("==") for line in lines)
    return {name: version for name, equals, version in pairs if equals}


def _torch() -> Iterator[Finding]:
    import torch

    from ..core import vision  # noqa: F401 - loads torchvision, with the cure for mismatched builds

    device = settings.choose_device()
    yield Finding(
        "ok", f"torch {torch.__version__} with torchvision, device {device}, {torch.get_num_threads()} threads"
    )


def _cache() -> Iterator[Finding]:
    folder = settings.cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"course")
    except OSError as error:
        cure = "set COURSE_CACHE to a folder that you may write to"
        yield Finding("failure", f"cannot write to {_brief(folder)}: {error.strerror}", cure)
    else:
        yield Finding("ok", f"cache {_brief(folder)}")
    try:
        mirror = settings.mirror_dir()
    except ValueError as error:
        yield Finding("failure", str(error))
    else:
        if mirror:
            yield Finding("ok", f"data mirror {_brief(mirror)}")


def _dataset() -> Iterator[Finding]:
    from ..data import digits

    x, _ = digits.load_images("mnist5k", "test")
    yield Finding("ok", f"data set mnist5k: {len(x)} test images")


def _kernel() -> Iterator[Finding]:
    from jupyter_client.kernelspec import KernelSpecManager

    command = Path(KernelSpecManager().get_kernel_spec("python3").argv[0])
    # A bare "python" is replaced by the Python that runs Jupyter.
    if not command.is_absolute() or (command.exists() and command.samefile(sys.executable)):
        yield Finding("ok", "Jupyter kernel python3")
    else:
        cure = "python -m ipykernel install --sys-prefix --name course, then choose the kernel course"
        yield Finding("warning", f"Jupyter's kernel python3 is another Python: {_brief(command)}", cure)


def _brief(path: Path) -> str:
    """Write a path as seen from the checkout, or from home: chapter 00 shows it to all readers."""
    # Path.home() raises where nobody's home is known, as in a container
    for start, sign in ((settings.PROJECT, ""), (Path(os.path.expanduser("~")), "~/")):
        if path.is_relative_to(start):
            return sign + path.relative_to(start).as_posix()
    return str(path)


def _disk() -> Iterator[Finding]:
    folder = next(p for p in (settings.cache_dir(), *settings.cache_dir().parents) if p.exists())
    free = shutil.disk_usage(folder).free / 1e9
    level = "ok" if free >= MIN_FREE_GB else "warning"
    yield Finding(level, f"{free:.0f} GB free", f"free at least {MIN_FREE_GB} GB; the full-scale data sets need it")
