"""The pages that lead to runs: the list of chapters with what the papers report, and the table of a sweep."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..core.files import write_text
from ..core.settings import local_path
from ..core.templates import render
from . import chapters
from .execution import STATUS
from .outcomes import count_runs, plot_sweep, read_records, varying
from .paper_claims import FAILS, NOT_COMPARABLE, Claim, claim_rows
from .pictures import Picture, thumbnail
from .store import open_store

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Adversarial examples: the course"
_CSS_CLASSES = {"completed": "good", "failed": "bad", "interrupted": "bad"}
_UNFINISHED = ("running", "interrupted", "pending")


def write_index(folder: str | Path) -> Path:
    """Write `index.html`: every chapter in a folder, what became of its run where one is recorded, and all claims.

    Raises:
        ValueError: the folder is an address. OSError: it cannot be written.
    """
    folder = local_path(folder)
    files = {name for name in open_store(folder).names() if not name.startswith(".")}
    runs = {name.removesuffix(STATUS) for name in files if name.endswith(STATUS)}
    names = sorted(runs | {name.removesuffix(".ipynb") for name in files if name.endswith(".ipynb")})
    records = dict(zip(names, read_records(folder, names), strict=True))
    entries = [
        _entry(folder, files, position, name, records[name] if name in runs else {})
        for position, name in enumerate(names, 1)
    ]
    page = render(
        "index.html.j2",
        title=TITLE,
        claim_counts=_claim_counts([row for entry in entries for row in entry["claims"]]),
        entries=entries,
        not_completed=[entry for entry in entries if entry["css_class"] == "bad" or entry["problem"]],
        with_claims=[entry for entry in entries if entry["claims"]],
        failing=[(entry, row) for entry in entries for row in entry["claims"] if row["verdict"] == FAILS],
        fails=FAILS,
    )
    target = folder / "index.html"
    write_text(target, page)
    return target


def write_report(out_dir: str | Path, frame: pd.DataFrame) -> str:
    """Write `index.html` of a sweep, unless it says all this already, and return where it is.

    Args:
        out_dir: the folder or address of the sweep.
        frame: its runs, as `sweeps.run_sweep` returns them.

    Raises:
        OSError: the folder cannot be written.
    """
    shown = varying(frame, frame.attrs["params"]) + frame.attrs["results"]
    about = {
        "title": f"A sweep of {', '.join(sorted(set(map(str, frame.chapter))))}",
        "counts": f"{count_runs(frame)}.",
        "columns": shown,
        "runs": [_run(row, shown) for row in frame.to_dict("records")],
    }
    digest = hashlib.sha256(render("report.html.j2", **about, digest="", picture=None).encode()).hexdigest()
    store = open_store(out_dir)
    if "index.html" not in store.names() or digest not in store.read("index.html"):  # drawing takes seconds
        store.write("index.html", render("report.html.j2", **about, digest=digest, picture=_figure(frame)))
    return f"{store}/index.html"


def _entry(folder: Path, files: set[str], position: int, name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the list says of a chapter and of its run, whose record is {} if there is none."""
    is_there = f"{name}.ipynb" in files
    # A run that was cut off before it left a notebook is named by the course's own
    chapter = chapters.Chapter.at((folder if is_there else chapters.NOTEBOOKS / "solutions") / f"{name}.ipynb")
    page, notebook = (quote(file, safe="") if file in files else "" for file in (f"{name}.html", f"{name}.ipynb"))
    about = {"title": name, "question": "", "reading": "", "running": ""}
    image, claims, problem = None, [], ""
    try:
        nb = chapters.read_notebook(chapter.path)
        about = {"title": chapter.title, "question": chapter.question or chapter.promise}
        about |= {"reading": chapter.reading, "running": chapter.running}
        if is_there:
            image, claims = thumbnail(nb), [_claim(row) for row in claim_rows(nb)]
    except ValueError as error:
        problem = str(error) if is_there else ""
    status, target = str(record.get("status", "")), page or notebook
    outdated = "What is here is from an earlier run." if status in _UNFINISHED and target else ""
    return about | {
        "position": position,
        "label": chapter.number or name,
        "page": page,
        "notebook": notebook,
        "target": target,
        "thumbnail": image,
        "claims": claims,
        "claim_counts": _claim_counts(claims),
        "status": status,
        "css_class": _CSS_CLASSES.get(status, ""),
        "facts": _facts(record),
        "notes": list(filter(None, [record.get("error"), problem, outdated])),
        "problem": problem,
    }


def _facts(record: Mapping[str, Any]) -> list[str]:
    """Say when a run ended, how long it took, and in how much memory, as far as its record tells."""
    seconds, memory = (_number(record.get(name)) for name in ("seconds", "peak_memory_mb"))
    known = [str(record.get("finished") or "")]
    known += [_duration(seconds) if seconds else "", f"{memory:.0f} MB" if memory else ""]
    return list(filter(None, known))


def _claim(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a claim with its source, and with its paper's figure if that may be shown."""
    claim = Claim(**{field.name: row.get(field.name) for field in fields(Claim)})
    return row | {"figure": claim.paper_figure, "source": claim.source}


def _claim_counts(rows: Sequence[Mapping[str, str]]) -> str:
    """Say how many claims hold, and what became of the others."""
    counts = Counter(row["verdict"] for row in rows)
    asserted = len(rows) - counts[NOT_COMPARABLE]
    first = f"{counts.pop('holds', 0)}/{asserted} claims hold" if asserted else ""
    rest = (f"{n} {'differ' if verdict == 'differs' and n > 1 else verdict}" for verdict, n in counts.items() if n)
    return ", ".join(filter(None, [first, *rest]))


def _figure(frame: pd.DataFrame) -> Picture | None:
    """Return small figures of the completed runs, or None where these do not differ in any parameter."""
    from ..plotting.figures import to_png

    completed = frame[frame.status == "completed"]
    if len(completed) < 2 or not varying(completed, frame.attrs["params"]):
        return None
    fig = plot_sweep(frame)
    drawn = [ax for ax in fig.axes if ax.get_title()]
    alt = f"Small figures of {', '.join(ax.get_title() for ax in drawn)}, each over {drawn[0].get_xlabel()}."
    return Picture.from_png(to_png(fig), alt)


def _run(row: Mapping[str, Any], shown: Iterable[str]) -> dict[str, Any]:
    """Return the row of a run, as texts."""
    seconds, notebook = _number(row["seconds"]), _write(row["notebook"])
    return {
        "values": [_write(row[column]) for column in shown],
        "status": _write(row["status"]),
        "css_class": _CSS_CLASSES.get(_write(row["status"]), ""),
        "error": _write(row["error"]),
        "seconds": "" if seconds is None else f"{seconds:.1f}",
        "notebook": quote(notebook, safe=""),
    }


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _number(value: Any) -> float | None:
    """Return a value of a status file if it is a number."""
    return value if isinstance(value, int | float) and not _is_missing(value) else None


def _write(value: Any) -> str:
    if _is_missing(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # pandas puts NaN where there is nothing
