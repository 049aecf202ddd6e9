"""The attacks: analytic oracles, promises that hold for every input, and each trap that concerns them (T1 to T35)."""

import contextlib
import math
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.attacks import apgd, bim, fgsm, input_gradient, mi_fgsm, pgd, project, random_in_ball
from course_utils.attacks.gradients import adversarial_loss
from course_utils.models.inference import frozen_eval

FLOATS = (torch.float32, torch.float64)
ALL_FLOATS = (*FLOATS, torch.float16, torch.bfloat16)
SHAPES = ((1, 1), (1, 7), (5, 3), (1, 1, 4, 6), (3, 1, 28, 28), (4, 3, 5, 7), (2, 2, 3, 2, 2))
BOXES = ((0.0, 1.0), (-1.0, 1.0), (0.2, 0.3), None)
EPS = (0.0, 1e-45, 1e-30, 1e-9, 1 / 255, 8 / 255, 0.1, 0.3, 1.0)

# Every way to call an attack: (model, x, y, eps) -> adv
ATTACKS = {
    "fgsm": fgsm,
    "fgsm l2": lambda *args, **kw: fgsm(*args, norm="l2", **kw),
    "fgsm margin": lambda *args, **kw: fgsm(*args, loss="margin", **kw),
    "pgd": lambda *args, **kw: pgd(*args, steps=3, generator=stream(), **kw),
    "pgd l2": lambda *args, **kw: pgd(*args, norm="l2", steps=3, generator=stream(), **kw),
    "pgd restarts": lambda *args, **kw: pgd(*args, steps=2, restarts=2, loss="margin", generator=stream(), **kw),
    "apgd": lambda *args, **kw: apgd(*args, steps=5, generator=stream(), **kw),
    "apgd l2": lambda *args, **kw: apgd(*args, norm="l2", steps=5, restarts=2, generator=stream(), **kw),
    "pgd no start": lambda *args, **kw: pgd(*args, steps=3, random_start=False, **kw),
}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
every_norm = pytest.mark.parametrize("norm", ["linf", "l2"])


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def images(shape=(6, 1, 8, 8), dtype=torch.float32, seed=0):
    return torch.rand(shape, generator=stream(seed), dtype=dtype)


def labels(n=6, classes=4, seed=0):
    return torch.randint(classes, (n,), generator=stream(seed))


def network(x, classes=4, *, seed=0):
    """A small smooth network for images like x."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(x[0].numel(), 16, dtype=x.dtype), nn.Tanh(), nn.Linear(16, classes, dtype=x.dtype)
        )


class Linear2(nn.Module):
    """Two classes; the margin z1 - z0 is w.x + b, times scale."""

    def __init__(self, w, b=0.0, scale=1.0):
        super().__init__()
        self.w, self.b, self.scale = nn.Parameter(w.flatten()), b, scale

    def margin(self, x):
        return self.scale * (x.flatten(1) @ self.w.to(x) + self.b)

    def forward(self, x):
        margin = self.margin(x)
        return torch.stack([-margin / 2, margin / 2], dim=1)


class Frail(nn.Module):
    """Batch-norm and dropout, some of it frozen: everything that a careless attack disturbs."""

    def __init__(self, channels=1, pixels=64):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.frozen_norm = nn.BatchNorm2d(4)
        self.live_norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4 * pixels, 4)
        self.fails_at = None
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.fails_at:
            raise ArithmeticError("this model fails")
        x = self.live_norm(self.frozen_norm(self.conv(x)).relu())
        return self.head(self.dropout(x).flatten(1))


def frail_in_training():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Frail().train()
    model.frozen_norm.eval().requires_grad_(False)
    model.conv.bias.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    return model


@pytest.fixture
def frail():
    return frail_in_training()


@contextlib.contextmanager
def no_trace(model, *tensors):
    """Fail if the model, the tensors or the global random streams changed in between."""

    def state():
        modules = {name: m.training for name, m in model.named_modules()}
        flags = {name: p.requires_grad for name, p in model.named_parameters()}
        return modules, flags, torch.is_grad_enabled(), torch.initial_seed()

    values = {name: value.clone() for name, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    copies = [(t.detach().clone(), t.requires_grad, t.grad_fn, t._version) for t in tensors]
    before, rng = state(), torch.get_rng_state()
    numpy_rng = np.random.get_state()[1].copy()  # noqa: NPY002
    try:
        yield
    finally:
        assert state() == before
        assert torch.equal(torch.get_rng_state(), rng)
        assert np.array_equal(np.random.get_state()[1], numpy_rng)  # noqa: NPY002
        for name, value in model.state_dict().items():
            assert torch.equal(value, values[name]), name
        for name, p in model.named_parameters():
            assert (p.grad is None) == (grads[name] is None), name
            assert p.grad is None or torch.equal(p.grad, grads[name]), name
        for tensor, (copy, *rest) in zip(tensors, copies, strict=True):
            assert torch.equal(tensor, copy)
            assert [tensor.requires_grad, tensor.grad_fn, tensor._version] == rest
            assert not tensor.is_leaf or tensor.grad is None


def assert_like(adv, x):
    assert type(adv) is torch.Tensor
    assert (adv.shape, adv.dtype, adv.device) == (x.shape, x.dtype, x.device)
    assert not adv.requires_grad
    assert adv.grad_fn is None
    assert not adv.is_inference()
    assert adv is not x
    assert adv.numel() == 0 or adv.data_ptr() != x.data_ptr()


def assert_inside(adv, x, eps, norm="linf", clip=(0.0, 1.0)):
    """In the ball exactly, as x's own dtype computes it, and in the box."""
    assert_like(adv, x)
    if x.numel() == 0:
        return
    assert adv.isfinite().all()
    change = (adv - x.detach()).flatten(1)
    if norm == "linf":
        assert change.abs().max().item() <= eps
    else:
        if eps == 0 or eps >= 1e-12:  # below, squares round to zero
            assert change.norm(dim=1).max().item() <= eps
        slack = 1 + 4 * torch.finfo(x.dtype).eps
        assert (adv.double() - x.detach().double()).flatten(1).norm(dim=1).max().item() <= eps * slack
    if clip is not None:
        assert adv.min() >= clip[0]
        assert adv.max() <= clip[1]


@st.composite
def points(draw, dtypes=FLOATS, shapes=SHAPES):
    """Images with many pixels on the border of their box, and the box."""
    clip = draw(st.sampled_from(BOXES))
    low, high = clip or (-3.0, 3.0)
    shape, dtype = draw(st.sampled_from(shapes)), draw(st.sampled_from(dtypes))
    generator = stream(draw(st.integers(0, 10_000)))
    x = low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)
    where = torch.rand(shape, generator=generator)
    x = torch.where(where < 0.25, low, torch.where(where > 0.75, high, x)).to(dtype)
    return x, clip


