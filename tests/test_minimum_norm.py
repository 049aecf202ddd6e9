"""The attacks without a radius: exact distances where they are known, the promises, and the traps that concern them."""

import math
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, linprog, minimize
from test_gradient_based import (
    ALL_FLOATS,
    Linear2,
    assert_like,
    frail_in_training,
    images,
    labels,
    network,
    no_trace,
    points,
    stream,
)
from torch import nn

from course_utils.attacks import box_constrained_lbfgs, carlini_wagner, deepfool, minimum_norm

# Every attack as (model, x, y) -> adv, with few steps; those in TARGETED take the labels to reach.
QUICK = {"search_steps": 4, "steps": 20}
ATTACKS = {
    "deepfool": deepfool,
    "deepfool linf": partial(deepfool, norm="linf"),
    "carlini_wagner": partial(carlini_wagner, **QUICK),
    "carlini_wagner targeted": partial(carlini_wagner, targeted=True, **QUICK),
    "lbfgs": partial(box_constrained_lbfgs, **QUICK),
    "sgd": partial(box_constrained_lbfgs, solver="sgd", **QUICK),
    "adam": partial(box_constrained_lbfgs, solver="adam", **QUICK),
}
TARGETED = ("carlini_wagner targeted", "lbfgs", "sgd", "adam")
# Of two classes, one is left where the other is reached: all as (model, x, y) -> adv, with the steps that they need.
SEARCH = {"search_steps": 7, "steps": 70}
THOROUGH = {
    "deepfool": deepfool,
    "deepfool linf": partial(deepfool, norm="linf"),
    "carlini_wagner": partial(carlini_wagner, **SEARCH),
    "carlini_wagner targeted": lambda m, x, y, **kw: carlini_wagner(m, x, 1 - y, targeted=True, **SEARCH, **kw),
    "lbfgs": lambda m, x, y, **kw: box_constrained_lbfgs(m, x, 1 - y, **SEARCH, **kw),
    "sgd": lambda m, x, y, **kw: box_constrained_lbfgs(m, x, 1 - y, solver="sgd", **SEARCH, **kw),
    "adam": lambda m, x, y, **kw: box_constrained_lbfgs(m, x, 1 - y, solver="adam", **SEARCH, **kw),
}
every_attack = pytest.mark.parametrize("name", ATTACKS)
every_thorough_attack = pytest.mark.parametrize("name", THOROUGH)
every_solver = pytest.mark.parametrize("solver", ["lbfgs", "sgd", "adam"])


