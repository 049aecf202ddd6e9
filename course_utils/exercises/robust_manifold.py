"""Checks of chapter 06: the projection onto a generator's range, how it is attacked, and what its pairs are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import inputs, mistakes
from .engine import exercise, expect
from .properties import (
    Mistakes,
    as_tensor_like,
    call_with_copies,
    close,
    diagnose_mistake,
    expect_close,
    no_side_effects,
    with_hint,
)

SEED = 56  # in the choice among restarts every mistake takes another z
LATENT, OTHER_LATENT = 3, 4
ONLY_ARGUMENTS = mistakes.ONLY_ARGUMENTS.format("everything")


class _Generator(nn.Sequential):
    """A smooth, untrained little generator, as particular about the shape of z as a GAN's."""

    def __init__(self, latent: int, shape: tuple[int, ...]):
        pixels = math.prod(shape)
        layers = nn.Linear(latent, 16), nn.Tanh(), nn.Linear(16, pixels), nn.Sigmoid(), nn.Unflatten(1, shape)
        super().__init__(*layers)
        self.latent = latent
        stream = torch.Generator().manual_seed(latent)
        for layer, size in ((self[0], 0.7), (self[2], 0.6)):
            nn.init.normal_(layer.weight, 0, size, generator=stream)
            nn.init.normal_(layer.bias, 0, 0.3, generator=stream)

    def forward(self, z: Tensor) -> Tensor:
        if z.ndim != 2:
            raise ValueError(
                f"the generator takes z of shape (N, latent), one for each image, and got {tuple(z.shape)}."
            )
        return super().forward(z)


