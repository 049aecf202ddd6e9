# ruff: noqa: E501
"""Wrong answers to the exercises of chapter 05 that are none of the known mistakes."""

import torch
import torch.nn.functional as F

from answers.transfer_right import gradient, log_mean_by_shift, momentum_without_nan, neighbour_one_by_one


def first_image_only(x, y, x_train, y_train, eps):
    for image, label in zip(x, y, strict=True):
        others = x_train[y_train != label]
        nearest = others[(others - image).flatten(1).norm(dim=1).argmin()]
        return x + (nearest - x).clamp(-eps, eps)


def changes_x(x, *rest):
    return x.copy_(neighbour_one_by_one(x, *rest))


def in_place(logits):
    for z in logits:
        z -= z.max(1, keepdim=True).values
    return log_mean_by_shift(logits)


def exp_by_hand(logits):
    shares = [z.exp() / z.exp().sum(1, keepdim=True) for z in logits]
    return torch.stack(shares).mean(0).log()


def one_shift_for_all(logits):
    logs = torch.stack(logits).log_softmax(2)
    return (logs - logs.max()).exp().mean(0).log() + logs.max()


def pops(logits):
    result = log_mean_by_shift(logits)
    logits.pop()
    return result


def leaves_a_gradient(model, x, labels, lam):
    new = x.clone().requires_grad_()
    model(new).gather(1, labels[:, None]).sum().backward()
    return (new + lam * new.grad.sign()).clamp(0, 1).detach()


def stays_in_eval_mode(model, x, labels, lam):
    model.eval()
    return (x - lam * gradient(model, x, labels, F.nll_loss).sign()).clamp(0, 1)


def over_its_size(model, x, labels, lam):
    g = gradient(model, x, labels, F.nll_loss)
    return (x - lam * g / g.abs()).clamp(0, 1)


def accumulates(model, x, y, eps, steps, decay):
    adv, momentum = x.clone().requires_grad_(), 0
    for _ in range(steps):
        F.cross_entropy(model(adv), y).backward()
        model.zero_grad()
        momentum = decay * momentum + adv.grad / adv.grad.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
        adv.data = (adv.data + eps / steps * momentum.sign()).clamp(0, 1)
    return adv.detach()


def ends_early(model, x, y, eps, steps, decay):
    for n in range(1, steps + 1):
        adv = momentum_without_nan(model, x, y, eps * n / steps, n, decay)
        if (model(adv).argmax(1) != y).all():
            break
    return adv


def unguarded(model, x, y, eps, steps, decay):
    adv, momentum = x.clone(), 0
    for _ in range(steps):
        g = gradient(model, adv, y)
        momentum = decay * momentum + g / g.abs().mean(dim=(1, 2, 3), keepdim=True)
        adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)
    return adv


def halved(decide=lambda said, y: said != y, result=lambda low, high: high, count=lambda steps: steps):
    def answer(model, x, y, start, steps):
        low, high = x.clone(), start.clone()
        for _ in range(count(steps)):
            middle = (low + high) / 2
            fooled = decide(model(middle).argmax(1), y).view(-1, 1, 1, 1)
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
        return result(low, high)

    return answer


def scans_the_way(model, x, y, start, steps):
    shares = torch.arange(1, 2**steps + 1) / 2**steps
    found = []
    for image, label, end in zip(x, y, start, strict=True):
        labels = torch.stack([model((image + share * (end - image))[None]).argmax(1)[0] for share in shares])
        found.append(image + shares[(labels != label).int().argmax()] * (end - image))
    return torch.stack(found)


@torch.no_grad()
def looks_at_logits(model, x, y, start, steps):
    a, b = (model(images).gather(1, y[:, None]).squeeze(1) for images in (x, start))
    share = (a / (a - b)).clamp(0, 1).view(-1, 1, 1, 1)
    return x + share * (start - x)


def asks_about_the_ends_first(model, x, y, start, steps):
    known = model(x).argmax(1)
    return halved()(model, x, known, start, steps)


def moves_start_itself(model, x, y, start, steps):
    for _ in range(steps):
        middle = (x + start) / 2
        fooled = model(middle).argmax(1) != y
        start[fooled] = middle[fooled]
        x = torch.where(fooled.view(-1, 1, 1, 1), x, middle)
    return start


def one_share_for_all(model, x, y, start, steps):
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        if (model(x + middle * (start - x)).argmax(1) != y).all():
            high = middle
        else:
            low = middle
    return x + high * (start - x)


WRONG = {
    "neighbour_step": [(first_image_only, "one and the same neighbour"), (changes_x, "changed x in place"), (lambda x, y, x_train, y_train, eps: neighbour_one_by_one(x, y, x_train, y_train, 0.2), "the same for every eps"), (lambda *given: neighbour_one_by_one(*given).double(), "Keep the type")],
    "log_mean_probability": [(in_place, "changed logits[0] in place"), (exp_by_hand, "Stay with logarithms"), (one_shift_for_all, "Stay with logarithms"), (pops, "in the list logits"), (lambda logits: torch.stack(logits).log_softmax(2), "Keep the shape"), (lambda logits: log_mean_by_shift([*logits, logits[0]]), "the mean over the models")],
    "jacobian_augment": [(leaves_a_gradient, "gradients on the model's parameters"), (stays_in_eval_mode, "left it in evaluation mode"), (over_its_size, "division by zero"), (lambda model, x, labels, lam: (x - 0.1 * gradient(model, x, labels, F.nll_loss).sign()).clamp(0, 1), "The result is the same for every lam")],
    "to_boundary": [(halved(result=lambda low, high: low), "the end with the right label"), (halved(result=lambda low, high: (low + high) / 2), "half way between the ends"), (halved(lambda said, y: said == y), "You keep the wrong half"), (halved(count=lambda steps: steps - 1), "one halving too few"), (halved(count=lambda steps: steps + 1), "one halving too many"), (halved(count=lambda steps: 10), "the same for every steps"), (one_share_for_all, "its own two ends"), (scans_the_way, "no scan of the way"), (looks_at_logits, "the same for every steps"), (asks_about_the_ends_first, "it asks for"), (moves_start_itself, "in place"), (lambda model, x, y, start, steps: start, "That is the start"), (lambda model, x, y, start, steps: (x + start) / 2, "Half of the way is the first step only"), (lambda model, x, y, start, steps: halved()(model, start, y, x, steps), "have changed places"), (lambda model, x, y, start, steps: halved()(model, x, y, start, steps) - x, "the change alone"), (halved(lambda said, y: said != y[0]), "those of the first image")],
    "momentum_fgsm": [(accumulates, "add up from step to step"), (ends_early, "You end the loop"), (unguarded, "makes the momentum NaN"), (lambda model, x, y, eps, steps, decay: momentum_without_nan(model, x, y, 0.1, steps, decay), "the same for every eps"), (lambda model, x, y, eps, steps, decay: momentum_without_nan(model, x, y, eps, steps, 0.9), "the same for every decay"), (lambda model, x, *rest: x.copy_(momentum_without_nan(model, x, *rest)), "changed x in place")],
}  # fmt: skip
