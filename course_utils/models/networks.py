"""Networks that take images in [0, 1] and return logits.

Normalisation is a layer inside the model, so that attacks and plots only ever see pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import HalvingConv2d, Normalize


def softmax_regression(*, pixels: int = 784, classes: int = 10) -> nn.Sequential:
    """Return the linear model: logits z = W·x + b, one row of W for each class."""
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes))


def mlp(*, pixels: int = 784, hidden: int = 200, classes: int = 10) -> nn.Sequential:
    """Return a network with two hidden layers of ReLUs."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def small_cnn(*, width: int = 16, classes: int = 10, dropout: float = 0.25, batch_norm: bool = False) -> nn.Sequential:
    """Return a network of two convolutions and two dense layers for images (N, 1, 28, 28).

    Args:
        width: filters of the first convolution; the second has twice as many. classes: logits.
        dropout: share of the last hidden units that a training step leaves out.
        batch_norm: normalise after each convolution.
    """

    def convolution(channels: int, filters: int) -> list[nn.Module]:
        # Strides instead of max-pooling, which on a CPU takes longer than the convolutions themselves
        layer = HalvingConv2d(channels, filters)
        return [layer, nn.BatchNorm2d(filters), nn.ReLU()] if batch_norm else [layer, nn.ReLU()]

    return nn.Sequential(
        Normalize(),
        *convolution(1, width),
        *convolution(width, 2 * width),
        nn.Flatten(),
        nn.Linear(2 * width * 49, 128),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(128, classes),
    )


class RBFNetwork(nn.Module):
    """The shallow RBF network: class k has probability exp(−Σ_i β_ki (x_i − μ_ki)²), high only near its template μ_k.

    The classes are independent: far from every template all ten probabilities are about zero. The logits are the
    logarithms of these probabilities; train them with `independent_loss`.

    Args:
        templates: the starting point of μ, one image for each class, (K, C, H, W).

    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", 2015, section 7.
    """

    def __init__(self, templates: Tensor):
        super().__init__()
        self.templates = nn.Parameter(templates.flatten(1).clone())
        self.log_beta = nn.Parameter(torch.full_like(self.templates, -4.0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, K): minus the weighted squared distance to each template."""
        x, beta = x.flatten(1), self.log_beta.exp()
        # Σ β(x − μ)², multiplied out: two matrix products instead of an (N, K, pixels) array
        distance = x.square() @ beta.T - 2 * x @ (beta * self.templates).T + (beta * self.templates.square()).sum(1)
        return -distance.clamp_min(0)

    def probabilities(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, K), each in [0, 1]; they need not sum to 1."""
        return self(x).exp()


def independent_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of ten yes-or-no answers with log-probabilities `logits` (N, K) <= 0."""
    yes = logits.clamp_max(-1e-4)  # at 0, log(1 − exp(0)) would be infinite
    no = torch.log(-torch.expm1(yes))
    is_class = F.one_hot(y, logits.shape[1]).bool()
    return -torch.where(is_class, yes, no).sum(1).mean()


def class_means(x: Tensor, y: Tensor, classes: int = 10) -> Tensor:
    """Return the mean image of each class, (K, C, H, W).

    Raises:
        ValueError: a class without images.
    """
    missing = sorted(set(range(classes)) - set(y.tolist()))
    if missing:
        raise ValueError(f"expected images of all {classes} classes, got none of {missing}.")
    return torch.stack([x[y == k].mean(0) for k in range(classes)])
