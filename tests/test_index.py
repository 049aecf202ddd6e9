"""Pages that lead to runs: what they tell, where they lead, and that they load nothing."""

import itertools
import json
import re
import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from conftest import external_resources
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils.core import PROJECT
from course_utils.runner import chapters, execution, outcomes, reports
from course_utils.runner.paper_claims import CLAIMS_MIME
from course_utils.runner.store import open_store

WORDS = "# 01 Small & large\n\nA promise with <b> in it."
HOSTILE = "</p><script>alert(1)</script><img src=x onerror=y>\"'&amp;{{ 7 * 7 }}"
FULL = """# 02 One step

**The question.** Is *one* enough?

**The promise.** Six lines.

*Reading: 30 minutes. Running: about a minute. You need: chapter 01.*
"""


def chapter_in(folder, name="01_a", text=WORDS, claims=(), page=True):
    outputs = [new_output("display_data", data={CLAIMS_MIME: {"claims": list(claims)}})] if claims else []
    nb = new_notebook(cells=[new_markdown_cell(text), new_code_cell("", outputs=outputs)])
    chapters.write_notebook(chapters.tidy(nb), folder / f"{name}.ipynb")
    if page:
        (folder / f"{name}.html").touch()


def claim(verdict="holds", **more):
    about = {"id": "c", "statement": "It falls", "paper": "A et al. 2015", "place": "sec. 4", "kind": "band"}
    about |= {"figure": "99 %", "status": "V-paper", "note": "", "here": "98 %", "band": "90 % to 100 %"}
    return about | {"verdict": verdict} | more


def record(folder, name, status, params=None, **more):
    about = {"name": name, "chapter": "01_a", "params": params or {}, "status": status, "notebook": f"{name}.ipynb"}
    more = {"seconds": 2.0, "results": {}, "error": None, "peak_memory_mb": 100} | more
    execution.write_record(open_store(folder), about | more)


def soup(file):
    return BeautifulSoup(Path(file).read_text(encoding="utf-8"), "html.parser")


def index_of(folder):
    return soup(reports.write_index(folder))


def entries(page):
    return page.select("ol.chapters > li")


def text_of(tag):
    return " ".join(tag.get_text(" ").split())


def follow(page, folder):
    """Return the files that a page leads to; every link must lead to a file or to a place in the page."""
    links = [a["href"] for a in page.find_all("a")]
    assert all(page.find(id=link[1:]) for link in links if link.startswith("#"))
    files = [unquote(link) for link in links if not link.startswith("#")]
    assert all((folder / file).is_file() for file in files)
    assert not any(re.match(r"[a-z]+:|/", link) for link in links)
    return files


# the list of chapters


def test_index_without_runs(tmp_path):
    chapter_in(tmp_path)
    page = index_of(tmp_path)
    (entry,) = entries(page)
    assert text_of(entry.h3) == "01 Small & large"
    assert text_of(entry.p) == "A promise with <b> in it."
    assert follow(page, tmp_path) == ["01_a.html", "01_a.html", "01_a.ipynb"]
    for absent in ("img", "table", ".facts li", ".alert"):
        assert not page.select(absent), "what nobody has recorded leaves no hole"


def test_a_chapter_tells_its_question_and_its_times(tmp_path):
    chapter_in(tmp_path, "02_b", FULL, [claim(), claim()])
    (entry,) = entries(index_of(tmp_path))
    assert text_of(entry.p) == "Is one enough?"
    facts = [text_of(li) for li in entry.select(".facts li")]
    assert facts == ["Reading: 30 minutes", "2/2 claims hold", "Running: about a minute"]
    record(tmp_path, "02_b", "completed", seconds=150.0, finished="2026-11-28 20:30")
    (entry,) = entries(index_of(tmp_path))
    facts = [text_of(li) for li in entry.select(".facts li")]
    assert facts[2] == "completed , 2026-11-28 20:30, 2 minutes, 100 MB", "what was measured, instead of what is said"


