# ruff: noqa: E501
"""Right answers to the exercises of chapter 05, none like another."""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F

from course_utils import attacks


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.clone().detach().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


# --- neighbour_step ---------------------------------------------------------------------------------------------------


def neighbour_one_by_one(x, y, x_train, y_train, eps):
    images = []
    for image, label in zip(x, y, strict=True):
        others = x_train[y_train != label]
        nearest = others[((others - image) ** 2).sum(dim=(1, 2, 3)).argmin()]
        images.append(torch.max(torch.min(nearest, image + eps), image - eps))
    return torch.stack(images)


def neighbour_in_numpy(x, y, x_train, y_train, eps):
    x, y, x_train, y_train = (t.numpy() for t in (x, y, x_train, y_train))
    distances = np.linalg.norm((x[:, None] - x_train[None]).reshape(len(x), len(x_train), -1), axis=2)
    goal = x_train[np.where(y[:, None] == y_train[None], np.inf, distances).argmin(1)]
    return torch.from_numpy(x + np.clip(goal - x, -eps, eps).astype(np.float32))


def neighbour_by_broadcasting(x, y, x_train, y_train, eps):
    distances = (x[:, None] - x_train[None]).square().sum((2, 3, 4)) + 1e9 * (y[:, None] == y_train)
    goal = x_train[distances.topk(1, largest=False).indices[:, 0]]
    return torch.where(goal > x, torch.min(goal, x + eps), torch.max(goal, x - eps))


def neighbour_sorted(x, y, x_train, y_train, eps):
    best = []
    for i in range(len(x)):
        order = sorted(range(len(x_train)), key=lambda j: (x[i] - x_train[j]).norm().item())
        best.append(next(j for j in order if y_train[j] != y[i]))
    return attacks.project(x_train[torch.tensor(best)], x, eps)


# --- log_mean_probability ---------------------------------------------------------------------------------------------


def log_mean_by_shift(logits):
    logs = torch.stack([F.log_softmax(z, dim=-1) for z in logits])
    top = logs.max(dim=0).values
    return top + (logs - top).exp().mean(0).log()


def log_mean_in_one(logits):
    return torch.stack(logits).log_softmax(-1).sub(np.log(len(logits))).logsumexp(dim=0)


def log_mean_by_logaddexp(logits):
    total = logits[0].log_softmax(1)
    for z in logits[1:]:
        total = torch.logaddexp(total, z.log_softmax(1))
    return total - torch.tensor(float(len(logits))).log()


def log_mean_in_double(logits):
    logs = torch.stack([z.double() - z.double().logsumexp(1, keepdim=True) for z in logits])
    return (torch.logsumexp(logs, 0) - math.log(len(logits))).float()


# --- jacobian_augment -------------------------------------------------------------------------------------------------


def augment_with_backward(model, x, labels, lam):
    new = x.clone().detach().requires_grad_(True)
    model(new)[torch.arange(len(x)), labels].sum().backward()
    model.zero_grad()
    return torch.clip(new.data + lam * new.grad.sign(), 0, 1)


def augment_one_by_one(model, x, labels, lam):
    points = []
    for image, label in zip(x, labels.tolist(), strict=True):
        image = image[None].clone().requires_grad_()
        (g,) = torch.autograd.grad(model(image)[0, label], image)
        points.append((image.detach() + lam * torch.sign(g)).clamp(0, 1))
    return torch.cat(points)


def augment_by_jacobian(model, x, labels, lam):
    model = copy.deepcopy(model)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: model(v[None])[0]))(x).detach()
    return (x + lam * jacobian[torch.arange(len(x)), labels].sign()).clamp(0, 1)


def augment_with_one_hot(model, x, labels, lam):
    g = gradient(model, x, labels, lambda z, labels: (z * F.one_hot(labels, z.shape[1])).mean())
    return (x + lam * (1.0 * (g > 0) - 1.0 * (g < 0))).clamp(0, 1)


def augment_with_nll(model, x, labels, lam):
    return (x - lam * gradient(model, x, labels, F.nll_loss).sign()).clamp(0, 1)


# --- to_boundary ------------------------------------------------------------------------------------------------------


