"""Changes a solution in one place, as a slip of the pen would, to see whether the check of its exercise notices.

`python tests/mutants.py pgd` lists the mutants of an exercise's solution that its check accepts.
"""

import ast
import copy
import difflib
import json
import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from course_utils import attacks
from course_utils.exercises import check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions"
OPERATORS = {ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div, ast.Add], ast.Div: [ast.Mult]}
COMPARISONS = {
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
}
TWINS = {"min": "max", "max": "min", "argmax": "argmin", "argmin": "argmax", "clamp_min": "clamp_max", "sign": "abs"}


def solution(name: str) -> ast.FunctionDef:
    """Return the solution of an exercise in the notebooks, without annotations and docstring.

    Raises:
        ValueError: no notebook has the exercise.
    """
    for path in SOLUTIONS.glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if f'check("{name}"' in source and "BEGIN SOLUTION" in source:
                function = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name)
                function.body = function.body[1:] if ast.get_docstring(function) else function.body
                function.returns = None
                for argument in function.args.args:
                    argument.annotation = None
                return function
    raise ValueError(f"no notebook has the exercise {name!r}")


def _places(tree: ast.AST) -> Iterator[tuple]:
    """Yield each node below a tree, and a function that puts another one there."""
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, list):
                yield from ((v, partial(value.__setitem__, i)) for i, v in enumerate(value) if isinstance(v, ast.AST))
            elif isinstance(value, ast.AST):
                yield value, partial(setattr, parent, field)


def _alternatives(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """Yield what may stand in a node's place by mistake; `names` are the arguments of the function."""

    def changed(**fields: object) -> ast.AST:
        other = copy.deepcopy(node)
        for field, value in fields.items():
            setattr(other, field, value)
        return other

    match node:
        case ast.BinOp():
            yield from (changed(op=op()) for op in OPERATORS.get(type(node.op), ()))
            if isinstance(node.op, ast.Sub | ast.Div):
                yield changed(left=node.right, right=node.left)
            yield from (node.left, node.right)
        case ast.UnaryOp():
            yield node.operand
        case ast.Compare():
            yield from (changed(ops=[op()]) for op in COMPARISONS.get(type(node.ops[0]), ()))
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            yield from (changed(value=v) for v in ((value + 1, value - 1) if isinstance(value, int) else (1e-3, 0.0)))
        case ast.Call():
            if isinstance(node.func, ast.Attribute):
                yield node.func.value  # the call is dropped
                if node.func.attr in TWINS:
                    yield changed(func=ast.Attribute(node.func.value, TWINS[node.func.attr], ast.Load()))
            if node.args:
                yield node.args[0]
            if len(node.args) > 1:
                yield changed(args=[node.args[1], node.args[0], *node.args[2:]])
            yield from (changed(keywords=[k for k in node.keywords if k is not out]) for out in node.keywords)
            if isinstance(node.func, ast.Name) and node.func.id == "range":
                yield from (changed(args=[ast.BinOp(node.args[0], op(), ast.Constant(1))]) for op in (ast.Add, ast.Sub))
        case ast.keyword() if node.arg in TWINS:
            yield changed(arg=TWINS[node.arg])
        case ast.Name(ctx=ast.Load()) if node.id in names:
            yield from (changed(id=name) for name in names if name != node.id)
        case ast.For():
            yield changed(body=[*node.body, ast.Return(ast.Name(_target(node), ast.Load()))])
        case ast.stmt():
            yield ast.Pass()


def _target(loop: ast.For) -> str:
    """Return the name to which the last assignment of a loop's body gives a value."""
    names = [n.id for n in ast.walk(loop) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return names[-1]


def mutants(name: str) -> Iterator[tuple[str, str]]:
    """Yield what has changed, in words, and the source of each mutant of an exercise's solution."""
    function = solution(name)
    original = ast.unparse(function)
    arguments = [argument.arg for argument in function.args.args]
    seen = {original}
    for node, put in [place for statement in function.body for place in _places(ast.Module([statement], []))]:
        for other in _alternatives(node, arguments):
            put(other)
            source = ast.unparse(ast.fix_missing_locations(function))
            put(node)
            if source not in seen:
                seen.add(source)
                lines = difflib.ndiff(original.splitlines(), source.splitlines())
                yield "; ".join(line[2:].strip() for line in lines if line[:2] == "+ "), source


def passes(name: str, source: str) -> bool:
    """Tell whether the check of an exercise accepts this source."""
    scope = {"torch": torch, "F": F, "math": math, "attacks": attacks}
    exec(source, scope)
    return bool(check(name, scope[name], strict=False))


def survivors(name: str) -> list[str]:
    """Return the changes to an exercise's solution that its check accepts."""
    return [change for change, source in mutants(name) if passes(name, source)]


if __name__ == "__main__":
    for exercise in sys.argv[1:]:
        print(exercise, *survivors(exercise), sep="\n    ")
