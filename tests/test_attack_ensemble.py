"""Robust accuracy by an ensemble of attacks: what it returns, where it may go, and what it warns of."""

from copy import deepcopy
from functools import partial

import matplotlib.figure
import pytest
import torch
from conftest import network
from test_auto_pgd import crowded
from torch import nn

from course_utils.attacks import pgd
from course_utils.evaluation import attack_ensemble, correct, distances, robust_accuracy

EPS = 0.03


def ask(model, x, y, eps=EPS, **options):
    return robust_accuracy(model, x, y, eps, progress=False, **options)


@pytest.fixture(scope="module")
def task():
    return crowded()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("effort", ["quick", "standard", pytest.param("thorough", marks=pytest.mark.slow)])
def test_it_says_what_its_images_do(task, norm, effort):
    model, x, y = task
    y = torch.where(torch.arange(len(y)) % 10 == 0, (y + 1) % 6, y)  # some are wrong without any attack
    found = ask(model, x, y, 0.03 if norm == "linf" else 0.08, norm=norm, effort=effort)
    assert torch.equal(correct(model, found.adv, y) & correct(model, x, y), found.correct)
    assert found.accuracy == found.correct.float().mean().item()
    assert found.interval[0] < found.accuracy < found.interval[1]
    assert [stage == "" for stage in found.stage] == found.correct.tolist()
    assert found.stage.count("no attack") == (model(x).argmax(1) != y).sum()
    assert {*found.stage} - {"", *found.trace.stage} == set()
    assert found.trace.accuracy.is_monotonic_decreasing
    assert found.trace.passes.is_monotonic_increasing
    assert found.trace.accuracy.iloc[-1] == found.accuracy
    assert distances(x, found.adv, measure=norm).max() <= (0.03 if norm == "linf" else 0.08)
    assert 0 <= found.adv.min() <= found.adv.max() <= 1


def test_more_effort_leaves_no_more(task):
    quick, standard, thorough = (ask(*task, effort=effort).accuracy for effort in ("quick", "standard", "thorough"))
    model, x, y = task
    adv = pgd(model, x, y, EPS, steps=20, generator=torch.Generator().manual_seed(0))
    assert thorough <= standard <= quick + 0.01
    assert standard <= correct(model, adv, y).float().mean()


def test_batches_and_seeds(task):
    model, x, y = task
    one = ask(model, x, y)
    for batch_size in (1, 7, 64, len(x)):
        other = ask(model, x, y, batch_size=batch_size)
        assert (other.correct != one.correct).sum() <= 1  # by rounding
    assert torch.equal(ask(model, x, y).adv, one.adv)
    assert not torch.equal(ask(model, x, y, seed=1).adv, one.adv)


def test_the_model_keeps_no_trace_and_the_global_stream_its_state(task):
    model, x, y = task
    model.train()
    state, before = torch.get_rng_state(), x.clone()
    ask(model, x, y, effort="quick")
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)
    model.eval()


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_few_and_many_classes(classes):
    torch.manual_seed(0)
    model, x = nn.Linear(9, classes), torch.rand(40, 9)
    y = model(x).argmax(1)
    found = ask(model, x, y, 0.05, effort="thorough")
    w = model.weight[y][:, None] - model.weight  # the worst change of a linear model is known, without the box
    margin = model(x).gather(1, y[:, None]) - model(x) - 0.05 * w.abs().sum(2)
    sure = margin.scatter(1, y[:, None], torch.inf).amin(1) > 1e-5
    inside = ((x > 0.05) & (x < 0.95)).all(1)
    assert found.correct[sure].all()
    assert not found.correct[~sure & inside].any()


def test_no_radius_is_the_accuracy(task):
    model, x, y = task
    found = ask(model, x, y, 0.0)
    assert found.accuracy == 1.0
    assert found.trace.stage.tolist() == ["no attack"]


