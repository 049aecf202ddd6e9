"""What every demo promises: all positions work, redrawing leaves no trace, nothing grows, bad input is answered."""

import dataclasses
import gc
import html
import io
import random
import statistics
import sys
import time
from itertools import pairwise

import ipywidgets as widgets
import psutil
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageChops, ImageStat
from torch import nn

from course_utils import demos
from course_utils.demos.draw_digit import image_to_sketch
from course_utils.models import decoder

NAMES = [f"the class of the number {k}" for k in range(9)] + ["nine"]


@pytest.fixture(scope="module")
def built():
    """Every demo, by name, with networks that answer at once."""
    torch.manual_seed(0)
    one, two, three = (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)) for _ in range(3))
    x = torch.rand(4, 1, 28, 28)
    y = one(x).argmax(1)
    models = {"one": one, "two": two}
    generator = decoder(latent=2, hidden=8)
    camera = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    photos = {"left": torch.rand(3, 16, 16), "right": torch.rand(3, 16, 16)}
    return {
        "margin_bar": demos.margin_bar(torch.randn(784), torch.tensor(0.3), x, torch.tensor([1.0, -1.0, 1.0, 1.0])),
        "fgsm_slider": demos.fgsm_slider(models, x, y, names=NAMES),
        "draw_digit": demos.draw_digit(models, example=x[0]),
        "optimised_noise_slider": demos.optimised_noise_slider(models, x, y, steps=5),
        "pgd_scrubber": demos.pgd_scrubber(models, x, y, steps=8),
        "transfer_picker": demos.transfer_picker({"one": one, "same": one}, x, y),
        "accuracy_curves": demos.accuracy_curves(models, x, y),
        "model_comparer": demos.model_comparer(models | {"three": three}, x, y, steps=3),
        "loss_tilt": demos.loss_tilt(models, x, y),
        "projection_slider": demos.projection_slider(one, generator, x, y, steps=6, restarts=2),
        "latent_walk": demos.latent_walk(one, generator, torch.randn(3, 2), torch.randn(3, 2)),
        "photo_lab": demos.photo_lab(camera, photos, names=NAMES, targets=["nine"], steps=2),
    }


@pytest.fixture(params=demos.catalogue())
def demo(request, built):
    demo = built[request.param]
    yield demo
    demo.reset()


def positions(control):
    """Return all values of a control that can be stepped through; of the others those that it holds."""
    if isinstance(control, widgets.IntSlider):
        return list(range(control.min, control.max + 1, control.step))
    if isinstance(control, widgets.FloatSlider):
        count = round((control.max - control.min) / control.step)
        return [min(control.min + control.step * i, control.max) for i in range(count + 1)]
    if isinstance(control, widgets.Checkbox):
        return [False, True]
    if isinstance(control, demos.Sketch):
        digits = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
        return [b"", *(image_to_sketch(digit * (digit > 0.7)) for digit in digits)]
    return list(getattr(control, "options", [control.value]))


def changed(demo, **fields):
    """Return a new demo with the same controls, and a figure of its own."""
    return dataclasses.replace(demo, **fields)


def opened(png):
    return Image.open(io.BytesIO(png))


def test_every_demo_is_here(built):
    assert set(built) == set(demos.catalogue())


def test_every_position_of_the_slider_is_computed_drawn_and_said(demo):
    *_, picture, message = demo.widget().children
    control, pictures = demo.controls[demo.slider], []
    for position in positions(control):
        control.value = position
        assert 'role="status"' in message.value, message.value
        pictures.append(picture.value)
    assert len({opened(png).size for png in pictures}) == 1
    if "sketch" not in demo.controls:  # without a drawing there is nothing to attack
        assert len(set(pictures)) > len(pictures) / 2
    # All positions have been visited: what is left to do is to draw.
    moved = statistics.median(drag(demo, 20))
    start = time.process_time()
    changed(demo).render()
    assert moved < time.process_time() - start


def test_every_position_of_every_other_control_works(demo):
    for name, control in demo.controls.items():
        for position in positions(control) if name != demo.slider else ():
            assert demo.describe(**demo.static_state | {name: position}).endswith(".")


def test_redrawing_leaves_no_trace(demo):
    chance = random.Random(0)
    states = [{name: chance.choice(positions(c)) for name, c in demo.controls.items()} for _ in range(3)]
    walked = [demo.render(**state) for state in states]
    for state, png in zip(states, walked, strict=True):
        assert changed(demo).render(**state) == png, state


def test_the_live_picture_shows_what_the_stored_one_does(demo):
    *_, picture, message = demo.widget().children
    live, stored = opened(picture.value), opened(demo.render())
    assert live.size == stored.size
    difference = ImageChops.difference(live, stored.convert("RGB"))
    assert max(ImageStat.Stat(difference).mean) < 3  # the stored one has 128 colours
    assert demo.describe() in html.unescape(message.value)


