"""Checks of chapter 04: attacks on a model whose gradient nobody shows."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import inputs, mistakes
from .engine import exercise, expect
from .mistakes import gradient_step, pgd, project, wrong_steps
from .properties import (
    Attempt,
    Mistakes,
    as_tensor_like,
    broadcast_like,
    call_with_copies,
    close,
    diagnose_mistake,
    expect_close,
    expect_in_box,
    in_both_modes,
    loss_gradient,
    misplaced,
    no_side_effects,
    percent_off,
    shown,
    treats_each_alone,
    with_hint,
)

ONLY_ARGUMENTS = mistakes.ONLY_ARGUMENTS.format("sizes and numbers")


class _NeighbourTask(NamedTuple):
    """Images to attack, and the labelled images that a nearest-neighbour classifier knows."""

    x: Tensor
    y: Tensor
    x_train: Tensor
    y_train: Tensor
    eps: float


def _neighbour_task(n: int, m: int, shape: tuple[int, ...], classes: int, eps: float) -> _NeighbourTask:
    generator = torch.Generator().manual_seed(m)
    x, x_train = (torch.rand(count, *shape, generator=generator) for count in (n, m))
    bright = torch.rand(m, generator=generator) < 0.5
    x_train[bright] = x_train[bright].sqrt()  # so that other distances find other neighbours
    return _NeighbourTask(x, torch.arange(n) % classes, x_train, torch.arange(m) % classes, eps)


def _neighbour(task: _NeighbourTask, *, p: float = 2.0, allowed: Callable = torch.ne, farthest: bool = False) -> Tensor:
    """Return the nearest training image with another label; or by another distance, among others, or the farthest."""
    distance = torch.cdist(task.x.flatten(1), task.x_train.flatten(1), p=p)
    worst = -math.inf if farthest else math.inf
    distance = distance.masked_fill(~allowed(task.y[:, None], task.y_train[None]), worst)
    return task.x_train[distance.argmax(1) if farthest else distance.argmin(1)]


def _neighbour_mistakes(task: _NeighbourTask) -> Mistakes:
    x, y, x_train, y_train, eps = task
    nearest = _neighbour(task)

    def towards(goal: Tensor) -> Tensor:
        return x + (goal - x).clamp(-eps, eps)

    def any_label(a: Tensor, b: Tensor) -> Tensor:
        return (a == a) & (b == b)

    change = nearest - x
    far = mistakes.l2_norm(change)
    means = torch.stack([x_train[y_train == k].mean(0) for k in y_train.unique()])
    to_means = _NeighbourTask(x, y, means, y_train.unique(), eps)
    pixelwise = "Do not move by the sign alone: a pixel that is closer to the neighbour's than eps goes only that far. Clamp the change."
    limit = "Each pixel has a limit of its own: (neighbour - x).clamp(-eps, eps)."
    yield from (
        (x, "Nothing changed: add (neighbour - x).clamp(-eps, eps) to x."),
        (nearest, "That is the neighbour itself. No pixel may move by more than eps: x + (neighbour - x).clamp(-eps, eps)."),
        (change, mistakes.CHANGE_ALONE.format("clamped ")),
        (change.clamp(-eps, eps), mistakes.CHANGE_ALONE.format("")),
        *with_hint(pixelwise, x + eps * change.sign(), (x + eps * change.sign()).clamp(0, 1)),
        (x - change.clamp(-eps, eps), "You move away from the neighbour: the change is neighbour - x, not x - neighbour."),
        (x + eps * change, "You go the share eps of the way. " + limit),
        *with_hint("You limit the Euclidean length of the change. " + limit, x + change * (eps / far).clamp(max=1), x + eps * change / far),
        (x + change * (eps / broadcast_like(change.abs().flatten(1).amax(1))).clamp(max=1), "You shrink the whole change. " + limit),
        *with_hint("Clamp the change at both ends, from −eps to eps.", x + change.clamp(max=eps), x + change.clamp(min=-eps)),
        (x + change.clamp(0, eps), "Every step down is lost: clamp the change from −eps to eps."),
        (nearest.clamp(-eps, eps), "You clamp the neighbour, and not the change neighbour - x. Then add x."),
        (towards(_neighbour(to_means)), "You go to the mean image of another class. The classifier knows single images: go to the nearest of them."),
    )  # fmt: skip
    for goals, hint in (
        (_neighbour(task, allowed=any_label), "You go to the nearest of all training images, whatever its label. Rule out those with the label y, for instance by an infinite distance."),
        (_neighbour(task, allowed=torch.eq), "You go to the nearest image with the same label. The mask is the wrong way round: rule out where y_train equals y."),
        (_neighbour(task, farthest=True), "You go to the farthest image with another label: argmin, not argmax."),
        (_neighbour(task, p=1.0), "You sum the absolute differences. The classifier measures the Euclidean distance: the root of the sum of squares."),
        (_neighbour(task, p=math.inf), "You take the largest difference of a pixel. The classifier measures the Euclidean distance."),
        (nearest[:1].expand_as(x), "All images go to one and the same neighbour. Each image has its own: distances of the shape (N, M), argmin over dimension 1."),
        (x_train[(y[:, None] != y_train).int().argmax(1)], "You go to the first training image with another label. Go to the nearest."),
        (x_train[(x_train.flatten(1).square().sum(1) + torch.where(y_train == y[:1], math.inf, 0.0)).argmin().expand(len(x))], "You measure the training images alone. Measure the distance to each x."),
    ):  # fmt: skip
        yield towards(goals), hint
        yield goals, hint + " And no pixel may move by more than eps."


def _to_neighbour(task: _NeighbourTask) -> Tensor:
    return task.x + (_neighbour(task) - task.x).clamp(-task.eps, task.eps)


@exercise("neighbour_step", takes="(x, y, x_train, y_train, eps)")
def _neighbour_step(answer: Callable) -> Iterator[str]:
    attempt = Attempt(answer, _to_neighbour, _neighbour_mistakes)

    yield "returns new images like x"
    task, adv, right = attempt(_neighbour_task(6, 30, inputs.SHAPE, 3, 0.2))

    yield "no pixel moves by more than eps"
    farthest = (adv - task.x).abs().max().item()
    hint = "Clamp the change, not the image: x + (neighbour - x).clamp(-eps, eps)."
    expect(farthest <= 0.2 + 1e-6, f"with eps = 0.2 a pixel moved by {farthest:.3g}.", attempt.why(hint))

    yield "goes to the nearest image with another label"
    goal = _neighbour(task)
    moving = ((adv - task.x).abs() > 1e-6).flatten(1).any(1)
    on_the_way = ((adv - task.x) * (goal - task.x) >= -1e-6).flatten(1).all(1) & moving
    what = f"{int(on_the_way.sum())} of 6 images move towards that neighbour in all of their pixels."
    hint = "Distances of the shape (N, M) from torch.cdist(x.flatten(1), x_train.flatten(1)); infinite where the labels agree; argmin(1)."
    expect(on_the_way.all(), what, attempt.why(hint))

    yield "stays between x and the neighbour, and goes as far as it may"
    low, high = torch.minimum(task.x, goal), torch.maximum(task.x, goal)
    beyond = 100 * ((adv < low - 1e-6) | (adv > high + 1e-6)).float().mean().item()
    what = f"{beyond:.0f} % of the pixels overshoot the neighbour's, and {percent_off(adv, right):.0f} % are not where they should be."
    hint = "A pixel goes to its value in the neighbour, but by no more than eps: x + (neighbour - x).clamp(-eps, eps)."
    attempt.agrees(what, hint)

    yield "eps = 0 changes nothing, and eps = 1 gives the neighbour itself"
    for eps in (0.0, 1.0):
        task, adv, right = attempt(task._replace(eps=eps))
        what = f"with eps = {eps:.0f} a pixel is {(adv - right).abs().max():.3g} away from where it should be."
        attempt.agrees(what, "Use the eps that is passed in, not a number of your own.")

    yield "works for other numbers and sizes of images"
    for n, m, shape, classes in ((5, 4, inputs.OTHER_SHAPE, 2), (1, 12, (1, 28, 28), 10), (3, 60, (1, 2, 2), 5)):
        task, _, _ = attempt(_neighbour_task(n, m, shape, classes, 0.1))
        what = f"for {n} images of shape {shape}, {m} training images and {classes} classes the result is another."
        attempt.agrees(what, ONLY_ARGUMENTS)

    yield "leaves its arguments as they were"
    no_side_effects(answer, "x y x_train y_train eps", *task)


def _random_logits(seed: int, models: int, n: int, classes: int, scale: float = 3.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(scale * torch.randn(models, n, classes, generator=generator))


def _log_mean(logits: list[Tensor]) -> Tensor:
    logs = torch.stack(logits).double().log_softmax(2)
    return (logs.logsumexp(0) - math.log(len(logits))).to(logits[0])


def _log_mean_mistakes(logits: list[Tensor]) -> Mistakes:
    stacked = torch.stack(logits)
    shares, logs, count = stacked.softmax(2), stacked.log_softmax(2), len(logits)
    form = "The average is over probabilities: the logarithm comes last."
    yield from (
        (shares.mean(0), "That is the mean of the probabilities. Return its logarithm."),
        (shares.sum(0), "That is the sum of the probabilities. Take the mean, and return its logarithm."),
        (stacked.mean(0), "That is the mean of the logits. Each model's logits become probabilities first. " + form),
        (stacked.mean(0).log_softmax(1), "You average the logits. Each model's logits become probabilities first. " + form),
        (stacked.sum(0).log_softmax(1), "You add the logits. Each model's logits become probabilities first. " + form),
        *with_hint("You average the log-probabilities, which gives the geometric mean. " + form, logs.mean(0), logs.mean(0).log_softmax(1)),
        (logs.sum(0), "You add the log-probabilities, which multiplies the probabilities. " + form),
        (logs.logsumexp(0), "That is the logarithm of the sum. Subtract math.log(len(logits)) to get the mean."),
        (logs.logsumexp(0) + math.log(count), "To divide by the number of models, subtract its logarithm; you add it."),
        (logs.logsumexp(0) / count, "Divide inside the logarithm: subtract math.log(len(logits))."),
        (logs.logsumexp(0) - count, "Subtract math.log(len(logits)), not the number itself."),
        (logs.logsumexp(0) - math.log2(count), "Subtract the natural logarithm, math.log(len(logits))."),
        (logs.logsumexp(0) - math.log(stacked.shape[1]), "Divide by the number of models, not by the number of images."),
        (logs.logsumexp(0) - math.log(stacked.shape[2]), "Divide by the number of models, not by the number of classes."),
        *with_hint("Those are logits, not log-probabilities: log_softmax(1) of each model comes first.", stacked.logsumexp(0) - math.log(count), stacked.logsumexp(0)),
        (logs.amax(0), "That is the most confident model for each class. Take the mean over the models."),
        (-_log_mean(logits), "The sign is wrong: logarithms of probabilities are negative."),
        *with_hint("Use the natural logarithm, torch.log.", shares.mean(0).log2(), shares.mean(0).log10()),
        (stacked.softmax(1).mean(0).log(), "Your softmax runs over the images. In (N, K) the classes are dimension 1."),
        (stacked.softmax(0).mean(0).log(), "Your softmax runs over the models. In (N, K) the classes are dimension 1; stacked, they are dimension 2."),
        *with_hint("That is one model's answer alone. Use all the models in the list.", logs[0], logs[-1]),
    )  # fmt: skip


@exercise("log_mean_probability", takes="(logits)")
def _log_mean_probability(answer: Callable) -> Iterator[str]:
    def result() -> Tensor:
        got = call_with_copies(answer, logits)
        return as_tensor_like(got, logits[0], "each model's logits", _log_mean_mistakes(logits))

    yield "returns one number for each image and class"
    logits = _random_logits(0, 3, 5, 4)
    got = result()

    yield "is the logarithm of the mean of the models' probabilities"
    what = f"for the first image it gives {shown(got[0])}; right are {shown(_log_mean(logits)[0])}."
    hint = "Turn each model's logits into log-probabilities with log_softmax(1), then take the logarithm of the mean of their exp: logsumexp over the models, minus math.log(len(logits))."
    expect_close(got, _log_mean(logits), what, hint, _log_mean_mistakes(logits), 1e-4)

    yield "works for any number of models, images and classes"
    for models, n, classes in ((1, 4, 6), (2, 1, 10), (5, 7, 2)):
        logits = _random_logits(models, models, n, classes)
        got = result()
        what = f"for {models} models, {n} images and {classes} classes a value is {(got - _log_mean(logits)).abs().max():.3g} off."
        expect_close(got, _log_mean(logits), what, ONLY_ARGUMENTS, _log_mean_mistakes(logits), 1e-4)

    yield "is right for logits such as 1000 and −1000"
    rows = ([1000.0, 0.0, -1000.0], [1000.0, 0.0, -500.0]), ([0.0, 0.0, 0.0], [-1000.0, 1000.0, 1000.0])
    logits = [torch.tensor(model) for model in zip(*rows, strict=True)]
    got, exact = call_with_copies(answer, logits), _log_mean(logits)
    hint = "exp(−1000) rounds to 0, and its logarithm is −inf; a small number added before the logarithm is wrong as well. Stay with logarithms: log_softmax(1) of each model, torch.logsumexp over the models."
    what = f"for the logits (1000, 0, −1000) and (1000, 0, −500) it gives {shown(got[0])}; right are {shown(exact[0])}."
    expect(close(got, exact, 1e-2), what, hint)

    yield "leaves the logits as they were"
    no_side_effects(answer, "logits", _random_logits(0, 3, 5, 4))

    yield "has a gradient with respect to every model's logits"
    logits, label = [z.requires_grad_() for z in _random_logits(1, 2, 3, 4)], torch.tensor([0, 1, 2])
    with torch.enable_grad():
        got, exact = F.nll_loss(answer(logits), label), F.nll_loss(_log_mean(logits), label)
    hint = "An attack differentiates this: no .detach(), .data, .item(), NumPy or torch.no_grad() on the way."
    expect(got.requires_grad, "the result carries no gradient back to the logits.", hint)
    slopes = torch.autograd.grad(got, logits, allow_unused=True)
    same = all(close(a, b, 1e-4) for a, b in zip(slopes, torch.autograd.grad(exact, logits), strict=True))
    expect(same, "its gradient is not that of the logarithm of the mean probability.", hint)


def _logit(logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
    return logits.gather(1, labels[:, None]).sum()


def _jacobian_mistakes(model: nn.Module, x: Tensor, labels: Tensor, lam: float) -> Mistakes:
    def step(size: float = lam, labels: Tensor = labels, **mistake: Any) -> Tensor:
        return gradient_step(model, x, labels, size, **{"loss": _logit, **mistake})

    slope, predicted = loss_gradient(model, x, labels, _logit), model(x).argmax(1)
    of_loss = "You differentiate the cross-entropy or the probability, which mix in the other logits. Differentiate the logit of the label alone: model(x).gather(1, labels[:, None]).sum()."
    own = "You use the model's own prediction. Use the labels that were passed in: the black box has given them."
    signed = "lam may be negative, and then the step goes the other way: no abs, no clamp of lam."
    pick = "Pick the one of the label: model(x).gather(1, labels[:, None])."
    wrongs = [
        *with_hint(signed, step(abs(lam)), step(max(lam, 0.0))),
        (x, "Nothing changed. Return the new points, x plus lam times the sign of the gradient."),
        *wrong_steps(step, ("You step the wrong way: add lam times the sign of the logit's gradient.", "wrong sign")),
        *with_hint(of_loss, step(loss=F.cross_entropy), step(-lam, loss=F.cross_entropy)),
        *with_hint(own, step(labels=predicted), step(-lam, predicted)),
        *wrong_steps(step, (own + " And differentiate the logit, not the loss.", "own prediction", "own prediction, wrong sign")),
        (step(loss=lambda z, y, reduction: z.sum()), "You differentiate the sum of all logits. " + pick),
        (step(loss=lambda z, y, reduction: z[:, 0].sum()), "You differentiate the first logit. " + pick),
        (step(loss=lambda z, y, reduction: z[:, y].sum()), "model(x)[:, labels] picks the logits of all labels for every image. Pick one for each: model(x).gather(1, labels[:, None])."),
        (step(1.0), "Did you forget to multiply by lam? The sign alone has size 1."),
        (step(lam * lam), "You multiply by lam twice."),
        *wrong_steps(
            step,
            ("You step along the gradient itself. Take its sign, times lam.", "no sign", "no sign, batch mean"),
            ("You divide the gradient by its length. Take its sign, times lam.", "Euclidean"),
        ),
        (step() - x, "That is the change alone. Return the new points: x plus lam times the sign."),
        (slope, "That is the gradient. Return the new points: x plus lam times its sign."),
        (slope.sign(), "That is the sign of the gradient. Return the new points: x plus lam times it."),
    ]  # fmt: skip
    return [*wrongs, *((wrong.clamp(0, 1), hint) for wrong, hint in wrongs)]


@exercise("jacobian_augment", takes="(model, x, labels, lam)")
def _jacobian_augment(answer: Callable) -> Iterator[str]:
    def run(lam: float) -> tuple[float, Tensor, Tensor]:
        """Return lam, what the answer gives, and what is right."""
        got = call_with_copies(answer, model, x, labels, lam)
        shapes = f"x has the shape {tuple(x.shape)}, and your result {tuple(getattr(got, 'shape', ()))}."
        joined = isinstance(got, Tensor) and got.shape == (2 * len(x), *x.shape[1:])
        hint = "Return the new points only, one for each of x: no torch.cat with x. The caller puts them together."
        expect(not joined, shapes, hint)
        return lam, as_tensor_like(got, x), gradient_step(model, x, labels, lam, loss=_logit).clamp(0, 1)

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: diagnose_mistake(got, _jacobian_mistakes(model, x, labels, lam), otherwise)

    def agrees(hint: str) -> None:
        rise, best = ((_logit(model(v), labels, "") - _logit(model(x), labels, "")) / len(x) for v in (got, right))
        what = f"with lam = {lam} the logit of the label changes by {rise:.3g} on average, and not by {best:.3g}; {percent_off(got, right):.0f} % of the pixels are not where they should be."
        expect(close(got, right), what, why(hint))

    model = inputs.unsaturated_network(inputs.SHAPE, inputs.CLASSES)
    x, labels = inputs.labelled_images(model, 6, inputs.SHAPE)

    yield "returns one new point for each of x"
    lam, got, right = run(0.1)

    yield "moves every pixel by lam"
    change = (got - x).abs()
    what = f"with lam = 0.1 the pixels changed by {change.min():.3g} to {change.max():.3g}."
    expect(close(change, torch.full_like(x, lam)), what, why("The change is lam times the sign of a gradient."))

    yield "moves along the gradient of the logit of the label"
    agrees("Differentiate model(x).gather(1, labels[:, None]).sum() with respect to x, and add lam times the sign.")

    yield "goes the other way for a negative lam, and nowhere for 0"
    for size in (-0.05, 0.0):
        lam, got, right = run(size)
        agrees("Use the lam that is passed in, with its sign, and not a number of your own.")

    yield "stays inside [0, 1]"
    x, labels = inputs.labelled_images(model, 4, inputs.SHAPE, low=0.0)
    lam, got, right = run(0.3)
    what = f"with lam = 0.3 the new points have values from {got.min():.2f} to {got.max():.2f}."
    hint = "There is nothing blacker than 0 or whiter than 1: end with .clamp(0, 1)."
    expect(got.min() >= 0 and got.max() <= 1, what, hint)
    agrees("Take the step everywhere, then clip the new point to [0, 1]: not the change.")

    yield "gives an image alone what it gives it in a batch"
    treats_each_alone(answer, 4, lambda part: (model, x[part], labels[part], 0.1), 1e-5)

    yield "works for other sizes of images and numbers of classes"
    model = inputs.unsaturated_network(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)
    x, labels = inputs.labelled_images(model, 5, inputs.OTHER_SHAPE)
    lam, got, right = run(0.1)
    agrees(ONLY_ARGUMENTS)

    yield "leaves no trace on the model and on x"
    in_both_modes(answer, "model x labels lam", model, x, labels, lam)


def _inclusion_probabilities(n: int, k: int, enters: Callable[[int], float], hit: float | None = None) -> Tensor:
    """Return each item's chance to be in the sample: item i >= k enters with a chance, and hits a given one of the k."""
    chances = []
    for i in range(n):
        stays = (1 - enters(later) * (1 / k if hit is None else hit) for later in range(max(i + 1, k), n))
        chances.append((1.0 if i < k else enters(i)) * math.prod(stays))
    return torch.tensor(chances)


