"""Wrong answers to the exercises of chapter 01 that are no mistake of its checks, and words of the hint to them."""

import torch
import torch.nn.functional as F


def margin(w, b, x, y, eps):
    return y * (x @ w + b) - eps * w.abs().sum()


def leads(weight, bias, x, y):
    logits = x @ weight.T + bias
    return logits.gather(1, y[:, None]) - logits + 1e9 * F.one_hot(y, len(weight))


def stays(weight, bias, x, y, eps):
    return (leads(weight, bias, x, y) > eps * (weight[y][:, None] - weight).abs().sum(2)).all(1)


def euclidean(weight, bias, x, y, eps):
    return (leads(weight, bias, x, y) > eps * torch.cdist(weight, weight)[y]).all(1).float().mean()


def label_alone(weight, bias, x, y, eps):
    return (leads(weight, bias, x, y).amin(1) > eps * weight[y].norm(p=1, dim=1)).float().mean()


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
    "exact_accuracy": [
        (
            lambda weight, bias, x, y, eps: stays(weight, bias, x, y, 0.02 if eps else 0).float().mean(),
            "same for every eps",
        ),
        (lambda *a: stays(*a).sum(), "number of images"),
        (lambda *a: 100 * stays(*a).float().mean(), "percentage"),
        (lambda *a: stays(*a), "Return one number"),
        (lambda weight, bias, x, y, eps: stays(weight, bias, x[:10], y[:10], eps).float().mean(), "label"),
        (
            lambda weight, bias, x, y, eps: stays(weight, bias.mul_(1.5), x, y, eps).float().mean(),
            "changes bias itself",
        ),
        (lambda *a: stays(*a).float().mean() + 0.1 * torch.rand(()), "no randomness"),
        (euclidean, "Euclidean length"),
        (label_alone, "logit of the label fall alone"),
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
