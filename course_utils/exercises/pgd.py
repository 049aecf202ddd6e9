"""Checks of chapter 03: many small steps, put back into ball and box, and several starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engine import exercise, expect
from .properties import (
    Mistakes,
    as_tensor_like,
    broadcast_like,
    call_with_copies,
    close,
    diagnose_mistake,
    labelled_images,
    loss_gradient,
    no_side_effects,
    smooth_network,
    treats_each_alone,
)

SEED = 309  # on the right paths no gradient is near 0, so that rounding decides nothing
SHAPE, CLASSES = (1, 6, 6), 5
OTHER_SHAPE, OTHER_CLASSES = (3, 5, 7), 4
WANTS_LOGITS = (
    "Cross-entropy wants logits, not probabilities: it applies softmax itself, so give it model(adv) as it is."
)
WANTS_LOGS = "F.nll_loss alone wants log-probabilities: use F.cross_entropy, which takes model(adv) as it is."
TWO_CLAMPS = "x + (adv - x).clamp(-eps, eps) puts adv into the ball; .clamp(0, 1) after it puts it into the box."


def _far_and_near(seed: int, shape: tuple[int, ...], low: float, reach: float) -> tuple[Tensor, Tensor]:
    """Points adv up to `reach` away from images x with pixels in [low, 1 - low]."""
    generator = torch.Generator().manual_seed(seed)
    x = low + (1 - 2 * low) * torch.rand(shape, generator=generator)
    return x + reach * (2 * torch.rand(shape, generator=generator) - 1), x


def _length(images: Tensor) -> Tensor:
    return broadcast_like(images.flatten(1).norm(dim=1))


def _project_mistakes(adv: Tensor, x: Tensor, eps: float) -> Mistakes:
    change = adv - x
    clipped = change.clamp(-eps, eps)
    ball = "Put adv into the ball as well: x + (adv - x).clamp(-eps, eps), then .clamp(0, 1)."
    alone = "That is the change alone. Return the changed image: x plus the clamped change."
    shrunk = (
        "You shrink the whole change until its largest entry fits. Each pixel has a limit of its own: clamp the change."
    )
    ends = "Clamp the change at both ends, from −eps to eps."
    mixed = "You mixed up the two ends: the result must be at least x - eps (torch.maximum) and at most x + eps (torch.minimum)."
    mistakes = [
        (x, "That is x itself: nothing of adv is left. " + TWO_CLAMPS),
        (adv, "adv comes back as it was. Clamping adv to a range around itself does nothing. " + ball),
        (clipped, alone),
        (x + eps * change.sign(), "You move every pixel by the whole eps. One that is within eps of x stays where it is: clamp the change, do not take its sign."),
        (adv.clamp(-eps, eps), "You clamp adv itself to ±eps, which is a ball around black. The ball is around x: clamp adv - x, then add x."),
        (adv.clamp(0, eps), "You clamp adv itself to [0, eps], which is around black. The ball is around x: clamp adv - x, then add x."),
        (x + change.clamp(-2 * eps, 2 * eps), "Your ball is twice as wide: a pixel may be eps away from x, on either side."),
        (x + change.clamp(-eps / 2, eps / 2), "Your ball is half as wide: a pixel may be eps away from x, on either side."),
        (x + change * (eps / _length(change)).clamp(max=1), "That is the Euclidean ball. Here every pixel alone may be eps away from x: clamp the change."),
        (x + eps * change / broadcast_like(change.abs().flatten(1).amax(1)), shrunk),
        (x + eps * change / change.abs().max(), shrunk),
        (x + eps * change, "You multiply the change by eps. eps is a limit: clamp the change to [-eps, eps]."),
        (x + change.clamp(max=eps), ends),
        (x + change.clamp(min=-eps), ends),
        (x + change.clamp(0, eps), ends + " Every step down is lost."),
        (x + eps, mixed),
        (x - eps, mixed),
        (x - clipped, "The change goes the wrong way: it is adv - x, not x - adv."),
        (adv + clipped, "Add the clamped change to x, not to adv."),
        (adv - clipped, "Add the clamped change to x: x + (adv - x).clamp(-eps, eps)."),
        (torch.where(change.abs() > eps, x, adv), "You take a pixel that went too far back to x. It may go as far as eps: clamp the change."),
    ]  # fmt: skip
    return [*mistakes, *((wrong.clamp(0, 1), hint) for wrong, hint in mistakes)]


@exercise("project", takes="(adv, x, eps)")
def _project(answer: Callable) -> Iterator[str]:
    def why(otherwise: str) -> Callable[[], str]:
        return lambda: diagnose_mistake(got, _project_mistakes(adv, x, eps), otherwise)

    def wanted() -> Tensor:
        return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)

    yield "returns new images like x"
    eps, (adv, x) = 0.1, _far_and_near(0, (4, *SHAPE), 0.3, 0.28)
    got = as_tensor_like(call_with_copies(answer, adv, x, eps), x)

    yield "no pixel is farther than eps from x"
    farthest = (got - x).abs().max().item()
    what = f"with eps = {eps} a pixel is {farthest:.3g} away from x; the box is far away from all of them."
    expect(farthest <= eps + 1e-6, what, why(TWO_CLAMPS))

    yield "a pixel within eps stays as it is, and one beyond goes to the end of its range"
    inside = (adv - x).abs() <= eps
    moved, short = (got - adv)[inside].abs().max().item(), (eps - (got - x).abs())[~inside].max().item()
    what = f"with eps = {eps} a pixel that was inside the ball moved by {moved:.3g}, and one from outside ends {short:.3g} short of eps."
    expect(close(got, wanted()), what, why("Take the nearest point of the ball. " + TWO_CLAMPS))

    yield "stays inside [0, 1]"
    adv, x = _far_and_near(1, (4, *SHAPE), 0.0, 0.3)
    x[:, :, 0], x[:, :, -1] = 0.0, 1.0
    got = as_tensor_like(call_with_copies(answer, adv, x, eps), x)
    what = f"with black and white pixels in x the result has values from {got.min():.3g} to {got.max():.3g}."
    hint = "The ball reaches beyond black and white: end with .clamp(0, 1), at both ends."
    expect(got.min() >= -1e-6 and got.max() <= 1 + 1e-6, what, why(hint))
    off = 100 * (~torch.isclose(got, wanted(), atol=1e-5)).float().mean().item()
    hint = "Clamp the image and not the change to [0, 1], and leave alone what is inside. " + TWO_CLAMPS
    expect(close(got, wanted()), f"{off:.0f} % of the pixels are not where they should be.", why(hint))

    yield "works for every eps and every size of images"
    for eps, shape in ((0.03, (5, *OTHER_SHAPE)), (0.2, (1, 1, 28, 28)), (0.0, (2, 3, 4, 4))):
        adv, x = _far_and_near(2, shape, 0.1, 0.3)
        got = as_tensor_like(call_with_copies(answer, adv, x, eps), x)
        what = f"for eps = {eps} and images of shape {shape} a pixel is {(got - wanted()).abs().max():.3g} away from where it should be."
        expect(close(got, wanted()), what, "Use the eps that is passed in, and nothing but the arguments.")

    yield "leaves adv and x as they were"
    no_side_effects(answer, "adv x eps", *_far_and_near(1, (4, *SHAPE), 0.0, 0.3), 0.1)


class _Climb(NamedTuple):
    """What an attack of many steps is given: a model, images, labels, and three numbers."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    steps: int
    step_size: float


