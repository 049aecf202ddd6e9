"""Sweeps: nothing lost, nothing repeated, nothing only thought finished, whatever dies on the way."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from conftest import write_notebook
from nbformat.v4 import new_output

from course_utils.core.files import PACKAGE
from course_utils.runner import execution, outcomes, paper_claims, store, sweeps

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

    def execute(job, nb, code, progress):
        done.append(job)
        for count, cell in enumerate(code, 1):
            cell.execution_count = count
        bundle = {"results": {"score": 10 * job.values["seed"]}, "peak_memory_mb": 1}
        code[-1].outputs = [new_output("display_data", data={paper_claims.RESULTS_MIME: bundle})]

    monkeypatch.setattr(execution, "_execute", execute)
    monkeypatch.setattr(sweeps, "PATIENCE", 0.05)
    monkeypatch.setattr(sweeps, "PAUSE", 0.01)
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
    return [job.id for job in execution.Job.each(path, params)]


def test_an_id_stands_for_all_parameters(chapter):
    same = ids(chapter, {}, {"eps": 0.1}, {"seed": 0, "eps": 0.1})
    assert len(set(same)) == 1
    assert len(set(ids(chapter, {}, {"eps": 0.2}, {"eps": 0}, {"seed": 1}, {"trouble": "0"}))) == 5


def test_an_id_stands_for_the_code_and_the_sources(chapter, tmp_path, monkeypatch):
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
    monkeypatch.setattr(execution, "source_hash", lambda *rooms: "of other sources")
    assert ids(chapter, {}) != [before]


def test_the_sources_that_count_are_those_that_compute():
    """All rooms but those that show, check or run: whoever adds a room decides here."""
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms - set(execution.ROOMS) == {"plotting", "demos", "exercises", "runner", "cli"}


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


def test_a_run_that_loses_every_worker_is_marked_as_failed(chapter, tmp_path, runs, capsys):
    frame = sweep(chapter, tmp_path, executor=Killing({1: 99}), progress=True)
    assert list(frame.status) == ["completed", "failed", "completed"]
    assert frame.error[1].startswith("its worker was lost 3 times")
    assert "✗ seed=1: its worker was lost 3 times" in capsys.readouterr().err
    assert set(sweep(chapter, tmp_path).status) == {"completed"}


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
    assert list(outcomes.collect(tmp_path).status) == ["completed", "pending", "pending"]
    assert set(sweep(chapter, tmp_path).status) == {"completed"}
    assert seeds(runs) == [0, 1, 1, 2]


def test_a_worker_with_other_sources_stops_the_sweep(chapter, tmp_path, runs, monkeypatch):
    class Elsewhere(Here):
        def submit(self, fn, /, job):
            with monkeypatch.context() as patch:
                patch.setattr(execution, "source_hash", lambda *rooms: "of other sources")
                return super().submit(fn, job)

    with pytest.raises(RuntimeError, match=f"has other sources of the course: install the same.*{ADVICE}"):
        sweep(chapter, tmp_path, executor=Elsewhere())
    assert runs == []


def test_a_second_driver_is_refused_in_words(chapter, tmp_path, runs):
    """By every way to write there; it changes nothing, and the first one goes on."""
    jobs = sweeps.plan_jobs(chapter, [{}], tmp_path)

    class Another(Here):
        def submit(self, fn, /, job):
            before = {path: path.read_text() for path in tmp_path.iterdir()}
            driver = rf"a sweep of 01_a \(process {os.getpid()} on .+, since \d{{4}}-.+\) already writes to "
            for again in (
                lambda: sweep(chapter, tmp_path, seeds=9),
                lambda: sweeps.run_jobs(jobs, tmp_path, executor=Here()),
                lambda: execution.run_notebook(chapter, {}, tmp_path),
            ):
                with pytest.raises(ValueError, match=f"{driver}.*wait for it, stop it, or choose another folder"):
                    again()
            assert {path: path.read_text() for path in tmp_path.iterdir()} == before
            return super().submit(fn, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "LOCK_SECONDS", 0.1)
        assert set(sweep(chapter, tmp_path, executor=Another()).status) == {"completed"}
    assert seeds(runs) == [0, 1, 2]
    assert set(sweep(chapter, tmp_path).status) == {"completed"}, "the lock goes with its driver"


def test_whether_a_run_has_begun_is_asked_of_the_executor(chapter, tmp_path, runs):
    """One that runs the first job until it has been seen, and never begins the second before."""

    class Slow(Here):
        def __init__(self):
            self.queue = []

        def submit(self, fn, /, job):
            future = Future()
            if not self.queue:
                future.set_running_or_notify_cancel()
                threading.Thread(target=self.finish).start()
            self.queue.append((future, fn, job))
            return future

        def finish(self):
            end = time.monotonic() + 10
            while list(statuses(tmp_path).values()) != ["running"] or len(self.queue) < 2:
                assert time.monotonic() < end
                time.sleep(0.01)
            seen.extend(outcomes.collect(tmp_path).status)
            for future, fn, job in self.queue:
                future.set_result(fn(job))

    seen = []
    assert set(sweep(chapter, tmp_path, seeds=2, executor=Slow()).status) == {"completed"}
    assert seen == ["running", "pending"]


def test_a_run_is_seen_to_have_begun_while_others_keep_coming_back(chapter, tmp_path, runs):
    class Busy(Here):
        first = None

        def submit(self, fn, /, job):
            if self.first is None:
                self.first, self.result = Future(), fn(job)
                self.first.set_running_or_notify_cancel()
                return self.first
            time.sleep(0.02)
            if job.values["seed"] == 4:
                seen.append(statuses(tmp_path)[0])
                self.first.set_result(self.result)
            return super().submit(fn, job)

    seen = []
    assert set(sweep(chapter, tmp_path, seeds=5, executor=Busy()).status) == {"completed"}
    assert seen == ["running"]


def test_what_an_earlier_driver_left_is_interrupted(chapter, tmp_path, runs):
    """Also while another one is at work in the folder, which has not come to it yet."""
    jobs = sweeps.plan_jobs(chapter, sweeps.grid(seed=range(2)), tmp_path)
    for job in jobs:
        execution.write_record(store.open_store(tmp_path), job.record(status="running", began=time.time() - 60))
    seen = []

    class Looking(Here):
        def submit(self, fn, /, job):
            execution.write_record(store.open_store(tmp_path), job.record(status="running", began=time.time()))
            seen.append(list(outcomes.collect(tmp_path).status))
            return super().submit(fn, job)

    assert list(outcomes.collect(tmp_path).status) == ["interrupted"] * 2
    sweep(chapter, tmp_path, seeds=2, executor=Looking())
    assert seen == [["running", "interrupted"], ["completed", "running"]]


def test_ctrl_c_keeps_what_is_finished(chapter, tmp_path, runs):
    class Interrupted(Here):
        def submit(self, fn, /, job):
            if job.values["seed"] == 1:
                raise KeyboardInterrupt
            return super().submit(fn, job)

    with pytest.raises(KeyboardInterrupt):
        sweep(chapter, tmp_path, executor=Interrupted())
    assert list(outcomes.collect(tmp_path).status) == ["completed", "pending", "pending"]


# Many runs

MANY = int(os.environ.get("COURSE_TEST_RUNS", "1000"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with many finished runs."""
    folder = tmp_path_factory.mktemp("many")
    chapter = write_notebook(folder / "01_a.ipynb", parameters=PARAMETERS, record=RECORD)
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("course_utils.core.files._sync", lambda _: None)  # waiting for the disk takes seconds
        place, jobs = store.open_store(out), sweeps.plan_jobs(chapter, sweeps.grid(seed=range(MANY)), out)
        sweeps._write_plan(place, jobs, set())
        for job in jobs:
            about = {"status": "completed", "notebook": f"{job.name}.ipynb", "seconds": 1.5}
            execution.write_record(place, job.record(**about, results={"score": 10 * job.values["seed"]}))
            (out / about["notebook"]).touch()
    return chapter, out


