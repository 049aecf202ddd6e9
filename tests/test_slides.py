"""Chapters as slides: where they break, and that nothing is loaded from elsewhere."""

import importlib.util

import pytest
from bs4 import BeautifulSoup
from conftest import external_resources, needs_reveal
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_utils.runner import chapters, slides

LONG = "word " * 60


def deck(tmp_path, *cells, **options):
    path = tmp_path / "notebooks" / "01_a.ipynb"
    chapters.write_notebook(chapters.tidy(new_notebook(cells=list(cells))), path)
    return slides.export(path, tmp_path / "out", **options).read_text(encoding="utf-8")


def stacks(html):
    """Return the texts of the slides: a list for each heading, with an entry for each slide below it."""
    found = BeautifulSoup(html, "html.parser").select(".slides > section")
    return [[" ".join(s.get_text(" ").split()) for s in stack.find_all("section")] for stack in found]


@needs_reveal
def test_headings_begin_slides_and_cells_stand_below(tmp_path):
    html = deck(
        tmp_path,
        new_markdown_cell("# 01 Title\n\nPromise.\n\n## First\n\n" + LONG),
        new_code_cell("code_one"),
        new_markdown_cell("A short text."),
        new_markdown_cell("### Smaller\n\n" + LONG),
        new_markdown_cell("A short text."),
        new_code_cell("code_two"),
        new_markdown_cell("## Second\n\n```\n## a comment\n```\n"),
        new_code_cell("kept_together", metadata={"slideshow": {"slide_type": "slide"}}),
    )
    first, second, third, fourth = stacks(html)
    assert [text.split(" ¶")[0] for text in first] == ["01 Title"]
    assert second[0].startswith("First")
    assert second[1].endswith("code_one")
    assert second[2] == "A short text."
    assert second[3].startswith("Smaller")
    assert (second[4].startswith("A short text."), second[4].endswith("code_two"), len(second)) == (True, True, 5)
    assert third[0].startswith("Second")
    assert "## a comment" in third[0]
    assert fourth[0].endswith("kept_together"), "a cell's own slide type comes first"


@needs_reveal
def test_slides_need_no_network(tmp_path):
    html = deck(tmp_path, new_markdown_cell("# 01 Title & more\n\nA formula: $x^2$"), new_code_cell("1"))
    assert external_resources(html) == []
    assert "<title>01 Title &amp; more</title>" in html
    assert "<math" in html
    assert "Reveal.initialize" in html
    assert "require(" not in html


def test_without_reveal_the_way_to_get_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps sphinx-revealjs"):
        deck(tmp_path, new_markdown_cell("# 01 Title"))
    assert not (tmp_path / "out").exists()
