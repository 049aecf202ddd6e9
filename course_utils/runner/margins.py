"""How far a chapter's claims are from failing, and whether what it prints is the same, over machines and seeds.

Sums of floating-point numbers differ between processors and numbers of threads, and so does every trained network.
The runs here imitate other processors by the instructions that torch and oneDNN may use.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import platform
import re
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..core.files import source_hash, write_text
from ..core.machine import with_threads
from ..core.settings import PROJECT
from . import sweeps
from .chapters import Chapter, read_notebook, read_source
from .execution import ROOMS, Job
from .paper_claims import CLAIMS_MIME, Claim, claim_rows, load_claims

MARGINS_FILE = PROJECT / "data" / "margins.csv"
COMPARED = "nbval-check-output"
MIN_RUNS = 10
MIN_MARGIN = 2.5  # standard deviations
_MEASURED = re.compile(r"# (\S+): measured (.+), code (\w+)$")
_TRUTH = re.compile(r"\b(?:True|False)\b")
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


@dataclass(frozen=True)
class Machine:
    """A simulated machine and a seed; "" leaves the choice of instructions to the library."""

    seed: int
    aten: str
    onednn: str
    threads: int

    @property
    def name(self) -> str:
        """What stands for it in file names."""
        return f"seed{self.seed}-{self.aten or 'native'}-{self.onednn or 'native'}-{self.threads}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of its kernels."""
        limits = {"ATEN_CPU_CAPABILITY": self.aten, "ONEDNN_MAX_CPU_ISA": self.onednn}
        return {name: value for name, value in limits.items() if value} | with_threads(self.threads)


MACHINES = (
    Machine(0, "", "", 2),
    Machine(0, "default", "SSE41", 1),
    Machine(1, "avx2", "AVX2", 1),
    Machine(1, "default", "SSE41", 2),
    Machine(2, "", "", 1),
    Machine(2, "avx2", "AVX2", 2),
    Machine(3, "default", "AVX2", 1),
    Machine(3, "avx2", "SSE41", 1),
    Machine(4, "", "", 1),
    Machine(4, "default", "SSE41", 1),
)


@dataclass(frozen=True)
class Row:
    """One line of `data/margins.csv`.

    Attributes:
        name: a claim's id, or the chapter and the id of a cell.
        kind: that of the claim; "mistake" for the figure that the claim must exclude; "text" for a cell whose text
            is compared, and "truth" for the True and False that a cell prints (1 where they are as stored, else 0).
        runs: how many there were.
        lowest, mean, highest: over the runs; of several seeds in one run the worst counts.
        low, high: the edges of the band, None for no edge. A mistake has to lie outside.
        margin: distance of the mean to the nearest edge in standard deviations of the runs, negative on its wrong
            side. With no spread it is infinite.
    """

    name: str
    kind: str
    runs: int
    lowest: float
    mean: float
    highest: float
    low: float | None
    high: float | None
    margin: float

    @property
    def is_safe(self) -> bool:
        """Whether there were enough runs, and the margin is wide enough."""
        return self.runs >= MIN_RUNS and self.margin >= MIN_MARGIN


# --- running ----------------------------------------------------------------------------------------------------------


def plan(chapters: Iterable[Chapter], out_dir: str | Path) -> list[Job]:
    """Return a job for each chapter and machine, the first chapter's first; each begins with an empty cache."""
    jobs = []
    for chapter in chapters:
        for machine in MACHINES:
            [job] = sweeps.plan_jobs(chapter.path, [{"seed": machine.seed}], out_dir)
            name = f"{chapter.name}-{machine.name}-{job.id}"
            jobs.append(replace(job, name=name, environment=machine.environment, own_cache=True))
    return jobs


def measure(
    chapters: Sequence[Chapter],
    out_dir: str | Path,
    *,
    workers: int | None = None,
    resume: bool = True,
    target: Path = MARGINS_FILE,
) -> list[Row]:
    """Run chapters on all machines, and write their rows into a file in place of those that it had.

    Args:
        chapters: those to measure; the rows of all others stay.
        out_dir: folder for the runs, which may be taken up again where they stopped.
        workers: runs side by side; default one for each core.
        resume: keep the runs that are finished; False repeats them.
        target: the file.

    Returns:
        the rows of these chapters.

    Raises:
        ValueError, RuntimeError: as `sweeps.run_sweep`.
    """
    jobs = plan(chapters, out_dir)
    sweeps.run_jobs(jobs, out_dir, workers=workers, resume=resume)
    table = read(target)
    for chapter in chapters:
        notebooks = [Path(out_dir) / f"{job.name}.ipynb" for job in jobs if job.chapter == chapter.name]
        executed = [read_notebook(path) for path in notebooks if path.exists()]
        table[chapter.name] = (_heading(chapter), _rows(read_notebook(chapter.path), chapter.name, executed))
    write(table, target)
    return [row for chapter in chapters for row in table[chapter.name][1]]


def outdated(chapters: Iterable[Chapter], target: Path = MARGINS_FILE) -> list[Chapter]:
    """Return the chapters that the file does not have, or whose code has changed since they were measured."""
    table = read(target)
    digests = {name: _MEASURED.match(heading)[3] for name, (heading, _) in table.items()}
    return [chapter for chapter in chapters if digests.get(chapter.name) != _digest(chapter)]


