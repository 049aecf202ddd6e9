"""Projection onto the range of a generator: the nearest image to x that it can generate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...attacks.best_so_far import BestSoFar
from ...core.validation import check_count, check_images, checked_number
from ...models.inference import frozen_eval

Callback = Callable[[int, Tensor], None]

PRUNE_EVERY = 20  # steps; after a change of direction Adam's momentum needs some ten
PRUNE_RATIO = 1.1  # a start is pruned when its error is so many times that of its image's best start, ...
PRUNE_FROM = 0.1  # ... once this share of the steps is done
CONVERGED = 1e-3  # a start has converged when PRUNE_EVERY steps lower its error by less than this share of it
MIN_CURVATURE = 0.02  # of ‖G(z) − x‖² in `implicit`: along flatter directions ∂z*/∂x would grow without bounds


def project_to_range(
    generator: nn.Module,
    x: Tensor,
    *,
    steps: int = 100,
    restarts: int = 4,
    lr: float = 0.2,
    init: Tensor | None = None,
    generator_rng: torch.Generator | None = None,
    callback: Callback | None = None,
) -> tuple[Tensor, Tensor]:
    """Find for every image the nearest one in the generator's range: z* = argmin ‖G(z) − x‖², x* = G(z*).

    Adam runs from all starts of all images at once. Starts that are worse than another one of their image, or have
    converged, are pruned; the best point of every image over all steps and starts is returned.

    Args:
        generator: maps z (N, latent) to images like x, and has an attribute `latent`. x: images in [0, 1], (N, ...).
        steps: at most, of each start. restarts: starts of each image. lr: of Adam, lowered along a cosine.
        init: one start, (N, latent), such as an encoder's output, or several, (S, N, latent); the others are random.
        generator_rng: source of the starts; the global random stream is then left alone.
        callback: called as callback(step, error) with the squared distance (N,) reached so far, from step 0 on.

    Returns:
        z (N, latent) and x_star, like x.

    Raises:
        ValueError, TypeError: x outside [0, 1], a generator of other shapes, a start of another latent size.
        FloatingPointError: a distance is no longer finite. RuntimeError: called under `torch.inference_mode()`.

    >>> from course_utils.models import decoder
    >>> z, x_star = project_to_range(decoder(latent=2), torch.rand(3, 1, 28, 28), steps=5)
    >>> z.shape, x_star.shape
    (torch.Size([3, 2]), torch.Size([3, 1, 28, 28]))

    Samangouei, Kabkab and Chellappa, "Defense-GAN", 2018; Ilyas, Jalal, Asteri, Daskalakis and Dimakis, "The robust
    manifold defense", 2017.
    """
    check_images(x, (0.0, 1.0))
    check_count("steps", steps)
    check_count("restarts", restarts)
    lr = checked_number("lr", lr)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("the projection needs gradients, which torch.inference_mode() forbids: call it outside.")
    starts = _starts(generator, x, restarts, init, generator_rng)
    with frozen_eval(generator), torch.enable_grad():
        _check_shape(generator, starts[0, :1], x)
        search = _Search(generator, x.detach(), starts)
        for step in range(steps + 1):
            gradient = search.evaluate(step, lr)
            if callback is not None:
                callback(step, search.nearest.cost.clone())
            if step == steps or not len(search.z):
                break
            search.adam_step(gradient, step, lr * (1 + math.cos(math.pi * step / steps)) / 2)
            if (step + 1) % PRUNE_EVERY == 0:
                search.prune(step >= PRUNE_FROM * steps)
        with torch.no_grad():
            return search.nearest.best, generator(search.nearest.best)


class _Search:
    """The starts that are still being optimised, and the best point of every image."""

    def __init__(self, generator: nn.Module, x: Tensor, starts: Tensor):
        self.generator, self.x = generator, x
        restarts, count, _ = starts.shape
        self.image = torch.arange(count, device=x.device).repeat(restarts)  # the image that each start is for
        self.z = starts.flatten(0, 1)
        self.mean, self.square = torch.zeros_like(self.z), torch.zeros_like(self.z)
        self.reached = self.z.new_full((len(self.z),), math.inf)  # the least error of each start
        self.before = self.reached  # the same when it was last pruned
        self.nearest = BestSoFar(starts[0])

    def evaluate(self, step: int, lr: float) -> Tensor:
        """Measure the error of every start, keep the best, and return the gradients."""
        error, gradient = _distance(self.generator, self.z, self.x[self.image])
        if not error.isfinite().all():
            raise FloatingPointError(
                f"the distance to the generator's image is not finite in step {step}: try a smaller lr than {lr:g}, "
                "and see whether the generator's weights are finite."
            )
        self.reached = torch.minimum(self.reached, error)
        least = error.new_full((len(self.x),), math.inf).scatter_reduce(0, self.image, error, "amin")
        first = error == least[self.image]  # several starts of one image: its best
        self.nearest.offer(self.z[first], error[first], rows=self.image[first])
        return gradient

    def adam_step(self, gradient: Tensor, step: int, lr: float) -> None:
        """Take one step of Adam (Kingma and Ba 2015), whose moments belong to each start."""
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.99 * self.square + 0.01 * gradient.square()
        mean, square = self.mean / (1 - 0.9 ** (step + 1)), self.square / (1 - 0.99 ** (step + 1))
        self.z = self.z - lr * mean / (square.sqrt() + 1e-8)

    def prune(self, compare: bool) -> None:
        """Drop the starts that have converged and, if `compare`, those that are worse than their image's best."""
        on = self.before - self.reached > CONVERGED * self.reached
        if compare:
            on &= self.reached <= PRUNE_RATIO * self.nearest.cost[self.image]
        self.before = self.reached
        for name in ("image", "z", "mean", "square", "reached", "before"):
            setattr(self, name, getattr(self, name)[on])