def _reservoir_mistakes(n: int, k: int) -> Mistakes:
    places = torch.arange(n)
    rule = "Item number i, counted from 1, enters with the chance k/i and then replaces one of the k at random."
    one_place = _inclusion_probabilities(n, k, lambda i: k / (i + 1), hit=1.0)
    one_place[1:k] = 1.0
    yield from (
        ((places < k).float(), "You keep the first k. A later item must be able to replace one of them. " + rule),
        ((places >= n - k).float(), "You keep the last k. " + rule),
        (_inclusion_probabilities(n, k, lambda i: 1.0), "Every new item replaces one, so that the late ones win. " + rule),
        (_inclusion_probabilities(n, k, lambda i: 0.5), "Every new item enters with the same chance, so that the late ones win. " + rule),
        (_inclusion_probabilities(n, k, lambda i: min(1.0, k / i)), "Late items come too often: the draw is off by one. With i counted from 0, item i enters if generator.randrange(i + 1) < k."),
        (_inclusion_probabilities(n, k, lambda i: k / (i + 2)), "Late items come too seldom: the draw is off by one. With i counted from 0, item i enters if generator.randrange(i + 1) < k; randint includes its upper end."),
        (_inclusion_probabilities(n, k, lambda i: 1 / (i + 1)), "A new item enters with the chance 1/i. It is k/i: there are k places. " + rule),
        (_inclusion_probabilities(n, k, lambda i: 1 / k), "The chance to enter must fall with the number of items seen. " + rule),
        (one_place, "A new item always takes the same place. It must replace any of the k, at random. " + rule),
    )  # fmt: skip


