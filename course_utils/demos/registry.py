"""Every demo on the default data, with what to try. What a demo needs is trained when it is first built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import torch
from torch import nn

from ..attacks.gradient_based import pgd
from ..data.digits import load_images
from ..data.photos import load_photos, preprocess
from ..defences.robust_manifold.latent_pairs import latent_attack
from ..models.ensemble import ensemble_logits
from ..models.generative import VAE
from ..models.pretrained import imagenet_labels, load_classifier
from ..models.sklearn_models import fit_sklearn
from ..training.adversary import Adversary
from ..training.generative import trained_vae
from ..training.zoo import train_all, trained
from .adversarial_training import accuracy_curves, loss_tilt, model_comparer
from .attacks import fgsm_slider, optimised_noise_slider, pgd_scrubber
from .draw_digit import draw_digit
from .linear_models import margin_bar
from .photographs import photo_lab
from .robust_manifold import latent_walk, projection_slider
from .transfer import transfer_picker
from .widget import Demo


@dataclass(frozen=True)
class Entry:
    """One demo of the catalogue: where it belongs, what to try, and how it is built."""

    name: str
    title: str
    chapter: str
    hint: str
    build: Callable[[], Demo]


_ENTRIES: dict[str, Entry] = {}


def catalogue() -> Mapping[str, Entry]:
    """Return all demos by name, in the order of the chapters; none is built before it is asked for.

    >>> catalogue()["fgsm_slider"].chapter
    '02'
    """
    return MappingProxyType(_ENTRIES)


def _listed(title: str, chapter: str) -> Callable[[Callable[[], Demo]], Callable[[], Demo]]:
    """Enter a function that builds a demo, under its own name without the underscore; its docstring is the hint."""

    def enter(build: Callable[[], Demo]) -> Callable[[], Demo]:
        name, hint = build.__name__.removeprefix("_"), " ".join(build.__doc__.split())
        _ENTRIES[name] = Entry(name, title, chapter, hint, build)
        return build

    return enter


@_listed("The margin bar", "01")
def _margin_bar() -> Demo:
    """Move ε until the bar reaches 0: the label flips. Then take random signs and see how far you have to go."""
    linear = trained("softmax", *load_images(digits=(3, 7)))[1]
    w, b = ((part[7] - part[3]).detach() for part in (linear.weight, linear.bias))
    x, digits = load_images(split="test", digits=(3, 7), n=20)
    return margin_bar(w, b, x, torch.where(digits == 7, 1.0, -1.0))


@_listed("FGSM on one image", "02")
def _fgsm_slider() -> Demo:
    """Find the smallest ε that changes the answer, for each of the three models. Does a larger ε always fool?"""
    return fgsm_slider({name: _network(name) for name in ("mlp", "cnn", "softmax")}, *load_images(split="test", n=20))


@_listed("Draw a digit", "02")
def _draw_digit() -> Demo:
    """Draw a digit slowly and watch the answer change. Then raise ε: how much does it take with your own hand?"""
    x, _ = load_images(split="test", n=1)
    return draw_digit({"CNN": _network("cnn"), "MLP": _network("mlp")}, example=x[0])


@_listed("PGD step by step", "03")
def _pgd_scrubber() -> Demo:
    """Drag through the steps: when does the answer change, and when does the loss stop rising?

    Then the adversarially trained CNN.
    """
    robust = _network("cnn", attack=Adversary("pgd", 0.15, {"steps": 2}, warmup=0.5), epochs=3)
    models = {"standard": _network("cnn"), "adversarially trained": robust, "MLP": _network("mlp")}
    return pgd_scrubber(models, *load_images(split="test", n=20), eps=0.15)


@_listed("Optimised noise", "04")
def _optimised_noise_slider() -> Demo:
    """Lower c: length costs less, until the target is reached. Which targets are near, which model needs more?"""
    return optimised_noise_slider({"MLP": _network("mlp"), "CNN": _network("cnn")}, *load_images(split="test", n=20))


@_listed("One cell of the transfer matrix", "05")
def _transfer_picker() -> Demo:
    """Choose a source and a target, and raise ε. Which source fools the most targets, and which target falls last?"""
    networks = {name: _network(name) for name in ("cnn", "mlp", "softmax", "rbf")}
    # Fitted anew each time, so on few images; without the RBF support vector machine, too slow for a handle.
    others = {name: fit_sklearn(name, *load_images(n=1500)) for name in ("linear_svm", "tree", "knn")}
    zoo = networks | others | {"ensemble": ensemble_logits([*networks.values()])}
    return transfer_picker(zoo, *load_images(split="test", n=60))


@_listed("Several models, one image", "06")
def _model_comparer() -> Demo:
    """Raise ε under FGSM, then under PGD. Which network holds out against the one, and falls to the other?"""
    return model_comparer(_hardened(), *load_images(split="test", n=20))


@_listed("Accuracy against ε", "07")
def _accuracy_curves() -> Demo:
    """One step, then more: which curves stay where they are, and which networks only looked robust?"""
    return accuracy_curves(_hardened(), *load_images(split="test", n=40))


@_listed("Tilt the loss surface", "07")
def _loss_tilt() -> Demo:
    """Turn the line away from FGSM's direction: the network trained on FGSM is flat there, and steep elsewhere."""
    models = {name: _hardened()[name] for name in ("none", "FGSM at .3", "PGD")}
    return loss_tilt(models, *load_images(split="test", n=20))


