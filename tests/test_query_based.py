"""The square attack: what it may touch, how far it gets without gradients, and how many outputs it asks for."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradient_based import ALL_FLOATS, assert_inside, assert_like, frail_in_training, no_trace, points, radii
from torch import nn

from course_utils.attacks import pgd, query_based, square
from course_utils.attacks.gradients import adversarial_loss
from course_utils.evaluation import correct


class Line(nn.Module):
    """Two logits ±(w·x), so that the margin against class 0 rises by exactly 2·eps·‖w‖₁ at most."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.asked = 0

    def forward(self, x):
        self.asked += len(x)
        z = x.flatten(1) @ self.weights
        return torch.stack([z, -z], dim=1)

    def margin(self, x):
        return -2 * (x.flatten(1) @ self.weights)


every_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=seeded(1))


@every_norm
@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (3, 3, 9, 5), (4, 20), (2, 1, 1, 7), (2, 2, 6, 1), (2, 1, 2, 2)])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3, 1.0])
def test_the_answer_is_a_new_tensor_in_ball_and_box(shape, eps, norm):
    x = torch.rand(shape, generator=seeded())
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3))
    y = torch.zeros(len(x), dtype=torch.long)
    with no_trace(model, x, y):
        adv = square(model, x, y, eps, norm=norm, queries=20, generator=seeded())
    assert_inside(adv, x, eps, norm)
    assert torch.equal(adv, x) == (eps == 0)


@settings(max_examples=80)
@given(points(dtypes=ALL_FLOATS), radii, st.sampled_from(["linf", "l2"]))
def test_every_query_is_in_ball_and_box(point, eps, norm):
    x, clip = point
    y, eps = torch.zeros(len(x), dtype=torch.long), min(eps, 1.0)
    weights = torch.randn(x[0].numel(), 3, generator=seeded()).to(x)

    def model(points):
        if eps > 0:
            assert_inside(points.view(x.shape) if len(points) == len(x) else x.clone(), x, eps, norm, clip)
        return points.flatten(1) @ weights + torch.tensor([100.0, 0, 0]).to(x)  # nobody is fooled

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "eps=")  # wider than the box (0.2, 0.3)
        adv = square(model, x, y, eps, norm=norm, queries=12, clip=clip, generator=seeded())
    assert_inside(adv, x, eps, norm, clip)


@every_norm
def test_more_queries_come_nearer_to_the_worst_case_of_a_line_and_never_pass_it(images, norm):
    model = Line(torch.randn(64, generator=seeded(2)))
    model.weights.data += 0.3  # class 0 for all, by far: nobody is fooled, so the search goes on to its end
    x, y = 0.4 + 0.2 * images, torch.zeros(6, dtype=torch.long)
    worst = 2 * 0.1 * (model.weights.abs().sum() if norm == "linf" else model.weights.norm())
    reached = []
    for queries in (1, 50, 2000):
        adv = square(model, x, y, 0.1, norm=norm, queries=queries, generator=seeded())
        reached.append(((model.margin(adv) - model.margin(x)) / worst).detach())
    assert (reached[0] <= reached[1]).all()
    assert (reached[1] <= reached[2]).all()
    assert (reached[2] <= 1 + 1e-5).all()
    assert reached[2].mean() > {"linf": 0.9, "l2": 0.7}[norm]


@every_norm
def test_a_fooled_image_is_not_asked_about_again(images, norm):
    model = Line(torch.full((64,), 0.001))
    y = torch.ones(6, dtype=torch.long)
    square(model, images, y, 0.1, norm=norm, queries=100)  # all are wrong from the beginning
    assert model.asked == 6
    stubborn = Line(torch.ones(64))
    square(stubborn, 0.8 + 0.1 * images, torch.zeros(6, dtype=torch.long), 0.1, norm=norm, queries=100)
    assert stubborn.asked == 600


@every_norm
@pytest.mark.parametrize("queries", [1, 49, 50, 51, 130])
def test_an_image_is_asked_about_as_often_as_allowed(images, norm, queries):
    model = Line(torch.ones(64))
    square(model, 0.8 + 0.1 * images, torch.zeros(6, dtype=torch.long), 0.1, norm=norm, queries=queries)
    assert model.asked == 6 * queries


