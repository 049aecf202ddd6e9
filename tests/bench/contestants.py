"""Who attacks: functions of (model, x, y, eps, norm) that return adversarial images like x.

A package is imported by `load`, so that this is not timed, and found when it attacks. torchattacks' DeepFool and the
toolbox's Carlini-Wagner take one image after another, half a second and more for each: both are left out.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils import attacks
from course_utils.core import vision  # noqa: F401 - first: torchattacks imports torchvision, which this makes importable
from course_utils.core.files import source_hash
from course_utils.evaluation import robust_accuracy

Attack = Callable[[nn.Module, Tensor, Tensor, float, str], Tensor]

BATCH = 250  # images of every attack that takes a size: the default of the authors' AutoAttack
PGD_STEPS = 40
SEARCHES, STEPS, LR = 9, 200, 0.1  # of every Carlini-Wagner


def ensemble(effort: str) -> Attack:
    """Return the course's robust accuracy; what it warns of is warned of."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
        found = robust_accuracy(model, x, y, eps, norm=norm, effort=effort, batch_size=BATCH, progress=False)
        for text in found.warnings:
            warnings.warn(text, stacklevel=1)
        return found.adv

    return attack


def authors_autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
    """Attack with AutoAttack by Croce and Hein, with its standard settings."""
    autoattack = import_module("pyautoattack").AutoAttack(model, eps=eps, norm=norm.capitalize(), seed=0)
    return autoattack.run_standard_evaluation(x, y, batch_size=BATCH)[0]


def torchattacks_autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
    """Attack with torchattacks' copy of it."""
    options = {"norm": norm.capitalize(), "eps": eps, "n_classes": model(x[:1]).shape[1], "seed": 0}
    autoattack = import_module("torchattacks").AutoAttack(model, **options)
    return torch.cat([autoattack(*part) for part in zip(x.split(BATCH), y.split(BATCH), strict=True)])


def torchattacks(kind: str, settings: Callable[[float], dict[str, Any]]) -> Attack:
    """Return an attack of torchattacks, whose settings follow from the radius."""
    return lambda model, x, y, eps, norm: getattr(import_module("torchattacks"), kind)(model, **settings(eps))(x, y)


def foolbox(kinds: dict[str, str], *, starts: int = 1, **settings: Any) -> Attack:
    """Return an attack of foolbox, named by norm; without a radius if it looks for the smallest change."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
        package = import_module("foolbox")
        made = getattr(package.attacks, kinds[norm])(**settings)
        made = made.repeat(starts) if starts > 1 else made
        wrapped = package.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return made(wrapped, x, y, epsilons=eps if kinds is PGD_OF_FOOLBOX else None)[0]

    return attack


def toolbox(kind: str, settings: Callable[[float, str], dict[str, Any]]) -> Attack:
    """Return an attack of the Adversarial Robustness Toolbox, whose settings follow from radius and norm."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
        shape, classes = tuple(x.shape[1:]), model(x[:1]).shape[1]
        wrap = import_module("art.estimators.classification").PyTorchClassifier
        options = {"loss": nn.CrossEntropyLoss(), "clip_values": (0.0, 1.0), "device_type": "cpu"}
        wrapped = wrap(model, input_shape=shape, nb_classes=classes, **options)
        made = getattr(import_module("art.attacks.evasion"), kind)(wrapped, batch_size=BATCH, **settings(eps, norm))
        for part in getattr(made, "attacks", [made]):
            part.set_params(verbose=False)
        return torch.from_numpy(made.generate(x.numpy(), y.numpy()))

    return attack


def bare_passes(model: nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
    """Do as many forward and backward passes as PGD has steps, and nothing else."""
    for _ in range(PGD_STEPS):
        point = x.clone().requires_grad_(True)
        torch.autograd.grad(F.cross_entropy(model(point), y, reduction="sum"), point)
    return x


REFERENCE = "AutoAttack of its authors"
OURS, FOOLBOX = "ours", "foolbox"
EFFORTS = ("ours, quick", "ours, standard", "ours, thorough")
PGD_OF_FOOLBOX = {"linf": "LinfPGD", "l2": "L2PGD"}
P = {"linf": math.inf, "l2": 2}
ENSEMBLES: dict[str, Attack] = {
    REFERENCE: authors_autoattack,
    **{name: ensemble(name.removeprefix("ours, ")) for name in EFFORTS},
    "AutoAttack of torchattacks": torchattacks_autoattack,
    "PGD-100 × 5 of foolbox": foolbox(PGD_OF_FOOLBOX, starts=5, steps=100, rel_stepsize=0.025),
    "AutoAttack of ART": toolbox("AutoAttack", lambda eps, norm: {"norm": P[norm], "eps": eps, "eps_step": 2 * eps}),
}
PGD: dict[str, Attack] = {
    OURS: lambda model, x, y, eps, norm: attacks.pgd(model, x, y, eps, norm=norm, steps=PGD_STEPS),
    "torchattacks": torchattacks(
        "PGD", lambda eps: {"eps": eps, "alpha": 2.5 * eps / PGD_STEPS, "steps": PGD_STEPS, "random_start": True}
    ),
    FOOLBOX: foolbox(PGD_OF_FOOLBOX, steps=PGD_STEPS, rel_stepsize=2.5 / PGD_STEPS),
    "ART": toolbox(
        "ProjectedGradientDescentPyTorch",
        lambda eps, norm: {
            "norm": P[norm],
            "eps": eps,
            "eps_step": 2.5 * eps / PGD_STEPS,
            "max_iter": PGD_STEPS,
            "num_random_init": 1,
        },
    ),
}
DEEPFOOL: dict[str, Attack] = {
    OURS: lambda model, x, y, eps, norm: attacks.deepfool(model, x, y),
    FOOLBOX: foolbox({"l2": "L2DeepFoolAttack"}),
    "ART": toolbox("DeepFool", lambda eps, norm: {"max_iter": 50, "epsilon": 0.02}),
}
CARLINI_WAGNER: dict[str, Attack] = {
    OURS: lambda model, x, y, *_: attacks.carlini_wagner(model, x, y, search_steps=SEARCHES, steps=STEPS, lr=LR),
    FOOLBOX: foolbox({"l2": "L2CarliniWagnerAttack"}, binary_search_steps=SEARCHES, steps=STEPS, stepsize=LR),
    "torchattacks": torchattacks("CW", lambda eps: {"c": 10, "steps": SEARCHES * STEPS, "lr": 0.01}),
}
GROUPS = {"ensemble": ENSEMBLES, "pgd": PGD, "deepfool": DEEPFOOL, "carlini_wagner": CARLINI_WAGNER}
MODULES = ("pyautoattack", "torchattacks", "foolbox", "art.attacks.evasion", "art.estimators.classification")
PACKAGES = {  # by a word of the names above
    "authors": "pyautoattack",
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "ART": "adversarial-robustness-toolbox",
}


def load() -> None:
    """Import the other packages before anything is timed.

    Raises:
        ModuleNotFoundError: one is not installed; `make bench` has an environment with all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in MODULES:
            import_module(module)


def version(attack: str) -> str:
    """Return what stands for the code of an attack: this file, and a package's version or the course's sources."""
    here = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    package = next((package for word, package in PACKAGES.items() if word in attack), None)
    code = metadata.version(package) if package else source_hash("core", "models", "attacks", "evaluation")
    return f"{here} {code}"