def _digest(chapter: Chapter) -> str:
    code = [cell["source"] for cell in read_source(chapter.path)["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:12]


def _heading(chapter: Chapter) -> str:
    versions = f"course {source_hash(*ROOMS)}, torch {version('torch')}, Python {platform.python_version()}"
    return f"# {chapter.name}: measured {time.strftime('%Y-%m-%d')}, {versions}, code {_digest(chapter)}"


# --- rows -------------------------------------------------------------------------------------------------------------


def _rows(stored: Mapping[str, Any], chapter: str, executed: Sequence[Mapping[str, Any]]) -> list[Row]:
    known = load_claims()
    runs = [{row["id"]: row for row in claim_rows(nb)} for nb in executed]
    rows = []
    for id in [row["id"] for row in claim_rows(stored)]:
        measured = [run[id] for run in runs if id in run]
        rows.append(claim_row(known[id], [row["figures"] for row in measured]))
        rows.append(mistake_row(known[id], [row["mistaken"] for row in measured]))
    for kind, text_of in (("text", _compared_text), ("truth", _truths)):
        wanted = text_of(stored)
        found = [text_of(nb) for nb in executed]
        for cell, text in wanted.items():
            rows.append(text_row(f"{chapter}/{cell}", kind, [float(each.get(cell) == text) for each in found]))
    return rows


def claim_row(claim: Claim, runs: Sequence[Sequence[float]]) -> Row:
    """Return how far a claim is inside its band, given its figures in each run."""
    low, high = _edges(claim)
    lowest, highest = [min(figures) for figures in runs], [max(figures) for figures in runs]
    above_low = math.inf if low is None else _margin(lowest, _mean(lowest) - low)
    below_high = math.inf if high is None else _margin(highest, high - _mean(highest))
    worst = lowest if high is None else highest if low is None else lowest + highest
    return _row(claim.id, claim.kind, worst, len(runs), low, high, min(above_low, below_high))


def mistake_row(claim: Claim, runs: Sequence[Sequence[float]]) -> Row:
    """Return how far outside of the band a claim's mistake lies: of several figures in a run, the farthest."""
    low, high = claim.band
    farthest = [max(figures, key=lambda figure: max(low - figure, figure - high)) for figures in runs]
    below, above = low - _mean(farthest), _mean(farthest) - high
    return _row(claim.id, "mistake", farthest, len(runs), *_edges(claim), _margin(farthest, max(below, above)))


def text_row(name: str, kind: str, runs: Sequence[float]) -> Row:
    """Return in which share of the runs a text was as it is stored."""
    return _row(name, kind, runs, len(runs), 1.0, 1.0, _margin(runs, _mean(runs) - 1.0))


def _row(name: str, kind: str, figures: Sequence[float], runs: int, low: Any, high: Any, margin: float) -> Row:
    lowest, highest = min(figures, default=math.nan), max(figures, default=math.nan)
    return Row(name, kind, runs, lowest, _mean(figures), highest, low, high, margin)


def _edges(claim: Claim) -> tuple[float | None, float | None]:
    """Return the band's edges but for the natural ends of a share, beyond which no figure can be."""
    ends = {"percent": (0.0, 1.0), "points": (-1.0, 1.0)}.get(claim.unit, (-math.inf, math.inf))
    low, high = claim.band
    return (low if low > ends[0] else None), (high if high < ends[1] else None)


def _mean(figures: Sequence[float]) -> float:
    return statistics.fmean(figures) if figures else math.nan


def _margin(figures: Sequence[float], distance: float) -> float:
    spread = statistics.stdev(figures) if len(figures) > 1 else 0.0
    if spread == 0:
        return math.inf if distance >= 0 else -math.inf
    return distance / spread


# --- what a notebook printed ------------------------------------------------------------------------------------------


def _compared_text(nb: Mapping[str, Any]) -> dict[str, str]:
    cells = [cell for cell in nb["cells"] if COMPARED in cell["metadata"].get("tags", [])]
    return {cell["id"]: _text(cell) for cell in cells}


def _truths(nb: Mapping[str, Any]) -> dict[str, str]:
    """Return for each cell that prints True or False those words in their order."""
    found = {cell["id"]: _TRUTH.findall(_text(cell)) for cell in nb["cells"] if cell["cell_type"] == "code"}
    return {cell: " ".join(words) for cell, words in found.items() if words}


def _text(cell: Mapping[str, Any]) -> str:
    parts = []
    for output in cell["outputs"]:
        if CLAIMS_MIME in output.get("data", {}):
            continue  # its figures have rows of their own
        texts = {kind: text for kind, text in output.get("data", {}).items() if kind not in _PICTURES}
        parts.append(str(output.get("text", "")) + "".join(str(text) for _, text in sorted(texts.items())))
    return "".join(parts)


# --- the file ---------------------------------------------------------------------------------------------------------

Table = dict[str, tuple[str, list[Row]]]  # for each chapter when it was measured, and its rows


def write(table: Table, target: Path = MARGINS_FILE) -> None:
    """Write a table, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow([each.name for each in fields(Row)])
    for _, (heading, rows) in sorted(table.items()):
        out.write(heading + "\n")
        lines.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in astuple(row)] for row in rows)
    write_text(target, out.getvalue())


def read(target: Path = MARGINS_FILE) -> Table:
    """Read a table; of a file that is not there, an empty one."""
    table: Table = {}
    if not target.exists():
        return table
    for line in target.read_text(encoding="utf-8").splitlines()[1:]:
        heading = _MEASURED.match(line)
        if heading:
            rows: list[Row] = []
            table[heading[1]] = (line, rows)
        else:
            [(name, kind, runs, *numbers)] = csv.reader([line])
            rows.append(Row(name, kind, int(runs), *(float(n) if n else None for n in numbers)))
    return table
