"""Answers to the exercises, right and wrong, by readers who had not seen the checks: one file for each chapter."""

from collections.abc import Callable

RIGHT: list[tuple[str, Callable]] = []  # exercise, answer
WRONG: list[tuple[str, str, str, Callable]] = []  # exercise, what is wrong with it, what the check says, answer


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
