"""Answers to the exercises of chapters 10 and 11, by readers who had not seen the checks."""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong
from course_utils import attacks


def slope(model, x, y, reduction="sum"):
    """Return the gradient of the cross-entropy with respect to x, and touch nothing else."""
    leaf = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction=reduction), leaf)
    return g


# FGSM in levels ------------------------------------------------------------------------------------------------------


def to_8_bits(adv):
    return (adv * 255).round() / 255


@right("fgsm_in_levels")
def whole_numbers_all_the_way(model, x, y, levels):
    pixels = (x.detach() * 255).round().long()
    pixels += int(levels) * slope(model, x, y).sign().long()
    return pixels.clamp_(0, 255).to(x.dtype).div_(255)


@right("fgsm_in_levels")
def backward_to_the_image_only(model, x, y, levels):
    leaf = torch.nn.Parameter(x.detach().clone())
    torch.nn.CrossEntropyLoss(reduction="sum")(model(leaf), y).backward(inputs=[leaf])
    k = math.floor(levels)
    with torch.no_grad():
        leaf += k / 255 * torch.sgn(leaf.grad)
        leaf.clamp_(0, 1).mul_(255).round_().div_(255)
    return leaf.detach()


@right("fgsm_in_levels")
def table_of_levels(model, x, y, levels):
    table = torch.arange(256, dtype=x.dtype, device=x.device) / 255  # what a file can hold
    level, g = torch.round(255 * x.detach()).long(), slope(model, x, y)
    k = next(k for k in range(256) if k + 1 > levels or k == 255)
    up, down = (level + k).clamp(max=255), (level - k).clamp(min=0)
    return table[torch.where(g > 0, up, torch.where(g < 0, down, level))]


@right("fgsm_in_levels")
def arrays_of_16_bits(model, x, y, levels):
    twin = copy.deepcopy(model)
    leaf = x.detach().clone().requires_grad_()
    twin(leaf).log_softmax(1).gather(1, y[:, None]).sum().neg().backward()
    picture = np.rint(x.detach().cpu().numpy() * 255).astype(np.int16)
    picture += np.int16(levels // 1) * np.sign(leaf.grad.cpu().numpy()).astype(np.int16)
    return torch.from_numpy(np.clip(picture, 0, 255)).to(x) / 255


@wrong(
    "fgsm_in_levels",
    "byte cuts off instead of rounding, and some pixels are one level too dark",
    "Some pixels are one level too dark: .int()",
)
def cut_off(model, x, y, levels):
    adv = (x + int(levels) / 255 * slope(model, x, y).sign()).clamp(0, 1)
    return (adv * 255).byte().float() / 255


@wrong(
    "fgsm_in_levels",
    "the budget is not rounded down before the step, and rounding leaves it",
    "Rounding took the step out of the budget.",
)
def budget_not_rounded_down(model, x, y, levels):
    return to_8_bits((x + levels / 255 * slope(model, x, y).sign()).clamp(0, 1))


@wrong(
    "fgsm_in_levels",
    "a fraction of at least a half is rounded up to a whole level",
    "Rounding took the step out of the budget.",
)
def budget_rounded(model, x, y, levels):
    return to_8_bits((x + round(levels) / 255 * slope(model, x, y).sign()).clamp(0, 1))


@wrong(
    "fgsm_in_levels",
    "a budget below one level still moves every pixel by one",
    "Rounding took the step out of the budget.",
)
def at_least_one_level(model, x, y, levels):
    return to_8_bits((x + max(1, int(levels)) / 255 * slope(model, x, y).sign()).clamp(0, 1))


@wrong(
    "fgsm_in_levels",
    "bytes wrap around: white pixels become black and black ones white",
    "uint8 counts in a circle: 255 + 1 is 0, and 0",
)
def bytes_wrap_around(model, x, y, levels):
    picture = (255 * x).round().to(torch.uint8)
    step = (int(levels) * slope(model, x, y).sign()).to(torch.int16)
    return (picture + step).to(torch.uint8) / 255


@wrong(
    "fgsm_in_levels", "the picture is on a grid of 1/256 instead of 1/255", "The levels of the picture are k/255, not"
)
def grid_of_256(model, x, y, levels):
    adv = (x + int(levels) / 255 * slope(model, x, y).sign()).clamp(0, 1)
    return (adv * 256).round().clamp(max=256) / 256


@wrong("fgsm_in_levels", "the picture counts from 0 to 255", "That picture goes from 0 to 255. Divide it by")
def pixels_not_divided(model, x, y, levels):
    adv = (x + int(levels) / 255 * slope(model, x, y).sign()).clamp(0, 1)
    return (255 * adv).round()


@wrong(
    "fgsm_in_levels", "pixels with a gradient of zero are made darker", "Where the gradient is 0, its sign is 0, and"
)
def zero_counts_as_negative(model, x, y, levels):
    up = slope(model, x, y) > 0
    return to_8_bits((x + int(levels) / 255 * (2 * up.to(x.dtype) - 1)).clamp(0, 1))


@wrong("fgsm_in_levels", "backward leaves a gradient on the model", "loss.backward() adds to every p.grad, and the")
def gradient_left_on_the_model(model, x, y, levels):
    leaf = x.clone().detach().requires_grad_(True)
    F.cross_entropy(model(leaf), y).backward()
    return to_8_bits((leaf + math.floor(levels) / 255 * leaf.grad.sign()).clamp(0, 1)).detach()


@wrong(
    "fgsm_in_levels",
    "the caller's x is left with requires_grad and a gradient",
    "A second call would add to that gradient.",
)
def gradient_left_on_the_image(model, x, y, levels):
    x.requires_grad_()
    F.cross_entropy(model(x), y, reduction="sum").backward(inputs=[x])
    return to_8_bits((x.detach() + math.floor(levels) / 255 * x.grad.sign()).clamp(0, 1))


# One step towards a target -------------------------------------------------------------------------------------------


def into_ball_and_box(adv, x, eps):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)


