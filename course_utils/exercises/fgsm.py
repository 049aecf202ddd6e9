"""Checks of chapter 02: one gradient step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import inputs, mistakes
from .engine import exercise, expect
from .mistakes import gradient_step, l2_norm, l2_normalized, wrong_steps
from .properties import (
    KEEP_APART,
    NOT_ALONE,
    Mistakes,
    as_share,
    as_tensor_like,
    broadcast_like,
    call_with_copies,
    close,
    expect_close,
    expect_in_box,
    in_both_modes,
    loss_gradient,
    no_side_effects,
    norms,
    shown,
    strong_pixels,
    with_hint,
)

EPS = 0.1
SHAPE, CLASSES = (1, 28, 28), 10  # what the chapter uses
_ANOTHER = f"for images of shape {inputs.OTHER_SHAPE} and {inputs.OTHER_CLASSES} classes the step is another."


class _Task(NamedTuple):
    """What a gradient step is given."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float


def _step(task: _Task, *, towards: bool = False, **mistake: object) -> Tensor:
    """Return x after the step, not clipped; keywords as in `gradient_step`."""
    model, x, y, eps = task
    return gradient_step(model, x, y, -eps if towards else eps, **mistake)


def _step_mistakes(task: _Task, move: Callable, towards: bool) -> Mistakes:
    """What goes wrong in any gradient step: what it gives, and what to say."""
    model, x, y, eps = task
    step = partial(_step, task, towards=towards, move=move)
    change, gradient, label = step() - x, loss_gradient(model, x, y), "target" if towards else "y"
    prediction = mistakes.OWN_PREDICTION.format(label)
    wrong_sign = mistakes.WRONG_SIGN
    both = "You use the model's own prediction as the label, and walk downhill. Use y, and add the step."
    if towards:
        wrong_sign = "Your step makes the target less likely: it must go against the gradient of the loss for the target, just once. Count your minus signs."
        both = prediction
    units = "eps is in pixel units already: do not multiply or divide by 255."
    yield from (
        (x, "Nothing changed. Did you return x instead of the new image?"),
        (step(scale=-1), wrong_sign),
        (change, mistakes.CHANGE_ALONE.format("")),
        *with_hint("That is the gradient. Return the changed image: x plus a step along it.", gradient, gradient / len(x)),
        (x + change.clamp(0, 1), "Every step down is lost. Clip the new image, (x + change).clamp(0, 1), and not the change."),
        *wrong_steps(
            step,
            (prediction, "own prediction"),
            (both, "own prediction, wrong sign"),
            (mistakes.SOFTMAX_TWICE.format("x"), "softmax twice"),
            ("Check the sign of the step. " + mistakes.SOFTMAX_TWICE.format("x"), "softmax twice, wrong sign"),
            (mistakes.NO_LOG_SOFTMAX.format("x"), "no log-softmax"),
            ("That differentiates the logit, not the loss: use F.cross_entropy(model(x), y).", "gradient of the logit"),
        ),
        *with_hint("Every pixel moved the same way. Take the sign of the gradient with respect to x, not of the loss.", x + eps, x - eps),
        (step(scale=eps), "You multiply by eps twice."),
        *wrong_steps(step, ("Every step has another size than eps: multiply by eps, and by nothing else.", "step twice", "half a step")),
        *with_hint(units, step(scale=1 / 255), step(scale=255)),
        *wrong_steps(step, (f"You step towards the least likely class. Use the {label} that was passed in.", "least likely label")),
        (255 * step(), "Pixels go from 0 to 1 here: do not multiply by 255."),
    )  # fmt: skip


