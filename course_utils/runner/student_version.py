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
    changed = _outdated()
    for path, text in changed.items():
        write_text(path, text)
    return list(changed)


def differences() -> list[str]:
    """Say in one line each which student notebooks are missing, differ from their source, or have none."""
    lines = [
        f"{path.name} {'differs from what its solution gives' if path.exists() else 'is missing'}"
        for path in _outdated()
    ]
    wanted = {chapter.path.name for chapter in chapters.chapters()}
    stale = sorted(path.name for path in chapters.NOTEBOOKS.glob("*.ipynb") if path.name not in wanted)
    return lines + [f"{name} has no source in solutions/" for name in stale]


def _outdated() -> dict[Path, str]:
    """Return the students' notebooks that are missing or differ, with the text that they should have."""
    texts = {}
    for chapter in chapters.chapters():
        try:
            nb = student_version(chapters.read_notebook(chapter.path))
        except ValueError as error:
            raise ValueError(f"{chapter.path.name}, {error}") from None
        path, text = chapters.NOTEBOOKS / chapter.path.name, chapters.notebook_text(nb)
        # Read as text: a checkout on Windows may have other line ends, which is no difference
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            texts[path] = text
    return texts
