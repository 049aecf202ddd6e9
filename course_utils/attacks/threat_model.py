"""Balls and boxes: where an attack may go, how it starts, and how long its steps are."""

from __future__ import annotations

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
    return _project_linf(adv, x, eps, clip) if norm == "linf" else _project_l2(adv, x, eps, clip)


def _project_linf(adv: Tensor, x: Tensor, eps: float, clip: Box) -> Tensor:
    adv = clamp(adv.clamp(x - eps, x + eps), clip)
    while (distance := (adv - x).abs_()).max() > eps:
        adv = torch.where(distance > eps, torch.nextafter(adv, x), adv)
    return adv


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
