"""Attacks on the Robust Manifold defence by somebody who knows it, and the naive one beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

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
    """Return the autoencoder C(G(E(x))): the encoder's guess stands for the search.

    Raises:
        ValueError: the defence has no encoder.
    """
    if defence.encoder is None:
        raise ValueError("the shortcut needs an encoder, and this defence has none: ManifoldDefense(…, encoder=…).")
    return with_gradient(defence, differentiable=True, unroll=0)


def _bpda(defence: ManifoldDefense) -> nn.Module:
    return with_gradient(defence, bpda=True)


def _unrolled(defence: ManifoldDefense) -> nn.Module:
    return with_gradient(defence, differentiable=True, unroll=40)


def _implicit(defence: ManifoldDefense) -> nn.Module:
    return with_gradient(defence, implicit=True)


# What PGD follows in the place of the defence, from the weakest to the strongest
SURROGATES: dict[str, Callable[[ManifoldDefense], nn.Module]] = {
    "autoencoder": autoencoder_surrogate,
    "BPDA": _bpda,
    "unrolled": _unrolled,
    "implicit": _implicit,
}
ADAPTIVE = ("naive", *SURROGATES, "latent")
LOOK = 2  # steps of PGD between two looks at the defence itself


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
    """Attack a defence in every way that is known here; `worst_case` over all of them is what it is worth.

    "naive": PGD on the classifier alone. "autoencoder": on the encoder's shortcut. "BPDA": straight through the
    projection. "unrolled": through the inversion from the encoder's guess; "implicit": from z*, as it moves with the
    image. "latent": the nearest image of the generator that is classified otherwise, put back into the ball.

    What fools a surrogate need not fool the defence: where the two answer differently ("autoencoder", "unrolled"),
    points on the way are shown to the defence itself.

    Args:
        defence, x, y, eps: as in `pgd`. norm: "linf" or "l2". attacks: some of these names, default all that suit.
        steps, restarts: of PGD; later starts go on with what still stands, each towards another class.
        samples: draws of the random starts that a gradient is averaged over (EOT).
        generator: source of PGD's random starts. progress: show a bar.

    Returns:
        Adversarial images like x by the name of the attack, each in ball and box.

    Raises:
        ValueError, TypeError: an unknown attack; as `pgd`.

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
        elif name == "naive":  # somebody who does not know of the projection cannot look at what it does
            found[name] = pgd(defence.classifier, x, y, eps, restarts=restarts, **options)
        else:
            found[name] = _follow(SURROGATES[name](defence), defence, x, y, eps, samples, restarts, options)
    return found


def _follow(
    surrogate: ManifoldDefense,
    defence: ManifoldDefense,
    x: Tensor,
    y: Tensor,
    eps: float,
    samples: int,
    restarts: int,
    options: dict[str, Any],
) -> Tensor:
    """Run PGD on a surrogate, and start anew, towards one class after the other, where the defence still stands."""
    averaged = ensemble_logits([surrogate] * samples)
    best = project(x, x, eps, norm=options["norm"])  # refuses what is no image
    y = checked_labels(y, x)
    others = _other_classes(defence, best, y) if restarts > 1 else None
    standing = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for restart in range(restarts):
        if restart:
            standing[standing.clone()] = correct(defence, best[standing], y[standing])
            if not standing.any():
                break
        some, labels = x[standing], y[standing]
        goal = others[standing, (restart - 1) % others.shape[1]] if restart else labels
        witness = _Witness(defence, some, labels, every=LOOK)
        watched = {"callback": witness if surrogate.differentiable else None, "targeted": restart > 0}
        adv = pgd(averaged, some, goal, eps, **watched, **options)
        best[standing] = torch.where(broadcast_like(witness.fooled, adv), witness.adv, adv)
    return best


def _other_classes(defence: ManifoldDefense, x: Tensor, y: Tensor) -> Tensor:
    """Return the classes that are not y, the likeliest of each image first, (N, K - 1)."""
    logits = predict(defence, x)
    return logits.scatter(1, y.unsqueeze(1), -math.inf).argsort(1, descending=True)[:, :-1]


class _Witness:
    """Shows points of PGD's way to the defence itself, which a surrogate only resembles, and keeps what fools it."""

    def __init__(self, defence: ManifoldDefense, x: Tensor, y: Tensor, *, every: int):
        self.defence, self.y, self.every = defence, y, every
        self.adv, self.fooled = x.detach().clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def __call__(self, _restart: int, step: int, adv: Tensor, _loss: Tensor) -> None:
        open_ = ~self.fooled
        if step == 0 or step % self.every or not open_.any():
            return
        fooled = open_.clone()
        fooled[open_] = ~correct(self.defence, adv[open_], self.y.to(adv.device)[open_])
        self.adv[fooled], self.fooled = adv[fooled], self.fooled | fooled


def on_manifold(defence: ManifoldDefense, x: Tensor, y: Tensor, eps: float, *, norm: str = "linf") -> Tensor:
    """Go from z* to the nearest z' that is classified otherwise, and from x towards G(z') as far as eps allows.

    Args:
        defence, x, y, eps, norm: as in `adaptive_attacks`.

    Raises:
        ValueError, TypeError: as `pgd`.
    """
    x = project(x, x, eps, norm=norm)  # refuses what is no image
    z, _ = defence.project(x)
    pairs = latent_attack(defence.classifier, defence.generator, z, y, anchored=True, confidence=2.0)
    return project(pairs.x_prime, x, eps, norm=norm)
