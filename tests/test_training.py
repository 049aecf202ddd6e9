"""The fit loop, the named recipes, and what they leave behind."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import same_weights
from torch import nn

from course_utils import models, training
from course_utils.data import load_images
from course_utils.evaluation import accuracy, accuracy_under_attack
from course_utils.models import independent_loss
from course_utils.training import (
    ATTACKS,
    Adversary,
    FreeAdversary,
    History,
    Trades,
    adversarial_fit,
    augment,
    fit,
    fitting,
    trades_loss,
    trained,
)

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
    assert list(frame.columns) == ["loss", "train_accuracy", "gradient_passes", "seconds"]
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
    fit(network(), X, Y, epochs=1, validation=(X, Y), validation_eps=0.1)
    shown = capfd.readouterr().err
    assert "step" in shown
    assert "pgd_accuracy=" in shown


def test_diverging_training_says_so():
    def loss(logits, labels):
        return logits.sum() * float("nan")

    state = torch.get_rng_state()
    with pytest.raises(FloatingPointError, match=r"the loss became nan: try a smaller lr than 0\.05"):
        fit(network(), X, Y, epochs=1, lr=0.05, loss=loss, progress=False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_fit_under_autocast(batch_norm):
    x, y = torch.rand(8, 1, 28, 28), torch.arange(8)
    with torch.autocast("cpu", torch.bfloat16):
        history = fit(models.small_cnn(width=2, batch_norm=batch_norm), x, y, epochs=1, progress=False)
    assert len(history.rows) == 1


ONE_NAN = X.masked_fill(torch.arange(90)[:, None, None, None] == 70, float("nan"))


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (X[:0], Y[:0], {}, ValueError, "at least one image"),
        (X, Y[:-1], {}, ValueError, "one label for each of the 90 images"),
        (X, Y, {"epochs": 0}, ValueError, "epochs must be at least 1"),
        (X, Y, {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        (X, Y, {"epochs": -1}, ValueError, "epochs must be at least 1"),
        (X, Y, {"epochs": 1.5}, TypeError, "epochs must be a whole number"),
        (ONE_NAN, Y, {}, ValueError, "NaN or infinite values; image 70"),
        (ONE_NAN, Y, {"augmented": True}, ValueError, "NaN or infinite values; image 70"),
        (X.numpy(), Y, {}, TypeError, "torch tensor"),
        ((255 * X).byte(), Y, {}, TypeError, r"8-bit images become x\.float\(\) / 255"),
        (X, torch.full_like(Y, -100), {}, ValueError, "labels start at 0, got -100"),
        (X, torch.where(torch.arange(90) == 70, 3, Y), {}, ValueError, "label 3, but the model has 3 outputs"),
        (X, Y.float(), {}, TypeError, "integer labels"),
        (X, Y.numpy(), {}, TypeError, r"torch\.as_tensor"),
        (X, F.one_hot(Y), {}, ValueError, "one label for each"),
        (255 * X, Y, {"augmented": True}, ValueError, r"must lie in clip=\(0\.0, 1\.0\), got values from"),
        ((X - 0.5) / 0.3, Y, {"augmented": True}, ValueError, "Normalise inside the model"),
        (X.flatten(1), Y, {"augmented": True}, ValueError, r"images \(N, C, H, W\)"),
        (X, Y, {"validation": X}, TypeError, r"validation must be a pair \(images, labels\), got a Tensor"),
        (X, Y, {"validation": (ONE_NAN, Y)}, ValueError, "images of validation contains NaN"),
        (X, Y, {"validation": (X, Y - 100)}, ValueError, "labels start at 0"),
    ],
)
def test_fit_refuses_before_it_learns(x, y, options, error, message):
    model, stream = network(), torch.get_rng_state()
    with pytest.raises(error, match=message) as refused:
        fit(model, x, y, **{"epochs": 1, "progress": False} | options)
    assert "smaller lr" not in str(refused.value)
    assert same_weights(model, network())
    assert torch.equal(torch.get_rng_state(), stream)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda z: z * float("nan"), ValueError, "largest logit of image 0 .* nan"),
        (lambda z: z[:, :1], ValueError, "K >= 2"),
        (lambda z: (z, z), TypeError, "one tensor of logits"),
    ],
)
def test_fit_refuses_models_without_logits(spoil, error, message):
    class Spoilt(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network()

        def forward(self, x):
            return spoil(self.network(x))

    with pytest.raises(error, match=message):
        fit(Spoilt(), X, Y, epochs=1, progress=False)


def test_augment_refuses_what_it_would_clip():
    with pytest.raises(ValueError, match="must lie in clip"):
        augment(255 * X)


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
    monkeypatch.setattr("course_utils.training.zoo.fit", lambda *a, **k: pytest.fail("trained again"))
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


def test_trained_with_validation_is_kept_by_its_images_too(empty_cache):
    x, y = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    for held, labels in ((x[:10], y[:10]), (x[10:20], y[10:20]), (x[:10], y[:10])):
        options = {"validation": (held, labels), "patience": 2, "epochs": 1, "progress": False}
        trained("softmax", x, y, **options)
    assert len(list((empty_cache / "models").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": F.cross_entropy}, r"loss of its recipe.*training\.fit"),
        ({"attack": lambda model, x, y: x}, r"Adversary or a FreeAdversary, got a function: .*training\.fit"),
        ({"attack": Adversary("noise", 0.1, {"generator": torch.Generator()})}, "plain values .*Generator.*with fit"),
        ({"lr": torch.tensor(0.1)}, "plain values .*Tensor.*with fit"),
        ({"epoch": 3}, "no option 'epoch'. Did you mean 'epochs'"),
        ({"validation": torch.rand(3, 1, 28, 28)}, r"validation must be a pair"),
    ],
)
def test_trained_refuses_what_names_no_file(options, message, empty_cache):
    with pytest.raises(TypeError, match=message):
        trained("softmax", torch.rand(20, 1, 28, 28), torch.arange(20) % 10, progress=False, **options)
    assert not empty_cache.exists()


def test_unknown_network():
    with pytest.raises(ValueError, match=r"unknown network 'cn'. Did you mean 'cnn'"):
        trained("cn", X, Y)


@pytest.mark.parametrize("name", list(training.RECIPES))
def test_trained_without_images(name):
    with pytest.raises(ValueError, match="got"):
        trained(name, torch.zeros(0, 1, 28, 28), torch.zeros(0, dtype=torch.int64), progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least"), [("cnn", 0.97), ("cnn_bn", 0.97), ("mlp", 0.95), ("softmax", 0.87), ("rbf", 0.80)]
)
def test_networks_reach_their_accuracy(name, least):
    model = trained(name, *load_images(), progress=False)
    assert accuracy(model, *load_images(split="test")) >= least


# Training on adversarial images


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
        value, _ = fitting._Objective(F.cross_entropy, adversary, mix, "main")(model, X, Y)
        assert value.item() == pytest.approx((mix * adversarial + (1 - mix) * clean).item(), rel=1e-5)


def test_training_on_an_attack_makes_it_harder():
    def robust(**options):
        model = network()
        fit(model, X, Y, epochs=15, lr=0.02, batch_size=9, progress=False, **options)
        return accuracy_under_attack(model, X, Y, 0.12, steps=10)

    assert robust(attack=Adversary("pgd", 0.12, {"steps": 3})) > robust() + 0.1


def test_mix_is_a_share():
    with pytest.raises(ValueError, match="mix"):
        weights_after(attack=Adversary("fgsm", 0.1), mix=1.5)


def test_the_attack_is_part_of_what_is_cached(empty_cache):
    for options in (
        {},
        {"attack": Adversary("fgsm", 0.1)},
        {"attack": Adversary("fgsm", 0.2)},
        {"attack": Adversary("fgsm", 0.1), "mix": 0.5},
        {"attack": Adversary("fgsm", 0.1, warmup=0.5)},
        {"attack": FreeAdversary(0.1)},
        {"epochs": 2},
    ):
        trained("softmax", X[:30], Y[:30], progress=False, **options)
    assert len(list((empty_cache / "models").iterdir())) == 7


def test_the_warmup_reaches_the_attack(monkeypatch):
    radii = []

    def record(model, x, y, eps):
        radii.append(eps)
        return x

    monkeypatch.setitem(ATTACKS, "fgsm", record)
    fit(network(), X, Y, epochs=4, batch_size=45, attack=Adversary("fgsm", 0.4, warmup=0.5), progress=False)
    assert radii == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4])


def test_replays_train_on_each_batch_again():
    seen = []

    def loss(logits, labels):
        seen.append(labels)
        return F.cross_entropy(logits, labels)

    fit(network(), X, Y, epochs=1, batch_size=45, loss=loss, attack=FreeAdversary(0.1, replays=3), progress=False)
    assert len(seen) == 6
    assert all(torch.equal(seen[0], labels) for labels in seen[:3])
    assert sorted(torch.cat([seen[0], seen[3]]).tolist()) == sorted(Y.tolist())


def test_a_free_training_knows_nothing_of_the_one_before():
    attack, nets = FreeAdversary(0.1, replays=2, carry=True), []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(network())
        fit(nets[-1], X, Y, epochs=1, batch_size=45, attack=attack, progress=False)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_trades_brings_its_own_loss_and_its_passes_are_counted():
    torch.manual_seed(0)
    net = network()
    history = fit(net, X, Y, epochs=1, batch_size=len(X), attack=Trades(0.0, beta=6.0, steps=3), progress=False)
    assert history.to_frame().gradient_passes.tolist() == [5]


def test_the_loss_of_trades_is_the_librarys_divergence():
    z, w = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1))
    divergence = F.kl_div(w.log_softmax(1), z.softmax(1), reduction="batchmean")
    expected = F.cross_entropy(z, Y[:6]) + 3 * divergence
    assert trades_loss(z, w, Y[:6], 3.0) == pytest.approx(expected.item(), abs=1e-5)


# Batches and batch norm


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(9, 4, [4, 5]), (5, 4, [5]), (1, 4, [1]), (8, 4, [4, 4]), (3, 1, [1] * 3), (10, 4, [4, 4, 2])],
)
def test_no_batch_of_one_is_left_over(n, size, sizes):
    batches = fitting._batches(torch.arange(n), size)
    assert [len(batch) for batch in batches] == sizes
    assert torch.equal(torch.cat(batches), torch.arange(n))


def test_batch_norm_survives_a_last_batch_of_one():
    weights_after(batch_size=89)  # of 90 images


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_attacks_do_not_touch_running_statistics_in_training(name):
    """One step sees one batch: the statistics move by the adversarial images alone, not by the attack's passes."""
    model, seen = network(), []

    def attack(model, x, y):
        adv = Adversary(name, 0.1)(model, x, y)
        assert model.training
        seen.append(adv)
        return adv

    fit(model, X, Y, epochs=1, batch_size=90, lr=1e-12, attack=attack, progress=False)
    norm, untouched = model[2], network()
    assert norm.num_batches_tracked.item() == 1
    features = untouched[:2](seen[0])
    assert torch.allclose(norm.running_mean, 0.1 * features.mean(0), atol=1e-5)