def predictions(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


def goals(name, model, x):
    """Labels for the attack of that name: predicted ones to leave, or other ones to reach."""
    y = predictions(model, x)
    return (y + 1) % model(x).shape[1] if name in TARGETED else y


def succeeded(name, model, adv, y):
    return (predictions(model, adv) == y) == (name in TARGETED)


def distances(adv, x, norm="l2"):
    return (adv - x).double().flatten(1).norm(p=2 if norm == "l2" else math.inf, dim=1)


def norm_of(name):
    return "linf" if "linf" in name else "l2"


def linear(classes, pixels, *, scale=1.0, dtype=torch.float64, seed=0):
    model = nn.Linear(pixels, classes, dtype=dtype).requires_grad_(False)
    model.weight.copy_(scale * torch.randn(classes, pixels, generator=stream(seed), dtype=dtype))
    model.bias.copy_(-model.weight.sum(1) / 2)  # the grey image is on every boundary
    return model


# Exact distances ------------------------------------------------------------------------------------------------------


@every_thorough_attack
@pytest.mark.parametrize(("scale", "pixels"), [(1e-3, 200), (1.0, 2), (1e3, 200)])
def test_two_linear_classes(name, scale, pixels):
    """The boundary is |margin|/‖w‖ away, in linf |margin|/‖w‖₁, however steep the logits are."""
    w = torch.randn(pixels, generator=stream(pixels))
    x = 0.35 + 0.3 * images((8, pixels))
    model = Linear2(w, b=-0.5 * w.sum().item() + 0.25 * w.norm().item(), scale=scale)
    y = predictions(model, x)
    adv = THOROUGH[name](model, x, y, clip=(-0.5, 1.5) if "carlini" in name else None)
    assert (predictions(model, adv) != y).all()
    exact = (x @ w + model.b).abs().detach() / (w.abs().sum() if "linf" in name else w.norm())
    ratio = distances(adv, x, norm_of(name)) / exact
    assert ratio.min() > 0.999
    assert ratio.max() < 1.05


def nearest_in_box(model, x, wanted, clip, norm):
    """The exact smallest change of one image after which `wanted` beats each class of `over`, by SciPy."""
    winner, losers = wanted[0], list(wanted[1])
    a = (model.weight[winner] - model.weight[losers]).numpy()
    b = (model.bias[winner] - model.bias[losers]).numpy()
    x = x.numpy()
    if norm == "linf":  # minimise t, where |x' - x| <= t
        eye, one = np.eye(len(x)), np.ones((len(x), 1))
        rows = np.block([[-a, np.zeros((len(a), 1))], [eye, -one], [-eye, -one]])
        found = linprog([0.0] * len(x) + [1.0], rows, np.concatenate([b, x, -x]), bounds=[clip] * len(x) + [(0, None)])
        return found.fun if found.success else math.inf
    found = minimize(
        lambda z: ((z - x) ** 2).sum(),
        x,
        jac=lambda z: 2 * (z - x),
        bounds=[clip] * len(x),
        constraints=LinearConstraint(a, -b, math.inf),
        method="SLSQP",
    )
    return math.sqrt(found.fun) if found.success else math.inf


@every_thorough_attack
def test_two_linear_classes_in_a_tight_box(name):
    """Where the straight way leaves the box, the nearest point is known from a quadratic or linear programme."""
    model, x = linear(2, 8), images((10, 8), torch.float64)
    y = predictions(model, x)
    clip = (0.0, 1.0)
    pairs = list(zip(x, y.tolist(), strict=True))
    exact = torch.tensor([nearest_in_box(model, i, (1 - k, [k]), clip, norm_of(name)) for i, k in pairs])
    straight = (
        model(x).diff().abs().squeeze(1) / (model.weight.diff(dim=0).norm(p=1 if "linf" in name else 2))
    ).double()
    assert (exact > 1.05 * straight).any()  # so the box matters
    adv = THOROUGH[name](model, x, y, clip=clip)
    assert (predictions(model, adv) != y).all()
    ratio = distances(adv, x, norm_of(name)) / exact
    assert ratio.min() > 0.999
    assert ratio.max() < 1.05


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_goes_to_the_nearest_of_many_classes(norm):
    model, x = linear(6, 30), 0.4 + 0.2 * images((20, 30), torch.float64)
    y = predictions(model, x)
    logits = model(x)
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = (model.weight[y][:, None] - model.weight[None]).norm(p=1 if norm == "linf" else 2, dim=2)
    exact = (gaps / slopes).scatter(1, y[:, None], math.inf).amin(1)
    adv = deepfool(model, x, y, norm=norm)
    assert (predictions(model, adv) != y).all()
    assert (distances(adv, x, norm) / exact).tolist() == pytest.approx([1.02] * 20, rel=1e-3)  # 2 % overshoot
    adv = deepfool(model, x, y, norm=norm, overshoot=0)
    assert (predictions(model, adv) != y).all()
    assert (distances(adv, x, norm) / exact).tolist() == pytest.approx([1] * 20, rel=1e-3)
    one = deepfool(model, x, y, norm=norm, candidates=1)
    assert (distances(one, x, norm) >= 0.999 * distances(deepfool(model, x, y, norm=norm), x, norm)).all()


@pytest.mark.slow
def test_carlini_wagner_goes_to_the_nearest_of_many_classes():
    model, x = linear(4, 8), images((6, 8), torch.float64)
    y = predictions(model, x)
    clip = (0.0, 1.0)
    others = [
        [nearest_in_box(model, i, (j, [k]), clip, "l2") for j in range(4) if j != k] for i, k in zip(x, y, strict=True)
    ]
    exact = torch.tensor(others).amin(1)
    adv = carlini_wagner(model, x, y)
    assert (predictions(model, adv) != y).all()
    ratio = distances(adv, x) / exact
    assert ratio.min() > 0.999
    assert ratio.max() < 1.05


@pytest.mark.slow
@pytest.mark.parametrize("attack", [partial(carlini_wagner, targeted=True), box_constrained_lbfgs], ids=["cw", "lbfgs"])
def test_the_nearest_point_of_a_target_class(attack):
    """With steep logits; with flat ones cross-entropy lowers all other classes, also those that need not fall."""
    model, x = linear(4, 8, scale=50), images((6, 8), torch.float64)
    y = predictions(model, x)
    target, clip = (y + 1) % 4, (0.0, 1.0)
    others = [[k for k in range(4) if k != t] for t in target.tolist()]
    goals = zip(target.tolist(), others, strict=True)
    exact = torch.tensor([nearest_in_box(model, i, goal, clip, "l2") for i, goal in zip(x, goals, strict=True)])
    adv = attack(model, x, target)
    assert exact.isfinite().all()
    assert (predictions(model, adv) == target).all()
    ratio = distances(adv, x) / exact
    assert ratio.min() > 0.999
    assert ratio.max() < 1.05


@pytest.mark.slow
@every_thorough_attack
def test_the_scale_of_the_logits_changes_little(name):
    x = images((6, 1, 8, 8))
    plain = network(x, 2)
    y = predictions(plain, x)
    found = {}
    for scale in (1 / 50, 1, 50):
        model = nn.Sequential(plain, Linear2(torch.tensor([-1.0, 1.0]), scale=scale))
        adv = THOROUGH[name](model, x, y)
        assert (predictions(model, adv) != y).all()
        found[scale] = distances(adv, x, norm_of(name))
    assert (found[50] / found[1] - 1).abs().max() < 0.05
    assert (found[1 / 50] / found[1] - 1).abs().max() < 0.05


# What comes back ------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(points(dtypes=ALL_FLOATS), st.sampled_from(list(ATTACKS)))
def test_every_attack_returns_a_new_tensor_in_the_box(point, name):
    x, clip = point
    if clip is None and "carlini" in name:
        clip = (-3.0, 3.0)
    model, y = network(x, 3), labels(len(x), 3)
    with no_trace(model, x, y), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "100 % of the gradients")  # in half precision
        adv = ATTACKS[name](model, x, y, clip=clip)
    assert_like(adv, x)
    assert adv.isfinite().all()
    if clip is not None:
        assert adv.min() >= clip[0]
        assert adv.max() <= clip[1]
    unchanged = (adv == x).flatten(1).all(1)
    assert (unchanged | succeeded(name, model, adv, y)).all()