@pytest.mark.parametrize("status", ["completed", "failed", "running", "interrupted"])
def test_index_with_a_run(tmp_path, status):
    chapter_in(tmp_path)
    record(
        tmp_path,
        "01_a",
        "running" if status == "interrupted" else status,
        error="code cell 2: <b>" if status == "failed" else None,
    )
    with open_store(tmp_path).lock("a sweep") if status == "running" else nullcontext():
        page = index_of(tmp_path)
    (entry,) = entries(page)
    assert status in text_of(entry)
    assert ("code cell 2: <b>" in text_of(entry)) == (status == "failed")
    assert ("from an earlier run" in text_of(entry)) == (status in ("running", "interrupted"))
    is_bad = status in ("failed", "interrupted")
    assert bool(entry.select(".bad")) == is_bad
    assert [text_of(li) for li in page.select(".alert li")] == ([f"01 Small & large : {status}"] if is_bad else [])
    assert set(follow(page, tmp_path)) == {"01_a.html", "01_a.ipynb"}
    assert page.find("img") is None, "runs of different chapters are no sweep"


def test_a_run_that_left_no_notebook_is_listed_under_the_chapters_title(tmp_path, course):
    for name in ("01_linear_models", "09_unknown"):
        record(tmp_path, name, "running")
    known, unknown = entries(index_of(tmp_path))
    assert (text_of(known.h3), text_of(unknown.h3)) == ("01 Linear models", "09_unknown")
    for entry in (known, unknown):
        assert "interrupted" in text_of(entry)
        assert not entry.find_all("a"), "there is nothing to lead to"


def test_every_earlier_run_of_the_folder_is_listed(tmp_path):
    for name in ("03_c", "01_a", "02_b"):
        chapter_in(tmp_path, name, f"# {name} title", page=name != "02_b")
        record(tmp_path, name, "completed")
    page = index_of(tmp_path)
    assert [text_of(entry.h3) for entry in entries(page)] == ["01_a title", "02_b title", "03_c title"]
    assert [text_of(a) for a in entries(page)[1].select(".links a")] == ["Notebook"], "its page was not written"


@pytest.mark.parametrize("status", ["", "[]", '"completed"', '{"seconds": 1}', "{"])
def test_files_that_cannot_be_read_cost_only_their_own_entry(tmp_path, status):
    chapter_in(tmp_path)
    (tmp_path / "02_b.ipynb").write_text('{"half')
    (tmp_path / "01_a.status.json").write_text(status)
    page = index_of(tmp_path)
    good, bad = entries(page)
    assert text_of(good.h3) == "01 Small & large"
    assert "pending" in text_of(good)
    assert text_of(bad.h3) == "02_b"
    assert "is not a notebook" in text_of(bad)
    assert text_of(page.select_one(".alert")).endswith("02_b : cannot be read")


# the claims


def test_claims_of_all_chapters_stand_in_one_table_failures_first(tmp_path):
    chapter_in(tmp_path, "01_a", WORDS, [claim(statement="first"), claim("differs", statement="second")])
    verdicts = ["holds", "FAILS", "not reproduced", "not comparable"]
    chapter_in(tmp_path, "02_b", FULL, [claim(verdict, statement=verdict) for verdict in verdicts])
    chapter_in(tmp_path, "03_c", "# 03 Without claims")
    page = index_of(tmp_path)
    (table,) = page.find_all("table")
    rows = [[text_of(td) for td in tr.find_all("td")] for tr in table.find_all("tr") if tr.td]
    assert [row[:2] for row in rows] == [
        ["02", "FAILS A et al. 2015, sec. 4"],
        ["01", "first A et al. 2015, sec. 4"],
        ["01", "second A et al. 2015, sec. 4"],
        *(["02", f"{verdict} A et al. 2015, sec. 4"] for verdict in verdicts if verdict != "FAILS"),
    ]
    assert [row[4] for row in rows] == [
        "✗ FAILS", "✓ holds", "differs", "✓ holds", "not reproduced", "not comparable",
    ]  # fmt: skip
    assert [tr["class"] for tr in table.find_all("tr", class_=True)] == [["fails"]]
    assert "1 claim fails" in text_of(page.select_one(".alert"))
    tallies = [text_of(a) for a in page.select(".facts a")]
    assert tallies == ["1/2 claims hold, 1 differs", "1/3 claims hold, 1 FAILS, 1 not reproduced, 1 not comparable"]
    for link, title in zip(page.select(".facts a"), ("01 Small & large", "02 One step"), strict=True):
        assert text_of(page.find(id=link["href"][1:]).th).startswith(title)


