"""Exercises of chapter 02: one gradient step, a loss that does not fade, and the share of images that a step fools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import attacks, evaluation
from . import inputs, mistakes
from .engine import expect
from .exercise import Case, Exercise
from .mistakes import Mistake, gradient_step, l2_norm, l2_normalized, max_normalized
from .properties import as_share, broadcast_like, call_with_copies, close, loss_gradient, misplaced, norms

# --- one gradient step ------------------------------------------------------------------------------------------------


def _images(
    eps: float, n: int = 5, sizes: tuple = (inputs.SHAPE, inputs.CLASSES), low: float = 0.3, part: slice = slice(None), blind: int = 0, slope: float = 1.0
) -> tuple[nn.Module, Tensor, Tensor, float]:  # fmt: skip
    """Return what one step is given: a part of n images with pixels in [low, 1 - low], or of many black and white ones.

    The model does not look at the first `blind` pixels; `slope` makes its gradients larger or smaller.
    """
    model = inputs.unsaturated_network(*sizes)
    x, y = (inputs.labelled_images if low else inputs.black_and_white_images)(model, n, sizes[0])
    model[1].weight.data[:, :blind] = 0.0
    model[3].weight.data *= slope
    return model, x[part], y[part], eps


def _stepping(
    sign: int, *, size: Callable[[float], float] | None = None, finish: Callable | None = None, **keywords: Any
) -> Callable[..., Tensor]:
    """Return an answer that makes mistakes.

    Args:
        sign: 1 away from the labels, −1 towards them. size: of the step, from eps.
        finish: what becomes of the new image, from it, x and eps; default: it is clipped. keywords: of `gradient_step`.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        new = gradient_step(model, x, y, sign * (size(eps) if size else eps), **keywords)
        return finish(new, x, eps) if finish else new.clamp(0, 1)

    return answer


