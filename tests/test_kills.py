"""Sweeps whose driver, kernels, or both are killed at random moments, and taken up again."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_notebook

from course_utils.runner import outcomes

psutil = pytest.importorskip("psutil")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="kills by signals")]

KILLS = int(os.environ.get("COURSE_TEST_KILLS", "4"))  # 200 take a quarter of an hour
RUNS = 4
ORPHAN_SECONDS = 30  # until a kernel has noticed that its driver is gone
# Every run notes when it begins and ends, in one write each: what the files of a sweep say is compared with that.
NOTE = """
import os, time
def note(what):
    with open('log', 'a') as file:
        file.write(f'{what}-{seed} ')
note('begin')
time.sleep(0.2)
"""
RECORD = "note('end')\nfrom course_utils.runner.paper_claims import record\nrecord(score=10 * seed)"


class Sweeps:
    """The sweep of a small notebook, begun again and again in new folders, and what it must not do."""

    def __init__(self, folder):
        self.folder, self.number = folder, 0
        self.new()

    def new(self):
        self.number += 1
        place = self.folder / str(self.number)
        self.chapter = write_notebook(place / "01_a.ipynb", NOTE, parameters="seed = 0", record=RECORD)
        self.log, self.out = place / "log", place / "out"
        self.finished = {}  # for each seed how often it had begun when it was first seen to be completed

    @property
    def command(self):
        grid = ("--grid", f"seed=0:{RUNS}", "--workers", "2", "--out", str(self.out))
        return (sys.executable, "-m", "course_utils", "sweep", str(self.chapter), *grid)

    def look(self):
        """Check what is completed now against what was before, and against what the runs noted themselves."""
        words = self.log.read_text().split() if self.log.exists() else []
        records = [json.loads(path.read_text()) for path in self.out.glob("*.status.json")]
        seeds = [record["params"]["seed"] for record in records if record["status"] == "completed"]
        assert len(seeds) == len(set(seeds)), "counted twice"
        assert set(self.finished) <= set(seeds), "lost"
        for record in records:
            if record["status"] == "completed":
                seed = record["params"]["seed"]
                assert record["results"] == {"score": 10 * seed}, "wrong"
                assert f"end-{seed}" in words, "not finished, but thought so"
                cells = json.loads((self.out / record["notebook"]).read_text())["cells"]
                assert any(output for cell in cells for output in cell.get("outputs", [])), "no notebook of it"
        for seed in seeds:
            begun = words.count(f"begin-{seed}")
            assert self.finished.setdefault(seed, begun) == begun, "repeated although it was completed"

    def is_done(self):
        return len(self.finished) == RUNS


def family_of(driver):
    try:
        return driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_kill_9_at_random(tmp_path):
    """Nothing is lost, wrong, counted twice or only thought finished, and nothing outlives its driver."""
    chance, sweeps, killed = random.Random(int(os.environ.get("COURSE_TEST_SEED", "0"))), Sweeps(tmp_path), 0
    while killed < KILLS:
        if sweeps.is_done():
            sweeps.new()
        driver = psutil.Popen(sweeps.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + chance.uniform(0.5, 8)
        while time.monotonic() < end and driver.poll() is None:
            time.sleep(0.01)
        kernels, whom = family_of(driver), chance.choice(("driver", "kernel", "both"))
        if driver.poll() is None:
            victims = [chance.choice(kernels)] if kernels and whom != "driver" else []
            victims += [driver] if whom != "kernel" or not kernels else []
            for victim in victims:
                victim.kill()
            killed += 1
        driver.wait()
        _, alive = psutil.wait_procs(kernels, timeout=ORPHAN_SECONDS)
        assert not alive, "orphans"
        sweeps.look()
    subprocess.run(sweeps.command, capture_output=True, check=True)
    sweeps.look()
    assert sweeps.is_done()
    assert list(outcomes.collect(sweeps.out).score) == [10 * seed for seed in range(RUNS)]
    assert not list(Path(sweeps.out).glob("*.course-part")), "visible"
