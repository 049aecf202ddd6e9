"""Execute one notebook, here or on another machine, and say what became of it."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..core.files import OSERROR_HINTS
from ..core.machine import one_gpu
from .chapters import notebook_text, read_notebook, read_source, refuse_sources, tidy, write_notebook
from .paper_claims import CLAIMS_MIME, FAILS, NOT_COMPARABLE, RESULTS_MIME
from .parameters import check_values, read_parameters
from .store import Bucket, Folder, open_store

if TYPE_CHECKING:  # two seconds to import, which only a run needs
    import nbformat

STATUS = ".status.json"
MAX_TIMEOUT = 1_000_000  # seconds: above, what waits for the kernel overflows


@dataclass(frozen=True)
class RunResult:
    """What became of one run; `error` is one line, `notebook` the executed file, of a failed run too."""

    name: str
    status: str  # "completed" or "failed"
    seconds: float
    notebook: Path | str
    claims_passed: int = 0
    claims_total: int = 0
    peak_memory_mb: int | None = None
    results: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def __bool__(self) -> bool:
        return self.status == "completed"


@dataclass(frozen=True)
class Job:
    """One run: all that a worker on another machine must know of it.

    `id` stands for the notebook's code, all of its parameters and the version of this package; `name` for the run's
    files. `source` is the notebook as it was when the job was made.
    """

    id: str
    name: str
    chapter: str
    source: str
    folder: str  # where the kernel starts, if this machine has it
    params: dict[str, Any]  # those that are set
    values: dict[str, Any]  # all of them
    out_dir: str
    timeout: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # of the kernel, besides that of this process
    own_cache: bool = False  # begin with an empty cache, which goes with the run
    version: str = __version__

    @classmethod
    def each(
        cls,
        path: str | Path,
        params: Iterable[Mapping[str, Any]],
        out_dir: str | Path,
        *,
        timeout: float | None = None,
        **options: Any,
    ) -> list[Job]:
        """Return the jobs of running a notebook with each of these sets of parameters.

        Raises:
            ValueError: the notebook, a parameter or the timeout is wrong, or the folder is that of the notebook.
        """
        path, store = Path(path).resolve(), open_store(out_dir)
        if isinstance(store, Folder):
            refuse_sources(store.path, path)
        known, source = read_parameters(path), read_source(path)
        code = [[c["source"], c["metadata"].get("tags")] for c in source["cells"] if c["cell_type"] == "code"]
        common = {
            "name": path.stem,
            "chapter": path.stem,
            "source": json.dumps(source),
            "folder": str(path.parent),
            "out_dir": str(store),
            "timeout": whole_seconds(timeout),
        }
        jobs = []
        for each in params:
            given = check_values(path.stem, known, each)
            values = {name: parameter.default for name, parameter in known.items()} | given
            identity = json.dumps([code, values, __version__], sort_keys=True, default=repr)
            id = hashlib.sha256(identity.encode()).hexdigest()[:16]
            plain = json.loads(json.dumps(values, default=repr))
            jobs.append(cls(id=id, params=given, values=plain, **common, **options))
        return jobs

    def record(self, **more: Any) -> dict[str, Any]:
        """Return what the run's status file says: which run it is, and what became of it."""
        about = {"id": self.id, "name": self.name, "chapter": self.chapter, "params": self.values}
        return about | {"version": self.version, "host": platform.node(), **more}


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
        out_dir: a folder, made if need be, or the address of one in an object store.
        timeout: seconds allowed to each cell, rounded up.
        progress: show a progress bar.

    Raises:
        ValueError: the notebook, a parameter or the timeout is wrong, the folder is that of the notebook, or it is
            being run into this one already; nothing has run then. OSError: the folder cannot be written.
    """
    [job] = Job.each(path, [params], out_dir, timeout=timeout)
    store = open_store(out_dir)
    with store.claim(job.name) as is_ours:
        if not is_ours:
            raise ValueError(f"{job.name} is being run into {store} already: wait, or choose another folder")
        return _run(job, store, progress)


def run_job(job: Job) -> dict[str, Any]:
    """Do a job unless it is done, and return the record of its run. Safe to call twice, or twice at once.

    Returns:
        the record; or one with the status "busy" where somebody else is doing this job, or "stopped" where it
        cannot be done, by no fault of its own.
    """
    try:
        if job.version != __version__:
            raise ValueError(f"this worker has version {__version__} of the course, the sweep {job.version}")
        store = open_store(job.out_dir)
        with store.claim(job.name) as is_ours:
            if not is_ours:
                return job.record(status="busy")
            names = store.names()
            if is_finished(record := read_record(store, job.name, names), names):
                return record
            _run(job, store, progress=False)
            return read_record(store, job.name, store.names())
    except Exception as error:  # what is raised here shall not be taken for an error of the executor
        return job.record(status="stopped", error=f"{type(error).__name__}: {error}")


def whole_seconds(timeout: float | None) -> int | None:
    """Return the seconds allowed to a cell as nbclient counts them, rounded up; None allows any time.

    Raises:
        ValueError: no number of seconds, like infinity.

    >>> whole_seconds(2.5)
    3
    """
    if timeout is None:
        return None
    if not isinstance(timeout, Real) or not 0 < timeout <= MAX_TIMEOUT:  # NaN is refused, too
        expected = f"expected a timeout in seconds, above 0 and at most {MAX_TIMEOUT:,}"
        raise ValueError(f"{expected}, got {timeout!r}. Leave it out to allow any time.")
    return math.ceil(timeout)


def give_up(job: Job, error: str) -> dict[str, Any]:
    """Record that a job cannot be done, since it takes its workers with it; returns the record, as `run_job` does.

    A worker that only seemed to be lost may be at it still, or may have done it: then nothing is recorded.

    Raises:
        OSError: the folder cannot be written.
    """
    store = open_store(job.out_dir)
    with store.claim(job.name) as is_ours:
        if not is_ours:
            return job.record(status="busy")
        names = store.names()
        record = read_record(store, job.name, names)
        if not is_finished(record, names):
            record = job.record(status="failed", seconds=0.0, notebook=None, results={}, error=error)
            write_record(store, record)
        return record


def read_record(store: Folder | Bucket, name: str, names: set[str]) -> dict[str, Any]:
    """Return what a run's status file says; of none, or of one that is no record, a record that says "pending"."""
    try:
        record = json.loads(store.read(name + STATUS)) if name + STATUS in names else None
    except ValueError:
        record = None
    return record if isinstance(record, dict) and "status" in record else {"name": name, "status": "pending"}