# AdvProp


def dual():
    return models.dual_batch_norm(network())


def test_advprop_sends_each_half_through_its_branch():
    model, seen = dual(), []

    def attack(model, x, y):
        seen.append((x, Adversary("pgd", 0.1, {"steps": 2})(model, x, y), model[2].branch))
        return seen[-1][1]

    fit(model, X, Y, epochs=1, batch_size=90, lr=1e-12, attack=attack, mix=0.5, branch="auxiliary", progress=False)
    ((x, adv, branch),) = seen
    assert branch == "auxiliary"
    assert model[2].branch == "main"
    before = network()
    for norm, images in ((model[2].main, x), (model[2].auxiliary, adv)):
        assert norm.num_batches_tracked.item() == 1
        assert torch.allclose(norm.running_mean, 0.1 * before[:2](images).mean(0), atol=1e-5)


def test_advprop_trains_both_affine_parameters_apart():
    model = dual()
    history = adversarial_fit(model, X, Y, eps=0.1, recipe="advprop", epochs=3, lr=0.02, progress=False)
    assert not torch.equal(model[2].main.weight, model[2].auxiliary.weight)
    assert not torch.equal(model[2].main.running_var, model[2].auxiliary.running_var)
    assert len(history.rows) == 3


def test_advprop_needs_dual_batch_norm():
    with pytest.raises(ValueError, match="dual_batch_norm"):
        adversarial_fit(network(), X, Y, eps=0.1, recipe="advprop", progress=False)


