"""Attacks without a radius: the smallest change that makes the model say something else.

An image that already is where it should be, and one for which nothing was found, come back unchanged: ask
`evaluation.correct` about the answer itself before you average distances. "Fooled" means by more than the rounding
of the logits, so that the answer holds in a batch of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import Bounds, minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from .geometry import clamp, direction_of, per_image
from .gradients import checked_logits, climb, frozen, objective, warn_if_masked
from .inputs import NORMS, Box, Model, check_box, check_count, check_images, check_loss, checked_labels, checked_number

LEARNING_RATES = {"lbfgs": None, "sgd": 0.3, "adam": 0.05}  # L-BFGS finds its own step


def optimised_noise(
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

    The larger c, the smaller the noise r; so c is searched for each image: times ten while it succeeds, divided by ten
    while it fails, then halved on the logarithmic scale. The nearest success of the whole search is returned.

    Args:
        model: maps images (N, ...) to logits (N, K). x: images in `clip`, (N, ...). target: labels to reach (N,).
        solver: "lbfgs" (SciPy's L-BFGS-B; the images of a batch share its line search), or "sgd" and "adam" on r,
            with a clamp to the box after each step.
        search_steps: values of c that are tried. steps: iterations of the solver for each of them.
        lr: highest learning rate of "sgd" (default 0.3) and "adam" (0.05), lowered along a cosine.
        clip: range of valid pixels, None for none.

    Returns:
        Images like x; unchanged where the model says `target` already or the target was not reached.

    Raises:
        ValueError, TypeError, RuntimeError: as `fgsm`; an unknown solver; `lr` for "lbfgs".

    >>> line = torch.nn.Linear(2, 2)
    >>> optimised_noise(line, torch.tensor([[0.5, 0.5]]), torch.tensor([1]), steps=5).shape
    torch.Size([1, 2])

    Szegedy et al., "Intriguing properties of neural networks", 2014, section 4.1.
    """
    target = _checked_input(x, target, clip, search_steps=search_steps, steps=steps)
    if solver not in LEARNING_RATES:
        raise ValueError(f"solver must be one of {tuple(LEARNING_RATES)}, got {solver!r}.")
    if solver == "lbfgs" and lr is not None:
        raise ValueError('lr belongs to "sgd" and "adam": "lbfgs" finds the length of its steps itself.')
    rate = LEARNING_RATES[solver] if lr is None else checked_number("lr", lr)
    if x.numel() == 0:
        return x.detach().clone()
    nearest = _Nearest(x, target, targeted=True)
    noise = torch.zeros_like(nearest.start)

    def cost(noise: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return c·‖r‖² + cross-entropy of each image and its gradient, where c is 1/weight."""
        value, gradient = nearest.climb(model, clamp(nearest.start + noise, clip), "ce")
        loss = noise.flatten(1).square().sum(1) / weight + torch.nn.functional.softplus(value)
        slope = 2 * noise / per_image(weight, noise) + gradient * per_image(value.sigmoid(), noise)
        return loss, slope

    def attempt(weight: Tensor) -> None:
        if solver == "lbfgs":  # from the last answer on: another c moves it little
            noise.copy_(_lbfgs(cost, weight, noise, nearest.start, clip, steps))
            nearest.hit.zero_()  # its search tries long steps on the way: only where it ends tells of c
            cost(noise, weight)
        else:
            kind = torch.optim.SGD if solver == "sgd" else torch.optim.Adam
            _descend(
                kind,
                torch.zeros_like(noise),
                lambda r: cost(r, weight)[1],
                rate,
                steps,
                lambda r: clamp(nearest.start + r, clip) - nearest.start,
            )

    with frozen(model), torch.enable_grad():
        nearest.search(attempt, 1.0, search_steps, model)
    return nearest.best


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

    For another class k with gap f = z_k − z_y and slope w = ∇ₓf the boundary is |f|/‖w‖ away (dual norm). After half
    of the steps, pixels at an end of the box no longer count as slope: they cannot move on.

    Args:
        model: maps images (N, ...) to logits (N, K). x: images in `clip`, (N, ...). y: true labels (N,).
        norm: "l2" or "linf": the distance to be small.
        steps: at most. overshoot: share by which the whole change is enlarged, to end beyond the boundary.
        candidates: how many of the most likely other classes are tried. clip: range of valid pixels, None for none.

    Returns:
        Images like x; unchanged where the label was wrong already or did not change.

    Raises:
        ValueError, TypeError, RuntimeError: as `fgsm`.

    >>> line = torch.nn.Linear(2, 2)
    >>> deepfool(line, torch.tensor([[0.5, 0.5]]), torch.tensor([0])).shape
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
    with frozen(model), torch.enable_grad():
        for step in range(steps + 1):
            logits, gaps, slopes = _boundaries(model, point, y, candidates, need_slopes=step < steps)
            if step == 0 and slopes is not None:
                warn_if_masked(logits, slopes[0])
            fooled = _wins(logits, y)
            best[index[fooled]] = point[fooled]
            on = ~fooled
            if step == steps or not on.any():
                break
            start, point, y, index, change = (t[on] for t in (start, point, y, index, change))
            gaps, slopes = gaps[:, on], slopes[:, on]
            if clip is not None and step >= steps // 2:
                slopes = slopes.masked_fill((point <= clip[0]) & (slopes < 0) | (point >= clip[1]) & (slopes > 0), 0)
            change = clamp(start + change + _to_the_nearest(gaps, slopes, norm), clip) - start
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
    initial_c: float = 1e-2,
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Minimise ‖x' − x‖² + c·max(margin, −confidence) with Adam, and search the c that suits each image.

    The margin is the logit of the label to leave minus the best other one (targeted: the best other one minus the
    label to reach). The change of variables x' = (tanh w + 1)/2, scaled to `clip`, keeps the box.

    Args:
        model: maps images (N, ...) to logits (N, K). x: images in `clip`, (N, ...).
        y: labels (N,) to leave, or to reach when `targeted`.
        confidence: by how much the wanted logit has to win.
        search_steps: values of c tried for each image: times ten until it succeeds, then halved on the log scale.
        steps, lr: of Adam in w for each c; lr falls along a cosine. initial_c: the first c.

    Returns:
        Images like x, the nearest that were found; unchanged where x was where it should be or nothing was found.

    Raises:
        ValueError, TypeError, RuntimeError: as `fgsm`; `clip=None`, since the change of variables needs a box.

    >>> line = torch.nn.Linear(2, 2)
    >>> carlini_wagner(line, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), steps=5).shape
    torch.Size([1, 2])

    Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017.
    """
    if clip is None:
        raise ValueError("carlini_wagner changes variables to keep a box: give clip=(lowest, highest), not None.")
    y = _checked_input(x, y, clip, search_steps=search_steps, steps=steps)
    confidence, lr = checked_number("confidence", confidence), checked_number("lr", lr)
    if not (initial_c := checked_number("initial_c", initial_c)) > 0:
        raise ValueError("initial_c must be larger than 0: without it the search has no scale to grow from.")
    if x.numel() == 0:
        return x.detach().clone()
    nearest = _Nearest(x, y, targeted=targeted, confidence=confidence)
    half = (clip[1] - clip[0]) / 2
    # Not quite to the ends of the box, where tanh is infinitely far away
    w0 = torch.atanh(((nearest.start - clip[0]) / half - 1) * 0.999999)

    def slope(w: Tensor, c: Tensor) -> Tensor:
        adv = clip[0] + half * (w.tanh() + 1)
        value, gradient = nearest.climb(model, adv.clamp(*clip), "margin")
        pull = c * (value > -confidence)  # beyond the confidence there is nothing left to gain
        return (2 * (adv - nearest.start) + per_image(pull, w) * gradient) * half * (1 - w.tanh().square())

    def attempt(c: Tensor) -> None:
        _descend(torch.optim.Adam, w0.clone(), lambda w: slope(w, c), lr, steps)

    with frozen(model), torch.enable_grad():
        nearest.search(attempt, initial_c, search_steps, model)
    return nearest.best


class _Nearest:
    """The nearest success seen so far of every image, and the weight of the loss that each image needs."""

    def __init__(self, x: Tensor, y: Tensor, *, targeted: bool, confidence: float = 0.0):
        self.best, self.start = x.detach().clone(), _in_float32(x.detach())
        self.y, self.targeted, self.confidence = y, targeted, confidence
        self.distance = torch.full((len(x),), math.inf, device=x.device, dtype=self.start.dtype)
        self.hit = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def climb(self, model: Model, adv: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """Keep adv where it succeeds; return what is to be made small, (N,), and its gradient like adv."""
        adv = adv.to(self.best.dtype)
        value, logits, gradient = climb(model, adv, self.y, loss)
        if self.distance.isinf().all() and not self.hit.any():
            warn_if_masked(logits, gradient)
        self.offer(adv, logits)
        sign = 1 if self.targeted else -1
        return sign * value.to(self.start), sign * gradient.to(self.start)

    def offer(self, adv: Tensor, logits: Tensor) -> None:
        won = _wins(logits, self.y, self.targeted, self.confidence)
        distance = (adv.to(self.start) - self.start).flatten(1).norm(dim=1)
        nearer = won & (distance < self.distance)
        self.best = torch.where(per_image(nearer, adv), adv.detach(), self.best)
        self.distance = torch.where(nearer, distance, self.distance)
        self.hit |= won

    def search(self, attempt: Callable[[Tensor], None], first: float, count: int, model: Model) -> None:
        """Call attempt(weight) so often, with the weights (N,) that bracket the smallest that still succeeds."""
        self.offer(self.best, checked_logits(model, self.best, self.y).detach())
        weight = torch.full_like(self.distance, first)
        low, high = torch.zeros_like(weight), torch.full_like(weight, math.inf)
        for _ in range(count):
            self.hit = torch.zeros_like(self.hit)
            attempt(weight)
            low, high = torch.where(self.hit, low, weight), torch.where(self.hit, weight, high)
            weight = torch.where(high.isinf(), 10 * low, torch.where(low == 0, high / 10, (low * high).sqrt()))


def _descend(
    kind: type[torch.optim.Optimizer],
    variable: Tensor,
    slope: Callable[[Tensor], Tensor],
    lr: float,
    steps: int,
    after: Callable[[Tensor], Tensor] = lambda variable: variable,
) -> None:
    """Follow a slope with one of torch's optimisers, and look at the last point, too."""
    optimizer = kind([variable], lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        variable.grad = slope(variable)
        optimizer.step()
        schedule.step()
        variable.copy_(after(variable))
    slope(variable)


def _lbfgs(
    cost: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    weight: Tensor,
    noise: Tensor,
    x: Tensor,
    clip: Box,
    steps: int,
) -> Tensor:
    """Minimise all images' costs at once: they share nothing but the length of the steps.

    Each cost is multiplied by its weight, so that all squared distances count alike in the sum.
    """

    def flat(r: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = cost(torch.from_numpy(r).to(noise).view_as(noise), weight)
        slope = slope.double() * per_image(weight, slope)
        return (loss.double() * weight).sum().item(), slope.cpu().flatten().numpy()

    pixels = x.double().cpu().flatten().numpy()
    bounds = None if clip is None else Bounds(clip[0] - pixels, clip[1] - pixels)
    start = noise.double().cpu().flatten().numpy()
    with threadpool_limits(1, "blas"):  # beside another program two threads spend their time waiting for each other
        found = minimize(flat, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return torch.from_numpy(found.x).to(noise).view_as(noise)


def _boundaries(
    model: Model, point: Tensor, y: Tensor, candidates: int, *, need_slopes: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the logits (N, K), the gaps z_k − z_y of the most likely others (C, N) and their slopes (C, N, ...)."""
    point = point.detach().clone().requires_grad_(True)
    logits = checked_logits(model, point, y)
    if not logits.isfinite().all():
        raise ValueError("the model's logits must be finite.")
    gaps = logits - logits.gather(1, y[:, None])
    others = gaps.detach().scatter(1, y[:, None], -math.inf).topk(min(candidates, logits.shape[1] - 1), dim=1).indices
    gaps = gaps.gather(1, others).T
    if not need_slopes:
        return logits.detach(), gaps.detach(), None
    if not gaps.requires_grad:
        raise ValueError("the model's logits do not depend on x by differentiable steps (.detach(), NumPy, argmax?).")
    slopes = torch.stack([torch.autograd.grad(gap.sum(), point, retain_graph=True)[0] for gap in gaps])
    if not slopes.isfinite().all():
        raise ValueError("the gradient of a logit is not finite: there is no direction to follow.")
    return logits.detach(), gaps.detach(), slopes


def _to_the_nearest(gaps: Tensor, slopes: Tensor, norm: str) -> Tensor:
    """Return the step of each image to the nearest of the boundaries, were they planes."""
    flat, gaps = _in_float32(slopes).flatten(2), _in_float32(gaps)
    steepness = flat.norm(dim=2) if norm == "l2" else flat.abs().sum(2)  # the dual norm
    distance = torch.where(steepness > 0, gaps.abs() / steepness, math.inf)
    distance, nearest = distance.min(0)
    slope = slopes[nearest, torch.arange(slopes.shape[1], device=slopes.device)]
    step = distance.nan_to_num(posinf=0.0) + 1e-6  # on the boundary itself, over it
    return per_image(step, slope) * direction_of(_in_float32(slope), norm)


def _wins(logits: Tensor, y: Tensor, targeted: bool = False, confidence: float = 0.0) -> Tensor:
    """Return where another label beats y (targeted: y all others) by the confidence, and by more than rounding."""
    lead = objective(logits, y, "margin") * (-1 if targeted else 1)
    rounding = 16 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)
    return (lead > rounding) & (lead >= confidence)


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
