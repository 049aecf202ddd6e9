"""Exercises of chapters 10 and 11: attacks on photographs, in levels of 255, and attacks that survive what is done to a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import attacks
from ..attacks.transformations import jpeg
from ..models.layers import Normalize
from . import inputs, mistakes
from .engine import expect
from .exercise import Case, Exercise, Property
from .mistakes import Mistake, gradient_step, pgd, project
from .properties import as_tensor_like, broadcast_like, call_with_copies, misplaced

SEED = 33  # on the right steps no gradient is near 0, so that rounding decides nothing
SIZES, OTHER_SIZES = ((3, 6, 6), inputs.CLASSES), (inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)
MEAN, STD = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
ONLY_ARGUMENTS = mistakes.ONLY_ARGUMENTS.format("shapes, classes and numbers")
ANY_GRADIENT = "Only the sign of the gradient counts, however small it is; where the gradient is 0, its sign is 0, and the pixel stays."


# --- fgsm_in_levels ---------------------------------------------------------------------------------------------------


def _network(shape: tuple[int, ...], classes: int, blind: int = 0, scale: float = 1.0) -> nn.Module:
    """Return a network that takes pixels in [0, 1] and normalises them as ImageNet's photographs are.

    Args:
        shape, classes: of the images. blind: how many pixels it does not look at. scale: of its logits' slopes.
    """
    flatten, first, tanh, last = inputs.unsaturated_network(shape, classes, SEED)
    mean, std = (values.expand(shape).flatten() for values in (MEAN, STD))
    first.weight.data[:, :blind] = 0.0
    first.bias.data += first.weight.data @ mean  # takes back what normalisation does: confident for no picture
    first.weight.data *= std
    last.weight.data *= scale
    return nn.Sequential(Normalize(MEAN, STD), flatten, first, tanh, last).eval()


def _pictures(n: int = 6, sizes: tuple = SIZES, low: float = 0.3, **network: Any) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, 8-bit pictures and labels; with `low` below 0, some pixels are black and some white."""
    model = _network(*sizes, **network)
    x, y = inputs.labelled_images(model, n, sizes[0], low)
    return model, _saved(x), y


def _in_levels(levels: float, **pictures: Any) -> tuple[Any, ...]:
    return *_pictures(**pictures), levels


def _saved(picture: Tensor, x: Tensor | None = None) -> Tensor:
    """Return the picture that an 8-bit file holds."""
    return (255 * picture).round().clamp(0, 255) / 255


def _clipped(picture: Tensor, x: Tensor) -> Tensor:
    return picture.clamp(0, 1)


def _truncated(picture: Tensor, x: Tensor) -> Tensor:
    return (255 * picture.clamp(0, 1)).floor() / 255


def _fgsm(whole: Callable = math.floor, finish: Callable = _saved, start: Callable | None = None, at: Callable | None = None, **mistake: Any) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that makes mistakes.

    Args:
        whole: the size of the step in levels, from levels. finish: what becomes of the new picture, from it and x.
        start, at: where the step starts, and where its gradient is taken, from x. mistake: of `gradient_step`.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, levels: float) -> Tensor:
        begin, point = start(x) if start else x, at(x) if at else None
        return finish(gradient_step(model, begin, y, whole(levels) / 255, at=point, **mistake), x)

    return answer


def _normalised(x: Tensor) -> Tensor:
    return (x - MEAN) / STD


def _step_mistakes(go: Callable[..., Callable], wrong_sign: str, label: str, image: str) -> list[Mistake]:
    """Return what goes wrong in one signed step; `go` as in `loss_mistakes`, with `start` and `at` as in `_fgsm`."""
    inside = f"You normalise {image} before the model does it again. It takes pixels in [0, 1], and normalises inside."
    return [
        Mistake(wrong_sign, go(scale=-1)),
        *mistakes.loss_mistakes(go, label, image),
        *mistakes.sign_mistakes(go, "the step"),
        Mistake(f"Every pixel moved the same way. Take the sign of the gradient with respect to {image}, not that of the loss.", go(move=torch.ones_like), go(move=lambda g: -torch.ones_like(g))),
        Mistake("Where the gradient is 0, its sign is 0, and the pixel stays. You move it: take .sign(), not a comparison with 0.", go(move=lambda g: 1 - 2.0 * (g < 0)), go(move=lambda g: 1 - 2.0 * (g <= 0))),
        Mistake("You guard a division by the gradient's size with a number so large that a small gradient gives only a part of the step. Take .sign().", *(go(move=lambda g, tiny=tiny: g / (g.abs() + tiny)) for tiny in (1e-8, 1e-10, 1e-12)), go(move=lambda g: g / g.abs().clamp_min(1e-8))),
        Mistake(inside, go(at=_normalised)),
        Mistake(inside + " And return pixels, too.", go(start=_normalised), go(start=_normalised, at=lambda x: x)),
        Mistake("You rescale the step by the channels' std. Pixels stay pixels: normalisation is the model's own business.", go(move=lambda g: g.sign() / STD), go(move=lambda g: g.sign() * STD)),
        Mistake(f"You give the model 255 · {image}. It takes pixels in [0, 1].", go(at=lambda x: 255 * x)),
        Mistake("Your step is twice as long as it should be.", go(scale=2)),
        Mistake("Your step is half as long as it should be.", go(scale=0.5)),
    ]  # fmt: skip


