"""A chapter's parameters: what its own cell allows, what a user types, and the presets."""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import chapters
from .chapters import Chapter, read_notebook
from .names import nearest

PRESETS = ("quick", "full")

_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
_RANGE = re.compile(rf"(?<![\w.])({_NUMBER}) to ({_NUMBER})(?![\w.]*\d)")
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
    cells = [c for c in read_notebook(path).cells if "parameters" in c.metadata.get("tags", [])]
    return parse_parameters("\n".join(c.source for c in cells))


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


def check_parameters(path: str | Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return `params` as plain Python values, checked against the notebook's own parameters cell.

    Raises:
        ValueError: an unknown name (names the nearest), another type than the default's, a number that is
            not finite, or a value outside the limits that the cell's comment states.
    """
    known = read_parameters(path)
    for name in params:
        if not isinstance(name, str) or not name.isidentifier() or name not in known:
            raise ValueError(f"{Path(path).stem} has no parameter {name!r}. {nearest(str(name), known)}")
    return {name: _checked(known[name], value) for name, value in params.items()}


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


def load_preset(name: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of a preset by chapter number; those under "all" are for every chapter that has them.

    "quick" is empty: the defaults in the notebooks. "full" is `notebooks/presets/full.yaml`.

    Raises:
        ValueError: an unknown preset, or a file that is not such a mapping.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}. {nearest(name, PRESETS)}")
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
    return ((float(found[1]), float(found[2])) if found else None), ()


def _int_or_float(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _checked(parameter: Parameter, value: Any) -> Any:
    # NumPy scalars and arrays become Python values here: JSON knows nothing else.
    value = _as_type_of(parameter.default, value.tolist() if hasattr(value, "tolist") else value, parameter.name)
    for item in value if isinstance(value, list) else [value]:
        is_number = isinstance(item, int | float) and not isinstance(item, bool)
        if is_number and not math.isfinite(item):
            raise ValueError(f"{parameter.name} must be a finite number, got {item}")
        if is_number and parameter.limits and not parameter.limits[0] <= item <= parameter.limits[1]:
            low, high = parameter.limits
            raise ValueError(f"{parameter.name} must lie in {low:g} to {high:g}, got {item}")
        if parameter.choices and str(item) not in parameter.choices:
            near = nearest(str(item), parameter.choices)
            raise ValueError(f"{parameter.name} must be one of {', '.join(parameter.choices)}, got {item!r}. {near}")
    return value


def _as_type_of(default: Any, value: Any, name: str) -> Any:
    def wrong(wanted: str) -> ValueError:
        return ValueError(f"{name} must be {wanted}, like {default!r}, got {value!r}")

    is_whole = isinstance(value, int) and not isinstance(value, bool)
    match default:
        case bool():
            if not isinstance(value, bool):
                raise wrong("true or false")
        case int():
            if not is_whole:
                raise wrong("a whole number")
        case float():
            if not is_whole and not isinstance(value, float):
                raise wrong("a number")
            return float(value)
        case str():
            if not isinstance(value, str):
                raise wrong("text")
        case list() | tuple():
            if not isinstance(value, list | tuple):
                raise wrong("a list")
            return [_as_type_of(default[0] if default else None, item, name) for item in value]
        case None:
            if not isinstance(value, str | int | float | None):
                raise wrong("a number, text, true, false or None")
        case _:
            raise ValueError(f"{name} cannot be set from outside: its default is a {type(default).__name__}")
    return value
