"""Adversarial training on the range of a generator."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor, nn

from ...core.validation import check_count, checked_number
from ...training.adversary import Adversary
from ...training.fitting import fit
from .latent_pairs import latent_attack
from .projection import check_latents, latent_size


def train_on_manifold(
    model: nn.Module,
    generator: nn.Module,
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    eps: float = 1.5,
    rounds: int = 3,
    epochs: int = 1,
    pairs: int = 250,
    attack_steps: int = 50,
    confidence: float = 2.0,
    lr: float = 2e-3,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a model in place on images, on pairs from the latent space, and on PGD's images in an l2 ball around both.

    Each round searches new pairs against the current model, starting from the z of some of the images. Pairs
    that are at most eps apart join the training set, both images with the label of the start.

    Args:
        model: maps images to logits; left in eval mode. generator: maps z to images.
        x, y: images and labels (N,). z: their latents (N, latent), such as an encoder's output.
        eps: radius of PGD and largest distance of a pair, l2, pixel units.
        rounds: searches for pairs, each followed by so many `epochs`. pairs: starts of each search.
        attack_steps, confidence: of `latent_attack`.
        lr: highest learning rate. seed: of all draws. progress: show bars.

    Returns:
        one row for each epoch: round, pairs (found and used), and the columns of `training.fit`.

    Raises:
        ValueError, TypeError: latents or labels that do not match. FloatingPointError: a loss is no longer finite.
        KeyboardInterrupt: Ctrl-C.

    Ilyas, Jalal, Asteri, Daskalakis and Dimakis, "The robust manifold defense", 2017.
    """
    check_latents(z, len(x), latent_size(generator))
    for name, count in (("rounds", rounds), ("epochs", epochs), ("pairs", pairs)):
        check_count(name, count)
    adversary = Adversary("pgd", checked_number("eps", eps), {"norm": "l2", "steps": 2})
    stream, frames = torch.Generator().manual_seed(seed), []
    for number in range(1, rounds + 1):
        chosen = torch.randperm(len(x), generator=stream)[:pairs].to(x.device)
        found = latent_attack(model, generator, z[chosen], y[chosen], confidence=confidence, steps=attack_steps)
        near = found.distance <= eps
        images = torch.cat([x, found.x[near], found.x_prime[near]])
        labels = torch.cat([y, found.y[near], found.y[near]])
        options = {"epochs": epochs, "lr": lr, "batch_size": 64, "attack": adversary, "mix": 0.5, "augmented": True}
        history = fit(model, images, labels, seed=seed + number, progress=progress, **options)
        if history.interrupted:
            raise KeyboardInterrupt
        frames.append(history.to_frame().assign(round=number, pairs=int(near.sum())))
    return pd.concat(frames, ignore_index=True)