def _truncation(got: Tensor, right: Tensor, *_: Any) -> str:
    """Return what to say if some pixels are one level too dark, and all others right."""
    off = 255 * (got - right)
    return TRUNCATED if ((off.abs() < 1e-2) | ((off + 1).abs() < 1e-2)).all() else ""


def _mismoved(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, y: Tensor, levels: float) -> str:
    change, wanted, between = 255 * (got - x).abs(), 255 * (right - x).abs(), (255 * got - (255 * got).round()).abs()
    rightly = 100 * ((got - x).sign() == (right - x).sign()).float().mean()
    return (
        f"with levels = {levels} the pixels changed by {change.min():.4g} to {change.max():.4g} levels of 255, right are {wanted.min():.4g} to {wanted.max():.4g}; {rightly:.0f} % of them in the right direction; "
        f"they are up to {between.max():.2f} of a level beside what an 8-bit file can hold, and go from {got.min():.3g} to {got.max():.3g}."
    )


TRUNCATED = "Some pixels are one level too dark: .int(), .to(torch.uint8), // and floor cut off, and make 2 of 2.9999998. Use .round()."
DOWN = "Within 2.5 levels a pixel of an 8-bit picture can move by two, and within 0.6 by none: round the budget down, before the step."
CLIP = "Clip the new picture, after the step, to [0, 1], at both ends."
Exercise(
    "fgsm_in_levels",
    reference=lambda model, x, y, levels: _fgsm()(model, x, y, levels),
    cases=[
        Case("moves every pixel by so many levels, uphill", [partial(_in_levels, 8)], "Differentiate F.cross_entropy of model(x) and y with respect to x. The sign of that, times so many levels of 1/255, is added to x."),
        Case("stays inside [0, 1]: clipped as pixels", [partial(_in_levels, 8, n=4, low=-0.05)], "Take the step everywhere. " + CLIP),
        Case("makes 8-bit pictures, also with a budget that is no whole number", [partial(_in_levels, levels) for levels in (2.6, 3.7, 1.3, 0.6, 3.0)], DOWN),
        Case("takes the whole step where the gradient is small, and none where it is 0", [partial(_in_levels, 3, scale=1e-10), partial(_in_levels, 3, blind=9)], ANY_GRADIENT),
        Case("works for other sizes, budgets and numbers of classes", [partial(_in_levels, 5, n=5, sizes=OTHER_SIZES), partial(_in_levels, 150)], ONLY_ARGUMENTS),
    ],
    mistakes=[
        Mistake("Your picture is black. Return the new picture, in pixels in [0, 1].", _fgsm(finish=lambda new, x: 0 * x)),
        Mistake("Nothing moved: did you return x, or did rounding take the whole step away?", lambda model, x, *_: x),
        Mistake("That is the change alone. Return the picture: where you started, plus the change.", _fgsm(finish=lambda new, x: new - x), _fgsm(finish=lambda new, x: _saved(new) - x)),
        Mistake("Every pixel went all the way to black or white. Pixels go from 0 to 1, and a level is 1/255 of that.", *(_fgsm(whole=whole, finish=finish) for whole in (lambda n: 255 * n, lambda n: 255) for finish in (_saved, lambda new, x: new))),
        Mistake("That picture goes from 0 to 255. Divide it by 255: it is to be like x.", _fgsm(finish=lambda new, x: 255 * new), _fgsm(finish=lambda new, x: 255 * _saved(new))),
        Mistake("256 levels have 255 steps between them: divide by 255.", _fgsm(whole=lambda n: n * 255 / 256, finish=_clipped), _fgsm(whole=lambda n: math.floor(n) * 255 / 256, finish=_clipped), _fgsm(whole=lambda n: math.floor(n) * 255 / 256)),
        Mistake("You divide by 255 twice.", _fgsm(whole=lambda n: n / 255, finish=_clipped), _fgsm(whole=lambda n: math.floor(n) / 255, finish=_clipped)),
        Mistake("You take a step for every level, each with a gradient of its own. FGSM takes the gradient once, at x.", lambda model, x, y, levels: _saved(pgd(model, x, y, 1.0, math.floor(levels), 1 / 255))),
        Mistake("Every step down is lost: clip the new picture, not the change.", _fgsm(move=lambda g: g.sign().clamp(0, 1))),
        Mistake("The levels of the picture are k/255, not k/256.", _fgsm(finish=lambda new, x: (256 * new).round().clamp(0, 256) / 256)),
        Mistake("uint8 counts in a circle: 255 + 1 is 0, and 0 − 1 is 255. Add the step to floats, clip, and only then convert.", _fgsm(finish=lambda new, x: (255 * new).round().remainder(256) / 255)),
        Mistake(mistakes.LEFT_OUT.format("black or white: clip"), _fgsm(finish=lambda new, x: torch.where((new - 0.5).abs() <= 0.5, new, x))),
        *_step_mistakes(_fgsm, mistakes.WRONG_SIGN, "y", "x"),
        *_step_mistakes(partial(_fgsm, finish=_clipped), mistakes.WRONG_SIGN, "y", "x"),
        Mistake(CLIP + " Other limits are those of normalised pixels, which only the model sees.", *(_fgsm(finish=lambda new, x, ends=ends: new.clamp(*ends)) for ends in ((-1, 255), (-3, 3), (0, 255), (0, None), (None, 1))), _fgsm(finish=lambda new, x: (255 * new).round() / 255)),
        Mistake(TRUNCATED, _fgsm(finish=_truncated)),
        Mistake(TRUNCATED + " And round the budget down, before the step.", _fgsm(float, _truncated)),
        Mistake("You step by a part of a level, which no file can hold. " + DOWN, _fgsm(whole=float, finish=_clipped)),
        Mistake("Rounding took the step out of the budget. " + DOWN, _fgsm(whole=float), _fgsm(whole=round), _fgsm(whole=math.ceil), _fgsm(whole=lambda n: max(1, math.floor(n)))),
        Mistake("With a budget that is a whole number a pixel may move by all of it.", _fgsm(whole=lambda n: math.ceil(n) - 1)),
    ],
    batched=("x", "y"),
    untouched=("model", "x", "y"),
    returns="new pictures like x",
    happened=_mismoved,
    explain=_truncation,
    library=(attacks.fgsm, attacks.bim, attacks.pgd),
).register()  # fmt: skip


