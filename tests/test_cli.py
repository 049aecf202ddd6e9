"""The `course` command: what it refuses, what it writes, and what it prints."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from conftest import needs_dask, needs_reveal
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils.cli import commands
from course_utils.cli.environment import Finding, Findings
from course_utils.runner import chapters, execution
from course_utils.runner.store import open_store


def chapter(number, *sources, parameters="eps = 0.1  # pixel units, 0 to 1"):
    record = "from course_utils.runner.paper_claims import record\nrecord(eps=eps)"
    return new_notebook(
        cells=[
            new_markdown_cell(f"# {number} A title\n\nOne promise."),
            new_code_cell(parameters, metadata={"tags": ["parameters"]}),
            *map(new_code_cell, sources),
            new_code_cell(record, metadata={"tags": ["results"]}),
        ]
    )


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of two chapters; the second fails and has one parameter more."""
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.chdir(tmp_path)
    solutions = tmp_path / "notebooks" / "solutions"
    solutions.mkdir(parents=True)
    nbformat.write(chapter("01"), solutions / "01_a.ipynb")
    nbformat.write(chapter("02", "1 / 0", parameters="eps = 0.1\nsteps = 40"), solutions / "02_b.ipynb")
    return tmp_path


def course_command(*args):
    return CliRunner().invoke(commands.main, args)


@pytest.mark.parametrize(
    "command", ["", "run", "sweep", "status", "collect", "build", "student", "html", "slides", "doctor"]
)
def test_every_command_has_help(command):
    result = course_command(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


ENCODINGS = ["cp1252", "cp437", "latin-1", "utf-8"]


def printed(encoding, *args):
    """What a command prints, to stdout and stderr, through a pipe of this encoding."""
    runner = CliRunner(charset=encoding)
    result = runner.invoke(commands.main, args)
    assert not isinstance(result.exception, UnicodeError), result.exception
    return result.output


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_can_be_piped(course, monkeypatch, encoding):
    """Signs that the encoding lacks are replaced: no command dies of a check mark."""
    findings = [
        Finding("ok", "a"),
        Finding("failure", "b", "cure"),
        Finding("warning", "日本"),
    ]
    monkeypatch.setattr(commands, "doctor", lambda: Findings(findings))
    failed = execution.RunResult("01_a", "failed", 1.0, Path("01_a.ipynb"), error="✗ → – …")
    for name in ("run_notebook", "rebuild"):
        monkeypatch.setattr(execution, name, lambda *args, **options: failed)
    monkeypatch.setattr("course_utils.runner.html_export.export", lambda *args, **options: None)
    execution.write_record(open_store("runs"), {"name": "a", "status": "failed", "error": "✗ → – …"})
    for command in commands.main.commands:
        assert "Usage: " in printed(encoding, command, "--help")
    for command in (
        "run 01",
        "build 01",
        "student",
        "html",
        "status runs",
        "collect runs --to a.csv",
    ):
        assert printed(encoding, *command.split())
    mark, cross, arrow = ("✓", "✗", "→") if encoding == "utf-8" else ("ok", "x", "->")
    assert f"{cross} defaults: {cross} {arrow} " in printed(encoding, "status", "runs")
    other = "日本" if encoding == "utf-8" else r"\u65e5\u672c"
    assert printed(encoding, "doctor") == f"{mark} a\n{cross} b {arrow} cure\n! {other}\n"


def test_a_pipe_under_windows():
    """As above, in a process of its own: cp1252 is the encoding of a pipe there."""
    code = (
        "from course_utils.cli import commands, environment\n"
        "commands.doctor = lambda: environment.Findings([environment.Finding('ok', 'fine')])\n"
        "commands.main(['doctor'])"
    )
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [b"ok", b"fine"], b"")


