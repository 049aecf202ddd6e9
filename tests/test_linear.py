"""Linear classifiers: the formulas against every corner of a small ball, and against gradient attacks."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.attacks import fgsm, pgd
from course_utils.evaluation import accuracy
from course_utils.models import linear


def draw(d, classes, n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(classes, d, generator=generator), 0.2 * torch.randn(classes, generator=generator)
    x = torch.rand(n, d, generator=generator)
    y = (x @ weight.T + bias + 0.3 * torch.randn(n, classes, generator=generator)).argmax(1)
    return weight, bias, x, y


def corners(d, eps):
    return eps * torch.tensor(list(product([-1.0, 1.0], repeat=d)))


@pytest.mark.parametrize("eps", [0.0, 0.03, 0.2])
def test_the_loss_is_the_largest_over_all_corners(eps):
    weight, _, x, _ = draw(5, 1)
    w, b = weight[0], torch.tensor(-0.3)
    y = torch.where(torch.arange(len(x)) % 3 == 0, -1.0, 1.0)
    changed = x[:, None] + corners(5, eps)  # (n, 32, d)
    found = F.softplus(-y[:, None] * (changed @ w + b)).amax(1).mean()
    torch.testing.assert_close(linear.worst_case_loss(w, b, x, y, eps), found)


def test_the_loss_can_be_trained_on_and_stays_finite():
    w = torch.full((3,), 100.0, requires_grad=True)
    loss = linear.worst_case_loss(w, torch.tensor(0.0), torch.rand(4, 3), -torch.ones(4), 1.0)
    (gradient,) = torch.autograd.grad(loss, w)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().min() > 0


@pytest.mark.parametrize("eps", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_accuracy_is_the_lowest_over_all_corners(eps, classes):
    weight, bias, x, y = draw(5, classes, seed=classes)
    logits = (x[:, None] + corners(5, eps)) @ weight.T + bias
    stays = (logits.argmax(2) == y[:, None]).all(1).float().mean().item()
    assert linear.exact_accuracy(weight, bias, x, y, eps) == pytest.approx(stays)


def test_no_attack_does_more_and_with_two_classes_one_step_is_enough():
    for classes in (2, 6):
        weight, bias, x, y = draw(30, classes, seed=classes)
        model = nn.Linear(30, classes)
        model.load_state_dict({"weight": weight, "bias": bias})
        exact = linear.exact_accuracy(weight, bias, x, y, 0.05)
        one_step = accuracy(model, fgsm(model, x, y, 0.05, clip=None), y)
        many = accuracy(model, pgd(model, x, y, 0.05, steps=20, loss="margin", clip=None), y)
        assert exact <= min(one_step, many) + 1e-6
        assert classes > 2 or one_step == pytest.approx(exact, abs=0.005)  # an image at the border


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.rand(3, 1, 2, 2)}, "flatten"),
        ({"x": torch.rand(3, 5)}, "same d"),
        ({"eps": -0.1}, "at least 0"),
        ({"eps": float("nan")}, "at least 0"),
        ({"y": torch.tensor([0, 1, 2])}, "from 0 to 1"),
        ({"y": torch.tensor([0, 1])}, "3 images"),
        ({"x": torch.rand(0, 4), "y": torch.zeros(0, dtype=torch.int64)}, "0 images"),
    ],
)
def test_the_accuracy_refuses_what_does_not_fit(change, words):
    given = {"weight": torch.rand(2, 4), "bias": torch.zeros(2), "x": torch.rand(3, 4), "y": torch.tensor([0, 1, 0])}
    with pytest.raises(ValueError, match=words):
        linear.exact_accuracy(**given | {"eps": 0.1} | change)


def test_what_is_measured_agrees_with_attacks_on_each_image():
    weight, _, x, _ = draw(5, 1)
    w, b, eps = weight[0], torch.tensor(-0.3), 0.1
    y = (x @ w + b + 0.3 * torch.randn(len(x), generator=torch.Generator().manual_seed(1))).sign()
    found = linear.measure(w, b, x, y, eps)
    assert found["clean accuracy"] == pytest.approx((y * (x @ w + b) > 0).float().mean().item())
    worst = (y[:, None] * ((x[:, None] + corners(5, eps)) @ w + b)).amin(1)
    assert found["exact accuracy"] == pytest.approx((worst > 0).float().mean().item())
    signs = (corners(5, eps) @ w).square().mean().sqrt()  # over all random signs
    assert found["‖w‖₁/‖w‖₂"] == pytest.approx(((corners(5, eps) @ w).max() / signs).item(), rel=1e-5)
    to_border = x - ((x @ w + b) / w.square().sum())[:, None] * w  # the nearest point with f = 0
    signed = (x - to_border).norm(dim=1) * (y * (x @ w + b)).sign()
    assert found["median L2 distance"] == pytest.approx(signed.median().item(), rel=1e-4)


@pytest.mark.parametrize("y", [torch.tensor([0.0, 1.0]), torch.ones(3)])
def test_the_loss_refuses_other_labels(y):
    with pytest.raises(ValueError, match="−1 or"):
        linear.worst_case_loss(torch.rand(4), torch.tensor(0.0), torch.rand(2, 4), y, 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_other_pixels_of_equal_weight(seed):
    w = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    pixels = torch.arange(200) < 60
    others = linear.others_of_equal_weight(w, pixels, seed)
    missing = w[pixels].abs().sum() - w[others].abs().sum()
    assert not (others & pixels).any()
    assert 0 <= missing <= w.abs().max()
    assert torch.equal(others, linear.others_of_equal_weight(w, pixels, seed))
    assert not torch.equal(others, linear.others_of_equal_weight(w, pixels, seed + 1))


def test_other_pixels_are_refused_for_what_is_no_mask():
    with pytest.raises(TypeError, match="bool"):
        linear.others_of_equal_weight(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match="flatten"):
        linear.others_of_equal_weight(torch.ones(3), torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_border_is_reached_at_its_distance_and_not_before(seed):
    weight, bias, x, y = draw(6, 4, seed) if seed else draw(6, 4)
    distance = linear.border_distance(weight, bias, x, y)
    logits = x @ weight.T + bias
    assert torch.equal(distance == 0, logits.argmax(1) != y)
    for row, label, far in zip(x, y, distance, strict=True):
        others = [k for k in range(len(weight)) if k != label]
        steps = torch.stack([(weight[k] - weight[label]) / (weight[k] - weight[label]).norm() for k in others])
        for factor, crossed in ((0.999, False), (1.001, True)):
            moved = (row + factor * far * steps) @ weight.T + bias
            if far > 1e-3:
                assert bool((moved.argmax(1) != label).any()) == crossed


def test_the_distance_to_the_border_is_refused_for_labels_that_are_no_class():
    with pytest.raises(ValueError, match="from 0 to 1"):
        linear.border_distance(torch.rand(2, 3), torch.zeros(2), torch.rand(1, 3), torch.tensor([2]))
