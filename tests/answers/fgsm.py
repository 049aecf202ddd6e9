"""Answers to the exercises of chapter 02, by readers who had not seen the checks."""

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def log_odds(z, y):
    others = z.masked_fill(F.one_hot(y, z.shape[1]).bool(), -torch.inf)
    return (others.logsumexp(1) - z.gather(1, y[:, None]).squeeze(1)).sum()


def log_of_softmax(z, y):
    return F.nll_loss(torch.log(torch.softmax(z, dim=1)), y)


# ---------------------------------------------------------------- targeted_fgsm


def targeted(model, x, target, eps, loss=F.cross_entropy, factor=-1):
    return (x.detach() + factor * eps * gradient(model, x, target, loss).sign()).clamp(0, 1)


@right("targeted_fgsm")
def uphill_for_the_log_probability(model, x, target, eps):
    adv = x.detach().clone().requires_grad_()
    wanted = F.log_softmax(model(adv), dim=1)[torch.arange(len(x)), target].sum()
    (g,) = torch.autograd.grad(wanted, adv)
    return (adv + eps * g.sign()).detach().clamp(0, 1)


@right("targeted_fgsm")
def differences_of_logits(model, x, target, eps):
    def rivals(z, t):
        return torch.logsumexp(z - z.gather(1, t.view(-1, 1)), dim=1).sum()

    return targeted(model, x, target, eps, rivals)


@right("targeted_fgsm")
def optimiser_step_on_signs(model, x, target, eps):
    adv = torch.nn.Parameter(x.detach().clone())
    adv.grad = torch.autograd.grad(F.cross_entropy(model(adv), target), adv)[0].sign()
    torch.optim.SGD([adv], lr=eps).step()
    return adv.detach().clamp_(0, 1)


@right("targeted_fgsm")
def masks_for_brighter_and_darker(model, x, target, eps):
    _, pull = torch.func.vjp(lambda images: F.cross_entropy(model(images), target), x.detach())
    (g,) = pull(torch.ones((), dtype=x.dtype))
    out = x.detach().clone()
    out[g < 0] += eps
    out[g > 0] -= eps
    return torch.minimum(torch.maximum(out, torch.zeros_like(out)), torch.ones_like(out))


wrong("targeted_fgsm", "the step leads away from the target", "Your step makes the target less likely: it")(
    lambda model, x, target, eps: targeted(model, x, target, eps, factor=1)
)
wrong(
    "targeted_fgsm",
    "only the target's logit rises, whatever the others do",
    "You differentiate the logit of target alone",
)(lambda model, x, target, eps: targeted(model, x, target, eps, F.nll_loss))


@wrong("targeted_fgsm", "two minus signs cancel", "Your step makes the target less likely: it")
def minus_twice(model, x, target, eps):
    adv = x.clone().requires_grad_()
    loss = -F.cross_entropy(model(adv), target)
    (g,) = torch.autograd.grad(loss, adv)
    return (x - eps * g.sign()).clamp(0, 1)


@wrong(
    "targeted_fgsm", "the log of a probability that rounds to zero makes NaN", "Where a probability rounds to 0, its"
)
def log_of_a_zero_probability(model, x, target, eps):
    return targeted(model, x, target, eps, log_of_softmax)


@wrong(
    "targeted_fgsm", "away from the model's answer, the target is not used", "You use the model's own prediction as the"
)
def ignores_the_target(model, x, target, eps):
    answer = model(x).argmax(1)
    return targeted(model, x, answer, eps, factor=1)


@wrong(
    "targeted_fgsm",
    "images that are read as the target already stay where they are",
    "You leave images as they are because of what",
)
def only_those_not_there_yet(model, x, target, eps):
    adv = targeted(model, x, target, eps)
    there = model(x).argmax(1) == target
    adv[there] = x[there]
    return adv


