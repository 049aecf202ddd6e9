"""The fit loop, the named recipes, and what they leave behind."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks, training
from course_utils.data import load_images
from course_utils.evaluation import accuracy, robust_accuracy
from course_utils.models import independent_loss
from course_utils.training import ATTACKS, Adversary, History, augment, fit, trained

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.randint(3, (90,), generator=GENERATOR)
X = (0.2 * torch.rand(90, 1, 6, 6, generator=GENERATOR) + 0.3 * Y[:, None, None, None]).clamp(0, 1)


def network(seed=0):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.Linear(12, 3))


def weights_after(**options):
    model = network()
    fit(model, X, Y, **{"epochs": 2, "progress": False} | options)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("augmented", [False, True])
def test_fit_depends_on_its_seed_only(augmented):
    torch.manual_seed(1)
    first = weights_after(seed=5, augmented=augmented)
    torch.manual_seed(2)
    assert torch.equal(weights_after(seed=5, augmented=augmented), first)
    assert not torch.equal(weights_after(seed=6, augmented=augmented), first)


def test_fit_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    weights_after(augmented=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_fit_learns_and_reports():
    model = network()
    history = fit(model, X, Y, epochs=15, lr=0.02, batch_size=9, progress=False)
    frame = history.to_frame()
    assert isinstance(history, History)
    assert list(frame.columns) == ["loss", "train_accuracy", "seconds"]
    assert len(frame) == 15
    assert frame.loss.iloc[-1] < 0.5 * frame.loss.iloc[0]
    assert frame.train_accuracy.between(0, 1).all()
    assert (frame.seconds > 0).all()
    assert accuracy(model, X, Y) > 0.95


def test_first_epochs_loss_is_the_mean_over_all_images():
    """With a learning rate of almost 0 the running mean is the loss itself: also over batches of unequal size."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    (row,) = fit(model, X[:70], Y[:70], epochs=1, lr=1e-12, batch_size=64, progress=False).rows
    assert row["loss"] == pytest.approx(F.cross_entropy(model(X[:70]), Y[:70]).item(), rel=1e-4)
    assert row["train_accuracy"] == pytest.approx(accuracy(model, X[:70], Y[:70]))


def test_fit_leaves_a_clean_model():
    model, x, y = network(), X.clone(), Y.clone()
    fit(model, x, y, epochs=1, progress=False)
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_fit_uses_the_loss_it_is_given():
    calls = []

    def loss(logits, labels):
        calls.append(len(labels))
        return F.cross_entropy(logits, labels)

    fit(network(), X, Y, epochs=2, loss=loss, batch_size=40, progress=False)
    assert calls == [40, 40, 10] * 2


def test_fit_on_one_image():
    fit(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), X[:1], Y[:1], epochs=1, progress=False)


def test_progress_can_be_turned_off(capfd):
    fit(network(), X, Y, epochs=1, progress=False)
    assert capfd.readouterr() == ("", "")
    fit(network(), X, Y, epochs=1)
    assert "step" in capfd.readouterr().err


def test_diverging_training_says_so():
    def loss(logits, labels):
        return logits.sum() * float("nan")

    state = torch.get_rng_state()
    with pytest.raises(FloatingPointError, match=r"the loss became nan: try a smaller lr than 0\.05"):
        fit(network(), X, Y, epochs=1, lr=0.05, loss=loss, progress=False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("x", "y", "options"),
    [(X[:0], Y[:0], {}), (X, Y[:-1], {}), (X, Y, {"epochs": 0}), (X, Y, {"batch_size": 0}), (X, Y, {"epochs": -1})],
)
def test_fit_refuses(x, y, options):
    with pytest.raises(ValueError, match=f"got {len(x)} images, {len(y)} labels, epochs="):
        fit(network(), x, y, **{"epochs": 1, "progress": False} | options)


def test_augment_moves_a_little_and_stays_in_range():
    x, _ = load_images(n=64)
    moved = augment(x, generator=torch.Generator().manual_seed(0))
    assert (moved.shape, moved.dtype) == (x.shape, x.dtype)
    assert 0 <= moved.min() <= moved.max() <= 1
    correlation = F.cosine_similarity(moved.flatten(1), x.flatten(1))
    assert 0.5 < correlation.mean() < 0.98
    assert not torch.equal(augment(x), augment(x))
    again = augment(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, moved)


def test_augment_keeps_the_middle():
    """Turning, scaling and moving by a few pixels: a blob in the middle stays within three pixels of it."""
    x = torch.zeros(200, 1, 28, 28)
    x[:, :, 13:15, 13:15] = 1
    moved = augment(x, generator=torch.Generator().manual_seed(0))[:, 0]
    rows = torch.arange(28.0)
    down = (moved.sum(2) @ rows) / moved.sum((1, 2)) - 13.5
    right = (moved.sum(1) @ rows) / moved.sum((1, 2)) - 13.5
    for shift in (down, right):
        assert shift.abs().max() < 2.5
        assert shift.std() > 0.5
        assert shift.mean().abs() < 0.3


