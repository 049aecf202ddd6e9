"""Demos without a kernel: what is in the file is what the demo draws and says, and nothing is loaded."""

import base64
import io
import json
import re

import ipywidgets as widgets
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import external_resources
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops

from course_utils import demos
from course_utils.demos import static_export


@pytest.fixture(scope="module")
def demo():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    return demos.fgsm_slider(
        {"linear": model}, torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 3]), names=["a", "b", "c", "</script>"]
    )


@pytest.fixture(scope="module")
def html(demo):
    return demos.fragment(demo, hint="Try & see.", positions=3, examples=2)


def data(html):
    return json.loads(BeautifulSoup(html, "html.parser").find("script", type="application/json").string)


def picture(text):
    return Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")


def test_the_file_holds_the_pictures_and_words_of_the_demo(demo, html):
    held = data(html)
    assert held["stops"] == ["0.000", "0.099", "0.150", "0.300"], "an even spread, and the static picture's 0.1"
    states = [(image, eps) for image in (0, 2) for eps in (0, 0.099, 0.15, 0.3)]
    assert len(held["pictures"]) == len(held["words"]) == len(states)
    for (image, eps), packed, words in zip(states, held["pictures"], held["words"], strict=True):
        drawn = Image.open(io.BytesIO(demo.render(image=image, eps=eps))).convert("RGB")
        assert ImageChops.difference(picture(packed), drawn).getbbox() is None
        assert words == demo.describe(image=image, eps=eps)


def test_without_scripts_the_static_picture_and_its_words_are_there(demo, html):
    soup = BeautifulSoup(html, "html.parser")
    held, (image,) = data(html), soup.find_all("img")
    assert image["alt"] == soup.find(role="status").text == held["words"][1]
    assert image["src"].endswith(held["pictures"][1])
    assert (int(image["width"]), int(image["height"])) == picture(held["pictures"][1]).size
    assert soup.find("p", hidden=True).find("input") is not None, "a slider that cannot work is not shown"
    assert "needs JavaScript" in soup.noscript.text


def test_slider_and_choice_are_labelled(html):
    soup = BeautifulSoup(html, "html.parser")
    assert [label.contents[0].strip() for label in soup.find_all("label")] == ["ε", "image"]
    assert soup.find("input")["max"] == "3"
    assert [option.text for option in soup.find_all("option")] == ["0", "2"]
    assert soup.figure["aria-label"] == "FGSM on one image"
    assert soup.figcaption.text.endswith("Try & see. (model: linear)"), "what cannot be moved here is told"


def test_pieces_stand_side_by_side_and_load_nothing(html):
    assert not BeautifulSoup(html, "html.parser").find_all(id=True)
    assert not re.search(r"https?:|//\w", re.sub('base64,[^"]*|"pictures": \\[.*?\\]', "", html))
    assert external_resources(html) == []


def test_export_writes_one_page(demo, tmp_path):
    path = demos.export(demo, tmp_path / "new" / "a.html", positions=2, examples=1, image=1)
    soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    assert soup.title.text == "FGSM on one image"
    assert [option.text for option in soup.find_all("option")] == ["0", "1"], "the chosen example is among them"
    assert soup.find("option", selected=True).text == "1"
    assert external_resources(str(soup)) == []


def test_examples_stop_where_the_file_is_full(demo, html, monkeypatch):
    sizes = list(map(len, data(html)["pictures"]))
    monkeypatch.setattr(static_export, "MAX_BYTES", sum(sizes) - 1)
    fewer = demos.fragment(demo, positions=3, examples=2)
    assert data(fewer)["pictures"] == data(html)["pictures"][:4]
    assert fewer.count("<option") == 1
    monkeypatch.setattr(static_export, "MAX_BYTES", min(sizes))
    with pytest.raises(ValueError, match="ask for fewer positions"):
        demos.fragment(demo, positions=3, examples=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fgsm_slidr", {}, "no demo 'fgsm_slidr'. Did you mean 'fgsm_slider'?"),
        ("?", {}, r"no demo '\?'. Known: margin_bar, fgsm_slider, "),
        (None, {"epz": 0.1}, "has no control 'epz'. Known: model, image, eps."),
        (None, {"model": "cnn"}, "model must be one of linear; got 'cnn'"),
        (None, {"image": 3}, "image must be a number from 0 to 2, got 3"),
        (None, {"positions": 1}, "expected positions >= 2 and examples >= 1, got 1 and 5"),
    ],
)
def test_what_is_not_there_is_refused(demo, name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        demos.export(name or demo, tmp_path / "a.html", **options)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written_is_refused(demo, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot write to"):
        demos.export(demo, tmp_path / "file" / "a.html", positions=2, examples=1)


@given(st.integers(0, 300), st.integers(1, 30), st.data())
def test_values_spread_from_end_to_end(last, most, draw):
    now = draw.draw(st.integers(0, last))
    slider = widgets.IntSlider(now, min=0, max=last)
    demo = demos.Demo("t", {"n": slider}, None, [], None, {}, "n")
    sample = static_export._sample(demo, "n", most, {"n": now})
    assert sample.values == sorted(set(sample.values))
    assert {0, now} <= set(sample.values) <= set(range(last + 1))
    assert last in sample.values or most == 1
    assert len(sample.values) <= most + 1
    assert sample.values[sample.start] == now


# In place of the static picture


@pytest.fixture
def built(demo, monkeypatch):
    """A catalogue of one demo, and how often it has been built."""
    calls = []
    entry = demos.Entry("one", demo.title, "02", "Try it.", lambda: calls.append(1) or demo)
    monkeypatch.setattr(static_export, "catalogue", lambda: {"one": entry})
    monkeypatch.setattr(demos.Demo, "render", lambda self, **state: PNG)
    return calls


PIXEL = io.BytesIO()
Image.new("RGB", (2, 2)).save(PIXEL, format="png")
PNG = PIXEL.getvalue()


def test_a_static_picture_is_replaced_and_drawn_once(demo, built, displayed, empty_cache, monkeypatch):
    demo._ipython_display_()
    ((_, metadata),) = displayed
    alt = metadata["image/png"]["alt"]
    html = demos.fragment_for(alt)
    assert "Try it." in html
    assert demos.fragment_for(alt) == html
    assert len(built) == 1, "the second comes from the cache"
    monkeypatch.setattr(static_export, "_digest", lambda: "other code")
    assert demos.fragment_for(alt) == html
    assert len(built) == 2


@pytest.mark.parametrize("alt", ["", "Eight digits.", "Another (static picture of the slider). At ε = 0."])
def test_other_pictures_stay(built, alt):
    assert demos.fragment_for(alt) == ""
    assert not built
