# ruff: noqa: E501
"""Wrong answers to the exercises of chapter 02 that no known mistake explains, and a few words of what is said."""

import torch
import torch.nn.functional as F

from course_utils import attacks, evaluation


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.clone().detach().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def step(change):
    """An attack that adds change(gradient, eps), where the loss is a mean."""
    return lambda model, x, y, eps: (x + change(gradient(model, x, y), eps)).clamp(0, 1)


def after(meddle):
    """FGSM towards the labels that does something to the model or the images first."""

    def answer(model, x, y, eps):
        meddle(model, x)
        return (x.detach() - eps * gradient(model, x, y).sign()).clamp(0, 1)

    return answer


def keeps_the_graph(model, x, y, eps):
    x = x.clone().requires_grad_()
    return (x - eps * torch.autograd.grad(F.cross_entropy(model(x), y), x)[0].sign()).clamp(0, 1)


def tuple_of_gradients(model, x, y, eps):
    x = x.clone().requires_grad_()
    return x - eps * torch.autograd.grad(F.cross_entropy(model(x), y), x).sign()


def changes_y(model, x, adv, y):
    right = model(x).argmax(1) == y
    y.mul_(1)[~right] = -1
    return ((model(adv).argmax(1) != y) & right).sum() / right.sum()


def odds(score):
    """Log-odds from score(logits, the others' logits, the label's logit)."""

    def answer(logits, y):
        hidden = F.one_hot(y, logits.shape[1]).bool()
        return score(logits, logits.masked_fill(hidden, -torch.inf), logits[hidden])

    return answer


def rate(score):
    """A success rate from score(before, after, y) of predictions."""
    return lambda model, x, adv, y: score(model(x).argmax(1), model(adv).argmax(1), y)


# The squares of a tiny gradient round to 0.
UNITS_OF_ROUNDED_LENGTH = (
    lambda g: g / g.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, 1, 1, 1),
    lambda g: g / (g.pow(2).sum(dim=(1, 2, 3), keepdim=True).sqrt() + 1e-30),
    lambda g: F.normalize(g.flatten(1), eps=1e-30).view(g.shape),
    lambda g: torch.nan_to_num(g / g.flatten(1).norm(dim=1)[:, None, None, None]),
    lambda g: torch.where((n := torch.linalg.vector_norm(g, dim=(1, 2, 3), keepdim=True)) > 0, g / n, torch.zeros_like(g)),
)  # fmt: skip


WRONG = {
    "targeted_fgsm": [
        (after(lambda model, x: x.requires_grad_()), "requires_grad or a .grad"),
        (after(lambda model, x: model.eval()), "left it in evaluation mode"),
        (after(lambda model, x: model.train()), "left it in training mode"),
        (after(lambda model, x: model.requires_grad_(False)), "cannot be trained any more"),
        (after(lambda model, x: [p.data.mul_(1.001) for p in model.parameters()]), "changed the model's weights"),
        (keeps_the_graph, ".detach()"),
        (tuple_of_gradients, "(gradient,) ="),
        (lambda model, x, target, eps: x.sub_(eps * gradient(model, x, target).sign()).clamp_(0, 1), "in place"),
    ],
    "l2_step": [
        (step(lambda g, eps: eps * F.normalize(g.flatten(1)).view(g.shape)), "Your guard changes a small gradient"),
        (step(lambda g, eps: eps * g / (g.flatten(1).norm(dim=1) + 1e-8).view(-1, 1, 1, 1)), "Your guard changes a small gradient"),
        (step(lambda g, eps: eps * g / g.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)), "Your guard changes a small gradient"),
        (step(lambda g, eps: eps * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)), "division by zero"),
        *((step(lambda g, eps, unit=unit: eps * unit(g)), "by its largest entry first") for unit in UNITS_OF_ROUNDED_LENGTH),
        (step(lambda g, eps: eps * g / g.flatten(1).norm(dim=1)), "Two shapes do not fit"),
        (step(lambda g, eps: eps * g / g.norm() if g.any() else torch.zeros_like(g)), "share one budget"),
        (lambda model, x, y, eps: attacks.fgsm(model, x, y, eps, norm="l2"), "Write the steps yourself"),
    ],
    "log_odds": [
        (odds(lambda z, others, own: (others.logsumexp(1) - own).mean()), "one number for each image"),
        (odds(lambda z, others, own: others.logsumexp(1, keepdim=True) - own[:, None]), "one number for each image"),
        (odds(lambda z, others, own: (others.logsumexp(1) - own).detach()), "An attack differentiates it"),
        (odds(lambda z, others, own: others.logsumexp(1).item() - own), "item()"),
        (odds(lambda z, others, own: others.logsumexp(0) - own), "Two shapes do not fit"),
        (odds(lambda z, others, own: (others.softmax(1) * z).sum(1) - own), "its logarithm minus the logit of y"),
        (odds(lambda z, others, own: (others.logsumexp(1) - own).clamp(-30, 30)), "Stay with the logits"),
        (odds(lambda z, others, own: torch.log(others.exp().sum(1) / own.exp())), "Stay with the logits"),
        (lambda logits, y: attacks.gradients.adversarial_loss(logits, y, "ce"), "Write the steps yourself"),
    ],
    "success_rate": [
        (rate(lambda before, after, y: ((before == y) & (after != y)).sum()), "number of images"),
        (rate(lambda before, after, y: 100 * ((before == y) & (after != y)).sum() / (before == y).sum()), "percentage"),
        (rate(lambda before, after, y: after[before == y] != y[before == y]), "Return one number"),
        (lambda model, x, adv, y: (model(adv).argmax(0) != y).float().mean(), "shapes do not fit"),
        (lambda model, x, adv, y: (model(adv).max(1) != y).float().mean(), "x.argmax(1)"),
        (lambda model, x, adv, y: evaluation.evaluate_attack(model, x, adv, y).success_rate, "Write the steps yourself"),
        (changes_y, "changed y in place"),
    ],
}  # fmt: skip