def test_python_m_works():
    done = subprocess.run(
        [sys.executable, "-m", "course_utils", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("course, version ")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "fgms"], "no chapter 'fgms'."),
        (["run", "01", "-p", "epz=0.1"], "no chapter to run has a parameter 'epz'. Did you mean 'eps'?"),
        (["run", "01", "-p", "eps=many"], "eps must be a number, like 0.1, got 'many'"),
        (["run", "01", "-p", "eps=8"], "eps must lie in 0 to 1, got 8"),
        (["run", "01", "-p", "eps"], "-p expects NAME=VALUE, like -p eps=0.1, got 'eps'"),
        (["run", "--preset", "ful"], "no preset 'ful'. Did you mean 'full'?"),
        (["run", "--student"], "no chapters in"),
        (["build", "03"], "no chapter '03'."),
        (["slides", "03"], "no chapter '03'. Known: 01_a, 02_b."),
        (["sweep", "03"], "no chapter '03'."),
        (["sweep", "01", "--grid", "eps"], "--grid expects NAME=VALUES, like --grid eps=0.1,0.2, got 'eps'"),
        (["sweep", "01", "--grid", "eps=0:3"], "eps must lie in 0 to 1, got 2"),
        (["sweep", "01", "--grid", "eps=,"], "expected values, like 0.1,0.2 or 0:5, got ','"),
        (["sweep", "01", "--grid", "eps=0.1", "--grid", "eps=0.2"], "--grid names 'eps' twice"),
        (["sweep", "01", "--grid", "epz=0.1"], "01_a has no parameter 'epz'. Did you mean 'eps'?"),
        (["sweep", "02", "--grid", "steps=0:1000000000"], "expected 1 to 100000 combinations, got 1000000000"),
        pytest.param(["sweep", "01", "--scheduler", "nowhere"], "no scheduler answers at nowhere", marks=needs_dask),
        (["status", "build"], "no runs in"),
        (["collect", "build", "--to", "a.csv"], "no runs in"),
    ],
)
def test_usage_errors_are_one_line_and_run_nothing(course, args, message):
    result = course_command(*args)
    assert result.exit_code == 2
    assert result.output.startswith(f"course: {message}")
    assert result.output.count("\n") == 1
    assert not (course / "build").exists()


@pytest.mark.parametrize("command", [["run"], ["build"], ["sweep", "01", "--grid", "eps=0.1"]])
@pytest.mark.parametrize("timeout", ["nan", "inf", "-inf", "0", "-1", "1e300", "soon"])
def test_a_timeout_that_is_no_number_of_seconds_is_a_usage_error(course, command, timeout):
    before = sorted(course.rglob("*"))
    result = course_command(*command, f"--timeout={timeout}")
    assert result.exit_code == 2
    assert "Invalid value for '--timeout': " in result.stderr
    assert sorted(course.rglob("*")) == before


@pytest.mark.parametrize("address", ["s3://bucket/x", "file:///tmp/x", "S3://bucket", "http://127.0.0.1/x"])
@pytest.mark.parametrize(
    "command", [["run"], ["html"], pytest.param(["slides", "01"], marks=needs_reveal), ["collect"]]
)
def test_an_address_is_refused_where_a_path_is_needed(course, command, address):
    """Not taken for a folder called "s3:"."""
    if command == ["collect"]:
        execution.write_record(open_store("runs"), {"name": "a", "status": "failed"})
        command = ["collect", "runs", "--to", f"{address}/a.csv"]
    else:
        command = [*command, "--out", address]
    before = sorted(course.rglob("*"))
    result = course_command(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"course: expected a path on this machine, got the address {address}")
    assert "Name a local one" in result.stderr
    assert sorted(course.rglob("*")) == before


@pytest.mark.parametrize(
    "command", [["sweep", "01", "--grid", "eps=0.1", "--out"], ["status"], ["collect", "--to=a.csv"]]
)
@pytest.mark.parametrize("address", ["file:///tmp/x", "http://127.0.0.1/x", "s3:/bucket"])
def test_an_address_of_no_object_store_is_refused(course, command, address):
    before = sorted(course.rglob("*"))
    result = course_command(*command, address)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("course: expected a folder, or as text an address that begins with s3://, gs://")
    assert sorted(course.rglob("*")) == before