@every_norm
@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_one_after_the_other_are_attacked_like_one(norm, size):
    """In float64, and with weights that are far from any tie, so that rounding decides nothing."""
    x = 0.4 + 0.2 * torch.rand(11, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    model = Line(torch.randn(64, generator=seeded(2), dtype=torch.float64))
    model.weights.data -= model.weights.mean()
    y, eps = model(x).argmax(1), {"linf": 0.01, "l2": 0.05}[norm]

    def attacked(size):
        generator, parts = seeded(), zip(x.split(size), y.split(size), strict=True)
        return torch.cat([square(model, *part, eps, norm=norm, queries=130, generator=generator) for part in parts])

    together, apart = attacked(11), attacked(size)
    assert 0 < correct(model, together, y).sum() < 11
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-12)


@every_norm
def test_it_works_where_there_are_no_gradients(images, norm):
    model = Line(torch.randn(64, generator=seeded(2)))
    y = model(images).argmax(1)
    plain = square(model, images, y, 0.1, norm=norm, queries=20, generator=seeded())
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            assert torch.equal(square(model, images, y, 0.1, norm=norm, queries=20, generator=seeded()), plain)


@every_norm
@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
def test_t21_t22_t23_the_model_keeps_no_trace(norm, fails_at, images):
    frail = frail_in_training()
    y = frail_in_training().eval()(images).argmax(1)
    frail.fails_at = fails_at
    with no_trace(frail, images, y):
        if fails_at is None:
            square(frail, images, y, 1e-6, norm=norm, queries=5, generator=seeded())
        else:
            with pytest.raises(ArithmeticError):
                square(frail, images, y, 1e-6, norm=norm, queries=5, generator=seeded())


@every_norm
@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (0, 3), (2, 0), (2, 3, 0, 4)])
def test_empty_batches(norm, shape):
    x = torch.zeros(shape)
    assert_like(square(lambda x: x, x, torch.zeros(shape[0], dtype=torch.int64), 0.1, norm=norm), x)


