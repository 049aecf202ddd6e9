"""The pages that lead to runs: the list of chapters with what the papers report, and the table of a sweep."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..core.files import write_text
from ..core.settings import local_path
from ..core.templates import render
from . import chapters
from .execution import STATUS
from .outcomes import count_runs, plot_sweep, read_records, varying
from .paper_claims import CLAIMS_MIME, FAILS, NOT_COMPARABLE, Claim
from .pictures import Picture, thumbnail
from .store import open_store

if TYPE_CHECKING:
    import nbformat
    import pandas as pd

TITLE = "Adversarial examples: the course"
_CSS_CLASSES = {"completed": "good", "failed": "bad", "interrupted": "bad"}
_UNFINISHED = ("running", "interrupted", "pending")


@dataclass(frozen=True)
class ChapterEntry:
    """A chapter in the list: what it says of itself, what it shows, and the record of its run, {} if there is none."""

    position: int
    name: str
    number: str
    title: str
    question: str
    reading: str
    running: str
    page: str
    notebook: str
    thumbnail: Picture | None
    claims: list[dict[str, str]]
    record: Mapping[str, Any]
    problem: str = ""

    @property
    def label(self) -> str:
        """The chapter's number, or its name if it has none."""
        return self.number or self.name

    @property
    def target(self) -> str:
        """Where its title leads."""
        return self.page or self.notebook

    @property
    def status(self) -> str:
        """What became of its run, or "" if none is recorded."""
        return str(self.record.get("status", ""))

    @property
    def css_class(self) -> str:
        """The class of its status."""
        return _CSS_CLASSES.get(self.status, "")

    @property
    def facts(self) -> list[str]:
        """What else is known of its run: when it ended, how long it took, and in how much memory."""
        seconds, memory = (_number(self.record.get(name)) for name in ("seconds", "peak_memory_mb"))
        known = [str(self.record.get("finished") or "")]
        known += [_duration(seconds) if seconds else "", f"{memory:.0f} MB" if memory else ""]
        return list(filter(None, known))

    @property
    def notes(self) -> list[str]:
        """What a reader must know before opening its files."""
        outdated = self.status in _UNFINISHED and self.target
        texts = [self.record.get("error"), self.problem, "What is here is from an earlier run." if outdated else ""]
        return [str(text) for text in texts if text]

    @property
    def claim_counts(self) -> str:
        """How many of its claims hold, and what became of the others."""
        return _claim_counts(self.claims)


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
        instructions=_instructions(entries),
        claim_counts=_claim_counts([row for entry in entries for row in entry.claims]),
        entries=entries,
        not_completed=[entry for entry in entries if entry.css_class == "bad" or entry.problem],
        with_claims=[entry for entry in entries if entry.claims],
        failing=[(entry, row) for entry in entries for row in entry.claims if row["verdict"] == FAILS],
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


def _entry(folder: Path, files: set[str], position: int, name: str, record: Mapping[str, Any]) -> ChapterEntry:
    """Return the entry of a run; one without a notebook, as it was cut off, is named by the course's own."""
    is_there = f"{name}.ipynb" in files
    chapter = chapters.Chapter.at((folder if is_there else chapters.NOTEBOOKS / "solutions") / f"{name}.ipynb")
    common = {"position": position, "name": name, "number": chapter.number, "record": record}
    common["page"], common["notebook"] = (_link(f"{name}{end}", files) for end in (".html", ".ipynb"))
    try:
        nb = chapters.read_notebook(chapter.path)
        about = {"title": chapter.title, "question": chapter.question or chapter.promise}
        about |= {"reading": chapter.reading, "running": chapter.running}
    except ValueError as error:
        about = dict.fromkeys(("question", "reading", "running"), "") | {"title": name}
        return ChapterEntry(**common, **about, thumbnail=None, claims=[], problem=str(error) if is_there else "")
    shown = {"thumbnail": thumbnail(nb), "claims": list(_claims(nb))} if is_there else {"thumbnail": None, "claims": []}
    return ChapterEntry(**common, **about, **shown)


def _claims(nb: nbformat.NotebookNode) -> Iterator[dict[str, str]]:
    """Yield the rows of the tables of claims in a notebook, as texts."""
    bundles = [output.get("data", {}).get(CLAIMS_MIME) for cell in nb.cells for output in cell.get("outputs", [])]
    for bundle in filter(None, bundles):
        for row in bundle.get("claims", []):
            # The claim itself knows whether its paper's figure may be shown
            figure = Claim(**{field.name: row.get(field.name) for field in fields(Claim)}).paper_figure
            texts = {name: str(row.get(name) or "") for name in ("statement", "here", "band", "verdict", "note")}
            source = ", ".join(str(row[name]) for name in ("paper", "place") if row.get(name))
            yield texts | {"figure": str(figure), "source": source}


def _instructions(entries: Iterable[ChapterEntry]) -> str:
    """Say in a line where to click."""
    if any(entry.page for entry in entries):
        return "Read a chapter's page right here; open its notebook in JupyterLab to run and change it."
    return "Open a notebook in JupyterLab to read and run it."


def _claim_counts(rows: Sequence[Mapping[str, str]]) -> str:
    """Say how many claims hold, and what became of the others."""
    counts = Counter(row["verdict"] for row in rows)
    asserted = len(rows) - counts[NOT_COMPARABLE]
    first = f"{counts.pop('holds', 0)}/{asserted} claims hold" if asserted else ""
    rest = (f"{n} {'differ' if verdict == 'differs' and n > 1 else verdict}" for verdict, n in counts.items() if n)
    return ", ".join(filter(None, [first, *rest]))


def _link(name: str, files: Iterable[str]) -> str:
    """Return a link to a file of this folder, "" if it is not there."""
    return quote(name, safe="") if name in files else ""


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