@pytest.mark.parametrize("command", [["run", "--student"], ["run"], ["run", "01"], ["sweep", "01"], ["html"]])
@pytest.mark.parametrize("out", ["notebooks", "notebooks/solutions", "notebooks/../notebooks/solutions", "link"])
def test_what_comes_out_never_replaces_a_source(course, command, out):
    """Neither the notebook that runs nor its other version: students' answers are in it."""
    course_command("student")
    (course / "link").symlink_to(course / "notebooks")
    before = {path: path.is_file() and path.read_bytes() for path in sorted(course.rglob("*"))}
    result = course_command(*command, "--out", out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("course: expected a folder of its own for what comes out, got ")
    assert "Choose another folder, like build/course." in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path: path.is_file() and path.read_bytes() for path in sorted(course.rglob("*"))} == before


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize("command", [["html"], pytest.param(["slides", "01"], marks=needs_reveal)])
def test_the_shell_need_not_expand_the_home_folder(course, home, command):
    result = course_command(*command, "--out=~/x")
    assert result.exit_code == 0, result.output
    assert not (course / "~").exists()
    assert any((home / "x").iterdir())


@pytest.mark.slow
def test_runs_may_be_at_home(course, home):
    ran = course_command("run", "01", "--out=~/x")
    assert ran.exit_code == 0, ran.output
    assert course_command("status", "~/x").stdout == "1 runs: 1 completed\n"
    assert course_command("collect", "~/x", "--to=~/a.csv").exit_code == 0
    assert {path.name for path in home.iterdir()} >= {"x", "a.csv"}
    assert not (course / "~").exists()


@pytest.mark.slow
def test_run_executes_in_order_and_reports(course):
    result = course_command("run", "-p", "steps=2", "-p", "eps=8/255", "--out", "out")
    assert result.exit_code == 1, "a failed chapter fails the command"
    assert "01_a has no parameter 'steps': it runs without it." in result.output
    assert "✗ 02_b: code cell 3 (1 / 0): ZeroDivisionError: division by zero" in result.output
    table = result.stdout.splitlines()
    assert [line.split()[0] for line in table[:3]] == ["chapter", "01_a", "02_b"]
    assert [line.split()[-1] for line in table[:3]] == ["status", "completed", "failed"]
    written = {p.name for p in (course / "out").iterdir()}
    ends = (".ipynb", ".html", ".status.json")
    assert written == {
        "index.html",
        ".lock",
        ".lock.json",
        *(f"{name}{end}" for name in ("01_a", "02_b") for end in ends),
    }
    index = (course / "out" / "index.html").read_text(encoding="utf-8")
    for text in ('href="01_a.html"', "01 A title", "One promise.", "completed", "ZeroDivisionError"):
        assert text in index


@pytest.mark.slow
def test_a_sweep_from_its_start_to_its_table(course):
    sweep = ("sweep", "02", "--grid", "steps=1:3", "-p", "eps=8/255", "--workers", "2", "--out", "out")
    result = course_command(*sweep)
    assert result.exit_code == 1
    assert "2 runs: 2 failed" in result.stdout
    assert "✗ eps=0.03137254901960784 steps=1: code cell 3 (1 / 0): ZeroDivisionError" in result.stderr
    solution = course / "notebooks" / "solutions" / "02_b.ipynb"
    nbformat.write(chapter("02", parameters="eps = 0.1\nsteps = 40"), solution)
    result = course_command(*sweep)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "2 runs: 2 completed" in result.stdout
    assert (course / "out" / "index.html").exists()
    assert course_command("status", "out").stdout.splitlines()[-1] == "4 runs: 2 completed, 2 failed"
    assert course_command("collect", "out", "--to", "all.csv").stdout == "wrote 4 runs to all.csv\n"
    assert len((course / "all.csv").read_text().splitlines()) == 5


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="presses Ctrl-C by a signal")
def test_ctrl_c_ends_a_sweep_in_order(course):
    """One line, no traceback; what is finished is kept, and nothing goes on running."""
    solution = course / "notebooks" / "solutions" / "01_a.ipynb"
    waits = "import os, time\nopen(f'pid-{os.getpid()}', 'w').close()\ntime.sleep(60 * (eps > 0.5))"
    nbformat.write(chapter("01", waits), solution)
    command = [sys.executable, "-m", "course_utils", "sweep", str(solution), "--grid", "eps=0.1,0.9", "--out", "out"]
    with subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.PIPE, text=True, process_group=0) as sweep:
        while len(pids := list(solution.parent.glob("pid-*"))) < 2:
            assert sweep.poll() is None
            time.sleep(0.1)
        assert "2 runs: 1 completed, 1 running\nAbout 0:00:" in course_command("status", "out").stdout
        os.killpg(sweep.pid, signal.SIGINT)
        assert sweep.communicate()[1] == "Interrupted. What is finished is kept: the same command goes on.\n"
    assert sweep.returncode == 130
    assert course_command("status", "out").stdout.endswith("2 runs: 1 completed, 1 interrupted\n")
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid.name[4:]}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid.name[4:]}").exists() for pid in pids)