@wrong(
    "targeted_fgsm",
    "the step is clipped instead of the image, so no pixel gets darker",
    "Every step down is lost: a pixel may get",
)
def clipped_step(model, x, target, eps):
    step = -eps * gradient(model, x, target).sign()
    return x + step.clamp(0, 1)


@wrong("targeted_fgsm", "all images go to the first target", "You use the target of the first image for all")
def first_target_for_all(model, x, target, eps):
    return targeted(model, x, torch.full_like(target, target[0].item()), eps)


@wrong("targeted_fgsm", "x keeps its .grad, and a second call adds to it", "A second call would add to that gradient.")
def accumulating(model, x, target, eps):
    x.requires_grad_()
    F.cross_entropy(model(x), target).backward(inputs=[x])
    return (x - eps * x.grad.sign()).detach().clamp(0, 1)


@wrong("targeted_fgsm", "the clean image is changed in place", "Whoever called you still needs the original")
def moves_x_itself(model, x, target, eps):
    g = gradient(model, x, target)
    return x.data.sub_(eps * g.sign()).clamp_(0, 1)


# ---------------------------------------------------------------- l2_step


def per_image(lengths):
    return lengths.view(-1, 1, 1, 1)


def lengths_of(g, p=2):
    return g.flatten(1).norm(p=p, dim=1)


@wrong("l2_step", "the length of a tiny gradient rounds to 0", "by its largest entry first")
def guarded_length(model, x, y, eps):
    g = gradient(model, x, y, lambda z, y: F.cross_entropy(z, y, reduction="sum"))
    return (x + eps * g / per_image(lengths_of(g).clamp_min(1e-30))).clamp(0, 1)


@right("l2_step")
def moves_only_where_there_is_a_gradient(model, x, y, eps):
    g, out = gradient(model, x, y).double(), x.detach().clone()
    for i, one in enumerate(g):
        if one.any():
            out[i] += (eps * one / one.square().sum().sqrt()).to(out)
    return out.clamp_(0, 1)


@right("l2_step")
def largest_entry_first(model, x, y, eps):
    g = torch.func.grad(lambda images: F.cross_entropy(model(images), y))(x.detach()).detach()
    g = g / g.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    return (x + eps * F.normalize(g.flatten(1), dim=1).view_as(x)).clamp(0, 1)


@right("l2_step")
def numpy_with_the_log_odds(model, x, y, eps):
    g = gradient(model, x, y, log_odds).numpy().astype(np.float64)
    length = np.sqrt(np.einsum("nchw,nchw->n", g, g))
    unit = g / np.where(length > 0, length, 1)[:, None, None, None]
    return torch.from_numpy(np.clip(x.detach().numpy() + eps * unit, 0, 1)).to(x.dtype)


@wrong("l2_step", "one length for the whole batch", "You divide by the length of the whole batch")
def length_of_the_batch(model, x, y, eps):
    g = gradient(model, x, y)
    return (x + eps * g / g.norm().clamp_min(1e-30)).clamp(0, 1)


@wrong(
    "l2_step",
    "F.normalize without dim divides by the length over the channels, pixel by pixel",
    "That is FGSM's sign step: with d pixels its",
)
def normalised_over_channels(model, x, y, eps):
    return (x + eps * F.normalize(gradient(model, x, y))).clamp(0, 1)


@wrong("l2_step", "an image with a zero gradient becomes NaN", "Look for a division by zero, such as g /")
def zero_over_zero(model, x, y, eps):
    g = gradient(model, x, y)
    return (x + eps * g / per_image(lengths_of(g))).clamp(0, 1)


@wrong("l2_step", "an image with a zero gradient becomes black", "Without a gradient there is no direction")
def nan_to_black(model, x, y, eps):
    g = gradient(model, x, y)
    return torch.nan_to_num(x + eps * g / per_image(lengths_of(g))).clamp(0, 1)


@wrong(
    "l2_step",
    "the guard of 1e-6 is added to the length and eats small gradients",
    "Your guard changes a small gradient",
)
def guard_added(model, x, y, eps):
    g = gradient(model, x, y)
    return (x + eps * g / (per_image(lengths_of(g)) + 1e-6)).clamp(0, 1)


