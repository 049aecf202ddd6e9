"""Answers to the exercises of chapters 08 and 09, by readers who had not seen the checks."""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong

# One step towards the range ------------------------------------------------------------------------------------------


def squares(drawn, x):
    return (drawn - x).square().sum()


def descend(generator, z, x, lr, loss=squares, direction=lambda g: g):
    leaf = z.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(generator(leaf), x), leaf)
    return z.detach() - lr * direction(g)


@right("projection_step")
def error_sent_back_through_the_generator(generator, z, x, lr):
    leaf = z.detach().clone().requires_grad_()
    drawn = generator(leaf)
    (g,) = torch.autograd.grad(drawn, leaf, grad_outputs=2 * (drawn.detach() - x))
    return torch.add(z.detach(), g, alpha=-lr)


@right("projection_step")
def one_step_of_sgd(generator, z, x, lr):
    leaf = torch.nn.Parameter(z.detach().clone())
    optimizer = torch.optim.SGD([leaf], lr=lr)
    F.mse_loss(generator(leaf), x, reduction="sum").backward(inputs=[leaf])
    optimizer.step()
    return leaf.detach()


@right("projection_step")
def jacobian_of_each_image(generator, z, x, lr):
    moved = []
    for point, image in zip(z.detach(), x, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: generator(v[None]).flatten(), point)
        with torch.no_grad():
            error = generator(point[None]).flatten() - image.flatten()
        moved.append(point - 2 * lr * jacobian.T @ error)
    return torch.stack(moved)


@right("projection_step")
def backward_through_a_copy(generator, z, x, lr):
    twin, leaf = copy.deepcopy(generator), z.detach().clone().requires_grad_()
    for error in ((twin(leaf) - x) ** 2).flatten(1).sum(1):
        error.backward(retain_graph=True)
    with torch.no_grad():
        leaf -= lr * leaf.grad
    return leaf.detach()


@wrong(
    "projection_step",
    "mse_loss divides by the number of pixels and of images",
    "You take the mean over the images and pixels",
)
def mean_squared_error(generator, z, x, lr):
    return descend(generator, z, x, lr, loss=F.mse_loss)


@wrong(
    "projection_step",
    "the distances are averaged over the batch, so that a step depends on who else is in it",
    "You take the mean over the images, and the",
)
def mean_over_the_batch(generator, z, x, lr):
    return descend(generator, z, x, lr, loss=lambda d, x: (d - x).pow(2).flatten(1).sum(1).mean())


@wrong("projection_step", "the distance is not squared", "You take the root: the distance is squared")
def distance_not_squared(generator, z, x, lr):
    return descend(generator, z, x, lr, loss=lambda d, x: (d - x).flatten(1).norm(dim=1).sum())


@wrong(
    "projection_step",
    "half the squared distance is descended, so that the step is half as long",
    "Your step has half the size. The gradient has",
)
def half_the_square(generator, z, x, lr):
    return descend(generator, z, x, lr, loss=lambda d, x: 0.5 * squares(d, x))


@wrong(
    "projection_step",
    "the step follows the sign of the gradient, as in FGSM",
    "You change the gradient's length. The step is",
)
def sign_of_the_gradient(generator, z, x, lr):
    return descend(generator, z, x, lr, direction=torch.sign)


@wrong("projection_step", "the step goes uphill", "You walk uphill, away from x: the distance is")
def uphill(generator, z, x, lr):
    leaf = z.detach().clone().requires_grad_()
    g = torch.autograd.grad(squares(x, generator(leaf)), leaf)[0]
    return (leaf + lr * g).detach()


@wrong(
    "projection_step",
    "backward leaves a gradient on the weights of the generator",
    "What stands in .grad belongs to the",
)
def gradient_left_on_the_generator(generator, z, x, lr):
    leaf = z.detach().clone().requires_grad_()
    squares(generator(leaf), x).backward()
    return (leaf - lr * leaf.grad).detach()


