"""Exercise checks: `check(name, answer)` says what is wrong with a student's answer, and why. One file per chapter."""

from . import adversarial_training, engine, fgsm, linear_models, manifold, pgd, photographs, transfer
from .engine import CheckResult
from .originals import sealed

check = sealed(engine.check, engine._CHECKERS)

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
