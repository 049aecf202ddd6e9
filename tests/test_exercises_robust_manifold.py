"""Exercises of chapters 08 and 09: their answers are what the library does, and their pairs what their names say."""

import pytest
import torch
from conftest import assert_passes, with_noise
from torch import nn

from course_utils.defences.robust_manifold import LatentPairs, ManifoldDefense, project_to_range
from course_utils.exercises import robust_manifold
from course_utils.models import decoder


def test_steps_of_the_projection_come_as_near_as_the_library():
    torch.manual_seed(0)
    generator, x = decoder(latent=2), torch.rand(3, 1, 28, 28)
    z = torch.zeros(3, 2)
    _, near = project_to_range(generator, x, restarts=1, init=z)
    for _ in range(300):
        z = robust_manifold._projection_step(generator, z, x, 0.01)
    assert (robust_manifold._squared(generator(z), x) <= 1.01 * robust_manifold._squared(near, x)).all()


def test_the_straight_gradient_is_the_defences():
    torch.manual_seed(0)
    classifier, x = nn.Sequential(nn.Flatten(), nn.Linear(784, 5)), torch.rand(3, 1, 28, 28)
    defence = ManifoldDefense(classifier, decoder(latent=2), steps=5, restarts=1, bpda=True, seed=0)
    gradients = []
    for logits in (defence, lambda v: classifier(robust_manifold._bpda(lambda w: defence.project(w)[1], v))):
        watched = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(logits(watched).square().sum(), watched)[0])
    torch.testing.assert_close(*gradients)


def test_pairs_of_the_library_can_be_judged():
    """Pairs that were not found have an infinite distance: they are none of the three."""
    pairs = LatentPairs(*torch.zeros(6, 2), torch.tensor([0.5, torch.inf]))
    logits = torch.eye(4)[:, None].expand(-1, 2, -1)
    masks = torch.stack(robust_manifold._label_flipping(logits[:2], 20 * logits[2:], pairs.distance, 1.5, 0.8))
    assert torch.equal(masks.any(0), pairs.found)


VERDICTS = None, None, "ambiguous", "adversarial", "label-flipping"


@pytest.mark.parametrize(("kind", "verdict"), list(zip(robust_manifold.ALL, VERDICTS, strict=True)))
def test_pairs_are_what_their_kind_says(kind, verdict):
    for sure in (0.7, 0.8, 0.9):
        masks = robust_manifold._label_flipping(*robust_manifold._pairs(kind, sure=sure))
        found = dict(zip(robust_manifold.KINDS, masks, strict=True))
        assert all(mask.all() if name == verdict else not mask.any() for name, mask in found.items())


def test_rounding_decides_nothing():
    noisy = robust_manifold._step(move=lambda z, g, lr: z - lr * with_noise(g))
    assert_passes("projection_step", torch.random.fork_rng([])(noisy))