def test_it_sees_through_rounding_that_stops_gradients():
    class Rounded(nn.Module):
        def __init__(self, line):
            super().__init__()
            self.line = line

        def forward(self, x):
            return self.line((8 * x).round() / 8)

    torch.manual_seed(0)
    model = Rounded(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    x = torch.rand(40, 1, 8, 8, generator=seeded(3))
    y = model(x).argmax(1)
    with pytest.warns(UserWarning, match="gradients are exactly zero"):
        by_gradient = correct(model, pgd(model, x, y, 0.1, random_start=False), y).float().mean()
    by_search = correct(model, square(model, x, y, 0.1, queries=300, generator=seeded()), y).float().mean()
    assert by_gradient == 1
    assert by_search < 0.5


class Coarse(nn.Module):
    """A linear model whose answers are rounded so that classes tie; it counts how many of them it gave."""

    def __init__(self, coarsen):
        super().__init__()
        self.coarsen, self.asked = coarsen, 0
        self.register_buffer("weights", torch.randn(64, 5, generator=seeded(4)))

    def forward(self, x):
        self.asked += len(x)
        return self.coarsen((x.flatten(1) - 0.5) @ self.weights)


def votes(z):
    """Three members vote, each with an accent of its own."""
    accents = torch.randn(3, 5, generator=seeded(5))
    return sum(nn.functional.one_hot((z + accent).argmax(1), 5) for accent in accents).float()


COARSE = {
    "logits in halves": lambda z: (2 * z).round() / 2,
    "probabilities of one digit": lambda z: (10 * z.softmax(1)).round() / 10,
    "votes": votes,
    "bfloat16": lambda z: (z + 40).bfloat16(),  # far from 0, where its steps are long
}


@pytest.fixture
def grey_images():
    return 0.3 + 0.4 * torch.rand(60, 1, 8, 8, generator=seeded(6))


@pytest.mark.parametrize("coarsen", COARSE.values(), ids=COARSE)
def test_it_stops_at_a_mistake_and_not_at_a_tie(coarsen, grey_images):
    model, queries = Coarse(coarsen), 40
    y = model(grey_images).argmax(1)
    stopped = 0
    for x, label in zip(grey_images[:30].split(1), y[:30].split(1), strict=True):
        model.asked = 0
        adv = square(model, x, label, 0.06, queries=queries, generator=seeded())
        if model.asked < queries:
            stopped += 1
            assert model(adv).argmax(1) != label
    assert stopped > 5


@pytest.mark.parametrize("coarsen", COARSE.values(), ids=COARSE)
def test_going_on_past_a_tie_fools_more_than_stopping_there(coarsen, grey_images, monkeypatch):
    model = Coarse(coarsen)
    y = model(grey_images).argmax(1)

    def left():
        made = [square(model, grey_images, y, 0.06, queries=40, generator=seeded(seed)) for seed in range(3)]
        return sum(int(correct(model, adv, y).sum()) for adv in made)

    going_on = left()
    monkeypatch.setattr(query_based, "is_fooled", lambda logits, y: adversarial_loss(logits, y, "margin") >= 0)
    assert going_on < left()


def test_of_two_ties_the_mistake_is_kept():
    """Both candidates tie with class 1; the one that ties with class 0 as well is a mistake, at the same margin."""

    class Ties(nn.Module):
        def forward(self, x):
            third = x[:, 0, 1, 1] > 0.6
            return torch.stack([third.float() - 1, torch.zeros(len(x)), torch.zeros(len(x))], dim=1)

    x, y = torch.full((20, 1, 4, 4), 0.5), torch.ones(20, dtype=torch.long)
    assert not correct(Ties(), square(Ties(), x, y, 0.2, queries=200, generator=seeded()), y).any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_name_no_class_are_no_success(images, bad):
    model = Line(torch.full((64,), bad))
    with pytest.raises(ValueError, match=r"image 0 .*finite"):
        square(model, images, torch.zeros(6, dtype=torch.long), 0.1, queries=5)


def test_the_generator_decides(images):
    model = Line(torch.ones(64))
    y = torch.zeros(6, dtype=torch.long)
    one, again, other = (square(model, images, y, 0.1, queries=30, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"queries": 0}, ValueError, "queries must be at least 1"),
        ({"queries": 1.5}, TypeError, "whole number"),
        ({"p_init": 0.0}, ValueError, "share of the image"),
        ({"p_init": 2.0}, ValueError, "share of the image"),
        ({"eps": -0.1}, ValueError, "not negative"),
        ({"clip": (0.0, 0.5)}, ValueError, "x must lie in clip"),
        ({"norm": "l1"}, ValueError, "norm must be one of"),
    ],
)
def test_wrong_input_is_refused_before_the_model_is_asked(images, options, error, words):
    model = Line(torch.ones(64))
    with pytest.raises(error, match=words):
        square(model, images, torch.zeros(6, dtype=torch.long), **{"eps": 0.1} | options)
    assert model.asked == 0


@pytest.mark.parametrize(
    ("queries", "ends"),
    [
        (10_000, [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]),
        (5_000, [5, 25, 100, 250, 500, 1000, 2000, 3000, 4000]),
        (400, [1, 7, 30, 75, 150, 300]),  # as of 1,500
    ],
)
def test_squares_halve_their_area_as_in_the_paper_and_later_where_there_are_few_queries(queries, ends):
    halvings = [query_based._halvings(query, queries) for query in range(queries + 1)]
    assert [query for query in range(queries) if halvings[query + 1] > halvings[query]] == ends
    assert halvings[-1] == len(ends)


def test_few_queries_are_the_beginning_of_more():
    """So more queries never leave more images, as long as sizes are planned for the same number."""
    model = Line(torch.randn(64, generator=seeded(2)))
    model.weights.data -= model.weights.mean()
    x = 0.4 + 0.2 * torch.rand(40, 1, 8, 8, generator=seeded(3))
    y = model(x).argmax(1)
    few, more = (correct(model, square(model, x, y, 0.01, queries=q, generator=seeded()), y) for q in (5, 200))
    assert not (more & ~few).any()
    assert more.sum() < few.sum() < 40