# Named recipes, and what they cost


@pytest.mark.parametrize(
    ("recipe", "passes"), [("fgsm_mix", 3), ("fgsm_rs", 2), ("free", 4), ("pgd", 4), ("advprop", 5)]
)
def test_gradient_passes_of_each_recipe(recipe, passes):
    """Counted in the network: the papers' k + 1, here with a radius that does not start at 0."""
    options = training.ADVERSARIAL_RECIPES[recipe](0.1)
    if isinstance(options["attack"], Adversary):
        options["attack"] = replace(options["attack"], warmup=0.0)
    history = adversarial_fit(dual(), X, Y, eps=0.1, recipe=recipe, **options | {"epochs": 2}, progress=False)
    assert history.to_frame().gradient_passes.tolist() == [passes, passes]


def test_clean_training_costs_one_pass_and_the_check_is_not_counted():
    model = network()
    history = fit(model, X, Y, epochs=1, validation=(X, Y), validation_eps=0.1, progress=False)
    assert history.to_frame().gradient_passes.tolist() == [1]
    assert not model._forward_hooks


@pytest.mark.parametrize("recipe", list(training.ADVERSARIAL_RECIPES))
def test_every_recipe_hardens(recipe):
    clean, hardened = dual(), dual()
    options = {"epochs": 15, "lr": 0.02, "batch_size": 9, "augmented": False, "progress": False}
    fit(clean, X, Y, **options)
    adversarial_fit(hardened, X, Y, eps=0.12, recipe=recipe, **options)
    branch = "auxiliary" if recipe == "advprop" else "main"
    with models.branch(hardened, branch):
        robust = accuracy_under_attack(hardened, X, Y, 0.12, steps=10)
    assert robust > accuracy_under_attack(clean, X, Y, 0.12, steps=10) + 0.1


