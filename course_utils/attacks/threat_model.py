"""Balls and boxes: where an attack may go, how it starts, and how long its steps are."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..core.validation import Box, Model, checked_radius, is_finite


def project(adv: Tensor, x: Tensor, eps: float, *, norm: str = "linf", clip: Box = (0.0, 1.0)) -> Tensor:
    """Project `adv` into the ball around x, then into the box.

    Rounding may leave `x + (adv - x)` outside the ball by one unit in the last place; such values move towards x.

    Args:
        adv: points to project, like x. x, eps, norm, clip: see `course_utils.attacks`.

    Raises:
        ValueError, TypeError: `adv` not like x or not finite; x, eps, norm, clip as all attacks.

    >>> project(torch.tensor([[0.9, 0.2]]), torch.tensor([[0.5, 0.5]]), 0.25)
    tensor([[0.7500, 0.2500]])
    """
    eps = checked_radius(x, eps, norm, clip)
    if not isinstance(adv, Tensor) or adv.shape != x.shape or adv.dtype != x.dtype:
        got = f"{tuple(adv.shape)} {adv.dtype}" if isinstance(adv, Tensor) else type(adv).__name__
        raise ValueError(f"adv must be a tensor like x, {tuple(x.shape)} {x.dtype}; got {got}.")
    if not is_finite(adv):
        raise ValueError("adv contains NaN or infinite values, which no projection can repair.")
    if x.numel() == 0:
        return x.detach().clone()
    return projected(adv.detach(), x.detach(), eps, norm, clip)


def random_in_ball(x: Tensor, eps: float, *, norm: str = "linf", generator: torch.Generator | None = None) -> Tensor:
    """Return points drawn uniformly from the ball of radius eps around each image; not clipped to any box.

    In d dimensions almost all of an l2 ball lies near its surface: the mean distance from x is eps·d/(d+1).

    Args:
        x: centres, (N, ...). eps, norm, generator: see `course_utils.attacks`.

    Raises:
        ValueError, TypeError: as all attacks.

    >>> noisy = random_in_ball(torch.zeros(3, 4), 0.1)
    >>> bool((noisy.abs() <= 0.1).all())
    True
    """
    eps = checked_radius(x, eps, norm, None)
    if x.numel() == 0:
        return x.detach().clone()
    return draw_in_ball(x.detach(), eps, norm, generator)


def steepest_direction(gradient: Tensor, norm: str) -> Tensor:
    """Return the steepest unit step of each image; zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    # Divided by the largest entry first: squares of small gradients would round to zero.
    scaled = gradient / broadcast_like(gradient.abs().flatten(1).amax(1).clamp_min(tiny), gradient)
    return scaled / broadcast_like(scaled.flatten(1).norm(dim=1).clamp_min(tiny), gradient)


def draw_in_ball(x: Tensor, eps: float, norm: str, generator: torch.Generator | None) -> Tensor:
    """Return points drawn uniformly from the ball around each image."""
    device = x.device if generator is None else generator.device
    draw = {"device": device, "dtype": torch.promote_types(x.dtype, torch.float32), "generator": generator}
    if norm == "linf":
        noise = (2 * torch.rand(x.shape, **draw) - 1) * eps
    else:
        radius = eps * torch.rand(len(x), **draw) ** (1 / x[0].numel())
        direction = steepest_direction(torch.randn(x.shape, **draw), "l2")
        noise = direction * broadcast_like(radius, x)
    return projected(x + noise.to(x), x, eps, norm, None)


def projected(adv: Tensor, x: Tensor, eps: float, norm: str, clip: Box) -> Tensor:
    """Return adv put back into the ball around x, and into the box."""
    return Neighbourhood(x, eps, norm, clip).project(adv)


class Neighbourhood:
    """The ball of radius eps around each image, cut with the box: where an attack may go.

    The bounds of an linf ball are computed once, and rounded inwards; so a projection is a single clamp.

    Args:
        x, eps, norm, clip: see `course_utils.attacks`; eps is a number of x's dtype.

    >>> Neighbourhood(torch.tensor([[0.5, 0.9]]), 0.25, "linf", (0.0, 1.0)).project(torch.tensor([[0.0, 2.0]]))
    tensor([[0.2500, 1.0000]])
    """

    def __init__(self, x: Tensor, eps: float, norm: str, clip: Box):
        self.x, self.eps, self.norm, self.clip = x, eps, norm, clip
        if norm == "linf":
            self.low, self.high = (_rounded_inwards(bound, x, eps, clip) for bound in (x - eps, x + eps))

    def project(self, adv: Tensor) -> Tensor:
        """Return the nearest points to adv, like x, in linf; in l2 those on the way from adv to x, then in the box."""
        if self.norm == "linf":
            return adv.clamp(self.low, self.high)
        return _project_l2(adv, self.x, self.eps, self.clip)

    def __getitem__(self, rows: Tensor) -> Neighbourhood:
        """Return the neighbourhood of some of the images."""
        part = copy.copy(self)
        part.x = self.x[rows]
        if self.norm == "linf":
            part.low, part.high = self.low[rows], self.high[rows]
        return part


def _rounded_inwards(bound: Tensor, x: Tensor, eps: float, clip: Box) -> Tensor:
    bound = clamp(bound, clip)
    while (beyond := (bound - x).abs_() > eps).any():
        bound = torch.where(beyond, torch.nextafter(bound, x), bound)
    return bound


def _project_l2(adv: Tensor, x: Tensor, eps: float, clip: Box) -> Tensor:
    direction, radius = steepest_direction(adv - x, "l2"), eps
    beyond = _is_beyond(adv, x, eps)
    less = torch.finfo(x.dtype).eps  # a power of 1/2: doubled again and again it reaches 1, where adv is x
    while beyond.any():
        adv = torch.where(beyond, x + radius * direction, adv)
        beyond = _is_beyond(clamp(adv, clip), x, eps)  # by rounding
        radius, less = eps * (1 - less), 2 * less
    return clamp(adv, clip)


def _is_beyond(adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Return which images, (N, 1, ...), are farther than eps from x in l2."""
    distance = (adv - x).flatten(1)
    if 0 < eps < 1e-12:  # the squares of such numbers round to zero in float32
        distance, eps = distance / eps, 1.0
    return broadcast_like(distance.norm(dim=1) > eps, x)


def clamp(adv: Tensor, clip: Box) -> Tensor:
    """Return adv inside the box, if there is one."""
    return adv if clip is None else adv.clamp(*clip)


def broadcast_like(values: Tensor, like: Tensor) -> Tensor:
    """Return values (N,) in a shape that multiplies images (N, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def uniform_noise(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    clip: Box = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return uniform noise around x, inside ball and box: the control of every attack.

    Args:
        model, y: not used, so that it is called as every attack. x, eps, norm, clip, generator: see
            `course_utils.attacks`.

    Raises:
        ValueError, TypeError: as all attacks.

    >>> uniform_noise(torch.nn.Linear(4, 2), torch.rand(3, 4), torch.tensor([0, 1, 0]), 0.1).shape
    torch.Size([3, 4])
    """
    return project(random_in_ball(x, eps, norm=norm, generator=generator), x, eps, norm=norm, clip=clip)