radii = st.sampled_from(EPS) | st.floats(0, 1) | st.integers(1, 255).map(lambda level: level / 255)


# Promises for every input ---------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(points(), radii, st.sampled_from(list(ATTACKS)), st.booleans())
def test_every_attack_stays_in_ball_and_box(point, eps, attack, targeted):
    x, clip = point
    y = labels(len(x), 3)
    model = network(x, 3)
    norm = "l2" if "l2" in attack else "linf"
    with no_trace(model, x, y), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "eps=")  # wider than the box (0.2, 0.3)
        adv = ATTACKS[attack](model, x, y, eps, targeted=targeted, clip=clip)
    assert_inside(adv, x, eps, norm, clip)


@settings(max_examples=150)
@given(points(dtypes=ALL_FLOATS), radii, st.sampled_from(["linf", "l2"]), st.sampled_from([1e-3, 1.0, 1e4]))
def test_t01_t02_project_reaches_ball_and_box(point, eps, norm, size):
    x, clip = point
    far = x + (size * torch.randn(x.shape, generator=stream())).to(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adv = project(far, x, eps, norm=norm, clip=clip)
        again = project(adv, x, eps, norm=norm, clip=clip)
    assert_inside(adv, x, eps, norm, clip)
    assert torch.equal(again, adv)


@settings(max_examples=60)
@given(points(dtypes=ALL_FLOATS), radii, st.sampled_from(["linf", "l2"]))
def test_t09_random_points_stay_in_the_ball(point, eps, norm):
    x, clip = point
    before = x.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        noisy = random_in_ball(x, eps, norm=norm, generator=stream())
        assert_inside(project(noisy, x, eps, norm=norm, clip=clip), x, eps, norm, clip)
    assert_inside(noisy, x, eps, norm, None)
    assert torch.equal(x, before)


@settings(max_examples=25)
@given(points(), st.sampled_from([0.01, 0.1, 0.5]), st.sampled_from(["linf", "l2"]))
def test_project_is_the_nearest_point(point, eps, norm):
    """No point of ball and box is nearer to `far` than its projection; for l2 only without a box."""
    x, clip = point
    if norm == "l2":
        clip = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        far = x + torch.randn(x.shape, generator=stream()).to(x)
        best = (project(far, x, eps, norm=norm, clip=clip) - far).flatten(1).norm(dim=1)
        other = project(random_in_ball(x, eps, norm=norm, generator=stream(1)), x, eps, norm=norm, clip=clip)
    assert (best <= (other - far).flatten(1).norm(dim=1) + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_attack
def test_half_precision(attack, dtype):
    x, y = images((3, 20), dtype), labels(3)
    adv = attack(network(x), x, y, 8 / 255)
    assert_like(adv, x)
    assert (adv - x).flatten(1).norm(dim=1).max() <= 8 / 255 * math.sqrt(20)
    assert adv.min() >= 0 <= adv.max() <= 1
    assert not torch.equal(adv, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_norm
def test_half_precision_keeps_small_steps(dtype, norm):
    """40 steps of 2.5/40 of the radius: each alone would round to nothing."""
    w = torch.randn(300, generator=stream(), dtype=torch.float64)
    x, model = 0.5 + 0.2 * images((4, 300), dtype), Linear2(w.to(dtype))
    adv = pgd(model, x, torch.zeros(4, dtype=torch.int64), 0.1, norm=norm, random_start=False)
    w = model.w.detach().double()
    best = 0.1 * (w.abs().sum() if norm == "linf" else w.norm())
    assert ((adv.double() - x.double()) @ w > 0.85 * best).all()


# The analytic oracle: a linear model with two classes -----------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.sampled_from([(1, 1), (4, 10), (3, 1, 28, 28), (2, 3, 5, 7)]),
    st.sampled_from(FLOATS),
    st.sampled_from([1 / 255, 8 / 255, 0.1, 0.3]),
    st.sampled_from([1.0, 1e3, 1e4]),
    st.sampled_from(["ce", "margin"]),
    st.integers(0, 1),
)
def test_linear_model_moves_by_the_dual_norm(shape, dtype, eps, scale, loss, label):
    """FGSM and Linf-PGD move the margin by eps*|w|_1, L2 by eps*|w|_2: however saturated the model is."""
    generator = stream(shape[0])
    w = torch.randn(shape[1:], generator=generator, dtype=dtype) + 0.01
    x = 0.4 + 0.2 * torch.rand(shape, generator=generator, dtype=dtype)
    y = torch.full(shape[:1], label)
    model = Linear2(w, b=3.0, scale=scale)
    settings_ = {"loss": loss, "clip": None}
    moved = {
        "fgsm": fgsm(model, x, y, eps, **settings_),
        "pgd": pgd(model, x, y, eps, steps=10, generator=stream(), **settings_),
        "pgd targeted": pgd(model, x, 1 - y, eps, steps=10, targeted=True, generator=stream(), **settings_),
        "fgsm l2": fgsm(model, x, y, eps, norm="l2", **settings_),
        "pgd l2": pgd(model, x, y, eps, norm="l2", steps=10, random_start=False, **settings_),
    }
    sign = 1 if label == 0 else -1
    for name, adv in moved.items():
        best = eps * (w.double().norm() if "l2" in name else w.double().abs().sum())
        gain = sign * ((adv.double() - x.double()).flatten(1) @ w.double().flatten())
        # A pixel near 0.5 is known to 3e-8: that much of eps = 1/255 is not the attack's to give.
        grid = 2e-7 * w.double().abs().sum() if dtype == torch.float32 else 0.0
        assert (gain - best).abs().max() <= 1e-5 * best + grid, name


@every_norm
def test_linear_model_to_one_part_in_a_hundred_thousand(norm):
    for pixels in (2, 784, 3 * 64 * 64):
        w = torch.randn(pixels, generator=stream(pixels))
        x = 0.3 + 0.4 * images((3, pixels))
        y = torch.zeros(3, dtype=torch.int64)
        model = Linear2(w)
        best = 0.1 * w.norm(p=1 if norm == "linf" else 2).item()
        for adv in (
            fgsm(model, x, y, 0.1, norm=norm),
            pgd(model, x, y, 0.1, norm=norm, random_start=False),
        ):
            gain = (adv.double() - x.double()) @ w.double()
            assert gain.tolist() == pytest.approx([best] * 3, rel=1e-5)


def test_l2_from_a_random_start_comes_close_to_the_best_direction():
    w = torch.randn(784, generator=stream())
    x, y = 0.3 + 0.4 * images((8, 784)), torch.zeros(8, dtype=torch.int64)
    adv = pgd(Linear2(w), x, y, 0.5, norm="l2", steps=200, step_size=0.05, generator=stream())
    assert ((adv - x) @ w > 0.999 * 0.5 * w.norm()).all()


def test_box_of_a_linear_model():
    """With a box, each pixel goes as far as ball and box allow: the exact worst case, pixel by pixel."""
    w = torch.randn(50, generator=stream())
    x, y = images((6, 50)), torch.zeros(6, dtype=torch.int64)
    worst = torch.where(w > 0, (x + 0.3).clamp(max=1), (x - 0.3).clamp(min=0))
    for attack in (fgsm, pgd):
        assert torch.allclose(attack(Linear2(w), x, y, 0.3), worst, atol=1e-6)


def test_fgsm_agrees_with_the_plain_formula():
    """x + eps*sign(grad of the summed cross-entropy), written independently; they part at rounding level only."""
    x, y = images((400, 1, 14, 14)), labels(400, 10)
    model = network(x, 10)
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    plain = (x + 0.1 * gradient.sign()).clamp(0, 1).detach()
    differs = (fgsm(model, x, y, 0.1) - plain).abs() > 1e-6
    assert differs.float().mean() <= 1e-4
    assert (gradient[differs].abs() <= 1e-5 * gradient.abs().max()).all()


def test_input_gradient_is_the_gradient_of_the_cross_entropy():
    x, y = images(dtype=torch.float64), labels()
    model = network(x)
    leaf = x.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    with no_trace(model, x, y):
        gradient = input_gradient(model, x, y)
    assert_like(gradient, x)
    assert torch.allclose(gradient, expected, rtol=1e-9, atol=1e-12)


def test_input_gradient_of_the_margin():
    x, y = images(dtype=torch.float64), labels()
    model = network(x)
    leaf = x.clone().requires_grad_(True)
    logits = model(leaf)
    others = torch.stack([torch.cat([row[:k], row[k + 1 :]]).max() for row, k in zip(logits, y, strict=True)])
    (expected,) = torch.autograd.grad((others - logits[torch.arange(len(y)), y]).sum(), leaf)
    assert torch.allclose(input_gradient(model, x, y, loss="margin"), expected, rtol=1e-9, atol=1e-12)


def test_input_gradient_keeps_what_float32_has_of_a_saturated_softmax():
    """At a margin of 60 cross-entropy's own float32 gradient is 0; its true value is e^-60."""
    model, x = Linear2(torch.ones(2), b=0.0, scale=30.0), torch.ones(1, 2)
    gradient = input_gradient(model, x, torch.tensor([1]))
    assert gradient[0, 0].item() == pytest.approx(-30 * math.exp(-60), rel=1e-4)


# The traps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.1, 0.3, 8 / 255, 1 / 3])
@pytest.mark.parametrize("grid", [False, True])
def test_t01_eps_is_not_overshot_by_rounding(eps, grid):
    x = images((50, 784))
    x = (x * 255).round() / 255 if grid else x
    model, y = Linear2(torch.randn(784, generator=stream())), torch.zeros(50, dtype=torch.int64)
    for adv in (fgsm(model, x, y, eps), pgd(model, x, y, eps, steps=3), project(1 - x, x, eps)):
        assert (adv - x).abs().max() <= eps
        assert (adv - x).abs().max().item() <= eps  # float32(0.3) is more than 0.3
    for adv in (fgsm(model, x, y, eps, norm="l2"), project(1 - x, x, eps, norm="l2")):
        assert (adv - x).norm(dim=1).max().item() <= eps


def test_t02_start_point_is_in_the_box_too():
    seen = []
    x = torch.zeros(4, 9)
    pgd(network(x), x, labels(4), 0.5, steps=2, callback=lambda r, s, adv, loss: seen.append(adv))
    assert all(adv.min() >= 0 and adv.max() <= 1 for adv in seen)


@every_attack
def test_t02_x_outside_the_box_is_refused(attack):
    x = images()
    x[0, 0, 0, 0] = 2.0
    with pytest.raises(ValueError, match=r"clip=\(0.0, 1.0\).*Normalise inside the model \(models.Normalize\)"):
        attack(network(x), x, labels(), 0.1)


def test_t03_normalised_images_are_refused():
    normalised = (images() - 0.1307) / 0.3081
    with pytest.raises(ValueError, match=r"-0\.42.* to 2\.8.*Normalise"):
        pgd(network(normalised), normalised, labels(), 0.1)


@every_attack
def test_t04_box_is_on_unless_turned_off(attack):
    x = torch.ones(4, 9)
    assert attack(network(x), x, labels(4), 0.3).max() <= 1
    assert attack(network(x), x, labels(4), 0.3, clip=None).max() > 1


@every_attack
def test_t05_zero_eps_returns_a_copy(attack):
    x = images().requires_grad_(True)
    adv = attack(network(x), x, labels(), 0)
    assert torch.equal(adv, x)
    assert_like(adv, x)


def test_t05_zero_eps_where_the_gradient_is_zero():
    x = images((2, 5))
    assert torch.equal(pgd(lambda x: x[:, :3] * 0, x, labels(2, 3), 0.0, norm="l2"), x)


@pytest.mark.parametrize("eps", [1e-13, 1e-20, 1e-30, 1e-40])
def test_t05_tiny_eps_whose_square_is_zero(eps):
    x, y = torch.zeros(3, 20), torch.zeros(3, dtype=torch.int64)
    adv = pgd(Linear2(torch.ones(20)), x, y, eps, norm="l2", steps=5, random_start=False)
    lengths = adv.double().norm(dim=1)
    assert lengths.tolist() == pytest.approx([eps] * 3, rel=1e-4)
    assert (lengths <= eps * (1 + 1e-4)).all()


def test_t05_slider_at_zero_on_one_confident_image():
    """T5, T7 and T8 meet: eps from 0, a batch of one, a saturated model."""
    x, model = torch.full((1, 4), 0.5), Linear2(torch.ones(4), b=10.0, scale=1e4)
    for eps in (0.0, 1e-6, 0.01):
        for norm in ("linf", "l2"):
            adv = fgsm(model, x, torch.tensor([1]), eps, norm=norm)
            length = (adv - x).norm() if norm == "l2" else (adv - x).abs().max()
            assert length.item() == pytest.approx(eps, rel=1e-4, abs=6e-8)


@every_attack
def test_t05_wide_eps_warns_once(attack):
    x = images()
    for clip, eps in [((0.0, 1.0), 8.0), ((-1.0, 1.0), 2.5), (None, 3.0)]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adv = attack(network(x), x, labels(), eps, clip=clip)
        is_l2 = (adv - x).abs().max() < 0.9 * eps and clip is None
        messages = [w for w in caught if "wider" in str(w.message)]
        assert len(messages) == (0 if attack in [ATTACKS[name] for name in ("fgsm l2", "pgd l2", "apgd l2")] else 1), (
            is_l2
        )
        assert all(w.filename == __file__ for w in messages)


def test_t05_no_warning_inside_a_wide_box():
    x = images()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pgd(network(x), x, labels(), 1.5, clip=(-1.0, 1.0), steps=2)


@every_attack
def test_t07_probabilities_warn(attack):
    x = images()
    model = nn.Sequential(network(x), nn.Softmax(1))
    with pytest.warns(UserWarning, match="look like probabilities, not logits") as caught:
        attack(model, x, labels(), 0.1)
    assert caught[0].filename == __file__


@every_attack
def test_t07_logits_do_not_warn(attack):
    x = images()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(network(x), x, labels(), 0.1)
        attack(nn.Sequential(network(x), nn.LogSoftmax(1)), x, labels(), 0.1)


@every_attack
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_t07_saturated_logits_are_attacked_as_well_as_others(attack, scale):
    x = images(dtype=torch.float64)
    plain = network(x, 2)
    y = plain(x).argmax(1)
    scaled = attack(lambda x: scale * plain(x), x, y, 0.1)
    assert torch.allclose(scaled, attack(plain, x, y, 0.1), atol=1e-9)
    assert (plain(scaled).gather(1, y[:, None]) < plain(x).gather(1, y[:, None])).all()


@every_norm
def test_t08_tiny_and_huge_gradients_make_full_steps(norm):
    x, y = 0.5 + 0.1 * images((3, 10)), torch.zeros(3, dtype=torch.int64)
    for scale in (1e-42, 1e-38, 1e-30, 1e-20, 1e30):
        change = fgsm(lambda x, s=scale: torch.stack([-x.sum(1), x.sum(1)], 1) * s, x, y, 0.1, norm=norm) - x
        length = change.norm(dim=1) if norm == "l2" else change.abs().amax(1)
        assert length.tolist() == pytest.approx([0.1] * 3, rel=1e-5)


@every_norm
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_t08_batch_of_64_is_64_batches_of_one(norm, loss):
    x, y = images((64, 3, 5, 7), torch.float64), labels(64)
    model = network(x)
    for attack in (fgsm, lambda *a, **kw: pgd(*a, steps=5, random_start=False, **kw)):
        together = attack(model, x, y, 0.05, norm=norm, loss=loss)
        alone = [attack(model, x[i : i + 1], y[i : i + 1], 0.05, norm=norm, loss=loss) for i in range(64)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-12)


@every_norm
@pytest.mark.parametrize("pixels", [1, 2, 20])
def test_t09_random_start_is_uniform_in_the_ball(norm, pixels):
    """Uniform: E|u_i| = eps/2 in linf; in l2 the radius has mean eps*d/(d+1), and (r/eps)^d is uniform on [0, 1]."""
    n, eps = 40_000, 0.3
    x = torch.full((n, pixels), 0.5, dtype=torch.float64)
    noise = random_in_ball(x, eps, norm=norm, generator=stream()) - x
    assert noise.mean(0).abs().max() < 0.01 * eps * 2
    if norm == "linf":
        assert noise.abs().mean().item() == pytest.approx(eps / 2, rel=0.01)
        shares = noise.flatten() / (2 * eps) + 0.5
    else:
        radius = noise.norm(dim=1)
        assert radius.mean().item() == pytest.approx(eps * pixels / (pixels + 1), rel=0.01)
        shares = (radius / eps) ** pixels
    histogram = torch.histc(shares, 10, 0, 1) / shares.numel()
    assert (histogram - 0.1).abs().max() < 0.01


def test_t09_random_start_of_an_image_is_near_the_sphere():
    x = torch.zeros(200, 1, 28, 28)
    radius = random_in_ball(x, 0.5, norm="l2", generator=stream()).flatten(1).norm(dim=1)
    assert radius.mean().item() == pytest.approx(0.5 * 784 / 785, rel=1e-3)


def test_t09_random_start_is_used():
    x, y = images(), labels()
    starts = []
    for seed in (0, 1):
        pgd(network(x), x, y, 0.1, steps=1, generator=stream(seed), callback=lambda r, s, a, v: starts.append((s, a)))
    first, second = (adv for step, adv in starts if step == 0)
    assert not torch.equal(first, second)
    assert not torch.equal(first, x)


@every_attack
def test_t10_parameters_get_no_gradient(attack):
    x = images()
    model = network(x)
    attack(model, x, labels(), 0.1)
    attack(lambda x: model(x), x, labels(), 0.1)
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


@every_attack
@pytest.mark.parametrize("is_module", [True, False])
def test_t11_no_graph_is_kept(attack, is_module):
    x = images()
    model = network(x)
    adv = attack(model if is_module else lambda x: model(x), x.requires_grad_(True), labels(), 0.1)
    assert_like(adv, x)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_callback_sees_the_loss_of_each_image(loss):
    x = torch.rand(4, 1, 6, 6, generator=stream())
    model, y, seen = network(x), labels(4), []
    pgd(model, x, y, 0.2, steps=3, loss=loss, generator=stream(), callback=lambda r, s, adv, v: seen.append((adv, v)))
    assert len(seen) == 4
    for adv, value in seen:
        with torch.no_grad():
            logits = model.eval()(adv)
        if loss == "ce":
            torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits, y, reduction="none"))
        else:
            others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            torch.testing.assert_close(value, others - logits.gather(1, y[:, None]).squeeze(1))