def climbable(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return a network that is never so sure that rounding takes a part of its gradient."""
    return smooth_network(SEED, shape, classes, spread=0.3)


def put_back(point: Tensor, x: Tensor, eps: float) -> Tensor:
    """Return the point put back into the ball around x and into [0, 1]."""
    return (x + (point - x).clamp(-eps, eps)).clamp(0, 1)


def ascend(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    steps: int,
    step_size: float,
    *,
    sign: int = 1,
    loss: Callable = F.cross_entropy,
    move: Callable[[Tensor], Tensor] = torch.sign,
    keep: Callable[[Tensor, Tensor], Tensor] | None = None,
    stale: bool = False,
) -> Tensor:
    """Return where projected gradient steps lead from x; each keyword makes one mistake.

    Args:
        model, x, y, eps, steps, step_size: as the exercise `pgd` takes them. sign: −1 descends.
        loss: what is differentiated. move: the step's direction from the gradient.
        keep: what becomes of a new point, from it and the last one. stale: the gradient is that at x for all steps.
    """
    point = x
    for _ in range(steps):
        slope = loss_gradient(model, x if stale else point, y, loss)
        new = point + sign * step_size * move(slope)
        point = keep(new, point) if keep else put_back(new, x, eps)
    return point


def softmaxed(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Return the cross-entropy of probabilities taken for logits, a common mistake."""
    return F.cross_entropy(logits.softmax(1), y, reduction=reduction)


def _own_label(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    return F.cross_entropy(logits, logits.argmax(1), reduction=reduction)


def _climb_mistakes(task: _Climb, sign: int) -> Mistakes:
    """What goes wrong in projected steps away from the labels (sign 1) or towards them (−1), and what to say."""
    model, x, y, eps, steps, step_size = task
    label = "y" if sign > 0 else "target"

    def go(steps: int = steps, step_size: float = step_size, y: Tensor = y, **keywords: object) -> Tensor:
        return ascend(model, x, y, eps, steps, step_size, **{"sign": sign, **keywords})

    def frozen_when_done(new: Tensor, last: Tensor) -> Tensor:
        done = (model(last).argmax(1) == y) == (sign < 0)
        return torch.where(broadcast_like(done), last, put_back(new, x, eps))

    downhill = "You walk downhill: add the step, do not subtract it. The attack makes the loss larger."
    if sign < 0:
        downhill = "Your steps make the target less likely: they must go against the gradient of the loss for the target. Count your minus signs."
    prediction = f"You use the model's own prediction as the label. Use the {label} that was passed in, in all steps."
    unlikely = f"You step by the least likely class. Use the {label} that was passed in."
    itself = (
        "You step along the gradient itself, whose size differs from pixel to pixel. Take its sign, times step_size."
    )
    share = "Every step has the size step_size. You use eps, or a share of it."
    last_only = (
        "You put the image back into the ball only after the last step. Do it after every step, inside the loop."
    )
    no_ball = "You never put the image back into the ball. After every step: x + (adv - x).clamp(-eps, eps), then .clamp(0, 1)."
    no_box = (
        "You keep to the ball, but not to [0, 1] in every step: after the ball comes .clamp(0, 1), inside the loop."
    )
    black = "You clamp the image itself to ±eps, which is a ball around black. The ball is around x: clamp adv - x, then add x."
    free, boxed = go(keep=lambda new, _: new), go(keep=lambda new, _: new.clamp(0, 1))
    in_ball = go(keep=lambda new, _: x + (new - x).clamp(-eps, eps))
    slope = loss_gradient(model, x, y)
    yield from (
        (x, "Nothing changed. Do you return x instead of the new image, or does every step start without the last?"),
        (go(sign=-sign), downhill),
        (go(sign=-sign, stale=True), downhill),
        (ascend(*task, sign=sign) - x, "That is the change alone. Return the changed image."),
        (go(stale=True), "You compute the gradient only once, at x. Compute it anew in every step, at the point you have reached."),
        (go(keep=lambda new, last: put_back(x + new - last, x, eps)), "Every step starts at x again. Start it at the point the last one has reached."),
        (go(step_size=eps), share),
        (go(step_size=eps / steps), share),
        (go(step_size=2.5 * eps / steps), share),
        (go(step_size=step_size * eps), "Every step has the size step_size. You multiply it by eps."),
        (go(step_size=1.0), "Did you forget to multiply by step_size? The sign alone has size 1 in every pixel."),
        (go(1), "You took only one step. Does return stand inside the loop?"),
        (go(steps - 1), "You took one step too few: for _ in range(steps) takes all of them, and the last one is returned."),
        (go(steps + 1), "You took one step too many: for _ in range(steps) takes all of them."),
        (go(y=model(x).argmax(1)), prediction),
        (go(y=model(x).argmax(1), sign=-sign), prediction + " And check the direction."),
        (go(loss=_own_label), prediction),
        (go(loss=_own_label, sign=-sign), prediction + " And check the direction."),
        (go(y=model(x).argmin(1)), unlikely),
        (go(y=model(x).argmin(1), sign=-sign), unlikely),
        (go(loss=softmaxed), WANTS_LOGITS),
        (go(loss=F.nll_loss), WANTS_LOGS),
        (go(loss=F.nll_loss, sign=-sign), f"That differentiates the logit, not the loss: use F.cross_entropy(model(adv), {label})."),
        (go(keep=frozen_when_done), "You stop moving an image as soon as the attack has worked. Here every image takes all its steps."),
        (free, no_ball),
        (boxed, no_ball),
        (put_back(free, x, eps), last_only),
        (put_back(boxed, x, eps), last_only),
        (in_ball, no_box),
        (in_ball.clamp(0, 1), no_box),
        (go(keep=lambda new, last: put_back(new, last, eps)), "You keep to a ball around the last point, which moves along. The ball is around the original x: clamp adv - x."),
        (go(keep=lambda new, _: put_back(new, x, 2 * eps)), "Your ball is twice as wide: a pixel may be eps away from x, on either side."),
        (go(keep=lambda new, _: new.clamp(-eps, eps)), black),
        (go(keep=lambda new, _: new.clamp(0, eps)), black),
        (go(move=lambda g: g), itself),
        (go(move=lambda g: g / len(x)), itself),  # the loss may be a sum or a mean
        (x + sign * step_size * slope, itself),
        (x + sign * step_size * slope / len(x), itself),
        (go(move=lambda g: g / _length(g).clamp_min(1e-12)), "You divide the gradient by its length, which is the step for the Euclidean norm. Here take the sign."),
    )  # fmt: skip


def _why(answer: Callable, adv: Tensor, task: _Climb, mistakes: Mistakes, otherwise: str) -> str:
    """Return the likely mistake behind a wrong path, from what it gives or from how it depends on the arguments."""
    if hint := diagnose_mistake(adv, mistakes, ""):
        return hint
    if not close(adv, call_with_copies(answer, *task)):
        return "A second call gives another result. This exercise starts at x itself and has no randomness: only gradients decide."
    others = {
        "steps": task._replace(steps=task.steps + 2),
        "step_size": task._replace(step_size=task.step_size / 2),
        "eps": task._replace(eps=task.step_size / 2),
    }
    for name, other in others.items():
        if close(adv, call_with_copies(answer, *other)):
            return (
                f"The result is the same for every {name}. Use the {name} that is passed in, not a number of your own."
            )
    still = (adv == task.x).flatten(1).all(1)
    if still.any():
        which = ", ".join(str(i) for i in still.nonzero().flatten().tolist())
        return f"Some images did not move at all (number {which}). Attack every image of the batch, whatever the model makes of it."
    return otherwise


def _path(answer: Callable, towards: bool) -> Iterator[str]:
    """The properties of PGD from x itself, away from the labels or towards them."""
    sign, name = (-1, "target") if towards else (1, "y")
    model = climbable(SHAPE, CLASSES)
    x, y = labelled_images(model, 6, SHAPE)

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: _why(answer, adv, task, _climb_mistakes(task, sign), otherwise)

    def misplaced() -> str:
        off = 100 * (~torch.isclose(adv, right, atol=1e-5)).float().mean().item()
        before, got, best = (F.cross_entropy(model(v), y).item() for v in (x, adv, right))
        return (
            f"after {task.steps} steps of {task.step_size} with eps = {task.eps}, {off:.0f} % of the pixels are not where they should be: "
            f"the loss went from {before:.3g} to {got:.3g}, and not to {best:.3g}."
        )

    yield "returns new images like x"
    task = _Climb(model, x, y, 0.2, 3, 0.03)
    as_tensor_like(call_with_copies(answer, *task), x)

    yield f"moves every pixel by step_size in one step, {'towards the target' if towards else 'uphill'}"
    task = _Climb(model, x, y, 0.2, 1, 0.03)
    adv, right = as_tensor_like(call_with_copies(answer, *task), x), ascend(*task, sign=sign)
    change, uphill = (adv - x).abs(), ((adv - x).sign() == (right - x).sign()).float().mean().item()
    what = (
        f"with steps = 1, step_size = 0.03 and eps = 0.2 the pixels changed by {change.min():.3g} to {change.max():.3g}, "
        f"{100 * uphill:.0f} % of them in the direction that makes the loss {'smaller' if towards else 'larger'}."
    )
    hint = f"Differentiate F.cross_entropy(model(adv), {name}) with respect to adv, and {'subtract' if towards else 'add'} step_size times the sign."
    expect(close(adv, right), what, why(hint))

    yield "takes every step at the point that it has reached"
    task = task._replace(steps=4)
    adv, right = as_tensor_like(call_with_copies(answer, *task), x), ascend(*task, sign=sign)
    hint = "In every step: the gradient at the point you have reached, then step_size times its sign from there. Return the last point."
    expect(close(adv, right), misplaced(), why(hint))

    yield "never ends farther than eps from x"
    task = _Climb(model, x, y, 0.06, 6, 0.07)
    adv, right = as_tensor_like(call_with_copies(answer, *task), x), ascend(*task, sign=sign)
    what = f"after 6 steps of 0.07 with eps = 0.06 a pixel is {(adv - x).abs().max():.3g} away from x."
    expect((adv - x).abs().max() <= 0.06 + 1e-6, what, why("After every step: x + (adv - x).clamp(-eps, eps)."))

    yield "goes back into the ball after every step"
    expect(
        close(adv, right), misplaced(), why("After every step, and before the next: x + (adv - x).clamp(-eps, eps).")
    )

    yield "stays inside [0, 1], in every step"
    x, y = labelled_images(model, 4, SHAPE, low=0.0)
    x = (1.1 * x - 0.05).clamp(0, 1)
    task = _Climb(model, x, y, 0.2, 5, 0.06)
    adv, right = as_tensor_like(call_with_copies(answer, *task), x), ascend(*task, sign=sign)
    what = f"images with black and white pixels came back with values from {adv.min():.2f} to {adv.max():.2f}."
    hint = "There is nothing blacker than 0 or whiter than 1: put .clamp(0, 1) after the ball, in every step."
    expect(adv.min() >= 0 and adv.max() <= 1, what, why(hint))
    expect(close(adv, right), misplaced(), why("After every step first the ball around x, then .clamp(0, 1)."))

    yield "eps = 0 changes nothing"
    still = as_tensor_like(call_with_copies(answer, *task._replace(eps=0.0)), x)
    expect(close(still, x, 1e-6), "with eps = 0 the images change.", "A ball of radius 0 holds x alone.")

    yield "gives an image alone what it gives it in a batch"
    treats_each_alone(answer, 4, lambda part: (model, x[part], y[part], 0.06, 4, 0.03), 1e-5)

    yield "works for other sizes of images and numbers of classes"
    model = climbable(OTHER_SHAPE, OTHER_CLASSES)
    x, y = labelled_images(model, 5, OTHER_SHAPE)
    task = _Climb(model, x, y, 0.05, 3, 0.03)
    adv, right = as_tensor_like(call_with_copies(answer, *task), x), ascend(*task, sign=sign)
    what = f"for images of shape {OTHER_SHAPE} and {OTHER_CLASSES} classes the result is another."
    expect(
        close(adv, right), what, "Take shapes and classes from x and from the model, and use nothing but the arguments."
    )

    yield "leaves no trace on the model and on x"
    for training in (False, True):
        no_side_effects(answer, f"model x {name} eps steps step_size", *task._replace(model=model.train(training)))


@exercise("pgd", takes="(model, x, y, eps, steps, step_size)")
def _pgd(answer: Callable) -> Iterator[str]:
    yield from _path(answer, towards=False)


@exercise("targeted_pgd", takes="(model, x, target, eps, steps, step_size)")
def _targeted_pgd(answer: Callable) -> Iterator[str]:
    yield from _path(answer, towards=True)


class _Readable(nn.Module):
    """Takes the first pixels of an image for its logits."""

    def __init__(self, classes: int):
        super().__init__()
        self.scale = nn.Parameter(torch.full((classes,), 8.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.flatten(1)[:, : len(self.scale)]


# For each image, which of four restarts fool the model. The last image is misread as it is, and read rightly in all of them.
_FOOLED = ["1000", "0101", "0010", "0000", "1111", "0110", "1011", "0001", "0011", "0000"]


def _written(labels: Tensor, classes: int, shape: tuple[int, ...], sure: float, generator: torch.Generator) -> Tensor:
    """Images that a _Readable reads as these labels, more confidently the larger `sure` is."""
    x = torch.rand(len(labels), *shape, generator=generator)
    pixels = x.flatten(1)
    pixels[:, :classes] = 0.2 * pixels[:, :classes] + sure * F.one_hot(labels, classes)
    return pixels.view_as(x)


def _restarts(
    fooled: list[str], classes: int, shape: tuple[int, ...]
) -> tuple[nn.Module, Tensor, Tensor, list[Tensor]]:
    """A model, images, labels and restarts, of which those marked with 1 fool the model."""
    generator = torch.Generator().manual_seed(len(fooled))
    y = torch.arange(len(fooled)) % classes
    wrong = (y + 1) % classes
    own = torch.where(torch.arange(len(y)) == len(y) - 1, wrong, y)
    marks = [torch.tensor([column[i] == "1" for column in fooled]) for i in range(len(fooled[0]))]
    sure = [0.8 if i == 1 else 0.3 for i in range(len(marks))]  # so that the loss has favourites of its own
    batches = [
        _written(torch.where(m, wrong, y), classes, shape, s, generator) for m, s in zip(marks, sure, strict=True)
    ]
    return _Readable(classes).eval(), _written(own, classes, shape, 0.3, generator), y, batches


def _keep_mistakes(model: nn.Module, x: Tensor, y: Tensor, restarts: list[Tensor]) -> Mistakes:
    count, batches = len(restarts), torch.stack([*restarts, x])  # the last is what is left when no restart fools
    predicted = torch.stack([model(adv).argmax(1) for adv in restarts])
    losses = torch.stack([F.cross_entropy(model(adv), y, reduction="none") for adv in restarts])
    fooled, order = predicted != y, torch.arange(count)[:, None].expand(-1, len(x))

    def pick(which: Tensor) -> Tensor:
        return batches[which.expand(len(x)), torch.arange(len(x))]

    def first(mask: Tensor, otherwise: int = count) -> Tensor:
        return pick(torch.where(mask.any(0), mask.float().argmax(0), otherwise))

    def last(mask: Tensor, otherwise: int = count) -> Tensor:
        return pick(torch.where(mask.any(0), torch.where(mask, order, -1).amax(0), otherwise))

    def constant(i: int) -> Tensor:
        return pick(torch.tensor(i))

    whole = "You keep one whole batch, the {}. Each image has a best restart of its own: keep them image by image."
    later = "A later restart replaces one that already fools the model. Take the first: change only images that are not fooled yet, or go through the restarts backwards."
    inverted = "You keep the restarts that do not fool the model. It is fooled where model(adv).argmax(1) != y."
    fresh = fooled & ~torch.cat([torch.zeros_like(fooled[:1]), fooled[:-1]])
    yield (
        x,
        "That is x: no restart was kept. Does your loop ask whether all images are fooled at once (.all())? Decide image by image.",
    )
    yield (
        constant(0),
        "You always take the first restart. Go on for the images that it does not fool. Is there a return inside the loop, or an .any() over the batch?",
    )
    yield (
        constant(count - 1),
        "You always take the last restart. A mask must say which images to replace: model(adv).argmax(1) != y.",
    )
    yield constant(fooled.sum(1).argmax()), whole.format("one that fools most")
    yield constant(losses.mean(1).argmax()), whole.format("one with the highest mean loss")
    yield (
        pick(losses.argmax(0)),
        "You keep the restart with the highest loss. Asked for is the first that fools: model(adv).argmax(1) != y.",
    )
    yield (
        last(fresh),
        "You remember only the images that the last restart fooled. Remember all that were fooled so far: done = done | fooled.",
    )
    for otherwise, name in ((count, ""), (0, "the first restart"), (count - 1, "the last restart")):
        rest = f" Where no restart fools, return the image of x, not of {name}." if name else ""
        yield last(fooled, otherwise), later + rest
        yield first(~fooled, otherwise), inverted + rest
        yield last(~fooled, otherwise), inverted + rest
        yield from (
            (
                rule(predicted != model(x).argmax(1), otherwise),
                "You compare with the model's answer for x. Fooled means an answer other than y." + rest,
            )
            for rule in (first, last)
        )
        if name:
            yield first(fooled, otherwise), rest.strip()
    yield (
        first(fooled) * broadcast_like(fooled.any(0)),
        "Where no restart fools, the image is black. Start from x.clone(), not from zeros.",
    )


@exercise("keep_best", takes="(model, x, y, restarts)")
def _keep_best(answer: Callable) -> Iterator[str]:
    task = _restarts(_FOOLED, 4, (1, 3, 3))
    _, x, _, restarts = task

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: diagnose_mistake(best, _keep_mistakes(*task), otherwise)

    def chosen(i: int) -> str:
        """What the answer returned for image i, in words."""
        names = [*(f"restart {r}" for r in range(len(restarts))), "x"]
        return next(
            (name for name, batch in zip(names, (*restarts, x), strict=True) if close(best[i], batch[i])),
            "something else",
        )

    yield "returns one image for each of x"
    best = as_tensor_like(call_with_copies(answer, *task), x)

    yield "keeps, image by image, a restart that fools the model"
    some = [i for i, marks in enumerate(_FOOLED) if "1" in marks]
    missed = [i for i in some if chosen(i) not in [f"restart {r}" for r in range(4) if _FOOLED[i][r] == "1"]]
    what = (
        f"{len(some)} of {len(x)} images have a restart that fools the model, and you miss it for {len(missed)} of them"
    )
    if missed:
        fooling = [r for r in range(4) if _FOOLED[missed[0]][r] == "1"]
        what += f": image {missed[0]} is fooled by {fooling} of the restarts 0 to 3, and you took {chosen(missed[0])}"
    expect(not missed, what + ".", why("best[fooled] = adv[fooled] with the mask fooled = model(adv).argmax(1) != y."))

    yield "keeps the first restart that fools it"
    late = [i for i in some if chosen(i) != f"restart {_FOOLED[i].index('1')}"]
    what = "".join(
        f"image {i} is first fooled by restart {_FOOLED[i].index('1')}, and you took {chosen(i)}. " for i in late[:1]
    )
    expect(
        not late,
        what.strip(),
        why("Replace an image only if no earlier restart fooled it, or go through the restarts backwards."),
    )

    yield "keeps x where no restart fools"
    other = [i for i, marks in enumerate(_FOOLED) if "1" not in marks and chosen(i) != "x"]
    what = "".join(f"no restart fools image {i}, and you took {chosen(i)}. " for i in other[:1])
    hint = "Start from x.clone(), and replace only what is fooled: model(adv).argmax(1) != y."
    expect(not other, what.strip(), why(hint))

    yield "works for one restart, and for other sizes of images and numbers of classes"
    for fooled, classes, shape in (
        (["1", "0", "0"], 3, (2, 2, 4)),
        (["00", "01"], 5, (3, 5, 7)),
        (["01"], 2, (1, 28, 28)),
    ):
        task = _restarts(fooled, classes, shape)
        _, x, _, restarts = task
        best = as_tensor_like(call_with_copies(answer, *task), x)
        wanted = ["x" if "1" not in marks else f"restart {marks.index('1')}" for marks in fooled]
        got = [chosen(i) for i in range(len(x))]
        what = f"for {len(x)} images of shape {shape}, {classes} classes and {len(restarts)} restarts you took {', '.join(got)}; right is {', '.join(wanted)}."
        expect(
            got == wanted, what, why("Take sizes and numbers from the arguments, and use nothing but the arguments.")
        )

    yield "leaves its arguments as they were"
    no_side_effects(answer, "model x y restarts", *_restarts(_FOOLED, 4, (1, 3, 3)))


class _Move(NamedTuple):
    """What one step in the Euclidean ball is given."""

    point: Tensor
    gradient: Tensor
    x: Tensor
    eps: float
    step_size: float


def _l2_move(task: _Move, *, direction: Callable | None = None, limit: Callable | None = None) -> Tensor:
    """Return the right step, or one with another direction or another way back into the ball."""
    point, gradient, x, eps, step_size = task
    along = direction(gradient) if direction else gradient / _length(gradient).clamp_min(1e-30)
    change = point + step_size * along - x
    change = limit(change) if limit else change * (eps / _length(change).clamp_min(1e-30)).clamp(max=1)
    return (x + change).clamp(0, 1)


def _l2_mistakes(task: _Move) -> Mistakes:
    point, g, x, eps, step_size = task
    sizes, unit = g.abs().flatten(1), g / _length(g).clamp_min(1e-30)
    right = _l2_move(task)

    def along(direction: Callable) -> Tensor:
        return _l2_move(task, direction=direction)

    def within(limit: Callable) -> Tensor:
        return _l2_move(task, limit=limit)

    own = "Divide each gradient by its own length, gradient.flatten(1).norm(dim=1), and multiply by step_size."
    itself = "You use the gradient as it is, whose length differs from image to image. " + own
    part = (
        "An image's gradient has one length, over all its pixels. You take it over another part of the tensor. " + own
    )
    unprojected = "You never put the image back into the ball: shorten adv - x to the length eps where it is longer."
    sphere = "You move every image to the surface of the ball. One inside stays where it is: multiply the change by (eps / length).clamp(max=1)."
    pixels = "That is a ball for every single pixel. Here one length counts for each image: multiply the change by (eps / length).clamp(max=1)."
    ball_of_batch = "You take one length for the whole batch when you go back into the ball. Each image has its own: (adv - x).flatten(1).norm(dim=1)."
    yield from (
        (point, "The point did not move: add step_size times the gradient divided by its length."),
        (x, "That is x itself. The step starts at point."),
        (right - x, "That is the change alone. Return the changed image: x plus the change."),
        (_l2_move(task._replace(gradient=-g)), "You step against the gradient. Add the step: the loss grows along it."),
        (_l2_move(task._replace(point=x)), "The step starts at point, not at x; x is only the centre of the ball."),
        (along(lambda g: g / g.norm()), "You divide by the length of the whole batch, so that all images share one step. " + own),
        (along(torch.sign), "That is the sign step of the max norm: for n pixels its length is √n times too long. (F.normalize without flatten(1) gives the same.) " + own),
        (along(lambda g: g.sign() / g[0].numel() ** 0.5), "That has the right length, but the sign forgets the gradient's proportions. " + own),
        (along(lambda g: g / _length(g).clamp_min(1e-30) ** 2), "You divide by the squared length. Take the square root, as .norm() does. " + own),
        (along(lambda g: g / broadcast_like(sizes.sum(1))), "You divide by the sum of the absolute values, not by the Euclidean length. " + own),
        (along(lambda g: g / broadcast_like(sizes.amax(1))), "You divide by the largest entry, not by the length. " + own),
        (along(lambda g: g), itself),
        ((point + step_size * g).clamp(0, 1), itself + " Then go back into the ball."),
        (_l2_move(task._replace(step_size=eps)), "The step has the length step_size, not eps."),
        (_l2_move(task._replace(step_size=step_size * eps)), "The step has the length step_size: do not multiply it by eps."),
        (_l2_move(task._replace(step_size=1.0)), "Did you forget to multiply by step_size? Your step has the length 1."),
        (_l2_move(task._replace(eps=2 * eps)), "Your ball is twice as wide: its radius is eps."),
        (within(lambda c: c), unprojected),
        (point + step_size * unit, unprojected + " Then .clamp(0, 1)."),
        (within(lambda c: eps * c / _length(c).clamp_min(1e-30)), sphere),
        (within(lambda c: eps * c), "You multiply the change by eps. eps is a limit: multiply by (eps / length).clamp(max=1)."),
        (within(lambda c: c.clamp(-eps, eps)), pixels),
        (within(lambda c: c * (eps / c.norm()).clamp(max=1)), ball_of_batch),
        (within(lambda c: eps * c / c.norm()), ball_of_batch),
        (within(lambda c: torch.where(_length(c) > eps, 0, c)), "You take an image that left the ball back to x. It goes to the surface only: shorten its change to eps."),
        (within(lambda c: torch.where(_length(c) > eps, point - x, c)), "You refuse a step that would leave the ball. Take it, then shorten adv - x to eps."),
    )  # fmt: skip
    yield from ((along(lambda g, dim=dim: g / g.norm(dim=dim, keepdim=True)), part) for dim in (0, 2, 3))


@exercise("l2_pgd_step", takes="(point, gradient, x, eps, step_size)")
def _l2_pgd_step(answer: Callable) -> Iterator[str]:
    def drawn(seed: int, n: int, shape: tuple[int, ...], low: float = 0.45) -> tuple[Tensor, Tensor, Tensor]:
        """Images, directions of length 1 with most of it in one pixel, and gradients of unlike lengths."""
        generator = torch.Generator().manual_seed(seed)
        x = low + (1 - 2 * low) * torch.rand(n, *shape, generator=generator)
        away, gradient = (torch.randn(n, *shape, generator=generator) for _ in range(2))
        away[:, 0, 0, 0] = 20.0
        return x, away / _length(away), gradient * broadcast_like(2.0 ** torch.arange(n))

    def why(otherwise: str) -> Callable[[], str]:
        return lambda: diagnose_mistake(adv, _l2_mistakes(task), otherwise)

    def lengths(change: Tensor) -> Tensor:
        return change.flatten(1).norm(dim=1)

    def shown(values: Tensor) -> str:
        return ", ".join(f"{v:.3g}" for v in values.tolist())

    x, away, gradient = drawn(0, 4, SHAPE)
    point = x + 0.1 * away

    yield "returns new images like x"
    task = _Move(point, gradient, x, 2.0, 0.2)
    adv = as_tensor_like(call_with_copies(answer, *task), x)

    yield "moves every image by the distance step_size, along its own gradient"
    cosine = F.cosine_similarity((adv - point).flatten(1), gradient.flatten(1)).min().item()
    what = (
        f"with step_size = 0.2 the images moved from point by the distances {shown(lengths(adv - point))}, "
        f"and the cosine of the angle to the gradient is {cosine:.2f} or more; the ball and the box are far away."
    )
    hint = "Divide each gradient by its own length, gradient.flatten(1).norm(dim=1), multiply by step_size, and add it to point."
    expect(close(adv, _l2_move(task), 1e-4), what, why(hint))

    yield "ends no farther than eps from x"
    reach, outwards = torch.tensor([0.18, 0.18, 0.12, 0.15]), torch.tensor([1, -1, -1, 1])
    task = _Move(x + broadcast_like(reach) * away, broadcast_like(outwards) * away * _length(gradient), x, 0.2, 0.3)
    adv, right = as_tensor_like(call_with_copies(answer, *task), x), _l2_move(task)
    distances = f"with eps = 0.2 the images end at the distances {shown(lengths(adv - x))} from x; right are {shown(lengths(right - x))}."
    hint = "Multiply the change adv - x by (eps / its length).clamp(max=1), image by image, and add it to x."
    expect((lengths(adv - x) <= 0.2 + 1e-5).all(), distances, why(hint))

    yield "shortens a change that is too long, and leaves one inside the ball alone"
    expect(close(adv, right, 1e-4), distances, why(hint))
    task = _Move(x + 0.3 * away, gradient, x, 0.35, 0.2)
    adv, right = as_tensor_like(call_with_copies(answer, *task), x), _l2_move(task)
    what = f"an image that left the ball ends {lengths(adv - right).max():.3g} away from the nearest point of the ball."
    expect(close(adv, right, 1e-4), what, why(hint))

    yield "stays inside [0, 1]"
    x, away, gradient = drawn(1, 4, SHAPE, low=0.0)
    task = _Move((x + 0.3 * away).clamp(0, 1), gradient, x, 1.2, 1.0)
    adv, right = as_tensor_like(call_with_copies(answer, *task), x), _l2_move(task)
    what = f"images with dark and bright pixels came back with values from {adv.min():.2f} to {adv.max():.2f}."
    expect(adv.min() >= 0 and adv.max() <= 1, what, "After the ball comes the box: end with .clamp(0, 1).")
    what = f"a pixel is {(adv - right).abs().max():.3g} away from where it should be."
    expect(close(adv, right, 1e-4), what, why("First the ball, then .clamp(0, 1): clip the image, not the step."))

    yield "takes the whole step where the gradient is small, and none where it is zero"
    x, away, gradient = drawn(2, 4, SHAPE)
    for scale, wanted in ((1e-10, 0.2), (0.0, 0.0)):
        task = _Move(x.clone(), scale * gradient / _length(gradient) * 3, x, 1.0, 0.2)
        adv = as_tensor_like(call_with_copies(answer, *task), x)
        moved = lengths(adv - x)
        hint = (
            "Guard the division by something tiny only, which does not touch a small gradient: length.clamp_min(1e-12)."
        )
        if not scale:
            hint = "Without a gradient there is no direction: the image stays. Divide by length.clamp_min(1e-12)."
        what = f"with step_size = 0.2 and gradients of the length {3 * scale:.0e} the images moved by {shown(moved)}."
        expect(((moved - wanted).abs() < 2e-3).all(), what, hint)

    yield "eps = 0 gives x"
    task = _Move(x + 0.1 * away, gradient, x, 0.0, 0.2)
    adv = as_tensor_like(call_with_copies(answer, *task), x)
    what = f"with eps = 0 an image ends {lengths(adv - x).max():.3g} away from x."
    expect(close(adv, x, 1e-6), what, "A ball of radius 0 holds x alone.")

    yield "gives an image alone what it gives it in a batch, whatever its size"
    for shape in (SHAPE, OTHER_SHAPE):
        x, away, gradient = drawn(3, 3, shape)
        task = _Move(x + 0.3 * away, gradient, x, 0.4, 0.3)
        adv = as_tensor_like(call_with_copies(answer, *task), x)
        what = f"for images of shape {shape} the result is another."
        hint = "The length goes over all channels and pixels of an image: gradient.flatten(1).norm(dim=1). Take sizes from x.shape."
        expect(close(adv, _l2_move(task)), what, why(hint))
    treats_each_alone(answer, 3, lambda part: (task.point[part], gradient[part], x[part], 0.4, 0.3), 1e-5)

    yield "leaves its arguments as they were"
    no_side_effects(answer, "point gradient x eps step_size", *task)
