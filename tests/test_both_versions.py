"""A chapter's two versions run in one kernel: what only students would meet is still found."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_utils.core import PROJECT
from course_utils.runner import chapters, student_version

TRY = "try:\n    answer()\nexcept NotImplementedError:\n    print('not yet')"
SOLVED = f"def answer():\n    {student_version.BEGIN}\n    return 1\n    {student_version.END}\n\n\n{TRY}"


def write(folder, name, exercise, later):
    """Write a chapter of two cells, and its version for students."""
    cells = [new_code_cell(exercise, id="exercise"), new_code_cell(later, id="later")]
    nb = chapters.tidy(new_notebook(cells=cells))
    chapters.write_notebook(nb, folder / "solutions" / f"{name}.ipynb")
    nb.cells[0].source = student_version.hide_solutions(exercise)
    chapters.write_notebook(nb, folder / f"{name}.ipynb")


def outcomes(folder, *arguments):
    options = [
        "-p",
        "both_versions",
        "-p",
        "no:cacheprovider",
        "-rA",
        "--nbval-lax",
        "--nbval-current-env",
        "-c",
        "/dev/null",
        "--rootdir=.",
    ]
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder / "tests"), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    shown = done.stdout
    found = re.findall(r"^(PASSED|FAILED) notebooks/(\S+)\.ipynb::(.+?)(?: - .*)?$", shown, re.MULTILINE)
    return {(name, cell): outcome == "PASSED" for outcome, name, cell in found}


@pytest.mark.slow
def test_what_only_students_meet_is_found(tmp_path):
    (tmp_path / "tests").mkdir()
    shutil.copy(PROJECT / "tests" / "both_versions.py", tmp_path / "tests")
    folder = tmp_path / "notebooks"
    write(folder, "01_good", SOLVED, "print(1)")
    write(folder, "02_stub_raises", SOLVED.replace(TRY, "answer()"), "print(1)")
    write(folder, "03_answer_is_needed", SOLVED, "answer()")
    found = outcomes(tmp_path, "notebooks")
    cells = ("Cell 0", "Cell 0 for students", "Cell 1")
    wanted = {"01_good": (True, True, True), "02_stub_raises": (True, False, True)}
    wanted |= {"03_answer_is_needed": (True, True, False)}
    assert found == {
        (f"solutions/{name}", cell): outcome
        for name, results in wanted.items()
        for cell, outcome in zip(cells, results, strict=True)
    }
    assert outcomes(tmp_path, "notebooks/02_stub_raises.ipynb") == {
        ("02_stub_raises", "Cell 0"): False,
        ("02_stub_raises", "Cell 1"): True,
    }
