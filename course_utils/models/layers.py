"""Layers that torch lacks: normalisation inside the model, a faster convolution, two batch norms in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


class Normalize(nn.Module):
    """Map pixels in [0, 1] to (x − mean) / std, channel by channel.

    Args:
        mean, std: one number for each channel, or one for all.

    Raises:
        ValueError: different lengths, or a std that is not positive.
    """

    def __init__(self, mean: float | tuple[float, ...] = MNIST_MEAN, std: float | tuple[float, ...] = MNIST_STD):
        super().__init__()
        mean, std = torch.as_tensor(mean).reshape(-1), torch.as_tensor(std).reshape(-1)
        if mean.shape != std.shape or not (std > 0).all():
            raise ValueError(f"expected as many means as positive stds, got mean={mean.tolist()}, std={std.tolist()}.")
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.register_buffer("std", std.view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] → (N, C, H, W), about zero mean and unit variance."""
        return (x - self.mean) / self.std


class HalvingConv2d(nn.Conv2d):
    """A convolution of 5 by 5 pixels with stride 2 and padding 2, which halves images of even size.

    It computes what `nn.Conv2d` does. On a CPU the gradient with respect to the images, which attacks need most, takes
    another way, since torch's own is several times slower than the convolution itself: with it an input gradient of the
    small CNN takes 1.3 times as long. Under autocast it is `nn.Conv2d`.

    >>> HalvingConv2d(1, 3)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 3, 14, 14])
    """

    def __init__(self, channels: int, filters: int):
        super().__init__(channels, filters, 5, stride=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, filters, H / 2, W / 2)."""
        odd = x.shape[-1] % 2 or x.shape[-2] % 2
        if odd or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        return _Halving.apply(x, self.weight, self.bias)


class _Halving(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, stride=2, padding=2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):  # as torch's own: what was computed in float32 goes back in float32
            return (
                _halving_input_gradient(weight, gradient) if needed[0] else None,
                nn.grad.conv2d_weight(x, weight.shape, gradient, stride=2, padding=2) if needed[1] else None,
                gradient.sum((0, 2, 3)) if needed[2] else None,
            )


def _halving_input_gradient(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return what reaches the images: an input pixel's row and column, even or odd, decide which weights it met.

    So the four kinds of pixels are four channels of one convolution with stride 1, whose outputs are then interleaved.
    """
    phases = F.pad(weight, (0, 1, 0, 1)).unflatten(3, (3, 2)).unflatten(2, (3, 2)).flip(2, 4)
    kernel = phases.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (C·2·2, filters, 3, 3)
    return F.pixel_shuffle(F.conv2d(gradient, kernel, padding=1), 2)


class _DualBatchNorm(nn.Module):
    """Two batch norms in one place, each with its own statistics and affine parameters; `branch` chooses."""

    kind: type[nn.Module]

    def __init__(self, num_features: int, **options: Any):
        super().__init__()
        self.main = self.kind(num_features, **options)
        self.auxiliary = deepcopy(self.main)
        self.branch = "main"

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.branch)(x)


class DualBatchNorm1d(_DualBatchNorm):
    """As `DualBatchNorm2d`, for features (N, C) or (N, C, L)."""

    kind = nn.BatchNorm1d


class DualBatchNorm2d(_DualBatchNorm):
    """A batch norm for clean images, `main`, and another for adversarial ones, `auxiliary`; see `branch`.

    Images of two kinds have different statistics: each branch has a mean, a variance, a scale and a shift of its own.
    In training mode a pass moves the running statistics of its branch only.

    Args:
        num_features: channels C of inputs (N, C, H, W). options: of `nn.BatchNorm2d`, for both.

    >>> layer = DualBatchNorm2d(3)
    >>> with branch(layer, "auxiliary"):
    ...     out = layer(torch.rand(8, 3, 4, 4))
    >>> layer.main.num_batches_tracked.item(), layer.auxiliary.num_batches_tracked.item()
    (0, 1)

    Xie et al., "Adversarial examples improve image recognition", 2020.
    """

    kind = nn.BatchNorm2d


BRANCHES = ("main", "auxiliary")


@contextmanager
def branch(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Send images through one branch of all dual batch norms; afterwards each layer has its own branch back.

    Args:
        model: a network with dual batch norm; without one it has a main branch only. name: "main" or "auxiliary".

    Raises:
        ValueError: unknown branch, or no auxiliary branch to choose.
    """
    if name not in BRANCHES:
        raise ValueError(f"the branch must be one of {BRANCHES}, got {name!r}.")
    layers = [module for module in model.modules() if isinstance(module, _DualBatchNorm)]
    if name != "main" and not layers:
        raise ValueError(f"the network has no {name} branch: give it one with models.dual_batch_norm(network).")
    before = [layer.branch for layer in layers]
    try:
        for layer in layers:
            layer.branch = name
        yield model
    finally:
        for layer, own in zip(layers, before, strict=True):
            layer.branch = own


def dual_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy of the network in which every batch norm has two branches, at first the same.

    Raises:
        ValueError: the network has no batch norm.

    >>> dual_batch_norm(nn.Sequential(nn.Conv2d(1, 3, 5), nn.BatchNorm2d(3)))(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 3, 24, 24])
    """
    if not any(isinstance(module, tuple(DUAL)) for module in model.modules()):
        raise ValueError(
            "the network has no BatchNorm1d or BatchNorm2d that could be doubled: "
            "build it with batch norm, for example models.small_cnn(batch_norm=True)."
        )
    return _doubled(deepcopy(model))


DUAL = {nn.BatchNorm1d: DualBatchNorm1d, nn.BatchNorm2d: DualBatchNorm2d}


def _doubled(module: nn.Module) -> nn.Module:
    if isinstance(module, _DualBatchNorm):
        return module
    for single, dual in DUAL.items():
        if isinstance(module, single):
            layer = dual(module.num_features)
            layer.main, layer.auxiliary = module, deepcopy(module)
            return layer.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _doubled(child))
    return module
