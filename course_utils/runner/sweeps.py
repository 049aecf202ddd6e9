"""Sweeps: run a chapter with many settings, side by side, so that nothing is lost, repeated or only thought finished.

The truth is on the disk: a run is finished when its status file says so, and that is written last, in one step.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ..core.machine import cores, gpus, with_threads
from .execution import Job, is_finished, local_executor, read_record, save, store_for, try_job, write_record
from .outcomes import PLAN, collect
from .store import Bucket, Folder, open_store

if TYPE_CHECKING:
    import pandas as pd

ATTEMPTS = 3  # a run that has lost so many workers is marked as failed
MAX_RUNS = 100_000
PAUSE = 0.2  # seconds between two looks at which runs have begun
KEPT = "What is finished is kept, and the same sweep goes on from there."
PATIENCE = 1.0  # seconds until a run that has lost its worker is handed out again


def grid(**axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Return all combinations of the values of some parameters.

    Args:
        **axes: for each parameter its values.

    Raises:
        ValueError: values that are text, which would be taken letter by letter; none; or too many combinations.

    >>> grid(eps=[0.1, 0.2], seed=range(2))
    [{'eps': 0.1, 'seed': 0}, {'eps': 0.1, 'seed': 1}, {'eps': 0.2, 'seed': 0}, {'eps': 0.2, 'seed': 1}]
    """
    count = 1
    for name, values in axes.items():
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise ValueError(f"expected a list of values, like {name}=[{values!r}], got {values!r}")
        count *= len(values)
    if not 0 < count <= MAX_RUNS:
        raise ValueError(f"expected 1 to {MAX_RUNS} combinations, got {count}")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run_sweep(
    path: str | Path,
    params: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    resume: bool = True,
    progress: bool = True,
) -> pd.DataFrame:
    """Run a notebook once for each set of parameters, side by side, and return what became of the runs.

    A sweep that was killed, or of which runs failed, goes on where it was when it is started again. One sweep at a
    time may work in a folder.

    Args:
        path: the notebook.
        params: one mapping for each run, see `grid` and `check_parameters`.
        out_dir: a folder, made if need be, or the address of one in an object store, like s3://bucket/folder.
        executor: whatever has the `submit` of concurrent.futures; default threads of this process,
            each of which runs one notebook at a time in a kernel process of its own.
        workers: how many of these; default one for each GPU, without GPUs one for each core.
        timeout: seconds allowed to each cell, rounded up.
        resume: keep the runs that are finished; False repeats them.
        progress: show a progress bar and a line for each run that failed.

    Returns:
        a row for each run, as in `collect`, in the order of `params`.

    Raises:
        ValueError: the notebook, a parameter or the timeout is wrong, the folder is that of the notebook, or another
            sweep is at work there; nothing has run then.
        RuntimeError: the sweep had to stop, for a full disk or a lost scheduler; what is finished stays so.

    >>> run_sweep("notebooks/solutions/02_fgsm.ipynb", grid(seed=range(8)), "build/fgsm")  # doctest: +SKIP
    """
    jobs = plan_jobs(path, params, out_dir, timeout=timeout)
    if executor is None:
        workers = workers or len(gpus()) or cores()
        environment = with_threads(max(1, cores() // workers))
        jobs = [replace(job, environment=environment) for job in jobs]
    run_jobs(jobs, out_dir, executor=executor, workers=workers, resume=resume, progress=progress)
    return collect(out_dir, [job.name for job in jobs])


def run_jobs(
    jobs: list[Job],
    out_dir: str | Path,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    resume: bool = True,
    progress: bool = True,
) -> None:
    """Run jobs of one or several notebooks side by side; arguments and errors are those of `run_sweep`."""
    store = open_store(out_dir)
    with store.lock(f"a sweep of {', '.join(dict.fromkeys(job.chapter for job in jobs))}"):
        names = store.names()
        _write_plan(store, jobs, names)
        todo = []
        for job in jobs:
            record = read_record(store, job.name, names)
            if resume and is_finished(record, names):
                continue
            todo.append(job)
            if not resume and record["status"] != "pending":
                write_record(store, job.record(status="pending"))
        if todo:
            with local_executor(workers or cores()) if executor is None else nullcontext(executor) as pool:
                _run(pool, store, todo, progress, len(jobs))


def plan_jobs(
    path: str | Path, params: Iterable[Mapping[str, Any]], out_dir: str | Path, *, timeout: float | None = None
) -> list[Job]:
    """Return the jobs of a sweep, without repetitions; each has files of its own.

    Raises:
        ValueError: the notebook, a parameter, the timeout or the folder is wrong, or there is nothing to run.
    """
    store_for(out_dir, path)
    jobs = Job.each(path, params, timeout=timeout)
    if not jobs:
        raise ValueError("expected at least one set of parameters, got none")
    return list({job.id: replace(job, name=f"{job.chapter}-{job.id}") for job in jobs}.values())


def format_params(params: Mapping[str, Any]) -> str:
    """Write parameters in one line.

    >>> format_params({"eps": 0.1, "dataset": "mnist"})
    "eps=0.1 dataset='mnist'"
    """
    return " ".join(f"{name}={value!r}" for name, value in params.items()) or "defaults"


def _write_plan(store: Folder | Bucket, jobs: list[Job], names: set[str]) -> None:
    """Write which runs there will be, for those who look on; the same plan always has the same file."""
    for chapter, own in itertools.groupby(jobs, key=lambda job: job.chapter):
        plan = {"chapter": chapter, "runs": {job.name: job.values for job in own}}
        text = json.dumps(plan, indent=1) + "\n"
        file = f"{chapter}-{hashlib.sha256(text.encode()).hexdigest()[:8]}{PLAN}"
        if file not in names:
            store.write(file, text)


def _run(pool: Executor, store: Folder | Bucket, jobs: list[Job], progress: bool, total: int) -> None:
    """Run jobs; show on stderr one bar for the sweep with the time left, and one line for each failed run."""
    from tqdm import tqdm

    is_live = progress and sys.stderr.isatty()
    # Runs come back in bursts: the mean speed says more about the time left than the latest.
    with tqdm(total=total, initial=total - len(jobs), unit="run", smoothing=0, disable=not is_live) as bar:
        for job, record in _records(pool, store, jobs):
            if progress and record["status"] == "failed":
                bar.write(f"✗ {format_params(job.params)}: {record['error']}", file=sys.stderr)
            bar.update()


def _records(pool: Executor, store: Folder | Bucket, jobs: list[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Run jobs, repeat those that lose their worker, and yield each when what came out of it is written.

    Raises:
        RuntimeError: the folder cannot be written, a worker cannot run the course, or the executor is closed.
    """
    waiting = deque((0.0, job) for job in jobs)  # each with the time before which it shall not begin
    running: dict[Future, Job] = {}
    begun: set[Future] = set()  # those of which the status file says that they run
    returned: SimpleQueue[Future] = SimpleQueue()
    lost: Counter[str] = Counter()
    looked = time.monotonic()
    try:
        while running or waiting:
            is_due = bool(waiting) and waiting[0][0] <= time.monotonic()
            if is_due:
                _, job = waiting.popleft()
                future = _submit(pool, job)
                running[future] = job
                future.add_done_callback(returned.put)
            if time.monotonic() > looked + PAUSE:
                for future in {each for each in running if each.running()} - begun:
                    write_record(store, running[future].record(status="running", began=time.time()))
                    begun.add(future)
                looked = time.monotonic()
            try:
                future = returned.get(not is_due, PAUSE)
            except Empty:
                continue
            begun.discard(future)
            job = running.pop(future)
            record = _record_of(future, store, job, lost)
            if record:
                yield job, record
            else:
                waiting.append((time.monotonic() + PATIENCE, job))
    except RuntimeError:
        raise
    except Exception as error:  # a full disk, or one of the many errors of an object store
        raise RuntimeError(f"the sweep stopped: {error}. {KEPT}") from error
    finally:
        for future in running:
            future.cancel()


def _submit(pool: Executor, job: Job) -> Future:
    try:
        return pool.submit(try_job, job)
    except Exception as error:  # each executor has errors of its own
        raise RuntimeError(f"the executor takes no more runs ({type(error).__name__}: {error}). {KEPT}") from error


def _record_of(future: Future, store: Folder | Bucket, job: Job, lost: Counter[str]) -> dict[str, Any] | None:
    """Write what came out of a job and return its record; None if its worker was lost and it shall be repeated."""
    try:
        result, text = future.result()  # `try_job` raises nothing
    except (Exception, CancelledError) as error:
        lost[job.name] += 1
        if lost[job.name] < ATTEMPTS:
            return None
        error = f"its worker was lost {ATTEMPTS} times ({type(error).__name__}: out of memory?)"
        record = job.record(status="failed", seconds=0.0, notebook=None, results={}, error=error)
        write_record(store, record)
        return record
    if result is None:
        raise RuntimeError(f"the sweep stopped: {text}. {KEPT}")
    return save(store, job, result, text)
