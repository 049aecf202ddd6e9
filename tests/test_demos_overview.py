"""The page with all demos: each is built when it is opened, once, and can be put back and stepped on."""

import pytest
import torch

from course_utils import demos
from course_utils.demos import overview


@pytest.fixture
def page(monkeypatch):
    """A gallery of two demos: a good one, and one whose weights are missing until they are put there."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    demo = demos.fgsm_slider({"linear": model}, torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 3]))
    calls, missing = [], ["no <weights>"]

    def build():
        calls.append("good")
        return demo

    def build_later():
        calls.append("late")
        if missing:
            raise OSError(missing[0])
        return demo

    entries = [demos.Entry("a", "A", "01", "Try a & b.", build), demos.Entry("b", "B", "02", "Try.", build_later)]
    monkeypatch.setattr(overview, "catalogue", lambda: {entry.name: entry for entry in entries})
    return demos.gallery(), demo, calls, missing


def section(gallery, index):
    return gallery.children[1 + index].children


def test_nothing_is_built_before_it_is_opened(page):
    gallery, _, calls, _ = page
    heading, body = section(gallery, 0)
    assert (calls, body.children, body.layout.display) == ([], (), "none")
    heading.value = True
    assert (calls, body.layout.display) == (["good"], "flex")
    assert "Try a &amp; b." in body.children[0].value
    contents = body.children
    heading.value = False
    assert body.layout.display == "none"
    heading.value = True
    assert calls == ["good"]
    assert body.children is contents


def test_reset_and_next_example(page):
    gallery, demo, _, _ = page
    heading, body = section(gallery, 0)
    heading.value = True
    reset, forward = body.children[1].children
    first = demo.state
    demo.controls["eps"].value = 0.2
    forward.click()
    assert (demo.state["image"], demo.state["eps"]) == (1, 0.2)
    reset.click()
    assert demo.state == first


def test_what_cannot_be_built_says_why_and_can_be_tried_again(page):
    gallery, _, calls, missing = page
    heading, body = section(gallery, 1)
    heading.value = True
    assert [widget.value for widget in body.children] == ['<strong role="alert">no &lt;weights&gt;</strong>']
    missing.clear()
    heading.value = False
    assert calls == ["late"], "closing builds nothing"
    heading.value = True
    assert len(body.children) == 3
