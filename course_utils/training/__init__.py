"""Training: one fit loop, training against an attack, and networks that are trained once and kept.

- `fitting`: `fit`, and the augmentation of digits; `history`: what it measures in each epoch
- `adversary`: attacks on the network as it is at that moment; `adversarial`: recipes of adversarial training
- `zoo`: networks that are trained once and loaded afterwards: `trained` for one by name, `train_all` for many at once
- `generative`: VAE and GAN; `substitute`: a network trained on the answers of another model
"""

from .adversarial import ADVERSARIAL_RECIPES, adversarial_fit
from .adversary import ATTACKS, Adversary, FreeAdversary, Trades, trades_loss
from .fitting import augment, fit
from .generative import train_gan, trained_gan, trained_vae
from .history import History
from .substitute import (
    Oracle,
    QueryBudgetExceeded,
    jacobian_augmentation,
    query_plan,
    reservoir_sample,
    train_substitute,
)
from .zoo import RECIPES, Recipe, load_or_train, train_all, trained

__all__ = [
    "ADVERSARIAL_RECIPES",
    "ATTACKS",
    "RECIPES",
    "Adversary",
    "FreeAdversary",
    "History",
    "Oracle",
    "QueryBudgetExceeded",
    "Recipe",
    "Trades",
    "adversarial_fit",
    "augment",
    "fit",
    "jacobian_augmentation",
    "load_or_train",
    "query_plan",
    "reservoir_sample",
    "trades_loss",
    "train_all",
    "train_gan",
    "train_substitute",
    "trained",
    "trained_gan",
    "trained_vae",
]
