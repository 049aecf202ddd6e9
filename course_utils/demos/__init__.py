"""Demos with a slider: a pure function from the controls' state to values, and panels of a figure that draw these.

- `widget`: what all demos share; `panels`: the parts of a figure, which are updated in place
- `registry`: all demos with what to try; `overview`: one page with all of them
- `static_export`: demos as web pages without a kernel
- one file for the demos of each subject

Displayed in a front end with widgets a demo is live; everywhere else its static picture is shown.
"""

from .adversarial_training import (
    ATTACK_STEPS,
    COMPARED_ATTACKS,
    SIDEWAYS,
    accuracy_curves,
    loss_tilt,
    model_comparer,
)
from .attacks import NOISE_WEIGHTS, fgsm_slider, optimised_noise_slider, pgd_scrubber
from .draw_digit import Sketch, draw_digit
from .linear_models import margin_bar
from .overview import gallery
from .photographs import PHOTO_ATTACKS, PHOTO_LEVELS, UPLOADED, photo_lab
from .registry import Entry, catalogue
from .robust_manifold import latent_walk, projection_slider
from .static_export import export, fragment, fragment_for
from .transfer import transfer_picker
from .widget import EPS_STEPS, Demo

__all__ = [
    "ATTACK_STEPS",
    "COMPARED_ATTACKS",
    "EPS_STEPS",
    "NOISE_WEIGHTS",
    "PHOTO_ATTACKS",
    "PHOTO_LEVELS",
    "SIDEWAYS",
    "UPLOADED",
    "Demo",
    "Entry",
    "Sketch",
    "accuracy_curves",
    "catalogue",
    "draw_digit",
    "export",
    "fgsm_slider",
    "fragment",
    "fragment_for",
    "gallery",
    "latent_walk",
    "loss_tilt",
    "margin_bar",
    "model_comparer",
    "optimised_noise_slider",
    "pgd_scrubber",
    "photo_lab",
    "projection_slider",
    "transfer_picker",
]
