"""Checks of chapter 05: the losses of adversarial training, its one-step attack, and how its results are read."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import attacks
from ..training import Adversary
from . import inputs, mistakes
from .engine import exercise, expect
from .error_hints import CheckFailed
from .exercise import Case, Exercise, Property
from .mistakes import Mistake, gradient_step, project, softmax_twice, wrong_steps
from .properties import (
    Mistakes,
    as_number,
    as_tensor_like,
    call_with_copies,
    close,
    diagnose_mistake,
    expect_close,
    in_both_modes,
    loss_gradient,
    no_side_effects,
    percent_off,
    strong_pixels,
    with_hint,
)

ONLY_ARGUMENTS = mistakes.ONLY_ARGUMENTS.format("everything")
SEES_EVAL = "The attack looks at the network in evaluation mode, the losses keep the mode it came in. attacks.fgsm switches and switches back by itself; by hand: model.eval() before your attack, model.train(mode) after it, mode = model.training."
LEFT_IN_EVAL = "The model was still in evaluation mode, from the attack, when a loss was computed: switch back right after it."  # fmt: skip


# Losses of a training step


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
    expect(value.isfinite().all(), f"the loss is {value.item()}.", "Look for a logarithm of 0 or a division by 0.")
    hint = "Compute both losses without torch.no_grad(), .detach(), .item() or torch.tensor(…) on the way."
    expect(value.requires_grad, "the loss has no gradient graph: a training step could not differentiate it.", hint)
    return value


def _fgsm(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, *, training: bool = False, clip: bool = True, **mistake: Any
) -> Tensor:
    """Return FGSM's images, made in evaluation mode; each keyword makes one mistake, others as in `gradient_step`."""
    # On a copy: in training mode the attack would move batch norm's statistics.
    adv = gradient_step(copy.deepcopy(model).train(training), x, y, eps, **mistake)
    return adv.clamp(0, 1) if clip else adv