def test_a_demo_has_one_widget_however_often_it_is_shown(demo):
    assert demo.widget() is demo.widget()


def test_reset_computes_once(demo):
    counted = []

    def compute(**state):
        counted.append(state)
        return demo.compute(**state)

    counting = changed(demo, compute=compute)
    for control in counting.controls.values():
        control.value = positions(control)[-1]
    counting.widget()
    counted.clear()
    counting.reset()
    assert counted == [counting.initial_state]


@pytest.mark.parametrize("value", [float("nan"), -1, 2, 10**9])
def test_a_number_out_of_range_is_refused(demo, value):
    control = demo.controls[demo.slider]
    if not hasattr(control, "min"):
        return
    if control.min <= value <= control.max:
        value = control.max + 1
    with pytest.raises(ValueError, match=f"{demo.slider} must be a number from"):
        demo.render(**{demo.slider: value})


def test_a_choice_that_is_not_offered_is_refused(demo):
    for name, control in demo.controls.items():
        if hasattr(control, "options"):
            with pytest.raises(ValueError, match=f"{name} must be one of"):
                demo.describe(**{name: "nothing like it"})


def test_what_is_typed_out_of_range_never_kills_a_demo(built):
    demo = built["fgsm_slider"]
    *_, message = demo.widget().children
    try:
        demo.controls["eps"].value = float("nan")
        assert "eps must be a number from 0 to 0.3, got nan" in message.value
        demo.controls["eps"].value = 7  # the slider stops at its end
        assert "At ε = 0.300" in message.value
    finally:
        demo.reset()
    assert "At ε = 0.000" in message.value


@pytest.mark.parametrize("error", [KeyError("k"), RuntimeError("r"), OSError("o"), ValueError("<v>"), MemoryError()])
def test_any_error_is_said_and_the_next_move_works(built, error):
    demo = built["fgsm_slider"]

    def compute(eps, **state):
        if eps > 0.1:
            raise error
        return demo.compute(eps=eps, **state)

    fragile = changed(demo, compute=compute)
    *_, picture, message = fragile.widget().children
    before = picture.value
    try:
        demo.controls["eps"].value = 0.2
        assert 'role="alert"' in message.value
        assert "<v>" not in message.value
        assert picture.value == before
        with pytest.raises(type(error)):
            fragile.render(eps=0.2)
        demo.controls["eps"].value = 0.06
        assert 'role="status"' in message.value
        assert picture.value != before
    finally:
        demo.reset()


def test_a_missing_network_or_photo_is_a_message(monkeypatch):
    def missing(*_, **__):
        raise OSError("the weights are missing: reinstall them.")

    for part in ("load_classifier", "load_photos"):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[demos.Entry.__module__], part, missing)
            photo_lab = demos.gallery().children[-1]
            heading, body = photo_lab.children
            heading.value = True
            assert "reinstall them" in body.children[0].value


# Instant, and for as long as one likes


def drag(demo, moves):
    """Move the slider to and fro, and return what each move took, in seconds of this process."""
    control = demo.controls[demo.slider]
    places = positions(control)
    path = [*places, *places[-2:0:-1]]
    took = []
    for i in range(moves):
        start = time.process_time()
        control.value = path[(i + 1) % len(path)]
        took.append(time.process_time() - start)
    return took


def figures():
    return sum(type(thing) is Figure for thing in gc.get_objects())


@pytest.mark.slow
def test_five_hundred_moves_leave_no_figure_and_no_memory(built):
    demo = built["fgsm_slider"]
    demo.widget()
    early = drag(demo, 100)
    gc.collect()
    before, memory = figures(), psutil.Process().memory_info().rss
    late = drag(demo, 400)
    gc.collect()
    assert figures() == before
    assert psutil.Process().memory_info().rss - memory < 20e6  # a picture has half a megabyte before it is packed
    assert statistics.median(late[-100:]) < 3 * statistics.median(early)
    demo.reset()


def test_the_slider_is_a_control_and_examples_go_round(demo):
    assert demo.slider in demo.controls
    if demo.example is None:
        return
    seen = [demo.state[demo.example]]
    for _ in range(20):
        demo.next_example()
        seen.append(demo.state[demo.example])
    assert all(a != b for a, b in pairwise(seen))
    assert set(seen) == set(positions(demo.controls[demo.example]))


# The catalogue itself


@pytest.mark.slow
@pytest.mark.usefixtures("chapters_cache")
@pytest.mark.parametrize("name", demos.catalogue())
def test_the_catalogue_builds_what_it_lists(name):
    entry = demos.catalogue()[name]
    demo = entry.build()
    assert demo.title == entry.title
    assert isinstance(demo.widget(), widgets.VBox)
    assert demo.render(**demo.static_state) != demo.render()
