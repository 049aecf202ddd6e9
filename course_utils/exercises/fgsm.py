"""Checks of chapter 02: one gradient step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engine import exercise, expect
from .properties import (
    Mistakes,
    as_share,
    as_tensor_like,
    broadcast_like,
    call_with_copies,
    close,
    diagnose_mistake,
    labelled_images,
    loss_gradient,
    no_side_effects,
    smooth_network,
)

EPS = 0.1
USE_EPS = "The result is the same for every eps. Multiply by the eps that is passed in, not by a number of your own."
SHAPE, CLASSES = (1, 28, 28), 10  # what the chapter uses …
OTHER_SHAPE, OTHER_CLASSES = (3, 5, 7), 4  # … and what it does not


def _strong(gradient: Tensor) -> Tensor:
    """Where the sign of a gradient is no matter of rounding."""
    return gradient.abs() > 1e-3 * broadcast_like(gradient.abs().flatten(1).amax(1))


def _unit(gradient: Tensor) -> Tensor:
    """Each image's gradient divided by its own length."""
    return F.normalize(gradient.flatten(1)).view_as(gradient)


def _slips(model: nn.Module, x: Tensor, y: Tensor, eps: float, direction: Callable, towards: bool) -> list:
    """What goes wrong in any gradient step: what it gives, and what to say."""
    sign, label = (-1, "target") if towards else (1, "y")
    step = sign * eps * direction(loss_gradient(model, x, y))
    predicted = model(x).argmax(1)

    def instead(labels: Tensor, loss: Callable = F.cross_entropy, sign: int = sign) -> Tensor:
        return (x + sign * eps * direction(loss_gradient(model, x, labels, loss))).clamp(0, 1)

    def softmaxed(z: Tensor, y: Tensor, **keywords: str) -> Tensor:
        return F.cross_entropy(z.softmax(1), y, **keywords)

    prediction = f"You use the model's own prediction as the label. Use the {label} that was passed in."
    if towards:
        back, both = (
            "Your step makes the target less likely: it must go against the gradient of the loss for the target, just once. Count your minus signs.",
            prediction,
        )
    else:
        back = "You walk downhill: add the step, do not subtract it. The attack makes the loss larger."
        both = "You use the model's own prediction as the label, and walk downhill. Use y, and add the step."
    alone = "That is the change alone. Return the changed image: x plus the change."
    gradient = "That is the gradient. Return the changed image: x plus a step along it."
    probabilities = (
        "Cross-entropy wants logits, not probabilities: it applies softmax itself, so give it model(x) as it is."
    )
    units = "eps is in pixel units already: do not multiply or divide by 255."
    size = "Every step has another size than eps: multiply by eps, and by nothing else."
    of_loss = "Every pixel moved the same way. Take the sign of the gradient with respect to x, not of the loss."
    return [
        (x, "Nothing changed. Did you return x instead of the new image?"),
        (x - step, back),
        (step, alone),
        (loss_gradient(model, x, y), gradient),
        (loss_gradient(model, x, y) / len(x), gradient),
        (x + step - x, alone),
        (x + step.clamp(0, 1), "Every step down is lost. Clip the new image, (x + change).clamp(0, 1), and not the change."),
        (instead(predicted), prediction),
        (instead(predicted, sign=-sign), both),
        (instead(y, softmaxed), probabilities),
        (instead(y, softmaxed, -sign), "Check the sign of the step. " + probabilities),
        (instead(y, F.nll_loss), "F.nll_loss alone wants log-probabilities: use F.cross_entropy, which takes model(x) as it is."),
        (instead(y, F.nll_loss, -sign), "That differentiates the logit, not the loss: use F.cross_entropy(model(x), y)."),
        (x + eps, of_loss),
        (x - eps, of_loss),
        (x + eps * step, "You multiply by eps twice."),
        (x + 2 * step, size),
        (x + step / 2, size),
        (x + step / 255, units),
        (x + 255 * step, units),
        (instead(model(x).argmin(1)), f"You step towards the least likely class. Use the {label} that was passed in."),
        (255 * (x + step), "Pixels go from 0 to 1 here: do not multiply by 255."),
    ]  # fmt: skip


