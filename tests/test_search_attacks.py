"""The square attack: what it may touch, how far it gets without gradients, and how many outputs it asks for."""

import pytest
import torch
from torch import nn

from course_utils import models
from course_utils.attacks import pgd, square
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


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=seeded(1))


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (3, 3, 9, 5), (4, 20), (2, 1, 1, 7)])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.3, 1.0])
def test_the_answer_is_a_new_tensor_in_ball_and_box(shape, eps):
    x = torch.rand(shape, generator=seeded())
    before = x.clone()
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 3))
    adv = square(model, x, torch.zeros(len(x), dtype=torch.long), eps, queries=20, generator=seeded())
    assert torch.equal(x, before)
    assert adv is not x
    assert adv.shape == x.shape
    assert not adv.requires_grad
    assert (adv - x).abs().max().item() <= eps
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert torch.equal(adv, x) == (eps == 0)


def test_more_queries_come_nearer_to_the_worst_case_of_a_line_and_never_pass_it(images):
    model = Line(torch.randn(64, generator=seeded(2)))
    model.weights.data += 0.3  # class 0 for all, by far: nobody is fooled, so the search goes on to its end
    x, y = 0.4 + 0.2 * images, torch.zeros(6, dtype=torch.long)
    worst = 2 * 0.1 * model.weights.abs().sum()
    reached = []
    for queries in (1, 50, 2000):
        adv = square(model, x, y, 0.1, queries=queries, generator=seeded())
        reached.append(((model.margin(adv) - model.margin(x)) / worst).detach())
    assert (reached[0] <= reached[1]).all()
    assert (reached[1] <= reached[2]).all()
    assert (reached[2] <= 1 + 1e-5).all()
    assert reached[2].mean() > 0.9


def test_a_fooled_image_is_not_asked_about_again(images):
    model = Line(torch.full((64,), 0.001))
    square(model, images, torch.ones(6, dtype=torch.long), 0.1, queries=100)  # all are wrong from the beginning
    assert model.asked == 6
    stubborn = Line(torch.ones(64))
    square(stubborn, 0.8 + 0.1 * images, torch.zeros(6, dtype=torch.long), 0.1, queries=100)
    assert stubborn.asked == 600


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


def test_it_leaves_no_trace(images):
    x = torch.rand(4, 1, 28, 28, generator=seeded())
    model = models.small_cnn(batch_norm=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    square(model, x, torch.arange(4), 0.1, queries=10, generator=seeded())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)


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
        ({"first": 0.0}, ValueError, "share of the image"),
        ({"first": 2.0}, ValueError, "share of the image"),
        ({"eps": -0.1}, ValueError, "not negative"),
        ({"clip": (0.0, 0.5)}, ValueError, "x must lie in clip"),
    ],
)
def test_wrong_input_is_refused_before_the_model_is_asked(images, options, error, words):
    model = Line(torch.ones(64))
    with pytest.raises(error, match=words):
        square(model, images, torch.zeros(6, dtype=torch.long), **{"eps": 0.1} | options)
    assert model.asked == 0
