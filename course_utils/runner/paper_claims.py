"""The papers' figures beside ours: claims are rows of `data/claims.yaml`, checked and shown; a chapter's results."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any

import yaml

from ..core.intervals import percent
from ..core.settings import PROJECT
from ..core.suggestions import did_you_mean
from ..core.templates import render

CLAIMS_MIME = "application/vnd.course.claims+json"
RESULTS_MIME = "application/vnd.course.results+json"
CLAIMS_FILE = PROJECT / "data" / "claims.yaml"
KINDS = ("exact", "band", "direction")
VERDICTS = ("holds", "differs", "not reproduced")
FAILS, NOT_COMPARABLE = "FAILS", "not comparable"
READ_IN_THE_PAPER = ("V-paper", "V-author")  # the only statuses whose figure is shown
MIN_SEEDS = 3
AT_LEAST = "at least "  # how a setting says that a parameter may be larger


class ClaimError(AssertionError):
    """A measured figure lies outside the band of its claim, or the figure of its mistake inside."""


@dataclass(frozen=True)
class Claim:
    """One row of `claims.yaml`; that file's head explains every field."""

    id: str
    chapter: str
    statement: str
    paper: str
    place: str
    kind: str
    band: tuple[float, float]
    mistake: str
    verdict: str = "holds"
    figure: str | None = None
    status: str = "none"
    setting: Mapping[str, Any] | None = None
    unit: str = "percent"
    note: str = ""

    @property
    def paper_figure(self) -> str:
        """The paper's figure, or a dash where nobody has read one in the paper."""
        return self.figure if self.figure and self.status in READ_IN_THE_PAPER else "–"

    @property
    def source(self) -> str:
        """The paper, and the place in it where one is known."""
        return f"{self.paper}, {self.place}" if self.place else self.paper

    @property
    def allowed(self) -> str:
        """The band in words."""
        low, high = (_format(bound, self.unit) if math.isfinite(bound) else None for bound in self.band)
        if low and high:
            return f"{low} to {high}"
        return f"at least {low}" if low else f"at most {high}"


@dataclass(frozen=True)
class Measurement:
    """What a chapter measured for one claim.

    Args:
        id: the claim's id in `data/claims.yaml`.
        figure: in the claim's unit (a share for "percent"); for a claim of kind "direction" one figure for each
            seed, at least 3, every one of which must lie in the band.
        mistake: the same figure, or figures, measured with the mistake that the claim names. Were it in the band,
            the claim would not notice the mistake.
        n: number of images behind a share; shows its Wilson interval.
    """

    id: str
    figure: float | Sequence[float]
    mistake: float | Sequence[float]
    n: int | None = None


@dataclass(frozen=True)
class Verdict:
    """A claim, what was measured, and what follows: see `data/claims.yaml` for the verdicts."""

    claim: Claim
    figures: tuple[float, ...]
    mistake_figures: tuple[float, ...]
    n: int | None
    verdict: str  # one of VERDICTS, FAILS or NOT_COMPARABLE

    def __bool__(self) -> bool:
        return self.verdict != FAILS

    @property
    def here(self) -> str:
        """The measured figures in words."""
        return ", ".join(_format(figure, self.claim.unit, self.n) for figure in self.figures)

    @property
    def with_mistake(self) -> str:
        """The figures measured with the claim's mistake, in words."""
        return ", ".join(_format(figure, self.claim.unit) for figure in self.mistake_figures)

    @property
    def failure(self) -> str:
        """Why the claim fails."""
        if not _inside(self.claim, self.figures):
            return f"{self}; the band is {self.claim.allowed}"
        return (
            f"{self}; the band, {self.claim.allowed}, does not exclude the mistake that it is meant to catch: "
            f"{self.claim.mistake} gives {self.with_mistake}"
        )

    def __str__(self) -> str:
        return f"{self.claim.statement}: paper {self.claim.paper_figure}, here {self.here}: {self.verdict}"


@dataclass(frozen=True)
class ClaimsTable:
    """Verdicts of one chapter, shown as a table."""

    verdicts: Sequence[Verdict]

    def lines(self) -> str:
        """Return one line per claim without measured figures: the same on every machine."""
        return "\n".join(f"{v.claim.id:<32} {v.claim.kind:<10} {v.verdict}" for v in self.verdicts)

    def _repr_html_(self) -> str:
        return render("claims.html.j2", verdicts=self.verdicts)

    def _bundle(self) -> dict[str, Any]:
        rows = [
            asdict(v.claim)
            | {"here": v.here, "verdict": v.verdict, "band": v.claim.allowed, "with_mistake": v.with_mistake}
            | {"figures": v.figures, "mistaken": v.mistake_figures}
            for v in self.verdicts
        ]
        text = "\n".join(map(str, self.verdicts))
        return {CLAIMS_MIME: {"claims": rows}, "text/html": self._repr_html_(), "text/plain": text}


