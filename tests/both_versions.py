"""How pytest runs the chapters: a solution and its version for students in one kernel; what they share runs once."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def _is_chapter(path: Path, folder: Path) -> bool:
    return path.parent == folder and re.fullmatch(r"\d\d_\w+\.ipynb", path.name) is not None


class BothVersions(IPyNbFile):
    """A solved chapter in which every cell that differs for students is followed by their version of it.

    A cell with the stub of an exercise replaces the answer in the kernel: from there on it has what it would have if a
    student had run all cells and solved nothing.
    """

    def collect(self) -> Iterator[IPyNbCell]:
        student = nbformat.read(NOTEBOOKS / self.path.name, as_version=4)
        theirs = {cell.id: cell for cell in student.cells}
        for item in super().collect():
            yield item
            cell = theirs.get(item.cell.id, item.cell)
            if cell.source != item.cell.source:
                name = f"{item.name} for students"
                yield IPyNbCell.from_parent(self, name=name, cell_num=item.cell_num, cell=cell, options=item.options)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[None]:
    found = yield
    if not _is_chapter(file_path, NOTEBOOKS / "solutions"):
        return found
    return [BothVersions.from_parent(parent, path=file_path) if isinstance(f, IPyNbFile) else f for f in found]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the students' versions, which run with the solutions; one that is named to pytest runs whole."""
    return True if _is_chapter(collection_path, NOTEBOOKS) else None
