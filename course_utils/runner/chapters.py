"""The chapters' files: find one, read and write it, and keep of its outputs what is worth keeping."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import write_text
from ..core.settings import PROJECT, local_path
from ..core.suggestions import did_you_mean

if TYPE_CHECKING:  # two seconds to import, which planning a run does without
    import nbformat

NOTEBOOKS = PROJECT / "notebooks"
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

_KEPT_CELL_METADATA = ("tags", "jupyter", "slideshow", "nbgrader", "editable", "deletable")
_QUESTION, _PROMISE = "**The question.**", "**The promise.**"
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


@dataclass(frozen=True)
class Chapter:
    """One notebook of the course: "01", "01_linear_models", its file, and what its opening says ("" if nothing)."""

    number: str
    name: str
    path: Path

    title = property(lambda self: self._opening["title"], doc="The text of the first heading.")
    question = property(lambda self: self._opening["question"], doc='The paragraph that begins with "The question."')
    promise = property(lambda self: self._opening["promise"], doc='That with "The promise.", else the first one.')
    reading = property(lambda self: self._opening["reading"], doc='How long it takes to read: "35 minutes".')
    exercises = property(lambda self: self._opening["exercises"], doc='How long its exercises take: "30 minutes".')
    running = property(lambda self: self._opening["running"], doc='How long it takes to run: "under a minute".')

    @classmethod
    def at(cls, path: str | Path) -> Chapter:
        """Return the chapter in this file."""
        path = Path(path)
        return cls(path.stem[:2] if path.stem[:2].isdigit() else "", path.stem, path)

    @cached_property
    def _opening(self) -> dict[str, str]:
        text = "\n\n".join(c.source for c in read_notebook(self.path).cells if c.cell_type == "markdown")
        found = re.search(r"^# (.+)$", text, re.MULTILINE)
        paragraphs = [" ".join(p.split()) for p in text[found.end() :].split("\n\n")] if found else []
        first = next((p for p in paragraphs if p and not p.startswith(("#", "<", "|", ">", "-"))), "")
        times = _first(paragraphs, "*Reading:")
        return {
            "title": found[1].strip() if found else self.name,
            "question": _plain(_first(paragraphs, _QUESTION).removeprefix(_QUESTION)),
            "promise": _plain((_first(paragraphs, _PROMISE) or first).removeprefix(_PROMISE)),
            "reading": _time(times, "Reading"),
            "exercises": _time(times, "Exercises"),
            "running": _time(times, "Running"),
        }


def _first(paragraphs: list[str], beginning: str) -> str:
    return next((p for p in paragraphs if p.startswith(beginning)), "")


def _plain(text: str) -> str:
    return re.sub(r"\*\*|__|[*`]", "", text).strip()


def _time(text: str, label: str) -> str:
    found = re.search(rf"{label}: ([^.,;(*]+)", text)
    return found[1].strip() if found else ""


def chapters(student: bool = False) -> list[Chapter]:
    """List the chapters in order: the solutions, or with `student=True` the versions with exercises.

    Raises:
        ValueError: there is no chapter, as when the package was installed without its checkout.
    """
    folder = NOTEBOOKS if student else NOTEBOOKS / "solutions"
    found = [Chapter.at(path) for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    if not found:
        raise ValueError(
            f"no chapters in {folder}. Work in the course's checkout and install it with `pip install -e .`."
        )
    return found


def course_map() -> str:
    """Return a Markdown table of the chapters that there are, with what the head of each says: its question and times.

    The links are for a page that lies beside the chapters.

    Raises:
        ValueError: as `chapters`.
    """
    rows = ["| chapter | question | reading | exercises | running |", "| --- | --- | --- | --- | --- |"]
    for chapter in chapters():
        cells = [f"[{chapter.title}]({chapter.path.name})", chapter.question or chapter.promise]
        times = (chapter.reading, chapter.exercises, chapter.running)
        rows.append(f"| {' | '.join(cells + [time or '–' for time in times])} |")
    return "\n".join(rows)


def find_chapter(text: str, student: bool = False) -> Chapter:
    """Return the chapter meant by "01", "1", "linear_models", "01_linear_models" or the path of a notebook.

    Raises:
        ValueError: no such chapter; names the nearest one.
    """
    if text.endswith(".ipynb") and Path(text).is_file():
        return Chapter.at(Path(text).resolve())
    known = chapters(student)
    wanted = Path(text).name.removesuffix(".ipynb")
    for chapter in known:
        names = (chapter.number, chapter.number.lstrip("0") or "0", chapter.name, chapter.name[3:])
        if wanted in names:
            return chapter
    names = [name for c in known for name in (c.name, c.name[3:])]
    raise ValueError(f"no chapter {text!r}. {did_you_mean(wanted, names, [c.name for c in known])}")


def refuse_sources(out_dir: str | Path, *paths: Path) -> None:
    """Refuse a folder for what comes out in which these notebooks are, or those of the course: it would replace them.

    Raises:
        ValueError: it is one of these folders, by whatever name.
    """
    folder = local_path(out_dir)
    for kept in dict.fromkeys([*(path.parent for path in paths), NOTEBOOKS, NOTEBOOKS / "solutions"]):
        if folder.is_dir() and kept.is_dir() and folder.samefile(kept):
            raise ValueError(
                f"expected a folder of its own for what comes out, got {out_dir}, where notebooks are that it would "
                "replace. Choose another folder, like build/course."
            )


def read_source(path: str | Path) -> dict[str, Any]:
    """Read a notebook as plain JSON, every cell's source as one text, without outputs: all that decides what it does.

    Raises:
        ValueError: the file is missing or is not a notebook of format 4.
    """
    try:
        nb = json.loads(Path(path).read_text(encoding="utf-8"))
        if nb["nbformat"] != 4:
            raise ValueError(f"its format is {nb['nbformat']}, expected 4")
        for cell in nb["cells"]:
            cell["source"] = "".join(cell["source"])
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
    except FileNotFoundError:
        raise ValueError(f"no notebook {path}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a notebook: {str(error)[:200]}") from None
    return nb


def read_notebook(path: str | Path) -> nbformat.NotebookNode:
    """Read a notebook with its outputs.

    Raises:
        ValueError: the file is missing or is not a notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise ValueError(f"no notebook {path}") from None
    except (nbformat.ValidationError, ValueError, AttributeError, KeyError, TypeError) as error:  # it raises them all
        raise ValueError(f"{path} is not a notebook: {str(error).splitlines()[0][:200]}") from None


def notebook_text(nb: nbformat.NotebookNode) -> str:
    """Return a notebook as the one text in which it is stored."""
    import nbformat

    return nbformat.writes(nb).rstrip("\n") + "\n"


def write_notebook(nb: nbformat.NotebookNode, path: str | Path) -> None:
    """Write a notebook as `notebook_text`, in one step: never half a file."""
    write_text(Path(path), notebook_text(nb))


def tidy(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Reduce an executed notebook, in place, to what is worth keeping, the same on every machine.

    Live widgets cannot be shown without their kernel: their picture or table stays, and one without is dropped.
    Timings, widget state and the Python version go.
    """
    import nbformat

    nb.nbformat, nb.nbformat_minor = 4, 5
    nb.metadata = nbformat.from_dict(_METADATA)
    for index, cell in enumerate(nb.cells):
        cell.id = cell.get("id") or f"cell-{index:02d}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in _KEPT_CELL_METADATA and v})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _keep_output(output)]
    return nb


def _keep_output(output: nbformat.NotebookNode) -> bool:
    data = output.get("data", {})
    if data.pop(WIDGET_MIME, None) is None:
        return True
    return any(kind in data for kind in ("image/png", "image/svg+xml", "text/html", "text/markdown"))
