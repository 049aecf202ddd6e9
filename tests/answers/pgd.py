"""Answers to the exercises of chapter 03, by readers who had not seen the checks.

Not so the answers to `project_l2`, and those that leave faults of `pgd`: who wrote the checks wrote them, too.
"""

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def into_ball_and_box(adv, x, eps):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)


# ---------------------------------------------------------------- project_l2


def as_rows(images):
    return images.flatten(1)


@right("project_l2")
def renorm_does_it(adv, x, eps):
    return (x + as_rows(adv - x).renorm(2, 0, eps).view_as(x)).clamp(0, 1)


@right("project_l2")
def only_those_outside(adv, x, eps):
    out = adv.clone()
    distance = torch.linalg.vector_norm(adv - x, dim=(1, 2, 3))
    outside = distance > eps
    scale = (eps / distance[outside])[:, None, None, None]
    out[outside] = x[outside] + scale * (adv[outside] - x[outside])
    return out.clip(0, 1)


@right("project_l2")
def image_after_image(adv, x, eps):
    ends = []
    for point, centre in zip(adv, x, strict=True):
        change = point - centre
        far = float((change**2).sum().sqrt())
        ends.append(centre + change * (eps / far) if far > eps else point)
    return torch.stack(ends).clamp(0, 1)


@right("project_l2")
def divided_by_what_is_too_long(adv, x, eps):
    change = adv - x
    too_long = (as_rows(change).norm(dim=1) / max(eps, 1e-37)).clamp(min=1).reshape(-1, 1, 1, 1)
    return (x + change / too_long).clamp(0, 1)


@right("project_l2")
def in_numpy_with_double_precision(adv, x, eps):
    centre = x.double().numpy()
    change = adv.double().numpy() - centre
    length = np.sqrt((change**2).sum(axis=(1, 2, 3), keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(length > eps, eps / length, 1.0)
    return torch.from_numpy(np.clip(centre + factor * change, 0, 1)).to(x.dtype)


@wrong("project_l2", "the max-norm ball of the chapter", "That is the max-norm ball, a limit for")
def clamped_pixel_by_pixel(adv, x, eps):
    return into_ball_and_box(adv, x, eps)


@wrong("project_l2", "pixels may leave [0, 1]", "You keep to the ball, but not to the box")
def without_the_box(adv, x, eps):
    change = adv - x
    length = change.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None, None]
    return x + change * (eps / length).clamp(max=1)


@wrong("project_l2", "an image inside is pushed to the surface", "You move every image to the surface")
def always_of_length_eps(adv, x, eps):
    change = adv - x
    return (x + eps * change / change.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]).clamp(0, 1)


@wrong("project_l2", "pushed to the surface, and an unmoved one is NaN", "You move every image to the surface")
def divides_by_zero(adv, x, eps):
    change = adv - x
    return (x + eps * change / change.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0, 1)


@wrong("project_l2", "one length for the batch", "You take one length for the whole batch")
def one_length_for_all(adv, x, eps):
    change = adv - x
    return (x + change * min(1.0, eps / max(change.norm().item(), 1e-30))).clamp(0, 1)


@wrong("project_l2", "all images shrink when one is outside", "As soon as one image has left the ball")
def all_or_none(adv, x, eps):
    change = adv - x
    length = change.flatten(1).norm(dim=1)[:, None, None, None]
    if bool((length > eps).any()):
        change = eps * change / length.clamp_min(1e-30)
    return (x + change).clamp(0, 1)


@wrong("project_l2", "an image outside goes back to x", "You take an image that left the ball back to x")
def back_to_the_centre(adv, x, eps):
    inside = (adv - x).flatten(1).norm(dim=1) <= eps
    return torch.where(inside[:, None, None, None], adv, x).clamp(0, 1)


@wrong("project_l2", "the squared length is compared with eps", "You compare the squared length with eps")
def forgets_the_root(adv, x, eps):
    change = adv - x
    squared = change.square().sum((1, 2, 3), keepdim=True)
    return (x + torch.where(squared > eps, eps * change / squared.sqrt().clamp_min(1e-30), change)).clamp(0, 1)


@wrong("project_l2", "the L1 length", "You take the sum of the absolute values")
def sum_of_absolutes(adv, x, eps):
    change = adv - x
    length = change.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-30)
    return (x + change * (eps / length).clamp(max=1)).clamp(0, 1)


