"""Answers to the exercises, right and wrong: for each chapter a file by readers who had not seen the checks.

Beside it stand `<chapter>_right` and `<chapter>_wrong`, by those who wrote the checks: tables by exercise, of answers,
or of answers with a part of what the check says.
"""

import importlib
import pkgutil
from collections.abc import Callable

RIGHT: list[tuple[str, Callable]] = []  # exercise, answer
WRONG: list[tuple[str, str, str, Callable]] = []  # exercise, what is wrong with it, what the check says, answer
OWN_RIGHT: list[tuple[str, Callable]] = []  # of those who wrote the checks
OWN_WRONG: list[tuple[str, str, str, Callable]] = []


def right(exercise: str) -> Callable[[Callable], Callable]:
    """Register a right answer to an exercise."""

    def register(answer: Callable) -> Callable:
        RIGHT.append((exercise, answer))
        return answer

    return register


def wrong(exercise: str, fault: str, says: str = "") -> Callable[[Callable], Callable]:
    """Register a wrong answer to an exercise, with a part of the sentence that names its fault."""

    def register(answer: Callable) -> Callable:
        WRONG.append((exercise, fault, says, answer))
        return answer

    return register


def load() -> None:
    """Fill the lists from all files of this folder, once."""
    if RIGHT:
        return
    for module in pkgutil.iter_modules(__path__):
        tables = vars(importlib.import_module(f"{__name__}.{module.name}"))
        for name, given in tables.get("RIGHT", {}).items():
            OWN_RIGHT.extend((name, answer) for answer in given)
        for name, given in tables.get("WRONG", {}).items():
            OWN_WRONG.extend((name, says, says, answer) for answer, says in given)