@pytest.mark.parametrize(("status", "shown"), [("V-paper", "99 %"), ("V-author", "99 %"), ("V-2nd", "–"), ("R", "–")])
def test_a_figure_is_shown_only_if_it_was_read_in_the_paper(tmp_path, status, shown):
    chapter_in(tmp_path, claims=[claim(status=status, note="A reason.")])
    cells = [text_of(td) for td in index_of(tmp_path).find_all("td")]
    assert cells[2:] == [shown, "98 % asserted: 90 % to 100 %", "✓ holds", "A reason."]


def test_claims_that_nothing_was_asserted_of_are_not_counted_as_broken(tmp_path):
    chapter_in(tmp_path, claims=[claim("not comparable")] * 2)
    assert text_of(index_of(tmp_path).select_one(".facts a")) == "2 not comparable"


# what comes from files


def test_nothing_that_a_file_says_becomes_markup(tmp_path):
    chapter_in(tmp_path, "harmless", "# Title", [claim("differs")])
    record(tmp_path, "harmless", "odd", error="text", finished="now")
    plain = index_of(tmp_path)
    name = HOSTILE.replace("/", "%2F")
    for file in tmp_path.glob("harmless*"):
        file.unlink()
    row = dict.fromkeys(claim(), HOSTILE) | {"status": "V-paper"}
    chapter_in(tmp_path, name, f"# {HOSTILE}", [row])
    record(tmp_path, name, HOSTILE, error=HOSTILE, finished=HOSTILE, seconds=HOSTILE, peak_memory_mb=HOSTILE)
    page = index_of(tmp_path)
    assert not page.find_all(["script", "img"])
    assert {tag.name for tag in page.find_all()} == {tag.name for tag in plain.find_all()}
    assert set(follow(page, tmp_path)) == {f"{name}.html", f"{name}.ipynb"}
    assert page.get_text().count("alert(1)") >= 8
    assert external_resources(str(page)) == []


@settings(max_examples=25)
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_links_lead_to_files_of_any_name(name):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        name = "x" + name  # names that begin with a dot are hidden
        chapter_in(folder, name)
        record(folder, name, "completed")
        assert set(follow(index_of(folder), folder)) == {f"{name}.html", f"{name}.ipynb"}


# the page as a whole


@pytest.fixture(scope="module")
def course_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    for chapter in chapters.chapters():
        shutil.copy(chapter.path, folder)
        (folder / f"{chapter.name}.html").touch()
    return reports.write_index(folder)


def test_the_course_in_one_small_page_that_loads_nothing(course_page):
    assert course_page.stat().st_size < 1_000_000
    assert external_resources(course_page.read_text(encoding="utf-8")) == []
    page = soup(course_page)
    names = [chapter.name for chapter in chapters.chapters()]
    assert [entry.h3.a["href"] for entry in entries(page)] == [f"{name}.html" for name in names]
    assert set(follow(page, course_page.parent)) == {f"{n}{end}" for n in names for end in (".html", ".ipynb")}
    stored = [json.loads(chapter.path.read_text(encoding="utf-8")) for chapter in chapters.chapters()]
    bundles = [o.get("data", {}) for nb in stored for cell in nb["cells"] for o in cell.get("outputs", [])]
    assert len([tr for tr in page.select(".claims tr") if tr.td]) == sum(
        len(bundle[CLAIMS_MIME]["claims"]) for bundle in bundles if CLAIMS_MIME in bundle
    )


