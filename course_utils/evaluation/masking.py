"""Tests of gradient masking: a model that hides its gradient looks robust to attacks that follow it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor

from ..attacks.gradient_based import pgd
from ..attacks.gradients import input_gradient
from ..attacks.threat_model import project, random_in_ball
from ..core.validation import Box, Model, check_count, check_images
from ..models.inference import frozen_eval, predict
from .attack_ensemble import BLACK_BOX, SUSPICIOUS, RobustAccuracy, asked_often, fixed_draws, robust_accuracy
from .metrics import accuracy, correct

ONE_DRAW = "any number from one draw: ask for the mean of several, with draws=20"
PGD = "accuracy under PGD: take robust_accuracy"
GRADIENT = "any attack that follows the gradient: attack without it, or through a copy that has one"
Test = tuple[str, float, bool, str]  # what is tested, the value, whether it passed, what else is not to be trusted


def masking_tests(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    source: Model | None = None,
    steps: int = 40,
    draws: int = 1,
    seed: int = 0,
    clip: Box = (0.0, 1.0),
) -> pd.DataFrame:
    """Test whether a robust accuracy can be trusted, and say which number cannot: a masked gradient makes it too high.

    All shares are of the initially correct images. A model can fail one test and still be robust, and a model that
    passes all can still be broken by a better attack.

    Args:
        model, x, y, eps, norm, clip: see `course_utils.attacks`; 100 to 200 images are enough.
        source: another model of the same task, whose adversarial images are tried on this one; without it the black box
            is the square attack of `robust_accuracy`.
        steps: of PGD. draws, seed: see `robust_accuracy`.

    Returns:
        one row for each test: test, value, passed, and "do not trust": which number is doubtful, "" if it passed.

    Raises:
        ValueError: eps is 0, or no image is classified correctly. ValueError, TypeError: as `attacks.pgd`.

    >>> x = torch.rand(20, 2)
    >>> masking_tests(lambda x: 4 * (x - 0.5), x, x.argmax(1), 0.1).passed.tolist()
    [True, True, True, True, True, True, True]

    Carlini et al., "On evaluating adversarial robustness", 2019. Athalye, Carlini and Wagner, "Obfuscated gradients
    give a false sense of security", 2018.
    """
    check_images(x, clip)
    check_count("steps", steps)
    asked = asked_often(model, draws)
    with frozen_eval(model), fixed_draws(x, seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*gradients are exactly zero")  # one of the rows says so
        right = correct(asked, x, y)
        if eps == 0 or not right.any():
            raise ValueError(
                f"expected eps > 0 and images that the model classifies as y; got eps={eps}, {right.sum()}."
            )
        x, y = x[right], y.to(x.device)[right]
        options = {"norm": norm, "seed": seed, "clip": clip}
        ensemble = robust_accuracy(model, x, y, eps, draws=draws, progress=False, **options)
        gap = (predict(model, x).softmax(1) - predict(model, x).softmax(1)).abs().max().item()
        asked_twice = ("two answers to the same images agree, or are averaged", gap, gap < 1e-4 or draws > 1, ONE_DRAW)
        rows = [asked_twice, *_tests(asked, x, y, eps, ensemble, source, steps, **options)]
    columns = ["test", "value", "passed", "do not trust"]
    return pd.DataFrame([(*row[:3], "" if row[2] else row[3]) for row in rows], columns=columns)


def _tests(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    ensemble: RobustAccuracy,
    source: Model | None,
    steps: int,
    *,
    norm: str,
    seed: int,
    clip: Box,
) -> Iterator[Test]:
    generator = torch.Generator(x.device).manual_seed(seed)
    options = {"norm": norm, "clip": clip, "generator": generator}

    def fooled(adv: Tensor) -> float:
        return 1 - accuracy(model, adv, y)

    zero = input_gradient(model, x, y, loss="margin").flatten(1).eq(0).all(1).float().mean().item()
    yield "share of gradients that are exactly 0", zero, zero == 0, GRADIENT

    counts = sorted({1, max(1, steps // 4), steps})
    by_steps = [fooled(pgd(model, x, y, eps, steps=count, **options)) for count in counts]
    rise = min((later - earlier for earlier, later in pairwise(by_steps)), default=0.0)
    yield "more steps of PGD fool no fewer", rise, rise >= -0.05, PGD  # random starts decide about a few

    by_black_box = ensemble.stage.count(BLACK_BOX) / len(x)
    by_gradient = 1 - ensemble.accuracy - by_black_box
    lead = by_gradient - by_steps[-1]
    yield "stronger attacks by gradient fool few more than PGD", lead, lead <= 0.05, PGD

    noise = fooled(project(random_in_ball(x, eps, norm=norm, generator=generator), x, eps, norm=norm, clip=clip))
    yield "random noise fools fewer", by_gradient - noise, by_gradient > noise or by_gradient == noise == 0, GRADIENT

    if source is not None:
        adv = pgd(source, x, y, eps, steps=steps, **options)
        by_black_box = (ensemble.correct & ~correct(model, adv, y)).float().mean().item()
    yield "a black box fools no others", by_black_box, by_black_box <= max(1 / len(x), SUSPICIOUS), GRADIENT

    width = 1.0 if clip is None else clip[1] - clip[0]
    farthest = max(eps, width if norm == "linf" else width * x[0].numel() ** 0.5)
    everyone = fooled(pgd(model, x, y, farthest, steps=steps, **options))
    yield "a radius that reaches every image fools all", everyone, everyone >= 0.99, GRADIENT
