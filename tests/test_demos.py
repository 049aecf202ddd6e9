"""Every demo at every slider position, in process, where exceptions propagate."""

import inspect
import io
import re
from dataclasses import replace
from datetime import datetime

import nbformat
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from traitlets import TraitError

from course_utils import demos
from course_utils.attacks import bim, fgsm, pgd
from course_utils.data import load_images
from course_utils.defences.robust_manifold import project_to_range
from course_utils.demos.draw_digit import image_to_sketch, sketch_to_image, to_mnist
from course_utils.evaluation import accuracy_under_attack, transfer_matrix
from course_utils.models import decoder
from course_utils.runner import chapters


@pytest.fixture(scope="module")
def margin_bar():
    torch.manual_seed(0)
    w, b = torch.randn(784), torch.tensor(0.3)
    x = torch.rand(3, 1, 28, 28)
    y = torch.tensor([1.0, -1.0, 1.0])
    return demos.margin_bar(w, b, x, y), (w, b, x, y)


@pytest.fixture(scope="module")
def fgsm_slider():
    torch.manual_seed(0)
    models = {name: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10)) for name in ("one", "two")}
    x, y = torch.rand(3, 1, 28, 28), torch.tensor([1, 2, 3])
    return demos.fgsm_slider(models, x, y), (models, x, y)


def size(png):
    return Image.open(io.BytesIO(png)).size


@pytest.mark.parametrize("signs", ["worst", "random"])
@pytest.mark.parametrize("clip", [True, False])
def test_margin_bar_at_every_position(margin_bar, signs, clip):
    demo, _ = margin_bar
    for image in range(3):
        for step in range(0, demos.EPS_STEPS + 1):
            values = demo.compute(image=image, eps=0.3 * step / demos.EPS_STEPS, signs=signs, clip=clip)
            assert values["adv"].min() >= 0
            assert values["adv"].max() <= 1
            if signs == "random":
                assert values["predicted"] is None
            elif not clip:  # the formula is exact
                assert values["measured"] == pytest.approx(values["predicted"], rel=1e-4, abs=1e-2)
            else:
                assert values["measured"] >= values["predicted"] - 1e-3


def test_fgsm_slider_shows_what_the_attack_makes(fgsm_slider):
    demo, (models, x, y) = fgsm_slider
    for name in models:
        for image in range(3):
            for eps in (0.0, 0.05, 0.3):
                values = demo.compute(model=name, image=image, eps=eps)
                expected = fgsm(models[name], x[image : image + 1], y[image : image + 1], eps)[0]
                torch.testing.assert_close(values["adv"], expected, atol=1e-6, rtol=0)
                assert values["probabilities"].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["margin_bar", "fgsm_slider"])
def test_the_picture_follows_the_slider_and_keeps_its_size(name, request):
    demo, _ = request.getfixturevalue(name)
    _, _, picture, message = demo.widget().children
    first, said = picture.value, message.value
    demo.controls["eps"].value = 0.21
    try:
        assert picture.value != first
        assert message.value != said
        assert size(picture.value) == size(first)
    finally:
        demo.controls["eps"].value = 0.0


def test_an_error_becomes_a_message_and_the_demo_goes_on(fgsm_slider):
    demo, _ = fgsm_slider

    def compute(eps, **state):
        if eps > 0.1:
            raise ValueError("too <far>")
        return demo.compute(eps=eps, **state)

    fragile = replace(demo, compute=compute)
    _, _, picture, message = fragile.widget().children
    before = picture.value
    demo.controls["eps"].value = 0.2
    assert "too &lt;far&gt;" in message.value
    assert picture.value == before
    demo.controls["eps"].value = 0.0
    assert "too" not in message.value


@pytest.mark.parametrize("name", ["margin_bar", "fgsm_slider"])
def test_one_bundle_with_widget_picture_and_alt_text(name, request, displayed):
    demo, _ = request.getfixturevalue(name)
    demo._ipython_display_()
    ((data, metadata),) = displayed
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(data)
    assert demo.title in metadata["image/png"]["alt"]


def test_other_image_sizes_work():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 6 * 5, 4))
    demo = demos.fgsm_slider({"m": model}, torch.rand(2, 3, 6, 5), torch.tensor([0, 3]), names=["a", "b", "c", "d"])
    assert demo.render(eps=0.1)
    assert "true is a" in demo.describe(image=0)


