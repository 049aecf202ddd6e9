"""The students' notebooks, made from the solved ones: `### BEGIN SOLUTION … ### END SOLUTION` becomes a stub."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import nbformat

from ..core.files import write_text
from . import chapters

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
_UP_ONE_FOLDER = re.compile(r"""(\]\(|(?:href|src)=["'])\.\./""")


def hide_solutions(source: str) -> str:
    """Return the source of a cell with every solution replaced by nbgrader's stub, at the same indentation.

    Raises:
        ValueError: a marker without its partner, or one solution inside another.
    """
    lines: list[str] = []
    inside = False
    for line in source.split("\n"):
        marker = line.strip()
        if marker == (BEGIN if inside else END):
            raise ValueError(f"{marker!r} where {END if inside else BEGIN!r} was expected")
        if marker == BEGIN:
            indent = line[: len(line) - len(line.lstrip())]
            lines += [indent + stub for stub in STUB]
        elif marker != END and not inside:
            lines.append(line)
        inside = marker == BEGIN or (inside and marker != END)
    if inside:
        raise ValueError(f"{BEGIN!r} without {END!r}")
    return "\n".join(lines)


def student_version(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return a copy of a solved notebook without its solutions, and without the outputs of the cells that held them.

    All else stays, outputs too. Links lose one `../`, for the student's file lies one folder higher.

    Raises:
        ValueError: unbalanced markers; names the cell.
    """
    nb = chapters.tidy(copy.deepcopy(nb))
    for number, cell in enumerate(nb.cells, start=1):
        if cell.cell_type == "markdown":
            cell.source = _UP_ONE_FOLDER.sub(r"\1", cell.source)
            continue
        try:
            source = hide_solutions(cell.source)
        except ValueError as error:
            raise ValueError(f"cell {number}: {error}") from None
        if source != cell.source:
            cell.source, cell.outputs, cell.execution_count = source, [], None
    return nb


def write_students() -> list[Path]:
    """Write the student's version of every chapter and return the files that changed.

    Raises:
        ValueError: unbalanced markers; names the notebook and the cell. Nothing is written then.
    """
    texts = _expected()
    changed = [path for path, text in texts.items() if not path.exists() or _read(path) != text]
    for path in changed:
        write_text(path, texts[path])
    return changed


def differences() -> list[str]:
    """Say in one line each which student notebooks are missing, differ from their source, or have none."""
    texts = _expected()
    lines = []
    for path, text in texts.items():
        if not path.exists():
            lines.append(f"{path.name} is missing")
        elif _read(path) != text:
            lines.append(f"{path.name} differs from what its solution gives")
    stale = sorted(set(chapters.NOTEBOOKS.glob("*.ipynb")) - set(texts))
    return lines + [f"{path.name} has no source in solutions/" for path in stale]


def _expected() -> dict[Path, str]:
    texts = {}
    for chapter in chapters.chapters():
        try:
            nb = student_version(chapters.read_notebook(chapter.path))
        except ValueError as error:
            raise ValueError(f"{chapter.path.name}, {error}") from None
        texts[chapters.NOTEBOOKS / chapter.path.name] = chapters.notebook_text(nb)
    return texts


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")  # a checkout on Windows may have other line ends: no difference
