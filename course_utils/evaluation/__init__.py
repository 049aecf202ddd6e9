"""Evaluation: what a model or an attack is worth, in shares with their intervals.

- `metrics`: accuracy, robust accuracy, confidence, distances, the worst of several attacks, signs of hidden gradients
- `comparison`: models × inputs or attacks × seeds in one table
- `transfer`: what fools one model on another
- `physical`: what survives a camera, and patches on photographs that they were not made for
"""

from .comparison import After, Comparison, compare
from .metrics import (
    AttackReport,
    accuracy,
    confidence,
    correct,
    distances,
    evaluate_attack,
    gradient_masking_tests,
    robust_accuracy,
    worst_case,
)
from .physical import patch_success, robustness_to_transformations
from .transfer import agreement, matrix_title, transfer_matrix

__all__ = [
    "After",
    "AttackReport",
    "Comparison",
    "accuracy",
    "agreement",
    "compare",
    "confidence",
    "correct",
    "distances",
    "evaluate_attack",
    "gradient_masking_tests",
    "matrix_title",
    "patch_success",
    "robust_accuracy",
    "robustness_to_transformations",
    "transfer_matrix",
    "worst_case",
]