@pytest.mark.parametrize("x", [torch.rand(0, 1, 4, 4), torch.rand(2, 16), torch.rand(3, 1, 4, 4)])
def test_wrong_images_are_refused(x):
    with pytest.raises(ValueError, match="expected images"):
        demos.fgsm_slider({"m": torch.nn.Flatten()}, x, torch.tensor([0, 1]))


# Back to the beginning, and on to the next example


def test_reset_puts_every_control_back_and_tells_once_what_is_shown(fgsm_slider):
    demo, _ = fgsm_slider
    first = demo.state
    for name, value in {"model": "two", "image": 2, "eps": 0.12}.items():
        demo.controls[name].value = value
    demo.reset()
    assert demo.state == first


def test_next_example_goes_round(fgsm_slider, photo_lab):
    for demo, values in ((fgsm_slider[0], [0, 1, 2]), (photo_lab[0], ["one", "two"])):
        seen = []
        for _ in range(len(values) + 1):
            seen.append(demo.state[demo.example])
            demo.next_example()
        assert seen == [*values, values[0]]
        demo.reset()


def test_next_example_without_examples_changes_nothing(fgsm_slider):
    _, (models, x, y) = fgsm_slider
    demo = demos.accuracy_curves(models, x, y)
    before = demo.state
    demo.next_example()
    assert demo.state == before


# The catalogue

PUBLIC = {name: getattr(demos, name) for name in demos.__all__}
BUILDERS = {n for n, f in PUBLIC.items() if inspect.isfunction(f) and inspect.signature(f).return_annotation == "Demo"}


def test_the_catalogue_lists_every_demo_in_the_order_of_the_chapters():
    entries = demos.catalogue()
    assert set(entries) == BUILDERS
    assert [entry.chapter for entry in entries.values()] == sorted(entry.chapter for entry in entries.values())
    for name, entry in entries.items():
        assert entry.name == name
        assert 1 <= len(re.findall(r"[.?!](?:\s|$)", entry.hint)) <= 2


SOLUTIONS = sorted((chapters.NOTEBOOKS / "solutions").glob("*.ipynb"))


def demos_in(path):
    code = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
    return set(re.findall(r"demos\.(\w+)\(", code))


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_every_demo_of_a_chapter_is_in_the_catalogue(path):
    assert demos_in(path) <= {*demos.catalogue()}


def test_the_catalogue_lists_a_demo_under_a_chapter_that_shows_it():
    shown = [(name, path.stem[:2]) for path in SOLUTIONS for name in demos_in(path)]
    assert {(name, demos.catalogue()[name].chapter) for name, _ in shown} <= {*shown}


# PGD step by step


@pytest.mark.parametrize("start", [True, False])
def test_pgd_scrubber_shows_the_path_of_the_attack(fgsm_slider, start):
    _, (models, x, y) = fgsm_slider
    demo = demos.pgd_scrubber(models, x, y, eps=0.1, steps=8)
    path = []
    options = {"random_start": start, "generator": torch.Generator().manual_seed(0)}
    pgd(models["two"], x[1:2], y[1:2], 0.1, steps=8, callback=lambda r, t, adv, loss: path.append(adv[0]), **options)
    for step, expected in enumerate(path):
        values = demo.compute(model="two", image=1, start=start, step=step)
        assert torch.equal(values["adv"], expected)
        assert values["probabilities"].sum() == pytest.approx(1, abs=1e-5)
        loss = torch.nn.functional.cross_entropy(models["two"](expected[None]), y[1:2]).item()
        assert values["losses"][step] == pytest.approx(loss, rel=1e-4, abs=1e-5)
    assert demo.controls["step"].max == 8
    assert f"After step {8}" in demo.describe(step=8)
    assert demo.render(step=0) != demo.render(step=8)


# Optimised noise


def test_optimised_noise_is_a_minimum_between_length_and_target(fgsm_slider):
    _, (models, x, y) = fgsm_slider
    demo = demos.optimised_noise_slider(models, x, y)
    model, goal = models["two"], torch.tensor([7])
    for c in demos.NOISE_WEIGHTS:
        values = demo.compute(model="two", image=1, target="7", c=c)
        noise = values["noise"][None].clone().requires_grad_()
        cost = c * noise.square().sum() + F.cross_entropy(model(x[1:2] + noise), goal)
        (slope,) = torch.autograd.grad(cost, noise)
        stopped = (values["adv"][None] == 0) & (slope > 0) | (values["adv"][None] == 1) & (slope < 0)
        assert slope[~stopped].abs().max() < 0.05
        assert values["length"] == pytest.approx(noise.norm().item(), rel=1e-5)
        torch.testing.assert_close(values["probabilities"], model(values["adv"][None]).softmax(1)[0])


