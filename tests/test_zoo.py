"""Many trainings at once against one after the other, and what is kept of them."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils import models
from course_utils.training import Adversary, fit, train_all, trained, zoo

X = torch.rand(30, 1, 28, 28, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 10
RECIPES = {
    "plain": {},
    "FGSM": {"attack": Adversary("fgsm", 0.1), "mix": 0.5},
    ("longer", 1): {"epochs": 2, "seed": 3},
    "few": {"data": (X[:12], Y[:12])},
}


def quiet(recipes, **options):
    return train_all(recipes, X, Y, progress=False, **{"network": "softmax", "epochs": 1, "workers": 1} | options)


def weights(net):
    return torch.cat([value.flatten() for value in net.state_dict().values()])


def files(folder):
    return sorted((folder / "models").glob("*.pt"))


@pytest.fixture
def no_training(monkeypatch):
    def forbid():
        monkeypatch.setattr(zoo, "fit", lambda *a, **k: pytest.fail("trained again"))

    return forbid


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_it_is_the_plain_loop(workers, empty_cache):
    found = quiet(RECIPES, workers=workers)
    assert list(found) == list(RECIPES)
    assert len(files(empty_cache)) == 4
    for name, recipe in RECIPES.items():
        options = {"epochs": 1} | recipe
        seed, (x, y) = options.pop("seed", 0), options.pop("data", (X, Y))
        torch.manual_seed(seed)
        net = models.softmax_regression()
        plan = zoo.RECIPES["softmax"]
        fit(net, x, y, seed=seed, progress=False, **{"lr": plan.lr, "batch_size": plan.batch_size} | options)
        assert torch.equal(weights(found[name]), weights(net))
        assert not found[name].training


def test_kept_and_loaded_by_the_same_key_as_trained(empty_cache, no_training):
    found = quiet({"one": {}, "two": {"attack": Adversary("pgd", 0.1, {"steps": 2})}})
    no_training()
    again = quiet({"two": {"attack": Adversary("pgd", 0.1, {"steps": 2})}, "one": {}})
    assert all(torch.equal(weights(found[name]), weights(again[name])) for name in found)
    assert torch.equal(weights(trained("softmax", X, Y, epochs=1, progress=False)), weights(found["one"]))


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2},
        {"lr": 1e-4},
        {"seed": 1},
        {"batch_size": 7},
        {"attack": Adversary("fgsm", 0.1)},
        {"data": (X, Y.flip(0))},
        {"network": partial(models.mlp, hidden=8)},
        {"validation": (X[:3], Y[:3])},
    ],
)
def test_another_recipe_is_trained_apart(change, empty_cache):
    quiet({"one": {}, "two": change})
    assert len(files(empty_cache)) == 2


def test_other_sources_are_trained_apart(empty_cache, monkeypatch):
    quiet({"one": {}})
    monkeypatch.setattr(zoo, "source_hash", lambda *rooms: "after an edit")
    quiet({"one": {}})
    assert len(files(empty_cache)) == 2


def test_the_key_knows_all_sources_that_train(monkeypatch):
    asked = []
    monkeypatch.setattr(zoo, "source_hash", lambda *rooms: asked.append(set(rooms)) or "")
    zoo.fingerprint([], [])
    assert asked == [{"core", "models", "attacks", "evaluation", "training"}]


def test_a_network_of_ones_own(empty_cache, no_training):
    build = partial(models.small_cnn, width=2)
    first = quiet({"narrow": {"network": build}})["narrow"]
    no_training()
    assert torch.equal(weights(quiet({"narrow": {"network": build}})["narrow"]), weights(first))


def backwards(model, x, y):
    return x.flip(0)


class Notebooks(nn.Sequential):
    """Stands for a class of a notebook, whose code no file can be named after."""


@pytest.mark.parametrize("recipe", [{"attack": backwards}, {"loss": lambda z, y: F.cross_entropy(z, y)}])
def test_what_names_no_file_is_trained_anew(recipe, empty_cache):
    one, two = (quiet({"odd": recipe})["odd"] for _ in range(2))
    assert torch.equal(weights(one), weights(two))
    assert not empty_cache.exists()


def test_a_class_of_a_notebook_is_trained_anew(empty_cache, monkeypatch):
    monkeypatch.setattr(Notebooks, "__module__", "__main__")
    quiet({"odd": {"network": lambda: Notebooks(nn.Flatten(), nn.Linear(784, 10))}})
    assert not empty_cache.exists()


def draw(scale):
    return scale * torch.rand(3)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_function_is_called_with_a_stream_of_its_own(workers, empty_cache):
    torch.manual_seed(1)
    one = quiet({"net": {}, "drawn": partial(draw, 2.0)}, seed=5, workers=workers)["drawn"]
    torch.manual_seed(2)
    two = quiet({"drawn": partial(draw, 2.0), "net": {}}, seed=5, workers=workers)["drawn"]  # now the net is at hand
    torch.manual_seed(5)
    assert torch.equal(one, 2 * torch.rand(3))
    assert torch.equal(one, two)


def test_the_stream_of_the_caller_does_not_depend_on_the_cache(empty_cache):
    after = []
    for _ in range(2):
        torch.manual_seed(3)
        quiet({"net": {}})
        after.append(torch.rand(1))
    assert torch.equal(*after)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_training_keeps_nothing_of_itself(workers, empty_cache):
    with pytest.raises(FloatingPointError):
        quiet({"good": {"epochs": 2}, "bad": {"loss": lambda z, y: z.sum() * float("nan")}}, workers=workers)
    kept = files(empty_cache)  # the other one, unless the failure came before its end
    assert len(kept) == 1 if workers == 1 else len(kept) <= 1


def test_ctrl_c_keeps_nothing(empty_cache, monkeypatch):
    def interrupted(model, *_, **__):
        return type("History", (), {"interrupted": True})

    monkeypatch.setattr(zoo, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quiet({"one": {}})
    assert not empty_cache.exists()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_damaged_file_is_replaced_with_a_warning(workers, empty_cache):
    first = quiet(RECIPES, workers=workers)
    for path in files(empty_cache):
        path.write_bytes(path.read_bytes()[:300])
    with pytest.warns(UserWarning, match="training anew, and replacing the cached weights: .*damaged"):
        again = quiet(RECIPES, workers=workers)
    assert all(torch.equal(weights(first[name]), weights(again[name])) for name in first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet(RECIPES, workers=workers)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cache_that_cannot_be_written_is_a_warning(workers, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="trained weights are not kept: "):
        found = quiet({"one": {}, "two": {"seed": 1}}, workers=workers)
    assert list(found) == ["one", "two"]


@pytest.mark.parametrize(
    ("recipes", "options", "message"),
    [
        ({}, {}, "at least one recipe by name"),
        ([{}], {}, "at least one recipe by name"),
        ({"a": 3}, {}, "the recipe 'a' must be a mapping of options"),
        ({"a": {"network": "sofmax"}}, {}, "unknown network 'sofmax'. Did you mean 'softmax'"),
        ({"a": {"network": 5}}, {}, "network must be a name or a function"),
        ({"a": {"network": lambda: 5}}, {}, "must return a new network"),
        ({"a": {"network": models.small_cnn, "epoch": 3}}, {}, "no option 'epoch'. Did you mean 'epochs'"),
        ({"a": {"progress": True}}, {}, "no option 'progress'"),
        ({"a": {"data": (X, Y[:3])}}, {}, "label"),
        ({"a": {"data": (X[:0], Y[:0])}}, {}, "at least one image"),
    ],
)
def test_wrong_recipes_are_refused_before_any_training(recipes, options, message, empty_cache, no_training):
    no_training()
    good = {"good": {}} | recipes if isinstance(recipes, dict) and recipes else recipes
    with pytest.raises((TypeError, ValueError), match=message):
        quiet(good, **options)


def test_a_recipe_names_its_network_and_how_long_it_is_trained(empty_cache):
    with pytest.raises(TypeError, match="names no network: add network=…, one of softmax"):
        train_all({"a": {"epochs": 1}}, X, Y)
    with pytest.raises(TypeError, match="Add epochs=… to its recipe"):
        train_all({"a": {"network": models.small_cnn}}, X, Y)


def test_long_trainings_go_first(monkeypatch, empty_cache):
    begun = []
    original = zoo._run
    monkeypatch.setattr(zoo, "_run", lambda job, *rest: begun.append(job) or original(job, *rest))
    adversary = Adversary("pgd", 0.1, {"steps": 3})
    found = quiet({"short": {}, "PGD": {"attack": adversary}, "long": {"epochs": 3}, "function": partial(draw, 1)})
    assert list(found) == ["short", "PGD", "long", "function"]
    assert not isinstance(begun[0], zoo._Training)
    assert [(job.options["epochs"], bool(job.options["attack"])) for job in begun[1:]] == [
        (1, True),
        (3, False),
        (1, False),
    ]
