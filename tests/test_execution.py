"""Running chapters: which are found, which parameters are refused, and when a run counts as completed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import write_notebook
from nbformat.v4 import new_code_cell

from course_utils.runner import execution, outcomes, paper_claims, sweeps
from course_utils.runner.store import open_store


def test_import_needs_no_torch():
    code = "import sys, course_utils.runner.sweeps; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_with_parameters(tmp_path):
    folder = tmp_path / "out {eps}"  # papermill would fill braces in paths
    claims = json.dumps({"claims": [{"verdict": v} for v in ("holds", "holds", "not comparable")]})
    path = write_notebook(
        tmp_path / "a{b}" / "01_a.ipynb",
        "from pathlib import Path\nassert Path('01_a.ipynb').exists(), 'must start in its own folder'",
        f"from IPython.display import display\ndisplay({{'{paper_claims.CLAIMS_MIME}': {claims}}}, raw=True)",
    )
    nb = nbformat.read(path, 4)
    nb.cells.insert(2, new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}))
    nb.cells.append(new_code_cell(""))  # Jupyter leaves one at the end
    nbformat.write(nb, path)

    result = execution.run_notebook(path, {"eps": np.float32(0.25), "dataset": "mnist"}, folder, progress=False)

    assert result, result.error
    assert result.results == {"eps": 0.25, "dataset": "mnist", "python": sys.executable}
    assert (result.claims_passed, result.claims_total) == (2, 2)
    assert result.peak_memory_mb > 10
    status = json.loads((folder / "01_a.status.json").read_text())
    assert (status["status"], status["error"], status["notebook"]) == ("completed", None, "01_a.ipynb")
    defaults = {"n_eval": 512, "augment": False, "budgets": [0.1, 0.2], "target": None}
    assert status["params"] == {"eps": 0.25, "dataset": "mnist"} | defaults
    assert {p.name for p in folder.iterdir()} == {"01_a.ipynb", "01_a.status.json", ".lock", ".lock.json"}
    executed = nbformat.read(result.notebook, 4)
    assert "papermill" not in executed.metadata
    assert not any("papermill" in tag for cell in executed.cells for tag in cell.metadata.get("tags", []))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("eps.missing", "code cell 2 (eps.missing): AttributeError: 'float' object has no attribute 'missing'"),
        pytest.param("import sys\nsys.exit(0)", "code cell 2 (import sys): SystemExit: 0", marks=pytest.mark.slow),
        pytest.param(
            "import os\nos.kill(os.getpid(), 9)", "code cell 2 (import os): the kernel died", marks=pytest.mark.slow
        ),
        pytest.param("import time\ntime.sleep(60)", "code cell 2 (import time): took too long", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_breaks_off_is_failed(tmp_path, source, error):
    path = write_notebook(tmp_path / "01_a.ipynb", source)
    result = execution.run_notebook(path, {}, tmp_path / "out", timeout=3.5, progress=False)
    assert (result.status, result.results) == ("failed", {})
    assert result.error.startswith(error)
    assert "\n" not in result.error
    status = json.loads((tmp_path / "out" / "01_a.status.json").read_text())
    assert status["error"] == result.error
    nbformat.validate(nbformat.read(result.notebook, 4))


PRINTS = """
import sys
from IPython.display import display
print("first")
shown = display({"text/plain": "figure"}, raw=True, display_id=True)
print("second")
display({"text/plain": "another"}, raw=True)
for percent in range(0, 101, 25):
    print(f"\\r{percent} %", end="", file=sys.stderr, flush=True)
