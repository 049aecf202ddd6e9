"""What the papers report beside what we get: verdicts, tables, results; and that data/claims.yaml keeps its rules."""

import json
import math

import IPython.display
import numpy as np
import pytest
import torch
import yaml

from course_utils import batch, claims
from course_utils.claims import ClaimError, check, check_all, load_claims, record

ROWS = """
- {id: fgsm-error, chapter: "02", statement: Error under FGSM, paper: Someone 2015, place: sec. 4, figure: 99.9 %,
   status: V-paper, kind: band, band: [0.8, 1.0], setting: {dataset: [mnist5k, mnist], eps: 0.25}}
- {id: halves, chapter: "01", statement: More than random, paper: Someone 2014, place: "", figure: null,
   status: R-high, kind: direction, band: [0.05, null], unit: points}
- {id: identity, chapter: "01", statement: "Algebra <b>& co</b>", paper: "A & B", place: "<i>5</i>", figure: "<0>",
   status: V-author, kind: exact, band: [null, 0.001], unit: "number", note: "a < b"}
- {id: seen-elsewhere, chapter: "01", statement: Something, paper: P, place: q, figure: 5 %, status: V-2nd,
   kind: band, band: [0.0, 1.0]}
"""


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Four claims of the test's own."""
    path = tmp_path / "claims.yaml"
    path.write_text(ROWS)
    loaded = load_claims(path)
    monkeypatch.setattr(claims, "_claims", lambda: loaded)
    return loaded


@pytest.fixture
def shown(monkeypatch):
    """What was displayed."""
    outputs = []
    monkeypatch.setattr(IPython.display, "display", lambda bundle, raw: outputs.append(bundle))
    return outputs


SETTING = {"dataset": "mnist5k", "eps": 0.25}


# check ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.8, 0.9, 1.0, np.float32(0.9), 1])
def test_inside_the_band(value, known):
    verdict = check("fgsm-error", value, n=100, **SETTING)
    assert verdict
    assert verdict.verdict == "holds"


@pytest.mark.parametrize("value", [0.7999, 0.0])
def test_outside_the_band(value, known):
    with pytest.raises(ClaimError, match=r"Error under FGSM: paper 99\.9 %, here .*FAILS; the band is 80\.0 % to 100"):
        check("fgsm-error", value, **SETTING)


def test_claim_error_is_an_assertion():
    assert issubclass(ClaimError, AssertionError)


def test_interval_is_shown_where_n_is_known(known):
    assert "99.0 % (94.6–99.8, n = 100)" in str(check("fgsm-error", 0.99, n=100, **SETTING))


def test_open_bands(known):
    assert check("identity", -1e9)
    assert check("identity", 0.001)
    with pytest.raises(ClaimError, match=r"at most 0\.001"):
        check("identity", 0.0011)


@pytest.mark.parametrize("values", [[0.05, 0.06, 0.07], (0.5,) * 5, np.array([0.1, 0.2, 0.3])])
def test_direction_over_seeds(values, known):
    assert check("halves", values).verdict == "holds"


def test_direction_needs_every_seed(known):
    with pytest.raises(ClaimError, match=r"\+5\.0 points, \+6\.0 points, \+4\.0 points.*at least \+5\.0 points"):
        check("halves", [0.05, 0.06, 0.04])


@pytest.mark.parametrize("values", [0.5, [0.5, 0.6], []])
def test_direction_needs_three_seeds(values, known):
    with pytest.raises(ValueError, match="at least 3 seeds"):
        check("halves", values)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [0.9, math.nan], []])
def test_figures_must_be_finite(value, known):
    with pytest.raises(ValueError, match="fgsm-error: expected finite figures"):
        check("fgsm-error", value, **SETTING)


@pytest.mark.parametrize("value", [None, torch.tensor(0.9), object(), [None]])
def test_figures_must_be_numbers(value, known):
    with pytest.raises(TypeError, match="fgsm-error: expected a number or a list of numbers"):
        check("fgsm-error", value, **SETTING)


def test_unknown_id(known):
    with pytest.raises(ValueError, match=r"no claim 'fgsm-eror' in data/claims.yaml\. Did you mean 'fgsm-error'"):
        check("fgsm-eror", 0.9)
    with pytest.raises(ValueError, match="Known: fgsm-error, halves"):
        check("zzz", 0.9)


def test_other_settings_are_not_comparable(known):
    for setting in ({"dataset": "fashion_mnist", "eps": 0.25}, {"dataset": "mnist", "eps": 0.1}):
        verdict = check("fgsm-error", 0.1, **setting)
        assert verdict.verdict == "not comparable"
        assert verdict  # asserts nothing
    assert check("fgsm-error", 0.9, dataset="mnist", eps=0.25, seed=3).verdict == "holds"


