"""Answers to the exercises of chapters 03 and 04, by readers who had not seen the checks."""

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def into_ball_and_box(adv, x, eps):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)


# ---------------------------------------------------------------- project


@right("project")
def box_first(adv, x, eps):
    return torch.minimum(torch.maximum(adv.clamp(0, 1), x - eps), x + eps)


@right("project")
def middle_of_three(adv, x, eps):
    return torch.stack([adv, (x - eps).clamp_min(0), (x + eps).clamp_max(1)]).median(dim=0).values


@right("project")
def masks_on_a_copy(adv, x, eps):
    out = adv.clone()
    above, below = adv - x > eps, adv - x < -eps
    out[above], out[below] = x[above] + eps, x[below] - eps
    out[out < 0] = 0
    out[out > 1] = 1
    return out


@right("project")
def pixel_by_pixel(adv, x, eps):
    pairs = zip(adv.flatten().tolist(), x.flatten().tolist(), strict=True)
    values = [min(max(a, p - eps, 0.0), p + eps, 1.0) for a, p in pairs]
    return torch.tensor(values, dtype=adv.dtype).reshape(adv.shape)


@wrong("project", "pixels may leave [0, 1]", "The ball reaches beyond black and white: end")
def ball_only(adv, x, eps):
    return x + (adv - x).clamp(-eps, eps)


@wrong("project", "every changed pixel is pushed to the edge of the ball", "You move every pixel by the whole eps. One")
def sign_of_the_change(adv, x, eps):
    return (x + eps * (adv - x).sign()).clamp(0, 1)


@wrong(
    "project",
    "the whole image is shrunk until its largest change fits",
    "You shrink the whole change until its largest",
)
def shrunk(adv, x, eps):
    largest = (adv - x).abs().amax((1, 2, 3), keepdim=True)
    return (x + (adv - x) * (eps / largest.clamp_min(1e-30)).clamp(max=1)).clamp(0, 1)


@wrong(
    "project", "pixels outside the ball go back to x, not to the edge", "You take a pixel that went too far back to x."
)
def back_to_the_start(adv, x, eps):
    return torch.where((adv - x).abs() <= eps, adv, x).clamp(0, 1)


@wrong("project", "x is not subtracted before the change is clipped", "You clamp adv itself and add it to x. The")
def image_taken_for_the_change(adv, x, eps):
    return (x + adv.clamp(-eps, eps)).clamp(0, 1)


@wrong("project", "the change is limited upwards only", "Clamp the change at both ends, from −eps to")
def upper_side_only(adv, x, eps):
    return torch.clamp(torch.min(adv, x + eps), 0, 1)


@wrong(
    "project",
    "a batch inside the ball is returned without a look at the box",
    "You return adv as it is if all of its pixels",
)
def returns_early(adv, x, eps):
    if (adv - x).abs().max() <= eps:
        return adv
    return into_ball_and_box(adv, x, eps)


@wrong("project", "adv is changed in place", "Whoever called you still needs the original")
def in_place(adv, x, eps):
    return adv.sub_(x).clamp_(-eps, eps).add_(x).clamp_(0, 1)


@wrong("project", "an unchanged pixel becomes NaN", "Where adv and x agree, the change is 0, and")
def direction_times_length(adv, x, eps):
    change = adv - x
    return (x + change / change.abs() * change.abs().clamp(max=eps)).clamp(0, 1)


@wrong(
    "project",
    "the limits are the darkest and the brightest pixel of x, not each pixel",
    "The limits are those of each pixel of x, and",
)
def limits_of_the_whole_image(adv, x, eps):
    return adv.clamp(float(x.min()) - eps, float(x.max()) + eps).clamp(0, 1)


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
