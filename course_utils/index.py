"""The page that leads to the notebooks of runs: a table, small figures, links; it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from . import chapters
from .execution import STATUS
from .files import write_text
from .reports import collect, plot_sweep, varying
from .runtime import local_path
from .store import open_store

if TYPE_CHECKING:
    import pandas as pd

TITLE = "Adversarial examples: the course"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.5rem; border-bottom: 1px solid #ccc; }}
td.number {{ text-align: right; white-space: nowrap; }}
img {{ max-width: 100%; height: auto; }}
.failed, .interrupted {{ color: #a40000; font-weight: bold; }}
</style></head>
<body><main><h1>{title}</h1>
{text}
<table><thead><tr>{head}</tr></thead><tbody>
{rows}
</tbody></table></main></body></html>
"""


def write_index(folder: str | Path) -> Path:
    """Write `index.html`: every chapter in a folder, with what became of its run where one is recorded.

    Raises:
        ValueError: the folder is an address. OSError: it cannot be written.
    """
    folder = local_path(folder)
    found = [chapters.Chapter.at(path) for path in sorted(folder.glob("*.ipynb"))]
    statuses = [_status(chapter.path) for chapter in found]
    columns = ["chapter"] + (["status", "seconds", "claims", "peak memory", "finished"] if any(statuses) else [])
    rows = [_chapter_row(c, s, len(columns)) for c, s in zip(found, statuses, strict=True)]
    target = folder / "index.html"
    figure = _figure(collect(folder)) if any(statuses) else ""
    write_text(target, _page(TITLE, figure, columns, rows))
    return target


def write_report(out_dir: str | Path, frame: pd.DataFrame) -> str:
    """Write `index.html` of a sweep, unless it says all this already, and return where it is.

    Args:
        out_dir: the folder or address of the sweep.
        frame: its runs, as `batch.run_sweep` returns them.

    Raises:
        OSError: the folder cannot be written.
    """
    counts = ", ".join(f"{count} {status}" for status, count in frame.status.value_counts().items())
    shown = varying(frame, frame.attrs["params"]) + frame.attrs["results"]
    rows = [_run_row(row, shown) for row in frame.to_dict("records")]
    title = f"A sweep of {', '.join(sorted(set(frame.chapter)))}"
    store, columns = open_store(out_dir), [*shown, "status", "seconds", "notebook"]
    digest = hashlib.sha256(repr((rows, columns)).encode()).hexdigest()
    mark = f'<p id="{digest[:16]}">'
    if "index.html" not in store.names() or mark not in store.read("index.html"):  # drawing takes seconds
        text = f"{mark}{len(frame)} runs: {counts}.</p>{_figure(frame)}"
        store.write("index.html", _page(title, text, columns, rows))
    return f"{store}/index.html"


def _page(title: str, text: str, columns: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return _PAGE.format(title=escape(title), text=text, head=head, rows="\n".join(rows))


def _figure(frame: pd.DataFrame) -> str:
    """Return small figures of the completed runs as an image with an alt text, or nothing if there are none."""
    from .plotting import to_png

    if not (frame.status == "completed").any():
        return ""
    fig = plot_sweep(frame)
    drawn = [ax for ax in fig.axes if ax.get_title()]
    alt = f"Small figures of {', '.join(ax.get_title() for ax in drawn)}, each over {drawn[0].get_xlabel()}."
    return f'<p><img src="data:image/png;base64,{base64.b64encode(to_png(fig)).decode()}" alt="{escape(alt)}"></p>'


def _status(notebook: Path) -> dict[str, Any]:
    path = notebook.with_suffix(STATUS)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _chapter_row(chapter: chapters.Chapter, status: Mapping[str, Any], columns: int) -> str:
    name = escape(chapter.name)
    first = (
        f'<td><a href="{name}.html">{escape(chapter.title)}</a><br>{escape(chapter.promise)}<br>'
        f'<small><a href="{name}.ipynb">notebook</a></small></td>'
    )
    if not status:
        return f"<tr>{first}{'<td></td>' * (columns - 1)}</tr>"
    memory = f"{status['peak_memory_mb']} MB" if status.get("peak_memory_mb") else "–"
    claims = f"{status['claims_passed']}/{status['claims_total']}" if status.get("claims_total") else "–"
    numbers = (f"{status.get('seconds', 0):.1f}", claims, memory, status.get("finished", ""))
    return f"<tr>{first}{_status_cell(status)}{''.join(map(_number_cell, numbers))}</tr>"


def _run_row(row: Mapping[str, Any], shown: Iterable[str]) -> str:
    cells = "".join(_number_cell(_write(row[column])) for column in shown)
    seconds = _number_cell("" if _is_missing(row["seconds"]) else f"{row['seconds']:.1f}")
    file = "" if _is_missing(row["notebook"]) else quote(row["notebook"])
    link = f'<a href="{file}">notebook</a>' if file else ""
    return f"<tr>{cells}{_status_cell(row)}{seconds}<td>{link}</td></tr>"


def _status_cell(status: Mapping[str, Any]) -> str:
    error = status.get("error")
    more = "" if _is_missing(error) else f"<br><small>{escape(error)}</small>"
    return f'<td class="{status["status"]}">{status["status"]}{more}</td>'


def _number_cell(text: str) -> str:
    return f'<td class="number">{escape(text)}</td>'


def _write(value: Any) -> str:
    if _is_missing(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # pandas puts NaN where there is nothing
