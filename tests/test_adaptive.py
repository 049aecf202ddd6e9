"""Every way to attack the defence, on a defence whose weak point is known."""

import pytest
import torch
from torch import nn

from course_utils.attacks import pgd
from course_utils.defences.robust_manifold import (
    ADAPTIVE,
    ManifoldDefense,
    adaptive_attacks,
    autoencoder_surrogate,
    on_manifold,
    with_gradient,
)
from course_utils.evaluation import accuracy, correct, worst_case


class Plane(nn.Module):
    """G(z): the first two of 16 pixels move, the others are 1/2."""

    latent = 2

    def forward(self, z):
        return torch.cat([0.5 + 0.3 * z.tanh(), torch.full((len(z), 14), 0.5)], dim=1).view(-1, 1, 4, 4)


class Encoder(nn.Module):
    def forward(self, x):
        return ((x.flatten(1)[:, :2] - 0.5) / 0.3).clamp(-0.99, 0.99).atanh()


class Distracted(nn.Module):
    """Looks at the first pixel a little, and much more at the pixels that the generator leaves alone."""

    def forward(self, x):
        x = x.flatten(1) - 0.5
        lead = 5 * x[:, 0] + 20 * x[:, 2:].sum(1)
        return torch.stack([-lead, lead], dim=1)


@pytest.fixture
def defence():
    return ManifoldDefense(Distracted(), Plane(), encoder=Encoder(), steps=60, restarts=2, seed=0)


@pytest.fixture
def images():
    """Images that the first pixel decides, by 0.15."""
    y = torch.arange(10) % 2
    x = Plane()(torch.randn(10, 2, generator=torch.Generator().manual_seed(0)))
    x[:, 0, 0, 0] = 0.35 + 0.3 * y
    return x, y


def test_the_naive_attack_is_undone_and_the_adaptive_ones_are_not(defence, images):
    """A radius of 0.2 crosses the boundary in the plane; the classifier's own gradient mostly leaves the plane."""
    x, y = images
    assert accuracy(defence, x, y) == 1
    advs = adaptive_attacks(defence, x, y, 0.2, steps=20, progress=False)
    assert tuple(advs) == ADAPTIVE
    for name in ("unrolled", "implicit", "latent"):
        assert accuracy(defence, advs[name], y) == 0, name
    assert worst_case(*(correct(defence, adv, y) for adv in advs.values())).sum() == 0


def test_nothing_crosses_a_boundary_that_is_out_of_reach(defence, images):
    x, y = images
    for name, adv in adaptive_attacks(defence, x, y, 0.05, steps=10, progress=False).items():
        assert accuracy(defence, adv, y) == 1, name


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_all_stay_in_ball_and_box(defence, images, norm):
    x, y = images
    generator = torch.Generator().manual_seed(0)
    for adv in adaptive_attacks(defence, x, y, 0.3, norm=norm, steps=3, generator=generator, progress=False).values():
        change = (adv - x).flatten(1)
        assert (change.abs().amax(1) if norm == "linf" else change.norm(dim=1)).max() <= 0.3
        assert adv.min() >= 0
        assert adv.max() <= 1


def test_the_latent_image_goes_from_x_towards_the_nearest_other_class(defence, images):
    x, y = images
    adv = on_manifold(defence, x, y, 0.2)
    toward = (1 - 2 * y) * (adv - x)[:, 0, 0, 0]
    assert (toward >= 0.15).all()
    assert ((adv - x).flatten(1)[:, 2:].abs() < 0.01).all()


def test_a_random_defence_is_attacked_in_expectation(images):
    x, y = images
    drawn = []

    class Counted(Plane):
        def forward(self, z):
            drawn.append(len(z))
            return super().forward(z)

    defence = ManifoldDefense(Distracted(), Counted(), steps=3)
    options = {"attacks": ["BPDA"], "steps": 1, "restarts": 1, "progress": False}
    for samples in (1, 4):
        drawn.append(-1)
        adaptive_attacks(defence, x, y, 0.1, samples=samples, **options)
    single = sum(drawn[1 : drawn.index(-1, 1)])
    assert sum(drawn[drawn.index(-1, 1) + 1 :]) == 4 * single
    assert "autoencoder" not in adaptive_attacks(defence, x, y, 0.1, steps=1, progress=False)


def test_another_gradient_is_another_view_of_the_same_networks(defence):
    straight = with_gradient(defence.eval(), bpda=True)
    assert straight.classifier is defence.classifier
    assert straight.generator is defence.generator
    assert (straight.steps, straight.seed, straight.training) == (defence.steps, defence.seed, False)


def test_the_surrogate_is_the_autoencoder(defence, images):
    x, _ = images
    torch.testing.assert_close(autoencoder_surrogate(defence)(x), Distracted()(Plane()(Encoder()(x))))
    with pytest.raises(ValueError, match="encoder"):
        autoencoder_surrogate(ManifoldDefense(Distracted(), Plane()))


def test_a_new_start_is_spent_only_where_the_defence_still_stands(defence, images, monkeypatch):
    x, y = images
    x[:4] = Plane()(torch.zeros(4, 2))  # on the boundary: these fall at once
    attacked = []

    def counted(model, some, *args, **options):
        attacked.append(len(some))
        return pgd(model, some, *args, **options)

    monkeypatch.setattr("course_utils.defences.robust_manifold.adaptive.pgd", counted)
    options = {"attacks": ["implicit"], "steps": 5, "progress": False}
    adv = adaptive_attacks(defence, x, y, 0.05, restarts=3, **options)["implicit"]
    assert attacked == [10, 6, 6]
    assert correct(defence, adv, y).tolist() == [False] * 4 + [True] * 6


def test_later_starts_aim_at_one_class_after_the_other_the_likeliest_first(images, monkeypatch):
    """Three classes of which the first pixel decides between 0 and 1, and class 2 is always last."""
    x, y = images
    three = nn.Sequential(Distracted(), nn.ConstantPad1d((0, 1), -9.0))
    defence, aims = ManifoldDefense(three, Plane(), encoder=Encoder(), seed=0), []

    def noted(model, some, labels, *args, targeted, **options):
        aims.append((targeted, labels.tolist()))
        return pgd(model, some, labels, *args, targeted=targeted, **options)

    monkeypatch.setattr("course_utils.defences.robust_manifold.adaptive.pgd", noted)
    adaptive_attacks(defence, x, y, 0.01, attacks=["implicit"], steps=1, restarts=4, progress=False)
    other = (True, (1 - y).tolist())
    assert aims == [(False, y.tolist()), other, (True, [2] * 10), other]


def test_no_start_is_spent_where_nothing_stands(defence, images):
    x, y = images
    adv = adaptive_attacks(defence, x, y, 0.2, attacks=["implicit"], steps=20, restarts=4, progress=False)["implicit"]
    assert accuracy(defence, adv, y) == 0


def test_an_unknown_attack_is_refused_with_a_proposal(defence, images):
    with pytest.raises(ValueError, match="BPDA"):
        adaptive_attacks(defence, *images, 0.1, attacks=["bpda"])
    with pytest.raises(ValueError, match="samples"):
        adaptive_attacks(defence, *images, 0.1, samples=0)
