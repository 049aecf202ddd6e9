"""What the papers report beside what we get: verdicts, tables, results; and that data/claims.yaml keeps its rules."""

import json
import math
import re

import IPython.display
import numpy as np
import pytest
import torch
import yaml

from course_utils.runner import chapters, paper_claims, parameters
from course_utils.runner.paper_claims import ClaimError, Measurement, check_all, compare, load_claims, record

ROWS = """
- {id: fgsm-error, chapter: "02", statement: Error under FGSM, paper: Someone 2015, place: sec. 4, figure: 99.9 %,
   status: V-paper, kind: band, band: [0.8, 1.0], mistake: random signs,
   setting: {dataset: [mnist5k, mnist], eps: 0.25, n_eval: at least 100}}
- {id: halves, chapter: "01", statement: More than random, paper: Someone 2014, place: "", figure: null,
   status: R-high, kind: direction, band: [0.05, null], mistake: no attack, unit: points}
- {id: identity, chapter: "01", statement: "Algebra <b>& co</b>", paper: "A & B", place: "<i>5</i>", figure: "<0>",
   status: V-author, kind: exact, band: [null, 0.001], mistake: "x < y", unit: "number", note: "a < b"}
- {id: seen-elsewhere, chapter: "01", statement: Something, paper: P, place: q, figure: 5 %, status: V-2nd,
   kind: band, band: [0.0, 0.9], mistake: m}
- {id: other-setting, chapter: "01", statement: Error of another network, paper: P, place: q, figure: 55.4 %,
   status: V-paper, kind: band, band: [0.85, 1.0], mistake: no attack, verdict: differs, note: "ours is <smaller>"}
- {id: other-way, chapter: "01", statement: Rise, paper: P, place: q, figure: above 0, status: V-paper,
   kind: direction, band: [null, -0.02], mistake: the wrong sign, unit: points, verdict: not reproduced, note: too few}
"""


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Four claims of the test's own."""
    path = tmp_path / "claims.yaml"
    path.write_text(ROWS)
    loaded = load_claims(path)
    monkeypatch.setattr(paper_claims, "load_claims", lambda: loaded)
    return loaded


@pytest.fixture
def shown(monkeypatch):
    """What was displayed."""
    outputs = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: outputs.append(bundle))
    return outputs


SETTING = {"dataset": "mnist5k", "eps": 0.25, "n_eval": 100}


def verdict_of(id, figure, mistake, **setting):
    return compare(
        Measurement(id, figure, mistake, n=100 if id == "fgsm-error" else None), **(SETTING | setting)
    ).verdict


# compare --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.8, 0.9, 1.0, np.float32(0.9), 1])
def test_inside_the_band(value, known):
    assert verdict_of("fgsm-error", value, 0.1) == "holds"


@pytest.mark.parametrize("value", [0.7999, 0.0])
def test_outside_the_band(value, known):
    assert verdict_of("fgsm-error", value, 0.1) == "FAILS"


@pytest.mark.parametrize("mistake", [0.8, 1.0, [0.9, 0.95]])
def test_a_band_that_does_not_exclude_its_mistake_fails(mistake, known):
    assert verdict_of("fgsm-error", 0.9, mistake) == "FAILS"


def test_one_figure_of_a_mistake_outside_is_enough(known):
    assert verdict_of("fgsm-error", 0.9, [0.9, 0.1]) == "holds"


def test_each_verdict_is_asserted(known):
    """The band says what we find, also where that is not what the paper reports."""
    assert verdict_of("other-setting", 0.95, 0.03) == "differs"
    assert verdict_of("other-setting", 0.554, 0.03) == "FAILS"
    assert verdict_of("other-way", [-0.05, -0.03, -0.02], [0.05]) == "not reproduced"
    assert verdict_of("other-way", [-0.05, -0.03, 0.01], [0.05]) == "FAILS"


def test_interval_is_shown_where_n_is_known(known):
    assert "99.0 % (94.6–99.8, n = 100)" in str(compare(Measurement("fgsm-error", 0.99, 0.1, n=100), **SETTING))


def test_open_bands(known):
    assert verdict_of("identity", -1e9, 1.0) == "holds"
    assert verdict_of("identity", 0.001, 1.0) == "holds"
    assert verdict_of("identity", 0.0011, 1.0) == "FAILS"


@pytest.mark.parametrize("values", [[0.05, 0.06, 0.07], (0.5,) * 5, np.array([0.1, 0.2, 0.3])])
def test_direction_over_seeds(values, known):
    assert verdict_of("halves", values, 0.0) == "holds"


def test_direction_needs_every_seed(known):
    assert verdict_of("halves", [0.05, 0.06, 0.04], 0.0) == "FAILS"


@pytest.mark.parametrize("values", [0.5, [0.5, 0.6]])
def test_direction_needs_three_seeds(values, known):
    with pytest.raises(ValueError, match="at least 3 seeds"):
        verdict_of("halves", values, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [0.9, math.nan], []])
