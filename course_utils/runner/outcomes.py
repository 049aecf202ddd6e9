"""What became of many runs: as a table, and as small figures side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import atomic_write
from ..core.settings import local_path
from ..core.suggestions import did_you_mean
from .execution import STATUS, read_record
from .store import open_store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STATUSES = ("completed", "failed", "interrupted", "running", "pending")
PLAN = ".plan.json"
COLUMNS = ("run", "chapter", "status", "seconds", "peak_memory_mb", "error", "notebook")
MAX_LINES = 6  # as many as plotting has line styles
PANELS = 3  # side by side


def collect(out_dir: str | Path, names: Iterable[str] | None = None) -> pd.DataFrame:
    """Return a row for each run in a folder: what it is, its parameters, its results, and what became of it.

    A parameter or result whose name is taken has "param_" or "result_" in front of it. Only completed runs have
    results. The status is completed, failed, running, pending (not begun) or interrupted.

    Args:
        out_dir: the folder or address that runs and sweeps have written to.
        names: of the runs; default all of them.

    Raises:
        ValueError: there is no run.

    >>> collect("build/fgsm").groupby("eps").fgsm_success.mean()  # doctest: +SKIP
    """
    import pandas as pd

    records = read_records(out_dir, names)
    if not records:
        raise ValueError(f"no runs in {open_store(out_dir)}")
    params = _free_names(records, "params", "param_", set(COLUMNS))
    results = _free_names(records, "results", "result_", {*COLUMNS, *params.values()})
    rows = []
    for record in records:
        row = {column: record.get(column) for column in COLUMNS} | {"run": record["name"]}
        row |= {params[name]: value for name, value in record.get("params", {}).items()}
        rows.append(row | {results[name]: value for name, value in record.get("results", {}).items()})
    first, last = COLUMNS[:2], COLUMNS[2:]
    frame = pd.DataFrame(rows, columns=[*first, *params.values(), *results.values(), *last])
    frame.attrs = {"params": list(params.values()), "results": [c for n, c in results.items() if n not in params]}
    return frame


def read_records(out_dir: str | Path, names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Return the records of the runs in a folder, planned ones included, in the order of the plans."""
    store = open_store(out_dir)
    files = store.names()
    wanted: dict[str, dict[str, Any]] = {}
    for file in sorted(file for file in files if file.endswith(PLAN)):
        plan = json.loads(store.read(file))
        wanted |= {name: {"chapter": plan["chapter"], "params": params} for name, params in plan["runs"].items()}
    for file in sorted(file for file in files if file.endswith(STATUS)):
        wanted.setdefault(file.removesuffix(STATUS), {})
    if names is not None:
        wanted = {name: wanted.get(name, {}) for name in names}
    records = {name: read_record(store, name, files) for name in wanted}
    running = [name for name, record in records.items() if record["status"] == "running"]
    driver = store.driver() if running else None
    for name in running:
        # A run that began before its driver is of one that is gone
        if driver is None or records[name].get("began", math.inf) < driver["began"]:
            records[name] = read_record(store, name, files)  # it may have ended between the two looks
            if records[name]["status"] == "running":
                records[name]["status"] = "interrupted"
    return [about | records[name] for name, about in wanted.items()]


def count_runs(frame: pd.DataFrame) -> str:
    """Say how many runs there are, and how many of each status.

    Args:
        frame: as `collect` returns it.

    >>> import pandas as pd
    >>> count_runs(pd.DataFrame({"status": ["failed", "completed", "failed"]}))
    '3 runs: 1 completed, 2 failed'
    """
    counts = frame.status.value_counts()
    return f"{len(frame)} runs: " + ", ".join(f"{counts[status]} {status}" for status in STATUSES if status in counts)