def test_t11_callback_gets_copies_without_graph():
    x, y = images(), labels()
    model, calls = network(x), []

    def spoil(restart, step, adv, loss):
        calls.append((restart, step))
        assert not adv.requires_grad
        assert not loss.requires_grad
        assert loss.shape == (6,)
        adv.fill_(7.0)
        loss.fill_(math.nan)

    options = {"steps": 4, "restarts": 3}
    expected = pgd(model, x, y, 0.1, generator=stream(), **options)
    spoiled = pgd(lambda x: model(x), x, y, 0.1, generator=stream(), callback=spoil, **options)
    assert torch.equal(spoiled, expected)
    assert calls == [(restart, step) for restart in range(3) for step in range(5)]


@every_attack
def test_t12_callers_under_no_grad(attack):
    x, y = images(), labels()
    model = network(x)
    expected = attack(model, x, y, 0.1)
    with torch.no_grad(), no_trace(model, x, y):
        assert torch.equal(attack(model, x, y, 0.1), expected)
        assert not torch.is_grad_enabled()


@every_attack
def test_t12_inference_mode_is_refused(attack):
    x, y = images(), labels()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        attack(network(x), x, y, 0.1)


@every_attack
def test_t12_tensors_made_under_inference_mode_are_fine(attack):
    """Labels that a model predicted under inference_mode: the attack runs outside of it."""
    with torch.inference_mode():
        x, y = images(), labels()
    model = network(images())
    adv = attack(model, x, y, 0.1)
    assert torch.equal(adv, attack(model, images(), labels(), 0.1))
    assert not adv.is_inference()


