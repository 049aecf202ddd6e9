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
_SHORT = 45  # words
_STYLE = """
.reveal-viewport, .reveal .slides { background: var(--jp-layout-color0, white); }
.reveal .slides { text-align: left; }
.reveal .slides section:not(.stack) { height: 100%; overflow: auto; box-sizing: border-box; padding: 0 1rem; }
.reveal .jp-Cell-inputWrapper, .reveal .jp-Cell-outputWrapper { max-width: 100%; }
.jp-InputPrompt, .jp-OutputPrompt, .anchor-link { display: none !important; }
.jp-InputArea-editor { overflow-x: auto !important; }
.jp-RenderedImage > img { max-width: 100%; max-height: 34rem; zoom: 1.25; }
.jp-RenderedHTMLCommon pre { white-space: pre-wrap; }
:root { --jp-content-font-size1: 24px; --jp-ui-font-size1: 20px; --jp-code-font-size: 19px; }
.course-demo { font-size: 24px; }
.course-demo img { width: 100%; }
math { font-size: 1.1em; }
"""
_DECK = (
    """
{%- block header -%}
<!DOCTYPE html>
<html lang="{{ resources.language_code }}">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ nb.metadata.title | escape }}</title>
{%- for css in resources.inlining.css -%}<style>{{ css }}</style>{%- endfor -%}
<style>{{ resources.reveal.css }}</style>
{{ self.notebook_css() }}
<style>"""
    + _STYLE
    + """</style></head>
{%- endblock -%}
{%- block footer_js -%}
<script>{{ resources.reveal.js }}</script>
<script>
Reveal.initialize({
  width: {{ resources.reveal.width }}, height: {{ resources.reveal.height }}, margin: 0.03, minScale: 0.1,
  center: false, hash: true, slideNumber: "c/t", transition: "none"
});
</script>
{%- endblock -%}
"""
)


class _Deck(html_export.Exporter, SlidesExporter):
    raw_template = html_export.TEMPLATE + _DECK

    def from_notebook_node(
        self, nb: nbformat.NotebookNode, resources: dict[str, Any] | None = None, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        return super().from_notebook_node(_with_breaks(nb), resources, **options)

    def _init_resources(self, resources: dict[str, Any]) -> dict[str, Any]:
        resources = super()._init_resources(resources)
        resources["reveal"] |= _reveal() | {"width": _WIDTH, "height": _HEIGHT}
        return resources


def export(path: str | Path, out_dir: str | Path, **options: Any) -> Path:
    """Write the slides of a notebook into a folder and return their file.

    A heading of the first or second level begins a slide. What follows stands below it, a cell each, but for a short
    text, which shares its slide with the cell it leads to: the space bar goes through all. A cell's own slideshow
    metadata come first.

    Args:
        path: the notebook. out_dir: the folder. **options: as in `html_export.page`.

    Raises:
        ValueError: reveal.js is not installed; says how to get it.
    """
    return html_export.export(path, out_dir, ending=".slides.html", exporter=_Deck, **options)


def _with_breaks(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook with a slide type for every cell, and with texts parted at their headings."""
    cells, stays = [part for cell in nb.cells for part in _parted(cell)], False
    for cell in cells:
        is_text = cell.cell_type == "markdown"
        heading = re.match("#{1,3} ", cell.source) if is_text else None
        opens = heading is not None and len(heading[0]) < 4
        kind = "slide" if opens else "subslide" if heading or not stays else "-"
        cell.metadata["slideshow"] = {"slide_type": kind} | cell.metadata.get("slideshow", {})
        stays = is_text and len(cell.source.split()) <= _SHORT
    return nbformat.from_dict({**nb, "cells": cells})


def _parted(cell: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
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