# --- targeted_step ----------------------------------------------------------------------------------------------------


def _aims(eps: float, step_size: float, reach: float = 0.5, **pictures: Any) -> tuple[Any, ...]:
    """Return what a step towards a target is given; adv is up to reach · eps from x."""
    model, x, y = _pictures(**pictures)
    noise = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1
    target = (y + 2) % len(model[-1].bias)
    return model, x, target, (x + reach * eps * noise).clamp(0, 1), eps, step_size


def _aimed(size: Callable | None = None, put: Callable = project, start: Callable | None = None, at: Callable | None = None, **mistake: Any) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that makes mistakes.

    Args:
        size: of the step, from eps and step_size. put: what becomes of the new picture, from it, x and eps.
        start, at: where the step starts, and where its gradient is taken, from adv. mistake: of `gradient_step`.
    """

    def answer(model: nn.Module, x: Tensor, target: Tensor, adv: Tensor, eps: float, step_size: float) -> Tensor:
        begin, point = start(adv) if start else adv, at(adv) if at else None
        step_size = size(eps, step_size) if size else step_size
        return put(gradient_step(model, begin, target, -step_size, at=point, **mistake), x, eps)

    return answer


def _from(choose: Callable[..., tuple]) -> Callable[..., Tensor]:
    """Return an answer that takes others of x and adv as the ball's centre, the start, and the place of the gradient."""

    def answer(model: nn.Module, x: Tensor, target: Tensor, adv: Tensor, eps: float, step_size: float) -> Tensor:
        centre, start, at = choose(x, adv)
        return project(gradient_step(model, start, target, -step_size, at=at), centre, eps)

    return answer


def _misaimed(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, target: Tensor, adv: Tensor, eps: float, step_size: float) -> str:  # fmt: skip
    setting = f"with eps = {eps} and step_size = {step_size} the pixels end up to {(got - x).abs().max():.3g} from x, with values from {got.min():.3g} to {got.max():.3g}; "
    return misplaced(setting, model, target, adv, got, right, " of the target")


