"""Evaluation: what a model or an attack is worth, in shares with their intervals.

- `attack_ensemble`: robust accuracy, by attacks one after the other on what is left
- `metrics`: accuracy with and without an attack, confidence, distances, the worst of several attacks
- `masking`: whether such a number can be trusted
- `comparison`: models × inputs or attacks × seeds in one table
- `transfer`: what fools one model on another; `queries`: accuracy against the labels that an attack has asked for
- `physical`: what a camera leaves of an attack, and patches on photographs that they were not made for
"""

from .attack_ensemble import RobustAccuracy, robust_accuracy
from .comparison import After, Comparison, compare
from .masking import masking_tests
from .metrics import (
    AttackReport,
    accuracy,
    accuracy_under_attack,
    accuracy_within,
    confidence,
    correct,
    distances,
    evaluate_attack,
    worst_case,
)
from .physical import patch_success, robustness_to_transformations
from .queries import accuracy_by_queries
from .transfer import compare_transfer, matrix_title, transfer_matrix

__all__ = [
    "After",
    "AttackReport",
    "Comparison",
    "RobustAccuracy",
    "accuracy",
    "accuracy_by_queries",
    "accuracy_under_attack",
    "accuracy_within",
    "compare",
    "compare_transfer",
    "confidence",
    "correct",
    "distances",
    "evaluate_attack",
    "masking_tests",
    "matrix_title",
    "patch_success",
    "robust_accuracy",
    "robustness_to_transformations",
    "transfer_matrix",
    "worst_case",
]
