"""Tables and figures of many runs."""

import json

import numpy as np
import pandas as pd
import pytest

from course_utils.runner import execution, outcomes
from course_utils.runner.store import open_store


@pytest.fixture
def out(tmp_path):
    """Write records: each a mapping of parameters, or (parameters, results, status)."""

    def write(*runs, folder="out"):
        store = open_store(tmp_path / folder)
        for number, run in enumerate(runs):
            params, results, status = run if isinstance(run, tuple) else (run, {}, "completed")
            about = {"name": f"01_a-{number}", "chapter": "01_a", "params": params, "results": results}
            more = {"status": status, "seconds": 1.0, "peak_memory_mb": 100, "error": None, "notebook": "a.ipynb"}
            execution.write_record(store, about | more)
        return tmp_path / folder

    return write


def swept(eps=(0.1, 0.2, 0.3), seeds=2, **more):
    return [
        ({"eps": e, "seed": s} | more, {"score": e * 10 + s, "note": "x"}, "completed")
        for e in eps
        for s in range(seeds)
    ]


def test_a_row_for_each_run(out):
    folder = out(*swept())
    (folder / "01_a.plan.json").write_text(
        json.dumps({"chapter": "01_a", "runs": {"01_a-9": {"eps": 0.9, "seed": 9}, "01_a-0": {"eps": 0.1, "seed": 0}}})
    )
    frame = outcomes.collect(folder)
    assert list(frame.run) == ["01_a-9", *(f"01_a-{n}" for n in range(6))], "planned ones first, in the plan's order"
    assert list(frame.status) == ["pending"] + ["completed"] * 6
    assert (frame.eps[0], np.isnan(frame.score[0])) == (0.9, True)
    assert frame.score[6] == 4
    assert list(outcomes.collect(folder, ["01_a-3"]).run) == ["01_a-3"]


def test_running_and_interrupted_are_told_apart(out):
    folder = out(({"eps": 1}, {}, "running"), ({"eps": 2}, {}, "completed"))
    with open_store(folder).lock("a sweep"):
        assert list(outcomes.collect(folder).status) == ["running", "completed"]
    assert list(outcomes.collect(folder).status) == ["interrupted", "completed"]


def test_the_time_left_is_that_of_the_runs_to_come():
    def frame(**counts):
        status = [name for name, count in counts.items() for _ in range(count)]
        return pd.DataFrame({"status": status, "seconds": [60.0 if s == "completed" else np.nan for s in status]})

    assert outcomes.seconds_left(frame(completed=3, running=1)) == 30
    assert outcomes.seconds_left(frame(completed=3, running=1, pending=4)) == 270
    assert outcomes.seconds_left(frame(completed=3, running=2, pending=4, failed=1)) == 150
    for unknown in (frame(running=1, pending=1), frame(completed=1, pending=1), frame(completed=2)):
        assert np.isnan(outcomes.seconds_left(unknown))


def test_names_that_are_taken_get_a_prefix(out):
    params = {"eps": 0.1, "status": "p", "param_status": "q"}
    results = {"eps": 0.2, "status": "r", "seconds": 5, "param_status": "s"}
    frame = outcomes.collect(out((params, results, "completed")))
    assert frame.columns.is_unique
    row = frame.iloc[0]
    assert (row.status, row.param_status, row.param_param_status) == ("completed", "p", "q")
    assert (row.eps, row.result_eps, row.result_status, row.result_seconds) == (0.1, 0.2, "r", 5)
    assert row.result_param_status == "s"


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no runs in"):
        outcomes.collect(tmp_path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_are_written(out, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow: the extra `parquet`")
    values = [
        {"a": [0.1, 0.2], "b": None, "c": 'x,\n"y"'},
        {"a": [], "b": 3, "c": "ε"},
        {"a": [1.0], "b": "cat", "c": ""},
    ]
    frame = outcomes.collect(out(*values))
    path = tmp_path / f"all.{ending}"
    outcomes.write_table(frame, path)
    read = pd.read_csv(path, keep_default_na=False) if ending == "csv" else pd.read_parquet(path)
    assert [json.loads(a) for a in read.a] == [v["a"] for v in values]
    assert list(read.c) == [v["c"] for v in values]
    assert [json.loads(b) for b in read.b[1:]] == [3, "cat"]
    assert pd.isna(read.b[0]) or read.b[0] == ""


def test_other_tables_are_refused(out, tmp_path, monkeypatch):
    frame = outcomes.collect(out(*swept()))
    with pytest.raises(ValueError, match=r"ends in \.csv or \.parquet"):
        outcomes.write_table(frame, tmp_path / "a.xlsx")
    monkeypatch.setattr(outcomes, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="takes pyarrow"):
        outcomes.write_table(frame, tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def lines(fig):
    """The curves of each panel, by its title: label, x and y."""
    return {
        ax.get_title(): [(curve.get_label(), list(curve.get_xdata()), list(curve.get_ydata())) for curve in ax.lines]
        for ax in fig.axes
        if ax.get_title()
    }


def test_a_panel_for_each_number_over_the_parameter_that_varies(out):
    fig = outcomes.plot_sweep(outcomes.collect(out(*swept(n=512))))
    ((title, [(_, x, y)]),) = lines(fig).items()
    assert (title, x) == ("score", [0.1, 0.2, 0.3])
    assert y == pytest.approx([1.5, 2.5, 3.5]), "the mean over seeds"
    assert fig.axes[0].get_xlabel() == "eps"


def test_a_line_for_each_value_of_the_next_parameter(out):
    frame = outcomes.collect(out(*swept(dataset="a"), *swept(dataset="b")))
    assert [label for label, *_ in lines(outcomes.plot_sweep(frame))["score"]] == ["dataset = a", "dataset = b"]
    by_seed = outcomes.plot_sweep(frame, ["score", "seconds"], x="dataset", by="seed")
    assert set(lines(by_seed)) == {"score", "seconds"}
    assert [label for label, *_ in lines(by_seed)["score"]] == ["seed = 0", "seed = 1"]


def test_only_completed_runs_are_drawn(out):
    runs = swept(seeds=1)
    frame = outcomes.collect(out(*runs, ({"eps": 0.9, "seed": 0}, {}, "failed")))
    assert lines(outcomes.plot_sweep(frame))["score"][0][1] == [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match="no completed run"):
        outcomes.plot_sweep(frame[frame.status == "failed"])
    with pytest.raises(ValueError, match=r"no column 'scores'\. Did you mean 'score'"):
        outcomes.plot_sweep(frame, ["scores"])


def test_without_results_the_time_is_drawn(out):
    frame = outcomes.collect(out({"eps": 1}, {"eps": 2}))
    assert set(lines(outcomes.plot_sweep(frame))) == {"seconds", "peak_memory_mb"}


def test_varying_parameters_come_with_the_most_telling_first():
    frame = pd.DataFrame(
        {
            "seed": range(6),
            "eps": [1, 2, 3, 1, 2, 3],
            "n": [1, 1, 2, 2, 2, 2],
            "d": list("aabbcc"),
            "one": 1,
            "l": [[1], [2]] * 3,
        }
    )
    assert outcomes.varying(frame, ["seed", "d", "n", "one", "eps", "l"]) == ["eps", "n", "d", "l", "seed"]