"""
UPDATES = """
shown.update({"text/plain": "figure, updated"}, raw=True)
print(str([0.125] * 150_000)[:1_000_000])
"""


def test_what_a_cell_prints_is_stored_in_order_and_not_without_end(tmp_path):
    """Also a megabyte in one line, which took longer than anybody waits."""
    path = write_notebook(tmp_path / "01_a.ipynb", PRINTS, UPDATES)
    result = execution.run_notebook(path, {}, tmp_path / "out", timeout=30, progress=False)
    assert result, result.error
    assert result.seconds < 20
    first, second = (cell.outputs for cell in nbformat.read(result.notebook, 4).cells[2:4])
    texts = [out.text if out.output_type == "stream" else out.data["text/plain"] for out in first]
    assert texts == ["first\n", "figure, updated", "second\n", "another", "100 %"]
    assert "900,001 characters are left out here; one output keeps 100,000" in second[0].text


def test_a_run_without_results_is_failed(tmp_path):
    path = write_notebook(tmp_path / "01_a.ipynb", record=None)
    result = execution.run_notebook(path, {}, tmp_path / "out", progress=False)
    assert result.error == "no results: the last cell must call paper_claims.record(...)"


def test_a_wrong_parameter_runs_and_writes_nothing(tmp_path, notebook):
    with pytest.raises(ValueError, match="epz"):
        execution.run_notebook(notebook, {"epz": 1}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


NO_TIMEOUTS = [float("nan"), float("inf"), -float("inf"), -1, 0, 1e300, 2**64, "5"]


@pytest.mark.parametrize("timeout", NO_TIMEOUTS)
def test_a_timeout_that_is_no_number_of_seconds_runs_nothing(tmp_path, notebook, timeout):
    before = notebook.read_bytes()
    with pytest.raises(ValueError, match=r"expected a timeout in seconds.* got .*Leave it out"):
        execution.run_notebook(notebook, {}, tmp_path / "out", timeout=timeout)
    with pytest.raises(ValueError, match="expected a timeout"):
        sweeps.run_sweep(notebook, [{}], tmp_path / "out", timeout=timeout)
    with pytest.raises(ValueError, match="expected a timeout"):
        execution.rebuild(notebook, timeout=timeout)
    assert not (tmp_path / "out").exists()
    assert notebook.read_bytes() == before


@pytest.mark.parametrize(("timeout", "seconds"), [(None, None), (0.1, 1), (2.5, 3), (np.float32(4), 4), (10**6, 10**6)])
def test_a_timeout_is_counted_in_whole_seconds(tmp_path, notebook, timeout, seconds):
    [job] = sweeps.plan_jobs(notebook, [{}], tmp_path, timeout=timeout)
    assert (job.timeout, type(job.timeout)) == (seconds, type(seconds))


@pytest.fixture(params=["itself", "a link", "around"])
def own_folder(request, tmp_path):
    """The folder of a notebook, by its name, through a link, and by a way around; and the notebook."""
    path = write_notebook(tmp_path / "mine" / "01_a.ipynb")
    if request.param == "a link":
        (tmp_path / "link").symlink_to(tmp_path / "mine")
    return {"itself": path.parent, "a link": tmp_path / "link", "around": path.parent / ".." / "mine"}[
        request.param
    ], path


def test_a_notebook_is_not_replaced_by_its_run(own_folder):
    folder, path = own_folder
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Choose another folder"):
        execution.run_notebook(path, {}, folder)
    with pytest.raises(ValueError, match="Choose another folder"):
        sweeps.run_sweep(path, [{}], folder)
    assert (path.read_bytes(), list(path.parent.iterdir())) == (before, [path])


def test_a_link_to_the_notebook_is_replaced_and_not_the_notebook(tmp_path, notebook):
    before = notebook.read_bytes()
    (tmp_path / notebook.name).symlink_to(notebook)
    store = open_store(tmp_path)
    store.write(notebook.name, "executed")
    assert (store.read(notebook.name), notebook.read_bytes()) == ("executed", before)


def test_a_run_into_a_folder_of_another_driver_is_refused(tmp_path, notebook):
    with open_store(tmp_path).lock("a sweep"), pytest.raises(ValueError, match="stop it, or choose another folder"):
        execution.run_notebook(notebook, {}, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".lock", ".lock.json"}


def test_a_run_changes_neither_folder_nor_environment_of_this_process(tmp_path, monkeypatch):
    """Notebooks run side by side in threads: each has its own in its kernel."""
    seen, before = [], (os.getcwd(), dict(os.environ))
    real = execution.notebook_text
    monkeypatch.setattr(execution, "notebook_text", lambda nb: seen.append((os.getcwd(), dict(os.environ))) or real(nb))
    path = write_notebook(tmp_path / "01_a.ipynb", "import os\nos.chdir('/')\nos.environ['COURSE_TEST'] = 'x'")
    assert execution.run_notebook(path, {"eps": 0.5}, tmp_path / "out", progress=False)
    assert seen == [before]


def test_a_kernel_that_cannot_start_is_a_failed_run(tmp_path, notebook, monkeypatch):
    monkeypatch.setattr("ipykernel.kernelspec.get_kernel_dict", lambda: {"argv": ["no-such-program"]})
    result = execution.run_notebook(notebook, {}, tmp_path, progress=False)
    assert result.status == "failed"
    assert "no-such-program" in result.error


@pytest.mark.skipif(os.name != "posix", reason="presses Ctrl-C by a signal")
def test_ctrl_c_ends_a_single_run_and_its_kernel(tmp_path):
    path = write_notebook(
        tmp_path / "01_a.ipynb", "import os, time\nopen(f'pid-{os.getpid()}', 'w').close()\ntime.sleep(60)"
    )
    code = (
        "import sys\nfrom course_utils.runner import execution\n"
        f"execution.run_notebook({str(path)!r}, {{}}, {str(tmp_path / 'out')!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as run:
        while not (pids := list(tmp_path.glob("pid-*"))):
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in run.communicate(timeout=30)[1]
    assert not Path(f"/proc/{pids[0].name[4:]}").exists()
    assert list(outcomes.collect(tmp_path / "out").status) == ["interrupted"]


HOSTILE = {
    "quotes": '\'"\'\'"""',
    "code": "'; raise SystemExit #",
    "lines": "a\nb\r\n\t\\n\x00\u2028",
    "braces": "{eps} {0} {{}} %s $x",
    "unicode": "ε ≤ 8/255 😀",
}


