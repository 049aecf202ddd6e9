"""Transfer matrices over the same images, ensembles, and substitutes trained on counted labels."""

import copy
import math

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.attacks import fgsm, pgd
from course_utils.data import load_images
from course_utils.evaluation import (
    accuracy,
    accuracy_under_attack,
    compare_transfer,
    correct,
    matrix_title,
    transfer_matrix,
)
from course_utils.models import ensemble_logits, fit_sklearn, predict, softmax_regression
from course_utils.training import (
    Oracle,
    QueryBudgetExceeded,
    jacobian_augmentation,
    query_plan,
    train_substitute,
)

EPS = 0.15


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n=90, classes=3, *, seed=0):
    """Images (n, 1, 4, 4) about one random image for each class, with some overlap."""
    centres = torch.rand(classes, 1, 4, 4, generator=stream(9))
    y = torch.arange(n) % classes
    return (centres[y] + 0.25 * torch.randn(n, 1, 4, 4, generator=stream(seed))).clamp(0, 1), y


def linear(seed=0, classes=3):
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return softmax_regression(pixels=16, classes=classes)


class Constant(nn.Module):
    """Says class k, whatever the image; a gradient it has all the same."""

    def __init__(self, k, classes=3):
        super().__init__()
        self.k, self.classes = k, classes

    def forward(self, x):
        answer = torch.zeros(len(x), self.classes, dtype=x.dtype)
        answer[:, self.k] = 10.0
        return answer + 1e-3 * x.flatten(1).sum(1, keepdim=True) * torch.arange(self.classes)


FITTED = {name: fit_sklearn(name, *blobs()) for name in ("logistic", "rbf_svm", "tree", "knn")}
LINEAR = linear()


# the matrix


def test_every_cell_is_the_success_rate_over_the_images_that_all_classify_correctly():
    """Against a loop over the cells that knows nothing of frames."""
    x, y = blobs(120, seed=1)
    frame = transfer_matrix(FITTED, FITTED, x, y, EPS)
    common = torch.stack([predict(m, x).argmax(1) == y for m in FITTED.values()]).all(0)
    assert 0 < common.sum() < len(x)
    assert frame.attrs["n"] == int(common.sum())
    x, y = x[common], y[common]
    for source in FITTED:
        for target in FITTED:
            alone = transfer_matrix({source: FITTED[source]}, {target: FITTED[target]}, x, y, EPS)
            assert frame.loc[source, target] == pytest.approx(alone.iloc[0, 0])
            assert alone.attrs["n"] == len(x)
    assert (frame.to_numpy() >= 0).all()
    assert (frame.to_numpy() <= 1).all()


def test_the_diagonal_is_the_white_box_attack():
    models = {"a": linear(1), "b": linear(2)}
    x, _ = blobs(80)
    y = models["a"](x).argmax(1)
    frame = transfer_matrix(models, models, x, y, EPS)
    both = correct(models["b"], x, y)
    for name, model in models.items():
        assert frame.loc[name, name] == pytest.approx(
            1 - accuracy_under_attack(model, x[both], y[both], EPS, attack=fgsm)
        )


def test_rows_and_columns_keep_the_order_of_the_models():
    x, y = blobs(60, seed=1)
    sources = {name: FITTED[name] for name in ("tree", "logistic")}
    backwards = dict(reversed(FITTED.items()))
    frame = transfer_matrix(sources, backwards, x, y, EPS)
    assert list(frame.index) == ["tree", "logistic"]
    assert list(frame.columns) == list(backwards)
    assert (frame.index.name, frame.columns.name) == ("source", "target")
    forwards = transfer_matrix(dict(reversed(sources.items())), FITTED, x, y, EPS)
    pd.testing.assert_frame_equal(forwards.loc[frame.index, frame.columns], frame)


