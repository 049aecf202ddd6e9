"""Exercises of chapter 04: the nearest border of a linear model, accuracy from distances, a step in the Euclidean ball."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from .. import attacks, evaluation
from ..models import linear
from . import inputs, mistakes
from .engine import expect
from .exercise import Case, Exercise
from .mistakes import Mistake, l2_norm, l2_normalized, max_normalized
from .properties import as_tensor, as_tensor_like, broadcast_like, call_with_copies, norms, shown

# --- nearest_border ---------------------------------------------------------------------------------------------------


def _nearest_border(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    logits = x @ weight.T + bias
    leads = logits.gather(1, y[:, None]) - logits
    lengths = (weight[y][:, None] - weight).norm(dim=2)
    return (leads / lengths).scatter(1, y[:, None], torch.inf).amin(1).clamp_min(0)


def _linear_model(
    classes: int = 4, d: int = 12, n: int = 12, seed: int = 0, wrong: bool = False, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weight (classes, d), bias, images x (n, d) and labels y.

    The model is right about all images, or wrong about every other one. The classes' weights differ in size, so that
    the nearest border is often not that of the class with the next logit. `scale` multiplies the model.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, d, generator=generator) * torch.linspace(0.3, 1.7, classes)[:, None]
    bias = 0.4 * torch.randn(classes, generator=generator) - 0.5 * weight.sum(1)
    x = torch.rand(9 * n, d, generator=generator)
    logits = x @ weight.T + bias
    x, y = x, logits.argmax(1)
    clear = logits.topk(2, dim=1).values.diff(dim=1).abs()[:, 0] > 0.05
    x, y = x[clear][:n], y[clear][:n]
    if wrong:
        y = (y + torch.arange(n) % 2 * (1 + torch.arange(n) // 2 % (classes - 1))) % classes
    return scale * weight, scale * bias, x, y


def _one_for_each(answer: Callable, weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return the distances (n,) that the answer gives."""
    value = as_tensor(
        call_with_copies(answer, weight, bias, x, y), "Return a torch tensor with one number for each image, (n,)."
    )
    what = (
        f"for {len(x)} image{'s' * (len(x) > 1)} your result has the shape {tuple(value.shape)}, right is ({len(x)},)."
    )
    expect(value.shape == x.shape[:1], what, "One number is left of each image: the smallest over the other classes.")
    own = "For the class y itself, lead and length are both 0, and 0/0 is NaN: leave this class out."
    expect(not value.isnan().any(), "the result contains NaN.", own)
    far = "Where the model is wrong already, the distance is 0. An infinite value stands in for the class y only, until you take the smallest."
    expect(not value.isinf().any(), "the result contains infinite values.", far)
    return as_tensor_like(value, x[:, 0])


