"""Wrong answers to the exercises of chapter 01 that are no mistake of its checks, and words of the hint to them."""

import torch
import torch.nn.functional as F


def margin(w, b, x, y, eps):
    return y * (x @ w + b) - eps * w.abs().sum()


def in_place(w, eps):
    return w.sign_().mul_(eps)


def backward(w, b, x, y, eps):
    loss = F.softplus(-margin(w, b, x, y, eps)).mean()
    loss.backward()
    return loss


def chosen_branch(w, b, x, y, eps):
    z = -margin(w, b, x, y, eps)
    return torch.where(z > 30, z, torch.log1p(z.exp())).mean()


WRONG = {
    "worst_perturbation": [
        (lambda w, eps: 0.1 * w.sign(), "same for every eps"),
        (lambda w, eps: eps * torch.randn_like(w).sign(), "no randomness"),
        (lambda w, eps: eps * w / w.abs(), "division by zero"),
        (lambda w, eps: torch.where(w == 0, 1.0, eps * w.sign()), "Only for 0 itself"),
        (lambda w, eps: eps if w > 0 else -eps, "torch.where"),
        (lambda w, eps: [eps * v for v in w.sign().tolist()], "one tensor"),
        (lambda w, eps: (eps * w.sign())[:, None], "Keep the shape"),
        (in_place, "needs the original"),
    ],
    "robust_accuracy": [
        (lambda w, b, x, y, eps: margin(w, b, x, y, 0.04 if eps else 0).gt(0).float().mean(), "same for every eps"),
        (lambda w, b, x, y, eps: margin(w, b, x, y, eps).gt(0).sum(), "number of images"),
        (lambda w, b, x, y, eps: 100 * margin(w, b, x, y, eps).gt(0).float().mean(), "percentage"),
        (lambda w, b, x, y, eps: margin(w, b, x, y, eps) > 0, "Return one number"),
        (lambda w, b, x, y, eps: 1 if y * (x @ w + b) > 0 else 0, "one truth value"),
        (lambda w, b, x, y, eps: (y * (w @ x + b) > 0).float().mean(), "x @ w"),
        (lambda w, b, x, y, eps: y.mul_(x @ w + b).gt(eps * w.abs().sum()).float().mean(), "needs the original"),
    ],
    "to_uint8": [
        (lambda x: (255 * x).round(), "torch.uint8"),
        (lambda x: (255 * x).round().to(torch.int8), "torch.uint8"),
        (lambda x: (255 * x).round().byte().numpy(), "torch tensor"),
        (lambda x: (255 * x).round().byte().flatten(), "Keep the shape"),
        (lambda x: round(x.item() * 255), "one element"),
        (lambda x: (255 * x).round().byte().flatten().sort().values.view(x.shape), "other pixels"),
        (lambda x: (255 * x + torch.rand_like(x)).clamp(max=255).byte(), "no randomness"),
        (lambda x: x.mul_(255).round_().byte(), "needs the original"),
    ],
    "robust_loss": [
        (lambda *a: F.softplus(-margin(*a)), "Return one number"),
        (lambda *a: F.softplus(-margin(*a)).mean().item(), "without .item()"),
        (torch.no_grad()(lambda *a: F.softplus(-margin(*a)).mean()), "no_grad"),
        (lambda w, b, x, y, eps: F.softplus(-margin(w, b, x, y, 0.25 if eps else 0)).mean(), "same for every eps"),
        (lambda w, b, x, y, eps: F.soft_margin_loss(x @ w + b - y * eps * w.abs().sum(), y), "exp(z) is infinite"),
        (lambda w, b, x, y, eps: F.softplus(eps * w.abs().sum() - y.mul_(x @ w + b)).mean(), "needs the original"),
        (backward, "leave .backward() to the training loop"),
        (chosen_branch, "its gradient NaN"),
    ],
}
