"""A chapter's parameters: what its own cell allows, what a user types, and the presets."""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..core.suggestions import did_you_mean
from . import chapters
from .chapters import Chapter, read_source

PRESETS = ("quick", "full")
MAX_WHOLE = 2**63

_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
_RANGE = re.compile(rf"(?<![\w.])({_NUMBER}) to ({_NUMBER})(?![\w.]*\d)")
_BOUNDS = re.compile(r"([-+]?\d+):([-+]?\d+)(?::([-+]?\d+))?")
_ITEM = re.compile(r'\s*(?:\[[^\]]*\]|"[^"]*"|[^,]+)')
_CHOICES = re.compile(r"\bone of: *(.+)$")


@dataclass(frozen=True)
class Parameter:
    """One line of a chapter's parameters cell: name, default, and the limits its comment states, if any."""

    name: str
    default: Any
    limits: tuple[float, float] | None = None
    choices: tuple[str, ...] = ()


def read_parameters(path: str | Path) -> dict[str, Parameter]:
    """Read the cell tagged `parameters`; a notebook without one has none.

    A comment on the line may state limits ("0 to 1") or the allowed values ("one of: mnist5k, mnist").

    Raises:
        ValueError: the cell holds anything but one `name = literal` per line.
    """
    cells = [c for c in read_source(path)["cells"] if "parameters" in c.get("metadata", {}).get("tags", [])]
    return parse_parameters("\n".join(c["source"] for c in cells))


def parse_parameters(source: str) -> dict[str, Parameter]:
    """Read the source of a parameters cell, see `read_parameters`.

    >>> parse_parameters("eps = 0.1  # pixel units, 0 to 1")
    {'eps': Parameter(name='eps', default=0.1, limits=(0.0, 1.0), choices=())}
    """
    try:
        statements, comments = ast.parse(source).body, _comments(source)
    except SyntaxError as error:
        raise ValueError(f"the parameters cell is not Python: {error.msg}, line {error.lineno}") from None
    found = {}
    for line in statements:
        text = ast.unparse(line)
        match line:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if line.lineno == line.end_lineno:
                pass
            case _:
                raise ValueError(f"the parameters cell may hold only `name = literal` lines, got {text!r}")
        try:
            default = ast.literal_eval(value)
        except ValueError:
            raise ValueError(f"a parameter's default must be a literal, got {text!r}") from None
        if name in found:
            raise ValueError(f"the parameters cell sets {name!r} twice")
        found[name] = Parameter(name, default, *_limits(comments.get(line.lineno, "")))
    return found


def check_parameters(chapter: str, known: Mapping[str, Parameter], params: Mapping[str, Any]) -> dict[str, Any]:
    """Return `params` as plain Python values, checked against the parameters that a chapter has.

    Args:
        chapter: its name, for those who are told what is wrong.
        known: what `read_parameters` found in it.
        params: the values to check, by name.

    Raises:
        ValueError: an unknown name (names the nearest), another type than the default's, a number that is
            not finite, or a value outside the limits that the cell's comment states.
    """
    for name in params:
        if not isinstance(name, str) or not name.isidentifier() or name not in known:
            raise ValueError(f"{chapter} has no parameter {name!r}. {did_you_mean(str(name), known)}")
    # NumPy scalars and arrays become Python values here: JSON knows nothing else.
    plain = {name: value.tolist() if hasattr(value, "tolist") else value for name, value in params.items()}
    return {name: _checked(known[name], known[name].default, value) for name, value in plain.items()}


def parse_value(text: str, default: Any) -> Any:
    """Read a value typed on the command line, with the parameter's default as the guide to its type.

    What cannot be read stays text, for `check_parameters` to refuse.

    >>> parse_value("8/255", 0.1), parse_value("true", False), parse_value("0.1, 0.2", [0.3]), parse_value("7", "x")
    (0.03137254901960784, True, [0.1, 0.2], '7')
    """
    if isinstance(default, str):
        return text
    word = text.strip()
    if isinstance(default, list | tuple) or (default is None and word.startswith("[")):
        inner = [item.strip() for item in word.removeprefix("[").removesuffix("]").split(",")]
        guide = default[0] if default else None
        return [parse_value(item.strip("'\"") if guide is None else item, guide) for item in inner if item]
    words = {"true": True, "false": False} | ({"none": None} if default is None else {})
    if word.lower() in words:
        return words[word.lower()]
    try:
        over, slash, under = word.partition("/")
        return float(over) / float(under) if slash else _int_or_float(word)
    except (ValueError, ZeroDivisionError):
        return text