class Rounded(nn.Module):
    """Hides its gradient: pixels are rounded, and their gradient is 0 almost everywhere."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((20 * x).round() / 20 + 0 * x)


def test_masked_gradients_are_reported(task):
    model, x, _ = task
    masked = Rounded(model).eval()
    found = ask(masked, x, masked(x).argmax(1))
    assert any("exactly zero" in warning for warning in found.warnings)
    assert any("square attack" in warning for warning in found.warnings)
    assert "Do not trust" in str(found)


class Noisy(nn.Module):
    """Answers differently when asked twice."""

    def __init__(self, model, sigma):
        super().__init__()
        self.model, self.sigma = model, sigma

    def forward(self, x):
        return self.model(x + self.sigma * torch.randn_like(x))


def test_a_model_that_answers_differently_when_asked_twice(task):
    model, x, y = task
    torch.manual_seed(0)
    noisy = Noisy(model, 0.05).eval()
    found = ask(noisy, x, y, effort="quick")
    assert any("answers differently" in warning for warning in found.warnings)
    averaged = ask(noisy, x, y, effort="quick", draws=10)
    assert not any("answers differently" in warning for warning in averaged.warnings)
    assert averaged.trace.accuracy.iloc[0] >= found.trace.accuracy.iloc[0]


def test_what_it_shows(task):
    found = ask(*task, effort="quick")
    table = found._repr_markdown_()
    assert all(stage in table and stage in str(found) for stage in found.trace.stage)
    ax = matplotlib.figure.Figure().subplots()
    (line,) = found.plot(ax).lines
    assert line.get_ydata()[-1] == pytest.approx(100 * found.accuracy)
    assert line.get_xdata()[-1] == found.trace.passes.iloc[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"effort": "most"}, "effort must be one of 'quick', 'standard', 'thorough', got 'most'"),
        ({"norm": "l1"}, "norm must be one of"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"eps": -0.1}, "eps must be finite and not negative"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ask(network(), torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2]), **change)


def test_no_images():
    with pytest.raises(ValueError, match="at least one image"):
        ask(network(), torch.rand(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))


def test_a_first_rival_that_fools_every_image_leaves_nothing_to_the_second(task, monkeypatch):
    stage = attack_ensemble.Stage(partial(attack_ensemble._targeted_apgd, loss="margin", steps=15, rivals=2))
    monkeypatch.setitem(attack_ensemble.EFFORTS, "quick", {"targeted": stage})
    assert ask(*task, eps=0.5, effort="quick").accuracy == 0


def test_long_stages_attack_those_that_are_nearest_to_being_fooled(task, monkeypatch):
    model, x, y = task
    attacked = []

    def watch(run, left, batches):
        margins = run.margin[run.correct]
        attacked.append((len(left), run.margin[left].min(), margins.sort(descending=True).values))

    first = attack_ensemble.EFFORTS["quick"]["APGD, 20 steps"]
    stages = {"first": first, "half": attack_ensemble.Stage(partial(watch), nearest=0.5)}
    monkeypatch.setitem(attack_ensemble.EFFORTS, "quick", stages)
    found = ask(model, x, y, effort="quick")
    ((count, least, margins),) = attacked
    assert count == max(-(-len(margins) // 2), attack_ensemble.ENOUGH) < len(margins)
    assert least == margins[count - 1]
    assert torch.equal(found.correct, margins.new_tensor([m < 0 for m in _margins(model, found.adv, y)]).bool())


def _margins(model, x, y):
    logits = model(x)
    return (logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(task, dtype):
    model, x, y = task
    model, x = deepcopy(model).to(dtype), x[:100].to(dtype)
    found = ask(model, x, y[:100], effort="standard")
    assert found.adv.dtype == dtype
    assert torch.equal(correct(model, found.adv, y[:100]) & correct(model, x, y[:100]), found.correct)
    assert (found.adv - x).abs().max() <= torch.tensor(EPS, dtype=dtype)
