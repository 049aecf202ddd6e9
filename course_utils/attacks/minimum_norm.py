"""Attacks without a radius: the smallest change that fools the model.

An image that is misclassified already, and one for which nothing was found, come back unchanged: ask
`evaluation.correct` about the answer itself before you average distances. "Fooled" means by more than the rounding of
the logits, so that the answer holds in a batch of any size. See the package's docstring for the shared arguments.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import Bounds, minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..core.validation import (
    NORMS,
    Box,
    Model,
    check_box,
    check_count,
    check_images,
    check_loss,
    checked_labels,
    checked_number,
    is_finite,
)
from ..models.inference import checked_logits, frozen_eval
from .best_so_far import BestSoFar
from .gradients import adversarial_loss, as_loss, loss_and_input_grad, warn_if_masked
from .threat_model import broadcast_like, clamp, steepest_direction

# Solver: the optimiser of torch and its learning rate; SciPy's L-BFGS-B has its own line search
SOLVERS = {"lbfgs": (None, None), "sgd": (torch.optim.SGD, 0.3), "adam": (torch.optim.Adam, 0.05)}
LATER_CANDIDATES = 4  # of DeepFool: once a step has led to a boundary, the nearest is that of a likely class
WEIGHT_RANGE = (1e-10, 1e10)  # of the loss against the squared distance: only images that no change fools lie beyond


def box_constrained_lbfgs(
    model: Model,
    x: Tensor,
    target: Tensor,
    *,
    solver: str = "lbfgs",
    search_steps: int = 10,
    steps: int = 100,
    lr: float | None = None,
    clip: Box = (0.0, 1.0),
) -> Tensor:
    """Minimise c·‖r‖² + cross-entropy(x + r, target), x + r in the box, for the largest c that reaches the target.

    The larger c, the smaller the noise r; so c is searched for each image. It starts where a linear model would reach
    the target, is multiplied by ten while it succeeds or divided by ten while it fails, then halved on the logarithmic
    scale. The nearest success of the whole search is returned.

    Args:
        model, x, clip: see `course_utils.attacks`. target: labels to reach (N,).
        solver: "lbfgs" (SciPy's L-BFGS-B; the images of a batch share its line search), or "sgd" and "adam" on r,
            with a clamp to the box after each step.
        search_steps: values of c that are tried. steps: iterations of the solver for each of them.
        lr: learning rate of "sgd" (default 0.3) or "adam" (0.05, pixel units), lowered along a cosine.

    Returns:
        Images like x; unchanged where the model predicts `target` already or the target was not reached.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks; an unknown solver; `lr` for "lbfgs".

    >>> line = torch.nn.Linear(2, 2)
    >>> box_constrained_lbfgs(line, torch.tensor([[0.5, 0.5]]), torch.tensor([1]), steps=5).shape
    torch.Size([1, 2])

    Szegedy et al., "Intriguing properties of neural networks", 2014, section 4.1.
    """
    target = _checked_input(x, target, clip, search_steps=search_steps, steps=steps)
    if solver not in SOLVERS:
        raise ValueError(f"solver must be one of {tuple(SOLVERS)}, got {solver!r}.")
    if solver == "lbfgs" and lr is not None:
        raise ValueError('lr belongs to "sgd" and "adam": "lbfgs" finds the length of its steps itself.')
    optimizer, rate = SOLVERS[solver]
    rate = rate if lr is None else checked_number("lr", lr)
    if x.numel() == 0:
        return x.detach().clone()
    with frozen_eval(model), torch.enable_grad():
        first = loss_and_input_grad(model, x, target, "margin")
        warn_if_masked(*first[1:])
        search = _WeightSearch(model, x, target, first, targeted=True)
        noise = torch.zeros_like(search.start)

        def cost(noise: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            """Return ‖r‖² + cross-entropy·weight of each image, the weight being 1/c, and its gradient."""
            log_odds, gradient = search.evaluate(clamp(search.start + noise, clip), "ce")
            loss = noise.flatten(1).square().sum(1) + weight * as_loss(log_odds, "ce")
            return loss, 2 * noise + broadcast_like(weight * log_odds.sigmoid(), noise) * gradient

        def attempt(weight: Tensor) -> None:
            if optimizer is None:  # from the last answer on: another weight moves it little
                noise.copy_(_lbfgs(lambda r: cost(r, weight), noise, search.start, clip, steps))
                cost(noise, weight)
            else:
                _minimise(
                    optimizer([r := torch.zeros_like(noise)], rate),
                    r,
                    lambda r: cost(r, weight)[1],
                    steps,
                    lambda r: clamp(search.start + r, clip) - search.start,
                )

        return search.run(attempt, search_steps)


def deepfool(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "l2",
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    clip: Box = (0.0, 1.0),
) -> Tensor:
    """Step to the nearest decision boundary, as if the model were linear, again and again until the label changes.

    For another class k with f = z_k − z_y and w = ∇ₓf the boundary is |f|/‖w‖ away (dual norm). After half of the
    steps, gradients that point out of the box count as zero: those pixels cannot move on.

    Args:
        model, x, y, clip: see `course_utils.attacks`. norm: "l2" or "linf": the distance to be small.
        steps: at most. overshoot: share by which the whole change is enlarged before the model is asked. The next step
            starts from there, but is added to the change itself: the answer ends beyond the boundary by this share of
            the last step, which in a box is often tiny, and not by this share of the whole.
        candidates: how many of the most likely other classes are tried in the first step; at most four in later ones,
            which begin near a boundary.

    Returns:
        Images like x; unchanged where the label was wrong already or did not change.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks.

    >>> deepfool(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0])).shape
    torch.Size([1, 2])

    Moosavi-Dezfooli, Fawzi and Frossard, "DeepFool: a simple and accurate method to fool deep neural networks", 2016.
    """
    y = _checked_input(x, y, clip, steps=steps, candidates=candidates)
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}.")
    overshoot = checked_number("overshoot", overshoot)
    best = x.detach().clone()
    if x.numel() == 0:
        return best
    start = _in_float32(best)
    point, change, index = best, torch.zeros_like(start), torch.arange(len(x), device=x.device)
    with frozen_eval(model), torch.enable_grad():
        warn_if_masked(*loss_and_input_grad(model, x, y, "margin")[1:])
        for step in range(steps + 1):
            tried = candidates if step == 0 else min(candidates, LATER_CANDIDATES)
            fooled, gaps, gradients = _boundaries(model, point, y, tried)
            best[index[fooled]] = point[fooled]
            on = ~fooled
            if step == steps or not on.any():
                break
            start, point, y, index, change = (t[on] for t in (start, point, y, index, change))
            gaps, gradients = gaps[:, on], gradients[:, on]
            if clip is not None and step >= steps // 2:
                outwards = (point <= clip[0]) & (gradients < 0) | (point >= clip[1]) & (gradients > 0)
                gradients = gradients.masked_fill(outwards, 0)
            change = clamp(start + change + _step_to_nearest_boundary(gaps, gradients, norm), clip) - start
            point = clamp((start + (1 + overshoot) * change).to(x.dtype), clip)
    return best


def carlini_wagner(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    targeted: bool = False,
    confidence: float = 0.0,
    search_steps: int = 9,
    steps: int = 200,
    lr: float = 0.1,
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Minimise ‖x' − x‖² + c·max(margin, −confidence) with Adam, and search the c that suits each image.

    The margin is the logit of the label to leave minus the best other one (targeted: the best other one minus the
    label to reach). The change of variables x' = (tanh w + 1)/2, scaled to `clip`, keeps the box.

    Args:
        model, x, y, targeted: see `course_utils.attacks`. clip: as there, but not None.
        confidence: margin by which the attack has to succeed.
        search_steps: values of c tried for each image: first the one at which a linear model would change its answer,
            then ten times more (less) until it succeeds (fails), then halved on the log scale.
        steps, lr: of Adam in w for the first c, with lr falling along a cosine. Every later c goes on from the answer
            to the one before, again with lr, for a fifth of the steps.

    Returns:
        Images like x, the nearest successes; unchanged where x itself succeeds or nothing was found.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks; `clip=None`, since the change of variables needs a box.

    >>> carlini_wagner(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), steps=5).shape
    torch.Size([1, 2])

    Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017.
    """
    if clip is None:
        raise ValueError("carlini_wagner changes variables to keep a box: give clip=(lowest, highest), not None.")
    y = _checked_input(x, y, clip, search_steps=search_steps, steps=steps)
    confidence, lr = checked_number("confidence", confidence), checked_number("lr", lr)
    if x.numel() == 0:
        return x.detach().clone()
    with frozen_eval(model), torch.enable_grad():
        first = loss_and_input_grad(model, x, y, "margin")
        warn_if_masked(*first[1:])
        search = _WeightSearch(model, x, y, first, targeted=targeted, confidence=confidence)
        half = (clip[1] - clip[0]) / 2
        # Not quite to the ends of the box, from where Adam would need all its steps to come back
        w = torch.atanh(((clamp(search.start, clip) - clip[0]) / half - 1) * 0.999)
        lengths = itertools.chain([steps], itertools.repeat(max(1, steps // 5)))

        def gradient_at(w: Tensor, c: Tensor) -> Tensor:
            unit = w.tanh()
            adv = clamp(clip[0] + half * (unit + 1), clip)
            _, gradient = search.evaluate(adv, "margin")
            weight = c * ~search.success  # beyond the confidence the margin counts as constant
            return (2 * (adv - search.start) + broadcast_like(weight, w) * gradient) * half * (1 - unit.square())

        def attempt(c: Tensor) -> None:  # from the last answer on: another c moves it little
            adam = torch.optim.Adam([w], lr, betas=(0.8, 0.999))  # with a momentum of 0.9 w swings about the boundary
            _minimise(adam, w, lambda w: gradient_at(w, c), next(lengths))

        return search.run(attempt, search_steps)


class _WeightSearch:
    """The search for the weight of the loss that each image needs, and its nearest success so far.

    Args:
        first: adversarial loss, logits and gradient at x itself, as `loss_and_input_grad` returns them for "margin".
    """

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, first: tuple[Tensor, ...], *, targeted: bool, confidence: float = 0.0
    ):
        self.model, self.y, self.targeted, self.confidence = model, y, targeted, confidence
        self.start, self.nearest = _in_float32(x.detach()), BestSoFar(x)
        value, logits, gradient = first
        self._offer(x.detach(), logits, gradient)
        # At this weight the minimum of ‖r‖² + weight·margin changes its class if the model is linear: 2·margin/‖∇‖²
        norm = _in_float32(gradient).flatten(1).square().sum(1)
        gap = (value.abs() + confidence).to(norm)
        self.weight = 2 * gap / norm.clamp_min(torch.finfo(norm.dtype).tiny)

    def evaluate(self, adv: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """Keep adv where it succeeds; return the loss to be minimised, (N,), and its gradient like adv."""
        adv = adv.to(self.nearest.best.dtype)
        value, logits, gradient = loss_and_input_grad(self.model, adv, self.y, loss)
        self._offer(adv, logits, gradient)
        sign = 1 if self.targeted else -1
        return sign * value.to(self.start), sign * gradient.to(self.start)

    def _offer(self, adv: Tensor, logits: Tensor, gradient: Tensor) -> None:
        margin = adversarial_loss(logits, self.y, "margin") * (-1 if self.targeted else 1)
        self.success = margin > self.confidence + _rounding(logits, gradient, adv)
        distance = (adv.to(self.start) - self.start).flatten(1).norm(dim=1)
        self.nearest.offer(adv, distance.masked_fill(~self.success, math.inf))

    def run(self, attempt: Callable[[Tensor], None], count: int) -> Tensor:
        """Call attempt(weight) so often, with the weights (N,) that bracket the smallest that still succeeds.

        Only the last point of an attempt counts for its weight: on the way there, long steps succeed by chance.
        """
        weight = self.weight
        low, high = torch.zeros_like(weight), torch.full_like(weight, math.inf)
        for _ in range(count):
            weight = weight.clamp(*WEIGHT_RANGE)
            attempt(weight)
            low, high = torch.where(self.success, low, weight), torch.where(self.success, weight, high)
            weight = torch.where(high.isinf(), 10 * low, torch.where(low == 0, high / 10, (low * high).sqrt()))
        return self.nearest.best


def _minimise(
    optimizer: torch.optim.Optimizer,
    variable: Tensor,
    gradient_at: Callable[[Tensor], Tensor],
    steps: int,
    constrain: Callable[[Tensor], Tensor] = lambda variable: variable,
) -> None:
    """Follow a gradient with one of torch's optimisers, and evaluate the last point, too."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        variable.grad = gradient_at(variable)
        optimizer.step()
        schedule.step()
        variable.copy_(constrain(variable))
    gradient_at(variable)


def _lbfgs(cost: Callable[[Tensor], tuple[Tensor, Tensor]], noise: Tensor, x: Tensor, clip: Box, steps: int) -> Tensor:
    """Minimise all images' costs at once: they share nothing but the length of the steps."""

    def flat(r: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = cost(torch.from_numpy(r).to(noise).view_as(noise))
        return loss.double().sum().item(), gradient.double().cpu().flatten().numpy()

    pixels = x.double().cpu().flatten().numpy()
    bounds = None if clip is None else Bounds(clip[0] - pixels, clip[1] - pixels)
    start = noise.double().cpu().flatten().numpy()
    options = {"maxiter": steps, "ftol": 0}  # a huge cost of one image would hide what the others still gain
    with threadpool_limits(1, "blas"):  # beside another program two threads spend their time waiting for each other
        found = minimize(flat, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return torch.from_numpy(found.x).to(noise).view_as(noise)


def _boundaries(model: Model, point: Tensor, y: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return which images are fooled (N,), and of the likeliest other classes k, the first dimension of both, the gaps
    z_y − z_k (C, N) and the gradients of z_k − z_y (C, N, ...).
    """
    point = point.detach().clone().requires_grad_(True)
    logits, margins = _margins(model, point, y)
    others = margins.detach().scatter(1, y[:, None], -math.inf).topk(min(candidates, logits.shape[1] - 1), dim=1)
    margins = margins.gather(1, others.indices).T
    try:
        gradients = torch.stack([torch.autograd.grad(m.sum(), point, retain_graph=True)[0] for m in margins])
    except RuntimeError:  # torch.compile's graphs last for one gradient: make one for each
        again = (_margins(model, point, y)[1].gather(1, k[:, None]).sum() for k in others.indices.T)
        gradients = torch.stack([torch.autograd.grad(m, point)[0] for m in again])
    if not (is_finite(logits) and is_finite(gradients)):
        raise ValueError("the model's logits and their gradients must be finite: there is no direction to follow.")
    margins, rounding = margins.detach(), _rounding(logits.detach(), gradients[0], point.detach())
    return margins[0] > rounding, 2 * rounding - margins, gradients  # twice: a step of just the rounding may not reach


def _margins(model: Model, point: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (N, K), and z_k − z_y of every class."""
    logits = checked_logits(model, point, y)
    return logits, logits - logits.gather(1, y[:, None])


def _step_to_nearest_boundary(gaps: Tensor, gradients: Tensor, norm: str) -> Tensor:
    """Return the step of each image to the nearest of the boundaries, were they planes."""
    gaps, gradients = _in_float32(gaps), _in_float32(gradients)
    directions = steepest_direction(gradients.flatten(0, 1), norm).view_as(gradients)
    dual_norm = (directions * gradients).flatten(2).sum(2)
    distance, nearest = torch.where(dual_norm > 0, gaps / dual_norm, math.inf).min(0)
    direction = directions[nearest, torch.arange(len(nearest), device=gradients.device)]
    return broadcast_like(distance.nan_to_num(posinf=0.0), direction) * direction


def _rounding(logits: Tensor, gradient: Tensor, point: Tensor) -> Tensor:
    """Return what a batch of another size may change in a margin, (N,): by rounding logits and pixels."""
    share = (_in_float32(gradient) * _in_float32(point)).flatten(1).norm(dim=1)
    largest = _in_float32(logits).abs().amax(1)
    return 16 * (torch.finfo(logits.dtype).eps * largest + torch.finfo(point.dtype).eps * share)


def _in_float32(x: Tensor) -> Tensor:
    """Return x in float32 at least: small steps would be lost in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _checked_input(x: Tensor, y: Tensor, clip: Box, **counts: int) -> Tensor:
    check_box(clip)
    check_images(x, clip)
    y = checked_labels(y, x)
    check_loss("ce")
    for name, value in counts.items():
        check_count(name, value)
    return y