def parse_values(text: str, default: Any) -> Sequence[Any]:
    """Read several values typed on the command line: divided by commas, or a range of whole numbers START:STOP[:STEP].

    As in Python, a range ends before STOP. A list stands in brackets, a text with a comma in double quotes.

    Raises:
        ValueError: no values, or a range without end.

    >>> parse_values("8/255, 0.1", 0.3), parse_values("0:3", 0), parse_values("[1,2],[3]", [0])
    ([0.03137254901960784, 0.1], range(0, 3), [[1, 2], [3]])
    """
    bounds = _BOUNDS.fullmatch(text.strip())
    if bounds and not isinstance(default, str | list | tuple):
        start, stop, step = (int(number or 1) for number in bounds.groups())
        found = range(start, stop, step) if step else []
    else:
        found = [parse_value(_unquoted(item.strip()), default) for item in _ITEM.findall(text) if item.strip()]
    if len(found) == 0:
        raise ValueError(f"expected values, like 0.1,0.2 or 0:5, got {text!r}")
    return found


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def load_preset(name: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of a preset by chapter number; those under "all" are for every chapter that has them.

    "quick" is empty: the defaults in the notebooks. "full" is `notebooks/presets/full.yaml`.

    Raises:
        ValueError: an unknown preset, or a file that is not such a mapping.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}. {did_you_mean(name, PRESETS)}")
    if name == "quick":
        return {}
    path = chapters.NOTEBOOKS / "presets" / f"{name}.yaml"
    preset = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not all(isinstance(k, str) and isinstance(v, dict) for k, v in preset.items()):
        raise ValueError(f'{path} must map "all" or a quoted chapter number to parameters')
    return preset


def preset_parameters(preset: Mapping[str, Mapping[str, Any]], chapter: Chapter) -> dict[str, Any]:
    """Return what a loaded preset sets in this chapter, the chapter's own entry before the one for all."""
    known = read_parameters(chapter.path)
    shared = {name: value for name, value in preset.get("all", {}).items() if name in known}
    return shared | dict(preset.get(chapter.number, {}))


def _comments(source: str) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def _limits(comment: str) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    if found := _CHOICES.search(comment):
        return None, tuple(word.strip(" \"'`") for word in found[1].split(","))
    found = _RANGE.search(comment)
    return (float(found[1]), float(found[2])) if found else None, ()


def _int_or_float(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


# For the type of a default: the types that a value may have, and how to call them. A bool is an int, so it comes first.
_KINDS = (
    (bool, bool, "true or false"),
    (int, int, "a whole number"),
    (float, int | float, "a number"),
    (str, str, "text"),
    (list | tuple, list | tuple, "a list"),
    (type(None), str | int | float | None, "a number, text, true, false or None"),
)


def _checked(parameter: Parameter, default: Any, value: Any) -> Any:
    """Return a value, or an item of a list, that is of its default's type and within the parameter's limits."""
    name = parameter.name
    found = next((each for each in _KINDS if isinstance(default, each[0])), None)
    if found is None:
        raise ValueError(f"{name} cannot be set from outside: its default is a {type(default).__name__}")
    kind, allowed, wanted = found
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind in (int, float)):
        raise ValueError(f"{name} must be {wanted}, like {default!r}, got {value!r}")
    if isinstance(value, list | tuple):
        return [_checked(parameter, default[0] if default else None, item) for item in value]
    if isinstance(value, int) and not -MAX_WHOLE <= value < MAX_WHOLE:
        raise ValueError(f"{name} must fit into 64 bits, got a number of {value.bit_length()}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value}")
    if isinstance(value, str) and value != value.encode(errors="replace").decode():
        raise ValueError(f"{name} must be text that UTF-8 can store, got {value!r}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and parameter.limits and not parameter.limits[0] <= value <= parameter.limits[1]:
        low, high = parameter.limits
        raise ValueError(f"{name} must lie in {low:g} to {high:g}, got {value}")
    if parameter.choices and str(value) not in parameter.choices:
        near = did_you_mean(str(value), parameter.choices)
        raise ValueError(f"{name} must be one of {', '.join(parameter.choices)}, got {value!r}. {near}")
    return float(value) if kind is float else value
