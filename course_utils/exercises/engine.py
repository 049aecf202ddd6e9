"""The check engine: run the properties of an exercise one after the other, and explain the first that fails.

A checker is a generator. It yields the name of each property before it tests it, and calls `expect` to refuse:

    @exercise("double", takes="(x)")
    def _double(answer):
        yield "doubles a number"
        expect(answer(2) == 4, f"double(2) gave {answer(2)}.", "Multiply by two.")
"""

from __future__ import annotations

import dis
import io
import os
import random
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..names import nearest
from .errors import Wrong, arguments_fit, explain

Checker = Callable[[Any], Iterator[str]]
SECONDS = 30  # an answer that takes longer is stopped
PRINTED = 2000  # characters of an answer's own output that are shown; it is called some twenty times

_CHECKERS: dict[str, tuple[Checker, str]] = {}


class TooSlow(BaseException):
    """The answer ran longer than `SECONDS`. No Exception, so that an answer's `except Exception` lets it through."""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check; true when every property holds."""

    name: str
    status: str  # "passed", "failed" or "not attempted"
    passed: tuple[str, ...] = ()
    failed: str = ""
    what: str = ""
    hint: str = ""

    def __bool__(self) -> bool:
        return self.status == "passed"

    def _lines(self) -> list[tuple[str, str]]:
        lines = [("✓", text) for text in self.passed]
        if self.status == "failed":
            lines += [("✗", self.failed), ("", f"What happened: {self.what}"), ("", f"Hint: {self.hint}")]
        if self.status == "not attempted":
            lines.append(("…", "Write your answer above, then run this cell again."))
        return lines

    def __repr__(self) -> str:
        return "\n".join([f"{self.name}: {self.status}", *(f"  {mark:1} {text}" for mark, text in self._lines())])

    def _repr_html_(self) -> str:
        colour = {"passed": "#0072b2", "failed": "#d55e00"}.get(self.status, "#767676")
        items = "".join(f"<div>{mark} {escape(text)}</div>" for mark, text in self._lines())
        return (
            f"<div style='border-left:4px solid {colour};padding:2px 10px' role='status'>"
            f"<strong>{escape(self.name)}: {self.status}</strong>{items}</div>"
        )


def exercise(name: str, *, takes: str = "") -> Callable[[Checker], Checker]:
    """Register a checker under `name`; `takes` is the signature of the function that the student writes."""

    def register(checker: Checker) -> Checker:
        if name in _CHECKERS:
            raise ValueError(f"two checkers are called {name!r}")
        _CHECKERS[name] = (checker, takes)
        return checker

    return register


def expect(condition: object, what: str, hint: str | Callable[[], str]) -> None:
    """Refuse the answer unless the condition holds; the hint may be a function, called only if it does not.

    Raises:
        Wrong: the condition does not hold.
    """
    if not condition:
        raise Wrong(what, hint() if callable(hint) else hint)


def check(name: str, answer: Any, *, strict: bool | None = None) -> CheckResult:
    """Check an answer and return the result, which a notebook shows. Never raises because of the answer.

    Args:
        name: of the exercise. answer: the student's function.
        strict: raise if the check fails, as the course's own tests want it; default what `COURSE_STRICT` says.

    Raises:
        ValueError: there is no such exercise. AssertionError: the check failed, and is strict.
    """
    if not isinstance(name, str) or name not in _CHECKERS:
        raise ValueError(f"there is no exercise {name!r}. {nearest(name, _CHECKERS)}")
    result = _run(name, *_CHECKERS[name], answer)
    if strict is None:
        strict = os.environ.get("COURSE_STRICT", "0") not in ("", "0")
    if strict and result.status == "failed":
        raise AssertionError(repr(result))
    return result


def _run(name: str, checker: Checker, takes: str, answer: Any) -> CheckResult:
    if not callable(answer):
        what = f"check() got a {type(answer).__name__} instead of a function."
        hint = f"Pass the function itself, without brackets and arguments: it is called as answer{takes}."
        return CheckResult(name, "failed", (), "is a function", what, hint)
    if misfit := arguments_fit(answer, takes):
        hint = "Keep the first line of the exercise as it was: the same arguments, in the same order."
        return CheckResult(name, "failed", (), "takes the arguments of the exercise", _short(misfit), hint)
    begun: list[str] = []
    try:
        with _isolated(), _time_limit(SECONDS):
            for label in checker(answer):
                begun.append(label)
        return CheckResult(name, "passed", tuple(begun))
    except Wrong as wrong:
        what, hint = wrong.what, wrong.hint
    except TooSlow:
        what, hint = f"it ran for more than {SECONDS} seconds and was stopped.", "Look for a loop that never ends."
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, NotImplementedError) and not error.args:  # torch's own come with a text
            if len(begun) <= 1:
                return CheckResult(name, "not attempted")
            what, hint = "it came to a raise NotImplementedError().", "A part of your answer is still to be written."
        else:
            what, hint = explain(error, answer, takes)
    *passed, failed = begun or ["runs"]
    return CheckResult(name, "failed", tuple(passed), failed, _short(what), hint + _borrowed(answer))


def _short(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else text[:limit] + " …"


def _borrowed(answer: Any) -> str:
    """Return a remark on the notebook's tensors, models and numbers that the answer reads, or nothing."""
    if not isinstance(answer, types.FunctionType):
        return ""
    names = {i.argval for i in dis.get_instructions(answer) if i.opname == "LOAD_GLOBAL"}
    values = {name: answer.__globals__.get(name) for name in sorted(names)}
    found = [name for name, value in values.items() if isinstance(value, Tensor | nn.Module | Real | np.ndarray)]
    return f" (Your function also reads {', '.join(found)} from the notebook: use only its arguments.)" if found else ""


class _FirstCharacters(io.TextIOBase):
    """Passes on the first characters of what an answer prints, and drops the rest."""

    def __init__(self, stream: Any, limit: int):
        self.stream, self.left = stream, limit

    def write(self, text: str) -> int:
        if self.left > 0:
            self.stream.write(text[: self.left])
            self.left -= len(text)
            if self.left <= 0:
                self.stream.write("\n… (what your function prints after this is not shown)\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


@contextmanager
def _isolated() -> Iterator[None]:
    """Keep the notebook's random streams, torch settings and warnings as they are, and its output short."""
    numbers, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with (
            torch.random.fork_rng(devices),
            torch.enable_grad(),
            torch.device("cpu") if torch.get_default_device().type != "cpu" else nullcontext(),
            warnings.catch_warnings(),
            redirect_stdout(_FirstCharacters(sys.stdout, PRINTED)),
            redirect_stderr(_FirstCharacters(sys.stderr, PRINTED)),
        ):
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(0)
            torch.set_default_dtype(torch.float32)
            torch.set_num_threads(1)  # for tensors as small as these, two threads spend their time waiting
            yield
    finally:
        random.setstate(numbers)
        np.random.set_state(arrays)  # noqa: NPY002
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow after so many seconds, where the system has timers (not on Windows, not outside the main thread)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again every second: the answer may swallow the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
