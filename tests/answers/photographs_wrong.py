# ruff: noqa: E501 (one line for each answer)
"""Wrong answers to the exercises of chapters 10 and 11 that none of their mistakes gives, and what the check says about them."""

import math

import torch
import torch.nn.functional as F

from answers.photographs_right import eot_summed, gradient, into_both, steps_behind
from course_utils import attacks


def moved(model, x, y, levels, direction=torch.sign):
    return x + math.floor(levels) / 255 * direction(gradient(model, x, y))


def with_gradients_on_the_model(model, x, y):
    x = x.clone().requires_grad_()
    F.cross_entropy(model(x), y, reduction="sum").backward()
    return x.grad


def strong_in_the_batch(g):
    return (g * (g.abs() > 0.02 * g.abs().max())).sign()


def in_place(model, x, y, levels):
    adv = moved(model, x, y, levels).clamp(0, 1)
    x += 1 / 255
    return adv


def attached(model, x, target, adv, eps, step_size):
    adv = adv.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(adv), target), adv)
    return into_both(adv - step_size * g.sign(), x, eps)


def leaves_requires_grad(model, x, target, adv, eps, step_size):
    return attached(model, x, target, adv.requires_grad_(), eps, step_size).detach()


def projects_first(model, x, target, adv, eps, step_size):
    return into_both(adv, x, eps) - step_size * gradient(model, adv, target).sign()


def seeded(model, x, y, transformation, samples):
    def again(v):
        torch.manual_seed(0)
        return transformation(v)

    return eot_summed(model, x, y, again, samples)


def of_a_detached_view(model, x, y, transformation, samples):
    return eot_summed(model, x, y, lambda v: transformation(v.detach()), samples)


def of_normalised_images(model, x, y, transformation, samples):
    return eot_summed(model, x, y, lambda v: transformation((v - 0.5) / 0.25), samples)


def with_a_graph(model, x, y, transformation, samples):
    x = x.clone().requires_grad_()
    losses = [F.cross_entropy(model(transformation(x)), y, reduction="sum") for _ in range(samples)]
    return torch.autograd.grad(sum(losses) / samples, x, create_graph=True)[0]


def rounded_out_of_the_ball(model, x, y, eps):
    return attacks.quantise(steps_behind(attacks.jpeg)(model, x, y, eps + 0.6 / 255))


WRONG = {
    "fgsm_in_levels": [
        (lambda *task: (255 * moved(*task).clamp(0, 1)).to(torch.uint8).float() / 255, "cut off"),
        (lambda *task: (255 * moved(*task)).round().to(torch.uint8), "Keep the type"),
        (lambda *task: moved(*task, strong_in_the_batch).clamp(0, 1), "changed by 0 to 8 levels"),
        (lambda model, x, y, levels: moved(model, x, y, 8).clamp(0, 1), "same for every levels"),
        (lambda model, x, y, levels: attacks.fgsm(model, x, y, math.floor(levels) / 255), "Write the steps yourself"),
        (lambda *task: moved(*task).clamp(0, 1).numpy(), "NumPy"),
        (in_place, "changed x in place"),
    ],
    "targeted_step": [
        (projects_first, "into the ball around x"),
        (attached, "detach"),
        (leaves_requires_grad, "left requires_grad"),
        (lambda model, x, target, adv, eps, a: into_both(adv - a * with_gradients_on_the_model(model, adv, target).sign(), x, eps), "gradients on the model's parameters"),
        (lambda model, x, target, adv, eps, a: adv.copy_(into_both(adv - a * gradient(model, adv, target).sign(), x, eps)), "changed adv in place"),
        (lambda model, x, target, adv, eps, a: into_both(adv - a * strong_in_the_batch(gradient(model, adv, target)), x, eps), "Its sign, times step_size"),
    ],
    "eot_gradient": [
        (seeded, "Do not seed"),
        (of_a_detached_view, "the very x that got requires_grad_()"),
        (torch.no_grad()(eot_summed), "torch.no_grad()"),
        (of_normalised_images, "Transform x itself"),
        (with_a_graph, "result.detach()"),
        (lambda model, x, y, t, samples: eot_summed(model, x, y, t, 10), "same for every samples"),
        (lambda model, x, y, t, samples: eot_summed(model, x, y, lambda v: (t(v), t(v))[1], samples), "Call transformation once for every sample"),
        (lambda *task: (eot_summed(*task),), "one tensor only"),
    ],
    "survive_jpeg": [
        (lambda model, x, y, eps: attacks.pgd(model, x, y, eps, steps=100), "too fine for JPEG"),
        (steps_behind(lambda v: (v + 0.03 * torch.randn_like(v)).clamp(0, 1)), "too fine for JPEG"),
        (lambda model, x, y, eps: (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1), "Too few fool the model"),
        (lambda model, x, y, eps: steps_behind(attacks.jpeg)(model, x, y, 1 / 255), "same for every eps"),
        (lambda model, x, y, eps: (x + eps * gradient(lambda v: model(attacks.blur(v, 1.0)), x, y).sign()).clamp(0, 1), "several small steps"),
        (lambda *task: attacks.jpeg(steps_behind(attacks.jpeg, 12)(*task)), "JPEG alone moves pixels farther"),
        (rounded_out_of_the_ball, "the ball around x comes last"),
        (lambda *task: (255 * steps_behind(attacks.jpeg)(*task)).round().to(torch.uint8), "Keep the type"),
    ],
}  # fmt: skip
