"""The best candidate of every image: against a plain loop over images."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.attacks.best_so_far import BestSoFar

COSTS = st.sampled_from([-math.inf, -1.5, 0.0, 0.25, 3.0, math.inf])
CANDIDATE = st.tuples(COSTS, st.booleans())
N = 4
KINDS = (torch.float32, torch.bool)  # of a cost and of a success


@settings(max_examples=100)
@given(st.lists(st.tuples(st.lists(CANDIDATE, min_size=N, max_size=N), st.sets(st.integers(0, N - 1))), max_size=6))
def test_every_image_keeps_its_best_candidate(rounds):
    """Success goes before failure, then the lower cost, and of equals the first; whatever rows are offered."""
    start = torch.zeros(N, 2, 3)
    found, best = BestSoFar(start), [(0.0, math.inf, False)] * N
    for number, (candidates, chosen) in enumerate(rounds, 1):
        rows = sorted(chosen) if number % 2 else list(range(N))
        cost, success = (torch.tensor([candidates[row][k] for row in rows], dtype=d) for k, d in enumerate(KINDS))
        offered = torch.full((len(rows), 2, 3), float(number))
        better = found.offer(
            offered, cost, success, torch.tensor(rows, dtype=torch.int64) if number % 2 else slice(None)
        )
        offered.fill_(math.nan)  # what is offered is copied: the attack may go on to write into it
        for place, row in enumerate(rows):
            value, won = candidates[row]
            first = (not won, value) < (not best[row][2], best[row][1])
            assert better[place] == first
            best[row] = (float(number), value, won) if first else best[row]
    assert found.best[:, 1, 2].tolist() == [image for image, _, _ in best]
    assert found.cost.tolist() == [cost for _, cost, _ in best]
    assert found.success.tolist() == [success for _, _, success in best]
    assert (start == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_images_keep_their_type_and_costs_take_theirs(dtype):
    found = BestSoFar(torch.zeros(2, 3, dtype=dtype))
    found.offer(torch.ones(2, 3, dtype=dtype), torch.tensor([1.0, math.inf], dtype=torch.float64))
    assert found.best.dtype == dtype
    assert found.cost.dtype == torch.float64
    assert found.best.tolist() == [[1.0] * 3, [0.0] * 3]