def test_unknown_recipe():
    with pytest.raises(ValueError, match=r"unknown recipe 'fgsmrs'.*fgsm_rs"):
        adversarial_fit(network(), X, Y, eps=0.1, recipe="fgsmrs")


# A held-out slice in every epoch


def test_validation_is_what_evaluation_says():
    model = network()
    history = fit(model, X, Y, epochs=2, attack=Adversary("fgsm", 0.1), validation=(X[:30], Y[:30]), progress=False)
    last = history.rows[-1]
    assert last["clean_accuracy"] == accuracy(model, X[:30], Y[:30])
    generator = torch.Generator().manual_seed(0)
    assert last["pgd_accuracy"] == accuracy_under_attack(model, X[:30], Y[:30], 0.1, steps=10, generator=generator)


def test_validation_does_not_change_the_training():
    assert torch.equal(weights_after(validation=(X, Y), validation_eps=0.1), weights_after())


def test_validation_columns_are_those_asked_for():
    def columns(**options):
        return set(fit(network(), X, Y, epochs=1, progress=False, **options).to_frame())

    plain = columns()
    assert columns(validation=(X, Y)) - plain == {"clean_accuracy"}
    assert columns(validation=(X, Y), validation_eps=0.1) - plain == {"clean_accuracy", "pgd_accuracy"}


def scripted_validation(monkeypatch, scores):
    scores = iter(scores)
    monkeypatch.setattr("course_utils.training.fitting.accuracy_under_attack", lambda *a, **k: next(scores))


def test_early_stopping_keeps_the_best_weights(monkeypatch):
    scripted_validation(monkeypatch, [0.2, 0.6, 0.5, 0.6, 0.9])
    weights = []

    def attack(model, x, y):
        weights.append([p.detach().clone() for p in model.parameters()])
        return x

    model = network()
    options = {"validation": (X, Y), "validation_eps": 0.1, "patience": 2, "batch_size": 90, "progress": False}
    history = fit(model, X, Y, epochs=9, lr=0.02, attack=attack, **options)
    assert [row["pgd_accuracy"] for row in history.rows] == [0.2, 0.6, 0.5, 0.6]
    best = weights[2]  # at the start of the third epoch, of one step each
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), best, strict=True))


@pytest.mark.parametrize("options", [{"patience": 2}, {"validation_eps": 0.1}])
def test_checks_need_images(options):
    with pytest.raises(ValueError, match=r"need validation=\(x, y\)"):
        fit(network(), X, Y, epochs=1, progress=False, **options)


@pytest.mark.parametrize(
    "options", [{"patience": 0}, {"validation_eps": -0.1}, {"validation": (X, Y[:-1])}, {"validation": (X[:0], Y[:0])}]
)
def test_wrong_checks_are_refused_before_training(options):
    model = network()
    with pytest.raises(ValueError, match="expected validation images with one label each"):
        fit(model, X, Y, epochs=1, progress=False, **{"validation": (X, Y)} | options)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), network().parameters(), strict=True))


# Ctrl-C


def interrupting_attack(after):
    calls = iter(range(after))

    def attack(model, x, y):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return x

    return attack


def test_ctrl_c_keeps_what_was_trained():
    model, state = network(), torch.get_rng_state()
    with pytest.warns(UserWarning, match="interrupted in epoch 3 of 9: the model keeps what it has learned"):
        history = fit(model, X, Y, epochs=9, batch_size=45, attack=interrupting_attack(5), progress=False)
    assert history.interrupted
    assert len(history.rows) == 2
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not model._forward_hooks
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), network().parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_half_a_training_is_not_cached(empty_cache, monkeypatch):
    def interrupt(model, x, y, eps):
        raise KeyboardInterrupt

    monkeypatch.setitem(ATTACKS, "fgsm", interrupt)
    with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
        trained("softmax", X, Y, attack=Adversary("fgsm", 0.1), progress=False)
    assert not empty_cache.exists()


@pytest.mark.slow
def test_robust_training_reaches_its_accuracy():
    """One network that keeps its accuracy and withstands PGD with restarts; on the test images."""
    model = trained("cnn", *load_images(), progress=False, **training.ADVERSARIAL_RECIPES["pgd"](0.2))
    x, y = load_images(split="test")
    assert accuracy(model, x, y) >= 0.97
    assert accuracy_under_attack(model, x[:300], y[:300], 0.2, steps=40, restarts=2) >= 0.75
