"""Exercises of chapter 07: cheap adversarial training, TRADES, and the step on two branches of batch norm."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import attacks, models
from ..training import trades_loss
from ..training.adversary import n_fgsm
from . import inputs, mistakes
from .adversarial_training import (
    CUT,
    SEES_EVAL,
    WRONG_AND_SURE,
    _as_loss,
    _attack_mistakes,
    _batch_norm,
    _fgsm,
    _leaves_the_model,
    _loss,
    _of_those_right,
    _task,
    _two_losses,
)
from .engine import expect
from .exercise import Case, Exercise, Property
from .mistakes import Mistake, gradient_step, project
from .properties import as_tensor_like, call_with_copies, close, loss_gradient, strong_pixels

# --- n_fgsm_step ------------------------------------------------------------------------------------------------------


def _random_start(x: Tensor, radius: float) -> Tensor:
    return (x + radius * (2 * torch.rand_like(x) - 1)).clamp(0, 1)


def _n_fgsm(
    *, start: Callable = _random_start, at: Callable | None = None, size: Callable | None = None,
    put: Callable = lambda adv, x, eps, noise: adv.clamp(0, 1), **mistake: Any,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that makes mistakes.

    Args:
        start: from x and noise. at: where the gradient is taken, from x and noise.
        size: of the step, from eps and noise. put: puts images back, from them, x, eps and noise.
        mistake: keywords of `gradient_step`.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float, noise: float) -> Tensor:
        length = size(eps, noise) if size else eps
        step = gradient_step(model, start(x, noise), y, length, at=at(x, noise) if at else None, **mistake)
        return put(step, x, eps, noise)

    return answer


def _n_fgsm_step(model: nn.Module, x: Tensor, y: Tensor, eps: float, noise: float) -> Tensor:
    return _n_fgsm()(model, x, y, eps, noise)


def _random_images(
    eps: float, noise: float, n: int = 4, sizes: tuple = (inputs.SHAPE, inputs.CLASSES), low: float = 0.3, blind: int = 0
) -> tuple[Any, ...]:  # fmt: skip
    """Return what the step is given: n images with pixels in [low, 1 - low]; the model does not see the first `blind`."""
    model = inputs.unsaturated_network(*sizes)
    x, y = inputs.labelled_images(model, n, sizes[0], low)
    model[1].weight.data[:, :blind] = 0.0
    return model, x.clamp(0, 1), y, eps, noise


def _run(answer: Callable, seed: int, model: nn.Module, x: Tensor, y: Tensor, eps: float, noise: float) -> Tensor:
    """Return what an answer gives after torch's random stream was seeded."""
    torch.manual_seed(seed)
    return as_tensor_like(call_with_copies(answer, model, x, y, eps, noise), x)


def _missing(answer: Callable, model: nn.Module, x: Tensor, y: Tensor, eps: float, noise: float) -> dict:
    """Return how far an answer's images are from where the right step leads from its own start."""
    start, adv = (_run(answer, 0, model, x, y, size, noise) for size in (0.0, eps))
    gradient = loss_gradient(model, start, y)
    missing = (start + eps * gradient.sign()).clamp(0, 1) - adv
    clear = strong_pixels(gradient) | (gradient == 0)  # the others are a matter of rounding
    return {MISSING: torch.where(clear, missing, 0).round(decimals=6) + 0.0}


def _starts_at_random(answer: Callable) -> None:
    """Refuse a start that is x, or that torch.manual_seed does not decide."""
    task = _random_images(0.0, 0.2)
    first, other, again = (_run(answer, seed, *task) for seed in (1, 2, 1))
    what = "with eps = 0, which shows the start alone, "
    moved = (_run(answer, 1, *task[:3], 0.1, 0.2) - task[1]).abs()
    inside = ((moved > 1e-4) & (moved < 0.099)).float().mean()
    hint = "There is no random start: the step begins at x, and not at a random point."
    if moved.max() > 0.101:
        hint = "Without eps there is no noise: its radius is the noise that is passed in, and no multiple of eps."
    elif inside > 0.1:
        hint = NO_BALL
    expect(not close(first, task[1], 1e-4), what + "the images come back as they were.", hint)
    hint = "Do not seed in your function: torch.rand draws other numbers in every call by itself."
    expect(not close(first, other, 1e-4), what + "two calls give the same images.", hint)
    hint = "Draw with torch.rand or torch.rand_like: torch.manual_seed then makes a training repeatable."
    expect(close(first, again), what + "two calls after the same torch.manual_seed differ.", hint)


