"""Networks that are trained once, kept in the cache, and loaded afterwards: one, or many side by side."""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import settings
from ..core.files import source_hash
from ..core.parallel import parallel_map
from ..core.suggestions import did_you_mean
from ..models import layers, networks
from ..models.weights import load_weights, save_weights
from .adversary import Adversary, FreeAdversary, Trades
from .fitting import Loss, _check_validation, _checked_data, fit

Name = TypeVar("Name", bound=Hashable)
SOURCES = ("core", "models", "attacks", "evaluation", "training")  # the rooms whose code can change trained weights


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
    a warning, since the trained model is at hand. After a change of this package's code it is trained anew.
    """
    path = _path(model, name, data, recipe)
    if not _load(model, path):
        train(model)
        _keep(model, path)
    return model.eval()


def _path(model: nn.Module, name: str, data: tuple[Tensor, ...], recipe: Mapping[str, Any]) -> Path:
    # The starting weights are part of the recipe: they carry the seed they were drawn with.
    key = fingerprint([str(model), dict(recipe)], (*model.state_dict().values(), *data))
    return settings.cache_dir() / "models" / f"{name}-{key}.pt"


def _load(model: nn.Module, path: Path) -> bool:
    try:
        load_weights(model, path)
        return True
    except FileNotFoundError:
        return False
    except ValueError as error:
        warnings.warn(f"training anew, and replacing the cached weights: {error}", stacklevel=3)
        return False


def _keep(model: nn.Module, path: Path) -> None:
    try:
        save_weights(model, path)
    except OSError as error:
        warnings.warn(f"the trained weights are not kept: {error}", stacklevel=3)


def fingerprint(settings: list[Any], tensors: Iterable[Tensor]) -> str:
    """Return 16 letters that stand for JSON values, tensors, the sources that train, and the version of torch.

    Raises:
        TypeError: a setting that is no JSON value.
    """
    versions = [source_hash(*SOURCES), torch.__version__]
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
OPTIONS = {name for name, option in inspect.signature(fit).parameters.items() if option.kind is option.KEYWORD_ONLY}


def trained(
    name: str,
    x: Tensor,
    y: Tensor,
    *,
    attack: Adversary | FreeAdversary | Trades | None = None,
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
    cure = "build the network, for example networks.small_cnn(), and train it with training.fit"
    if "loss" in options:
        raise TypeError(f"{name!r} is kept with the loss of its recipe, a function names no file: for another {cure}.")
    if not (attack is None or is_dataclass(attack)):
        raise TypeError(f"attack must be an Adversary or a FreeAdversary, got a {type(attack).__name__}: {cure}.")
    training = _Training.of(name, x, y, attack=attack, mix=mix, seed=seed, **options)
    path = training.path()
    return training.model.eval() if _load(training.model, path) else training.fit(path, progress=progress)


def train_all(
    recipes: Mapping[Name, Mapping[str, Any] | Callable[[], Any]],
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    **shared: Any,
) -> dict[Name, Any]:
    """Train a network by each recipe, several at once, and return them by the recipes' names; in eval mode.

    A network that was trained before is loaded from the cache, as with `trained`. Each is trained by one thread, and
    depends on its own recipe only: not on the others, on the number of workers, or on the global random stream.

    Args:
        recipes: by name, what is special about each network:
            network: a name of `RECIPES`, or a function that returns a new network, such as models.small_cnn;
            data: (images, labels) in the place of x and y; seed: of the starting weights and of the training;
            and any option of `fit`. What a file cannot be named after (an attack or a loss that is a function, a
            network whose class is defined in a notebook) is trained anew each time.
            Or a function without arguments, for what is trained in another way: what it returns takes the place of
            the network. It finds the global random stream at `seed`; what it trains is kept if it calls `trained`,
            `trained_vae`, `trained_gan` or `load_or_train`.
        x, y: training images in [0, 1] and labels.
        seed, shared: what the recipes have in common; each may overrule it.
        workers: processes, see `parallel_map`. progress: show a bar.

    Raises:
        ValueError, TypeError: before any training: no recipe, an unknown network or option; as `fit`.
            KeyboardInterrupt: Ctrl-C; half a training is not kept, those that have ended are.

    >>> x, y = torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    >>> plans = {"few": {"epochs": 1}, "more": {"epochs": 2}}
    >>> list(train_all(plans, x, y, network="softmax", progress=False))
    ['few', 'more']
    """
    if not isinstance(recipes, Mapping) or not recipes:
        raise TypeError("train_all needs a mapping with at least one recipe by name, such as {'plain': {'epochs': 3}}.")
    common = {"seed": seed} | shared
    jobs = {name: _checked_job(name, recipe, common, x, y) for name, recipe in recipes.items()}
    paths = {name: job.path_if_any() for name, job in jobs.items() if isinstance(job, _Training)}
    done = {name: jobs[name].model.eval() for name, path in paths.items() if path and _load(jobs[name].model, path)}
    # The longest go first, so that nobody waits for one that began last
    rest = sorted((name for name in jobs if name not in done), key=lambda name: -_effort(jobs[name]))
    calls = [jobs[name] for name in rest], [paths.get(name) for name in rest], [seed] * len(rest)
    new = parallel_map(_run, *calls, device=x.device, workers=workers, progress=progress)
    done |= dict(zip(rest, new, strict=True))
    return {name: done[name] for name in recipes}


def _checked_job(name: object, recipe: Any, common: Mapping[str, Any], x: Tensor, y: Tensor) -> Any:
    if callable(recipe):
        return recipe
    if not isinstance(recipe, Mapping):
        raise TypeError(
            f"the recipe {name!r} must be a mapping of options, such as {{'epochs': 3}}, or a function without "
            f"arguments; got a {type(recipe).__name__}."
        )
    options = {"data": (x, y)} | common | recipe
    if "network" not in options:
        raise TypeError(f"the recipe {name!r} names no network: add network=…, one of {', '.join(RECIPES)}.")
    network, (images, labels) = options.pop("network"), options.pop("data")
    return _Training.of(network, images, labels, **options)


def _effort(job: Any) -> float:
    """Return about how many images a training sends through its network; a function may take long."""
    if not isinstance(job, _Training):
        return float("inf")
    attack = job.options["attack"]
    steps = getattr(attack, "options", {}).get("steps", 1) if attack else 0
    return job.options["epochs"] * len(job.x) * getattr(attack, "replays", 1 + steps)


def _run(job: Any, path: Path | None, seed: int) -> Any:
    if isinstance(job, _Training):
        return job.fit(path, progress=False)
    torch.manual_seed(seed)
    return job()


@dataclass(frozen=True)
class _Training:
    """A new network, what it is trained on and how: all that its weights depend on."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    validation: tuple[Tensor, Tensor] | None
    options: dict[str, Any]  # of `fit`, without the above

    @classmethod
    def of(
        cls,
        network: str | Callable[[], nn.Module],
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        validation: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> _Training:
        """Build the network, or refuse what `fit` would refuse."""
        if isinstance(network, str) and network not in RECIPES:
            raise ValueError(f"unknown network {network!r}. {did_you_mean(network, RECIPES)}")
        if not (isinstance(network, str) or callable(network)):
            raise TypeError(f"network must be a name or a function that builds it, got a {type(network).__name__}.")
        unknown = sorted(options.keys() - OPTIONS | options.keys() & {"progress"})
        if unknown:
            raise TypeError(f"trained has no option {unknown[0]!r}. {did_you_mean(unknown[0], OPTIONS)}")
        _check_validation(validation, options.get("validation_eps"), options.get("patience"))
        y = _checked_data(x, y, augmented=False)
        named = RECIPES[network] if isinstance(network, str) else None
        own = {key: getattr(named, key) for key in ("epochs", "lr", "batch_size", "augmented", "loss")} if named else {}
        if "epochs" not in own | options:
            raise TypeError("how long is the network trained? Add epochs=… to its recipe.")
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = named.build(x.cpu(), y.cpu()) if named else network()
        if not isinstance(model, nn.Module):
            raise TypeError(f"network() must return a new network (nn.Module), got a {type(model).__name__}.")
        settings = {"attack": None, "mix": 1.0} | own | options | {"seed": seed}
        return cls(network if named else "network", model.to(x.device), x, y, validation, settings)

    def path(self) -> Path:
        """Return the file of the trained weights.

        Raises:
            TypeError: no file can be named after one of the options.
        """
        known, named = dict(self.options), RECIPES.get(self.name)
        attack, mix, loss = known.pop("attack"), known.pop("mix"), known.get("loss", F.cross_entropy)
        known["loss"] = loss.__name__ if loss in (F.cross_entropy, named and named.loss) else loss
        if attack is not None:
            known |= {"attack": asdict(attack) if is_dataclass(attack) else attack, "mix": mix}
        return _path(self.model, self.name, (self.x, self.y, *(self.validation or ())), known)

    def path_if_any(self) -> Path | None:
        """Return that file; None if none can be named after the options, or if a notebook defines the network."""
        if any(type(module).__module__ == "__main__" for module in self.model.modules()):
            return None  # its code may be another one the next time, under the same name
        try:
            return self.path()
        except TypeError:
            return None

    def fit(self, path: Path | None, *, progress: bool) -> nn.Module:
        """Train the network, and keep it in this file, if any."""
        options = {"validation": self.validation, "progress": progress} | self.options
        if fit(self.model, self.x, self.y, **options).interrupted:
            raise KeyboardInterrupt
        if path is not None:
            _keep(self.model, path)
        return self.model.eval()
