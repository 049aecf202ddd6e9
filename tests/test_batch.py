"""Running chapters: which are found, which parameters are refused, and when a run counts as completed."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils import batch

PARAMETERS = """eps = 0.1  # pixel units, 0 to 1
n_eval = 512  # images
dataset = "mnist5k"  # one of: mnist5k, mnist
augment = False
budgets = [0.1, 0.2]  # pixel units, 0 to 1
target = None"""

RECORD = "from course_utils.claims import record\nrecord(eps=eps, dataset=dataset, python=__import__('sys').executable)"


def write_notebook(path, *sources, parameters=PARAMETERS, record=RECORD):
    cells = [
        new_markdown_cell("# 01 Linear models\n\nSmall changes **add up**."),
        new_code_cell(parameters, metadata={"tags": ["parameters"]}),
        *map(new_code_cell, sources),
    ]
    if record:
        cells.append(new_code_cell(record, metadata={"tags": ["results"]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "NOTEBOOKS", tmp_path / "notebooks")
    for name in ("01_linear_models", "02_fgsm"):
        write_notebook(tmp_path / "notebooks" / "solutions" / f"{name}.ipynb")
    return tmp_path / "notebooks"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    return write_notebook(tmp_path_factory.mktemp("nb") / "01_a.ipynb")


def test_import_needs_no_torch():
    code = "import sys, course_utils.batch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# chapters


@pytest.mark.parametrize("text", ["01", "1", "linear_models", "01_linear_models", "01_linear_models.ipynb"])
def test_a_chapter_is_found_by_its_names(course, text):
    assert batch.find_chapter(text).path == course / "solutions" / "01_linear_models.ipynb"


def test_a_chapter_is_found_by_its_path(notebook):
    chapter = batch.find_chapter(str(notebook))
    assert (chapter.number, chapter.title, chapter.promise) == ("01", "01 Linear models", "Small changes add up.")


@pytest.mark.parametrize(("text", "near"), [("fgms", "'fgsm'"), ("linear", "'01_linear_models'"), ("77", "02_fgsm")])
def test_an_unknown_chapter_is_answered_with_the_nearest(course, text, near):
    with pytest.raises(ValueError, match=near):
        batch.find_chapter(text)


def test_chapters_are_listed_in_order(course):
    assert [c.name for c in batch.chapters()] == ["01_linear_models", "02_fgsm"]
    with pytest.raises(ValueError, match="checkout"):
        batch.chapters(student=True)


# parameters


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eps": 1}, 1.0),
        ({"eps": np.float32(0.5)}, 0.5),
        ({"n_eval": np.int64(7)}, 7),
        ({"augment": np.bool_(True)}, True),
        ({"dataset": "mnist"}, "mnist"),
        ({"budgets": (0, 1)}, [0.0, 1.0]),
        ({"budgets": np.array([0.5])}, [0.5]),
        ({"target": 3}, 3),
        ({"target": None}, None),
        ({"target": "cat"}, "cat"),
    ],
)
def test_good_values_become_plain_python(notebook, given, expected):
    (value,) = batch.check_parameters(notebook, given).values()
    assert value == expected
    assert type(value) is type(expected)
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epz": 0.1}, "no parameter 'epz'. Did you mean 'eps'"),
        ({'HACK = __import__("os").getpid(); zz': 1}, "no parameter"),
        ({"eps; import os": 1}, "no parameter"),
        ({"eps": "0.1"}, "must be a number, like 0.1, got '0.1'"),
        ({"eps": True}, "must be a number"),
        ({"eps": None}, "must be a number"),
        ({"eps": float("nan")}, "finite"),
        ({"target": float("inf")}, "finite"),
        ({"eps": 8}, "must lie in 0 to 1, got 8"),
        ({"budgets": [0.1, -1]}, "must lie in 0 to 1, got -1"),
        ({"budgets": [0.1, "a"]}, "must be a number"),
        ({"budgets": 0.1}, "must be a list"),
        ({"n_eval": 10.0}, "whole number"),
        ({"n_eval": True}, "whole number"),
        ({"augment": 1}, "true or false"),
        ({"dataset": "mnits"}, "one of mnist5k, mnist, got 'mnits'. Did you mean 'mnist'"),
        ({"dataset": 5}, "must be text"),
        ({"target": [1]}, "a number, text"),
        ({"target": {1, 2}}, "a number, text"),
        ({"target": Path("x")}, "a number, text"),
    ],
)
def test_bad_parameters_are_refused(notebook, given, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(".", r"\.")):
        batch.check_parameters(notebook, given)


@pytest.mark.parametrize(
    "source", ["a = b = 1", "a = 1 / 2", "a = f()", "import os", "a = [1,\n 2]", "a = 1\na = 2", "a ="]
)
def test_a_parameters_cell_of_anything_but_literals_is_refused(source):
    with pytest.raises(ValueError, match="parameter"):
        batch.parse_parameters(source)


def test_comments_give_limits_and_choices():
    found = batch.parse_parameters("a = 1  # steps, 1 to 1e3\nb = 'x # 0 to 1'  # one of: x, 'y'\nc = 2  # added to 3")
    assert found["a"].limits == (1, 1000)
    assert (found["b"].limits, found["b"].choices) == (None, ("x", "y"))
    assert found["c"].limits is None


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("8/255", 0.1, 8 / 255),
        ("1e-3", 0.1, 1e-3),
        ("7", 1, 7),
        ("true", False, True),
        ("False", True, False),
        ("[1,2]", [3], [1, 2]),
        ("0.1, 8/255", [0.1], [0.1, 8 / 255]),
        ("[]", [1], []),
        ("mnist", "mnist5k", "mnist"),
        ("007", "x", "007"),
        ("none", None, None),
        ("3", None, 3),
        ("cat", None, "cat"),
        ("many", 1, "many"),
        ("1/0", 0.1, "1/0"),
    ],
)
def test_typed_values(text, default, value):
    assert batch.parse_value(text, default) == value


def test_presets(course):
    assert batch.load_preset("quick") == {}
    (course / "presets").mkdir()
    (course / "presets" / "full.yaml").write_text('all: {n_eval: 9, other: 1}\n"01": {eps: 0.3}\n')
    preset = batch.load_preset("full")
    first, second = batch.chapters()
    assert batch.preset_parameters(preset, first) == {"n_eval": 9, "eps": 0.3}
    assert batch.preset_parameters(preset, second) == {"n_eval": 9}
    with pytest.raises(ValueError, match=r"no preset 'ful'\. Did you mean 'full'"):
        batch.load_preset("ful")


# files


def test_tidy_keeps_the_picture_of_a_widget_and_drops_the_rest():
    view = {batch.WIDGET_MIME: {"model_id": "1"}, "text/plain": "IntSlider()"}
    alt = {"image/png": {"alt": "a digit"}}
    outputs = [
        new_output("display_data", data=dict(view)),
        new_output("display_data", data=view | {"image/png": "AAAA"}, metadata=alt),
    ]
    nb = new_notebook(cells=[new_code_cell("", outputs=outputs, metadata={"tags": [], "collapsed": True})])
    nb.metadata["widgets"] = {}
    tidied = batch.tidy(nb)
    (output,) = tidied.cells[0].outputs
    assert (set(output.data), output.metadata) == ({"image/png", "text/plain"}, alt)
    assert tidied.cells[0].metadata == {}
    assert set(tidied.metadata) == {"kernelspec", "language_info"}


# runs: a kernel each


def test_a_run_with_parameters(tmp_path):
    folder = tmp_path / "out {eps}"  # papermill fills braces in paths
    claims = json.dumps({"claims": [{"verdict": v} for v in ("holds", "holds", "not comparable")]})
    path = write_notebook(
        tmp_path / "a{b}" / "01_a.ipynb",
        "from pathlib import Path\nassert Path('01_a.ipynb').exists(), 'must start in its own folder'",
        f"from IPython.display import display\ndisplay({{'{batch.CLAIMS_MIME}': {claims}}}, raw=True)",
    )
    nb = nbformat.read(path, 4)
    nb.cells.insert(2, new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}))
    nb.cells.append(new_code_cell(""))  # Jupyter leaves one at the end
    nbformat.write(nb, path)

    result = batch.run_notebook(path, {"eps": np.float32(0.25), "dataset": "mnist"}, folder, progress=False)

    assert result, result.error
    assert result.results == {"eps": 0.25, "dataset": "mnist", "python": sys.executable}
    assert (result.claims_passed, result.claims_total) == (2, 2)
    assert result.peak_memory_mb > 10
    status = json.loads((folder / "01_a.status.json").read_text())
    assert (status["status"], status["error"], status["params"]) == (
        "completed",
        None,
        {"eps": 0.25, "dataset": "mnist"},
    )
    assert {p.name for p in folder.iterdir()} == {"01_a.ipynb", "01_a.status.json"}
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
    result = batch.run_notebook(path, {}, tmp_path / "out", timeout=4, progress=False)
    assert (result.status, result.results) == ("failed", {})
    assert result.error.startswith(error)
    assert "\n" not in result.error
    status = json.loads((tmp_path / "out" / "01_a.status.json").read_text())
    assert status["error"] == result.error
    nbformat.validate(nbformat.read(result.notebook, 4))


def test_a_run_without_results_is_failed(tmp_path):
    path = write_notebook(tmp_path / "01_a.ipynb", record=None)
    result = batch.run_notebook(path, {}, tmp_path / "out", progress=False)
    assert result.error == "no results: the last cell must call claims.record(...)"


def test_a_wrong_parameter_runs_and_writes_nothing(tmp_path, notebook):
    with pytest.raises(ValueError, match="epz"):
        batch.run_notebook(notebook, {"epz": 1}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_rebuild_stores_a_good_run_and_only_that(tmp_path):
    path = write_notebook(tmp_path / "01_a.ipynb", "print('a')\nprint('b')")
    assert batch.rebuild(path)
    nb = nbformat.read(path, 4)
    assert [c.execution_count for c in nb.cells if c.cell_type == "code"] == [1, 2, 3]
    assert [o.text for o in nb.cells[2].outputs] == ["a\nb\n"]
    nb.cells[2].source = "1 / 0"
    nbformat.write(nb, path)
    before = path.read_bytes()
    result = batch.rebuild(path)
    assert result.error == "code cell 2 (1 / 0): ZeroDivisionError: division by zero"
    assert path.read_bytes() == before