def _other_attacks(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Mistakes:
    """Images of one step that are not FGSM's, and what to say about them."""
    step = partial(_fgsm, model, x, y, eps)
    yield from (
        (step(training=True), SEES_EVAL),
        *wrong_steps(
            step,
            ("Your adversarial images walk downhill: the attack adds the signed step.", "wrong sign"),
            ("Your images are not FGSM's: you step along the gradient itself. Take its sign.", "no sign", "no sign, batch mean"),
        ),
        (step(clip=False), "Clip the adversarial images to [0, 1]: there is nothing blacker than 0 or whiter than 1."),
        (_fgsm(model, x, y, 1.0), "Your step has the size 1: multiply the sign by eps."),
        *wrong_steps(step, ("Your step has the size 2·eps. It is eps.", "step twice")),
        *wrong_steps(step, ("Your step has half the size. It is eps.", "half a step")),
        *wrong_steps(step, ("You attack the model's own prediction. Use the y that was passed in.", "own prediction")),
        *wrong_steps(step, ("In the attack: " + mistakes.SOFTMAX_TWICE.format("adv"), "softmax twice")),
        ((x + eps).clamp(0, 1), "Every pixel moved the same way. Take the sign of the gradient with respect to x, not of the loss."),
        (_fgsm(model, x.flip(0), y.flip(0), eps), "The adversarial images stand in another order than the labels."),
    )  # fmt: skip


def _parameter_gradient(loss: Tensor, model: nn.Module) -> Tensor:
    """Return the gradient of all parameters as one vector."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    pairs = zip(parameters, gradients, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in pairs])


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


def _with_model(answer: Callable, model: nn.Module, *rest: Any) -> Tensor:
    """Return the loss that the answer gives for this very model, and not for a copy."""
    return _as_loss(call_with_copies(lambda *others: answer(model, *others), *rest))


def _differentiates(loss: Tensor, model: nn.Module, right: Tensor, clean: Tensor, adversarial: Tensor) -> None:
    """Refuse a loss of the right value whose gradient is another; the last three are vectors as from `_parameter_gradient`."""
    images = _leaves(loss) - set(model.parameters())
    hint = "For the training step the adversarial images are data like any other: detach them, adv = adv.detach()."
    expect(not images, "loss.backward() would also go through the attack, back to the images.", hint)
    slope = _parameter_gradient(loss, model)
    off = ((slope - right).norm() / right.norm()).item()
    cut = "The {} loss counts in the value, but not in the gradient: no .item(), .detach() or torch.no_grad() around it."  # fmt: skip
    wrongs = ((clean, cut.format("adversarial")), (adversarial, cut.format("clean")))
    what = f"the value is right, and the gradient of the parameters is {100 * off:.0f} % off."
    hint = "Both losses are computed from model(…) with its graph; only the images are detached."
    expect_close(slope, right, what, hint, wrongs, 1e-4)


class _FixedDropout(nn.Module):
    """Leaves out every third hidden unit in training mode: dropout without chance."""

    def forward(self, hidden: Tensor) -> Tensor:
        kept = torch.arange(hidden.shape[1]) % 3 > 0
        return hidden * kept * 1.5 if self.training else hidden


class _MixTask(NamedTuple):
    """What the loss of half clean, half adversarial images is given."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    mix: float


def _mix_task(n: int, shape: tuple[int, ...], classes: int, mix: float, low: float = 0.3) -> _MixTask:
    *layers, last = inputs.unsaturated_network(shape, classes)
    model = nn.Sequential(*layers, _FixedDropout(), last).eval()
    x, y = inputs.labelled_images(model, n, shape, low)
    return _MixTask(model, x.clamp(0, 1), y, 0.1, mix)


def _two_losses(task: _MixTask) -> tuple[Tensor, Tensor]:
    model, x, y, eps, _ = task
    return F.cross_entropy(model(x), y), F.cross_entropy(model(_fgsm(model, x, y, eps)), y)


def _mixed_reference(task: _MixTask) -> Tensor:
    clean, adversarial = _two_losses(task)
    return (1 - task.mix) * clean + task.mix * adversarial


def _mix_mistakes(task: _MixTask, earlier: _MixTask | None) -> Mistakes:
    """What goes wrong in the mixed loss; `earlier` is what the answer was given in the call before."""
    model, x, y, eps, mix = task
    clean, adversarial = _two_losses(task)
    adv = _fgsm(model, x, y, eps)
    count, weigh = len(x), "The loss is (1 − mix) times the clean one plus mix times the adversarial one."

    def loss_of(images: Tensor, *, training: bool = model.training, labels: Tensor = y) -> Tensor:
        return F.cross_entropy(copy.deepcopy(model).train(training)(images), labels)

    def mixed(c: Tensor, a: Tensor) -> Tensor:
        return (1 - mix) * c + mix * a

    yield from (
        (mixed(adversarial, clean), "The weights are swapped: mix belongs to the adversarial images. " + weigh),
        (clean, "The adversarial images take no part. " + weigh),
        (adversarial, "The clean images take no part. " + weigh),
        (clean + adversarial, "You add the two losses. " + weigh),
        ((clean + adversarial) / 2, "You take half of each, whatever mix is. " + weigh),
        *with_hint("The clean loss has the weight 1 − mix, so that the weights add up to 1.", clean + mix * adversarial, mix * (clean + adversarial)),
        ((1 - mix) * clean + adversarial, "The adversarial loss has the weight mix, so that the weights add up to 1."),
        (mixed(clean, adversarial) / 2, "The weights add up to 1 already: no further division by 2."),
        (count * mixed(clean, adversarial), "You sum over the images. The loss is a mean: F.cross_entropy takes it by itself."),
        (mixed(clean, adversarial) / count, "F.cross_entropy takes the mean by itself: do not divide by the number of images again."),
        (loss_of(x + mix * (adv - x)), "You mix the images. Mix the two losses: F.cross_entropy of each kind of images, then the weighted mean."),
        (F.cross_entropy(mixed(model(x), model(adv)), y), "You mix the logits. Mix the two losses."),
        (mixed(clean, loss_of(adv, labels=model(adv).argmax(1))), "The adversarial images keep the labels y of the images they were made from."),
        (-mixed(clean, adversarial), "The sign is wrong: training makes the loss smaller, and only the attack makes it larger."),
        (mixed(softmax_twice(model(x), y, "mean"), softmax_twice(model(adv), y, "mean")), mistakes.SOFTMAX_TWICE.format("adv")),
        (mixed(F.nll_loss(model(x), y), F.nll_loss(model(adv), y)), mistakes.NO_LOG_SOFTMAX.format("adv")),
    )  # fmt: skip
    yield from ((mixed(clean, loss_of(images)), hint) for images, hint in _other_attacks(model, x, y, eps))
    for c, a in ((False, False), (True, False), (False, True)):
        yield mixed(loss_of(x, training=c), loss_of(adv, training=a)), LEFT_IN_EVAL
    if earlier is not None:
        old = _fgsm(earlier.model, earlier.x, earlier.y, eps)
        stale = "Your adversarial images are those of an earlier call. Make them anew in every step: for these images, and for the network as it is now."
        yield from with_hint(stale, mixed(clean, loss_of(old, labels=earlier.y)), mixed(clean, loss_of(old)))


@exercise("mixed_loss", takes="(model, x, y, eps, mix)")
def _mixed_loss(answer: Callable) -> Iterator[str]:
    task, earlier = _mix_task(6, inputs.SHAPE, inputs.CLASSES, 0.5), None

    def holds(hint: str, setting: str = "") -> None:
        """Refuse a loss of another value than the right one."""
        got = _as_loss(call_with_copies(answer, *task)).item()
        clean, adversarial = _two_losses(task)
        what = f"{setting}with mix = {task.mix} your loss is {got:.4g}, and right is {_mixed_reference(task).item():.4g}: that of the clean images is {clean.item():.4g}, that of FGSM's images {adversarial.item():.4g}."
        expect(close(got, _mixed_reference(task)), what, lambda: why(got, hint))

    def why(got: float, otherwise: str) -> str:
        between = task._replace(mix=0.4)  # where each mistake gives a loss of its own
        other = _as_loss(call_with_copies(answer, *between)).item()
        hint = diagnose_mistake(other, _mix_mistakes(between, earlier), "")
        return hint or diagnose_mistake(got, _mix_mistakes(task, earlier), otherwise)

    yield "returns one number that a training step can differentiate"
    _as_loss(call_with_copies(answer, *task))

    yield "mix = 0 gives the mean loss of the clean images"
    task = task._replace(mix=0.0)
    holds("Start from F.cross_entropy(model(x), y), which is a mean over the images.")

    yield "mix = 1 gives the mean loss of FGSM's images"
    earlier, task = task, _mix_task(6, inputs.SHAPE, inputs.CLASSES, 1.0, low=-0.05)  # with black and with white pixels
    holds("adv = attacks.fgsm(model, x, y, eps), then F.cross_entropy(model(adv), y).")

    yield "in between it weighs the clean loss by 1 − mix and the adversarial one by mix"
    for mix in (0.5, 0.3):
        task = task._replace(mix=mix)
        holds("(1 - mix) * clean + mix * adversarial, of the two losses above.")

    yield "leaves no trace on the model and on x"
    in_both_modes(answer, "model x y eps mix", *task)

    yield "the attack sees the network in evaluation mode, the losses in the mode it came in"
    task = task._replace(model=task.model.train())
    holds(SEES_EVAL, "in training mode ")

    yield "makes its images anew, for every batch and for the network as it is"
    reinitialised = copy.deepcopy(task.model)
    nn.init.normal_(reinitialised[1].weight, 0, 1.5, generator=torch.Generator().manual_seed(1))
    for change, other in (("batch", {"x": task.x.flip(-1)}), ("network", {"model": reinitialised})):
        earlier, task = task, task._replace(**other)
        holds(ONLY_ARGUMENTS, f"for another {change} ")

    yield "its gradient is that of both losses, and does not go through the attack"
    loss = _with_model(answer, *task)
    clean, adversarial = (_parameter_gradient(part, task.model) for part in _two_losses(task))
    clean, adversarial = (1 - task.mix) * clean, task.mix * adversarial
    _differentiates(loss, task.model, clean + adversarial, clean, adversarial)

    yield "works for other sizes of images and numbers of classes"
    task, earlier = _mix_task(5, inputs.OTHER_SHAPE, inputs.OTHER_CLASSES, 0.4)._replace(eps=0.06), None
    holds(ONLY_ARGUMENTS)


# Two branches


class _TwoBranches(nn.Module):
    """Stands in for dual batch norm."""

    def __init__(self, features: int, generator: torch.Generator):
        super().__init__()
        self.main, self.auxiliary = nn.BatchNorm1d(features), nn.BatchNorm1d(features)
        self.chosen = "main"
        for norm in (self.main, self.auxiliary):
            nn.init.uniform_(norm.weight, 0.3, 1.5, generator=generator)
            nn.init.normal_(norm.bias, 0, 0.5, generator=generator)
            nn.init.normal_(norm.running_mean, 0, 1.0, generator=generator)
            nn.init.uniform_(norm.running_var, 0.5, 4.0, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.chosen)(x)


@contextmanager
def _branch(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Do for these networks what `models.branch` does for the course's."""
    if name not in ("main", "auxiliary"):
        raise ValueError(f"the branch must be 'main' or 'auxiliary', got {name!r}.")
    layer = model[2]
    before, layer.chosen = layer.chosen, name
    try:
        yield model
    finally:
        layer.chosen = before


class _BranchTask(NamedTuple):
    """What a step on two branches is given."""

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    branch: Callable[[nn.Module, str], AbstractContextManager] = _branch


def _branch_task(n: int, shape: tuple[int, ...], classes: int, eps: float) -> _BranchTask:
    flatten, first, tanh, last = inputs.unsaturated_network(shape, classes)
    layer = _TwoBranches(first.out_features, torch.Generator().manual_seed(classes))
    x, y = inputs.labelled_images(inputs.unsaturated_network(shape, classes), n, shape)
    return _BranchTask(nn.Sequential(flatten, first, layer, tanh, last).eval(), x, y, eps)


def _through(model: nn.Module, name: str, x: Tensor) -> Tensor:
    with _branch(model, name):
        return model(x)


class _BranchLosses(NamedTuple):
    """The two losses of a step, and the network after it."""

    clean: Tensor
    adversarial: Tensor
    model: nn.Module


def _branch_losses(
    task: _BranchTask,
    clean: str = "main",
    made: str = "auxiliary",
    adversarial: str = "auxiliary",
    adv: Tensor | None = None,
) -> _BranchLosses:
    """Return the right losses, or those of other branches or of other adversarial images."""
    model, y = copy.deepcopy(task.model), task.y
    with _branch(model, made):
        adv = _fgsm(model, task.x, y, task.eps) if adv is None else adv
    of_adv, of_x = (F.cross_entropy(_through(model, name, v), y) for name, v in ((adversarial, adv), (clean, task.x)))
    return _BranchLosses(of_x, of_adv, model)


def _mean_loss(halves: _BranchLosses) -> Tensor:
    return (halves.clean + halves.adversarial) / 2


def _branch_mistakes(task: _BranchTask) -> Mistakes:
    model, (x, y, eps) = copy.deepcopy(task.model), task[1:4]
    clean, adversarial, _ = _branch_losses(task)
    own = "Clean images go through the main branch, adversarial ones are made and trained on through the auxiliary one."
    unset = "The layers keep the branch they were set to, which need not be the main one: choose it, with branch(model, 'main')."
    start = model[2].chosen
    if start == "auxiliary":
        yield _mean_loss(_branch_losses(task, clean="auxiliary")), unset
    yield from (
        (_mean_loss(_branch_losses(task, "auxiliary", "main", "main")), "The branches are swapped. " + own),
        (_mean_loss(_branch_losses(task, "auxiliary", "auxiliary", "main")), "The losses have swapped branches. " + own),
        (_mean_loss(_branch_losses(task, made="main")), "You make the adversarial images through the main branch. They must fool the branch that is trained on them: put the attack inside with branch(model, 'auxiliary')."),
        (_mean_loss(_branch_losses(task, adversarial="main")), "You make the images through the auxiliary branch, and train on them through the main one. Compute their loss inside the same with block."),
        (_mean_loss(_branch_losses(task, made="main", adversarial="main")), "Everything goes through the main branch. " + own),
        (_mean_loss(_branch_losses(task, clean="auxiliary")), "The clean images go through the auxiliary branch. " + own),
        (_mean_loss(_branch_losses(task, clean="auxiliary", made="main")), "Both losses go through the auxiliary branch. " + own),
        (clean + adversarial, "That is the sum of the two losses. Return their mean, half of each."),
        (clean, "The adversarial images take no part: return the mean of both losses."),
        (adversarial, "The clean images take no part: return the mean of both losses."),
        (len(x) * (clean + adversarial) / 2, "You sum over the images. The loss is a mean: F.cross_entropy takes it by itself."),
        ((clean + adversarial) / 4, "Half of each loss: you divide by two twice."),
    )  # fmt: skip
    with _branch(model, "auxiliary"):
        others, adv = list(_other_attacks(model, x, y, eps)), _fgsm(model, x, y, eps)
    yield from ((_mean_loss(_branch_losses(task, adv=images)), hint) for images, hint in others)
    mixed = "You send both kinds of images through one branch at once. They have different statistics: one pass for each kind."
    images, labels = torch.cat([x, adv]), torch.cat([y, y])
    yield from ((F.cross_entropy(_through(model, name, images), labels), mixed) for name in ("main", "auxiliary"))
    evaluated = _branch_losses(task._replace(model=copy.deepcopy(task.model).eval()))
    yield from with_hint(LEFT_IN_EVAL, _mean_loss(evaluated), (clean + evaluated.adversarial) / 2)


def _through_branches(answer: Callable, model: nn.Module, task: _BranchTask) -> Tensor:
    """Return the answer's loss for this very model."""
    try:
        return _with_model(answer, model, *task[1:])
    except ValueError as error:
        what = "it asked a branch function of the notebook's own, which does not know this network."
        hint = "Use the branch that is passed in, the last argument, and not models.branch."
        expect("models.dual_batch_norm" not in str(error), what, hint)
        raise


def _sees_each_batch_once(model: nn.Module) -> None:
    """Refuse a training step after which a branch's statistics were not moved by one batch."""
    for name in ("main", "auxiliary"):
        seen = int(getattr(model[2], name).num_batches_tracked)
        what = f"in training mode the running statistics of the {name} branch were moved by {seen} batches; right is 1."
        hint = f"In training mode every pass moves the running statistics of its branch, also one that is made for an attack or a prediction only. {SEES_EVAL}"
        expect(seen == 1, what, hint if seen else LEFT_IN_EVAL)
    what = "the model came in training mode, and your function left it, or a part of it, in evaluation mode."
    hint = "Switch it back before you return: whoever called you is in the middle of training."
    expect(all(m.training for m in model.modules()), what, hint)


@exercise("branch_step", takes="(model, x, y, eps, branch)")
def _branch_step(answer: Callable) -> Iterator[str]:
    def step(given: _BranchTask) -> tuple[Tensor, nn.Module]:
        """Return the answer's loss, and the model after it."""
        model = copy.deepcopy(given.model)
        return _through_branches(answer, model, given), model

    def holds(hint: str, setting: str = "") -> None:
        """Refuse a loss of another value than the right one."""
        got, right = step(task)[0].item(), _branch_losses(task)
        what = f"{setting}with eps = {task.eps} your loss is {got:.4g}, and right is {_mean_loss(right).item():.4g}: {right.clean.item():.4g} for the clean images through the main branch, {right.adversarial.item():.4g} for the adversarial ones through the auxiliary branch."
        expect(close(got, _mean_loss(right)), what, lambda: why(got, hint))

    def why(got: float, otherwise: str) -> str:
        attacked = task._replace(eps=0.1)  # where each mistake gives a loss of its own
        hint = diagnose_mistake(step(attacked)[0].item(), _branch_mistakes(attacked), "")
        return hint or diagnose_mistake(got, _branch_mistakes(task), otherwise)

    yield "returns one number that a training step can differentiate"
    task = _branch_task(8, inputs.SHAPE, inputs.CLASSES, 0.0)
    step(task)

    yield "eps = 0: one loss through each branch, half of each"
    hint = "with branch(model, 'main'): clean = F.cross_entropy(model(x), y); the same for 'auxiliary'; then the mean."
    holds(hint)

    yield "makes the adversarial images, and trains on them, through the auxiliary branch"
    task = task._replace(eps=0.1)
    hint = "Inside with branch(model, 'auxiliary'): adv = attacks.fgsm(model, x, y, eps), then F.cross_entropy(model(adv), y)."
    holds(hint)

    yield "whatever branch the layers are set to, which they have back afterwards"
    for name in ("auxiliary", "main"):
        task.model[2].chosen = name
        holds(hint, f"with the layers set to {name}, ")
        left = step(task)[1][2].chosen
        what = f"the layers were set to {name}, and your function left them at {left}."
        expect(left == name, what, "with branch(model, …): switches back at its end. Do not set the branch by hand.")

    yield "leaves no trace on the model and on x"
    no_side_effects(lambda *arguments: answer(*arguments, _branch), "model x y eps", *task[:4])

    yield "each branch's running statistics see its own images, once; the attack moves none"
    task = task._replace(model=task.model.train())
    _sees_each_batch_once(step(task)[1])

    yield "the attack sees the network in evaluation mode, the losses in the mode it came in"
    holds(SEES_EVAL, "in training mode, ")

    yield "its gradient is that of both losses, and does not go through the attack"
    right, (loss, model) = _branch_losses(task), step(task)
    clean, adversarial = (_parameter_gradient(part / 2, right.model) for part in (right.clean, right.adversarial))
    _differentiates(loss, model, clean + adversarial, clean, adversarial)

    yield "works for other sizes of images and numbers of classes"
    task = _branch_task(5, inputs.OTHER_SHAPE, inputs.OTHER_CLASSES, 0.06)
    holds(ONLY_ARGUMENTS)


# --- fgsm_rs_step -----------------------------------------------------------------------------------------------------


def _random_start(x: Tensor, eps: float) -> Tensor:
    return (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)


def _rs(
    *, start: Callable = _random_start, at: Callable | None = None, size: Callable | None = None,
    labels: Callable | None = None, put: Callable = project, **mistake: Any,
) -> Callable[..., Tensor]:  # fmt: skip
    """Return an answer that makes mistakes.

    Args:
        start: from x and eps. at: where the gradient is taken, from x and eps.
        size: of the step, from eps and step_size. labels: from the model, x and the start.
        put: puts images back, from them, x and eps. mistake: keywords of `gradient_step`.
    """

    def answer(model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float) -> Tensor:
        begin = start(x, eps)
        y = labels(model, x, begin) if labels else y
        step_size = size(eps, step_size) if size else step_size
        step = gradient_step(model, begin, y, step_size, at=at(x, eps) if at else None, **mistake)
        return put(step, x, eps)

    return answer


def _fgsm_rs_step(model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float) -> Tensor:
    return _rs()(model, x, y, eps, step_size)


def _random_images(
    eps: float, step_size: float, n: int = 4, sizes: tuple = (inputs.SHAPE, inputs.CLASSES), low: float = 0.3, blind: int = 0
) -> tuple[Any, ...]:  # fmt: skip
    """Return what the step is given: n images with pixels in [low, 1 - low]; the model does not see the first `blind`."""
    model = inputs.unsaturated_network(*sizes)
    x, y = inputs.labelled_images(model, n, sizes[0], low)
    model[1].weight.data[:, :blind] = 0.0
    return model, x.clamp(0, 1), y, eps, step_size


def _run(answer: Callable, seed: int, model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float) -> Tensor:
    """Return what an answer gives after torch's random stream was seeded."""
    torch.manual_seed(seed)
    return as_tensor_like(call_with_copies(answer, model, x, y, eps, step_size), x)


def _start_and_images(answer: Callable, *arguments: Any) -> dict[str, Tensor]:
    """Return an answer's start, which a step of size 0 shows, and its images."""
    return {"the start": _run(answer, 0, *arguments[:-1], 0.0), "the images": _run(answer, 0, *arguments)}


def _stepped(
    start: Tensor, model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float
) -> tuple[Tensor, Tensor]:
    """Return where the right step leads from an answer's own start, and for which pixels rounding has no say in that."""
    gradient = loss_gradient(model, start, y)
    clear = strong_pixels(gradient) | (gradient == 0)
    return project(start + step_size * gradient.sign(), x, eps), clear  # fmt: skip


def _steps_from_its_start(got: dict[str, Tensor], right: Any, *arguments: Any) -> bool:
    wanted, clear = _stepped(got["the start"], *arguments)
    return close(got["the images"][clear], wanted[clear])


def _misstepped(got: dict[str, Tensor], right: Any, model: nn.Module, x: Tensor, y: Tensor, *sizes: float) -> str:
    start, adv = got.values()
    wanted, _ = _stepped(start, model, x, y, *sizes)
    moved, reach = (adv - start).abs(), (adv - x).abs().max()
    return (
        "with eps = {:.3g} and step_size = {:.3g} ".format(*sizes)
        + f"{percent_off(adv, wanted):.0f} % of the pixels are not where they should be: from the start, which the same call with step_size = 0 gives, they moved by up to {moved.max():.3g}, and are up to {reach:.3g} away from x; the values go from {adv.min():.3g} to {adv.max():.3g}."
    )


def _starts_at_random(answer: Callable) -> None:
    """Refuse a start that is x, or that torch.manual_seed does not decide."""
    task = _random_images(0.2, 0.0)
    first, other, again = (_run(answer, seed, *task) for seed in (1, 2, 1))
    what = "with step_size = 0, which shows the start alone, "
    hint = "There is no random start, or the step does not begin there: it begins at a random point of the ball, and not at x."
    expect(not close(first, task[1], 1e-4), what + "the images come back as they were.", hint)
    hint = "Do not seed in your function: torch.rand draws other numbers in every call by itself."
    expect(not close(first, other, 1e-4), what + "two calls give the same images.", hint)
    hint = "Draw with torch.rand or torch.rand_like: torch.manual_seed then makes a training repeatable."
    expect(close(first, again), what + "two calls after the same torch.manual_seed differ.", hint)


def _starts_uniformly(answer: Callable) -> None:
    """Refuse a start that is not uniform in the ball."""
    task = _random_images(0.2, 0.0, sizes=((1, 28, 28), inputs.CLASSES), low=0.5)
    start = _run(answer, 0, *task)
    u = start / 0.2 - GREY
    hint = next((said for wrong, said in STARTS if wrong(u)), "")
    if hint and close(start, _run(answer, 0, *task[:-1], 0.1), 1e-4):
        hint = mistakes.SAME_FOR_EVERY.format("step_size")
    what = f"with step_size = 0 the pixels of grey images moved by {u.min():.2f}·eps to {u.max():.2f}·eps, {100 * (u.abs() > 0.999).float().mean():.0f} % of them by ±eps or more."
    expect(not hint, what, hint)


def _far_from_uniform(u: Tensor) -> bool:
    """Tell whether numbers are not uniform in [−1, 1], by Kolmogorov's test."""
    height = torch.linspace(-1, 1, u.numel() + 1)
    ordered = u.flatten().sort().values
    apart = torch.maximum((ordered - height[1:]).abs(), (ordered - height[:-1]).abs()).max().item() / 2
    return apart > 0.05  # with n = 3,136 a right answer exceeds this less than once in a million times


GREY = 2.5  # the pixels of grey images, in units of eps
DRAW = "torch.rand draws from 0 to 1: double that, shift it to −1 … 1, and multiply by eps."
STARTS: list[tuple[Callable[[Tensor], Any], str]] = [  # what is wrong with starts (N, ...), in units of eps
    (lambda u: (u + GREY).abs().max() < 1.001, mistakes.CHANGE_ALONE.format("")),
    (lambda u: u.flatten(1).std(1).max() == 0, "All pixels of an image move by the same number. Draw one for each pixel: torch.rand_like(x)."),
    (lambda u: close(u[0], u[1], 1e-4), "All images get the same noise. Draw one number for each pixel of each image: torch.rand_like(x)."),
    (lambda u: (u.abs() > 0.999).all(), "Every pixel starts at −eps or at eps: only the corners of the ball, or noise larger than it. " + DRAW),
    (lambda u: u.min() >= -1e-3 or u.max() <= 1e-3, "Your start is one-sided. " + DRAW),
    (lambda u: u.abs().max() <= 0.51, "Your start fills only half of the ball's width: torch.rand(…) − 0.5 ends at 0.5. " + DRAW),
    (_far_from_uniform, "The start is not uniform in the ball (torch.randn is not). " + DRAW),
]  # fmt: skip
AT_START = "Gradient and step both begin at the random start, which is drawn once."
TOO_FAR = (
    "A step from near the edge leaves the ball. Put the image back after the step: its change from x has the limit eps."
)
Exercise(
    "fgsm_rs_step",
    reference=_fgsm_rs_step,
    cases=[
        Property("starts at a random point, another in every call", _starts_at_random),
        Property("the start is uniform in the ball", _starts_uniformly),
        Case("takes one signed step of step_size, uphill from the start", [partial(_random_images, 0.2, 0.0004)], AT_START + " Only the sign of the gradient counts, and step_size is the size of the step."),
        Case("never ends farther than eps from x", [partial(_random_images, 0.1, 0.125)], TOO_FAR + " What is inside stays where it is."),
        Case("stays inside [0, 1], with the start and with the step", [partial(_random_images, 0.2, 0.15, n=6, low=-0.1)], "Clip the start to [0, 1], before the gradient is taken, and the result, after the ball."),
        Case("leaves a pixel at its start that the loss does not depend on", [partial(_random_images, 0.2, 0.05, blind=9)], "Where the gradient is 0, its sign is 0, too: the pixel stays at its start."),
        Case("eps = 0 changes nothing", [partial(_random_images, 0.0, 0.15, low=-0.1)], "A ball of radius 0 holds x alone: put the image back into the ball after the step."),
        Case("works for other sizes of images and numbers of classes, and for one image", [partial(_random_images, 0.06, 0.05, n=n, sizes=(inputs.OTHER_SHAPE, inputs.OTHER_CLASSES), low=0.2) for n in (5, 1)], mistakes.FROM_MODEL),
    ],
    mistakes=[
        Mistake("You take no step: add step_size times the sign of the gradient to the start.", _rs(scale=0)),
        Mistake(mistakes.WRONG_SIGN, _rs(scale=-1)),
        Mistake("You take the gradient at x. Take it at the random start, where the step begins.", _rs(at=lambda x, eps: x)),
        Mistake("You draw twice, and take the gradient at another point than that at which the step begins. " + AT_START, _rs(at=_random_start)),
        Mistake("The step has the size step_size, which is in pixel units already. You multiply it by eps.", _rs(size=lambda eps, step_size: eps * step_size)),
        Mistake("Your step has twice the size. It is step_size.", _rs(scale=2)),
        Mistake("Your step has half the size. It is step_size.", _rs(scale=0.5)),
        *mistakes.sign_mistakes(_rs, "step_size"),
        Mistake(mistakes.OWN_PREDICTION.format("y"), _rs(labels=lambda model, x, start: model(start).argmax(1)), _rs(labels=lambda model, x, start: model(x).argmax(1))),
        *mistakes.loss_mistakes(_rs, "y", "start")[2:],
        Mistake(TOO_FAR, _rs(put=lambda adv, x, eps: adv.clamp(0, 1)), _rs(put=lambda adv, x, eps: adv)),
        Mistake(mistakes.WIDE_BALL, _rs(put=lambda adv, x, eps: project(adv, x, 2 * eps))),
        Mistake("Put the image back into the ball around x, not around the start.", lambda model, x, y, eps, step_size: (lambda start: project(gradient_step(model, start, y, step_size), start, eps))(_random_start(x, eps))),
        Mistake("A pixel that would leave the ball goes to its edge: do not take it back to x, and do not refuse the step.", _rs(put=lambda adv, x, eps: torch.where((adv - x).abs() > eps, x, adv).clamp(0, 1))),
        Mistake("After the ball comes the box: clip the result to [0, 1], at both ends.", _rs(put=lambda adv, x, eps: x + (adv - x).clamp(-eps, eps)), *(_rs(put=lambda adv, x, eps, box=box: (x + (adv - x).clamp(-eps, eps)).clamp(**box)) for box in ({"min": 0}, {"max": 1}))),
        Mistake("You clip to [0, 1] only at the end, and the network sees a start that is no image. Clip the start as well, before the gradient.", _rs(start=lambda x, eps: x + eps * (2 * torch.rand_like(x) - 1))),
        Mistake("You never clip to [0, 1]: neither the start nor the result.", _rs(start=lambda x, eps: x + eps * (2 * torch.rand_like(x) - 1), put=lambda adv, x, eps: x + (adv - x).clamp(-eps, eps))),
        Mistake("Where the gradient is 0, its sign is 0, too: the pixel stays at its start.", _rs(move=lambda g: torch.where(g > 0, 1.0, -1.0)), _rs(move=lambda g: torch.where(g < 0, -1.0, 1.0))),
    ],
    untouched=("model", "x", "y"),
    typical=partial(_random_images, 0.2, 0.05),
    observe=_start_and_images,
    accepts=_steps_from_its_start,
    happened=_misstepped,
    random=True,
    library=(attacks.fgsm_rs,),
).register()  # fmt: skip


# --- eps_schedule -----------------------------------------------------------------------------------------------------


def _eps_schedule(step: int, steps: int, eps: float, warmup: float) -> float:
    return eps if step >= warmup * steps else eps * step / (warmup * steps)


def _radii(answer: Callable, step: int | list[int], steps: int, eps: float, warmup: float) -> Tensor:
    """Return the radius that an answer gives for this step, or for each of these, one after the other."""

    def radius(step: int) -> float:
        try:
            return as_number(
                call_with_copies(answer, step, steps, eps, warmup), "Return one number, the radius of this step."
            )
        except ZeroDivisionError:
            what = f"for step = {step} of {steps} with warmup = {warmup} it divides by zero."
            hint = (
                "With warmup = 0 no step is left to grow in: ask first whether the growth is over."
                if warmup == 0
                else ROUNDED
            )
            raise CheckFailed(what, hint) from None

    return torch.tensor([radius(s) for s in (step if isinstance(step, list) else [step])], dtype=torch.float64)  # fmt: skip


def _plan(steps: int, eps: float, warmup: float, asked: list[int] | None = None) -> tuple[Any, ...]:
    """Return what the radius depends on; by default every step is asked."""
    return (list(range(steps)) if asked is None else asked), steps, eps, warmup


def _growing(
    count: Callable[[int, float], float], since: Callable[[int, float], float] = lambda steps, warmup: 0
) -> Callable[..., float]:
    """Return a schedule that grows over another number of steps, or that begins at another one."""

    def answer(step: int, steps: int, eps: float, warmup: float) -> float:
        span = count(steps, warmup)
        return eps * min(1.0, max(0.0, (step - since(steps, warmup)) / span)) if warmup and span else eps

    return answer  # fmt: skip


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
        expect(close(got, right, 1e-6), what, "Compute the radius from the arguments alone, and keep nothing between two calls.")  # fmt: skip


ROUNDED = "The number of growing steps is warmup * steps as it is, which need not be whole: int(…), round(…) and // change it, or make 0 of it."
DIVIDED = "The radius needs the exact quotient: / divides, // drops the fraction. And no int(…) around it."
OFF_BY_ONE = (
    "You are one step off: steps count from 0, so that step 0 has the radius 0 and step warmup * steps has eps."
)
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


def _one_name(got: tuple, right: tuple, matrix: list[pd.DataFrame]) -> str:
    same = "You return the same name for every table. What a row is called says nothing: find it by its numbers."
    return same if len(set(got)) == 1 else ""


def _rises(table: pd.DataFrame, names: list[str] = BY_STRENGTH) -> pd.DataFrame:
    """Return how much more accuracy each attack leaves than the best of those before it."""
    return table[names] - table[names].cummin(axis=1)


def _most_masked(matrix: pd.DataFrame) -> str:
    accuracies = matrix[BY_STRENGTH].to_numpy()
    rises = accuracies - np.minimum.accumulate(accuracies, axis=1)
    return matrix.index[rises.max(axis=1).argmax()]


def _most(number: Callable[[pd.DataFrame], pd.Series]) -> Callable[[pd.DataFrame], str]:
    """Return an answer that takes the row of which this number is largest."""
    return lambda matrix: number(matrix).idxmax()


LOW = "A low accuracy is a weak model, honestly measured. Compare the attacks of one row with each other."
HIGH = "A high accuracy may be earned. Compare the attacks of one row with each other."
GAP = "It is no sign of masking that a stronger attack does better: every undefended model shows it. Look for a stronger attack that does worse, and leaves more accuracy than a weaker one."
ALL_PAIRS = "Compare all pairs of attacks: each with all that know less, from transfer over FGSM and PGD-40 to PGD-40 x 5."  # fmt: skip
UNSORTED = "You take the columns as they stand. Their order means nothing here: bring them into the order transfer, FGSM, PGD-40, PGD-40 x 5."
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
    explain=_one_name,
).register()  # fmt: skip
