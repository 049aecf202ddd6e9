# ruff: noqa: E501
"""Right answers to the exercises of chapter 03, each written in another way."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from course_utils import attacks


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


def project_l2_by_a_factor(adv, x, eps):
    change = adv - x
    return (x + change * (eps / lengths(change).clamp_min(1e-30)).clamp(max=1)).clamp(0, 1)


def project_l2_by_where(adv, x, eps):
    far = lengths(adv - x)
    return torch.where(far > eps, x + eps * (adv - x) / far.clamp_min(1e-30), adv).clamp(0, 1)


def project_l2_with_minimum(adv, x, eps):
    far = lengths(adv - x)
    return (x + (adv - x) * torch.minimum(torch.full_like(far, eps), far) / far.clamp_min(1e-30)).clamp(0, 1)


def project_l2_with_nan_to_num(adv, x, eps):
    return (x + (adv - x) * (eps / lengths(adv - x)).nan_to_num(1.0).clamp(max=1)).clamp(0, 1)


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


RIGHT = {
    "project_l2": [project_l2_by_a_factor, project_l2_by_where, project_l2_with_minimum, project_l2_with_nan_to_num],
    "pgd": [*PATHS],
    "keep_best": [keep_backwards, keep_forwards, keep_one_by_one, keep_while_some_are_left, keep_by_index, keep_in_numpy],
    "targeted_pgd": [*map(towards, PATHS), minus_the_loss, log_probability],
}  # fmt: skip
