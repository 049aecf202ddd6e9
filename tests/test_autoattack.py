"""The authors' own Square and APGD, as AutoAttack packages them, as oracles of ours. `make extras` installs them."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm as gaussian
from torch import nn

from course_utils.attacks import apgd, pgd, square
from course_utils.attacks.query_based import _two_peaks

SQUARE = {"linf": 0.2, "l2": 2.2}
APGD = {"linf": 0.13, "l2": 1.4}
NAMES = {"linf": "Linf", "l2": "L2"}
every_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def autoattack():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("pyautoattack", exc_type=ImportError)


@pytest.fixture(scope="module", params=["standard", "adversarial"])
def task(request):
    """A small network, of standard or of adversarial training, and 300 noisy templates that it classifies correctly."""
    templates = torch.rand(6, 1, 15, 15, generator=stream())  # a multiple of 5: their start in l2 needs it
    y = torch.randint(6, (1500,), generator=stream(1))
    x = (templates[y] + 0.6 * torch.randn(1500, 1, 15, 15, generator=stream(2))).clamp(0, 1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(225, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
        model.append(nn.Linear(40, 6))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for step in range(150):
            part = torch.arange(64) + 64 * step
            images, labels = x[part % 900], y[part % 900]
            if request.param == "adversarial":
                images = pgd(model, images, labels, 0.05, steps=3)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    model.eval().requires_grad_(False)
    x, y = x[900:], y[900:]
    right = model(x).argmax(1) == y
    return model, x[right][:300], y[right][:300]


def stands(model, adv, y):
    return (model(adv).argmax(1) == y).float()


def assert_no_weaker(ours, theirs, margin):
    """Ours leaves no more images than theirs, within the margin and four standard errors of the paired difference."""
    difference = ours - theirs
    error = (difference.var() / len(difference)).sqrt().item()
    assert 0.02 < theirs.mean() < 0.98, "the radius decides nothing"
    assert difference.mean().item() <= margin + gaussian.isf(3e-5) * error


@pytest.mark.parametrize("side", [3, 4, 5, 9, 14])
def test_the_two_peaks_of_square_are_the_authors(autoattack, side):
    theirs = autoattack.square.SquareAttack(None, norm="L2", device="cpu")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        drawn = {torch.allclose(theirs.eta(side), _two_peaks(side, side), atol=1e-6) for _ in range(20)}
        turned = {torch.allclose(theirs.eta(side).T, _two_peaks(side, side), atol=1e-6) for _ in range(20)}
    assert drawn == turned == {True, False}  # they turn it at random


@every_norm
@pytest.mark.parametrize("queries", [100, 300])
def test_square_is_no_weaker_than_the_authors_at_as_many_queries(autoattack, task, norm, queries):
    model, x, y = task
    options = {
        "norm": NAMES[norm],
        "eps": SQUARE[norm],
        "n_queries": queries - 1,
        "device": "cpu",
    }  # and one for the start
    ours, theirs = [], []
    for seed in range(3):
        with torch.random.fork_rng([]):  # they seed the global stream
            adv = autoattack.square.SquareAttack(model, seed=seed, **options).perturb(x, y)
        theirs.append(stands(model, adv, y))
        ours.append(
            stands(model, square(model, x, y, SQUARE[norm], norm=norm, queries=queries, generator=stream(seed)), y)
        )
    assert_no_weaker(torch.stack(ours).mean(0), torch.stack(theirs).mean(0), 0.01)


@every_norm
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_is_no_weaker_than_the_authors_at_as_many_steps(autoattack, task, norm, loss):
    model, x, y = task
    options = {"norm": NAMES[norm], "eps": APGD[norm], "n_iter": 50, "seed": 0, "device": "cpu"}
    with torch.random.fork_rng([]):
        theirs = autoattack.autopgd_base.APGDAttack(model, loss=loss, **options).perturb(x, y)
    ours = apgd(model, x, y, APGD[norm], norm=norm, steps=50, loss=loss, generator=stream())
    assert_no_weaker(stands(model, ours, y), stands(model, theirs, y), 0.005)


@every_norm
def test_targeted_apgd_is_no_weaker_than_the_authors_at_as_many_steps(autoattack, task, norm):
    model, x, y = task
    options = {"norm": NAMES[norm], "eps": APGD[norm], "n_iter": 30, "seed": 0, "device": "cpu"}
    with torch.random.fork_rng([]):
        attack = autoattack.autopgd_base.APGDAttack_targeted(model, n_target_classes=3, **options)
        theirs = stands(model, attack.perturb(x, y), y)
    rivals = model(x).scatter(1, y[:, None], -torch.inf).topk(3).indices.T
    ours = torch.ones_like(theirs)
    for rival in rivals:
        adv = apgd(model, x, y, APGD[norm], norm=norm, steps=30, loss="dlr", target=rival, generator=stream())
        ours = torch.minimum(ours, stands(model, adv, y))
    assert_no_weaker(ours, theirs, 0.005)