def test_optimised_noise_grows_and_arrives_as_length_gets_cheaper(fgsm_slider):
    _, (models, x, y) = fgsm_slider
    demo = demos.optimised_noise_slider(models, x, y)
    rows = [demo.compute(model="one", image=0, target="4", c=c) for c in demos.NOISE_WEIGHTS]
    lengths, sure = ([f["length"] for f in rows], [float(f["probabilities"][4]) for f in rows])
    assert lengths == sorted(lengths)
    assert sure == sorted(sure)
    assert "the target is 4" in demo.describe(target="4")


# One cell of the transfer matrix


@pytest.fixture(scope="module")
def transfer_picker(fgsm_slider):
    _, (models, x, _) = fgsm_slider
    x = torch.cat([x, torch.rand(60, 1, 28, 28, generator=torch.Generator().manual_seed(1))])
    y = models["one"](x).argmax(1)
    return demos.transfer_picker(models, x, y), models, x, y


def test_transfer_picker_is_a_cell_of_the_matrix(transfer_picker):
    demo, models, x, y = transfer_picker
    for eps in (0.0, 0.1, 0.3):
        matrix = transfer_matrix(models, models, x, y, eps)
        for source in models:
            for target in models:
                values = demo.compute(source=source, target=target, image=0, eps=eps)
                assert values["fooled"]["target"] == pytest.approx(matrix.loc[source, target])
                assert values["fooled"]["source"] == pytest.approx(matrix.loc[source, source])
    assert demo.controls["image"].max == matrix.attrs["n"] - 1


def test_transfer_picker_starts_with_two_models_and_works_with_one(transfer_picker):
    demo, models, x, y = transfer_picker
    assert demo.controls["source"].value != demo.controls["target"].value
    assert demo.render() != demo.render(eps=0.3)
    alone = demos.transfer_picker({"one": models["one"]}, x, y)
    assert "one → one" in alone.describe(eps=0.1)


def test_transfer_picker_needs_a_common_correct_image(transfer_picker):
    _, models, x, y = transfer_picker
    with pytest.raises(ValueError, match="none of the 5 images"):
        demos.transfer_picker(models, x[:5], (y[:5] + 1) % 10)


# Accuracy against eps


def test_accuracy_curves_show_what_each_attack_leaves(fgsm_slider):
    _, (models, x, _) = fgsm_slider
    y = models["one"](x).argmax(1)
    demo = demos.accuracy_curves(models, x, y, largest=0.1)
    for steps in demos.ATTACK_STEPS:
        curves = demo.compute(steps=steps)["curves"]
        assert curves["one"][0] == 1.0  # y is what it says without an attack
        for name, model in models.items():
            options = (
                {"attack": fgsm} if steps == 1 else {"steps": steps, "generator": torch.Generator().manual_seed(0)}
            )
            assert curves[name][-1] == pytest.approx(accuracy_under_attack(model, x, y, 0.1, **options))
    assert demo.render(steps=1) != demo.render(steps=40)
    assert "FGSM at ε = 0, 0.06 and 0.1: one 100 %" in demo.describe(steps=1)
    assert "40 steps of PGD" in demo.describe(steps=40)


def test_accuracy_curves_attack_once_for_each_number_of_steps(fgsm_slider, monkeypatch):
    _, (models, x, y) = fgsm_slider
    demo = demos.accuracy_curves(models, x, y)
    first = demo.compute(steps=3)
    monkeypatch.setattr("course_utils.demos.adversarial_training.pgd", None)  # a second attack would fail
    assert demo.compute(steps=3) == first


def test_accuracy_curves_refuse_labels_that_do_not_match(fgsm_slider):
    _, (models, x, y) = fgsm_slider
    with pytest.raises(ValueError, match="one label each"):
        demos.accuracy_curves(models, x, y[:2])


# Several models, and their loss surfaces


