"""Exercises as data: a reference, cases on which an answer agrees with it, and mistakes that are functions."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .engine import exercise, expect
from .error_hints import CheckFailed
from .mistakes import SAME_FOR_EVERY
from .properties import as_tensor_like, call_with_copies, close, in_both_modes, no_side_effects, treats_each_alone

Function = Callable[..., Any]  # takes the arguments of the exercise

NO_RANDOMNESS = "A second call gives another result. This exercise has no randomness: the arguments alone decide."


@dataclass(frozen=True)
class Case:
    """A property of the answer.

    Args:
        label: the property, in words. where: to look for the fault if no known mistake explains the answer.
        arguments: functions that return the arguments of a call; each check makes its own.
    """

    label: str
    arguments: Sequence[Callable[[], tuple]]
    where: str


class Mistake:
    """What a student may have got wrong.

    Args:
        words: what to say. functions: wrong answers to the exercise, all to be mended as the words say.
    """

    def __init__(self, words: str, *functions: Function):
        self.words, self.functions = words, functions


@dataclass(frozen=True)
class Exercise:
    """What an answer is compared with, on what, and what is said about answers that differ.

    Args:
        name: of the exercise. reference: the right answer. mistakes: wrong ones; of two that explain an answer on
            equally many cases, the first is named.
        cases: in the order of what is asked; those of the last have other sizes. typical: arguments on which the shape
            and the type are asked first; default those of the first case.
        batched: arguments with an entry for each image. untouched: those which the answer may not change.
        like: the argument whose shape, type and device the result has. returns: what it is, in words.
        happened: says in numbers how a result differs, from what the answer gave, what is right, and the arguments.
        explain: says what is wrong with a result that no mistake explains, from the same, or returns nothing.
        tolerance: of a pixel.

    Example:
        >>> Exercise("double", reference=lambda x: 2 * x, cases=[…], mistakes=[Mistake("That is x.", lambda x: x)])
    """

    name: str
    reference: Function
    cases: Sequence[Case]
    mistakes: Sequence[Mistake]
    batched: tuple[str, ...] = ()
    untouched: tuple[str, ...] = ()
    typical: Callable[[], tuple] | None = None
    like: str = "x"
    returns: str = "new images like x"
    happened: Callable[..., str] | None = None
    explain: Callable[..., str] | None = None
    tolerance: float = 1e-5

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

    def trials(self) -> Iterator[tuple[Case, tuple]]:
        """Yield each case with the arguments of each of its calls."""
        return ((case, make()) for case in self.cases for make in case.arguments)

    def check(self, answer: Function) -> Iterator[str]:
        """Yield each property before it is tested.

        Raises:
            CheckFailed: the answer does not have it.
        """
        yield f"returns {self.returns}"
        self._result(answer, (self.typical or self.cases[0].arguments[0])())
        begun = None
        for case, arguments in self.trials():
            if case is not begun:
                yield case.label
            begun = case
            got, right = self._result(answer, arguments), self.reference(*arguments)
            if not close(got, right, self.tolerance):
                what = (self.happened or self._difference)(got, right, *arguments)
                raise CheckFailed(what, self._diagnosis(answer, arguments, got, right) or case.where)
        if self.batched:
            yield "gives an image alone what it gives it in a batch"
            self._treats_each_alone(answer, arguments)
        yield f"leaves {', '.join(self.untouched)} as before"
        self._leaves_no_trace(answer, arguments)

    def _result(self, answer: Function, arguments: tuple) -> Tensor:
        like = arguments[self.arguments.index(self.like)]
        return as_tensor_like(call_with_copies(answer, *arguments), like, self.like)

    def _difference(self, got: Tensor, right: Tensor, *arguments: Any) -> str:
        given = dict(zip(self.arguments, arguments, strict=True))
        numbers = " and ".join(f"{name} = {value}" for name, value in given.items() if isinstance(value, Real))
        (far, low, high), (far_right, low_right, high_right) = (
            (f"{(v - given[self.like]).abs().max():.3g}", f"{v.min():.3g}", f"{v.max():.3g}") for v in (got, right)
        )
        share = 100 * ((got - right).abs() > self.tolerance).float().mean()
        return (
            f"with {numbers or 'these arguments'} {share:.0f} % of the values are wrong: they are up to {far} away from {self.like}, "
            f"right is {far_right}; they go from {low} to {high}, right is {low_right} to {high_right}."
        )

    def _diagnosis(self, answer: Function, arguments: tuple, got: Tensor, right: Tensor) -> str:
        """Return what is said about the likeliest mistake, or nothing.

        A mistake that explains this result and most of the others is it. One that explains fewer may be a coincidence,
        and comes after what can be told from the answer alone.
        """
        wrong = [(function, mistake.words) for mistake in self.mistakes for function in mistake.functions]
        fitting = [(f, words) for f, words in wrong if self._agree(_tried(f, arguments), got)]
        calls = [(a, _tried(answer, a)) for _, a in self.trials()]
        explained = [(sum(self._agree(_tried(f, a), result) for a, result in calls), words) for f, words in fitting]
        most, likeliest = max(explained, key=itemgetter(0), default=(0, ""))
        if 2 * most > len(calls):
            return likeliest
        if not self._agree(_tried(answer, arguments), got):
            return NO_RANDOMNESS
        for name in self.arguments:
            if self._matters(name, arguments) and self._ignores(answer, name, calls):
                return SAME_FOR_EVERY.format(name)
        return likeliest or (self.explain(got, right, *arguments) if self.explain else "")

    def _changed(self, name: str, arguments: tuple) -> tuple:
        """Return the arguments with another number of this name, if it is a number."""
        place = self.arguments.index(name)
        value = arguments[place]
        other = value + 2 if isinstance(value, int) else value / 2 if isinstance(value, Real) else value
        return (*arguments[:place], other, *arguments[place + 1 :])

    def _matters(self, name: str, arguments: tuple) -> bool:
        """Tell whether another number of this name changes what is right."""
        return not self._agree(self.reference(*self._changed(name, arguments)), self.reference(*arguments))

    def _ignores(self, answer: Function, name: str, calls: list[tuple[tuple, Any]]) -> bool:
        """Tell whether another number of this name leaves each result as it is, although it matters."""
        return all(
            self._agree(_tried(answer, self._changed(name, arguments)), result)
            for arguments, result in calls
            if self._matters(name, arguments)
        )

    def _agree(self, result: Any, other: Any) -> bool:
        """Tell whether two results are the same."""
        return close(result, other, self.tolerance)

    def _treats_each_alone(self, answer: Function, arguments: tuple) -> None:
        def part(images: slice) -> tuple:
            pairs = zip(self.arguments, arguments, strict=True)
            return tuple(_part(a, images) if name in self.batched else a for name, a in pairs)

        treats_each_alone(answer, len(arguments[self.arguments.index(self.batched[0])]), part, self.tolerance)

    def _leaves_no_trace(self, answer: Function, arguments: tuple) -> None:
        torch.rand(1), np.random.rand(), random.random()  # so that a seed of the answer shows  # noqa: NPY002
        streams = _random_streams()
        names = " ".join(name if name in self.untouched else "_" for name in self.arguments)
        with_model = isinstance(arguments[0], nn.Module)
        (in_both_modes if with_model else no_side_effects)(answer, names, *arguments)
        what = "your function changed the state of a random number generator, for the whole notebook."
        expect(_random_streams() == streams, what, "There is no randomness in this exercise: neither draw nor seed.")


def _part(argument: Any, images: slice) -> Any:
    return [entry[images] for entry in argument] if isinstance(argument, list) else argument[images]


def _tried(function: Function, arguments: tuple) -> Any:
    """Return what a function gives, or None if it fails."""
    try:
        return call_with_copies(function, *arguments)
    except Exception:
        return None


def _random_streams() -> tuple[Any, ...]:
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()
