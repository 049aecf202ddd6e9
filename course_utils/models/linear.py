"""Linear classifiers under the worst change, and their distances to the border, by formulas: nothing is searched.

Without a box: the worst change may leave [0, 1], as the formulas of the papers do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.validation import checked_labels


def worst_case_loss(w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return the mean logistic loss of f(x) = w·x + b after the worst change of each image, with its gradient.

    Every margin y·f(x) falls by eps·‖w‖₁.

    Args:
        w: weights (d,). b: scalar. x: images (n, d). y: labels (n,), −1 or +1. eps: pixel units, at least 0.

    Raises:
        ValueError: sizes that do not match, labels other than −1 and +1, a negative eps.

    >>> w, b, x, y = torch.tensor([3.0, -4.0]), torch.tensor(0.0), torch.tensor([[1.0, 0.0]]), torch.tensor([1.0])
    >>> worst_case_loss(w, b, x, y, eps=3 / 7).item() == F.softplus(torch.tensor(0.0)).item()
    True

    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", 2015, section 5. (The formula
    printed there has the wrong sign for y = −1.)
    """
    _check_binary(w, x, y, eps)
    return F.softplus(eps * w.abs().sum() - y * (x @ w + b)).mean()


def measure(w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> dict[str, float]:
    """Return what f(x) = w·x + b is worth: shares of images that are right, and how far they are from the border.

    Args:
        w, b, x, y, eps: as in `worst_case_loss`.

    Returns:
        clean accuracy; exact accuracy (under the worst change of eps per pixel, which may leave the box); ‖w‖₁/‖w‖₂, by
        which the worst change moves f more than random signs do; median L2 distance to the border (negative: wrong).

    Raises:
        ValueError: as `worst_case_loss`.

    >>> w, b, x, y = torch.tensor([3.0, -4.0]), torch.tensor(0.0), torch.tensor([[1.0, 0.0]]), torch.tensor([1.0])
    >>> measure(w, b, x, y, eps=0.4)["median L2 distance"].__round__(3)
    0.6
    """
    _check_binary(w, x, y, eps)
    margin, l1, l2 = y * (x @ w + b), w.abs().sum(), w.norm()
    values = {
        "clean accuracy": (margin > 0).float().mean(),
        "exact accuracy": (margin > eps * l1).float().mean(),
        "‖w‖₁/‖w‖₂": l1 / l2,
        "median L2 distance": (margin / l2).median(),
    }
    return {name: value.item() for name, value in values.items()}


def others_of_equal_weight(w: Tensor, pixels: Tensor, seed: int = 0) -> Tensor:
    """Return random other pixels, (d,) bool, whose weights have together the ‖w‖₁ of these pixels, or a little less.

    Args:
        w: weights (d,). pixels: (d,) bool. seed: of the choice.

    Raises:
        TypeError: pixels that are not bool. ValueError: sizes that do not match.

    >>> w, pixels = torch.tensor([2.0, 1.0, -1.0, 0.5]), torch.tensor([True, False, False, False])
    >>> others_of_equal_weight(w, pixels).sum().item()
    2
    """
    if pixels.dtype != torch.bool:
        raise TypeError(f"expected pixels of the type bool, as a comparison gives them, got {pixels.dtype}.")
    if w.ndim != 1 or pixels.shape != w.shape:
        raise ValueError(f"expected w and pixels (d,), got {tuple(w.shape)} and {tuple(pixels.shape)}: flatten both.")
    order = torch.randperm(len(w), generator=torch.Generator().manual_seed(seed)).to(w.device)
    order = order[~pixels[order]]
    others = torch.zeros_like(pixels)
    others[order] = w[order].abs().cumsum(0) <= w[pixels].abs().sum()
    return others


def exact_accuracy(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, eps: float) -> float:
    """Return the share of images whose class stays y under every change of at most eps for each pixel.

    For class j, the lead f_y(x) − f_j(x) of the logits f(x) = weight·x + bias falls by at most eps·‖w_y − w_j‖₁.

    Args:
        weight: (K, d). bias: (K,). x: images (n, d). y: labels (n,) from 0 to K − 1. eps: pixel units, at least 0.

    Raises:
        ValueError, TypeError: no images, sizes that do not match, labels that are no classes, a negative eps.

    >>> weight, x = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    >>> exact_accuracy(weight, torch.zeros(2), x, torch.tensor([0, 0]), eps=0.2)
    0.5
    """
    _check(weight, x, eps)
    y = checked_labels(y, x)
    if len(x) == 0 or y.max() >= len(weight):
        raise ValueError(f"expected images with labels from 0 to {len(weight) - 1}, got {len(x)} images.")
    logits = x @ weight.T + bias
    stays = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for rival in range(len(weight)):
        lead = logits.gather(1, y[:, None])[:, 0] - logits[:, rival]
        stays &= (lead > eps * (weight[y] - weight[rival]).abs().sum(1)) | (y == rival)
    return stays.float().mean().item()


def border_distance(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return how far each image is from the nearest border of its class y, (n,); 0 where the answer is wrong already.

    Class j wins from the Euclidean distance (f_y(x) − f_j(x)) / ‖w_y − w_j‖₂ on; the logits are f(x) = weight·x + bias.

    Args:
        weight, bias, x, y: as in `exact_accuracy`.

    Raises:
        ValueError, TypeError: as `exact_accuracy`.

    >>> weight, x = torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.5, 0.0]])
    >>> round(border_distance(weight, torch.zeros(2), x, torch.tensor([0])).item(), 3)
    0.3
    """
    _check(weight, x, 0)
    y = checked_labels(y, x)
    if len(x) == 0 or y.max() >= len(weight):
        raise ValueError(f"expected images with labels from 0 to {len(weight) - 1}, got {len(x)} images.")
    logits = x @ weight.T + bias
    leads = logits.gather(1, y[:, None]) - logits
    lengths = torch.stack([(weight[y] - row).norm(dim=1) for row in weight], dim=1)
    return (leads / lengths).scatter(1, y[:, None], torch.inf).amin(1).clamp_min(0)


def _check_binary(w: Tensor, x: Tensor, y: Tensor, eps: float) -> None:
    _check(w[None], x, eps)
    if y.shape != x.shape[:1] or not (y.abs() == 1).all():
        raise ValueError(f"y must hold −1 or +1 for each of the {len(x)} images, got shape {tuple(y.shape)}.")


def _check(weight: Tensor, x: Tensor, eps: float) -> None:
    if weight.ndim != 2 or x.ndim != 2 or x.shape[1] != weight.shape[1]:
        shapes = f"{tuple(weight.shape)} and {tuple(x.shape)}"
        raise ValueError(f"expected weights (classes, d) and images (n, d) with the same d, got {shapes}: flatten x.")
    if not eps >= 0:
        raise ValueError(f"eps is the largest change of a pixel, at least 0; got {eps}.")
