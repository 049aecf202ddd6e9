"""Attacks: everything that turns `(model, x, y)` into an adversarial `x`.

All of them keep the same promises. `x` holds images as floats inside `clip`, `(N, ...)`; `y` integer labels `(N,)`;
the model returns logits `(N, K)`. The answer is one new, detached tensor like `x`, inside the box and, where the attack
has a radius `eps` (pixel units), inside its ball up to the rounding of x's own dtype. Neither the model (modes,
`requires_grad`, `.grad`, buffers) nor `x` keeps a trace, not even after an exception. Wrong input raises before
anything is computed.

`bounded` looks for the largest loss inside a ball, `search` does so without gradients, `minimal` looks for the smallest
change that fools; they share `geometry`, `gradients` and `inputs`.
"""

from .bounded import bim, fgsm, pgd
from .geometry import project, random_in_ball
from .gradients import frozen, input_gradient
from .inputs import Box, Model
from .minimal import carlini_wagner, deepfool, optimised_noise
from .search import square

__all__ = [
    "Box",
    "Model",
    "bim",
    "carlini_wagner",
    "deepfool",
    "fgsm",
    "frozen",
    "input_gradient",
    "optimised_noise",
    "pgd",
    "project",
    "random_in_ball",
    "square",
]