def test_model_comparer_shows_what_each_models_own_attack_makes(fgsm_slider):
    _, (models, x, y) = fgsm_slider
    demo = demos.model_comparer(models, x, y, steps=3)
    for eps in (0.0, 0.1, 0.3):
        for attack in demos.COMPARED_ATTACKS:
            values = demo.compute(image=1, attack=attack, eps=eps)
            for place, model in enumerate(models.values()):
                stream = torch.Generator().manual_seed(0)
                options = (x[1:2], y[1:2], eps)
                adv = fgsm(model, *options) if attack == "FGSM" else pgd(model, *options, steps=3, generator=stream)
                torch.testing.assert_close(values["adv"][place], adv[0])
                probabilities = model(adv).softmax(1)[0].detach()
                assert values["predicted"][place] == probabilities.argmax()
                assert values["true_probability"][place] == pytest.approx(float(probabilities[y[1]]), abs=1e-5)


@pytest.mark.parametrize("sideways", demos.SIDEWAYS)
def test_loss_tilt_turns_from_one_edge_of_the_plane_to_the_other(fgsm_slider, sideways):
    _, (models, x, y) = fgsm_slider
    demo = demos.loss_tilt(models, x, y, eps=0.3)
    flat, upright = (demo.compute(image=2, sideways=sideways, tilt=tilt) for tilt in (0, 90))
    for name, model in models.items():
        plane = flat["planes"][name]
        clean = F.cross_entropy(model(x[2:3]), y[2:3])
        attacked = F.cross_entropy(model(fgsm(model, x[2:3], y[2:3], 0.3)), y[2:3])
        assert plane[0, 0] == pytest.approx(clean.item(), abs=1e-4)
        assert plane[0, -1] == pytest.approx(attacked.item(), abs=1e-3)
        torch.testing.assert_close(torch.tensor(flat["profiles"][name]), plane[0])
        torch.testing.assert_close(torch.tensor(upright["profiles"][name]), plane[:, 0], atol=1e-4, rtol=1e-4)


def test_loss_tilt_finds_what_pgd_finds(fgsm_slider):
    _, (models, x, y) = fgsm_slider
    demo = demos.loss_tilt(models, x, y, eps=0.3)
    adv = pgd(models["one"], x[:1], y[:1], 0.3, steps=10, generator=torch.Generator().manual_seed(0))
    profile = demo.compute(image=0, sideways="PGD", tilt=90)["profiles"]["one"]
    assert profile[-1] == pytest.approx(F.cross_entropy(models["one"](adv), y[:1]).item(), rel=1e-3)


# A digit drawn by hand


@pytest.fixture(scope="module")
def digits():
    return load_images(split="test", n=200)[0]


def test_digits_drawn_back_are_mnists_own(digits):
    back = torch.stack([to_mnist(sketch_to_image(image_to_sketch(x))) for x in digits])
    assert (back - digits).flatten(1).norm(dim=1).mean() < 0.35 * digits.flatten(1).norm(dim=1).mean()
    places = torch.arange(28.0)
    for dim in (2, 3):
        centres = [(t.sum((1, 5 - dim)) * places).sum(1) / t.sum((1, 2, 3)) for t in (back, digits)]
        assert (centres[0] - centres[1]).abs().max() < 1.1  # both are placed by whole pixels
    height, width = ((back[:, 0] > 0.1).any(axis).sum(1) for axis in (2, 1))
    assert torch.maximum(height, width).float().mean() == pytest.approx(20, abs=0.5)


def test_where_and_how_large_a_digit_is_drawn_does_not_matter():
    stroke = torch.zeros(1, 84, 84)
    stroke[0, 10:40, 20:26] = 1
    stroke[0, 34:40, 20:44] = 1
    moved = stroke.roll((30, 25), (1, 2))
    larger = F.interpolate(stroke[None], scale_factor=2)[0]
    torch.testing.assert_close(to_mnist(moved), to_mnist(stroke))
    torch.testing.assert_close(to_mnist(larger), to_mnist(stroke), atol=0.15, rtol=0)


@pytest.mark.parametrize(
    "ink", [torch.zeros(1, 84, 84), torch.ones(1, 84, 84), torch.eye(84)[None, :1].expand(1, 84, 84)]
)
def test_any_sketch_becomes_a_digit(ink):
    digit = to_mnist(ink)
    assert digit.shape == (1, 28, 28)
    assert digit.min() >= 0
    assert digit.max() <= 1
    assert bool(digit.any()) == bool(ink.any())