UPHILL = "You walk uphill, and make the target less likely. Go down the loss of the target: subtract the step, once."
BOTH = "Put the picture back into the ball around x, and then into [0, 1]: the first limits the change from x, the second the pixel itself."
Exercise(
    "targeted_step",
    reference=lambda model, x, target, adv, eps, step_size: _aimed()(model, x, target, adv, eps, step_size),
    cases=[
        Case("moves adv by step_size, down the loss of the target", [partial(_aims, 0.1, 0.02)], "Differentiate F.cross_entropy of model(adv) and target with respect to adv. Its sign, times step_size, is subtracted from adv."),
        Case("stays within eps of x, wherever adv has come to", [partial(_aims, 0.05, 0.07, reach=1.0), partial(_aims, 0.0, 0.02)], BOTH),
        Case("stays inside [0, 1]", [partial(_aims, 0.1, 0.06, low=-0.05)], BOTH + " The box holds for pixels, whatever the model makes of them inside."),
        Case("takes the whole step where the gradient is small, and none where it is 0", [partial(_aims, 0.1, 0.02, scale=1e-10), partial(_aims, 0.1, 0.02, blind=9)], ANY_GRADIENT),
        Case("works for other sizes, budgets and numbers of classes", [partial(_aims, 0.03, 0.01, reach=0.9, sizes=OTHER_SIZES)], ONLY_ARGUMENTS),
    ],
    mistakes=[
        Mistake("Nothing moved: did you return adv instead of the new picture?", lambda model, x, target, adv, *_: adv),
        Mistake("That is x itself. Return adv after its step.", lambda model, x, *_: x),
        Mistake("You leave pictures as they are that the model takes for the target already. Every picture takes its step.", lambda model, x, target, adv, *sizes: torch.where(broadcast_like(model(adv).argmax(1) == target), adv, _aimed()(model, x, target, adv, *sizes))),
        Mistake("That is the change alone. Return the picture: x plus the change.", _aimed(put=lambda new, x, eps: project(new, x, eps) - x), _aimed(put=lambda new, x, eps: (new - x).clamp(-eps, eps))),
        Mistake("You start at x again. The step starts at adv, which has moved already.", _from(lambda x, adv: (x, x, x)), _from(lambda x, adv: (x, x, adv))),
        Mistake("You take the gradient at x. The attack has come to adv: take it there.", _from(lambda x, adv: (x, adv, x))),
        Mistake("The ball is around x, where the attack began, and not around adv: else every step brings a new ball.", _from(lambda x, adv: (adv, adv, adv)), lambda model, x, target, adv, eps, a: adv + (_from(lambda x, adv: (x, adv, adv))(model, adv, target, adv, 1.0, a) - adv).clamp(-eps, eps)),
        Mistake("Your step has the size eps. One step goes by step_size; eps is the budget for all.", _aimed(size=lambda eps, a: eps)),
        Mistake("You multiply step_size by eps. One step goes by step_size.", _aimed(size=lambda eps, a: a * eps)),
        Mistake("Multiply the sign by step_size: alone, it takes every pixel as far as the ball reaches.", _aimed(size=lambda eps, a: 1.0)),
        Mistake("You divide step_size by 255. It is in pixels in [0, 1] already.", _aimed(size=lambda eps, a: a / 255)),
        *_step_mistakes(_aimed, UPHILL, "target", "adv"),
        Mistake(BOTH, _aimed(put=lambda new, x, eps: new), _aimed(put=lambda new, x, eps: new.clamp(0, 1))),
        Mistake("You keep to the ball, but not to [0, 1]: end with .clamp(0, 1), at both ends.", *(_aimed(put=lambda new, x, eps, ends=ends: (x + (new - x).clamp(-eps, eps)).clamp(*ends)) for ends in ((-9, 9), (0, None), (None, 1), (-3, 3)))),
        Mistake(mistakes.WIDE_BALL, _aimed(put=lambda new, x, eps: project(new, x, 2 * eps))),
        Mistake("eps is in pixels in [0, 1] already: do not divide by 255.", _aimed(put=lambda new, x, eps: project(new, x, eps / 255))),
        Mistake("You clip the change to step_size. The ball around x has the radius eps.", lambda model, x, target, adv, eps, a: project(_aimed(put=lambda new, x, eps: new)(model, x, target, adv, eps, a), x, a)),
        Mistake("You clip adv itself to ±eps, a ball around black. The ball is around x: clip the change from x.", _aimed(put=lambda new, x, eps: new.clamp(-eps, eps)), _aimed(put=lambda new, x, eps: new.clamp(-eps, eps).clamp(0, 1))),
        Mistake("You clip the change at one end only. It goes from −eps to eps.", _aimed(put=lambda new, x, eps: (x + (new - x).clamp(max=eps)).clamp(0, 1)), _aimed(put=lambda new, x, eps: (x + (new - x).clamp(min=-eps)).clamp(0, 1))),
        Mistake("Add the clipped change to x, not to the new picture.", _aimed(put=lambda new, x, eps: (new + (new - x).clamp(-eps, eps)).clamp(0, 1))),
        Mistake("The change goes the wrong way: it is the new picture minus x.", _aimed(put=lambda new, x, eps: project(2 * x - new, x, eps))),
    ],
    batched=("x", "target", "adv"),
    untouched=("model", "x", "target", "adv"),
    returns="new pictures like x",
    happened=_misaimed,
    library=(attacks.fgsm, attacks.bim, attacks.pgd),
).register()  # fmt: skip


