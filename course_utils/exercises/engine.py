"""The check engine: run the properties of an exercise one after the other, and explain the first that fails.

A checker is a generator. It yields the name of each property before it tests it, and calls `expect` to refuse:

    @exercise("double", takes="(x)")
    def _double(answer):
        yield "doubles a number"
        expect(answer(2) == 4, f"double(2) gave {answer(2)}.", "Multiply by two.")
"""

from __future__ import annotations

import dis
import os
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..core.suggestions import did_you_mean
from .error_hints import CheckFailed, arguments_fit, explain
from .sandbox import Answer, Output, TooSlow, Watch, isolated, no_exit

Checker = Callable[[Any], Iterator[str]]
SECONDS = 30  # an answer that takes longer is stopped

_CHECKERS: dict[str, tuple[Checker, str]] = {}


@dataclass(frozen=True)
class CheckResult:
    """The outcome of a check; true when every property holds."""

    name: str
    status: str  # "passed", "failed" or "not attempted"
    passed: tuple[str, ...] = ()
    failed: str = ""
    what: str = ""
    hint: str = ""
    note: str = ""  # what else there is to say

    def __bool__(self) -> bool:
        return self.status == "passed"

    def _lines(self) -> list[tuple[str, str]]:
        lines = [("✓", text) for text in self.passed]
        if self.status == "failed":
            lines += [("✗", self.failed), ("", f"What happened: {self.what}"), ("", f"Hint: {self.hint}")]
        if self.status == "not attempted":
            lines.append(("…", "Write your answer above, then run this cell again."))
        if self.note:
            lines.append(("", f"Note: {self.note}"))
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
        CheckFailed: the condition does not hold.
    """
    if not condition:
        raise CheckFailed(what, hint() if callable(hint) else hint)


def check(name: str, answer: Any, *, strict: bool | None = None, undo: Callable[[], list[str]] = list) -> CheckResult:
    """Check an answer and return the result, which a notebook shows. Never raises because of the answer.

    Args:
        name: of the exercise. answer: the student's function.
        strict: raise if the check fails, as the course's own tests want it; default what `COURSE_STRICT` says.

    Raises:
        ValueError: there is no such exercise. AssertionError: the check failed, and is strict.
    """
    # `undo` puts back what the answer replaced in the libraries, and returns the names. Notebooks call a `check` with
    # this docstring and without that argument: originals.sealed gives it.
    if not isinstance(name, str) or name not in _CHECKERS:
        raise ValueError(f"there is no exercise {name!r}. {did_you_mean(name, _CHECKERS)}")
    result = _run(name, *_CHECKERS[name], answer, undo)
    if strict is None:
        strict = os.environ.get("COURSE_STRICT", "0") not in ("", "0")
    if strict and result.status == "failed":
        raise AssertionError(repr(result))
    return result


def _run(name: str, checker: Checker, takes: str, answer: Any, undo: Callable[[], list[str]]) -> CheckResult:
    if not callable(answer):
        what = f"check() got a {type(answer).__name__} instead of a function."
        hint = f"Pass the function itself, without brackets and arguments: it is called as answer{takes}."
        return CheckResult(name, "failed", (), "is a function", what, hint)
    if misfit := arguments_fit(answer, takes):
        hint = "Keep the first line of the exercise as it was: the same arguments, in the same order."
        return CheckResult(name, "failed", (), "takes the arguments of the exercise", _short(misfit), hint)
    begun: list[str] = []
    exits: list[str] = []
    output = Output()
    called = Answer(answer, output, undo)
    with isolated(), output.shown_once(), no_exit(exits), Watch(SECONDS) as watch:
        failure = _failure(checker, called, begun, watch, exits)
    if failure is None:
        return CheckResult(name, "passed", tuple(begun), note=called.note())
    if _is_stub(failure) and len(begun) <= 1:
        return CheckResult(name, "not attempted")
    what, hint = _explained(failure, answer, takes)
    *passed, failed = begun or ["runs"]
    return CheckResult(name, "failed", tuple(passed), failed, _short(what), hint + _borrowed(answer), called.note())


def _failure(
    checker: Checker, answer: Answer, begun: list[str], watch: Watch, exits: list[str]
) -> BaseException | None:
    """Test the properties, collect those that were `begun`, and return what refuses the answer, if anything does.

    Raises:
        KeyboardInterrupt: the student has interrupted the check.
    """
    failure: BaseException | None = None
    try:
        for label in checker(answer):
            begun.append(label)
        answer.finish()
    except BaseException as error:
        failure = error
    if watch.reason is not None and not isinstance(failure, watch.reason):  # the answer has caught it
        failure = watch.reason()
    elif failure is None and exits:
        failure = SystemExit()
    if isinstance(failure, KeyboardInterrupt) and watch.reason is KeyboardInterrupt:
        raise failure  # not the answer's own
    return failure


def _is_stub(failure: BaseException) -> bool:
    return isinstance(failure, NotImplementedError) and not failure.args  # torch's own come with a text


def _explained(failure: BaseException, answer: Callable[..., Any], takes: str) -> tuple[str, str]:
    """Return what happened, and a hint at why."""
    if isinstance(failure, CheckFailed):
        return failure.what, failure.hint
    if isinstance(failure, TooSlow):
        return f"it ran for more than {SECONDS} seconds and was stopped.", "Look for a loop that never ends."
    if _is_stub(failure):
        return "it came to a raise NotImplementedError().", "A part of your answer is still to be written."
    return explain(failure, answer, takes)


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