@every_attack
@pytest.mark.parametrize("clip", [(0.0, 1.0), (-1.0, 1.0), (0.2, 0.7)])
@pytest.mark.parametrize("dtype", ALL_FLOATS)
def test_every_type_and_box(name, clip, dtype):
    x = (clip[0] + (clip[1] - clip[0]) * images((5, 3, 6, 4))).to(dtype).clamp(*clip)
    model = network(x)
    y = goals(name, model, x)
    adv = ATTACKS[name](model, x, y, clip=clip)
    assert_like(adv, x)
    assert clip[0] <= adv.min() <= adv.max() <= clip[1]
    assert succeeded(name, model, adv, y).float().mean() >= 0.6
    assert not torch.equal(adv, x)


@pytest.mark.slow
@every_attack
def test_another_box_is_another_unit(name):
    """Pixels in another range, mapped to [0, 1] by the model: the same attack."""
    clip = (-10.0, 245.0)
    low, width = clip[0], clip[1] - clip[0]
    x = images((5, 1, 6, 6), torch.float64)
    model = network(x)
    y = goals(name, model, x)
    thorough = {} if "deepfool" in name else {"search_steps": 7, "steps": 80}
    expected = distances(ATTACKS[name](model, x, y, **thorough), x)
    if name == "adam":
        thorough["lr"] = 0.05 * width  # its steps have the length of the learning rate
    wide = low + width * x
    adv = ATTACKS[name](lambda z: model((z - low) / width), wide, y, clip=clip, **thorough)
    assert (distances(adv, wide) / width / expected - 1).abs().max() < 0.05


@every_attack
def test_what_is_where_it_should_be_comes_back_equal(name):
    x = images()
    model = network(x)
    right = predictions(model, x)
    y = right if name in TARGETED else (right + 1) % 4
    y = y.where(torch.arange(6) != 2, goals(name, model, x))  # but for one
    adv = ATTACKS[name](model, x, y)
    assert_like(adv, x)
    assert (adv == x).flatten(1).all(1).tolist() == [True, True, False, True, True, True]