def published(nb: Mapping[str, Any], kind: str) -> list[Any]:
    """Return what an executed notebook has published of a kind, RESULTS_MIME or CLAIMS_MIME."""
    outputs = [output for cell in nb["cells"] for output in cell.get("outputs", [])]
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def claim_rows(nb: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of all tables of claims in an executed notebook."""
    return [row for bundle in published(nb, CLAIMS_MIME) for row in bundle["claims"]]


@cache
def load_claims(path: Path = CLAIMS_FILE) -> dict[str, Claim]:
    """Read all claims, by id; a file is read once in each process.

    Raises:
        ValueError: a row that lacks a field, has an unknown one, an unknown kind or verdict, or no reason for a
            verdict other than "holds"; or an id used twice.
    """
    claims: dict[str, Claim] = {}
    for row in yaml.safe_load(Path(path).read_text(encoding="utf-8")):
        try:
            claim = _read_claim(row)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: claim {row.get('id')!r}: {error}") from None
        if claim.id in claims:
            raise ValueError(f"{path}: two claims have the id {claim.id!r}")
        claims[claim.id] = claim
    return claims


def _read_claim(row: Mapping[str, Any]) -> Claim:
    low, high = row["band"]
    band = (-math.inf if low is None else low, math.inf if high is None else high)
    claim = Claim(**row | {"band": band})
    for name, value, known in (("kind", claim.kind, KINDS), ("verdict", claim.verdict, VERDICTS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")
    if claim.verdict != "holds" and not claim.note:
        raise ValueError(f"verdict {claim.verdict!r}: its note must give the reason")
    return claim


def check_all(measured: Iterable[Measurement], **setting: Any) -> ClaimsTable:
    """Check the claims of a chapter, show them as one table, and only then fail if one is outside its band.

    Args:
        measured: a measurement for each claim.
        **setting: the parameters that the figures were measured with. Where a claim is stated for other values, its
            verdict is "not comparable" and nothing is asserted.

    Raises:
        ClaimError: names every claim outside its band, and every one whose band does not exclude its mistake.
        ValueError: unknown id, a missing setting, too few seeds, or a figure that is not finite.
    """
    from IPython.display import display

    table = ClaimsTable([compare(each, **setting) for each in measured])
    display(table._bundle(), raw=True)
    if failures := [v.failure for v in table.verdicts if not v]:
        raise ClaimError("\n".join(failures))
    return table


def record(**results: float | int | str | bool | None) -> None:
    """Publish a chapter's figures, with the kernel's peak memory, for the batch runner. Call it in the last cell.

    Raises:
        TypeError: a value that is not a number, text, bool or None (a tensor: use `.item()`).
    """
    from IPython.display import display

    plain = {name: _plain(name, value) for name, value in results.items()}
    text = "\n".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in plain.items())
    bundle = {"results": plain, "peak_memory_mb": _peak_memory_mb()}
    display({RESULTS_MIME: bundle, "text/plain": text}, raw=True)


def _plain(name: str, value: Any) -> float | int | str | bool | None:
    """Return a result as JSON can hold it; what is not finite becomes None."""
    if isinstance(value, int | str | None):  # a bool is an int
        return value
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(
        f"results must be numbers, text, bools or None; {name} is a {type(value).__name__}. Use float(...) or .item()."
    )


def compare(measured: Measurement, **setting: Any) -> Verdict:
    """Compare a measurement with its claim; nothing is shown or asserted.

    Raises:
        ValueError, TypeError: as in `check_all`.
    """
    claims = load_claims()
    if measured.id not in claims:
        raise ValueError(f"no claim {measured.id!r} in data/claims.yaml. {did_you_mean(measured.id, claims)}")
    claim = claims[measured.id]
    figures, mistake_figures = _figures(measured.id, measured.figure), _figures(measured.id, measured.mistake)
    if claim.kind == "direction" and len(figures) < MIN_SEEDS:
        raise ValueError(f"{claim.id} is a direction: give one figure for each of at least {MIN_SEEDS} seeds")
    if not _comparable(claim, setting):
        verdict = NOT_COMPARABLE
    else:
        verdict = claim.verdict if _inside(claim, figures) and not _inside(claim, mistake_figures) else FAILS
    return Verdict(claim, figures, mistake_figures, measured.n, verdict)


def _figures(id: str, given: Any) -> tuple[float, ...]:
    try:
        figures = tuple(float(m) for m in ([given] if isinstance(given, Real) else given))
    except TypeError:
        raise TypeError(f"{id}: expected a number or a list of numbers, got {given!r}") from None
    if not figures or not all(map(math.isfinite, figures)):
        raise ValueError(f"{id}: expected finite figures, got {list(figures)}")
    return figures


def _inside(claim: Claim, figures: Iterable[float]) -> bool:
    low, high = claim.band
    return all(low <= figure <= high for figure in figures)


def _comparable(claim: Claim, setting: Mapping[str, Any]) -> bool:
    for name, wanted in (claim.setting or {}).items():
        if name not in setting:
            raise ValueError(f"{claim.id} is stated for {name} = {wanted}: pass {name}=… to check_all().")
        if not _fits(setting[name], wanted):
            return False
    return True


def _fits(value: Any, wanted: Any) -> bool:
    """Tell whether a parameter has the value a claim is stated for: one, one of a list, or "at least 1000".

    >>> _fits("mnist", ["mnist5k", "mnist"]), _fits(2000, "at least 1000"), _fits(0.1, 0.2)
    (True, True, False)
    """
    if isinstance(wanted, str) and wanted.startswith(AT_LEAST):
        return value >= float(wanted.removeprefix(AT_LEAST))
    return value in (wanted if isinstance(wanted, list) else [wanted])


def _format(value: float, unit: str, n: int | None = None) -> str:
    if unit == "percent":
        return percent(value, n)
    if unit == "points":
        return f"{100 * value:+.1f} points"
    number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return number + ("" if unit == "number" else f" {unit}")


def _peak_memory_mb() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))
