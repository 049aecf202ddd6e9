"""Stores hold whole files, and one driver at a time writes to them: a folder, and an S3 bucket."""

import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from course_utils.runner import store


@pytest.fixture(params=["folder", "bucket"])
def place(request, tmp_path, monkeypatch, temporary_files):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
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


def test_one_driver_at_a_time(place):
    here, there = store.open_store(place), store.open_store(place)
    assert here.driver() is None
    with here.lock("a sweep"):
        driver = there.driver()
        assert driver["task"] == "a sweep"
        assert time.time() - 60 < driver["began"] <= time.time()
        with pytest.raises(ValueError, match=r"^a sweep \(process .*already writes to.*wait for it"), there.lock("b"):
            pass
        assert there.driver() == driver
    assert there.driver() is None
    with there.lock("b"):
        assert here.driver()["task"] == "b"


def test_other_places_have_other_locks(place):
    with store.open_store(place).lock("a"), store.open_store(f"{place}-other").lock("b"):
        assert store.open_store(place).driver()["task"] == "a"


def test_an_error_ends_the_lock(place):
    here = store.open_store(place)
    with pytest.raises(KeyError), here.lock("a"):
        raise KeyError
    assert here.driver() is None


def test_whoever_looks_keeps_no_driver_out(place):
    """Others ask at every moment whether there is a driver; it gets its lock all the same."""
    here, ended = store.open_store(place), threading.Event()

    def look():
        while not ended.is_set():
            store.open_store(place).driver()

    looking = [threading.Thread(target=look) for _ in range(2)]
    for thread in looking:
        thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "LOCK_SECONDS", 10)
        for _ in range(5):
            with here.lock("a"):
                assert here.driver()["task"] == "a"
    ended.set()
    for thread in looking:
        thread.join()


def test_many_drivers_at_once(place):
    """However they come, never two at a time, and all together they get it at least once."""
    inside, most, owners = [], [], []

    def drive():
        try:
            with store.open_store(place).lock("a"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.2)
                inside.pop()
                owners.append(1)
        except ValueError:
            pass

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert owners
    assert max(most) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", None])
def test_a_driver_of_which_nothing_is_known_is_one_all_the_same(tmp_path, damage, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)
    here, about = store.open_store(tmp_path), tmp_path / ".lock.json"
    with here.lock("a"):
        about.unlink() if damage is None else about.write_text(damage)
        assert here.driver()["task"] == "a run"
        with pytest.raises(ValueError, match="already writes to"), here.lock("b"):
            pass


def test_the_system_ends_the_lock_of_a_killed_process(tmp_path):
    code = (
        "import sys, time\nfrom course_utils.runner.store import open_store\n"
        "with open_store(sys.argv[1]).lock('a'):\n    print('locked', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"locked\n"
    assert store.open_store(tmp_path).driver()["pid"] == holder.pid
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert store.open_store(tmp_path).driver() is None
    with store.open_store(tmp_path).lock("b"):
        pass


def test_a_folder_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").touch()
    here = store.open_store(tmp_path / "file")
    with pytest.raises(OSError, match="choose another folder"):
        here.write("a", "")
    with pytest.raises(OSError, match="choose another folder"), here.lock("a"):
        pass
