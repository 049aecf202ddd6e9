"""The defence and its gradients, the latent attack where the nearest pair is known, and training on the manifold."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.attacks import input_gradient, pgd
from course_utils.defences.robust_manifold import ManifoldDefense, latent_attack, train_on_manifold
from course_utils.defences.robust_manifold.projection import unrolled

LATENT = 2


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """G(z) = Az + 1/2 with orthogonal columns of length `scale`, drawn as images (N, 1, 4, 4)."""

    latent = LATENT

    def __init__(self, scale=0.5):
        super().__init__()
        columns = torch.linalg.qr(torch.randn(16, LATENT, generator=stream(1))).Q
        self.a = nn.Parameter(scale * columns)

    def forward(self, z):
        return (z @ self.a.T + 0.5).view(-1, 1, 4, 4)


def encode(x):
    """The exact inverse of Linear() on its range, and the least-squares guess elsewhere."""
    a = Linear().a.detach()
    return (x.flatten(1) - 0.5) @ a / 0.25


class Side(nn.Module):
    """Two classes of images of Linear(): which side of the line z₀ = threshold they are drawn from."""

    def __init__(self, threshold=0.0, gain=10.0):
        super().__init__()
        self.threshold, self.gain = nn.Parameter(torch.tensor(threshold)), gain

    def forward(self, x):
        lead = self.gain * (encode(x)[:, 0] - self.threshold)
        return torch.stack([-lead, lead], dim=1)


@pytest.fixture
def x():
    return torch.rand(6, 1, 4, 4, generator=stream(2))


def defence(**options):
    return ManifoldDefense(Side(), Linear(), **{"steps": 100, "seed": 0} | options)


# the defence


def test_it_classifies_the_image_that_is_drawn_from_the_nearest_point(x):
    exact = Linear()(encode(x)).detach()
    torch.testing.assert_close(defence(encoder=encode).purify(x), exact, atol=0.01, rtol=0)
    assert torch.equal(defence()(x).argmax(1), Side()(exact).argmax(1))


def test_it_undoes_what_the_generator_cannot_draw(x):
    """Noise orthogonal to the range moves the image, and the logits not at all."""
    clean = Linear()(0.2 * torch.randn(6, LATENT, generator=stream(3))).detach()
    noise = 0.05 * torch.randn(6, 16, generator=stream(4))
    a = Linear().a.detach() / 0.5
    noise = (noise - noise @ a @ a.T).view_as(clean)
    defended = defence(encoder=encode, steps=200)
    torch.testing.assert_close(defended(clean + noise), defended(clean), atol=0.05, rtol=0)


def test_by_default_there_is_no_gradient_to_follow(x):
    network = defence().requires_grad_(False)
    assert not network(x.requires_grad_()).requires_grad
    with pytest.raises(ValueError, match="do not depend on x"):
        pgd(defence(), x.detach(), torch.zeros(6, dtype=torch.int64), 0.1, steps=1)


def test_the_straight_through_gradient_is_the_classifiers_at_x_star(x):
    """And its values are those of the defence."""
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    straight = defence(bpda=True)
    torch.testing.assert_close(straight(x), defence()(x))
    expected = input_gradient(Side(), straight.purify(x).detach(), y)
    torch.testing.assert_close(input_gradient(straight, x, y), expected, atol=1e-5, rtol=1e-4)


def test_the_unrolled_gradient_is_that_of_the_loop(x):
    y = torch.tensor([0, 1, 0, 1, 0, 1])

    def loop(image):
        generator = Linear()
        return Side()(generator(unrolled(generator, image, encode(image), steps=5)))

    open_ = defence(encoder=encode, differentiable=True, unroll=5)
    torch.testing.assert_close(open_(x), loop(x))
    torch.testing.assert_close(input_gradient(open_, x, y), input_gradient(loop, x, y))


def test_the_unrolled_and_implicit_gradients_leave_the_directions_out_that_the_generator_cannot_draw(x):
    """Its part orthogonal to the range is nothing; the straight-through gradient's is not."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    a, y = Linear().a.detach() / 0.5, torch.tensor([0, 1, 2, 0, 1, 2])

    def outside(gradient):
        flat = gradient.flatten(1)
        return (flat - flat @ a @ a.T).norm() / flat.norm()

    for option, small in (({"differentiable": True}, True), ({"implicit": True}, True), ({"bpda": True}, False)):
        defended = ManifoldDefense(network, Linear(), encoder=encode, steps=30, seed=0, **option)
        assert (outside(input_gradient(defended, x, y)) < 1e-3) == small


