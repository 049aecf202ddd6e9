"""Chapters as slides for a lecture: reveal.js, in one file that needs no network."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import SlidesExporter

from . import html_export

_WIDTH, _HEIGHT = 1200, 750  # of a slide, in pixels; reveal.js scales it to the screen
_SHORT_TEXT = 45  # words


class _SlidesExporter(html_export.Exporter, SlidesExporter):
    raw_template = "{% extends 'course/slides.html.j2' %}"

    def from_notebook_node(
        self, nb: nbformat.NotebookNode, resources: dict[str, Any] | None = None, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        return super().from_notebook_node(_with_slide_types(nb), resources, **options)

    def _init_resources(self, resources: dict[str, Any]) -> dict[str, Any]:
        resources = super()._init_resources(resources)
        resources["reveal"] |= _reveal() | {"width": _WIDTH, "height": _HEIGHT}
        return resources


def export(path: str | Path, out_dir: str | Path, **options: Any) -> Path:
    """Write the slides of a notebook into a folder and return their file.

    A heading of the first or second level begins a slide. Each further cell is a slide below it, but a short text
    shares its slide with the next cell. A cell's own slideshow metadata come first.

    Args:
        path: the notebook. out_dir: the folder. **options: as in `html_export.page`.

    Raises:
        ValueError: reveal.js is not installed; says how to get it.
    """
    return html_export.export(path, out_dir, ending=".slides.html", exporter=_SlidesExporter, **options)


def _with_slide_types(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook with a slide type for every cell, and with texts split at their headings."""
    cells, is_short_text = [part for cell in nb.cells for part in _split_at_headings(cell)], False
    for cell in cells:
        is_text = cell.cell_type == "markdown"
        heading = re.match("#{1,3} ", cell.source) if is_text else None
        begins_slide = heading is not None and len(heading[0]) < 4
        kind = "slide" if begins_slide else "subslide" if heading or not is_short_text else "-"
        cell.metadata["slideshow"] = {"slide_type": kind} | cell.metadata.get("slideshow", {})
        is_short_text = is_text and len(cell.source.split()) <= _SHORT_TEXT
    return nbformat.from_dict({**nb, "cells": cells})


def _split_at_headings(cell: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    """Yield a text's parts, one for each heading, and any other cell as it is."""
    is_text = cell.cell_type == "markdown" and "```" not in cell.source  # a line of code may begin with # as well
    parts = re.split(r"^(?=#{1,3} )", cell.source, flags=re.MULTILINE) if is_text else [cell.source]
    for i, part in enumerate(filter(str.strip, parts)):
        yield nbformat.from_dict({**cell, "source": part, "id": f"{cell.id}-{i}"})


def _reveal() -> dict[str, str]:
    """Read reveal.js from Sphinx's extension, which ships a copy; nothing of it is imported."""
    spec = importlib.util.find_spec("sphinx_revealjs")
    if spec is None:
        raise ValueError("slides need reveal.js. Get a copy: python -m pip install --no-deps sphinx-revealjs")
    folder = Path(spec.origin).parent / "_static" / "revealjs" / "dist"
    return {ending: (folder / f"reveal.{ending}").read_text(encoding="utf-8") for ending in ("css", "js")}
