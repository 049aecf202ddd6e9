# ruff: noqa: E501
"""Wrong answers to the exercises of chapters 08 and 09 that no mistake of theirs is, and words that the hint must contain."""

import torch
from torch import nn

from course_utils.defences.robust_manifold import project_to_range
from course_utils.defences.robust_manifold.projection import unrolled

OWN = nn.Sequential(nn.Linear(3, 36), nn.Unflatten(1, (1, 6, 6)))  # what a notebook may have lying around


def step(generator, z, x, lr):
    z = z.clone().requires_grad_()
    return (z - lr * torch.autograd.grad((generator(z) - x).square().sum(), z)[0]).detach()


def backward(generator, z, x, lr, clear=False):
    z = z.clone().requires_grad_()
    (generator(z) - x).square().sum().backward()
    if clear:
        generator.zero_grad()
    return (z - lr * z.grad).detach()


def of_another_z(generator, z, x, lr):
    drawn = generator(z.clone())
    z = z.clone().requires_grad_()
    return z - lr * torch.autograd.grad((drawn - x).square().sum(), z)[0]


def marks_z(generator, z, x, lr):
    (gradient,) = torch.autograd.grad((generator(z.requires_grad_()) - x).square().sum(), z)
    return (z - lr * gradient).detach()


def decays_the_weights(generator, z, x, lr):
    new = step(generator, z, x, lr)
    for p in generator.parameters():
        p.data *= 0.99
    return new


def other_mode(generator, z, x, lr):
    generator.train(not generator.training)
    return step(generator, z, x, lr)


@torch.no_grad()
def best(generator, starts, x):
    drawn = torch.stack([generator(z) for z in starts])
    index = (drawn - x).square().sum((2, 3, 4)).argmin(0), torch.arange(len(x))
    return starts[index], drawn[index]


def marks_starts(generator, starts, x):
    chosen = best(generator, starts, x)
    starts[0] = chosen[0]
    return chosen


def straight(projection, x):
    return x + (projection(x) - x).detach()


def moves_x(projection, x):
    result = straight(projection, x)
    x.data += 0.01
    return result


def image_by_image(projection, x):
    return torch.cat([straight(projection, image) for image in x.split(1)])


def masks(classifier, judge, distance, eps, sure):
    said, (confidence, digit) = classifier.argmax(2), judge.softmax(2).max(2)
    counts, certain, same = (said[0] != said[1]) & (distance <= eps), (confidence >= sure).all(0), digit[0] == digit[1]
    return counts & certain & same, counts & certain & ~same, counts & ~certain


def moves_the_judge(classifier, judge, *rest):
    judge -= judge.amax(2, keepdim=True)
    return masks(classifier, judge, *rest)


WRONG = {
    "projection_step": [
        (backward, "torch.autograd.grad(loss, z)"),
        (lambda *given: backward(*given, clear=True), "clear nothing"),
        (of_another_z, "from this very z"),
        (marks_z, "Make a tensor of your own first"),
        (decays_the_weights, "give no optimizer its parameters"),
        (other_mode, "Leave the mode alone"),
        (lambda generator, z, x, lr: step(generator, z, x, 0.05), "same for every lr"),
        (lambda generator, z, x, lr: unrolled(generator, x, z, steps=1, lr=lr).detach(), "Write the steps yourself"),
    ],
    "best_restart": [
        (lambda generator, starts, x: (starts[0], generator(starts)[0]), "Call your function by hand"),
        (lambda generator, starts, x: best(generator, starts, x)[0], "return z, x_star"),
        (lambda *given: (*best(*given), 0), "return z, x_star"),
        (lambda generator, starts, x: (z := best(generator, starts, x)[0], generator(z)), ".detach()"),
        (lambda *given: tuple(v.numpy() for v in best(*given)), "NumPy"),
        (marks_starts, "Whoever called you still needs the original"),
        (lambda generator, starts, x: best(OWN, starts, x), "reads OWN"),
        (lambda generator, starts, x: project_to_range(generator, x, init=starts, restarts=len(starts), steps=1, lr=1e-7), "Write the steps yourself"),
    ],
    "bpda": [
        (lambda projection, x: projection(x).detach(), "You detach everything"),
        (lambda projection, x: straight(projection, x).detach(), "You detach everything"),
        (lambda projection, x: projection(x).detach().requires_grad_(), "no new leaf"),
        (lambda projection, x: straight(projection, x) + 0 * projection(x).detach(), "a second one takes as long again"),
        (image_by_image, "Pass it the whole batch"),
        (lambda projection, x: projection(x.detach()) + x - x.detach(), "The gradient goes into the projection"),
        (moves_x, "Whoever called you still needs the original"),
        (lambda projection, x: straight(projection, x.requires_grad_()), "Make a tensor of your own first"),
    ],
    "label_flipping": [
        (lambda c, j, d, eps, sure: masks(c, j, d, eps, 0.8), "same for every sure"),
        (lambda c, j, d, eps, sure: masks(c, j, d, 1.5, sure), "same for every eps"),
        (lambda *given: masks(*given)[:2], "Return three masks"),
        (lambda *given: torch.stack(masks(*given)), "Return three masks"),
        (lambda *given: tuple(m.float() for m in masks(*given)), "Return bools"),
        (lambda c, j, *rest: (c.argmax(2) == j.argmax(2),) * 3, "Compare the first image with the second"),
        (lambda c, j, d, eps, sure: (d <= eps) and (c.argmax(2)[0] != c.argmax(2)[1]), "&"),
        (moves_the_judge, "Whoever called you still needs the original"),
    ],
}  # fmt: skip