@wrong("project_l2", "the image is shortened, not the change", "You shorten adv itself, which is a ball around")
def ball_around_black(adv, x, eps):
    length = adv.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None, None]
    return (adv * (eps / length).clamp(max=1)).clamp(0, 1)


@wrong("project_l2", "the box comes first", "You clip to [0, 1] before you shorten")
def box_before_the_ball(adv, x, eps):
    change = adv.clamp(0, 1) - x
    length = change.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None, None]
    return x + change * (eps / length).clamp(max=1)


@wrong("project_l2", "only the change comes back", "That is the change alone.")
def the_change_only(adv, x, eps):
    change = adv - x
    length = change.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None, None]
    return change * (eps / length).clamp(max=1)


@wrong("project_l2", "the norm over the width only", "over a part of the tensor")
def norm_of_the_last_dimension(adv, x, eps):
    change = adv - x
    return (x + change * (eps / change.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp(max=1)).clamp(0, 1)


@wrong("project_l2", "adv is changed in place", "Whoever called you still needs the original")
def writes_into_adv(adv, x, eps):
    adv -= x
    adv *= (eps / adv.flatten(1).norm(dim=1).clamp_min(1e-30)).clamp(max=1)[:, None, None, None]
    adv += x
    return adv.clamp_(0, 1)


@wrong("project_l2", "a number added to the length", "Your guard is so large that it shortens")
def generous_guard(adv, x, eps):
    change = adv - x
    return (x + change * (eps / (change.flatten(1).norm(dim=1) + 1e-3)).clamp(max=1)[:, None, None, None]).clamp(0, 1)


# ---------------------------------------------------------------- pgd


def walk(model, x, y, eps, steps, step_size, loss=F.cross_entropy):
    adv = x.detach().clone()
    for _ in range(steps):
        adv = into_ball_and_box(adv + step_size * gradient(model, adv, y, loss).sign(), x, eps)
    return adv


@right("pgd")
def the_change_is_the_variable(model, x, y, eps, steps, step_size):
    lower, upper = (-x).clamp_min(-eps), (1 - x).clamp_max(eps)
    delta = torch.zeros_like(x)
    for _ in range(steps):
        delta.requires_grad_()
        F.cross_entropy(model(x + delta), y, reduction="sum").backward(inputs=[delta])
        delta = (delta.detach() + step_size * delta.grad.sign()).clamp(lower, upper)
    return (x + delta).clamp(0, 1)


@right("pgd")
def optimiser_fed_with_signs(model, x, y, eps, steps, step_size):
    adv = x.detach().clone().requires_grad_()
    ascent = torch.optim.SGD([adv], lr=step_size, maximize=True)
    for _ in range(steps):
        adv.grad = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)[0].sign()
        ascent.step()
        with torch.no_grad():
            adv.copy_(torch.clamp(torch.clamp(adv, x - eps, x + eps), 0, 1))
    return adv.detach()


@right("pgd")
def image_by_image_in_recursion(model, x, y, eps, steps, step_size):
    def further(adv, image, label, left):
        if left == 0:
            return adv
        g = torch.func.grad(lambda z: F.cross_entropy(model(z), label))(adv).detach()
        return further(into_ball_and_box(adv + step_size * g.sign(), image, eps), image, label, left - 1)

    parts = zip(x.detach().split(1), y.split(1), strict=True)
    return torch.cat([further(image, image, label, steps) for image, label in parts])


@right("pgd")
def numpy_between_the_gradients(model, x, y, eps, steps, step_size):
    start = x.detach().cpu().numpy()
    lower, upper = np.maximum(start - eps, 0), np.minimum(start + eps, 1)
    adv = start.copy()
    for _ in range(steps):
        leaf = torch.tensor(adv, dtype=x.dtype, requires_grad=True)
        log_p = model(leaf).log_softmax(1).gather(1, y[:, None]).sum()
        adv = np.clip(adv - step_size * np.sign(torch.autograd.grad(log_p, leaf)[0].numpy()), lower, upper)
    return torch.as_tensor(adv, dtype=x.dtype)


@wrong("pgd", "the gradient is taken at x only, once", "You compute the gradient only once, at x.")
def one_gradient_for_all_steps(model, x, y, eps, steps, step_size):
    adv, g = x.clone(), gradient(model, x, y)
    for _ in range(steps):
        adv = into_ball_and_box(adv + step_size * g.sign(), x, eps)
    return adv