@_listed("The projection", "08")
def _projection_slider() -> Demo:
    """How many steps does the projection need before it says the true class? Do more restarts help?"""
    (x, y), (vae, cnn) = load_images(split="test", n=12), _vae_and_cnn()
    adv = pgd(cnn, x, y, 0.2, steps=20, generator=torch.Generator().manual_seed(0))
    return projection_slider(cnn, vae.generator, adv, y)


@_listed("A walk in the latent space", "09")
def _latent_walk() -> Demo:
    """Walk slowly: where does the class change, and would you have changed your mind there?"""
    (x, y), (vae, cnn) = load_images(split="test", n=16), _vae_and_cnn()
    pairs = latent_attack(cnn, vae.generator, vae.encode(x).detach(), y, confidence=2.0, steps=60)
    near = (pairs.distance > 0) & (pairs.distance <= 1.5)
    return latent_walk(cnn, vae.generator, pairs.z[near], pairs.z_prime[near])


@_listed("The photo lab", "10")
def _photo_lab() -> Demo:
    """Half a level is enough to change the answer. Aim at a class of your choice, and then try a photo of your own."""
    photos = {name: preprocess(photo, 224)[0] for name, photo in load_photos().items()}
    targets = ["espresso", "toaster", "goldfish", "Egyptian cat", "volcano"]
    return photo_lab(load_classifier(), photos, names=imagenet_labels(), targets=targets)


def _network(name: str, **options: object) -> nn.Module:
    return trained(name, *load_images(), **options)


@cache
def _hardened() -> dict[str, nn.Module]:
    """Return networks of chapter 06: trained on clean images, on one step, on several; and one that hides its gradient.

    The last one has seen few images, and a radius that FGSM alone cannot teach.
    """
    few = load_images(n=1400)
    hiding = {"attack": Adversary("fgsm", 0.3, warmup=0.5), "epochs": 8, "lr": 3e-3, "augmented": False, "data": few}
    recipes = {
        "none": {},
        "FGSM": {"attack": Adversary("fgsm", 0.2, warmup=0.5), "epochs": 3},
        "PGD": {"attack": Adversary("pgd", 0.2, {"steps": 3}, warmup=0.5), "epochs": 4},
        "FGSM at .3": hiding,
    }
    return train_all(recipes, *load_images(), network="cnn")


def _vae_and_cnn() -> tuple[VAE, nn.Module]:
    """Return chapter 08's VAE, and its CNN, which has seen what the VAE draws."""
    x, y = load_images()
    vae = trained_vae(x, latent=32)
    redrawn = vae.sample_reconstruction(x, generator_rng=torch.Generator().manual_seed(0))
    return vae, trained("cnn", torch.cat([x, redrawn]), torch.cat([y, y]))
