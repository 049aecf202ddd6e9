"""Exercises of chapter 03: rounding decides nothing."""

import pytest
import torch
from answers.pgd_right import gradient, into_both
from conftest import assert_passes, with_noise
from torch.random import fork_rng


@pytest.mark.parametrize(("name", "sign"), [("pgd", 1), ("targeted_pgd", -1)])
def test_rounding_decides_nothing(name, sign):
    @fork_rng([])
    def noisy(model, x, y, eps, steps, step_size):
        adv = x
        for _ in range(steps):
            g = gradient(model, adv, y)
            g = torch.where(g == 0, g, with_noise(g))  # a weight of 0 makes a gradient of 0 in any precision
            adv = into_both(adv + sign * step_size * g.sign(), x, eps)
        return adv

    assert_passes(name, noisy)
