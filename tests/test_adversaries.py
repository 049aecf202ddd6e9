"""Attacks for training: their names, their radius over time, and the perturbation of free training."""

import warnings

import pytest
import torch
from torch import nn

from course_utils import attacks
from course_utils.attacks import fgsm_rs, uniform_noise
from course_utils.training import ATTACKS, Adversary, FreeAdversary, Trades, trades_loss

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(6, 1, 4, 4, generator=GENERATOR)
Y = torch.arange(6) % 3
EPS = 0.1


@pytest.fixture
def model():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "n_fgsm"])
def test_every_adversary_stays_in_ball_and_box(name, model):
    adv = Adversary(name, EPS)(model, X, Y)
    assert 0 < (adv - X).abs().max() <= EPS
    assert adv.min() >= 0
    assert adv.max() <= 1


def test_an_adversary_is_its_attack(model):
    assert torch.equal(Adversary("fgsm", EPS)(model, X, Y), attacks.fgsm(model, X, Y, EPS))
    options = {"steps": 3, "random_start": False}
    assert torch.equal(Adversary("pgd", EPS, options)(model, X, Y), attacks.pgd(model, X, Y, EPS, **options))


def test_fgsm_rs_is_one_step_of_five_quarters_from_a_random_start(model):
    """On a linear model the gradient's sign is the same everywhere, so that the answer is known."""
    torch.manual_seed(3)
    start = uniform_noise(model, X, Y, EPS)
    torch.manual_seed(3)
    adv = fgsm_rs(model, X, Y, EPS)
    sign = attacks.input_gradient(model, X, Y).sign()
    moved = start + 1.25 * EPS * sign
    expected = torch.minimum(torch.maximum(moved, X - EPS), X + EPS).clamp(0, 1)
    assert torch.allclose(adv, expected, atol=1e-6)
    torch.manual_seed(3)
    shorter = fgsm_rs(model, X, Y, EPS, step_size=0.2 * EPS)
    assert torch.allclose(shorter, (start + 0.2 * EPS * sign).clamp(X - EPS, X + EPS).clamp(0, 1), atol=1e-6)


def test_n_fgsm_is_one_step_of_eps_from_noise_and_has_no_ball(model):
    x = 0.5 + 0.1 * (X - 0.5)
    torch.manual_seed(3)
    start = uniform_noise(model, x, Y, 0.15)
    torch.manual_seed(3)
    adv = Adversary("n_fgsm", EPS, {"noise": 1.5})(model, x, Y)
    assert torch.allclose(adv, (start + EPS * attacks.input_gradient(model, x, Y).sign()).clamp(0, 1), atol=1e-6)
    assert 0.15 < (adv - x).abs().max() <= 0.25


def test_trades_makes_its_images_without_labels(model):
    trades = Trades(EPS, steps=4)
    torch.manual_seed(0)
    adv = trades(model, X, Y)
    torch.manual_seed(0)
    assert torch.equal(adv, trades(model, X, (Y + 1) % 3))
    assert 0.9 * EPS < (adv - X).abs().max() <= EPS
    assert adv.min() >= 0
    assert adv.max() <= 1
    divergence = [trades_loss(model(X), model(images), Y, 1.0) for images in (adv, uniform_noise(model, X, Y, EPS), X)]
    assert divergence[0] > divergence[1] > divergence[2]
    assert all(p.grad is None for p in model.parameters())
    assert trades.at(0.0) is trades
    assert Trades(EPS, warmup=0.5).at(0.25).eps == EPS / 2


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"warmup": 2.0}])
def test_trades_refuses_what_cannot_be(wrong):
    with pytest.raises(ValueError, match="at least 1 step"):
        Trades(EPS, **wrong)


def test_free_perturbation_is_carried_to_the_next_batch(model):
    adversary = FreeAdversary(EPS, replays=2, carry=True)
    delta = torch.zeros_like(X)
    for batch in (X, X.flip(0), X[:4].clone()):
        for _ in range(2):
            adv = adversary(model, batch, Y[: len(batch)])
            delta = delta[: len(batch)]
            assert torch.allclose(adv, (batch + delta).clamp(0, 1))
            nn.functional.cross_entropy(model(adv), Y[: len(batch)]).backward()
            delta = (delta + EPS * adv.grad.sign()).clamp(-EPS, EPS)
    assert torch.equal(adversary.anew()(model, X, Y), X)  # nothing is carried into another training


def test_the_radius_grows_during_the_warmup():
    adversary = Adversary("fgsm", 0.2, warmup=0.5)
    assert [adversary.at(p).eps for p in (0, 0.125, 0.25, 0.5, 0.9)] == pytest.approx([0, 0.05, 0.1, 0.2, 0.2])
    assert adversary.at(1.0) is adversary
    assert Adversary("fgsm", 0.2).at(0.0).eps == 0.2


def test_wrong_adversaries_are_refused():
    with pytest.raises(ValueError, match="unknown attack 'pgdd'"):
        Adversary("pgdd", 0.1)
    with pytest.raises(ValueError, match="warmup"):
        Adversary("pgd", 0.1, warmup=2.0)
    with pytest.raises(ValueError, match="replays"):
        FreeAdversary(0.1, replays=0)


@pytest.mark.parametrize("attack", [uniform_noise, fgsm_rs])
def test_the_generator_decides_about_random_images(attack, model):
    state = torch.get_rng_state()
    one, again, other = (attack(model, X, Y, EPS, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_keeps_its_ball_and_box():
    x = 255 * X
    adv = uniform_noise(None, x, Y, 8.0, norm="l2", clip=(0.0, 255.0))
    assert 0 < (adv - x).flatten(1).norm(dim=1).max() <= 8
    assert adv.max() > 1


@pytest.mark.parametrize(
    ("attack", "option", "takes"),
    [("fgsm", "steps", "norm"), ("fgsm_rs", "norm", "step_size"), ("noise", "lr", "norm")],
)
def test_options_that_an_attack_does_not_have_are_refused_at_once(attack, option, takes):
    with pytest.raises(TypeError, match=f"'{attack}' has no option '{option}'; it takes .*{takes}"):
        Adversary(attack, 0.1, {option: 1})


def test_free_perturbation_follows_the_gradient_of_the_training_loss(model):
    adversary = FreeAdversary(EPS, replays=3)
    first = adversary(model, X, Y)
    assert 0 < (first - X).abs().max() <= EPS
    nn.functional.cross_entropy(model(first), Y).backward()
    second = adversary(model, X, Y).detach()
    moved = first.detach() + EPS * first.grad.sign()
    assert torch.allclose(second, torch.minimum(torch.maximum(moved, X - EPS), X + EPS).clamp(0, 1), atol=1e-6)
    assert (second - X).abs().max() <= EPS
    assert not torch.equal(first, second)
    other = adversary(model, X.clone(), Y).detach()  # a new batch, with a start of its own
    assert not torch.equal(other, second)
    assert (other - X).abs().max() <= EPS


def test_an_image_without_a_gradient_is_no_news_while_training():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    nn.init.zeros_(flat[1].weight)
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Adversary("fgsm", 0.1)(flat, x, y)