def _starts_uniformly(answer: Callable) -> None:
    """Refuse a start that is not uniform in the ball of radius noise."""
    task = _random_images(0.0, 0.2, sizes=((1, 28, 28), inputs.CLASSES), low=0.5)
    start = _run(answer, 0, *task)
    u = start / 0.2 - GREY
    hint = next((said for wrong, said in STARTS if wrong(u)), "")
    if hint and close(start, _run(answer, 0, *task[:-1], 0.1), 1e-4):
        hint = mistakes.SAME_FOR_EVERY.format("noise")
    what = f"with eps = 0 the pixels of grey images moved by {u.min():.2f}·noise to {u.max():.2f}·noise, {100 * (u.abs() > 0.999).float().mean():.0f} % of them by ±noise or more."
    expect(not hint, what, hint)


def _clips_its_start(answer: Callable) -> None:
    """Refuse a start that is drawn from the part of the ball inside [0, 1], and not from the ball."""
    model, x, *rest = _random_images(0.0, 0.2, sizes=((1, 28, 28), inputs.CLASSES))
    still = 100 * (_run(answer, 0, model, torch.zeros_like(x), *rest) == 0).float().mean().item()
    hint = "Draw from the whole ball, then clip: a pixel that was drawn below 0 starts at 0."
    expect(40 < still < 60, f"of black images {still:.0f} % of the pixels start at 0; half of them are right.", hint)


def _far_from_uniform(u: Tensor) -> bool:
    """Tell whether numbers are not uniform in [−1, 1], by Kolmogorov's test."""
    apart = (u.flatten().sort().values - torch.linspace(-1, 1, u.numel())).abs().max().item() / 2
    return apart > 0.05  # with n = 3,136 a right answer exceeds this less than once in a million times