@wrong("pgd", "the centre of the ball moves along with the point", "You keep to a ball around the last point")
def ball_around_the_last_point(model, x, y, eps, steps, step_size):
    adv = x.clone()
    for _ in range(steps):
        adv = into_ball_and_box(adv + step_size * gradient(model, adv, y).sign(), adv, eps)
    return adv


@wrong("pgd", "ball and box come only once, after the last step", "You put the image back into the ball only")
def projected_at_the_end(model, x, y, eps, steps, step_size):
    adv = x.clone()
    for _ in range(steps):
        adv = adv + step_size * gradient(model, adv, y).sign()
    return into_ball_and_box(adv, x, eps)


@wrong("pgd", "the box comes only after the last step", "You keep to the ball, but not to [0, 1] in")
def clipped_at_the_end(model, x, y, eps, steps, step_size):
    adv = x.clone()
    for _ in range(steps):
        adv = x + (adv + step_size * gradient(model, adv, y).sign() - x).clamp(-eps, eps)
    return adv.clamp(0, 1)


@wrong("pgd", "one step too few", "You took one step too few: for _ in")
def one_step_too_few(model, x, y, eps, steps, step_size):
    adv = x.clone()
    for _ in range(1, steps):
        adv = into_ball_and_box(adv + step_size * gradient(model, adv, y).sign(), x, eps)
    return adv


@wrong("pgd", "an image stops as soon as it fools the model", "You stop moving an image as soon as the")
def stops_when_fooled(model, x, y, eps, steps, step_size):
    adv = x.clone()
    for _ in range(steps):
        todo = (model(adv).argmax(1) == y).view(-1, 1, 1, 1)
        adv = torch.where(todo, into_ball_and_box(adv + step_size * gradient(model, adv, y).sign(), x, eps), adv)
    return adv


@wrong("pgd", "the gradients of all steps add up in .grad", "Your gradients add up from step to step, as")
def gradients_add_up(model, x, y, eps, steps, step_size):
    adv = x.detach().clone().requires_grad_()
    for _ in range(steps):
        F.cross_entropy(model(adv), y).backward(inputs=[adv])
        adv.data = into_ball_and_box(adv.data + step_size * adv.grad.sign(), x, eps)
    return adv.detach()


@wrong(
    "pgd", "returns each image's point of highest loss, not the last one", "You keep the best point of the path. Here"
)
def best_point(model, x, y, eps, steps, step_size):
    adv, best = x.clone(), x.clone()
    top = F.cross_entropy(model(x), y, reduction="none").detach()
    for _ in range(steps):
        adv = into_ball_and_box(adv + step_size * gradient(model, adv, y).sign(), x, eps)
        loss = F.cross_entropy(model(adv), y, reduction="none").detach()
        best[loss > top], top = adv[loss > top], torch.maximum(loss, top)
    return best


@wrong("pgd", "adv is x itself, so x is changed and the centre moves", "Your function changes x itself while it")
def no_copy(model, x, y, eps, steps, step_size):
    adv = x
    for _ in range(steps):
        adv.data.add_(step_size * gradient(model, adv, y).sign())
        adv.data.copy_(into_ball_and_box(adv, x, eps))
    return adv


@wrong("pgd", "gradients are left on the parameters of the model", "loss.backward() adds to every p.grad, and the")
def backward_into_the_model(model, x, y, eps, steps, step_size):
    adv = x.clone().detach()
    for _ in range(steps):
        adv.requires_grad_()
        F.cross_entropy(model(adv), y).backward()
        adv = into_ball_and_box(adv.detach() + step_size * adv.grad.sign(), x, eps)
    return adv


def mended(model, x, y, eps, steps, step_size, softmax=False, stale=False, moving=False):
    """The attack of chapter 03 with some of its faults left."""
    adv = x.clone()
    for _ in range(steps):
        here = (x if stale else adv).clone().requires_grad_()
        logits = model(here)
        loss = F.cross_entropy(logits.softmax(1) if softmax else logits, y)
        (g,) = torch.autograd.grad(loss, here)
        step = step_size * g.sign()
        change = step.clamp(-eps, eps) if moving else (adv + step - x).clamp(-eps, eps)
        adv = ((adv if moving else x) + change).clamp(0, 1)
    return adv


