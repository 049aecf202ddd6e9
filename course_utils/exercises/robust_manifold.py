"""Exercises of chapters 08 and 09: the projection onto a generator's range, how it is attacked, and what its pairs are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import permutations, product
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..defences.robust_manifold import project_to_range
from ..defences.robust_manifold.projection import unrolled
from . import inputs
from .engine import expect
from .exercise import Case, Exercise, Property
from .mistakes import ONLY_ARGUMENTS, Function, Mistake
from .properties import as_tensor_like, call_with_copies, close, differences, shown

LATENT, OTHER_LATENT = 3, 4
SIZES = ONLY_ARGUMENTS.format("sizes and numbers")
CANCEL = "Your differences cancel: square them before you sum."


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
                f"the generator takes z of shape (N, latent), one for each image; this is {tuple(z.shape)}."
            )
        return super().forward(z)


def _images(n: int, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))


def _kind(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _squared(images: Tensor, x: Tensor) -> Tensor:
    """Return the squared distance of each image, (..., C, H, W) → (...)."""
    return (images - x).square().sum((-3, -2, -1))


# --- projection_step --------------------------------------------------------------------------------------------------


def _step(distance: Callable = _squared, move: Callable = lambda z, g, lr: z - lr * g) -> Function:
    """Return an answer with another distance of the images G(z) to x, or another move from z, its gradient and lr."""

    def answer(generator: nn.Module, z: Tensor, x: Tensor, lr: float) -> Tensor:
        variable = z.clone().requires_grad_()
        return move(z, torch.autograd.grad(distance(generator(variable), x).sum(), variable)[0], lr)

    return answer


def _projection_step(generator: nn.Module, z: Tensor, x: Tensor, lr: float) -> Tensor:
    return _step()(generator, z, x, lr)


def _steps(count: int) -> Function:
    return lambda generator, z, x, lr: reduce(lambda v, _: _projection_step(generator, v, x, lr), range(count), z)


def _search(n: int, lr: float, latent: int = LATENT, shape: tuple = inputs.SHAPE, reach: float = 1.0) -> tuple:
    """Return what a step is given: a generator, n latent vectors whose entries are about `reach`, images, and lr."""
    z = reach * torch.randn(n, latent, generator=torch.Generator().manual_seed(n))
    return _Generator(latent, shape), z, _images(n, shape), lr


def _new_z(answer: Function, generator: nn.Module, z: Tensor, x: Tensor, lr: float) -> Tensor:
    """Return the answer's new z."""
    try:
        return as_tensor_like(call_with_copies(answer, generator, z, x, lr), z, "z")
    except (RuntimeError, TypeError, AttributeError) as error:
        missing = ("does not require grad", "not have been used in the graph", "NoneType")
        what = f"it raised {type(error).__name__}: there is no gradient with respect to z."
        hint = "Make a z of your own first, detached, and call requires_grad_() on it. Compute generator(z) from this very z, without torch.no_grad() or .detach() on the way to the distance."
        expect(not any(part in str(error) for part in missing), what, hint)
        raise


def _missed(got: Tensor, right: Tensor, generator: nn.Module, z: Tensor, x: Tensor, lr: float) -> str:
    before, after, best = (_squared(generator(v), x).sum().item() for v in (z, got, right))
    return f"with lr = {lr} the squared distance, summed over {len(x)} images, goes from {before:.3f} to {after:.3f}, right is {best:.3f}. {differences(got, right, 1e-4, 'z')}."


def _leaves_the_generator_alone(answer: Function) -> None:
    """Refuse an answer that changes the generator's weights or what stands in their .grad."""
    generator, *rest = _search(2, 0.3)
    weights = [p.detach().clone() for p in generator.parameters()]
    for p in generator.parameters():
        p.grad = torch.ones_like(p)
    answer(generator, *rest)
    hint = "The generator is trained, and stays as it is: move z, and give no optimizer its parameters."
    expect(all(map(torch.equal, weights, generator.parameters())), "it changed the generator's weights.", hint)
    hint = "What stands in .grad belongs to the generator's training: add nothing, as loss.backward() does, and clear nothing. Ask for the one gradient that you need: torch.autograd.grad(loss, z)."
    kept = all(p.grad is not None and (p.grad == 1).all() for p in generator.parameters())
    expect(kept, "it changed the .grad of the generator's weights.", hint)