# --- eot_gradient -----------------------------------------------------------------------------------------------------


class _Camera:
    """Moves images sideways and takes light from them. The j-th view of an image is always the same, in any order.

    It recognises the images, and notes how many views of each it took, and how many of something else.
    """

    def __init__(self, x: Tensor):
        self.x, self.views, self.strangers = x, [0] * len(x), 0

    def __call__(self, x: Tensor) -> Tensor:
        values = torch.tensor(x.tolist())  # a copy that outlives what torch.func wraps around x
        distance = (values[:, None] - self.x).abs().flatten(2).amax(2)
        self.strangers += int((distance.amin(1) > 1e-5).sum())
        image, number = distance.argmin(1), torch.zeros(len(x), dtype=torch.long)
        for k, i in enumerate(image.tolist()):
            number[k] = self.views[i]
            self.views[i] += 1
        columns = (torch.arange(x.shape[-1]) + (image + 2 * number + 1)[:, None]) % x.shape[-1]
        light = 0.4 + 0.6 * ((0.31 * image + 0.618 * number) % 1)
        return broadcast_like(light) * x.gather(-1, columns[:, None, None].expand_as(x))


def _expectations(n: int, samples: int, sizes: tuple = SIZES) -> tuple[Any, ...]:
    """Return what the gradient of an expectation is asked of."""
    model = inputs.smooth_network(SEED, *sizes, spread=0.6)
    x, y = inputs.labelled_images(model, n, sizes[0], 0.0)
    return model, x, y, _Camera(x), samples


def _taken(function: Callable, model: nn.Module, x: Tensor, y: Tensor, _: _Camera, samples: int) -> dict[str, Any]:
    """Return the gradient, and what a new camera noted."""
    camera = _Camera(x)
    gradient = as_tensor_like(call_with_copies(function, model, x, y, camera, samples), x)
    return {"gradient": gradient, "views": tuple(camera.views), "strangers": camera.strangers}


def _new_views(transformation: Callable, x: Tensor, samples: int) -> list[Tensor]:
    return [transformation(x) for _ in range(samples)]


def _views_of_views(transformation: Callable, x: Tensor, samples: int) -> list[Tensor]:
    return reduce(lambda views, _: [*views, transformation(views[-1])], range(samples), [x])[1:]


def _mean(values: Any) -> Tensor:
    return torch.stack(list(values)).mean(0)


def _expected(combine: Callable = lambda g, n: g.mean(0), views: Callable = _new_views, of_view: bool = False, pool: Callable = lambda model, views: map(model, views), loss: Callable = F.cross_entropy) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that makes mistakes.

    Args:
        combine: the gradients of R views, (R, N, C, H, W), and N. views: from transformation, x and samples.
        of_view: differentiate with respect to the view. pool: gives logits, from the model and the views.
        loss: what is differentiated.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, transformation: Callable, samples: int) -> Tensor:
        x = x.clone().requires_grad_()
        seen = views(transformation, x, samples)
        pairs = zip(pool(model, seen), seen, strict=False)
        gradients = [torch.autograd.grad(loss(logits, y, reduction="sum"), view if of_view else x, retain_graph=True)[0] for logits, view in pairs]  # fmt: skip
        return combine(torch.stack(gradients), len(x))

    return answer


