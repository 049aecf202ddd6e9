"""Networks that take images in [0, 1] and return logits, and a cache that trains each of them once.

Normalisation is a layer inside the model, so that attacks and plots only ever see pixels.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import __version__, runtime
from .files import replacing

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
    another way: torch's own is several times slower than the convolution itself.

    >>> HalvingConv2d(1, 3)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 3, 14, 14])
    """

    def __init__(self, channels: int, filters: int):
        super().__init__(channels, filters, 5, stride=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, filters, H / 2, W / 2)."""
        odd = x.shape[-1] % 2 or x.shape[-2] % 2
        return super().forward(x) if odd or x.device.type != "cpu" else _Halving.apply(x, self.weight, self.bias)


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

    >>> dual_batch_norm(small_cnn(batch_norm=True))(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
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


class RBFNetwork(nn.Module):
    """The shallow RBF network: class k answers exp(−Σ_i β_ki (x_i − μ_ki)²), high only near its template μ_k.

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


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state dict to `path`, whole or not at all.

    Raises:
        OSError: the folder cannot be written; the message says what to do.
    """
    save_state(model.state_dict(), path)


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values to `path`, whole or not at all.

    Raises:
        OSError: as `save_weights`.
    """
    # Through a Python file: torch's own writer reports a full disk as a RuntimeError.
    with replacing(Path(path)) as part, part.open("wb") as file:
        torch.save(state, file)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        FileNotFoundError: no such file. ValueError: a wrong checksum; and whatever a broken file makes zip, pickle and
            torch raise.
    """
    with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums that the file holds
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"checksum of {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read a state dict written by `save_weights` into the model.

    Raises:
        FileNotFoundError: no such file. ValueError: damaged, or of another architecture.
    """
    try:
        state = load_state(path)
        # Before anything is copied: load_state_dict finds a wrong shape when half the model is overwritten.
        if _shapes(state) != _shapes(model.state_dict()):
            raise ValueError("other names or shapes of weights")
        model.load_state_dict(state)
    except FileNotFoundError:
        raise
    except Exception as error:  # zip, pickle and torch each have their own error for a broken file
        raise ValueError(f"{path} is damaged or of another network ({error}): delete it to train anew.") from error


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def load_or_train(
    model: nn.Module,
    train: Callable[[nn.Module], Any],
    *,
    name: str,
    data: tuple[Tensor, ...],
    recipe: Mapping[str, Any],
) -> nn.Module:
    """Return the trained model in eval mode: from the cache if it was trained before, else trained and kept.

    Args:
        model: a new network. train: trains it in place.
        name: starts the file's name. data: what it is trained on.
        recipe: everything else that shapes the weights (epochs, learning rate, seed), as JSON values.

    A damaged file is replaced; two processes at once end with one whole file; a cache that cannot be written is
    a warning, since the trained model is at hand.
    """
    # The starting weights are part of the recipe: they carry the seed they were drawn with.
    key = fingerprint([str(model), dict(recipe)], (*model.state_dict().values(), *data))
    path = runtime.cache_dir() / "models" / f"{name}-{key}.pt"
    try:
        load_weights(model, path)
        return model.eval()
    except FileNotFoundError:
        pass
    except ValueError as error:
        warnings.warn(f"{error} Training anew.", stacklevel=2)
    train(model)
    try:
        save_weights(model, path)
    except OSError as error:
        warnings.warn(f"the trained weights are not kept: {error}", stacklevel=2)
    return model.eval()


def fingerprint(settings: list[Any], tensors: Iterable[Tensor]) -> str:
    """Return 16 letters that stand for JSON values, tensors and the versions of course and torch."""
    versions = [__version__, torch.__version__]
    digest = hashlib.sha256(json.dumps([*settings, versions], sort_keys=True).encode())
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
