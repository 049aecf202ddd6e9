"""Device, seeds and folders."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from course_utils.core import settings


def test_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "a"))
    assert settings.cache_dir() == tmp_path / "a"
    assert not (tmp_path / "a").exists()
    monkeypatch.setenv("COURSE_CACHE", "~/course")
    assert settings.cache_dir() == Path.home() / "course"


@pytest.mark.parametrize(
    "place",
    ["s3://bucket/x", "file:///tmp/x", "S3://bucket", Path("gs://bucket/x"), "git+ssh://a/b", "~nobody-of-this-name/x"],
)
def test_what_is_no_path_of_this_machine_is_refused(place, monkeypatch):
    """`Path` would make a folder called "s3:" of it."""
    with pytest.raises(ValueError, match=r"Name a local one|write the path out"):
        settings.local_path(place)
    monkeypatch.setenv("COURSE_CACHE", str(place))
    with pytest.raises(ValueError, match=r"Name a local one|write the path out"):
        settings.cache_dir()


@pytest.mark.parametrize("place", ["a", "/a/b", "C:/a", "C:\\a", "a:b", "a/s3://b", Path("a/b"), ".", "a~"])
def test_a_path_stays_what_it_is(place):
    assert not settings.is_address(place)
    assert settings.local_path(place) == Path(place)


@pytest.mark.parametrize("value", [None, ""])
def test_cache_is_in_the_checkout_otherwise(value, monkeypatch):
    monkeypatch.delenv("COURSE_CACHE")
    if value is not None:
        monkeypatch.setenv("COURSE_CACHE", value)
    assert settings.cache_dir() == Path(settings.__file__).parents[2] / "data" / "cache"


def test_cache_of_an_installed_package_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_CACHE")
    monkeypatch.setattr(settings, "PROJECT", tmp_path)
    assert "adversarial-examples-course" in str(settings.cache_dir())
    assert tmp_path not in settings.cache_dir().parents


def test_mirror(monkeypatch, tmp_path):
    assert settings.mirror_dir() is None
    monkeypatch.setenv("COURSE_DATA_MIRROR", "")
    assert settings.mirror_dir() is None
    monkeypatch.setenv("COURSE_DATA_MIRROR", str(tmp_path))
    assert settings.mirror_dir() == tmp_path


@pytest.mark.parametrize("name", ["missing", "file"])
def test_mirror_that_is_no_folder(name, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_DATA_MIRROR", str(tmp_path / name))
    with pytest.raises(ValueError, match=r"COURSE_DATA_MIRROR must name an existing folder.*unset it"):
        settings.mirror_dir()


@pytest.mark.parametrize(("value", "offline"), [(None, False), ("", False), ("0", False), ("1", True), ("yes", True)])
def test_offline(value, offline, monkeypatch):
    if value is not None:
        monkeypatch.setenv("COURSE_OFFLINE", value)
    assert settings.is_offline() is offline


def machine(monkeypatch, *, cuda=0, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("has", "expected"),
    [({}, "cpu"), ({"cuda": 1}, "cuda"), ({"mps": True}, "mps"), ({"cuda": 1, "mps": True}, "cuda")],
)
def test_auto_takes_the_fastest(has, expected, monkeypatch):
    machine(monkeypatch, **has)
    assert settings.choose_device().type == expected
    assert settings.choose_device("cpu").type == "cpu"


def test_named_devices(monkeypatch):
    machine(monkeypatch, cuda=2, mps=True)
    assert settings.choose_device("cuda:1") == torch.device("cuda:1")
    assert settings.choose_device("mps").type == "mps"


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "tpu", "meta", "xpu"])
def test_unknown_devices(name, monkeypatch):
    machine(monkeypatch, cuda=1)
    with pytest.raises(ValueError, match='device must be "auto", "cpu", "cuda", "cuda:N" or "mps"'):
        settings.choose_device(name)


@pytest.mark.parametrize(("name", "cuda"), [("cuda", 0), ("cuda:0", 0), ("mps", 0), ("cuda:1", 1), ("cuda:7", 2)])
def test_absent_devices(name, cuda, monkeypatch):
    machine(monkeypatch, cuda=cuda)
    with pytest.raises(ValueError, match=f"this machine has no device '{name}'"):
        settings.choose_device(name)


@pytest.mark.parametrize("seed", [0, 7, 2**40, -1])
def test_seed_everything(seed):
    def draw():
        settings.seed_everything(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    state = torch.get_rng_state()
    assert draw() == draw()
    torch.set_rng_state(state)


def test_describe():
    text = settings.describe()
    assert f"torch {torch.__version__}" in text
    assert "device " in text
    assert text.count("\n") == 0


def test_import_needs_no_torch():
    code = "import sys, course_utils.core.settings, course_utils.runner.paper_claims; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