@wrong(
    "projection_step",
    "zero_grad clears gradients of the generator that were there before",
    "What stands in .grad belongs to the",
)
def gradient_of_the_generator_cleared(generator, z, x, lr):
    leaf = z.detach().clone().requires_grad_()
    squares(generator(leaf), x).backward()
    generator.zero_grad()
    return (leaf - lr * leaf.grad).detach()


@wrong("projection_step", "the caller's z is moved in place", "Whoever called you still needs the original")
def caller_s_z_moved(generator, z, x, lr):
    leaf = z.detach().requires_grad_()
    (g,) = torch.autograd.grad(squares(generator(leaf), x), leaf)
    with torch.no_grad():
        leaf -= lr * g
    return leaf.detach()


@wrong("projection_step", "the weights of the generator stay frozen", "Switch it back before you return, or leave it")
def generator_left_frozen(generator, z, x, lr):
    generator.requires_grad_(False)
    return descend(generator, z, x, lr)


# The best of several restarts ----------------------------------------------------------------------------------------


def draw_all(generator, starts):
    with torch.no_grad():
        return generator(starts.flatten(0, 1)).unflatten(0, starts.shape[:2])


def choose(generator, starts, x, errors_of=lambda drawn, x: (drawn - x).square().flatten(2).sum(2), pick=None):
    drawn = draw_all(generator, starts)
    errors = errors_of(drawn, x)
    best = errors.argmin(0) if pick is None else pick(errors)
    every = torch.arange(len(x), device=x.device)
    return starts.detach()[best, every], drawn[best, every]


@right("best_restart")
@torch.no_grad()
def the_best_so_far(generator, starts, x):
    z, x_star = starts[0].clone(), generator(starts[0]).clone()
    lowest = (x_star - x).square().flatten(1).sum(1)
    for start in starts[1:]:
        drawn = generator(start)
        error = (drawn - x).square().flatten(1).sum(1)
        better = error < lowest
        z[better], x_star[better], lowest[better] = start[better], drawn[better], error[better]
    return z, x_star


@right("best_restart")
def every_image_by_itself(generator, starts, x):
    z, x_star = torch.empty_like(starts[0]), torch.empty_like(x)
    with torch.no_grad():
        for i, image in enumerate(x):
            drawn = generator(starts[:, i])
            k = min(range(len(starts)), key=lambda r: (drawn[r] - image).norm().item())
            z[i], x_star[i] = starts[k, i], drawn[k]
    return z.detach(), x_star.detach()


@right("best_restart")
def argmin_of_numpy(generator, starts, x):
    points = starts.detach()
    drawn = torch.stack([generator(point).detach() for point in points])
    errors = ((drawn - x.detach()).cpu().numpy() ** 2).reshape(len(starts), len(x), -1).mean(axis=2)
    best = torch.from_numpy(np.argmin(errors, axis=0)).tolist()
    rows = list(enumerate(best))
    return torch.stack([points[r, i] for i, r in rows]), torch.stack([drawn[r, i] for i, r in rows])


@right("best_restart")
def gather_along_the_restarts(generator, starts, x):
    starts, drawn = starts.detach(), draw_all(generator, starts)
    _, best = torch.einsum("rnp,rnp->rn", *[(drawn - x).flatten(2)] * 2).topk(1, dim=0, largest=False)
    z = starts.gather(0, best[..., None].expand(-1, -1, starts.shape[2])).squeeze(0)
    index = best.reshape(1, -1, *[1] * (x.ndim - 1)).expand(1, *x.shape)
    return z, drawn.gather(0, index).squeeze(0)


@wrong("best_restart", "one restart is chosen for the whole batch", "You choose one restart for the whole batch.")
def best_batch(generator, starts, x):
    return choose(generator, starts, x, pick=lambda errors: errors.sum(1).argmin().expand(len(x)))


@wrong(
    "best_restart",
    "the errors (R, N) are reshaped instead of transposed, and mix images up",
    "The generator's images are mixed up: the",
)
def errors_reshaped(generator, starts, x):
    return choose(generator, starts, x, pick=lambda errors: errors.reshape(len(x), len(starts)).argmin(1))


