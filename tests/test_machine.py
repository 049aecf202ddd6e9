"""Cores, and GPUs that runs share without meeting."""

import os
import threading
import time

import pytest

from course_utils import machine


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


def test_cores_are_those_that_we_may_use():
    assert 1 <= machine.cores() <= os.cpu_count()