def _sample(answer: Callable, items: Iterable, k: int, seed: int = 0) -> list:
    """Return the answer's sample, which must be a list."""
    try:
        got = call_with_copies(answer, items, k, random.Random(seed))
    except TypeError as error:
        hint = "items is a stream: it has no length and no item number i. Go through it once, with for item in items."  # fmt: skip
        stream = any(part in str(error) for part in ("has no len()", "not subscriptable", "must be a sequence"))
        expect(not stream, f"it raised TypeError: {error}", hint)
        raise
    kind = f"it returned a {type(got).__name__}."
    expect(isinstance(got, list), kind, "Return a list, also if it holds one item only.")
    return got


def _listed(got: list) -> str:
    return f"[{', '.join(map(str, got[:6]))}{', …' if len(got) > 6 else ''}]"


def _keeps_items(sample: Callable[..., list]) -> Iterator[str]:
    """The properties of the items that are returned."""
    yield "returns a list of k items"
    for n, k in ((20, 5), (6, 1), (4, 4)):
        got = sample(range(n), k)
        hint = "Keep k items: a new one replaces an old one."
        expect(len(got) == k, f"of {n} items with k = {k} it returns {len(got)}: {_listed(got)}.", hint)

    yield "the items come from the stream, and none of them twice"
    for seed in range(30):
        got = sample(range(100, 108), 5, seed)
        what = f"of the items 100 to 107 with k = 5 it returns {_listed(got)}."
        hint = "Keep the items themselves, not their numbers or places."
        expect(all(item in range(100, 108) for item in got), what, hint)
        hint = "Draw without putting back: each item of the stream enters at most once, at one place."
        expect(len(set(got)) == 5, what, hint)

    yield "reads a stream of unknown length, once"
    got = sample((number for number in range(50)), 5)
    what = f"of a generator with 50 items and k = 5 it returns {_listed(got)}."
    hint = "A generator can be read only once. Go through it with one for loop, or make a list of it first."
    expect(len(got) == 5 and len(set(got)) == 5, what, hint)

    yield "returns all items if there are no more than k"
    for n, k in ((3, 5), (0, 2), (1, 1)):
        got = sample(iter(range(n)), k)
        what = f"of {n} items with k = {k} it returns {_listed(got)}."
        hint = "As long as the list is not full, every item is appended."
        expect(len(got) == n and all(i in got for i in range(n)), what, hint)

    yield "copes with items that are equal, and with items of any kind"
    got = sample(iter([7] * 6), 3)
    hint = "Equal items are items, too: use no set, and ask no `in`."
    expect(got == [7, 7, 7], f"of six sevens with k = 3 it returns {_listed(got)}.", hint)
    tensors = [torch.full((2,), float(i)) for i in range(6)]
    got = sample(iter(tensors), 3)
    same = sum(any(item is tensor for tensor in tensors) for item in got)
    expect(same == 3, "of six tensors it returns something else.", "Return the items as they came.")