def test_trained_comes_from_the_cache_the_second_time(empty_cache, monkeypatch):
    x, y = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    monkeypatch.setitem(training.RECIPES, "softmax", replace(training.RECIPES["softmax"], epochs=1))
    state = torch.get_rng_state()
    first = trained("softmax", x, y, progress=False)
    monkeypatch.setattr(training, "fit", lambda *a, **k: pytest.fail("trained again"))
    second = trained("softmax", x, y, progress=False)
    assert torch.equal(first[1].weight, second[1].weight)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        trained("softmax", x, y, seed=1, progress=False)


def test_recipe_is_part_of_the_key(empty_cache, monkeypatch):
    x, y = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    quick = replace(training.RECIPES["softmax"], epochs=1)
    for recipe in (
        quick,
        replace(quick, epochs=2),
        replace(quick, lr=1e-4),
        replace(quick, augmented=not quick.augmented),
        replace(quick, loss=lambda z, y: independent_loss(F.logsigmoid(z), y)),
    ):
        monkeypatch.setitem(training.RECIPES, "softmax", recipe)
        trained("softmax", x, y, progress=False)
    assert len(list((empty_cache / "models").iterdir())) == 5


def test_unknown_network():
    with pytest.raises(ValueError, match=r"unknown network 'cn'. Did you mean 'cnn'"):
        trained("cn", X, Y)


@pytest.mark.parametrize("name", list(training.RECIPES))
def test_trained_without_images(name):
    with pytest.raises(ValueError, match="got"):
        trained(name, torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("cnn", 0.97), ("mlp", 0.95), ("softmax", 0.87), ("rbf", 0.80)])
def test_networks_reach_their_accuracy(name, least):
    model = trained(name, *load_images(), progress=False)
    assert accuracy(model, *load_images(split="test")) >= least


# Training on adversarial images


def test_an_adversary_is_its_attack():
    model, eps = network().eval(), 0.05
    assert torch.equal(Adversary("fgsm", eps)(model, X, Y), attacks.fgsm(model, X, Y, eps))
    options = {"steps": 3, "random_start": False}
    assert torch.equal(Adversary("pgd", eps, options)(model, X, Y), attacks.pgd(model, X, Y, eps, **options))
    noisy = Adversary("noise", eps)(model, X, Y)
    assert 0 < (noisy - X).abs().max() <= eps
    assert noisy.min() >= 0
    assert noisy.max() <= 1


@pytest.mark.parametrize("name", list(ATTACKS))
def test_fit_trains_on_every_attack_and_depends_on_its_seed_only(name):
    torch.manual_seed(1)
    first = weights_after(attack=Adversary(name, 0.1), seed=5)
    torch.manual_seed(2)
    assert torch.equal(weights_after(attack=Adversary(name, 0.1), seed=5), first)
    assert not torch.equal(weights_after(seed=5), first)


def test_mix_weighs_clean_and_adversarial_loss():
    model, adversary = network().eval(), Adversary("fgsm", 0.1)
    adversarial = F.cross_entropy(model(adversary(model, X, Y)), Y)
    clean = F.cross_entropy(model(X), Y)
    for mix in (0.0, 0.3, 1.0):
        value, _ = training._loss_and_logits(model, X, Y, F.cross_entropy, adversary, mix)
        assert value.item() == pytest.approx((mix * adversarial + (1 - mix) * clean).item(), rel=1e-5)


def test_training_on_an_attack_makes_it_harder():
    def robust(**options):
        model = network()
        fit(model, X, Y, epochs=15, lr=0.02, batch_size=9, progress=False, **options)
        return robust_accuracy(model, X, Y, 0.12, steps=10)

    assert robust(attack=Adversary("pgd", 0.12, {"steps": 3})) > robust() + 0.1


def test_wrong_adversaries_are_refused():
    with pytest.raises(ValueError, match="unknown attack 'pgdd'"):
        Adversary("pgdd", 0.1)
    with pytest.raises(ValueError, match="mix"):
        weights_after(attack=Adversary("fgsm", 0.1), mix=1.5)


def test_the_attack_is_part_of_what_is_cached(empty_cache):
    for options in (
        {},
        {"attack": Adversary("fgsm", 0.1)},
        {"attack": Adversary("fgsm", 0.2)},
        {"attack": Adversary("fgsm", 0.1), "mix": 0.5},
    ):
        trained("softmax", X[:30], Y[:30], progress=False, **options)
    assert len(list((empty_cache / "models").iterdir())) == 4
