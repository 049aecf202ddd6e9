"""How far claims are from failing over machines and seeds: the arithmetic, the runs, and the committed file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output

from course_utils.runner import chapters, margins, paper_claims
from course_utils.runner.margins import Row, claim_row, mistake_row, text_row
from course_utils.runner.paper_claims import CLAIMS_MIME, Claim

SOLUTIONS = chapters.chapters() if (chapters.NOTEBOOKS / "solutions").exists() else []
FIGURES = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=3, max_size=3)
RUNS = st.lists(FIGURES, min_size=2, max_size=12)


def claim(low, high, *, unit="points", kind="direction"):
    return Claim("a", "01", "s", "p", "q", kind, (low, high), "m", unit=unit)


# The arithmetic -------------------------------------------------------------------------------------------------------


@given(RUNS)
def test_margin_counts_the_worst_seed_in_standard_deviations(runs):
    worst = np.array(runs).min(axis=1)
    row = claim_row(claim(0.1, math.inf), runs)
    assert (row.runs, row.lowest, row.highest) == (len(runs), worst.min(), worst.max())
    assert row.mean == pytest.approx(worst.mean())
    if worst.std() > 1e-9:
        assert row.margin == pytest.approx((worst.mean() - 0.1) / worst.std(ddof=1))


@given(RUNS)
def test_margin_of_a_band_is_that_of_its_nearer_edge(runs):
    below, above = claim_row(claim(-0.2, math.inf), runs), claim_row(claim(-math.inf, 0.3), runs)
    assert claim_row(claim(-0.2, 0.3), runs).margin == min(below.margin, above.margin)


@given(RUNS, st.floats(0.01, 2))
def test_a_mistake_is_safe_where_the_claim_is_not(runs, width):
    """One figure a run: what is so far outside the band is as far inside its complement."""
    single = [figures[:1] for figures in runs]
    band = claim(width - 1, math.inf, kind="band", unit="number")
    assert mistake_row(band, single).margin == pytest.approx(-claim_row(band, single).margin)


def test_of_a_mistake_the_farthest_figure_counts():
    runs = [[0.5, -0.4, 0.3], [0.6, -0.6, 0.2]]
    row = mistake_row(claim(0.0, math.inf), runs)
    assert (row.lowest, row.highest) == (-0.6, -0.4)
    assert row.margin == pytest.approx(0.5 / np.std([-0.4, -0.6], ddof=1))


@pytest.mark.parametrize(("unit", "ends"), [("percent", (0.0, 1.0)), ("points", (-1.0, 1.0))])
def test_natural_ends_are_no_edges(unit, ends):
    low, high = ends
    runs = [[high]] * 5 + [[high - 0.01]] * 5
    row = claim_row(claim(high - 0.2, high, unit=unit, kind="band"), runs)
    assert (row.low, row.high) == (high - 0.2, None)
    assert row.margin > margins.MIN_MARGIN
    assert claim_row(claim(low, high - 0.2, unit=unit, kind="band"), runs).low is None


@pytest.mark.parametrize(("value", "margin"), [(0.3, math.inf), (0.1, -math.inf)])
def test_without_spread(value, margin):
    assert claim_row(claim(0.2, math.inf), [[value]] * 10).margin == margin
    assert mistake_row(claim(0.2, math.inf), [[value]] * 10).margin == -margin


def test_text_that_differs_once_is_not_safe():
    assert text_row("01/a", "text", [1.0] * 10).is_safe
    assert not text_row("01/a", "text", [1.0] * 9 + [0.0]).is_safe
    assert not text_row("01/a", "text", [0.0] * 10).is_safe


def test_few_runs_are_not_safe():
    assert not text_row("01/a", "text", [1.0] * (margins.MIN_RUNS - 1)).is_safe
    assert not text_row("01/a", "text", []).is_safe
    assert not claim_row(claim(0.0, math.inf), []).is_safe


# The file -------------------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([math.inf, -math.inf])


@given(st.lists(st.tuples(st.sampled_from(["a", "01_x/cell-1"]), NUMBERS, NUMBERS | st.none()), max_size=4))
def test_file_is_read_as_it_was_written(tmp_path_factory, values):
    target = tmp_path_factory.mktemp("margins") / "margins.csv"
    rows = [Row(name, "band", 10, a, a, a, b, None, a) for name, a, b in values]
    table = {"01_x": ("# 01_x: measured 2026-01-01, course 0, torch 2.0, Python 3, code 0abc", rows)}
    margins.write(table, target)
    margins.write(again := margins.read(target), target)
    assert margins.read(target) == again
    for row, (name, a, b) in zip(again["01_x"][1], values, strict=True):
        assert (row.name, row.runs, row.high) == (name, 10, None)
        assert row.margin == pytest.approx(a, rel=1e-5)
        assert row.low == pytest.approx(b, rel=1e-5) if b is not None else row.low is None


def test_no_file_is_an_empty_table(tmp_path):
    assert margins.read(tmp_path / "none.csv") == {}
    assert margins.outdated(SOLUTIONS, tmp_path / "none.csv") == SOLUTIONS


@pytest.mark.parametrize("chapter", SOLUTIONS, ids=lambda chapter: chapter.name)
def test_every_chapter_was_measured(chapter):
    assert chapter.name in margins.read(), f"not measured yet: `course margins {chapter.number}`"


def committed():
    return {row.name: row for _, rows in margins.read().values() for row in rows if row.kind != "mistake"}


def mistakes():
    return {row.name: row for _, rows in margins.read().values() for row in rows if row.kind == "mistake"}


@pytest.mark.parametrize("known", paper_claims.load_claims().values(), ids=lambda known: known.id)
def test_every_claim_was_measured_with_a_margin(known):
    row = committed()[known.id]
    assert row.kind == known.kind
    assert (row.low, row.high) == pytest.approx(margins._edges(known)), "its band has changed: run `course margins`"
    assert row.is_safe, row
    assert mistakes()[known.id].is_safe, mistakes()[known.id]


@pytest.mark.parametrize("chapter", SOLUTIONS, ids=lambda chapter: chapter.name)
def test_every_compared_text_was_the_same_in_all_runs(chapter):
    nb, rows = chapters.read_notebook(chapter.path), committed()
    wanted = [f"{chapter.name}/{cell}" for cell in [*margins._compared_text(nb), *margins._truths(nb)]]
    assert wanted
    for name in wanted:
        assert rows[name].is_safe, rows[name]


def test_no_row_of_what_is_gone():
    notebooks = {chapter.name: chapters.read_notebook(chapter.path) for chapter in SOLUTIONS}
    cells = {f"{name}/{cell.id}" for name, nb in notebooks.items() for cell in nb.cells}
    assert set(committed()) <= cells | set(paper_claims.load_claims())


# The runs -------------------------------------------------------------------------------------------------------------

PARAMETERS = "seed = 0\nn_eval = 100"
RECORD = "from course_utils.runner.paper_claims import record\nrecord(a=1)"


def small_chapter(folder, source):
    cells = [
        new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        new_code_cell(source, id="what-is-compared", metadata={"tags": [margins.COMPARED]}),
        new_code_cell(RECORD, metadata={"tags": ["results"]}),
    ]
    path = Path(folder) / "01_small.ipynb"
    chapters.write_notebook(chapters.tidy(new_notebook(cells=cells)), path)
    return chapters.Chapter.at(path)


@pytest.mark.slow
def test_runs_have_their_machine_and_an_empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(margins, "MACHINES", margins.MACHINES[:3])
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):  # this test may itself run on a simulated machine
        monkeypatch.delenv(name, raising=False)
    chapter = small_chapter(
        tmp_path,
        "import os\nfrom course_utils.core.settings import cache_dir\n"
        "limits = [os.environ.get(k, '-') for k in ('ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'OMP_NUM_THREADS')]\n"
        "empty = not cache_dir().exists()\ncache_dir().mkdir(parents=True)\n"
        "print(seed, *limits, empty)",
    )
    target = tmp_path / "margins.csv"
    rows = margins.measure([chapter], tmp_path / "out", target=target)
    executed = [chapters.read_notebook(path) for path in sorted((tmp_path / "out").glob("*.ipynb"))]
    printed = {margins._compared_text(nb)["what-is-compared"].strip() for nb in executed}
    assert printed == {"0 - - 2 True", "0 default SSE41 1 True", "1 avx2 AVX2 1 True"}
    assert not list((tmp_path / "out").glob("**/cache"))
    assert [(row.name, row.kind, row.runs) for row in rows] == [("01_small/what-is-compared", "text", 3)]
    assert rows == margins.read(target)["01_small"][1]
    assert not rows[0].is_safe  # what the chapter stores is no run's text
    assert margins.outdated([chapter], target) == []
    began = {path: path.stat().st_mtime for path in (tmp_path / "out").glob("*.ipynb")}
    margins.measure([chapter], tmp_path / "out", target=target)
    assert began == {path: path.stat().st_mtime for path in (tmp_path / "out").glob("*.ipynb")}
    small_chapter(tmp_path, "print('something else')")
    assert margins.outdated([chapter], target) == [chapter]


def test_rows_of_a_chapter(monkeypatch):
    known = {"fgsm": Claim("fgsm", "01", "s", "p", "q", "band", (0.8, 1.0), "random signs")}
    monkeypatch.setattr(margins, "load_claims", lambda: known)

    def executed(figure, mistaken, text, truth="True"):
        row = {"id": "fgsm", "figures": [figure], "mistaken": [mistaken], "here": "False alarm"}
        cells = [
            new_code_cell("", id="table", outputs=[new_output("display_data", data={CLAIMS_MIME: {"claims": [row]}})]),
            new_code_cell(
                "", id="text", metadata={"tags": [margins.COMPARED]}, outputs=[new_output("stream", text=text)]
            ),
            new_code_cell("", id="truth", outputs=[new_output("stream", text=f"holds: {truth}, Trueness")]),
        ]
        return new_notebook(cells=json.loads(json.dumps(cells)))

    runs = [executed(0.95, 0.05, "same"), executed(0.97, 0.06, "same"), executed(0.96, 0.07, "other", "False")]
    rows = {(row.name, row.kind): row for row in margins._rows(executed(0.9, 0.1, "same"), "01_x", runs)}
    assert set(rows) == {("fgsm", "band"), ("fgsm", "mistake"), ("01_x/text", "text"), ("01_x/truth", "truth")}
    assert rows["fgsm", "band"].margin == pytest.approx(16)
    assert rows["fgsm", "mistake"].margin == pytest.approx(74)
    assert rows["01_x/text", "text"].mean == rows["01_x/truth", "truth"].mean == pytest.approx(2 / 3)