def _draws_from_generator(sample: Callable[..., list]) -> Iterator[str]:
    """The property of the generator from which is drawn."""
    yield "draws from the generator that is passed in"
    state = random.getstate()
    first, again = (sample(range(1000), 20, seed=5) for _ in range(2))
    other = sample(range(1000), 20, seed=6)
    hint = "Draw with generator.random(), generator.randrange(…) and the like; random.random() is another stream."
    expect(sorted(first) == sorted(again), "two generators with the same seed give different samples.", hint)
    expect(random.getstate() == state, "it draws from Python's global stream.", hint)
    rule = "A later item replaces one of the k with a chance that falls from item to item."
    first_k, last_k = torch.arange(20), torch.arange(980, 1000)
    ends = (first_k, f"You keep the first k. {rule}"), (last_k, f"You keep the last k. {rule}")
    what = "two generators with different seeds give the same sample."
    expect(sorted(first) != sorted(other), what, lambda: diagnose_mistake(torch.tensor(sorted(first)), ends, hint))


@exercise("reservoir", takes="(items, k, generator)")
def _reservoir(answer: Callable) -> Iterator[str]:
    sample = partial(_sample, answer)
    yield from _keeps_items(sample)
    yield from _draws_from_generator(sample)

    yield "every item has the same chance"
    runs = 4000
    hint = "Item number i, counted from 1, enters with the chance k/i, and then replaces any of the k, each with the same chance."
    for n, k in ((10, 3), (4, 1)):
        generator, counts = random.Random(n), [0] * n
        for _ in range(runs):
            for item in call_with_copies(answer, iter(range(n)), k, generator):
                counts[item] += 1
        share, chance = torch.tensor(counts) / runs, k / n
        spread = math.sqrt(chance * (1 - chance) / runs)
        worst = int((share - chance).abs().argmax())
        what = f"in {runs} samples of {k} out of {n}, item {worst} (the first is 0) came in {100 * share[worst]:.1f} %; {100 * chance:.1f} % is right, give or take {100 * 2 * spread:.1f}."
        fair = abs(share[worst] - chance) < 6 * spread  # fails a right answer less than once in ten million times
        expect(fair, what, lambda share=share, n=n, k=k: diagnose_mistake(share, _reservoir_mistakes(n, k), hint, 0.04))


