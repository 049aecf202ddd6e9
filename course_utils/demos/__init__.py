"""Sliders. Each demo is a pure function from a state to a frame, a picture that updates in place, and a thin shell.

Displayed in a front end with widgets a demo is live; everywhere else its static picture is shown. `catalogue` lists
them all, with what to try.
"""

from .attacks import fgsm_slider, pgd_scrubber
from .catalogue import Entry, catalogue
from .demo import EPS_STEPS, Demo, eps_slider
from .lecture import gallery
from .linear_models import margin_bar
from .manifold import latent_walk, projection_slider
from .photographs import PHOTO_ATTACKS, PHOTO_LEVELS, UPLOADED, photo_lab
from .robust_training import ATTACK_STEPS, accuracy_curves
from .transfer import transfer_picker
from .without_kernel import export, fragment, in_place_of

__all__ = [
    "ATTACK_STEPS",
    "EPS_STEPS",
    "PHOTO_ATTACKS",
    "PHOTO_LEVELS",
    "UPLOADED",
    "Demo",
    "Entry",
    "accuracy_curves",
    "catalogue",
    "eps_slider",
    "export",
    "fgsm_slider",
    "fragment",
    "gallery",
    "in_place_of",
    "latent_walk",
    "margin_bar",
    "pgd_scrubber",
    "photo_lab",
    "projection_slider",
    "transfer_picker",
]