@wrong("l2_step", "the direction is the sign of the gradient", "That has the right length, but the sign")
def sign_of_the_right_length(model, x, y, eps):
    s = gradient(model, x, y).sign()
    return (x + eps * s / per_image(lengths_of(s).clamp_min(1e-30))).clamp(0, 1)


@wrong(
    "l2_step",
    "the gradient is shortened to eps, but a shorter one is not stretched",
    "Differentiate F.cross_entropy of model(x) and",
)
def shortened_only(model, x, y, eps):
    g = gradient(model, x, y)
    factor = (eps / lengths_of(g).clamp_min(1e-30)).clamp(max=1)
    return (x + per_image(factor) * g).clamp(0, 1)


@wrong(
    "l2_step", "one image with a zero gradient stops the whole batch", "One image without a gradient stops the whole"
)
def nobody_moves(model, x, y, eps):
    g = gradient(model, x, y)
    length = lengths_of(g)
    if (length == 0).any():
        return x.clone()
    return (x + eps * g / per_image(length)).clamp(0, 1)


@wrong(
    "l2_step",
    "the result is stretched back to eps after clipping and leaves [0, 1]",
    "You stretch the step again after clipping.",
)
def stretched_after_clipping(model, x, y, eps):
    g = gradient(model, x, y)
    change = (x + eps * g / per_image(lengths_of(g).clamp_min(1e-30))).clamp(0, 1) - x
    return x + eps * change / per_image(lengths_of(change).clamp_min(1e-30))


@wrong("l2_step", "the root of the mean square is taken for the length", "You take the mean of the squares. The length")
def root_mean_square(model, x, y, eps):
    g = gradient(model, x, y)
    return (x + eps * g / per_image(g.flatten(1).square().mean(1).sqrt().clamp_min(1e-30))).clamp(0, 1)


# ---------------------------------------------------------------- success_rate


@torch.no_grad()
def is_right(model, x, y):
    return model(x).argmax(1) == y


@right("success_rate")
def answers_that_change_among_the_right_ones(model, x, adv, y):
    before, after = model(x).argmax(1), model(adv).argmax(1)
    return (before != after)[before == y].double().mean().item()


@right("success_rate")
def counters(model, x, adv, y):
    started = fooled = 0
    answers_before, answers_after = model(x).argmax(1).tolist(), model(adv).argmax(1).tolist()
    for before, after, label in zip(answers_before, answers_after, y.tolist(), strict=True):
        started += before == label
        fooled += before == label != after
    return fooled / started


@right("success_rate")
def survivors_taken_from_one(model, x, adv, y):
    with torch.inference_mode():
        start = model(x).topk(1).indices[:, 0].eq(y)
        stay = start & model(adv).topk(1).indices[:, 0].eq(y)
    return 1 - stay.sum().item() / start.sum().item()


@right("success_rate")
def weighted_average_in_numpy(model, x, adv, y):
    before, after = (np.argmax(model(images).detach().numpy(), axis=1) for images in (x, adv))
    return float(np.average(after != y.numpy(), weights=before == y.numpy()))


@wrong("success_rate", "divides by all images", "You count the right ones, but divide by all")
def share_of_all(model, x, adv, y):
    return (is_right(model, x, y) & ~is_right(model, adv, y)).float().mean().item()


@wrong(
    "success_rate",
    "images that were wrong from the start count above the bar",
    "You also count images that were wrong before",
)
def all_wrong_ones_above(model, x, adv, y):
    return ((~is_right(model, adv, y)).sum() / is_right(model, x, y).sum()).item()


@wrong(
    "success_rate",
    "the error rate after the attack, whatever was before",
    "That is the error rate after the attack, over",
)
def error_rate(model, x, adv, y):
    return 1 - is_right(model, adv, y).float().mean().item()


