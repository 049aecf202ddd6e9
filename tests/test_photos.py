"""Photographs: those of the packages, those of the reader, whole, odd and broken; and what a network is given."""

import torch

from course_utils import data


def test_the_six_samples_are_what_a_network_takes():
    photos = data.load_photos()
    assert len(photos) == 6
    for photo in photos.values():
        assert photo.shape[0] == 3
        assert torch.equal((photo * 255).round() / 255, photo)
    x = data.preprocess(photos)
    assert x.shape == (6, 3, 224, 224)
    assert torch.equal((x * 255).round() / 255, x)
