"""Exercises of chapter 01: the worst case of a linear model, and images of eight bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.linear import exact_accuracy, worst_case_loss
from . import mistakes
from .engine import expect
from .exercise import Case, Exercise, Property
from .mistakes import Mistake
from .properties import as_number, as_share, as_tensor_like, call_with_copies, close


def _linear_problem(
    eps: float, d: int = 20, n: int = 300, seed: int = 0, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Return a linear model w (d,), b, images x (n, d), labels y = ±1, and eps.

    The model is wrong about some images, and no margin is within rounding of 0 or of its worst fall. `scale` multiplies
    the model.
    """
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(d, generator=generator) + 0.4
    b = 0.5 - 0.5 * w.sum()
    x = torch.rand(4 * n, d, generator=generator)
    score = x @ w + b
    flipped = torch.rand(4 * n, generator=generator) < torch.where(score > 0, 0.25, 0.1)
    y = score.sign() * torch.where(flipped, -1.0, 1.0)
    borders = torch.tensor([0.0, eps]) * w.abs().sum()
    clear = ((score.abs()[:, None] - borders).abs() > 1e-3).all(1)
    return scale * w, scale * b, x[clear][:n], y[clear][:n], eps


def _fall(w: Tensor, eps: float) -> Tensor:
    return eps * w.abs().sum()


# --- worst_perturbation -----------------------------------------------------------------------------------------------


def _worst_perturbation(w: Tensor, eps: float) -> Tensor:
    return eps * w.sign()


def _weights(eps: float, d: int) -> tuple[Tensor, float]:
    """Return d weights and eps."""
    return _linear_problem(eps, d, n=1, seed=d)[0], eps


def _small_weights(*sizes: float) -> tuple[Tensor, float]:
    """Return weights with a large one, one of 0 and small ones of these sizes and both signs, and eps."""
    return torch.tensor([1.0, 0.0, *sizes, *(-size for size in sizes)]), 0.3


def _is_worst(got: Tensor, right: Tensor, w: Tensor, eps: float) -> bool:
    """Tell whether a change is as good as it can be: where a weight is 0, any change up to eps is."""
    return close(torch.where(w == 0, right, got), right, 1e-6) and got.abs().max().item() <= eps + 1e-6


def _gain(got: Tensor, right: Tensor, w: Tensor, eps: float) -> str:
    beyond = ", more than eps" if got.abs().max() > eps + 1e-6 else ""
    i = int(((got - right).abs() * (w != 0)).argmax())
    return f"with {len(w)} weights and eps = {eps} an entry changes by up to {got.abs().max():.3g}{beyond}; w·δ is {w @ got:.4g}, right is {w @ right:.4g}; where w is {w[i]:.3g} the change is {got[i]:.7g}, right is {right[i]:.7g}."


EVERY_ENTRY = "Every entry must have the size eps: "
TINY = (1e-3, 1e-6, 1e-8, 1e-10, 1e-12)
SMALL_WEIGHT = "Also the smallest weight has a sign, and gets the whole eps. "
Exercise(
    "worst_perturbation",
    reference=_worst_perturbation,
    cases=[
        Case("makes w·δ as large as it can be, and changes no entry by more than eps", [partial(_weights, 0.1, 50)], "w·δ is largest when every δ_i has the sign of w_i and the full size eps."),
        Case("works for every eps and every number of weights; eps = 0 changes nothing", [partial(_weights, *other) for other in ((0.5, 1), (0.007, 784), (2.0, 9), (0.0, 20))], mistakes.ONLY_ARGUMENTS.format("eps and the number of weights")),
        Case("gives a small weight the whole eps", [partial(_small_weights, 1e-2, 1e-4), partial(_small_weights, 1e-9, 1e-14)], SMALL_WEIGHT + "Only for 0 itself any change will do."),
    ],
    mistakes=[
        Mistake("Nothing changes at all: each entry may move by eps, so move it.", lambda w, eps: torch.zeros_like(w)),
        Mistake("You go against the weights, so the output falls: leave out the minus.", lambda w, eps: -eps * w.sign(), lambda w, eps: -w.sign()),
        Mistake("You use w itself. Take its sign, times eps: how far a pixel may move does not depend on its weight.", lambda w, eps: eps * w, lambda w, eps: w, lambda w, eps: -eps * w),
        Mistake("You forgot to multiply by eps.", lambda w, eps: w.sign()),
        Mistake("You divide by the length of w: that is the best change of the length ‖δ‖₂ = eps. Here each entry alone has a limit: take the sign, times eps.", lambda w, eps: eps * w / w.norm(), lambda w, eps: w / w.norm()),
        Mistake("You move only the entries with weights of one sign. A negative weight helps when its entry goes down by eps, a positive one when it goes up.", lambda w, eps: eps * (w > 0), lambda w, eps: -eps * (w < 0)),
        Mistake("Only the largest weight gets the whole eps that way: take the sign, do not divide by the largest weight.", lambda w, eps: eps * w / w.abs().max()),
        Mistake("You compare a weight with eps. It is compared with 0: what counts is its sign.", lambda w, eps: torch.where(w > eps, eps, -eps), lambda w, eps: torch.where(w >= eps, eps, -eps), lambda w, eps: eps * torch.where(w > eps, 1.0, -1.0) * (w != 0)),
        Mistake("You share eps out among the entries. Each of them may have the whole eps: take the sign.", lambda w, eps: eps * w / w.abs().sum()),
        Mistake("You change only the entry with the largest weight. Each entry has a limit of its own: change all of them.", lambda w, eps: eps * w.sign() * (w.abs() == w.abs().max())),
        Mistake("You clip w to ±eps, which leaves small weights small: take the sign, times eps.", lambda w, eps: w.clamp(-eps, eps)),
        Mistake("You push every entry the same way. The change must follow the sign of each weight: where it is negative, pushing down raises the output.", lambda w, eps: torch.full_like(w, eps), lambda w, eps: torch.full_like(w, -eps), lambda w, eps: eps * w.sum().sign().expand(len(w))),
        Mistake("Take w.sign(), not w.abs(): the direction matters, the size of the weight does not.", lambda w, eps: eps * w.abs()),
        Mistake(EVERY_ENTRY + "you multiply by eps twice.", lambda w, eps: eps**2 * w.sign()),
        Mistake(EVERY_ENTRY + "yours is twice or half as large.", lambda w, eps: 2 * eps * w.sign(), lambda w, eps: eps / 2 * w.sign()),
        Mistake(EVERY_ENTRY + "do not divide by the number of entries, or by its root.", lambda w, eps: eps * w.sign() / len(w), lambda w, eps: eps * w.sign() / len(w) ** 0.5),
        Mistake(EVERY_ENTRY + "it is in pixel units already, so do not divide by 255.", lambda w, eps: eps / 255 * w.sign()),
        Mistake("That number is the gain w·δ. Return the change δ itself, one entry for each weight.", _fall, lambda w, eps: eps * w.sign() @ w, lambda w, eps: _fall(w, eps).item()),
        Mistake("That is w after the change. Return the change δ alone: eps times a sign.", lambda w, eps: w + eps * w.sign()),
        Mistake(SMALL_WEIGHT + "A smooth step such as tanh is no sign.", *(lambda w, eps, k=k: eps * (k * w).tanh() for k in (1, 10, 100, 1000)), lambda w, eps: eps * w / (1 + w.abs())),
        Mistake(SMALL_WEIGHT + "Your guard against a division by 0 takes it away: the sign needs no division.", *(lambda w, eps, tiny=tiny: eps * w / (w.abs() + tiny) for tiny in TINY), *(lambda w, eps, tiny=tiny: eps * w / w.abs().clamp_min(tiny) for tiny in TINY)),
        Mistake(SMALL_WEIGHT + "Do not treat it as 0.", *(lambda w, eps, tiny=tiny: eps * w.sign() * (w.abs() > tiny) for tiny in TINY)),
    ],
    untouched=("w",),
    like="w",
    returns="one change for each weight",
    accepts=_is_worst,
    happened=_gain,
    tolerance=1e-6,
).register()  # fmt: skip