def test_a_source_counts_among_those_that_must_be_right():
    """A constant source is right about one class only: the other images do not count, for no target."""
    x, y = blobs(60)
    model = linear()
    frame = transfer_matrix({"constant": Constant(1)}, {"model": model}, x, model(x).argmax(1), EPS)
    assert frame.attrs["n"] == int((model(x).argmax(1) == 1).sum())
    with pytest.raises(ValueError, match="none of the 20 images is classified correctly by all of constant, other"):
        transfer_matrix({"constant": Constant(1)}, {"other": Constant(2)}, x[:20], y[:20], EPS)


def test_a_constant_target_is_never_fooled():
    x, y = blobs(60)
    frame = transfer_matrix(FITTED, {"constant": Constant(1)}, x, y, 0.5)
    assert frame.attrs["n"] > 10
    assert (frame == 0).all(axis=None)


def test_each_sources_images_are_crafted_once_and_options_arrive():
    x, _ = blobs(40)
    models = {"a": linear(1), "b": linear(1), "c": linear(1)}
    calls = []

    def attack(model, x, y, eps, *, steps):
        calls.append((model, len(x), eps, steps))
        return x

    transfer_matrix(models, models, x, models["a"](x).argmax(1), EPS, attack=attack, steps=7)
    assert calls == [(model, 40, EPS, 7) for model in models.values()]


def test_matrix_depends_on_the_generator_only():
    models, (x, _) = {"a": linear(1), "b": linear(1)}, blobs(40)
    y = models["a"](x).argmax(1)
    options = {"attack": pgd, "steps": 2}
    state = torch.get_rng_state()
    first, second = (transfer_matrix(models, models, x, y, EPS, generator=stream(3), **options) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_matrix_title_says_what_a_cell_is():
    x, y = blobs(60, seed=1)
    frame = transfer_matrix(FITTED, FITTED, x, y, 8 / 255)
    title = matrix_title(frame)
    assert "share of initially correct images fooled" in title
    assert f"n = {frame.attrs['n']} " in title
    assert "ε = 0.0313725" in title


@pytest.mark.parametrize(
    ("sources", "targets", "options", "error", "words"),
    [
        ({}, {"a": LINEAR}, {}, ValueError, "sources holds no model"),
        ({"a": LINEAR}, {}, {}, ValueError, "targets holds no model"),
        ([LINEAR], {"a": LINEAR}, {}, TypeError, "mapping from name to model"),
        ({"a": LINEAR}, {"a": linear()}, {}, ValueError, "rename one"),
        ({"a": linear()}, {"b": linear()}, {"targeted": True}, ValueError, "labels to reach"),
        ({"a": linear()}, {"a1": linear()}, {"norm": "l7"}, ValueError, "norm must be"),
    ],
)
def test_matrix_refuses(sources, targets, options, error, words):
    x, _ = blobs(10)
    with pytest.raises(error, match=words):
        transfer_matrix(sources, targets, x, linear()(x).argmax(1), EPS, **options)


# several seeds


ATTACKS = {"FGSM": lambda model, x, y: fgsm(model, x, y, EPS), "nothing": lambda model, x, y: x}


def near(seed):
    """A model that gives most images the label that LINEAR gives."""
    model = copy.deepcopy(LINEAR)
    for i, parameter in enumerate(model.parameters()):
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=stream(10 * seed + i))
    return model


def compared(sources, targets, **options):
    x, _ = blobs()
    y = linear()(x).argmax(1)
    return x, y, compare_transfer(sources, targets, x, y, ATTACKS, workers=1, progress=False, **options)


def test_each_target_meets_the_images_of_the_source_of_its_seed():
    sources, others, one = [near(0), near(1)], [near(2), near(3)], near(4)
    x, y, found = compared(sources, {"others": others, "one": one})
    ok = torch.stack([correct(model, x, y) for model in (*sources, *others, one)]).all(0)
    for seed, source in enumerate(sources):
        adv = fgsm(source, x[ok], y[ok], EPS)
        assert torch.equal(found.mask("others", "FGSM", seed), correct(others[seed], adv, y[ok]))
        assert torch.equal(found.mask("one", "FGSM", seed), correct(one, adv, y[ok]))
        assert torch.equal(found.images["source", "FGSM", seed], adv)
    assert found.by_seed("one", "nothing") == [1.0, 1.0]
    assert set(found.frame.n) == {int(ok.sum())}
    assert len(found.by_seed("others", "FGSM")) == 2