MISSING = "what is missing to one step from your start (which eps = 0 shows)"
GREY = 2.5  # the pixels of grey images, in units of noise
DRAW = "torch.rand draws from 0 to 1: double that, shift it to −1 … 1, and multiply by noise."
STARTS: list[tuple[Callable[[Tensor], Any], str]] = [  # what is wrong with starts (N, ...), in units of noise
    (lambda u: (u + GREY).abs().max() < 1.001, mistakes.CHANGE_ALONE.format("")),
    (lambda u: u.flatten(1).std(1).max() == 0, "All pixels of an image move by the same number. Draw one for each pixel: torch.rand_like(x)."),
    (lambda u: close(u[0], u[1], 1e-4), "All images get the same noise. Draw one number for each pixel of each image: torch.rand_like(x)."),
    (lambda u: (u.abs() > 0.999).all(), "Every pixel starts at −noise or at noise: only the corners of the ball, or noise larger than it. " + DRAW),
    (lambda u: u.min() >= -1e-3 or u.max() <= 1e-3, "Your start is one-sided. " + DRAW),
    (lambda u: u.abs().max() <= 0.51, "Your start fills only half of the ball's width: torch.rand(…) − 0.5 ends at 0.5. " + DRAW),
    (_far_from_uniform, "The start is not uniform in the ball of radius noise (torch.randn is not). " + DRAW),
]  # fmt: skip
AT_START = "Gradient and step both begin at the random start, which is drawn once."
NO_BALL = "You project on a ball after the step, as FGSM with a random start does. N-FGSM clips to [0, 1] only."
Exercise(
    "n_fgsm_step",
    reference=_n_fgsm_step,
    cases=[
        Property("starts at a random point, another in every call", _starts_at_random),
        Property("the start is uniform in the ball of radius noise", _starts_uniformly),
        Case("takes one signed step of eps, uphill from the start", [partial(_random_images, 0.0004, 0.2)], AT_START + " Only the sign of the gradient counts, and eps is the size of the step."),
        Case("may end farther than eps from x, and farther than noise", [partial(_random_images, 0.1, 0.15), partial(_random_images, 0.05, 0.1)], "There is no ball after the step: the noise stays, and the step is added to it."),
        Case("stays inside [0, 1], with the start and with the step", [partial(_random_images, 0.15, 0.3, n=6, low=-0.1)], "Clip the start to [0, 1], before the gradient is taken, and the result."),
        Property("clips a start that was drawn from the whole ball", _clips_its_start),
        Case("leaves a pixel at its start that the loss does not depend on", [partial(_random_images, 0.05, 0.2, blind=9)], "Where the gradient is 0, its sign is 0, too: the pixel stays at its start."),
        Case("works for other sizes of images and numbers of classes, and for one image", [partial(_random_images, 0.05, 0.12, n=n, sizes=(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES), low=0.2) for n in (5, 1)], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("You take no step: add eps times the sign of the gradient to the start.", _n_fgsm(scale=0)),
        Mistake(mistakes.WRONG_SIGN, _n_fgsm(scale=-1)),
        Mistake("You take the gradient at x. Take it at the random start, where the step begins.", _n_fgsm(at=lambda x, noise: x)),
        Mistake("You draw twice, and take the gradient at another point than that at which the step begins. " + AT_START, _n_fgsm(at=_random_start)),
        Mistake("Your step has the size noise. The noise is the radius of the start; the step is eps.", _n_fgsm(size=lambda eps, noise: noise if eps else 0.0)),
        Mistake("You multiply the step by noise. The step is eps, whatever the noise.", _n_fgsm(size=lambda eps, noise: eps * noise)),
        Mistake("Your step is 1.25 times eps, as that of FGSM with a random start. Here it is eps.", _n_fgsm(scale=1.25)),
        Mistake("Your step has twice the size, or half of it. It is eps.", _n_fgsm(scale=2), _n_fgsm(scale=0.5)),
        *mistakes.sign_mistakes(_n_fgsm, "eps"),
        *mistakes.loss_mistakes(_n_fgsm, "y", "start"),
        Mistake("You leave an image at its start that fools the model already. Every image takes its step.", _n_fgsm(loss=_of_those_right)),
        Mistake(NO_BALL, _n_fgsm(put=lambda adv, x, eps, noise: project(adv, x, max(eps, noise))), lambda model, x, y, eps, noise: _n_fgsm(put=lambda adv, x, eps, noise: project(adv, x, eps) if eps else adv.clamp(0, 1))(model, x, y, eps, noise)),
        Mistake("The images of the step are clipped to [0, 1] at the end, at both ends.", _n_fgsm(put=lambda adv, x, eps, noise: adv), *(_n_fgsm(put=lambda adv, x, eps, noise, box=box: adv.clamp(**box)) for box in ({"min": 0}, {"max": 1}))),
        Mistake("You clip to [0, 1] only at the end, and the network sees a start that is no image. Clip the start as well, before the gradient.", _n_fgsm(start=lambda x, noise: x + noise * (2 * torch.rand_like(x) - 1))),
        Mistake("You never clip to [0, 1]: neither the start nor the result.", _n_fgsm(start=lambda x, noise: x + noise * (2 * torch.rand_like(x) - 1), put=lambda adv, x, eps, noise: adv)),
        Mistake("Where the gradient is 0, its sign is 0, too: the pixel stays at its start.", _n_fgsm(move=lambda g: torch.where(g > 0, 1.0, -1.0)), _n_fgsm(move=lambda g: torch.where(g < 0, -1.0, 1.0))),
    ],
    untouched=("model", "x", "y"),
    typical=partial(_random_images, 0.05, 0.2),
    observe=_missing,
    random=True,
    library=(attacks.fgsm, attacks.fgsm_rs, n_fgsm),
).register()  # fmt: skip


# --- free_batch -------------------------------------------------------------------------------------------------------


def _free(
    *, at: Callable = lambda x, delta, eps: (x + delta).clamp(0, 1), move: Callable = torch.sign, loss: Callable = F.cross_entropy,
    size: Callable = lambda eps, lr: eps, keep: Callable = lambda delta, eps: delta.clamp(-eps, eps), rate: Callable = lambda lr, replays: lr,
    times: Callable = lambda replays: range(replays), start: Callable = lambda delta, x, eps: delta, give: Callable = lambda delta, x, eps: delta,
    learn: Callable = lambda replay, replays: True, stale: bool = False, first: bool = False, mount: bool = False,
    forget: bool = False, late: bool = False, momentum: float = 0.0,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that makes mistakes.

    Args:
        at: the images that are trained on, from x, delta and eps. move: the step's direction from the gradient.
        loss: what is differentiated. size: of the step, from eps and lr. keep: puts delta back. rate: of learning.
        times: the replays. start, give: the first and the last delta, from it, x and eps.
        learn: whether a replay, by its number, trains the weights. stale: the perturbation moves along the gradient of
            the first replay. first: the perturbation moves before the weights learn, with a gradient of its own.
        mount: gradients of the weights add up over the replays. forget: a step is not added to those before it.
        late: the perturbation moves once, after the last replay. momentum: of the weights' steps.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, delta: Tensor, eps: float, replays: int, lr: float) -> Tensor:
        delta, kept = start(delta, x, eps), None
        optimizer = torch.optim.SGD(model.parameters(), lr=rate(lr, replays), momentum=momentum)
        optimizer.zero_grad()
        for replay in times(replays):
            if first:
                adv = at(x, delta, eps).detach().requires_grad_()
                (gradient,) = torch.autograd.grad(loss(model(adv), y), adv)
                delta = keep(delta + size(eps, lr) * move(gradient), eps)
            adv = at(x, delta, eps).detach().requires_grad_()
            if not mount:
                optimizer.zero_grad()
            loss(model(adv), y).backward()
            if learn(replay, replays):
                optimizer.step()
            kept = adv.grad if kept is None or not stale else kept
            if not first and not (late and replay < replays - 1):
                delta = keep((not forget) * delta + size(eps, lr) * move(kept), eps)
        return give(delta, x, eps).detach()

    return answer


def _free_batch(model: nn.Module, x: Tensor, y: Tensor, delta: Tensor, eps: float, replays: int, lr: float) -> Tensor:
    return _free()(model, x, y, delta, eps, replays, lr)


def _batch(
    eps: float, replays: int, lr: float = 0.05, n: int = 6, sizes: tuple = (inputs.SHAPE, inputs.CLASSES), low: float = 0.3, zero: bool = False
) -> tuple[Any, ...]:  # fmt: skip
    """Return what a batch of free training is given; with `zero` nothing is carried over from the batch before."""
    model = inputs.unsaturated_network(*sizes)
    x, y = inputs.labelled_images(model, n, sizes[0], low)
    carried = eps * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) - 1)
    return model, x.clamp(0, 1), y, carried * (not zero), eps, replays, lr


