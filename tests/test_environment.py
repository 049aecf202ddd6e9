"""`course doctor`: what it says of a machine, whatever is missing there."""

import builtins
import importlib.metadata
import sys
from pathlib import Path

from click.testing import CliRunner

from course_utils.cli import environment, main


def lines(findings, level):
    return [f.text for f in findings if f.level == level]


def test_doctor_finds_this_machine_fit():
    findings = environment.doctor()
    assert findings, str(findings)
    assert "mnist5k: 1000 test images" in str(findings)


def test_doctor_names_missing_and_other_packages(monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "click" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = list(environment._packages())
    assert lines(findings, "failure") == [f"torch {environment._pins()['torch']} is not installed"]
    assert lines(findings, "warning") == [f"click is 0.0.1, the course was tested with {environment._pins()['click']}"]
    assert "pip install -r requirements.txt" in str(findings[0])


def test_doctor_reports_a_torch_that_cannot_be_imported(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.split(".")[0] == "torch":
            raise OSError("libtorch_cpu.so: cannot open shared object file\nmore")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(builtins, "__import__", broken)
    result = CliRunner().invoke(main, ["doctor"])
    monkeypatch.undo()
    assert result.exit_code == 1
    assert "✗ torch: OSError: libtorch_cpu.so: cannot open shared object file → python -m pip install" in result.output


def test_doctor_says_where_it_cannot_write(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    findings = environment._cache()
    assert str(next(findings)).startswith("✗ cannot write to")


def test_doctor_needs_no_home(tmp_path, monkeypatch):
    """Path.home() raises for a user of whom the machine knows nothing, as in a container."""

    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    assert lines(environment._cache(), "ok") == [f"cache {tmp_path}"]


def test_doctor_names_a_mirror_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setenv("COURSE_DATA_MIRROR", str(tmp_path / "none"))
    assert any("COURSE_DATA_MIRROR" in text for text in lines(environment._cache(), "failure"))