def test_the_implicit_defence_is_the_defence_itself_with_a_gradient(x):
    options = {"encoder": encode, "steps": 30}
    open_ = defence(implicit=True, **options)
    torch.testing.assert_close(open_(x), defence(**options)(x))
    assert open_(x.clone().requires_grad_()).requires_grad


def test_from_the_end_the_unrolled_defence_says_what_the_search_says(x):
    open_ = defence(differentiable=True, unroll=20, steps=200)
    torch.testing.assert_close(open_.purify(x).detach(), defence(steps=200).purify(x), atol=0.02, rtol=0)
    assert open_.requires_grad_(False)(x.requires_grad_()).requires_grad


def test_a_seed_makes_the_answer_independent_of_chance_and_of_the_batch(x):
    defended = defence(steps=10, restarts=3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    together = defended(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(together, defended(x))
    torch.testing.assert_close(together, torch.cat([defended(image[None]) for image in x]), atol=1e-3, rtol=1e-3)


def test_without_a_seed_every_call_draws_anew(x):
    defended = defence(steps=3, seed=None)
    assert not torch.equal(defended(x), defended(x))


def test_it_works_under_no_grad_and_leaves_its_networks_alone(x):
    defended = defence(encoder=encode)
    before = copy.deepcopy(defended.state_dict())
    with torch.no_grad():
        defended.train()(x)
    assert defended.generator.training
    assert all(p.requires_grad and p.grad is None for p in defended.parameters())
    assert all(torch.equal(before[k], v) for k, v in defended.state_dict().items())


def test_two_gradients_at_once_and_a_generator_without_latent_are_refused():
    with pytest.raises(ValueError, match="choose one"):
        defence(bpda=True, differentiable=True)
    with pytest.raises(ValueError, match="choose one"):
        defence(differentiable=True, implicit=True)
    with pytest.raises(TypeError, match="latent"):
        ManifoldDefense(Side(), nn.Linear(2, 16))
    with pytest.raises(ValueError, match="restarts"):
        defence(restarts=0)


@pytest.mark.parametrize(
    ("images", "telling"), [(torch.rand(2, 1, 5, 5), "makes images"), (3 * torch.ones(2, 1, 4, 4), "must lie in")]
)
def test_wrong_images_are_refused(images, telling):
    with pytest.raises(ValueError, match=telling):
        defence()(images)


# the attack in the latent space


def test_the_nearest_pair_lies_across_the_line():
    """From z the nearest image of the other class is half of |z₀| away: the columns of G have length 1/2."""
    z = torch.randn(20, LATENT, generator=stream(5))
    pairs = latent_attack(Side(), Linear(), z, anchored=True, steps=300)
    assert pairs.found.all()
    torch.testing.assert_close(pairs.distance, z[:, 0].abs() / 2, atol=0.005, rtol=0.01)
    assert torch.equal(pairs.z, z)


def test_a_free_pair_meets_at_the_line():
    z = torch.randn(20, LATENT, generator=stream(5))
    pairs = latent_attack(Side(), Linear(), z, confidence=1.0, steps=300)
    assert pairs.found.all()
    # a margin of logits of 1 is 1/20 in z₀ and 1/40 in pixels, on either side
    assert (pairs.distance >= 0.05 - 1e-4).all()
    assert pairs.distance.median() < 0.052  # some end a little earlier: what is kept is the nearest of the way


def test_pairs_are_what_they_say():
    z = torch.randn(20, LATENT, generator=stream(6))
    pairs = latent_attack(Side(), Linear(), z, steps=50)
    torch.testing.assert_close(pairs.x, Linear()(pairs.z).detach())
    torch.testing.assert_close(pairs.x_prime, Linear()(pairs.z_prime).detach())
    distance = (pairs.x - pairs.x_prime).flatten(1).norm(dim=1)
    torch.testing.assert_close(pairs.distance[pairs.found], distance[pairs.found])
    assert torch.equal(pairs.y, Side()(Linear()(z)).argmax(1))
    assert (Side()(pairs.x).argmax(1) == pairs.y)[pairs.found].all()
    assert (pairs.y_prime != pairs.y)[pairs.found].all()
    assert pairs.within(math.inf) == 1
    assert pairs.within(pairs.distance.median().item()) == pytest.approx(0.5, abs=0.05)


def test_a_wrong_label_needs_no_search_and_a_single_class_has_no_pair():
    z = torch.randn(8, LATENT, generator=stream(7))
    said = Side()(Linear()(z)).argmax(1)
    assert latent_attack(Side(), Linear(), z, 1 - said, anchored=True, steps=5).distance.eq(0).all()

    class Zero(nn.Module):
        def forward(self, x):
            return F.pad(x.flatten(1)[:, :1] * 1e-3 - 9, (1, 0))

    lost = latent_attack(Zero(), Linear(), z, steps=20)
    assert not lost.found.any()
    assert torch.equal(lost.z_prime, z)


def test_the_latent_attack_leaves_no_trace():
    z, classifier, generator, seen = torch.randn(4, LATENT), Side().train(), Linear(), []
    kept, before = z.clone(), torch.get_rng_state()
    latent_attack(classifier, generator, z, steps=4, callback=lambda step, d: seen.append(d))
    assert torch.equal(z, kept)
    assert torch.equal(torch.get_rng_state(), before)
    assert classifier.training
    assert all(p.requires_grad and p.grad is None for m in (classifier, generator) for p in m.parameters())
    assert len(seen) == 5
    assert all((later <= earlier).all() for earlier, later in pairwise(seen))


@pytest.mark.parametrize(
    ("change", "error", "telling"),
    [
        ({"z": torch.zeros(3, 5)}, ValueError, "shape"),
        ({"z": torch.full((3, LATENT), torch.nan)}, ValueError, "NaN"),
        ({"y": torch.zeros(2, dtype=torch.int64)}, ValueError, "label"),
        ({"y": torch.zeros(3)}, TypeError, "integer"),
        ({"steps": 0}, ValueError, "steps"),
        ({"lr": math.nan}, ValueError, "lr"),
    ],
)
def test_bad_input_of_the_latent_attack_is_refused(change, error, telling):
    options = {"z": torch.zeros(3, LATENT), "steps": 2} | change
    with pytest.raises(error, match=telling):
        latent_attack(Side(), Linear(), options.pop("z"), options.pop("y", None), **options)


def test_what_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"image 0 .*finite"):
        latent_attack(Side(gain=math.inf), Linear(), torch.ones(2, LATENT), steps=2)

    def breaks_on_the_way(x):
        return Side()(x) / ((x - start).abs().amax() < 1e-3)  # -> ±inf

    start = Linear()(torch.ones(2, LATENT)).detach()
    with pytest.raises(FloatingPointError, match="smaller lr"):
        latent_attack(breaks_on_the_way, Linear(), torch.ones(2, LATENT), steps=5)


def test_a_pair_is_two_classes_by_the_classifiers_own_answer():
    """On the border both classes have the same logit, and the answer is class 0: it cannot stand for class 1."""

    class Border(Side):
        def forward(self, x):
            return super().forward(x) * (encode(x)[:, 0] < 0)[:, None]  # a tie on the whole side of class 1

    z = torch.stack([torch.linspace(0.1, 2, 8), torch.zeros(8)], dim=1)
    pairs = latent_attack(Border(), Linear(), z, torch.ones(8, dtype=torch.int64), steps=30)
    assert (pairs.distance == 0).all()  # the classifier is wrong about all of them from the beginning
    pairs = latent_attack(Border(), Linear(), -z, steps=60)
    assert not pairs.found.any()  # a tie does not leave class 0


def test_latent_attack_takes_a_classifier_that_changes_its_input_in_place():
    def impolite(x):
        x.sub_(0.5)
        return torch.stack([-x.flatten(1).sum(1), x.flatten(1).sum(1)], dim=1)

    def polite(x):
        return impolite(x.clone())

    z = torch.randn(4, LATENT, generator=stream(3))
    torch.testing.assert_close(*(latent_attack(c, Linear(), z, steps=5).distance for c in (impolite, polite)))


# training


class Boxed(Linear):
    """The same, cut off at the ends of the box, where every image to train on has to be."""

    def forward(self, z):
        return super().forward(z).clamp(0, 1)


def task(n=200):
    """Points on two sides of a gap, drawn as digits-like images: class 1 has z₀ > 0.5, class 0 z₀ < −0.5."""
    y = torch.arange(n) % 2
    z = torch.randn(n, LATENT, generator=stream(8))
    z[:, 0] = (2 * y - 1) * (0.5 + 0.2 * torch.rand(n, generator=stream(9)))
    return Boxed(scale=0.4)(z).detach(), y, z


def test_pairs_move_the_boundary_away_from_the_data():
    """A line that passes close to class 1 is pushed towards the middle of the gap between the classes."""
    x, y, z = task()
    generator, model = Boxed(scale=0.4), nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    slope = 12 * generator.a.detach()[:, 0] / 0.16  # logits ±12·(z₀ − 0.45), and no image of class 1 has z₀ < 0.5
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-slope, slope]))
        model[1].bias.copy_(torch.tensor([1.0, -1.0]) * (0.5 * slope.sum() + 12 * 0.45))

    def distance():
        return latent_attack(model, generator, z[y == 1], y[y == 1], anchored=True).distance.median()

    before = distance()
    options = {"eps": 0.15, "rounds": 2, "epochs": 3, "pairs": 100, "confidence": 0.2, "lr": 0.02}
    history = train_on_manifold(model, generator, x, y, z, progress=False, **options)
    assert list(history["round"]) == [1] * 3 + [2] * 3
    assert history["pairs"].min() > 50
    assert distance() > 1.3 * before
    assert (model(x).argmax(1) == y).float().mean() > 0.95
    assert not model.training


def test_training_takes_the_pairs_with_the_label_of_their_image(monkeypatch):
    x, y, z = task(20)
    seen = {}

    def fit(model, images, labels, **options):
        seen.update(images=images, labels=labels, options=options)
        raise KeyboardInterrupt

    monkeypatch.setattr("course_utils.defences.robust_manifold.training.fit", fit)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(KeyboardInterrupt):
        train_on_manifold(model, Linear(scale=0.4), x, y, z, eps=9.0, rounds=1, pairs=20, progress=False)
    assert torch.equal(seen["images"][:20], x)
    assert len(seen["images"]) == len(seen["labels"]) > 20
    assert seen["options"]["attack"].eps == 9.0
    assert seen["options"]["attack"].options["norm"] == "l2"


def test_latents_that_do_not_match_are_refused():
    x, y, z = task(20)
    with pytest.raises(ValueError, match="shape"):
        train_on_manifold(nn.Flatten(), Linear(), x, y, z[:5], progress=False)
    with pytest.raises(ValueError, match="rounds"):
        train_on_manifold(nn.Flatten(), Linear(), x, y, z, rounds=0, progress=False)
