"""Run chapters without a browser: find them, check their parameters, execute them, say what became of them."""

from __future__ import annotations

import ast
import difflib
import io
import json
import math
import os
import re
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import yaml
import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

from .claims import CLAIMS_MIME, RESULTS_MIME
from .files import write_text
from .runtime import PROJECT, THREADS

NOTEBOOKS = PROJECT / "notebooks"
PRESETS = ("quick", "full")
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?"
_RANGE = re.compile(rf"(?<![\w.])({_NUMBER}) to ({_NUMBER})(?![\w.]*\d)")
_CHOICES = re.compile(r"\bone of: *(.+)$")
_KEPT_CELL_METADATA = ("tags", "jupyter", "nbgrader", "editable", "deletable")
_PROMISE = "**The promise.**"
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


# --- chapters -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chapter:
    """One notebook of the course: "01", "01_linear_models", its file, and the text of its first heading."""

    number: str
    name: str
    path: Path

    @classmethod
    def at(cls, path: str | Path) -> Chapter:
        """Return the chapter in this file."""
        path = Path(path)
        return cls(path.stem[:2] if path.stem[:2].isdigit() else "", path.stem, path)

    @cached_property
    def _opening(self) -> tuple[str, str]:
        text = "\n\n".join(c.source for c in read_notebook(self.path).cells if c.cell_type == "markdown")
        found = re.search(r"^# (.+)$", text, re.MULTILINE)
        if not found:
            return self.name, ""
        paragraphs = [" ".join(p.split()) for p in text[found.end() :].split("\n\n")]
        first = next((p for p in paragraphs if p and not p.startswith(("#", "<", "|", ">", "-"))), "")
        promise = next((p for p in paragraphs if p.startswith(_PROMISE)), first).removeprefix(_PROMISE)
        return found[1].strip(), re.sub(r"\*\*|__|[*`]", "", promise).strip()

    @property
    def title(self) -> str:
        """The text of the first heading."""
        return self._opening[0]

    @property
    def promise(self) -> str:
        """The paragraph that begins with "The promise.", else the first, without its emphasis."""
        return self._opening[1]