def is_finished(record: Mapping[str, Any], names: set[str]) -> bool:
    """Tell whether a run has been completed and its notebook is still there."""
    return record["status"] == "completed" and record.get("notebook") in names


def rebuild(path: str | Path, *, timeout: float | None = None) -> RunResult:
    """Execute a notebook in place, top to bottom in a fresh kernel; a failed run leaves the file as it was.

    Raises:
        ValueError: the file is no notebook, or the timeout is wrong.
    """
    from nbclient.exceptions import CellExecutionError

    from .kernels import Client, client_options

    path, timeout = Path(path).resolve(), whole_seconds(timeout)
    nb = _without_outputs(read_notebook(path))
    began, failure = time.monotonic(), None
    try:
        Client(nb, timeout=timeout, record_timing=False, **client_options(str(path.parent), {})).execute()
    except CellExecutionError:
        pass  # the traceback is in the notebook
    except Exception as error:
        failure = error
    result = _judge(nb, failure, path.stem, path, time.monotonic() - began)
    if result:
        write_notebook(tidy(nb), path)
    return result


def _run(job: Job, store: Folder | Bucket, progress: bool) -> RunResult:
    """Do a job that we have claimed. The status file is written last: what it says is true."""
    write_record(store, job.record(status="running", began=time.time()))
    began = time.monotonic()
    with store.scratch(job.name) as scratch:
        nb, failure = _execute(job, scratch, progress)
        target = store.path / f"{job.name}.ipynb" if isinstance(store, Folder) else f"{store}/{job.name}.ipynb"
        result = _judge(nb, failure, job.name, target, time.monotonic() - began)
    if result:  # papermill marks a cell tagged raises-exception as a failure, too
        nb.cells = [c for c in nb.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    file = f"{job.name}.ipynb"
    store.write(file, notebook_text(tidy(nb)))
    finished = time.strftime("%Y-%m-%d %H:%M")
    write_record(store, job.record(**(asdict(result) | {"notebook": file, "finished": finished})))
    return result


def write_record(store: Folder | Bucket, record: Mapping[str, Any]) -> None:
    """Write a run's status file.

    Raises:
        OSError: as the store's `write`.
    """
    store.write(record["name"] + STATUS, json.dumps(record, indent=1) + "\n")


def _without_outputs(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nb


def _execute(job: Job, scratch: Path, progress: bool) -> tuple[nbformat.NotebookNode, Exception | None]:
    """Return the notebook as far as it was run, and what broke the run off but for an error in a cell."""
    import papermill

    from . import kernels

    def literally(file: Path) -> str:  # papermill fills braces in paths
        return str(file).replace("{", "{{").replace("}", "}}")

    source, executed, failure = scratch / "source.ipynb", scratch / "executed.ipynb", None
    source.write_text(job.source, encoding="utf-8")
    folder = job.folder if Path(job.folder).is_dir() else str(scratch)
    with nullcontext({}) if job.values.get("device") == "cpu" else one_gpu() as environment:
        environment = environment | job.environment
        if job.own_cache:
            environment = environment | {"COURSE_CACHE": str(scratch / "cache")}
        try:
            papermill.execute_notebook(
                literally(source),
                literally(executed),
                job.params,
                engine_name=kernels.ENGINE,
                language="python",
                progress_bar={"desc": job.name} if progress and sys.stderr.isatty() else False,
                record_timing=False,
                execution_timeout=job.timeout,
                **kernels.client_options(folder, environment),
            )
        except papermill.PapermillExecutionError:
            pass  # the traceback is in the notebook, and cells tagged raises-exception end here too
        except Exception as error:
            if isinstance(error, OSError) and error.errno in OSERROR_HINTS:
                raise  # the disk is full: no fault of the notebook
            failure = error
    return read_notebook(executed if executed.exists() else source), failure


def _judge(
    nb: nbformat.NotebookNode, failure: Exception | None, name: str, path: Path | str, seconds: float
) -> RunResult:
    # Jupyter skips empty cells; papermill marks a failed notebook with cells of its own, which hold no code.
    code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    data = [output.data for cell in code for output in cell.outputs if "data" in output]
    rows = [row for bundle in data for row in bundle.get(CLAIMS_MIME, {}).get("claims", [])]
    asserted = [row["verdict"] for row in rows if row["verdict"] != NOT_COMPARABLE]
    published = [bundle[RESULTS_MIME] for bundle in data if RESULTS_MIME in bundle]
    error = _error(code, failure)
    if error is None and not published:
        error = "no results: the last cell must call claims.record(...)"
    return RunResult(
        name=name,
        status="failed" if error else "completed",
        seconds=round(seconds, 1),
        notebook=path,
        claims_passed=len(asserted) - asserted.count(FAILS),
        claims_total=len(asserted),
        peak_memory_mb=published[-1].get("peak_memory_mb") if published else None,
        results={} if error else dict(published[-1].get("results", {})),
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