def test_the_page_can_be_used_by_everybody(course_page):
    page = soup(course_page)
    assert page.html["lang"] == "en"
    assert page.find("meta", attrs={"name": "viewport"})["content"] == "width=device-width, initial-scale=1"
    levels = [int(tag.name[1]) for tag in page.find_all(re.compile(r"^h[1-6]$"))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    images = page.find_all("img")
    assert len(images) == len(entries(page)), "a picture for each chapter"
    assert all(img["alt"] and int(img["width"]) and int(img["height"]) for img in images)
    assert all(th.get("scope") in ("col", "rowgroup") for th in page.find_all("th"))
    assert page.table.caption
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_can_be_told_apart():
    style = (PROJECT / "course_utils" / "templates" / "style.css").read_text(encoding="utf-8")
    inks = set(re.findall(r"[{; ]color: (#\w+)", style)) - {"#fff"}
    grounds = set(re.findall(r"background: (#\w+)", style)) - {"#0b57a4"}  # white stands on this one, below
    assert len(inks) >= 4
    assert "#fff" in grounds
    pairs = [(ink, ground) for ink in inks for ground in grounds] + [("#0b57a4", "#fff")]
    for ink, ground in pairs:
        assert (luminance(ground) + 0.05) / (luminance(ink) + 0.05) >= 4.5, f"WCAG AA: {ink} on {ground}"


# sweeps


@pytest.fixture
def report(tmp_path):
    for seed in range(3):
        record(tmp_path, f"01_a b-{seed}", "completed", {"eps": 0.1, "seed": seed}, results={"score": seed / 3})
    record(tmp_path, "01_a b-3", "failed", {"eps": 0.1, "seed": 3}, error="cell 1 (<script>): no")
    return tmp_path


def report_of(folder):
    reports.write_report(folder, outcomes.collect(folder))
    return soup(folder / "index.html")


def test_report_of_a_sweep(report):
    where = reports.write_report(report, outcomes.collect(report))
    html = (report / "index.html").read_text(encoding="utf-8")
    page = BeautifulSoup(html, "html.parser")
    assert where == str(report / "index.html")
    assert [th.get_text() for th in page.find_all("th")] == ["seed", "score", "status", "seconds", "notebook"]
    assert {th["scope"] for th in page.find_all("th")} == {"col"}
    assert [text_of(td) for td in page.find_all("tr")[2].find_all("td")] == [
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
    assert external_resources(html) == []


def test_the_report_is_drawn_again_only_if_something_is_new(report, monkeypatch):
    drawn = []
    monkeypatch.setattr(reports, "_figure", lambda frame: drawn.append(len(frame)))
    reports.write_report(report, outcomes.collect(report))
    reports.write_report(report, outcomes.collect(report))
    record(report, "01_a b-4", "completed", {"eps": 0.1, "seed": 4})
    reports.write_report(report, outcomes.collect(report))
    assert drawn == [4, 5]


@pytest.mark.parametrize(
    ("runs", "is_drawn"),
    [
        ([("completed", 1)], False),
        ([("completed", 1), ("failed", 2)], False),
        ([("completed", 1), ("completed", 1)], False),
        ([("completed", 1), ("completed", 1), ("failed", 2)], False),
        ([("completed", 1), ("completed", 2)], True),
    ],
)
def test_figures_are_drawn_over_what_varies_among_completed_runs(tmp_path, runs, is_drawn):
    for number, (status, eps) in enumerate(runs):
        results = {"score": 1.0} if status == "completed" else {}
        record(tmp_path, f"01_a-{number}", status, {"eps": eps, "seed": 0}, results=results)
    assert bool(report_of(tmp_path).find("img")) == is_drawn


def test_nothing_that_the_runs_of_a_sweep_say_becomes_markup(tmp_path):
    more = {"chapter": HOSTILE, "notebook": "//elsewhere.example/x", "error": HOSTILE, "seconds": HOSTILE}
    for number, value in enumerate((HOSTILE, "b")):
        record(tmp_path, f"a-{number}", HOSTILE, {HOSTILE: value}, results={"<i>": HOSTILE}, **more)
    page = report_of(tmp_path)
    assert not page.find_all(["script", "img", "i"])
    assert {a["href"] for a in page.find_all("a")} == {"%2F%2Felsewhere.example%2Fx"}
    assert page.h1.get_text() == f"A sweep of {HOSTILE}"
    assert page.get_text().count("alert(1)") >= 8
