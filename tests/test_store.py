"""Stores hold whole files, and a run is claimed by one worker at a time: in a folder, and in an S3 bucket."""

import contextlib
import errno
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from course_utils.core import files
from course_utils.runner import store


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SETTLE", 0.1)
    if request.param == "folder":
        return tmp_path / "new"
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


@pytest.mark.parametrize(
    "place",
    ["file:///tmp/x", "http://a/b", "ftp://a/b", "s3:/a", "S3://a/b", Path("s3://a/b"), "~nobody-of-this-name/x"],
)
def test_what_is_no_store_is_refused(place):
    with pytest.raises(ValueError, match=r"by its path|write the path out"):
        store.open_store(place)


def test_a_folder_may_be_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    store.open_store("~/out").write("a", "")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


@pytest.mark.parametrize("place", ["s3://a", "gs://a/b", "abs://a/b", "adl://a/b", "hdfs://a/b/"])
def test_an_address_stays_what_it_is(place):
    assert str(store.open_store(place)) == place.rstrip("/")


def test_what_is_written_can_be_read_and_listed(place):
    here = store.open_store(place)
    assert here.names() == set()
    here.write("a.json", "ä {x}\n")
    here.write("a.json", "b\n")
    assert store.open_store(str(here)).read("a.json").rstrip("\n") == "b"  # papermill drops a bucket's last line end
    assert "a.json" in here.names()


def test_one_claim_at_a_time(place):
    here, there = store.open_store(place), store.open_store(place)
    assert not here.is_claimed("a")
    with here.claim("a") as is_ours:
        assert is_ours
        assert there.is_claimed("a")
        with there.claim("a") as is_theirs, there.claim("b") as is_other:
            assert (is_theirs, is_other) == (False, True)
    assert not there.is_claimed("a")
    with there.claim("a") as is_theirs:
        assert is_theirs


def test_an_error_ends_a_claim(place):
    here = store.open_store(place)
    with pytest.raises(KeyError), here.claim("a"):
        raise KeyError
    assert not here.is_claimed("a")


def test_many_claimants_at_once(place):
    """However they come, never two at a time, and all together they get it at least once."""
    inside, most, owners = [], [], []

    def claim():
        with store.open_store(place).claim("a") as is_ours:
            if is_ours:
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.2)
                inside.pop()
                owners.append(1)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert owners
    assert max(most) == 1


def test_the_system_ends_the_claim_of_a_killed_process(tmp_path):
    code = (
        "import sys, time\nfrom course_utils.runner.store import open_store\n"
        "with open_store(sys.argv[1]).claim('a'):\n    print('claimed', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"claimed\n"
    assert store.open_store(tmp_path).is_claimed("a")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with store.open_store(tmp_path).claim("a") as is_ours:
        assert is_ours


def test_a_claim_in_a_bucket_is_renewed_and_ends_when_it_is_not(s3, monkeypatch):
    monkeypatch.setattr(store, "SETTLE", 0.05)
    monkeypatch.setattr(store, "LEASE", 0.8)
    here = store.open_store(f"{s3}/{uuid.uuid4().hex}")
    with here.claim("a"):
        time.sleep(1.2)
        assert here.is_claimed("a")
    here._hold("a", "of one that was killed")
    assert here.is_claimed("a")
    time.sleep(1)
    assert not here.is_claimed("a")


def test_the_last_to_write_gets_the_claim(s3, monkeypatch):
    """Somebody who found it free as well, and wrote after us, is the owner."""
    here = store.open_store(f"{s3}/{uuid.uuid4().hex}")
    monkeypatch.setattr(store.time, "sleep", lambda _: here._hold("a", "another"))
    with here.claim("a") as is_ours:
        assert not is_ours
    assert here._holder("a")["token"] == "another"


def test_scratch_is_empty_and_goes(tmp_path):
    here = store.open_store(tmp_path)
    with here.scratch("a") as scratch:
        (scratch / "deep").mkdir()
        (scratch / "deep" / "file").touch()
        with here.scratch("a.b") as other:
            assert list(other.iterdir()) == []
        assert list(scratch.iterdir()) == [scratch / "deep"]
    assert not scratch.exists()
    assert tmp_path in scratch.parents, "on the same disk"


def test_scratch_removes_what_a_killed_process_left(tmp_path):
    code = (
        "import os, sys\nfrom course_utils.runner.store import open_store\nhere = open_store(sys.argv[1])\n"
        "with here.claim('a'), here.scratch('a') as scratch:\n    (scratch / 'half').touch()\n    os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert list(tmp_path.rglob("half"))
    with store.open_store(tmp_path).scratch("a") as scratch:
        assert list(scratch.iterdir()) == []
    assert not list(tmp_path.rglob("half"))


def test_scratch_removes_nothing_of_others(tmp_path):
    """Neither folders of a user, whatever their names, nor files that another process is writing, nor another run's."""
    here = store.open_store(tmp_path)
    for folder in (".a.photos", ".a.k3j9x2b_", ".a.k3j9x2b_.course-part", ".a.scratch", "a.scratch"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine").touch()
    with here.scratch("b") as other, contextlib.ExitStack() as writing:
        for name in ("a", "a.ipynb", "a.status.json", "a.csv"):
            writing.enter_context(files.atomic_write(tmp_path / name)).write_text(name)
        (other / "mine").touch()
        before = sorted(tmp_path.rglob("*"))
        with here.scratch("a"):
            pass
        assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "a.csv").read_text() == "a.csv"


def test_a_folder_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").touch()
    here = store.open_store(tmp_path / "file")
    with pytest.raises(OSError, match="choose another folder"):
        here.write("a", "")
    with pytest.raises(OSError, match="choose another folder"), here.claim("a"):
        pass
    with pytest.raises(OSError, match="the disk is full"), store.open_store(tmp_path).scratch("a"):
        raise OSError(errno.ENOSPC, "full")