@right("targeted_step")
def bounds_of_every_pixel(model, x, target, adv, eps, step_size):
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    moved = adv.detach() - step_size * slope(model, adv, target).sign()
    return torch.maximum(torch.minimum(moved, high), low).detach()


@right("targeted_step")
def uphill_on_the_likelihood(model, x, target, adv, eps, step_size):
    leaf = adv.detach().clone().requires_grad_()
    likelihood = -F.nll_loss(F.log_softmax(model(leaf), 1), target, reduction="sum")
    likelihood.backward(inputs=[leaf])
    with torch.no_grad():
        leaf.add_(leaf.grad.sign(), alpha=step_size).sub_(x).clamp_(-eps, eps).add_(x).clamp_(0, 1)
    return leaf.detach()


@right("targeted_step")
def masks_up_and_down(model, x, target, adv, eps, step_size):
    g, new, x = slope(model, adv, target), adv.detach().clone(), x.detach()
    new[g > 0] -= step_size
    new[g < 0] += step_size
    new = torch.where(new > x + eps, x + eps, new)
    new = torch.where(new < x - eps, x - eps, new)
    new[new < 0], new[new > 1] = 0, 1
    return new


@right("targeted_step")
def clipped_in_numpy(model, x, target, adv, eps, step_size):
    twin = copy.deepcopy(model).requires_grad_(False)
    leaf = adv.detach().clone().requires_grad_()
    logits = twin(leaf)
    (logits.logsumexp(1) - logits[torch.arange(len(target)), target]).sum().backward()
    before, here = x.detach().cpu().numpy(), adv.detach().cpu().numpy()
    after = here - step_size * np.sign(leaf.grad.cpu().numpy())
    return torch.from_numpy(np.clip(np.clip(after, before - eps, before + eps), 0, 1)).to(x)


def step(model, x, target, adv, eps, step_size, at=None, loss=None, direction=torch.sign, centre=None):
    leaf = (adv if at is None else at).detach().clone().requires_grad_()
    loss = F.cross_entropy(model(leaf), target, reduction="sum") if loss is None else loss(model(leaf))
    (g,) = torch.autograd.grad(loss, leaf)
    return into_ball_and_box(adv - step_size * direction(g), x if centre is None else centre, eps).detach()


@wrong("targeted_step", "the step goes away from the target", "You walk uphill, and make the target less")
def away_from_the_target(model, x, target, adv, eps, step_size):
    return into_ball_and_box(adv + step_size * slope(model, adv, target).sign(), x, eps)


@wrong("targeted_step", "the ball is around adv instead of x", "The ball is around x, where the attack began")
def ball_around_adv(model, x, target, adv, eps, step_size):
    return step(model, x, target, adv, eps, step_size, centre=adv)


@wrong("targeted_step", "the gradient is taken at x instead of adv", "You take the gradient at x. The attack has")
def gradient_at_the_original(model, x, target, adv, eps, step_size):
    return step(model, x, target, adv, eps, step_size, at=x)