def _trained(answer: Callable, model: nn.Module, *rest: Any) -> dict[str, Any]:
    """Return the perturbation that an answer gives, and what it makes of the weights."""
    mine = copy.deepcopy(model)
    delta = as_tensor_like(call_with_copies(lambda *others: answer(mine, *others), *rest), rest[0], "x")
    shift = torch.cat(
        [(new - old).detach().flatten() for new, old in zip(mine.parameters(), model.parameters(), strict=True)]
    )
    return {"the perturbation": delta, "what was added to the weights": shift}


RETURNS_DELTA = "Return the perturbation for the next batch: not the images, and not the one that came in."
IN_BALL = "Put the perturbation back into the ball after each step: no entry beyond −eps or eps."
ONE_PASS = "One backward pass gives both gradients: that of the weights, and that of the images. Make no second one."
EACH_REPLAY = "Every replay trains the weights and moves the perturbation, in this order or the other, with one pass."
Exercise(
    "free_batch",
    reference=_free_batch,
    cases=[
        Case("with one replay: one step of the weights on x + delta, and one of the perturbation", [partial(_batch, 0.1, 1, zero=True), partial(_batch, 0.1, 1)], "The images of the pass are x + delta, clipped to [0, 1]; the weights go down by lr times their gradient, delta goes up by eps times a sign. " + ONE_PASS),
        Case("repeats both, replays times", [partial(_batch, 0.1, replays) for replays in (2, 4)], EACH_REPLAY),
        Case("keeps the perturbation inside the ball", [partial(_batch, 0.02, 5)], IN_BALL),
        Case("clips the images to [0, 1], not the perturbation", [partial(_batch, 0.2, 3, low=-0.1)], "The network sees clipped images; delta itself has the limit eps only."),
        Case("takes lr for the weights", [partial(_batch, 0.05, 3, lr=0.5)], "The weights move by lr times their gradient, the perturbation by eps."),
        Case("works for other sizes of images and numbers of classes, and for one image", [partial(_batch, 0.06, 2, n=n, sizes=(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES), low=0.2) for n in (5, 1)], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("The perturbation never moves. " + EACH_REPLAY, _free(size=lambda eps, lr: 0.0)),
        Mistake("The weights never learn: optimizer.step() is missing, or it has another model's parameters.", _free(learn=lambda replay, replays: False)),
        Mistake("Only one replay trains the weights. " + EACH_REPLAY, _free(learn=lambda replay, replays: replay == replays - 1), _free(learn=lambda replay, replays: replay == 0)),
        Mistake("The perturbation goes downhill: it makes the loss larger, so add eps times the sign of the gradient.", _free(move=lambda g: -g.sign())),
        Mistake("The weights go uphill. Only the perturbation makes the loss larger.", _free(rate=lambda lr, replays: lr, loss=lambda z, y: -F.cross_entropy(z, y), move=lambda g: -g.sign())),
        Mistake("Gradients of the weights add up from replay to replay: optimizer.zero_grad() before each backward pass.", _free(mount=True)),
        Mistake("You train on x itself. The images of the pass are x + delta, clipped.", _free(at=lambda x, delta, eps: x)),
        Mistake("You start at zero. Start at the delta that is passed in: it comes from the batch before.", _free(start=lambda delta, x, eps: torch.zeros_like(x))),
        Mistake(IN_BALL, _free(keep=lambda delta, eps: delta)),
        Mistake("Your perturbation has the limits 0 and 1, which are those of pixels. Its limits are −eps and eps.", _free(keep=lambda delta, eps: delta.clamp(0, 1))),
        Mistake("Your perturbation is never negative. Its limits are −eps and eps.", _free(keep=lambda delta, eps: delta.clamp(0, eps)), _free(keep=lambda delta, eps: delta.clamp(max=eps).clamp_min(0))),
        Mistake("The perturbation has a limit on one side only. Its limits are −eps and eps.", _free(keep=lambda delta, eps: delta.clamp(max=eps)), _free(keep=lambda delta, eps: delta.clamp(min=-eps))),
        Mistake("The network must see images: clip x + delta to [0, 1] before the pass.", _free(at=lambda x, delta, eps: x + delta), _free(at=lambda x, delta, eps: (x + delta).clamp(min=0)), _free(at=lambda x, delta, eps: (x + delta).clamp(max=1))),
        Mistake("Your step along the images' gradient is eps / replays, or 2.5 times that, as in PGD. In free training each step is eps.", *(lambda model, x, y, delta, eps, replays, lr, more=more: _free(size=lambda eps, lr: more * eps / replays)(model, x, y, delta, eps, replays, lr) for more in (1, 2.5))),
        Mistake("Your step is 1.25 eps, as that of FGSM with a random start. In free training it is eps.", _free(size=lambda eps, lr: 1.25 * eps)),
        Mistake("The step of the perturbation is eps, not lr.", _free(size=lambda eps, lr: lr)),
        Mistake("You step along the gradient itself, whose size differs from pixel to pixel. Take its sign, times eps.", _free(move=lambda g: g), _free(move=mistakes.l2_normalized), _free(move=mistakes.max_normalized)),
        Mistake("The perturbation always moves along the gradient of the first replay. Take that of the pass just made.", _free(stale=True)),
        Mistake("You make an attack of its own before each step of the weights: two passes. " + ONE_PASS, _free(first=True)),
        Mistake("The step takes the place of the perturbation. It is added to the one before.", _free(forget=True)),
        Mistake("The perturbation moves only once, after the last replay. " + EACH_REPLAY, _free(late=True)),
        Mistake("Plain steps of size lr: train the weights without momentum, weight decay or Adam.", _free(momentum=0.9), _free(momentum=0.5)),
        Mistake("You go once through the batch. Repeat replays times.", _free(times=lambda replays: range(1))),
        Mistake("You replay once too often, or once too seldom.", _free(times=lambda replays: range(replays + 1)), _free(times=lambda replays: range(replays - 1))),
        Mistake("You divide the learning rate by replays. Each of the steps takes lr.", _free(rate=lambda lr, replays: lr / replays)),
        Mistake("You take the sum of the losses. The loss of a training step is the mean over the batch.", _free(loss=lambda z, y: F.cross_entropy(z, y, reduction="sum"))),
        Mistake(mistakes.SOFTMAX_TWICE.format("adv"), _free(loss=lambda z, y: mistakes.softmax_twice(z, y, "mean"))),
        Mistake(mistakes.OWN_PREDICTION.format("y"), _free(loss=lambda z, y: mistakes.of_prediction(z, y, "mean"))),
        Mistake(RETURNS_DELTA, _free(give=lambda delta, x, eps: x + delta), _free(give=lambda delta, x, eps: (x + delta).clamp(0, 1)), lambda model, x, y, delta, *rest: (_free()(model, x, y, delta, *rest), delta)[1]),
        Mistake("The perturbation is what you clipped it to be: with limits −eps and eps, whatever the image. You take it back from the clipped image.", _free(give=lambda delta, x, eps: (x + delta).clamp(0, 1) - x)),
    ],
    like="x",
    untouched=("x", "y", "delta"),
    returns="the perturbation for the next batch",
    typical=partial(_batch, 0.1, 2),
    observe=_trained,
    tolerance=2e-5,
).register()  # fmt: skip


# --- trades_loss ------------------------------------------------------------------------------------------------------


def _divergence(z: Tensor, w: Tensor) -> Tensor:
    """Return KL(p || q) of the probabilities of two batches of logits, (N,)."""
    return (z.softmax(1) * (z.log_softmax(1) - w.log_softmax(1))).sum(1)


def _trades(
    *, natural: Callable = lambda z, w, y: F.cross_entropy(z, y), robust: Callable = lambda z, w, y: _divergence(z, w).mean(),
    combine: Callable = lambda n, r, beta: n + beta * r,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that takes other parts, from logits of clean and attacked images and labels, or joins them otherwise."""
    return lambda logits, attacked, y, beta: combine(natural(logits, attacked, y), robust(logits, attacked, y), beta)


def _trades_loss(logits: Tensor, attacked: Tensor, y: Tensor, beta: float) -> Tensor:
    return _trades()(logits, attacked, y, beta)


def _logits(beta: float, n: int = 6, classes: int = 5, scale: float = 1.0, same: bool = False) -> tuple[Any, ...]:
    """Return logits of clean and of attacked images, labels and beta."""
    generator = torch.Generator().manual_seed(17)
    clean, attacked = scale * torch.randn(2, n, classes, generator=generator)
    return clean, clean.clone() if same else attacked, torch.arange(n) % classes, beta


def _loss_of_logits(answer: Callable, clean: Tensor, attacked: Tensor, y: Tensor, beta: float) -> dict[str, Any]:
    """Return the loss that an answer gives, and its gradient with respect to both kinds of logits."""
    z, w = clean.clone().requires_grad_(), attacked.clone().requires_grad_()
    loss = call_with_copies(lambda *rest: answer(z, w, *rest), y, beta)
    expect(not isinstance(loss, Tensor) or loss.isfinite().all(), "the loss is not finite.", STAYS_FINITE)
    loss = _as_loss(loss)
    first, second = torch.autograd.grad(loss, [z, w], allow_unused=True, materialize_grads=True)
    sure = clean.abs().max() > 50  # the library's own divergence has no gradient where a probability rounds to 0
    return {
        "the loss": loss.item(),
        "its gradient with respect to the logits of clean images": torch.zeros(1) if sure else first,
        "that with respect to the logits of attacked images": second,
    }


def _by_library(z: Tensor, w: Tensor, reduction: str, *, swapped: bool = False) -> Tensor:
    """Return F.kl_div, which takes log-probabilities of the second distribution first."""
    z, w = (w, z) if swapped else (z, w)
    return F.kl_div(w.log_softmax(1), z.softmax(1), reduction=reduction)


PARTS = "The loss is the cross-entropy of the clean images plus beta times the mean divergence."
KL_ORDER = "The divergence goes from the clean probabilities p to the attacked ones p': the sum of p · (log p − log p'). F.kl_div takes log p' first."
STAYS_FINITE = "Where a probability rounds to 0, its logarithm is −∞: use log_softmax of the logits, not the logarithm of softmax. (F.kl_div takes log-probabilities first, probabilities second.)"
PER_IMAGE = (
    "The divergence is a sum over the classes and a mean over the images: F.kl_div calls that reduction='batchmean'."
)
Exercise(
    "trades_loss",
    reference=_trades_loss,
    cases=[
        Case("beta = 0 leaves the cross-entropy of the clean images", [partial(_logits, 0.0)], "With beta = 0 the attacked images take no part."),
        Case("without a change by the attack there is no second part", [partial(_logits, 6.0, same=True)], "The divergence of two equal distributions is 0."),
        Case("adds beta times the divergence, and differentiates both kinds of logits", [partial(_logits, beta) for beta in (1.0, 6.0)], PARTS + " " + KL_ORDER),
        Case("is a mean over the images, whatever their number", [partial(_logits, 2.0, n=n) for n in (1, 9)], PER_IMAGE),
        Case("stays finite where the network is very sure", [partial(_logits, 1.0, scale=100.0)], STAYS_FINITE),
        Case("works for other numbers of classes", [partial(_logits, 0.5, n=4, classes=3), partial(_logits, 3.0, n=7, classes=12)], mistakes.ONLY_ARGUMENTS.format("sizes")),
    ],
    mistakes=[
        Mistake(KL_ORDER, _trades(robust=lambda z, w, y: _divergence(w, z).mean())),
        Mistake("The divergence has the wrong sign: training makes it smaller.", _trades(combine=lambda n, r, beta: n - beta * r)),
        Mistake("beta belongs to the divergence, not to the cross-entropy. " + PARTS, _trades(combine=lambda n, r, beta: beta * n + r)),
        Mistake("The cross-entropy has no factor: it is not 1 − beta. " + PARTS, _trades(combine=lambda n, r, beta: (1 - beta) * n + beta * r)),
        Mistake("You divide by beta. " + PARTS, lambda z, w, y, beta: F.cross_entropy(z, y) + (_divergence(z, w).mean() / beta if beta else 0.0)),
        Mistake("beta takes no part. " + PARTS, _trades(combine=lambda n, r, beta: n + r)),
        Mistake("The divergence takes no part. " + PARTS, _trades(combine=lambda n, r, beta: n)),
        Mistake("The cross-entropy of the clean images is missing. " + PARTS, _trades(combine=lambda n, r, beta: beta * r)),
        Mistake("You take the cross-entropy of the attacked images. TRADES takes that of the clean ones.", _trades(natural=lambda z, w, y: F.cross_entropy(w, y))),
        Mistake("Your second part is the cross-entropy of attacked images and labels, as in adversarial training. TRADES compares the answers with those on the clean images.", _trades(robust=lambda z, w, y: F.cross_entropy(w, y))),
        Mistake("Your second part is a cross-entropy of the two distributions. Without the entropy of p it is not 0 where nothing has changed.", _trades(robust=lambda z, w, y: -(z.softmax(1) * w.log_softmax(1)).sum(1).mean())),
        Mistake(PER_IMAGE, _trades(robust=lambda z, w, y: _by_library(z, w, "mean")), _trades(robust=lambda z, w, y: _by_library(z, w, "sum")), _trades(robust=lambda z, w, y: _by_library(z, w, "mean", swapped=True)), _trades(robust=lambda z, w, y: _by_library(z, w, "sum", swapped=True))),
        Mistake("You take the sum of the cross-entropies. Both parts are means over the images.", _trades(natural=lambda z, w, y: F.cross_entropy(z, y, reduction="sum")), _trades(natural=lambda z, w, y: F.cross_entropy(z, y, reduction="sum"), robust=lambda z, w, y: _by_library(z, w, "sum"))),
        Mistake("You cut the clean logits out of the divergence: no .detach(), no torch.no_grad(). Both answers may move towards each other.", _trades(robust=lambda z, w, y: _divergence(z.detach(), w).mean())),
        Mistake("You cut the attacked logits out of the divergence: no .detach(), no torch.no_grad(). The network learns from them.", _trades(robust=lambda z, w, y: _divergence(z, w.detach()).mean())),
        Mistake("You cut the whole divergence out of the gradient: no .item(), no .detach().", _trades(robust=lambda z, w, y: _divergence(z, w).mean().detach())),
        Mistake("You compare logits. Compare the probabilities: softmax of both.", _trades(robust=lambda z, w, y: (z - w).square().mean()), _trades(robust=lambda z, w, y: (z - w).square().sum(1).mean()), _trades(robust=lambda z, w, y: (z - w).abs().mean())),
        Mistake("You take the squared difference of the probabilities. TRADES takes the Kullback-Leibler divergence.", _trades(robust=lambda z, w, y: (z.softmax(1) - w.softmax(1)).square().sum(1).mean()), _trades(robust=lambda z, w, y: (z.softmax(1) - w.softmax(1)).square().mean())),
        Mistake("F.kl_div takes a logarithm first: log_softmax of the attacked logits, and softmax of the clean ones.", _trades(robust=lambda z, w, y: F.kl_div(w.softmax(1), z.softmax(1), reduction="batchmean")), _trades(robust=lambda z, w, y: F.kl_div(w, z.softmax(1), reduction="batchmean"))),
        Mistake("Take softmax over the classes, dim=1, not over the images.", _trades(robust=lambda z, w, y: (z.softmax(0) * (z.log_softmax(0) - w.log_softmax(0))).sum(1).mean()), _trades(robust=lambda z, w, y: (z.softmax(0) * (z.log_softmax(0) - w.log_softmax(0))).sum(0).mean())),
        Mistake("Cross-entropy wants logits, not probabilities: it applies softmax itself.", _trades(natural=lambda z, w, y: F.cross_entropy(z.softmax(1), y))),
        Mistake("The two parts have half the weight, or the mean of both is taken. " + PARTS, _trades(combine=lambda n, r, beta: (n + beta * r) / 2), _trades(combine=lambda n, r, beta: (n + beta * r) / (1 + beta))),
        Mistake(STAYS_FINITE, _trades(robust=lambda z, w, y: (z.softmax(1) * (z.softmax(1).log() - w.softmax(1).log())).sum(1).mean()), *(_trades(robust=lambda z, w, y, tiny=tiny: (z.softmax(1) * ((z.softmax(1) + tiny).log() - (w.softmax(1) + tiny).log())).sum(1).mean()) for tiny in (1e-12, 1e-8))),
    ],
    like="logits",
    untouched=("logits", "attacked", "y"),
    returns="one number that a training step can differentiate",
    observe=_loss_of_logits,
    tolerance=1e-4,
    library=(trades_loss,),
).register()  # fmt: skip


# --- branch_step ------------------------------------------------------------------------------------------------------


def _two_branches(features: int, chosen: str = "main") -> models.DualBatchNorm1d:
    layer = models.DualBatchNorm1d(features)
    layer.main, layer.auxiliary, layer.branch = _batch_norm(features), _batch_norm(features, seed=1), chosen
    return layer


def _branch_task(eps: float, *sizes: Any, chosen: str = "main", **setting: bool) -> tuple[Any, ...]:
    """Return a network with two branches, images, labels, eps, and the function that chooses the branch."""
    return _task(partial(_two_branches, chosen=chosen), models.branch, eps, *sizes, **setting)


def _calls_branch(answer: Callable) -> None:
    """Refuse an answer that does not use the function that is passed in."""
    asked = []

    def branch(model: nn.Module, name: str) -> AbstractContextManager:
        asked.append(name)
        return models.branch(model, name)

    call_with_copies(answer, *_branch_task(0.1)[:-1], branch)
    expect(asked, "it never called branch.", "Choose the branch with the last argument, and not with models.branch.")


def _halves(
    clean: str | None = "main", made: str | None = "auxiliary", adversarial: str | None = "auxiliary",
    combine: Callable = lambda c, a: (c + a) / 2, **mistake: Any,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that sends images through other branches, None for that to which the layers are set.

    Others combine the losses in another way, or make mistakes of `_two_losses`.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float, branch: Callable) -> Tensor:
        names = {"clean": clean, "made": made, "adversarial": adversarial}

        def through(use: str) -> AbstractContextManager:
            return branch(model, names[use]) if names[use] else nullcontext()

        return combine(*_two_losses(model, x, y, eps, through=through, **mistake))

    return answer


def _branch_step(model: nn.Module, x: Tensor, y: Tensor, eps: float, branch: Callable) -> Tensor:
    return _halves()(model, x, y, eps, branch)


def _at_once(name: str) -> Callable[..., Tensor]:
    """Return an answer that sends both kinds of images through one branch in one pass."""

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float, branch: Callable) -> Tensor:
        with branch(model, "auxiliary"):
            adv = _fgsm(model, x, y, eps)
        with branch(model, name):
            return F.cross_entropy(model(torch.cat([x, adv])), torch.cat([y, y]))

    return answer


OWN = "Clean images go through the main branch, adversarial ones are made and trained on through the auxiliary one."
MADE_ON_MAIN = "You make the adversarial images through the main branch. They must fool the branch that is trained on them: put the attack inside with branch(model, 'auxiliary')."
MEAN = "Return the mean of both losses, half of each."
Exercise(
    "branch_step",
    reference=_branch_step,
    cases=[
        Case("eps = 0: one loss through each branch, half of each, and their gradient", [partial(_branch_task, 0.0)], "With eps = 0 both losses are of x itself, each through a branch of its own. " + MEAN),
        Case("makes the adversarial images, and trains on them, through the auxiliary branch", [partial(_branch_task, 0.1)], "The attack and the loss of its images share the auxiliary branch; the images are those of attacks.fgsm, made anew in every call."),
        Case("whatever branch the layers are set to, which they have back afterwards", [partial(_branch_task, 0.1, chosen="auxiliary")], "Choose the branch for each use of the network; with branch(model, …): switches back at its end."),
        _leaves_the_model(partial(_branch_task, 0.1)),
        Case("in training mode each branch's running statistics see its own images, once", [partial(_branch_task, 0.1, training=True)], "In training mode every pass counts in the statistics of its branch: one for each loss, and none for the attack. " + SEES_EVAL),
        Case("stays finite where the network is wrong and very sure", [partial(_branch_task, 0.1, chosen="auxiliary", sure=True)], WRONG_AND_SURE),
        Property("chooses the branch with the function that is passed in", _calls_branch),
        Case("works for other sizes of images and numbers of classes, and for one image", [partial(_branch_task, 0.06, n, (inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)) for n in (5, 1)], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("The layers keep the branch they were set to, which need not be the main one: choose it, with branch(model, 'main').", _halves(clean=None)),
        Mistake("The branches are swapped. " + OWN, _halves("auxiliary", "main", "main")),
        Mistake("The losses have swapped branches. " + OWN, _halves("auxiliary", "auxiliary", "main")),
        Mistake(MADE_ON_MAIN, _halves(made="main"), _halves(made=None)),
        Mistake("You make the images through the auxiliary branch, and train on them through the main one. Compute their loss inside the same with block.", _halves(adversarial="main"), _halves(adversarial=None)),
        Mistake("Everything goes through one branch. " + OWN, _halves("main", "main", "main"), _halves(None, None, None), _halves("main", None, None)),
        Mistake("Both losses go through the auxiliary branch. " + OWN, _halves("auxiliary"), _halves("auxiliary", "main")),
        Mistake("That is the sum of the two losses. " + MEAN, _halves(combine=lambda c, a: c + a)),
        Mistake("The adversarial images take no part. " + MEAN, _halves(combine=lambda c, a: c), _halves(attack=lambda model, x, *_: x)),
        Mistake("The clean images take no part. " + MEAN, _halves(combine=lambda c, a: a)),
        Mistake("Half of each loss: you divide by two twice.", _halves(combine=lambda c, a: (c + a) / 4)),
        Mistake("You subtract a loss. " + MEAN, _halves(combine=lambda c, a: (c - a) / 2), _halves(combine=lambda c, a: (a - c) / 2)),
        Mistake("You send both kinds of images through one branch at once. They have different statistics: one pass for each kind.", _at_once("main"), _at_once("auxiliary")),
        Mistake("Do not set the branch by hand: with branch(model, …): gives the layers their own back at its end.", *(lambda model, *rest, name=name: (_branch_step(model, *rest), setattr(model[2], "branch", name))[0] for name in models.BRANCHES)),
        Mistake("The model came in training mode, and you left it, or a part of it, in evaluation mode. Whoever called you is in the middle of training: switch it back.", lambda model, *rest: (_branch_step(model, *rest), model.eval())[0], lambda model, *rest: (_branch_step(model, *rest), model[2].eval())[0]),
        Mistake(CUT.format("clean"), _halves(combine=lambda c, a: (c.detach() + a) / 2)),
        Mistake(CUT.format("adversarial"), _halves(combine=lambda c, a: (c + a.detach()) / 2)),
        *_attack_mistakes(_halves),
    ],
    untouched=("x", "y"),
    typical=partial(_branch_task, 0.1),
    returns="one number that a training step can differentiate",
    observe=_loss,
    tolerance=1e-4,
).register()  # fmt: skip