def _distance(generator: nn.Module, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ‖G(z) − x‖² of each image, (N,), and its gradient like z."""
    z = z.detach().requires_grad_()
    error = _squared(generator(z) - x)
    (gradient,) = torch.autograd.grad(error.sum(), z)
    return error.detach(), gradient


def _squared(change: Tensor) -> Tensor:
    return change.flatten(1).square().sum(1)


def latent_size(generator: nn.Module) -> int:
    """Return the length of a generator's z: its attribute `latent`.

    Raises:
        TypeError: it has none.
    """
    latent = getattr(generator, "latent", None)
    if not isinstance(latent, int):
        raise TypeError(
            f"the generator must have an attribute latent, the length of its z; {type(generator).__name__} has "
            f"{'none' if latent is None else repr(latent)}. For a network of your own: network.latent = 20."
        )
    return latent


def _starts(
    generator: nn.Module, x: Tensor, restarts: int, init: Tensor | None, generator_rng: torch.Generator | None
) -> Tensor:
    """Return the starting points, (restarts, N, latent), the given ones first."""
    latent = latent_size(generator)
    given = x.new_empty(0, len(x), latent) if init is None else _checked_starts(init, len(x), latent).to(x)
    if len(given) > restarts:
        raise ValueError(f"init holds {len(given)} starts for each image, more than restarts={restarts}.")
    device = x.device if generator_rng is None else generator_rng.device
    drawn = torch.randn(restarts - len(given), len(x), latent, generator=generator_rng, device=device)
    return torch.cat([given, drawn.to(x)])


def _checked_starts(init: Tensor, count: int, latent: int) -> Tensor:
    """Return starts (S, N, latent), or refuse."""
    several = init if isinstance(init, Tensor) and init.ndim == 3 else [init]
    for start in several:
        check_latents(start, count, latent)
    return init.detach().reshape(-1, count, latent)


def check_latents(z: Tensor, count: int, latent: int) -> None:
    """Refuse what is not one finite z (latent,) for each of `count` images."""
    if not isinstance(z, Tensor) or z.shape != (count, latent):
        got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"expected a z for each of {count} images, shape {(count, latent)}; got {got}.")
    if not z.isfinite().all():
        raise ValueError("z contains NaN or infinite values.")


def _check_shape(generator: nn.Module, z: Tensor, x: Tensor) -> None:
    generated = tuple(generator(z).shape[1:])
    if generated != x.shape[1:]:
        raise ValueError(f"the generator makes images {generated}, but x holds {tuple(x.shape[1:])}: both must agree.")


def _uncompiled(generator: nn.Module) -> nn.Module:
    """Return the network inside what torch.compile returns, which has no second derivative; any other as it is."""
    return getattr(generator, "_orig_mod", generator)


def unrolled(
    generator: nn.Module, x: Tensor, z: Tensor, *, steps: int = 40, lr: float = 0.02, momentum: float = 0.8
) -> Tensor:
    """Return z after steps of gradient descent on ‖G(z) − x‖², through which gradients flow back to x and z.

    v ← momentum·v + ∇‖G(z) − x‖², z ← z − lr·v. The memory that the gradient needs grows with the steps.

    Args:
        generator: maps z (N, latent) to images like x. x: images (N, ...). z: starting points (N, latent).
        steps, lr, momentum: of the descent.

    >>> from course_utils.models import decoder
    >>> x = torch.rand(3, 1, 28, 28, requires_grad=True)
    >>> unrolled(decoder(latent=2), x, torch.zeros(3, 2), steps=3).requires_grad
    True
    """
    generator, velocity = _uncompiled(generator), torch.zeros_like(z)
    with torch.enable_grad():
        z = z if z.requires_grad else z.detach().requires_grad_()
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(_squared(generator(z) - x).sum(), z, create_graph=x.requires_grad)
            velocity = momentum * velocity + gradient
            z = z - lr * velocity
    return z


def implicit(generator: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """Return z, the minimum of ‖G(z) − x‖², with its gradient as a function of x (implicit differentiation).

    By the implicit function theorem ∂z/∂x = −H⁻¹ ∂²‖G(z) − x‖²/∂z∂x, where H = ∂²‖G(z) − x‖²/∂z². This is exact at a
    minimum. Where the search has not converged and H is not positive definite, the absolute values of its eigenvalues
    are taken, and at least 0.02.

    Args:
        generator: maps z (N, latent) to images like x. x: images (N, ...). z: what a projection found, (N, latent).

    >>> from course_utils.models import decoder
    >>> x = torch.rand(3, 1, 28, 28, requires_grad=True)
    >>> implicit(decoder(latent=2), x, torch.zeros(3, 2)).requires_grad
    True
    """
    generator = _uncompiled(generator)
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_squared(generator(point) - x).sum(), point, create_graph=True)
        unit = torch.eye(z.shape[1]).to(z).unsqueeze(1).expand(-1, len(z), -1)
        (rows,) = torch.autograd.grad(gradient, point, unit, retain_graph=True, is_grads_batched=True)
    curvature, directions = torch.linalg.eigh(rows.transpose(0, 1))
    curvature = curvature.abs().clamp_min(MIN_CURVATURE)
    moved = (gradient - gradient.detach()).unsqueeze(1) @ directions / curvature.unsqueeze(1)
    return z.detach() - (moved @ directions.mT).squeeze(1)
