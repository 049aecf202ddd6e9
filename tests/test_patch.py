"""The patch: where it lies, what it leaves alone, and that it learns what is known to be best."""

import math

import pytest
import torch
from torch import nn

from course_utils import models
from course_utils.attacks import adversarial_patch, apply_patch
from course_utils.core import wilson
from course_utils.evaluation import patch_success


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


class Sum(nn.Module):
    """Class 1 where the weighted sum of all pixels is high: a weight for each channel."""

    def __init__(self, weights, bias=0.0):
        super().__init__()
        self.weights, self.bias = nn.Parameter(torch.tensor(weights)), bias

    def forward(self, x):
        lead = x.sum((2, 3)) @ self.weights - self.bias
        return torch.stack([-lead, lead], dim=1)


@pytest.fixture
def photos():
    """Photos without a pixel that a white or a black patch could have."""
    return 0.2 + 0.6 * torch.rand(6, 3, 16, 12, generator=stream(1))


def rectangle(changed):
    """Return top, left, height and width of what is true in a mask (H, W)."""
    rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) - top + 1, int(columns.max()) - left + 1


# Placing --------------------------------------------------------------------------------------------------------------


def test_a_patch_lies_where_it_is_told_to_and_nowhere_else(photos):
    patch = torch.rand(3, 4, 5, generator=stream(2))
    positions = torch.tensor([[0, 0], [12, 7], [3, 2], [0, 7], [12, 0], [5, 5]])
    before = photos.clone()
    patched = apply_patch(photos, patch, positions=positions)
    assert torch.equal(photos, before)
    for image, clean, (top, left) in zip(patched, photos, positions.tolist(), strict=True):
        torch.testing.assert_close(image[:, top : top + 4, left : left + 5], patch)
        beside = torch.ones(16, 12, dtype=torch.bool)
        beside[top : top + 4, left : left + 5] = False
        assert torch.equal(image[:, beside], clean[:, beside])


def test_every_photo_bears_exactly_one_patch(photos):
    """One photo tried at many positions: no trial sees the patch of another."""
    positions = torch.cartesian_prod(torch.arange(0, 13, 4), torch.arange(0, 9, 4))
    patched = apply_patch(photos[:1].expand(len(positions), -1, -1, -1), torch.ones(3, 4, 4), positions=positions)
    assert ((patched == 1).all(1).flatten(1).sum(1) == 16).all()


def test_drawn_places_reach_every_corner_and_stay_inside(photos):
    patched = apply_patch(photos[:1].expand(400, -1, -1, -1), torch.ones(3, 13, 10), generator=stream())
    found = [rectangle(changed) for changed in (patched == 1).all(1)]
    assert {(top, left) for top, left, _, _ in found} == {(top, left) for top in range(4) for left in range(3)}
    assert {(height, width) for _, _, height, width in found} == {(13, 10)}


def test_scales_and_turns(photos):
    x = photos[:1, :, :12].expand(100, -1, -1, -1)
    scaled = apply_patch(x, torch.ones(3, 4, 4), scales=(0.5, 2.0), generator=stream())
    sides = [rectangle(changed)[2:] for changed in (scaled == 1).all(1)]
    assert {height for height, _ in sides} == set(range(2, 9))
    assert all(height == width for height, width in sides)
    turned = apply_patch(x, torch.ones(3, 6, 6), degrees=45, generator=stream())
    area = (turned == 1).all(1).flatten(1).sum(1)
    assert (area - 36).abs().max() <= 6  # as large as it was, but for the pixels at its edge
    assert max(rectangle(changed)[2] for changed in (turned == 1).all(1)) >= 8
    assert ((turned == 1) | (turned == x)).all()


def test_a_black_patch_covers_too(photos):
    patched = apply_patch(photos, torch.zeros(3, 4, 4), degrees=30, scales=(0.9, 1.1), generator=stream())
    assert ((patched == 0).all(1) | (patched == photos).all(1)).all()
    assert ((patched == 0).all(1).flatten(1).sum(1) >= 9).all()


def test_the_gradient_of_the_patch_counts_its_copies(photos):
    patch = torch.rand(3, 4, 4, generator=stream(), requires_grad=True)
    (gradient,) = torch.autograd.grad(apply_patch(photos, patch, generator=stream()).sum(), patch)
    torch.testing.assert_close(gradient, torch.full_like(patch, 6.0))


