"""Projection onto a generator's range, against least squares in closed form."""

import copy

import pytest
import torch
from torch import nn

from course_utils.defences.robust_manifold.projection import implicit, project_to_range, unrolled

LATENT = 3


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """G(z) = Az + b, drawn as images (N, 1, 4, 4): the nearest point of its range is known."""

    latent = LATENT

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(0.3 * torch.randn(16, LATENT, generator=stream(1)))
        self.b = nn.Parameter(torch.full((16,), 0.5))

    def forward(self, z):
        return (z @ self.a.T + self.b).view(-1, 1, 4, 4)

    def nearest(self, x):
        return torch.linalg.lstsq(self.a.detach(), (x.flatten(1) - self.b.detach()).T).solution.T


class Wells(nn.Module):
    """G(z) = 1/2 + sin(3z)/4 + z/20: many valleys, of which the starts find one or another."""

    latent = 1

    def forward(self, z):
        return (0.5 + (3 * z).sin() / 4 + z / 20).view(-1, 1, 1, 1)


@pytest.fixture
def x():
    return torch.rand(6, 1, 4, 4, generator=stream(2))


def error(x, x_star):
    return (x_star - x).flatten(1).square().sum(1)


def test_a_linear_generator_gets_the_least_squares_solution(x):
    _, x_star = project_to_range(Linear(), x, steps=400, restarts=2, generator_rng=stream())
    least = error(x, Linear()(Linear().nearest(x)))
    assert (error(x, x_star) >= least - 1e-6).all()
    torch.testing.assert_close(error(x, x_star), least, rtol=0.01, atol=0)


def test_what_the_generator_can_draw_is_found_again():
    x = Linear()(torch.randn(5, LATENT, generator=stream(3))).detach().clamp(0, 1)
    exact = x[(x > 0).flatten(1).all(1) & (x < 1).flatten(1).all(1)]
    assert len(exact)
    _, x_star = project_to_range(Linear(), exact, steps=300, restarts=1, generator_rng=stream())
    torch.testing.assert_close(x_star, exact, atol=0.01, rtol=0)


def test_x_star_is_what_z_draws_and_the_errors_never_rise(x):
    seen = []
    z, x_star = project_to_range(Linear(), x, steps=30, callback=lambda step, e: seen.append(e))
    torch.testing.assert_close(x_star, Linear()(z).detach())
    errors = torch.stack(seen)
    assert (errors.diff(dim=0) <= 0).all()
    torch.testing.assert_close(errors[-1], error(x, x_star))
    assert not x_star.requires_grad
    assert not z.requires_grad


def test_more_starts_are_no_worse_and_help_where_there_are_many_valleys():
    x = torch.rand(40, 1, 1, 1, generator=stream(4))
    starts = 3 * torch.randn(8, 40, 1, generator=stream(5))
    one, many = (
        error(x, project_to_range(Wells(), x, steps=60, lr=0.05, restarts=k, init=starts[:k])[1]) for k in (1, 8)
    )
    assert (many <= one + 1e-3).all()  # a start that is given up might have come a little nearer
    assert many.mean() < one.mean() / 2


def test_the_given_start_is_one_of_them(x):
    exact = Linear().nearest(x)
    seen = []
    project_to_range(Linear(), x, steps=1, init=exact, callback=lambda step, e: seen.append(e))
    torch.testing.assert_close(seen[0], error(x, Linear()(exact)).detach())


