"""Calls side by side: the same results as one after another, and nothing left behind."""

import gc
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from course_utils.core.parallel import parallel_map


def drawn(scale):
    return scale * torch.rand(3), torch.get_num_threads(), os.getpid()


def quiet(*arguments, **options):
    return parallel_map(*arguments, progress=False, **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_a_map(workers):
    assert quiet(pow, [2, 3, 4], [3, 2, 1], workers=workers) == [8, 9, 4]
    assert quiet(abs, [], workers=workers) == []


def test_results_do_not_depend_on_the_number_of_workers():
    found = []
    for workers in (1, 2):
        torch.manual_seed(5)
        found.append(quiet(drawn, [1.0, 1.0, 2.0], workers=workers))
    one, two = found
    assert all(torch.equal(a, b) for (a, *_), (b, *_) in zip(one, two, strict=True))
    assert not torch.equal(one[0][0], one[1][0])  # each has a stream of its own
    assert {threads for _, threads, _ in one + two} == {1}
    assert {pid for *_, pid in one} == {os.getpid()}
    assert os.getpid() not in {pid for *_, pid in two}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_caller_keeps_threads_and_stream(workers):
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    quiet(drawn, [1.0], workers=workers)
    after = torch.rand(2)
    torch.manual_seed(7)
    torch.randint(2**31, ())
    assert torch.equal(after, torch.rand(2))
    assert torch.get_num_threads() == threads


def test_another_seed_draws_something_else():
    torch.manual_seed(1)
    one = quiet(drawn, [1.0], workers=1)
    torch.manual_seed(2)
    assert not torch.equal(one[0][0], quiet(drawn, [1.0], workers=1)[0][0])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_arrives_and_threads_come_back(workers):
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        quiet(divmod, [1, 1], [1, 0], workers=workers)
    assert torch.get_num_threads() == threads
    assert quiet(abs, [-1], workers=workers) == [1]


def warns(what):
    warnings.warn(what, RuntimeWarning, stacklevel=1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_warning_arrives(workers):
    with pytest.warns(RuntimeWarning, match="look here"):
        quiet(warns, ["look here", "and here"], workers=workers)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="1 or more; got 0"):
        quiet(abs, [1], workers=0)
    with pytest.raises(ValueError, match="shorter"):
        quiet(pow, [1, 2], [1])


def test_a_worker_holds_the_images_of_one_call_only():
    """A function that refers to itself is freed by the collector alone, with all that it carries along."""
    images = torch.zeros(54_321)

    def job(_):
        copies = [o for o in gc.get_objects() if type(o) is torch.Tensor and o.shape == images.shape]
        return job is not None and len({copy.data_ptr() for copy in copies})

    assert max(quiet(job, range(16), workers=2)) == 1


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_workers_end_with_a_killed_parent():
    code = (
        "import os, time\n"
        "from course_utils.core.parallel import parallel_map\n"
        "def job(i):\n    print(os.getpid(), flush=True); time.sleep(120)\n"
        "parallel_map(job, range(2), workers=2, progress=False)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        workers = [int(process.stdout.readline()) for _ in range(2)]
        assert all(map(alive, workers))
        process.send_signal(signal.SIGKILL)
        process.wait()
        until = time.monotonic() + 20
        while any(map(alive, workers)) and time.monotonic() < until:
            time.sleep(0.2)
        assert not any(map(alive, workers))


def test_a_replaced_worker_is_nothing_to_read_about():
    code = """
import warnings
from joblib.externals.loky import process_executor
import course_utils.core.parallel
warnings.warn("A worker stopped while some jobs were given to the executor. This can be caused by a leak.")
warnings.warn("something else")
assert "A worker stopped while some jobs were given" in "".join(
    constant for constant in process_executor._ExecutorManagerThread.process_result_item.__code__.co_consts
    if isinstance(constant, str)
), "joblib words it in another way now"
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "something else" in said.stderr
    assert "A worker stopped" not in said.stderr