@wrong("pgd", "handed in as it was given", "All three faults are left.")
def not_mended(*arguments):
    return mended(*arguments, softmax=True, stale=True, moving=True)


@wrong("pgd", "only the ball is mended", "Two of the three faults are left.")
def ball_mended(*arguments):
    return mended(*arguments, softmax=True, stale=True)


@wrong("pgd", "only the point of the gradient is mended", "Two of the three faults are left.")
def point_mended(*arguments):
    return mended(*arguments, softmax=True, moving=True)


@wrong("pgd", "only the loss is mended", "Two of the three faults are left.")
def loss_mended(*arguments):
    return mended(*arguments, stale=True, moving=True)


@wrong("pgd", "the loss still gets probabilities", "One of the three faults is left.")
def probabilities_left(*arguments):
    return mended(*arguments, softmax=True)


@wrong("pgd", "the gradient is still that at x", "One of the three faults is left.")
def old_gradient_left(*arguments):
    return mended(*arguments, stale=True)


@wrong("pgd", "each step is still limited, not the change", "One of the three faults is left.")
def step_limit_left(*arguments):
    return mended(*arguments, moving=True)


# ---------------------------------------------------------------- targeted_pgd


@right("targeted_pgd")
def my_pgd_with_a_negative_step(model, x, target, eps, steps, step_size):
    return walk(model, x, target, eps, steps, -step_size)


@right("targeted_pgd")
def my_pgd_on_the_log_probability(model, x, target, eps, steps, step_size):
    def wanted(z, t):
        return sum(F.log_softmax(row, dim=0)[k] for row, k in zip(z, t, strict=True))

    return walk(model, x, target, eps, steps, step_size, wanted)


@right("targeted_pgd")
def limits_worked_out_before(model, x, target, eps, steps, step_size):
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    adv, one_hot = x.detach().clone(), F.one_hot(target, model(x).shape[1]).to(x.dtype)
    while steps > 0:
        adv = adv.requires_grad_()
        (g,) = torch.autograd.grad(-(one_hot * F.log_softmax(model(adv), dim=-1)).sum(), adv)
        with torch.no_grad():
            adv = torch.max(torch.min(adv - step_size * g.sign(), high), low)
        steps -= 1
    return adv


@right("targeted_pgd")
def in_place_on_a_copy(model, x, target, eps, steps, step_size):
    adv = x.detach().clone()
    descent = torch.func.grad(lambda images: F.cross_entropy(model(images), target))
    for _ in range(steps):
        adv.sub_(descent(adv).detach().sign(), alpha=step_size)
        adv.clamp_(x - eps, x + eps).clamp_(0, 1)
    return adv


@wrong("targeted_pgd", "walks away from the target", "Your steps make the target less likely: they")
def uphill(model, x, target, eps, steps, step_size):
    return walk(model, x, target, eps, steps, step_size)


@wrong(
    "targeted_pgd",
    "only the target's logit rises, whatever the others do",
    "You differentiate the logit of target alone",
)
def target_logit_only(model, x, target, eps, steps, step_size):
    return walk(model, x, target, eps, steps, step_size, lambda z, t: z.gather(1, t[:, None]).sum())


@wrong("targeted_pgd", "the log of a probability that rounds to zero makes NaN", "Where a probability rounds to 0, its")
def log_of_a_zero_probability(model, x, target, eps, steps, step_size):
    return walk(model, x, target, eps, steps, -step_size, lambda z, t: F.nll_loss(z.softmax(1).log(), t))


@wrong("targeted_pgd", "each image stops when it has arrived", "You stop moving an image as soon as the")
def stops_on_arrival(model, x, target, eps, steps, step_size):
    adv = x.clone()
    for _ in range(steps):
        there = model(adv).argmax(1) == target
        new = into_ball_and_box(adv - step_size * gradient(model, adv, target).sign(), x, eps)
        new[there] = adv[there]
        adv = new
    return adv


@wrong("targeted_pgd", "eps and step_size are mixed up", "The step has the size step_size, and the ball")
def arguments_swapped(model, x, target, eps, steps, step_size):
    return walk(model, x, target, step_size, steps, -eps)