def test_t12_random_points_and_projection_need_no_gradients():
    with torch.inference_mode():
        x = images()
        assert project(random_in_ball(x, 0.1), x, 0.05).shape == x.shape


@every_attack
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_t13_logits_that_are_not_finite(attack, bad):
    x = images()
    model = network(x)
    mask = torch.zeros(6, 4)
    mask[2] = bad
    with no_trace(model, x), pytest.raises(ValueError, match=r"image 2 .*finite"):
        attack(lambda x: model(x) + mask, x, labels(), 0.1)


@every_attack
def test_t13_gradient_that_is_not_finite(attack):
    x = images().clamp(0.1, 0.9)
    model = network(x)

    def rough(x):
        zero = x[3:4] - x[3:4]
        return model(x) + F.pad(zero.flatten(1).sum(1).sqrt(), (3, 2))[:, None] * torch.arange(4)

    with pytest.raises(ValueError, match="gradient of image 3 is not finite"):
        attack(rough, x, labels(), 0.1)


@every_attack
def test_t13_zero_gradients_are_counted(attack):
    x = images((4, 9))
    half = torch.tensor([1.0, 0.0, 1.0, 0.0])[:, None]
    model = network(x)
    with pytest.warns(UserWarning, match="50 % of the gradients are exactly zero") as caught:
        attack(lambda x: model(x) * half, x, labels(4), 0.1)
    assert [warning.filename for warning in caught] == [__file__]  # once, whatever the restarts