def test_draw_digit_attacks_what_the_model_sees(fgsm_slider, digits):
    _, (models, _, _) = fgsm_slider
    demo = demos.draw_digit(models, example=digits[0])
    sketch = image_to_sketch(digits[1])
    x = to_mnist(sketch_to_image(sketch))[None]
    answer = models["one"](x).argmax(1)
    for eps in (0.0, 0.1, 0.3):
        values = demo.compute(sketch=sketch, model="one", eps=eps)
        torch.testing.assert_close(values["adv"], fgsm(models["one"], x, answer, eps)[0], atol=1e-6, rtol=0)
        assert values["answer"] == answer
    assert "The square is empty" in demo.describe(eps=0.2)
    assert "without attack" in demo.describe(**demo.static_state)


def test_a_sketch_arrives_as_the_browser_sends_it(fgsm_slider, digits):
    _, (models, _, _) = fgsm_slider
    demo = demos.draw_digit(models)
    *_, message = demo.widget().children
    assert "The square is empty" in message.value
    sketch = demo.controls["sketch"]
    sketch.set_state({"value": memoryview(image_to_sketch(digits[3]))})
    assert sketch.value == image_to_sketch(digits[3])
    assert "the model says" in message.value
    with pytest.raises(TraitError, match="84 × 84 bytes"):
        sketch.value = b"12"
    demo.reset()
    assert "The square is empty" in message.value


# The projection, and walks in the latent space


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return decoder(latent=2, hidden=8)


def test_projection_slider_shows_the_projection_from_its_starts(fgsm_slider, generator):
    _, (models, x, y) = fgsm_slider
    demo = demos.projection_slider(models["one"], generator, x, y, steps=30, restarts=3)
    starts = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(0))
    for restarts in (1, 2, 3):
        for steps in (1, 30):
            values = demo.compute(image=1, restarts=restarts, steps=steps)
            init = starts[:restarts, 1:2]
            _, expected = project_to_range(generator, x[1:2], steps=steps, restarts=restarts, init=init)
            torch.testing.assert_close(values["x_star"], expected[0])
            assert values["before"] == models["one"](x[1:2]).argmax()
    assert (demo.controls["restarts"].max, demo.controls["steps"].max) == (3, 30)
    assert "1 restart " in demo.describe(restarts=1)
    assert demo.render(steps=1) != demo.render(steps=30)


def test_more_effort_brings_the_projection_no_farther_away(fgsm_slider, generator):
    _, (models, x, y) = fgsm_slider
    demo = demos.projection_slider(models["one"], generator, x, y)
    few, many = (demo.compute(image=0, restarts=restarts, steps=100)["error"] for restarts in (1, 6))
    assert many <= few * (1 + 1e-4)
    assert demo.compute(image=0, restarts=1, steps=100)["error"] < demo.compute(image=0, restarts=1, steps=1)["error"]


def test_latent_walk_is_a_straight_line_between_two_images(fgsm_slider, generator):
    _, (models, _, _) = fgsm_slider
    z, z_prime = torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    demo = demos.latent_walk(models["one"], generator, z, z_prime)
    for way in (0.0, 0.25, 1.0):
        values = demo.compute(pair=1, way=way)
        torch.testing.assert_close(values["here"], generator(way * z_prime[1:]).detach()[0])
        assert values["distance"] == pytest.approx(
            (generator(way * z_prime[1:]) - generator(z[1:])).norm().item(), abs=1e-5
        )
        assert values["first"] == models["one"](generator(z[1:])).argmax()
        assert f"After {way:.0%} of the way" in demo.describe(pair=1, way=way)
    assert demo.render(way=0.0) != demo.render(way=1.0)


