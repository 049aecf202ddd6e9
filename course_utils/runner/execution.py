"""Execute one notebook, here or on another machine, and say what became of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..core.files import OSERROR_HINTS, source_hash, write_text
from ..core.machine import one_gpu
from .chapters import notebook_text, read_source, refuse_sources, tidy
from .paper_claims import FAILS, NOT_COMPARABLE, RESULTS_MIME, claim_rows, published
from .parameters import check_parameters, read_parameters
from .store import Bucket, Folder, open_store

if TYPE_CHECKING:  # two seconds to import, which only a run needs
    import nbformat

STATUS = ".status.json"
MAX_TIMEOUT = 1_000_000  # seconds: above, what waits for the kernel overflows
# What a run computes with. Pictures, exercises and the runner itself decide how a result is shown, not what it is.
ROOMS = ("core", "data", "models", "attacks", "evaluation", "training", "defences")


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

    `id` stands for the notebook's code, all of its parameters and the sources of this package that compute; `name` for
    the run's files. `source` is the notebook as it was when the job was made.
    """

    id: str
    name: str
    chapter: str
    source: str
    folder: str  # where the kernel starts, if the machine has it
    params: dict[str, Any]  # those that are set
    values: dict[str, Any]  # all of them
    timeout: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)  # of the kernel, besides that of this process
    own_cache: bool = False  # begin with an empty cache, which goes with the run
    sources: str = ""  # the hash of this package's sources

    @classmethod
    def each(
        cls, path: str | Path, params: Iterable[Mapping[str, Any]], *, timeout: float | None = None, **options: Any
    ) -> list[Job]:
        """Return the jobs of running a notebook with each of these sets of parameters.

        Raises:
            ValueError: the notebook, a parameter or the timeout is wrong.
        """
        path = Path(path).resolve()
        known, source, sources = read_parameters(path), read_source(path), source_hash(*ROOMS)
        code = [[c["source"], c["metadata"].get("tags")] for c in source["cells"] if c["cell_type"] == "code"]
        common = hashlib.sha256(json.dumps([code, sources]).encode())
        options |= {"name": path.stem, "chapter": path.stem, "source": json.dumps(source), "folder": str(path.parent)}
        options |= {"timeout": whole_seconds(timeout), "sources": sources}
        defaults = {name: parameter.default for name, parameter in known.items()}
        jobs = []
        for each in params:
            given = check_parameters(path.stem, known, each)
            identity, text = common.copy(), json.dumps(defaults | given, default=repr)
            identity.update(text.encode())
            jobs.append(cls(id=identity.hexdigest()[:16], params=given, values=json.loads(text), **options))
        return jobs

    def record(self, **more: Any) -> dict[str, Any]:
        """Return what the run's status file says: which run it is, and what became of it."""
        about = {"id": self.id, "name": self.name, "chapter": self.chapter, "params": self.values}
        return about | {"sources": self.sources, "host": platform.node(), **more}


def run_notebook(
    path: str | Path,
    params: Mapping[str, Any],
    out_dir: str | Path,
    *,
    timeout: float | None = None,
    progress: bool = True,
) -> RunResult:
    """Execute a notebook into `out_dir`; write `<name>.ipynb` and `<name>.status.json` there.

    A run is "completed" only if no cell failed, the last code cell ran, and `paper_claims.record` published results:
    `sys.exit(0)`, a dead kernel and a timeout leave notebooks that look finished.

    Args:
        path: the notebook.
        params: values for its parameters cell, see `check_parameters`.
        out_dir: a folder, made if need be, or the address of one in an object store.
        timeout: seconds allowed to each cell, rounded up.
        progress: show a progress bar.

    Raises:
        ValueError: the notebook, a parameter or the timeout is wrong, the folder is that of the notebook, or others
            are running into this one; nothing has run then. OSError: the folder cannot be written.
    """
    [job] = Job.each(path, [params], timeout=timeout)
    store = store_for(out_dir, path)
    with store.lock(f"a run of {job.name}"):
        write_record(store, job.record(status="running", began=time.time()))
        result, text = _in_a_thread(job, progress)
        save(store, job, result, text)
    where = store.path / result.notebook if isinstance(store, Folder) else f"{store}/{result.notebook}"
    return replace(result, notebook=where)


def rebuild(path: str | Path, *, timeout: float | None = None) -> RunResult:
    """Execute a notebook in place, top to bottom in a fresh kernel; a failed run leaves the file as it was.

    Raises:
        ValueError: the file is no notebook, or the timeout is wrong.
    """
    path = Path(path).resolve()
    [job] = Job.each(path, [{}], timeout=timeout)
    result, text = _in_a_thread(job)
    if result:
        write_text(path, text)
    return replace(result, notebook=path)


def store_for(out_dir: str | Path, path: str | Path) -> Folder | Bucket:
    """Return the store for what comes out of a notebook.

    Raises:
        ValueError: the folder is that of the notebook, which its run would replace, or an address of another kind.
    """
    store = open_store(out_dir)
    if isinstance(store, Folder):
        refuse_sources(store.path, Path(path).resolve())
    return store


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


# --- records ----------------------------------------------------------------------------------------------------------


def read_record(store: Folder | Bucket, name: str, names: set[str]) -> dict[str, Any]:
    """Return what a run's status file says; of none, or of one that is no record, a record that says "pending"."""
    try:
        record = json.loads(store.read(name + STATUS)) if name + STATUS in names else None
    except ValueError:
        record = None
    return record if isinstance(record, dict) and "status" in record else {"name": name, "status": "pending"}


def write_record(store: Folder | Bucket, record: Mapping[str, Any]) -> None:
    """Write a run's status file.

    Raises:
        OSError: as the store's `write`.
    """
    store.write(record["name"] + STATUS, json.dumps(record, indent=1) + "\n")