def _alike(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Tell whether two batches agree, but for a pixel or two whose gradient is near 0."""
    return ((a - b).abs() <= tolerance).float().mean().item() > 0.999


def _why(answer: Callable, adv: Tensor, model: nn.Module, x: Tensor, y: Tensor, eps: float, mistakes: Mistakes) -> str:
    """Return the likely mistake behind a step of the wrong size or direction, or nothing."""
    moved = (adv != x).flatten(1).any(1)
    mistakes = list(mistakes)
    mistakes += [(wrong.clamp(0, 1), hint) for wrong, hint in mistakes]
    hint = next((hint for wrong, hint in mistakes if _alike(adv, wrong, 1e-5 * eps)), "")
    if not hint and moved.any() and not moved.all():
        which = ", ".join(str(i) for i in (~moved).nonzero().flatten().tolist())
        hint = f"Some images did not move at all (number {which}). Attack every image of the batch, whatever the model makes of it."
    elif not hint and not close(adv, call_with_copies(answer, model, x, y, eps), 1e-6):
        hint = "A second call gives another result. There is no randomness in this step: only the gradient decides."
    elif not hint and close(adv, call_with_copies(answer, model, x, y, eps / 2), 1e-7):
        hint = USE_EPS
    return hint


def _sign_mistakes(model: nn.Module, x: Tensor, y: Tensor, eps: float, towards: bool) -> Mistakes:
    g = (-1 if towards else 1) * loss_gradient(model, x, y)
    forgotten = "Did you forget to multiply by eps? The sign alone has size 1 in every pixel."
    saturated = (
        "Every pixel went all the way to black or white: too far. Multiply the sign by eps, and not by 255 or the like."
    )
    itself = "You use the gradient itself, whose size differs from pixel to pixel. Take its sign, and multiply by eps."
    clipped = "You clip the gradient to ±eps, which leaves small entries small. Take its sign, and multiply by eps."
    length = "You divide by the gradient's length, which is the step for the Euclidean norm. Here take the sign."
    largest = "You divide by the largest entry, so only one pixel gets the whole eps. Take the sign."
    mistakes = [
        *_slips(model, x, y, eps, torch.sign, towards),
        ((x + g.sign()).clamp(0, 1), saturated),
        (x + g.sign(), forgotten),
        (x + eps * _unit(g), length),
        (x + eps * g / g.norm(), length),
        (x + eps * g / g.abs().max(), largest),
        (x + eps * g / broadcast_like(g.abs().flatten(1).amax(1)), largest),
    ]
    for size in (eps, eps / len(x), 1, 1 / len(x)):  # the loss may be a sum or a mean
        mistakes += [(x + size * g, itself), (x - size * g, itself), (x + (size * g).clamp(-eps, eps), clipped)]
    return mistakes


def _in_the_box(answer: Callable, model: nn.Module, eps: float, step: Callable) -> None:
    """Compare with the clipped step on images with many pixels near black and white; `step` gives the change."""
    x, y = labelled_images(model, 4, SHAPE, low=0.0)
    x = (1.1 * x - 0.05).clamp(0, 1)
    adv = as_tensor_like(call_with_copies(answer, model, x, y, eps), x)
    low, high, change = adv.min().item(), adv.max().item(), step(x, y)
    hint = "There is nothing blacker than 0 or whiter than 1: end with .clamp(0, 1)."
    if low >= 0 and high > 1:
        hint = "White is 1, not 255, and both ends count: end with .clamp(0, 1)."
    elif low < 0 and high <= 1:
        hint = "Black is 0, not −1, and both ends count: end with .clamp(0, 1)."
    what = f"images with black and white pixels came back with values from {low:.2f} to {high:.2f}."
    expect(low >= 0 and high <= 1, what, hint)
    wanted = (x + change).clamp(0, 1)
    off = ((adv - wanted).abs() > 1e-3 * eps).float().mean().item()
    left = torch.where((x + change - wanted).abs() > 0, x, wanted)
    hint = "Take the step everywhere, then clip the new image to [0, 1]: not the gradient, and not the change."
    if close(adv, left, 1e-3 * eps):
        hint = (
            "You leave a pixel as it is if its step would leave [0, 1]. It may go as far as 0 or 1: use .clamp(0, 1)."
        )
    expect(
        off < 1e-3,
        f"{100 * off:.0f} % of the pixels of images with black and white are not where they should be.",
        hint,
    )


def _alone(answer: Callable, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> None:
    together = call_with_copies(answer, model, x, y, eps)
    single = [
        as_tensor_like(call_with_copies(answer, model, a, b, eps), a)
        for a, b in zip(x.split(1), y.split(1), strict=True)
    ]
    alone = torch.cat(single)
    strong = _strong(loss_gradient(model, x, y))
    expect(
        close(together * strong, alone * strong, 1e-3 * eps),
        "an image comes back different when it is alone in its batch.",
        "The images must not influence one another: look for a mean, a norm or an index over the whole batch.",
    )


def _scales(answer: Callable, model: nn.Module, x: Tensor, y: Tensor, small: float, size: Callable) -> None:
    sizes = size((as_tensor_like(call_with_copies(answer, model, x, y, small), x) - x).flatten(1))
    hint = "Use the eps that is passed in, not a number of your own."
    if sizes.min() == 0:
        hint = "Some images did not move. Every image takes the step, also if the model is not fooled by it."
    what = f"with eps = {small} the size of the change is {sizes.min():.3g} to {sizes.max():.3g}."
    expect(((sizes - small).abs() < 1e-2 * small).all(), what, hint)
    still = as_tensor_like(call_with_copies(answer, model, x, y, 0.0), x)
    what, hint = "with eps = 0 the images change.", "The step is eps times a direction; for eps = 0 that is nothing."
    expect(close(still, x, 1e-6), what, hint)


def _no_trace(answer: Callable, names: str, seed: int, eps: float) -> None:
    for training in (False, True):
        model = smooth_network(seed, SHAPE, CLASSES).train(training)
        no_side_effects(answer, names, model, *labelled_images(model, 6, SHAPE), eps)


def _sign_step(answer: Callable, seed: int, towards: bool) -> Iterator[str]:
    """The properties of FGSM, away from the labels or towards them."""
    sign, name = (-1, "target") if towards else (1, "y")
    model = smooth_network(seed, SHAPE, CLASSES)
    x, y = labelled_images(model, 6, SHAPE)

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: _why(answer, adv, model, x, y, EPS, _sign_mistakes(model, x, y, EPS, towards)) or otherwise

    yield "returns new images like x"
    adv = as_tensor_like(call_with_copies(answer, model, x, y, EPS), x)

    yield "moves every pixel by eps"
    change, gradient = adv - x, sign * loss_gradient(model, x, y)
    strong = _strong(gradient)
    low, high = change[strong].abs().min().item(), change.abs().max().item()
    expect(
        low >= EPS - 1e-5 and high <= EPS + 1e-5,
        f"with eps = {EPS} the pixels changed by {low:.4g} to {high:.4g}.",
        why("The change is eps times the sign of the gradient, so it has the size eps in every pixel."),
    )

    yield "makes the target more likely" if towards else "steps uphill: away from the label y that it is given"
    agree = (change.sign() == gradient.sign())[strong].float().mean().item()
    direction = "subtract" if towards else "add"
    expect(
        agree == 1,
        f"{100 * agree:.1f} % of the pixels move in the direction that makes the loss {'smaller' if towards else 'larger'}.",
        why(
            f"Differentiate F.cross_entropy(model(x), {name}) with respect to x, and {direction} eps times the sign.",
        ),
    )

    yield "stays inside [0, 1]"
    _in_the_box(answer, model, EPS, lambda x, y: sign * EPS * loss_gradient(model, x, y).sign())

    yield "scales with eps, and changes nothing for eps = 0"
    _scales(answer, model, x, y, 0.001, lambda change: change.abs().amax(1))

    yield "gives an image alone what it gives it in a batch"
    _alone(answer, model, x, y, EPS)

    yield "works for other sizes of images and numbers of classes"
    other = smooth_network(seed, OTHER_SHAPE, OTHER_CLASSES)
    x2, y2 = labelled_images(other, 5, OTHER_SHAPE)
    adv2, gradient = (
        as_tensor_like(call_with_copies(answer, other, x2, y2, EPS), x2),
        sign * loss_gradient(other, x2, y2),
    )
    strong = _strong(gradient)
    expect(
        close((adv2 - x2)[strong], EPS * gradient.sign()[strong]),
        f"for images of shape {OTHER_SHAPE} and {OTHER_CLASSES} classes the step is another.",
        "Take shapes and classes from x and from the model, and use nothing but the arguments.",
    )

    yield "copes with pixels that do not matter to the model"
    blind = smooth_network(seed, SHAPE, CLASSES)
    nn.init.zeros_(blind[1].weight[:, :28])
    adv = as_tensor_like(call_with_copies(answer, blind, x, y, EPS), x)
    expect(
        (adv - x).abs().max() <= EPS + 1e-5,
        "a pixel whose gradient is 0 moved by more than eps.",
        "Use g.sign(): it is 0 for 0.",
    )

    yield "leaves no trace on the model and on x"
    _no_trace(answer, f"model x {name} eps", seed, EPS)


@exercise("fgsm", takes="(model, x, y, eps)")
def _fgsm(answer: Callable) -> Iterator[str]:
    yield from _sign_step(answer, 0, towards=False)


@exercise("targeted_fgsm", takes="(model, x, target, eps)")
def _targeted_fgsm(answer: Callable) -> Iterator[str]:
    yield from _sign_step(answer, 1, towards=True)


def _l2_mistakes(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Mistakes:
    g = loss_gradient(model, x, y)
    sizes = g.abs().flatten(1)
    length = broadcast_like(sizes.norm(dim=1))
    own = "Divide each gradient by its own length, gradient.flatten(1).norm(dim=1), and multiply by eps. "
    sign = "That is FGSM's sign step: for n pixels its length is eps·√n. Divide the gradient by its length instead."
    forgotten = "Did you forget to multiply by eps? Your step has the length 1."
    itself = "You use the gradient as it is, whose length differs from image to image. " + own
    part = (
        "An image's gradient has one length, over all its pixels. You take it over another part of the tensor. " + own
    )
    mistakes = [
        *_slips(model, x, y, eps, _unit, towards=False),
        (x + eps * g / g.norm(), "You divide by the length of the whole batch, so that all images share one budget. " + own),
        (x + eps * F.normalize(g), sign + " (F.normalize(g) gives the same, when flatten(1) is forgotten: it divides each pixel by itself.)"),
        (x + eps * g.sign(), sign),
        (x + eps * g.sign() / g[0].numel() ** 0.5, "That has the right length, but the sign forgets the gradient's proportions. " + own),
        (x + _unit(g), forgotten),
        (x + eps * g / length**2 * len(x), "You divide by the squared length. Take the square root, as .norm() does. " + own),
        (x + eps * g / length**2, "You divide by the squared length. Take the square root, as .norm() does. " + own),
        (x + eps * g / length**0.5, "You take the square root of a length, which is a root already. " + own),
        (x + eps * g / broadcast_like(sizes.sum(1)), "You divide by the sum of the absolute values. The Euclidean length is the root of the sum of squares. " + own),
        (x + eps * g / broadcast_like(sizes.amax(1)), "You divide by the largest entry, not by the length. " + own),
        (x + eps * g / sizes.max(), "You divide by the largest entry of the whole batch. " + own),
        (x + eps * g / broadcast_like(sizes.square().mean(1).sqrt()), "You take the mean of the squares. The length is the root of their sum. " + own),
    ]  # fmt: skip
    mistakes += [(x + eps * g / g.norm(dim=dim, keepdim=True), part) for dim in (0, 2, 3)]
    for size in (eps, eps / len(x), 1, 1 / len(x)):  # the loss may be a sum or a mean
        mistakes.append((x + size * g, itself))
    return mistakes


@exercise("l2_step", takes="(model, x, y, eps)")
def _l2_step(answer: Callable) -> Iterator[str]:
    model, eps = smooth_network(2, SHAPE, CLASSES), 0.4
    x, y = labelled_images(model, 6, SHAPE)

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: _why(answer, adv, model, x, y, eps, _l2_mistakes(model, x, y, eps)) or otherwise

    def lengths(change: Tensor) -> Tensor:
        return change.flatten(1).norm(dim=1)

    yield "returns new images like x"
    adv = as_tensor_like(call_with_copies(answer, model, x, y, eps), x)

    yield "moves every image by the distance eps"
    shown = ", ".join(f"{v:.3g}" for v in lengths(adv - x)[:3].tolist())
    hint = "Divide each gradient by its own length, gradient.flatten(1).norm(dim=1), and multiply by eps."
    even = ((lengths(adv - x) - eps).abs() < 1e-2 * eps).all()
    expect(even, f"with eps = {eps} the images moved by the distances {shown}, …", why(hint))

    yield "moves along the gradient"
    cosine = F.cosine_similarity((adv - x).flatten(1), loss_gradient(model, x, y).flatten(1)).min().item()
    hint = "Differentiate F.cross_entropy(model(x), y), and keep the gradient's proportions: no sign, no clamp of the gradient."
    expect(
        cosine > 0.9999,
        f"the cosine of the angle between your step and the gradient is {cosine:.2f}.",
        why(hint),
    )

    yield "stays inside [0, 1]"
    _in_the_box(answer, model, 2.0, lambda x, y: 2.0 * _unit(loss_gradient(model, x, y)))

    yield "scales with eps, and changes nothing for eps = 0"
    _scales(answer, model, x, y, 0.001, lambda change: change.norm(dim=1))

    yield "gives an image alone what it gives it in a batch"
    _alone(answer, model, x, y, eps)

    yield "works for other sizes of images and numbers of classes"
    other = smooth_network(2, OTHER_SHAPE, OTHER_CLASSES)
    x2, y2 = labelled_images(other, 5, OTHER_SHAPE)
    adv2 = as_tensor_like(call_with_copies(answer, other, x2, y2, eps), x2)
    expect(
        close(adv2, x2 + eps * _unit(loss_gradient(other, x2, y2)), 1e-3 * eps),
        f"for images of shape {OTHER_SHAPE} and {OTHER_CLASSES} classes the step is another.",
        "The length goes over all channels and pixels of an image: gradient.flatten(1).norm(dim=1). Take sizes from x.shape.",
    )

    yield "takes the whole step where the gradient is small, and none where it is zero"
    for scale, wanted in ((1e-4, eps), (0.0, 0.0)):
        flat = smooth_network(2, SHAPE, CLASSES)
        flat[3].weight.data.mul_(scale)
        moved = lengths(as_tensor_like(call_with_copies(answer, flat, x, y, eps), x) - x)
        hint = "Guard the division by something tiny only: length.clamp_min(1e-12)."
        if not scale:
            hint = "Without a gradient there is no direction: the image stays. Divide by length.clamp_min(1e-12)."
        expect(
            (moved - wanted).abs().max() < 1e-2 * eps,
            f"with a gradient {scale:g} times as large an image moved by {moved[0]:.3g}.",
            hint,
        )

    yield "leaves no trace on the model and on x"
    _no_trace(answer, "model x y eps", 2, eps)


class _Lookup(nn.Module):
    """Answers what the first pixel of each image says."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes, self.unused = classes, nn.Parameter(torch.ones(()))  # for next(model.parameters()).device

    def forward(self, x: Tensor) -> Tensor:
        labels = (self.classes * x.flatten(1)[:, 0]).round().long()
        return 5 * F.one_hot(labels, self.classes) * self.unused


def _told(labels: list[int], classes: int, shape: tuple[int, ...]) -> Tensor:
    """Images whose first pixel says these labels."""
    x = torch.full((len(labels), *shape), 0.5)
    x[:, 0, 0, 0] = torch.tensor(labels) / classes
    return x


# Labels before and after the attack, for the true label 0: right → right, fooled, repaired, wrong alike, wrong otherwise.
# The numbers keep all likely mistakes apart; the order mixes the kinds.
_KINDS = 6 * [(0, 0)] + 10 * [(0, 1)] + [(1, 0)] + 2 * [(2, 2)] + 2 * [(1, 2)]
_KINDS = [_KINDS[8 * i % 21] for i in range(21)]


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
    drop = (
        "That is the drop of the accuracy, in which images that the attack repaired hide others that it fooled. "
        + select
    )
    yield (lost / n).item(), drop
    yield (lost / right.sum()).item(), drop
    yield (
        0.0,
        "Nothing counts as fooled: take one prediction from x and the other from adv, and divide with / (not //). "
        + select,
    )
    yield 1.0, "Everything counts as fooled: compare the prediction for adv with y. " + select


@exercise("success_rate", takes="(model, x, adv, y)")
def _success_rate(answer: Callable) -> Iterator[str]:
    def rate(before: list[int], after: list[int], y: list[int], classes: int = 10, shape: tuple = (1, 2, 2)) -> float:
        pair = _told(before, classes, shape), _told(after, classes, shape)
        return as_share(call_with_copies(answer, _Lookup(classes), *pair, torch.tensor(y)), len(y))

    y = [i % 10 for i in range(len(_KINDS))]
    before, after = ([(label + kind[i]) % 10 for label, kind in zip(y, _KINDS, strict=True)] for i in (0, 1))

    yield "returns one share between 0 and 1"
    share = rate(before, after, y)

    yield "counts the images that were classified correctly before the attack, and only those"
    hint = "Select first: before = model(x).argmax(1) == y. Then take the share of wrong answers among adv[before]."
    expect(
        abs(share - 10 / 16) < 1e-6,
        f"of 21 images 16 are right before the attack, and 10 of those 16 are wrong after it: 0.625. Yours: {share:.3f}.",
        lambda: diagnose_mistake(share, _rate_mistakes(*map(torch.tensor, (before, after, y))), hint),
    )

    yield "is 0 when nothing changes and 1 when everything falls"
    none, every = rate(before, before, y), rate(before, [(label + 3) % 10 for label in y], y)
    expect(none == 0, f"with adv = x it gives {none:.3f}.", "Nobody is fooled by an unchanged image.")
    expect(abs(every - 1) < 1e-6, f"with every image fooled it gives {every:.3f}.", "All that were right fall: 16/16.")

    yield "works for other sizes of images and numbers of classes"
    for a, b, y, wanted in (([0, 1, 2, 2], [1, 1, 2, 0], [0, 1, 2, 1], 1 / 3), ([2], [0], [2], 1.0)):
        share = rate(a, b, y, 3, (3, 4, 5))
        what = f"for {len(y)} images of shape (3, 4, 5) and 3 classes it gives {share:.3f}, not {wanted:.3f}."
        expect(abs(share - wanted) < 1e-6, what, "Take sizes from the arguments, and use nothing but the arguments.")

    yield "changes none of the images and no weight"
    x = _told(before, 10, (1, 2, 2))
    no_side_effects(answer, "model x adv y", _Lookup(10).eval(), x, x.clone(), torch.tensor(before))
