# ruff: noqa: E501 (one line for each wrong answer)
"""The checks of chapter 03: they accept every right answer, and say the right thing about every wrong one."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_passes, assert_refused, with_noise
from torch import nn
from torch.random import fork_rng

from course_utils import attacks
from course_utils.exercises import check, engine, pgd

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))  # what a notebook may have lying around
BUDGET = 0.02


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.clone().detach().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def into_ball(adv, x, eps):
    return x + (adv - x).clamp(-eps, eps)


def into_both(adv, x, eps):
    return into_ball(adv, x, eps).clamp(0, 1)


def lengths(images):
    return images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def fooled_by(model, adv, y):
    return model(adv).argmax(1) != y


# --- right answers ----------------------------------------------------------------------------------------------------


def project_in_numpy(adv, x, eps):
    low, high = np.maximum(x.numpy() - eps, 0), np.minimum(x.numpy() + eps, 1)
    return torch.from_numpy(np.clip(adv.numpy(), low, high).astype(np.float32))


def project_by_masks(adv, x, eps):
    adv = torch.where(adv > x + eps, x + eps, torch.where(adv < x - eps, x - eps, adv))
    adv[adv < 0], adv[adv > 1] = 0.0, 1.0
    return adv


def project_a_copy_in_place(adv, x, eps):
    adv = adv.clone()
    adv -= x
    adv.clamp_(-eps, eps).add_(x)
    return adv.clip_(0, 1)


def project_one_by_one(adv, x, eps):
    return torch.stack([(b + (a - b).clip(-eps, eps)).clip(0, 1) for a, b in zip(adv, x, strict=True)])


def pgd_reference(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        adv = into_both(adv + sign * step_size * gradient(model, adv, y).sign(), x, eps)
    return adv


def pgd_with_backward(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone().detach()
    for _ in range(steps):
        adv.requires_grad = True
        loss = nn.CrossEntropyLoss()(model(adv), y)
        model.zero_grad()
        loss.backward()
        model.zero_grad()
        with torch.no_grad():
            adv = adv + sign * step_size * adv.grad.sign()
            adv = torch.min(torch.max(adv, x - eps), x + eps)
            adv = torch.clamp(adv, min=0.0, max=1.0)
    return adv


def pgd_with_delta(model, x, y, eps, steps, step_size, sign=1):
    delta = torch.zeros_like(x, requires_grad=True)
    for _ in range(steps):
        (g,) = torch.autograd.grad(F.cross_entropy(model(x + delta), y, reduction="sum"), delta)
        with torch.no_grad():
            delta += sign * step_size * torch.sign(g)
            delta.clamp_(-eps, eps)
            delta.copy_((x + delta).clamp(0, 1) - x)
    return (x + delta).detach()


def pgd_with_an_optimizer(model, x, y, eps, steps, step_size, sign=1):
    model = copy.deepcopy(model).eval()
    adv = nn.Parameter(x.clone())
    optimizer = torch.optim.SGD([adv], lr=step_size, maximize=sign > 0)
    for _ in range(steps):
        optimizer.zero_grad()
        F.nll_loss(model(adv).log_softmax(1), y).backward()
        adv.grad.sign_()
        optimizer.step()
        adv.data = into_both(adv.data, x, eps)
    return adv.data


def pgd_one_by_one(model, x, y, eps, steps, step_size, sign=1):
    return torch.cat(
        [pgd_reference(model, x[i : i + 1], y[i : i + 1], eps, steps, step_size, sign) for i in range(len(x))]
    )


def pgd_functional(model, x, y, eps, steps, step_size, sign=1):
    def loss(v):
        z = model(v)
        return (z.logsumexp(1) - (z * F.one_hot(y, z.shape[1])).sum(1)).sum()

    adv, count = x, 0
    while count < steps:
        adv = (adv + sign * step_size * torch.func.grad(loss)(adv).sign()).clamp(0, 1)
        adv = adv.maximum(x - eps).minimum(x + eps)
        count += 1
    return adv.detach().clone()


def pgd_from_the_library(model, x, y, eps, steps, step_size, sign=1):
    adv = x
    for _ in range(steps):
        adv = attacks.project(adv + sign * step_size * attacks.input_gradient(model, adv, y).sign(), x, eps)
    return adv


def pgd_in_double(model, x, y, eps, steps, step_size, sign=1):
    model = copy.deepcopy(model).double()
    return pgd_reference(model, x.double(), y, eps, steps, step_size, sign).float()


PATHS = (
    pgd_reference,
    pgd_with_backward,
    pgd_with_delta,
    pgd_with_an_optimizer,
    pgd_one_by_one,
    pgd_functional,
    pgd_from_the_library,
    pgd_in_double,
)


def towards(path):
    return lambda model, x, target, eps, steps, step_size: path(model, x, target, eps, steps, step_size, sign=-1)


def minus_the_loss(model, x, target, eps, steps, step_size):
    adv = x.clone()
    for _ in range(steps):
        g = gradient(model, adv, target, lambda z, t: -F.cross_entropy(z, t))
        adv = into_both(adv + step_size * g.sign(), x, eps)
    return adv


def log_probability(model, x, target, eps, steps, step_size):
    adv = x.clone()
    for _ in range(steps):
        g = gradient(model, adv, target, lambda z, t: z.log_softmax(1).gather(1, t[:, None]).sum())
        adv = into_both(adv + step_size * g.sign(), x, eps)
    return adv


def keep_backwards(model, x, y, restarts):
    best = x.clone()
    for adv in reversed(restarts):
        fooled = fooled_by(model, adv, y)
        best[fooled] = adv[fooled]
    return best


@torch.no_grad()
def keep_forwards(model, x, y, restarts):
    best, done = x, torch.zeros(len(x), dtype=torch.bool)
    for adv in restarts:
        new = fooled_by(model, adv, y) & ~done
        best = torch.where(new.view(-1, 1, 1, 1), adv, best)
        done |= new
    return best


def keep_one_by_one(model, x, y, restarts):
    best = []
    for i in range(len(x)):
        image = x[i]
        for adv in restarts:
            if int(model(adv[i].unsqueeze(0)).argmax()) != int(y[i]):
                image = adv[i]
                break
        best.append(image)
    return torch.stack(best)


def keep_while_some_are_left(model, x, y, restarts):
    best, left = x.clone(), torch.arange(len(x))
    for adv in restarts:
        fooled = model(adv[left]).max(dim=1).indices != y[left]
        best[left[fooled]] = adv[left[fooled]]
        left = left[~fooled]
    return best


def keep_by_index(model, x, y, restarts):
    batches = torch.stack([*restarts, x])
    fooled = torch.stack([fooled_by(model, adv, y) for adv in restarts] + [torch.ones(len(x), dtype=torch.bool)])
    return batches[fooled.int().argmax(0), torch.arange(len(x))]


def keep_in_numpy(model, x, y, restarts):
    best = x.numpy().copy()
    for adv in restarts[::-1]:
        fooled = model(adv).detach().numpy().argmax(1) != y.numpy()
        best[fooled] = adv.numpy()[fooled]
    return torch.as_tensor(best)


def l2_reference(point, gradient, x, eps, step_size):
    change = point + step_size * gradient / lengths(gradient).clamp_min(1e-30) - x
    return (x + change * (eps / lengths(change).clamp_min(1e-30)).clamp(max=1)).clamp(0, 1)


def l2_by_masks(point, gradient, x, eps, step_size):
    size = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    change = point + torch.where(size > 0, step_size * gradient / size, torch.zeros_like(gradient)) - x
    far = change.square().sum((1, 2, 3), keepdim=True).sqrt()
    return torch.clip(x + torch.where(far > eps, eps * change / far, change), 0, 1)


def l2_with_normalize(point, gradient, x, eps, step_size):
    new = point + step_size * F.normalize(gradient.flatten(1), eps=1e-30).view_as(x)
    return (x + (new - x).flatten(1).renorm(2, 0, eps).view_as(x)).clamp(0, 1)


def l2_one_by_one(point, gradient, x, eps, step_size):
    images = []
    for p, g, centre in zip(point, gradient, x, strict=True):
        new = p + step_size * g / max(g.norm().item(), 1e-30)
        far = (new - centre).norm().item()
        images.append((centre + (new - centre) * min(1.0, eps / max(far, 1e-30))).clamp(0, 1))
    return torch.stack(images)


def l2_with_nan_to_num(point, gradient, x, eps, step_size):
    change = point + step_size * (gradient / lengths(gradient)).nan_to_num() - x
    return (x + change * (eps / lengths(change)).nan_to_num(1.0).clamp(max=1)).clamp(0, 1)


def l2_in_numpy(point, gradient, x, eps, step_size):
    point, gradient, centre = (v.double().numpy() for v in (point, gradient, x))

    def size(images):
        return np.maximum(np.sqrt((images**2).sum(axis=(1, 2, 3), keepdims=True)), 1e-30)

    change = point + step_size * gradient / size(gradient) - centre
    return torch.from_numpy(np.clip(centre + change * np.minimum(1, eps / size(change)), 0, 1)).float()


def l2_from_the_library(point, gradient, x, eps, step_size):
    step = step_size * gradient / lengths(gradient).clamp_min(1e-20)
    return attacks.project(point + step, x, eps, norm="l2")


RIGHT = {
    "project": [
        into_both,
        attacks.project,
        project_in_numpy,
        project_by_masks,
        project_a_copy_in_place,
        project_one_by_one,
        lambda adv, x, eps: torch.min(torch.max(adv, x - eps), x + eps).clamp(0, 1),
        lambda adv, x, eps: adv.clamp((x - eps).clamp_min(0), (x + eps).clamp_max(1)),
        lambda adv, x, eps: into_ball(adv.clamp(0, 1), x, eps),
    ],
    "pgd": [*PATHS],
    "keep_best": [keep_backwards, keep_forwards, keep_one_by_one, keep_while_some_are_left, keep_by_index, keep_in_numpy],
    "l2_pgd_step": [l2_reference, l2_by_masks, l2_with_normalize, l2_one_by_one, l2_with_nan_to_num, l2_in_numpy, l2_from_the_library],
    "targeted_pgd": [*map(towards, PATHS), minus_the_loss, log_probability],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variant"), [(name, i) for name, variants in RIGHT.items() for i in range(len(variants))]
)
def test_right_answers_pass(name, variant):
    assert_passes(name, RIGHT[name][variant])


# --- wrong answers ----------------------------------------------------------------------------------------------------

LIKE_X = "returns new images like x"
IN_BALL = "no pixel is farther"
IN_BOX, ANY_SIZE = "stays inside [0, 1]", "works for every eps"
ONE_STEP, EVERY_STEP = "moves every pixel by step_size", "takes every step at the point"
WITHIN, NO_DIRECTION, OTHER = "never ends farther", "leaves a pixel where", "works for other sizes"
ONE_EACH, FOOLING, FIRST = "returns one image for each", "keeps, image by image", "keeps the first restart"
ELSE_X, OTHER_COUNTS = "keeps x where", "works for one restart"
ALONG, REACH = "moves every image by the distance", "ends no farther"
SMALL, ZERO = "takes the whole step", "takes no step"
NO_TRACE = "leaves"


def write_into_adv(adv, x, eps):
    adv -= x
    return adv.clamp_(-eps, eps).add_(x).clamp_(0, 1)


def write_into_x(adv, x, eps):
    x += (adv - x).clamp(-eps, eps)
    return x.clamp_(0, 1)


def steps_of(
    sign=1,
    *,
    step=None,
    keep=into_both,
    loss=F.cross_entropy,
    count=lambda steps: steps,
    stale=False,
    labels=None,
    finish=None,
):
    """An attack that differs from the right one in what the keywords say."""

    def answer(model, x, y, eps, steps, step_size):
        y = labels(model, x, y) if labels else y
        adv = x.clone()
        for _ in range(count(steps)):
            g = gradient(model, x if stale else adv, y, loss)
            adv = keep(adv + sign * (step(g, eps, steps, step_size) if step else step_size * g.sign()), x, eps)
        return finish(adv, x, eps) if finish else adv

    return answer


def around_the_last_point(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        new = adv + sign * step_size * gradient(model, adv, y).sign()
        adv = into_both(new, adv, eps)
    return adv


def always_from_x(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        adv = into_both(x + sign * step_size * gradient(model, adv, y).sign(), x, eps)
    return adv


def return_in_the_loop(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        return into_both(adv + sign * step_size * gradient(model, adv, y).sign(), x, eps)


def random_start(model, x, y, eps, steps, step_size, sign=1):
    return pgd_reference(model, (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1), y, eps, steps, step_size, sign)


def stop_when_done(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        done = (fooled_by(model, adv, y) == (sign > 0)).view(-1, 1, 1, 1)
        adv = torch.where(done, adv, into_both(adv + sign * step_size * gradient(model, adv, y).sign(), x, eps))
    return adv


def relabelled(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        adv = into_both(adv + sign * step_size * gradient(model, adv, model(adv).argmax(1)).sign(), x, eps)
    return adv


def keeps_gradients(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        F.cross_entropy(model(adv), y).backward()
        adv = into_both(adv + sign * step_size * adv.grad.sign(), x, eps)
    return adv.detach()


def keeps_the_graph(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone().requires_grad_()
    for _ in range(steps):
        (g,) = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
        adv = into_both(adv + sign * step_size * g.sign(), x, eps)
    return adv


def switches_gradients_off(model, x, y, eps, steps, step_size, sign=1):
    for _ in range(steps if (adv := x) is not None else 0):
        torch.set_grad_enabled(True)
        g = gradient(model, adv, y)
        torch.set_grad_enabled(False)
        adv = into_both(adv + sign * step_size * g.sign(), x, eps)
    return adv


def without_gradients(model, x, y, eps, steps, step_size, sign=1):
    with torch.no_grad():
        return pgd_reference(model, x, y, eps, steps, step_size, sign)


def changes_x(model, x, y, eps, steps, step_size, sign=1):
    centre = x.clone()
    for _ in range(steps):
        x += sign * step_size * gradient(model, x, y).sign()
        x.copy_(into_both(x, centre, eps))
    return x


def asks_gradients_of_x(model, x, y, eps, steps, step_size, sign=1):
    x.requires_grad_()
    return pgd_reference(model, x, y, eps, steps, step_size, sign).detach()


def changes_the_mode(model, x, y, eps, steps, step_size, sign=1):
    model.eval()
    return pgd_reference(model, x, y, eps, steps, step_size, sign)


def freezes_the_model(model, x, y, eps, steps, step_size, sign=1):
    model.requires_grad_(False)
    return pgd_reference(model, x, y, eps, steps, step_size, sign)


def forgets_the_detach(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        adv.requires_grad_()
        F.cross_entropy(model(adv), y).backward()
        adv = adv + sign * step_size * adv.grad.sign()
    return adv


def adds_gradients_up(model, x, y, eps, steps, step_size, sign=1):
    model, delta = copy.deepcopy(model), torch.zeros_like(x, requires_grad=True)
    for _ in range(steps):
        F.cross_entropy(model(x + delta), y).backward()
        with torch.no_grad():
            delta.copy_(into_both(x + delta + sign * step_size * delta.grad.sign(), x, eps) - x)
    return (x + delta).detach()


def breaks_when_all_are_done(model, x, y, eps, steps, step_size, sign=1):
    adv = x.clone()
    for _ in range(steps):
        adv = into_both(adv + sign * step_size * gradient(model, adv, y).sign(), x, eps)
        if (fooled_by(model, adv, y) == (sign > 0)).all():
            break
    return adv


def loops_while_some_are_left(model, x, y, eps, steps, step_size, sign=1):
    adv, taken = x.clone(), 0
    while taken < steps and (fooled_by(model, adv, y) != (sign > 0)).any():
        adv = into_both(adv + sign * step_size * gradient(model, adv, y).sign(), x, eps)
        taken += 1
    return adv


def keeps_the_last_that_fools(model, x, y, eps, steps, step_size, sign=1):
    adv, kept = x.clone(), x.clone()
    for _ in range(steps):
        adv = into_both(adv + sign * step_size * gradient(model, adv, y).sign(), x, eps)
        done = fooled_by(model, adv, y) == (sign > 0)
        kept[done] = adv[done]
    return kept


def keeps_the_best(model, x, y, eps, steps, step_size, sign=1):
    adv, kept, best = x.clone(), x.clone(), torch.full((len(x),), -torch.inf)
    for _ in range(steps):
        adv = into_both(adv + sign * step_size * gradient(model, adv, y).sign(), x, eps)
        loss = sign * F.cross_entropy(model(adv), y, reduction="none").detach()
        kept[loss > best], best = adv[loss > best], loss.maximum(best)
    return kept


def in_training_mode(model, x, y, eps, steps, step_size, sign=1):
    adv = pgd_reference(model, x, y, eps, steps, step_size, sign)
    model.train()
    return adv


def of_the_logit(sign):
    return steps_of(sign, loss=lambda z, y: -z.gather(1, y[:, None]).sum())


def wrong_paths(sign):
    """What can go wrong in any attack of projected steps; sign is the right direction."""

    def signed(path):
        return lambda *args: path(*args, sign=sign)

    def go(**keywords):
        return steps_of(sign, **keywords)

    right = signed(pgd_reference)
    return [
        ("x", lambda *args: args[1], ONE_STEP, "Nothing changed"),
        ("no return", lambda *args: None, LIKE_X, "End your function with return"),
        ("the change", lambda *args: right(*args) - args[1], ONE_STEP, "the change alone"),
        ("other direction", steps_of(-sign), ONE_STEP, "downhill" if sign > 0 else "less likely"),
        ("raw gradient", go(step=lambda g, e, s, a: a * g), ONE_STEP, "the gradient itself"),
        ("raw summed gradient", go(step=lambda g, e, s, a: a * g, loss=nn.CrossEntropyLoss(reduction="sum")), ONE_STEP, "the gradient itself"),
        ("unit gradient", go(step=lambda g, e, s, a: a * g / lengths(g)), ONE_STEP, "Euclidean"),
        ("steps of eps", go(step=lambda g, e, s, a: e * g.sign()), ONE_STEP, "You use eps"),
        ("one step of eps", go(step=lambda g, e, s, a: e * g.sign(), count=lambda steps: 1), ONE_STEP, "as in FGSM"),
        ("largest entry", go(step=lambda g, e, s, a: a * g / g.abs().amax((1, 2, 3), keepdim=True)), ONE_STEP, "largest entry"),
        ("sign by division", go(step=lambda g, e, s, a: a * g / g.abs()), NO_DIRECTION, "division by zero"),
        ("up or down", go(step=lambda g, e, s, a: a * torch.where(g > 0, 1.0, -1.0)), NO_DIRECTION, "its sign is 0, too"),
        ("eps / steps", go(step=lambda g, e, s, a: e / s * g.sign()), ONE_STEP, "You use eps"),
        ("2.5 eps / steps", go(step=lambda g, e, s, a: 2.5 * e / s * g.sign()), ONE_STEP, "You use eps"),
        ("eps times step_size", go(step=lambda g, e, s, a: e * a * g.sign()), ONE_STEP, "multiply it by eps"),
        ("no step_size", go(step=lambda g, e, s, a: g.sign(), keep=lambda new, x, eps: new.clamp(0, 1)), ONE_STEP, "forget to multiply by step_size"),
        ("own step_size", go(step=lambda g, e, s, a: 0.01 * g.sign()), ONE_STEP, "the step_size that is passed in"),
        ("prediction", go(labels=lambda model, x, y: model(x).argmax(1)), ONE_STEP, "own prediction"),
        ("prediction, other direction", steps_of(-sign, labels=lambda model, x, y: model(x).argmax(1)), ONE_STEP, "own prediction"),
        ("prediction in every step", signed(relabelled), ONE_STEP, "own prediction"),
        ("least likely", go(labels=lambda model, x, y: model(x).argmin(1)), ONE_STEP, "least likely"),
        ("softmax", go(loss=lambda z, y: F.cross_entropy(z.softmax(1), y)), ONE_STEP, "logits, not probabilities"),
        ("nll", go(loss=F.nll_loss), ONE_STEP, "log-probabilities"),
        ("random start", signed(random_start), ONE_STEP, "no randomness"),
        ("stops when done", signed(stop_when_done), ONE_STEP, "stop moving an image"),
        ("stale model", lambda model, *rest: right(MODEL, *rest), ONE_STEP, "reads MODEL from the notebook"),
        ("clamps adv to eps", go(keep=lambda new, x, eps: new.clamp(-eps, eps)), ONE_STEP, "ball around black"),
        ("one step too many", go(count=lambda steps: steps + 1), ONE_STEP, "one step too many"),
        ("one step too few", go(count=lambda steps: steps - 1), ONE_STEP, "one step too few"),
        ("one step too few, one at least", go(count=lambda steps: max(steps - 1, 1)), EVERY_STEP, "one step too few"),
        ("ten steps", go(count=lambda steps: 10), ONE_STEP, "the same for every steps"),
        ("one step", signed(return_in_the_loop), EVERY_STEP, "return stand inside the loop"),
        ("gradients add up", signed(adds_gradients_up), EVERY_STEP, "gradients add up"),
        ("breaks when all are done", signed(breaks_when_all_are_done), "", "end the loop as soon as"),
        ("loops while some are left", signed(loops_while_some_are_left), "", "end the loop as soon as"),
        ("last that fools", signed(keeps_the_last_that_fools), "", "last fooling" if sign > 0 else "last successful"),
        ("best of the path", signed(keeps_the_best), WITHIN, "keep the best point"),
        ("the library", lambda model, x, y, eps, steps, a: attacks.pgd(model, x, y, eps, steps=steps, step_size=a, random_start=False, targeted=sign < 0), WITHIN, "keep the best point"),
        ("loss on the logit", of_the_logit(sign), ONE_STEP, "the logit of"),
        ("up the logit", of_the_logit(-sign), ONE_STEP, "go the wrong way"),
        ("minus eps", lambda model, x, y, eps, steps, a: right(model, x, y, -eps, steps, a), ONE_STEP, "wrong way round"),
        ("training mode", signed(in_training_mode), NO_TRACE, "left it in training mode"),
        ("seeds", lambda *args: (torch.manual_seed(0), right(*args))[1], NO_TRACE, "neither draw nor seed"),
        ("stale gradient", go(stale=True), EVERY_STEP, "compute the gradient only once"),
        ("always from x", signed(always_from_x), EVERY_STEP, "starts at x again"),
        ("no ball", go(keep=lambda new, x, eps: new.clamp(0, 1)), WITHIN, "never put the image back"),
        ("no ball, no box", go(keep=lambda new, x, eps: new), WITHIN, "never put the image back"),
        ("around the last point", signed(around_the_last_point), WITHIN, "around the last point"),
        ("ball of two eps", go(keep=lambda new, x, eps: into_both(new, x, 2 * eps)), WITHIN, "twice as wide"),
        ("ball of its own", go(keep=lambda new, x, eps: into_both(new, x, 0.3)), WITHIN, "the eps that is passed in"),
        ("ball at the end", go(keep=lambda new, x, eps: new.clamp(0, 1), finish=into_both), WITHIN, "only after the last step"),
        ("both at the end", go(keep=lambda new, x, eps: new, finish=into_both), WITHIN, "only after the last step"),
        ("no box", go(keep=into_ball), "stays inside", "the ball comes .clamp(0, 1)"),
        ("box at the end", go(keep=into_ball, finish=into_both), "stays inside", "inside the loop"),
        ("half a box", go(keep=lambda new, x, eps: into_ball(new, x, eps).clamp_min(0)), "stays inside", ".clamp(0, 1)"),
        ("first image only", go(loss=lambda z, y: F.cross_entropy(z[:1], y[:1])), ONE_STEP, "images did not move"),
        ("batch", go(step=lambda g, e, s, a: a * (g - g.mean(0)).sign()), ONE_STEP, "Differentiate F.cross_entropy"),
        ("36 pixels", lambda model, x, *rest: right(model, x, *rest).view(-1, 36).view(-1, 1, 6, 6), OTHER, "x.shape"),
        ("784 pixels", lambda model, x, *rest: right(model, x.view(-1, 1, 28, 28), *rest), LIKE_X, "x.shape"),
        ("in place", signed(changes_x), NO_TRACE, "changed x in place"),
        ("requires_grad", signed(asks_gradients_of_x), NO_TRACE, "requires_grad or a .grad"),
        ("p.grad", signed(keeps_gradients), NO_TRACE, "gradients on the model's parameters"),
        ("mode", signed(changes_the_mode), NO_TRACE, "left it in evaluation mode"),
        ("frozen", signed(freezes_the_model), NO_TRACE, "cannot be trained any more"),
        ("no_grad left on", signed(switches_gradients_off), NO_TRACE, "gradients switched off"),
        ("graph", signed(keeps_the_graph), LIKE_X, ".detach()"),
        ("under no_grad", signed(without_gradients), LIKE_X, "without torch.no_grad()"),
        ("grad of a non-leaf", signed(forgets_the_detach), LIKE_X, "x.grad"),
        ("numpy", lambda *args: right(*args).numpy(), LIKE_X, "leave out .numpy()"),
        ("float64", lambda *args: right(*args).double(), LIKE_X, "Keep the type"),
        ("flat", lambda *args: right(*args).flatten(1), LIKE_X, "Keep the shape"),
        ("list", lambda *args: list(right(*args)), LIKE_X, "torch.stack"),
        ("tuple", lambda *args: (right(*args), 3), LIKE_X, "one tensor only"),
        ("other arguments", lambda model, x, y, eps: x, "takes the arguments", "Keep the first line"),
    ]  # fmt: skip


def pick(choose):
    """An answer that takes restart choose(fooled, losses)[i] for image i; fooled and losses are (R, N), and −1 means x."""

    def answer(model, x, y, restarts):
        fooled = torch.stack([fooled_by(model, adv, y) for adv in restarts])
        losses = torch.stack([F.cross_entropy(model(adv), y, reduction="none") for adv in restarts])
        which = torch.as_tensor(choose(fooled, losses)).expand(len(x))
        return torch.stack([*restarts, x])[which, torch.arange(len(x))].detach()

    return answer


def overwrite(mask, start=lambda x, restarts: x.clone()):
    """An answer that goes forwards and replaces what the mask says, from (answers, y, answers for x)."""

    def answer(model, x, y, restarts):
        best, own = start(x, restarts), model(x).argmax(1)
        for adv in restarts:
            replaced = mask(model(adv).argmax(1), y, own)
            best = torch.where(torch.as_tensor(replaced).view(-1, 1, 1, 1), adv, best)
        return best

    return answer


def forgets_what_was_fooled(model, x, y, restarts):
    best, before = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    for adv in restarts:
        now = fooled_by(model, adv, y)
        best[now & ~before] = adv[now & ~before]
        before = now
    return best


def first_that_is_not(wanted):
    def answer(model, x, y, restarts):
        best = x.clone()
        for adv in reversed(restarts):
            mask = model(adv).argmax(1) != wanted(model, x, y)
            best[mask] = adv[mask]
        return best

    return answer


def not_fooled(model, x, y, restarts):
    best = x.clone()
    for adv in reversed(restarts):
        mask = model(adv).argmax(1) == y
        best[mask] = adv[mask]
    return best


def starting_from(start):
    def answer(model, x, y, restarts):
        best = start(x, restarts).clone()
        for adv in reversed(restarts):
            fooled = fooled_by(model, adv, y)
            best[fooled] = adv[fooled]
        return best

    return answer


def all_or_nothing(reduce):
    def answer(model, x, y, restarts):
        for adv in restarts:
            if reduce(fooled_by(model, adv, y)):
                return adv
        return x

    return answer


def four_restarts(model, x, y, restarts):
    return keep_backwards(model, x, y, [restarts[i] for i in range(4)])


def write_into_best(model, x, y, restarts):
    best = x
    for adv in reversed(restarts):
        fooled = fooled_by(model, adv, y)
        best[fooled] = adv[fooled]
    return best


def write_into_the_last(model, x, y, restarts):
    right = keep_backwards(model, x, y, restarts)
    restarts[-1].copy_(right)
    return right


def pop_them(model, x, y, restarts):
    best = x.clone()
    while restarts:
        adv = restarts.pop()
        fooled = fooled_by(model, adv, y)
        best[fooled] = adv[fooled]
    return best


def byte_mask(model, x, y, restarts):
    best, done = x.clone(), torch.zeros(len(x), dtype=torch.uint8)
    for adv in restarts:
        new = ~done != 0  # 254 or 255, never 0
        best[new] = adv[new]
        done |= fooled_by(model, adv, y).byte()
    return best


def moved(point, step, x, eps):
    """The step, put back into ball and box."""
    change = point + step - x
    return (x + change * (eps / lengths(change).clamp_min(1e-30)).clamp(max=1)).clamp(0, 1)


def l2(direction, scale=lambda eps, step_size: step_size):
    """A step with another direction or length, and the right way back."""
    return lambda point, g, x, eps, step_size: moved(point, scale(eps, step_size) * direction(g), x, eps)


def back(limit):
    """The right step, with another way back into the ball: limit(change, eps)."""

    def answer(point, gradient, x, eps, step_size):
        step = step_size * gradient / lengths(gradient).clamp_min(1e-30)
        return (x + limit(point + step - x, eps)).clamp(0, 1)

    return answer


def guard(divide):
    return l2(lambda g: divide(g, lengths(g)))


def l2_in_place(point, gradient, x, eps, step_size):
    right = l2_reference(point, gradient, x, eps, step_size)
    gradient /= lengths(gradient).clamp_min(1e-30)
    return right


WRONG = {
    "project": [
        ("adv", lambda adv, x, eps: adv, IN_BALL, "comes back as it was"),
        ("x", lambda adv, x, eps: x, IN_BALL, "x itself"),
        ("box only", lambda adv, x, eps: adv.clamp(0, 1), IN_BALL, "into the ball as well"),
        ("ball only", into_ball, IN_BOX, "end with .clamp(0, 1)"),
        ("sign", lambda adv, x, eps: (x + eps * (adv - x).sign()).clamp(0, 1), IN_BALL, "do not take its sign"),
        ("around black", lambda adv, x, eps: adv.clamp(-eps, eps), IN_BALL, "ball around black"),
        ("around black, boxed", lambda adv, x, eps: adv.clamp(-eps, eps).clamp(0, 1), IN_BALL, "around black"),
        ("around itself", lambda adv, x, eps: adv.clamp(adv - eps, adv + eps).clamp(0, 1), IN_BALL, "around itself"),
        ("two eps", lambda adv, x, eps: into_both(adv, x, 2 * eps), IN_BALL, "twice as wide"),
        ("half eps", lambda adv, x, eps: into_both(adv, x, eps / 2), IN_BALL, "half as wide"),
        ("l2 ball", lambda adv, x, eps: attacks.project(adv, x, eps, norm="l2"), IN_BALL, "Euclidean ball"),
        ("l2 sphere", lambda adv, x, eps: (x + eps * (adv - x) / lengths(adv - x)).clamp(0, 1), IN_BALL, "Euclidean ball"),
        ("rescaled", lambda adv, x, eps: (x + eps * (adv - x) / (adv - x).abs().amax((1, 2, 3), keepdim=True)).clamp(0, 1), IN_BALL, "shrink the whole change"),
        ("rescaled batch", lambda adv, x, eps: (x + eps * (adv - x) / (adv - x).abs().max()).clamp(0, 1), IN_BALL, "shrink the whole change"),
        ("times eps", lambda adv, x, eps: (x + eps * (adv - x)).clamp(0, 1), IN_BALL, "multiply the change by eps"),
        ("min for max", lambda adv, x, eps: torch.max(torch.min(adv, x - eps), x + eps).clamp(0, 1), IN_BALL, "mixed up the two ends"),
        ("max for min", lambda adv, x, eps: torch.min(torch.max(adv, x + eps), x - eps).clamp(0, 1), IN_BALL, "mixed up the two ends"),
        ("above only", lambda adv, x, eps: (x + (adv - x).clamp(max=eps)).clamp(0, 1), IN_BALL, "both ends"),
        ("below only", lambda adv, x, eps: (x + (adv - x).clamp(min=-eps)).clamp(0, 1), IN_BALL, "both ends"),
        ("upwards only", lambda adv, x, eps: (x + (adv - x).clamp(0, eps)).clamp(0, 1), IN_BALL, "step down is lost"),
        ("the change", lambda adv, x, eps: (adv - x).clamp(-eps, eps), IN_BALL, "the change alone"),
        ("other way", lambda adv, x, eps: (x + (x - adv).clamp(-eps, eps)).clamp(0, 1), IN_BALL, "not x - adv"),
        ("added to adv", lambda adv, x, eps: (adv + (adv - x).clamp(-eps, eps)).clamp(0, 1), IN_BALL, "to x, not to adv"),
        ("back to x", lambda adv, x, eps: torch.where((adv - x).abs() > eps, x, adv).clamp(0, 1), IN_BALL, "may go as far as eps"),
        ("clipped change", lambda adv, x, eps: x + (adv - x).clamp(-eps, eps).clamp(0, 1), IN_BALL, "step down is lost"),
        ("half a box", lambda adv, x, eps: into_ball(adv, x, eps).clamp(max=1), IN_BOX, "both ends"),
        ("box of x", lambda adv, x, eps: into_ball(adv, x, eps).clamp(x.min().item() + 0.02, x.max().item() - 0.02).clamp(0, 1), IN_BALL, "nearest point of the ball"),
        ("own eps", lambda adv, x, eps: into_both(adv, x, 0.1), ANY_SIZE, "Use the eps that is passed in"),
        ("eps of the notebook", lambda adv, x, eps: into_both(adv, x, 5 * BUDGET), ANY_SIZE, "reads BUDGET from the notebook"),
        ("writes into adv", write_into_adv, NO_TRACE, "changed adv in place"),
        ("writes into x", write_into_x, NO_TRACE, "changed x in place"),
        ("no return", lambda adv, x, eps: None, LIKE_X, "End your function with return"),
        ("numpy", lambda adv, x, eps: into_both(adv, x, eps).numpy(), LIKE_X, "leave out .numpy()"),
        ("float64", lambda adv, x, eps: into_both(adv.double(), x, eps), LIKE_X, "Keep the type"),
        ("flat", lambda adv, x, eps: into_both(adv, x, eps).flatten(1), LIKE_X, "Keep the shape"),
        ("a number", lambda adv, x, eps: eps, LIKE_X, "Return a torch tensor"),
        ("if", lambda adv, x, eps: adv if (adv - x).abs() <= eps else x + eps, LIKE_X, "torch.where"),
    ],
    "pgd": [
        *wrong_paths(1),
        ("sign of the loss", steps_of(step=lambda g, e, s, a: a * g.abs().sign()), ONE_STEP, "Differentiate F.cross_entropy"),
        ("targeted", towards(pgd_reference), ONE_STEP, "downhill"),
    ],
    "targeted_pgd": [
        *wrong_paths(-1),
        ("pgd", pgd_reference, ONE_STEP, "Count your minus signs"),
        ("away from the prediction", steps_of(1, labels=lambda model, x, y: model(x).argmax(1)), ONE_STEP, "Use the target that was passed in"),
        ("two minus signs", steps_of(-1, loss=lambda z, t: -F.cross_entropy(z, t)), ONE_STEP, "less likely"),
    ],
    "keep_best": [
        ("x", lambda model, x, y, restarts: x.clone(), FOOLING, "no restart was kept"),
        ("most fooled", pick(lambda fooled, losses: fooled.sum(1).argmax()), FOOLING, "one that fools most"),
        ("highest mean loss", pick(lambda fooled, losses: losses.mean(1).argmax()), FOOLING, "highest mean loss"),
        ("highest loss", pick(lambda fooled, losses: losses.argmax(0)), FIRST, "restart with the highest loss"),
        ("last", pick(lambda fooled, losses: -2), FOOLING, "always take the last"),
        ("bytes", byte_mask, FOOLING, "always take the last"),
        ("first", pick(lambda fooled, losses: 0), FOOLING, "always take the first"),
        ("any", all_or_nothing(torch.any), FOOLING, "always take the first"),
        ("all", all_or_nothing(torch.all), FOOLING, "(.all())"),
        ("last that fools", overwrite(lambda got, y, own: got != y), FIRST, "backwards"),
        ("last that fools, else the last", overwrite(lambda got, y, own: got != y, lambda x, restarts: restarts[-1]), FIRST, "backwards"),
        ("inverted", not_fooled, FOOLING, "do not fool"),
        ("last inverted", overwrite(lambda got, y, own: got == y), FOOLING, "do not fool"),
        ("changed", first_that_is_not(lambda model, x, y: model(x).argmax(1)), ELSE_X, "the model's answer for x"),
        ("forgets", forgets_what_was_fooled, FIRST, "fooled so far"),
        ("else the last", starting_from(lambda x, restarts: restarts[-1]), ELSE_X, "not of the last restart"),
        ("else the first", starting_from(lambda x, restarts: restarts[0]), ELSE_X, "not of the first restart"),
        ("else black", starting_from(lambda x, restarts: torch.zeros_like(x)), ELSE_X, "Start from x.clone()"),
        ("one number of restarts", four_restarts, OTHER_COUNTS, "IndexError"),
        ("skips what is wrong already", lambda model, x, y, restarts: torch.where((model(x).argmax(1) == y).view(-1, 1, 1, 1), keep_backwards(model, x, y, restarts), x), ELSE_X, "gets wrong as it is"),
        ("argmax over the batch", lambda model, x, y, restarts: restarts[0][model(restarts[0]).argmax(0) != y], ONE_EACH, "shapes"),
        ("only what is fooled", lambda model, x, y, restarts: restarts[0][fooled_by(model, restarts[0], y)], ONE_EACH, "Keep the shape"),
        ("masks", lambda model, x, y, restarts: fooled_by(model, restarts[0], y), ONE_EACH, "Keep the shape"),
        ("list", lambda model, x, y, restarts: list(keep_backwards(model, x, y, restarts)), ONE_EACH, "torch.stack"),
        ("numpy", lambda model, x, y, restarts: keep_backwards(model, x, y, restarts).numpy(), ONE_EACH, "NumPy"),
        ("graph", lambda model, x, y, restarts: keep_backwards(model, x, y, restarts) + 0 * model(x).sum(), ONE_EACH, ".detach()"),
        ("restarts as a tensor", lambda model, x, y, restarts: restarts.amax(0), ONE_EACH, "list"),
        ("if", lambda model, x, y, restarts: restarts[0] if fooled_by(model, restarts[0], y) else x, ONE_EACH, "truth value"),
        ("no return", lambda model, x, y, restarts: None, ONE_EACH, "End your function with return"),
        ("writes into x", write_into_best, NO_TRACE, "changed x in place"),
        ("writes into a restart", write_into_the_last, NO_TRACE, "in place"),
        ("pops", pop_them, NO_TRACE, "left 0 entries in the list restarts"),
    ],
    "l2_pgd_step": [
        ("point", lambda point, g, x, eps, a: point, ALONG, "did not move"),
        ("x", lambda point, g, x, eps, a: x, ALONG, "x itself"),
        ("the change", lambda point, g, x, eps, a: l2_reference(point, g, x, eps, a) - x, ALONG, "the change alone"),
        ("from x", lambda point, g, x, eps, a: l2_reference(x, g, x, eps, a), ALONG, "starts at point"),
        ("downhill", l2(lambda g: -g / lengths(g)), ALONG, "against the gradient"),
        ("batch", l2(lambda g: g / g.norm()), ALONG, "length of the whole batch"),
        ("sign", l2(torch.sign), ALONG, "sign step"),
        ("short sign", l2(lambda g: g.sign() / g[0].numel() ** 0.5), ALONG, "proportions"),
        ("normalize", l2(F.normalize), ALONG, "flatten(1)"),
        ("raw", l2(lambda g: g), ALONG, "as it is"),
        ("squared", l2(lambda g: g / lengths(g) ** 2), ALONG, "square root"),
        ("l1", l2(lambda g: g / g.abs().sum((1, 2, 3), keepdim=True)), ALONG, "absolute values"),
        ("max", l2(lambda g: g / g.abs().amax((1, 2, 3), keepdim=True)), ALONG, "largest entry"),
        ("rows", l2(lambda g: g / g.norm(dim=-1, keepdim=True)), ALONG, "over all its pixels"),
        ("over the batch", l2(lambda g: g / g.norm(dim=0, keepdim=True)), ALONG, "over all its pixels"),
        ("eps", l2(lambda g: g / lengths(g), lambda eps, a: eps), ALONG, "step_size, not eps"),
        ("eps times step_size", l2(lambda g: g / lengths(g), lambda eps, a: eps * a), ALONG, "do not multiply it by eps"),
        ("no step_size", l2(lambda g: g / lengths(g), lambda eps, a: 1.0), ALONG, "step_size"),
        ("not broadcast", lambda point, g, x, eps, a: point + a * g / g.flatten(1).norm(dim=1), LIKE_X, "shapes"),
        ("no projection", back(lambda c, eps: c), REACH, "never put the image back"),
        ("sphere", back(lambda c, eps: eps * c / lengths(c)), ALONG, "surface of the ball"),
        ("pixels", back(lambda c, eps: c.clamp(-eps, eps)), REACH, "every single pixel"),
        ("batch ball", back(lambda c, eps: c * (eps / c.norm()).clamp(max=1)), REACH, "whole batch when you go back"),
        ("two eps", back(lambda c, eps: c * (2 * eps / lengths(c)).clamp(max=1)), REACH, "twice as wide"),
        ("clamp min", back(lambda c, eps: c * (eps / lengths(c)).clamp(min=1)), ALONG, "surface of the ball"),
        ("back to x", back(lambda c, eps: torch.where(lengths(c) > eps, torch.zeros_like(c), c)), REACH, "back to x"),
        ("times eps", back(lambda c, eps: eps * c), ALONG, "multiply the change by eps"),
        ("around point", lambda point, g, x, eps, a: moved(point, a * g / lengths(g).clamp_min(1e-30), point, eps), REACH, "ball around point"),
        ("root mean square", l2(lambda g: g / g.square().mean((1, 2, 3), keepdim=True).sqrt()), ALONG, "The length is the root of their sum"),
        ("all to the surface", back(lambda c, eps: c * eps / lengths(c) if (lengths(c) > eps).any() else c), REACH, "As soon as one image"),
        ("box before ball", lambda point, g, x, eps, a: x + (lambda c: c * (eps / lengths(c).clamp_min(1e-30)).clamp(max=1))((point + a * g / lengths(g).clamp_min(1e-30)).clamp(0, 1) - x), "stays inside", "First the ball, then the box"),
        ("no box", lambda point, g, x, eps, a: x + (lambda c: c * (eps / lengths(c).clamp_min(1e-30)).clamp(max=1))(point + a * g / lengths(g).clamp_min(1e-30) - x), "stays inside", ".clamp(0, 1)"),
        ("guard 1e-3", guard(lambda g, length: g / (length + 1e-3)), ALONG, "something tiny only"),
        ("guard 1e-10", guard(lambda g, length: g / (length + 1e-10)), SMALL, "something tiny only"),
        ("guard inside the root", guard(lambda g, length: g / (length**2 + 1e-30).sqrt()), SMALL, "something tiny only"),
        ("0/0", guard(lambda g, length: g / length), ZERO, "division by zero"),
        ("each channel", l2(lambda g: g / g.norm(dim=(2, 3), keepdim=True).clamp_min(1e-30)), OTHER, "all channels"),
        ("in place", l2_in_place, NO_TRACE, "changed gradient in place"),
        ("no return", lambda point, g, x, eps, a: None, LIKE_X, "End your function with return"),
        ("numpy", lambda *args: l2_reference(*args).numpy(), LIKE_X, "NumPy"),
        ("float64", lambda point, g, x, eps, a: l2_reference(point.double(), g, x, eps, a), LIKE_X, "Keep the type"),
        ("flat", lambda *args: l2_reference(*args).flatten(1), LIKE_X, "Keep the shape"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name} {case[0]}") for name, cases in WRONG.items() for case in cases],
)
def test_wrong_answers_are_refused_with_the_right_hint(name, case):
    assert_refused(name, *case[1:])


def test_every_exercise_has_answers_on_trial():
    ours = {name: getattr(checker, "__self__", None) for name, (checker, _) in engine._CHECKERS.items()}
    here = {name for name, of in ours.items() if of is not None and of.reference.__module__ == pgd.__name__}
    assert set(RIGHT) == set(WRONG) == here
    assert min(map(len, WRONG.values())) >= 8
    assert min(map(len, RIGHT.values())) >= 4


@pytest.mark.parametrize("name", list(RIGHT))
def test_a_stub_is_not_attempted(name):
    def stub(*args):
        raise NotImplementedError()

    assert check(name, stub, strict=True).status == "not attempted"


def test_checks_do_not_depend_on_the_notebooks_settings(odd_settings):
    assert all(check(name, answers[0]) for name, answers in RIGHT.items())


@pytest.mark.parametrize(("name", "sign"), [("pgd", 1), ("targeted_pgd", -1)])
def test_rounding_decides_nothing(name, sign):
    @fork_rng([])
    def noisy(model, x, y, eps, steps, step_size):
        adv = x
        for _ in range(steps):
            g = gradient(model, adv, y)
            g = torch.where(g == 0, g, with_noise(g))  # a weight of 0 makes a gradient of 0 in any precision
            adv = into_both(adv + sign * step_size * g.sign(), x, eps)
        return adv

    assert_passes(name, noisy)
