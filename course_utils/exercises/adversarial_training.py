"""Exercises of chapter 06: the losses of adversarial training, and how its results are read."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..training import Adversary
from . import inputs, mistakes
from .engine import expect
from .error_hints import CheckFailed
from .exercise import Case, Exercise, Property
from .mistakes import Mistake, gradient_step
from .properties import (
    as_number,
    call_with_copies,
    close,
    no_side_effects,
)

SEES_EVAL = "The attack looks at the network in evaluation mode, the losses keep the mode it came in. attacks.fgsm switches and switches back by itself; by hand: model.eval() before your attack, model.train(mode) after it, mode = model.training."
LEFT_IN_EVAL = "The model was still in evaluation mode, from the attack, when a loss was computed: switch back right after it."  # fmt: skip
THROWN_AWAY = "In training mode every pass moves batch norm's running statistics, also one whose result you throw away. Call the model once for each loss."
WRONG_AND_SURE = "Where the network is very sure, a probability is rounded to 0, and its logarithm is infinite: use F.cross_entropy, which takes logits."


# --- losses of a training step ----------------------------------------------------------------------------------------


def _as_loss(value: Any) -> Tensor:
    """Return value if it is a loss that a training step can differentiate."""
    kind = type(value).__name__
    hint = "Return the loss, one tensor."
    if isinstance(value, float):
        hint = "A training step differentiates the loss: return the tensor itself, without .item() or float(…)."
    expect(isinstance(value, Tensor), f"it returned a {kind}.", hint)
    shape = tuple(value.shape)
    hint = "Return one number: the mean over the images. Leave out reduction='none', and do not return the images."
    expect(value.numel() == 1, f"it returned a tensor of shape {shape}.", hint)
    expect(value.isfinite().all(), f"the loss is {value.item()}.", WRONG_AND_SURE)
    hint = "Compute both losses without torch.no_grad(), .detach(), .item() or torch.tensor(…) on the way."
    expect(value.requires_grad, "the loss has no gradient graph: a training step could not differentiate it.", hint)
    return value


def _leaves(loss: Tensor) -> set[Tensor]:
    """Return the tensors that loss.backward() would give a .grad."""
    seen, todo, leaves = set(), [loss.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [parent for parent, _ in node.next_functions]
        if hasattr(node, "variable"):
            leaves.add(node.variable)
    return leaves


NORMS = {"2": "batch norm", "2.main": "the main branch", "2.auxiliary": "the auxiliary branch"}  # in a model
USES_GRAD = "Leave .backward() to whoever called you: it adds to every p.grad. Return the loss itself, and for the attack ask for one gradient alone: torch.autograd.grad(loss, x)."


def _loss(answer: Callable, model: nn.Module, *rest: Any) -> dict[str, Any]:
    """Return the loss that an answer gives, what a training step does with it, and what became of the network."""
    mine = copy.deepcopy(model)
    loss = _as_loss(call_with_copies(lambda *others: answer(mine, *others), *rest))
    parameters = list(mine.parameters())
    used = any(p.grad is not None and p.grad.any() for p in parameters)
    expect(not used, "your function left gradients on the model's parameters.", USES_GRAD)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True, materialize_grads=True)
    norms = ((name, m) for name, m in mine.named_modules() if isinstance(m, nn.BatchNorm1d))
    return {
        "the loss": loss.item(),
        "its gradient": torch.cat([g.flatten() for g in gradients]),
        "the number of tensors beside the parameters that backward would reach": len(_leaves(loss) - {*parameters}),
        **{f"the number of batches that {NORMS[name]} has seen": int(m.num_batches_tracked) for name, m in norms},
        "the branch to which the layers are set afterwards": getattr(mine[2], "branch", ""),
        "the number of modules left in another mode": sum(m.training != model.training for m in mine.modules()),
    }


def _fgsm(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *,
    training: bool = False, clip: dict[str, float] | None = None, **mistake: Any,
) -> Tensor:  # fmt: skip
    """Return FGSM's images, made in evaluation mode; each keyword makes one mistake, others as in `gradient_step`."""
    # On a copy: in training mode the attack would move batch norm's statistics.
    adv = gradient_step(copy.deepcopy(model).train(training), x, y, eps, **mistake)
    return adv.clamp(0, 1) if clip is None else adv.clamp(**clip) if clip else adv


def _of_those_right(logits: Tensor, y: Tensor, reduction: str) -> Tensor:
    """Return the loss of the images of which the model is right, which stops an attack on the others."""
    return (F.cross_entropy(logits, y, reduction="none") * (logits.argmax(1) == y)).sum()