def test_the_generator_decides_and_the_global_stream_is_left_alone(photos):
    patch, state = torch.ones(3, 4, 4), torch.get_rng_state()
    options = {"scales": (0.8, 1.2), "degrees": 20.0}
    one, again, other = (apply_patch(photos, patch, generator=stream(seed), **options) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert apply_patch(photos[:0], patch).shape == (0, 3, 16, 12)


@pytest.mark.parametrize(
    ("patch", "options", "words"),
    [
        (torch.ones(3, 17, 4), {}, "does not fit"),
        (torch.ones(3, 10, 10), {"scales": (1.5, 1.5)}, "does not fit"),
        (torch.ones(3, 12, 12), {"degrees": 45.0, "generator": stream()}, "does not fit"),
        (torch.ones(1, 4, 4), {}, r"\(3, h, w\)"),
        (torch.ones(1, 3, 4, 4), {}, r"\(3, h, w\)"),
        (torch.full((3, 4, 4), 1.5), {}, "must lie in clip"),
        (torch.ones(3, 4, 4), {"scales": (0.0, 1.0)}, "scales must be"),
        (torch.ones(3, 4, 4), {"scales": (1.2, 1.0)}, "scales must be"),
        (torch.ones(3, 4, 4), {"degrees": -5.0}, "degrees"),
        (torch.ones(3, 4, 4), {"positions": torch.zeros(6, 2)}, "whole numbers"),
        (torch.ones(3, 4, 4), {"positions": torch.zeros(5, 2, dtype=torch.int64)}, r"\(6, 2\)"),
        (torch.ones(3, 4, 4), {"positions": torch.full((6, 2), -1)}, "from 0"),
        (torch.ones(3, 4, 4), {"positions": torch.full((6, 2), 9)}, "stick out"),
    ],
)
def test_a_patch_that_cannot_be_placed_is_refused(photos, patch, options, words):
    with pytest.raises(ValueError, match=words):
        apply_patch(photos, patch, **options)


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [0, 1])
def test_it_learns_the_best_patch_of_a_sum(photos, target):
    """Red counts for class 1 and green against it, blue not at all: the best patch is known pixel by pixel."""
    patch = adversarial_patch(Sum([0.1, -0.1, 0.0]), photos, target, size=4, steps=20, generator=stream())
    best = torch.tensor([1.0, 0.0, 0.5] if target else [0.0, 1.0, 0.5]).view(3, 1, 1).expand(3, 4, 4)
    assert torch.equal(patch, best)


def test_it_works_at_places_and_on_photos_it_has_not_seen(photos):
    """The photos say class 0 by a lead that only some 9 of the 16 pixels of a red patch can turn."""
    x = torch.cat([photos, photos.flip(3)])
    model = Sum([1.0, 0.0, 0.0], bias=0.5 * 16 * 12 + 5)
    assert (model(x).argmax(1) == 0).all()
    options = {"scales": (0.9, 1.1), "degrees": 20.0}
    patch = adversarial_patch(model, photos[:3], 1, size=6, steps=30, generator=stream(), **options)
    table = patch_success(model, x[3:], {"trained": patch, "grey": torch.full_like(patch, 0.5)}, 1, **options)
    assert table.set_index("patch").successes.to_dict() == {"trained": 9, "grey": 0}


def test_it_leaves_no_trace(photos):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = models.small_cnn(batch_norm=True).train()
    x = torch.rand(3, 1, 28, 28, generator=stream())
    before, values = x.clone(), {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        patch = adversarial_patch(model, x, 3, size=8, steps=2, generator=stream())
        again = adversarial_patch(model, x, 3, size=8, steps=2, generator=stream())
    assert torch.equal(patch, again)
    assert not patch.requires_grad
    assert patch.shape == (1, 8, 8)
    assert 0 <= patch.min() <= patch.max() <= 1
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("target", "options", "error", "words"),
    [
        (2, {}, ValueError, "2 outputs"),
        (-1, {}, ValueError, "labels start at 0"),
        (1.0, {}, TypeError, "one class"),
        (1, {"size": 0}, ValueError, "size must be at least 1"),
        (1, {"size": 13}, ValueError, "does not fit"),
        (1, {"steps": 1.5}, TypeError, "whole number"),
        (1, {"step_size": -1.0}, ValueError, "step_size"),
    ],
)
def test_a_training_that_cannot_be_is_refused(photos, target, options, error, words):
    with pytest.raises(error, match=words):
        adversarial_patch(Sum([1.0, 0.0, 0.0]), photos, target, **{"size": 4} | options)


def test_no_photos_are_refused(photos):
    with pytest.raises(ValueError, match="at least one photo"):
        adversarial_patch(Sum([1.0, 0.0, 0.0]), photos[:0], 1, size=4)


# Comparing ------------------------------------------------------------------------------------------------------------


def test_photos_that_show_the_target_without_a_patch_do_not_count(photos):
    x = photos.clone()
    x[:2] = 1  # class 1 as it is
    model = Sum([1.0, 1.0, 1.0], bias=0.5 * 3 * 16 * 12 + 20)
    row = patch_success(model, x, {"white": torch.ones(3, 8, 8)}, 1).iloc[0]
    assert (row.n, row.successes) == (4, 4)
    assert (row.low, row.high) == pytest.approx(wilson(4, 4))
    nobody = patch_success(model, x[:2], {"white": torch.ones(3, 8, 8)}, 1).iloc[0]
    assert nobody.n == 0
    assert math.isnan(nobody.share)


def test_patches_are_compared_at_the_same_places(photos):
    patched = []

    def spy(x):
        patched.append((x == 1).all(1))
        return torch.zeros(len(x), 2)

    patch_success(spy, photos, {"one": torch.ones(3, 4, 4), "two": torch.ones(3, 4, 4)}, 1, seed=3)
    assert torch.equal(patched[1], patched[2])
    assert patched[1].any()