def test_missing_setting_is_refused(known):
    with pytest.raises(ValueError, match=r"fgsm-error is stated for eps = 0\.25: pass eps=… to check"):
        check("fgsm-error", 0.9, dataset="mnist5k")


# Tables ---------------------------------------------------------------------------------------------------------------


def test_table_is_shown_before_it_fails(known, shown):
    with pytest.raises(ClaimError) as caught:
        check_all([("fgsm-error", 0.1, 50), ("identity", 0.0), ("halves", [0, 0, 0])], **SETTING)
    assert "Error under FGSM" in str(caught.value)
    assert "More than random" in str(caught.value)
    assert "Algebra" not in str(caught.value)
    (bundle,) = shown
    assert [row["verdict"] for row in bundle[claims.CLAIMS_MIME]["claims"]] == ["FAILS", "holds", "FAILS"]
    assert bundle["text/html"].count("✗ FAILS") == 2
    json.dumps(bundle, allow_nan=False)


def test_table_of_what_holds(known, shown):
    report = check_all([("fgsm-error", 0.9, 50), ("identity", 0.0)], **SETTING)
    assert len(report) == 2
    assert len(shown) == 1
    assert report.lines().split() == ["fgsm-error", "band", "holds", "identity", "exact", "holds"]
    json.dumps(shown[0], allow_nan=False)


def test_batch_reads_the_same_types():
    assert (batch.CLAIMS_MIME, batch.RESULTS_MIME) == (claims.CLAIMS_MIME, claims.RESULTS_MIME)


def test_html_is_escaped(known, shown):
    html = check_all([("identity", 0.0)])._repr_html_()
    for raw in ("<b>", "<i>", "<0>", "a < b", "A & B"):
        assert raw not in html
    for escaped in ("&lt;b&gt;&amp; co", "&lt;i&gt;5", "&lt;0&gt;", "a &lt; b", "A &amp; B"):
        assert escaped in html
    assert check("identity", 0.0)._repr_html_() == html


def test_only_what_was_read_is_shown(known):
    assert known["fgsm-error"].paper_figure == "99.9 %"
    assert known["identity"].paper_figure == "<0>"
    assert known["halves"].paper_figure == "–"
    assert known["seen-elsewhere"].paper_figure == "–"


# record ---------------------------------------------------------------------------------------------------------------


def test_record(shown):
    record(accuracy=np.float32(0.5), n=3, name="mlp", ok=True, none=None, nan=math.nan, big=-math.inf, k=np.int64(4))
    (bundle,) = shown
    published = bundle[claims.RESULTS_MIME]
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


GOOD = "{id: a, chapter: '01', statement: s, paper: p, place: q, kind: exact, band: [0, 1]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"- {GOOD}\n- {GOOD}", "two claims have the id 'a'"),
        (f"- {GOOD.replace('exact', 'about')}", r"claim 'a': kind must be one of .*got 'about'"),
        (f"- {GOOD.replace('kind: exact, ', '')}", r"claim 'a': .*kind"),
        (f"- {GOOD.replace(', band: [0, 1]', '')}", r"claim 'a': .*band"),
        (f"- {GOOD.replace('[0, 1]', '[0, 1, 2]')}", "claim 'a'"),
        (f"- {GOOD.replace('paper: p', 'papers: p')}", r"claim 'a': .*papers"),
    ],
)
def test_broken_rows_are_refused(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_claims(broken(tmp_path, text))


REAL = yaml.safe_load(claims.CLAIMS_FILE.read_text(encoding="utf-8")) if claims.CLAIMS_FILE.exists() else []


def test_the_file_loads():
    assert len(load_claims()) == len(REAL) > 0


@pytest.mark.parametrize("row", REAL, ids=[row["id"] for row in REAL])
def test_every_row_keeps_the_rules(row):
    low, high = row["band"]
    assert row["kind"] in claims.KINDS
    assert row["status"].split("-")[0] in ("V", "R")
    assert row["status"] in ("V-paper", "V-author", "V-2nd", "R", "R-high", "R-med", "R-low")
    if row["status"] not in claims.READ_IN_THE_PAPER:
        assert row["figure"] is None, "a figure that nobody has read in the paper is not printed"
    assert row["figure"] is None or isinstance(row["figure"], str)
    for bound in (low, high):
        assert bound is None or (isinstance(bound, int | float) and math.isfinite(bound))
    assert (low, high) != (None, None)
    assert None in (low, high) or low < high
    unit = row.get("unit", "percent")
    assert unit in ("percent", "points", "number")
    if unit == "percent":
        assert (low or 0) >= 0
        assert (1 if high is None else high) <= 1
    assert row["chapter"].isdigit()
    assert len(row["chapter"]) == 2
    assert row["statement"].strip()
    assert row["paper"].strip()
    assert row["place"].strip()