def _of_one_hot(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return a loss for `gradient_step` from one that takes logits and one-hot labels, both (N, K)."""
    return lambda logits, y, reduction: loss(logits, F.one_hot(y, logits.shape[1]).float()).sum()


OTHER_LOSSES = [_of_one_hot(loss) for loss in (
    lambda z, y: (z - 1e9 * y).amax(1) - (z * y).sum(1),  # the margin
    lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none"), lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1, reduction="none"),
    lambda z, y: (z - y) ** 2, lambda z, y: (z.softmax(1) - y) ** 2, lambda z, y: z, lambda z, y: z.amax(1), lambda z, y: -z.amax(1), lambda z, y: z.logsumexp(1),
)]  # fmt: skip


def _sparing(attack: Callable[..., Tensor], spared: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return an answer that leaves images as they are, chosen from where the model says y before and after the step."""

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        new = attack(model, x, y, eps)
        still = spared(*(model(v).argmax(1) == y for v in (x, new)))
        return torch.where(broadcast_like(still.expand(len(x))), x, new)

    return answer


def _step_mistakes(go: Callable[..., Callable], label: str) -> list[Mistake]:
    """Return what goes wrong in any gradient step, and where its image is clipped."""
    less_likely = "Your step makes the target less likely: it must go against the gradient of the loss for the target, just once. Count your minus signs."
    another = "You differentiate another loss. Take the cross-entropy, from the logits and the labels as they are."
    black = "You clip to {}. The limits are those of every image: black is 0, and white is 1."
    return [
        Mistake("Nothing changed. Do you return x instead of the new image?", lambda model, x, *_: x),
        Mistake(mistakes.WRONG_SIGN if label == "y" else less_likely, go(scale=-1)),
        Mistake(mistakes.CHANGE_ALONE.format(""), go(finish=lambda new, x, eps: new - x), go(finish=lambda new, x, eps: (new - x).clamp(0, 1))),
        Mistake("That is the gradient. Return the changed image: x plus a step along it.", lambda model, x, y, eps: loss_gradient(model, x, y), lambda model, x, y, eps: loss_gradient(model, x, y) / len(x)),
        Mistake("Every step down is lost: a pixel may get darker, too. Clip the new image to [0, 1], and not the change.", *(go(finish=lambda new, x, eps, high=high: (x + (new - x).clamp_min(0)).clamp_max(high)) for high in (1, torch.inf))),
        Mistake("Every step up is lost: a pixel may get brighter, too.", *(go(finish=lambda new, x, eps, low=low: (x + (new - x).clamp_max(0)).clamp_min(low)) for low in (0, -torch.inf))),
        *mistakes.loss_mistakes(go, label),
        Mistake(another, *(go(loss=loss) for loss in OTHER_LOSSES)),
        Mistake(f"You use the {label} of the first image for all of them. Each image has its own.", lambda model, x, y, eps: go()(model, x, y[:1].expand(len(y)), eps)),
        Mistake("Only the first image moves. Take the loss over all images of the batch.", _sparing(go(), lambda before, _: torch.arange(len(before)) > 0)),
        Mistake("You leave images as they are because of what the model makes of them. Every image takes its step, whether the model is right about it or wrong, before or after.", *(_sparing(go(), spared) for spared in (lambda before, _: before, lambda before, _: ~before, lambda _, after: after, lambda _, after: ~after, lambda before, _: before.all(), lambda before, _: ~before.any()))),
        Mistake("Every pixel moved the same way. Take the gradient with respect to x, not the loss, and no absolute value.", go(move=torch.ones_like), go(move=torch.ones_like, scale=-1)),
        Mistake("You multiply by eps twice.", go(size=lambda eps: eps**2)),
        Mistake("Your step has another size than eps: multiply by eps, and by nothing else.", go(scale=2), go(scale=0.5), *(lambda model, x, y, eps, f=f: go(scale=f(x))(model, x, y, eps) for f in (len, lambda x: 1 / len(x), lambda x: 1 / x[0].numel(), lambda x: x[0].numel() ** -0.5))),
        Mistake("eps is in pixel units already: do not multiply or divide by 255.", go(scale=1 / 255), go(scale=255)),
        Mistake("Did you forget to multiply by eps? Your step has the size 1.", go(size=lambda eps: 1.0), go(size=lambda eps: 1.0, finish=lambda new, x, eps: new)),
        Mistake("Pixels go from 0 to 1 here: do not multiply by 255.", go(finish=lambda new, x, eps: 255 * new), go(finish=lambda new, x, eps: 255 * new.clamp(0, 1)), go(finish=lambda new, x, eps: (255 * new).clamp(0, 255))),
        Mistake("There is nothing blacker than 0 or whiter than 1: end with .clamp(0, 1).", go(finish=lambda new, x, eps: new)),
        Mistake("White is 1, not 255, and both ends count: end with .clamp(0, 1).", go(finish=lambda new, x, eps: new.clamp_min(0))),
        Mistake("Black is 0, not −1, and both ends count: end with .clamp(0, 1).", go(finish=lambda new, x, eps: new.clamp_max(1))),
        Mistake(mistakes.LEFT_OUT.format("0 or 1: use .clamp(0, 1)"), go(finish=lambda new, x, eps: torch.where((new < 0) | (new > 1), x, new))),
        Mistake("You stretch the values to [0, 1]. Clip them: what is inside stays as it is.", go(finish=lambda new, x, eps: (new - new.min()) / (new.max() - new.min()))),
        Mistake("You round the pixels. Leave them as they are.", go(finish=lambda new, x, eps: (255 * new.clamp(0, 1)).round() / 255), go(finish=lambda new, x, eps: (255 * new.clamp(0, 1)).floor() / 255)),
        Mistake(black.format("the smallest and the largest value of x"), go(finish=lambda new, x, eps: new.clamp(x.min(), x.max()))),
        Mistake(black.format("±eps, which is a range around black"), go(finish=lambda new, x, eps: new.clamp(-eps, eps)), go(finish=lambda new, x, eps: new.clamp(0, eps))),
        Mistake("You multiply x by the step. Add the step to x.", go(finish=lambda new, x, eps: (x * (1 + new - x)).clamp(0, 1)), go(finish=lambda new, x, eps: (x * (new - x)).clamp(0, 1))),
    ]  # fmt: skip


def _misstepped(size: Callable[[Tensor], Tensor], moved: str) -> Callable[..., str]:
    """Return a function that says in numbers how two steps differ; `size` is that of a change, `moved` in words."""

    def happened(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> str:
        low, high, low_right, high_right = (f(size(v - x)) for v in (got, right) for f in (torch.min, torch.max))
        setting = (
            f"with eps = {eps} {moved} by {low:.4g} to {high:.4g}, right are {low_right:.4g} to {high_right:.4g}; "
            + (f"the values go from {got.min():.3g} to {got.max():.3g}; " if got.min() < 0 or got.max() > 1 else "")
        )
        return misplaced(setting, model, y, x, got, right)

    return happened


_others = partial(_images, 0.09, n=4, sizes=(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES))
EVERY_EPS = Case("takes every eps, and changes nothing for eps = 0", [partial(_images, eps) for eps in (0.02, 0.13, 0.0)], "Use the eps that is passed in: the step is eps times a direction.")  # fmt: skip
IN_BOX = Case("stays inside [0, 1]", [partial(_images, 0.09, low=0.0)], "Take the step everywhere, then clip the new image to [0, 1]: not the gradient, and not the change.")  # fmt: skip
EVERY_IMAGE = Case("moves every image, whatever the model makes of it", [partial(_images, 0.003, n=2), partial(_images, 0.09, part=slice(2, None))], "Every image takes its step, whether the model is right about it or wrong.")  # fmt: skip


# --- targeted_fgsm -----------------------------------------------------------------------------------------------------


def _within_eps(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> bool:
    """Tell whether the step is right, where a pixel whose gradient is 0 may go either way, up to eps."""
    free = (loss_gradient(model, x, y) == 0) & ((got - x).abs() <= eps + 1e-5)
    return close(torch.where(free, right, got), right)


TAKE = "Take its sign, times eps: every pixel moves by eps."
_towards = partial(_stepping, -1)
_into_ball = partial(_towards, size=lambda eps: 1.0, finish=lambda new, x, eps: mistakes.project(new, x, eps))


def _targeted_fgsm(model: nn.Module, x: Tensor, target: Tensor, eps: float) -> Tensor:
    return gradient_step(model, x, target, -eps).clamp(0, 1)


Exercise(
    "targeted_fgsm",
    reference=_targeted_fgsm,
    cases=[
        Case("moves every pixel by eps, towards the target", [partial(_images, 0.09)], "Differentiate F.cross_entropy of model(x) and target with respect to x; only the sign of that counts, and the direction."),
        EVERY_EPS,
        IN_BOX,
        EVERY_IMAGE,
        Case("moves no pixel by more than eps, not even one that the loss does not depend on", [partial(_images, 0.09, blind=9)], "Where the gradient is 0, its sign is 0, too: the pixel may stay."),
        Case("moves every pixel by eps where the gradient is small", [partial(_images, 0.09, slope=1e-10)], f"Only the sign of the gradient counts, however small it is. {TAKE}"),
        Case(mistakes.NO_CHANCE, [partial(_images, 0.09, slope=400.0, part=slice(2, None))], "A logarithm of 0 is −∞, and its gradient NaN. Which loss starts from logits?"),
        Case("works for other sizes of images and numbers of classes", [_others], mistakes.FROM_MODEL),
    ],
    mistakes=[
        *_step_mistakes(_towards, "target"),
        *mistakes.sign_mistakes(_towards, "eps"),
        Mistake(mistakes.LOG_OF_ZERO, _towards(loss=mistakes.log_of_softmax)),
        Mistake(mistakes.EATEN, *(_towards(move=lambda g, tiny=tiny: g / (g.abs() + tiny)) for tiny in (1e-6, 1e-8)), _towards(move=lambda g: g / g.abs().clamp_min(1e-8)), _towards(move=lambda g: g.sign() * (g.abs() > 1e-6))),
        Mistake(f"You add the gradient itself. {TAKE}", _towards(move=lambda g: g, size=lambda eps: 1.0), _towards(move=lambda g: g / len(g), size=lambda eps: 1.0)),
        Mistake(f"You divide the gradient by a number of the whole batch. {TAKE}", *(_towards(move=move) for move in (lambda g: g / g.norm(), lambda g: g / g.abs().max(), lambda g: g / g.abs().mean(), lambda g: g / g.std()))),
        Mistake("You take several steps. Here it is one, of the size eps.", *(lambda model, x, y, eps, n=n, size=size: mistakes.pgd(model, x, y, eps, n, -size(eps, n)) for n in (2, 3, 5, 10, 20, 40) for size in (lambda eps, n: eps / n, lambda eps, n: eps))),
        Mistake(f"You clip the gradient to ±eps, which leaves small entries small. {TAKE}", _into_ball(move=lambda g: g), _into_ball(move=lambda g: g / len(g))),
        Mistake(f"You clip the gradient to ±1, which leaves small entries small. {TAKE}", _towards(move=lambda g: g.clamp(-1, 1)), _towards(move=lambda g: (g / len(g)).clamp(-1, 1))),
    ],
    batched=("x", "target"),
    untouched=("model", "x", "target"),
    accepts=_within_eps,
    happened=_misstepped(torch.abs, "the pixels changed"),
    explain=mistakes.some_still,
    library=(attacks.fgsm, attacks.pgd),
).register()  # fmt: skip


# --- log_odds ---------------------------------------------------------------------------------------------------------


def _logits(n: int, classes: int, spread: float = 3.0, shift: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits (n, classes) with this spread around a shift, and labels that are not always the largest."""
    generator = torch.Generator().manual_seed(seed)
    logits = shift + spread * torch.randn(n, classes, generator=generator)
    return logits, (logits.argmax(1) + torch.arange(n) % 2 * (1 + torch.arange(n) % (classes - 1))) % classes


def _shifted(shift: float) -> tuple[Tensor, Tensor]:
    """Return logits far from 0 and labels; in eighths, whose differences float32 holds exactly."""
    logits, y = _logits(6, 10)
    return shift + (8 * logits).round() / 8, y


def _tied(n: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return logits in which another class has exactly the logit of the label."""
    logits, y = _logits(n, classes, seed=4)
    return logits.scatter(1, (y.unsqueeze(1) + 1) % classes, logits.gather(1, y.unsqueeze(1))), y


def _sure_and_right(n: int, classes: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return logits up to 1,500 of a model that gives each image its label with a lead of 400 or more.

    They are whole numbers, so that float32 rounds none of their differences, and images lie far from one another.
    `shift` is added to all of them.
    """
    logits, y = _logits(n, classes, 100.0, seed=3)
    y = logits.argmax(1)
    logits = logits.scatter_add(1, y.unsqueeze(1), torch.full((n, 1), 400.0)) + 200.0 * torch.arange(n).unsqueeze(1)
    return logits.round() + shift, y


def _log_odds(logits: Tensor, y: Tensor) -> Tensor:
    return _without(logits, y).logsumexp(1) - _of_label(logits, y)


def _observed_log_odds(answer: Callable[..., Any], logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-odds (N,) of an answer and their gradient (N, K), or refuse what is no loss of each image."""
    leaf = logits.clone().requires_grad_()
    value = call_with_copies(answer, leaf, y)
    expect(
        isinstance(value, Tensor),
        f"it returned a {type(value).__name__}.",
        "Return a tensor with one number for each image.",
    )
    shapes = f"of {len(y)} images you return the shape {tuple(value.shape)}, right is ({len(y)},)."
    expect(
        value.shape == y.shape,
        shapes,
        "Return one number for each image: no mean and no sum over the images, and .squeeze(1) after a gather.",
    )
    far = "A probability has rounded to 0 or 1, or an exponential has become infinite. Stay with the logits: torch.logsumexp takes care of both."
    expect(value.isfinite().all(), "the result contains NaN or infinite values.", far)
    expect(
        value.requires_grad,
        "the result has no gradient.",
        "An attack differentiates it: no .detach(), .item(), NumPy or no_grad.",
    )
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    expect(gradient.isfinite().all(), "its gradient contains NaN or infinite values.", far)
    return value.detach(), gradient


def _misjudged(got: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], logits: Tensor, y: Tensor) -> str:
    """Return in words on which image the log-odds, or else an entry of their gradient, are farthest from right."""
    (mine, slope), (best, right_slope) = got, right
    if close(mine, best, 1e-4):
        image, k = divmod(int((slope - right_slope).abs().argmax()), logits.shape[1])
        mine, best, what = slope[:, k], right_slope[:, k], f"gradient with respect to the logit of class {k}"
    else:
        image, what = int((mine - best).abs().argmax()), "log-odds"
    few = ", ".join(f"{v:.3g}" for v in logits[image, :4].tolist())
    return f"for the logits {few}, … and y = {y[image]} your {what} is {mine[image]:.3g}, right is {best[image]:.3g}."


def _without(logits: Tensor, y: Tensor, instead: float = -torch.inf) -> Tensor:
    """Return the logits with another number in the place of the label's."""
    return logits.scatter(1, y.unsqueeze(1), instead)


def _of_label(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y.unsqueeze(1)).squeeze(1)


def _from_probability(guard: float) -> Callable[..., Tensor]:
    """Return an answer that goes by way of the probability of the label."""

    def answer(logits: Tensor, y: Tensor) -> Tensor:
        p = _of_label(logits.softmax(1), y)
        return (1 - p + guard).log() - (p + guard).log()

    return answer


OTHERS = "The sum goes over all classes but y, "
Exercise(
    "log_odds",
    reference=_log_odds,
    cases=[
        Case("is the logarithm of the odds against y", [partial(_logits, 6, 10), partial(_logits, 6, 10, 1.0, 0.5, 1)], OTHERS + "of the exponentials of their logits; its logarithm minus the logit of y."),
        Case("does not fade where the model is very sure", [partial(_logits, 6, 10, 60.0), partial(_logits, 4, 10, 300.0, seed=2), partial(_sure_and_right, 6, 10)], "Stay with the logits: what is computed from a rounded probability has lost its gradient."),
        Case("is the same when all logits rise or fall together", [partial(_shifted, -500.0), partial(_shifted, 500.0), partial(_sure_and_right, 6, 10, -3000.0)], "Only differences of logits count: no number of your own stands among them."),
        Case("counts a class that has the same logit as y", [partial(_tied, 5, 10), partial(_tied, 3, 2)], "Leave y out by its place, not by its value: another class may have the same logit."),
        Case("works for other numbers of classes", [partial(_logits, 5, 3), partial(_logits, 3, 2)], "Take the number of classes from logits."),
    ],
    mistakes=[
        Mistake("That is the cross-entropy L. Return m: without log(1 + …) around it, and with a sum that leaves out y.", lambda z, y: z.logsumexp(1) - _of_label(z, y), lambda z, y: F.softplus(_log_odds(z, y))),
        Mistake("Your sign is turned round: a step up this loss would make y more likely.", lambda z, y: -_log_odds(z, y)),
        Mistake("That is the negative cross-entropy: the logarithm of y's own probability.", lambda z, y: _of_label(z, y) - z.logsumexp(1)),
        Mistake("That is the margin: you look at the largest other logit. " + OTHERS + "small ones too.", lambda z, y: _without(z, y).amax(1) - _of_label(z, y), lambda z, y: _of_label(z, y) - _without(z, y).amax(1)),
        Mistake("You subtract the largest of too many logits. Where that is the logit of y, or another image's, all exponentials in your sum round to 0. torch.logsumexp subtracts the largest of those that it adds.", *(lambda z, y, dim=dim: (lambda c: _without(c, y).exp().sum(1).log() - _of_label(c, y))(z - z.amax(dim, keepdim=True)) for dim in (1, (0, 1)))),
        Mistake("You compute it from probabilities, and where the model is sure these round to 0 or 1. Stay with the logits.", *map(_from_probability, (0.0, 1e-30, 1e-12, 1e-8, 1e-6)), lambda z, y: torch.expm1(z.logsumexp(1) - _of_label(z, y)).log(), lambda z, y: -torch.logit(_of_label(z.softmax(1), y))),
        Mistake("You put probabilities where logits belong: no softmax before the sum.", lambda z, y: _log_odds(z.softmax(1), y)),
        Mistake("The logit of y still counts: whatever number you put in its place or subtract from it, an exponential is left in the sum. What has the exponential 0?", *(lambda z, y, instead=instead: _without(z, y, instead).logsumexp(1) - _of_label(z, y) for instead in (0.0, -1.0, -10.0, -100.0, -1e3)), *(lambda z, y, less=less: (z - less * F.one_hot(y, z.shape[1])).logsumexp(1) - _of_label(z, y) for less in (10, 50, 100)), lambda z, y: (z * (1 - F.one_hot(y, z.shape[1]))).logsumexp(1) - _of_label(z, y)),
        Mistake("You leave out every class that has the logit of y. Leave y out by its place, not by its value.", lambda z, y: torch.where(z == _of_label(z, y).unsqueeze(1), -torch.inf, z).logsumexp(1) - _of_label(z, y)),
        Mistake("An exponential becomes infinite where logits are large. torch.logsumexp takes care of that.", lambda z, y: (z.exp().sum(1) - _of_label(z, y).exp()).log() - _of_label(z, y), lambda z, y: _without(z, y).exp().sum(1).log() - _of_label(z, y)),
        Mistake("You use the model's own prediction as the label. Use the y that was passed in.", lambda z, y: _log_odds(z, z.argmax(1))),
        Mistake("The logit of y is missing: subtract it.", lambda z, y: _without(z, y).logsumexp(1)),
        Mistake("You add the logit of y. Odds are a quotient, and their logarithm is a difference.", lambda z, y: _without(z, y).logsumexp(1) + _of_label(z, y)),
        Mistake("The logarithm is missing: these are the odds themselves.", lambda z, y: _log_odds(z, y).exp()),
        Mistake("You clamp the result. Beyond the limits it is constant, and a constant has no gradient.", *(lambda z, y, top=top: _log_odds(z, y).clamp(-top, top) for top in (10, 20, 50, 100))),
        Mistake("Your numbers are right, but a part of the gradient is cut off. Detach neither the sum nor the logit of y.", lambda z, y: _without(z, y).logsumexp(1) - _of_label(z, y).detach(), lambda z, y: _without(z, y).logsumexp(1).detach() - _of_label(z, y)),
        Mistake("Your numbers are right, but your gradient is the margin's. Differentiate the logarithm of the sum itself.", lambda z, y: (_log_odds(z, y) - _without(z, y).amax(1) + _of_label(z, y)).detach() + _without(z, y).amax(1) - _of_label(z, y)),
        Mistake("You take the mean of the exponentials. Odds need their sum.", lambda z, y: _log_odds(z, y) - torch.tensor(z.shape[1]).log(), lambda z, y: _log_odds(z, y) - torch.tensor(z.shape[1] - 1.0).log(), lambda z, y: _without(z, y).exp().mean(1).log() - _of_label(z, y)),
        Mistake("You leave out the largest logit. That need not be the one of y.", lambda z, y: z.sort(1).values[:, :-1].logsumexp(1) - _of_label(z, y)),
        Mistake("You add up the largest few exponentials only. " + OTHERS + "small ones too.", *(lambda z, y, k=k: _without(z, y).topk(min(k, z.shape[1])).values.logsumexp(1) - _of_label(z, y) for k in (2, 3, 5))),
        Mistake("You take the logarithm to another base. Here it is the natural one.", *(lambda z, y, base=base: _log_odds(z, y) / torch.tensor(base).log() for base in (2.0, 10.0))),
        Mistake("You add up over the images. Each image has a sum of its own, over its classes: that is dimension 1.", lambda z, y: _without(z, y).logsumexp(0)[y] - _of_label(z, y)),
        Mistake("You add up the other logits, without exponentials.", lambda z, y: _without(z, y, 0.0).sum(1) - _of_label(z, y), lambda z, y: _without(z, y, 0.0).sum(1) / (z.shape[1] - 1) - _of_label(z, y)),
        Mistake("You divide by the number of images. Each image has a loss of its own.", lambda z, y: _log_odds(z, y) / len(y)),
        Mistake("You use the y of the first image for all of them. Each image has its own.", lambda z, y: _log_odds(z, y[:1].expand(len(y)))),
    ],
    batched=("logits", "y"),
    untouched=("logits", "y"),
    like="logits",
    returns="one number for each image, with a gradient",
    observe=_observed_log_odds,
    happened=_misjudged,
    tolerance=1e-4,
    library=(attacks.gradients.adversarial_loss,),
).register()  # fmt: skip


# --- l2_step ----------------------------------------------------------------------------------------------------------


def _l2_step(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return gradient_step(model, x, y, eps, move=l2_normalized).clamp(0, 1)


def _along(move: Callable[[Tensor], Tensor] = l2_normalized, **keywords: Any) -> Callable[..., Tensor]:
    return _stepping(1, move=move, **keywords)


def _one_without_gradient(eps: float) -> tuple[nn.Module, Tensor, Tensor, float]:
    """Return images of which the first is grey, and a model whose hidden units are all off for it."""
    model, x, y, _ = _images(eps)
    model[1].bias.data -= 0.1
    model[2], x[0] = nn.ReLU(), 0.5
    return model, x, y, eps


class _Steep(nn.Module):
    """Sums up the pixels, with weights above 0, as its one logit; its slope depends on the first pixel.

    So all entries of an image's gradient have one sign, and lengths differ from image to image by a factor of 1e26.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 36) / 36)

    def forward(self, x: Tensor) -> Tensor:
        steep = torch.where(x[:, 0, 0, 0] > 0.5, 1.0, 1e-26)
        score = steep * (x.flatten(1) @ self.weight)
        return torch.stack([score, -score], 1)


def _uneven(eps: float) -> tuple[nn.Module, Tensor, Tensor, float]:
    """Return images with large and tiny gradients, of one sign and of the other."""
    x = 0.3 + 0.4 * torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    x[:, 0, 0, 0] = torch.tensor([0.6, 0.4, 0.6, 0.4])
    return _Steep(), x, torch.tensor([0, 0, 1, 1]), eps


OWN = "Each image's gradient has a length of its own, over all of its channels and pixels: divide by that one, and multiply by eps."
GUARD = "Your guard changes a small gradient. Divide each image's gradient by its largest entry first: then its length is 1 or more, and a guard does not touch it."
LARGEST_FIRST = "In float32 the square of a number below 1e-23 rounds to 0, and so does the length. Divide each image's gradient by its largest entry first, and then by its length."
SIGN = "That is FGSM's sign step: with d pixels its length is √d times eps. Divide the gradient by its length instead. (F.normalize without flatten(1) gives the same: it divides each pixel by itself.)"
Exercise(
    "l2_step",
    reference=_l2_step,
    cases=[
        Case("moves every image by the distance eps, along its own gradient", [partial(_images, 0.2, slope=0.035)], "Differentiate F.cross_entropy of model(x) and y with respect to x, and keep the proportions of that: no sign. " + OWN),
        EVERY_EPS,
        Case("stays inside [0, 1]", [partial(_images, eps, low=0.0) for eps in (0.8, 0.5, 0.65)], IN_BOX.where),
        EVERY_IMAGE,
        Case("takes the whole step where the gradient is small", [partial(_images, 0.2, slope=1e-14)], GUARD),
        Case("takes no step where the gradient is zero", [partial(_images, 0.2, slope=0.0), partial(_one_without_gradient, 0.2)], "Without a gradient there is no direction: that image stays, and the others move. A lower limit for what you divide by does that."),
        Case("takes the whole step, and not more, where the squares of the gradient round to 0", [partial(_images, 0.2, slope=1e-25)], LARGEST_FIRST),
        Case("gives every image its own step, where one gradient is large and the next one tiny", [partial(_uneven, 0.2)], OWN + " That is true of its largest entry, too, which is the largest of the sizes: every entry may be below 0."),
        Case("works for other sizes of images and numbers of classes", [_others], "The length goes over all channels and pixels of an image. " + mistakes.FROM_MODEL),
    ],
    mistakes=[
        *_step_mistakes(_along, "y"),
        Mistake("You take the absolute value of the gradient. A pixel may get darker, too. " + OWN, _along(lambda g: l2_normalized(g.abs()))),
        Mistake("You divide by the length of the whole batch, so that all images share one budget. " + OWN, _along(lambda g: g / g.norm()), _along(lambda g: g / g.norm() * len(g) ** 0.5)),
        Mistake(SIGN, _along(torch.sign), _along(F.normalize)),
        Mistake(mistakes.SIGN_OF_LENGTH + OWN, _along(lambda g: g.sign() / g[0].numel() ** 0.5)),
        Mistake(mistakes.SQUARED_LENGTH + OWN, _along(lambda g: g / l2_norm(g).clamp_min(1e-18) ** 2), _along(lambda g: g / l2_norm(g).clamp_min(1e-18) ** 2 * len(g))),
        Mistake("You take the square root of a length, which is a root already. " + OWN, _along(lambda g: g / l2_norm(g).clamp_min(1e-30) ** 0.5), _along(lambda g: g / l2_norm(g).clamp_min(1e-30) ** 0.5 / len(g) ** 0.5)),
        Mistake("You divide by the sum of the absolute values. The Euclidean length is the root of the sum of squares. " + OWN, _along(lambda g: g / broadcast_like(g.abs().flatten(1).sum(1)))),
        Mistake("You divide by the sum of the entries, some of which are negative. The Euclidean length is the root of the sum of squares. " + OWN, _along(lambda g: g / broadcast_like(g.flatten(1).sum(1)))),
        Mistake("You divide by the largest entry, not by the length. " + OWN, _along(max_normalized)),
        Mistake("You divide by the largest entry of the whole batch. " + OWN, _along(lambda g: g / g.abs().max())),
        Mistake("You take the mean of the squares. The length is the root of their sum. " + OWN, _along(lambda g: l2_normalized(g) * g[0].numel() ** 0.5)),
        Mistake("You divide by the standard deviation of the entries, not by their length. " + OWN, _along(lambda g: g / broadcast_like(g.flatten(1).std(1))), _along(lambda g: g / g.std())),
        Mistake("You divide by the length of x. " + OWN, lambda model, x, y, eps: (x + eps * loss_gradient(model, x, y) / l2_norm(x)).clamp(0, 1)),
        Mistake(mistakes.PART_OF_LENGTH + OWN, *(_along(lambda g, dim=dim: g / g.norm(dim=dim, keepdim=True).clamp_min(1e-30)) for dim in (0, 2, 3, (2, 3)))),
        Mistake("You use the gradient as it is, whose length differs from image to image. " + OWN, *(_along(move, size=size) for move in (lambda g: g, lambda g: g / len(g)) for size in (None, lambda eps: 1.0))),
        Mistake("You shorten a gradient that is longer than eps, and leave a shorter one as it is. Every image moves by the whole distance eps. " + OWN, _along(lambda g: g, size=lambda eps: 1.0, finish=lambda new, x, eps: (x + (new - x) * (eps / l2_norm(new - x)).clamp(max=1)).clamp(0, 1))),
        Mistake("You stretch the step again after clipping. The clipped step may be shorter than eps.", _along(finish=lambda new, x, eps: x + eps * l2_normalized(new.clamp(0, 1) - x))),
        Mistake("One image without a gradient stops the whole batch. That image stays, and the others move.", _along(lambda g: l2_normalized(g) * l2_norm(g).all())),
        Mistake(LARGEST_FIRST, *(_along(lambda g, tiny=tiny: g / l2_norm(g).clamp_min(tiny)) for tiny in (1e-16, 1e-20, 1e-25, 1e-30, 1e-37)), _along(lambda g: g / (l2_norm(g) + 1e-30)), _along(lambda g: (g / l2_norm(g)).nan_to_num()), _along(lambda g: torch.where(l2_norm(g) > 0, g / l2_norm(g), 0))),
        Mistake("You divide by the largest entry of the whole batch first. Beside a large gradient, the squares of a tiny one still round to 0: take each image's own largest entry.", *(_along(lambda g, tiny=tiny: (lambda h: h / l2_norm(h).clamp_min(tiny))(g / g.abs().max().clamp_min(1e-37))) for tiny in (1e-20, 1e-12)), _along(lambda g: (lambda h: (h / l2_norm(h)).nan_to_num())(g / g.abs().max().clamp_min(1e-37)))),
        Mistake("You divide by the largest entry, and not by the largest size: where all entries are below 0, that is the smallest one, or the guard.", *(_along(lambda g, tiny=tiny: (lambda h: h / l2_norm(h).clamp_min(tiny))(g / broadcast_like(g.flatten(1).amax(1)).clamp_min(1e-37))) for tiny in (1e-12, 1.0))),
        Mistake(GUARD, *(_along(lambda g, tiny=tiny, n=n: g / (l2_norm(g) + tiny * len(g) ** n)) for tiny in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12) for n in (0, 1)), *(_along(lambda g, tiny=tiny: g / l2_norm(g).clamp_min(tiny)) for tiny in (1e-8, 1e-12)), _along(lambda g: g / (l2_norm(g) ** 2 + 1e-12).sqrt()), _along(lambda g: torch.where(l2_norm(g) > 1e-8, l2_normalized(g), 0))),
    ],
    batched=("x", "y"),
    untouched=("model", "x", "y"),
    happened=_misstepped(norms, "the images moved"),
    explain=mistakes.some_still,
    library=(attacks.fgsm, attacks.pgd),
).register()  # fmt: skip


# --- success_rate -----------------------------------------------------------------------------------------------------


class _LabelInPixel(nn.Module):
    """Answers, not too surely, what the first pixel of each image says."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes, self.scale = classes, nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        labels = (self.classes * x.flatten(1)[:, 0]).round().long()
        return self.scale * F.one_hot(labels, self.classes) - 1


def _attacked(
    outcomes: Sequence[tuple[int, int]], classes: int = 10, shape: tuple[int, ...] = (1, 2, 2)
) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Return a model, images, what an attack has made of them, and labels.

    Args:
        outcomes: the model's answers before and after the attack, counted from the label, for each image.
        classes, shape: of the images.
    """
    y = torch.arange(len(outcomes)) % classes
    x, adv = torch.full((2, len(y), *shape), 0.5)
    x[:, 0, 0, 0], adv[:, 0, 0, 0] = (y + torch.tensor(outcomes).T) % classes / classes
    return _LabelInPixel(classes).eval(), x, adv, y


def _rate(count: Callable[..., Tensor], of: Callable[..., Tensor] | None = None) -> Callable[..., float]:
    """Return an answer: the images to count, divided by those to divide by, default all.

    Args:
        count, of: from which images are right before the attack, which are wrong after it, and which have changed.
    """

    def answer(model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> float:
        before, after = model(x).argmax(1), model(adv).argmax(1)
        facts = before == y, after != y, before != after
        return (count(*facts).sum() / (of(*facts).sum() if of else len(y))).item()

    return answer


def _observed_share(answer: Callable[..., Any], model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> float:
    return as_share(call_with_copies(answer, model, x, adv, y), len(y))


def _success_rate(model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> float:
    return _rate(lambda right, wrong, _: right & wrong, lambda right, *_: right)(model, x, adv, y)


def _counted(got: float, right: float, model: nn.Module, x: Tensor, adv: Tensor, y: Tensor) -> str:
    before, fooled = model(x).argmax(1) == y, (model(x).argmax(1) == y) & (model(adv).argmax(1) != y)
    return f"of {len(y)} images {before.sum()} are right before the attack, and {fooled.sum()} of those are wrong after it: {right:.3f}. Yours: {got:.3f}."


# Right → right, fooled, repaired, wrong alike, wrong otherwise: so many that all likely mistakes give something else.
OUTCOMES = 14 * [(0, 0)] + 5 * [(0, 1)] + [(1, 0)] + 3 * [(2, 2)] + 2 * [(1, 2)]
MIXED = [OUTCOMES[8 * i % 25] for i in range(25)]
SELECT = "Select first the images that the model gets right before the attack; then take the share of these that it gets wrong after."
DROP = "That is the drop of the accuracy, in which images that the attack repaired hide others that it fooled. "
Exercise(
    "success_rate",
    reference=_success_rate,
    cases=[
        Case("counts the images that were classified correctly before the attack, and only those", [partial(_attacked, MIXED)], SELECT),
        Case("is 0 when nothing changes", [partial(_attacked, [(before, before) for before, _ in MIXED])], "Nobody is fooled by an unchanged image."),
        Case("is 1 when all that were right fall", [partial(_attacked, [(before, 3) for before, _ in MIXED])], "All that were right fall: so many, divided by as many."),
        Case("works for other sizes of images and numbers of classes", [partial(_attacked, outcomes, 3, (3, 4, 5)) for outcomes in ([(0, 1), (0, 0), (0, 0), (1, 2)], [(0, 1)], [(0, 0)])], mistakes.ONLY_ARGUMENTS.format("sizes")),
    ],
    mistakes=[
        Mistake("That is the error rate after the attack, over all images. Some were wrong all along. " + SELECT, _rate(lambda right, wrong, changed: wrong)),
        Mistake("You count the right ones, but divide by all images. Divide by those that were right before. " + SELECT, _rate(lambda right, wrong, changed: right & wrong)),
        Mistake("That is the share that the attack did not fool: count the wrong answers. " + SELECT, _rate(lambda right, wrong, changed: right & ~wrong, lambda right, *_: right)),
        Mistake("That is the accuracy after the attack, over all images. " + SELECT, _rate(lambda right, wrong, changed: ~wrong)),
        Mistake("You count changed answers among all images, whether they were right or not. Use y. " + SELECT, _rate(lambda right, wrong, changed: changed)),
        Mistake("You also count changes of images that were wrong before. " + SELECT, *(_rate(count, lambda right, *_: right) for count in (lambda right, wrong, changed: changed, lambda right, wrong, changed: changed & wrong))),
        Mistake("That is the share of the answers that did not change. " + SELECT, _rate(lambda right, wrong, changed: ~changed)),
        Mistake("You also count images that were wrong before the attack. " + SELECT, _rate(lambda right, wrong, changed: wrong, lambda right, *_: right)),
        Mistake("You divide by the images that are wrong after the attack. Divide by those that were right before. " + SELECT, _rate(lambda right, wrong, changed: right & wrong, lambda right, wrong, changed: wrong)),
        Mistake("You divide by the images whose answer changed. Divide by those that were right before. " + SELECT, _rate(lambda right, wrong, changed: right & wrong, lambda right, wrong, changed: changed)),
        Mistake("You divide by the images that the attack did not fool. Divide by those that were right before. " + SELECT, *(_rate(lambda right, wrong, changed: right & wrong, of) for of in (lambda right, wrong, changed: ~(right & wrong), lambda right, wrong, changed: right & ~wrong))),
        Mistake("You divide by the images that are right after the attack. Divide by those that were right before. " + SELECT, _rate(lambda right, wrong, changed: right & wrong, lambda right, wrong, changed: ~wrong)),
        Mistake("You count images that were right before or are wrong after. Both have to hold. " + SELECT, _rate(lambda right, wrong, changed: right | wrong)),
        Mistake("You count everything but the images that were fooled. " + SELECT, _rate(lambda right, wrong, changed: ~(right & wrong))),
        Mistake("That is the share of all images that stay right. " + SELECT, _rate(lambda right, wrong, changed: right & ~wrong)),
        Mistake("That is the accuracy before the attack: adv takes no part in it. " + SELECT, _rate(lambda right, wrong, changed: right)),
        Mistake("That is the error rate before the attack: adv takes no part in it. " + SELECT, _rate(lambda right, wrong, changed: ~right)),
        Mistake("You took x for adv and adv for x. " + SELECT, _rate(lambda right, wrong, changed: ~right & ~wrong, lambda right, wrong, changed: ~wrong)),
        Mistake("You divide the right answers after by those before, and count repaired ones too. " + SELECT, _rate(lambda right, wrong, changed: ~wrong, lambda right, *_: right)),
        Mistake("You count all changes that end wrong. Only images that were right before can be fooled. " + SELECT, _rate(lambda right, wrong, changed: changed & wrong)),
        Mistake("You count everything that is not right both before and after. " + SELECT, _rate(lambda right, wrong, changed: ~right | wrong)),
        Mistake(DROP + SELECT, _rate(lambda right, wrong, changed: right.int() - (~wrong).int()), _rate(lambda right, wrong, changed: right.int() - (~wrong).int(), lambda right, *_: right)),
        Mistake("You select the images that were right from adv, but not from y. Take the same selection from both. " + SELECT, lambda model, x, adv, y: _rate(lambda right, wrong, changed: wrong)(model, x[:len(s)], adv[s], y[:len(s)]) if len(s := (model(x).argmax(1) == y).nonzero().flatten()) else 0.0),
        Mistake("Nothing counts as fooled: take one prediction from x and the other from adv, and divide with / (not //). " + SELECT, lambda model, x, adv, y: 0.0, _rate(lambda right, wrong, changed: wrong & ~wrong, lambda right, wrong, changed: ~wrong)),
        Mistake("Divide by the number of images that were right before as it is. One of them there always is. " + SELECT, lambda model, x, adv, y: _rate(lambda right, wrong, changed: right & wrong, lambda right, *_: torch.cat([right, right.new_ones(1)]))(model, x, adv, y)),
        Mistake("Everything counts as fooled: compare the prediction for adv with y. " + SELECT, lambda model, x, adv, y: 1.0),
    ],
    untouched=("model", "x", "adv", "y"),
    returns="one share between 0 and 1",
    observe=_observed_share,
    happened=_counted,
    tolerance=1e-6,
    library=(evaluation.evaluate_attack,),
).register()  # fmt: skip
