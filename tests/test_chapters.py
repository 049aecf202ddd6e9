"""Chapters are found by any of their names, and stored as they should be."""

import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils.runner import chapters


@pytest.mark.parametrize("text", ["01", "1", "linear_models", "01_linear_models", "01_linear_models.ipynb"])
def test_a_chapter_is_found_by_its_names(course, text):
    assert chapters.find_chapter(text).path == course / "solutions" / "01_linear_models.ipynb"


def test_a_chapter_is_found_by_its_path(notebook):
    chapter = chapters.find_chapter(str(notebook))
    assert (chapter.number, chapter.title, chapter.promise) == ("01", "01 Linear models", "Small changes add up.")


OPENING = """# 01 Small changes

*Reading: 35 minutes. Running: under a minute (a first run, longer), later less. Exercises: 20 minutes. You need: 00.*

**The promise.** A *sum* of 784
small terms.

**The question.** Why `should` it?
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            OPENING,
            (
                "01 Small changes",
                "Why should it?",
                "A sum of 784 small terms.",
                "35 minutes",
                "20 minutes",
                "under a minute",
            ),
        ),
        ("# A title\n\nWords. Reading: nothing.", ("A title", "", "Words. Reading: nothing.", "", "", "")),
        ("# A title", ("A title", "", "", "", "", "")),
        ("**The question.** No heading", ("01_a", "", "", "", "", "")),
        ("", ("01_a", "", "", "", "", "")),
    ],
)
def test_what_a_chapter_says_of_itself(tmp_path, text, said):
    chapters.write_notebook(chapters.tidy(new_notebook(cells=[new_markdown_cell(text)])), tmp_path / "01_a.ipynb")
    c = chapters.Chapter.at(tmp_path / "01_a.ipynb")
    assert (c.title, c.question, c.promise, c.reading, c.exercises, c.running) == said


@pytest.mark.parametrize("chapter", chapters.chapters(), ids=lambda c: c.name)
def test_every_chapter_has_a_question_and_says_how_long_it_takes(chapter):
    assert chapter.question.endswith("?")
    assert "minute" in chapter.reading
    assert re.search("minute|second", chapter.running)


def test_the_map_lists_the_chapters_with_what_they_say_of_themselves(course):
    path = course / "solutions" / "01_linear_models.ipynb"
    nb = chapters.read_notebook(path)
    nb.cells.insert(0, new_markdown_cell(OPENING))
    chapters.write_notebook(nb, path)
    rows = chapters.course_map().splitlines()
    first = "| [01 Small changes](01_linear_models.ipynb) | Why should it? | 35 minutes | 20 minutes | under a minute |"
    assert rows[2] == first
    assert rows[3] == "| [01 Linear models](02_fgsm.ipynb) | Small changes add up. | – | – | – |"  # as its head says
    assert len({row.count("|") for row in rows}) == 1


@pytest.mark.parametrize(("text", "near"), [("fgms", "'fgsm'"), ("linear", "'01_linear_models'"), ("77", "02_fgsm")])
def test_an_unknown_chapter_is_answered_with_the_nearest(course, text, near):
    with pytest.raises(ValueError, match=near):
        chapters.find_chapter(text)


def test_chapters_are_listed_in_order(course):
    assert [c.name for c in chapters.chapters()] == ["01_linear_models", "02_fgsm"]
    with pytest.raises(ValueError, match="checkout"):
        chapters.chapters(student=True)


@pytest.mark.parametrize(
    "text", ["", "words", "[]", "null", "{}", '{"nbformat": 99}', '{"nbformat": 4, "cells": [{}]}', "\udcff"]
)
def test_a_file_that_is_no_notebook_is_refused(tmp_path, text):
    file = tmp_path / "01_a.ipynb"
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=r"01_a.ipynb is not a notebook: ."):
        chapters.read_notebook(file)


def test_tidy_keeps_the_picture_of_a_widget_and_drops_the_rest():
    view = {chapters.WIDGET_MIME: {"model_id": "1"}, "text/plain": "IntSlider()"}
    alt = {"image/png": {"alt": "a digit"}}
    outputs = [
        new_output("display_data", data=dict(view)),
        new_output("display_data", data=view | {"image/png": "AAAA"}, metadata=alt),
    ]
    nb = new_notebook(cells=[new_code_cell("", outputs=outputs, metadata={"tags": [], "collapsed": True})])
    nb.metadata["widgets"] = {}
    tidied = chapters.tidy(nb)
    (output,) = tidied.cells[0].outputs
    assert (set(output.data), output.metadata) == ({"image/png", "text/plain"}, alt)
    assert tidied.cells[0].metadata == {}
    assert set(tidied.metadata) == {"kernelspec", "language_info"}
