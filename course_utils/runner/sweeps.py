"""Sweeps: run a chapter with many settings, side by side, so that nothing is lost, repeated or only thought finished.

The truth is on the disk: a run is finished when its status file says so, and that is written last, in one step.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.machine import cores, gpus, with_threads
from .execution import (
    Job,
    give_up,
    is_finished,
    read_record,
    run_job,
    write_record,
)
from .outcomes import PLAN, collect
from .store import Bucket, Folder, open_store
from .workers import NoWorker, Workers

if TYPE_CHECKING:
    import pandas as pd

ATTEMPTS = 3  # a run that has lost so many workers is given up
MAX_RUNS = 100_000
PAUSE = 0.05  # seconds between two looks at what has come back
KEPT = "What is finished is kept, and the same sweep goes on from there."
PATIENCE = 1.0  # seconds until a run that another sweep is doing is asked for again


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

    A sweep that was killed, or of which runs failed, goes on where it was when it is started again. Two sweeps may
    work in one folder at once: they share the work.

    Args:
        path: the notebook.
        params: one mapping for each run, see `grid` and `check_parameters`.
        out_dir: a folder, made if need be, or the address of one in an object store, like s3://bucket/folder.
        executor: whatever has the `submit` of concurrent.futures; default worker processes of this machine.
        workers: how many of these; default one for each GPU, without GPUs one for each core.
        timeout: seconds allowed to each cell, rounded up.
        resume: keep the runs that are finished; False repeats them.
        progress: show a progress bar and a line for each run that failed.

    Returns:
        a row for each run, as in `collect`, in the order of `params`.

    Raises:
        ValueError: the notebook, a parameter or the timeout is wrong, or the folder is that of the notebook; nothing
            has run then.
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
    _write_plan(store, jobs)
    if not resume:
        _forget(store, jobs)
    names = store.names()
    todo = [job for job in jobs if not is_finished(read_record(store, job.name, names), names)]
    if todo:
        with Workers(workers or cores()) if executor is None else nullcontext(executor) as pool:
            _drive(pool, todo, _Progress(len(jobs), len(jobs) - len(todo), progress))


def plan_jobs(
    path: str | Path, params: Iterable[Mapping[str, Any]], out_dir: str | Path, *, timeout: float | None = None
) -> list[Job]:
    """Return the jobs of a sweep, without repetitions; each has files of its own.

    Raises:
        ValueError: the notebook, a parameter or the timeout is wrong, or there is nothing to run.
    """
    jobs = Job.each(path, params, out_dir, timeout=timeout)
    if not jobs:
        raise ValueError("expected at least one set of parameters, got none")
    return list({job.id: replace(job, name=f"{job.chapter}-{job.id}") for job in jobs}.values())


class _Progress:
    """One bar for the sweep with the time left, and one line for each failed run, on stderr."""

    def __init__(self, total: int, finished: int, is_shown: bool):
        from tqdm import tqdm

        self.is_shown = is_shown
        is_live = is_shown and sys.stderr.isatty()
        # Runs come back in bursts: the mean speed says more about the time left than the latest.
        self.bar = tqdm(total=total, initial=finished, unit="run", smoothing=0, disable=not is_live, file=sys.stderr)

    def finished(self, job: Job, record: Mapping[str, Any]) -> None:
        if record["status"] == "failed" and self.is_shown:
            self.bar.write(f"✗ {describe(job.params)}: {record['error']}", file=sys.stderr)
        self.bar.update()


def describe(params: Mapping[str, Any]) -> str:
    """Write parameters in one line.

    >>> describe({"eps": 0.1, "dataset": "mnist"})
    "eps=0.1 dataset='mnist'"
    """
    return " ".join(f"{name}={value!r}" for name, value in params.items()) or "defaults"


def _write_plan(store: Folder | Bucket, jobs: list[Job]) -> None:
    """Write which runs there will be, for those who look on; the same plan always has the same file."""
    for chapter, own in itertools.groupby(jobs, key=lambda job: job.chapter):
        plan = {"chapter": chapter, "runs": {job.name: job.values for job in own}}
        text = json.dumps(plan, indent=1) + "\n"
        file = f"{chapter}-{hashlib.sha256(text.encode()).hexdigest()[:8]}{PLAN}"
        if file not in store.names():
            store.write(file, text)


def _forget(store: Folder | Bucket, jobs: list[Job]) -> None:
    names = store.names()
    for job in jobs:
        if read_record(store, job.name, names)["status"] != "pending":
            with store.claim(job.name) as is_ours:  # if not, somebody repeats it right now
                if is_ours:
                    write_record(store, job.record(status="pending"))


def _drive(pool: Executor, jobs: list[Job], progress: _Progress) -> None:
    """Have every job done: those that fall with a worker again, those of another sweep later."""
    running: dict[Future, Job] = {}
    later = {job.name: (0.0, job) for job in jobs}
    lost = Counter()
    try:
        while running or later:
            for due, job in list(later.values()):
                if due <= time.monotonic():
                    del later[job.name]
                    running[_submit(pool, job)] = job
            back = [future for future in running if future.done()]
            for future in back:
                job = running.pop(future)
                record = _record_of(future, job, lost)
                if record["status"] == "stopped":
                    raise RuntimeError(f"the sweep stopped: {record['error']}. {KEPT}")
                if record["status"] in ("busy", "lost"):
                    later[job.name] = (time.monotonic() + PATIENCE, job)
                else:
                    progress.finished(job, record)
            if not back:
                time.sleep(PAUSE)
    finally:
        progress.bar.close()
        for future in running:
            future.cancel()


def _submit(pool: Executor, job: Job) -> Future:
    try:
        return pool.submit(run_job, job)
    except Exception as error:  # each executor has errors of its own
        raise RuntimeError(f"the executor takes no more runs ({type(error).__name__}: {error}). {KEPT}") from error


def _record_of(future: Future, job: Job, lost: Counter) -> dict[str, Any]:
    """Return the record that a job came back with; `run_job` raises nothing, so an error means a lost worker."""
    try:
        return future.result()
    except NoWorker:
        raise
    except (Exception, CancelledError) as error:
        lost[job.name] += 1
        if lost[job.name] < ATTEMPTS:
            return job.record(status="lost")
        return give_up(job, f"its worker was lost {ATTEMPTS} times ({type(error).__name__}: out of memory?)")