def is_finished(record: Mapping[str, Any], names: set[str]) -> bool:
    """Tell whether a run has been completed and its notebook is still there."""
    return record["status"] == "completed" and record.get("notebook") in names


def save(store: Folder | Bucket, job: Job, result: RunResult, text: str) -> dict[str, Any]:
    """Write what came out of a job, and return its record. The status file is written last: what it says is true.

    Raises:
        OSError: as the store's `write`.
    """
    store.write(f"{job.name}.ipynb", text)
    record = job.record(**asdict(result), finished=time.strftime("%Y-%m-%d %H:%M"))
    write_record(store, record)
    return record


# --- a worker's part --------------------------------------------------------------------------------------------------


def run_job(job: Job, progress: bool = False) -> tuple[RunResult, str]:
    """Execute the notebook of a job, and return what became of it with the text of the executed notebook.

    A worker on another machine needs nothing but this package and the job; it decides and keeps nothing.

    Args:
        job: what to run.
        progress: show a progress bar.

    Raises:
        RuntimeError: this process has other sources than those for which the job was made.
        OSError: the disk is full. Neither is the fault of the notebook.
    """
    import nbformat

    if job.sources != source_hash(*ROOMS):
        raise RuntimeError(f"{platform.node()} has other sources of the course: install the same on all workers")
    nb, began = nbformat.reads(job.source, as_version=4), time.monotonic()
    if job.params:
        from papermill.parameterize import parameterize_notebook

        nb.metadata["papermill"] = {}  # papermill asks for this, and for the tags of all cells
        for cell in nb.cells:
            cell.metadata.setdefault("tags", [])
        nb = parameterize_notebook(nb, job.params, kernel_name="python3", language="python")
    code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]  # Jupyter skips empty cells
    error = _execute(job, nb, code, progress)
    result = _judge(nb, error, job.name, time.monotonic() - began)
    return result, notebook_text(tidy(nb))


def try_job(job: Job) -> tuple[RunResult, str] | tuple[None, str]:
    """Do `run_job` for a sweep: where the job cannot be run by no fault of its own, return None and the reason.

    What is raised instead is an error of the executor, such as a lost worker.
    """
    try:
        return run_job(job)
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


@contextmanager
def local_executor(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads of this process, in each of which one notebook at a time runs in a kernel process of its own.

    On an error such as Ctrl-C nobody waits for what runs: the kernels are killed.
    """
    from .kernels import kill_kernels

    threads: list[threading.Thread] = []
    with ThreadPoolExecutor(workers, initializer=lambda: threads.append(threading.current_thread())) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while any(thread.is_alive() for thread in threads):
                kill_kernels(threads)
                time.sleep(0.1)  # a kernel may be about to start
            raise


def _in_a_thread(job: Job, progress: bool = False) -> tuple[RunResult, str]:
    """Run a job as a sweep does. In the main thread nbclient would take Ctrl-C for the death of the kernel."""
    with local_executor(1) as pool:
        future = pool.submit(run_job, job, progress)
        while not wait([future], timeout=1).done:  # without timeout Ctrl-C would wait, too, under Windows
            pass
        return future.result()


def _execute(job: Job, nb: nbformat.NotebookNode, code: list[nbformat.NotebookNode], progress: bool) -> str | None:
    """Execute a notebook, and return in one line what broke it off, None if nothing did."""
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
    from tqdm import tqdm

    from .kernels import Client

    sent = []
    gpu = nullcontext({}) if job.values.get("device") == "cpu" else one_gpu()
    bar = tqdm(total=len(code), desc=job.name, unit="cell", disable=not (progress and sys.stderr.isatty()))
    with gpu as environment, TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as scratch, bar:

        def note(cell: nbformat.NotebookNode, **_: Any) -> None:
            bar.update()
            sent.append(cell)

        cache = {"COURSE_CACHE": str(Path(scratch) / "cache")} if job.own_cache else {}
        folder = job.folder if Path(job.folder).is_dir() else scratch
        client = Client(nb, folder, timeout=job.timeout, on_cell_execute=note)
        try:
            client.execute(env={**os.environ, **environment, **job.environment, **cache})
        except CellExecutionError as error:
            reason = f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            reason = "the kernel died (out of memory?)"
        except CellTimeoutError:
            reason = "took too long"
        except Exception as error:
            if isinstance(error, OSError) and error.errno in OSERROR_HINTS:
                raise  # the disk is full: no fault of the notebook
            reason = f"{type(error).__name__}: {error}"
        else:
            return "the last cell did not run" if code and code[-1].execution_count is None else None
    return _one_line(len(sent), sent[-1], reason) if sent else _shorten(reason)


def _judge(nb: nbformat.NotebookNode, error: str | None, name: str, seconds: float) -> RunResult:
    asserted = [row["verdict"] for row in claim_rows(nb) if row["verdict"] != NOT_COMPARABLE]
    recorded = published(nb, RESULTS_MIME)
    if error is None and not recorded:
        error = "no results: the last cell must call paper_claims.record(...)"
    return RunResult(
        name=name,
        status="failed" if error else "completed",
        seconds=round(seconds, 1),
        notebook=f"{name}.ipynb",
        claims_passed=len(asserted) - asserted.count(FAILS),
        claims_total=len(asserted),
        peak_memory_mb=recorded[-1].get("peak_memory_mb") if recorded else None,
        results={} if error else dict(recorded[-1].get("results", {})),
        error=error,
    )


def _one_line(number: int, cell: nbformat.NotebookNode, text: str) -> str:
    lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return _shorten(f"code cell {number} ({(lines or [''])[0].strip()[:60]}): {text}")


def _shorten(text: str) -> str:
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
    return plain if len(plain) <= 300 else plain[:299] + "…"
