"""Exercises of chapter 07: luck and rounding decide nothing; the step on two branches is the course's own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_passes, with_noise
from torch import nn

from course_utils import models, training
from course_utils.exercises import adversarial_training, cheaper_training
from course_utils.training import fitting


@pytest.mark.parametrize("seed", range(8))
def test_luck_refuses_no_right_answer(seed):
    """Each seed is another draw of the starts."""

    def lucky(*task):
        torch.rand(seed + 1)
        return cheaper_training._n_fgsm()(*task)

    assert_passes("n_fgsm_step", lucky)


def noisy(gradient):
    with torch.random.fork_rng([]):
        return torch.where(gradient == 0, 0.0, with_noise(gradient).sign())


def attack(*task):
    return adversarial_training._fgsm(*task, move=noisy)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("branch_step", cheaper_training._halves(attack=attack)),
        ("n_fgsm_step", cheaper_training._n_fgsm(move=noisy)),
    ],
)
def test_rounding_decides_nothing(name, answer):
    assert_passes(name, answer)


@pytest.mark.parametrize("mode", [True, False])
def test_the_branch_step_is_what_fit_makes_small(mode):
    torch.manual_seed(0)
    model = models.dual_batch_norm(models.small_cnn(batch_norm=True, dropout=0.0)).train(mode)
    for layer in model.modules():
        if isinstance(layer, models.DualBatchNorm2d):
            nn.init.uniform_(layer.auxiliary.weight, 0.2, 2.0)
    x, y = torch.rand(8, 1, 28, 28), torch.arange(8)
    objective = fitting._Objective(F.cross_entropy, training.Adversary("fgsm", 0.1), 0.5, "auxiliary")
    mine, its = copy.deepcopy(model), copy.deepcopy(model)
    right = cheaper_training._branch_step(mine, x, y, 0.1, models.branch)
    torch.testing.assert_close(right, objective(its, x, y)[0])
    for key, value in its.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value)