@wrong("best_restart", "the error sums absolute values instead of squares", "You sum absolute differences. The")
def absolute_values(generator, starts, x):
    return choose(generator, starts, x, errors_of=lambda drawn, x: (drawn - x).abs().flatten(2).sum(2))


@wrong(
    "best_restart",
    "the error is the sum of differences, in which those of different sign cancel",
    "Your differences cancel: square them before",
)
def differences_cancel(generator, starts, x):
    return choose(generator, starts, x, errors_of=lambda drawn, x: (drawn - x).flatten(2).sum(2).square())


@wrong("best_restart", "only the first channel is compared", "You compare the first channel only. The error")
def first_channel_only(generator, starts, x):
    return choose(generator, starts, x, errors_of=lambda drawn, x: (drawn - x).square().sum((3, 4))[:, :, 0])


@wrong(
    "best_restart",
    "each image of the repeated batch is compared with the drawings of another",
    "The generator's images are mixed up: the",
)
def images_repeated_one_by_one(generator, starts, x):
    def errors(drawn, x):
        copies = x.repeat_interleave(len(drawn), 0)  # x0, x0, x1, x1; the drawings come as x0, x1, x0, x1
        return (drawn.flatten(0, 1) - copies).square().flatten(1).sum(1).view(len(drawn), -1)

    return choose(generator, starts, x, errors_of=errors)


@wrong(
    "best_restart",
    "the lowest error is not remembered: the last one that beats the first restart wins",
    "You compare each restart with the first only.",
)
@torch.no_grad()
def lowest_error_forgotten(generator, starts, x):
    z, x_star = starts[0].clone(), generator(starts[0]).clone()
    lowest = (x_star - x).square().flatten(1).sum(1)
    for start in starts[1:]:
        drawn = generator(start)
        better = (drawn - x).square().flatten(1).sum(1) < lowest
        z[better], x_star[better] = start[better], drawn[better]
    return z, x_star


@wrong(
    "best_restart",
    "the best points are written into the first of the caller's starts",
    "Whoever called you still needs the original",
)
@torch.no_grad()
def starts_overwritten(generator, starts, x):
    z, x_star = starts[0], generator(starts[0])
    for start in starts[1:]:
        drawn = generator(start)
        better = (drawn - x).square().flatten(1).sum(1) < (x_star - x).square().flatten(1).sum(1)
        z[better], x_star[better] = start[better], drawn[better]
    return z, x_star


@wrong(
    "best_restart",
    "x_star is what the last restart draws, not the best one",
    "You always take the last restart. Compare the",
)
@torch.no_grad()
def drawing_of_the_last_restart(generator, starts, x):
    errors = []
    for start in starts:
        x_star = generator(start)
        errors.append((x_star - x).square().flatten(1).sum(1))
    best = torch.stack(errors).argmin(0)
    return starts[best, torch.arange(len(x))], x_star


@wrong(
    "best_restart", "x_star still hangs on the graph of the generator", "Return result.detach(): otherwise the memory"
)
def drawn_with_a_graph(generator, starts, x):
    z, _ = choose(generator, starts, x)
    return z, generator(z)


# A gradient for what has none ----------------------------------------------------------------------------------------


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class StraightThroughInside(StraightThrough):
    @staticmethod
    def forward(ctx, x, value):
        ctx.save_for_backward(x)
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * ((x > 0) & (x < 1)), None


right("bpda")(lambda projection, x: StraightThrough.apply(x, projection(x).detach()))
right("bpda")(lambda projection, x: projection(x.detach()).detach() + (x - x.detach()))


@right("bpda")
def values_exchanged_in_a_copy(projection, x):
    value, out = projection(x).detach(), x.clone()
    with torch.no_grad():
        out.copy_(value)
    return out


@right("bpda")
def difference_in_numpy(projection, x):
    before = x.detach().cpu().numpy().copy()
    washed_off = before - projection(x).detach().cpu().numpy()
    return x - torch.as_tensor(washed_off, device=x.device)


