"""Transformations, robustness to them, and the expectation over them: promises, and answers known in advance."""

import io
import math

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from course_utils import attacks, models
from course_utils.attacks import TRANSFORMATIONS, EOTModel, fgsm, input_gradient, pgd, transformations
from course_utils.core import wilson
from course_utils.evaluation import robustness_to_transformations

F = transformations.F
every_transformation = pytest.mark.parametrize("transform", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS)


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(n=3, channels=3, height=24, width=32, seed=0):
    """Images without sharp edges, as photos mostly are."""
    small = torch.rand(n, channels, 4, 4, generator=stream(seed))
    return F.resize(small, [height, width], antialias=True).clamp(0, 1)


def identity(x, _generator):
    return x


class Line(nn.Module):
    """Two logits ±(w·x)."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights.flatten())

    def forward(self, x):
        lead = x.flatten(1) @ self.weights
        return torch.stack([lead, -lead], dim=1)


class Bright(nn.Module):
    """Class 1 where the mean pixel is above a half."""

    def forward(self, x):
        lead = 20 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-lead, lead], dim=1)


# Transformations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 24, 32), (1, 1, 28, 28), (0, 3, 8, 8)])
@every_transformation
def test_the_answer_is_a_new_batch_of_pixels_and_nothing_else_changes(transform, shape):
    x = torch.rand(shape, generator=stream())
    before, state = x.clone(), torch.get_rng_state()
    seen = transform(x, stream(1))
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (seen.shape, seen.dtype) == (x.shape, x.dtype)
    assert seen is not x
    assert len(x) == 0 or not torch.equal(seen, x)
    assert ((seen >= 0) & (seen <= 1)).all()


@every_transformation
def test_the_generator_decides(transform):
    x = torch.rand(2, 3, 24, 32, generator=stream())
    one, again, other = (transform(x, stream(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    is_random = not torch.equal(one, other)
    twice = transform(x[:1].expand(2, -1, -1, -1), stream())
    assert torch.equal(twice[0], twice[1]) != is_random  # each image has draws of its own


@every_transformation
def test_a_gradient_comes_through(transform):
    x = (0.2 + 0.6 * torch.rand(2, 3, 24, 32, generator=stream())).requires_grad_()
    (gradient,) = torch.autograd.grad(transform(x, stream()).sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    "still",
    [
        lambda x: attacks.blur(x, 0),
        lambda x: attacks.resize_and_back(x, 1),
        lambda x: attacks.random_crop(x, 1),
        lambda x: attacks.random_resize_and_pad(x, 1),
        lambda x: attacks.random_rotation(x, 0),
        lambda x: attacks.random_perspective(x, 0),
        lambda x: attacks.random_brightness_contrast(x, 0),
        lambda x: attacks.gaussian_noise(x, 0),
    ],
)
def test_without_strength_nothing_happens(still):
    x = smooth()
    torch.testing.assert_close(still(x), x, atol=1e-5, rtol=0)


def test_quantise_is_the_nearest_level_and_its_gradient_the_identity():
    x = torch.rand(2, 3, 5, 5, generator=stream(), requires_grad=True)
    seen = attacks.quantise(x)
    assert torch.equal((seen * 255).round() / 255, seen)
    assert (seen - x).abs().max() <= 0.5 / 255 + 1e-7
    assert torch.equal(attacks.quantise(seen), seen)
    (gradient,) = torch.autograd.grad((3 * seen).sum(), x)
    assert (gradient == 3).all()


def test_jpeg_is_what_a_file_holds():
    x = attacks.quantise(torch.rand(1, 3, 20, 12, generator=stream()))
    file = io.BytesIO()
    Image.fromarray((x[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(file, "JPEG", quality=60)
    assert torch.equal(attacks.jpeg(x, 60), F.to_tensor(Image.open(file))[None])


def test_a_better_quality_is_nearer_and_smooth_images_hardly_change():
    x = torch.rand(4, 3, 32, 32, generator=stream())
    errors = [(attacks.jpeg(x, quality) - x).square().mean().item() for quality in (5, 30, 60, 95)]
    assert errors == sorted(errors, reverse=True)
    assert (attacks.jpeg(smooth(), 95) - smooth()).abs().mean() < 0.02


def test_blur_keeps_the_mean_and_takes_the_noise():
    noise = 0.5 + 0.1 * torch.randn(1, 1, 64, 64, generator=stream()).clamp(-4, 4)
    seen = attacks.blur(noise, 2.0)
    assert abs(seen.mean() - noise.mean()) < 0.01
    # White noise of variance s² keeps s²/(4πσ²) under a Gaussian of standard deviation σ.
    inner = seen[..., 8:-8, 8:-8]
    assert inner.std().item() == pytest.approx(0.1 / math.sqrt(4 * math.pi * 4), rel=0.25)


def test_rotation_and_perspective_stay_within_their_strength():
    """A point off the centre moves by no more than the arc, a corner by no more than its share."""
    x = torch.zeros(40, 1, 65, 65)
    x[:, :, 31:34, 58:61] = 1  # about (32, 59), 27 pixels right of the centre
    rows, columns = torch.meshgrid(torch.arange(65.0), torch.arange(65.0), indexing="ij")

    def centre(seen):
        weight = (seen - seen[:, :, 32:33, 32:33]).clamp_min(0)[:, 0, 16:49, 40:]
        total = weight.sum((1, 2))
        return [(weight * axis[16:49, 40:]).sum((1, 2)) / total for axis in (rows, columns)]

    down, right = centre(attacks.random_rotation(x, 20, generator=stream()))
    angle = torch.atan2(down - 32, right - 32).rad2deg()
    assert angle.abs().max() <= 22  # a pixel is two degrees there
    assert angle.min() < -10
    assert angle.max() > 10
    seen = attacks.random_perspective(torch.ones(20, 1, 60, 40), 0.1, generator=stream())
    assert (seen[:, :, 6:-6, 4:-4] == 1).float().mean() > 0.97
    assert (seen == 0.5).flatten(1).any(1).all()  # grey beside the picture


def test_resize_and_pad_holds_one_smaller_picture_on_black():
    seen = attacks.random_resize_and_pad(torch.ones(30, 1, 40, 20), 0.5, generator=stream())[:, 0]
    heights, widths = ((seen.sum(2) > 0).sum(1), (seen.sum(1) > 0).sum(1))
    assert torch.allclose(seen.flatten(1).sum(1), (heights * widths).float(), rtol=1e-4)
    assert (heights >= 20).all()
    assert len(heights.unique()) > 5


def test_light_and_noise_have_the_strength_they_say():
    grey = torch.full((200, 1, 8, 8), 0.5)
    means = attacks.random_brightness_contrast(grey, 0.2, generator=stream()).flatten(1).mean(1)
    assert means.min() >= 0.4 - 1e-6
    assert means.max() <= 0.6 + 1e-6
    assert means.max() - means.min() > 0.15
    assert (attacks.gaussian_noise(grey, 0.05, generator=stream()) - grey).std().item() == pytest.approx(0.05, rel=0.1)


def test_a_stronger_print_changes_more():
    x = smooth(6)
    change = [(attacks.print_and_photograph(x, strength=s, generator=stream()) - x).abs().mean() for s in (0, 0.5, 2)]
    assert change == sorted(change)
    assert change[0] < 0.02


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x: attacks.jpeg(x, 0), ValueError, "quality must be at least 1"),
        (lambda x: attacks.jpeg(x, 100), ValueError, "1 to 95"),
        (lambda x: attacks.jpeg(x[:, :2]), ValueError, "grey or RGB"),
        (lambda x: attacks.blur(x, -1.0), ValueError, "sigma"),
        (lambda x: attacks.blur(x, 3.0), ValueError, "too far"),
        (lambda x: attacks.resize_and_back(x, 1.5), ValueError, "scale must be from 0 to 1"),
        (lambda x: attacks.random_perspective(x, 0.5), ValueError, "below 0.5"),
        (lambda x: attacks.print_and_photograph(x, strength=3), ValueError, "0 to 2"),
        (lambda x: attacks.quantise(x[0]), ValueError, r"\(N, C, H, W\)"),
        (lambda x: attacks.quantise(2 * x), ValueError, "must lie in clip"),
        (lambda x: attacks.random_crop(x.byte(), 0.9), TypeError, "floats"),
    ],
)
def test_wrong_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call(torch.ones(2, 3, 8, 8))


# Survival -------------------------------------------------------------------------------------------------------------


def half(x, _generator):
    return x / 2


def test_only_images_count_that_stay_right_without_an_attack():
    """Halving the light turns a bright photo into a dark one without any attack: the attack gets no credit."""
    level = torch.tensor([0.9, 0.9, 0.2, 0.2, 0.2])
    attacked = torch.tensor([0.4, 0.7, 0.8, 1.0, 0.3])  # fooled: the first, the third and the fourth
    x, adv = (values.view(-1, 1, 1, 1).expand(-1, 1, 4, 4) for values in (level, attacked))
    y = torch.tensor([1, 1, 0, 0, 0])
    table = robustness_to_transformations(Bright(), x, {"turned": adv}, y, {"none": identity, "half": half}).set_index(
        "transformation"
    )
    assert table.loc["none", ["n", "successes"]].tolist() == [3, 3]
    # Halved, only the dark photos are still right; their bright twins are at 0.4 and 0.5, which is no lead for class 1.
    assert table.loc["half", ["n", "successes"]].tolist() == [2, 0]
    assert table.loc["none", ["low", "high"]].tolist() == pytest.approx(wilson(3, 3))


def test_with_a_target_only_the_target_is_adversarial():
    class Three(nn.Module):
        def forward(self, x):
            level = x.flatten(1).mean(1, keepdim=True)
            return -100 * (level - torch.tensor([[0.1, 0.5, 0.9]])).abs()

    x, adv = torch.full((2, 1, 2, 2), 0.1), torch.full((2, 1, 2, 2), 0.9)
    y = torch.zeros(2, dtype=torch.int64)
    table = {"half": half}
    assert robustness_to_transformations(Three(), x, {"lifted": adv}, y, table).successes.item() == 2
    assert robustness_to_transformations(Three(), x, {"lifted": adv}, y, table, target=y + 2).successes.item() == 0


def test_clean_and_adversarial_images_get_the_same_draws():
    seen = []

    def spy(x, generator):
        seen.append(torch.rand(4, generator=generator))
        return x

    x = torch.full((2, 1, 2, 2), 0.9)
    robustness_to_transformations(
        Bright(), x, {"dark": 1 - x, "darker": 0 * x}, torch.tensor([1, 1]), {"spy": spy, "again": spy}
    )
    assert len(seen) == 6
    assert all(torch.equal(draw, seen[0]) for draw in seen)


def test_each_attack_is_counted_as_if_it_were_alone():
    x = torch.linspace(0.55, 0.95, 8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    y, steps = torch.ones(8, dtype=torch.int64), {"none": identity, "half": half}
    made = {"inverted": 1 - x, "darker": x / 2, "nothing": x}
    together = robustness_to_transformations(Bright(), x, made, y, steps)
    alone = pd.concat(robustness_to_transformations(Bright(), x, {name: adv}, y, steps) for name, adv in made.items())
    order = ["attack", "transformation"]
    pd.testing.assert_frame_equal(
        together.sort_values(order, ignore_index=True), alone.sort_values(order, ignore_index=True)
    )


def test_no_image_that_counts_has_no_share():
    x = torch.full((2, 1, 2, 2), 0.9)
    row = robustness_to_transformations(Bright(), x, {"nothing": x}, torch.tensor([1, 1]), {"none": identity}).iloc[0]
    assert row.n == 0
    assert math.isnan(row.share)
    with pytest.raises(ValueError, match="shape of x"):
        robustness_to_transformations(Bright(), x, {"one": x[:1]}, torch.tensor([1, 1]))


# Expectation over transformations -------------------------------------------------------------------------------------


def test_over_the_identity_it_is_the_plain_attack():
    x, y = torch.rand(4, 1, 28, 28, generator=stream()), torch.arange(4)
    torch.manual_seed(0)
    model = models.mlp()
    plain = pgd(model, x, y, 0.1, steps=5, generator=stream())
    expected = pgd(EOTModel(model, identity, samples=3), x, y, 0.1, steps=5, generator=stream())
    assert torch.isclose(plain, expected, atol=1e-6).float().mean() > 0.999


def test_over_a_linear_transformation_the_gradient_is_the_mean():
    """For a line and t(x) = a·x with random a, ∇ of the margin 2w·t(x) is 2·mean(a)·w."""
    weights = torch.randn(12, generator=stream(1))
    drawn = []

    def scaled(x, generator):
        drawn.append(transformations.random_uniform(0, 1, generator))
        return drawn[-1] * x

    x = torch.rand(3, 3, 2, 2, generator=stream())
    seen = EOTModel(Line(weights), scaled, samples=50, generator=stream())
    gradient = input_gradient(seen, x, torch.ones(3, dtype=torch.int64), loss="margin")
    mean = torch.tensor(drawn).mean()
    torch.testing.assert_close(gradient.flatten(1), (2 * mean * weights).expand(3, -1))
    assert len(drawn) == 50


def test_it_finds_what_most_views_share():
    """One view in three sees the mirrored image: a single view misleads, the mean of many does not."""
    weights = torch.tensor([3.0, 1.0, 1.0, 1.0]).view(1, 1, 1, 4)

    def mostly(x, generator):
        return x.flip(3) if transformations.random_integer(2, generator) == 0 else x

    x, y = torch.full((1, 1, 1, 4), 0.5), torch.tensor([0])
    adv = fgsm(EOTModel(Line(weights - 1.2), mostly, samples=600, generator=stream()), x, y, 0.1)
    # Weights (1.8, -0.2, -0.2, -0.2) and their mirror image, at 2/3 and 1/3
    mean = 2 / 3 * (weights - 1.2) + (weights - 1.2).flip(3) / 3
    assert torch.equal((adv - x).sign(), -mean.sign())
    assert not torch.equal((weights - 1.2).sign(), mean.sign())


def test_it_leaves_no_trace_and_keeps_ball_and_box():
    model = models.small_cnn(batch_norm=True).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = torch.rand(4, 1, 28, 28, generator=stream()), torch.arange(4)
    copy, state = x.clone(), torch.get_rng_state()
    seen = EOTModel(model, TRANSFORMATIONS["print and photograph"], samples=2, generator=stream())
    adv = pgd(seen, x, y, 0.1, steps=2, generator=stream(1))
    assert (adv - x).abs().max().item() <= 0.1
    assert 0 <= adv.min() <= adv.max() <= 1
    assert torch.equal(x, copy)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_it_is_robust_to_a_transformation_that_undoes_the_plain_attack():
    """High frequencies weigh most, and a blur takes them: only the attack that knows of the blur uses the low ones."""
    checker = torch.tensor([1.0, -1.0]).repeat(16, 8).view(1, 1, 16, 16)
    line = Line(4 * checker + 0.2)

    def model(x):
        return line(x - 0.5)

    x, y = torch.full((1, 1, 16, 16), 0.52), torch.tensor([0])
    blurred = {"blur": TRANSFORMATIONS["blur, σ = 1 pixel"]}
    plain = pgd(model, x, y, 0.04, steps=10, random_start=False)
    expected = pgd(EOTModel(model, blurred["blur"]), x, y, 0.04, steps=10, random_start=False)
    assert model(plain).argmax(1).item() == 1
    assert model(blurred["blur"](plain, None)).argmax(1).item() == 0
    assert model(blurred["blur"](expected, None)).argmax(1).item() == 1


def test_samples_are_counted():
    with pytest.raises(ValueError, match="samples must be at least 1"):
        EOTModel(Bright(), identity, samples=0)
