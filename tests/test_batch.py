"""Sweeps: nothing lost, nothing repeated, nothing only thought finished, whatever dies on the way."""

import errno
import json
import os
import random
import resource
import subprocess
import sys
import time
import uuid
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_notebook

from course_utils.runner import chapters, execution, outcomes, paper_claims, sweeps
from course_utils.runner.store import open_store

PARAMETERS = "eps = 0.1  # 0 to 1\nseed = 0\ntrouble = ''"
RECORD = "from course_utils.runner.paper_claims import record\nrecord(score=10 * seed)"
ADVICE = "What is finished is kept"


class Here(Executor):
    """Does each task at once, in this process."""

    def submit(self, fn, /, *args):
        future = Future()
        try:
            future.set_result(fn(*args))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def runs(monkeypatch):
    """Runs that take no time: the kernel is left out. Returns which were done, in their order."""
    done = []

    def execute(job, scratch, progress):
        done.append(job)
        nb = json.loads(job.source)
        code = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
        for count, cell in enumerate(code, 1):
            cell["execution_count"] = count
        bundle = {"results": {"score": 10 * job.values["seed"]}, "peak_memory_mb": 1}
        code[-1]["outputs"] = [
            {"output_type": "display_data", "metadata": {}, "data": {paper_claims.RESULTS_MIME: bundle}}
        ]
        path = scratch / "executed.ipynb"
        path.write_text(json.dumps(nb))
        return chapters.read_notebook(path), None

    monkeypatch.setattr(execution, "_execute", execute)
    monkeypatch.setattr(sweeps, "PATIENCE", 0.05)
    return done


@pytest.fixture(scope="module")
def chapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chapter")
    return write_notebook(folder / "01_a.ipynb", parameters=PARAMETERS, record=RECORD)


def sweep(chapter, out, seeds=3, **options):
    options = {"executor": Here(), "progress": False} | options
    return sweeps.run_sweep(chapter, sweeps.grid(seed=range(seeds)), out, **options)


def seeds(jobs):
    return [job.values["seed"] for job in jobs]


def statuses(out):
    """What the status files say, by seed."""
    found = [json.loads(path.read_text()) for path in Path(out).glob("*.status.json")]
    return {record["params"]["seed"]: record["status"] for record in found}


# What is to be run


def test_a_grid_has_all_combinations():
    points = sweeps.grid(eps=[0.1, 0.2, 0.3], seed=range(2))
    assert len({tuple(point.items()) for point in points}) == 6
    assert {point["eps"] for point in points} == {0.1, 0.2, 0.3}


@pytest.mark.parametrize(
    "axes", [{"dataset": "mnist"}, {"seed": 3}, {"seed": iter([1])}, {"seed": []}, {"a": range(1000), "b": range(1000)}]
)
def test_a_grid_refuses_what_is_no_list_of_values(axes):
    with pytest.raises(ValueError, match="expected"):
        sweeps.grid(**axes)


def ids(path, *params):
    return [job.id for job in execution.Job.each(path, params, "out")]


def test_an_id_stands_for_all_parameters(chapter):
    same = ids(chapter, {}, {"eps": 0.1}, {"seed": 0, "eps": 0.1})
    assert len(set(same)) == 1
    assert len(set(ids(chapter, {}, {"eps": 0.2}, {"eps": 0}, {"seed": 1}, {"trouble": "0"}))) == 5