# --- margins, of which robust_loss takes the loss ---------------------------------------------------------------------


def _from_score(margins: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """Return a function that takes w, b, x, y, eps, and gives margins computed from w·x + b, y, w and eps."""
    return lambda w, b, x, y, eps: margins(x @ w + b, y, w, eps)


def _from_images(change: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """Return the same for margins of changed images; `change` gives them from x, y (n, 1), w and eps."""
    return lambda w, b, x, y, eps: y * (change(x, y[:, None], w, eps) @ w + b)


_worst_margins = _from_score(lambda s, y, w, eps: y * s - _fall(w, eps))


def _margin_mistakes(finish: Callable[[Tensor], Any]) -> list[Mistake]:
    """Return what goes wrong in the worst margins; `finish` computes the result from them."""

    def mistake(words: str, *margins: Callable[..., Tensor]) -> Mistake:
        return Mistake(words, *(lambda *arguments, m=m: finish(m(*arguments)) for m in margins))

    def falls(words: str, *falls: Callable[[Tensor, float], Any]) -> Mistake:
        return mistake(f"{words} {FALL}", *(_from_score(lambda s, y, w, eps, f=f: y * s - f(w, eps)) for f in falls))

    both = "You {0} the output w·x + b for both classes. An attack on an image with y = {1} {2} it: what the attack changes must not be multiplied by y."
    pixels = "You {} every pixel. The worst change goes up or down with the sign of each weight."
    return [
        mistake("eps takes no part in it: that is the result without an attack. " + FALL, _from_score(lambda s, y, w, eps: y * s)),
        mistake(both.format("lower", "−1", "raises") + " (The formula printed in the paper has this slip.)", _from_score(lambda s, y, w, eps: y * (s - _fall(w, eps)))),
        mistake(both.format("raise", "+1", "lowers"), _from_score(lambda s, y, w, eps: y * (s + _fall(w, eps)))),
        mistake("You attack the images of one class only. " + FALL, *(_from_score(lambda s, y, w, eps, k=k: y * s - _fall(w, eps) * (y == k)) for k in (1, -1))),
        mistake("You attack the model's answer, which helps an image that is wrong. Take the label y. " + FALL, _from_score(lambda s, y, w, eps: y * (s - s.sign() * _fall(w, eps)))),
        falls("You raise the margin: the attack helps the model.", lambda w, eps: -_fall(w, eps)),
        falls("That is the length ‖w‖₂. For a limit on every single pixel the sum of the absolute weights counts.", lambda w, eps: eps * w.norm()),
        falls("You sum the squares of the weights, or step along w itself instead of its sign.", lambda w, eps: eps * w @ w),
        falls("That is the largest weight alone, but all pixels change at once.", lambda w, eps: eps * w.abs().max()),
        falls("Weights of different sign cancel in their sum, as they do when every pixel of an image moves the same way: take absolute values first, or each weight's sign.", lambda w, eps: eps * w.sum().abs(), lambda w, eps: eps * w.sum(), lambda w, eps: -eps * w.sum()),
        falls("You take the mean of the absolute weights. All pixels change at once, so take the sum.", lambda w, eps: eps * w.abs().mean()),
        falls("That is an upper bound of the fall, which it does not reach.", lambda w, eps: eps * len(w) ** 0.5 * w.norm(), lambda w, eps: eps * len(w) * w.abs().max()),
        falls("You multiply by eps twice.", lambda w, eps: eps * _fall(w, eps)),
        falls("You subtract twice the fall, or half of it.", lambda w, eps: 2 * _fall(w, eps), lambda w, eps: _fall(w, eps) / 2),
        falls("You subtract eps itself, without the weights.", lambda w, eps: eps, lambda w, eps: eps * len(w)),
        falls("You forgot eps, or use a number of your own. Multiply by the eps that is passed in.", lambda w, eps: _fall(w, 1.0)),
        mistake(pixels.format("lower") + f" {FALL}", _from_images(lambda x, y, w, eps: x - eps)),
        mistake(pixels.format("raise") + f" {FALL}", _from_images(lambda x, y, w, eps: x + eps)),
        mistake("You clip the images. Here the change has no limit but eps. " + FALL, _from_images(lambda x, y, w, eps: (x - eps * y * w.sign()).clamp(0, 1))),
        mistake("The attack changes the pixels. b stays as it is, and takes no part in the fall.", lambda w, b, x, y, eps: _worst_margins(w, b, x, y, eps) - eps * b.abs()),
        mistake("Did you forget b? The margin is y·(w·x + b).", lambda w, b, x, y, eps: _worst_margins(w, 0 * b, x, y, eps)),
        mistake("y must multiply b, too: the margin is y·(w·x + b). Check your brackets.", lambda w, b, x, y, eps: _worst_margins(w, y * b, x, y, eps)),
        mistake("Did you forget y? The labels are −1 and +1, and the margin is y·(w·x + b).", _from_score(lambda s, y, w, eps: s - _fall(w, eps))),
        mistake("An image that is wrong without any attack counts as wrong: use y·(w·x + b), not its absolute value.", _from_score(lambda s, y, w, eps: s.abs() - _fall(w, eps))),
    ]  # fmt: skip


FALL = "The attack lowers every margin y·(w·x + b) by eps·‖w‖₁."
IGNORES_EPS = mistakes.ONLY_ARGUMENTS.format("sizes, labels and eps")


# --- exact_accuracy ---------------------------------------------------------------------------------------------------


def _classes_problem(
    eps: float, classes: int = 4, d: int = 12, n: int = 300, seed: int = 0, ahead: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Return a linear model, weight (classes, d) and bias, with images x (n, d), labels y and eps.

    `ahead` is added to the logit of class 0, so that its images stay right even for eps = 1.

    The model is wrong about some images, and no lead is within rounding of 0 or of its worst fall. The classes' weights
    differ in size, so that the nearest rival of an image is not always the one with the next logit.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, d, generator=generator) * torch.linspace(0.3, 1.7, classes)[:, None]
    bias = 0.4 * torch.randn(classes, generator=generator) - 0.5 * weight.sum(1)
    bias[0] += ahead
    x = torch.rand(6 * n, d, generator=generator)
    logits = x @ weight.T + bias
    y = (logits + 0.4 * torch.randn(len(x), classes, generator=generator)).argmax(1)
    leads, falls = _leads(weight, bias, x, y), _falls(weight, y, eps)
    others = F.one_hot(y, classes) == 0
    clear = ((leads.abs() > 1e-3) & ((leads - falls).abs() > 1e-3) | ~others).all(1)
    return weight, bias, x[clear][:n], y[clear][:n], eps


def _far_behind(eps: float, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Return a linear model with images, labels and eps, as `_classes_problem` does.

    Class 3 is far behind, and the last one that you would ask. Its weights are spread over all pixels, those of the
    other classes over a few: so the same eps gains it more, and often only this class overtakes the label.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.full((8, 1), 5).scatter(0, torch.tensor([[3]]), 60)
    seen = torch.rand(8, 60, generator=generator).argsort(1) < pixels
    weight = F.normalize(torch.randn(8, 60, generator=generator) * seen, dim=1)
    bias = -0.5 * weight.sum(1) - 0.4 * F.one_hot(torch.tensor(3), 8)
    x = torch.rand(200, 60, generator=generator)
    logits = x @ weight.T + bias
    y = (logits + 0.1 * torch.randn(logits.shape, generator=generator)).argmax(1)
    leads, falls = _leads(weight, bias, x, y), _falls(weight, y, eps)
    clear = ((leads.abs() > 1e-3) & ((leads - falls).abs() > 1e-3) | (F.one_hot(y, 8) == 1)).all(1)
    return weight, bias, x[clear], y[clear], eps


def _leads(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return z_y − z_j (n, classes)."""
    logits = x @ weight.T + bias
    return logits.gather(1, y[:, None]) - logits


def _falls(weight: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return by how much each z_y − z_j can fall (n, classes)."""
    return eps * (weight[y][:, None] - weight).abs().sum(2)


def _all_rivals(stays: Tensor, y: Tensor) -> float:
    """Return the share of images that stay ahead (n, classes) of each class but their own."""
    return stays.scatter(1, y[:, None], True).all(1).float().mean().item()


def _fallen(falls: Callable[[Tensor, Tensor, float], Tensor]) -> Callable[..., float]:
    """Return an answer in which z_y − z_j falls by something else, from weight, y and eps."""
    return lambda weight, bias, x, y, eps: _all_rivals(_leads(weight, bias, x, y) > falls(weight, y, eps), y)


def _of_leads(count: Callable[[Tensor, Tensor, Tensor], Any]) -> Callable[..., Any]:
    """Return an answer that counts otherwise, from the worst leads (n, classes), the clean ones and y."""

    def answer(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, eps: float) -> Any:
        leads = _leads(weight, bias, x, y)
        return count(leads - _falls(weight, y, eps), leads, y)

    return answer


def _next_class(logits: Tensor, y: Tensor) -> Tensor:
    """Return the class with the largest logit but that of y."""
    return logits.scatter(1, y[:, None], -float("inf")).argmax(1)


def _runner_up(worst: Tensor, leads: Tensor, y: Tensor) -> float:
    """Return the share of images that stay ahead of the class with the largest other logit."""
    return _positive(worst.gather(1, _next_class(-leads, y)[:, None]))


def _two_rivals(worst: Tensor, leads: Tensor, y: Tensor) -> float:
    """Return the share of images whose smallest lead is above the largest fall."""
    others = leads.scatter(1, y[:, None], float("inf"))
    return _positive(others.amin(1) - (leads - worst).amax(1))


def _nearest(k: int, distance: Callable[[Tensor], Tensor] | None = None) -> Callable[..., float]:
    """Return an answer that asks the k classes with the smallest lead, which may be divided by a size of w_y − w_j."""

    def answer(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, eps: float) -> float:
        leads = _leads(weight, bias, x, y)
        sizes = distance(weight[y][:, None] - weight) if distance else 1.0
        asked = (leads / sizes).scatter(1, y[:, None], torch.inf).topk(min(k, len(weight) - 1), largest=False).indices
        return (leads - _falls(weight, y, eps)).gather(1, asked).gt(0).all(1).float().mean().item()

    return answer


def _each_clipped(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, eps: float) -> float:
    """Return the share of images that stay ahead of each class under its own worst change, clipped."""
    changed = (x[:, None] - eps * (weight[y][:, None] - weight).sign()).clamp(0, 1)
    logits = torch.einsum("njd,kd->njk", changed, weight) + bias
    label = y[:, None].expand(-1, len(weight))[..., None]
    return _all_rivals(logits.gather(2, label)[..., 0] > logits.diagonal(dim1=1, dim2=2), y)


def _columns_of_all_labels(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, eps: float) -> float:
    """Return the share of entries of a table (n, n), in which an image has the logit of every label."""
    logits = x @ weight.T + bias
    rivals = range(len(weight))
    leads = [logits[:, y] - logits[:, [j]] > eps * (weight[y] - weight[j]).abs().sum(1) for j in rivals]
    return torch.stack([lead | (y == j) for j, lead in zip(rivals, leads, strict=True)]).all(0).float().mean().item()


def _of_average_rival(weight: Tensor, logits: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
    others = (weight.sum(0) - weight[y]) / (len(weight) - 1)
    return -eps * (weight[y] - others).sign()


def _attacked(change: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> Callable[..., float]:
    """Return the accuracy on changed images; `change` gives the changes from weight, logits, x, y and eps."""

    def answer(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, eps: float) -> float:
        changed = x + change(weight, x @ weight.T + bias, x, y, eps)
        return ((changed @ weight.T + bias).argmax(1) == y).float().mean().item()

    return answer


def _one_step(weight: Tensor, logits: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return eps * ((logits.softmax(1) - F.one_hot(y, len(weight))) @ weight).sign()


def _positive(values: Tensor) -> float:
    return (values > 0).float().mean().item()


def _seen_accuracy(function: Callable, weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, eps: float) -> float:
    return as_share(call_with_copies(function, weight, bias, x, y, eps), len(x))


LEAD_FALLS = "What can fall is the lead over class j, by eps·‖w_y − w_j‖₁."
OTHER_SIZES = mistakes.ONLY_ARGUMENTS.format("sizes, classes, labels and eps")
Exercise(
    "exact_accuracy",
    reference=exact_accuracy,
    cases=[
        Case("is the ordinary accuracy for eps = 0", [partial(_classes_problem, 0.0)], "An image is right when its label has the largest logit."),
        Case("is the exact accuracy under the worst change of size eps", [partial(_classes_problem, eps) for eps in (0.03, 0.06, 0.01)], "An image stays right when its label leads over each other class by more than this lead can fall."),
        Case("asks every class, also one that is far behind", [partial(_far_behind, eps, 0) for eps in (0.1, 0.08)], "A class that is far behind may gain more than the others from the same eps: ask all of them."),
        Case("works for other numbers of classes, pixels and images", [partial(_classes_problem, 0.02, 2, 9, 80, seed=3), partial(_classes_problem, 0.01, 10, 30, 120, seed=5), partial(_classes_problem, 0.03, 5, 7, 1, seed=1), partial(_classes_problem, 0.3, 3, 6, 60, seed=2, ahead=12.0)], OTHER_SIZES),
    ],
    mistakes=[
        Mistake("eps takes no part in it: that is the accuracy without an attack. " + LEAD_FALLS, _fallen(lambda weight, y, eps: torch.zeros(len(y), len(weight)))),
        Mistake("You let the logit of the label fall alone. The same change moves the other logit, too: take the difference of the two rows of weights.", _fallen(lambda weight, y, eps: eps * weight[y].abs().sum(1, keepdim=True).expand(-1, len(weight)))),
        Mistake("You lift the rival's logit alone. The same change moves the logit of the label, too: take the difference of the two rows of weights.", _fallen(lambda weight, y, eps: eps * weight.abs().sum(1).expand(len(y), -1))),
        Mistake("You add the two rows' sums of absolute weights. Where both weights have one sign, no change of the pixel does the worst to both: subtract the rows first.", _fallen(lambda weight, y, eps: eps * (weight[y].abs().sum(1, keepdim=True) + weight.abs().sum(1)))),
        Mistake("You subtract the two sums of absolute weights. Subtract the rows first, then take absolute values, then the sum.", _fallen(lambda weight, y, eps: eps * (weight[y].abs().sum(1, keepdim=True) - weight.abs().sum(1)).abs()), _fallen(lambda weight, y, eps: eps * (weight[y].abs().sum(1, keepdim=True) - weight.abs().sum(1)))),
        Mistake("Differences of other sign cancel in your sum: take absolute values before it.", _fallen(lambda weight, y, eps: eps * (weight[y][:, None] - weight).sum(2)), _fallen(lambda weight, y, eps: eps * (weight[y][:, None] - weight).sum(2).abs())),
        Mistake("That is the Euclidean length of the difference. For a limit on every single pixel the sum of its absolute values counts.", _fallen(lambda weight, y, eps: eps * (weight[y][:, None] - weight).norm(dim=2))),
        Mistake("That is the largest difference alone, but all pixels change at once.", _fallen(lambda weight, y, eps: eps * (weight[y][:, None] - weight).abs().amax(2))),
        Mistake("You take the mean of the absolute differences. All pixels change at once, so take the sum.", _fallen(lambda weight, y, eps: eps * (weight[y][:, None] - weight).abs().mean(2))),
        Mistake("The lead falls by eps·‖w_y − w_j‖₁: by twice as much, or half of it, in yours.", _fallen(lambda weight, y, eps: 2 * _falls(weight, y, eps)), _fallen(lambda weight, y, eps: _falls(weight, y, eps) / 2)),
        Mistake("You multiply by eps twice.", _fallen(lambda weight, y, eps: eps * _falls(weight, y, eps))),
        Mistake("You subtract eps, or eps times the number of pixels: a pixel counts by the size of its weight.", *(lambda weight, bias, x, y, eps, k=k: _all_rivals(_leads(weight, bias, x, y) > eps * x.shape[1] ** k, y) for k in (0, 1))),
        Mistake("A change of a pixel does not depend on the pixel's value: a black one, too, may change by eps.", lambda weight, bias, x, y, eps: _all_rivals(_leads(weight, bias, x, y) > eps * ((weight[y][:, None] - weight).abs() * x[:, None]).sum(2), y)),
        Mistake("The attacker changes the pixels. The bias stays as it is, and takes no part in the fall.", lambda weight, bias, x, y, eps: _all_rivals(_leads(weight, bias, x, y) > _falls(weight, y, eps) + eps * (bias[y][:, None] - bias).abs(), y)),
        Mistake("Every image gets the fall of one label, the first or the last. Each has a label of its own: index the rows of weight with y.", *(_fallen(lambda weight, y, eps, i=i: eps * (weight[y[i]] - weight).abs().sum(1).expand(len(y), -1)) for i in (0, -1))),
        Mistake("Probabilities are no linear function of x, so the formula does not hold for them. Take the logits, without softmax.", lambda weight, bias, x, y, eps: _all_rivals((p := (x @ weight.T + bias).softmax(1)).gather(1, y[:, None]) - p > _falls(weight, y, eps), y)),
        Mistake("You raise the lead: the attack helps the model.", _fallen(lambda weight, y, eps: -_falls(weight, y, eps))),
        Mistake("You ask the class with the next logit alone. Another one, farther behind, may come nearer for the same eps: ask all of them.", _of_leads(_runner_up), _attacked(lambda weight, logits, x, y, eps: -eps * (weight[y] - weight[_next_class(logits, y)]).sign())),
        Mistake("You ask the few classes with the next logits. Another one, farther behind, may come nearer for the same eps: ask all of them.", *map(_nearest, (2, 3, 4, 5))),
        Mistake("You ask the class at the least distance, measured in another norm than the attacker's. Ask all of them: eps·‖w_y − w_j‖₁ says which ones the attack reaches.", _nearest(1, lambda d: d.norm(dim=2)), _nearest(1, lambda d: d.abs().amax(2))),
        Mistake("You ask the class with the largest fall alone. Its lead may be larger still: ask all of them.", _of_leads(lambda worst, leads, y: _positive(worst.gather(1, (leads - worst).argmax(1)[:, None])))),
        Mistake("You leave out each class that is the label of any image. Leave out the label of the image itself.", _of_leads(lambda worst, leads, y: ((worst > 0) | torch.isin(torch.arange(worst.shape[1]), y)).all(1).float().mean().item())),
        Mistake("No image is left, for any eps: the label is among its own rivals. It never leads over itself, so leave it out.", _of_leads(lambda worst, leads, y: (worst > 0).all(1).float().mean().item())),
        Mistake("You forgot eps: the fall is eps times the sum of absolute values.", _fallen(lambda weight, y, eps: _falls(weight, y, 1.0))),
        Mistake("You take the smallest lead and the largest fall, and they may belong to two rivals. Compare each rival's lead with its own fall.", _of_leads(_two_rivals)),
        Mistake("The average of the other classes is no rival. Each class has a worst change of its own: ask all of them.", _attacked(_of_average_rival)),
        Mistake("One class alone counts in the end: each round of your loop replaces what the rounds before have found. Join them with &.", _of_leads(lambda worst, leads, y: ((worst[:, -1] > 0) | (y == worst.shape[1] - 1)).float().mean().item()), _of_leads(lambda worst, leads, y: ((worst[:, 0] > 0) | (y == 0)).float().mean().item())),
        Mistake("You leave out the first or the last class. Every class but the label is a rival.", _of_leads(lambda worst, leads, y: (worst > 0).scatter(1, y[:, None], True)[:, :-1].all(1).float().mean().item()), _of_leads(lambda worst, leads, y: (worst > 0).scatter(1, y[:, None], True)[:, 1:].all(1).float().mean().item())),
        Mistake("An image that is wrong without any attack counts as wrong: compare the lead itself, not its absolute value.", _of_leads(lambda worst, leads, y: _all_rivals(leads.abs() > leads - worst, y))),
        Mistake("You round the share. Return it as it is.", *(lambda *a, k=k: round(exact_accuracy(*a), k) for k in (1, 2, 3))),
        Mistake("A list of labels after the comma, [:, y], picks the logits of all labels for every image. Each image needs one entry, in the column of its own label: .gather, or the numbers of the rows before the comma.", _columns_of_all_labels),
        Mistake("An image is safe only if it stays ahead of every other class. You ask whether it stays ahead of any.", _of_leads(lambda worst, leads, y: (worst > 0).any(1).float().mean().item())),
        Mistake("You count pairs of an image and a rival. Count images: one counts if it stays ahead of all its rivals.", _of_leads(lambda worst, leads, y: _positive(worst[F.one_hot(y, worst.shape[1]) == 0])), _of_leads(lambda worst, leads, y: (worst > 0).scatter(1, y[:, None], True).float().mean().item())),
        Mistake("You count the images that the attack can break. Count those that stay right.", _of_leads(lambda worst, leads, y: 1 - _all_rivals(worst > 0, y))),
        Mistake("You divide by the images that are right without an attack. An accuracy is a share of all images.", _of_leads(lambda worst, leads, y: _all_rivals(worst > 0, y) / max(_all_rivals(leads > 0, y), 1e-9))),
        Mistake("You ask whether the model's answer stays as it is, and not whether it stays right: take the label y.", lambda weight, bias, x, y, eps: exact_accuracy(weight, bias, x, (x @ weight.T + bias).argmax(1), eps)),
        Mistake("That is what an attack along the gradient of the loss leaves, with one step or many: not always the worst change. Use the formula for each rival.", _attacked(_one_step)),
        Mistake("You attack the logit of the label alone, with the signs of its weights.", _attacked(lambda weight, logits, x, y, eps: -eps * weight[y].sign())),
        Mistake("You clip the images. Here the change has no limit but eps.", _attacked(lambda weight, logits, x, y, eps: (x + _one_step(weight, logits, x, y, eps)).clamp(0, 1) - x), _each_clipped),
        Mistake("Did you forget the bias? The logits are weight·x + bias.", lambda weight, bias, x, y, eps: exact_accuracy(weight, 0 * bias, x, y, eps)),
    ],
    untouched=("weight", "bias", "x", "y"),
    typical=partial(_classes_problem, 0.03, n=90),
    returns="one share between 0 and 1",
    observe=_seen_accuracy,
    tolerance=1e-6,
).register()  # fmt: skip


# --- to_uint8 ---------------------------------------------------------------------------------------------------------


def _to_uint8(x: Tensor) -> Tensor:
    return (255 * x).round().to(torch.uint8)


def _levels(function: Callable, x: Tensor) -> Tensor:
    """Return the levels in a type in which differences do not start again at 0."""
    levels = call_with_copies(function, x)
    kind = levels.dtype if isinstance(levels, Tensor) else f"a {type(levels).__name__}"
    hint = "Return a torch tensor that ends with .to(torch.uint8): an 8-bit image holds whole numbers from 0 to 255."
    expect(kind == torch.uint8, f"it returned {kind}.", hint)
    return as_tensor_like(levels, x.to(torch.uint8)).long()


def _pixels(levels: Tensor, shape: tuple[int, ...], between: float = 0.0) -> tuple[Tensor]:
    """Return an image, (2, …), with these levels in any order, each up to `between` levels away from a whole one."""
    generator = torch.Generator().manual_seed(0)
    mixed = levels[torch.randperm(len(levels), generator=generator)]
    return (((mixed + between * (2 * torch.rand(len(mixed), generator=generator) - 1)) / 255).view(2, *shape),)


def _stepped(step: int) -> tuple[Tensor]:
    """Return pixels of the levels 8 to 247, moved by so many levels, with the rounding errors of the move."""
    return ((torch.arange(8, 248).flip(0) / 255 + step / 255).view(2, 120),)


def _mislevelled(got: Tensor, right: Tensor, x: Tensor) -> str:
    worst = (got - right).abs().argmax()  # an example on which the fault shows most
    pixel, became, wanted = (values.flatten()[worst] for values in (x, got, right))
    return f"{(got != right).sum()} of {len(x.flatten())} pixels are wrong: {pixel:.6g} is {255 * pixel:.8g} levels, became {became}, right is {wanted}."


WRAPS = "With 256, white becomes 256, which has no room in 8 bits and starts again at 0. The largest level is 255."
IN_RANGE = "x is in [0, 1] already. "
NEAREST_LEVEL = "Each pixel goes to the nearest of the levels k/255."
Exercise(
    "to_uint8",
    reference=_to_uint8,
    cases=[
        Case("black is 0 and white is 255", [lambda: (torch.tensor([0.0, 0.31, 0.75, 1.0]).view(2, 1, 1, 2),)], "Multiply by 255: the levels go from 0 to 255."),
        Case("a dark image stays dark, and a bright one bright", [lambda: (torch.tensor([[0.2, 0.31], [0.4, 0.2]]),), lambda: (torch.tensor([[0.71, 0.6], [1.0, 0.8]]),)], IN_RANGE + "A pixel's level does not depend on the other pixels."),
        Case("all 256 levels k/255 come back as they were", [lambda: _pixels(torch.arange(256), (1, 8, 16))], NEAREST_LEVEL),
        Case("a step of 8/255 stays a step of 8 levels", [partial(_stepped, 8), partial(_stepped, -8)], NEAREST_LEVEL),
        Case("values between two levels go to the nearest one", [lambda: _pixels(torch.arange(1, 255), (127,), 0.498)], NEAREST_LEVEL),
        Case("works for images of every shape", [lambda: _pixels(torch.arange(60, 210), (3, 5, 5), 0.4), lambda: _pixels(torch.arange(100, 122), (11,), 0.4)], "Take nothing but x."),
    ],
    mistakes=[
        Mistake("Converting to uint8 cuts off the fraction: 254.75 becomes 254. Round first.", lambda x: (255 * x).byte()),
        Mistake("You round up, so 3.2 becomes 4. Take the nearest level.", lambda x: (255 * x).ceil().byte(), lambda x: (255 * x + 1).clamp(max=255).byte()),
        Mistake("You round x itself. Multiply by 255 first, then round.", lambda x: 255 * x.round().byte(), lambda x: (255 * x.round(decimals=1)).round().byte(), lambda x: (255 * x.round(decimals=2)).round().byte()),
        Mistake("You convert to whole numbers before you multiply, which leaves black and white only.", lambda x: 255 * x.byte()),
        Mistake("Multiply by 255 before you convert: 1.0 alone becomes the level 1.", lambda x: x.byte(), lambda x: x.round().byte(), lambda x: (x / 255).byte()),
        Mistake("Rounding takes the nearest whole number already: do not add 1 or a half as well.", lambda x: (255 * x + 1).long().byte(), lambda x: (255 * x + 1).round().long().byte(), lambda x: (255 * x + 0.5).round().long().byte(), lambda x: (255 * x + 0.5).round().clamp(max=255).byte()),
        Mistake(IN_RANGE + "A level is proportional to it: 255·x, without a root or a power.", lambda x: _to_uint8(x.sqrt()), lambda x: _to_uint8(x**2), lambda x: _to_uint8(x ** (1 / 2.2)), lambda x: _to_uint8(x**2.2)),
        Mistake(WRAPS, lambda x: (256 * x).long().byte(), lambda x: (256 * x).round().long().byte()),
        Mistake("256·x cut off gives 256 bins of equal width, not the nearest of the levels k/255: multiply by 255, and round.", lambda x: (256 * x).clamp(max=255).byte(), lambda x: (255.999 * x).byte(), lambda x: (255.99 * x).byte()),
        Mistake("Multiply by 255, not by 256: white is the level 255, and grey is 255·x.", lambda x: (256 * x).round().clamp(max=255).byte()),
        Mistake("Multiply by 255: white is the level 255, the largest in 8 bits without a sign.", *(lambda x, k=k: (k * x).round().byte() for k in (254, 127, 128, 100)), lambda x: (254 * x + 1).round().byte()),
        Mistake("Black is 0 and white is 255: you turned the image into its negative.", lambda x: 255 - _to_uint8(x)),
        Mistake(IN_RANGE + "You map [−1, 1] to the levels.", lambda x: (127.5 * (x + 1)).round().byte()),
        Mistake(IN_RANGE + "Do not divide by its maximum: a dark image must stay dark.", lambda x: _to_uint8(x / x.max())),
        Mistake(IN_RANGE + "Do not stretch it from its minimum to its maximum: a dark image must stay dark.", lambda x: _to_uint8((x - x.min()) / (x.max() - x.min()))),
        Mistake("16 bits are too few for the fractions of the levels. Compute in the type of x.", lambda x: (255 * x.half()).round().byte(), lambda x: (255 * x.bfloat16()).round().byte()),
        Mistake("You add a little less than a half before the fraction is cut off, so some pixels miss their nearest level.", lambda x: (255 * x + 0.49).byte(), lambda x: (255 * x + 0.4).byte()),
        Mistake("You leave out black or white: the levels go from 0 to 255, both included.", lambda x: _to_uint8(x).clamp(0, 254), lambda x: _to_uint8(x).clamp(1, 255), lambda x: _to_uint8(x) % 255),
    ],
    batched=("x",),
    untouched=("x",),
    returns="whole numbers of the type torch.uint8, in the shape of x",
    observe=_levels,
    happened=_mislevelled,
    tolerance=0,
).register()  # fmt: skip


# --- robust_loss ------------------------------------------------------------------------------------------------------


def _mean_loss(margins: Tensor) -> Tensor:
    return F.softplus(-margins).mean()


def _loss_and_gradients(function: Callable, w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> dict[str, Any]:
    value = as_number(call_with_copies(function, w, b, x, y, eps))
    w, b = w.clone().requires_grad_(), b.clone().requires_grad_()
    loss = call_with_copies(function, w, b, x, y, eps)
    graph = isinstance(loss, Tensor) and loss.requires_grad
    expect(graph, "there is no gradient: no graph leads from the result back to w and b.", NO_GRAPH)
    gradients = torch.autograd.grad(loss, (w, b), allow_unused=True, materialize_grads=True)
    finite = all(v.isfinite().all() for v in (loss, *gradients))
    expect(finite, f"the loss is {value:.3g}; it or its gradient is infinite or NaN.", OVERFLOW)
    return {"the loss": value, "its gradient for w": gradients[0], "its gradient for b": gradients[1]}


def _mean(loss: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an answer with another loss of an image, from its worst margin."""
    return lambda *arguments: loss(_worst_margins(*arguments)).mean()


def _cut(loss: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> Callable[..., Tensor]:
    """Return an answer whose gradient does not reach everything, from w, b, x, y and the fall of the margins."""
    return lambda w, b, x, y, eps: _mean_loss(loss(w, b, x, y, _fall(w, eps)))


def _lost(got: dict[str, Any], right: dict[str, Any], *arguments: Any) -> str:
    """Say how far the loss is off or, if it is right, which gradient is wrong."""
    loss, wanted = got["the loss"], right["the loss"]
    if not close(loss, wanted, 1e-4):
        return f"with eps = {arguments[-1]} the loss is {loss:.4g}, right is {wanted:.4g}."
    wrong = [name for name in right if not close(got[name], right[name], 1e-4)]
    return f"with eps = {arguments[-1]} the loss is right, {wanted:.4g}, and {' and '.join(wrong)} is not."


def _begins(answer: Callable) -> None:
    """Refuse an answer whose loss or gradient is wrong at w = 0; ‖w‖₁ may have any slope from −1 to 1 there."""
    w, b, x, y, _ = _linear_problem(0.1)
    w, b, eps = torch.zeros_like(w).requires_grad_(), torch.zeros_like(b), 1.0
    loss = call_with_copies(answer, w, b, x, y, eps)
    hint = "‖w‖₁ is the sum of w.abs(), as it is: the root of a square has no gradient at 0, and a number added under the root changes the sum."
    value, right = as_number(loss), math.log(2)
    expect(
        close(value, right, 1e-4), f"for w = 0 and b = 0 the loss is {value:.5g}, right is log 2 = {right:.5g}.", hint
    )
    (gradient,) = torch.autograd.grad(loss, w)
    right = -0.5 * (y[:, None] * x).mean(0)  # without ‖w‖₁
    what = (
        f"for w = 0 its gradient for w goes from {gradient.min():.3g} to {gradient.max():.3g}. Training begins there."
    )
    expect(bool(((gradient - right).abs() <= 0.5 * eps + 1e-4).all()), what, hint)


NO_GRAPH = (
    "Return the tensor itself, without .item(), float(), .detach() or torch.no_grad(): training needs its gradient."
)
OVERFLOW = "exp(z) is infinite in float32 for z above 88, and sigmoid(−z) is 0, whose logarithm is −∞: the loss is infinite, or its gradient NaN. F.softplus(z) and −F.logsigmoid(−z) avoid it."
LIMITED = "You limit the loss of an image whose margin is far below 0, and with it its gradient: there it must grow like −margin."
FORM = "The loss of an image is log(1 + exp(−margin)), with the worst margin."
PASSED_IN = (
    "Build the loss from the very w and b that are passed in, without .detach(), .data, .item() or torch.tensor(…)."
)
Exercise(
    "robust_loss",
    reference=worst_case_loss,
    cases=[
        Case("is the mean logistic loss for eps = 0", [partial(_linear_problem, 0.0)], FORM),
        Case("is the loss under the worst change of size eps", [partial(_linear_problem, 0.1), partial(_linear_problem, 0.03)], FALL + " The gradient for w comes through w·x and through ‖w‖₁."),
        Property("can begin to train, at w = 0", _begins),
        Case("is finite for large margins", [partial(_linear_problem, 0.1, scale=30.0)], OVERFLOW),
        Case("works for other sizes of images and other numbers of them", [partial(_linear_problem, 0.2, 7, 60, seed=20), partial(_linear_problem, 0.1, 7, 1, seed=20)], IGNORES_EPS),
    ],
    mistakes=[
        Mistake(OVERFLOW, _mean(lambda m: torch.log(1 + torch.exp(-m))), _mean(lambda m: -torch.log(torch.sigmoid(m)))),
        Mistake(LIMITED, *(_mean(lambda m, k=k: torch.log(1 + torch.exp((-m).clamp(max=k)))) for k in (10, 20, 50, 80, 88))),
        Mistake(LIMITED, *(_mean(lambda m, tiny=tiny: -torch.log(torch.sigmoid(m) + tiny)) for tiny in (1e-6, 1e-8, 1e-10, 1e-12)), lambda *a: F.binary_cross_entropy(torch.sigmoid(_worst_margins(*a)), torch.ones_like(a[3]))),
        *_margin_mistakes(_mean_loss),
        Mistake("Take the mean over the images, not the sum.", lambda *a: worst_case_loss(*a) * len(a[2])),
        Mistake("Take the mean over the images, not the largest loss: the worst case is over the change of each image.", lambda *a: F.softplus(-_worst_margins(*a)).max()),
        Mistake("Take the mean last: the mean of the losses is not the loss of the mean margin.", lambda *a: F.softplus(-_worst_margins(*a).mean())),
        Mistake("Check the sign: a large margin is good and must give a small loss.", _mean(F.softplus)),
        Mistake("The sign is wrong: a loss is small when the model is right, and never negative.", _mean(lambda m: -F.softplus(-m)), _mean(lambda m: -F.softplus(m))),
        Mistake("You add eps·‖w‖₁ to the loss or subtract it, as an ordinary penalty. It belongs inside the loss: the attack lowers every margin by it.", *(lambda w, b, x, y, eps, k=k: worst_case_loss(w, b, x, y, 0) + k * _fall(w, eps) for k in (1, -1))),
        Mistake("You take the mean of the losses with and without the attack. Asked for is the one under the worst change alone.", lambda *a: (worst_case_loss(*a) + worst_case_loss(*a[:4], 0)) / 2),
        Mistake("That is the mean of −margin. " + FORM, _mean(lambda m: -m)),
        Mistake("relu cuts the loss off at 0, as in the hinge loss. " + FORM, _mean(lambda m: F.relu(1 - m)), _mean(lambda m: F.relu(-m))),
        Mistake("That is exp(−margin), without log(1 + …). " + FORM, _mean(lambda m: torch.exp(-m))),
        Mistake("That is the mean probability of a mistake. " + FORM, _mean(lambda m: torch.sigmoid(-m))),
        Mistake("Use the natural logarithm, torch.log. " + FORM, _mean(lambda m: F.softplus(-m) / math.log(2)), _mean(lambda m: F.softplus(-m) / math.log(10))),
        Mistake("That function wants labels 0 and 1, and yours are −1 and +1. " + FORM, *(lambda w, b, x, y, eps, k=k: F.binary_cross_entropy_with_logits(x @ w + b - k * y * _fall(w, eps), y) for k in (0, 1))),
        Mistake("That is the error rate, which has no gradient. " + FORM, lambda *a: (_worst_margins(*a) < 0).float().mean()),
        Mistake("Neither w nor b takes part in the gradient. " + PASSED_IN, _cut(lambda w, b, x, y, fall: (y * (x @ w + b) - fall).detach() + 0 * w.sum())),
        Mistake("eps·‖w‖₁ takes no part in the gradient. Take it from the w passed in, without .item() or .detach().", _cut(lambda w, b, x, y, fall: y * (x @ w + b) - fall.detach())),
        Mistake("Only eps·‖w‖₁ takes part in the gradient. " + PASSED_IN, _cut(lambda w, b, x, y, fall: y * (x @ w + b).detach() - fall)),
        Mistake("w·x takes no part in the gradient. " + PASSED_IN, _cut(lambda w, b, x, y, fall: y * (x @ w.detach() + b) - fall), _cut(lambda w, b, x, y, fall: y * (x @ w.detach() + b) - fall.detach())),
        Mistake("b takes no part in the gradient. " + PASSED_IN, _cut(lambda w, b, x, y, fall: y * (x @ w + b.detach()) - fall)),
    ],
    untouched=("w", "b", "x", "y"),
    returns="one number",
    observe=_loss_and_gradients,
    happened=_lost,
    tolerance=1e-4,
).register()  # fmt: skip
