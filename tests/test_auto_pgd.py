"""APGD: its checkpoints, its losses, and that it is no weaker than PGD with as many steps."""

import pytest
import torch
from conftest import network
from torch import nn

from course_utils.attacks import apgd, pgd
from course_utils.attacks.auto_pgd import ascend, checkpoints
from course_utils.attacks.gradients import adversarial_loss
from course_utils.attacks.threat_model import Neighbourhood


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def test_checkpoints_are_those_of_the_paper():
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == set()
    assert all(0 < end < 7 for end in checkpoints(7))


def test_dlr_is_the_papers_formula():
    logits, y = torch.randn(50, 6, generator=stream()), torch.arange(50) % 6
    largest = logits.sort(1, descending=True).values
    own = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    right = -(own - other) / (largest[:, 0] - largest[:, 2])
    torch.testing.assert_close(adversarial_loss(logits, y, "dlr"), right)
    target = (y + 1) % 6
    aimed = -(own - logits.gather(1, target[:, None]).squeeze(1))
    right = aimed / (largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2)
    torch.testing.assert_close(adversarial_loss(logits, y, "dlr", target), right)


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_dlr_does_not_depend_on_the_scale_of_the_logits(scale):
    logits, y = torch.randn(50, 6, generator=stream()), torch.arange(50) % 6
    torch.testing.assert_close(adversarial_loss(scale * logits, y, "dlr"), adversarial_loss(logits, y, "dlr"))


@pytest.mark.parametrize("target", [None, torch.tensor([1])])
def test_dlr_needs_enough_classes(target):
    with pytest.raises(ValueError, match="classes or more"):
        apgd(nn.Linear(3, 2), torch.rand(1, 3), torch.tensor([0]), 0.1, loss="dlr", target=target)


def crowded(seed=0, n=200):
    """A smooth network with curved borders, images and the labels it gives them."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 6)
        )
        for layer in (model[1], model[3], model[5]):
            layer.weight.data *= 3
    x = torch.rand(n, 1, 4, 4, generator=stream(seed))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_no_weaker_than_pgd_with_as_many_steps(norm):
    eps, fooled = {"linf": 0.03, "l2": 0.08}[norm], {"apgd": 0, "pgd": 0}
    for seed in range(3):
        model, x, y = crowded(seed)
        for attack in (apgd, pgd):
            adv = attack(model, x, y, eps, norm=norm, steps=40, generator=stream())
            fooled[attack.__name__] += int((model(adv).argmax(1) != y).sum())
    assert 60 < fooled["pgd"] < 540
    assert fooled["apgd"] >= fooled["pgd"] - 3


def test_a_target_is_approached_whatever_else_wins():
    model, x, y = crowded()
    target = model(x).argsort(1)[:, 3]
    adv = apgd(model, x, y, 0.05, steps=20, loss="margin", target=target, generator=stream())

    def gap(images):
        z = model(images)
        return (z.gather(1, target[:, None]) - z.gather(1, y[:, None])).squeeze(1)

    assert (gap(adv) > gap(x)).float().mean() > 0.95


def test_images_that_are_fooled_are_left_out_of_the_batch():
    model, x, y = crowded()
    seen = []

    def counting(images):
        seen.append(len(images))
        return model(images)

    ball = Neighbourhood(x, 0.05, "linf", (0.0, 1.0))
    found, passes = ascend(counting, ball, y, x, steps=30, loss="ce", until_fooled=True)
    assert seen[0] == len(x)
    assert seen[-1] == (passes == 31).sum() < len(x)
    assert torch.equal(model(found.best).argmax(1) != y, found.success)
    assert (passes[~found.success] == 31).all()
    assert passes.sum() == sum(seen)


def test_the_best_point_is_that_of_the_highest_loss():
    x, y = torch.rand(6, 1, 4, 4, generator=stream()), torch.arange(6)
    model = network().requires_grad_(False)
    ball, values = Neighbourhood(x, 0.3, "l2", (0.0, 1.0)), []

    def watching(images):
        logits = model(images)
        values.append(adversarial_loss(logits, y, "ce"))
        return logits

    found, _ = ascend(watching, ball, y, x, steps=12, loss="ce")
    never = ~found.success
    torch.testing.assert_close(-found.cost[never], torch.stack(values).amax(0)[never].detach())
