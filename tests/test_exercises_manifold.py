# ruff: noqa: E501 (one line for each wrong answer)
"""The checks of chapter 06: they accept every right answer, and say the right thing about every wrong one."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_passes, assert_refused, with_noise
from torch import nn

from course_utils.defences.robust_manifold import LatentPairs, ManifoldDefense, project_to_range
from course_utils.exercises import check, engine, inputs, robust_manifold
from course_utils.exercises.properties import close
from course_utils.models import decoder

OWN = nn.Sequential(nn.Linear(3, 36), nn.Unflatten(1, (1, 6, 6)))  # what a notebook may have lying around


def squares(change):
    return change.flatten(1).square().sum(1)


def slope(generator, z, x, loss=lambda drawn, x: squares(drawn - x).sum()):
    z = z.clone().detach().requires_grad_()
    return torch.autograd.grad(loss(generator(z), x), z)[0]


# --- right answers ----------------------------------------------------------------------------------------------------


def step_reference(generator, z, x, lr):
    z = z.clone().detach().requires_grad_()
    distance = (generator(z) - x).square().sum()
    (gradient,) = torch.autograd.grad(distance, z)
    return (z - lr * gradient).detach()


def step_with_mse(generator, z, x, lr):
    z = z.detach().requires_grad_()
    return torch.sub(z.detach(), torch.autograd.grad(F.mse_loss(generator(z), x, reduction="sum"), z)[0], alpha=lr)


def step_with_a_frozen_copy(generator, z, x, lr):
    frozen = copy.deepcopy(generator).requires_grad_(False)
    z = z.clone().requires_grad_()
    (frozen(z) - x).pow(2).sum().backward()
    with torch.no_grad():
        return z - lr * z.grad


def step_with_sgd(generator, z, x, lr):
    point = z.clone().requires_grad_()
    optimizer = torch.optim.SGD([point], lr=lr)
    for p in generator.parameters():
        p.requires_grad_(False)
    ((generator(point) - x) ** 2).sum().backward()
    for p in generator.parameters():
        p.requires_grad_(True)
    optimizer.step()
    return point.detach()


def step_one_by_one(generator, z, x, lr):
    parts = zip(z.split(1), x.split(1), strict=True)
    return torch.cat([one - lr * slope(generator, one, image) for one, image in parts])


def step_functional(generator, z, x, lr):
    distance = torch.func.vmap(torch.func.grad(lambda v, image: squares(generator(v[None]) - image[None]).sum()))
    return (z - lr * distance(z, x)).detach()


def step_with_zeroed_weights(generator, z, x, lr):
    z = z.clone().requires_grad_()
    torch.dist(generator(z), x).square().backward()
    generator.zero_grad()
    return z.data - lr * z.grad


def restarts_reference(generator, starts, x):
    restarts, count, _ = starts.shape
    with torch.no_grad():
        drawn = generator(starts.flatten(0, 1)).unflatten(0, (restarts, count))
    best = (drawn - x).square().flatten(2).sum(2).argmin(0)
    images = torch.arange(count)
    return starts[best, images], drawn[best, images]


@torch.no_grad()
def restarts_running(generator, starts, x):
    z, image = starts[0], generator(starts[0])
    for other in starts[1:]:
        drawn = generator(other)
        better = squares(drawn - x) < squares(image - x)
        z = torch.where(better[:, None], other, z)
        image = torch.where(better[:, None, None, None], drawn, image)
    return z, image


def restarts_with_gather(generator, starts, x):
    drawn = torch.stack([generator(z) for z in starts]).detach()
    best = torch.stack([F.mse_loss(images, x, reduction="none").mean((1, 2, 3)) for images in drawn]).argmin(0)
    z = starts.gather(0, best.view(1, -1, 1).expand(1, -1, starts.shape[2]))[0]
    return z, generator(z).detach()


def restarts_image_by_image(generator, starts, x):
    chosen = []
    for i in range(len(x)):
        errors = [(generator(starts[r, i : i + 1]) - x[i]).norm().item() for r in range(len(starts))]
        chosen.append(starts[errors.index(min(errors)), i])
    z = torch.stack(chosen)
    with torch.no_grad():
        return [z, generator(z)]


def restarts_transposed(generator, starts, x):
    with torch.no_grad():
        by_image = starts.transpose(0, 1)
        drawn = generator(by_image.reshape(-1, by_image.shape[2])).view(len(x), -1, *x.shape[1:])
        best = torch.linalg.vector_norm(drawn - x[:, None], dim=(2, 3, 4)).min(dim=1).indices
        return tuple(torch.stack([v[i, b] for i, b in enumerate(best)]) for v in (by_image, drawn))


def restarts_diagonal(generator, starts, x):
    with torch.no_grad():
        errors = torch.stack([squares(generator(z) - x) for z in starts])
        z = starts[errors.argsort(0)[0]].diagonal(dim1=0, dim2=1).T.contiguous()
        return z, generator(z)


def bpda_reference(projection, x):
    return x + (projection(x) - x).detach()


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, projection):
        return projection(x)

    @staticmethod
    def backward(ctx, above):
        return above, None


def bpda_subtracting(projection, x):
    with torch.no_grad():
        projected = projection(x)
    return projected + x - x.detach()


def bpda_with_a_hook(projection, x):
    passed = x * 1
    passed.data = projection(x.detach()).detach()
    return passed


def masks_reference(classifier, judge, distance, eps, sure):
    said = classifier.argmax(2)
    confidence, digit = judge.softmax(2).max(2)
    counts = (said[0] != said[1]) & (distance <= eps)
    certain = (confidence >= sure).all(0)
    same = digit[0] == digit[1]
    return counts & certain & same, counts & certain & ~same, counts & ~certain


def masks_one_by_one(classifier, judge, distance, eps, sure):
    masks = torch.zeros(3, len(distance), dtype=torch.bool)
    for i in range(len(distance)):
        if distance[i] > eps or classifier[0, i].argmax() == classifier[1, i].argmax():
            continue
        p, q = judge[0, i].softmax(0), judge[1, i].softmax(0)
        if min(p.max(), q.max()) < sure:
            masks[2, i] = True
        else:
            masks[int(p.argmax() != q.argmax()), i] = True
    return masks[0], masks[1], masks[2]


def masks_by_subtraction(classifier, judge, distance, eps, sure):
    (a, b), (p, q) = classifier.max(-1).indices, judge.log_softmax(-1).exp()
    counts = torch.logical_and(a.ne(b), ~(distance > eps))
    unsure = torch.minimum(p.amax(1), q.amax(1)) < sure
    ambiguous = counts & unsure
    flipping = (counts ^ ambiguous) & (p.argmax(1) != q.argmax(1))
    return [counts & ~ambiguous & ~flipping, flipping, ambiguous]


def masks_through_numpy(classifier, judge, distance, eps, sure):
    (said, shifted), probabilities = classifier.numpy().argmax(2), F.softmax(judge, dim=-1).numpy()
    counts = (said != shifted) * (distance.numpy() <= eps)
    certain, digit = probabilities.max(2).min(0) > sure, probabilities.argmax(2)
    same = digit[0] == digit[1]
    return tuple(torch.from_numpy(counts * m) for m in (certain * same, certain * ~same, ~certain))


RIGHT = {
    "projection_step": [
        step_reference,
        step_with_mse,
        step_with_a_frozen_copy,
        step_with_sgd,
        step_one_by_one,
        step_functional,
        step_with_zeroed_weights,
    ],
    "best_restart": [
        restarts_reference,
        restarts_running,
        restarts_with_gather,
        restarts_image_by_image,
        restarts_transposed,
        restarts_diagonal,
    ],
    "bpda": [
        bpda_reference,
        lambda projection, x: StraightThrough.apply(x, projection),
        bpda_subtracting,
        bpda_with_a_hook,
        lambda projection, x: x - (x - projection(x.detach())).detach(),
        lambda projection, x: x + (projection(x).data - x.data),
    ],
    "label_flipping": [masks_reference, masks_one_by_one, masks_by_subtraction, masks_through_numpy],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variant"), [(name, i) for name, variants in RIGHT.items() for i in range(len(variants))]
)
def test_right_answers_pass(name, variant):
    assert_passes(name, RIGHT[name][variant])


# --- the answers are what the library does ---------------------------------------------------------------------------


def test_steps_of_the_projection_come_as_near_as_the_library():
    torch.manual_seed(0)
    generator, x = decoder(latent=2), torch.rand(3, 1, 28, 28)
    z = torch.zeros(3, 2)
    _, near = project_to_range(generator, x, restarts=1, init=z)
    for _ in range(300):
        z = step_reference(generator, z, x, 0.01)
    assert (squares(generator(z) - x) <= 1.01 * squares(near - x)).all()


def test_the_straight_gradient_is_the_defences():
    torch.manual_seed(0)
    classifier, x = nn.Sequential(nn.Flatten(), nn.Linear(784, 5)), torch.rand(3, 1, 28, 28)
    defence = ManifoldDefense(classifier, decoder(latent=2), steps=5, restarts=1, bpda=True, seed=0)
    gradients = []
    for logits in (defence, lambda v: classifier(bpda_reference(lambda w: defence.project(w)[1], v))):
        watched = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(logits(watched).square().sum(), watched)[0])
    torch.testing.assert_close(*gradients)


def test_pairs_of_the_library_can_be_judged():
    """Pairs that were not found have an infinite distance: they are none of the three."""
    distance = torch.tensor([0.5, torch.inf])
    pairs = LatentPairs(*torch.zeros(6, 2), distance)
    logits = torch.eye(4)[:, None].expand(-1, 2, -1)
    masks = torch.stack(masks_reference(logits[:2], 20 * logits[2:], pairs.distance, 1.5, 0.8))
    assert torch.equal(masks.any(0), pairs.found)


# --- wrong answers ----------------------------------------------------------------------------------------------------

LIKE_Z, STAYS, ONE, BATCH, TRACE, OTHER = (
    "returns a new z",
    "lr = 0",
    "takes one step",
    "the step of an image",
    "leaves no trace",
    "works for other",
)
TWO, SINGLE, NEAREST, EACH, DRAWN = (
    "returns one z",
    "of one restart",
    "takes the nearest",
    "takes for each",
    "x_star is",
)
LIKE_X, VALUE, IDENTITY, GREYS, ONCE, WEIGHTS, AS_IT_WAS = (
    "returns images",
    "its value",
    "its gradient",
    "also where",
    "runs the projection once",
    "leaves no gradient",
    "leaves x",
)
THREE, UNCHANGED, FAR, UNSURE, ONE_DIGIT, TWO_DIGITS, ARGUMENTS = (
    "returns three",
    "one class",
    "farther",
    "a judge unsure",
    "a sure judge, one",
    "a sure judge, two",
    "leaves its arguments",
)


def step_of(loss=None, move=lambda z, g, lr: z - lr * g):
    """A step on another loss(drawn, x), or with another move(z, gradient, lr)."""

    def answer(generator, z, x, lr):
        g = slope(generator, z, x, loss) if loss else slope(generator, z, x)
        return move(z, g, lr)

    return answer


def moves_x(generator, z, x, lr):
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad((generator(z) - x).square().sum(), x)
    return (x - lr * g).detach()


def polluting(generator, z, x, lr):
    z = z.clone().requires_grad_()
    (generator(z) - x).square().sum().backward()
    return (z - lr * z.grad).detach()


def polluting_z(generator, z, x, lr):
    z.requires_grad_()
    return (z - lr * torch.autograd.grad((generator(z) - x).square().sum(), z)[0]).detach()


def trains_the_generator(generator, z, x, lr):
    new = step_reference(generator, z, x, lr)
    with torch.no_grad():
        for p in generator.parameters():
            p -= 0.01 * p
    return new


def attached_step(generator, z, x, lr):
    z = z.clone().requires_grad_()
    return z - lr * torch.autograd.grad((generator(z) - x).square().sum(), z)[0]


def step_in_place(generator, z, x, lr):
    z -= lr * slope(generator, z, x)
    return z


def forgets_requires_grad(generator, z, x, lr):
    (g,) = torch.autograd.grad((generator(z) - x).square().sum(), z)
    return z - lr * g


def forgets_and_calls_backward(generator, z, x, lr):
    (generator(z) - x).square().sum().backward()
    return z - lr * z.grad


def watches_another_copy(generator, z, x, lr):
    drawn = generator(z.clone())
    z = z.clone().requires_grad_()
    return z - lr * torch.autograd.grad((drawn - x).square().sum(), z)[0]


def no_reduction(generator, z, x, lr):
    z = z.clone().requires_grad_()
    return z - lr * torch.autograd.grad((generator(z) - x).square(), z)[0]


def frozen_generator(generator, z, x, lr):
    generator.requires_grad_(False)
    return step_reference(generator, z, x, lr)


def eval_left(generator, z, x, lr):
    generator.train(not generator.training)
    return step_reference(generator, z, x, lr)


def with_adam(generator, z, x, lr):
    point = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([point], lr)
    g = slope(generator, z, x)
    point.grad = g
    optimizer.step()
    return point.detach()


def restarts_of(errors=None, take=None, image=None):
    """A choice by other errors(drawn, x, starts), another take(starts, errors), or with another image(drawn, best, x)."""

    @torch.no_grad()
    def answer(generator, starts, x):
        drawn = torch.stack([generator(z) for z in starts])
        e = errors(drawn, x, starts) if errors else (drawn - x).square().sum((2, 3, 4))
        every = torch.arange(len(x))
        best = e.argmin(0)
        z = take(starts, e) if take else starts[best, every]
        if image is not None:
            return z, image(drawn, best, x)
        return z, take(drawn, e) if take else drawn[best, every]

    return answer


def mixed_layout(generator, starts, x):
    restarts, count, _ = starts.shape
    with torch.no_grad():
        drawn = generator(starts.flatten(0, 1))
    errors = squares(drawn - x.repeat_interleave(restarts, 0)).view(restarts, count)
    best, images = errors.argmin(0), torch.arange(count)
    return starts[best, images], drawn.view(restarts, count, *x.shape[1:])[best, images]


def transposed_by_view(generator, starts, x):
    restarts, count, _ = starts.shape
    with torch.no_grad():
        drawn = generator(starts.flatten(0, 1)).unflatten(0, (restarts, count))
    errors = (drawn - x).square().sum((2, 3, 4)).view(count, restarts)
    best, images = errors.argmin(1), torch.arange(count)
    return starts[best, images], drawn[best, images]


def in_place_restarts(generator, starts, x):
    result = restarts_reference(generator, starts.clone(), x)
    starts[0] = result[0]
    return result


def with_graph(generator, starts, x):
    z, _ = restarts_reference(generator, starts, x)
    return z, generator(z)


def whole_call(generator, starts, x):
    drawn = generator(starts)
    return starts[0], drawn[0]


class Ones(StraightThrough):
    @staticmethod
    def backward(ctx, above):
        return torch.ones_like(above), None


class Signs(StraightThrough):
    @staticmethod
    def backward(ctx, above):
        return above.sign(), None


def bpda_twice_run(projection, x):
    return projection(x).detach() + x - x.detach() + 0 * projection(x).detach()


def bpda_graph_of_weights(projection, x):
    return projection(x.detach()) + x - x.detach()


def bpda_in_place(projection, x):
    result = bpda_reference(projection, x)
    x.data += 0.01
    return result


def bpda_new_leaf(projection, x):
    return projection(x).detach().requires_grad_()


def bpda_marks_x(projection, x):
    if x.is_leaf:
        x.requires_grad_()
    return bpda_reference(projection, x)


def masks_of(said=None, certain=None, same=None, counts=None, combine=None):
    """A verdict with one part computed otherwise; each is a function of classifier, judge, distance, eps and sure."""

    def answer(*given):
        classifier, judge, distance, eps, sure = given
        c = classifier.argmax(2)
        confidence, digit = judge.softmax(2).max(2)
        changed = said(*given) if said else c[0] != c[1]
        found = counts(changed, distance, eps) if counts else changed & (distance <= eps)
        ok = certain(*given) if certain else (confidence >= sure).all(0)
        alike = same(*given) if same else digit[0] == digit[1]
        if combine:
            return combine(found, ok, alike)
        return found & ok & alike, found & ok & ~alike, found & ~ok

    return answer


def by(values):
    """Certain where values(confidence of the judge (2, N)) are at least `sure`."""
    return lambda classifier, judge, distance, eps, sure: values(judge.softmax(2).amax(2)) >= sure


def own_judge(classifier, judge, distance, eps, sure):
    return masks_reference(classifier, classifier, distance, eps, sure)


def distance_alone(classifier, judge, distance, eps, sure):
    return distance <= eps, distance > eps, torch.zeros_like(distance, dtype=torch.bool)


def masks_in_place(classifier, judge, *rest):
    masks = masks_reference(classifier, judge, *rest)
    judge.sub_(1)
    return masks


def reordered(*order):
    return lambda *given: tuple(masks_reference(*given)[i] for i in order)


WRONG = {
    "projection_step": [
        ("no step", lambda generator, z, x, lr: z.clone(), ONE, "You take no step"),
        ("uphill", step_of(move=lambda z, g, lr: z + lr * g), ONE, "uphill"),
        ("mse", step_of(F.mse_loss), ONE, "mean over the pixels"),
        ("mean over the pixels", step_of(lambda d, x: (d - x).square().mean((1, 2, 3)).sum()), ONE, "mean over the pixels"),
        ("mean over the batch", step_of(lambda d, x: squares(d - x).mean()), BATCH, "mean over the images"),
        ("norm", step_of(lambda d, x: (d - x).flatten(1).norm(dim=1).sum()), ONE, "You take the root"),
        ("norm of the batch", step_of(lambda d, x: (d - x).norm()), ONE, "You take the root"),
        ("absolute", step_of(lambda d, x: (d - x).abs().sum()), ONE, "Square them"),
        ("cancelling", step_of(lambda d, x: (d - x).sum()), ONE, "squared distance goes from"),
        ("half", step_of(lambda d, x: 0.5 * squares(d - x).sum()), ONE, "half the size"),
        ("doubled", step_of(lambda d, x: 2 * squares(d - x).sum()), ONE, "twice the size"),
        ("sign", step_of(move=lambda z, g, lr: z - lr * g.sign()), ONE, "No sign"),
        ("adam", with_adam, ONE, "No sign"),
        ("unit length", step_of(move=lambda z, g, lr: z - lr * g / g.norm(dim=1, keepdim=True)), ONE, "No division by its norm"),
        ("unit length of the batch", step_of(move=lambda z, g, lr: z - lr * g / g.norm()), ONE, "No division by its norm"),
        ("no lr", step_of(move=lambda z, g, lr: z - g), STAYS, "multiply it by lr"),
        ("the gradient", step_of(move=lambda z, g, lr: g), STAYS, "That is the gradient"),
        ("the step alone", step_of(move=lambda z, g, lr: -lr * g), STAYS, "z minus lr times the gradient"),
        ("clamped", step_of(move=lambda z, g, lr: (z - lr * g).clamp(0, 1)), STAYS, "You clamp z"),
        ("two steps", lambda *task: step_reference(task[0], step_reference(*task), *task[2:]), ONE, "two steps"),
        ("moves x", moves_x, LIKE_Z, "You move x"),
        ("the image", lambda generator, z, x, lr: generator(step_reference(generator, z, x, lr)).detach(), LIKE_Z, "image of the new z"),
        ("attached", attached_step, LIKE_Z, ".detach()"),
        ("requires grad forgotten", forgets_requires_grad, LIKE_Z, "requires_grad_()"),
        ("requires grad forgotten, backward", forgets_and_calls_backward, LIKE_Z, "requires_grad_()"),
        ("no_grad", lambda *task: torch.no_grad()(step_reference)(*task), LIKE_Z, "without torch.no_grad()"),
        ("another copy", watches_another_copy, LIKE_Z, "from this very z"),
        ("no reduction", no_reduction, LIKE_Z, ".sum()"),
        ("p.grad", polluting, TRACE, "torch.autograd.grad(loss, z)"),
        ("weights", trains_the_generator, TRACE, "changed the generator's weights"),
        ("frozen", frozen_generator, TRACE, "without requires_grad"),
        ("mode", eval_left, TRACE, "mode"),
        ("in place", step_in_place, TRACE, "changed z in place"),
        ("requires grad left", polluting_z, TRACE, "left requires_grad"),
        ("own lr", lambda generator, z, x, lr: step_reference(generator, z, x, 0.05), STAYS, "minus lr"),
        ("own generator", lambda generator, z, x, lr: step_reference(OWN, z, x, lr), ONE, "reads OWN"),
        ("first image's step", lambda generator, z, x, lr: z - lr * slope(generator, z, x)[:1], BATCH, "up to"),
        ("no return", lambda *task: None, LIKE_Z, "End your function with return"),
    ],
    "best_restart": [
        ("worst", restarts_of(take=lambda s, e: s[e.argmax(0), torch.arange(s.shape[1])]), NEAREST, "worst restart"),
        ("best of the batch", restarts_of(take=lambda s, e: s[e.sum(1).argmin()]), EACH, "one restart for the whole batch"),
        ("best of any image", restarts_of(take=lambda s, e: s[e.amin(1).argmin()]), EACH, "one restart for the whole batch"),
        ("mean over images and pixels", restarts_of(errors=lambda d, x, s: (d - x).square().mean((1, 2, 3, 4), keepdim=True)[..., 0, 0, 0].expand(-1, len(x))), EACH, "one restart for the whole batch"),
        ("first", restarts_of(take=lambda s, e: s[0]), NEAREST, "always take the first"),
        ("last", restarts_of(take=lambda s, e: s[-1]), NEAREST, "always take the last"),
        ("mean", restarts_of(take=lambda s, e: s.mean(0)), NEAREST, "mean over the restarts"),
        ("absolute", restarts_of(errors=lambda d, x, s: (d - x).abs().sum((2, 3, 4))), NEAREST, "absolute"),
        ("largest pixel", restarts_of(errors=lambda d, x, s: (d - x).abs().amax((2, 3, 4))), NEAREST, "largest difference"),
        ("cancelling", restarts_of(errors=lambda d, x, s: (d - x).sum((2, 3, 4))), NEAREST, "cancel"),
        ("cancelling size", restarts_of(errors=lambda d, x, s: (d - x).sum((2, 3, 4)).abs()), NEAREST, "cancel"),
        ("smallest z", restarts_of(errors=lambda d, x, s: s.norm(dim=2)), NEAREST, "compare the z with each other"),
        ("first x", restarts_of(errors=lambda d, x, s: (d - x[:1]).square().sum((2, 3, 4))), EACH, "first x"),
        ("whole batches", restarts_of(take=lambda s, e: s[e.argmin(0)]), TWO, "Index both dimensions"),
        ("restart of the first image", restarts_of(take=lambda s, e: s[e.argmin(0)[0]]), EACH, "best restart of the first image for all"),
        ("flat index", restarts_of(take=lambda s, e: s.flatten(0, 1)[e.argmin(0)]), SINGLE, "r·N + i"),
        ("flat index, transposed", restarts_of(take=lambda s, e: s.flatten(0, 1)[torch.arange(s.shape[1]) * len(s) + e.argmin(0)]), EACH, "r·N + i"),
        ("image of each restart", restarts_of(take=lambda s, e: s[torch.arange(len(s)), e.argmin(1)]), TWO, "an image for each restart"),
        ("gather", restarts_of(take=lambda s, e: s.gather(0, e.argmin(0)[None, :, None])[0], image=lambda d, b, x: x), TWO, "of the index's shape"),
        ("layout", mixed_layout, EACH, "mixed up"),
        ("layout by view", transposed_by_view, EACH, "mixed up"),
        ("shape of the call", whole_call, TWO, "the generator takes z of shape (N, latent)"),
        ("x itself", restarts_of(image=lambda d, b, x: x.clone()), DRAWN, "x itself"),
        ("first image", restarts_of(image=lambda d, b, x: d[0]), DRAWN, "always take the first restart"),
        ("image of the batch's best", restarts_of(image=lambda d, b, x: d[(d - x).square().sum((1, 2, 3, 4)).argmin()]), DRAWN, "whole batch"),
        ("images of all", restarts_of(image=lambda d, b, x: d), TWO, "keep the shape of x"),
        ("only z", lambda *task: restarts_reference(*task)[0], TWO, "return z, x_star"),
        ("swapped", lambda *task: restarts_reference(*task)[::-1], TWO, "in this order"),
        ("with the errors", lambda *task: (*restarts_reference(*task), 0), TWO, "return z, x_star"),
        ("numpy", lambda *task: tuple(v.numpy() for v in restarts_reference(*task)), TWO, "NumPy"),
        ("with a graph", with_graph, TWO, "torch.no_grad()"),
        ("in place", in_place_restarts, TRACE, "changed starts in place"),
        ("own generator", lambda generator, starts, x: restarts_reference(OWN, starts, x), NEAREST, "reads OWN"),
        ("no return", lambda *task: None, TWO, "End your function with return"),
    ],
    "bpda": [
        ("plain", lambda projection, x: projection(x), IDENTITY, "goes through the projection"),
        ("detached", lambda projection, x: projection(x).detach(), LIKE_X, "You detach everything"),
        ("no_grad", torch.no_grad()(bpda_reference), LIKE_X, "You detach everything"),
        ("all detached", lambda projection, x: (x + (projection(x) - x)).detach(), LIKE_X, "You detach everything"),
        ("new leaf", bpda_new_leaf, IDENTITY, "no new leaf"),
        ("x", lambda projection, x: x + 0 * projection(x).detach(), VALUE, "That is x"),
        ("nothing detached", lambda projection, x: x + (projection(x) - x), IDENTITY, "goes through the projection"),
        ("twice", lambda projection, x: projection(x) + x - x.detach(), IDENTITY, "and through it as well"),
        ("x detached inside only", lambda projection, x: x + projection(x) - x.detach(), IDENTITY, "and through it as well"),
        ("projection detached only", lambda projection, x: x + projection(x).detach() - x, IDENTITY, "Nothing of the gradient arrives"),
        ("the x before it detached", lambda projection, x: x.detach() + (projection(x) - x), IDENTITY, "x subtracts its own"),
        ("wrong sign", lambda projection, x: x + (x - projection(x)).detach(), VALUE, "wrong sign"),
        ("sum", lambda projection, x: x + projection(x).detach(), VALUE, "Add the difference"),
        ("difference", lambda projection, x: (projection(x) - x).detach() + 0 * x, VALUE, "difference alone"),
        ("halfway", lambda projection, x: (x + projection(x).detach()) / 2, VALUE, "halfway"),
        ("minus x", lambda projection, x: projection(x).detach() - x + x.detach(), IDENTITY, "wrong sign"),
        ("double slope", lambda projection, x: 2 * x + (projection(x) - 2 * x).detach(), IDENTITY, "twice"),
        ("ones", lambda projection, x: Ones.apply(x, projection), IDENTITY, "1 everywhere"),
        ("signs", lambda projection, x: Signs.apply(x, projection), IDENTITY, "takes the sign"),
        ("clamped", lambda projection, x: bpda_reference(projection, x).clamp(0.4, 0.6), VALUE, "differs from projection(x)"),
        ("run twice", bpda_twice_run, ONCE, "ran the projection 2 times"),
        ("gradient of the weights", bpda_graph_of_weights, WEIGHTS, "reached the weights"),
        ("in place", bpda_in_place, AS_IT_WAS, "changed x in place"),
        ("marks x", bpda_marks_x, AS_IT_WAS, "left requires_grad"),
        ("numpy", lambda projection, x: projection(x).detach().numpy(), LIKE_X, "NumPy"),
        ("float64", lambda projection, x: bpda_reference(projection, x).double(), LIKE_X, "float64"),
        ("mean", lambda projection, x: bpda_reference(projection, x).mean(0), LIKE_X, "shape"),
        ("no return", lambda projection, x: None, LIKE_X, "End your function with return"),
    ],
    "label_flipping": [
        ("own judge", own_judge, UNSURE, "party to the case"),
        ("own verdict", masks_of(same=lambda c, j, *_: c.argmax(2)[0] == c.argmax(2)[1]), ONE_DIGIT, "party to the case"),
        ("no confidence", masks_of(certain=lambda c, j, d, *_: torch.ones_like(d, dtype=torch.bool)), UNSURE, "leave out the judge's confidence"),
        ("either is enough", masks_of(certain=by(lambda p: p.amax(0))), UNSURE, "unsure of either image"),
        ("of x only", masks_of(certain=by(lambda p: p[0])), UNSURE, "of x only"),
        ("of x' only", masks_of(certain=by(lambda p: p[1])), UNSURE, "of x' only"),
        ("mean", masks_of(certain=by(lambda p: p.mean(0))), UNSURE, "take the mean"),
        ("product", masks_of(certain=by(lambda p: p.prod(0))), ONE_DIGIT, "multiply the two"),
        ("inverted", masks_of(certain=lambda c, j, d, e, s: ~(j.softmax(2).amax(2) >= s).all(0)), UNSURE, "wrong way round"),
        ("classifier's confidence", masks_of(certain=lambda c, j, d, e, s: (c.softmax(2).amax(2) >= s).all(0)), UNSURE, "how sure the classifier is"),
        ("both confidences", masks_of(certain=lambda c, j, d, e, s: (torch.cat([c, j]).softmax(2).amax(2) >= s).all(0)), ONE_DIGIT, "how sure the classifier is"),
        ("logits", masks_of(certain=lambda c, j, d, e, s: (j.amax(2) >= s).all(0)), UNSURE, "You compare logits"),
        ("softmax over pairs", masks_of(certain=lambda c, j, d, e, s: (j.softmax(1).amax(2) >= s).all(0)), ONE_DIGIT, "softmax"),
        ("softmax over images", masks_of(certain=lambda c, j, d, e, s: (j.softmax(0).amax(2) >= s).all(0)), ONE_DIGIT, "softmax"),
        ("unchanged ones too", masks_of(counts=lambda changed, d, eps: d <= eps), UNCHANGED, "nobody was fooled"),
        ("unchanged ones only", masks_of(counts=lambda changed, d, eps: ~changed & (d <= eps)), UNCHANGED, "wrong way round"),
        ("changed for the judge", masks_of(said=lambda c, j, *_: j.argmax(2)[0] != j.argmax(2)[1]), UNCHANGED, "You ask the judge for it"),
        ("far ones too", masks_of(counts=lambda changed, d, eps: changed), FAR, "do not count"),
        ("far ones only", masks_of(counts=lambda changed, d, eps: changed & (d > eps)), FAR, "wrong way round"),
        ("all pairs", masks_of(counts=lambda changed, d, eps: torch.ones_like(changed)), UNCHANGED, "Nor do pairs count"),
        ("distance alone", distance_alone, UNCHANGED, "The distance decides only which pairs count"),
        ("far is flipping", lambda c, j, d, eps, sure: ((c.argmax(2)[0] != c.argmax(2)[1]) & (d <= eps), (c.argmax(2)[0] != c.argmax(2)[1]) & (d > eps), d < 0), FAR, "The distance decides only"),
        ("the change is enough", masks_of(combine=lambda found, ok, alike: (found, found & False, found & False)), UNSURE, "is not enough"),
        ("swapped", reordered(1, 0, 2), ONE_DIGIT, "swapped"),
        ("other order", reordered(2, 0, 1), UNSURE, "another order"),
        ("against the classifier", masks_of(same=lambda c, j, *_: j.argmax(2)[1] == c.argmax(2)[0]), ONE_DIGIT, "one digit or two"),
        ("with the classifier", masks_of(same=lambda c, j, *_: ~(j.argmax(2) == c.argmax(2)).all(0)), TWO_DIGITS, "one digit or two"),
        ("overlapping", masks_of(combine=lambda found, ok, alike: (found & alike, found & ~alike, found & ~ok)), UNSURE, "two things at once"),
        ("ambiguous anywhere", masks_of(combine=lambda found, ok, alike: (found & ok & alike, found & ok & ~alike, ~ok)), UNCHANGED, "can be ambiguous"),
        ("own sure", lambda c, j, d, eps, sure: masks_reference(c, j, d, eps, 0.8), OTHER, "nothing but the arguments"),
        ("own eps", lambda c, j, d, eps, sure: masks_reference(c, j, d, 1.5, sure), OTHER, "nothing but the arguments"),
        ("two masks", lambda *given: masks_reference(*given)[:2], THREE, "Return three masks"),
        ("one tensor", lambda *given: torch.stack(masks_reference(*given)), THREE, "Return three masks"),
        ("floats", lambda *given: tuple(m.float() for m in masks_reference(*given)), THREE, "Return bools"),
        ("places", lambda *given: tuple(m.nonzero() for m in masks_reference(*given)), THREE, "One bool for each pair"),
        ("lists", lambda *given: tuple(m.tolist() for m in masks_reference(*given)), THREE, "torch tensor of bools"),
        ("of images", lambda c, j, d, eps, sure: (c.argmax(2) == j.argmax(2),) * 3, THREE, "Compare the first image with the second"),
        ("in place", masks_in_place, ARGUMENTS, "changed judge in place"),
        ("and", lambda c, j, d, eps, sure: (d <= eps) and (c.argmax(2)[0] != c.argmax(2)[1]), THREE, "&"),
        ("no return", lambda *given: None, THREE, "End your function with return"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name} {case[0]}") for name, cases in WRONG.items() for case in cases],
)
def test_wrong_answers_are_refused_with_the_right_hint(name, case):
    assert_refused(name, *case[1:])


def test_every_mistake_gives_something_of_its_own():
    """Else a hint would name a mistake that the student did not make."""
    step = robust_manifold._projection_task(6, robust_manifold.LATENT, inputs.SHAPE, 0.05)
    restarts = robust_manifold._restart_task(4, 9, robust_manifold.LATENT, inputs.SHAPE)
    pairs = robust_manifold._pairs_task(1.5, 0.8, 5, list(range(len(robust_manifold._PAIRS))))
    for right, mistakes in (
        (step_reference(*step), robust_manifold._step_mistakes(step)),
        (restarts_reference(*restarts)[0], robust_manifold._restart_mistakes(restarts, restarts.starts)),
        (robust_manifold._pair_facts(pairs).masks(), robust_manifold._pair_mistakes(pairs)),
    ):
        given = [(right.float(), "right"), *((wrong.float(), hint) for wrong, hint in mistakes)]
        for (first, hint), (second, other) in itertools.combinations(given, 2):
            assert hint == other or not close(first, second, 1e-4), (hint, other)


def test_every_exercise_has_answers_on_trial():
    here = {name for name, (checker, _) in engine._CHECKERS.items() if checker.__module__ == robust_manifold.__name__}
    assert set(RIGHT) == set(WRONG) == here
    assert min(map(len, WRONG.values())) >= 8
    assert min(map(len, RIGHT.values())) >= 4


@pytest.mark.parametrize("name", list(RIGHT))
def test_a_stub_is_not_attempted(name):
    def stub(*args):
        raise NotImplementedError()

    assert check(name, stub, strict=True).status == "not attempted"


def test_checks_do_not_depend_on_the_notebooks_settings(odd_settings):
    assert all(check(name, answers[0]) for name, answers in RIGHT.items())


def test_rounding_decides_nothing():
    assert_passes("projection_step", step_of(move=lambda z, g, lr: z - lr * with_noise(g)))