def test_figures_must_be_finite(value, known):
    for figure, mistake in ((value, 0.1), (0.9, value)):
        with pytest.raises(ValueError, match="fgsm-error: expected finite figures"):
            verdict_of("fgsm-error", figure, mistake)


@pytest.mark.parametrize("value", [None, torch.tensor(0.9), object(), [None]])
def test_figures_must_be_numbers(value, known):
    with pytest.raises(TypeError, match="fgsm-error: expected a number or a list of numbers"):
        verdict_of("fgsm-error", value, 0.1)


def test_unknown_id(known):
    with pytest.raises(ValueError, match=r"no claim 'fgsm-eror' in data/claims.yaml\. Did you mean 'fgsm-error'"):
        verdict_of("fgsm-eror", 0.9, 0.1)
    with pytest.raises(ValueError, match="Known: fgsm-error, halves"):
        verdict_of("zzz", 0.9, 0.1)


@pytest.mark.parametrize("other", [{"dataset": "fashion_mnist"}, {"eps": 0.1}, {"n_eval": 99}])
@pytest.mark.parametrize(("figure", "mistake"), [(0.1, 0.1), (0.9, 0.9)])
def test_other_settings_are_not_comparable(other, figure, mistake, known):
    verdict = compare(Measurement("fgsm-error", figure, mistake), **(SETTING | other))
    assert verdict.verdict == "not comparable"
    assert verdict  # asserts nothing


def test_settings_that_the_claim_admits(known):
    assert verdict_of("fgsm-error", 0.9, 0.1, dataset="mnist", seed=3) == "holds"
    assert verdict_of("fgsm-error", 0.9, 0.1, n_eval=10_000) == "holds"


def test_missing_setting_is_refused(known):
    with pytest.raises(ValueError, match=r"fgsm-error is stated for eps = 0\.25: pass eps=… to check_all"):
        compare(Measurement("fgsm-error", 0.9, 0.1), dataset="mnist5k")


# Tables ---------------------------------------------------------------------------------------------------------------

GOOD = [Measurement("fgsm-error", 0.9, 0.1, 50), Measurement("identity", 0.0, 1.0)]


def test_table_is_shown_before_it_fails(known, shown):
    bad = [Measurement("fgsm-error", 0.1, 0.1), Measurement("identity", 0.0, 1.0), Measurement("halves", [0, 0, 0], 0)]
    with pytest.raises(ClaimError) as caught:
        check_all(bad, **SETTING)
    assert "Error under FGSM: paper 99.9 %, here 10.0 %: FAILS; the band is 80.0 % to 100" in str(caught.value)
    assert "More than random" in str(caught.value)
    assert "Algebra" not in str(caught.value)
    (bundle,) = shown
    assert [row["verdict"] for row in bundle[paper_claims.CLAIMS_MIME]["claims"]] == ["FAILS", "holds", "FAILS"]
    assert bundle["text/html"].count("✗ FAILS") == 2
    json.dumps(bundle, allow_nan=False)


def test_a_mistake_inside_the_band_is_named(known, shown):
    with pytest.raises(ClaimError, match=r"does not exclude the mistake .*: random signs gives 85\.0 %"):
        check_all([Measurement("fgsm-error", 0.9, 0.85)], **SETTING)


def test_claim_error_is_an_assertion():
    assert issubclass(ClaimError, AssertionError)


def test_table_of_what_holds(known, shown):
    report = check_all([*GOOD, Measurement("other-setting", 0.95, 0.03)], **SETTING)
    assert len(shown) == 1
    words = "fgsm-error band holds identity exact holds other-setting band differs"
    assert report.lines().split() == words.split()
    rows = shown[0][paper_claims.CLAIMS_MIME]["claims"]
    assert [(row["figures"], row["mistaken"]) for row in rows] == [
        ((0.9,), (0.1,)),
        ((0.0,), (1.0,)),
        ((0.95,), (0.03,)),
    ]
    json.dumps(shown[0], allow_nan=False)


def test_html_is_escaped(known, shown):
    html = check_all([GOOD[1], Measurement("other-setting", 0.95, 0.03)])._repr_html_()
    for raw in ("<b>", "<i>", "<0>", "a < b", "A & B", "x < y", "<smaller>"):
        assert raw not in html
    for escaped in (
        "&lt;b&gt;&amp; co",
        "&lt;i&gt;5",
        "&lt;0&gt;",
        "a &lt; b",
        "A &amp; B",
        "x &lt; y: 1",
        "&lt;smaller",
    ):
        assert escaped in html


def test_only_what_was_read_is_shown(known):
    assert known["fgsm-error"].paper_figure == "99.9 %"
    assert known["identity"].paper_figure == "<0>"
    assert known["halves"].paper_figure == "–"
    assert known["seen-elsewhere"].paper_figure == "–"


# record ---------------------------------------------------------------------------------------------------------------


