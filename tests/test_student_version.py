"""The students' versions: what is removed, what stays, and when they are out of date."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils.runner import chapters, student_version

SOLVED = """def f(x):
    \"\"\"Double x.\"\"\"
    ### BEGIN SOLUTION
    y = 2 * x

    return y
    ### END SOLUTION


check("f", f)"""

STUBBED = """def f(x):
    \"\"\"Double x.\"\"\"
    # YOUR CODE HERE
    raise NotImplementedError()


check("f", f)"""


def solved_notebook():
    printed = [new_output("stream", name="stdout", text="done")]
    cells = [
        new_markdown_cell("# 01 Title\n\n[data](../../data/README.md) <a href='../x.ipynb'>x</a> [next](02_b.ipynb)"),
        new_code_cell(
            SOLVED,
            execution_count=1,
            outputs=printed,
            metadata={"tags": ["exercise"], "execution": {"iopub.status.busy": "9:00"}},
        ),
        new_code_cell("print('done')", execution_count=2, outputs=printed),
    ]
    return new_notebook(cells=cells)


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course with one chapter and no student version yet."""
    monkeypatch.setattr(chapters, "NOTEBOOKS", tmp_path)
    (tmp_path / "solutions").mkdir()
    nbformat.write(solved_notebook(), tmp_path / "solutions" / "01_a.ipynb")
    return tmp_path


def test_solution_becomes_a_stub_that_keeps_its_indentation():
    assert student_version.hide_solutions(SOLVED) == STUBBED
    assert student_version.hide_solutions("### BEGIN SOLUTION\na = 1\n### END SOLUTION") == "\n".join(
        student_version.STUB
    )


def test_two_solutions_in_one_cell():
    one = "    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION"
    hidden = student_version.hide_solutions(f"def a():\n{one}\ndef b():\n{one}")
    assert hidden.count("# YOUR CODE HERE") == 2
    assert "return" not in hidden


def test_source_without_solution_stays_as_it_is():
    source = "a = 1\n\nb = '### BEGIN SOLUTION in a text'"
    assert student_version.hide_solutions(source) == source


@pytest.mark.parametrize(
    "source",
    [
        "### BEGIN SOLUTION\na",
        "a\n### END SOLUTION",
        "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION\n### END SOLUTION",
        "### END SOLUTION\n### BEGIN SOLUTION",
    ],
)
def test_unbalanced_markers_are_refused(source):
    with pytest.raises(ValueError, match="SOLUTION"):
        student_version.hide_solutions(source)


def test_only_the_solved_cell_loses_its_outputs():
    original = solved_notebook()
    nb = student_version.student_version(original)
    assert (nb.cells[1].source, nb.cells[1].outputs, nb.cells[1].execution_count) == (STUBBED, [], None)
    assert (nb.cells[2].outputs[0].text, nb.cells[2].execution_count) == ("done", 2)
    assert [c.id for c in nb.cells] == [c.id for c in original.cells]
    assert nb.cells[1].metadata == {"tags": ["exercise"]}
    assert original.cells[1].source == SOLVED, "the source must not change"


def test_links_start_one_folder_higher():
    text = student_version.student_version(solved_notebook()).cells[0].source
    assert text.endswith("[data](../data/README.md) <a href='x.ipynb'>x</a> [next](02_b.ipynb)")


def test_written_once_then_up_to_date(course):
    assert student_version.differences() == ["01_a.ipynb is missing"]
    assert student_version.write_students() == [course / "01_a.ipynb"]
    assert student_version.write_students() == []
    assert student_version.differences() == []
    text = (course / "01_a.ipynb").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")
    assert '"version"' not in text.partition('"language_info"')[2].partition('"codemirror_mode"')[0]


def test_edited_and_stale_versions_are_named(course):
    student_version.write_students()
    path = course / "01_a.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("done", "undone"), encoding="utf-8")
    path.with_name("09_old.ipynb").write_text("{}", encoding="utf-8")
    assert [line.split()[0] for line in student_version.differences()] == ["01_a.ipynb", "09_old.ipynb"]


def test_error_names_notebook_and_cell_and_nothing_is_written(course):
    nb = solved_notebook()
    nb.cells[2].source = "### END SOLUTION"
    nbformat.write(nb, course / "solutions" / "02_b.ipynb")
    with pytest.raises(ValueError, match=r"02_b\.ipynb, cell 3: '### END SOLUTION'"):
        student_version.write_students()
    assert not list(course.glob("*.ipynb"))