def test_an_image_gets_the_same_answer_alone(x):
    starts = torch.randn(2, 6, LATENT, generator=stream(6))
    together, _ = project_to_range(Linear(), x, restarts=2, init=starts, steps=50)
    alone = [
        project_to_range(Linear(), x[i : i + 1], restarts=2, init=starts[:, i : i + 1], steps=50)[0] for i in range(6)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_starts_that_lag_or_have_arrived_cost_nothing(x):
    calls = []

    class Counted(Linear):
        def forward(self, z):
            calls.append(len(z))
            return super().forward(z)

    project_to_range(Counted(), x, steps=200, restarts=4, generator_rng=stream())
    assert sum(calls) < 0.6 * 200 * 4 * len(x)


def test_it_leaves_no_trace(x):
    generator = nn.Sequential(Linear(), nn.Dropout())
    generator.latent = LATENT
    before, kept = copy.deepcopy(generator.state_dict()), x.clone()
    torch.manual_seed(0)
    global_stream = torch.get_rng_state()
    with torch.no_grad():
        project_to_range(generator, x, steps=5, generator_rng=stream())
    assert torch.equal(torch.get_rng_state(), global_stream)
    assert generator.training
    assert all(p.requires_grad and p.grad is None for p in generator.parameters())
    assert all(torch.equal(before[k], v) for k, v in generator.state_dict().items())
    assert torch.equal(x, kept)


def test_the_same_stream_gives_the_same_answer(x):
    first, second = (project_to_range(Linear(), x, steps=5, generator_rng=stream(7))[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("change", "error", "telling"),
    [
        ({"x": torch.rand(2, 1, 5, 5)}, ValueError, "makes images"),
        ({"x": 2 * torch.ones(2, 1, 4, 4)}, ValueError, "must lie in"),
        ({"init": torch.zeros(2, 7)}, ValueError, "shape"),
        ({"init": torch.zeros(3, LATENT)}, ValueError, "shape"),
        ({"init": torch.full((2, LATENT), torch.nan)}, ValueError, "NaN"),
        ({"init": torch.zeros(5, 2, LATENT)}, ValueError, "more than"),
        ({"steps": 0}, ValueError, "steps"),
        ({"restarts": 1.5}, TypeError, "restarts"),
        ({"generator": nn.Linear(LATENT, 16)}, TypeError, "latent"),
    ],
)
def test_bad_input_is_refused(change, error, telling):
    options = {"generator": Linear(), "x": torch.rand(2, 1, 4, 4), "steps": 2} | change
    with pytest.raises(error, match=telling):
        project_to_range(options.pop("generator"), options.pop("x"), **options)


def test_a_loss_that_is_not_finite_is_named(x):
    broken = Linear()
    broken.a.data[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="smaller lr"):
        project_to_range(broken, x, steps=3)


def test_inference_mode_is_refused(x):
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        project_to_range(Linear(), x, steps=3)


def test_the_unrolled_gradient_is_that_of_the_loop_written_out(x):
    """For G(z) = Az + b a step is linear: v ← m·v + 2Aᵀ(Az + b − x), so ∂z/∂x follows the same recursion."""
    a, steps, lr, momentum = Linear().a.detach(), 6, 0.05, 0.7
    image = x.clone().requires_grad_()
    weights = torch.randn(len(x), LATENT, generator=stream(8))
    z = unrolled(Linear(), image, torch.zeros(len(x), LATENT), steps=steps, lr=lr, momentum=momentum)
    (gradient,) = torch.autograd.grad((weights * z).sum(), image)
    slope, velocity = torch.zeros(LATENT, 16), torch.zeros(LATENT, 16)
    for _ in range(steps):
        velocity = momentum * velocity + 2 * a.T @ (a @ slope - torch.eye(16))
        slope = slope - lr * velocity
    torch.testing.assert_close(gradient.flatten(1), weights @ slope)


def test_a_long_unrolled_descent_ends_where_the_projection_does(x):
    z = unrolled(Linear(), x, torch.zeros(len(x), LATENT), steps=400)
    torch.testing.assert_close(z.detach(), Linear().nearest(x), atol=1e-3, rtol=0)


def test_the_implicit_gradient_of_a_linear_generator_is_the_pseudo_inverse(x):
    z = Linear().nearest(x)
    x = x.clone().requires_grad_()
    moving = implicit(Linear(), x, z)
    torch.testing.assert_close(moving, z)
    rows = [torch.autograd.grad(part.sum(), x, retain_graph=True)[0].flatten(1) for part in moving.unbind(1)]
    inverse = torch.linalg.pinv(Linear().a.detach())
    torch.testing.assert_close(torch.stack(rows, 1), inverse.expand(len(x), -1, -1), atol=1e-4, rtol=1e-4)


def test_the_implicit_gradient_foresees_where_the_minimum_of_a_bent_range_goes(x):
    class Bent(Linear):
        def forward(self, z):
            return super().forward(z + 0.2 * z.square())

    def minimum(x, z):
        return unrolled(generator, x, z, steps=500, lr=0.05).detach()

    generator = Bent().double()
    x = x.double()
    z = minimum(x, torch.zeros(6, LATENT, dtype=torch.float64))
    change = 1e-4 * torch.randn(x.shape, generator=stream(8), dtype=torch.float64)
    weight = torch.randn(z.shape, generator=stream(9), dtype=torch.float64)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((implicit(generator, x, z) * weight).sum(), x)
    foreseen = (gradient * change).flatten(1).sum(1)
    came = ((minimum((x + change).detach(), z) - z) * weight).sum(1)
    torch.testing.assert_close(foreseen, came, rtol=0.01, atol=1e-7)


def test_a_direction_that_draws_nothing_gets_no_gradient(x):
    class Blind(Linear):
        def forward(self, z):
            return super().forward(z * torch.tensor([1.0, 1.0, 0.0]))

    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(implicit(Blind(), x, torch.zeros(6, LATENT))[:, 2].sum(), x)
    assert not gradient.any()


@pytest.mark.parametrize("through", [implicit, lambda generator, x, z: unrolled(generator, x, z, steps=3)])
def test_a_compiled_generator_has_the_gradient_of_the_plain_one(through, x):
    """torch.compile gives no second derivatives, which both ways through the projection need."""
    images = x.clone().requires_grad_()
    gradients = [
        torch.autograd.grad(through(generator, images, torch.zeros(len(x), LATENT))[:, 1].sum(), images)[0]
        for generator in (Linear(), torch.compile(Linear(), backend="aot_eager"))
    ]
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0
