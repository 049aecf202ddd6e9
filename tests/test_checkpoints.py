"""The file that a training goes on from: killed, damaged, of another training, impossible to write."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from course_utils.adversaries import Adversary, FreeAdversary
from course_utils.checkpoints import Checkpoint
from course_utils.training import fit

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.randint(3, (60,), generator=GENERATOR)
X = (0.3 * torch.rand(60, 1, 4, 4, generator=GENERATOR) + 0.3 * Y[:, None, None, None]).clamp(0, 1)
SETTINGS = {
    "plain": {},
    "adversarial": {"attack": Adversary("pgd", 0.1, {"steps": 2}, warmup=0.5), "mix": 0.5, "augmented": True},
    "free": {"attack": FreeAdversary(0.1, replays=2)},
    "best epoch": {"attack": Adversary("fgsm", 0.1), "validation": (X[:20], Y[:20]), "patience": 4},
}


def network(width=8):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.Dropout(), nn.Linear(width, 3)
        )


class Killed(Exception):
    """Stands for the end of the process: nothing in the library catches it."""


def killing_loss(after):
    """Cross-entropy that ends the training at its call number `after`; its name is part of the fingerprint."""
    calls = iter(range(after))

    def loss(logits, labels):
        if next(calls, None) is None:
            raise Killed
        return nn.functional.cross_entropy(logits, labels)

    return loss


def run(model, path=None, *, epochs=4, loss=None, **options):
    loss = killing_loss(10**6) if loss is None else loss
    return fit(model, X, Y, epochs=epochs, batch_size=16, loss=loss, checkpoint=path, progress=False, **options)


def state(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_a_killed_training_ends_with_the_same_weights(options, tmp_path):
    path, expected, resumed = tmp_path / "run.pt", network(), network()
    whole = run(expected, **options)
    with pytest.raises(Killed):
        run(resumed, path, loss=killing_loss(10), **options)  # in the second or third epoch
    assert path.exists()
    torch.manual_seed(99)
    resumed = network()
    history = run(resumed, path, **options)
    assert torch.equal(state(resumed), state(expected))
    assert [row["loss"] for row in history.rows] == [row["loss"] for row in whole.rows]
    assert list(tmp_path.iterdir()) == []


KILL = """
import os, signal, sys
sys.path.insert(0, os.environ["TESTS"])
import test_checkpoints as t

def loss(logits, labels, calls=[]):
    calls.append(1)
    if len(calls) > 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return t.nn.functional.cross_entropy(logits, labels)

loss.__qualname__ = t.killing_loss(1).__qualname__
t.torch.set_num_threads(1)
t.run(t.network(), sys.argv[1], loss=loss)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_after_a_real_kill(tmp_path):
    path, environment = tmp_path / "run.pt", os.environ | {"TESTS": os.path.dirname(__file__)}
    process = subprocess.run([sys.executable, "-c", KILL, path], env=environment, check=False)
    assert process.returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    expected, resumed = network(), network()
    run(expected)
    assert len(run(resumed, path).rows) == 4
    assert torch.equal(state(resumed), state(expected))


@pytest.mark.parametrize("damage", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: c[:900] + b"!!" + c[902:]])
def test_a_damaged_file_starts_anew(damage, tmp_path):
    path, expected, model = tmp_path / "run.pt", network(), network()
    with pytest.raises(Killed):
        run(model, path, loss=killing_loss(10))
    path.write_bytes(damage(path.read_bytes()))
    run(expected)
    model = network()
    with pytest.warns(UserWarning, match=r"run\.pt is damaged or of another training .*starts anew"):
        run(model, path)
    assert torch.equal(state(model), state(expected))
    assert not path.exists()


@pytest.mark.parametrize("content", [network().state_dict(), [1, 2]])
def test_a_file_of_something_else_is_not_overwritten(content, tmp_path):
    path, model = tmp_path / "mine.pt", network()
    torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"mine\.pt is no checkpoint .*name another file"):
        run(model, path)
    assert path.read_bytes() == before
    assert torch.equal(state(model), state(network()))


@pytest.mark.parametrize("other", [{"seed": 1}, {"lr": 1e-3}, {"epochs": 5}, {"attack": Adversary("fgsm", 0.1)}])
def test_another_trainings_file_is_not_taken(other, tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(Killed):
        run(network(), path, loss=killing_loss(10))
    model, expected = network(), network()
    with pytest.warns(UserWarning, match="of another training"):
        run(model, path, **other)
    run(expected, **other)
    assert torch.equal(state(model), state(expected))


def test_a_place_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    model, expected = network(), network()
    with pytest.warns(UserWarning, match="goes on without a checkpoint: .*choose another folder"):
        run(model, tmp_path / "file" / "run.pt")
    run(expected)
    assert torch.equal(state(model), state(expected))


def test_without_a_path_nothing_is_asked_or_kept():
    file = Checkpoint(None, lambda: pytest.fail("computed in vain"))
    file.save({})
    assert file.load() is None
    file.remove()
