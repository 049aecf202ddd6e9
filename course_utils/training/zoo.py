"""Networks by name: trained once, kept in the cache, and loaded afterwards."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import __version__
from ..core import settings
from ..core.suggestions import did_you_mean
from ..models import layers, networks
from ..models.weights import load_weights, save_weights
from .adversary import Adversary, FreeAdversary
from .fitting import Loss, _check_validation, _checked_data, fit


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
    path = settings.cache_dir() / "models" / f"{name}-{key}.pt"
    try:
        load_weights(model, path)
        return model.eval()
    except FileNotFoundError:
        pass
    except ValueError as error:
        warnings.warn(f"training anew, and replacing the cached weights: {error}", stacklevel=2)
    train(model)
    try:
        save_weights(model, path)
    except OSError as error:
        warnings.warn(f"the trained weights are not kept: {error}", stacklevel=2)
    return model.eval()


def fingerprint(settings: list[Any], tensors: Iterable[Tensor]) -> str:
    """Return 16 letters that stand for JSON values, tensors and the versions of course and torch.

    Raises:
        TypeError: a setting that is no JSON value.
    """
    versions = [__version__, torch.__version__]
    try:
        text = json.dumps([*settings, versions], sort_keys=True)
    except TypeError as error:
        raise TypeError(
            f"a training is found again by plain values (numbers, text, None, lists of them), but {error}. "
            "Leave that setting out, or train with fit."
        ) from None
    digest = hashlib.sha256(text.encode())
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Recipe:
    """How a named network is built from its training data, and trained."""

    build: Callable[[Tensor, Tensor], nn.Module]
    epochs: int
    lr: float
    batch_size: int = 128
    augmented: bool = False
    loss: Loss = F.cross_entropy


RECIPES = {
    "softmax": Recipe(lambda x, y: networks.softmax_regression(pixels=x.shape[1:].numel()), epochs=20, lr=4e-3),
    "mlp": Recipe(lambda x, y: networks.mlp(pixels=x.shape[1:].numel()), epochs=30, lr=3e-3, augmented=True),
    "cnn": Recipe(lambda x, y: networks.small_cnn(), epochs=6, lr=4e-3, batch_size=64, augmented=True),
    "cnn_bn": Recipe(
        lambda x, y: networks.small_cnn(batch_norm=True), epochs=6, lr=4e-3, batch_size=64, augmented=True
    ),
    "cnn_dual_bn": Recipe(
        lambda x, y: layers.dual_batch_norm(networks.small_cnn(batch_norm=True)),
        epochs=6,
        lr=4e-3,
        batch_size=64,
        augmented=True,
    ),
    "rbf": Recipe(
        lambda x, y: networks.RBFNetwork(networks.class_means(x, y)), epochs=30, lr=2e-2, loss=networks.independent_loss
    ),
}


def trained(
    name: str,
    x: Tensor,
    y: Tensor,
    *,
    attack: Adversary | FreeAdversary | None = None,
    mix: float = 1.0,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> nn.Module:
    """Return the network `name` trained on (x, y): from the cache, or trained now and kept there.

    Args:
        name: of `RECIPES`: "softmax", "mlp", "cnn", "cnn_bn", "cnn_dual_bn" or "rbf".
        x, y: training images in [0, 1] and labels.
        attack, mix: see `fit`. seed: of the starting weights and of the training.
        options: of `fit`, but for loss; they go before the recipe's own, such as epochs=15. An adversarial recipe is
            trained("cnn", x, y, **ADVERSARIAL_RECIPES["pgd"](0.2)).

    Raises:
        ValueError: unknown name, or as `fit`. TypeError: an option that no file can be named after, such as a loss or
            an attack that is a function: train with `fit` then. KeyboardInterrupt: Ctrl-C; half a training is not kept.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown network {name!r}. {did_you_mean(name, RECIPES)}")
    recipe = RECIPES[name]
    _check_options(name, attack, options)
    validation = options.pop("validation", None)
    y = _checked_data(x, y, augmented=False)
    own = {key: getattr(recipe, key) for key in ("epochs", "lr", "batch_size", "augmented")}
    settings = own | {"seed": seed} | options
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = recipe.build(x.cpu(), y.cpu()).to(x.device)

    def train(model: nn.Module) -> None:
        history = fit(
            model, x, y, loss=recipe.loss, attack=attack, mix=mix, progress=progress, validation=validation, **settings
        )
        if history.interrupted:
            raise KeyboardInterrupt

    known = settings | {"loss": recipe.loss.__name__} | ({"attack": asdict(attack), "mix": mix} if attack else {})
    data = (x, y, *(validation or ()))
    return load_or_train(model, train, name=name, data=data, recipe=known)


OPTIONS = {name for name, option in inspect.signature(fit).parameters.items() if option.kind is option.KEYWORD_ONLY}


def _check_options(name: str, attack: Adversary | FreeAdversary | None, options: dict[str, Any]) -> None:
    """Refuse what `fit` does not take, and functions: a trained network is found again by plain values."""
    cure = "build the network, for example networks.small_cnn(), and train it with training.fit"
    if "loss" in options:
        raise TypeError(f"{name!r} is kept with the loss of its recipe, a function names no file: for another {cure}.")
    if not (attack is None or is_dataclass(attack)):
        raise TypeError(f"attack must be an Adversary or a FreeAdversary, got a {type(attack).__name__}: {cure}.")
    unknown = sorted(options.keys() - OPTIONS)
    if unknown:
        raise TypeError(f"trained has no option {unknown[0]!r}. {did_you_mean(unknown[0], OPTIONS)}")
    _check_validation(options.get("validation"), options.get("validation_eps"), options.get("patience"))