def seconds_of(*args):
    """What the `course` command takes of the processor, whatever else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "course_utils", *args], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def test_many_finished_runs_are_seen_in_no_time(many, tmp_path):
    """Twenty thousand take 3 seconds to look at and 10 to take up again: set COURSE_TEST_RUNS to try it."""
    chapter, out = many
    again = ("sweep", str(chapter), "--grid", f"seed=0:{MANY}", "--out", str(out))
    seconds_of(*again)  # draws the report
    seconds, said = seconds_of(*again)
    assert f"{MANY} runs: {MANY} completed" in said
    assert seconds < max(3, MANY / 2000)
    seconds, said = seconds_of("status", str(out))
    assert said == f"{MANY} runs: {MANY} completed\n"
    assert seconds < max(2, MANY / 6666)
    seconds, _ = seconds_of("collect", str(out), "--to", str(tmp_path / "all.csv"))
    assert seconds < max(3, MANY / 2000)
    assert pd.read_csv(tmp_path / "all.csv").score.tolist() == list(range(0, 10 * MANY, 10))


def test_a_folder_is_listed_as_often_for_many_runs_as_for_few(chapter, tmp_path, runs, monkeypatch):
    listings, real = [], store.Folder.names
    monkeypatch.setattr(store.Folder, "names", lambda self: listings.append(1) or real(self))
    monkeypatch.setattr("course_utils.core.files._sync", lambda _: None)
    counts = []
    for seeds in (1, 50):
        for _ in range(2):
            listings.clear()
            sweep(chapter, tmp_path / str(seeds), seeds=seeds)
            counts.append(len(listings))
    assert counts[:2] == counts[2:]
    assert max(counts) <= 2


# Real kernels

TROUBLE = """
import os, sys, signal
if trouble == "kernel":
    os.kill(os.getpid(), signal.SIGKILL)