def test_an_id_stands_for_the_code_and_the_version(chapter, tmp_path, monkeypatch):
    (before,) = ids(chapter, {})
    nb = json.loads(chapter.read_text())
    nb["cells"][0]["source"] = "# Another title"
    nb["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "12"}]
    copy = tmp_path / chapter.name
    copy.write_text(json.dumps(nb))
    assert ids(copy, {}) == [before], "neither prose nor outputs decide what comes out"
    nb["cells"][-1]["source"] += "\n"
    copy.write_text(json.dumps(nb))
    assert ids(copy, {}) != [before]
    monkeypatch.setattr(execution, "__version__", "99")
    assert ids(chapter, {}) != [before]


def test_nothing_is_written_for_wrong_parameters(chapter, tmp_path, runs):
    for wrong in ({"epz": 1}, {"eps": 8}, {'a = __import__("os"); b': 1}):
        with pytest.raises(ValueError):  # noqa: PT011 - what it says is tested with the parameters
            sweeps.run_sweep(chapter, [{"seed": 1}, wrong], tmp_path / "out", executor=Here())
    with pytest.raises(ValueError, match="at least one"):
        sweeps.run_sweep(chapter, [], tmp_path / "out", executor=Here())
    assert (runs, list(tmp_path.iterdir())) == ([], [])


# What is done, and what is not done again


def test_a_sweep_and_its_table(chapter, tmp_path, runs):
    frame = sweep(chapter, tmp_path)
    assert list(frame.seed) == [0, 1, 2]
    assert list(frame.score) == [0, 10, 20]
    assert set(frame.status) == {"completed"}
    assert all((tmp_path / name).exists() for name in frame.notebook)
    assert frame.equals(outcomes.collect(tmp_path))


def test_what_is_finished_is_not_repeated(chapter, tmp_path, runs):
    sweep(chapter, tmp_path)
    sweep(chapter, tmp_path, seeds=5)
    assert seeds(runs) == [0, 1, 2, 3, 4]
    assert len(outcomes.collect(tmp_path)) == 5
    twice = sweeps.run_sweep(chapter, [{"seed": 9}, {"seed": 9, "eps": 0.1}], tmp_path, executor=Here())
    assert list(twice.seed) == [9]


def test_fresh_repeats_everything(chapter, tmp_path, runs):
    sweep(chapter, tmp_path)
    assert set(sweep(chapter, tmp_path, seeds=2, resume=False).status) == {"completed"}
    assert seeds(runs) == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("text", ["", "{", "[]", '"completed"', '{"status": "running"}', '{"status": "failed"}', None])
def test_what_is_not_finished_is_repeated(chapter, tmp_path, runs, text):
    """A status file that is damaged or tells of no success, or none at all."""
    frame = sweep(chapter, tmp_path)
    file = tmp_path / (frame.run[1] + execution.STATUS)
    file.unlink() if text is None else file.write_text(text)
    sweep(chapter, tmp_path)
    assert seeds(runs) == [0, 1, 2, 1]
    assert statuses(tmp_path) == dict.fromkeys(range(3), "completed")


def test_a_result_without_its_notebook_is_repeated(chapter, tmp_path, runs):
    (tmp_path / sweep(chapter, tmp_path).notebook[2]).unlink()
    sweep(chapter, tmp_path)
    assert seeds(runs) == [0, 1, 2, 2]


def test_all_runs_are_of_the_notebook_that_was_planned(chapter, tmp_path, runs):
    path = tmp_path / chapter.name
    path.write_text(chapter.read_text())

    class Editing(Here):
        def submit(self, fn, /, job):
            path.write_text(path.read_text().replace("10 * seed", "11 * seed"))
            return super().submit(fn, job)

    frame = sweep(path, tmp_path / "out", executor=Editing())
    assert all("10 * seed" in (tmp_path / "out" / name).read_text() for name in frame.notebook)
    sweep(path, tmp_path / "out")
    assert seeds(runs) == [0, 1, 2, 0, 1, 2], "it is another notebook now"


# What goes wrong


class Killing(Here):
    """Loses the worker of some seeds so many times."""

    def __init__(self, times):
        self.times = dict(times)

    def submit(self, fn, /, job):
        if self.times.get(job.values["seed"], 0):
            self.times[job.values["seed"]] -= 1
            return super().submit(os.fspath, None)  # any error
        return super().submit(fn, job)


def test_a_run_that_lost_its_worker_is_done_again(chapter, tmp_path, runs):
    frame = sweep(chapter, tmp_path, executor=Killing({0: 2, 2: 1}))
    assert set(frame.status) == {"completed"}
    assert sorted(seeds(runs)) == [0, 1, 2]


def test_a_run_that_loses_every_worker_is_given_up(chapter, tmp_path, runs, capsys):
    frame = sweep(chapter, tmp_path, executor=Killing({1: 99}), progress=True)
    assert list(frame.status) == ["completed", "failed", "completed"]
    assert frame.error[1].startswith("its worker was lost 3 times")
    assert "✗ seed=1: its worker was lost 3 times" in capsys.readouterr().err
    assert set(sweep(chapter, tmp_path).status) == {"completed"}


def test_a_worker_that_only_seemed_lost_keeps_its_result(chapter, tmp_path, runs):
    class Disconnecting(Here):
        def submit(self, fn, /, job):
            super().submit(fn, job)
            return super().submit(os.fspath, None)

    assert set(sweep(chapter, tmp_path, executor=Disconnecting()).status) == {"completed"}
    assert seeds(runs) == [0, 1, 2]


def test_an_executor_that_refuses_stops_the_sweep(chapter, tmp_path, runs):
    class Refusing(Here):
        def submit(self, fn, /, job):
            if job.values["seed"] == 2:
                raise RuntimeError("closed")
            return super().submit(fn, job)

    with pytest.raises(RuntimeError, match=f"closed.*{ADVICE}"):
        sweep(chapter, tmp_path, executor=Refusing())
    assert statuses(tmp_path) == {0: "completed", 1: "completed"}
    sweep(chapter, tmp_path)
    assert seeds(runs) == [0, 1, 2]


def test_a_full_disk_stops_the_sweep(chapter, tmp_path, runs):
    real = os.replace

    def replace(source, target):
        if len(runs) > 1 and str(target).endswith(".ipynb"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(RuntimeError, match=f"the disk is full: free some space.*{ADVICE}"):
            sweep(chapter, tmp_path)
    assert list(outcomes.collect(tmp_path).status) == ["completed", "interrupted", "interrupted"]
    assert set(sweep(chapter, tmp_path).status) == {"completed"}
    assert seeds(runs) == [0, 1, 2, 1, 2]


def test_a_worker_of_another_version_stops_the_sweep(chapter, tmp_path, runs, monkeypatch):
    jobs = sweeps.plan_jobs(chapter, [{}], tmp_path)
    monkeypatch.setattr(execution, "__version__", "99")
    assert "has version 99" in execution.run_job(jobs[0])["error"]
    assert runs == []


@pytest.mark.parametrize("finishes", [True, False])
def test_a_run_of_another_sweep_is_waited_for(chapter, tmp_path, runs, finishes):
    """The other one may finish it, or break off: then it is ours."""
    job, *_ = sweeps.plan_jobs(chapter, sweeps.grid(seed=range(3)), tmp_path)
    store = open_store(tmp_path)
    claim = store.claim(job.name)
    assert claim.__enter__()

    class Watched(Here):
        calls = 0

        def submit(self, fn, /, job):
            self.calls += 1
            if self.calls == 5:
                if finishes:
                    execution._run(first, store, progress=False)
                claim.__exit__(None, None, None)
            return super().submit(fn, job)

    first, pool = job, Watched()
    assert set(sweep(chapter, tmp_path, executor=pool).status) == {"completed"}
    assert pool.calls > 4
    assert sorted(seeds(runs)) == [0, 1, 2], "done once, by whom ever"


def test_ctrl_c_keeps_what_is_finished(chapter, tmp_path, runs):
    class Interrupted(Here):
        def submit(self, fn, /, job):
            if job.values["seed"] == 1:
                raise KeyboardInterrupt
            return super().submit(fn, job)

    with pytest.raises(KeyboardInterrupt):
        sweep(chapter, tmp_path, executor=Interrupted())
    assert list(outcomes.collect(tmp_path).status) == ["completed", "pending", "pending"]


# A thousand runs


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """A folder with a thousand finished runs."""
    folder = tmp_path_factory.mktemp("thousand")
    chapter = write_notebook(folder / "01_a.ipynb", parameters=PARAMETERS, record=RECORD)
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("course_utils.core.files._sync", lambda _: None)  # waiting for the disk takes seconds
        store, jobs = open_store(out), sweeps.plan_jobs(chapter, sweeps.grid(seed=range(1000)), out)
        sweeps._write_plan(store, jobs)
        for job in jobs:
            about = {"status": "completed", "notebook": f"{job.name}.ipynb", "seconds": 1.5}
            execution.write_record(store, job.record(**about, results={"score": 10 * job.values["seed"]}))
            (out / about["notebook"]).touch()
    return chapter, out


def seconds_of(*args):
    """What the `course` command takes of the processor, whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "course_utils", *args], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_a_thousand_finished_runs_are_seen_in_no_time(thousand, tmp_path):
    chapter, out = thousand
    again = ("sweep", str(chapter), "--grid", "seed=0:1000", "--out", str(out))
    seconds_of(*again)  # draws the report
    seconds, said = seconds_of(*again)
    assert "1000 runs: 1000 completed" in said
    assert seconds < 3
    seconds, _ = seconds_of("collect", str(out), "--to", str(tmp_path / "all.csv"))
    assert seconds < 5
    assert pd.read_csv(tmp_path / "all.csv").score.tolist() == list(range(0, 10_000, 10))


# Real kernels

TROUBLE = """
import os, sys, signal
from pathlib import Path
flag = Path(f"was-here-{seed}")
if trouble == "worker" and not flag.exists():
    flag.touch()
    os.kill(os.getppid(), signal.SIGKILL)
if trouble == "poison":
    os.kill(os.getppid(), signal.SIGKILL)
if trouble == "kernel":
    os.kill(os.getpid(), signal.SIGKILL)
if trouble == "exit":
    sys.exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_two_sweeps_at_once_do_every_run_once(tmp_path, request, monkeypatch, kind):
    monkeypatch.setattr("course_utils.runner.store.SETTLE", 0.2)
    out = tmp_path / "out" if kind == "folder" else f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    begin = "with open(f'begun-{seed}', 'a') as file:\n    file.write('x')"
    chapter = write_notebook(tmp_path / "01_a.ipynb", begin, parameters=PARAMETERS, record=RECORD)
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: sweep(chapter, out, executor=None, workers=1), range(2))
    assert first.equals(second)
    assert list(first.score) == [0, 10, 20]
    assert '"score": 10' in open_store(out).read(first.notebook[1])
    assert outcomes.collect(out).equals(first)
    assert sweep(chapter, out, executor=None, workers=1).equals(first)
    assert {path.name: path.read_text() for path in tmp_path.glob("begun-*")} == {f"begun-{n}": "x" for n in range(3)}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by signals")
def test_only_the_runs_in_trouble_fail(tmp_path):
    """A worker that dies once costs nothing but time; the runs beside those that break off are not touched."""
    chapter = write_notebook(tmp_path / "01_a.ipynb", TROUBLE, parameters=PARAMETERS, record=RECORD)
    troubles = ["", "worker", "poison", "kernel", "exit", ""]
    params = [{"seed": seed, "trouble": trouble} for seed, trouble in enumerate(troubles)]
    frame = sweeps.run_sweep(chapter, params, tmp_path / "out", workers=2, progress=False)
    assert list(frame.status) == ["completed", "completed", "failed", "failed", "failed", "completed"]
    assert list(frame.score.dropna()) == [0, 10, 50]
    for seed, error in ((2, "its worker was lost 3 times"), (3, "the kernel died"), (4, "SystemExit: 0")):
        assert error in frame.error[seed]
    assert "sys.exit(0)" in (tmp_path / "out" / frame.notebook[4]).read_text()
    left = {path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")}
    assert left == {".locks"}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by signals")
def test_kill_9_at_random(tmp_path):
    """The sweep, a worker or a kernel: nothing finished is lost or repeated, nothing unfinished counts, all is done."""
    psutil = pytest.importorskip("psutil")
    note = (
        "import os, time\ndef note(what):\n    with open('log', 'a') as file:\n"
        "        file.write(f'{what}-{seed} ')\nnote('begin')\ntime.sleep(0.3)"
    )
    chapter = write_notebook(tmp_path / "01_a.ipynb", note, parameters=PARAMETERS, record=f"note('end')\n{RECORD}")
    log, out, chance = tmp_path / "log", tmp_path / "out", random.Random(0)
    again = ("sweep", str(chapter), "--grid", "seed=0:4", "--workers", "2", "--out", str(out))
    finished, begun = set(), {}

    def look():
        """Check what is finished now against what was before."""
        done = {seed for seed, status in statuses(out).items() if status == "completed"}
        words = log.read_text().split() if log.exists() else []
        assert finished <= done, "lost"
        assert all(f"end-{seed}" in words for seed in done), "not finished, but thought so"
        assert all(words.count(f"begin-{seed}") == begun[seed] for seed in finished), "repeated"
        finished.update(done)
        begun.update({seed: words.count(f"begin-{seed}") for seed in done})

    for _ in range(3):
        sweep = psutil.Popen([sys.executable, "-m", "course_utils", *again], stdout=-3, stderr=-3)
        time.sleep(chance.uniform(1, 6))
        family = [sweep, *sweep.children(recursive=True)] if sweep.is_running() else []
        if family:
            chance.choice(family).kill()
        sweep.wait()
        psutil.wait_procs(family, timeout=60)
        assert not [member for member in family if member.is_running()], "orphans"
        look()
    assert "4 runs: 4 completed" in seconds_of(*again)[1]
    look()
    assert finished == set(range(4))