def _images(n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _squares(change: Tensor) -> Tensor:
    """Return the sum of squares of each image, (..., C, H, W) → (...)."""
    return change.square().sum((-3, -2, -1))


# One step of the projection


class _ProjectionTask(NamedTuple):
    """What a projection step is given."""

    generator: nn.Module
    z: Tensor
    x: Tensor
    lr: float


def _projection_task(n: int, latent: int, shape: tuple[int, ...], lr: float) -> _ProjectionTask:
    z = torch.randn(n, latent, generator=torch.Generator().manual_seed(n))
    return _ProjectionTask(_Generator(latent, shape), z, _images(n, shape), lr)


def _z_gradient(task: _ProjectionTask, distance: Callable[[Tensor], Tensor] = _squares) -> Tensor:
    """Return the gradient in z of each image's own distance, a function of G(z) − x."""
    z = task.z.clone().requires_grad_()
    return torch.autograd.grad(distance(task.generator(z) - task.x).sum(), z)[0]


def _step_mistakes(task: _ProjectionTask) -> Mistakes:
    generator, z, x, lr = task
    count, pixels = len(x), x[0].numel()
    slope = _z_gradient(task)
    down, change = z - lr * slope, generator(z).detach() - x
    sums = "The distance is a sum: of squares over the pixels, of the images one by one. "
    over = "You take the mean over the {0}, and the step shrinks with the size of the {1}. " + sums + "Use .sum()."
    itself = "You change the gradient's length. The step is lr times the gradient itself, in plain gradient descent."
    root = "You take the root: the distance is squared, ‖G(z) − x‖², without .sqrt() or .norm()."
    moved = "You move x. The image stays as it is: take the gradient with respect to z, and move z."
    return [
        (z, "You take no step: z comes back as it was."),
        (z + lr * slope, "You walk uphill, away from x: subtract lr times the gradient. The distance is to become smaller."),
        (slope, "That is the gradient. Return the new z: z minus lr times the gradient."),
        (-lr * slope, "That is the step alone. Return the new z: z minus lr times the gradient."),
        (z - lr * slope / count, over.format("images", "batch")),
        (z - lr * slope / pixels, over.format("pixels", "images")),
        (z - lr * slope / (count * pixels), "You take the mean over all images and pixels, as F.mse_loss does, and hardly move. " + sums + "Use .sum() or reduction='sum'."),
        *with_hint(root, z - lr * _z_gradient(task, lambda d: _squares(d).sqrt()), z - lr * _z_gradient(task, lambda d: _squares(d).sum().sqrt())),
        (z - lr * _z_gradient(task, lambda d: d.abs().sum((1, 2, 3))), "That is the sum of absolute differences. Square them: ‖G(z) − x‖²."),
        (z - lr * slope / 2, "Your step has half the size. The gradient has the factor 2 of the square: no 0.5 in the loss, no division by 2."),
        (z - 2 * lr * slope, "Your step has twice the size. autograd takes care of the factor 2 of the square: do not multiply by it again."),
        (z - slope, "The step has the size of the gradient: multiply it by lr."),
        (z - lr * slope.sign(), itself + " No sign."),
        *with_hint(itself + " No division by its norm.", *(z - lr * slope / norm for norm in (slope.norm(dim=1, keepdim=True), slope.norm()))),
        (lr * slope - z, "The signs are mixed up: the new z is z minus lr times the gradient."),
        (z - lr * _z_gradient(task._replace(z=down)), "You take the gradient after the step, and the step from z. Both begin at z."),
        (down - lr * _z_gradient(task._replace(z=down)), "You take two steps. Take one: whoever called you has the loop."),
        (down.clamp(-1, 1), "You clamp z. It is no image: any number is allowed in it."),
        (down.clamp(0, 1), "You clamp z to [0, 1]. It is no image: any number is allowed in it."),
        (generator(down).detach(), "That is the image of the new z. Return the new z itself."),
        *with_hint(moved, x + 2 * lr * change, x - 2 * lr * change),
        (x + change, "That is the image G(z). Return the new z."),
    ]  # fmt: skip


_NO_GRADIENT = ("does not require grad", "not have been used in the graph", "NoneType")


def _new_z(answer: Callable, task: _ProjectionTask) -> Tensor:
    """Return the answer's new z."""
    try:
        value = call_with_copies(answer, *task)
    except (RuntimeError, TypeError, AttributeError) as error:
        what = f"it raised {type(error).__name__}: there is no gradient with respect to z."
        hint = "Make a z of your own first, z = z.clone().detach().requires_grad_(), and compute generator(z) from this very z, without torch.no_grad() or .detach() on the way to the distance."
        expect(not any(part in str(error) for part in _NO_GRADIENT), what, hint)
        raise
    return as_tensor_like(value, task.z, "z", _step_mistakes(task))


@exercise("projection_step", takes="(generator, z, x, lr)")
def _projection_step(answer: Callable) -> Iterator[str]:
    def holds(hint: str) -> None:
        """Refuse a z that is not one step further."""
        got, right = _new_z(answer, task), task.z - task.lr * _z_gradient(task)
        before, after = (_squares(task.generator(z) - task.x).sum().item() for z in (task.z, got))
        off = (got - right).abs().max().item()
        what = f"with lr = {task.lr} the squared distance goes from {before:.3f} to {after:.3f}, and z is up to {off:.2g} off."
        expect_close(got, right, what, hint, _step_mistakes(task), 1e-4)

    yield "returns a new z like z"
    task = _projection_task(6, LATENT, inputs.SHAPE, 0.05)
    _new_z(answer, task)

    yield "lr = 0 moves nothing"
    task = task._replace(lr=0.0)
    holds("The new z is z minus lr times the gradient, and nothing else.")

    yield "takes one step down the squared distance of one image"
    step = "loss = (generator(z) - x).square().sum(), then z - lr * gradient, of the loss with respect to z."
    for lr in (0.05, 0.02):
        task = _projection_task(1, LATENT, inputs.SHAPE, lr)
        holds(step)

    yield "the step of an image does not depend on the others of its batch"
    task = _projection_task(6, LATENT, inputs.SHAPE, 0.05)
    holds(step)

    yield "leaves no trace on the generator, on z and on x"
    generator = copy.deepcopy(task.generator)
    answer(generator, *(part.clone() for part in task[1:3]), task.lr)
    same = all(torch.equal(p, q) for p, q in zip(generator.parameters(), task.generator.parameters(), strict=True))
    hint = "The generator is trained, and stays as it is: move z, and give no optimizer its parameters."
    expect(same, "your function changed the generator's weights.", hint)
    hint = "loss.backward() adds to every p.grad of the generator, and its next training step would use them. Ask for the one gradient that you need: torch.autograd.grad(loss, z)."
    clean = all(p.grad is None or not p.grad.any() for p in generator.parameters())
    expect(clean, "your function left gradients on the generator's weights.", hint)
    no_side_effects(answer, "generator z x lr", *task)

    yield "works for other sizes of z and of images"
    task = _projection_task(4, OTHER_LATENT, inputs.OTHER_SHAPE, 0.03)
    holds(ONLY_ARGUMENTS)


# The best of several restarts


class _RestartTask(NamedTuple):
    """What the choice among restarts is given."""

    generator: nn.Module
    starts: Tensor
    x: Tensor

    @property
    def drawn(self) -> Tensor:
        """The images of all restarts, (R, N, C, H, W)."""
        with torch.no_grad():
            return torch.stack([self.generator(z) for z in self.starts])

    def chosen(self, of: Tensor, values: Tensor) -> Tensor:
        """Return for each image that entry of `of` (R, N, ...) whose value, (R, N), is smallest."""
        return of[values.argmin(0), torch.arange(len(self.x))]


def _restart_task(restarts: int, n: int, latent: int, shape: tuple[int, ...]) -> _RestartTask:
    generator, stream = _Generator(latent, shape), torch.Generator().manual_seed(SEED)
    starts = torch.randn(restarts, n, latent, generator=stream)
    with torch.no_grad():  # near what the generator draws, or one restart in the middle would suit every image
        x = generator(torch.randn(n, latent, generator=stream))
    noise = 0.5 * torch.rand(x.shape, generator=stream) - 0.25
    return _RestartTask(generator, starts, (x + noise).clamp(0, 1))


_EACH_ITS_OWN = "errors.argmin(0) of errors (R, N) is the best restart of each image."


def _restart_mistakes(task: _RestartTask, of: Tensor) -> Mistakes:
    """What comes out when the wrong entries of `of`, z or images (R, N, ...), are chosen."""
    _, starts, x = task
    restarts, count = starts.shape[:2]
    change = task.drawn - x
    errors = _squares(change)
    best, every = errors.argmin(0), torch.arange(count)
    batch = "You choose one restart for the whole batch. Each image has a best restart of its own: sum over the pixels only. "
    pairs = _squares(task.drawn.flatten(0, 1) - x.repeat_interleave(restarts, 0))
    layout = "The generator's images are mixed up: starts.flatten(0, 1) has all images of the first restart, then all of the second. So .unflatten(0, (R, N)), and compare with x."
    rules = (
        (-errors, "You choose the worst restart. The error is to be small: argmin, not argmax."),
        *with_hint(batch + _EACH_ITS_OWN, *(e.expand(-1, count) for e in (errors.sum(1, keepdim=True), errors.amin(1, keepdim=True)))),
        (torch.arange(restarts)[:, None].expand(-1, count), "You always take the first restart. " + _EACH_ITS_OWN),
        (-torch.arange(restarts)[:, None].expand(-1, count), "You always take the last restart. Compare the errors of all of them."),
        (change.abs().sum((2, 3, 4)), "You sum absolute differences. The reconstruction error is the sum of their squares."),
        (change.abs().amax((2, 3, 4)), "You take the largest difference of one pixel. The reconstruction error is the sum of all squares."),
        *with_hint("Your differences cancel: square them before you sum.", change.sum((2, 3, 4)), change.sum((2, 3, 4)).abs()),
        (starts.norm(dim=2), "You compare the z with each other. Compare their images with x."),
        (_squares(task.drawn - x[:1]), "You compare all images with the first x. Each has an x of its own: drawn of shape (R, N, C, H, W), minus x."),
        (_squares(task.drawn), "You compare the images' own sizes. The error is their distance to x."),
        *with_hint(layout, pairs.view(restarts, count), pairs.view(count, restarts).T, errors.flatten().view(count, restarts).T),
    )  # fmt: skip
    yield from ((task.chosen(of, values), hint) for values, hint in rules)
    both = "Index both dimensions: starts[best, torch.arange(N)]. "
    yield from (
        (of[best], both + "starts[best] alone takes whole batches."),
        (of[best[0]], both + "You take the best restart of the first image for all."),
        *with_hint(both + "In starts.flatten(0, 1) the restart r of image i stands at r·N + i.", of.flatten(0, 1)[best], of.flatten(0, 1)[every * restarts + best]),
        (of[torch.arange(restarts), errors.argmin(1)], "You choose an image for each restart. " + _EACH_ITS_OWN),
        (of.mean(0), "You take the mean over the restarts. Between two good z there may be a bad one: choose one."),
    )  # fmt: skip
    if of is starts:
        gathered = "gather gives a result of the index's shape, here one number for each image. " + both
        yield of.gather(0, best[None, :, None])[0], gathered


def _point_and_image(answer: Callable, task: _RestartTask) -> tuple[Tensor, Tensor]:
    """Return the z and the images that the answer chose."""
    value = call_with_copies(answer, *task)
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    hint = "Return two values, the chosen z and their images: return z, x_star."
    expect(is_pair, f"it returned {_kind(value)}.", hint)
    shapes = [v.shape for v in value if isinstance(v, Tensor)]
    swapped = shapes == [task.x.shape, task.starts.shape[1:]]
    expect(not swapped, "the first value is the images, and the second the z.", "return z, x_star, in this order.")
    attached = any(isinstance(v, Tensor) and v.requires_grad for v in value)
    hint = "Nothing is differentiated here: call the generator inside with torch.no_grad():, or detach. Otherwise the memory of all restarts is kept alive."
    expect(not attached, "the result still hangs on the generator's gradient graph.", hint)
    z, x_star = value
    as_tensor_like(z, task.starts[0], "starts[0]", list(_restart_mistakes(task, task.starts)))
    as_tensor_like(x_star, task.x, "x", list(_restart_mistakes(task, task.drawn)))
    return z, x_star


@exercise("best_restart", takes="(generator, starts, x)")
def _best_restart(answer: Callable) -> Iterator[str]:
    def holds(hint: str) -> None:
        """Refuse a z that is not the best of its image."""
        got, _ = _point_and_image(answer, task)
        errors = _squares(task.drawn - task.x)
        for i, right in enumerate(task.chosen(task.starts, errors)):
            numbers = [str(r) for r, z in enumerate(task.starts[:, i]) if close(got[i], z)]
            chose = f"you took restart {numbers[0]}" if numbers else "your z is none of them"
            listed = ", ".join(f"{e:.2f}" for e in errors[:, i])
            what = f"image {i} of {len(got)}: its restarts have the errors {listed}, and {chose}. Right is {errors[:, i].argmin()}, counted from 0."
            expect(close(got[i], right), what, lambda: why(got, hint))

    def why(got: Tensor, otherwise: str) -> str:
        in_many, _ = _point_and_image(answer, many)  # where each mistake chooses a z of its own
        hint = diagnose_mistake(in_many, _restart_mistakes(many, many.starts), "")
        return hint or diagnose_mistake(got, _restart_mistakes(task, task.starts), otherwise)

    yield "returns one z and one image for each x"
    task = many = _restart_task(4, 9, LATENT, inputs.SHAPE)
    _point_and_image(answer, task)

    yield "of one restart it takes that one"
    task = many._replace(starts=many.starts[:1])
    holds("With one restart there is nothing to choose.")

    yield "takes the nearest restart of one image"
    for i in range(5):
        task = many._replace(starts=many.starts[:, i : i + 1], x=many.x[i : i + 1])
        holds("The error is the sum of squares of G(z) − x over all pixels. The smallest wins.")

    yield "takes for each image of a batch the best of its own restarts"
    task = many
    holds(_EACH_ITS_OWN)

    yield "x_star is what the generator draws from the chosen z"
    z, x_star = _point_and_image(answer, task)
    with torch.no_grad():
        right = task.generator(z)
    wrongs = [
        (task.x, "That is x itself. x_star is the generator's image: G(z), or drawn[best, torch.arange(N)]."),
        (right - task.x, "That is the difference. x_star is the generator's image."),
        *_restart_mistakes(task, task.drawn),
    ]
    what = f"your z is right, and x_star differs from generator(z) by up to {(x_star - right).abs().max():.2f}."
    hint = "Choose the images with the same index as the z, or draw once more: generator(z)."
    expect_close(x_star, right, what, hint, wrongs)

    yield "leaves no trace on the generator, on starts and on x"
    no_side_effects(answer, "generator starts x", *task)

    yield "works for other sizes, and for as many restarts as images"
    for restarts, count in ((6, 3), (4, 4)):
        task = _restart_task(restarts, count, OTHER_LATENT, inputs.OTHER_SHAPE)
        holds(ONLY_ARGUMENTS)


# A gradient for what has none


class _Projection(nn.Module):
    """A projection that could be differentiated: the image of an encoder's guess."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), LATENT))
        nn.init.normal_(self.encoder[1].weight, 0, 0.4, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.encoder[1].bias)
        self.generator = _Generator(LATENT, shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.generator(self.encoder(x))


def _four_grey_levels(x: Tensor) -> Tensor:
    """Project onto four shades of grey, whose gradient is 0 almost everywhere."""
    return (3 * x).round() / 3


def _with_gradient(x: Tensor) -> Tensor:
    """Return a copy of x whose gradient an attack asks for."""
    return x.clone().requires_grad_()


def _straight_through(answer: Callable, projection: Callable, x: Tensor) -> Tensor:
    """Return the answer's result for this very projection and x, graph and all."""
    value = call_with_copies(lambda: answer(projection, x))
    as_tensor_like(value.detach() if isinstance(value, Tensor) else value, x)
    return value


def _value_mistakes(x: Tensor, right: Tensor) -> Mistakes:
    return [
        (x, "That is x. The value is the projection, and only the gradient goes past it: add (projection(x) - x).detach() to x."),
        (x + right, "That is x plus the projection. Add the difference, (projection(x) - x).detach()."),
        (right - x, "That is the difference alone. Add it, detached, to x."),
        (x - right, "That is the difference alone, with the wrong sign: x + (projection(x) - x).detach()."),
        (2 * x - right, "The difference has the wrong sign: x + (projection(x) - x).detach()."),
        ((x + right) / 2, "That is halfway between x and the projection. The value is the projection."),
        (torch.zeros_like(x), "That is 0 everywhere: the two terms cancel. The value is the projection."),
    ]  # fmt: skip


def _gradient_mistakes(passed: Tensor, through: Tensor) -> Mistakes:
    """Return wrong gradients; `passed` is what came from above, `through` the same through the projection."""
    none = "Nothing of the gradient arrives: x must be in the result once, outside of .detach()."
    return [
        (passed + through, "The gradient goes past the projection and through it as well. Detach the difference: x + (projection(x) - x).detach()."),
        (through, "The gradient goes through the projection. Detach it, and let x carry the gradient: x + (projection(x) - x).detach()."),
        (through - passed, "The gradient goes through the projection, and x subtracts its own. Detach the whole difference, and not the x before it."),
        (passed - through, "The gradient goes through the projection. Detach the whole difference."),
        (torch.zeros_like(passed), none),
        (2 * passed, "x is in the result twice: detach the x inside the difference too."),
        (-passed, "The gradient has the wrong sign: add x, do not subtract it."),
        (torch.ones_like(passed), "Your gradient is 1 everywhere. backward is handed the gradient of what comes after: return that, as it is."),
        (passed.sign(), "Your backward takes the sign. Return what it is handed, as it is."),
        (passed.clamp(-1, 1), "Your backward clips. Return what it is handed, as it is."),
    ]  # fmt: skip


def _has_value(answer: Callable, projection: Callable, images: Tensor) -> None:
    """Refuse another value than the projection of the images."""
    got, right = _straight_through(answer, projection, _with_gradient(images)).detach(), projection(images).detach()
    what = f"it differs from projection(x) by up to {(got - right).abs().max().item():.2g}."
    hint = "The value of x + (projection(x) - x).detach() is projection(x): x cancels."
    expect_close(got, right, what, hint, _value_mistakes(images, right))


def _has_identity_gradient(answer: Callable, projection: Callable, images: Tensor, hint: str) -> None:
    """Refuse a gradient that is not the identity, in a random direction."""
    x, other = _with_gradient(images), _with_gradient(images)
    above = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    (got,) = torch.autograd.grad(_straight_through(answer, projection, x), x, above, allow_unused=True)
    unused = "The x that you were handed must carry the gradient: no new leaf with requires_grad_(), no torch.tensor(…)."  # fmt: skip
    expect(got is not None, "the result does not hang on x.", unused)
    (through,) = torch.autograd.grad(projection(other), other, above)
    off = 100 * ((got - above).norm() / above.norm()).item()
    what = f"the gradient should come through as it is, and comes out {off:.0f} % different."
    expect_close(got, above, what, hint, _gradient_mistakes(above, through))


@exercise("bpda", takes="(projection, x)")
def _bpda(answer: Callable) -> Iterator[str]:
    yield "returns images like x that an attack can differentiate"
    images, projection = _images(5, inputs.SHAPE), _Projection(inputs.SHAPE)
    graph = _straight_through(answer, projection, _with_gradient(images)).requires_grad
    hint = "You detach everything: the attack gets no gradient. x itself stays outside: x + (projection(x) - x).detach()."  # fmt: skip
    expect(graph, "the result has no gradient graph.", hint)

    yield "its value is the projection"
    for project in (projection, _four_grey_levels):
        _has_value(answer, project, images)

    yield "its gradient with respect to x is the identity"
    hint = "d result / d x is 1 for each pixel's own x, and 0 for the others."
    _has_identity_gradient(answer, projection, images, hint)

    yield "also where the projection has no gradient of its own"
    _has_identity_gradient(answer, _four_grey_levels, images, hint)

    yield "runs the projection once"
    calls = []
    _straight_through(answer, lambda x: calls.append(x) or projection(x), _with_gradient(images))
    hint = "A projection is a search from random starts: a second one takes as long again, and finds another image. Keep the first result in a variable."
    expect(len(calls) == 1, f"it ran the projection {len(calls)} times.", hint)

    yield "leaves no gradient on the projection's weights"
    _straight_through(answer, projection, _with_gradient(images)).sum().backward()
    clean = all(p.grad is None for p in projection.parameters())
    hint = "The gradient goes into the projection, which is to be skipped: detach its result, or the x that it is given."  # fmt: skip
    expect(clean, "loss.backward() reached the weights of the projection.", hint)

    yield "leaves x as it was, also where nobody asks for a gradient"
    no_side_effects(answer, "projection x", projection, images)

    yield "works for other sizes, and for a single image"
    projection = _Projection(inputs.OTHER_SHAPE)
    for count in (4, 1):
        images = _images(count, inputs.OTHER_SHAPE)
        _has_value(answer, projection, images)
        _has_identity_gradient(answer, projection, images, ONLY_ARGUMENTS)


# What a pair is


ADVERSARIAL, FLIPPING, AMBIGUOUS, NONE = "adversarial", "label-flipping", "ambiguous", "none of the three"
KINDS = (ADVERSARIAL, FLIPPING, AMBIGUOUS)

# What the classifier says of x and of x', what the judge says, its doubt (1 is just as much as `sure` allows), and the
# distance in units of eps.
_PAIRS = (
    ("one class for the classifier", NONE, (2, 2), (2, 2), (0.1, 0.2), 0.5),
    ("one class for the classifier", NONE, (3, 3), (3, 0), (0.2, 0.1), 0.3),
    ("one class for the classifier", NONE, (1, 1), (1, 2), (1.5, 0.3), 0.9),
    ("one class for the classifier", NONE, (0, 0), (2, 2), (0.3, 1.6), 0.0),
    ("farther apart than eps", NONE, (0, 3), (0, 0), (0.1, 0.1), 1.2),
    ("farther apart than eps", NONE, (1, 2), (1, 2), (0.3, 0.1), 2.5),
    ("farther apart than eps", NONE, (2, 1), (2, 1), (1.5, 1.5), 1.1),
    ("farther apart than eps", NONE, (3, 1), (3, 3), (0.2, 0.1), float("inf")),
    ("a judge unsure of either image", AMBIGUOUS, (0, 1), (0, 0), (0.1, 1.5), 0.4),
    ("a judge unsure of either image", AMBIGUOUS, (2, 3), (2, 3), (1.5, 0.1), 0.8),
    ("a judge unsure of either image", AMBIGUOUS, (1, 0), (1, 3), (1.6, 1.4), 0.2),
    ("a judge unsure of either image", AMBIGUOUS, (3, 2), (3, 3), (1.6, 0.7), 0.7),
    ("a sure judge, one digit", ADVERSARIAL, (0, 2), (0, 0), (0.7, 0.7), 0.6),
    ("a sure judge, one digit", ADVERSARIAL, (3, 1), (1, 1), (0.2, 0.1), 0.1),
    ("a sure judge, one digit", ADVERSARIAL, (1, 3), (2, 2), (0.1, 0.6), 0.9),
    ("a sure judge, two digits", FLIPPING, (2, 0), (2, 0), (0.7, 0.6), 0.5),
    ("a sure judge, two digits", FLIPPING, (1, 2), (1, 3), (0.2, 0.1), 0.2),
    ("a sure judge, two digits", FLIPPING, (0, 3), (2, 0), (0.7, 0.1), 0.9),
)


class _Pairs(NamedTuple):
    """What is known of N pairs of images: logits (2, N, K) of the classifier and of the judge, and their distance."""

    classifier: Tensor
    judge: Tensor
    distance: Tensor
    eps: float
    sure: float


def _logits_for(digits: Tensor, confidence: Tensor, classes: int, stream: torch.Generator) -> Tensor:
    """Return logits whose softmax is `confidence` at the digits; a constant is added to each row, which changes nothing."""
    logits = torch.randn(*digits.shape, classes, generator=stream)
    others = logits.scatter(-1, digits.unsqueeze(-1), -torch.inf).logsumexp(-1)
    logits.scatter_(-1, digits.unsqueeze(-1), (others + torch.logit(confidence)).unsqueeze(-1))
    return logits + 3 * torch.randn(*digits.shape, 1, generator=stream)


def _pairs_task(eps: float, sure: float, classes: int, order: list[int]) -> _Pairs:
    stream = torch.Generator().manual_seed(classes)
    _, _, said, judged, doubt, distance = zip(*(_PAIRS[i] for i in order), strict=True)
    lead = torch.where(torch.rand(2, len(order), generator=stream) < 0.3, 0.6, 0.95)
    classifier = _logits_for(torch.tensor(said).T, lead, classes, stream)
    judge = _logits_for(torch.tensor(judged).T, 1 - (1 - sure) * torch.tensor(doubt).T, classes, stream)
    return _Pairs(classifier, judge, eps * torch.tensor(distance), eps, sure)


def _confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest probability of each image, (2, N), and the class it belongs to."""
    return logits.softmax(2).max(2)


class _PairFacts(NamedTuple):
    """What decides about a pair, all (N,)."""

    changed: Tensor  # the classifier says two classes
    near: Tensor
    certain: Tensor  # the judge is sure of both images
    same: Tensor  # the judge says one digit

    def masks(self) -> Tensor:
        """Return the three masks, (3, N)."""
        found = self.changed & self.near
        return torch.stack([found & self.certain & self.same, found & self.certain & ~self.same, found & ~self.certain])


def _pair_facts(task: _Pairs) -> _PairFacts:
    said = task.classifier.argmax(2)
    confidence, digit = _confidence(task.judge)
    return _PairFacts(
        said[0] != said[1], task.distance <= task.eps, (confidence >= task.sure).all(0), digit[0] == digit[1]
    )


def _confidence_mistakes(task: _Pairs) -> Mistakes:
    """Wrong masks (3, N) where it is asked who is sure, and what to say about them."""
    facts, sure = _pair_facts(task), task.sure
    certain, (confidence, _), (own, _) = facts.certain, _confidence(task.judge), _confidence(task.classifier)

    def sure_of(values: Tensor) -> Tensor:
        return facts._replace(certain=values >= sure).masks()

    def both(values: Tensor) -> Tensor:
        return facts._replace(certain=(values >= sure).all(0)).masks()

    doubt = "A pair is ambiguous if the judge is unsure of either image. So it must be sure of both: (confidence >= sure).all(0)."
    softmax = "sure is a probability: compare it with judge.softmax(2).max(2), over the classes, which are the last dimension."
    asked = "You ask how sure the classifier is. A fooled classifier is often very sure: {} confidence counts."
    yield from (
        (both(own), asked.format("the judge's")),
        (facts._replace(certain=(own >= sure).all(0) & certain).masks(), asked.format("only the judge's")),
        (facts._replace(certain=torch.ones_like(certain)).masks(), "You leave out the judge's confidence: where its softmax is below sure on either image, the pair is ambiguous."),
        (facts._replace(certain=torch.zeros_like(certain)).masks(), "All your pairs are ambiguous. " + softmax),
        (facts._replace(certain=~certain).masks(), "You have sure and unsure the wrong way round: ambiguous is below sure."),
        (facts._replace(certain=(confidence >= sure).any(0)).masks(), doubt),
        (sure_of(confidence[0]), "You ask how sure the judge is of x only. " + doubt),
        (sure_of(confidence[1]), "You ask how sure the judge is of x' only. " + doubt),
        (sure_of(confidence.mean(0)), "You take the mean of both confidences: a very sure one hides an unsure one. " + doubt),
        (sure_of(confidence.prod(0)), "You multiply the two confidences: two sure ones can make an unsure one. " + doubt),
        (both(task.judge.amax(2)), "You compare logits. " + softmax),
        (both(task.judge.softmax(0).amax(2)), "Your softmax goes over the two images. " + softmax),
    )  # fmt: skip


def _pair_mistakes(task: _Pairs) -> Mistakes:
    """Wrong masks (3, N), and what to say about them."""
    facts, right = _pair_facts(task), _pair_facts(task).masks()
    changed, near, certain, same = facts
    found, never, always = changed & near, torch.zeros_like(same), torch.ones_like(same)
    said, (_, digit) = task.classifier.argmax(2), _confidence(task.judge)

    def with_facts(**changes: Tensor) -> Tensor:
        return facts._replace(**changes).masks()

    judge = "The classifier is a party to the case: it says two classes of every pair that counts. Whether the digit is another is for the judge alone to say."
    alone = "Ask the judge whether it sees one digit or two; what the classifier says of the images does not count for that."
    far = "The distance decides only which pairs count: those at most eps apart. What they are is for the judge to say."
    overlap = "No pair is two things at once: an ambiguous one is neither adversarial nor label-flipping. Add & sure_of_both to these two."
    anywhere = "Only pairs that the classifier tells apart, at most eps apart, can be ambiguous. The others are nothing."  # fmt: skip
    unlike = "The classifier must say two different classes of the pair. Where it says one, nobody was fooled: none of the three."
    other_order = "The masks are right, in another order: adversarial, label_flipping, ambiguous."
    agreements = (
        said[0] == digit[1],
        said[1] != digit[1],
        said[0] == digit[0],
        (both := said == digit).all(0),
        ~both.all(0),
    )
    yield from (
        *with_hint(judge, _pair_facts(task._replace(judge=task.classifier)).masks(), with_facts(same=~changed)),
        *_confidence_mistakes(task),
        (with_facts(changed=always), unlike),
        (with_facts(changed=~changed), unlike + " You have it the wrong way round."),
        (with_facts(changed=digit[0] != digit[1]), unlike + " You ask the judge for it."),
        (with_facts(near=always), "Pairs that are farther apart than eps do not count: a distant image may well be another digit."),
        (with_facts(near=~near), "Your distance is the wrong way round: near pairs count, distance <= eps."),
        (with_facts(changed=always, near=always), unlike + " Nor do pairs count that are farther apart than eps."),
        (with_facts(same=~same), "Two of your masks are swapped: one digit is adversarial, two digits are label-flipping."),
        *with_hint(alone, *(with_facts(same=agreement) for agreement in agreements)),
        *with_hint(
            far,
            with_facts(same=near, near=always),
            with_facts(same=near, near=always, certain=always),
            torch.stack([near, ~near, never]),
            torch.stack([found, changed & ~near, never]),
        ),
        (torch.stack([found, never, never]), "The classifier's change of mind is not enough: it may be right to change it. " + alone),
        (torch.stack([found & same, found & ~same, found & ~certain]), overlap),
        *with_hint(anywhere, *(torch.stack([*right[:2], pairs & ~certain]) for pairs in (always, changed, near))),
        *with_hint(other_order, right[[0, 2, 1]], right[[1, 2, 0]], right[[2, 0, 1]], right[[2, 1, 0]]),
    )  # fmt: skip


def _as_masks(value: Any, task: _Pairs) -> Tensor:
    """Return the three masks of the answer as one tensor (3, N)."""
    hint = "Return three masks: return adversarial, label_flipping, ambiguous."
    expect(isinstance(value, tuple | list) and len(value) == 3, f"it returned {_kind(value)}.", hint)
    for name, mask in zip(KINDS, value, strict=True):
        kind = type(mask).__name__
        hint = "Each mask is a torch tensor of bools, with one entry for each pair."
        expect(isinstance(mask, Tensor), f"the mask {name} is a {kind}.", hint)
        shape, right = tuple(mask.shape), task.distance.shape
        hint = "One bool for each pair: (N,). Compare the first image with the second, and take the classes as the last dimension, 2."
        expect(mask.shape == right, f"the mask {name} has the shape {shape}, and the distances {tuple(right)}.", hint)
        hint = "Return bools, as comparisons give them; & is and, ~ is not. Leave out .float(), .int() and .nonzero()."
        expect(mask.dtype == torch.bool, f"the mask {name} is of {mask.dtype}.", hint)
    return torch.stack(list(value))


@exercise("label_flipping", takes="(classifier, judge, distance, eps, sure)")
def _label_flipping(answer: Callable) -> Iterator[str]:
    def described(i: int, mine: list[str], right: str) -> str:
        said, (confidence, digit) = task.classifier.argmax(2)[:, i], _confidence(task.judge)
        judged = " → ".join(f"{d} ({100 * c:.0f} %)" for d, c in zip(digit[:, i], confidence[:, i], strict=True))
        return f"pair {i}, {task.distance[i]:.2g} apart with eps = {task.eps}: the classifier says {said[0]} → {said[1]}, the judge {judged} with sure = {100 * task.sure:.0f} %. You say {' and '.join(mine) or NONE}, and right is {right}."

    def why(masks: Tensor, otherwise: str) -> str:
        wrong = ((mistake.float(), hint) for mistake, hint in _pair_mistakes(task))
        return diagnose_mistake(masks.float(), wrong, otherwise)

    def holds(part: str, hint: str) -> None:
        """Refuse masks that are wrong about a pair of this part of the rows."""
        masks = _as_masks(call_with_copies(answer, *task), task)
        for i, row in enumerate(order):
            kind, right, *_ = _PAIRS[row]
            mine = [name for name, said in zip(KINDS, masks[:, i], strict=True) if said]
            fits = mine == ([] if right == NONE else [right])
            expect(fits or not kind.startswith(part), described(i, mine, right), lambda: why(masks, hint))

    yield "returns three masks, one bool for each pair"
    order = list(range(len(_PAIRS)))
    task = _pairs_task(1.5, 0.8, 5, order)
    _as_masks(call_with_copies(answer, *task), task)

    hints = {
        "one class for the classifier": "Where classifier[0].argmax(1) and classifier[1].argmax(1) are equal, nobody was fooled.",
        "farther apart than eps": "Only pairs with distance <= eps count.",
        "a judge unsure of either image": "Where the judge's largest probability is below sure, on x or on x', the pair is ambiguous.",
        "a sure judge, one digit": "The classifier changes its mind, and the digit does not change: that is an adversarial pair.",
        "a sure judge, two digits": "The judge is sure of two different digits: the classifier was right to change its mind.",
    }
    for (kind, hint), name in zip(hints.items(), (NONE, NONE, AMBIGUOUS, ADVERSARIAL, FLIPPING), strict=True):
        yield f"{kind}: {name}"
        holds(kind, hint)

    yield "leaves its arguments as they were"
    no_side_effects(answer, "classifier judge distance eps sure", *task)

    yield "works for other radii, confidences, numbers of pairs and of classes"
    order = order[:0:-1]
    task = _pairs_task(0.4, 0.7, 4, order)
    holds("", ONLY_ARGUMENTS)
