"""A random stream for each image: the same numbers in every batch, and nobody else's."""

import pytest
import torch

from course_utils.attacks.image_streams import ImageStreams


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("sizes", [(1, 6), (1, 1, 1, 1, 1, 1, 1), (7,), (3, 4)])
def test_batches_one_after_the_other_draw_what_one_batch_draws(kind, sizes):
    whole, generator = ImageStreams(7, "cpu", seeded()), seeded()
    parts = [ImageStreams(size, "cpu", generator) for size in sizes]
    for _ in range(2):  # and go on so
        drawn = torch.cat([getattr(part, kind)(torch.arange(len(part.streams)), 20) for part in parts])
        assert torch.equal(drawn, getattr(whole, kind)(torch.arange(7), 20))


def test_an_image_that_is_left_out_changes_nothing_for_the_others():
    one, other = (ImageStreams(3, "cpu", seeded()) for _ in range(2))
    one.uniform(torch.tensor([1]), 5)
    rows = torch.tensor([2, 0])
    assert torch.equal(one.uniform(rows, 4, 2), other.uniform(rows, 4, 2))


def test_the_streams_differ_and_have_the_distribution_of_their_name():
    streams, rows = ImageStreams(50, "cpu", seeded()), torch.arange(50)
    uniform, normal = streams.uniform(rows, 4000), streams.normal(rows, 4000)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert (uniform.mean(1) - 0.5).abs().max() < 0.03  # five standard errors are .023
    assert normal.mean(1).abs().max() < 0.1
    assert (normal.std(1) - 1).abs().max() < 0.07
    assert torch.corrcoef(uniform).fill_diagonal_(0).abs().max() < 0.1


def test_the_global_stream_is_used_only_without_a_generator():
    before = torch.get_rng_state()
    ImageStreams(3, "cpu", seeded()).normal(torch.arange(3), 5)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng([]):
        ImageStreams(3, "cpu", None)
        assert not torch.equal(torch.get_rng_state(), before)