@pytest.mark.slow
def test_hostile_values_arrive_as_they_are(tmp_path):
    """What the kernel got is what was given, to the last bit."""
    given = {"large": 2**63 - 1, "small": -(2**63), "part": 8 / 255, "tiny": 5e-324, "zero": -0.0, "no": False}
    given |= HOSTILE | {"many": [1e308, -1.5], "none": None, "words": ["a'b", "c\nd"]}
    defaults = "\n".join(f"{name} = {type(value)()!r}" for name, value in given.items() if value is not None)
    path = write_notebook(
        tmp_path / "01_a.ipynb",
        parameters=f"{defaults}\nnone = 1".replace("many = []", "many = [0.1]").replace("words = []", "words = ['']"),
        record=f"from course_utils.runner.paper_claims import record\nrecord(seen=repr([{', '.join(given)}]))",
    )
    given["none"] = "None"
    path.write_text(path.read_text().replace("none = 1", "none = None"))
    result = execution.run_notebook(path, given, tmp_path / "{eps} 'out'", progress=False)
    assert result, result.error
    assert result.results["seen"] == repr(list(given.values()))
    assert list(outcomes.collect(tmp_path / "{eps} 'out'").iloc[0][list(given)]) == list(given.values())


@pytest.mark.slow
def test_rebuild_stores_a_good_run_and_only_that(tmp_path):
    path = write_notebook(tmp_path / "01_a.ipynb", "print('a')\nprint('b')")
    assert execution.rebuild(path)
    nb = nbformat.read(path, 4)
    assert [c.execution_count for c in nb.cells if c.cell_type == "code"] == [1, 2, 3]
    assert [o.text for o in nb.cells[2].outputs] == ["a\nb\n"]
    nb.cells[2].source = "1 / 0"
    nbformat.write(nb, path)
    before = path.read_bytes()
    result = execution.rebuild(path)
    assert result.error == "code cell 2 (1 / 0): ZeroDivisionError: division by zero"
    assert path.read_bytes() == before