@wrong("targeted_pgd", "one step too many", "You took one step too many: for _ in")
def one_step_too_many(model, x, target, eps, steps, step_size):
    return walk(model, x, target, eps, steps + 1, -step_size)


@wrong("targeted_pgd", "the last step is not put back into ball and box", "You project before each step, so that the")
def projected_before_the_step(model, x, target, eps, steps, step_size):
    adv = x.clone()
    for _ in range(steps):
        adv = into_ball_and_box(adv, x, eps)
        adv = adv - step_size * gradient(model, adv, target).sign()
    return adv


@wrong(
    "targeted_pgd",
    "the gradients of earlier steps are remembered, as momentum",
    "In every step: the gradient at the point you",
)
def with_momentum(model, x, target, eps, steps, step_size):
    adv, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        g = gradient(model, adv, target)
        velocity += g / g.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
        adv = into_ball_and_box(adv - step_size * velocity.sign(), x, eps)
    return adv


@wrong("targeted_pgd", "the parameters stay frozen", "Switch it back before you return, or leave it")
def frozen(model, x, target, eps, steps, step_size):
    model.requires_grad_(False)
    return walk(model, x, target, eps, steps, -step_size)


@wrong(
    "targeted_pgd", "x, the first point, asks for a gradient afterwards", "A second call would add to that gradient."
)
def x_left_with_a_gradient(model, x, target, eps, steps, step_size):
    adv = x
    for _ in range(steps):
        adv.requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(adv), target), adv)
        adv = into_ball_and_box(adv - step_size * g.sign(), x, eps).detach()
    return adv


# ---------------------------------------------------------------- keep_best


def is_fooled(model, adv, y):
    with torch.no_grad():
        return model(adv).argmax(1) != y


@right("keep_best")
def image_by_image(model, x, y, restarts):
    fooled = [is_fooled(model, adv, y).tolist() for adv in restarts]
    return torch.stack(
        [next((adv[i] for adv, hits in zip(restarts, fooled, strict=True) if hits[i]), x[i]) for i in range(len(x))]
    )


@right("keep_best")
def index_of_the_first_hit(model, x, y, restarts):
    hits = torch.stack([is_fooled(model, adv, y) for adv in restarts] + [torch.ones_like(y, dtype=torch.bool)])
    return torch.stack([*restarts, x])[hits.int().argmax(0), torch.arange(len(x))]


@right("keep_best")
def folded_from_the_end(model, x, y, restarts):
    best = x
    for adv in restarts[::-1]:
        best = torch.where(is_fooled(model, adv, y).view(-1, 1, 1, 1), adv, best)
    return best.clone()


@right("keep_best")
def numpy_with_a_list_of_open_images(model, x, y, restarts):
    best, todo = x.detach().numpy().copy(), np.ones(len(x), dtype=bool)
    for adv in restarts:
        now = todo & (model(adv).detach().numpy().argmax(1) != y.numpy())
        best[now] = adv.detach().numpy()[now]
        todo &= ~now
    return torch.from_numpy(best)


@wrong("keep_best", "the last restart that fools wins", "A later restart replaces one that already")
def last_one_wins(model, x, y, restarts):
    best = x.clone()
    for adv in restarts:
        fooled = is_fooled(model, adv, y)
        best[fooled] = adv[fooled]
    return best


@wrong(
    "keep_best",
    "the batch that fools most images is returned as a whole",
    "You keep one whole batch, the one that fools",
)
def best_batch(model, x, y, restarts):
    return max(restarts, key=lambda adv: is_fooled(model, adv, y).sum().item()).clone()


@wrong(
    "keep_best",
    "an image that nothing fools comes back from the last restart",
    "Where no restart fools, return the image of",
)
def never_back_to_x(model, x, y, restarts):
    best = restarts[-1].clone()
    for adv in reversed(restarts):
        fooled = is_fooled(model, adv, y)
        best[fooled] = adv[fooled]
    return best


@wrong("keep_best", "x is overwritten", "Whoever called you still needs the original")
def writes_into_x(model, x, y, restarts):
    best = x
    for adv in reversed(restarts):
        fooled = is_fooled(model, adv, y)
        best[fooled] = adv[fooled]
    return best