def _of_classes(distance: Callable[[Tensor, Tensor, Tensor], Tensor], otherwise: float = torch.inf, floor: float = 0.0) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer with other distances (n, classes), from the leads z_y − z_k (n, classes), weight and y.

    The label's own class gets `otherwise`; what is below `floor` is lifted to it.
    """

    def answer(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
        logits = x @ weight.T + bias
        far = distance(logits.gather(1, y[:, None]) - logits, weight, y)
        return far.scatter(1, y[:, None], otherwise).amin(1).clamp_min(floor)

    return answer


def _reduced(reduce: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an answer that goes from classes to one number otherwise.

    `reduce` gets the distances (n, classes), the leads, the lengths of the differences of weights, and y.
    """

    def answer(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
        logits = x @ weight.T + bias
        leads, lengths = logits.gather(1, y[:, None]) - logits, _differences(weight, y).norm(dim=2)
        return reduce(leads / lengths, leads, lengths, y)

    return answer


def _differences(weight: Tensor, y: Tensor) -> Tensor:
    return weight[y][:, None] - weight


def _others(values: Tensor, y: Tensor, own: float) -> Tensor:
    return values.scatter(1, y[:, None], own)


def _mean_of_others(far: Tensor, leads: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
    return _others(far, y, 0).sum(1).div(far.shape[1] - 1).clamp_min(0)


def _two_next_logits(far: Tensor, leads: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
    rivals = _others(leads, y, torch.inf).topk(min(2, leads.shape[1] - 1), dim=1, largest=False).indices
    return far.gather(1, rivals).amin(1).clamp_min(0)


def _next_logit(far: Tensor, leads: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
    rival = _others(leads, y, torch.inf).argmin(1, keepdim=True)
    return far.gather(1, rival)[:, 0].clamp_min(0)


LEAD = "The border to class k is where its logit equals that of y. The lead f_y − f_k is linear in x: its slope is the difference of the two rows of weights, and the distance is the lead over the Euclidean length of that."
Exercise(
    "nearest_border",
    reference=_nearest_border,
    cases=[
        Case("gives the distance to the nearest border, for each image", [partial(_linear_model), partial(_linear_model, seed=3)], LEAD + " Take the smallest over all classes but y."),
        Case("is 0 for an image that the model gets wrong", [partial(_linear_model, seed=1, wrong=True), partial(_linear_model, 6, seed=2, wrong=True)], "An image whose lead over some class is negative lies on the wrong side already: nothing needs to change."),
        Case("is the same when all weights and biases are multiplied by a number", [partial(_linear_model, seed=4, scale=scale) for scale in (1e-6, 1e4)], "Lead and length grow alike. Do not add a guard to the length: only the class y itself has the length 0."),
        Case("works for other numbers of classes, pixels and images", [partial(_linear_model, 2, 9, 8, seed=5), partial(_linear_model, 10, 30, 7, seed=6, wrong=True), partial(_linear_model, 5, 7, 1, seed=7)], mistakes.ONLY_ARGUMENTS.format("sizes, classes and labels")),
    ],
    mistakes=[
        Mistake("That is the lead itself. Divide it by the length of the slope, or it is no distance.", _of_classes(lambda leads, weight, y: leads), lambda weight, bias, x, y: (x @ weight.T + bias).topk(2, dim=1).values.diff(dim=1).abs()[:, 0]),
        Mistake("You divide by the weights of the rival alone. The same change also lowers the logit of y: subtract the two rows first.", _of_classes(lambda leads, weight, y: leads / weight.norm(dim=1))),
        Mistake("You divide by the weights of y alone. The same change also lifts the rival's logit: subtract the two rows first.", _of_classes(lambda leads, weight, y: leads / weight[y].norm(dim=1, keepdim=True))),
        Mistake("You add or subtract the lengths of the two rows. Subtract the rows first, then take the length of the difference.", _of_classes(lambda leads, weight, y: leads / (weight[y].norm(dim=1, keepdim=True) + weight.norm(dim=1))), _of_classes(lambda leads, weight, y: leads / (weight[y].norm(dim=1, keepdim=True) - weight.norm(dim=1)).abs())),
        Mistake("You add the two rows of weights. The slope of f_y − f_k is their difference.", _of_classes(lambda leads, weight, y: leads / (weight[y][:, None] + weight).norm(dim=2))),
        Mistake("That is the distance in the max norm: it divides by the sum of the absolute values. In the Euclidean norm the Euclidean length counts.", _of_classes(lambda leads, weight, y: leads / _differences(weight, y).abs().sum(2))),
        Mistake("You divide by the largest difference of weights, not by their length.", _of_classes(lambda leads, weight, y: leads / _differences(weight, y).abs().amax(2))),
        Mistake("You divide by the squared length. That gives the factor of the step, not how long it is: take the root.", _of_classes(lambda leads, weight, y: leads / _differences(weight, y).square().sum(2))),
        Mistake("You multiply by the length. The steeper the slope, the nearer the border: divide.", _of_classes(lambda leads, weight, y: leads * _differences(weight, y).norm(dim=2))),
        Mistake("You divide by the root of the mean of the squares. The length is the root of their sum.", _of_classes(lambda leads, weight, y: leads / _differences(weight, y).square().mean(2).sqrt())),
        Mistake("That is the root mean square of the change. Asked for is its Euclidean length.", _of_classes(lambda leads, weight, y: leads / _differences(weight, y).norm(dim=2) / weight.shape[1] ** 0.5)),
        Mistake("You look at the class with the next logit alone. Another one, farther behind, may have the nearer border if its weights differ more: divide first, then take the smallest.", _reduced(_next_logit)),
        Mistake("You take the smallest lead and another class's length. Divide each lead by its own length, then take the smallest.", _reduced(lambda far, leads, lengths, y: (_others(leads, y, torch.inf).amin(1) / lengths.amax(1)).clamp_min(0)), _reduced(lambda far, leads, lengths, y: (_others(leads, y, torch.inf).amin(1) / _others(lengths, y, torch.inf).amin(1)).clamp_min(0))),
        Mistake("That is the farthest border. Take the smallest distance.", _reduced(lambda far, leads, lengths, y: _others(far, y, 0).amax(1))),
        Mistake("That is the average over the classes. The nearest border alone counts.", _reduced(_mean_of_others)),
        Mistake("The class y is among its own rivals: its lead over itself is 0. Leave it out.", _reduced(lambda far, leads, lengths, y: far.nan_to_num(0.0).amin(1).clamp_min(0)), _reduced(lambda far, leads, lengths, y: far.nan_to_num(0.0).amin(1))),
        Mistake("An image that is wrong already gets a negative distance in yours. It needs no change: 0.", _of_classes(lambda leads, weight, y: leads / _differences(weight, y).norm(dim=2), floor=-torch.inf)),
        Mistake("An image that is wrong already needs no change: its distance is 0, not the way back.", _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).amin(1).abs()), _reduced(lambda far, leads, lengths, y: _others(far.abs(), y, torch.inf).amin(1))),
        Mistake("You measure from the model's answer, not from y. Where the two differ, the image is wrong already.", lambda weight, bias, x, y: _nearest_border(weight, bias, x, (x @ weight.T + bias).argmax(1))),
        Mistake("You leave out the classes that lead over y already. Where there is one, the distance is 0.", _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).masked_fill(leads < 0, torch.inf).amin(1).nan_to_num(posinf=0.0))),
        Mistake("The sign is turned: the lead of y is f_y minus f_k.", _of_classes(lambda leads, weight, y: -leads / _differences(weight, y).norm(dim=2))),
        Mistake("Did you forget the bias? The logits are weight·x + bias.", lambda weight, bias, x, y: _nearest_border(weight, 0 * bias, x, y)),
        Mistake("Probabilities are no linear function of x. Take the logits, without softmax.", lambda weight, bias, x, y: (((p := (x @ weight.T + bias).softmax(1)).gather(1, y[:, None]) - p) / _differences(weight, y).norm(dim=2)).scatter(1, y[:, None], torch.inf).amin(1).clamp_min(0)),
        Mistake("That is the class of the nearest border. Return its distance.", _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).argmin(1)), _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).argmin(1).float())),
        Mistake("That is one number for all images. Each image has a distance of its own.", _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).amin().clamp_min(0)), _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).amin().clamp_min(0).expand(len(y)).clone()), _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).amin(1).clamp_min(0).mean())),
        Mistake("That is one distance for each class. Keep the smallest of each image.", _reduced(lambda far, leads, lengths, y: far), _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).amin(0).clamp_min(0))),
        Mistake("keepdim=True leaves a dimension of size 1 behind. The result has one dimension, that of the images.", _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf).amin(1, keepdim=True).clamp_min(0))),
        Mistake("You look at the next two logits only. A class far behind may still have the nearest border.", _reduced(_two_next_logits)),
        Mistake("You divide by one length for all images and classes. Each pair of classes has its own: norm(dim=2).", _of_classes(lambda leads, weight, y: leads / _differences(weight, y).norm())),
        Mistake("You look at one rival only, the class after y. All other classes have a border.", _reduced(lambda far, leads, lengths, y: far.gather(1, ((y + 1) % far.shape[1])[:, None])[:, 0].clamp_min(0))),
        Mistake("You leave out the first or the last class. Every class but y has a border.", _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf)[:, 1:].amin(1).clamp_min(0).nan_to_num(posinf=9.0)), _reduced(lambda far, leads, lengths, y: _others(far, y, torch.inf)[:, :-1].amin(1).clamp_min(0).nan_to_num(posinf=9.0))),
        Mistake("You guard the length with a number that is not tiny for a small model. Only the class y itself has the length 0: leave it out in another way.", *(_of_classes(lambda leads, weight, y, tiny=tiny: leads / (_differences(weight, y).norm(dim=2) + tiny)) for tiny in (1e-3, 1e-6, 1e-8)), _of_classes(lambda leads, weight, y: leads / _differences(weight, y).norm(dim=2).clamp_min(1e-3))),
    ],
    batched=("x", "y"),
    untouched=("weight", "bias", "x", "y"),
    returns="one distance for each image",
    observe=_one_for_each,
    library=(linear.border_distance,),
    tolerance=1e-4,
).register()  # fmt: skip


