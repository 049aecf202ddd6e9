"""Attacks: everything that turns `(model, x, y)` into an adversarial `x`.

- `gradient_based`, `auto_pgd`: the largest loss inside a ball; `query_based`: the same from outputs alone, `square`
- `minimum_norm`: the smallest change that fools the model; `decision_based`: the same from labels alone, `hopskipjump`
- `nondifferentiable`: attacks on scikit-learn's classifiers
- `transformations`: printing, cameras, files, and the expectation over them (EOT); `patch`: adversarial patches
- below them: `threat_model` (balls and boxes), `gradients`, `best_so_far` (the best candidate of every image), and
  `image_streams` (a random stream for each image)

**Arguments that attacks share**, described here once:

- `model` maps images (N, ...) to logits (N, K).
- `x` holds the images as floats inside `clip`, (N, ...). `y` holds their integer labels (N,); with `targeted=True`,
  the labels to reach.
- `eps` is the radius of the ball around x, in pixel units; `norm` says which: "linf" or "l2".
- `clip` is the box, (lowest, highest) valid pixel value; None for no box.
- `loss` is what is increased (or, when targeted, decreased): "ce", the cross-entropy, or "margin", the largest other
  logit minus the logit of y; for `apgd` also "dlr", the margin over a difference of two logits.
- `steps` counts gradient steps, `step_size` is their length in pixel units, `restarts` counts independent starts.
- `generator` is the source of all random draws; the global stream is then left alone.

**They return** one new, detached tensor like `x`, inside the box and, where there is an `eps`, inside the ball up to
the rounding of x's own dtype. Neither the model (modes, `requires_grad`, `.grad`, buffers) nor `x` is changed, not even
after an exception.

**They raise** before anything is computed: ValueError and TypeError for input of the wrong range, shape or type,
RuntimeError under `torch.inference_mode()` if they need gradients; and ValueError for logits or gradients that are not
finite. They warn of outputs that look like probabilities and of gradients that are exactly zero.
"""

from ..core.validation import Box, Model
from .auto_pgd import apgd
from .decision_based import hopskipjump
from .gradient_based import bim, fgsm, fgsm_rs, mi_fgsm, pgd
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
    random_brightness_contrast,
    random_crop,
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
    "apgd",
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
    "hopskipjump",
    "input_gradient",
    "jpeg",
    "mi_fgsm",
    "neighbour_attack",
    "pgd",
    "print_and_photograph",
    "project",
    "quantise",
    "random_brightness_contrast",
    "random_crop",
    "random_in_ball",
    "random_perspective",
    "random_resize_and_pad",
    "random_rotation",
    "resize_and_back",
    "square",
    "tree_attack",
    "uniform_noise",
]
