"""Worker processes: one that dies costs its own task, and none outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from course_utils.runner.workers import WorkerLost, Workers


@pytest.fixture(scope="module")
def pool():
    with Workers(2) as workers:
        yield workers


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_gone(pid, seconds=5):
    end = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_alive(pid)


def test_tasks_are_done_in_other_processes(pool):
    pids = {future.result() for future in [pool.submit(os.getpid) for _ in range(6)]}
    assert os.getpid() not in pids
    assert 1 <= len(pids) <= 2
    assert pool.submit(pow, 2, exp=10).result() == 1024


def test_an_error_comes_back_and_the_worker_stays(pool):
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result()


def test_a_worker_that_dies_costs_its_own_task_only(pool):
    slow = pool.submit(time.sleep, 1)
    lost = pool.submit(os._exit, 3)
    with pytest.raises(WorkerLost):
        lost.result()
    assert slow.result() is None
    assert all(future.result() == 4 for future in [pool.submit(pow, 2, 2) for _ in range(4)])


def test_killed_from_outside(pool):
    with pytest.raises(WorkerLost):
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


def test_workers_have_the_environment_of_today(pool, monkeypatch):
    monkeypatch.setenv("COURSE_TEST", "set after the first workers")
    with Workers(1) as later:
        assert later.submit(os.getenv, "COURSE_TEST").result() == "set after the first workers"


def test_ctrl_c_does_not_reach_the_workers(pool):
    assert pool.submit(signal.raise_signal, signal.SIGINT).result() is None


def test_an_error_ends_the_workers_at_once():
    began, seen = time.monotonic(), []

    def interrupted():
        with Workers(1) as workers:
            seen.append(workers.submit(os.getpid).result())
            workers.submit(time.sleep, 60)
            seen.append(workers.submit(time.sleep, 60))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    pid, waiting = seen
    assert time.monotonic() - began < 30
    assert is_gone(pid)
    assert waiting.cancelled()


SCRIPT = """
import os, time
from course_utils.runner.workers import Workers

{guard}
    with Workers(1) as workers:
        print(workers.submit(os.getpid).result(), flush=True)
        workers.submit(time.sleep, 60).result()
"""


def script(tmp_path, guard):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(guard=guard))
    return subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_no_worker_outlives_a_killed_parent(tmp_path):
    with script(tmp_path, "if __name__ == '__main__':") as parent:
        pid = int(parent.stdout.readline())
        parent.kill()
    assert is_gone(pid)


def test_a_script_without_a_guard_is_told(tmp_path):
    with script(tmp_path, "if True:") as parent:
        _, err = parent.communicate()
    assert parent.returncode == 1
    assert "NoWorker: a worker process cannot start. A script must call this under" in err