@every_attack
def test_t13_a_constant_model_warns_and_stays_in_the_ball(attack):
    x = images((4, 9))
    with pytest.warns(UserWarning, match="100 %"):
        adv = attack(lambda x: x[:, :4] * 0.0 + torch.arange(4.0), x, labels(4), 0.1)
    assert_inside(adv, x, 0.1)


class Bumpy(nn.Module):
    """Many local maxima, so that restarts end at different heights."""

    def forward(self, x):
        height = (x.flatten(1) * torch.linspace(20, 60, x[0].numel())).sin().sum(1)
        return torch.stack([torch.zeros_like(height), height, 0.5 * height], dim=1)


@pytest.mark.parametrize("targeted", [False, True])
@every_norm
def test_t14_t15_best_iterate_of_every_image_over_all_restarts(norm, targeted):
    """The oracle: all iterates as the callback saw them, the best by (fooled, loss), image by image."""
    x, y = images((64, 6)), torch.full((64,), 2 if targeted else 0)
    model, seen = Bumpy(), []
    adv = pgd(
        model,
        x,
        y,
        0.1,
        norm=norm,
        steps=5,
        restarts=4,
        targeted=targeted,
        step_size=0.06,
        generator=stream(),
        callback=lambda restart, step, adv, loss: seen.append((restart, adv, loss)),
    )
    sign = -1 if targeted else 1
    fooled = torch.stack([(model(a).argmax(1) == y) == targeted for _, a, _ in seen])
    loss = torch.stack([sign * value for *_, value in seen])
    expected, winners = [], set()
    for image in range(64):
        keys = [(bool(f), float(v)) for f, v in zip(fooled[:, image], loss[:, image], strict=True)]
        best = max(range(len(keys)), key=keys.__getitem__)
        winners.add(seen[best][0])
        expected.append(seen[best][1][image])
    assert torch.equal(adv, torch.stack(expected))
    assert winners == {0, 1, 2, 3}  # so the last, or the best whole, restart would not do


def test_t14_more_restarts_are_never_worse():
    x, y, model = images((64, 6)), torch.zeros(64, dtype=torch.int64), Bumpy()
    before = None
    for restarts in (1, 2, 5):  # the same stream: the first restarts are the same
        adv = pgd(model, x, y, 0.1, steps=3, restarts=restarts, generator=stream())
        logits = model(adv)
        state = logits.argmax(1) != y, logits[:, 1:].logsumexp(1) - logits[:, 0]
        if before:
            assert (state[0] | ~before[0]).all()
            assert ((state[1] >= before[1] - 1e-6) | (state[0] & ~before[0])).all()
        before = state


def test_t15_fooled_comes_before_loss():
    """At the start the loss is highest, and only later iterates fool: they must win."""

    class Trap(nn.Module):
        def forward(self, x):
            t = x[:, 0]  # fooled for t > 0.75 by a little; at t < 0.5 a huge loss that does not fool: three classes
            crowd = 5 * (0.5 - t).clamp(min=0)
            true = torch.zeros_like(t)
            return torch.stack([true, 0.1 * (t - 0.75), crowd - 100 * crowd.sign() + t], dim=1)

    x, y, seen = torch.full((1, 1), 0.7), torch.tensor([0]), []
    adv = pgd(
        Trap(), x, y, 0.2, steps=3, step_size=0.1, random_start=False, callback=lambda *a: seen.append((a[2], a[3]))
    )
    assert Trap()(adv).argmax(1) != 0


def test_t15_pgd_is_at_least_as_strong_as_fgsm():
    torch.manual_seed(0)
    x, y = images((64, 30), torch.float64), labels(64)
    model = nn.Sequential(network(x), nn.Tanh(), nn.Linear(4, 4, dtype=x.dtype).requires_grad_(False))
    for targeted in (False, True):
        one = model(fgsm(model, x, y, 0.2, targeted=targeted)).argmax(1) == y
        many = model(pgd(model, x, y, 0.2, targeted=targeted, random_start=False)).argmax(1) == y
        assert (many == targeted).sum() >= (one == targeted).sum()


@every_attack
def test_t16_targeted_raises_the_probability_of_the_target(attack):
    x = images(dtype=torch.float64)
    model = network(x)
    target = labels(seed=3)
    before = model(x).softmax(1).gather(1, target[:, None])
    after = model(attack(model, x, target, 0.05, targeted=True)).softmax(1).gather(1, target[:, None])
    assert (after > before).all()
    away = model(attack(model, x, target, 0.05)).softmax(1).gather(1, target[:, None])
    assert (away < before).all()


@pytest.mark.parametrize("shift", [-100.0, 100.0])
def test_t17_margin_leaves_the_true_class_out_whatever_the_sign(shift):
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 5.0, 2.0]]) + shift
    value = adversarial_loss(logits, torch.tensor([0, 2]), "margin")
    assert value.tolist() == [-1.0, 3.0]


@every_attack
def test_t18_labels_are_required(attack):
    x = images()
    with pytest.raises(TypeError, match="y must be a tensor of 6 integer labels, got a NoneType"):
        attack(network(x), x, None, 0.1)


@every_norm
def test_t19_default_step_is_two_and_a_half_radii_over_the_steps(norm):
    w, iterates = torch.randn(20, generator=stream()), []
    x, y = torch.full((1, 20), 0.5), torch.tensor([0])
    pgd(Linear2(w), x, y, 0.1, norm=norm, steps=10, random_start=False, callback=lambda *a: iterates.append(a[2]))
    change = iterates[1] - iterates[0]
    length = change.norm() if norm == "l2" else change.abs().max()
    assert length.item() == pytest.approx(0.025, rel=1e-5)


