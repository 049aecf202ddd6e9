"""The Robust Manifold defence: project an image to the range of a generator, then classify it.

- `projection`: the search for the nearest image in the range of the generator
- `defence`: the model that projects first; `adaptive`: adaptive attacks on it
- `latent_pairs`: attacks inside the generator's range; `training`: adversarial training with them
"""

from .adaptive import ADAPTIVE, adaptive_attacks, autoencoder_surrogate, on_manifold, with_gradient
from .defence import ManifoldDefense
from .latent_pairs import LatentPairs, latent_attack
from .projection import project_to_range
from .training import train_on_manifold

__all__ = [
    "ADAPTIVE",
    "LatentPairs",
    "ManifoldDefense",
    "adaptive_attacks",
    "autoencoder_surrogate",
    "latent_attack",
    "on_manifold",
    "project_to_range",
    "train_on_manifold",
    "with_gradient",
]