def _expectation_mistakes(share: Callable[[int], float], also: str = "") -> list[Mistake]:
    """Return what goes wrong, in gradients of which only a share is left, from the number of images; `also` says so."""

    def go(pick: Callable = _mean, scale: float = 1, **mistake: Any) -> Callable[..., Tensor]:
        return _expected(lambda g, n: scale * share(n) * pick(g), **mistake)

    single = "Only one view counts, the {}. Every one of the samples is a new view, and all of their gradients count."
    many = "You take one loss of the mean {}. The expectation is over the loss: average the losses, or their gradients."
    found = [
        Mistake("You add the gradients up. Divide by samples: the mean is the expectation.", go(sum)),
        Mistake("You divide by samples twice.", go(lambda g: g.mean(0) / len(g))),
        Mistake("The sign is wrong: the gradient points to where the loss grows.", go(scale=-1)),
        Mistake("Your gradients add up from sample to sample, as .backward() adds to .grad, and you add these sums up again.", go(lambda g: _mean(g.cumsum(0))), go(lambda g: sum(g.cumsum(0)))),
        Mistake("You divide the total anew after every sample. Divide once, at the end.", *(go(lambda g, by=by: reduce(lambda total, one: (total + one) / by(len(g)), g, 0 * g[0])) for by in (lambda samples: samples, lambda samples: 2))),
        Mistake("You take the median of the gradients. The expectation is their mean.", go(lambda g: g.median(0).values)),
        Mistake("You call transformation too often: each of the samples is one call.", go(views=lambda t, x, samples: _new_views(t, x, samples + 1)), go(lambda g: _mean(g[1:]), views=lambda t, x, samples: _new_views(t, x, samples + 1))),
        Mistake("That is the gradient with respect to the transformed image. Its pixels are not those of x: let x require the gradient, not its view, so that it comes back through the transformation.", go(of_view=True)),
        Mistake("Every sample starts at x itself: do not overwrite x with its view, or the next sample is a view of a view.", go(views=_views_of_views), go(views=_views_of_views, of_view=True)),
        Mistake(single.format("first"), go(views=lambda t, x, samples: [t(x)]), go(lambda g: g[0])),
        Mistake(single.format("last"), go(lambda g: g[-1])),
        Mistake(single.format("last") + " And you divide it by samples.", go(lambda g: g[-1] / len(g))),
        Mistake(many.format("view"), go(pool=lambda model, views: [model(_mean(views))])),
        Mistake(many.format("of the logits, or of the log-probabilities"), go(pool=lambda model, views: [_mean(map(model, views))])),
        Mistake(many.format("of the probabilities"), go(pool=lambda model, views: [_mean(model(v).softmax(1) for v in views).log()])),
        Mistake("You differentiate the loss of x itself. Differentiate the loss of what transformation makes of x.", go(views=lambda t, x, samples: [x]), go(views=lambda t, x, samples: [(t(x), x)[1] for _ in range(samples)])),
        Mistake(mistakes.OWN_PREDICTION.format("y"), lambda model, x, y, *rest: go()(model, x, model(x).argmax(1), *rest)),
        *mistakes.loss_mistakes(go, "y", "view"),
    ]  # fmt: skip
    return [Mistake(f"{mistake.words} {also}".strip(), *mistake.functions) for mistake in found]


def _misjudged(got: dict, right: dict, *arguments: Any) -> str:
    off = 100 * (got["gradient"] - right["gradient"]).norm() / right["gradient"].norm()
    views = ", ".join(map(str, sorted({*got["views"]})))
    return f"with samples = {arguments[-1]} the number of views of each image is {views}, that of views of something else {got['strangers']}; the gradient is {off:.0f} % off."


def _wrong_views(got: dict, right: dict, *_: Any) -> str:
    if got["strangers"]:
        return "Transform x itself, as it is, for every sample. What you transform is something else."
    return "" if got["views"] == right["views"] else NEW_DRAW


def _draws_anew(answer: Callable) -> None:
    draws: list[float] = []

    def dim(x: Tensor) -> Tensor:
        light = torch.rand(len(x))
        draws.extend(light.tolist())
        return broadcast_like(light) * x

    model, x, y, *_ = _expectations(5, 6)
    call_with_copies(answer, model, x, y, dim, 6)
    hint = "Do not seed a random stream in your function: it would start again with every sample."
    expect(len({*draws}) == len(draws), "the same draw came more than once.", hint)