def test_latent_walk_refuses_ends_that_do_not_match(fgsm_slider, generator):
    _, (models, _, _) = fgsm_slider
    with pytest.raises(ValueError, match="at least one walk"):
        demos.latent_walk(models["one"], generator, torch.zeros(0, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="expected a z for each of 2 images"):
        demos.latent_walk(models["one"], generator, torch.zeros(2, 2), torch.zeros(2, 3))


# The photo lab

NAMES = ["cat", "espresso", "daisy"]


@pytest.fixture
def photo_lab():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    photos = {"one": torch.rand(3, 16, 16), "two": torch.rand(3, 16, 16)}
    return demos.photo_lab(model, photos, names=NAMES, targets=["espresso", "daisy"]), model, photos


def dropped(content):
    """Return what a FileUpload holds then."""
    about = {"name": "mine", "type": "image/png", "size": len(content), "last_modified": datetime(2025, 1, 1)}
    return (about | {"content": memoryview(content)},)


def png(size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(file, "PNG")
    return file.getvalue()


def test_photo_lab_shows_what_the_attacks_make(photo_lab):
    demo, model, photos = photo_lab
    for name, photo in photos.items():
        x = photo[None]
        y = model(x).argmax(1)
        for level in demos.PHOTO_LEVELS:
            eps = level / 255
            expected = {
                "FGSM": fgsm(model, x, y, eps),
                "PGD": bim(model, x, y, eps),
                "targeted PGD": bim(model, x, torch.tensor([2]), eps, targeted=True),
            }
            for attack, adv in expected.items():
                values = demo.compute(photo=name, upload=(), attack=attack, target="daisy", level=level)
                torch.testing.assert_close(values["adv"], adv[0], atol=1e-6, rtol=0)
                torch.testing.assert_close(values["change"], (adv - x)[0], atol=1e-6, rtol=0)
                torch.testing.assert_close(values["probabilities"], model(adv).softmax(1)[0])
                assert values["true"] == y


def test_photo_lab_attacks_once_for_each_position(photo_lab, monkeypatch):
    demo, _, _ = photo_lab
    states = [{"attack": attack, "level": 2} for attack in demos.PHOTO_ATTACKS]
    first = [demo.render(**state) for state in states]
    for name in ("bim", "input_gradient"):
        monkeypatch.setattr(f"course_utils.demos.photographs.{name}", None)  # a second attack would fail
    assert [demo.render(**state) for state in states] == first


def test_photo_lab_tells_targets_apart(photo_lab):
    demo, _, _ = photo_lab
    said = {goal: demo.describe(attack="targeted PGD", target=goal, level=8) for goal in ("espresso", "daisy")}
    assert all(f"says {goal}" in words for goal, words in said.items())


def test_photo_lab_takes_a_dropped_photo(photo_lab):
    demo, model, _ = photo_lab
    *_, picture, message = demo.widget().children
    before = picture.value
    demo.controls["upload"].value = dropped(png())
    assert demo.controls["photo"].value == demos.UPLOADED
    assert picture.value != before
    assert "without attack" in message.value
    colour = torch.tensor([200, 30, 90]).div(255).view(3, 1, 1).expand(3, 16, 16)
    values = demo.compute(photo=demos.UPLOADED, upload=dropped(png()), attack="PGD", target="daisy", level=0)
    torch.testing.assert_close(values["adv"], colour)
    assert values["true"] == model(colour[None]).argmax()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"no picture", "no picture of a known kind"),
        (png()[:60], "cannot be"),
        (png((900, 2)), "narrow"),
    ],
    ids=["empty", "text", "cut off", "too narrow"],
)
def test_photo_lab_says_what_is_wrong_with_a_dropped_file_and_goes_on(photo_lab, content, words):
    demo, _, _ = photo_lab
    *_, picture, message = demo.widget().children
    before = picture.value
    demo.controls["upload"].value = dropped(content)
    assert 'role="alert"' in message.value
    assert words in message.value
    assert picture.value == before
    demo.controls["photo"].value = "two"
    assert 'role="status"' in message.value
    demo.controls["upload"].value = dropped(png())
    assert 'role="status"' in message.value


def test_photo_lab_offers_an_upload_when_there_is_one(photo_lab):
    demo, _, _ = photo_lab
    assert demos.UPLOADED not in demo.controls["photo"].options
    demo.controls["upload"].value = dropped(png())
    assert demo.state["photo"] == demos.UPLOADED
    demo.reset()
    assert demo.state == demo.initial_state
    assert demos.UPLOADED not in demo.controls["photo"].options


def test_photo_lab_needs_photos_and_targets_that_are_classes(photo_lab):
    _, model, photos = photo_lab
    with pytest.raises(ValueError, match="at least one photo"):
        demos.photo_lab(model, {}, names=NAMES, targets=["daisy"])
    with pytest.raises(ValueError, match="'dog' is no name"):
        demos.photo_lab(model, photos, names=NAMES, targets=["daisy", "dog"])