@every_attack
def test_out_of_reach_comes_back_unchanged(name):
    """A gap that the box cannot close, one of ten that hardly moves, and one that does not move at all."""
    x = images((4, 9))
    reach = torch.tensor([-1.0, 1.0])
    models = {
        "too far": lambda x: reach * (x.sum(1, keepdim=True) - 20),
        "bounded": lambda x: reach * (x.sum(1, keepdim=True).sigmoid() - 10),
        "common slope": lambda x: x.sum(1, keepdim=True) * torch.ones(2) - 5 * reach,
    }
    y = torch.full((4,), int(name in TARGETED))
    for title, model in models.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adv = ATTACKS[name](model, x, y, **({} if "deepfool" in name else {"search_steps": 40, "steps": 3}))
        assert torch.equal(adv, x), title
        assert adv is not x
        assert ["100 % of the gradients" in str(w.message) for w in caught] == [True] * (title == "common slope")


@pytest.mark.slow
@every_attack
def test_one_lost_image_costs_the_others_little(name):
    x = images()
    x[0, 0, 0, 0], x[1:, 0, 0, 0] = 0.9, 0.1  # a mark that stays, since it has no slope
    inner = network(x)
    y = goals(name, inner, x)
    fixed = 50 * nn.functional.one_hot((y[0] + (name in TARGETED)) % 4, 4)

    def model(z):
        marked = (z[:, 0, 0, :1] > 0.5).to(z)
        logits = inner(z * (torch.arange(64) > 0).view(1, 1, 8, 8))
        return torch.where(marked > 0, fixed + 1e-3 * logits, logits)

    y = goals(name, model, x)
    more = {} if "deepfool" in name else {"search_steps": 8, "steps": 60}
    expected = distances(ATTACKS[name](model, x[1:], y[1:], **more), x[1:])
    adv = ATTACKS[name](model, x, y, **more)
    assert torch.equal(adv[0], x[0])
    assert (distances(adv, x)[1:] / expected - 1).abs().max() < (0.15 if name == "lbfgs" else 0.05)  # one line search


