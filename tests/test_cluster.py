"""Sweeps on dask.distributed, with real worker processes that are killed, come late, or lose their scheduler."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import write_notebook

from course_utils.runner import cluster, outcomes, sweeps

distributed = pytest.importorskip("distributed", reason="needs dask.distributed: `make extras`, or the extra `cluster`")

PARAMETERS = "seed = 0\nwait = 0.0\nmany = 0"
RECORD = "from course_utils.runner.paper_claims import record\nrecord(score=10 * seed)"
# Every run of a seed notes that it has begun.
BEGIN = "import os, time\nwith open(f'begun-{seed}', 'a') as file:\n    file.write('x')\ntime.sleep(wait)"
pytestmark = pytest.mark.slow


@pytest.fixture
def chapter(tmp_path):
    return write_notebook(tmp_path / "01_a.ipynb", BEGIN, parameters=PARAMETERS, record=RECORD)


@pytest.fixture
def scheduler():
    """A scheduler, in a process of its own, to which workers can be added."""
    processes = []

    def start(*command):
        processes.append(
            subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def begun(chapter):
    return {path.name[6:]: len(path.read_text()) for path in chapter.parent.glob("begun-*")}


def sweep(chapter, executor, seeds=4, **common):
    params = [common | point for point in sweeps.grid(seed=range(seeds))]
    return sweeps.run_sweep(chapter, params, chapter.parent / "out", executor=executor, progress=False)


def free_port():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_worker_killed_in_flight(chapter):
    """The run is done again elsewhere; what is finished is not."""
    with cluster.connect("local", workers=2) as executor:
        client = executor.client

        def kill():
            wait_for(lambda: "running" in look())
            wait_for(lambda: len(begun(chapter)) >= 2)
            pid = client.run(os.getpid)
            os.kill(next(iter(pid.values())), signal.SIGKILL)

        def look():
            seen[:] = [record["status"] for record in outcomes.read_records(chapter.parent / "out")]
            return seen

        seen = []
        killer = threading.Thread(target=kill)
        killer.start()
        frame = sweep(chapter, executor, wait=2.0)
        killer.join()
    assert 1 <= seen.count("running") <= 2, "no more than there are workers"
    assert seen[2:] == ["pending", "pending"]
    assert list(frame.status) == ["completed"] * 4
    assert list(frame.score) == [0, 10, 20, 30]
    assert 5 <= sum(begun(chapter).values()) <= 6, "one or two runs were in flight"
    assert len(sweeps.run_sweep(chapter, [{"seed": 0, "wait": 2.0}], chapter.parent / "out")) == 1
    assert sum(begun(chapter).values()) <= 6


def test_workers_that_come_late_and_a_scheduler_that_goes(chapter, scheduler, monkeypatch):
    """Runs wait for a worker. A sweep without its scheduler ends in words, and the next one goes on from there."""
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 3)
    address = f"tcp://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    first = scheduler("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    wait_for(lambda: answers(int(port)))

    def events():
        time.sleep(1)
        scheduler("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--death-timeout", "60")
        wait_for(lambda: len(begun(chapter)) >= 2)
        first.kill()

    late = threading.Thread(target=events)
    late.start()
    with pytest.raises(RuntimeError, match="What is finished is kept"), cluster.connect(address) as executor:
        sweep(chapter, executor, wait=1.0)
    late.join()
    done = outcomes.collect(chapter.parent / "out").status.value_counts()["completed"]
    assert done >= 1
    before = begun(chapter)
    scheduler("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    wait_for(lambda: answers(int(port)))
    with cluster.connect(address) as executor:
        scheduler("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard")
        frame = sweep(chapter, executor, wait=1.0)
    assert list(frame.status) == ["completed"] * 4
    assert begun(chapter)["0"] == before["0"] == 1


def answers(port):
    import socket

    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match="cluster"), cluster.connect("local"):
        pass