def test_record(shown):
    record(accuracy=np.float32(0.5), n=3, name="mlp", ok=True, none=None, nan=math.nan, big=-math.inf, k=np.int64(4))
    (bundle,) = shown
    published = bundle[paper_claims.RESULTS_MIME]
    assert published["results"] == {
        "accuracy": 0.5,
        "n": 3,
        "name": "mlp",
        "ok": True,
        "none": None,
        "nan": None,
        "big": None,
        "k": 4,
    }
    assert published["results"]["ok"] is True
    assert published["peak_memory_mb"] is None or published["peak_memory_mb"] > 10
    json.dumps(bundle, allow_nan=False)
    assert "accuracy = 0.5" in bundle["text/plain"]


@pytest.mark.parametrize("value", [torch.tensor(0.5), np.array([1.0]), [1, 2], {"a": 1}, object(), 1j, np.bool_(True)])
def test_record_refuses_what_is_not_plain(value, shown):
    with pytest.raises(TypeError, match=r"bad is a .*float\(\.\.\.\) or \.item\(\)"):
        record(good=1.0, bad=value)
    assert not shown


# The file -------------------------------------------------------------------------------------------------------------


def broken(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    return path


ROW = "{id: a, chapter: '01', statement: s, paper: p, place: q, kind: exact, band: [0, 1], mistake: m}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"- {ROW}\n- {ROW}", "two claims have the id 'a'"),
        (f"- {ROW.replace('exact', 'about')}", r"claim 'a': kind must be one of .*got 'about'"),
        (f"- {ROW.replace('kind: exact, ', '')}", r"claim 'a': .*kind"),
        (f"- {ROW.replace(', band: [0, 1]', '')}", r"claim 'a': .*band"),
        (f"- {ROW.replace('[0, 1]', '[0, 1, 2]')}", "claim 'a'"),
        (f"- {ROW.replace(', mistake: m', '')}", r"claim 'a': .*mistake"),
        (f"- {ROW.replace('m}', 'm, verdict: maybe}')}", r"claim 'a': verdict must be one of .*got 'maybe'"),
        (
            f"- {ROW.replace('m}', 'm, verdict: differs}')}",
            r"claim 'a': verdict 'differs': its note must give the reason",
        ),
        (f"- {ROW.replace('paper: p', 'papers: p')}", r"claim 'a': .*papers"),
    ],
)
def test_broken_rows_are_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_claims(broken(tmp_path, text))


REAL = yaml.safe_load(paper_claims.CLAIMS_FILE.read_text(encoding="utf-8")) if paper_claims.CLAIMS_FILE.exists() else []


def test_the_file_loads():
    assert len(load_claims()) == len(REAL) > 0


@pytest.mark.parametrize("row", REAL, ids=[row["id"] for row in REAL])
def test_every_row_keeps_the_rules(row):
    low, high = row["band"]
    assert row["kind"] in paper_claims.KINDS
    assert row["status"].split("-")[0] in ("V", "R")
    assert row["status"] in ("V-paper", "V-author", "V-2nd", "R", "R-high", "R-med", "R-low")
    if row["status"] not in paper_claims.READ_IN_THE_PAPER:
        assert row["figure"] is None, "a figure that nobody has read in the paper is not printed"
    assert row["figure"] is None or isinstance(row["figure"], str)
    for bound in (low, high):
        assert bound is None or (isinstance(bound, int | float) and math.isfinite(bound))
    assert (low, high) != (None, None)
    assert None in (low, high) or low < high
    unit = row.get("unit", "percent")
    assert unit in ("percent", "points", "number") or re.fullmatch(r"of \d+ \w+", unit)
    ends = {"percent": (0, 1), "points": (-1, 1)}.get(unit, (-math.inf, math.inf))
    assert low is None or low >= ends[0]
    assert high is None or high <= ends[1]
    assert (low, high) != ends, "a band from end to end cannot fail"
    assert row["mistake"].strip()


@pytest.mark.parametrize("row", [row for row in REAL if row["kind"] != "direction"], ids=lambda row: row["id"])
def test_holds_means_near_the_figure_of_the_paper(row):
    """Where paper and claim give a share, the band has the paper's figure if the claim holds, and only then."""
    share = re.fullmatch(r"([\d.]+) %", row["figure"] or "")
    if share and row.get("unit", "percent") == "percent":
        low, high = row["band"]
        is_near = (low or 0) <= float(share[1]) / 100 <= (1 if high is None else high)
        assert is_near == (row.get("verdict", "holds") == "holds")


@pytest.mark.parametrize("row", REAL, ids=[row["id"] for row in REAL])
def test_a_claim_says_for_which_settings(row):
    """A reader who changes a parameter that moves the figure sees "not comparable"."""
    if "n_eval" in parameters.read_parameters(chapters.find_chapter(row["chapter"]).path):
        assert row.get("setting"), "name the parameters that the band is stated for"


@pytest.mark.parametrize("row", REAL, ids=[row["id"] for row in REAL])
def test_every_row_names_what_it_is_about(row):
    assert row["chapter"].isdigit()
    assert len(row["chapter"]) == 2
    assert row["statement"].strip()
    assert row["paper"].strip()
    assert row["place"].strip()