@wrong(
    "success_rate",
    "an image that the attack makes right is set off against one it makes wrong",
    "That is the drop of the accuracy, in which",
)
def relative_loss_of_accuracy(model, x, adv, y):
    before, after = is_right(model, x, y).float().mean(), is_right(model, adv, y).float().mean()
    return ((before - after) / before).item()


@wrong(
    "success_rate",
    "every changed answer counts, also from one wrong class to another",
    "You count changed answers among all images",
)
def changed_answers(model, x, adv, y):
    return (model(x).argmax(1) != model(adv).argmax(1)).float().mean().item()


@wrong(
    "success_rate",
    "the average of the rates of mini-batches, which hold different numbers of right images",
    "Select first the images that the model gets",
)
def average_over_batches(model, x, adv, y):
    rates = []
    for a, b, c in zip(x.split(4), adv.split(4), y.split(4), strict=True):
        start = is_right(model, a, c)
        if start.any():
            rates.append((~is_right(model, b, c))[start].float().mean().item())
    return sum(rates) / len(rates)


@wrong("success_rate", "whole numbers are divided without a rest", "Nothing counts as fooled: take one prediction")
def whole_division(model, x, adv, y):
    start = is_right(model, x, y)
    return float((start & ~is_right(model, adv, y)).sum() // start.sum())


@wrong(
    "success_rate",
    "one is added below the bar to be safe from a division by zero",
    "Divide by the number of images that were",
)
def one_too_many_below(model, x, adv, y):
    start = is_right(model, x, y)
    return (start & ~is_right(model, adv, y)).sum().item() / (start.sum().item() + 1)


@wrong(
    "success_rate",
    "only wrong answers with more than 50 % confidence count",
    "Nothing counts as fooled: take one prediction",
)
def sure_mistakes_only(model, x, adv, y):
    start = is_right(model, x, y)
    sure, answer = model(adv).softmax(1).max(1)
    return ((answer != y) & (sure > 0.5))[start].float().mean().item()


@wrong(
    "success_rate", "a model that came in training mode is left in eval mode", "Leave the mode alone, or switch it back"
)
def eval_mode_left_on(model, x, adv, y):
    model.eval()
    start = is_right(model, x, y)
    return (~is_right(model, adv, y))[start].float().mean().item()


# ---------------------------------------------------------------- what another reader tried


def _length_after(model, x, y, eps, by, guard):
    """Step along the gradient, divided by something of it and then by its length."""
    v = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(v), y, reduction="sum"), v)
    gradient = gradient / by(gradient).clamp_min(1e-37)
    length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (x + eps * gradient / length.clamp_min(guard)).clamp(0, 1)


@wrong("l2_step", "the largest entry of the batch is taken out first", "the largest entry of the whole batch first")
def largest_of_the_batch(model, x, y, eps):
    return _length_after(model, x, y, eps, lambda g: g.abs().max(), 1e-12)


@wrong("l2_step", "the largest entry is taken without its absolute value", "not by the largest size")
def largest_without_abs(model, x, y, eps):
    return _length_after(model, x, y, eps, lambda g: g.amax((1, 2, 3), keepdim=True), 1.0)


@wrong("log_odds", "classes tied with the label are left out, too", "Leave y out by its place")
def left_out_by_value(logits, y):
    return torch.stack([z[z != z[k]].logsumexp(0) - z[k] for z, k in zip(logits, y, strict=True)])


@wrong("log_odds", "a number stands in the place of the label's logit", "The logit of y still counts")
def minus_a_thousand(logits, y):
    others = logits.scatter(1, y[:, None], -1000.0)
    return others.logsumexp(1) - logits.gather(1, y[:, None]).squeeze(1)


@wrong("success_rate", "images that were wrong all along are counted, too", "among what you divide by")
def right_before_or_wrong_after(model, x, adv, y):
    before, after = (model(images).argmax(1) == y for images in (x, adv))
    return ((before | ~after).sum() / before.sum()).item()