def chapters(student: bool = False) -> list[Chapter]:
    """List the chapters in order: the solutions, or with `student=True` the versions with exercises.

    Raises:
        ValueError: there is no chapter, as when the package was installed without its checkout.
    """
    folder = NOTEBOOKS if student else NOTEBOOKS / "solutions"
    found = [Chapter.at(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    if not found:
        raise ValueError(
            f"no chapters in {folder}. Work in the course's checkout and install it with `pip install -e .`."
        )
    return found


def find_chapter(text: str, student: bool = False) -> Chapter:
    """Return the chapter meant by "01", "1", "linear_models", "01_linear_models" or the path of a notebook.

    Raises:
        ValueError: no such chapter; names the nearest one.
    """
    if text.endswith(".ipynb") and Path(text).is_file():
        return Chapter.at(Path(text).resolve())
    known = chapters(student)
    wanted = Path(text).name.removesuffix(".ipynb")
    for chapter in known:
        names = (chapter.number, chapter.number.lstrip("0") or "0", chapter.name, chapter.name[3:])
        if wanted in names:
            return chapter
    names = [name for c in known for name in (c.name, c.name[3:])]
    raise ValueError(f"no chapter {text!r}. {nearest(wanted, names, [c.name for c in known])}")


def nearest(wrong: str, candidates: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """Say which candidate comes nearest to a wrong name, or list them all."""
    candidates = list(candidates)
    near = [c for c in candidates if wrong and wrong in c] or difflib.get_close_matches(wrong, candidates, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(listed or candidates) or 'none'}."


# --- parameters -----------------------------------------------------------------------------------


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
    path = NOTEBOOKS / "presets" / f"{name}.yaml"
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


# --- notebook files -------------------------------------------------------------------------------


def read_notebook(path: str | Path) -> nbformat.NotebookNode:
    """Read a notebook.

    Raises:
        ValueError: the file is missing or is not a notebook.
    """
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise ValueError(f"no notebook {path}") from None
    except (nbformat.reader.NotJSONError, nbformat.validator.NotebookValidationError) as error:
        raise ValueError(f"{path} is not a notebook: {str(error).splitlines()[0][:200]}") from None


def notebook_text(nb: nbformat.NotebookNode) -> str:
    """Return a notebook as the one text in which it is stored."""
    return nbformat.writes(nb).rstrip("\n") + "\n"


def write_notebook(nb: nbformat.NotebookNode, path: str | Path) -> None:
    """Write a notebook as `notebook_text`, in one step: never half a file."""
    write_text(Path(path), notebook_text(nb))


def tidy(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Reduce an executed notebook, in place, to what is worth keeping, the same on every machine.

    Live widgets cannot be shown without their kernel: their picture or table stays, and one without is dropped.
    Timings, widget state and the Python version go.
    """
    nb.nbformat, nb.nbformat_minor = 4, 5
    nb.metadata = nbformat.from_dict(_METADATA)
    for index, cell in enumerate(nb.cells):
        cell.id = cell.get("id") or f"cell-{index:02d}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in _KEPT_CELL_METADATA and v})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _keep_output(output)]
    return nb


def _keep_output(output: nbformat.NotebookNode) -> bool:
    data = output.get("data", {})
    if data.pop(WIDGET_MIME, None) is None:
        return True
    return any(kind in data for kind in ("image/png", "image/svg+xml", "text/html", "text/markdown"))


# --- running --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunResult:
    """What became of one run; `error` is one line, `notebook` the executed file, of a failed run too."""

    name: str
    status: str  # "completed" or "failed"
    seconds: float
    notebook: Path
    claims_passed: int = 0
    claims_total: int = 0
    peak_memory_mb: int | None = None
    results: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def __bool__(self) -> bool:
        return self.status == "completed"


class ThisPython(AsyncKernelManager):
    """Starts kernels with the Python that runs the course, whatever a kernel called "python3" elsewhere may be."""

    @default("transport_encryption")
    def _encrypt_where_possible(self) -> str:
        return "auto" if zmq.has("curve") else "disabled"

    @property
    def kernel_spec(self) -> KernelSpec:
        from ipykernel.kernelspec import get_kernel_dict

        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        threads = {name: os.environ.get(name, value) for name, value in THREADS.items()}
        return KernelSpec(**get_kernel_dict(), env={"PYTHONPATH": path, **threads})


def run_notebook(
    path: str | Path,
    params: Mapping[str, Any],
    out_dir: str | Path,
    *,
    timeout: float | None = None,
    progress: bool = True,
) -> RunResult:
    """Execute a notebook with papermill into `out_dir`; write `<name>.ipynb` and `<name>.status.json` there.

    A run is "completed" only if no cell failed, the last code cell ran, and `claims.record` published results:
    `sys.exit(0)`, a dead kernel and a timeout leave notebooks that look finished.

    Args:
        path: the notebook.
        params: values for its parameters cell, see `check_parameters`.
        out_dir: a folder, made if need be.
        timeout: seconds allowed to each cell.
        progress: show a progress bar.

    Raises:
        ValueError: the notebook or a parameter is wrong; nothing has run then.
    """
    path, out_dir = Path(path).resolve(), Path(out_dir).resolve()
    params = check_parameters(path, params)
    out_dir.mkdir(parents=True, exist_ok=True)
    status_file = out_dir / f"{path.stem}.status.json"
    status_file.unlink(missing_ok=True)  # a run that is killed must not be taken for the one before
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".run-") as scratch:
        temporary = Path(scratch) / path.name
        failure = _execute(path, temporary, params, timeout, progress)
        nb = read_notebook(temporary) if temporary.exists() else _without_outputs(read_notebook(path))
    result = _judge(nb, failure, out_dir / path.name, time.monotonic() - began)
    if result:  # papermill marks a cell tagged raises-exception as a failure, too
        nb.cells = [c for c in nb.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    write_notebook(tidy(nb), result.notebook)
    finished = time.strftime("%Y-%m-%d %H:%M")
    status = asdict(result) | {"notebook": path.name, "params": params, "finished": finished}
    write_text(status_file, json.dumps(status, indent=1) + "\n")
    return result


def rebuild(path: str | Path, *, timeout: float | None = None) -> RunResult:
    """Execute a notebook in place, top to bottom in a fresh kernel; a failed run leaves the file as it was."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    path = Path(path).resolve()
    nb = _without_outputs(read_notebook(path))
    began, failure = time.monotonic(), None
    try:
        NotebookClient(nb, timeout=timeout, record_timing=False, **_client_options(path)).execute()
    except CellExecutionError:
        pass  # the traceback is in the notebook
    except Exception as error:
        failure = error
    result = _judge(nb, failure, path, time.monotonic() - began)
    if result:
        write_notebook(tidy(nb), path)
    return result


def _without_outputs(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def _client_options(path: Path) -> dict[str, Any]:
    return {
        "kernel_manager_class": ThisPython,
        "kernel_name": "python3",
        "resources": {"metadata": {"path": str(path.parent)}},  # papermill's own `cwd` moves this whole process
        "store_widget_state": False,
        "coalesce_streams": True,
    }


def _execute(
    path: Path, target: Path, params: dict[str, Any], timeout: float | None, progress: bool
) -> Exception | None:
    import papermill

    def literally(file: Path) -> str:  # papermill fills braces in paths
        return str(file).replace("{", "{{").replace("}", "}}")

    try:
        papermill.execute_notebook(
            literally(path),
            literally(target),
            params,
            language="python",
            progress_bar={"desc": path.stem} if progress and sys.stderr.isatty() else False,
            record_timing=False,
            execution_timeout=timeout,
            **_client_options(path),
        )
    except papermill.PapermillExecutionError:
        return None  # the traceback is in the notebook, and cells tagged raises-exception end here too
    except Exception as error:
        return error
    return None


def _judge(nb: nbformat.NotebookNode, failure: Exception | None, path: Path, seconds: float) -> RunResult:
    # Jupyter skips empty cells; papermill marks a failed notebook with cells of its own, which hold no code.
    code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    data = [output.data for cell in code for output in cell.outputs if "data" in output]
    rows = [row for bundle in data for row in bundle.get(CLAIMS_MIME, {}).get("claims", [])]
    asserted = [row["verdict"] for row in rows if row["verdict"] != "not comparable"]
    published = [bundle[RESULTS_MIME] for bundle in data if RESULTS_MIME in bundle]
    error = _error(code, failure)
    if error is None and not published:
        error = "no results: the last cell must call claims.record(...)"
    return RunResult(
        name=path.stem,
        status="failed" if error else "completed",
        seconds=round(seconds, 1),
        notebook=path,
        claims_passed=asserted.count("holds"),
        claims_total=len(asserted),
        peak_memory_mb=published[-1].get("peak_memory_mb") if published else None,
        results=dict(published[-1].get("results", {})) if published else {},
        error=error,
    )


def _error(code: list[nbformat.NotebookNode], failure: Exception | None) -> str | None:
    if failure is not None:
        reason = {"DeadKernelError": "the kernel died (out of memory?)", "CellTimeoutError": "took too long"}
        text = reason.get(type(failure).__name__, f"{type(failure).__name__}: {failure}")
        last = max((number for number, cell in enumerate(code, start=1) if _has_started(cell)), default=0)
        return _one_line(last, code[last - 1], text) if last else _shorten(text)
    for number, cell in enumerate(code, start=1):
        for output in cell.outputs:
            if output.output_type == "error" and "raises-exception" not in cell.metadata.get("tags", []):
                return _one_line(number, cell, f"{output.ename}: {output.evalue}")
    if code and code[-1].execution_count is None:
        return "the last cell did not run"
    return None


def _has_started(cell: nbformat.NotebookNode) -> bool:
    # A kernel that dies at once does not report a count; papermill notes when it sent the cell.
    return cell.execution_count is not None or bool(cell.metadata.get("papermill", {}).get("start_time"))


def _one_line(number: int, cell: nbformat.NotebookNode, text: str) -> str:
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return _shorten(f"code cell {number} ({(lines or [''])[0].strip()[:60]}): {text}")


def _shorten(text: str) -> str:
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return plain if len(plain) <= 300 else plain[:299] + "…"