@pytest.mark.slow
def test_build_refuses_to_store_a_failed_run(course):
    before = (course / "notebooks" / "solutions" / "02_b.ipynb").read_bytes()
    result = course_command("build")
    assert result.exit_code == 1
    assert (course / "notebooks" / "solutions" / "02_b.ipynb").read_bytes() == before
    assert (course / "notebooks" / "01_a.ipynb").exists()
    assert course_command("student", "--check").exit_code == 0


def test_a_sweep_that_had_to_stop_says_why_in_one_line(course, monkeypatch):
    def stop(*args, **options):
        raise RuntimeError("the sweep stopped: the disk is full")

    monkeypatch.setattr("course_utils.runner.sweeps.run_sweep", stop)
    result = course_command("sweep", "01")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "course: the sweep stopped: the disk is full\n")


def test_student_and_its_check(course):
    result = course_command("student", "--check")
    assert (result.exit_code, result.stdout) == (1, "01_a.ipynb is missing\n02_b.ipynb is missing\n")
    assert course_command("student").output == "wrote 01_a.ipynb\nwrote 02_b.ipynb\n"
    assert course_command("student").output == "The students' notebooks are up to date.\n"
    result = course_command("student", "--check")
    assert (result.exit_code, result.stdout) == (0, "")


def test_html_exports_without_running(course):
    assert course_command("html", "--out", "pages").exit_code == 0
    assert {p.name for p in (course / "pages").iterdir()} == {
        "index.html",
        *(f"{name}.{end}" for name in ("01_a", "02_b") for end in ("html", "ipynb")),
    }


def drawing(alt):
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    return new_output("display_data", data={"image/png": png}, metadata={"image/png": {"alt": alt}})


@pytest.mark.parametrize("command", [["html"], pytest.param(["slides", "01"], marks=needs_reveal)])
def test_pages_and_slides_take_sliders_or_say_why_not(course, command, monkeypatch):
    """A slider stands in for its picture; where it cannot be built the picture stays, and the command goes on."""
    outputs = [drawing("A demo (static picture of the slider). Words."), drawing("Broken (static picture). Words.")]
    path = course / "notebooks" / "solutions" / "01_a.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 01 A"), new_code_cell("1", outputs=outputs)]), path)

    def fragment_for(alt):
        if alt.startswith("Broken"):
            raise RuntimeError("no weights")
        return "<figure>live</figure>"

    monkeypatch.setattr("course_utils.demos.fragment_for", fragment_for)
    result = course_command(*command, "--out", "out")
    assert result.exit_code == 0, result.output
    assert "The slider 'Broken' stays a static picture: no weights\n" in result.stderr
    (page,) = (course / "out").glob("01_a.*html")
    html = page.read_text(encoding="utf-8")
    assert "<figure>live</figure>" in html
    assert 'alt="Broken (static picture). Words."' in html
    assert 'alt="A demo' not in html


@pytest.mark.parametrize("command", [["html"], pytest.param(["slides", "01"], marks=needs_reveal)])
def test_a_folder_that_cannot_be_written_is_refused(course, command):
    (course / "file").touch()
    result = course_command(*command, "--out", "file/out")
    assert result.exit_code == 2
    assert "course: " in result.stderr
    assert "cannot write to file/out" in result.stderr


def test_memory_above_the_limit_is_said(capsys):
    commands._finish([execution.RunResult("01_a", "completed", 1.0, Path("01_a.ipynb"), peak_memory_mb=3000)])
    assert "! 01_a: peak memory 3000 MB, above 2048 MB" in capsys.readouterr().err
