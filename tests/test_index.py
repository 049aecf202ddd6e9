"""Pages that lead to runs: what they tell, where they lead, and that they load nothing."""

import re

import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_markdown_cell, new_notebook

from course_utils import chapters, execution, index, reports
from course_utils.pages import outside_loads
from course_utils.store import open_store


def chapter_in(folder):
    text = "# 01 Small & large\n\nA promise with <b> in it."
    chapters.write_notebook(chapters.tidy(new_notebook(cells=[new_markdown_cell(text)])), folder / "01_a.ipynb")


def record(folder, name, status, params=None, **more):
    about = {"name": name, "chapter": "01_a", "params": params or {}, "status": status, "notebook": f"{name}.ipynb"}
    more = {"seconds": 2.0, "results": {}, "error": None, "peak_memory_mb": 100} | more
    execution.write_record(open_store(folder), about | more)


def test_index_without_runs(tmp_path):
    chapter_in(tmp_path)
    html = index.write_index(tmp_path).read_text(encoding="utf-8")
    assert '<th scope="col">status' not in html
    assert "01 Small &amp; large" in html
    assert "A promise with &lt;b&gt; in it." in html
    assert "<img" not in html


@pytest.mark.parametrize("status", ["completed", "failed", "running"])
def test_index_with_a_run(tmp_path, status):
    chapter_in(tmp_path)
    record(tmp_path, "01_a", status, error="code cell 2: <b>" if status == "failed" else None)
    page = BeautifulSoup(index.write_index(tmp_path).read_text(encoding="utf-8"), "html.parser")
    assert page.find("td", class_=status)
    assert ("code cell 2: <b>" in page.get_text()) == (status == "failed")
    assert [a["href"] for a in page.find_all("a")] == ["01_a.html", "01_a.ipynb"]
    assert bool(page.find("img", alt=re.compile("seconds, peak_memory_mb"))) == (status == "completed")


@pytest.fixture
def report(tmp_path):
    for seed in range(3):
        record(tmp_path, f"01_a b-{seed}", "completed", {"eps": 0.1, "seed": seed}, results={"score": seed / 3})
    record(tmp_path, "01_a b-3", "failed", {"eps": 0.1, "seed": 3}, error="cell 1 (<script>): no")
    return tmp_path


def test_report_of_a_sweep(report):
    where = index.write_report(report, reports.collect(report))
    html = (report / "index.html").read_text(encoding="utf-8")
    page = BeautifulSoup(html, "html.parser")
    assert where == str(report / "index.html")
    assert [th.get_text() for th in page.find_all("th")] == ["seed", "score", "status", "seconds", "notebook"]
    assert [td.get_text() for td in page.find_all("tr")[2].find_all("td")] == [
        "1",
        "0.3333",
        "completed",
        "2.0",
        "notebook",
    ]
    assert page.find_all("a")[0]["href"] == "01_a%20b-0.ipynb"
    assert "4 runs: 3 completed, 1 failed." in page.get_text()
    assert "cell 1 (<script>): no" in page.get_text()
    assert page.find("script") is None
    assert page.find("img")["alt"] == "Small figures of score, each over seed."
    assert outside_loads(html) == []


def test_the_report_is_drawn_again_only_if_something_is_new(report, monkeypatch):
    drawn = []
    monkeypatch.setattr(index, "_figure", lambda frame: drawn.append(len(frame)) or "")
    index.write_report(report, reports.collect(report))
    index.write_report(report, reports.collect(report))
    record(report, "01_a b-4", "completed", {"eps": 0.1, "seed": 4})
    index.write_report(report, reports.collect(report))
    assert drawn == [4, 5]