wrong("bpda", "the result has no gradient at all", "You detach everything: the attack gets no")(
    lambda projection, x: projection(x).detach()
)
wrong(
    "bpda",
    "the gradient goes through the projection as well: only x is detached",
    "The gradient goes past the projection and",
)(lambda projection, x: x + (projection(x) - x.detach()))
wrong("bpda", "the two x cancel, and the gradient is zero", "Nothing of the gradient arrives: x must be in")(
    lambda projection, x: x + projection(x).detach() - x
)
wrong(
    "bpda",
    "lerp with weight 1 has the value, but gives x a gradient of zero",
    "Nothing of the gradient arrives: x must be in",
)(lambda projection, x: torch.lerp(x, projection(x).detach(), 1.0))
wrong("bpda", "the gradient stops at a new leaf and does not reach x", "The x that you were handed must carry the")(
    lambda projection, x: projection(x).detach().requires_grad_()
)
wrong(
    "bpda",
    "the gradient is scaled by the quotient of the images, and NaN where x is 0",
    "The value is the projection, and only the",
)(lambda projection, x: x * (projection(x) / x).detach())
wrong("bpda", "pixels that are 0 or 1 get no gradient", "Where a pixel of x is black or white no")(
    lambda projection, x: StraightThroughInside.apply(x, projection(x).detach())
)


@wrong(
    "bpda",
    "the projection runs a second time for the sake of an assertion",
    "A projection is a search from random starts",
)
def projected_twice(projection, x):
    assert projection(x).shape == x.shape
    return x + (projection(x) - x).detach()


@wrong("bpda", "the values of the caller's x are overwritten", "Whoever called you still needs the original")
def caller_s_image_overwritten(projection, x):
    x.data = projection(x).detach()
    return x.clone()


@wrong("bpda", "x is counted twice in the gradient", "x carries the gradient more than once: detach")
def gradient_doubled(projection, x):
    y = projection(x).detach()
    return y + (x - x.detach()) + (x - x.detach())


# Is it still the same digit? -----------------------------------------------------------------------------------------


def sort_out(classifier, judge, distance, eps, sure, probabilities=lambda logits: logits.softmax(2)):
    said = classifier.argmax(2)
    confidence, digit = probabilities(judge).max(2)
    counts = (said[0] != said[1]) & (distance <= eps)
    certain = (confidence >= sure).all(0)
    same = digit[0] == digit[1]
    return counts & certain & same, counts & certain & ~same, counts & ~certain


@right("label_flipping")
def one_pair_after_the_other(classifier, judge, distance, eps, sure):
    kinds = torch.zeros(3, len(distance), dtype=torch.bool, device=distance.device)
    for i in range(len(distance)):
        if torch.equal(*classifier[:, i].argmax(1)) or not bool(distance[i] <= eps):
            continue
        (a, first), (b, second) = (F.softmax(logits, dim=-1).max(dim=-1) for logits in judge[:, i])
        if bool(a < sure) or bool(b < sure):
            kinds[2, i] = True
        else:
            kinds[0 if int(first) == int(second) else 1, i] = True
    return kinds[0], kinds[1], kinds[2]


@right("label_flipping")
def in_numpy(classifier, judge, distance, eps, sure):
    classifier, shares, distance = (t.detach().cpu().numpy() for t in (classifier, judge.softmax(-1), distance))
    differs, flips = (np.diff(t.argmax(2), axis=0)[0] != 0 for t in (classifier, shares))
    counts = differs & (distance <= np.asarray(eps, distance.dtype))
    unsure = shares.max(axis=2).min(axis=0) < np.asarray(sure, shares.dtype)
    return tuple(torch.from_numpy(counts & m) for m in (~unsure & ~flips, ~unsure & flips, unsure))


@right("label_flipping")
def codes_for_the_kinds(classifier, judge, distance, eps, sure):
    one, two = judge.softmax(-1)
    kind = torch.where(one.argmax(-1) == two.argmax(-1), 0, 1)
    kind[torch.minimum(one.amax(-1), two.amax(-1)) < sure] = 2
    first, second = classifier.topk(1, dim=-1).indices.squeeze(-1)
    kind[(first == second) | ~(distance <= eps)] = 3
    return tuple(kind == k for k in range(3))