EACH = "Each image has a loss of its own: F.cross_entropy takes the mean over the batch, unless reduction='sum'."
NEW_DRAW = "Call transformation once for every sample, inside the loop: each call is a new draw."
Exercise(
    "eot_gradient",
    reference=lambda model, x, y, transformation, samples: _expected()(model, x, y, transformation, samples),
    cases=[
        Case("samples = 1: differentiates through the transformation, back to x", [partial(_expectations, 5, 1)], "Let a copy of x require the gradient, transform it, and differentiate F.cross_entropy of the model's logits and y with respect to that copy."),
        Case("is the mean of the gradients of so many new views", [partial(_expectations, 5, 6)], f"Add up the gradients of all samples, and divide by samples. {NEW_DRAW}"),
        Property("draws anew for every sample", _draws_anew),
        Case("works for other sizes and numbers of classes, and for a single image", [partial(_expectations, n, 3, OTHER_SIZES) for n in (4, 1)], ONLY_ARGUMENTS),
    ],
    mistakes=[
        *_expectation_mistakes(lambda n: 1),
        Mistake(EACH, _expected(lambda g, n: _mean(g) / n)),
        *_expectation_mistakes(lambda n: 1 / n, EACH),
        Mistake("Return the gradient itself; its sign is for the step that an attack takes later.", _expected(lambda g, n: _mean(g).sign()), _expected(lambda g, n: _mean(g.sign()))),
        Mistake("You normalise the gradients. Return their mean as it is.", _expected(lambda g, n: _mean(map(mistakes.l2_normalized, g))), _expected(lambda g, n: mistakes.l2_normalized(_mean(g)))),
    ],
    untouched=("model", "x", "y"),
    returns="a gradient like x",
    observe=_taken,
    happened=_misjudged,
    explain=_wrong_views,
).register()  # fmt: skip


# --- survive_jpeg -----------------------------------------------------------------------------------------------------


