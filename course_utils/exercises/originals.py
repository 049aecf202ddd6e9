"""What the checks rely on, as it was imported: a check does not use what the notebook has put in its place."""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import wraps
from operator import is_not
from types import CodeType, FunctionType, GetSetDescriptorType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HERE = __package__ + "."
_COURSE = __package__.partition(".")[0] + "."
_MAY_CHANGE = {"SECONDS", "PRINTED", "GRACE"}  # a slow machine may need more time
_CHANGED_BY_TORCH = {"manual_seed", "__init__", "__setstate__"}  # when something is compiled for the first time
_MISSING = object()


class _Place(NamedTuple):
    """Where names stand: a module, a class or a dictionary; what they stood for; and what no new name may hide."""

    label: str
    holder: Any
    names: tuple[str, ...]
    values: tuple[Any, ...]
    hidden: frozenset[str]

    def changed(self) -> list[str]:
        """Return the names that stand for something else now."""
        now = _names_in(self.holder)
        changed = []
        if any(map(is_not, map(now.get, self.names), self.values)):  # without a Python loop: asked after every call
            changed = [name for name, value in zip(self.names, self.values, strict=True) if now.get(name) is not value]
        return changed if self.hidden.isdisjoint(now) else [*changed, *self.hidden.intersection(now)]

    def original(self, name: str) -> Any:
        """Return what the name stood for, or that it was missing."""
        return self.values[self.names.index(name)] if name in self.names else _MISSING

    def put(self, name: str, value: Any) -> None:
        """Let the name stand for this value, or for nothing."""
        if isinstance(self.holder, type):
            delattr(self.holder, name) if value is _MISSING else setattr(self.holder, name, value)
        elif value is _MISSING:
            _names_in(self.holder).pop(name, None)
        else:
            _names_in(self.holder)[name] = value


_Replaced = list[tuple[_Place, str, Any]]


def sealed(check: Callable[..., Any], exercises: dict[str, Any]) -> Callable[..., Any]:
    """Return a check that works with what is imported now, and undoes what an answer replaces.

    Args:
        check: takes `undo`, which puts back what was replaced and returns the names. exercises: the table of exercises.
    """
    places, code = _places(exercises), _code()

    # The places stay in this closure: they have no name that a notebook could give to something else.
    def put_back() -> _Replaced:
        replaced = [(p, name, _names_in(p.holder).get(name, _MISSING)) for p in places for name in p.changed()]
        for place, name, _ in replaced:
            place.put(name, place.original(name))
        return replaced

    def undo() -> list[str]:
        return [*_put_code_back(code), *(f"{place.label}.{name}" for place, name, _ in put_back())]

    @wraps(check)
    def check_with_originals(name: str, answer: Any, *, strict: bool | None = None) -> Any:
        _put_code_back(code)
        replaced = put_back()
        try:
            return check(name, answer, strict=strict, undo=undo)
        finally:
            undo()  # an answer that failed may have left something
            for place, key, value in replaced:  # the notebook's own business
                place.put(key, value)

    del check_with_originals.__wrapped__  # its signature has an `undo`
    return check_with_originals


def _names_in(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else vars(holder)


def _put_code_back(code: list[tuple[FunctionType, CodeType]]) -> list[str]:
    """Give functions the code back that they had, and return the names of those that had another."""
    rewritten = [(function, own) for function, own in code if function.__code__ is not own]
    for function, own in rewritten:
        function.__code__ = own
    return [f"{function.__module__}.{function.__qualname__}" for function, _ in rewritten]


def _course_modules() -> list[ModuleType]:
    modules = [module for name, module in sys.modules.items() if name.startswith(_COURSE)]
    return [m for m in modules if m.__name__ + "." != _HERE]  # this package is still being imported


def _classes(modules: Iterable[ModuleType]) -> list[type]:
    return [c for m in modules for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__]


def _functions(holder: Any) -> Iterator[FunctionType]:
    """Yield the functions that are written in a module or a class."""
    for value in vars(holder).values():
        function = getattr(value, "__func__", value)  # of a classmethod or staticmethod
        if isinstance(function, FunctionType) and function.__module__.startswith(_COURSE):
            yield function


def _code() -> list[tuple[FunctionType, CodeType]]:
    modules = _course_modules()
    return [(f, f.__code__) for holder in (*modules, *_classes(modules)) for f in _functions(holder)]


def _used(code: CodeType) -> set[str]:
    """Return the names that a piece of code looks up, and the functions inside it."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_used, inner))


def _places(exercises: dict[str, Any]) -> list[_Place]:
    modules = _course_modules()
    ours = [m for m in modules if m.__name__.startswith(_HERE)]
    used = set().union(*(_used(code) for f, code in _code() if f.__module__.startswith(_HERE))) - _CHANGED_BY_TORCH
    functions = frozenset(used & vars(builtins).keys())
    layers = {c for name, c in vars(nn).items() if name in used and isinstance(c, type)} | {nn.Module, Tensor}
    libraries = (torch, F, torch.linalg, torch.autograd, nn, nn.init, np, math)
    return [
        _place("exercise", exercises, exercises),
        _place("builtins", builtins, functions),
        *(_place(library.__name__, library, used) for library in libraries),
        *(_place(m.__name__, m, _values(m, everything=m in ours), functions - vars(m).keys()) for m in modules),
        *(_class_place(layer, _CHANGED_BY_TORCH) for layer in layers),
        *map(_class_place, _classes(modules)),
    ]


def _place(label: str, holder: Any, names: Iterable[str], hidden: frozenset[str] = frozenset()) -> _Place:
    now = _names_in(holder)
    names = tuple(sorted(name for name in names if name in now))
    return _Place(label, holder, names, tuple(now[name] for name in names), hidden)


def _values(module: ModuleType, everything: bool) -> list[str]:
    """Return the names of a module's functions and classes, or of everything in it."""
    named = {k: v for k, v in vars(module).items() if not k.startswith("__") and k not in _MAY_CHANGE}
    return [name for name, value in named.items() if everything or callable(value)]


def _behaves(value: Any) -> bool:
    return callable(value) or isinstance(value, property | classmethod | staticmethod | GetSetDescriptorType)


def _class_place(holder: type, free: Collection[str] = ()) -> _Place:
    above = {name for base in holder.__mro__[1:] for name, value in vars(base).items() if _behaves(value)}
    own = [name for name, value in vars(holder).items() if _behaves(value) and name not in free]
    label = f"{holder.__module__}.{holder.__qualname__}"
    return _place(label, holder, own, hidden=frozenset(above - vars(holder).keys() - set(free)))