def test_every_source_attacks_once_for_all_targets():
    calls = []

    def counted(model, x, y):
        calls.append(model)
        return x

    x, _ = blobs()
    sources = [near(0), near(1)]
    targets = {"a": near(2), "b": near(3)}
    compare_transfer(sources, targets, x, linear()(x).argmax(1), {"counted": counted}, workers=1, progress=False)
    assert calls == sources


def test_comparing_agrees_with_the_matrix():
    source, target = near(0), near(1)
    x, y, found = compared([source], {"target": target})
    frame = transfer_matrix({"source": source}, {"target": target}, x, y, EPS)
    assert 1 - found.by_seed("target", "FGSM")[0] == pytest.approx(frame.loc["source", "target"])
    assert found.frame.n[0] == frame.attrs["n"]


@pytest.mark.parametrize(
    ("sources", "targets", "words"),
    [
        ([], {"a": LINEAR}, "at least one source"),
        ([LINEAR], {}, "at least one target"),
        ([LINEAR], [LINEAR], "at least one target by name"),
        ([LINEAR, LINEAR], {"a": [LINEAR]}, "'a' holds 1 models for 2 sources"),
        ([Constant(0)], {"a": Constant(1)}, "classified correctly by all models"),
    ],
)
def test_comparing_refuses(sources, targets, words):
    with pytest.raises(ValueError, match=words):
        compared(sources, targets)


# ensembles


@settings(max_examples=25)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=4).filter(lambda w: sum(w) > 0.01), st.integers(0, 1000))
def test_ensemble_is_the_log_of_the_mean_probability(weights, seed):
    members = [linear(seed + i).double() for i in range(len(weights))]
    x = torch.rand(6, 1, 4, 4, generator=stream(seed), dtype=torch.float64)
    share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    expected = sum(w * member(x).softmax(1) for w, member in zip(share, members, strict=True)).log()
    assert torch.allclose(ensemble_logits(members, weights=weights)(x), expected, atol=1e-5)


def test_ensemble_of_one_attacks_like_its_member():
    model, (x, _) = linear(), blobs(30)
    y = model(x).argmax(1)
    assert torch.equal(fgsm(ensemble_logits([model]), x, y, EPS), fgsm(model, x, y, EPS))
    assert torch.allclose(ensemble_logits([model, model])(x), model(x).log_softmax(1), atol=1e-6)


def test_confident_members_keep_their_gradient():
    """At a gap of 1000 between the logits a softmax is exactly 0 or 1; the ensemble's logits are finite and slope."""
    member = nn.Linear(2, 2)
    with torch.no_grad():
        member.weight.copy_(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]))
        member.bias.zero_()
    x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    z = ensemble_logits([member, member])(x)
    assert z.isfinite().all()
    (gradient,) = torch.autograd.grad(z[0, 1], x)
    assert torch.allclose(gradient, torch.tensor([[-1000.0, 1000.0]]), rtol=1e-3)


def test_members_are_not_copied_and_follow_the_ensemble():
    members = [nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(16, 3)) for _ in range(2)]
    ensemble = ensemble_logits(members, weights=[1, 3])
    assert list(ensemble.members) == members
    x = blobs(5)[0]
    before = predict(ensemble, x)
    with torch.no_grad():
        members[1][2].bias += torch.tensor([1.0, 0.0, 0.0])
    assert not torch.allclose(predict(ensemble, x), before)
    ensemble.eval()
    assert not members[0].training


def test_members_that_change_their_input_in_place():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.sub_(0.5).flatten(1)

    x = blobs(5)[0]
    before = x.clone()
    assert torch.allclose(ensemble_logits([InPlace(), InPlace()])(x), (before - 0.5).flatten(1).log_softmax(1))
    assert torch.equal(x, before)