class _FineDetailNetwork(nn.Module):
    """Looks at large shapes, at stripes, and at fine detail wherever a picture has grain.

    JPEG takes the grain away, and with it the fine detail. What stripes can do is soon done, but their slope is the
    steepest until then, so that one step along the gradient leads nowhere.
    """

    CELL, GRAIN, SEEN = 8, 8 / 255, 0.032  # side of a shape; the last is the grain it overlooks

    def __init__(self, shape: tuple[int, int, int], classes: int):
        super().__init__()
        channels, height, width = shape
        generator, n = torch.Generator().manual_seed(0), math.prod(shape)
        cells = (classes, channels, height // self.CELL, width // self.CELL)
        self.shapes = F.interpolate(torch.randn(cells, generator=generator).sign(), scale_factor=self.CELL)
        fine = torch.randn(classes, *shape, generator=generator)
        fine -= F.interpolate(F.avg_pool2d(fine, self.CELL), scale_factor=self.CELL)
        stripes = 1 - 2.0 * (torch.arange(width) // 4 % 2)
        self.large = nn.Parameter(100 / n * self.shapes.flatten(1))
        self.fine = nn.Parameter(800 / n * fine.flatten(1))
        self.stripes = nn.Parameter(2000 / n * stripes.expand(shape).flatten())
        self.says = nn.Parameter(0.15 * (1 - 2.0 * (torch.arange(classes) % 2)))  # what stripes add to the logits

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] → (N, classes)."""
        grain = x.diff().abs().mean((1, 2, 3))
        pixels = (x - 0.5).flatten(1)
        striped = (pixels @ self.stripes).tanh()[:, None] * self.says
        return pixels @ self.large.T + striped + 80 * F.relu(grain - self.SEEN)[:, None] * (pixels @ self.fine.T)

    def pictures(self, n: int, contrast: float) -> tuple[Tensor, Tensor]:
        """Return 8-bit pictures of shapes, under grain without stripes, and their classes."""
        y = torch.arange(n) % len(self.shapes)
        noise = torch.randn(n, *self.shapes.shape[1:], generator=torch.Generator().manual_seed(1))
        stripes = F.normalize(self.stripes.detach(), dim=0).view(self.shapes.shape[1:])
        noise -= broadcast_like((noise * stripes).sum((1, 2, 3))) * stripes
        return _saved(0.5 + contrast * self.shapes[y] + self.GRAIN * noise), y


def _shapes(n: int, sizes: tuple = ((3, 32, 32), 4), eps: float = 4 / 255, contrast: float = 2.4 / 255, off: int = 0) -> tuple[Any, ...]:  # fmt: skip
    """Return a model, its pictures and their labels, or those `off` by so many classes, and eps."""
    model = _FineDetailNetwork(*sizes).eval()
    x, y = model.pictures(n, contrast)
    return model, x, (y + off) % sizes[1], eps


def _behind(seen: Callable = jpeg, steps: int = 10, size: float = 0.25, radius: float = 1.0, put: Callable = project, finish: Callable = lambda adv, x, eps: adv, **mistake: Any) -> Callable[..., Tensor]:  # fmt: skip
    """Return an attack on the model behind what happens to a picture.

    Args:
        seen: what the model sees, from a picture. steps, size, radius: the number of steps, the size of each and the
            radius of the ball, both as a share of eps. put, finish: what becomes of every new picture, and of the last
            one, from it, x and eps. mistake: of `pgd`.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        def keep(new: Tensor, _: Tensor) -> Tensor:
            return put(new, x, radius * eps)

        adv = pgd(lambda images: model(seen(images)), x, y, eps, steps, size * radius * eps, keep=keep, **mistake)
        return finish(adv, x, eps)

    return answer


def _fooled(model: nn.Module, images: Tensor, y: Tensor) -> int:
    with torch.no_grad():
        return int((model(images).argmax(1) != y).sum())


def _misplaced(got: Tensor, x: Tensor, eps: float) -> str:
    """Return what to say about pictures that are not in the ball or not in the box."""
    if (got - x).abs().max() > eps + 1e-5:
        return OUTSIDE
    return UNBOXED if (got - 0.5).abs().max() > 0.5 + 1e-6 else ""


def _survives(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> bool:
    return not _misplaced(got, x, eps) and _fooled(model, jpeg(got), y) >= 0.75 * len(x)


def _counted(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> str:
    before, after = (_fooled(model, images, y) for images in (got, jpeg(got.clamp(0, 1))))
    return (
        f"with eps = {255 * eps:g}/255 a pixel is up to {255 * (got - x).abs().max():.3g}/255 away from x, and the values go from {got.min():.3f} to {got.max():.3f}; {before} of {len(x)} pictures "
        f"fool the model as they are, and {after} after a JPEG file of quality 75. At least {math.ceil(0.75 * len(x))} should."
    )  # fmt: skip


def _why_not(got: Tensor, right: Tensor, model: nn.Module, x: Tensor, y: Tensor, eps: float) -> str:
    return _misplaced(got, x, eps) or (TOO_FINE if _fooled(model, got, y) >= 0.75 * len(x) else "")


OUTSIDE = "What you return keeps to the budget: the ball around x comes last, before the box. The picture that JPEG gives back is no answer, for JPEG alone moves pixels farther than that."
UNBOXED = "There is nothing blacker than 0 or whiter than 1: clip to the ball first, then to [0, 1]."
TOO_FINE = "Your change is too fine for JPEG, which keeps large shapes and drops detail. Let the attack see what the model will see: the loss that it differentiates is that of the picture after JPEG, in every step."
ONE_STEP = "You take the gradient only once, at x, where the slope is that of what has soon no effect any more. Take several small steps, each with the gradient at the point that you have reached."
Exercise(
    "survive_jpeg",
    reference=lambda model, x, y, eps: _behind(steps=3, size=0.5)(model, x, y, eps),
    cases=[
        Case("stays within eps of x and inside [0, 1]", [partial(_shapes, 1, contrast=0.5, off=1)], OUTSIDE),
        Case("fools the model after JPEG of quality 75", [partial(_shapes, 4)], "Too few fool the model, even without JPEG: start from PGD, with several small steps uphill on the loss of y, and with all of eps."),
        Case("does so for other sizes, numbers of classes and budgets", [partial(_shapes, 2, ((3, 40, 24), 3), 5 / 255)], ONLY_ARGUMENTS),
    ],
    mistakes=[
        Mistake("That is x itself: nothing changed.", lambda model, x, y, eps: x),
        Mistake(TOO_FINE, *(_behind(seen, steps=steps, size=size) for seen in (lambda x: x, attacks.quantise) for steps, size in ((1, 1.0), (10, 0.25), (10, 0.1), (20, 0.1))), attacks.fgsm),
        Mistake("You apply JPEG to the finished attack, which knows nothing of it. JPEG belongs into every step: it is what the model will see.", *(_behind(lambda x: x, steps=steps, size=size, finish=finish) for steps, size in ((1, 1.0), (10, 0.25)) for finish in (lambda adv, x, eps: project(jpeg(adv), x, eps), lambda adv, x, eps: jpeg(adv)))),
        Mistake(OUTSIDE, _behind(finish=lambda adv, x, eps: jpeg(adv))),
        Mistake(ONE_STEP, _behind(steps=1, size=1.0), _behind(stale=True), _behind(steps=1)),
        Mistake(mistakes.WRONG_SIGN, _behind(sign=-1), _behind(sign=-1, steps=1, size=1.0)),
        Mistake("That is the change alone. Return the picture: x plus the change.", _behind(finish=lambda adv, x, eps: adv - x)),
        Mistake(mistakes.WIDE_BALL, _behind(radius=2)),
        Mistake("You divide eps by 255. It is in pixels in [0, 1] already.", _behind(radius=1 / 255)),
        Mistake(UNBOXED, _behind(lambda x: jpeg(x.clamp(0, 1)), put=lambda new, x, eps: x + (new - x).clamp(-eps, eps))),
    ],
    untouched=("model", "x", "y"),
    typical=partial(_shapes, 1),
    returns="new pictures like x",
    accepts=_survives,
    happened=_counted,
    explain=_why_not,
    random=True,
).register()  # fmt: skip