@every_norm
@pytest.mark.parametrize("targeted", [False, True])
def test_t20_one_step_is_fgsm(norm, targeted):
    x, y = images((8, 3, 5, 7)), labels(8)
    options = {"norm": norm, "targeted": targeted}
    one = pgd(network(x), x, y, 0.07, steps=1, step_size=0.07, random_start=False, **options)
    assert torch.equal(one, fgsm(network(x), x, y, 0.07, **options))


@every_norm
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_bim_is_pgd_from_the_image_itself(norm, targeted, loss):
    x, y = images((8, 3, 5, 7)), labels(8)
    options = {"norm": norm, "targeted": targeted, "loss": loss, "clip": (-0.5, 1.0)}
    for more in ({}, {"steps": 4, "step_size": 0.03}):
        expected = pgd(network(x), x, y, 0.07, random_start=False, **({"steps": 10} | more), **options)
        assert torch.equal(bim(network(x), x, y, 0.07, **more, **options), expected)
    one = bim(network(x), x, y, 0.07, steps=1, step_size=0.07, **options)
    assert torch.equal(one, fgsm(network(x), x, y, 0.07, **options))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("decay", [0, 0.5, 1.0])
def test_mi_fgsm_follows_the_momentum_of_the_paper(decay, targeted):
    """Against a loop that differentiates the cross-entropy itself."""
    x, y = images(), labels()
    model, sign = network(x), -1 if targeted else 1
    adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(5):
        adv.requires_grad_()
        (gradient,) = torch.autograd.grad(sign * F.cross_entropy(model(adv), y, reduction="sum"), adv)
        momentum = decay * momentum + gradient / gradient.abs().flatten(1).sum(1).view(-1, 1, 1, 1)  # any norm will do
        adv = (adv.detach() + 0.02 * momentum.sign()).clamp(0, 1)
    ours = mi_fgsm(model, x, y, 0.1, steps=5, decay=decay, targeted=targeted)
    assert torch.isclose(ours, adv, atol=1e-5).float().mean() > 0.98


def test_mi_fgsm_stays_inside_ball_and_box_and_leaves_no_trace():
    x, y = images(), labels()
    model = network(x)
    with no_trace(model, x):
        adv = mi_fgsm(model, x, y, 0.1, steps=7)
    assert (adv - x).abs().max() <= 0.1
    assert adv.min() >= 0
    assert adv.max() <= 1
    assert torch.equal(mi_fgsm(model, x, y, 0.1, steps=1), fgsm(model, x, y, 0.1))
    assert torch.equal(mi_fgsm(model, x, y, 0.0), x)
    alone = torch.cat([mi_fgsm(model, x[i : i + 1], y[i : i + 1], 0.1, steps=7) for i in range(len(x))])
    assert torch.isclose(alone, adv, atol=1e-5).float().mean() > 0.98
    with pytest.raises(ValueError, match="decay"):
        mi_fgsm(model, x, y, 0.1, decay=-1)


def test_bim_starts_at_the_image_and_shows_every_step():
    x, y, seen = images(), labels(), []
    model = network(x)
    with no_trace(model, x, y):  # nothing is drawn, either
        adv = bim(model, x, y, 0.1, steps=3, callback=lambda restart, step, adv, loss: seen.append((step, adv)))
    assert_inside(adv, x, 0.1)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[0][1], x)
    assert any(torch.equal(adv[:1], point[:1]) for _, point in seen[1:])


def test_t20_more_steps_raise_the_loss():
    x, y = images((64, 40)), labels(64)
    model = network(x)
    losses = [
        F.cross_entropy(model(pgd(model, x, y, 0.2, steps=steps, random_start=False)), y).item() for steps in (1, 5, 20)
    ]
    assert losses == sorted(losses)


@every_attack
def test_t21_t22_t23_the_model_keeps_no_trace(attack, frail):
    x, y = images(), labels()
    with no_trace(frail, x, y):
        first = attack(frail, x, y, 0.1)
    assert frail.training
    assert not frail.frozen_norm.training
    assert torch.equal(attack(frail, x, y, 0.1), first)  # neither dropout nor batch statistics
    frail.eval()
    assert torch.equal(attack(frail, x, y, 0.1), first)


def test_t21_input_gradient_keeps_no_trace(frail):
    x, y = images(), labels()
    with no_trace(frail, x, y):
        input_gradient(frail, x, y)


@every_attack
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_t23_nothing_changes_when_the_model_fails(attack, fails_at, frail):
    x, y = images(), labels()
    frail.fails_at = fails_at
    if fails_at > 1 and attack in (ATTACKS["fgsm"], ATTACKS["fgsm l2"], ATTACKS["fgsm margin"]):
        fails_at = frail.fails_at = 1
    with no_trace(frail, x, y), pytest.raises(ArithmeticError, match="this model fails"):
        attack(frail, x, y, 0.1)


def test_t23_nothing_changes_when_the_callback_fails(frail):
    x, y = images(), labels()
    with no_trace(frail, x, y), pytest.raises(ZeroDivisionError):
        pgd(frail, x, y, 0.1, steps=3, generator=stream(), callback=lambda *_: 1 / 0)


def test_t23_frozen_restores_after_an_exception(frail):
    def interrupt():
        assert not any(m.training for m in frail.modules())
        assert not any(p.requires_grad for p in frail.parameters())
        raise KeyboardInterrupt

    with no_trace(frail), pytest.raises(KeyboardInterrupt), frozen_eval(frail):
        interrupt()


def test_t24_the_model_is_taken_as_it_is_now():
    w = torch.ones(5)
    x, y, model = images((2, 5)) * 0.5 + 0.2, torch.zeros(2, dtype=torch.int64), Linear2(torch.ones(5))
    up = fgsm(model, x, y, 0.1)
    with torch.no_grad():
        model.w.copy_(-w)
    assert torch.allclose(up - x, x - fgsm(model, x, y, 0.1), atol=1e-6)