MEAN = "You take the mean over the {}, and the step shrinks with their number. The distance is a sum of squares over the pixels, and each image has its own. Use .sum()."
PLAIN = "You change the gradient's length. The step is lr times the gradient itself, in plain gradient descent. "
Exercise(
    "projection_step",
    reference=_projection_step,
    cases=[
        Case("takes one step down the squared distance of one image", [partial(_search, 1, 0.3), partial(_search, 1, 0.1)], "Differentiate the sum of the squares of G(z) − x with respect to z. The new z is z minus lr times this gradient, and nothing else."),
        Case("the step of an image does not depend on the others of its batch", [partial(_search, 6, 0.3)], "Sum over pixels and images: then each row of the gradient belongs to one image."),
        Case("lr = 0 moves nothing, and any z is allowed", [partial(_search, 6, 0.0), partial(_search, 6, 0.3, reach=4.0)], "The new z is z minus lr times the gradient, and nothing else."),
        Property("leaves the generator alone, its .grad included", _leaves_the_generator_alone),
        Case("works for other sizes of z and of images", [partial(_search, 4, 0.2, OTHER_LATENT, inputs.OTHER_SHAPE)], SIZES),
    ],
    mistakes=[
        Mistake("You take no step: z comes back as it was.", lambda generator, z, x, lr: z),
        Mistake("You walk uphill, away from x: the distance is to become smaller. Subtract the step.", _step(move=lambda z, g, lr: z + lr * g)),
        Mistake("The signs are mixed up: the step is subtracted from z, not z from the step.", _step(move=lambda z, g, lr: lr * g - z)),
        Mistake("That is the gradient, or the step alone. Return the new z.", *(_step(move=lambda z, g, lr, sign=sign: sign(lr) * g) for sign in (lambda lr: 1, lambda lr: -1, lambda lr: lr, lambda lr: -lr))),
        Mistake(MEAN.format("images"), _step(lambda drawn, x: _squared(drawn, x).mean())),
        Mistake(MEAN.format("pixels"), _step(lambda drawn, x: (drawn - x).square().mean((1, 2, 3)))),
        Mistake(MEAN.format("channels"), _step(lambda drawn, x: (drawn - x).square().sum((2, 3)).mean(1))),
        Mistake(MEAN.format("images and pixels, as F.mse_loss does"), _step(F.mse_loss)),
        Mistake("You take the root: the distance is squared, ‖G(z) − x‖², without .sqrt() or .norm().", _step(lambda drawn, x: _squared(drawn, x).sqrt()), _step(lambda drawn, x: _squared(drawn, x).sum().sqrt())),
        Mistake("That is the sum of absolute differences. Square them: ‖G(z) − x‖².", _step(lambda drawn, x: (drawn - x).abs())),
        Mistake(CANCEL, _step(lambda drawn, x: drawn - x), _step(lambda drawn, x: (drawn - x).sum((1, 2, 3)).square()), _step(lambda drawn, x: (drawn - x).sum().square())),
        Mistake("That is the cross-entropy of the pixels. The distance is the sum of the squares of G(z) − x.", _step(partial(F.binary_cross_entropy, reduction="sum")), _step(F.binary_cross_entropy)),
        Mistake("You compare an image with the x of others. Each has an x of its own: subtract tensors of the same shape.", _step(lambda drawn, x: _squared(drawn[:, None], x)), _step(lambda drawn, x: _squared(drawn, x[:1])), _step(lambda drawn, x: _squared(drawn, x.mean(0)))),
        Mistake("You move all z alike. Each image has a row of the gradient for itself.", *(_step(move=lambda z, g, lr, one=one: z - lr * one(g)) for one in (lambda g: g[:1], lambda g: g.mean(0), lambda g: g.sum(0), torch.mean, torch.sum))),
        Mistake("Your step has half the size. The gradient has the factor 2 of the square: no 0.5 in the loss, no division by 2.", _step(lambda drawn, x: _squared(drawn, x) / 2)),
        Mistake("Your step has twice the size. autograd takes care of the factor 2 of the square: do not multiply by it again.", _step(lambda drawn, x: 2 * _squared(drawn, x))),
        Mistake("The step has the size of the gradient: multiply it by lr.", _step(move=lambda z, g, lr: z - g)),
        Mistake("You divide by lr. The step is lr times the gradient.", _step(move=lambda z, g, lr: z - g / lr)),
        Mistake(PLAIN + "No sign, and no Adam, whose first step is a sign step.", _step(move=lambda z, g, lr: z - lr * g.sign())),
        Mistake(PLAIN + "No division by its norm, and no clipping.", *(_step(move=lambda z, g, lr, scaled=scaled: z - lr * scaled(g)) for scaled in (F.normalize, lambda g: g / g.norm(), lambda g: g / g.abs().max(), lambda g: g.clamp(-1, 1), lambda g: g / g.norm(dim=1, keepdim=True).clamp_min(1), lambda g: g / g.norm().clamp_min(1)))),
        Mistake("The step starts at z, not at 0.", lambda generator, z, *rest: _projection_step(generator, torch.zeros_like(z), *rest)),
        Mistake("You take the gradient after the step, and the step from z. Both begin at z.", lambda generator, z, x, lr: _steps(2)(generator, z, x, lr) - _projection_step(generator, z, x, lr) + z),
        Mistake("You take several steps. Take one: whoever called you has the loop.", *map(_steps, (2, 3, 5, 10))),
        Mistake("You clamp z. It is no image: any number is allowed in it.", *(lambda *given, low=low, high=high: _projection_step(*given).clamp(low, high) for low, high in ((0, 1), (-1, 1), (-2, 2), (-3, 3)))),
        Mistake("That is an image. Return the new z itself.", lambda generator, *rest: generator(_projection_step(generator, *rest)).detach(), lambda generator, z, *_: generator(z).detach()),
        Mistake("You move x. The image stays as it is: take the gradient with respect to z, and move z.", *(lambda generator, z, x, lr, sign=sign: x + sign * 2 * lr * (generator(z).detach() - x) for sign in (1, -1))),
    ],
    batched=("z", "x"),
    untouched=("generator", "z", "x"),
    typical=partial(_search, 6, 0.3),
    like="z",
    returns="a new z like z",
    observe=_new_z,
    happened=_missed,
    tolerance=1e-4,
    library=(unrolled,),
).register()  # fmt: skip


# --- best_restart -----------------------------------------------------------------------------------------------------


def _nearest(of: Tensor, errors: Tensor, *_: Tensor) -> Tensor:
    """Return for each image that entry of `of` (R, N, …) whose error, (R, N), is smallest."""
    return of[errors.argmin(0), torch.arange(errors.shape[1])]


