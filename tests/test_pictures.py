"""Pictures inside a page: which figure stands for a notebook, how small it gets, and what is no figure."""

import base64
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from course_utils.runner import chapters, pictures


def png(width, height, colour="red", mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, format="png")
    return buffer.getvalue()


def figure(data, alt="A figure."):
    text = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    return new_output("display_data", data={"image/png": text}, metadata={"image/png": {"alt": alt}})


def notebook(*outputs):
    return new_notebook(cells=[new_code_cell("", outputs=[output]) for output in outputs])


def image_of(picture):
    head, _, text = picture.src.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_the_cover_is_the_largest_figure_with_an_alt_text():
    nb = notebook(
        new_output("stream", text="words"),
        figure(png(300, 100), "wide"),
        figure(png(200, 200), "large"),
        figure(png(200, 200), "as large"),
        figure(png(900, 900), ""),
    )
    assert pictures.thumbnail(nb).alt == "large"


@settings(max_examples=20)
@given(st.integers(1, 1200), st.integers(1, 1200))
def test_a_cover_is_made_smaller_never_larger_and_keeps_its_shape(width, height):
    thumbnail = pictures.thumbnail(notebook(figure(png(width, height))))
    assert image_of(thumbnail).size == (thumbnail.width, thumbnail.height)
    assert thumbnail.width <= min(width, pictures.THUMBNAIL_SIZE[0])
    assert thumbnail.height <= min(height, pictures.THUMBNAIL_SIZE[1])
    scale = min(1, pictures.THUMBNAIL_SIZE[0] / width, pictures.THUMBNAIL_SIZE[1] / height)
    assert thumbnail.width == pytest.approx(scale * width, abs=1)
    assert thumbnail.height == pytest.approx(scale * height, abs=1)


def test_what_is_transparent_becomes_white():
    thumbnail = pictures.thumbnail(notebook(figure(png(20, 10, (0, 0, 0, 0), "RGBA"))))
    assert image_of(thumbnail).convert("RGB").getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    "data", ["", "no base64!", "AAAA", base64.b64encode(png(9, 9)[:-30]).decode(), png(10_000, 3_000, 0, "1")]
)
def test_a_broken_or_absurd_figure_is_passed_over(data):
    assert pictures.thumbnail(notebook(figure(data))) is None
    assert pictures.thumbnail(notebook(figure(data), figure(png(2, 2), "good"))).alt == "good"


def test_a_notebook_without_figures_has_no_cover():
    assert pictures.thumbnail(notebook(new_output("stream", text="words"))) is None


@pytest.mark.parametrize("chapter", chapters.chapters(), ids=lambda c: c.name)
def test_every_chapter_has_a_cover_that_can_be_made_out(chapter):
    thumbnail = pictures.thumbnail(chapters.read_notebook(chapter.path))
    assert thumbnail.width >= 200
    assert thumbnail.height >= 100
    assert len(thumbnail.src) < 120_000
