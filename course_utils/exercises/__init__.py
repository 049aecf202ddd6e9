"""Exercise checks: `check(name, answer)` says what is wrong with a student's answer, and why. One file per chapter."""

from . import adversarial_training, fgsm, linear_models, manifold, pgd, photographs, transfer
from .engine import CheckResult, check

__all__ = [
    "CheckResult",
    "adversarial_training",
    "check",
    "fgsm",
    "linear_models",
    "manifold",
    "pgd",
    "photographs",
    "transfer",
]