class _MomentumTask(NamedTuple):
    """What the attack with momentum is given."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    steps: int
    decay: float


def _mean_size(gradient: Tensor) -> Tensor:
    return broadcast_like(gradient.abs().flatten(1).mean(1)).clamp_min(1e-30)


def _mi_fgsm(
    task: _MomentumTask,
    *,
    update: Callable[[Any, Tensor], Any] | None = None,
    normalization: Callable[[Tensor], Tensor] = _mean_size,
    step: Callable[[Tensor], Tensor] = torch.sign,
    step_size: float | None = None,
    **mistake: Any,
) -> Tensor:
    """Return where the right attack leads, or one with another update of the momentum, normalisation or step."""
    model, x, y, eps, steps, decay = task
    momentum: Any = 0.0

    def move(gradient: Tensor) -> Tensor:
        nonlocal momentum
        new = gradient / normalization(gradient)
        momentum = update(momentum, new) if update else decay * momentum + new
        return step(momentum)

    size = eps / max(steps, 1) if step_size is None else step_size
    return pgd(model, x, y, eps, steps, size, move=move, **{"keep": lambda new, _: new.clamp(0, 1), **mistake})


def _update_mistakes(task: _MomentumTask) -> Mistakes:
    """What goes wrong in the momentum and in the normalisation of the gradient, and what to say."""
    decay = task.decay

    def updated(update: Callable) -> Tensor:
        return _mi_fgsm(task, update=update)

    def normalized(by: Callable) -> Tensor:
        return _mi_fgsm(task, normalization=by)

    each = "Divide each gradient by its own mean absolute value: gradient.abs().mean(dim=(1, 2, 3), keepdim=True)."
    yield from (
        (updated(lambda m, g: g), "There is no momentum in it: each step forgets the last. momentum = decay * momentum + the new gradient."),
        (updated(lambda m, g: m + g), "decay takes no part in it: momentum = decay * momentum + the new gradient."),
        (updated(lambda m, g: m + decay * g), "You multiply the new gradient by decay. Multiply the old momentum: momentum = decay * momentum + the new gradient."),
        (updated(lambda m, g: decay * m + (1 - decay) * g), "That is a moving average, with 1 − decay before the new gradient. Here it is added whole: decay * momentum + the new gradient."),
        (updated(lambda m, g: (1 - decay) * m + decay * g), "That is a moving average. Here it is decay * momentum + the new gradient."),
        (updated(lambda m, g: decay * m - g), "You subtract the new gradient from the momentum. Add it."),
        (updated(lambda m, g: (decay * m + g).sign()), "You keep the sign as momentum. Keep the sum itself, and take the sign for the step only."),
        (updated(lambda m, g: decay * m + g.sign()), "You add up signs. Add up the gradients, each divided by its mean absolute value, and take the sign last."),
        (updated(lambda m, g: (lambda new: new / _mean_size(new))(decay * m + g)), "You divide the momentum. Divide each new gradient before it is added."),
        (task.x, "Nothing changed. Do you return x instead of the new image?"),
        *with_hint("The gradients are not normalised, so that the largest one rules. " + each, normalized(lambda g: 1.0), normalized(len)),
        (normalized(lambda g: g.abs().mean().clamp_min(1e-30)), "You divide by a mean over the whole batch. " + each),
        (normalized(lambda g: g.norm().clamp_min(1e-30)), "You divide by the length of the whole batch. " + each),
        (normalized(mistakes.l2_norm), "You divide by the Euclidean length. " + each),
        (normalized(lambda g: broadcast_like(g.abs().flatten(1).amax(1))), "You divide by the largest entry. " + each),
        (normalized(lambda g: broadcast_like(g.flatten(1).mean(1))), "You divide by the mean, in which signs cancel. " + each),
    )  # fmt: skip


def _momentum_mistakes(task: _MomentumTask) -> Mistakes:
    model, x, _, eps, steps, _ = task
    go = partial(_mi_fgsm, task)

    def longer(more: int, **mistake: Any) -> Tensor:
        return _mi_fgsm(task._replace(steps=steps + more), step_size=eps / steps, **mistake)

    def in_ball(new: Tensor, last: Tensor) -> Tensor:
        return project(new, x, eps)

    size = "Every step has the size eps / steps, so that all of them together reach eps."
    far = 2.5 * eps / steps
    yield from (
        *wrong_steps(go, (mistakes.WRONG_SIGN, "wrong sign")),
        (go() - x, "That is the change alone. Return the changed image."),
        *_update_mistakes(task),
        (go(stale=True), "You compute the gradient only once, at x. Compute it anew in every step, at the point you have reached."),
        (go(step=lambda momentum: momentum), "You step along the momentum itself. Take its sign, times eps / steps."),
        *with_hint(size + " Yours has the size eps.", go(step_size=eps), go(step_size=eps, keep=in_ball)),
        *with_hint(size, go(step_size=far), go(step_size=far, keep=in_ball)),
        (longer(-1), "You took one step too few: for _ in range(steps) takes all of them."),
        *with_hint("You took one step too many: for _ in range(steps) takes all of them.", longer(1), longer(1, keep=in_ball)),
        (longer(1 - steps), "You took only one step. Does return stand inside the loop?"),
        (_mi_fgsm(task._replace(y=model(x).argmax(1))), mistakes.OWN_PREDICTION.format("y")[:-1] + ", in all steps."),
        *wrong_steps(
            go,
            (mistakes.SOFTMAX_TWICE.format("adv"), "softmax twice"),
            (mistakes.NO_LOG_SOFTMAX.format("adv"), "no log-softmax"),
        ),
        (go(keep=lambda new, last: new), "There is nothing blacker than 0 or whiter than 1: .clamp(0, 1) after every step."),
        (go(keep=lambda new, last: new).clamp(0, 1), "You clip to [0, 1] only after the last step. Do it after every step, inside the loop."),
        (go(keep=lambda new, last: (x + new - last).clamp(0, 1)), "Every step starts at x again. Start it at the point the last one has reached."),
    )  # fmt: skip


def _explain(answer: Callable, task: _MomentumTask, adv: Tensor) -> str:
    """Return what is wrong with images from how they depend on the arguments, or nothing."""
    for name, other in (("eps", task._replace(eps=task.eps / 2)), ("decay", task._replace(decay=task.decay / 3))):
        if task.steps > 1 and task.decay and close(adv, call_with_copies(answer, *other)):
            return mistakes.SAME_FOR_EVERY.format(name)
    return ""


@exercise("momentum_fgsm", takes="(model, x, y, eps, steps, decay)")
def _momentum_fgsm(answer: Callable) -> Iterator[str]:
    attempt = Attempt(answer, _mi_fgsm, _momentum_mistakes, partial(_explain, answer))

    def agrees(hint: str) -> None:
        setting = f"after {task.steps} steps with eps = {task.eps} and decay = {task.decay}, "
        attempt.agrees(misplaced(setting, model, y, x, adv, right), hint)

    model = inputs.unsaturated_network(inputs.SHAPE, inputs.CLASSES)
    x, y = inputs.labelled_images(model, 6, inputs.SHAPE)

    yield "returns new images like x"
    attempt(_MomentumTask(model, x, y, 0.1, 5, 0.9))

    yield "one step is FGSM: every pixel moves by eps, uphill"
    task, adv, right = attempt(_MomentumTask(model, x, y, 0.1, 1, 0.9))
    uphill, change = ((adv - x).sign() == (right - x).sign()).float().mean(), (adv - x).abs()
    what = f"with steps = 1 and eps = 0.1 the pixels changed by {change.min():.3g} to {change.max():.3g}, {100 * uphill:.0f} % of them in the direction that makes the loss larger."
    hint = "Differentiate F.cross_entropy(model(adv), y) with respect to adv, and add eps / steps times the sign."
    attempt.agrees(what, hint)

    yield "without momentum, decay = 0, it is FGSM in steps of eps / steps"
    task, adv, right = attempt(_MomentumTask(model, x, y, 0.1, 5, 0.0))
    hint = "In every step: the gradient at the point you have reached, then eps / steps times the sign of the momentum from there."
    agrees(hint)

    yield "adds decay times the old momentum to each new gradient, divided by its mean absolute value"
    hint = "momentum = decay * momentum + gradient / gradient.abs().mean(dim=(1, 2, 3), keepdim=True), starting from zeros."
    for decay in (1.0, 0.5):
        task, adv, right = attempt(_MomentumTask(model, x, y, 0.15, 6, decay))
        agrees(hint)

    yield "stays inside [0, 1], in every step"
    x, y = inputs.black_and_white_images(model, 4, inputs.SHAPE)
    task, adv, right = attempt(_MomentumTask(model, x, y, 0.3, 6, 0.9))
    expect_in_box(adv, attempt.why("There is nothing blacker than 0 or whiter than 1: .clamp(0, 1) after every step."))
    agrees("Clip the new image to [0, 1] after every step, and not the change.")

    yield "eps = 0 changes nothing"
    _, still, _ = attempt(_MomentumTask(model, x, y, 0.0, 6, 0.9))
    hint = "Steps of the size eps / steps: for eps = 0 that is nothing."
    expect(close(still, x, 1e-6), "with eps = 0 the images change.", hint)

    yield "gives an image alone what it gives it in a batch"
    treats_each_alone(answer, 4, lambda part: (model, x[part], y[part], 0.15, 4, 0.9), 1e-5)

    yield "leaves an image without a gradient where it is, without NaN"
    model = inputs.unsaturated_network(inputs.SHAPE, inputs.CLASSES)
    nn.init.zeros_(model[3].weight)
    _, adv, _ = attempt(_MomentumTask(model, x, y, 0.1, 3, 0.9))
    hint = "0/0 is NaN: divide by gradient.abs().mean(…).clamp_min(1e-12). The sign of zero is zero."
    expect(close(adv, x, 1e-6), "where the gradient is zero, the image changes.", hint)

    yield "works for other sizes of images and numbers of classes"
    model = inputs.unsaturated_network(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)
    x, y = inputs.labelled_images(model, 5, inputs.OTHER_SHAPE)
    task, adv, right = attempt(_MomentumTask(model, x, y, 0.1, 4, 0.9))
    agrees(ONLY_ARGUMENTS)

    yield "leaves no trace on the model and on x"
    in_both_modes(answer, "model x y eps steps decay", *task)