if trouble == "exit":
    sys.exit(0)
if trouble == "segfault":
    import ctypes
    ctypes.string_at(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills by signals")
def test_only_the_runs_in_trouble_fail(tmp_path):
    """A kernel that dies costs its own run; those beside it are not touched."""
    chapter = write_notebook(tmp_path / "01_a.ipynb", TROUBLE, parameters=PARAMETERS, record=RECORD)
    troubles = ["", "kernel", "segfault", "exit", ""]
    params = [{"seed": seed, "trouble": trouble} for seed, trouble in enumerate(troubles)]
    frame = sweeps.run_sweep(chapter, params, tmp_path / "out", workers=2, progress=False)
    assert list(frame.status) == ["completed", "failed", "failed", "failed", "completed"]
    assert list(frame.score.dropna()) == [0, 40]
    for seed, error in ((1, "the kernel died"), (2, "the kernel died"), (3, "SystemExit: 0")):
        assert error in frame.error[seed]
    assert "sys.exit(0)" in (tmp_path / "out" / frame.notebook[3]).read_text()
    left = {path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")}
    assert left == {".lock", ".lock.json"}


@pytest.mark.slow
def test_a_sweep_into_a_bucket(s3, tmp_path):
    """Nothing of it is written on this machine, and it goes on where it was."""
    out = f"{s3}/{uuid.uuid4().hex}"
    chapter = write_notebook(tmp_path / "01_a.ipynb", parameters=PARAMETERS, record=RECORD)
    first = sweep(chapter, out, executor=None, workers=1, seeds=2)
    assert list(first.score) == [0, 10]
    assert '"score": 10' in store.open_store(out).read(first.notebook[1])
    assert list(sweep(chapter, out, executor=None, workers=1).score) == [0, 10, 20]
    assert outcomes.collect(out, first.run).equals(first)
    assert list(tmp_path.iterdir()) == [chapter]


class Interrupting(ProcessPoolExecutor):
    """Kills a worker as soon as it has begun the first job."""

    killed = False

    def submit(self, fn, /, job):
        if not self.killed:
            self.killed = True
            return super().submit(os.kill, 0, 0) if os.name != "posix" else super().submit(os._exit, 1)
        return super().submit(fn, job)


@pytest.mark.slow
def test_processes_that_break_stop_the_sweep_in_words(tmp_path):
    """ProcessPoolExecutor gives up when one of its processes dies: another call goes on."""
    chapter = write_notebook(tmp_path / "01_a.ipynb", parameters=PARAMETERS, record=RECORD)
    with Interrupting(1) as executor, pytest.raises(RuntimeError, match=f"BrokenProcessPool.*{ADVICE}"):
        sweep(chapter, tmp_path / "out", executor=executor)
    with ProcessPoolExecutor(1) as executor:
        assert set(sweep(chapter, tmp_path / "out", seeds=2, executor=executor).status) == {"completed"}