def _known(generator: nn.Module, starts: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the errors of all restarts, (R, N), their images, (R, N, C, H, W), x and starts."""
    with torch.no_grad():
        drawn = torch.stack([generator(z) for z in starts])
    return _squared(drawn, x), drawn, x, starts


def _chosen(generator: nn.Module, starts: Tensor, x: Tensor, takes: Sequence[Callable]) -> tuple[Tensor, Tensor]:
    """Return what two functions take of z and of the images, both (R, N, …), knowing what `_known` tells."""
    known = _known(generator, starts, x)
    return takes[0](starts, *known), takes[1](known[1], *known)


def _best_restart(generator: nn.Module, starts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return _chosen(generator, starts, x, (_nearest, _nearest))


def _taking(take: Callable[..., Tensor]) -> list[Function]:
    """Return answers that take other entries of z and of the images, of the images alone, and of z alone."""
    return [partial(_chosen, takes=takes) for takes in ((take, take), (_nearest, take), (take, _nearest))]


def _least(rank: Callable[..., Tensor]) -> list[Function]:
    """Return answers that take the restart of least rank, (R, N), for each image."""
    return _taking(lambda of, e, *known: _nearest(of, rank(e, *known).expand_as(e)))


def _second(value: Callable[..., Tensor]) -> Function:
    """Return an answer with the right z and another value after it, from x_star, the errors (R, N) and x."""
    return partial(_chosen, takes=(_nearest, lambda of, e, drawn, x, starts: value(_nearest(of, e), e, x)))


def _by_image(of: Tensor, errors: Tensor, drawn: Tensor, x: Tensor, starts: Tensor) -> Tensor:
    """Return what is nearest if (R, N, …) is read as (N, R, …)."""
    of, drawn = (v.reshape(len(x), len(starts), *v.shape[2:]) for v in (of, drawn))
    return _nearest(of.transpose(0, 1), _squared(drawn, x[:, None]).T)


def _transposed(of: Tensor, errors: Tensor, drawn: Tensor, x: Tensor, starts: Tensor) -> Tensor:
    """Return what is nearest if the images are drawn in the order (N, R, …) and read as (R, N, …)."""
    images = drawn.transpose(0, 1).reshape(drawn.shape)
    return _nearest(of if of is starts else images, _squared(images, x))


MIXED_UP: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (  # errors (R, N) of images that are taken for others
    lambda drawn, x: _squared(drawn.flatten(0, 1), x.repeat_interleave(len(drawn), 0)).view(drawn.shape[:2]),
    lambda drawn, x: _squared(drawn.flatten(0, 1), x.repeat_interleave(len(drawn), 0)).view(len(x), -1).T,
    lambda drawn, x: _squared(drawn.reshape(len(x), -1, *x.shape[1:]), x[:, None]).T,
    lambda drawn, x: _squared(drawn.transpose(0, 1).reshape(drawn.shape), x),
)


def _restarts(
    restarts: int = 4, n: int = 9, latent: int = LATENT, shape: tuple = inputs.SHAPE, of: slice = slice(None)
) -> tuple[nn.Module, Tensor, Tensor]:
    """Return what the choice is made from: a generator, starts (R, N, latent) and images, all or a part of them."""
    generator, stream = _Generator(latent, shape), torch.Generator().manual_seed(56)
    starts = torch.randn(restarts, n, latent, generator=stream)
    with torch.no_grad():  # near what the generator draws, or one restart in the middle would suit every image
        x = generator(torch.randn(n, latent, generator=stream))
    x = (x + 0.5 * torch.rand(x.shape, generator=stream) - 0.25).clamp(0, 1)
    return generator, starts[:, of], x[of]


def _point_and_image(answer: Function, generator: nn.Module, starts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the z and the images that the answer chose."""
    value = call_with_copies(answer, generator, starts, x)
    hint = "Return two values, the chosen z and their images: return z, x_star."
    expect(isinstance(value, tuple | list) and len(value) == 2, f"it returned {_kind(value)}.", hint)
    return as_tensor_like(value[0], starts[0], "starts[0]"), as_tensor_like(value[1], x)


def _mischosen(got: tuple, right: tuple, generator: nn.Module, starts: Tensor, x: Tensor) -> str:
    wrong = [i for i in range(len(x)) if not close(got[0][i], right[0][i])]
    if not wrong:
        return f"your z is right, and x_star differs from generator(z) by up to {(got[1] - right[1]).abs().max():.2g}."
    errors, taken = _known(generator, starts, x)[0][:, wrong[0]], got[0][wrong[0]]
    took = next(
        (f"you took restart {r}" for r, z in enumerate(starts) if close(taken, z[wrong[0]])), "it is none of them"
    )
    return f"{len(wrong)} of {len(x)} z are wrong. For image {wrong[0]}, for instance, the restarts have the errors {shown(errors)}: {took}, and right is {errors.argmin()}, counted from 0."


OWN = "Where the errors have the shape (R, N), those of an image stand in a column: take the smallest of each column."
BATCH = "You choose one restart for the whole batch. Each image has a best restart of its own: "
BOTH = "Index both dimensions: which restart, and which image. "
ONE_BEFORE = (
    "You compare each restart with {} only. Compare it with the smallest error so far, and keep that up to date."
)
ERROR = "The reconstruction error is the sum of the squares of G(z) − x."
STAR = "Your second value is {}. x_star is what the generator draws from z."
Exercise(
    "best_restart",
    reference=_best_restart,
    cases=[
        Case("of one restart it takes that one, and its image", [partial(_restarts, 1)], "With one restart there is nothing to choose: its z, and what the generator draws from it."),
        Case("takes the nearest restart of one image", [partial(_restarts, of=slice(i, i + 1)) for i in range(5)], ERROR + " The smallest wins. Choose the images with the same index as the z, or draw once more."),
        Case("takes for each image of a batch the best of its own restarts", [_restarts], OWN),
        Case("works for other sizes, and for as many restarts as images", [partial(_restarts, n, 3 * n % 8, OTHER_LATENT, inputs.OTHER_SHAPE) for n in (6, 4)], SIZES),
    ],
    mistakes=[
        Mistake("You choose the worst restart. The error is to be small: look for the smallest, not for the largest.", *_least(lambda e, *_: -e)),
        Mistake(BATCH + "sum over the pixels only.", *_least(lambda e, *_: e.sum(1, keepdim=True)), *_least(lambda e, *_: e.amin(1, keepdim=True))),
        Mistake(BATCH + "replace only those images for which the error is smaller, by a mask.", *(f for better in (torch.any, torch.all) for f in _taking(lambda of, e, *_, better=better: of[reduce(lambda b, r: r if better(e[r] < e[b]) else b, range(len(e)))]))),
        Mistake("You always take the first restart. " + OWN, *_taking(lambda of, *_: of[0])),
        Mistake("You always take the last restart. Compare the errors of all of them.", *_taking(lambda of, *_: of[-1])),
        Mistake(ONE_BEFORE.format("the first"), *_least(lambda e, *_: torch.where(e < e[0], -1, 1) * torch.arange(len(e))[:, None])),
        Mistake(ONE_BEFORE.format("the one before it"), *_least(lambda e, *_: torch.where(e < e.roll(1, 0), -1, 1) * torch.arange(len(e))[:, None])),
        Mistake("You sum absolute differences. " + ERROR, *_least(lambda e, drawn, x, _: (drawn - x).abs().sum((2, 3, 4)))),
        Mistake("You take the largest difference of one pixel. " + ERROR, *_least(lambda e, drawn, x, _: (drawn - x).abs().amax((2, 3, 4)))),
        Mistake(CANCEL, *_least(lambda e, drawn, x, _: (drawn - x).sum((2, 3, 4))), *_least(lambda e, drawn, x, _: (drawn - x).sum((2, 3, 4)).abs())),
        Mistake("You compare the angles between the images. " + ERROR, *_least(lambda e, drawn, x, _: -F.cosine_similarity(drawn.flatten(2), x.flatten(1), dim=2))),
        Mistake("That is the cross-entropy of the pixels. " + ERROR, *_least(lambda e, drawn, x, _: F.binary_cross_entropy(drawn, x.expand_as(drawn), reduction="none").sum((2, 3, 4)))),
        Mistake("You compare the first channel only. The error is summed over all channels and pixels.", *_least(lambda e, drawn, x, _: _squared(drawn[:, :, :1], x[:, :1]))),
        Mistake("You compare the z with each other. Compare their images with x.", *_least(lambda e, drawn, x, starts: starts.norm(dim=2))),
        Mistake("You compare all images with the first x. Each has an x of its own.", *_least(lambda e, drawn, x, _: _squared(drawn, x[:1]))),
        Mistake("You compare the images' own sizes. The error is their distance to x.", *_least(lambda e, drawn, *_: _squared(drawn, torch.zeros(())))),
        Mistake("The generator's images are mixed up: the first N are those of the first restart, one for each x, the next N those of the second. Give them the dimensions (R, N) again, and compare each with its own x.",
                *_taking(_by_image), *_taking(_transposed), *_least(lambda e, *_: e.reshape(e.T.shape).T), *(f for mixed in MIXED_UP for f in _least(lambda e, drawn, x, _, mixed=mixed: mixed(drawn, x)))),
        Mistake(BOTH + "starts[best] alone takes whole batches.", *_taking(lambda of, e, *_: of[e.argmin(0)])),
        Mistake(BOTH + "You take the best restart of the first image for all.", *_taking(lambda of, e, *_: of[e.argmin(0)[0]])),
        Mistake(BOTH + "In starts.flatten(0, 1) the restart r of image i stands at r·N + i.", *_taking(lambda of, e, *_: of.flatten(0, 1)[e.argmin(0)]), *_taking(lambda of, e, *_: of.flatten(0, 1)[torch.arange(e.shape[1]) * len(of) + e.argmin(0)])),
        Mistake("You choose an image for each restart. " + OWN, *_taking(lambda of, e, *_: of[torch.arange(len(of)), e.argmin(1)])),
        Mistake("You take the mean over the restarts. Between two good z there may be a bad one: choose one.", *_taking(lambda of, *_: of.mean(0))),
        Mistake("gather gives a result of the index's shape, here one number for each image. " + BOTH, partial(_chosen, takes=(lambda of, e, *_: of.gather(0, e.argmin(0)[None, :, None])[0], _nearest))),
        Mistake("The first value is the images, and the second the z: return z, x_star, in this order.", lambda *given: _best_restart(*given)[::-1]),
        Mistake(STAR.format("the errors, or which restart is best"), _second(lambda x_star, e, x: e.amin(0)), _second(lambda x_star, e, x: e.argmin(0)), _second(lambda x_star, e, x: e)),
        Mistake(STAR.format("x itself"), _second(lambda x_star, e, x: x)),
        Mistake(STAR.format("the difference"), _second(lambda x_star, e, x: x_star - x), _second(lambda x_star, e, x: x - x_star), _second(lambda x_star, e, x: (x_star - x).square())),
    ],
    untouched=("generator", "starts", "x"),
    typical=_restarts,
    returns="one z and one image for each x",
    observe=_point_and_image,
    happened=_mischosen,
    library=(project_to_range,),
).register()  # fmt: skip


# --- bpda -------------------------------------------------------------------------------------------------------------


def _projected(n: int, shape: tuple[int, ...] = inputs.SHAPE) -> tuple[nn.Module, Tensor]:
    """Return a projection that could be differentiated, what is drawn from an encoder's guess, and n images."""
    return nn.Sequential(inputs.smooth_network(0, shape, LATENT), _Generator(LATENT, shape)), _images(n, shape)


def _in_four_shades() -> tuple[Callable, Tensor]:
    """Return a projection onto four shades, two of them beyond black and white, and images, many of whose
    pixels are black or white.

    Its gradient is 0 almost everywhere.
    """
    return lambda x: (3 * x).round() / 2 - 0.25, (1.4 * _images(5, inputs.SHAPE) - 0.2).clamp(0, 1)


def _bpda(projection: Callable, x: Tensor) -> Tensor:
    return x + (projection(x) - x).detach()


def _mixed(value: Sequence[float], gradient: Sequence[float]) -> Function:
    """Return an answer with the value and with the gradient of such multiples of x and of projection(x)."""

    def answer(projection: Callable, x: Tensor) -> Tensor:
        p = projection(x)
        slope = gradient[0] * (x - x.detach()) + gradient[1] * (p - p.detach())
        return (value[0] * x + value[1] * p).detach() + slope

    return answer


def _with_value(*value: float) -> list[Function]:
    """Return answers with the value of such multiples of x and of projection(x), however the gradient comes out."""
    return [_mixed(value, gradient) for gradient in product(*({0, 1, factor} for factor in value))]


def _with_gradients(*gradients: tuple[float, float]) -> list[Function]:
    """Return answers with the right value and gradients of such multiples."""
    return [_mixed((0, 1), gradient) for gradient in gradients]


def _with_backward(change: Callable[[Tensor], Tensor]) -> Function:
    """Return an answer that passes on another gradient than it is handed."""

    def answer(projection: Callable, x: Tensor) -> Tensor:
        passed = 1 * x
        passed.register_hook(change)
        return _bpda(projection, passed)

    return answer


def _value_and_gradient(answer: Function, projection: Callable, x: Tensor) -> dict[str, Tensor]:
    """Return the answer's result, and the gradient in x of a random mixture of its values."""
    x = x.clone().requires_grad_()
    value = call_with_copies(lambda projection: answer(projection, x), projection)
    as_tensor_like(value.detach() if isinstance(value, Tensor) else value, x)
    hint = "You detach everything: the attack gets no gradient. x must be in the result once, outside of .detach() and of torch.no_grad()."
    expect(value.requires_grad, "the result has no gradient graph.", hint)
    above = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(value, x, above, allow_unused=True)
    hint = "The x that you were handed must carry the gradient: no new leaf with requires_grad_(), no torch.tensor(…)."
    expect(gradient is not None, "the result does not hang on x.", hint)
    return {"the result": value.detach(), "its gradient": gradient}


def _runs_once(answer: Function) -> None:
    """Refuse an answer that runs the projection again, or that differentiates it by its weights."""
    (projection, x), calls = _projected(3), []
    call_with_copies(lambda: answer(lambda v: calls.append(v) or projection(v), x.requires_grad_())).sum().backward()
    hint = "A projection is a search from random starts: a second one takes as long again, and finds another image. Pass it the whole batch, and keep the result in a variable."
    expect(len(calls) == 1, f"it ran the projection {len(calls)} times.", hint)
    hint = (
        "The gradient goes into the projection, which is to be skipped: detach its result, or the x that it is given."
    )
    clean = all(p.grad is None for p in projection.parameters())
    expect(clean, "loss.backward() reached the weights of the projection.", hint)


PAST = "The value is the projection, and only the gradient goes past it. "
ADD = "What has to be added to x to give the projection?"
SKIP = "No term with the projection may carry one."
HANDED = "backward is handed the gradient of what comes after: return that, as it is."
Exercise(
    "bpda",
    reference=_bpda,
    cases=[
        Case("its value is the projection, and its gradient with respect to x is the identity", [partial(_projected, 5)], PAST + "Each pixel of the result changes as that pixel of x does, and with no other."),
        Case("also where the projection has no gradient of its own", [_in_four_shades], PAST + "Nothing is asked of the projection but its value."),
        Property("runs the projection once, and leaves no gradient on its weights", _runs_once),
        Case("works for other sizes, and for a single image", [partial(_projected, n, inputs.OTHER_SHAPE) for n in (4, 1)], SIZES),
    ],
    mistakes=[
        Mistake("That is x. " + PAST + ADD, *_with_value(1, 0)),
        Mistake("That is x plus the projection. " + ADD, *_with_value(1, 1)),
        Mistake("That is the difference alone. " + ADD, *_with_value(-1, 1), *_with_value(1, -1)),
        Mistake("The difference has the wrong sign. " + ADD, *_with_value(2, -1)),
        Mistake("The difference is added to the projection, not to x. " + ADD, *_with_value(-1, 2)),
        Mistake("That is halfway between x and the projection. " + PAST, *_with_value(0.5, 0.5)),
        Mistake("That is 0 everywhere: the terms cancel. " + PAST, *_with_value(0, 0)),
        Mistake("That is minus the projection. " + PAST, *_with_value(0, -1)),
        Mistake("You clamp the result. Its value is projection(x), whatever that is.", lambda projection, x: _bpda(projection, x).clamp(0, 1), lambda projection, x: _bpda(lambda v: projection(v).clamp(0, 1), x)),
        Mistake("The gradient goes past the projection and through it as well. " + SKIP, *_with_gradients((1, 1))),
        Mistake("The gradient goes through the projection. Only x carries one. " + SKIP, *_with_gradients((0, 1), (0, -1))),
        Mistake("The gradient goes through the projection, and one of the two is subtracted. " + SKIP, *_with_gradients((-1, 1), (1, -1), (-1, -1))),
        Mistake("Nothing of the gradient arrives: x must be in the result once, outside of .detach().", *_with_gradients((0, 0))),
        Mistake("x carries the gradient more than once: detach the x inside the difference too.", *_with_gradients((2, 0), (2, 1), (2, -1), (3, 0))),
        Mistake("The gradient has the wrong sign: add x, do not subtract it.", *_with_gradients((-1, 0))),
        Mistake("Half of the gradient arrives: x must be in the result once, as it is.", *_with_gradients((0.5, 0), (0.5, 0.5))),
        Mistake("Your gradient is the same everywhere. " + HANDED, *map(_with_backward, (torch.ones_like, lambda g: g.mean().expand_as(g), lambda g: g.sum().expand_as(g)))),
        Mistake("Your backward takes the sign. " + HANDED, _with_backward(torch.sign)),
        Mistake("Your backward divides by the norm. " + HANDED, _with_backward(lambda g: g / g.norm()), _with_backward(lambda g: F.normalize(g.flatten(1)).view_as(g))),
        Mistake("Where a pixel of x is black or white no gradient arrives, as after a clamp of x. Let x carry it as it is.", lambda projection, x: x.clamp(1e-6, 1 - 1e-6) + (projection(x) - x.clamp(1e-6, 1 - 1e-6)).detach()),
        Mistake("Your backward clips. " + HANDED, *(_with_backward(partial(torch.clamp, min=low, max=high)) for low, high in ((-1, 1), (0, 1), (0, None)))),
    ],
    untouched=("projection", "x"),
    returns="images like x that an attack can differentiate",
    observe=_value_and_gradient,
).register()  # fmt: skip


# --- label_flipping ---------------------------------------------------------------------------------------------------


KINDS = ADVERSARIAL, FLIPPING, AMBIGUOUS = "adversarial", "label-flipping", "ambiguous"
UNFOOLED, FAR, UNSURE = "one class for the classifier", "farther apart than eps", "a judge unsure of either image"
ONE_DIGIT, TWO_DIGITS, EXACT = "a sure judge, one digit", "a sure judge, two digits", "exactly eps, exactly sure"
ALL = UNFOOLED, FAR, UNSURE, ONE_DIGIT, TWO_DIGITS

# What the classifier says of x and of x', what the judge says, its doubt (1 is just as much as `sure` allows), and the
# distance in units of eps.
PAIRS = {
    UNFOOLED: [((2, 2), (2, 2), (0.1, 0.2), 0.5), ((3, 3), (3, 0), (0.2, 0.1), 0.3), ((1, 1), (1, 2), (1.5, 0.3), 0.9), ((0, 0), (2, 2), (0.3, 1.6), 0.0)],
    FAR: [((0, 3), (0, 0), (0.1, 0.1), 1.2), ((1, 2), (1, 2), (0.3, 0.1), 2.5), ((2, 1), (2, 1), (1.5, 1.5), 1.1), ((3, 1), (3, 3), (0.2, 0.1), math.inf)],
    UNSURE: [((0, 1), (0, 0), (0.1, 1.5), 0.4), ((2, 3), (2, 3), (1.5, 0.1), 0.8), ((1, 0), (1, 3), (1.1, 1.2), 0.2), ((3, 2), (3, 3), (1.6, 0.7), 0.7), ((0, 2), (0, 0), (2.5, 0.1), 0.6)],
    ONE_DIGIT: [((0, 2), (0, 0), (0.7, 0.7), 0.6), ((3, 1), (1, 1), (0.2, 0.1), 0.1), ((1, 3), (2, 2), (0.1, 0.6), 0.9)],
    TWO_DIGITS: [((2, 0), (2, 0), (0.7, 0.6), 0.5), ((1, 2), (1, 3), (0.2, 0.1), 0.2), ((0, 3), (2, 0), (0.7, 0.1), 0.9)],
    EXACT: [((0, 2), (0, 0), (1.0, 1.0), 1.0), ((3, 1), (3, 1), (1.0, 1.0), 0.5), ((1, 3), (1, 1), (1.0, 1.0), 0.2), ((2, 0), (2, 3), (1.0, 1.0), 1.0)],
}  # fmt: skip


def _logits_for(digits: Tensor, confidence: Tensor, classes: int, shift: float, stream: torch.Generator) -> Tensor:
    """Return logits whose softmax is `confidence` at the digits; those of an image move by ±shift, which changes nothing.

    Where the shift is large, the last class is far behind all others.
    """
    logits = torch.randn(*digits.shape, classes, generator=stream)
    logits[..., -1] -= 10 * shift if shift > 10 else 0
    others = logits.scatter(-1, digits.unsqueeze(-1), -torch.inf).logsumexp(-1)
    lead = torch.logit(confidence).clamp_max(80)  # from which the confidence is exactly 1
    logits.scatter_(-1, digits.unsqueeze(-1), (others + lead).unsqueeze(-1))
    return logits + shift * torch.randn(*digits.shape, 1, generator=stream).sign()


def _pairs(
    *kinds: str, eps: float = 1.5, sure: float = 0.8, classes: int = 5, shift: float = 3.0, n: int = 99
) -> tuple:
    """Return logits, distances, eps and sure of the first n pairs of these kinds."""
    stream = torch.Generator().manual_seed(classes)
    rows = [row for kind in kinds for row in PAIRS[kind]][:n]
    said, judged, doubt, distance = (torch.tensor(column).t() for column in zip(*rows, strict=True))
    lead = torch.where(torch.rand(said.shape, generator=stream) < 0.3, 0.6, 0.95)
    both = ((said, lead), (judged, 1 - (1 - sure) * doubt))
    return *(_logits_for(*one, classes, shift, stream) for one in both), eps * distance, eps, sure


def _facts(classifier: Tensor, judge: Tensor, distance: Tensor, eps: float, sure: float) -> SimpleNamespace:
    """Return the arguments, what the classifier has `said`, the judge's digits, and both confidences, all (2, N)."""
    p, own = judge.softmax(2).amax(2), classifier.softmax(2).amax(2)
    known = {"said": classifier.argmax(2), "digit": judge.argmax(2), "confidence": p, "own_confidence": own}
    return SimpleNamespace(classifier=classifier, judge=judge, distance=distance, eps=eps, sure=sure, **known)


def _masks(changed: Tensor, near: Tensor, certain: Tensor, same: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masks from what decides: two classes, a small distance, a sure judge, one digit for it; all (N,)."""
    found = changed & near
    return found & certain & same, found & certain & ~same, found & ~certain


RIGHT: dict[str, Callable[[SimpleNamespace], Tensor]] = {
    "changed": lambda p: p.said[0] != p.said[1],
    "near": lambda p: p.distance <= p.eps,
    "certain": lambda p: (p.confidence >= p.sure).all(0),
    "same": lambda p: p.digit[0] == p.digit[1],
}


def _verdict(combine: Callable[..., tuple] = _masks, **otherwise: Callable[[SimpleNamespace], Tensor]) -> Function:
    """Return an answer that takes some of the facts otherwise, or combines them otherwise."""
    return lambda *given: combine(**{name: fact(_facts(*given)) for name, fact in (RIGHT | otherwise).items()})


def _sure_of(values: Callable[[SimpleNamespace], Tensor]) -> Function:
    """Return an answer that compares other values, (N,) or (2, N), with sure."""
    return _verdict(certain=lambda p: (values(p).expand(2, len(p.distance)) >= p.sure).all(0))


def _always(p: SimpleNamespace) -> Tensor:
    return torch.ones_like(p.distance, dtype=torch.bool)


def _in_one_mask(**otherwise: Callable[[SimpleNamespace], Tensor]) -> list[Function]:
    """Return answers that take some of the facts otherwise, but only in one of the masks."""

    def answer(*given: Any, which: int) -> tuple[Tensor, ...]:
        masks = _verdict()(*given)
        return *masks[:which], _verdict(**otherwise)(*given)[which], *masks[which + 1 :]

    return [partial(answer, which=which) for which in range(3)]


def _label_flipping(classifier: Tensor, judge: Tensor, distance: Tensor, eps: float, sure: float) -> tuple[Tensor, ...]:
    return _verdict()(classifier, judge, distance, eps, sure)


def _as_masks(answer: Function, classifier: Tensor, judge: Tensor, distance: Tensor, *rest: float) -> dict[str, Tensor]:
    """Return the three masks of the answer by name."""
    value = call_with_copies(answer, classifier, judge, distance, *rest)
    hint = "Return three masks: return adversarial, label_flipping, ambiguous."
    expect(isinstance(value, tuple | list) and len(value) == 3, f"it returned {_kind(value)}.", hint)
    for name, mask in zip(KINDS, value, strict=True):
        hint = "Each mask is a torch tensor of bools, with one entry for each pair."
        expect(isinstance(mask, Tensor), f"the mask {name} is a {type(mask).__name__}.", hint)
        hint = "One bool for each pair: (N,). Compare the first image with the second, and take the classes as the last dimension, 2."
        expect(mask.shape == distance.shape, f"the mask {name} is {_kind(mask)}, of {len(distance)} pairs.", hint)
        hint = "Return bools, as comparisons give them; & is and, ~ is not. Leave out .float(), .int() and .nonzero()."
        expect(mask.dtype == torch.bool, f"the mask {name} is of {mask.dtype}.", hint)
    return dict(zip(KINDS, value, strict=True))


def _misjudged(got: dict[str, Tensor], right: dict[str, Tensor], *given: Any) -> str:
    p, wrong = _facts(*given), torch.stack([got[kind] != right[kind] for kind in KINDS]).any(0)
    i = int(wrong.int().argmax())
    mine, wanted = (" and ".join(k for k in KINDS if masks[k][i]) or "none of the three" for masks in (got, right))
    judged = " → ".join(f"{d} ({100 * c:.0f} %)" for d, c in zip(p.digit[:, i], p.confidence[:, i], strict=True))
    said = " → ".join(map(str, p.said[:, i].tolist()))
    return f"{wrong.sum()} of {len(wrong)} pairs are wrong. One is {p.distance[i]:.2g} apart with eps = {p.eps}: the classifier says {said}, the judge {judged} with sure = {100 * p.sure:.0f} %. You say {mine}, and right is {wanted}."


ALONE = "Ask the judge whether it sees one digit or two; what the classifier says does not count for that."
UNLIKE = "The classifier must say two different classes of the pair. Where it says one, nobody was fooled."
DOUBT = "A pair is ambiguous if the judge is unsure of either image: the smaller of its two confidences decides."
SOFTMAX = (
    "sure is a probability: compare it with the largest of the judge's softmax over the classes, the last dimension."
)
Exercise(
    "label_flipping",
    reference=_label_flipping,
    cases=[
        Case(f"{UNFOOLED}: none of the three", [partial(_pairs, UNFOOLED)], UNLIKE),
        Case(f"{FAR}: none of the three", [partial(_pairs, FAR)], "Only pairs with distance <= eps count."),
        Case(f"{UNSURE}: {AMBIGUOUS}", [partial(_pairs, UNSURE)], DOUBT),
        Case(f"{ONE_DIGIT}: {ADVERSARIAL}", [partial(_pairs, ONE_DIGIT)], "The classifier changes its mind, and the digit does not change: that is an adversarial pair."),
        Case(f"{TWO_DIGITS}: {FLIPPING}", [partial(_pairs, TWO_DIGITS)], "The judge is sure of two different digits: the classifier was right to change its mind."),
        Case(f"{EXACT}: the pair counts, and is not ambiguous", [partial(_pairs, EXACT, sure=1.0)], "At most eps includes eps, and below sure does not include sure."),
        Case("reads the judge's confidence from logits of any size", [partial(_pairs, *ALL, shift=100.0)], SOFTMAX),
        Case("works for other radii, confidences, numbers of pairs and of classes", [partial(_pairs, *ALL[::-1], eps=0.5, sure=0.9, classes=4), partial(_pairs, ONE_DIGIT, n=1)], SIZES),
    ],
    mistakes=[
        Mistake("The classifier is a party to the case: it says two classes of every pair that counts. Whether the digit is another is for the judge alone to say.", lambda classifier, judge, *rest: _label_flipping(classifier, classifier, *rest), _verdict(same=lambda p: p.said[0] == p.said[1])),
        Mistake("You ask how sure the classifier is. A fooled classifier is often very sure: only the judge's confidence counts.", _sure_of(lambda p: p.own_confidence), _sure_of(lambda p: torch.minimum(p.own_confidence, p.confidence))),
        Mistake("You leave out the judge's confidence: where its softmax is below sure on either image, the pair is ambiguous.", _verdict(certain=_always)),
        Mistake("All your pairs are ambiguous. " + SOFTMAX, _verdict(certain=lambda p: ~_always(p))),
        Mistake("You have sure and unsure the wrong way round: ambiguous is below sure.", _verdict(certain=lambda p: ~RIGHT["certain"](p)), _verdict(certain=lambda p: (p.confidence < p.sure).all(0))),
        Mistake("A judge that is exactly as sure as asked is sure: ambiguous is below sure.", _verdict(certain=lambda p: (p.confidence > p.sure).all(0))),
        Mistake(DOUBT, _sure_of(lambda p: p.confidence.amax(0))),
        Mistake("You ask how sure the judge is of x only. " + DOUBT, _sure_of(lambda p: p.confidence[0])),
        Mistake("You ask how sure the judge is of x' only. " + DOUBT, _sure_of(lambda p: p.confidence[1])),
        Mistake("You take the mean of both confidences: a very sure one hides an unsure one. " + DOUBT, *map(_sure_of, (lambda p: p.confidence.mean(0), lambda p: p.judge.softmax(2).mean(0).amax(1), lambda p: p.judge.mean(0).softmax(1).amax(1)))),
        Mistake("You multiply the two confidences: two sure ones can make an unsure one. " + DOUBT, _sure_of(lambda p: p.confidence.prod(0))),
        Mistake("You let one pair decide about all, by an .all() or a .min() over all pairs. Ask it of each pair.", _sure_of(lambda p: p.confidence.min()), _sure_of(lambda p: p.confidence.amin(0).max())),
        Mistake("You round the confidence. Compare it with sure as it is.", _sure_of(lambda p: p.confidence.round(decimals=1))),
        Mistake("You compare logits, each alone. " + SOFTMAX, _sure_of(lambda p: p.judge.amax(2)), _sure_of(lambda p: p.judge.sigmoid().amax(2))),
        Mistake("You compare the lead over the second class. " + SOFTMAX, _sure_of(lambda p: -p.judge.softmax(2).topk(2, 2).values.diff(dim=2)[..., 0])),
        Mistake("Your softmax goes over the two images, or over the pairs. " + SOFTMAX, _sure_of(lambda p: p.judge.softmax(0).amax(2)), _sure_of(lambda p: p.judge.softmax(1).amax(2)), *(_verdict(certain=lambda p, dim=dim: (p.judge.softmax(dim).amax(2) >= p.sure).all(0), same=lambda p, dim=dim: p.judge.softmax(dim).argmax(2)[0] == p.judge.softmax(dim).argmax(2)[1]) for dim in (0, 1))),
        Mistake("exp of a large logit overflows, and inf / inf is NaN. Take torch's softmax, which subtracts the largest logit first.", _sure_of(lambda p: (p.judge.exp() / p.judge.exp().sum(2, keepdim=True)).amax(2)), _sure_of(lambda p: (lambda e: (e / e.sum(2, keepdim=True)).amax(2))((p.judge - p.judge.mean(2, keepdim=True)).exp()))),
        Mistake(UNLIKE, _verdict(changed=_always), *_in_one_mask(changed=_always)[:2]),
        Mistake(UNLIKE + " You have it the wrong way round.", _verdict(changed=lambda p: p.said[0] == p.said[1])),
        Mistake(UNLIKE + " You ask the judge for it.", _verdict(changed=lambda p: p.digit[0] != p.digit[1])),
        Mistake(UNLIKE + " You ask where it disagrees with the judge.", *(_verdict(changed=lambda p, of=of: of(p.said != p.digit)) for of in (lambda v: v[0], lambda v: v[1], lambda v: v.any(0), lambda v: v[0] != v[1]))),
        Mistake("Pairs that are farther apart than eps do not count: a distant image may well be another digit.", _verdict(near=_always), *_in_one_mask(near=_always)[:2]),
        Mistake(UNLIKE + " Nor do pairs count that are farther apart than eps.", _verdict(changed=_always, near=_always)),
        Mistake("A distance of exactly eps counts: at most eps apart.", _verdict(near=lambda p: p.distance < p.eps)),
        Mistake("Your distance is the wrong way round: near pairs count, distance <= eps.", _verdict(near=lambda p: p.distance > p.eps), _verdict(near=lambda p: p.distance >= p.eps)),
        Mistake("Two of your masks are swapped: one digit is adversarial, two digits are label-flipping.", _verdict(same=lambda p: p.digit[0] != p.digit[1])),
        Mistake("The masks are right, in another order: adversarial, label_flipping, ambiguous.", *(_verdict(lambda order=order, **facts: tuple(_masks(**facts)[i] for i in order)) for order in permutations(range(3)) if order[0] == 2 or order[1] == 2 or order[2] == 0)),
        Mistake(ALONE, *(_verdict(same=same) for same in (lambda p: p.said[0] == p.digit[1], lambda p: p.said[1] != p.digit[1], lambda p: p.said[0] == p.digit[0], lambda p: (p.said == p.digit).all(0), lambda p: (p.said != p.digit).any(0)))),
        Mistake(ALONE + " Nobody asks either whether the classifier is right.", *(_in_one_mask(near=lambda p, right=right: RIGHT["near"](p) & right(p.said == p.digit))[i] for i, right in ((0, lambda v: v[0]), (0, lambda v: ~v[1]), (1, lambda v: v[0]), (1, lambda v: v.all(0)), (1, lambda v: ~v[1])))),
        Mistake("The distance decides only which pairs count: those at most eps apart. What they are is for the judge to say.", _verdict(same=RIGHT["near"], near=_always), _verdict(same=RIGHT["near"], near=_always, certain=_always), _verdict(lambda near, **_: (near, ~near, near & ~near))),
        Mistake("The classifier's change of mind is not enough: it may be right to change it. " + ALONE, _verdict(lambda changed, near, **_: (changed & near, near & ~near, near & ~near))),
        Mistake("No pair is two things at once: an ambiguous one is neither adversarial nor label-flipping. These two need a judge who is sure of both images.", *_in_one_mask(certain=_always)[:2], _verdict(lambda changed, near, certain, same: (changed & near & same, changed & near & ~same, changed & near & ~certain))),
        Mistake("Only pairs that the classifier tells apart, at most eps apart, can be ambiguous. The others are nothing.", *(_in_one_mask(**dict.fromkeys(names, _always))[2] for names in (("changed",), ("near",), ("changed", "near"))), _verdict(lambda **facts: (*_masks(**facts)[:2], ~(_masks(**facts)[0] | _masks(**facts)[1])))),
    ],
    untouched=("classifier", "judge", "distance"),
    typical=partial(_pairs, *ALL),
    like="distance",
    returns="three masks, one bool for each pair",
    observe=_as_masks,
    happened=_misjudged,
).register()  # fmt: skip
