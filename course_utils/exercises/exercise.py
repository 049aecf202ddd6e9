"""Exercises as data: a reference, cases on which an answer agrees with it, and mistakes that are functions."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from operator import itemgetter
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .engine import exercise, expect
from .error_hints import CheckFailed
from .mistakes import SAME_FOR_EVERY, Function, Mistake
from .properties import (
    KEEP_APART,
    NOT_ALONE,
    as_tensor_like,
    call_with_copies,
    changed_in_place,
    close,
    differences,
    in_both_modes,
    no_side_effects,
)

NO_RANDOMNESS = "A second call gives another result. This exercise has no randomness: the arguments alone decide."
IN_PLACE = "Your function changes {0} itself while it computes, so that what comes after works with another {0}. Make a new tensor instead: no +=, no […] = and no function ending in _ on it."
FROM_BEFORE = "You return the very tensor of an earlier call. Compute the result anew from the arguments of each call, and keep nothing between calls."
OWN_WORK = "Write the steps yourself: that is the exercise. The course's function is for the chapters after it."


@dataclass(frozen=True)
class Case:
    """A property of the answer.

    Args:
        label: the property, in words. where: to look for the fault if no known mistake explains the answer.
        arguments: functions that return the arguments of a call. They are called once; answers get copies.
    """

    label: str
    arguments: Sequence[Callable[[], tuple]]
    where: str


@dataclass(frozen=True)
class Property:
    """What an exercise asks beside agreement with its reference.

    Args:
        label: the property, in words. test: takes the answer, and refuses it by `expect`.
    """

    label: str
    test: Callable[[Function], None]


@dataclass(frozen=True)
class Exercise:
    """What an answer is compared with, on what, and what is said about answers that differ.

    Args:
        name: of the exercise. reference: the right answer. mistakes: wrong ones; of two that explain an answer
            equally well, the first is named.
        cases: in the order of what is asked; those of the last have other sizes. typical: arguments on which the shape
            and the type are asked first; default those of the first case.
        batched: arguments with an entry for each image. untouched: those which the answer may not change.
        like: the argument whose shape, type and device the result has. returns: what it is, in words.
        observe: calls a function with the arguments, and returns what is compared: a tensor, a number, a text, or
            several of them, in a tuple or by name in a dictionary. It refuses what is of the wrong kind by `expect`.
            Default: the result, a tensor like `like`.
        accepts: tells whether what was observed will do, from it, what is right, and the arguments. Default: both agree.
        happened: says in numbers how they differ, from the same.
        explain: says what is wrong if no mistake explains it, from the same, or returns nothing.
        tolerance: of each number. random: an answer may draw random numbers.
        library: functions of the course that are the finished answer, and that an answer may not call.

    Example:
        >>> Exercise("double", reference=lambda x: 2 * x, cases=[…], mistakes=[Mistake("That is x.", lambda x: x)])
    """

    name: str
    reference: Function
    cases: Sequence[Case | Property]
    mistakes: Sequence[Mistake]
    batched: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    typical: Callable[[], tuple] | None = None
    like: str = "x"
    returns: str = "new images like x"
    observe: Callable[..., Any] | None = None
    accepts: Callable[..., bool] | None = None
    happened: Callable[..., str] | None = None
    explain: Callable[..., str] | None = None
    tolerance: float = 1e-5
    random: bool = False
    library: tuple[Function, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The names of the arguments."""
        return list(inspect.signature(self.reference).parameters)

    def register(self) -> Exercise:
        """Let `check` know the exercise.

        Raises:
            ValueError: there is an exercise of this name.
        """
        exercise(self.name, takes=f"({', '.join(self.arguments)})")(self.check)
        return self

    @cached_property
    def trials(self) -> list[tuple[Case, tuple]]:
        """Each case with the arguments of each of its calls."""
        return [(case, make()) for case in self.cases if isinstance(case, Case) for make in case.arguments]

    @cached_property
    def _rights(self) -> list[Any]:
        """What is right for each of the trials."""
        return [self._see(self.reference, arguments) for _, arguments in self.trials]

    @cached_property
    def _explanations(self) -> list[tuple[str, list[Any]]]:
        """What is said about each mistake, and what is observed of it in each of the trials."""
        wrong = [(mistake.words, function) for mistake in self.mistakes for function in mistake.functions]
        return [(words, [self._try(function, arguments) for _, arguments in self.trials]) for words, function in wrong]

    def check(self, answer: Function) -> Iterator[str]:
        """Yield each property before it is tested.

        Raises:
            CheckFailed: the answer does not have it.
        """
        typical = self.typical() if self.typical else self.trials[0][1]
        yield f"returns {self.returns}"
        self._observed(answer, typical)
        for case in self.cases:
            yield case.label
            if isinstance(case, Property):
                case.test(answer)
            else:
                self._agrees(answer, case)
        if self.batched:
            yield "gives an image alone what it gives it in a batch"
            self._treats_each_alone(answer, typical)
        yield f"leaves {', '.join(self.untouched) or 'random streams'} as before"
        self._leaves_no_trace(answer, typical)
        yield "is written by hand"
        self._is_own_work(answer, typical)

    def _see(self, function: Function, arguments: tuple) -> Any:
        """Return what is observed when a function gets the arguments."""
        if self.observe:
            return self.observe(function, *arguments)
        like = arguments[self.arguments.index(self.like)]
        return as_tensor_like(call_with_copies(function, *arguments), like, self.like)

    def _observed(self, answer: Function, arguments: tuple) -> Any:
        """Return what is observed of the answer; a result of the wrong kind may have a name, too.

        Raises:
            CheckFailed: it is of the wrong kind.
        """
        try:
            return self._see(answer, arguments)
        except CheckFailed as failure:
            result = _tried(answer, arguments)
            alike = ((m.words, f) for m in self.mistakes for f in m.functions if _same(_tried(f, arguments), result))
            known = (words for words, f in alike if self._try(f, arguments) is None)  # of the wrong kind as well
            raise CheckFailed(failure.what, next(known, failure.hint)) from None

    def _agrees(self, answer: Function, case: Case) -> None:
        for number, (asked, arguments) in enumerate(self.trials):
            if asked is case:
                got, right = self._observed(answer, arguments), self._rights[number]
                if not self._accepted(got, right, arguments):
                    what = (self.happened or self._difference)(got, right, *arguments)
                    raise CheckFailed(what, self._diagnosis(answer, number, got) or case.where)

    def _accepted(self, got: Any, right: Any, arguments: tuple) -> bool:
        return self.accepts(got, right, *arguments) if self.accepts else self._agree(got, right)

    def _difference(self, got: Any, right: Any, *arguments: Any) -> str:
        given = dict(zip(self.arguments, arguments, strict=True))
        numbers = " and ".join(f"{name} = {value:.4g}" for name, value in given.items() if isinstance(value, Real))
        far = ""
        if not self.observe:
            reach, wanted = ((v - given[self.like]).abs().max() for v in (got, right))
            far = f"; they are up to {reach:.3g} away from {self.like}, right is {wanted:.3g}"
        return f"with {numbers or 'these arguments'} {differences(got, right, self.tolerance)}{far}."

    def _diagnosis(self, answer: Function, number: int, got: Any) -> str:
        """Return what is said about the likeliest mistake behind what was observed in a trial, or nothing.

        The likeliest agrees with the answer in most of the trials in which either of them is wrong. One that agrees in
        fewer may be a coincidence: it comes after what can be told from the answer alone, and only if it explains all
        that is wrong with it.
        """
        arguments = self.trials[number][1]
        if name := changed_in_place(answer, self.untouched, dict(zip(self.arguments, arguments, strict=True))):
            return IN_PLACE.format(name)
        returned = [r for r in (_tried(answer, given) for _, given in self.trials) if isinstance(r, Tensor)]
        if len({id(r) for r in returned}) < len(returned):
            return FROM_BEFORE
        results = [self._try(answer, given) for _, given in self.trials]
        shares = [
            (*self._agreement(results, w), words) for words, w in self._explanations if self._agree(w[number], got)
        ]
        share, explains_all, likeliest = max(shares, key=itemgetter(0), default=(0.0, False, ""))
        if share > 0.5:
            return likeliest
        if not self.random and not self._agree(results[number], got):
            return NO_RANDOMNESS
        for name in self.arguments:
            if self._matters(name, number) and self._ignores(answer, name, results):
                return SAME_FOR_EVERY.format(name)
        if explains_all:
            return likeliest
        return self.explain(got, self._rights[number], *arguments) if self.explain else ""

    def _agreement(self, results: list[Any], wrong: list[Any]) -> tuple[float, bool]:
        """Return in which share of the trials a mistake agrees with the answer, of those in which either is wrong.

        And whether it does in all in which the answer is wrong.
        """
        triples = list(zip(results, wrong, self._rights, strict=True))
        agreed = [result is mistake is None or self._agree(result, mistake) for result, mistake, _ in triples]
        failed = [not self._agree(result, right) for result, _, right in triples]
        either = [fails or not self._agree(m, right) for fails, (_, m, right) in zip(failed, triples, strict=True)]
        both = sum(a for a, counts in zip(agreed, either, strict=True) if counts)
        return both / max(1, sum(either)), all(a for a, fails in zip(agreed, failed, strict=True) if fails)

    def _try(self, function: Function, arguments: tuple) -> Any:
        """Return what is observed of a function, or None if it fails."""
        try:
            return self._see(function, arguments)
        except Exception:
            return None

    def _changed(self, name: str, arguments: tuple) -> tuple:
        """Return the arguments with another number of this name, if it is a number."""
        place = self.arguments.index(name)
        value = arguments[place]
        other = value + 2 if isinstance(value, int) else value / 2 or 0.5 if isinstance(value, Real) else value
        return (*arguments[:place], other, *arguments[place + 1 :])

    def _matters(self, name: str, number: int) -> bool:
        """Tell whether another number of this name changes what is right in a trial."""
        changed = self._changed(name, self.trials[number][1])
        return not self._agree(self._try(self.reference, changed), self._rights[number])

    def _ignores(self, answer: Function, name: str, results: list[Any]) -> bool:
        """Tell whether another number of this name leaves each result as it is, although it matters.

        An answer may treat 0 by itself, and take a number of its own otherwise.
        """
        place = self.arguments.index(name)
        return all(
            self._agree(self._try(answer, self._changed(name, arguments)), results[number])
            for number, (_, arguments) in enumerate(self.trials)
            if isinstance(arguments[place], Real) and arguments[place] and self._matters(name, number)
        )

    def _agree(self, result: Any, other: Any) -> bool:
        """Tell whether the same was observed twice."""
        return close(result, other, self.tolerance)

    def _treats_each_alone(self, answer: Function, arguments: tuple) -> None:
        """Refuse an answer that lets the images of a batch influence one another."""
        pairs = list(zip(self.arguments, arguments, strict=True))
        together = self._see(answer, arguments)
        for i in range(len(arguments[self.arguments.index(self.batched[0])])):
            one = slice(i, i + 1)
            alone = self._see(answer, tuple(_part(a, one) if name in self.batched else a for name, a in pairs))
            expect(self._agree(alone, _part(together, one)), NOT_ALONE, KEEP_APART)

    def _leaves_no_trace(self, answer: Function, arguments: tuple) -> None:
        torch.rand(1), np.random.rand(), random.random()  # so that a seed of the answer shows  # noqa: NPY002
        streams = _random_streams()
        names = " ".join(name if name in self.untouched else "_" for name in self.arguments)
        with_model = isinstance(arguments[0], nn.Module)
        (in_both_modes if with_model else no_side_effects)(answer, names, *arguments)
        what = "your function changed the state of a random number generator, for the whole notebook."
        hint = "There is no randomness in this exercise: neither draw nor seed."
        expect(self.random or _random_streams() == streams, what, hint)

    def _is_own_work(self, answer: Function, arguments: tuple) -> None:
        finished = {inspect.unwrap(f).__code__: f"{f.__module__}.{f.__qualname__}" for f in self.library}
        finished[inspect.unwrap(self.reference).__code__] = "the solution with which the check compares it"
        called = _called(finished.keys(), answer, arguments)
        names = ", ".join(finished[code] for code in called)
        expect(not called, f"your function leaves the work to {names}.", OWN_WORK)


def _called(codes: Collection[CodeType], function: Function, arguments: tuple) -> set[CodeType]:
    """Return which of these pieces of code run while the function does."""
    called: set[CodeType] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in codes:
            called.add(frame.f_code)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call_with_copies(function, *arguments)
    finally:
        sys.setprofile(before)
    return called


def _part(value: Any, images: slice) -> Any:
    """Return what belongs to these images, of a tensor or of several."""
    if isinstance(value, dict):
        return {name: _part(entry, images) for name, entry in value.items()}
    return type(value)(entry[images] for entry in value) if isinstance(value, list | tuple) else value[images]


def _tried(function: Function, arguments: tuple) -> Any:
    """Return what a function gives, or None if it fails."""
    try:
        return call_with_copies(function, *arguments)
    except Exception:
        return None


def _same(result: Any, other: Any) -> bool:
    """Tell whether two results agree, also in where they are not a number; two without any number tell nothing."""
    if all(isinstance(r, Tensor) and r.is_floating_point() and not r.isnan().all() for r in (result, other)):
        result, other = (r.nan_to_num(nan=-9.0) for r in (result, other))
    return close(result, other)


def _random_streams() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()