def test_classical_members_have_one_vote_each():
    x, _ = blobs(60, seed=2)
    votes = torch.stack([predict(m, x).argmax(1) for m in FITTED.values()])
    counts = nn.functional.one_hot(votes, 3).sum(0)
    ensemble = ensemble_logits(list(FITTED.values()))(x)
    assert torch.allclose(ensemble.exp(), counts / 4, atol=1e-4)


@pytest.mark.parametrize(
    ("models", "weights", "error", "words"),
    [
        ([], None, ValueError, "at least one model"),
        ([linear(), lambda x: x], None, TypeError, "function"),
        ([linear()], [1, 1], ValueError, "expected 1 weights"),
        ([linear(), linear()], [1, -1], ValueError, "at least 0"),
        ([linear(), linear()], [0, 0], ValueError, "not all 0"),
        ([linear(), linear()], [1, math.nan], ValueError, "at least 0"),
    ],
)
def test_ensemble_refuses(models, weights, error, words):
    with pytest.raises(error, match=words):
        ensemble_logits(models, weights=weights)


# the oracle


@pytest.mark.parametrize("name", FITTED)
def test_oracle_gives_labels_and_counts(name):
    model, (x, _) = FITTED[name], blobs(30, seed=1)
    oracle = Oracle(model, budget=50)
    labels = oracle(x.requires_grad_())
    assert labels.dtype == torch.int64
    assert not labels.requires_grad
    assert torch.equal(labels, predict(model, x).argmax(1))
    assert (oracle.queries, oracle.left) == (30, 20)
    with pytest.raises(QueryBudgetExceeded, match="30 labels are asked for, 20 of 50 are left"):
        oracle(x)
    assert (oracle.queries, oracle.left) == (30, 20)
    oracle(x[:20])
    assert (oracle.queries, oracle.left) == (50, 0)
    assert issubclass(QueryBudgetExceeded, RuntimeError)


def test_a_spent_oracle_does_not_ask_its_model():
    asked = []

    def model(x):
        asked.append(len(x))
        return torch.zeros(len(x), 2)

    oracle = Oracle(model, budget=3)
    with pytest.raises(QueryBudgetExceeded):
        oracle(torch.rand(4, 2))
    assert asked == []
    assert oracle(torch.rand(3, 2)).tolist() == [0, 0, 0]


def test_a_question_that_fails_is_not_counted():
    oracle = Oracle(linear(), budget=10)
    with pytest.raises(RuntimeError):
        oracle(torch.rand(4, 7))
    assert oracle.queries == 0


def test_an_oracle_shows_neither_model_nor_logits():
    model = linear()
    oracle = Oracle(model)
    assert oracle.left == math.inf
    assert not any(isinstance(value, nn.Module) for value in vars(oracle).values())
    with pytest.raises(AttributeError):
        oracle.queries = 0
    x, y = blobs(5)
    with pytest.raises((TypeError, ValueError)):
        fgsm(oracle, x, y, EPS)


def test_oracle_answers_in_eval_mode_and_leaves_no_trace():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(16, 3)).train()
    x = blobs(30)[0]
    assert torch.equal(Oracle(model)(x), Oracle(model)(x))
    assert model.training


@pytest.mark.parametrize(("budget", "error"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)])
def test_oracle_refuses(budget, error):
    with pytest.raises(error, match="budget"):
        Oracle(linear(), budget=budget)


# the substitute


def network():
    """New weights at each call, unlike those of `linear`."""
    return softmax_regression(pixels=16, classes=3)


def train(oracle, seeds, **options):
    return train_substitute(oracle, seeds, **{"build": network, "epochs": 1, "progress": False} | options)


def test_150_seeds_become_4800_points():
    oracle = Oracle(FITTED["tree"], budget=4800)
    seeds = blobs(150, seed=4)[0]
    found = train(oracle, seeds)
    assert found.x.shape == (4800, 1, 4, 4)
    assert (oracle.queries, oracle.left) == (4800, 0)
    assert torch.equal(found.y, predict(FITTED["tree"], found.x).argmax(1))
    assert torch.equal(found.x[:150], seeds)
    assert found.history["round"].tolist() == [1, 2, 3, 4, 5, 6]
    assert found.history.points.tolist() == found.history.queries.tolist() == [150, 300, 600, 1200, 2400, 4800]
    assert list(found.history) == ["round", "points", "queries", "loss", "train_accuracy", "seconds"]
    assert not found.model.training