def seconds_left(frame: pd.DataFrame) -> float:
    """Estimate how long the runs of a sweep will still take, from those that are completed.

    As many run side by side as now, each for the mean time; of those that run now, half is over.

    Args:
        frame: as `collect` returns it.

    Returns:
        Seconds; NaN while no run is completed or none is running.
    """
    counts = frame.status.value_counts()
    running, waiting = counts.get("running", 0), counts.get("pending", 0)
    mean = frame.seconds[frame.status == "completed"].mean()
    return float(mean * (0.5 + waiting / running)) if running else math.nan


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Write what `collect` returns to a .csv or .parquet file; lists become JSON.

    Raises:
        ValueError: an address, another ending, or pyarrow is missing. OSError: the file cannot be written.
    """
    path = local_path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"expected a file that ends in .csv or .parquet, got {path}")
    if path.suffix == ".parquet" and not find_spec("pyarrow"):
        raise ValueError("a .parquet file takes pyarrow: python -m pip install pyarrow, or write a .csv file")
    frame = frame.apply(_storable)
    with atomic_write(path) as part:
        frame.to_csv(part, index=False) if path.suffix == ".csv" else frame.to_parquet(part, index=False)


def plot_sweep(
    frame: pd.DataFrame, results: Sequence[str] | None = None, *, x: str | None = None, by: str | None = None
) -> Figure:
    """Return small multiples of a sweep: a panel for each result, over one parameter, a line for each value of another.

    Lines are means over all other parameters, such as the seed, with a band from the lowest to the highest.

    Args:
        frame: as `collect` returns it; only completed runs are drawn.
        results: columns to draw; default all results that are numbers, without results how long the runs took.
        x: the parameter along the axis; default the one with the most values, a seed last.
        by: the parameter that tells the lines apart; default the next one, if it has few values.

    Raises:
        ValueError: no completed run, or an unknown column.
    """
    from pandas.api.types import is_numeric_dtype

    from ..plotting.figures import figure, line

    about, frame = frame.attrs, frame[frame.status == "completed"].apply(_storable)
    if frame.empty:
        raise ValueError("no completed run to draw")
    axes = [name for name in varying(frame, about.get("params", [])) if name not in (x, by)]
    x = x or (axes.pop(0) if axes else "chapter")
    by = by or next((name for name in axes if frame[name].nunique() <= MAX_LINES and name != "seed"), None)
    numbers = [name for name in about.get("results", []) if is_numeric_dtype(frame[name])]
    results = list(results or numbers or ["seconds", "peak_memory_mb"])
    for name in filter(None, (x, by, *results)):
        if name not in frame:
            raise ValueError(f"no column {name!r}. {did_you_mean(name, frame.columns)}")
    style = {} if is_numeric_dtype(frame[x]) else {"linestyle": "none"}  # between two names there is nothing
    columns = min(PANELS, len(results))
    fig, panels = figure(-(-len(results) // columns), columns, squeeze=False)
    for ax, result in zip_longest(panels.flat, results):
        if result is None:
            ax.set_axis_off()
            continue
        for value, group in frame.groupby(by) if by else [("", frame)]:
            drawn = group.groupby(x)[result].agg(["mean", "min", "max"]).dropna()
            label = f"{by} = {value}" if by else "mean"
            line(ax, drawn.index, drawn["mean"], label, low=drawn["min"], high=drawn["max"], **style)
        ax.set(title=result, xlabel=x)
        if style:
            ax.tick_params(axis="x", rotation=40)
    return fig


def varying(frame: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Return those columns that have more than one value: numbers before names, many values before few, a seed last."""
    from pandas.api.types import is_numeric_dtype

    counts = {name: _storable(frame[name]).nunique(dropna=False) for name in names}
    found = [name for name, count in counts.items() if count > 1]
    return sorted(found, key=lambda name: (name == "seed", not is_numeric_dtype(frame[name]), -counts[name]))


def _storable(column: pd.Series) -> pd.Series:
    """Return a column with values of one kind: where they are lists, or of several kinds, as JSON."""
    kinds = {type(value) for value in column.dropna()} if column.dtype == object else set()
    if kinds <= {str} or kinds <= {bool}:
        return column
    return column.map(json.dumps, na_action="ignore")


def _free_names(records: Sequence[Mapping[str, Any]], kind: str, prefix: str, taken: set[str]) -> dict[str, str]:
    """Return a column for each parameter or result that a record has; a name that is taken gets the prefix."""
    columns: dict[str, str] = {}
    for name in dict.fromkeys(name for record in records for name in record.get(kind, {})):
        columns[name] = name
        while columns[name] in taken:
            columns[name] = prefix + columns[name]
        taken = {*taken, columns[name]}
    return columns