@wrong(
    "keep_best",
    "only the images fooled by the restart before are left alone, not by all earlier ones",
    "You remember only the images that the last",
)
def forgets_who_is_done(model, x, y, restarts):
    best, done = x.clone(), torch.zeros_like(y, dtype=torch.bool)
    for adv in restarts:
        fooled = is_fooled(model, adv, y)
        best[fooled & ~done] = adv[fooled & ~done]
        done = fooled
    return best


@wrong("keep_best", "an image that is wrong without attack keeps its x", "You leave an image alone that the model gets")
def wrong_ones_count_as_done(model, x, y, restarts):
    best, done = x.clone(), is_fooled(model, x, y)
    for adv in restarts:
        new = is_fooled(model, adv, y) & ~done
        best[new], done = adv[new], done | new
    return best


@wrong("keep_best", "fooled is taken to mean another answer than for x", "You compare with the model's answer for x.")
def changed_answers(model, x, y, restarts):
    best, answer = x.clone(), model(x).argmax(1)
    for adv in reversed(restarts):
        fooled = is_fooled(model, adv, answer)
        best[fooled] = adv[fooled]
    return best


@wrong("keep_best", "stops at the first restart that fools any image", "You stop at the first restart that fools any")
def stops_at_the_first_success(model, x, y, restarts):
    best = x.clone()
    for adv in restarts:
        fooled = is_fooled(model, adv, y)
        best[fooled] = adv[fooled]
        if fooled.any():
            break
    return best


@wrong("keep_best", "the caller's list is turned round", "Whoever called you still needs it")
def list_reversed_in_place(model, x, y, restarts):
    best = x.clone()
    restarts.reverse()
    for adv in restarts:
        fooled = is_fooled(model, adv, y)
        best[fooled] = adv[fooled]
    return best


@wrong("keep_best", "the first restart is left out", "The first restart takes no part. Look at all")
def first_one_skipped(model, x, y, restarts):
    best = x.clone()
    for k in range(len(restarts) - 1, 0, -1):
        fooled = is_fooled(model, restarts[k], y)
        best[fooled] = restarts[k][fooled]
    return best


# ---------------------------------------------------------------- what another reader tried


def _last_point(model, x, y, eps, steps, step_size, loss, sign=1):
    adv = x.clone()
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(model(adv), y), adv)
        adv = (x + (adv + sign * step_size * slope.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return adv.detach()


@wrong("pgd", "the logarithm of a rounded probability", "Where a probability rounds to 0")
def logarithm_of_softmax(model, x, y, eps, steps, step_size):
    return _last_point(model, x, y, eps, steps, step_size, lambda z, y: F.nll_loss(z.softmax(1).log(), y))


@wrong("pgd", "a guard under the logarithm", "Where a probability rounds to 0")
def guarded_logarithm(model, x, y, eps, steps, step_size):
    return _last_point(model, x, y, eps, steps, step_size, lambda z, y: F.nll_loss((z.softmax(1) + 1e-12).log(), y))


@wrong("pgd", "the probability itself is made small", "Where a probability rounds to 0")
def minus_the_probability(model, x, y, eps, steps, step_size):
    return _last_point(model, x, y, eps, steps, step_size, lambda z, y: -z.softmax(1).gather(1, y[:, None]).sum())


@wrong("project_l2", "the length of each row of pixels", "over a part of the tensor")
def length_of_rows(adv, x, eps):
    change = adv - x
    return (x + change * (eps / change.norm(dim=3, keepdim=True).clamp_min(1e-30)).clamp(max=1)).clamp(0, 1)


@wrong("keep_best", "fooled means a probability below one half", "below one half")
def less_than_half(model, x, y, restarts):
    best = x.clone()
    for adv in reversed(restarts):
        fooled = model(adv).softmax(1).gather(1, y[:, None])[:, 0] < 0.5
        best[fooled] = adv[fooled]
    return best


@wrong("keep_best", "the best batch, and x where it fails", "one that fools most")
def best_batch_else_x(model, x, y, restarts):
    fooled = [model(adv).argmax(1) != y for adv in restarts]
    most = max(range(len(restarts)), key=lambda i: fooled[i].sum().item())
    return torch.where(fooled[most].view(-1, 1, 1, 1), restarts[most], x)


@right("project_l2")
def factor_at_most_one(adv, x, eps):
    change = adv - x
    return (x + change * (eps / change.flatten(1).norm(dim=1)).clamp(max=1).view(-1, 1, 1, 1)).clamp(0, 1)
