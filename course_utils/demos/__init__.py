"""Sliders. Each demo is a pure function from a state to a frame, a picture that updates in place, and a thin shell.

Displayed in a front end with widgets a demo is live; everywhere else its static picture is shown. `catalogue` lists
them all, with what to try.
"""

from .attacks import NOISE_WEIGHTS, fgsm_slider, optimised_noise_slider, pgd_scrubber
from .catalogue import Entry, catalogue
from .demo import EPS_STEPS, Demo, alert, eps_slider
from .drawing import Sketch, draw_digit
from .lecture import gallery
from .linear_models import margin_bar
from .manifold import latent_walk, projection_slider
from .photographs import PHOTO_ATTACKS, PHOTO_LEVELS, UPLOADED, photo_lab
from .robust_training import ATTACK_STEPS, COMPARED_ATTACKS, SIDEWAYS, accuracy_curves, loss_tilt, model_comparer
from .transfer import transfer_picker
from .without_kernel import export, fragment, in_place_of

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
    "alert",
    "catalogue",
    "draw_digit",
    "eps_slider",
    "export",
    "fgsm_slider",
    "fragment",
    "gallery",
    "in_place_of",
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
