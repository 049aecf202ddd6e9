"""Right answers to the exercises of chapters 08 and 09, each in another way."""

import copy

import torch
import torch.nn.functional as F


def squares(change):
    return change.flatten(1).square().sum(1)


def with_mse(generator, z, x, lr):
    z = z.detach().requires_grad_()
    return torch.sub(z.detach(), torch.autograd.grad(F.mse_loss(generator(z), x, reduction="sum"), z)[0], alpha=lr)


def with_inputs(generator, z, x, lr):
    z = z.clone().requires_grad_()
    torch.dist(generator(z), x).square().backward(inputs=[z])
    return z.data - lr * z.grad


def with_a_frozen_copy(generator, z, x, lr):
    frozen = copy.deepcopy(generator).requires_grad_(False)
    z = z.clone().requires_grad_()
    (frozen(z) - x).pow(2).sum().backward()
    with torch.no_grad():
        return z - lr * z.grad


def with_sgd(generator, z, x, lr):
    point = z.clone().requires_grad_()
    optimizer = torch.optim.SGD([point], lr=lr)
    generator.requires_grad_(False)
    squares(generator(point) - x).sum().backward()
    generator.requires_grad_(True)
    optimizer.step()
    return point.detach()


def one_by_one(generator, z, x, lr):
    return torch.cat([with_mse(generator, *pair, lr) for pair in zip(z.split(1), x.split(1), strict=True)])


def functional(generator, z, x, lr):
    slope = torch.func.vmap(torch.func.grad(lambda v, image: (generator(v[None])[0] - image).square().sum()))
    return (z - lr * slope(z, x)).detach()


@torch.no_grad()
def running(generator, starts, x):
    z, image = starts[0], generator(starts[0])
    for other in starts[1:]:
        drawn = generator(other)
        better = squares(drawn - x) < squares(image - x)
        z = torch.where(better[:, None], other, z)
        image = torch.where(better[:, None, None, None], drawn, image)
    return z, image


def with_gather(generator, starts, x):
    drawn = torch.stack([generator(z) for z in starts]).detach()
    best = torch.stack([F.mse_loss(images, x, reduction="none").mean((1, 2, 3)) for images in drawn]).argmin(0)
    z = starts.gather(0, best.view(1, -1, 1).expand(1, -1, starts.shape[2]))[0]
    return z, generator(z).detach()


def image_by_image(generator, starts, x):
    chosen = []
    for i in range(len(x)):
        errors = [(generator(starts[r, i : i + 1]) - x[i]).norm().item() for r in range(len(starts))]
        chosen.append(starts[errors.index(min(errors)), i])
    z = torch.stack(chosen)
    return [z, generator(z).detach()]


@torch.no_grad()
def transposed(generator, starts, x):
    by_image = starts.transpose(0, 1)
    drawn = generator(by_image.reshape(-1, by_image.shape[2])).view(len(x), -1, *x.shape[1:])
    best = torch.linalg.vector_norm(drawn - x[:, None], dim=(2, 3, 4)).min(dim=1).indices
    return tuple(torch.stack([v[i, b] for i, b in enumerate(best)]) for v in (by_image, drawn))


@torch.no_grad()
def diagonal(generator, starts, x):
    errors = torch.stack([squares(generator(z) - x) for z in starts])
    z = starts[errors.argsort(0)[0]].diagonal(dim1=0, dim2=1).T.contiguous()
    return z, generator(z)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, projection):
        return projection(x)

    @staticmethod
    def backward(ctx, above):
        return above, None


def without_gradient(projection, x):
    with torch.no_grad():
        projected = projection(x)
    return projected + x - x.detach()


def other_data(projection, x):
    passed = x * 1
    passed.data = projection(x.detach()).detach()
    return passed


def pair_by_pair(classifier, judge, distance, eps, sure):
    masks = torch.zeros(3, len(distance), dtype=torch.bool)
    for i in range(len(distance)):
        if distance[i] > eps or classifier[0, i].argmax() == classifier[1, i].argmax():
            continue
        p, q = judge[0, i].softmax(0), judge[1, i].softmax(0)
        masks[2 if min(p.max(), q.max()) < sure else int(p.argmax() != q.argmax()), i] = True
    return masks[0], masks[1], masks[2]


def by_subtraction(classifier, judge, distance, eps, sure):
    (a, b), (p, q) = classifier.max(-1).indices, judge.log_softmax(-1).exp()
    counts = torch.logical_and(a.ne(b), ~(distance > eps))
    ambiguous = counts & (torch.minimum(p.amax(1), q.amax(1)) < sure)
    flipping = (counts ^ ambiguous) & (p.argmax(1) != q.argmax(1))
    return [counts & ~ambiguous & ~flipping, flipping, ambiguous]


def through_numpy(classifier, judge, distance, eps, sure):
    (said, shifted), probabilities = classifier.numpy().argmax(2), F.softmax(judge, dim=-1).numpy()
    counts = (said != shifted) * (distance.numpy() <= eps)
    certain, digit = probabilities.max(2).min(0) >= sure, probabilities.argmax(2)
    same = digit[0] == digit[1]
    return tuple(torch.from_numpy(counts * m) for m in (certain * same, certain * ~same, ~certain))


def by_hand(classifier, judge, distance, eps, sure):
    shares = (judge - judge.max(-1, keepdim=True).values).exp()
    unsure = ((shares / shares.sum(-1, keepdim=True)).amax(-1) < sure).any(0)
    digit, said = judge.topk(1).indices[..., 0], classifier.topk(1).indices[..., 0]
    counts = said.diff(dim=0)[0].bool() * (distance - eps <= 0)
    return counts & ~unsure & (digit[0] == digit[1]), counts & ~unsure & (digit[0] != digit[1]), counts & unsure


RIGHT = {
    "projection_step": [with_mse, with_inputs, with_a_frozen_copy, with_sgd, one_by_one, functional],
    "best_restart": [running, with_gather, image_by_image, transposed, diagonal],
    "bpda": [
        lambda projection, x: StraightThrough.apply(x, projection),
        without_gradient,
        other_data,
        lambda projection, x: x - (x - projection(x.detach())).detach(),
        lambda projection, x: x + (projection(x).data - x.data),
    ],
    "label_flipping": [pair_by_pair, by_subtraction, through_numpy, by_hand],
}