@right("label_flipping")
def one_hot_votes(classifier, judge, distance, eps, sure):
    k = judge.shape[2]
    votes = F.one_hot(judge.argmax(2), k).prod(0).sum(1).bool()
    told_apart = ~F.one_hot(classifier.argmax(2), k).prod(0).sum(1).bool()
    counts = told_apart.logical_and(distance.le(eps))
    unsure = judge.softmax(2).amax(2).lt(sure).sum(0).gt(0)
    ambiguous = counts & unsure
    clear = counts ^ ambiguous
    return clear & votes, clear & ~votes, ambiguous


wrong("label_flipping", "the classifier is its own judge", "The classifier is a party to the case: it")(
    lambda c, j, d, eps, sure: sort_out(c, c, d, eps, sure)
)
wrong("label_flipping", "an exact distance of eps does not count", "A distance of exactly eps counts: at most eps")(
    lambda c, j, d, eps, sure: sort_out(c, j, torch.where(d < eps, d, torch.inf), eps, sure)
)
wrong(
    "label_flipping",
    "the softmax runs over the pairs instead of the classes",
    "Your softmax goes over the two images, or",
)(lambda c, j, d, eps, sure: sort_out(c, j, d, eps, sure, lambda logits: logits.softmax(1)))
wrong(
    "label_flipping",
    "sigmoid is taken for the confidence, as if each class stood alone",
    "You compare logits, each alone. sure is a",
)(lambda c, j, d, eps, sure: sort_out(c, j, d, eps, sure, torch.sigmoid))


@wrong(
    "label_flipping",
    "a softmax by hand is NaN for large logits, and where a class has no vote",
    "exp of a large logit overflows, and inf / inf",
)
def softmax_minus_the_mean(classifier, judge, distance, eps, sure):
    def by_hand(logits):
        odds = (logits - logits.mean(2, keepdim=True)).exp()
        return odds / odds.sum(2, keepdim=True)

    return sort_out(classifier, judge, distance, eps, sure, by_hand)


@wrong(
    "label_flipping",
    "the logits of the caller's judge are changed in place",
    "Whoever called you still needs the original",
)
def judge_changed_in_place(classifier, judge, distance, eps, sure):
    def by_hand(logits):
        logits -= logits.amax(2, keepdim=True)
        return logits.exp() / logits.exp().sum(2, keepdim=True)

    return sort_out(classifier, judge, distance, eps, sure, by_hand)


def variant(certain=lambda confidence, sure: (confidence >= sure).all(0), ambiguous=lambda c, s: c & ~s, clear=None):
    def answer(classifier, judge, distance, eps, sure):
        confidence, digit = judge.softmax(2).max(2)
        counts = (classifier[0].argmax(1) != classifier[1].argmax(1)) & (distance <= eps)
        known, same = certain(confidence, sure), digit[0] == digit[1]
        first = counts & (known if clear is None else clear(known))
        return first & same, first & ~same, ambiguous(counts, known)

    return answer


wrong("label_flipping", "a confidence of exactly sure is ambiguous", "A judge that is exactly as sure as asked is")(
    variant(lambda c, sure: (c > sure).all(0))
)
wrong(
    "label_flipping",
    "a pair is ambiguous only if the judge is unsure of both images",
    "A pair is ambiguous if the judge is unsure of",
)(variant(lambda c, sure: (c >= sure).any(0)))
wrong(
    "label_flipping",
    "pairs that do not count are called ambiguous if the judge is unsure",
    "Only pairs that the classifier tells apart",
)(variant(ambiguous=lambda counts, known: ~known))
wrong(
    "label_flipping",
    "ambiguous pairs are adversarial or label-flipping as well",
    "No pair is two things at once: an ambiguous",
)(variant(clear=lambda known: torch.ones_like(known)))