def test_new_points_are_steps_of_lambda_whose_sign_turns():
    """On a network that its training cannot move, every step is known."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.randn(3, 16, generator=stream(2)))
            self.idle = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return x.flatten(1) @ self.weight.T + 0 * self.idle

    found = train(Oracle(FITTED["knn"]), blobs(8)[0], build=Fixed, rounds=6, flip_every=2, lam=0.07)
    for augmentation, sign in enumerate([1, 1, -1, -1, 1]):
        n = 8 * 2**augmentation
        step = 0.07 * Fixed().weight[found.y[:n]].sign().view(n, 1, 4, 4)
        assert torch.allclose(found.x[n : 2 * n], (found.x[:n] + sign * step).clamp(0, 1), atol=1e-6)


def test_augmentation_moves_along_the_sign_of_the_labels_logit():
    """By finite differences, pixel by pixel, on a network that is not linear; and it leaves no trace."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 3)).double()
    x, y = blobs(5)
    x = x.double()
    new = jacobian_augmentation(model, x, y, 0.1, clip=None)
    model.eval()
    for pixel in range(16):
        bump = torch.zeros(16, dtype=torch.float64)
        bump[pixel] = 1e-5
        bump = bump.view(1, 1, 4, 4)
        slope = (model(x + bump) - model(x - bump)).gather(1, y.unsqueeze(1)).flatten()
        assert torch.allclose((new - x).flatten(1)[:, pixel], 0.1 * slope.sign())
    assert not new.requires_grad
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    back = jacobian_augmentation(model, x, y, -0.1, clip=None)
    assert torch.allclose(new + back, 2 * x)
    boxed = jacobian_augmentation(model, x, y, 0.1)
    assert torch.equal(boxed, new.clamp(0, 1))


def test_substitute_learns_the_oracle_not_the_truth():
    """An oracle that calls class 0 "1", and so on: the substitute agrees with the oracle."""
    swapped = lambda x: FITTED["logistic"](x).roll(1, dims=1)  # noqa: E731
    found = train(Oracle(swapped), blobs(60, seed=2)[0], rounds=3, epochs=30, lr=0.05)
    x, y = blobs(90, seed=3)
    assert (predict(found.model, x).argmax(1) == predict(swapped, x).argmax(1)).float().mean() > 0.8
    assert accuracy(found.model, x, y) < 0.2


def test_each_round_trains_a_new_network_on_all_points():
    seen, born = [], []

    def build():
        born.append(network())
        return copy.deepcopy(born[-1])

    callback = lambda number, model, x, y: seen.append((number, model, len(x), len(y)))  # noqa: E731
    found = train(Oracle(FITTED["tree"]), blobs(10)[0], rounds=4, build=build, callback=callback)
    assert [(number, points, labels) for number, _, points, labels in seen] == [
        (1, 10, 10),
        (2, 20, 20),
        (3, 40, 40),
        (4, 80, 80),
    ]
    assert len({id(model) for _, model, _, _ in seen}) == 4
    assert seen[-1][1] is found.model
    assert len({model[1].weight.sum().item() for model in born[-4:]}) == 4


def test_substitute_depends_on_its_seed_only():
    seeds = blobs(10)[0]
    before = seeds.clone()
    state = torch.get_rng_state()
    options = {"rounds": 4}
    first, second = (train(Oracle(FITTED["tree"]), seeds, seed=1, **options) for _ in range(2))
    torch.manual_seed(7)
    other = train(Oracle(FITTED["tree"]), seeds, seed=2, **options)
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.model[1].weight, second.model[1].weight)
    assert not torch.equal(first.model[1].weight, other.model[1].weight)
    assert torch.equal(seeds, before)
    torch.set_rng_state(state)
    train(Oracle(FITTED["tree"]), seeds, **options)
    assert torch.equal(torch.get_rng_state(), state)


