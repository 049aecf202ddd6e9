"""Cores, and GPUs that runs share without meeting."""

import os
import threading
import time

import pytest

from course_utils.core import machine


@pytest.fixture
def listed(monkeypatch, temporary_files):
    """Set which GPUs there are."""

    def put(names):
        monkeypatch.setattr(machine, "gpus", lambda: tuple(names))

    return put


@pytest.mark.parametrize(
    ("admitted", "expected"),
    [("0,2", ("0", "2")), ("GPU-1a, GPU-2b", ("GPU-1a", "GPU-2b")), ("", ()), ("-1", ()), ("0,-1", ("0",))],
)
def test_gpus_that_the_environment_admits(monkeypatch, admitted, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", admitted)
    assert machine.gpus.__wrapped__() == expected


@pytest.mark.skipif(os.name != "posix", reason="the tool is a shell script")
@pytest.mark.parametrize(("script", "expected"), [("echo GPU-1\necho GPU-2", ("GPU-1", "GPU-2")), ("exit 9", ())])
def test_gpus_that_the_driver_lists(monkeypatch, tmp_path, script, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpus.__wrapped__() == (), "no driver, no GPU"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    assert machine.gpus.__wrapped__() == expected


def test_without_gpus_the_environment_stays(listed):
    listed([])
    with machine.one_gpu() as first, machine.one_gpu() as second:
        assert (first, second) == ({}, {})


@pytest.mark.filterwarnings("ignore:waiting for a GPU")
def test_each_run_has_a_gpu_of_its_own(listed):
    """Five runs on two GPUs: never two on one, and both are used."""
    listed(["GPU-1", "GPU-2"])
    busy, used, trouble = set(), set(), []

    def run():
        with machine.one_gpu() as environment:
            name = environment["CUDA_VISIBLE_DEVICES"]
            if name in busy:
                trouble.append(name)
            busy.add(name)
            used.add(name)
            time.sleep(0.1)
            busy.remove(name)

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (trouble, used) == ([], {"GPU-1", "GPU-2"})


def test_who_has_to_wait_is_told_for_what(listed, monkeypatch, recwarn):
    listed(["GPU-1", "GPU-2"])
    runs = [machine.one_gpu(), machine.one_gpu()]
    for run in runs:
        run.__enter__()
    assert not recwarn
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            runs[1].__exit__(None, None, None)

    monkeypatch.setattr(machine.time, "sleep", sleep)
    with machine.one_gpu() as environment:
        assert environment == {"CUDA_VISIBLE_DEVICES": "GPU-2"}
    assert len(naps) == 3
    assert [str(told.message).partition(".")[0] for told in recwarn] == [
        "waiting for a GPU: other runs of yours are on GPU-1, GPU-2"
    ], "once"
    runs[0].__exit__(None, None, None)


@pytest.mark.parametrize(
    "error", [KeyError("getpwuid(): uid not found: 4711"), OSError("No username set"), ImportError]
)
def test_a_user_without_a_name_gets_a_gpu(listed, monkeypatch, error):
    """As in a container that runs with a number of its own."""

    def getuser():
        raise error

    monkeypatch.setattr(machine.getpass, "getuser", getuser)
    listed(["GPU-1"])
    with machine.one_gpu() as environment:
        assert environment == {"CUDA_VISIBLE_DEVICES": "GPU-1"}


@pytest.mark.parametrize("user", ["DOMAIN\\me", "a/b", "me: you", "é"])
def test_any_name_of_a_user_or_gpu_makes_a_file_name(listed, monkeypatch, user, temporary_files):
    monkeypatch.setattr(machine.getpass, "getuser", lambda: user)
    listed(["MIG-GPU-1/2/3"])
    with machine.one_gpu() as environment:
        assert environment == {"CUDA_VISIBLE_DEVICES": "MIG-GPU-1/2/3"}
        assert [path.suffix for path in temporary_files.iterdir()] == [".lock"]


def test_cores_are_those_that_we_may_use():
    assert 1 <= machine.cores() <= os.cpu_count()
