"""The adversarial patch: it makes a network predict one class, on any photo and at any place."""

from __future__ import annotations

from numbers import Integral

import torch
import torch.nn.functional as nnF
from torch import Tensor

from ..core.validation import Model, check_batch, check_count, check_images, check_loss, checked_labels, checked_number
from ..core.vision import torchvision
from ..models.inference import checked_logits, frozen_eval
from .threat_model import steepest_direction
from .transformations import random_integer, random_uniform

F = torchvision.transforms.functional

Scales = tuple[float, float]

MOMENTUM = 0.9  # share of the earlier gradients that a step keeps (Dong et al. 2018)


def apply_patch(
    x: Tensor,
    patch: Tensor,
    *,
    positions: Tensor | None = None,
    scales: Scales = (1.0, 1.0),
    degrees: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return copies of the images, each with one patch on it; every other pixel stays as it is.

    Args:
        x: images (N, C, H, W) in [0, 1]. patch: (C, h, w) in [0, 1]; a gradient flows back to it.
        positions: row and column of the patch's upper left corner, whole numbers (N, 2); None draws them so that
            the patch lies inside. A rotated patch is placed by the rectangle around it.
        scales: (smallest, largest) factor on the patch's sides, drawn for each image.
        degrees: the patch is rotated by up to so many degrees, either way, drawn for each image.
        generator: see `course_utils.attacks`.

    Raises:
        ValueError, TypeError: a patch of other channels or another range, or that does not fit into the image.

    >>> corner = torch.zeros(1, 2, dtype=torch.int64)
    >>> apply_patch(torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 2), positions=corner)
    tensor([[[[1., 1., 0.],
              [0., 0., 0.]]]])
    """
    check_batch(x)
    _check_patch(patch, x)
    low, high = _checked_scales(scales)
    degrees = checked_number("degrees", degrees)
    _check_positions(positions, x)
    canvases = []
    for number, image in enumerate(x):
        scale, angle = random_uniform(low, high, generator), random_uniform(-degrees, degrees, generator)
        masked = _scaled_and_rotated(patch.to(x), scale, angle)
        room = [side - length for side, length in zip(image.shape[1:], masked.shape[1:], strict=True)]
        if min(room) < 0:
            raise ValueError(
                f"the patch, scaled and rotated, takes {tuple(masked.shape[1:])} pixels and does not fit into images "
                f"of {tuple(image.shape[1:])}: take a smaller patch, smaller scales or fewer degrees."
            )
        drawn = [random_integer(space, generator) for space in room]
        top, left = drawn if positions is None else positions[number].tolist()
        if not (top <= room[0] and left <= room[1]):
            raise ValueError(f"position {(top, left)} lets the patch stick out: at most {tuple(room)} keeps it inside.")
        canvases.append(F.pad(masked, [left, top, room[1] - left, room[0] - top]))
    if not canvases:
        return x.clone()
    canvas = torch.stack(canvases)
    return torch.where(canvas[:, -1:] > 0, canvas[:, :-1], x)


def adversarial_patch(
    model: Model,
    x: Tensor,
    target: int,
    *,
    size: int,
    steps: int = 60,
    step_size: float = 16 / 255,
    scales: Scales = (1.0, 1.0),
    degrees: float = 0.0,
    batch_size: int = 4,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Train a square patch that makes photos the target class: maximise E[log p(target | photo with patch)].

    Each step draws photos, places the patch on each of them at random, and moves every pixel by the sign of the
    momentum, a decaying sum of normalised gradients. The patch starts grey and stays in [0, 1].

    Args:
        model: see `course_utils.attacks`. x: photos to train on, (N, C, H, W) in [0, 1].
        target: the class to reach. size: side of the patch, pixels.
        steps: of the training. step_size: of the first, pixel units; it falls linearly to 0.
        scales, degrees: as in `apply_patch`. batch_size: photos of one step, drawn with replacement.
        generator: see `course_utils.attacks`.

    Returns:
        The patch (C, size, size).

    Raises:
        ValueError, TypeError, RuntimeError: as `apply_patch` and all attacks; no photos; a target that is no class.

    >>> flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    >>> adversarial_patch(flat, torch.rand(4, 3, 8, 8), 1, size=3, steps=2).shape
    torch.Size([3, 3, 3])

    Brown, Mané, Roy, Abadi and Gilmer, "Adversarial patch", 2017; the momentum: Dong et al., "Boosting adversarial
    attacks with momentum", 2018.
    """
    check_batch(x)
    check_loss("ce")
    if len(x) == 0:
        raise ValueError("expected at least one photo to train on, got none.")
    for name, value in {"size": size, "steps": steps, "batch_size": batch_size}.items():
        check_count(name, value)
    y = _checked_target(target, x).expand(batch_size)
    patch = torch.full((x.shape[1], size, size), 0.5, dtype=x.dtype, device=x.device)
    velocity, step_size = torch.zeros_like(patch), checked_number("step_size", step_size)
    placing = {"scales": scales, "degrees": degrees, "generator": generator}
    with frozen_eval(model), torch.enable_grad():
        for step in range(steps):
            photos = x[[random_integer(len(x) - 1, generator) for _ in range(batch_size)]]
            patch.requires_grad_(True)
            logits = checked_logits(model, apply_patch(photos, patch, **placing), y)
            (gradient,) = torch.autograd.grad(nnF.cross_entropy(logits, y), patch)
            velocity = MOMENTUM * velocity + steepest_direction(gradient[None], "l2")[0]
            patch = (patch.detach() - (1 - step / steps) * step_size * velocity.sign()).clamp(0, 1)
    return patch


def _scaled_and_rotated(patch: Tensor, scale: float, angle: float) -> Tensor:
    """Return the patch scaled and rotated, with one more channel: 1 where the patch is, 0 elsewhere."""
    sides = [max(1, round(scale * side)) for side in patch.shape[1:]]
    scaled = F.resize(patch, sides, antialias=True).clamp(0, 1)
    # The nearest pixel, so that patch and surroundings do not mix at the edge.
    return F.rotate(torch.cat([scaled, torch.ones_like(scaled[:1])]), angle, expand=True)


def _check_patch(patch: Tensor, x: Tensor) -> None:
    if not isinstance(patch, Tensor) or patch.ndim != 3 or patch.shape[0] != x.shape[1] or patch.numel() == 0:
        got = f"shape {tuple(patch.shape)}" if isinstance(patch, Tensor) else f"a {type(patch).__name__}"
        raise ValueError(f"the patch must be one tensor ({x.shape[1]}, h, w), with the images' channels; got {got}.")
    check_images(patch[None], (0.0, 1.0))


def _checked_scales(scales: Scales) -> Scales:
    low, high = (checked_number("a scale", scale) for scale in scales)
    if not 0 < low <= high:
        raise ValueError(f"scales must be (smallest, largest) with 0 < smallest <= largest, got {scales}.")
    return low, high


def _check_positions(positions: Tensor | None, x: Tensor) -> None:
    if positions is None:
        return
    if not isinstance(positions, Tensor) or positions.is_floating_point() or positions.shape != (len(x), 2):
        raise ValueError(f"positions must be whole numbers (row, column) for each image, a tensor ({len(x)}, 2).")
    if positions.numel() and positions.min() < 0:
        raise ValueError(f"positions count from 0, got {int(positions.min())}.")


def _checked_target(target: int, x: Tensor) -> Tensor:
    if isinstance(target, bool) or not isinstance(target, Integral):
        raise TypeError(f"target must be one class, a whole number; got {target!r}.")
    return checked_labels(torch.tensor([int(target)]), x[:1])
