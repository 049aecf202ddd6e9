"""Attacks: everything that turns `(model, x, y)` into an adversarial `x`.

All of them keep the same promises. `x` holds images as floats inside `clip`, `(N, ...)`; `y` integer labels `(N,)`;
the model returns logits `(N, K)`. The answer is one new, detached tensor like `x`, inside the box and, where the attack
has a radius `eps` (pixel units), inside its ball up to the rounding of x's own dtype. Neither the model (modes,
`requires_grad`, `.grad`, buffers) nor `x` keeps a trace, not even after an exception. Wrong input raises before
anything is computed.

- `gradient_based`: the largest loss inside a ball; `query_based`: the same without gradients
- `minimum_norm`: the smallest change that fools
- `nondifferentiable`: attacks on scikit-learn's classifiers
- `transformations`: what a camera or a file does to a picture, and attacks that survive it; `patch`: stickers
- below them: `threat_model` (balls and boxes) and `gradients`
"""

from ..core.validation import Box, Model
from .gradient_based import bim, fgsm, fgsm_rs, pgd
from .gradients import input_gradient
from .minimum_norm import box_constrained_lbfgs, carlini_wagner, deepfool
from .nondifferentiable import generate, neighbour_attack, tree_attack
from .patch import adversarial_patch, apply_patch
from .query_based import square
from .threat_model import project, random_in_ball, uniform_noise
from .transformations import (
    TRANSFORMATIONS,
    EOTModel,
    blur,
    gaussian_noise,
    jpeg,
    print_and_photograph,
    quantise,
    random_crop,
    random_light,
    random_perspective,
    random_resize_and_pad,
    random_rotation,
    resize_and_back,
)

__all__ = [
    "TRANSFORMATIONS",
    "Box",
    "EOTModel",
    "Model",
    "adversarial_patch",
    "apply_patch",
    "bim",
    "blur",
    "box_constrained_lbfgs",
    "carlini_wagner",
    "deepfool",
    "fgsm",
    "fgsm_rs",
    "gaussian_noise",
    "generate",
    "input_gradient",
    "jpeg",
    "neighbour_attack",
    "pgd",
    "print_and_photograph",
    "project",
    "quantise",
    "random_crop",
    "random_in_ball",
    "random_light",
    "random_perspective",
    "random_resize_and_pad",
    "random_rotation",
    "resize_and_back",
    "square",
    "tree_attack",
    "uniform_noise",
]