# --- accuracy_within --------------------------------------------------------------------------------------------------


def _accuracy_within(distance: Tensor, budgets: Tensor) -> Tensor:
    return (distance[:, None] > budgets).float().mean(0)


def _distances(
    n: int, budgets: Sequence[float], seed: int = 0, wrong: int = 0, never: int = 0, beyond: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return n distances up to 2, of which some are 0 and some infinite, and budgets.

    Where a number is given for `beyond`, some distances exceed those of a budget by as much.
    """
    generator = torch.Generator().manual_seed(seed)
    distance = 0.1 + 1.9 * torch.rand(n, generator=generator)
    distance[:wrong] = 0.0
    distance[n - never :] = torch.inf
    given = torch.tensor(budgets)
    if beyond is not None:
        distance[wrong : wrong + len(given)] = given + beyond
    return distance[torch.randperm(n, generator=generator)], given


TABLE = "distance[:, None] has a row for each image: compared with budgets, it gives a table of images × budgets."


def _one_for_each_budget(answer: Callable, distance: Tensor, budgets: Tensor) -> Tensor:
    """Return the shares (R,) that the answer gives."""
    try:
        value = call_with_copies(answer, distance, budgets)
    except RuntimeError as error:
        what = f"{len(distance)} distances and {len(budgets)} budgets do not fit together side by side."
        expect("must match the size" not in str(error), what, f"Every image meets every budget. {TABLE}")
        raise
    value = as_tensor(value, "Return a torch tensor with one share for each budget, (R,).")
    what = f"for {len(distance)} images and {len(budgets)} budgets your result has the shape {tuple(value.shape)}, right is ({len(budgets)},)."
    hint = f"{TABLE} One number is left of each budget."
    if value.shape == (len(budgets), 1):
        hint = "keepdim=True leaves a dimension of size 1 behind. The result has one dimension, that of the budgets."
    elif value.ndim == 1 and len(value) < len(budgets):
        hint = "A budget is missing: return a share for every one of them, the first and the last, too."
    expect(value.shape == budgets.shape, what, hint)
    return as_tensor_like(value, budgets, "budgets")


def _counted(stays: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an answer that takes the mean of something else (N, R), from distance (N, 1) and budgets."""
    return lambda distance, budgets: stays(distance[:, None], budgets).float().mean(0)


def _some(keep: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an answer that counts among a part of the images only."""
    return lambda distance, budgets: _accuracy_within(distance[keep(distance)], budgets)


ALL = "An accuracy is a share of all images: "
Exercise(
    "accuracy_within",
    reference=_accuracy_within,
    cases=[
        Case("gives the share of images that are farther away than each budget", [partial(_distances, 20, (0.4, 0.8, 1.5)), partial(_distances, 20, (0.3, 0.9, 1.1, 1.7), seed=1)], "An image stays right within a budget if its nearest change is longer than that. Compare, and take the mean over the images."),
        Case("counts an image at the distance 0 as wrong, for the budget 0, too", [partial(_distances, 16, (0.0, 0.5, 1.0), seed=2, wrong=4)], "At the distance 0 the model is wrong without any change. " + ALL + "these count, as wrong ones."),
        Case("counts an image that nothing fooled as right, for every budget", [partial(_distances, 16, (0.5, 1.0, 3.0), seed=3, wrong=2, never=3)], "An infinite distance is larger than every budget. " + ALL + "these count, as right ones."),
        Case("counts a change that is exactly as long as the budget as allowed", [partial(_distances, 12, (0.25, 0.5, 1.25), seed=4, wrong=1, beyond=0.0)], "The budget is the largest allowed length, so an image at this distance is fooled."),
        Case("counts an image that is a little farther away than the budget as right", [partial(_distances, 12, (0.25, 0.5, 1.25), seed=4, wrong=1, beyond=1e-4)], "Compare the distances as they are: what is longer than the budget is not allowed, however little."),
        Case("works for budgets in any order, and for other numbers of images and budgets", [partial(_distances, 10, (1.2, 0.3, 0.7), seed=5), partial(_distances, 1, (0.01, 1.9, 5.0, 9.0), seed=6), partial(_distances, 25, (0.6,), seed=7, wrong=3), partial(_distances, 4, (0.5, 0.6, 1.3, 1.8), seed=8)], mistakes.ONLY_ARGUMENTS.format("both sizes")),
    ],
    mistakes=[
        Mistake("That is the share that is fooled. Asked for is the accuracy: the share that stays right.", _counted(lambda d, b: d <= b), _counted(lambda d, b: d < b)),
        Mistake("A change exactly as long as the budget is allowed: such an image is fooled.", _counted(lambda d, b: d >= b)),
        Mistake("You allow a little more than the budget. Compare the distances as they are.", *(_counted(lambda d, b, more=more: d > b + more) for more in (0.01, 1e-3)), _counted(lambda d, b: d > 1.001 * b)),
        Mistake("You count images. Divide by their number.", lambda distance, budgets: (distance[:, None] > budgets).sum(0), lambda distance, budgets: (distance[:, None] > budgets).float().sum(0)),
        Mistake("That is a percentage. Return the share itself, between 0 and 1.", lambda distance, budgets: 100 * _accuracy_within(distance, budgets)),
        Mistake("You count among the images that the model gets right only. " + ALL + "those at the distance 0 count as wrong.", _some(lambda d: d > 0)),
        Mistake("You leave out the images that nothing fooled. " + ALL + "they stay right.", _some(torch.isfinite)),
        Mistake("You leave out both the images that are wrong already and those that nothing fooled. An accuracy counts them, too.", _some(lambda d: torch.isfinite(d) & (d > 0))),
        Mistake("You count an image that nothing fooled as fooled. An infinite distance is larger than every budget.", _counted(lambda d, b: (d > b) & d.isfinite())),
        Mistake("You count an image at the distance 0 as right. The model is wrong about it without any change.", _counted(lambda d, b: (d > b) | (d == 0))),
        Mistake("The mean goes over the budgets: that is one number for each image. Take it over the images.", lambda distance, budgets: (distance[:, None] > budgets).float().mean(1)),
        Mistake("That is one number for all budgets. Each budget has an accuracy of its own.", lambda distance, budgets: (distance[:, None] > budgets).float().mean(), lambda distance, budgets: _accuracy_within(distance, budgets).mean().expand(len(budgets)).clone()),
        Mistake("That is the table of images × budgets. Take its mean over the images.", lambda distance, budgets: distance[:, None] > budgets, lambda distance, budgets: (distance[:, None] > budgets).float()),
        Mistake("You compare the first image with the first budget, and so on. Every image meets every budget: distance[:, None].", lambda distance, budgets: distance[: len(budgets)].gt(budgets[: len(distance)]).float()),
        Mistake("You compare with the first or the last budget only.", _counted(lambda d, b: (d > b[:1]).expand(-1, len(b))), _counted(lambda d, b: (d > b[-1:]).expand(-1, len(b)))),
        Mistake("You sort the budgets. Each share belongs to the budget at its place.", lambda distance, budgets: _accuracy_within(distance, budgets.sort().values), lambda distance, budgets: _accuracy_within(distance, budgets.sort(descending=True).values)),
        Mistake("That is how many images lie between one budget and the next. An accuracy counts all that are farther away.", lambda distance, budgets: _accuracy_within(distance, budgets) - torch.cat([_accuracy_within(distance, budgets)[1:], torch.zeros(1)])),
        Mistake("You compare the mean distance with the budgets. Compare each image's own.", lambda distance, budgets: (distance.mean() > budgets).float(), lambda distance, budgets: (distance.median() > budgets).float()),
        Mistake("That is a distance. Count the images: an accuracy is a share.", lambda distance, budgets: (distance[:, None] - budgets).nan_to_num(posinf=0.0).mean(0), lambda distance, budgets: (distance[:, None] - budgets).clamp_min(0).nan_to_num(posinf=0.0).mean(0)),
        Mistake("You divide by the number of images minus one, or plus one.", lambda distance, budgets: _accuracy_within(distance, budgets) * len(distance) / max(1, len(distance) - 1), lambda distance, budgets: _accuracy_within(distance, budgets) * len(distance) / (len(distance) + 1)),
        Mistake("You divide by the number of budgets. Divide by the number of images.", lambda distance, budgets: (distance[:, None] > budgets).float().sum(0) / len(budgets)),
        Mistake("You round the shares. Return them as they are.", *(lambda distance, budgets, k=k: (_accuracy_within(distance, budgets) * 10**k).round() / 10**k for k in (1, 2))),
    ],
    untouched=("distance", "budgets"),
    typical=partial(_distances, 10, (1.2, 0.3, 0.7), seed=5),
    like="budgets",
    returns="one share for each budget",
    observe=_one_for_each_budget,
    library=(evaluation.accuracy_within,),
).register()  # fmt: skip


# --- l2_pgd_step ------------------------------------------------------------------------------------------------------


def _shortened(change: Tensor, eps: float) -> Tensor:
    return change * (eps / l2_norm(change).clamp_min(1e-30)).clamp(max=1)


def _l2_pgd_step(point: Tensor, gradient: Tensor, x: Tensor, eps: float, step_size: float) -> Tensor:
    return (x + _shortened(point + step_size * l2_normalized(gradient) - x, eps)).clamp(0, 1)


def _along(direction: Callable, size: Callable = lambda eps, step_size: step_size) -> Callable[..., Tensor]:
    """Return an answer that steps in another direction, or by another size."""
    return lambda point, g, x, eps, a: (x + _shortened(point + size(eps, a) * direction(g) - x, eps)).clamp(0, 1)


def _scaled_first(g: Tensor, by: Callable[[Tensor], Tensor], tiny: float) -> Tensor:
    """Return the gradient divided by a number of its entries first, then by its length, which is at least `tiny`."""
    scaled = g / by(g).clamp_min(1e-37)
    return scaled / l2_norm(scaled).clamp_min(tiny)


def _within(limit: Callable) -> Callable[..., Tensor]:
    """Return an answer that puts the change, its first argument, back into the ball of radius eps in another way."""
    return lambda point, g, x, eps, a: (x + limit(point + a * l2_normalized(g) - x, eps)).clamp(0, 1)


def _drawn(
    eps: float, step_size: float, seed: int = 0, shape: tuple[int, ...] = inputs.SHAPE, low: float = 0.45, start: float | Sequence[float] = 0.1, outwards: Sequence[int] = (), length: float | Sequence[float] | None = None, falling: bool = False
) -> tuple[Tensor, Tensor, Tensor, float, float]:  # fmt: skip
    """Return points `start` away from x, most of that in one pixel, gradients of unlike lengths or of `length`, and x.

    Where there are signs `outwards`, the gradients point away from x (1) or towards it (−1). Where `falling`, no entry of
    a gradient is positive.
    """
    generator = torch.Generator().manual_seed(seed)
    x = low + (1 - 2 * low) * torch.rand(4, *shape, generator=generator)
    away, gradient = (torch.randn(4, *shape, generator=generator) for _ in range(2))
    away[:, 0, 0, 0] = 20.0
    away = l2_normalized(away)
    if outwards:
        gradient = broadcast_like(torch.tensor(outwards)) * l2_norm(gradient) * away
    if length is None:
        gradient = gradient * broadcast_like(2.0 ** torch.arange(4))
    else:
        gradient = broadcast_like(torch.as_tensor(length).expand(4)) * l2_normalized(gradient)
    if falling:
        gradient = -gradient.abs()
    point = x + broadcast_like(torch.as_tensor(start).expand(4)) * away
    return (point if low else point.clamp(0, 1)), gradient, x, eps, step_size


def _misstepped_l2(
    got: Tensor, right: Tensor, point: Tensor, g: Tensor, x: Tensor, eps: float, step_size: float
) -> str:
    return (
        f"with eps = {eps} and step_size = {step_size} the images moved from point by the distances {shown(norms(got - point))}, right are {shown(norms(right - point))}; they end at the distances "
        f"{shown(norms(got - x))} from x, right are {shown(norms(right - x))}; the values go from {got.min():.3g} to {got.max():.3g}, right are {right.min():.3g} to {right.max():.3g}."
    )


OWN = "Each image's gradient has a length of its own, over all of its channels and pixels: divide by that one, and multiply by step_size."
UNPROJECTED = "You never put the image back into the ball: shorten adv - x to the length eps where it is longer."
TOO_LONG = "Shorten the change from x, image by image: only where it is longer than eps, and to the length eps."
SURFACE = "You move every image to the surface of the ball. One inside stays where it is."
GUARD = "Guard the division by something tiny only, which does not touch a small gradient: a very low limit, and no number that is added."
LARGEST_FIRST = "In float32 the square of a number below 1e-23 rounds to 0, and so does the length. Divide each image's gradient by its largest entry first, and then by its length."
SIGN = "That is the sign step of the max norm: for n pixels its length is √n times too long. (F.normalize without flatten(1) gives the same.) "
Exercise(
    "l2_pgd_step",
    reference=_l2_pgd_step,
    cases=[
        Case("moves every image by the distance step_size, along its own gradient", [partial(_drawn, 2.0, 0.2), partial(_drawn, 2.0, 0.2, seed=4, falling=True)], OWN + " Then add it to point."),
        Case("ends no farther than eps from x, and stays where it is inside the ball", [partial(_drawn, 0.2, 0.3, start=(0.18, 0.18, 0.12, 0.15), outwards=(1, -1, -1, 1)), partial(_drawn, 0.35, 0.2, start=0.3)], TOO_LONG),
        Case("stays inside [0, 1]", [partial(_drawn, 1.2, 1.0, seed=1, low=0.0, start=0.3), partial(_drawn, 0.5, 1.0, seed=1, low=0.0, start=0.3)], "First the ball, then .clamp(0, 1): clip the image, not the step."),
        Case("takes the whole step where the gradient is small", [partial(_drawn, 1.0, 0.2, seed=2, start=0.0, length=3e-10), partial(_drawn, 1.0, 0.2, seed=2, start=0.0, length=1e-14)], GUARD),
        Case("takes no step where the gradient is zero", [partial(_drawn, 1.0, 0.2, seed=2, start=0.0, length=0.0)], "Without a gradient there is no direction: the image stays. " + GUARD),
        Case("takes the whole step, and not more, where the squares of the gradient round to 0", [partial(_drawn, 1.0, 0.2, seed=2, start=0.0, length=length) for length in (1e-25, 1e-33)], LARGEST_FIRST),
        Case("gives every image its own step, where one gradient is large and the next one tiny", [partial(_drawn, 1.0, 0.2, seed=2, start=0.0, length=(1.0, 1e-30, 400.0, 1e-26), falling=falling) for falling in (False, True)], OWN + " That is true of its largest entry, too, which is the largest of the sizes: every entry may be below 0."),
        Case("works in a tiny ball, and eps = 0 gives x", [partial(_drawn, 5e-4, 1e-4, seed=2, start=8e-4), partial(_drawn, 0.0, 0.2, seed=2), partial(_drawn, 0.0, 0.2, seed=2, start=0.0, length=0.0)], "A ball of radius 0 holds x alone, and the change of an image that did not move has the length 0."),
        Case("works for other sizes of images", [partial(_drawn, 0.4, 0.3, seed=3, shape=inputs.OTHER_SHAPE, start=0.3)], "The length goes over all channels and pixels of an image. Take sizes from x.shape."),
    ],
    mistakes=[
        Mistake("You divide by the largest entry, and not by the largest size: where all entries are below 0, that is the smallest one, or the guard.", *(_along(partial(_scaled_first, by=lambda g: broadcast_like(g.flatten(1).amax(1)), tiny=tiny)) for tiny in (1e-12, 1.0)), _along(lambda g: (lambda h: h / l2_norm(h).clamp_min(1e-12))(g / broadcast_like(g.flatten(1).amax(1))))),
        Mistake("You divide by the largest entry of the whole batch first. Beside a large gradient, the squares of a tiny one still round to 0: take each image's own largest entry.", *(_along(partial(_scaled_first, by=lambda g: g.abs().max(), tiny=tiny)) for tiny in (1e-30, 1e-20, 1e-12, 1e-8, 1.0)), _along(lambda g: (lambda h: (h / l2_norm(h)).nan_to_num())(g / g.abs().max().clamp_min(1e-37)))),
        Mistake("The point did not move: add step_size times the gradient divided by its length.", lambda point, *_: point),
        Mistake("That is x itself. The step starts at point.", lambda point, g, x, *_: x),
        Mistake(mistakes.CHANGE_ALONE.format(""), lambda point, g, x, *sizes: _l2_pgd_step(point, g, x, *sizes) - x),
        Mistake("You step against the gradient. Add the step: the loss grows along it.", _along(lambda g: -l2_normalized(g))),
        Mistake("The step starts at point, not at x; x is only the centre of the ball.", lambda point, g, x, *sizes: _l2_pgd_step(x, g, x, *sizes)),
        Mistake("You divide by the length of the whole batch, so that all images share one step. " + OWN, _along(lambda g: g / g.norm())),
        Mistake(SIGN + OWN, _along(torch.sign)),
        Mistake(mistakes.SIGN_OF_LENGTH + OWN, _along(lambda g: g.sign() / g[0].numel() ** 0.5)),
        Mistake(mistakes.SQUARED_LENGTH + OWN, _along(lambda g: g / l2_norm(g).clamp_min(1e-18) ** 2)),
        Mistake("You divide by the sum of the absolute values, not by the Euclidean length. " + OWN, _along(lambda g: g / broadcast_like(g.abs().flatten(1).sum(1)))),
        Mistake("You divide by the root of the mean of the squares. The length is the root of their sum. " + OWN, _along(lambda g: l2_normalized(g) * g[0].numel() ** 0.5)),
        Mistake("You divide by the largest entry, not by the length. " + OWN, _along(max_normalized)),
        Mistake("You use the gradient as it is, whose length differs from image to image. " + OWN, _along(lambda g: g), lambda point, g, x, eps, a: (point + a * g).clamp(0, 1)),
        Mistake("The step has the length step_size, not eps.", _along(l2_normalized, lambda eps, a: eps)),
        Mistake("The step has the length step_size: do not multiply it by eps.", _along(l2_normalized, lambda eps, a: a * eps)),
        Mistake("Did you forget to multiply by step_size? Your step has the length 1.", _along(l2_normalized, lambda eps, a: 1.0)),
        Mistake("You keep to a ball around point. The ball is around x, wherever point is.", lambda point, g, x, eps, a: (point + _shortened(a * l2_normalized(g), eps)).clamp(0, 1)),
        Mistake("You take one length for each channel when you go back into the ball. An image's change has one length, over all its channels and pixels.", _within(lambda c, eps: c * (eps / c.norm(dim=(2, 3), keepdim=True).clamp_min(1e-30)).clamp(max=1))),
        Mistake("Your ball lies around 0: you shorten the image itself. Shorten its change, adv - x, and add that to x.", lambda point, g, x, eps, a: _shortened(point + a * l2_normalized(g), eps).clamp(0, 1)),
        Mistake("Your ball is twice as wide: its radius is eps.", _within(lambda c, eps: _shortened(c, 2 * eps))),
        Mistake(UNPROJECTED, _within(lambda c, eps: c)),
        Mistake(UNPROJECTED + " Then .clamp(0, 1).", lambda point, g, x, eps, a: point + a * l2_normalized(g)),
        Mistake(SURFACE, _within(lambda c, eps: eps * l2_normalized(c)), _within(lambda c, eps: c * (eps / l2_norm(c)).clamp(min=1))),
        Mistake("You multiply the change by eps. eps is a limit: shorten only what is longer.", _within(lambda c, eps: eps * c)),
        Mistake("That is a ball for every single pixel. Here one length counts for each image.", _within(lambda c, eps: c.clamp(-eps, eps))),
        Mistake("You take one length for the whole batch when you go back into the ball. Each image has its own.", _within(lambda c, eps: c * (eps / c.norm()).clamp(max=1)), _within(lambda c, eps: eps * c / c.norm())),
        Mistake("As soon as one image has left the ball, you move all of them to its surface. One inside stays where it is.", _within(lambda c, eps: eps * l2_normalized(c) if (norms(c) > eps).any() else c)),
        Mistake("You take an image that left the ball back to x. It goes to the surface only: shorten its change to eps.", _within(lambda c, eps: torch.where(l2_norm(c) > eps, 0, c))),
        Mistake("You refuse a step that would leave the ball. Take it, then shorten adv - x to eps.", lambda point, g, x, eps, a: torch.where(l2_norm(point + a * l2_normalized(g) - x) > eps, point, point + a * l2_normalized(g)).clamp(0, 1)),
        Mistake("You clip to [0, 1] before you go back into the ball, which ends at another point. The order here is first the ball, then the box.", lambda point, g, x, eps, a: x + _shortened((point + a * l2_normalized(g)).clamp(0, 1) - x, eps)),
        Mistake("You do not clip: after the ball comes the box, with .clamp(0, 1).", lambda point, g, x, eps, a: x + _shortened(point + a * l2_normalized(g) - x, eps)),
        Mistake(LARGEST_FIRST, *(_along(lambda g, tiny=tiny: g / l2_norm(g).clamp_min(tiny)) for tiny in (1e-16, 1e-20, 1e-25, 1e-30, 1e-37)), _along(lambda g: g / (l2_norm(g) + 1e-30)), _along(lambda g: (g / l2_norm(g)).nan_to_num()), _along(lambda g: torch.where(l2_norm(g) > 0, g / l2_norm(g), 0))),
        Mistake(GUARD, *(_along(lambda g, tiny=tiny: g / (l2_norm(g) + tiny)) for tiny in (1e-3, 1e-6, 1e-8, 1e-10, 1e-12)), *(_along(lambda g, tiny=tiny: g / l2_norm(g).clamp_min(tiny)) for tiny in (1e-8, 1e-12)), _along(lambda g: g / (l2_norm(g) ** 2 + 1e-12).sqrt())),
        Mistake(mistakes.PART_OF_LENGTH + OWN, *(_along(lambda g, dim=dim: g / g.norm(dim=dim, keepdim=True).clamp_min(1e-30)) for dim in (0, 2, 3, (2, 3)))),
    ],
    batched=("point", "gradient", "x"),
    untouched=("point", "gradient", "x"),
    happened=_misstepped_l2,
    library=(attacks.pgd,),
).register()  # fmt: skip
