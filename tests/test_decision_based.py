"""HopSkipJump: exact distances where they are known, what it may ask and touch, and models without gradients."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradient_based import (
    ALL_FLOATS,
    Linear2,
    assert_like,
    frail_in_training,
    images,
    labels,
    network,
    no_trace,
    points,
    stream,
)
from torch import nn

from course_utils.attacks import deepfool, hopskipjump
from course_utils.models import fit_sklearn

every_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def predictions(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


def distances(adv, x, norm):
    return (adv - x).double().flatten(1).norm(p=2 if norm == "l2" else math.inf, dim=1)


def lively(x, classes=4):
    """A small network whose classes meet in the middle of the box, so that noise finds all of them."""
    model = network(x, classes).eval().requires_grad_(False)
    model[1].weight.mul_(4)
    model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    model[3].bias.zero_()
    return model


class Labels(nn.Module):
    """A model that gives its label away and nothing else; it counts how often it is asked about each of the images."""

    def __init__(self, model, classes=4):
        super().__init__()
        self.model, self.classes, self.asked, self.largest = model, classes, 0, 0

    def forward(self, x):
        assert not torch.is_grad_enabled()
        self.asked += len(x)
        self.largest = max(self.largest, len(x))
        return nn.functional.one_hot(self.model(x).argmax(1), self.classes).to(x.dtype)


def plane(pixels, seed=0):
    """Two linear classes, images about half of the box away from its border, and their exact distances."""
    w = torch.randn(pixels, generator=stream(seed))
    x = 0.35 + 0.3 * images((12, pixels), seed=seed)
    model = Linear2(w, b=-0.5 * w.sum().item() + 0.1 * w.norm().item())
    exact = {"l2": w.norm(), "linf": w.abs().sum()}
    return model, x, {norm: ((x @ w + model.b).abs() / size).detach() for norm, size in exact.items()}


# Exact distances ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixels", "queries", "norm", "most"),
    [(2, 500, "l2", 1.06), (2, 500, "linf", 1.06), (20, 5000, "l2", 1.08), (20, 5000, "linf", 1.25)],
)
def test_two_linear_classes(pixels, queries, norm, most):
    """The boundary is |margin|/‖w‖ away, in linf |margin|/‖w‖₁: nearly reached, and never undercut."""
    model, x, exact = plane(pixels)
    y = predictions(model, x)
    adv = hopskipjump(Labels(model, 2), x, y, norm=norm, queries=queries, generator=stream())
    assert (predictions(model, adv) != y).all()
    ratio = distances(adv, x, norm) / exact[norm]
    assert ratio.min() > 0.9999
    assert ratio.median() < most


@every_norm
def test_more_queries_are_never_farther_and_at_last_much_nearer(norm):
    model, x, exact = plane(30)
    y, found = predictions(model, x), []

    def watch(step, adv, queries):
        found.append((distances(adv, x, norm), queries))

    adv = hopskipjump(model, x, y, norm=norm, queries=3000, generator=stream(), callback=watch)
    assert all((later <= earlier).all() for (earlier, _), (later, _) in pairwise(found))
    assert all((later >= earlier).all() for (_, earlier), (_, later) in pairwise(found))
    assert torch.equal(found[-1][0], distances(adv, x, norm))
    first, last = (found[i][0] / exact[norm] - 1 for i in (0, -1))
    assert last.median() < first.median() / 3


@pytest.mark.slow
def test_it_comes_near_deepfool_which_sees_the_gradients():
    x = images((20, 1, 8, 8))
    model = lively(x)
    y = predictions(model, x)
    near = distances(deepfool(model, x, y), x, "l2")
    far = distances(hopskipjump(Labels(model), x, y, queries=10_000, generator=stream()), x, "l2")
    assert (far / near).median() < 1.2


# What it asks ---------------------------------------------------------------------------------------------------------


@every_norm
@pytest.mark.parametrize("queries", [1, 2, 5, 20, 37, 150, 700])
def test_the_budget_is_kept_and_counted_exactly(norm, queries):
    x = images()
    y = predictions(lively(x), x)
    model, spent = Labels(lively(x)), []
    hopskipjump(model, x, y, norm=norm, queries=queries, generator=stream(), callback=lambda *a: spent.append(a[2]))
    assert model.asked == spent[-1].sum()
    assert spent[-1].max() <= queries
    if queries >= 150:
        assert spent[-1].min() > queries - 50
    for i in range(len(x)):  # and so for each image alone
        model.asked = 0
        hopskipjump(model, x[i : i + 1], y[i : i + 1], norm=norm, queries=queries, generator=stream(i))
        assert model.asked <= queries


def test_an_image_that_is_misclassified_costs_one_query():
    x = images()
    model = Labels(lively(x))
    y = (predictions(model.model, x) + 1) % 4
    assert torch.equal(hopskipjump(model, x, y, generator=stream()), x)
    assert model.asked == len(x)


@every_norm
@pytest.mark.parametrize("size", [1, 4])
def test_batches_one_after_the_other_are_attacked_like_one(norm, size):
    x = images(dtype=torch.float64)
    model = lively(x)
    y = predictions(model, x)

    def attacked(size):
        generator, parts = stream(), zip(x.split(size), y.split(size), strict=True)
        return torch.cat([hopskipjump(model, *p, norm=norm, queries=300, generator=generator) for p in parts])

    torch.testing.assert_close(attacked(size), attacked(6), rtol=0, atol=1e-9)


def test_the_generator_decides():
    x = images()
    model = lively(x)
    y = predictions(model, x)
    one, again, other = (hopskipjump(model, x, y, queries=200, generator=stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


# Models without gradients ---------------------------------------------------------------------------------------------


@every_norm
def test_a_decision_tree(norm):
    """Its boundaries are axis-parallel: in either norm the nearest leaf is a bound from below."""
    x = images((300, 6), seed=1)
    y = (x[:, 0] + x[:, 1] > 1).long()
    tree = fit_sklearn("tree", x, y)
    x, y = x[:20], tree(x[:20]).argmax(1)
    adv = hopskipjump(tree, x, y, norm=norm, queries=600, generator=stream())
    assert (tree(adv).argmax(1) != y).all()
    assert distances(adv, x, norm).median() < 0.3


def test_a_quantising_defence():
    x = images((20, 1, 8, 8))
    plain = lively(x)
    model = lambda x: plain((8 * x).round() / 8)  # noqa: E731
    y = predictions(model, x)
    adv = hopskipjump(model, x, y, queries=1000, generator=stream())
    assert (predictions(model, adv) != y).all()
    assert distances(adv, x, "l2").median() < 2 * distances(deepfool(plain, x, y), x, "l2").median() + 0.3


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients(without):
    x = images()
    model = lively(x)
    y = predictions(model, x)
    plain = hopskipjump(model, x, y, queries=150, generator=stream())
    with without():
        assert torch.equal(hopskipjump(model, x, y, queries=150, generator=stream()), plain)


# Targets and starts ---------------------------------------------------------------------------------------------------


@every_norm
def test_a_target_is_reached_from_an_image_of_its_class(norm):
    x = images((40, 1, 8, 8))
    model = lively(x)
    y = predictions(model, x)
    donors = torch.stack([x[y != label][0] for label in y])
    target = predictions(model, donors)
    adv = hopskipjump(model, x, target, norm=norm, targeted=True, start=donors, queries=800, generator=stream())
    assert (predictions(model, adv) == target).all()
    assert (distances(adv, x, norm) < 0.5 * distances(donors, x, norm)).float().mean() > 0.9


def test_a_start_that_does_not_succeed_is_replaced_by_noise():
    x = images()
    model = lively(x)
    y = predictions(model, x)
    assert (predictions(model, hopskipjump(model, x, y, start=x, queries=200, generator=stream())) != y).all()


def test_out_of_reach_comes_back_unchanged():
    x, calls = images(), []

    def model(x):
        calls.append(len(x))
        return x.flatten(1)[:, :4] * 0 + torch.arange(4.0)

    adv = hopskipjump(model, x, torch.full((6,), 3), queries=1000, generator=stream())
    assert_like(adv, x)
    assert torch.equal(adv, x)
    assert sum(calls) <= 6 * 200  # it gives up


# Promises for every input ---------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(points(dtypes=ALL_FLOATS), st.sampled_from(["linf", "l2"]))
def test_every_query_and_the_answer_are_in_the_box(point, norm):
    x, clip = point
    clip = clip or (-3.0, 3.0)
    inner = lively(x, 3)
    y = predictions(inner, x)

    def model(points):
        assert points.dtype == x.dtype
        assert points.shape[1:] == x.shape[1:]
        assert clip[0] <= points.min()
        assert points.max() <= torch.tensor(clip[1], dtype=x.dtype)
        return inner(points)

    with no_trace(inner, x, y):
        adv = hopskipjump(model, x, y, norm=norm, queries=120, clip=clip, generator=stream())
    assert_like(adv, x)
    changed = (adv != x).flatten(1).any(1)
    if x.dtype in (torch.float32, torch.float64):  # in half precision a batch of another size may decide otherwise
        alone = torch.cat([predictions(inner, image) for image in adv.split(1)])
        assert (alone[changed] != y[changed]).all()


def test_another_box_is_another_unit():
    x = images(dtype=torch.float64)
    model = lively(x)
    y = predictions(model, x)
    plain = hopskipjump(model, x, y, queries=200, generator=stream())
    wide = hopskipjump(lambda z: model(z / 4), 4 * x, y, queries=200, clip=(0.0, 4.0), generator=stream())
    torch.testing.assert_close(wide / 4, plain, rtol=0, atol=1e-9)


@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
def test_t21_t22_t23_the_model_keeps_no_trace(fails_at):
    frail, x = frail_in_training(), images()
    y = predictions(frail_in_training().eval(), x)
    frail.fails_at = fails_at
    with no_trace(frail, x, y):
        if fails_at is None:
            hopskipjump(frail, x, y, queries=100, generator=stream())
        else:
            with pytest.raises(ArithmeticError):
                hopskipjump(frail, x, y, queries=100, generator=stream())


def test_the_callback_gets_copies():
    x = images()
    model = lively(x)
    y = predictions(model, x)

    def spoil(step, adv, queries):
        adv.fill_(7.0)
        queries.fill_(-1000)

    plain = hopskipjump(model, x, y, queries=300, generator=stream())
    assert torch.equal(hopskipjump(model, x, y, queries=300, generator=stream(), callback=spoil), plain)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_t13_logits_that_name_no_class(bad):
    with pytest.raises(ValueError, match=r"image 0 .*finite"):
        hopskipjump(lambda x: torch.full((len(x), 4), bad), images(), labels())


BAD_CALLS = {
    "no box": ({"clip": None}, ValueError, "draws noise from the box"),
    "box reversed": ({"clip": (1.0, 0.0)}, ValueError, "lowest < highest"),
    "norm": ({"norm": "l1"}, ValueError, "norm must be one of"),
    "queries": ({"queries": 0}, ValueError, "queries must be at least 1"),
    "queries float": ({"queries": 1.5}, TypeError, "queries must be a whole number"),
    "x array": ({"x": np.zeros((6, 1, 8, 8))}, TypeError, "torch.as_tensor"),
    "x outside": ({"x": 2 * torch.ones(6, 1, 8, 8)}, ValueError, "x must lie in clip"),
    "y floats": ({"y": torch.zeros(6)}, TypeError, "integer labels"),
    "y short": ({"y": torch.zeros(5, dtype=torch.int64)}, ValueError, "one label for each"),
    "start shape": ({"start": torch.zeros(5, 1, 8, 8)}, ValueError, "start must have the shape of x"),
    "start outside": ({"start": 2 * torch.ones(6, 1, 8, 8)}, ValueError, "start must lie in clip"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_refused_before_the_model_is_asked(change, error, message):
    def model(x):
        raise AssertionError("asked")

    call = {"model": model, "x": images(), "y": labels()} | change
    with pytest.raises(error, match=message):
        hopskipjump(call.pop("model"), call.pop("x"), call.pop("y"), **call)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (0, 3), (2, 0), (2, 3, 0, 4)])
def test_empty_batches(shape):
    x = torch.zeros(shape)
    assert_like(hopskipjump(lambda x: x, x, torch.zeros(shape[0], dtype=torch.int64)), x)


# Another one as an oracle ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@every_norm
def test_it_is_no_farther_than_foolbox_at_as_many_queries(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        foolbox = pytest.importorskip("foolbox", exc_type=ImportError)
    x = images((60, 1, 10, 10))
    inner = lively(x).eval()
    y = predictions(inner, x)
    model = Labels(inner)
    theirs, queries = [], []
    for image, label in zip(x.split(1), y.split(1), strict=True):  # one by one: in a batch they share the step's length
        model.asked = 0
        attack = foolbox.attacks.HopSkipJumpAttack(steps=5, constraint=norm)
        asked = foolbox.PyTorchModel(model.eval(), bounds=(0, 1), device="cpu")
        with torch.no_grad(), torch.random.fork_rng([]):
            theirs.append(attack.run(asked, image, foolbox.criteria.Misclassification(label)))
        queries.append(model.asked)
    theirs = distances(torch.cat(theirs), x, norm)
    ours = distances(hopskipjump(inner, x, y, norm=norm, queries=int(np.mean(queries)), generator=stream()), x, norm)
    assert (ours / theirs).median() < 1.1
