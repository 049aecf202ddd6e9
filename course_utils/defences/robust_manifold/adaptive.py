"""Adaptive attacks on the Robust Manifold defence, and the naive attack for comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...attacks.best_so_far import BestSoFar
from ...attacks.gradient_based import pgd
from ...attacks.threat_model import broadcast_like, project
from ...core.suggestions import did_you_mean
from ...core.validation import check_count, checked_labels
from ...evaluation.metrics import correct
from ...models.ensemble import ensemble_logits
from ...models.inference import predict
from .defence import ManifoldDefense
from .latent_pairs import latent_attack


def with_gradient(defence: ManifoldDefense, **settings: object) -> ManifoldDefense:
    """Return a defence of the same networks, with the gradient that `settings` ask for, such as bpda=True.

    Args:
        settings: of `ManifoldDefense`; what is not named stays, but for bpda, differentiable and implicit.

    >>> from course_utils import models
    >>> defence = ManifoldDefense(models.mlp(), models.decoder(latent=2))
    >>> with_gradient(defence, bpda=True).bpda, defence.bpda
    (True, False)
    """
    names = ("encoder", "steps", "restarts", "lr", "unroll", "seed")
    own = {name: getattr(defence, name) for name in names}
    return ManifoldDefense(defence.classifier, defence.generator, **own | settings).train(defence.training)


def autoencoder_surrogate(defence: ManifoldDefense) -> nn.Module:
    """Return the autoencoder C(G(E(x))): the encoder replaces the search.

    Raises:
        ValueError: the defence has no encoder.
    """
    if defence.encoder is None:
        raise ValueError(
            "the autoencoder surrogate needs an encoder, and this defence has none: ManifoldDefense(…, encoder=…)."
        )
    return with_gradient(defence, differentiable=True, unroll=0)


# The models that PGD attacks in the place of the defence, from the weakest to the strongest attack
SURROGATES: dict[str, Callable[[ManifoldDefense], nn.Module]] = {
    "autoencoder": autoencoder_surrogate,
    "BPDA": partial(with_gradient, bpda=True),
    "unrolled": partial(with_gradient, differentiable=True, unroll=40),
    "implicit": partial(with_gradient, implicit=True),
}
ADAPTIVE = ("naive", *SURROGATES, "latent")
CHECK_EVERY = 2  # steps of PGD between two evaluations of the defence itself


def adaptive_attacks(
    defence: ManifoldDefense,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    attacks: Sequence[str] | None = None,
    steps: int = 20,
    restarts: int = 2,
    samples: int = 1,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> dict[str, Tensor]:
    """Run all adaptive attacks on a defence; its robustness is measured by `worst_case` over all of them.

    PGD on the classifier alone ("naive"), on `autoencoder_surrogate` ("autoencoder"), or with one of the gradients of
    `ManifoldDefense` ("BPDA", "unrolled", "implicit"); and `on_manifold` ("latent"). Where a surrogate's logits differ
    from the defence's ("autoencoder", "unrolled"), iterates of PGD are evaluated on the defence itself.

    Args:
        x, y, eps, norm, generator: see `course_utils.attacks`.
        attacks: some of these names; default all, without "autoencoder" if the defence has no encoder.
        steps, restarts: of PGD; each restart attacks the images that are still classified correctly, each towards
            another class.
        samples: draws of the random starts that a gradient is averaged over (EOT). progress: show a bar.

    Returns:
        Adversarial images like x by the name of the attack.

    Raises:
        ValueError, TypeError: as all attacks; an unknown name.

    >>> from course_utils import models
    >>> defence = ManifoldDefense(models.mlp(), models.decoder(latent=2), steps=3)
    >>> x, y = torch.rand(2, 1, 28, 28), torch.tensor([3, 8])
    >>> list(adaptive_attacks(defence, x, y, 0.1, attacks=["naive", "BPDA"], steps=2, progress=False))
    ['naive', 'BPDA']

    Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security", 2018; Tramèr et al., "On
    adaptive attacks to adversarial example defenses", 2020.
    """
    check_count("samples", samples)
    if attacks is None:
        attacks = [name for name in ADAPTIVE if defence.encoder is not None or name != "autoencoder"]
    for name in attacks:
        if name not in ADAPTIVE:
            raise ValueError(f"unknown attack {name!r}. {did_you_mean(name, ADAPTIVE)}")
    options = {"norm": norm, "steps": steps, "generator": generator}
    found = {}
    for name in tqdm(attacks, disable=not progress, unit="attack"):
        if name == "latent":
            found[name] = on_manifold(defence, x, y, eps, norm=norm)
        elif name == "naive":  # does not know of the projection, and cannot evaluate the defence on the way
            found[name] = pgd(defence.classifier, x, y, eps, restarts=restarts, **options)
        else:
            found[name] = _attack_surrogate(SURROGATES[name](defence), defence, x, y, eps, samples, restarts, options)
    return found


def _attack_surrogate(
    surrogate: ManifoldDefense,
    defence: ManifoldDefense,
    x: Tensor,
    y: Tensor,
    eps: float,
    samples: int,
    restarts: int,
    options: dict[str, Any],
) -> Tensor:
    """Run PGD on a surrogate; restart it, towards one class after the other, where the defence is still correct."""
    averaged = ensemble_logits([surrogate] * samples)
    best = project(x, x, eps, norm=options["norm"])  # refuses what is no image
    y = checked_labels(y, x)
    others = _other_classes(defence, best, y) if restarts > 1 else None
    left = torch.arange(len(x), device=x.device)
    for restart in range(restarts):
        if restart:
            left = left[correct(defence, best[left], y[left])]
            if not len(left):
                break
        goal = others[left, (restart - 1) % others.shape[1]] if restart else y[left]
        evaluated = _EvaluateOnDefence(defence, x[left], y[left])
        callback = evaluated if surrogate.differentiable else None
        adv = pgd(averaged, x[left], goal, eps, callback=callback, targeted=restart > 0, **options)
        best[left] = torch.where(broadcast_like(evaluated.found.success, adv), evaluated.found.best, adv)
    return best


def _other_classes(defence: ManifoldDefense, x: Tensor, y: Tensor) -> Tensor:
    """Return the classes that are not y, the likeliest of each image first, (N, K - 1)."""
    logits = predict(defence, x)
    return logits.scatter(1, y.unsqueeze(1), -math.inf).argsort(1, descending=True)[:, :-1]


class _EvaluateOnDefence:
    """A callback of PGD on a surrogate that evaluates iterates on the defence itself, and keeps what fools it."""

    def __init__(self, defence: ManifoldDefense, x: Tensor, y: Tensor):
        self.defence, self.y, self.found = defence, y, BestSoFar(x)

    def __call__(self, _restart: int, step: int, adv: Tensor, _loss: Tensor) -> None:
        rows = (~self.found.success).nonzero().squeeze(1)
        if step and step % CHECK_EVERY == 0 and len(rows):
            is_correct = correct(self.defence, adv[rows], self.y[rows])
            self.found.offer(adv[rows], torch.where(is_correct, math.inf, 0.0), rows=rows)


def on_manifold(defence: ManifoldDefense, x: Tensor, y: Tensor, eps: float, *, norm: str = "linf") -> Tensor:
    """Search the nearest z' to z* that is classified otherwise, and project G(z') into the ball around x.

    Args:
        x, y, eps, norm: see `course_utils.attacks`.

    Raises:
        ValueError, TypeError: as all attacks.
    """
    x = project(x, x, eps, norm=norm)  # refuses what is no image
    z, _ = defence.project(x)
    pairs = latent_attack(defence.classifier, defence.generator, z, y, anchored=True, confidence=2.0)
    return project(pairs.x_prime, x, eps, norm=norm)