@given(st.integers(1, 40), st.integers(1, 7))
def test_each_round_doubles_the_points(seeds, rounds):
    plan = query_plan(seeds, rounds)
    assert len(plan) == rounds
    assert [sum(plan[:number]) for number in range(1, rounds + 1)] == [seeds * 2**number for number in range(rounds)]


def test_another_augmentation_takes_the_place_of_the_jacobians():
    seen = []

    def darker(model, x, y, lam, *, clip):
        seen.append((len(x), len(y), round(lam, 3), clip))
        return (x - abs(lam)).clamp(*clip)

    found = train(Oracle(FITTED["tree"]), blobs(4)[0], rounds=3, flip_every=1, augment=darker)
    assert seen == [(4, 4, 0.1, (0.0, 1.0)), (8, 8, -0.1, (0.0, 1.0))]
    assert torch.equal(found.x[4:8], (found.x[:4] - 0.1).clamp(0, 1))


def test_a_budget_that_is_too_small_is_refused_before_it_is_spent():
    oracle = Oracle(FITTED["tree"], budget=100)
    with pytest.raises(QueryBudgetExceeded, match=r"plan of 6 rounds.*320 labels are asked for, 100 of 100 are left"):
        train(oracle, blobs(10)[0])
    assert oracle.queries == 0
    train(oracle, blobs(10)[0], rounds=4)
    assert oracle.left == 20


@pytest.mark.parametrize(
    ("seeds", "options", "error", "words"),
    [
        (torch.rand(4, 16).numpy(), {}, TypeError, "torch tensor"),
        (torch.rand(4, 16) + 1, {}, ValueError, "must lie in"),
        (torch.rand(0, 16), {}, ValueError, "seeds must be at least 1"),
        (torch.rand(4, 16), {"rounds": 0}, ValueError, "rounds"),
        (torch.rand(4, 16), {"flip_every": 0}, ValueError, "flip_every"),
        (torch.rand(4, 16), {"epochs": 0}, ValueError, "epochs"),
        (torch.rand(4, 16), {"build": lambda: "network"}, TypeError, "new network"),
        (torch.rand(4, 15), {}, RuntimeError, "shapes"),
        (torch.rand(4, 16), {"lam": -0.1}, ValueError, "lam"),
    ],
)
def test_substitute_refuses_before_it_asks(seeds, options, error, words):
    oracle = Oracle(FITTED["tree"])
    with pytest.raises(error, match=words):
        train(oracle, seeds, **options)
    assert oracle.queries == 0


def test_networks_and_oracles_that_do_not_fit():
    x, _ = blobs(30)
    assert Oracle(FITTED["tree"])(x).max() == 2
    with pytest.raises(ValueError, match="label 2, but the model has 2 outputs"):
        train(Oracle(FITTED["tree"]), x, build=lambda: linear(classes=2))
    with pytest.raises(TypeError, match=r"becomes Oracle\(model\)"):
        train(FITTED["tree"], x)


def test_progress_bar(capsys):
    train(Oracle(FITTED["tree"]), blobs(5)[0], rounds=2)
    assert capsys.readouterr().err == ""
    train(Oracle(FITTED["tree"]), blobs(5)[0], rounds=2, progress=True)
    assert "2/2" in capsys.readouterr().err


# real digits


def test_a_substitute_fools_a_tree_on_digits():
    """From 100 unlabelled digits and 400 queries: far more errors than noise of the same size makes."""
    x, y = load_images(n=1000)
    images, labels = load_images(split="test", n=300)
    tree = fit_sklearn("tree", x, y)
    oracle = Oracle(tree, budget=400)
    found = train_substitute(oracle, images[:100], build=softmax_regression, rounds=3, progress=False)
    rest = slice(100, None)
    frame = transfer_matrix({"substitute": found.model}, {"tree": tree}, images[rest], labels[rest], 0.3)
    assert oracle.left == 0
    assert frame.iloc[0, 0] > 0.6