def boundary_by_where(model, x, y, start, steps):
    right, wrong = torch.zeros(len(x), 1, 1, 1), torch.ones(len(x), 1, 1, 1)
    for _ in range(steps):
        half = 0.5 * (right + wrong)
        fooled = (model(torch.lerp(x, start, half)).argmax(1) != y).view(-1, 1, 1, 1)
        wrong = torch.where(fooled, half, wrong)
        right = torch.where(fooled, right, half)
    return torch.lerp(x, start, wrong)


def boundary_of_images(model, x, y, start, steps):
    near, far = x.clone(), start.clone()
    for _ in range(steps):
        middle = (near + far) / 2
        fooled = model(middle).argmax(1) != y
        far[fooled] = middle[fooled]
        near[~fooled] = middle[~fooled]
    return far


def boundary_one_by_one(model, x, y, start, steps):
    found = []
    for image, label, end in zip(x, y, start, strict=True):
        low, high = 0.0, 1.0
        for _ in range(steps):
            middle = (low + high) / 2
            if model((image + middle * (end - image))[None]).argmax().item() == label.item():
                low = middle
            else:
                high = middle
        found.append(image + high * (end - image))
    return torch.stack(found)


def boundary_by_steps(model, x, y, start, steps):
    share = torch.ones(len(x))
    low = torch.zeros(len(x))
    for k in range(1, steps + 1):
        tried = low + 0.5**k
        fooled = model(x + tried.view(-1, 1, 1, 1) * (start - x)).argmax(1).ne(y)
        share[fooled] = tried[fooled]
        low[~fooled] = tried[~fooled]
    return x + share.view(-1, 1, 1, 1) * (start - x)


@torch.no_grad()
def boundary_recursive(model, x, y, start, steps):
    if steps == 0:
        return start
    middle = (x + start) / 2
    fooled = (model(middle).argmax(1) != y)[:, None, None, None]
    return boundary_recursive(model, torch.where(fooled, x, middle), y, torch.where(fooled, middle, start), steps - 1)


# --- momentum_fgsm ----------------------------------------------------------------------------------------------------


def momentum_by_sums(model, x, y, eps, steps, decay):
    adv, momentum = x.clone(), 0
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        F.cross_entropy(model(adv), y, reduction="sum").backward()
        model.zero_grad()
        total = adv.grad.flatten(1).norm(p=1, dim=1).clamp_min(1e-30).view(-1, 1, 1, 1)
        momentum = momentum * decay + adv.grad / total
        adv = (x + (adv + eps / steps * momentum.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return adv.detach()


def momentum_without_nan(model, x, y, eps, steps, decay):
    adv, memory = x, torch.zeros_like(x)
    for _ in range(steps):
        g = attacks.input_gradient(model, adv, y)
        memory = memory.mul(decay).add(torch.nan_to_num(g / g.abs().mean((1, 2, 3), keepdim=True)))
        adv = attacks.project(adv + eps / steps * memory.sign(), x, eps)
    return adv


def momentum_with_delta(model, x, y, eps, steps, decay):
    delta, memory = torch.zeros_like(x, requires_grad=True), torch.zeros_like(x)
    for _ in range(steps):
        (g,) = torch.autograd.grad(F.nll_loss(model(x + delta).log_softmax(1), y, reduction="sum"), delta)
        memory = decay * memory + g / (g.abs().mean(dim=[1, 2, 3], keepdim=True) + 1e-30)
        with torch.no_grad():
            delta.add_(eps / steps * memory.sign()).copy_((x + delta).clamp(0, 1) - x)
    return (x + delta).detach()


def momentum_in_double(model, x, y, eps, steps, decay):
    model, adv, y = copy.deepcopy(model).double(), x.double(), y.clone()
    momentum = torch.zeros_like(adv)
    for _ in range(steps):
        g = gradient(model, adv, y)
        momentum = decay * momentum + g / g.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
        adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)
    return adv.float()


RIGHT = {
    "neighbour_step": [neighbour_one_by_one, neighbour_in_numpy, neighbour_by_broadcasting, neighbour_sorted],
    "log_mean_probability": [log_mean_by_shift, log_mean_in_one, log_mean_by_logaddexp, log_mean_in_double],
    "jacobian_augment": [augment_with_backward, augment_one_by_one, augment_by_jacobian, augment_with_one_hot, augment_with_nll],
    "to_boundary": [boundary_by_where, boundary_of_images, boundary_one_by_one, boundary_by_steps, boundary_recursive],
    "momentum_fgsm": [momentum_by_sums, momentum_without_nan, momentum_with_delta, momentum_in_double],
}  # fmt: skip