@wrong(
    "targeted_step",
    "the step starts from x, and forgets how far adv has come",
    "You start at x again. The step starts at adv",
)
def step_from_the_original(model, x, target, adv, eps, step_size):
    return into_ball_and_box(x - step_size * slope(model, adv, target).sign(), x, eps)


@wrong(
    "targeted_step",
    "the logit of the target is raised instead of lowering the cross-entropy",
    "You differentiate the logit of target alone",
)
def logit_of_the_target(model, x, target, adv, eps, step_size):
    return step(model, x, target, adv, eps, step_size, loss=lambda z: -z.gather(1, target[:, None]).sum())


@wrong(
    "targeted_step",
    "pictures that are taken for the target already are not moved",
    "You leave pictures as they are that the model",
)
def stops_at_the_target(model, x, target, adv, eps, step_size):
    new = step(model, x, target, adv, eps, step_size)
    with torch.no_grad():
        there = model(adv).argmax(1) == target
    new[there] = adv[there]
    return new


@wrong(
    "targeted_step",
    "the gradient is divided by its absolute value, which is NaN where it is zero",
    "Look for a division by zero, such as g /",
)
def gradient_over_its_absolute_value(model, x, target, adv, eps, step_size):
    return step(model, x, target, adv, eps, step_size, direction=lambda g: g / g.abs())


@wrong(
    "targeted_step",
    "a small constant in the denominator shortens the steps of small gradients",
    "You guard a division by the gradient's size",
)
def guarded_division(model, x, target, adv, eps, step_size):
    return step(model, x, target, adv, eps, step_size, direction=lambda g: g / (g.abs() + 1e-8))


@wrong("targeted_step", "the caller's adv is moved in place", "Whoever called you still needs the original")
def caller_s_adv_moved(model, x, target, adv, eps, step_size):
    g = slope(model, adv, target)
    adv -= step_size * g.sign()
    return into_ball_and_box(adv, x, eps)


@wrong("targeted_step", "pixels may leave [0, 1]", "You keep to the ball, but not to [0, 1]: end")
def not_clipped_to_the_box(model, x, target, adv, eps, step_size):
    return x + (adv - step_size * slope(model, adv, target).sign() - x).clamp(-eps, eps)


# The gradient of an expectation --------------------------------------------------------------------------------------


def loss_of(model, view, y, reduction="sum"):
    return F.cross_entropy(model(view), y, reduction=reduction)


@right("eot_gradient")
def one_backward_for_all_losses(model, x, y, transformation, samples):
    leaf = x.detach().clone().requires_grad_()
    losses = [loss_of(model, transformation(leaf), y) for _ in range(samples)]
    return torch.autograd.grad(torch.stack(losses).mean(), leaf)[0]


@right("eot_gradient")
def accumulated_on_purpose(model, x, y, transformation, samples):
    leaf = torch.nn.Parameter(x.detach().clone())
    for _ in range(samples):
        loss_of(model, transformation(leaf), y).backward(inputs=[leaf])
    return leaf.grad / samples


@right("eot_gradient")
def chain_rule_in_two_parts(model, x, y, transformation, samples):
    leaf = x.detach().clone().requires_grad_()
    mean = torch.zeros_like(leaf)
    for i in range(samples):
        view = transformation(leaf)
        (back,) = torch.autograd.grad(view, leaf, grad_outputs=slope(model, view, y))
        mean = mean + (back - mean) / (i + 1)
    return mean.detach()


@right("eot_gradient")
def gradients_stacked_in_numpy(model, x, y, transformation, samples):
    def one_draw():
        leaf = x.detach().clone().requires_grad_()
        likely = model(transformation(leaf)).log_softmax(1)
        return torch.autograd.grad(-likely[torch.arange(len(y)), y].sum(), leaf)[0].cpu().numpy()

    return torch.from_numpy(np.stack([one_draw() for _ in range(samples)]).mean(axis=0)).to(x)


def expectation(model, x, y, transformation, samples, reduction="sum", average=lambda g: g.mean(0), first=None):
    leaf, every = x.detach().clone().requires_grad_(), []
    for i in range(samples):
        view = leaf if i == first else transformation(leaf)
        every += torch.autograd.grad(loss_of(model, view, y, reduction), leaf)
    return average(torch.stack(every))


@wrong(
    "eot_gradient", "the gradient is with respect to the view instead of x", "That is the gradient with respect to the"
)
def gradient_of_the_view(model, x, y, transformation, samples):
    return torch.stack([slope(model, transformation(x), y) for _ in range(samples)]).mean(0)