@every_attack
def test_t25_models_that_change_their_input_in_place(attack):
    class Impolite(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            x -= 0.5
            x.mul_(2)
            return self.inner(x)

    x, y = images(), labels()
    model = network(x)
    polite = nn.Sequential(nn.Identity(), model)
    adv = attack(Impolite(model), x, y, 0.1)
    assert torch.equal(adv, attack(lambda x: polite(2 * (x - 0.5)), x, y, 0.1))
    assert torch.equal(x, images())


class KeptGradient(torch.autograd.Function):
    """Two logits -w.x and w.x, whose gradient towards x is the very tensor that the model keeps."""

    @staticmethod
    def forward(ctx, x, kept):
        ctx.kept = kept
        margin = (x * kept).flatten(1).sum(1)
        return torch.stack([-margin, margin], dim=1)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.kept, None


@every_attack
def test_t25_a_gradient_that_the_model_keeps_is_not_written_to(attack):
    x, y = images(), torch.zeros(6, dtype=torch.int64)
    kept = torch.randn(x.shape, generator=stream(1))
    with no_trace(nn.Identity(), x, y, kept):
        attack(lambda z: KeptGradient.apply(z, kept), x, y, 0.1)
        attack(lambda z: KeptGradient.apply(z, kept), x, y, 0.1, clip=None)


@every_attack
def test_t25_strange_memory(attack):
    y = labels()
    plain = images((6, 2, 8, 8))
    model = network(plain)
    expected = attack(model, plain, y, 0.1)
    for x in (plain.contiguous(memory_format=torch.channels_last), plain.transpose(2, 3).contiguous().transpose(2, 3)):
        with no_trace(model, x, y):
            assert torch.allclose(attack(model, x, y, 0.1), expected, atol=1e-6)
    expanded = plain[:1].expand(6, 2, 8, 8)
    with no_trace(model, expanded, y):
        assert_inside(attack(model, expanded, y, 0.1), expanded, 0.1)
    strided = torch.stack([plain, plain], dim=-1)[..., 0]
    with no_trace(model, strided, y):
        assert torch.equal(attack(model, strided, y, 0.1), expected)


@every_attack
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_t26_images_of_another_type_are_refused(attack, dtype):
    x = torch.ones(6, 64).to(dtype)
    with pytest.raises(TypeError, match=r"x must hold floats in \[0, 1\].*/ 255"):
        attack(network(images((6, 64))), x, labels(), 0.1)


@every_attack
def test_t26_model_of_another_precision_says_so(attack):
    x = images()
    model = network(x.double())
    with no_trace(model, x), pytest.raises(RuntimeError) as caught:
        attack(model, x, labels(), 0.1)
    assert "torch.float32 on cpu; the model's parameters are torch.float64 on cpu" in caught.value.__notes__[0]


@every_attack
@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.int8])
def test_t26_labels_of_any_integer_type(attack, dtype):
    x, y = images(), labels()
    assert torch.equal(attack(network(x), x, y.to(dtype), 0.1), attack(network(x), x, y, 0.1))


def test_t26_a_model_may_answer_in_another_precision():
    x, y = images(), labels()
    model = network(x)
    for dtype in (torch.float64, torch.bfloat16):
        adv = pgd(lambda x, d=dtype: model(x).to(d), x, y, 0.1, steps=3)
        assert_inside(adv, x, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_inside(pgd(model, x, y, 0.1, steps=3), x, 0.1)


@every_norm
def test_t27_random_stream(norm):
    x, y = images(), labels()
    model = network(x)

    def run(generator=None):
        return pgd(model, x, y, 0.1, norm=norm, steps=2, restarts=2, generator=generator)

    with no_trace(model, x, y):
        first, second = run(stream(5)), run(stream(5))
        noise = [random_in_ball(x, 0.1, norm=norm, generator=stream(5)) for _ in range(2)]
    assert torch.equal(first, second)
    assert torch.equal(*noise)
    assert not torch.equal(run(stream(6)), first)
    torch.manual_seed(3)
    once = run()
    torch.manual_seed(3)
    assert torch.equal(run(), once)


@every_attack
def test_t35_no_prints_and_no_hooks(attack, capfd, frail):
    trace, profile = sys.gettrace(), sys.getprofile()
    attack(frail, images(), labels(), 0.1)
    assert capfd.readouterr() == ("", "")
    assert (sys.gettrace(), sys.getprofile()) == (trace, profile)


# What is refused, and in which words ----------------------------------------------------------------------------------


BAD_CALLS = {
    "eps text": ({"eps": "0.1"}, TypeError, "eps must be one number in pixel units"),
    "eps bool": ({"eps": True}, TypeError, "eps must be one number"),
    "eps None": ({"eps": None}, TypeError, "eps must be one number"),
    "eps for each image": ({"eps": torch.full((6,), 0.1)}, TypeError, "eps must be one number"),
    "eps nan": ({"eps": math.nan}, ValueError, "eps must be finite and not negative"),
    "eps infinite": ({"eps": math.inf}, ValueError, "eps must be finite"),
    "eps negative": ({"eps": -0.1}, ValueError, "not negative, got -0.1"),
    "clip reversed": ({"clip": (1.0, 0.0)}, ValueError, "lowest < highest"),
    "clip empty": ({"clip": (0.5, 0.5)}, ValueError, "lowest < highest"),
    "clip nan": ({"clip": (0.0, math.nan)}, ValueError, "lowest < highest"),
    "clip number": ({"clip": 1.0}, TypeError, "clip must be"),
    "clip text": ({"clip": "01"}, TypeError, "clip must be"),
    "clip three": ({"clip": (0, 1, 2)}, TypeError, "clip must be"),
    "norm": ({"norm": "l1"}, ValueError, "norm must be one of"),
    "norm number": ({"norm": 2}, ValueError, "norm must be one of"),
    "loss": ({"loss": "cw"}, ValueError, 'loss must be "ce" or "margin"'),
    "x array": ({"x": np.zeros((6, 1, 8, 8))}, TypeError, "torch.as_tensor"),
    "x one image": ({"x": torch.zeros(64)}, ValueError, r"x\.unsqueeze\(0\)"),
    "x nan": ({"x": torch.full((6, 64), math.nan)}, ValueError, "NaN"),
    "x infinite": ({"x": torch.full((6, 64), math.inf)}, ValueError, "infinite"),
    "y list": ({"y": [0] * 6}, TypeError, "y must be a tensor of 6 integer labels, got a list"),
    "y floats": ({"y": torch.zeros(6)}, TypeError, "integer labels, got torch.float32"),
    "y bools": ({"y": torch.zeros(6, dtype=torch.bool)}, TypeError, "integer labels"),
    "y one-hot": ({"y": torch.eye(6, 4)}, TypeError, r"y\.argmax\(1\)"),
    "y column": ({"y": torch.zeros(6, 1, dtype=torch.int64)}, ValueError, "one label for each of the 6 images"),
    "y short": ({"y": torch.zeros(5, dtype=torch.int64)}, ValueError, "one label for each"),
    "y scalar": ({"y": torch.tensor(0)}, ValueError, "one label for each"),
    "y negative": ({"y": torch.full((6,), -1)}, ValueError, "labels start at 0, got -1"),
    "y too large": ({"y": torch.full((6,), 4)}, ValueError, "label 4, but the model has 4 outputs"),
    "model with one logit": ({"model": lambda x: x.flatten(1)[:, :1]}, ValueError, r"torch\.stack\(\[-z, z\]"),
    "model with a flat answer": ({"model": lambda x: x.flatten(1)[:, 0]}, ValueError, r"logits \(N, K\)"),
    "model with two answers": ({"model": lambda x: (x, x)}, TypeError, "one tensor of logits .* got a tuple"),
    "model with integers": ({"model": lambda x: x.flatten(1).long()}, TypeError, "floating-point logits"),
    "model that detaches": ({"model": lambda x: x.detach().flatten(1)}, ValueError, r"\.detach\(\)"),
    "model without x": (
        {"model": lambda x: nn.Parameter(torch.zeros(len(x), 4)) * 1.0},
        ValueError,
        "do not depend on x",
    ),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
@pytest.mark.parametrize("attack", [fgsm, partial(pgd, generator=stream()), bim], ids=["fgsm", "pgd", "bim"])
def test_bad_input_is_refused_in_words(attack, change, error, message):
    x = images()
    model = network(x)
    call = {"model": model, "x": x, "y": labels(), "eps": 0.1} | change
    with no_trace(model, x), pytest.raises(error, match=message):
        attack(call.pop("model"), call.pop("x"), call.pop("y"), call.pop("eps"), **call)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": 2.0}, TypeError, "steps must be a whole number"),
        ({"steps": True}, TypeError, "steps must be a whole number"),
        ({"restarts": 0}, ValueError, "restarts must be at least 1"),
        ({"restarts": 2, "random_start": False}, ValueError, "random_start=True"),
        ({"step_size": -0.1}, ValueError, "step_size must be finite and not negative"),
        ({"step_size": "big"}, TypeError, "step_size must be one number"),
    ],
)
def test_bad_options_of_pgd(options, error, message):
    with pytest.raises(error, match=message):
        pgd(network(images()), images(), labels(), 0.1, **options)


