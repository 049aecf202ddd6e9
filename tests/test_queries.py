"""Accuracy against queries: what one run of a decision-based attack says about every radius."""

import pytest
import torch

from course_utils.attacks import hopskipjump
from course_utils.evaluation import accuracy_by_queries, correct

X = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))
Y = (X.flatten(1) @ WEIGHTS).argmax(1)
Y[0] = (Y[0] + 1) % 3  # wrong from the start
SIZES = [0.02, 0.1, 0.5]


def model(x):
    return x.flatten(1) @ WEIGHTS


def test_the_last_row_counts_what_the_attack_returns():
    frame = accuracy_by_queries(model, X, Y, SIZES, queries=300, seed=4)
    adv = hopskipjump(model, X, Y, norm="linf", queries=300, generator=torch.Generator().manual_seed(4))
    changed, right = (adv - X).flatten(1).abs().amax(1), correct(model, X, Y)
    for size in SIZES:
        assert frame[size].iloc[-1] == pytest.approx((right & (changed > size)).float().mean().item())


def test_more_queries_and_larger_radii_leave_less():
    frame = accuracy_by_queries(model, X, Y, SIZES, queries=300)
    assert frame.index.name == "queries"
    assert frame.index.is_monotonic_increasing
    assert frame.index[0] == 0
    assert frame.index[-1] <= 300
    assert frame.iloc[0].tolist() == pytest.approx([11 / 12] * 3)
    assert (frame.diff().iloc[1:] <= 0).all().all()
    assert (frame.diff(axis=1).iloc[:, 1:] <= 0).all().all()


def test_images_for_which_nothing_is_found_count_as_right():
    frame = accuracy_by_queries(lambda x: torch.eye(3)[torch.zeros(len(x)).long()], X, torch.zeros(12).long(), [1.0])
    assert frame[1.0].tolist() == [1.0] * len(frame)