@wrong(
    "eot_gradient",
    "one view is drawn before the loop, and used every time",
    "Only one view counts, the first. Every one of",
)
def one_view_for_all(model, x, y, transformation, samples):
    leaf, total = x.detach().clone().requires_grad_(), 0
    view = transformation(leaf)
    for _ in range(samples):
        total = total + torch.autograd.grad(loss_of(model, view, y), leaf, retain_graph=True)[0]
    return total / samples


@wrong("eot_gradient", "the loss is that of the mean logits", "You take one loss of the mean of the logits")
def loss_of_the_mean_logits(model, x, y, transformation, samples):
    leaf = x.detach().clone().requires_grad_()
    logits = sum(model(transformation(leaf)) for _ in range(samples)) / samples
    return torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), leaf)[0]


@wrong("eot_gradient", "the loss is that of the mean view", "You take one loss of the mean view. The")
def loss_of_the_mean_view(model, x, y, transformation, samples):
    leaf = x.detach().clone().requires_grad_()
    view = torch.stack([transformation(leaf) for _ in range(samples)]).mean(0)
    return torch.autograd.grad(loss_of(model, view, y), leaf)[0]


wrong("eot_gradient", "the gradient is divided by the number of images as well", "Each image has a loss of its own")(
    lambda model, x, y, transformation, samples: expectation(model, x, y, transformation, samples, "mean")
)
wrong(
    "eot_gradient",
    "the gradients are summed over the draws, not averaged",
    "You add the gradients up. Divide by samples",
)(lambda *given: expectation(*given, average=lambda g: g.sum(0)))
wrong("eot_gradient", "the mean is one of signs", "Return the gradient itself; its sign is for")(
    lambda *given: expectation(*given, average=lambda g: g.sign().mean(0))
)
wrong(
    "eot_gradient", "the first of the views is x itself, not a drawn one", "Call transformation once for every sample"
)(lambda *given: expectation(*given, first=0))


@wrong("eot_gradient", "each view is a view of the view before, not of x", "Every sample starts at x itself: do not")
def views_of_views(model, x, y, transformation, samples):
    leaf = x.detach().clone().requires_grad_()
    view, loss = leaf, 0
    for _ in range(samples):
        view = transformation(view)
        loss = loss + loss_of(model, view, y) / samples
    return torch.autograd.grad(loss, leaf)[0]


@wrong(
    "eot_gradient",
    "backward leaves the sum of all draws' gradients on the model",
    "loss.backward() adds to every p.grad, and the",
)
def gradients_left_on_the_model(model, x, y, transformation, samples):
    leaf = x.detach().clone().requires_grad_()
    for _ in range(samples):
        (loss_of(model, transformation(leaf), y) / samples).backward()
    return leaf.grad


# What survives a JPEG file -------------------------------------------------------------------------------------------


def ascend(gradient, x, eps, steps=40, length=0.1):
    adv = x.detach().clone()
    for _ in range(steps):
        adv = into_ball_and_box(adv + length * eps * gradient(adv).sign(), x.detach(), eps)
    return adv


@right("survive_jpeg")
def gradient_through_the_file(model, x, y, eps):
    def through(adv):
        leaf = adv.clone().requires_grad_()
        return torch.autograd.grad(loss_of(model, attacks.jpeg(leaf, 75), y), leaf)[0]

    return ascend(through, x, eps)


@right("survive_jpeg")
def gradient_at_the_file_with_momentum(model, x, y, eps):
    x = x.detach()
    adv, best, velocity = x.clone(), x.clone(), torch.zeros_like(x)
    with torch.no_grad():
        highest = F.cross_entropy(model(attacks.jpeg(x, 75)), y, reduction="none")
    for i in range(50):
        g = slope(model, attacks.jpeg(adv, 75), y)
        velocity = 0.8 * velocity + g / g.flatten(1).abs().mean(1).clamp_min(1e-20).view(-1, 1, 1, 1)
        adv = torch.min(torch.max(adv + eps * (1 - i / 50) / 4 * velocity.sign(), x - eps), x + eps).clamp(0, 1)
        with torch.no_grad():
            loss = F.cross_entropy(model(attacks.jpeg(adv, 75)), y, reduction="none")
        best[loss > highest], highest = adv[loss > highest], torch.maximum(loss, highest)
    return best


