"""Checks of arguments, before anything is computed: images, labels, radius, box, counts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from numbers import Integral, Real

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]
Box = tuple[float, float] | None

NORMS = ("linf", "l2")


def checked_radius(x: Tensor, eps: float, norm: str, clip: Box) -> float:
    """Refuse an impossible ball or box, and x outside of the box; return eps rounded down to x's dtype."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}.")
    check_box(clip)
    check_images(x, clip)
    eps = checked_number("eps", eps)
    widest = 1.0 if clip is None else clip[1] - clip[0]
    if norm == "linf" and eps > widest:
        warnings.warn(
            f"eps={eps:g} is wider than the whole box of pixels ({widest:g}). eps is in pixel units: "
            "a budget given in 8-bit levels is divided by 255, as in eps=8/255.",
            stacklevel=3,
        )
    return rounded_down(eps, x.dtype)


def rounded_down(value: float, dtype: torch.dtype) -> float:
    """Return the largest number of this dtype that is at most `value`: the float32 nearest to 0.3 is larger."""
    nearest = torch.tensor(value, dtype=dtype)
    return (nearest if nearest.item() <= value else nearest.nextafter(torch.zeros_like(nearest))).item()


def check_loss(loss: str, known: tuple[str, ...] = ("ce", "margin")) -> None:
    """Refuse an unknown loss, and inference mode, which has no gradients."""
    if loss not in known:
        choices = " or ".join(f'"{name}"' for name in known)
        raise ValueError(f"loss must be {choices}, got {loss!r}.")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("attacks need gradients, which torch.inference_mode() forbids: call them outside of it.")


def check_images(x: Tensor, clip: Box, name: str = "x") -> None:
    """Refuse what is no batch of float images inside the box."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch tensor, got a {type(x).__name__}: use torch.as_tensor.")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floats in [0, 1], got {x.dtype}: 8-bit images become x.float() / 255.")
    if x.ndim < 2:
        got = f"got shape {tuple(x.shape)}: one image becomes x.unsqueeze(0)."
        raise ValueError(f"{name} must be a batch (N, ...), {got}")
    if not is_finite(x):
        first = int((~x.isfinite().flatten(1).all(1)).nonzero()[0])
        raise ValueError(f"{name} contains NaN or infinite values; image {first} is the first that does.")
    if clip is not None and x.numel() and (x.min() < clip[0] or x.max() > clip[1]):
        raise ValueError(
            f"{name} must lie in clip={clip}, got values from {x.min().item():.4g} to {x.max().item():.4g}. "
            "Normalise inside the model (models.Normalize), not before; or pass the box your pixels have."
        )


def check_batch(x: Tensor, name: str = "x") -> None:
    """Refuse what is no batch of images (N, C, H, W) in [0, 1]."""
    check_images(x, (0.0, 1.0), name)
    if x.ndim != 4:
        raise ValueError(f"expected images (N, C, H, W), got shape {tuple(x.shape)}: one becomes x.unsqueeze(0).")


def check_adversarial(adv: Tensor, x: Tensor) -> None:
    """Refuse what is no finite image for each of x."""
    check_images(adv, None, "adv")
    if adv.shape != x.shape:
        raise ValueError(f"adv must have the shape of x, {tuple(x.shape)}; got {tuple(adv.shape)}.")


def is_finite(x: Tensor) -> bool:
    """Tell whether no value is NaN or infinite: from the extremes, several times faster than value by value."""
    return x.numel() == 0 or all(math.isfinite(extreme) for extreme in x.detach().aminmax())


def checked_labels(y: Tensor, x: Tensor) -> Tensor:
    """Return one int64 label for each image on its device, or refuse."""
    if not isinstance(y, Tensor):
        got = f"got a {type(y).__name__}: use torch.as_tensor."
        raise TypeError(f"y must be a tensor of {len(x)} integer labels, {got}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must hold integer labels, got {y.dtype}: one-hot or soft labels become y.argmax(1).")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must hold one label for each of the {len(x)} images, got shape {tuple(y.shape)}.")
    if y.numel() and y.min() < 0:
        raise ValueError(f"labels start at 0, got {int(y.min())}.")
    # A copy: labels made under inference_mode could not be used in a gradient otherwise.
    return y.detach().to(device=x.device, dtype=torch.int64, copy=True)


def checked_number(name: str, value: float) -> float:
    """Return a finite number that is not negative as a float, or refuse."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be one number in pixel units, got {value!r}.")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value}.")
    return float(value)


def check_count(name: str, value: int) -> None:
    """Refuse what is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def check_box(clip: Box) -> None:
    """Refuse what is neither None nor (lowest, highest)."""
    if clip is None:
        return
    if not isinstance(clip, tuple | list) or len(clip) != 2 or not all(isinstance(bound, Real) for bound in clip):
        raise TypeError(f"clip must be (lowest, highest) pixel value or None, got {clip!r}.")
    if not clip[0] < clip[1]:
        raise ValueError(f"clip must be (lowest, highest) with lowest < highest, got {clip}.")
