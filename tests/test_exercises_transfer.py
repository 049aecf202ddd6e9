"""What the checks of chapter 05 hold for beside what all exercises do: rounding decides nothing."""

import pytest
import torch
import torch.nn.functional as F
from answers.transfer_right import RIGHT, gradient
from conftest import assert_passes, with_noise

from course_utils.exercises import check, engine

NEIGHBOURS = engine._CHECKERS["neighbour_step"][0].__self__


@torch.random.fork_rng([])
def noisy_augmentation(model, x, labels, lam):
    g = gradient(model, x, labels, F.nll_loss)
    return (x - lam * torch.where(g == 0, g, with_noise(g)).sign()).clamp(0, 1)


@torch.random.fork_rng([])
def noisy_momentum(model, x, y, eps, steps, decay):
    adv, momentum = x, 0
    for _ in range(steps):
        g = gradient(model, adv, y)
        g = torch.where(g == 0, g, with_noise(g))  # a weight of 0 makes a gradient of 0 in any precision
        momentum = decay * momentum + g / g.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
        adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)
    return adv


@pytest.mark.parametrize(
    ("name", "answer"), [("jacobian_augment", noisy_augmentation), ("momentum_fgsm", noisy_momentum)]
)
def test_rounding_decides_nothing(name, answer):
    assert_passes(name, answer)


def test_the_nearest_image_is_no_matter_of_rounding():
    for case, (x, y, x_train, y_train, _) in NEIGHBOURS.trials:
        distances = torch.cdist(x.flatten(1), x_train.flatten(1)).masked_fill(y[:, None] == y_train, torch.inf)
        nearest, second = distances.topk(2, largest=False).values.T
        assert (second - nearest).min() > 1e-3, case.label


@pytest.mark.parametrize("name", list(RIGHT))
def test_checks_do_not_depend_on_the_notebooks_settings(name, odd_settings):
    assert check(name, RIGHT[name][0], strict=True)