@pytest.mark.slow
@every_attack
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_success_holds_in_a_batch_of_any_size(name, shift):
    """Near the boundary the rounding of another batch size could undo it; above all for large logits."""
    x = images((50, 1, 14, 14))
    inner = network(x)

    def model(z):
        return inner(z) + shift

    y = goals(name, model, x)
    adv = ATTACKS[name](model, x, y)
    changed = (adv != x).flatten(1).any(1)
    assert changed.float().mean() > 0.5
    for size in (1, 7, 50):
        won = torch.cat([succeeded(name, model, a, b) for a, b in zip(adv.split(size), y.split(size), strict=True)])
        assert won[changed].all()


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "lbfgs"])
def test_t08_a_batch_is_as_many_batches_of_one(name):
    x = images((12, 3, 5, 7), torch.float64)
    model = network(x)
    y = goals(name, model, x)
    together = ATTACKS[name](model, x, y)
    alone = [ATTACKS[name](model, a, b) for a, b in zip(x.split(1), y.split(1), strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-9)


@pytest.mark.slow
def test_t08_lbfgs_shares_its_line_search_and_little_else():
    x = images((12, 3, 5, 7), torch.float64)
    model = network(x)
    target = goals("lbfgs", model, x)
    together = box_constrained_lbfgs(model, x, target)
    alone = torch.cat([box_constrained_lbfgs(model, a, b) for a, b in zip(x.split(1), target.split(1), strict=True)])
    assert (distances(together, x) / distances(alone, x) - 1).abs().max() < 0.03


# Options --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("confidence", [0.5, 3.0])
def test_confidence_is_the_lead_of_the_wanted_logit(targeted, confidence):
    x = images((8, 1, 6, 6))
    inner = network(x)

    def model(z):
        return 10 * inner(z)

    y = predictions(model, x)
    label = (y + 1) % 4 if targeted else y
    attack = partial(carlini_wagner, model, x, label, targeted=targeted, search_steps=7, steps=100)
    sure, plain = attack(confidence=confidence), attack()
    logits = model(sure)
    lead = logits.gather(1, label[:, None]).squeeze(1) - logits.scatter(1, label[:, None], -math.inf).amax(1)
    lead = lead if targeted else -lead
    changed = (sure != x).flatten(1).any(1)
    assert changed.float().mean() > 0.8
    assert (lead[changed] >= confidence).all()
    assert lead[changed].median() < confidence + 0.1
    assert (distances(sure, x) > distances(plain, x))[changed].all()


@pytest.mark.slow
def test_t16_targeted_reaches_and_untargeted_leaves():
    x = images((10, 1, 6, 6))
    model = network(x)
    y = predictions(model, x)
    target = (y + 2) % 4
    options = {"search_steps": 6, "steps": 60}
    towards = carlini_wagner(model, x, target, targeted=True, **options)
    away = carlini_wagner(model, x, y, **options)
    assert (predictions(model, towards) == target).all()
    assert (predictions(model, away) != y).all()
    assert torch.equal(carlini_wagner(model, x, target, **options), x)  # nobody says that
    assert (distances(away, x) <= 1.02 * distances(towards, x)).all()
    assert (predictions(model, box_constrained_lbfgs(model, x, target)) == target).all()


@pytest.mark.parametrize("name", [name for name in ATTACKS if "deepfool" not in name])
def test_more_search_steps_are_never_worse(name):
    x = images((12, 1, 6, 6))
    model = network(x)
    y = goals(name, model, x)
    before = torch.full((12,), math.inf, dtype=torch.float64)
    for count in (1, 3, 5, 9):
        adv = ATTACKS[name](model, x, y, search_steps=count)
        now = torch.where(succeeded(name, model, adv, y), distances(adv, x), math.inf)
        assert (now <= before).all()
        before = now
    assert before.isfinite().float().mean() > 0.8


@every_attack
def test_t20_more_steps_help(name):
    x = images((12, 1, 6, 6))
    model = network(x)
    y = goals(name, model, x)
    few, many = (ATTACKS[name](model, x, y, steps=steps) for steps in (1, 40))
    won = [succeeded(name, model, adv, y) for adv in (few, many)]
    assert won[1].sum() >= won[0].sum()
    both = won[0] & won[1]
    if "deepfool" not in name:  # which ends at the first success
        assert distances(many, x)[both].sum() <= 1.01 * distances(few, x)[both].sum()
    assert not torch.equal(few, many)


def test_deepfool_looks_at_the_candidates_only():
    model, x = linear(6, 30), 0.4 + 0.2 * images((20, 30), torch.float64)
    y = predictions(model, x)
    second = model(x).topk(2, dim=1).indices[:, 1]
    assert torch.equal(predictions(model, deepfool(model, x, y, candidates=1, overshoot=0)), second)
    assert torch.equal(deepfool(model, x, y, candidates=5), deepfool(model, x, y, candidates=99))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_finds_with_few_candidates_in_later_steps_what_it_finds_with_all(norm, monkeypatch):
    x = images((40, 1, 6, 6), torch.float64)
    model = network(x, 12)
    y = predictions(model, x)
    quick = deepfool(model, x, y, norm=norm, candidates=11)
    monkeypatch.setattr(minimum_norm, "LATER_CANDIDATES", 11)
    full = deepfool(model, x, y, norm=norm, candidates=11)
    assert torch.equal(predictions(model, quick) != y, predictions(model, full) != y)
    ratio = distances(quick, x, norm) / distances(full, x, norm)
    assert ratio.median().item() == pytest.approx(1, abs=1e-6)
    assert ratio.mean() < 1.01


class Counted(nn.Module):
    """A model that notes how many images each of its calls gets."""

    def __init__(self, model):
        super().__init__()
        self.model, self.sizes = model, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.model(x)


def test_deepfool_goes_on_with_the_images_that_are_not_fooled():
    x = images((12, 1, 6, 6))
    model = Counted(network(x))
    y = predictions(model, x)
    adv = deepfool(model, x, y)
    assert (predictions(model, adv) != y).all()
    sizes = model.sizes[1:-1]  # without those of this test
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 12


@pytest.mark.parametrize(("search_steps", "steps", "passes"), [(1, 20, 21), (4, 20, 21 + 3 * 5), (3, 3, 4 + 2 * 2)])
def test_carlini_wagner_goes_on_from_the_answer_before(search_steps, steps, passes):
    """One pass at x, one at the last point of every c, and a fifth of the steps from the second c on."""
    x = images((4, 1, 6, 6))
    model = Counted(network(x))
    carlini_wagner(model, x, predictions(network(x), x), search_steps=search_steps, steps=steps)
    assert model.sizes == [4] * (1 + passes)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_learning_rate_of_the_solver(solver):
    x = images()
    model = network(x)
    target = goals("sgd", model, x)
    attack = partial(ATTACKS[solver], model, x, target)
    default = {"sgd": 0.3, "adam": 0.05}[solver]
    assert torch.equal(attack(lr=default), attack())
    assert not torch.equal(attack(lr=default / 3), attack())
    assert torch.equal(attack(lr=0), x)


@pytest.mark.slow
def test_the_solvers_agree():
    x = images((8, 1, 8, 8))
    model = network(x)
    target = goals("lbfgs", model, x)
    found = [distances(box_constrained_lbfgs(model, x, target, solver=s), x) for s in ("lbfgs", "sgd", "adam")]
    for other in found[1:]:
        assert (other / found[0] - 1).abs().max() < 0.05


# The traps ------------------------------------------------------------------------------------------------------------


@every_attack
def test_t02_t03_x_outside_the_box_is_refused(name):
    x = images()
    x[0, 0, 0, 0] = 2.0
    with pytest.raises(ValueError, match=r"clip=\(0.0, 1.0\).*Normalise inside the model \(models.Normalize\)"):
        ATTACKS[name](network(x), x, labels())


@pytest.mark.parametrize("name", [name for name in ATTACKS if "carlini" not in name])
def test_t04_box_is_on_unless_turned_off(name):
    x = torch.ones(4, 9)
    model = Linear2(torch.ones(9), b=-12.0)  # the other class is outside of the box
    y = torch.full((4,), int(name in TARGETED))
    assert torch.equal(ATTACKS[name](model, x, y), x)
    adv = ATTACKS[name](model, x, y, clip=None, **({} if "deepfool" in name else {"search_steps": 8, "steps": 60}))
    assert succeeded(name, model, adv, y).all()
    assert adv.max() > 1


@every_attack
def test_t07_probabilities_warn_once(name):
    x = images()
    model = nn.Sequential(network(x), nn.Softmax(1))
    with pytest.warns(UserWarning, match="look like probabilities, not logits") as caught:
        ATTACKS[name](model, x, labels())
    assert [warning.filename for warning in caught] == [__file__]


@every_attack
def test_t07_logits_do_not_warn(name):
    x = images()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ATTACKS[name](nn.Sequential(network(x), nn.LogSoftmax(1)), x, labels())


@every_attack
def test_t10_t11_no_gradient_and_no_graph_remains(name):
    x = images().requires_grad_(True)
    model = network(x)
    for called in (model, lambda z: model(z)):
        assert_like(ATTACKS[name](called, x, labels()), x)
    assert x.grad is None
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@every_attack
def test_t12_callers_without_gradients(name):
    x, y = images(), labels()
    model = network(x)
    expected = ATTACKS[name](model, x, y)
    with torch.no_grad(), no_trace(model, x, y):
        assert torch.equal(ATTACKS[name](model, x, y), expected)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        ATTACKS[name](model, x, y)
    with torch.inference_mode():
        x, y = images(), labels()
    assert torch.equal(ATTACKS[name](model, x, y), expected)


@every_attack
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_t13_logits_that_are_not_finite(name, bad):
    x = images()
    model = network(x)
    mask = torch.zeros(6, 4)
    mask[2] = bad
    with no_trace(model, x), pytest.raises(ValueError, match=r"image 2 .*finite"):
        ATTACKS[name](lambda x: model(x) + mask, x, labels())


@every_attack
@pytest.mark.parametrize("what", ["logits", "gradient"])
def test_t13_what_is_not_finite_later(name, what):
    """At x all is well; wherever the attack goes it is not."""
    x = 0.2 + 0.6 * images()
    model = network(x)

    def rough(z):
        away = (z - x).abs().flatten(1).sum(1)
        nothing = 0 * z.flatten(1).sum(1)
        spoilt = nothing * math.inf if what == "logits" else nothing.sqrt()
        return model(z) + torch.where(away > 1e-3, spoilt, nothing)[:, None] * torch.arange(4.0)

    with no_trace(model, x), pytest.raises(ValueError, match="finite"):
        ATTACKS[name](rough, x, goals(name, model, x), **({} if "deepfool" in name else {"search_steps": 6}))


@every_attack
def test_t13_zero_gradients_are_counted(name):
    x = images((4, 9))
    x[:, 0] = torch.tensor([0.9, 0.1, 0.9, 0.1])  # a mark that hardly moves
    inner = network(x)

    def model(z):
        return inner(z) * (z[:, :1].detach() > 0.5) + torch.arange(4.0).flip(0) * (z[:, :1].detach() <= 0.5)

    with pytest.warns(UserWarning, match="50 % of the gradients are exactly zero") as caught:
        adv = ATTACKS[name](model, x, goals(name, model, x))
    assert [warning.filename for warning in caught] == [__file__]
    assert torch.equal(adv[1::2], x[1::2])


@every_attack
def test_t18_labels_are_required(name):
    with pytest.raises(TypeError, match="y must be a tensor of 6 integer labels, got a NoneType"):
        ATTACKS[name](network(images()), images(), None)


@every_attack
@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
def test_t21_t22_t23_the_model_keeps_no_trace(name, fails_at):
    x, y, frail = images(), labels(), frail_in_training()
    if fails_at:
        y = goals(name, frail.eval(), x)
        frail.train()
        frail.frozen_norm.eval()
        frail.calls, frail.fails_at = 0, fails_at
        with no_trace(frail, x, y), pytest.raises(ArithmeticError, match="this model fails"):
            ATTACKS[name](frail, x, y)
        return
    with no_trace(frail, x, y):
        first = ATTACKS[name](frail, x, y)
    assert frail.training
    assert not frail.frozen_norm.training
    assert torch.equal(ATTACKS[name](frail.eval(), x, y), first)  # neither dropout nor batch statistics


@every_attack
def test_t25_t26_strange_memory_and_impolite_models(name):
    y, plain = labels(), images((6, 2, 8, 8))
    model = network(plain)
    expected = ATTACKS[name](model, plain, y)
    strided = torch.stack([plain, plain], dim=-1)[..., 0]
    for x in (plain.contiguous(memory_format=torch.channels_last), strided):
        with no_trace(model, x, y):
            assert torch.allclose(ATTACKS[name](model, x, y), expected, atol=1e-4)
    assert torch.equal(ATTACKS[name](model, plain, y.to(torch.uint8)), expected)
    assert torch.equal(ATTACKS[name](lambda z: model(z.mul_(1.0)), plain, y), expected)
    spoil = partial(ATTACKS[name], lambda z: model(z).add_(0.0), plain, y)
    assert torch.equal(spoil(), expected)


@every_attack
def test_t27_t35_nothing_is_drawn_printed_or_hooked(name, capfd):
    x, y = images(), labels()
    trace, profile, threads = sys.gettrace(), sys.getprofile(), torch.get_num_threads()
    with no_trace(network(x), x, y):
        first = ATTACKS[name](network(x), x, y)
        assert torch.equal(ATTACKS[name](network(x), x, y), first)
    assert capfd.readouterr() == ("", "")
    assert (sys.gettrace(), sys.getprofile(), torch.get_num_threads()) == (trace, profile, threads)


# What is refused, and in which words ----------------------------------------------------------------------------------


BAD_CALLS = {
    "clip reversed": ({"clip": (1.0, 0.0)}, ValueError, "lowest < highest"),
    "clip text": ({"clip": "01"}, TypeError, "clip must be"),
    "x array": ({"x": np.zeros((6, 1, 8, 8))}, TypeError, "torch.as_tensor"),
    "x integers": ({"x": torch.zeros(6, 64, dtype=torch.uint8)}, TypeError, "x must hold floats"),
    "x one image": ({"x": torch.zeros(64)}, ValueError, r"x\.unsqueeze\(0\)"),
    "x nan": ({"x": torch.full((6, 64), math.nan)}, ValueError, "NaN"),
    "y floats": ({"y": torch.zeros(6)}, TypeError, "integer labels, got torch.float32"),
    "y short": ({"y": torch.zeros(5, dtype=torch.int64)}, ValueError, "one label for each of the 6 images"),
    "y negative": ({"y": torch.full((6,), -1)}, ValueError, "labels start at 0, got -1"),
    "steps": ({"steps": 0}, ValueError, "steps must be at least 1"),
    "steps float": ({"steps": 2.0}, TypeError, "steps must be a whole number"),
}
BAD_MODELS = {
    "y too large": (lambda x: x.flatten(1)[:, :3], ValueError, "label 3, but the model has 3 outputs"),
    "one logit": (lambda x: x.flatten(1)[:, :1], ValueError, r"torch\.stack\(\[-z, z\]"),
    "two answers": (lambda x: (x, x), TypeError, "one tensor of logits .* got a tuple"),
    "integers": (lambda x: x.flatten(1).long(), TypeError, "floating-point logits"),
    "detached": (lambda x: x.detach().flatten(1), ValueError, r"\.detach\(\)"),
    "without x": (lambda x: nn.Parameter(torch.zeros(len(x), 4)) * 1.0, ValueError, "do not depend on x"),
}
BAD_OPTIONS = {
    "solver": (
        box_constrained_lbfgs,
        {"solver": "lbgfs"},
        ValueError,
        "solver must be one of .*'lbfgs', 'sgd', 'adam'",
    ),
    "solver None": (box_constrained_lbfgs, {"solver": None}, ValueError, "solver must be one of"),
    "lr of lbfgs": (box_constrained_lbfgs, {"lr": 0.1}, ValueError, 'lr belongs to "sgd" and "adam"'),
    "lr of sgd": (box_constrained_lbfgs, {"solver": "sgd", "lr": -1}, ValueError, "lr must be finite and not negative"),
    "search_steps": (box_constrained_lbfgs, {"search_steps": 0}, ValueError, "search_steps must be at least 1"),
    "norm": (deepfool, {"norm": "l1"}, ValueError, "norm must be one of"),
    "candidates": (deepfool, {"candidates": 0}, ValueError, "candidates must be at least 1"),
    "overshoot": (deepfool, {"overshoot": -0.1}, ValueError, "overshoot must be finite and not negative"),
    "no box": (carlini_wagner, {"clip": None}, ValueError, r"give clip=\(lowest, highest\), not None"),
    "confidence": (carlini_wagner, {"confidence": math.nan}, ValueError, "confidence must be finite"),
    "lr": (carlini_wagner, {"lr": "fast"}, TypeError, "lr must be one number"),
    "cw search_steps": (carlini_wagner, {"search_steps": 1.5}, TypeError, "search_steps must be a whole number"),
}


@every_attack
@pytest.mark.parametrize(("change", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_input_is_refused_before_anything_is_computed(name, change, error, message):
    calls = []
    call = {"x": images(), "y": labels()} | change
    with pytest.raises(error, match=message):
        ATTACKS[name](calls.append, call.pop("x"), call.pop("y"), **call)
    assert not calls


@every_attack
@pytest.mark.parametrize(("model", "error", "message"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_models_are_refused_in_words(name, model, error, message):
    with pytest.raises(error, match=message):
        ATTACKS[name](model, images(), torch.tensor([0, 1, 2, 3, 2, 1]))


@pytest.mark.parametrize(("attack", "options", "error", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused_before_anything_is_computed(attack, options, error, message):
    calls = []
    with pytest.raises(error, match=message):
        attack(calls.append, images(), labels(), **options)
    assert not calls


@every_attack
def test_a_compiled_model_is_attacked_like_any_other(name):
    x, y = images(), labels()
    model = network(x)
    compiled = torch.compile(model, backend="aot_eager")
    expected = ATTACKS[name](model, x, y)
    torch.testing.assert_close(ATTACKS[name](compiled, x, y), expected, atol=1e-4, rtol=0)
    assert not torch.equal(expected, x)


@every_attack
@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (0, 3), (2, 0), (2, 3, 0, 4)])
def test_empty_batches(name, shape):
    x = torch.zeros(shape)
    assert_like(ATTACKS[name](lambda x: x, x, torch.zeros(shape[0], dtype=torch.int64)), x)
