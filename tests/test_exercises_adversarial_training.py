"""Exercises of chapter 06: rounding decides nothing."""

import torch
from conftest import assert_passes, with_noise

from course_utils.exercises import adversarial_training


def noisy(gradient):
    with torch.random.fork_rng([]):
        return torch.where(gradient == 0, 0.0, with_noise(gradient).sign())


def attack(*task):
    return adversarial_training._fgsm(*task, move=noisy)


def test_rounding_decides_nothing():
    assert_passes("mixed_loss", adversarial_training._mixed(attack=attack))