def test_nothing_is_computed_before_the_input_is_checked():
    x, calls = images(), []
    for change, *_ in BAD_CALLS.values():
        call = {"x": x, "y": labels(), "eps": 0.1} | change
        if "model" in call or call["y"] is BAD_CALLS["y too large"][0]["y"]:
            continue  # known only from the model's answer
        with pytest.raises((TypeError, ValueError)):
            pgd(calls.append, call.pop("x"), call.pop("y"), call.pop("eps"), **call)
    assert not calls


@pytest.mark.parametrize("eps", [np.float32(0.125), np.float64(0.125), torch.tensor(0.125), torch.tensor([0.125])])
def test_eps_may_be_any_one_number(eps):
    x, y = images(), labels()
    assert torch.equal(fgsm(network(x), x, y, eps), fgsm(network(x), x, y, 0.125))


def test_counts_may_be_numpy_integers():
    x, y = images(), labels()
    adv = pgd(network(x), x, y, 0.1, steps=np.int64(2), restarts=np.int32(2), generator=stream())
    assert torch.equal(adv, pgd(network(x), x, y, 0.1, steps=2, restarts=2, generator=stream()))


@every_attack
@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (0, 3), (2, 0), (2, 3, 0, 4)])
def test_empty_batches(attack, shape):
    x = torch.zeros(shape)
    y = torch.zeros(shape[0], dtype=torch.int64)
    adv = attack(lambda x: x, x, y, 0.1)
    assert_like(adv, x)
    for norm in ("linf", "l2"):
        assert_like(random_in_ball(x, 0.1, norm=norm), x)
        assert_like(project(x, x, 0.1, norm=norm), x)
    assert_like(input_gradient(lambda x: x, x, y), x)


@pytest.mark.parametrize(
    ("adv", "message"),
    [
        (torch.zeros(2, 4), "adv must be a tensor like x"),
        (torch.zeros(2, 3, dtype=torch.float64), "torch.float64"),
        (np.zeros((2, 3)), "got ndarray"),
        (torch.full((2, 3), math.nan), "no projection can repair"),
        (torch.full((2, 3), math.inf), "no projection can repair"),
    ],
)
def test_project_refuses_what_is_not_like_x(adv, message):
    with pytest.raises(ValueError, match=message):
        project(adv, torch.zeros(2, 3), 0.1)


def test_project_refuses_a_centre_outside_the_box():
    with pytest.raises(ValueError, match="clip"):
        project(torch.zeros(2, 3), torch.full((2, 3), 2.0), 0.1)


# Other models that hidden tests and students bring --------------------------------------------------------------------


@every_attack
def test_models_that_are_not_modules(attack):
    x, y = images(), labels()
    model = network(x)

    class Callable:
        def __call__(self, x):
            return model(x)

    expected = attack(model, x, y, 0.1)
    for wrapped in (lambda x: model(x), model.forward, Callable()):
        assert torch.equal(attack(wrapped, x, y, 0.1), expected)


@every_attack
def test_parametrised_traced_and_tied_models(attack):
    x, y = images((6, 64)), labels()
    inner = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(64, 4))
    model = nn.Sequential(inner, nn.ReLU(inplace=True), inner, spectral).train()
    with no_trace(model, x, y):
        assert_inside(attack(model, x, y, 0.1), x, 0.1)


@every_attack
def test_first_layer_in_place(attack):
    x, y = images((6, 64)), labels()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(64, 4))
    with no_trace(model, x, y):
        attack(model, x, y, 0.1)


@every_attack
def test_normalisation_layers_and_recurrent_nets(attack):
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.cells, self.head = nn.InstanceNorm2d(1), nn.GRU(8, 6, batch_first=True), nn.Linear(6, 4)

        def forward(self, x):
            return self.head(self.cells(self.norm(x).squeeze(1))[0][:, -1])

    x, y, model = images(), labels(), Rows().train()
    with no_trace(model, x, y):
        assert_like(attack(model, x, y, 0.1), x)


@every_attack
def test_models_that_use_gradients_of_their_own(attack):
    class Purifier(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            (gradient,) = torch.autograd.grad(self.inner(x).square().sum(), x, create_graph=True)
            return self.inner(x - 0.1 * gradient)

    x, y = images(), labels()
    model = Purifier(network(x))
    with no_trace(model, x, y):
        assert_inside(attack(model, x, y, 0.1), x, 0.1)


def test_gradient_through_the_attack_is_not_asked_for():
    """x that is part of a graph: the attack neither uses nor extends it."""
    leaf = images().requires_grad_(True)
    x = leaf * 0.5
    with no_trace(network(x), x):
        adv = pgd(network(x), x, labels(), 0.1, steps=2, generator=stream())
    assert_inside(adv, x, 0.1)
    assert leaf.grad is None


def test_adversarial_training_step():
    """The attack in a training loop: the gradients of the training step are those without it."""
    x, y = images(), labels()
    model = network(x)
    adv = pgd(model, x, y, 0.1, steps=2, generator=stream())
    F.cross_entropy(model(adv), y).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad(set_to_none=False)
    loss = F.cross_entropy(model(pgd(model, x, y, 0.1, steps=2, generator=stream())), y)
    pgd(model, x, y, 0.1, steps=2)  # between forward and backward
    loss.backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))
