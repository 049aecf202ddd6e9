"""Exercise checks: `check(name, answer)` says what is wrong with a student's answer, and why.

- `engine`: runs the checks of an exercise; `sandbox` and `originals` keep it safe from slips of the answer
- `exercise`: exercises as data: a reference, cases, and mistakes that are functions
- `properties`: what many checks ask; `inputs`: what answers are tried on; `mistakes`: what goes wrong in a gradient step
- `error_hints`: what an exception means
- one file for the exercises of each chapter
"""

from . import (
    adversarial_training,
    cheaper_training,
    engine,
    fgsm,
    linear_models,
    pgd,
    photographs,
    robust_manifold,
    start_here,
    transfer,
)
from .engine import CheckResult
from .originals import sealed

check = sealed(engine.check, engine._CHECKERS)

__all__ = [
    "CheckResult",
    "adversarial_training",
    "cheaper_training",
    "check",
    "fgsm",
    "linear_models",
    "pgd",
    "photographs",
    "robust_manifold",
    "start_here",
    "transfer",
]
