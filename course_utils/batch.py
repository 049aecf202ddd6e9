"""Run chapters without a browser: execute them and say what became of them."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

from .chapters import read_notebook, tidy, write_notebook
from .claims import CLAIMS_MIME, RESULTS_MIME
from .files import write_text
from .parameters import check_parameters
from .runtime import PROJECT, THREADS


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