def _alike(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Tell whether two batches agree, but for a pixel or two whose gradient is near 0."""
    return ((a - b).abs() <= tolerance).float().mean().item() > 0.999


def _why(answer: Callable, adv: Tensor, task: _Task, wrongs: Mistakes) -> str:
    """Return the likely mistake behind a step of the wrong size or direction, or nothing."""
    moved, wrongs, again = (adv != task.x).flatten(1).any(1), list(wrongs), partial(call_with_copies, answer)
    wrongs += [(wrong.clamp(0, 1), hint) for wrong, hint in wrongs]
    hint = next((hint for wrong, hint in wrongs if _alike(adv, wrong, 1e-5 * task.eps)), "")
    if not hint and moved.any() and not moved.all():
        return mistakes.SOME_STILL.format(mistakes.listed(~moved))
    if not hint and not close(adv, again(*task), 1e-6):
        return "A second call gives another result. There is no randomness in this step: only the gradient decides."
    if not hint and close(adv, again(*task._replace(eps=task.eps / 2)), 1e-7):
        return mistakes.USE_EPS
    return hint


def _sign_mistakes(task: _Task, towards: bool) -> Mistakes:
    model, x, y, eps = task
    g = (-1 if towards else 1) * loss_gradient(model, x, y)
    itself = "You use the gradient itself, whose size differs from pixel to pixel. Take its sign, and multiply by eps."
    clipped = "You clip the gradient to ±eps, which leaves small entries small. Take its sign, and multiply by eps."
    length = "You divide by the gradient's length, which is the step for the Euclidean norm. Here take the sign."
    largest = "You divide by the largest entry, so only one pixel gets the whole eps. Take the sign."
    yield from (
        *_step_mistakes(task, torch.sign, towards),
        ((x + g.sign()).clamp(0, 1), "Every pixel went all the way to black or white: too far. Multiply the sign by eps, and not by 255 or the like."),
        (x + g.sign(), "Did you forget to multiply by eps? The sign alone has size 1 in every pixel."),
        *with_hint(length, x + eps * l2_normalized(g), x + eps * g / g.norm()),
        *with_hint(largest, x + eps * g / g.abs().max(), x + eps * mistakes.max_normalized(g)),
    )  # fmt: skip
    for size in (eps, eps / len(x), 1, 1 / len(x)):  # the loss may be a sum or a mean
        yield from with_hint(itself, x + size * g, x - size * g)
        yield x + (size * g).clamp(-eps, eps), clipped


def _in_the_box(answer: Callable, task: _Task, step: Callable[[_Task], Tensor]) -> None:
    """Compare with the clipped step on images with many pixels near black and white."""
    x, y = inputs.black_and_white_images(task.model, 4, SHAPE)
    task = task._replace(x=x, y=y)
    adv, free = as_tensor_like(call_with_copies(answer, *task), x), step(task)
    hint = "There is nothing blacker than 0 or whiter than 1: end with .clamp(0, 1)."
    if adv.min() >= 0 and adv.max() > 1:
        hint = "White is 1, not 255, and both ends count: end with .clamp(0, 1)."
    elif adv.min() < 0 and adv.max() <= 1:
        hint = "Black is 0, not −1, and both ends count: end with .clamp(0, 1)."
    expect_in_box(adv, hint)
    wanted = free.clamp(0, 1)
    off = ((adv - wanted).abs() > 1e-3 * task.eps).float().mean().item()
    hint = "Take the step everywhere, then clip the new image to [0, 1]: not the gradient, and not the change."
    if close(adv, torch.where(free == wanted, wanted, x), 1e-3 * task.eps):
        hint = mistakes.LEFT_OUT.format("0 or 1: use .clamp(0, 1)")
    what = f"{100 * off:.0f} % of the pixels of images with black and white are not where they should be."
    expect(off < 1e-3, what, hint)


def _alone(answer: Callable, task: _Task) -> None:
    model, x, y, eps = task
    together, pairs = call_with_copies(answer, *task), zip(x.split(1), y.split(1), strict=True)
    alone = torch.cat([as_tensor_like(call_with_copies(answer, model, a, b, eps), a) for a, b in pairs])
    strong = strong_pixels(loss_gradient(model, x, y))
    expect(close(together * strong, alone * strong, 1e-3 * eps), NOT_ALONE, KEEP_APART)


def _scales(answer: Callable, task: _Task, size: Callable) -> None:
    small, x = 0.001, task.x
    sizes = size((as_tensor_like(call_with_copies(answer, *task._replace(eps=small)), x) - x).flatten(1))
    hint = "Use the eps that is passed in, not a number of your own."
    if sizes.min() == 0:
        hint = "Some images did not move. Every image takes the step, also if the model is not fooled by it."
    what = f"with eps = {small} the size of the change is {sizes.min():.3g} to {sizes.max():.3g}."
    expect(((sizes - small).abs() < 1e-2 * small).all(), what, hint)
    still = as_tensor_like(call_with_copies(answer, *task._replace(eps=0.0)), x)
    what, hint = "with eps = 0 the images change.", "The step is eps times a direction; for eps = 0 that is nothing."
    expect(close(still, x, 1e-6), what, hint)


def _no_trace(answer: Callable, names: str, seed: int, eps: float) -> None:
    model = inputs.smooth_network(seed, SHAPE, CLASSES)
    in_both_modes(answer, names, model, *inputs.labelled_images(model, 6, SHAPE), eps)


def _sign_step(answer: Callable, seed: int, towards: bool) -> Iterator[str]:
    """The properties of FGSM, away from the labels or towards them."""
    sign, name = (-1, "target") if towards else (1, "y")
    model = inputs.smooth_network(seed, SHAPE, CLASSES)
    task = _Task(model, *inputs.labelled_images(model, 6, SHAPE), EPS)

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: _why(answer, adv, task, _sign_mistakes(task, towards)) or otherwise

    yield "returns new images like x"
    adv = as_tensor_like(call_with_copies(answer, *task), task.x)

    yield "moves every pixel by eps"
    change, gradient = adv - task.x, sign * loss_gradient(*task[:3])
    strong = strong_pixels(gradient)
    low, high = change[strong].abs().min().item(), change.abs().max().item()
    what = f"with eps = {EPS} the pixels changed by {low:.4g} to {high:.4g}."
    hint = "The change is eps times the sign of the gradient, so it has the size eps in every pixel."
    expect(low >= EPS - 1e-5 and high <= EPS + 1e-5, what, why(hint))

    yield "makes the target more likely" if towards else "steps uphill: away from the label y that it is given"
    agree = (change.sign() == gradient.sign())[strong].float().mean().item()
    direction, size = ("subtract", "smaller") if towards else ("add", "larger")
    what = f"{100 * agree:.1f} % of the pixels move in the direction that makes the loss {size}."
    hint = f"Differentiate F.cross_entropy(model(x), {name}) with respect to x, and {direction} eps times the sign."
    expect(agree == 1, what, why(hint))

    yield "stays inside [0, 1]"
    _in_the_box(answer, task, partial(_step, towards=towards))

    yield "scales with eps, and changes nothing for eps = 0"
    _scales(answer, task, lambda change: change.abs().amax(1))

    yield "gives an image alone what it gives it in a batch"
    _alone(answer, task)

    yield "works for other sizes of images and numbers of classes"
    model = inputs.smooth_network(seed, inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)
    other = _Task(model, *inputs.labelled_images(model, 5, inputs.OTHER_SHAPE), EPS)
    change = as_tensor_like(call_with_copies(answer, *other), other.x) - other.x
    gradient = sign * loss_gradient(*other[:3])
    strong = strong_pixels(gradient)
    expect_close(change[strong], EPS * gradient.sign()[strong], _ANOTHER, mistakes.FROM_MODEL)

    yield "copes with pixels that do not matter to the model"
    blind = inputs.smooth_network(seed, SHAPE, CLASSES)
    nn.init.zeros_(blind[1].weight[:, :28])
    adv = as_tensor_like(call_with_copies(answer, *task._replace(model=blind)), task.x)
    what, hint = "a pixel whose gradient is 0 moved by more than eps.", "Use g.sign(): it is 0 for 0."
    expect((adv - task.x).abs().max() <= EPS + 1e-5, what, hint)

    yield "leaves no trace on the model and on x"
    _no_trace(answer, f"model x {name} eps", seed, EPS)


@exercise("fgsm", takes="(model, x, y, eps)")
def _fgsm(answer: Callable) -> Iterator[str]:
    yield from _sign_step(answer, 0, towards=False)


@exercise("targeted_fgsm", takes="(model, x, target, eps)")
def _targeted_fgsm(answer: Callable) -> Iterator[str]:
    yield from _sign_step(answer, 1, towards=True)


def _l2_mistakes(task: _Task) -> Mistakes:
    model, x, y, eps = task
    g = loss_gradient(model, x, y)
    sizes, length = g.abs().flatten(1), l2_norm(g)
    own = "Divide each gradient by its own length, gradient.flatten(1).norm(dim=1), and multiply by eps. "
    sign = "That is FGSM's sign step: for n pixels its length is eps·√n. Divide the gradient by its length instead."
    itself = "You use the gradient as it is, whose length differs from image to image. " + own
    yield from (
        *_step_mistakes(task, l2_normalized, towards=False),
        (x + eps * g / g.norm(), "You divide by the length of the whole batch, so that all images share one budget. " + own),
        (x + eps * F.normalize(g), sign + " (F.normalize(g) gives the same, when flatten(1) is forgotten: it divides each pixel by itself.)"),
        (x + eps * g.sign(), sign),
        (x + eps * g.sign() / g[0].numel() ** 0.5, mistakes.SIGN_OF_LENGTH + own),
        (x + l2_normalized(g), "Did you forget to multiply by eps? Your step has the length 1."),
        *with_hint(mistakes.SQUARED_LENGTH + own, x + eps * g / length**2 * len(x), x + eps * g / length**2),
        (x + eps * g / length**0.5, "You take the square root of a length, which is a root already. " + own),
        (x + eps * g / broadcast_like(sizes.sum(1)), "You divide by the sum of the absolute values. The Euclidean length is the root of the sum of squares. " + own),
        (x + eps * mistakes.max_normalized(g), "You divide by the largest entry, not by the length. " + own),
        (x + eps * g / sizes.max(), "You divide by the largest entry of the whole batch. " + own),
        (x + eps * g / broadcast_like(sizes.square().mean(1).sqrt()), "You take the mean of the squares. The length is the root of their sum. " + own),
        *with_hint(mistakes.PART_OF_LENGTH + own, *(x + eps * g / g.norm(dim=dim, keepdim=True) for dim in (0, 2, 3))),
        *with_hint(itself, *(x + size * g for size in (eps, eps / len(x), 1, 1 / len(x)))),  # the loss may be a sum or a mean
    )  # fmt: skip


@exercise("l2_step", takes="(model, x, y, eps)")
def _l2_step(answer: Callable) -> Iterator[str]:
    def run(task: _Task) -> Tensor:
        return as_tensor_like(call_with_copies(answer, *task), task.x)

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: _why(answer, adv, task, _l2_mistakes(task)) or otherwise

    model, eps = inputs.smooth_network(2, SHAPE, CLASSES), 0.4
    x, y = inputs.labelled_images(model, 6, SHAPE)
    task, step = _Task(model, x, y, eps), partial(_step, move=l2_normalized)

    yield "returns new images like x"
    adv = run(task)

    yield "moves every image by the distance eps"
    distances = norms(adv - x)
    what = f"with eps = {eps} the images moved by the distances {shown(distances[:3])}, …"
    hint = "Divide each gradient by its own length, gradient.flatten(1).norm(dim=1), and multiply by eps."
    expect(((distances - eps).abs() < 1e-2 * eps).all(), what, why(hint))

    yield "moves along the gradient"
    cosine = F.cosine_similarity((adv - x).flatten(1), loss_gradient(model, x, y).flatten(1)).min().item()
    hint = "Differentiate F.cross_entropy(model(x), y), and keep the gradient's proportions: no sign, no clamp of the gradient."
    expect(cosine > 0.9999, f"the cosine of the angle between your step and the gradient is {cosine:.2f}.", why(hint))

    yield "stays inside [0, 1]"
    _in_the_box(answer, task._replace(eps=2.0), step)

    yield "scales with eps, and changes nothing for eps = 0"
    _scales(answer, task, lambda change: change.norm(dim=1))

    yield "gives an image alone what it gives it in a batch"
    _alone(answer, task)

    yield "works for other sizes of images and numbers of classes"
    other = inputs.smooth_network(2, inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)
    smaller = _Task(other, *inputs.labelled_images(other, 5, inputs.OTHER_SHAPE), eps)
    expect_close(run(smaller), step(smaller), _ANOTHER, mistakes.ONE_LENGTH, tolerance=1e-3 * eps)

    yield "takes the whole step where the gradient is small, and none where it is zero"
    guard = "Guard the division by something tiny only: length.clamp_min(1e-12)."
    for scale, wanted, hint in ((1e-4, eps, guard), (0.0, 0.0, mistakes.NO_DIRECTION)):
        flat = inputs.smooth_network(2, SHAPE, CLASSES)
        flat[3].weight.data.mul_(scale)
        moved = norms(run(task._replace(model=flat)) - x)
        what = f"with a gradient {scale:g} times as large an image moved by {moved[0]:.3g}."
        expect((moved - wanted).abs().max() < 1e-2 * eps, what, hint)

    yield "leaves no trace on the model and on x"
    _no_trace(answer, "model x y eps", 2, eps)


class _LabelInPixel(nn.Module):
    """Answers what the first pixel of each image says."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes, self.unused = classes, nn.Parameter(torch.ones(()))  # for next(model.parameters()).device

    def forward(self, x: Tensor) -> Tensor:
        labels = (self.classes * x.flatten(1)[:, 0]).round().long()
        return 5 * F.one_hot(labels, self.classes) * self.unused


def _images_with_labels(labels: list[int], classes: int, shape: tuple[int, ...]) -> Tensor:
    """Images whose first pixel says these labels."""
    x = torch.full((len(labels), *shape), 0.5)
    x[:, 0, 0, 0] = torch.tensor(labels) / classes
    return x


# Labels before and after the attack, for the true label 0: right → right, fooled, repaired, wrong alike, wrong otherwise.
# The numbers keep all likely mistakes apart; the order mixes the kinds.
_OUTCOMES = 6 * [(0, 0)] + 10 * [(0, 1)] + [(1, 0)] + 2 * [(2, 2)] + 2 * [(1, 2)]
_OUTCOMES = [_OUTCOMES[8 * i % 21] for i in range(21)]


def _rate_mistakes(before: Tensor, after: Tensor, y: Tensor) -> Mistakes:
    right, wrong, fell = before == y, after != y, (before == y) & (after != y)
    changed, n = before != after, len(y)
    select = "Select first: before = model(x).argmax(1) == y. Then take the share of wrong answers among adv[before]."
    for count, total, hint in (
        (wrong, n, "That is the error rate after the attack, over all images. Some were wrong all along. " + select),
        (fell, n, "You count the right ones, but divide by all images. Divide by those that were right before. " + select),
        (right & ~wrong, right.sum(), "That is the share that the attack did not fool: count the wrong answers. " + select),
        (~wrong, n, "That is the accuracy after the attack, over all images. " + select),
        (changed, n, "You count changed answers over all images, whether they were right or not. Use y. " + select),
        (changed, right.sum(), "You also count changes of images that were wrong before. " + select),
        (~changed, n, "That is the share of the answers that did not change. " + select),
        (wrong, right.sum(), "You also count images that were wrong before the attack. " + select),
        (fell, wrong.sum(), "You divide by the images that are wrong after the attack. Divide by those that were right before. " + select),
        (fell, changed.sum(), "You divide by the images whose answer changed. Divide by those that were right before. " + select),
        (right & ~wrong, n, "That is the share of all images that stay right. " + select),
        (right, n, "That is the accuracy before the attack: adv takes no part in it. " + select),
        (~right, n, "That is the error rate before the attack: adv takes no part in it. " + select),
        (~right & ~wrong, (~wrong).sum(), "You took x for adv and adv for x. " + select),
        (~wrong, right.sum(), "You divide the right answers after by those before, and count repaired ones too. " + select),
        (changed & wrong, n, "You count all changes that end wrong. Only images that were right before can be fooled. " + select),
        (changed & wrong, right.sum(), "You also count changes of images that were wrong before. " + select),
    ):  # fmt: skip
        yield (count.sum() / total).item(), hint
    lost = right.sum() - (~wrong).sum()
    drop = "That is the drop of the accuracy, in which images that the attack repaired hide others that it fooled. "
    yield from with_hint(drop + select, (lost / n).item(), (lost / right.sum()).item())
    nothing = "Nothing counts as fooled: take one prediction from x and the other from adv, and divide with / (not //). "  # fmt: skip
    yield 0.0, nothing + select
    yield 1.0, "Everything counts as fooled: compare the prediction for adv with y. " + select


@exercise("success_rate", takes="(model, x, adv, y)")
def _success_rate(answer: Callable) -> Iterator[str]:
    def rate(before: list[int], after: list[int], y: list[int], classes: int = 10, shape: tuple = (1, 2, 2)) -> float:
        pair = _images_with_labels(before, classes, shape), _images_with_labels(after, classes, shape)
        return as_share(call_with_copies(answer, _LabelInPixel(classes), *pair, torch.tensor(y)), len(y))

    y = [i % 10 for i in range(len(_OUTCOMES))]
    before, after = ([(label + kind[i]) % 10 for label, kind in zip(y, _OUTCOMES, strict=True)] for i in (0, 1))

    yield "returns one share between 0 and 1"
    share = rate(before, after, y)

    yield "counts the images that were classified correctly before the attack, and only those"
    hint = "Select first: before = model(x).argmax(1) == y. Then take the share of wrong answers among adv[before]."
    what = f"of 21 images 16 are right before the attack, and 10 of those 16 are wrong after it: 0.625. Yours: {share:.3f}."
    wrongs = _rate_mistakes(*map(torch.tensor, (before, after, y)))
    expect_close(share, 10 / 16, what, hint, wrongs, 1e-6)

    yield "is 0 when nothing changes and 1 when everything falls"
    none, every = rate(before, before, y), rate(before, [(label + 3) % 10 for label in y], y)
    expect(none == 0, f"with adv = x it gives {none:.3f}.", "Nobody is fooled by an unchanged image.")
    expect(abs(every - 1) < 1e-6, f"with every image fooled it gives {every:.3f}.", "All that were right fall: 16/16.")

    yield "works for other sizes of images and numbers of classes"
    for a, b, y, wanted in (([0, 1, 2, 2], [1, 1, 2, 0], [0, 1, 2, 1], 1 / 3), ([2], [0], [2], 1.0)):
        share = rate(a, b, y, 3, (3, 4, 5))
        what = f"for {len(y)} images of shape (3, 4, 5) and 3 classes it gives {share:.3f}, not {wanted:.3f}."
        expect(abs(share - wanted) < 1e-6, what, mistakes.ONLY_ARGUMENTS.format("sizes"))

    yield "changes none of the images and no weight"
    x = _images_with_labels(before, 10, (1, 2, 2))
    no_side_effects(answer, "model x adv y", _LabelInPixel(10).eval(), x, x.clone(), torch.tensor(before))