def _attached(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return (x.clone().requires_grad_() + _fgsm(model, x, y, eps, clip={}) - x).clamp(0, 1)


def _two_losses(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, attack: Callable = _fgsm, loss: Callable = F.cross_entropy, labels: Callable | None = None,
    modes: tuple[bool, bool] = (True, True), through: Callable[[str], AbstractContextManager] = nullcontext,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the loss of clean images and that of adversarial ones; each keyword makes one mistake.

    Args:
        model, x, y, eps: of the exercise. attack: makes the images. loss: from logits and labels.
        labels: of adversarial images, from their logits. modes: whether the two losses keep the mode in which the model
            came, or are computed in evaluation mode.
        through: returns what "made", "clean" and "adversarial" images go through.
    """
    mode = model.training
    with through("made"):
        adv = attack(model, x, y, eps)
    with through("clean"):
        clean = loss(model.train(mode and modes[0])(x), y)
    with through("adversarial"):
        logits = model.train(mode and modes[1])(adv)
    model.train(mode)
    return clean, loss(logits, labels(logits) if labels else y)


def _attack_mistakes(step: Callable[..., Callable]) -> list[Mistake]:
    """Return what goes wrong in the adversarial images, and in each of the losses.

    Args:
        step: takes keywords of `_two_losses`, and returns an answer to the exercise that makes their mistake.
    """

    def by(*attacks: Callable, **mistake: Any) -> list[Callable]:
        return [step(attack=attack) for attack in attacks or [partial(_fgsm, **mistake)]]

    def with_probabilities(logarithm: Callable[[Tensor], Tensor]) -> Callable:
        return step(loss=lambda logits, y: F.nll_loss(logarithm(logits.softmax(1)), y))

    def left_in_eval(answer: Callable) -> Callable:
        return lambda model, *rest: (answer(model, *rest), model.eval())[0]

    return [
        Mistake(SEES_EVAL, *by(lambda model, *rest: gradient_step(model, *rest).clamp(0, 1), lambda model, *rest: gradient_step(model.train(), *rest).clamp(0, 1), lambda model, *rest: _fgsm(model, *rest, training=model.training), partial(_fgsm, training=True))),
        Mistake(LEFT_IN_EVAL, *(f for modes in ((False, False), (True, False), (False, True)) for f in (step(modes=modes), left_in_eval(step(modes=modes))))),
        Mistake(CUT.format("whole"), lambda *given: step()(*given).detach().requires_grad_()),
        Mistake("After the attack the model is in training mode, however it came. Give it back the mode that it had.", lambda model, *rest: step()(model.train(), *rest)),
        Mistake(THROWN_AWAY, *by(lambda model, x, *rest: (model(x), _fgsm(model, x, *rest))[1], lambda model, *rest: (model(_fgsm(model, *rest)), _fgsm(model, *rest))[1])),
        Mistake("For the training step the adversarial images are data like any other: detach them.", *by(_attached)),
        Mistake("Your adversarial images walk downhill: the attack adds the signed step.", *by(scale=-1)),
        Mistake("Your images are not FGSM's: you step along the gradient itself. Take its sign.", *(f for move in (lambda g: g, lambda g: g / len(g), mistakes.l2_normalized, mistakes.max_normalized) for f in by(move=move))),
        Mistake("Clip the adversarial images to [0, 1], at both ends: there is nothing blacker than 0 or whiter than 1.", *(f for clip in ({}, {"min": 0}, {"max": 1}) for f in by(clip=clip))),
        Mistake("Your step has the size 1: multiply the sign by eps.", *by(lambda model, x, y, eps: _fgsm(model, x, y, 1.0))),
        Mistake("Your step has twice the size, or half of it. It is eps.", *by(scale=2), *by(scale=0.5)),
        Mistake("You attack the model's own prediction. Use the y that was passed in.", *by(loss=mistakes.of_prediction)),
        Mistake("In the attack: " + mistakes.SOFTMAX_TWICE.format("adv"), *by(loss=mistakes.softmax_twice)),
        Mistake("In the attack you differentiate the logit of y alone, not the loss.", *by(loss=F.nll_loss), *by(loss=F.nll_loss, scale=-1)),
        Mistake("You attack only the images that the model gets right. Attack every image of the batch.", *by(loss=_of_those_right)),
        Mistake("Every pixel moved the same way. Take the sign of the gradient with respect to x, not of the loss.", *by(lambda model, x, y, eps: (x + eps).clamp(0, 1))),
        Mistake("The adversarial images stand in another order than the labels.", *by(lambda *given: _fgsm(*given).flip(0))),
        Mistake("The adversarial images keep the labels y of the images they were made from.", step(labels=lambda logits: logits.argmax(1))),
        Mistake("You sum over the images. The loss is a mean: F.cross_entropy takes it by itself.", step(loss=partial(F.cross_entropy, reduction="sum"))),
        Mistake("F.cross_entropy takes the mean by itself: do not divide by the number of images again.", step(loss=lambda logits, y: F.cross_entropy(logits, y) / len(y))),
        Mistake(mistakes.SOFTMAX_TWICE.format("adv"), step(loss=lambda logits, y: mistakes.softmax_twice(logits, y, "mean"))),
        Mistake(mistakes.NO_LOG_SOFTMAX.format("adv"), step(loss=F.nll_loss)),
        Mistake(WRONG_AND_SURE, with_probabilities(torch.log), *(with_probabilities(lambda p, tiny=tiny: (p + tiny).log()) for tiny in (1e-12, 1e-8)), *(with_probabilities(lambda p, tiny=tiny: p.clamp_min(tiny).log()) for tiny in (1e-12, 1e-8))),
    ]  # fmt: skip


def _batch_norm(features: int, seed: int = 0) -> nn.BatchNorm1d:
    """Return a batch norm whose running statistics are far from those of a batch, and stay as they are.

    So it does not matter which of the two kinds of images goes through the network first.
    """
    norm, generator = nn.BatchNorm1d(features, momentum=0.0), torch.Generator().manual_seed(seed)
    nn.init.uniform_(norm.weight, 0.3, 1.5, generator=generator)
    nn.init.normal_(norm.bias, 0, 0.5, generator=generator)
    nn.init.normal_(norm.running_mean, 0, 1.0, generator=generator)
    nn.init.uniform_(norm.running_var, 0.5, 4.0, generator=generator)
    return norm


def _task(
    norm: Callable[[int], nn.Module], last: Any, eps: float = 0.1, n: int = 8, sizes: tuple = (inputs.SHAPE, inputs.CLASSES),
    training: bool = False, sure: bool = False, seed: int = 324,
) -> tuple[Any, ...]:  # fmt: skip
    """Return a model with batch norm, n images of these sizes, many of their pixels black or white, labels, eps and last.

    Args:
        norm: makes the batch norm, from the number of features. training: the mode.
        sure: the model is wrong, and so sure of it that a probability is rounded to 0. seed: of the weights.
    """
    network = inputs.unsaturated_network(*sizes, seed)
    flatten, linear, tanh, logits = network
    x, y = inputs.black_and_white_images(network, n, sizes[0])
    model = nn.Sequential(flatten, linear, norm(linear.out_features), tanh, logits).eval()
    if sure:
        logits.weight.data *= 80
        y = model(x).argmin(1)
    return model.train(training), x, y, eps, last


def _leaves_the_model(task: Callable[[], tuple]) -> Property:
    def test(answer: Callable) -> None:
        model, *rest = task()
        next(model.parameters()).requires_grad_(False)  # part of a network may be frozen
        no_side_effects(answer, "model _ _ _ _", model, *rest)  # in training mode statistics change, as they should

    return Property("leaves no trace on the model", test)


# --- mixed_loss -------------------------------------------------------------------------------------------------------


def _mixed(combine: Callable = lambda c, a, mix: (1 - mix) * c + mix * a, **mistake: Any) -> Callable[..., Tensor]:
    """Return an answer that combines the losses in another way, or makes mistakes of `_two_losses`."""
    return lambda model, x, y, eps, mix: combine(*_two_losses(model, x, y, eps, **mistake), mix)


def _mixed_loss(model: nn.Module, x: Tensor, y: Tensor, eps: float, mix: float) -> Tensor:
    return _mixed()(model, x, y, eps, mix)


def _of_mixture(mixture: Callable) -> Callable[..., Tensor]:
    """Return an answer with one loss, of what comes from the model, x, FGSM's images and mix."""
    return lambda model, x, y, eps, mix: F.cross_entropy(mixture(model, x, _fgsm(model, x, y, eps), mix), y)


def _in_one_pass(model: nn.Module, x: Tensor, y: Tensor, eps: float, mix: float) -> Tensor:
    clean, adversarial = model(torch.cat([x, _fgsm(model, x, y, eps)])).split(len(x))
    return (1 - mix) * F.cross_entropy(clean, y) + mix * F.cross_entropy(adversarial, y)


_mix_task = partial(_task, _batch_norm)
WEIGH = "The loss is (1 − mix) times the clean one plus mix times the adversarial one."
CUT = "The {} loss counts in the value, but not in the gradient: no .item(), .detach() or torch.no_grad() around it."
ANEW = "These images and labels alone count, and the network as it is now: make FGSM's images anew in every call."
Exercise(
    "mixed_loss",
    reference=_mixed_loss,
    cases=[
        Case("mix = 0 gives the mean loss of the clean images, and its gradient", [partial(_mix_task, 0.0)], "Start from the cross-entropy of y and model(x), with x as it came: it is a mean over the images."),
        Case("mix = 1 gives the mean loss of FGSM's images, and its gradient", [partial(_mix_task, 1.0, seed=301)], "The images are those of attacks.fgsm, and the labels stay. " + ANEW),
        Case("in between it weighs the clean loss by 1 − mix and the adversarial one by mix", [partial(_mix_task, mix) for mix in (0.5, 0.3)], WEIGH),
        _leaves_the_model(partial(_mix_task, 0.5)),
        Case("in training mode the attack sees evaluation mode, and each kind of images has a pass of its own", [partial(_mix_task, 0.4, training=True)], "In training mode every pass through batch norm counts: one for each loss. " + SEES_EVAL),
        Case("stays finite where the network is wrong and very sure", [partial(_mix_task, 0.4, sure=True)], WRONG_AND_SURE),
        Case("works for other sizes of images and numbers of classes, and for one image", [partial(_mix_task, 0.4, 0.06, n, (inputs.OTHER_SHAPE, inputs.OTHER_CLASSES)) for n in (5, 1)], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("The weights are swapped: mix belongs to the adversarial images. " + WEIGH, _mixed(lambda c, a, mix: mix * c + (1 - mix) * a)),
        Mistake("The adversarial images take no part. " + WEIGH, _mixed(lambda c, a, mix: c), _mixed(attack=lambda model, x, *_: x)),
        Mistake("The clean images take no part. " + WEIGH, _mixed(lambda c, a, mix: a)),
        Mistake("You add the two losses. " + WEIGH, _mixed(lambda c, a, mix: c + a)),
        Mistake("You take half of each, whatever mix is. " + WEIGH, _mixed(lambda c, a, mix: (c + a) / 2)),
        Mistake("The clean loss has the weight 1 − mix, so that the weights add up to 1.", _mixed(lambda c, a, mix: c + mix * a), _mixed(lambda c, a, mix: mix * (c + a))),
        Mistake("The adversarial loss has the weight mix, so that the weights add up to 1.", _mixed(lambda c, a, mix: (1 - mix) * c + a), _mixed(lambda c, a, mix: (1 - mix) * (c + a))),
        Mistake("The weights add up to 1 already: no further division by 2.", _mixed(lambda c, a, mix: ((1 - mix) * c + mix * a) / 2)),
        Mistake("The sign is wrong: training makes the loss smaller, and only the attack makes it larger.", _mixed(lambda c, a, mix: (mix - 1) * c - mix * a)),
        Mistake("You subtract a loss. " + WEIGH, _mixed(lambda c, a, mix: (1 - mix) * c - mix * a)),
        Mistake("You mix the images. Mix the two losses: F.cross_entropy of each kind of images, then the weighted mean.", _of_mixture(lambda model, x, adv, mix: model(x + mix * (adv - x)))),
        Mistake("You mix the logits. Mix the two losses.", _of_mixture(lambda model, x, adv, mix: (1 - mix) * model(x) + mix * model(adv))),
        Mistake(CUT.format("clean"), _mixed(lambda c, a, mix: (1 - mix) * c.detach() + mix * a)),
        Mistake(CUT.format("adversarial"), _mixed(lambda c, a, mix: (1 - mix) * c + mix * a.detach())),
        Mistake("Both kinds of images go through the network in one pass. In training mode batch norm then takes mean and variance over both: call the model once for each kind.", _in_one_pass),
        *_attack_mistakes(_mixed),
    ],
    untouched=("x", "y"),
    typical=partial(_mix_task, 0.5),
    returns="one number that a training step can differentiate",
    observe=_loss,
    tolerance=1e-4,
).register()  # fmt: skip


# --- eps_schedule -----------------------------------------------------------------------------------------------------


def _eps_schedule(step: int, steps: int, eps: float, warmup: float) -> float:
    return eps if step >= warmup * steps else eps * step / (warmup * steps)


def _radii(answer: Callable, step: int | list[int], steps: int, eps: float, warmup: float) -> Tensor:
    """Return the radius that an answer gives for this step, or for each of these, one after the other."""

    def radius(step: int) -> float:
        try:
            result = call_with_copies(answer, step, steps, eps, warmup)
        except ZeroDivisionError:
            what = f"for step = {step} of {steps} with warmup = {warmup} it divides by zero."
            raise CheckFailed(what, ROUNDED if warmup else NOTHING_LEFT) from None
        return as_number(result, "Return one number, the radius of this step.")

    asked = step if isinstance(step, list) else [step]
    return torch.tensor([radius(s) for s in asked], dtype=torch.float64)


def _plan(steps: int, eps: float, warmup: float, asked: list[int] | None = None) -> tuple[Any, ...]:
    """Return what the radius depends on; by default every step is asked."""
    return (list(range(steps)) if asked is None else asked), steps, eps, warmup


def _growing(count: Callable, since: Callable = lambda steps, warmup: 0) -> Callable[..., float]:
    """Return a schedule that grows over another number of steps, or since another one, both from steps and warmup."""

    def answer(step: int, steps: int, eps: float, warmup: float) -> float:
        span = count(steps, warmup)
        return eps * min(1.0, max(0.0, (step - since(steps, warmup)) / span)) if warmup and span else eps

    return answer


def _reshaped(shape: Callable[[float], float]) -> Callable[..., float]:
    """Return a schedule that makes something else, in units of eps, of the share of the growth, step / (warmup * steps)."""
    return lambda step, steps, eps, warmup: eps * shape(step / (warmup * steps)) if warmup else eps


def _misscheduled(got: Tensor, right: Tensor, step: list[int], steps: int, eps: float, warmup: float) -> str:
    i = ((got - right).abs() > 1e-6).int().argmax()
    return f"with steps = {steps}, eps = {eps:.4g} and warmup = {warmup}, step {step[i]} has the radius {got[i]:.4g}; right is {right[i]:.4g}."


def _remembers_nothing(answer: Callable) -> None:
    for step in (9, 2, 5, 0):
        got, right = (_radii(function, step, 12, 0.2, 0.5) for function in (answer, _eps_schedule))
        what = f"step {step} after a later one has the radius {got.item():.4g}; right is {right.item():.4g}."
        expect(
            close(got, right, 1e-6), what, "Compute it from the arguments alone, and keep nothing between two calls."
        )


NOTHING_LEFT = "With warmup = 0 no step is left to grow in: ask first whether the growth is over."
ROUNDED = "The number of growing steps is warmup * steps as it is, which need not be whole: int(…), round(…) and // change it, or make 0 of it."
DIVIDED = "The radius needs the exact quotient: / divides, // drops the fraction. And no int(…) around it."
OFF_BY_ONE = "You are one step off: steps count from 0, so that step 0 has the radius 0 and step warmup * steps has eps."  # fmt: skip
Exercise(
    "eps_schedule",
    reference=_eps_schedule,
    cases=[
        Case("starts at 0 and grows by the same amount in every step", [partial(_plan, 20, 0.3, 0.4, list(range(8)))], "While it grows, the radius is a share of eps: the share of the growing steps that lie behind."),
        Case("reaches eps at the step warmup * steps, and stays there", [partial(_plan, 30, 0.25, 0.4)], "From the step warmup * steps on, the radius is eps."),
        Case("needs no whole numbers", [partial(_plan, *plan) for plan in ((3, 0.3, 0.2), (9, 0.1, 0.3), (30, 8 / 255, 0.05), (11, 1, 0.75))], ROUNDED),
        Case("warmup = 0 means eps from the start, and warmup = 1 growth to the end", [partial(_plan, *plan) for plan in ((12, 0.2, 0.0), (12, 0.2, 1.0), (1, 0.2, 0.0))], "Without a warm-up the growth is over in step 0, and with warmup = 1 it is never over."),
        Property("has no memory: a step gives the same in any order", _remembers_nothing),
        Case("works for trainings of any length", [partial(_plan, 5000, 0.07, 0.3, [0, 1, 2, 749, 1499, 1500, 1501, 4999])], mistakes.ONLY_ARGUMENTS.format("all numbers")),
    ],
    mistakes=[
        Mistake("There is no warm-up: the radius is eps from the start. It grows from 0 over the first steps.", lambda step, steps, eps, warmup: eps),
        Mistake("The radius is 0 all the time. " + DIVIDED, lambda step, steps, eps, warmup: 0.0),
        Mistake("The radius jumps from 0 to eps. It grows by the same amount in every step. " + DIVIDED, _reshaped(lambda share: share >= 1)),
        Mistake(DIVIDED, _reshaped(lambda share: share // 1)),
        Mistake("Without a warm-up the radius is eps in every step, not 0.", lambda step, steps, eps, warmup: _eps_schedule(step, steps, eps, warmup) if warmup else 0.0),
        Mistake("The radius goes on growing beyond eps. It stops there.", _reshaped(lambda share: share)),
        Mistake("The radius never is below eps. Is it max in place of min, or are the two cases swapped?", _reshaped(lambda share: max(1.0, share))),
        Mistake("You grow over the whole training. The growth ends at the step warmup * steps.", _growing(lambda steps, warmup: steps), _growing(lambda steps, warmup: steps - 1), lambda step, steps, eps, warmup: eps * step / steps),
        Mistake("You divide by warmup alone, which is a share of the training: the growth ends at the step warmup * steps. And mind the brackets.", _growing(lambda steps, warmup: warmup)),
        Mistake(OFF_BY_ONE, *(_growing(lambda steps, warmup, more=more: warmup * steps + more, lambda steps, warmup, since=since: since) for more, since in ((0, -1), (-1, 0), (1, 0), (0, 1), (1, -1), (-1, 1)))),
        Mistake("Divide by the number of growing steps, which is a share of steps, not of steps - 1.", _growing(lambda steps, warmup: warmup * (steps - 1))),
        Mistake(ROUNDED, *(_growing(lambda steps, warmup, whole=whole, least=least: max(least, whole(warmup * steps))) for whole in (math.floor, round, math.ceil) for least in (0, 1))),
        Mistake("warmup is the share of the steps in which the radius grows. You let it grow for the rest, 1 − warmup.", _growing(lambda steps, warmup: (1 - warmup) * steps)),
        Mistake("You wait for the warm-up and grow after it. It grows during the first steps, and then stays.", _growing(lambda steps, warmup: (1 - warmup) * steps, lambda steps, warmup: warmup * steps)),
        Mistake("The radius shrinks. It grows from 0 to eps.", _reshaped(lambda share: max(0.0, 1 - share))),
        Mistake("You multiply by warmup. Divide: at the step warmup * steps the radius is eps.", lambda step, steps, eps, warmup: eps * warmup * step / steps, lambda step, steps, eps, warmup: eps if step >= warmup * steps else eps * warmup * step / steps),
        Mistake("Mind the brackets: a / b * c multiplies by c.", lambda step, steps, eps, warmup: eps if step >= warmup * steps else eps * step / warmup * steps),
        Mistake("After the warm-up the radius falls back to 0. It stays at eps.", _reshaped(lambda share: share if share < 1 else 0.0)),
        Mistake("After the warm-up the radius stays where it was a step before. It is eps.", lambda step, steps, eps, warmup: _eps_schedule(min(step, max(0, math.ceil(warmup * steps) - 1)), steps, eps, warmup)),
        Mistake("That is the share of eps. Multiply by eps.", lambda step, steps, eps, warmup: _eps_schedule(step, steps, 1.0, warmup), lambda step, steps, eps, warmup: eps if step >= warmup * steps else step / (warmup * steps)),
        Mistake("You stop the share at eps. Stop it at 1, then multiply by eps.", lambda step, steps, eps, warmup: min(eps, step / (warmup * steps)) if warmup else eps, lambda step, steps, eps, warmup: min(eps, step / steps)),
        Mistake("While it grows, the radius is a share of eps: that of the growing steps, not of the whole training.", lambda step, steps, eps, warmup: eps if step >= warmup * steps else eps * step / steps),
        Mistake("You round the radius. Return it as it is.", *(lambda step, steps, eps, warmup, digits=digits: round(_eps_schedule(step, steps, eps, warmup), digits) for digits in (1, 2, 3))),
        Mistake("The growth is not linear: every step adds the same amount.", *(_reshaped(lambda share, bent=bent: bent(min(1.0, share))) for bent in (lambda s: s**2, lambda s: s**0.5, lambda s: (1 - math.cos(math.pi * s)) / 2))),
    ],
    like="step",
    typical=partial(_plan, 10, 0.2, 0.5, asked=3),
    returns="one number",
    observe=_radii,
    happened=_misscheduled,
    tolerance=1e-6,
    library=(Adversary.at,),
).register()  # fmt: skip


# --- most_masked ------------------------------------------------------------------------------------------------------


TRANSFER, ONE_STEP, MANY_STEPS, RESTARTS = "transfer", "FGSM", "PGD-40", "PGD-40 x 5"
BY_STRENGTH = [TRANSFER, ONE_STEP, MANY_STEPS, RESTARTS]  # each of them could do all that the ones before it do
BLACK_BOX, NO_RESTARTS = "a black box beats every attack on the gradient", "restarts do less well than none"
KINDS = {
    BLACK_BOX: (0.45, 0.83, 0.8, 0.79),
    "FGSM is beaten by transfer, and PGD is not": (0.5, 0.86, 0.1, 0.04),
    "more steps do less well than one": (0.7, 0.42, 0.76, 0.4),
    NO_RESTARTS: (0.7, 0.4, 0.2, 0.55),
    "the rise goes over two attacks": (0.3, 0.44, 0.58, 0.56),
}
OTHERS = (
    (0.6, 0.15, 0.0, 0.0),  # undefended: the lowest accuracy
    (0.95, 0.93, 0.91, 0.9),  # robust: the highest under every attack
    (0.94, 0.92, 0.06, 0.02),  # the longest way from FGSM to PGD, and none of it backwards
    (0.66, 0.6, 0.78, 0.75),  # slightly masked, by steps
    (0.58, 0.74, 0.3, 0.28),  # slightly masked, by transfer
    (0.5, 0.66, 0.2, 0.38),  # slightly masked, and twice
    (0.2, 0.14, 0.01, 0.07),  # slightly masked, though seven times as much is left
)
NAMES = ("none", "FGSM", "FGSM + start", "PGD-3", "free", "half and half", "label smoothing", "two branches")


@cache
def _table(kind: str, seed: int, others: int = len(OTHERS)) -> pd.DataFrame:
    """Return accuracies, trained on × attacked with, in no order; one row is masked most, in this way."""
    draw = random.Random(f"{kind} {seed}")
    names = draw.sample(NAMES, 1 + others)
    rows = [KINDS[kind], *draw.sample(OTHERS, others)]
    noise = [[0.97 + 0.02 * draw.random(), *(v + 0.015 * draw.random() for v in row)] for row in rows]
    table = pd.DataFrame(noise, index=names, columns=["clean", *BY_STRENGTH])
    return table.loc[draw.sample(names, len(names)), draw.sample(list(table.columns), len(table.columns))]


def _tables(kind: str, others: int = len(OTHERS)) -> tuple[list[pd.DataFrame]]:
    """Return the argument of several calls."""
    return ([_table(kind, seed, others) for seed in range(3)],)


def _row_names(answer: Callable, matrix: pd.DataFrame | list[pd.DataFrame]) -> tuple[str, ...]:
    """Return the row that an answer finds in this table, or in each of these."""
    tables = matrix if isinstance(matrix, list) else [matrix]
    return tuple(_as_row_name(call_with_copies(answer, table.copy()), table) for table in tables)


def _as_row_name(value: Any, table: pd.DataFrame) -> str:
    """Return value if it is the name of a row."""
    hint = "Return the name of one row, as .idxmax() gives it."
    if isinstance(value, pd.Series | pd.DataFrame | pd.Index | np.ndarray | list | tuple):
        hint = "That is more than one value. Return the name of one row: .idxmax() of one number for each row."
    elif isinstance(value, int | np.integer):
        hint = "That is the place of a row. Return its name: matrix.index[place], or .idxmax() in place of .argmax()."
    elif isinstance(value, float):
        hint = "That is a number of the table. Return the name of its row: .idxmax() in place of .max()."
    elif isinstance(value, str) and value in table.columns:
        hint = "That is a column. Work along each row, with axis=1, so that one number for each row is left."
    shown = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
    expect(isinstance(value, str) and value in table.index, f"it returned {shown}.", hint)
    return value


def _leaves_the_table(answer: Callable) -> None:
    mine = _table(BLACK_BOX, 0).copy()
    before = mine.copy()
    call_with_copies(answer, mine)
    hint = "Whoever called you still needs it: work on a part of it, or on matrix.copy()."
    expect(mine.equals(before), "your function changed the table in place.", hint)


def _misfound(got: tuple, right: tuple, matrix: list[pd.DataFrame]) -> str:
    table, name, masked = next(found for found in zip(matrix, got, right, strict=True) if found[1] != found[2])
    rows = (f"{n} has " + ", ".join(f"{c} {100 * table.loc[n, c]:.0f} %" for c in BY_STRENGTH) for n in (masked, name))
    return f"you found {name}, and masked most is {masked}: {'; '.join(rows)}."


def _rises(table: pd.DataFrame, names: list[str] = BY_STRENGTH) -> pd.DataFrame:
    """Return how much more accuracy each attack leaves than the best of those before it."""
    return table[names] - table[names].cummin(axis=1)


def _most_masked(matrix: pd.DataFrame) -> str:
    accuracies = matrix[BY_STRENGTH].to_numpy()  # much faster than in pandas
    return matrix.index[(accuracies - np.minimum.accumulate(accuracies, axis=1)).max(axis=1).argmax()]


def _most(number: Callable[[pd.DataFrame], pd.Series]) -> Callable[[pd.DataFrame], str]:
    """Return an answer that takes the row of which this number is largest."""
    return lambda matrix: number(matrix).idxmax()


LOW = "A low accuracy is a weak model, honestly measured. Compare the attacks of one row with each other."
HIGH = "A high accuracy may be earned. Compare the attacks of one row with each other."
GAP = "It is no sign of masking that a stronger attack does better: every undefended model shows it. Look for a stronger attack that does worse, and leaves more accuracy than a weaker one."
ALL_PAIRS = "Compare all pairs of attacks: each with all that know less, from transfer over FGSM and PGD-40 to PGD-40 x 5."  # fmt: skip
UNSORTED = "You take the columns as they stand. Their order means nothing here: bring them into the order transfer, FGSM, PGD-40, PGD-40 x 5."
SAME = "You return the same name for every table. What a row is called says nothing: find it by its numbers."
SUM = "You add up the rises of a row, or count them. Only the largest counts, from one attack to one that can do more."
Exercise(
    "most_masked",
    reference=_most_masked,
    cases=[
        *(Case(f"finds the masked row: {kind}", [partial(_tables, kind)], "For each row: how much more accuracy does an attack leave than the best of those that know less? The largest such difference of the row counts.") for kind in KINDS),
        Property("leaves the table as it was", _leaves_the_table),
        Case("works for tables of another size", [partial(_tables, NO_RESTARTS, others=3), partial(_tables, BLACK_BOX, others=1)], mistakes.ONLY_ARGUMENTS.format("the names and the number of rows")),
    ],
    mistakes=[
        Mistake(LOW, *(_most(lambda t, n=n: -n(t)) for n in (lambda t: t.min(axis=1), lambda t: t[BY_STRENGTH].mean(axis=1), lambda t: t[RESTARTS], lambda t: t[MANY_STEPS], lambda t: t[ONE_STEP]))),
        Mistake(HIGH, *(_most(n) for n in (lambda t: t.min(axis=1), lambda t: t[BY_STRENGTH].mean(axis=1), lambda t: t[ONE_STEP], lambda t: t[TRANSFER]))),
        Mistake("The accuracy without an attack says nothing about the attacks. " + ALL_PAIRS, _most(lambda t: t["clean"]), _most(lambda t: -t["clean"])),
        Mistake("The row in which transfer does best need not be masked: compare it with the other attacks on the same model.", _most(lambda t: -t[TRANSFER])),
        Mistake(GAP, *(_most(n) for n in (lambda t: t[ONE_STEP] - t[RESTARTS], lambda t: t[ONE_STEP] - t[MANY_STEPS], lambda t: t["clean"] - t[BY_STRENGTH].min(axis=1), lambda t: t[BY_STRENGTH].max(axis=1) - t[BY_STRENGTH].min(axis=1), lambda t: _rises(t, BY_STRENGTH[::-1]).max(axis=1), lambda t: t[BY_STRENGTH].diff(axis=1).abs().max(axis=1), lambda t: -t[BY_STRENGTH].diff(axis=1).min(axis=1)))),
        Mistake("You take the row that is masked least: idxmax, not idxmin.", _most(lambda t: -_rises(t).max(axis=1))),
        Mistake("You leave out transfer: a black box that does better than an attack on the gradient is the clearest sign of all.", _most(lambda t: _rises(t, BY_STRENGTH[1:]).max(axis=1))),
        Mistake("You leave out PGD-40 x 5: restarts that do less well than none are a sign of masking, too.", _most(lambda t: _rises(t, BY_STRENGTH[:-1]).max(axis=1))),
        Mistake("You compare transfer with the strongest attack only. " + ALL_PAIRS, _most(lambda t: t[RESTARTS] - t[TRANSFER])),
        Mistake("You compare transfer with the best of the others only. FGSM alone may be beaten by transfer, even if PGD is not. " + ALL_PAIRS, _most(lambda t: t[BY_STRENGTH[1:]].min(axis=1) - t[TRANSFER])),
        Mistake("You compare each attack with the mean of those that know less. Compare it with the best of them: the one that leaves least.", _most(lambda t: (t[BY_STRENGTH] - t[BY_STRENGTH].cumsum(axis=1).shift(axis=1) / [1, 1, 2, 3]).max(axis=1))),
        Mistake("You compare the others with transfer only. " + ALL_PAIRS, _most(lambda t: t[BY_STRENGTH[1:]].max(axis=1) - t[TRANSFER])),
        Mistake("You compare the strongest attack with the others only. " + ALL_PAIRS, _most(lambda t: _rises(t)[RESTARTS])),
        Mistake("You compare FGSM with transfer only. " + ALL_PAIRS, _most(lambda t: t[ONE_STEP] - t[TRANSFER])),
        Mistake("You compare PGD with FGSM only. " + ALL_PAIRS, _most(lambda t: t[MANY_STEPS] - t[ONE_STEP])),
        Mistake("You compare each attack with the next weaker one only. A rise in two small steps is as large: compare with the best of all weaker ones.", _most(lambda t: t[BY_STRENGTH].diff(axis=1).max(axis=1))),
        Mistake(SUM, *(_most(n) for n in (lambda t: _rises(t).sum(axis=1), lambda t: t[BY_STRENGTH].diff(axis=1).clip(lower=0).sum(axis=1), lambda t: (_rises(t) > 0).sum(axis=1), lambda t: (t[BY_STRENGTH].diff(axis=1) > 0).sum(axis=1)))),
        Mistake("You take the rise in proportion to what is left. Asked for is the difference of two accuracies.", _most(lambda t: (t[BY_STRENGTH] / t[BY_STRENGTH].cummin(axis=1)).max(axis=1)), _most(lambda t: (_rises(t) / t[BY_STRENGTH]).max(axis=1))),
        Mistake("You compare each attack with the worst of those that know less. Compare it with the best of them: the one that leaves least.", _most(lambda t: (t[BY_STRENGTH] - t[BY_STRENGTH].cummax(axis=1).shift(axis=1)).max(axis=1))),
        Mistake(UNSORTED, _most(lambda t: _rises(t, list(t.columns)).max(axis=1)), _most(lambda t: _rises(t, [c for c in t.columns if c != "clean"]).max(axis=1)), _most(lambda t: t.diff(axis=1).max(axis=1))),
        Mistake("You take the first row that is masked at all. Take the one that is masked most.", lambda t: next(name for name, rise in _rises(t).max(axis=1).items() if rise > 0), _most(lambda t: _rises(t).max(axis=1) > 0.05)),
        Mistake("You always take the first row.", lambda t: t.index[0]),
        Mistake("You always take the last row.", lambda t: t.index[-1]),
    ],
    like="matrix",
    typical=lambda: (_table(BLACK_BOX, 1, others=3),),
    returns="the name of a row",
    observe=_row_names,
    happened=_misfound,
    explain=lambda got, right, matrix: SAME if len(set(got)) == 1 else "",
).register()  # fmt: skip