@right("survive_jpeg")
def attack_behind_a_blur(model, x, y, eps):
    ramp = torch.tensor([1.0, 4, 6, 4, 1], dtype=x.dtype, device=x.device) / 16

    def blurred(t):
        c = t.shape[1]
        for _ in range(3):
            t = F.conv2d(F.pad(t, (2, 2, 2, 2), mode="replicate"), (ramp[:, None] * ramp).expand(c, 1, 5, 5), groups=c)
        return t

    def behind(adv):
        leaf = adv.clone().requires_grad_()
        return torch.autograd.grad(loss_of(model, blurred(leaf), y), leaf)[0]

    return ascend(behind, x, eps)


@right("survive_jpeg")
def adam_on_a_squashed_change(model, x, y, eps):
    x = x.detach()
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    free = torch.zeros_like(x).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        adv = low + (high - low) * free.sigmoid()
        seen = adv + (attacks.jpeg(adv.detach(), 75) - adv).detach()
        (-loss_of(model, seen, y)).backward(inputs=[free])
        optimizer.step()
    return (low + (high - low) * free.sigmoid()).detach().clamp(low, high)


def through_file(model, y, quality=75):
    return lambda adv: slope(model, attacks.jpeg(adv, quality), y)


@wrong("survive_jpeg", "plain PGD, whose change is too fine for JPEG", "Your change is too fine for JPEG, which keeps")
def plain_pgd(model, x, y, eps):
    return ascend(lambda adv: slope(model, adv, y), x, eps)


@wrong(
    "survive_jpeg",
    "PGD's finished change is blurred, and nothing of it is left",
    "Too few fool the model, even without JPEG",
)
def blurred_afterwards(model, x, y, eps):
    change = plain_pgd(model, x, y, eps) - x
    return into_ball_and_box(x + F.avg_pool2d(change, 5, 1, 2, count_include_pad=False), x, eps)


@wrong(
    "survive_jpeg", "the steps go downhill, and make the pictures safer", "Too few fool the model, even without JPEG"
)
def downhill_through_the_file(model, x, y, eps):
    return ascend(lambda adv: -slope(model, attacks.jpeg(adv, 75), y), x, eps)


@wrong(
    "survive_jpeg",
    "the picture after the file is returned, which may leave the ball",
    "What you return keeps to the budget: the ball",
)
def picture_after_the_file(model, x, y, eps):
    return attacks.jpeg(ascend(through_file(model, y), x, eps), 75)


@wrong(
    "survive_jpeg",
    "the attack starts from the picture after JPEG, and its ball is around that",
    "What you return keeps to the budget: the ball",
)
def ball_around_the_file(model, x, y, eps):
    return ascend(lambda adv: slope(model, adv, y), attacks.jpeg(x, 75), eps)


@wrong(
    "survive_jpeg",
    "the ball is around the last picture, and moves along",
    "What you return keeps to the budget: the ball",
)
def ball_moves_along(model, x, y, eps):
    adv = x.clone()
    for _ in range(40):
        adv = into_ball_and_box(adv + eps / 10 * slope(model, attacks.jpeg(adv, 75), y).sign(), adv, eps)
    return adv


@wrong("survive_jpeg", "pixels may leave [0, 1]", "There is nothing blacker than 0 or whiter")
def no_box(model, x, y, eps):
    delta = torch.zeros_like(x)
    for _ in range(40):
        delta = (delta + eps / 10 * slope(model, attacks.jpeg((x + delta).clamp(0, 1), 75), y).sign()).clamp(-eps, eps)
    return x + delta


@wrong(
    "survive_jpeg",
    "eps is taken for a number of levels and divided by 255",
    "You divide eps by 255. It is in pixels in [0",
)
def eps_divided_by_255(model, x, y, eps):
    return ascend(through_file(model, y), x, eps / 255)


@wrong(
    "survive_jpeg",
    "the change has an L2 norm of eps instead of a largest value of eps, and is far too small",
    "Too few fool the model, even without JPEG",
)
def ball_in_l2(model, x, y, eps):
    adv = x.clone()
    for _ in range(40):
        delta = adv + eps / 10 * slope(model, attacks.jpeg(adv, 75), y).sign() - x
        norm = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        adv = (x + delta * (eps / norm.clamp_min(1e-12)).clamp(max=1)).clamp(0, 1)
    return adv


@wrong(
    "survive_jpeg",
    "the whole batch stops as soon as its first picture fools the model after the file",
    "Too few fool the model, even without JPEG",
)
def stops_at_the_first(model, x, y, eps):
    adv = x.clone()
    for _ in range(40):
        adv = into_ball_and_box(adv + eps / 10 * slope(model, attacks.jpeg(adv, 75), y).sign(), x, eps)
        with torch.no_grad():
            if (model(attacks.jpeg(adv, 75)).argmax(1) != y).any():
                break
    return adv
