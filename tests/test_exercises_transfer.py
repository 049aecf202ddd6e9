# ruff: noqa: E501 (one line for each wrong answer)
"""The checks of chapter 04: they accept every right answer, and say the right thing about every wrong one."""

import copy
import heapq
import itertools
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_passes, assert_refused, with_noise
from torch import nn

from course_utils import attacks
from course_utils.exercises import check, engine, transfer

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))  # what a notebook may have lying around


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.clone().detach().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def logit(z, labels):
    return z.gather(1, labels[:, None]).sum()


def sizes(g):
    return g.abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-12)


# --- right answers ----------------------------------------------------------------------------------------------------


def neighbour(x, y, x_train, y_train, p=2.0, allowed=torch.ne, pick=torch.argmin):
    distances = torch.cdist(x.flatten(1), x_train.flatten(1), p=p)
    distances[~allowed(y[:, None], y_train)] = torch.inf if pick is torch.argmin else -torch.inf
    return x_train[pick(distances, 1)]


def neighbour_reference(x, y, x_train, y_train, eps):
    return x + (neighbour(x, y, x_train, y_train) - x).clamp(-eps, eps)


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
    distances = np.where(y[:, None] == y_train[None], np.inf, distances)
    goal = x_train[distances.argmin(1)]
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


def log_mean_reference(logits):
    logs = torch.stack([z.log_softmax(1) for z in logits])
    return logs.logsumexp(0) - math.log(len(logits))


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


def augment_reference(model, x, labels, lam):
    return (x + lam * gradient(model, x, labels, logit).sign()).clamp(0, 1)


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
    def chosen(z, labels):
        return (z * F.one_hot(labels, z.shape[1])).mean()

    return (x + lam * gradient(model, x, labels, chosen).sign()).clamp(0, 1)


def augment_with_nll(model, x, labels, lam):
    return (x - lam * gradient(model, x, labels, F.nll_loss).sign()).clamp(0, 1)


def algorithm_r(items, k, generator):
    sample = []
    for i, item in enumerate(items):
        if i < k:
            sample.append(item)
        elif (place := generator.randrange(i + 1)) < k:
            sample[place] = item
    return sample


def algorithm_r_with_chances(items, k, generator):
    sample = []
    for seen, item in enumerate(items, start=1):
        if len(sample) < k:
            sample.append(item)
        elif generator.random() < k / seen:
            sample[generator.randint(0, k - 1)] = item
    return sample


def algorithm_l(items, k, generator):
    stream = iter(items)
    sample = list(itertools.islice(stream, k))
    if len(sample) < k:
        return sample
    w = math.exp(math.log(generator.random()) / k)
    while True:
        skip = math.floor(math.log(generator.random()) / math.log(1 - w))
        item = next(itertools.islice(stream, skip, None), stream)
        if item is stream:
            return sample
        sample[generator.randrange(k)] = item
        w *= math.exp(math.log(generator.random()) / k)


def sample_of_a_list(items, k, generator):
    items = list(items)
    return generator.sample(items, min(k, len(items)))


def shuffled(items, k, generator):
    items = list(items)
    generator.shuffle(items)
    return items[:k]


def largest_keys(items, k, generator):
    keyed = ((generator.random(), i, item) for i, item in enumerate(items))
    return [item for _, _, item in heapq.nlargest(k, keyed)]


def popped(items, k, generator):
    items, sample = list(items), []
    while items and len(sample) < k:
        sample.append(items.pop(generator.randrange(len(items))))
    return sample


def numpy_choice(items, k, generator):
    items = list(items)
    order = np.random.default_rng(generator.getrandbits(32)).permutation(len(items))
    return [items[i] for i in order[:k]]


def momentum_reference(model, x, y, eps, steps, decay):
    adv, momentum = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        g = gradient(model, adv, y)
        momentum = decay * momentum + g / sizes(g)
        adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)
    return adv


def momentum_by_sums(model, x, y, eps, steps, decay):
    adv, momentum = x.clone(), 0
    for _ in range(steps):
        adv = adv.detach().requires_grad_()
        F.cross_entropy(model(adv), y, reduction="sum").backward()
        model.zero_grad()
        total = adv.grad.flatten(1).norm(p=1, dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
        momentum = momentum * decay + adv.grad / total
        adv = x + (adv + eps / steps * momentum.sign() - x).clamp(-eps, eps)
        adv = adv.clamp(0, 1)
    return adv.detach()


def momentum_projected(model, x, y, eps, steps, decay):
    adv, memory = x, torch.zeros_like(x)
    for _ in range(steps):
        g = attacks.input_gradient(model, adv, y)
        memory = memory.mul(decay).add(torch.nan_to_num(g / g.abs().mean((1, 2, 3), keepdim=True)))
        adv = attacks.project(adv + eps / steps * memory.sign(), x, eps)
    return adv


def momentum_one_by_one(model, x, y, eps, steps, decay):
    parts = zip(x.split(1), y.split(1), strict=True)
    return torch.cat([momentum_reference(model, image, label, eps, steps, decay) for image, label in parts])


def momentum_with_delta(model, x, y, eps, steps, decay):
    delta, memory = torch.zeros_like(x, requires_grad=True), torch.zeros_like(x)
    for _ in range(steps):
        (g,) = torch.autograd.grad(F.nll_loss(model(x + delta).log_softmax(1), y, reduction="sum"), delta)
        memory = decay * memory + g / (g.abs().mean(dim=[1, 2, 3], keepdim=True) + 1e-12)
        with torch.no_grad():
            delta.add_(eps / steps * memory.sign()).copy_((x + delta).clamp(0, 1) - x)
    return (x + delta).detach()


def momentum_in_double(model, x, y, eps, steps, decay):
    return momentum_reference(copy.deepcopy(model).double(), x.double(), y, eps, steps, decay).float()


RIGHT = {
    "neighbour_step": [neighbour_reference, neighbour_one_by_one, neighbour_in_numpy, neighbour_by_broadcasting, neighbour_sorted],
    "log_mean_probability": [log_mean_reference, log_mean_by_shift, log_mean_in_one, log_mean_by_logaddexp, log_mean_in_double],
    "jacobian_augment": [augment_reference, augment_with_backward, augment_one_by_one, augment_by_jacobian, augment_with_one_hot, augment_with_nll],
    "reservoir": [algorithm_r, algorithm_r_with_chances, algorithm_l, sample_of_a_list, shuffled, largest_keys, popped, numpy_choice],
    "momentum_fgsm": [momentum_reference, momentum_by_sums, momentum_projected, momentum_one_by_one, momentum_with_delta, momentum_in_double],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variant"), [(name, i) for name, variants in RIGHT.items() for i in range(len(variants))]
)
def test_right_answers_pass(name, variant):
    assert_passes(name, RIGHT[name][variant])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("answer", [algorithm_r, algorithm_l, sample_of_a_list, largest_keys])
def test_luck_refuses_no_right_answer(answer, seed):
    """Each seed is another draw: 4,000 samples of a right answer stay inside the band."""

    def lucky(items, k, generator):
        draws.seed(generator.getrandbits(32) + seed)
        return answer(items, k, draws)

    draws = random.Random()
    assert_passes("reservoir", lucky)


# --- wrong answers ----------------------------------------------------------------------------------------------------

LIKE_X, NO_TRACE = "returns", "leaves"
NO_FARTHER, NEAREST, BETWEEN = "no pixel moves by more", "goes to the nearest", "stays between x and the neighbour"
NOTHING, OTHER = "eps = 0", "works for other"
IS_THE_LOG, ANY_NUMBER, LARGE, SLOPE = (
    "is the logarithm",
    "works for any number",
    "is right for logits",
    "has a gradient",
)
BY_LAM, ALONG, NEGATIVE, IN_BOX = (
    "moves every pixel by lam",
    "moves along the gradient",
    "goes the other way",
    "stays inside [0, 1]",
)
OF_K, TWICE, STREAM, ALL = "returns a list of k", "the items come from", "reads a stream", "returns all items"
ANY_KIND, GENERATOR, CHANCE = "copes with items", "draws from the generator", "every item has"
FGSM, PLAIN, MEMORY = "one step is FGSM", "without momentum", "adds decay times"
ALONE, BLIND = "gives an image alone", "leaves an image without"


def clamped(goal):
    """A step towards another goal than the nearest image with another label."""

    def answer(x, y, x_train, y_train, eps):
        return x + (goal(x, y, x_train, y_train) - x).clamp(-eps, eps)

    return answer


def towards(change):
    """The right neighbour, and another change towards it: change(difference, eps)."""
    return lambda x, y, x_train, y_train, eps: x + change(neighbour(x, y, x_train, y_train) - x, eps)


def class_mean(x, y, x_train, y_train):
    means = torch.stack([x_train[y_train == k].mean(0) for k in y_train.unique()])
    return neighbour(x, y, means, y_train.unique())


def change_x_train(x, y, x_train, y_train, eps):
    right = neighbour_reference(x, y, x_train, y_train, eps)
    x_train -= x_train.mean()
    return right


def change_x(x, y, x_train, y_train, eps):
    right = neighbour_reference(x, y, x_train, y_train, eps)
    x += 0.1
    return right


def three_classes(x, y, x_train, y_train, eps):
    goals = torch.stack([x_train[y_train == k][:1].squeeze(0) for k in range(3)])
    return clamped(lambda *_: goals[y])(x, y, x_train, y_train, eps)


def stacked(combine):
    """An answer from (M, N, K): combine(logits)."""
    return lambda logits: combine(torch.stack(logits))


def change_logits(logits):
    right = log_mean_reference(logits)
    logits[0] -= 1
    return right


def pop_logits(logits):
    right = log_mean_reference(logits)
    logits.pop()
    return right


def augment(loss=logit, labels=None, step=None, sign=1):
    """An augmentation that differs from the right one in what the keywords say."""

    def answer(model, x, y, lam):
        y = labels(model, x, y) if labels else y
        g = gradient(model, x, y, loss)
        return (x + (step(g, lam) if step else sign * lam * g.sign())).clamp(0, 1)

    return answer


def augment_in_place(model, x, labels, lam):
    x += lam * gradient(model, x, labels, logit).sign()
    return x.clamp_(0, 1)


def augment_and_pollute(model, x, labels, lam):
    new = x.clone().requires_grad_()
    logit(model(new), labels).backward()
    return (new + lam * new.grad.sign()).clamp(0, 1).detach()


def augment_attached(model, x, labels, lam):
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(logit(model(x), labels), x)
    return (x + lam * g.sign()).clamp(0, 1)


def augment_in_eval_mode(model, x, labels, lam):
    model.eval()
    return augment_reference(model, x, labels, lam)


def drawing(enters, place=lambda k, generator: generator.randrange(k)):
    """A reservoir in which item i enters if enters(i, k, generator), at place(k, generator)."""

    def answer(items, k, generator):
        sample = []
        for i, item in enumerate(items):
            if i < k:
                sample.append(item)
            elif enters(i, k, generator):
                sample[place(k, generator)] = item
        return sample

    return answer


def first_in_first_out(items, k, generator):
    sample = []
    for i, item in enumerate(items):
        if i < k:
            sample.append(item)
        elif generator.random() < k / (i + 1):
            sample.pop(0)
            sample.append(item)
    return sample


def numbers_of(items, k, generator):
    return sample_of_a_list(range(len(list(items))), k, generator)


def with_a_set(items, k, generator):
    return sample_of_a_list(set(items), k, generator)


def reads_twice(items, k, generator):
    count = sum(1 for _ in items)
    chosen = set(generator.sample(range(count), min(k, count)))
    return [item for i, item in enumerate(items) if i in chosen]


def with_in(items, k, generator):
    sample = []
    for i, item in enumerate(items):
        if item in sample:
            continue
        if len(sample) < k:
            sample.append(item)
        elif (place := generator.randrange(i + 1)) < k:
            sample[place] = item
    return sample


def copies(items, k, generator):
    return copy.deepcopy(algorithm_r(items, k, generator))


def with_replacement(items, k, generator):
    items = list(items)
    return generator.choices(items, k=k) if len(items) > k else items


def grows(items, k, generator):
    sample = []
    for i, item in enumerate(items):
        if i < k or generator.randrange(i + 1) < k:
            sample.append(item)
    return sample


def mi(
    mix=None,
    scale=sizes,
    size=lambda eps, steps: eps / steps,
    count=lambda steps: steps,
    loss=F.cross_entropy,
    box=True,
    stale=False,
    step=torch.sign,
    labels=None,
    sign=1,
):
    """MI-FGSM that differs from the right one in what the keywords say."""

    def answer(model, x, y, eps, steps, decay):
        y = labels(model, x) if labels else y
        adv, momentum = x.clone(), torch.zeros_like(x)
        for _ in range(count(steps)):
            g = gradient(model, x if stale else adv, y, loss)
            g = g / scale(g)
            momentum = mix(momentum, g, decay) if mix else decay * momentum + g
            adv = adv + sign * size(eps, steps) * step(momentum)
            adv = adv.clamp(0, 1) if box else adv
        return adv

    return answer


def mi_box_at_the_end(model, x, y, eps, steps, decay):
    return mi(box=False)(model, x, y, eps, steps, decay).clamp(0, 1)


def mi_returns_early(model, x, y, eps, steps, decay):
    return mi(count=lambda steps: 1)(model, x, y, eps, steps, decay)


def mi_in_place(model, x, y, eps, steps, decay):
    right = momentum_reference(model, x, y, eps, steps, decay)
    return x.copy_(right)


def mi_polluting(model, x, y, eps, steps, decay):
    F.cross_entropy(model(x), y).backward()
    return momentum_reference(model, x, y, eps, steps, decay)


def mi_attached(model, x, y, eps, steps, decay):
    adv, momentum = x.clone().requires_grad_(), 0
    for _ in range(steps):
        (g,) = torch.autograd.grad(F.cross_entropy(model(adv), y), adv)
        momentum = decay * momentum + g / sizes(g)
        adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)
    return adv


def mi_changing_the_mode(model, x, y, eps, steps, decay):
    model.eval()
    return momentum_reference(model, x, y, eps, steps, decay)


WRONG = {
    "neighbour_step": [
        ("x", lambda x, *rest: x, NEAREST, "Nothing changed"),
        ("the neighbour", lambda x, y, x_train, y_train, eps: neighbour(x, y, x_train, y_train), NO_FARTHER, "the neighbour itself"),
        ("the change", lambda x, y, x_train, y_train, eps: (neighbour(x, y, x_train, y_train) - x).clamp(-eps, eps), NO_FARTHER, "the change alone"),
        ("sign", towards(lambda d, e: e * d.sign()), BETWEEN, "Do not move by the sign"),
        ("sign, boxed", lambda *args: towards(lambda d, e: e * d.sign())(*args).clamp(0, 1), BETWEEN, "Do not move by the sign"),
        ("away", towards(lambda d, e: -d.clamp(-e, e)), NEAREST, "away from the neighbour"),
        ("share", towards(lambda d, e: e * d), BETWEEN, "the share eps of the way"),
        ("l2", towards(lambda d, e: d * (e / d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(max=1)), BETWEEN, "Euclidean length of the change"),
        ("shrunk", towards(lambda d, e: d * (e / d.abs().amax((1, 2, 3), keepdim=True)).clamp(max=1)), BETWEEN, "shrink the whole change"),
        ("above only", towards(lambda d, e: d.clamp(max=e)), NO_FARTHER, "both ends"),
        ("up only", towards(lambda d, e: d.clamp(0, e)), BETWEEN, "step down is lost"),
        ("clamped neighbour", lambda x, y, x_train, y_train, eps: neighbour(x, y, x_train, y_train).clamp(-eps, eps), NO_FARTHER, "clamp the neighbour"),
        ("any label", clamped(lambda *args: neighbour(*args, allowed=lambda a, b: (a == b) | True)), NEAREST, "whatever its label"),
        ("same label", clamped(lambda *args: neighbour(*args, allowed=torch.eq)), NEAREST, "wrong way round"),
        ("farthest", clamped(lambda *args: neighbour(*args, pick=torch.argmax)), NEAREST, "argmin, not argmax"),
        ("l1", clamped(lambda *args: neighbour(*args, p=1.0)), NEAREST, "sum the absolute differences"),
        ("linf", clamped(lambda *args: neighbour(*args, p=math.inf)), NEAREST, "largest difference of a pixel"),
        ("one for all", clamped(lambda *args: neighbour(*args)[:1].expand_as(args[0])), NEAREST, "one and the same neighbour"),
        ("first other", clamped(lambda x, y, x_train, y_train: x_train[(y[:, None] != y_train).int().argmax(1)]), NEAREST, "first training image"),
        ("class mean", clamped(class_mean), NEAREST, "mean image of another class"),
        ("argmin over x", clamped(lambda x, y, x_train, y_train: x_train[torch.cdist(x.flatten(1), x_train.flatten(1)).argmin(0)]), LIKE_X, "shapes"),
        ("no flatten", clamped(lambda x, y, x_train, y_train: x_train[torch.cdist(x, x_train).argmin(1)]), LIKE_X, "print both"),
        ("own eps", lambda x, y, x_train, y_train, eps: neighbour_reference(x, y, x_train, y_train, 0.2), NOTHING, "Use the eps that is passed in"),
        ("three classes", three_classes, NEAREST, "argmin(1)"),
        ("36 pixels", lambda x, *rest: neighbour_reference(x, *rest).view(-1, 36).view(-1, 1, 6, 6), OTHER, "x.shape"),
        ("changes x", change_x, NO_TRACE, "changed x in place"),
        ("changes x_train", change_x_train, NO_TRACE, "changed x_train in place"),
        ("numpy", lambda *args: neighbour_reference(*args).numpy(), LIKE_X, "NumPy"),
        ("float64", lambda *args: neighbour_reference(*args).double(), LIKE_X, "Keep the type"),
        ("flat", lambda *args: neighbour_reference(*args).flatten(1), LIKE_X, "Keep the shape"),
        ("list", lambda *args: list(neighbour_reference(*args)), LIKE_X, "torch.stack"),
        ("no return", lambda *args: None, LIKE_X, "End your function with return"),
    ],
    "log_mean_probability": [
        ("mean of logits", stacked(lambda z: z.mean(0)), IS_THE_LOG, "mean of the logits"),
        ("log_softmax of the mean", stacked(lambda z: z.mean(0).log_softmax(1)), IS_THE_LOG, "average the logits"),
        ("log_softmax of the sum", stacked(lambda z: z.sum(0).log_softmax(1)), IS_THE_LOG, "add the logits"),
        ("mean of logs", stacked(lambda z: z.log_softmax(2).mean(0)), IS_THE_LOG, "geometric mean"),
        ("sum of logs", stacked(lambda z: z.log_softmax(2).sum(0)), IS_THE_LOG, "multiplies the probabilities"),
        ("log of the sum", stacked(lambda z: z.log_softmax(2).logsumexp(0)), IS_THE_LOG, "logarithm of the sum"),
        ("divided outside", stacked(lambda z: z.log_softmax(2).logsumexp(0) / len(z)), IS_THE_LOG, "Divide inside"),
        ("minus the number", stacked(lambda z: z.log_softmax(2).logsumexp(0) - len(z)), IS_THE_LOG, "not the number itself"),
        ("plus", stacked(lambda z: z.log_softmax(2).logsumexp(0) + math.log(len(z))), IS_THE_LOG, "you add it"),
        ("log2", stacked(lambda z: z.log_softmax(2).logsumexp(0) - math.log2(len(z))), IS_THE_LOG, "natural"),
        ("number of images", lambda logits: torch.stack(logits).log_softmax(2).logsumexp(0) - math.log(len(logits[0])), IS_THE_LOG, "number of images"),
        ("number of classes", lambda logits: torch.stack(logits).log_softmax(2).logsumexp(0) - math.log(logits[0].shape[1]), IS_THE_LOG, "number of classes"),
        ("no log_softmax", stacked(lambda z: z.logsumexp(0) - math.log(len(z))), IS_THE_LOG, "log_softmax(1)"),
        ("probabilities", stacked(lambda z: z.softmax(2).mean(0)), IS_THE_LOG, "Return its logarithm"),
        ("sum of probabilities", stacked(lambda z: z.softmax(2).sum(0)), IS_THE_LOG, "Take the mean"),
        ("over the images", stacked(lambda z: z.softmax(1).mean(0).log()), IS_THE_LOG, "over the images"),
        ("over the models", stacked(lambda z: z.softmax(0).mean(0).log()), IS_THE_LOG, "over the models"),
        ("first model", lambda logits: logits[0].log_softmax(1), IS_THE_LOG, "one model's answer"),
        ("minus", lambda logits: -log_mean_reference(logits), IS_THE_LOG, "sign is wrong"),
        ("base 10", stacked(lambda z: z.softmax(2).mean(0).log10()), IS_THE_LOG, "natural"),
        ("max", stacked(lambda z: z.log_softmax(2).amax(0)), IS_THE_LOG, "most confident"),
        ("three models", stacked(lambda z: z.log_softmax(2).logsumexp(0) - math.log(3)), ANY_NUMBER, "from the arguments"),
        ("softmax, then log", stacked(lambda z: z.softmax(2).mean(0).log()), LARGE, "Stay with logarithms"),
        ("softmax, 1e-12, then log", stacked(lambda z: (z.softmax(2).mean(0) + 1e-12).log()), LARGE, "Stay with logarithms"),
        ("softmax in double", stacked(lambda z: z.double().softmax(2).mean(0).log().float()), LARGE, "Stay with logarithms"),
        ("exp by hand", stacked(lambda z: (z.exp() / z.exp().sum(2, keepdim=True)).mean(0).log()), LARGE, "log_softmax(1)"),
        ("log of exp by hand", stacked(lambda z: z.log_softmax(2).exp().mean(0).log()), LARGE, "rounds to 0"),
        ("detached", lambda logits: log_mean_reference([z.detach() for z in logits]), SLOPE, "no .detach()"),
        ("one model detached", lambda logits: log_mean_reference([logits[0], *(z.detach() for z in logits[1:])]), SLOPE, "its gradient"),
        ("no_grad", torch.no_grad()(log_mean_reference), SLOPE, "torch.no_grad()"),
        ("numpy", lambda logits: log_mean_reference(logits).numpy(), LIKE_X, "NumPy"),
        ("a number", lambda logits: log_mean_reference(logits).mean(), LIKE_X, "Keep the shape"),
        ("a list", lambda logits: list(log_mean_reference(logits)), LIKE_X, "torch.stack"),
        ("stacked", lambda logits: torch.stack(logits).log_softmax(2), LIKE_X, "Keep the shape"),
        ("a list taken for a tensor", lambda logits: logits.log_softmax(1), LIKE_X, "AttributeError"),
        ("in place", change_logits, NO_TRACE, "changed logits[0] in place"),
        ("pops", pop_logits, NO_TRACE, "in the list logits"),
        ("no return", lambda logits: None, LIKE_X, "End your function with return"),
    ],
    "jacobian_augment": [
        ("x", lambda model, x, labels, lam: x, BY_LAM, "Nothing changed"),
        ("loss", augment(F.cross_entropy), ALONG, "differentiate the cross-entropy"),
        ("minus the loss", augment(F.cross_entropy, sign=-1), ALONG, "differentiate the cross-entropy"),
        ("minus", augment(sign=-1), ALONG, "the wrong way"),
        ("probability", augment(lambda z, y: logit(z.softmax(1), y)), ALONG, "or the probability"),
        ("prediction", augment(labels=lambda model, x, y: model(x).argmax(1)), ALONG, "own prediction"),
        ("largest logit", augment(lambda z, y: z.max(1).values.sum()), ALONG, "own prediction"),
        ("loss for the prediction", augment(F.cross_entropy, lambda model, x, y: model(x).argmax(1)), ALONG, "not the loss"),
        ("all logits", augment(lambda z, y: z.sum()), ALONG, "sum of all logits"),
        ("first logit", augment(lambda z, y: z[:, 0].sum()), ALONG, "the first logit"),
        ("z[:, labels]", augment(lambda z, y: z[:, y].sum()), ALONG, "all labels for every image"),
        ("abs", augment(step=lambda g, lam: abs(lam) * g.sign()), NEGATIVE, "no abs"),
        ("clamped lam", augment(step=lambda g, lam: max(lam, 0) * g.sign()), NEGATIVE, "no clamp of lam"),
        ("own lam", augment(step=lambda g, lam: 0.1 * g.sign()), NEGATIVE, "the lam that is passed in"),
        ("no lam", augment(step=lambda g, lam: g.sign()), BY_LAM, "multiply by lam"),
        ("lam squared", augment(step=lambda g, lam: lam * lam * g.sign()), BY_LAM, "lam twice"),
        ("gradient", augment(step=lambda g, lam: lam * g), BY_LAM, "the gradient itself"),
        ("unit gradient", augment(step=lambda g, lam: lam * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)), BY_LAM, "by its length"),
        ("the change", lambda model, x, labels, lam: lam * gradient(model, x, labels, logit).sign(), BY_LAM, "the change alone"),
        ("no clip", lambda model, x, labels, lam: x + lam * gradient(model, x, labels, logit).sign(), IN_BOX, ".clamp(0, 1)"),
        ("clip above only", lambda model, x, labels, lam: (x + lam * gradient(model, x, labels, logit).sign()).clamp(max=1), IN_BOX, ".clamp(0, 1)"),
        ("with x", lambda model, x, labels, lam: torch.cat([x, augment_reference(model, x, labels, lam)]), LIKE_X, "no torch.cat with x"),
        ("first image", augment(lambda z, y: z[0, y[0]]), BY_LAM, "lam times the sign"),
        ("stale model", lambda model, *rest: augment_reference(MODEL, *rest), ALONG, "reads MODEL from the notebook"),
        ("in place", augment_in_place, NO_TRACE, "changed x in place"),
        ("p.grad", augment_and_pollute, NO_TRACE, "gradients on the model's parameters"),
        ("attached", augment_attached, LIKE_X, ".detach()"),
        ("mode", augment_in_eval_mode, NO_TRACE, "left it in evaluation mode"),
        ("one value per image", augment(lambda z, y: z.gather(1, y[:, None])), LIKE_X, "one number first"),
        ("numpy", lambda *args: augment_reference(*args).numpy(), LIKE_X, "NumPy"),
        ("tuple", lambda model, x, labels, lam: (augment_reference(model, x, labels, lam), labels), LIKE_X, "one tensor only"),
        ("float64", lambda *args: augment_reference(*args).double(), LIKE_X, "Keep the type"),
        ("flat", lambda *args: augment_reference(*args).flatten(1), LIKE_X, "Keep the shape"),
        ("no return", lambda *args: None, LIKE_X, "End your function with return"),
    ],
    "reservoir": [
        ("first k", lambda items, k, generator: list(itertools.islice(items, k)), GENERATOR, "keep the first k"),
        ("first k, and a draw", lambda items, k, generator: shuffled(list(items)[: k + 0 * generator.randrange(9)], k, generator), GENERATOR, "keep the first k"),
        ("last k", lambda items, k, generator: list(items)[-k:], GENERATOR, "keep the last k"),
        ("always replaces", drawing(lambda i, k, generator: True), CHANCE, "Every new item replaces one"),
        ("every second", drawing(lambda i, k, generator: generator.random() < 0.5), CHANCE, "late ones win"),
        ("randrange(i)", drawing(lambda i, k, generator: generator.randrange(i) < k), CHANCE, "too often"),
        ("randint(0, i + 1)", drawing(lambda i, k, generator: generator.randint(0, i + 1) < k), CHANCE, "too seldom"),
        ("chance 1/i", drawing(lambda i, k, generator: generator.random() < 1 / (i + 1)), CHANCE, "It is k/i"),
        ("chance 1/k", drawing(lambda i, k, generator: generator.random() < 1 / k), CHANCE, "replace"),
        ("one place", drawing(lambda i, k, generator: generator.randrange(i + 1) < k, lambda k, generator: 0), CHANCE, "always takes the same place"),
        ("first in, first out", first_in_first_out, CHANCE, "replaces any of the k"),
        ("sorted", lambda items, k, generator: sorted(algorithm_r(items, k, generator), key=float), ANY_KIND, "one element"),
        ("replacement", with_replacement, TWICE, "at most once"),
        ("grows", grows, OF_K, "Keep k items"),
        ("numbers", numbers_of, TWICE, "the items themselves"),
        ("len", lambda items, k, generator: generator.sample(range(len(items)), k), TWICE, "the items themselves"),
        ("sample of the stream", lambda items, k, generator: generator.sample(items, k), STREAM, "no length"),
        ("indexing", lambda items, k, generator: [items[i] for i in range(k)], STREAM, "no length"),
        ("reads twice", reads_twice, STREAM, "only once"),
        ("too few", lambda items, k, generator: generator.sample(list(items), k), ALL, "ValueError"),
        ("None for the missing", lambda items, k, generator: (algorithm_r(items, k, generator) + [None] * k)[:k], ALL, "every item is appended"),
        ("set", with_a_set, ANY_KIND, "use no set"),
        ("in", with_in, ANY_KIND, "ask no `in`"),
        ("copies", copies, ANY_KIND, "as they came"),
        ("global stream", lambda items, k, generator: algorithm_r(items, k, random), GENERATOR, "random.random() is another stream"),
        ("own seed", lambda items, k, generator: algorithm_r(items, k, random.Random(0)), GENERATOR, "same sample"),
        ("tuple", lambda *args: tuple(algorithm_r(*args)), OF_K, "Return a list"),
        ("set of items", lambda *args: set(algorithm_r(*args)), OF_K, "Return a list"),
        ("one item", lambda *args: algorithm_r(*args)[0], OF_K, "Return a list"),
        ("yields", lambda items, k, generator: (item for item in algorithm_r(items, k, generator)), OF_K, "instead of yield"),
        ("torch's generator", lambda items, k, generator: torch.randperm(k, generator=generator).tolist(), OF_K, "Call your function by hand"),
        ("no return", lambda *args: None, OF_K, "End your function with return"),
    ],
    "momentum_fgsm": [
        ("x", lambda model, x, *rest: x, FGSM, "Nothing changed"),
        ("downhill", mi(sign=-1), FGSM, "downhill"),
        ("no momentum", mi(mix=lambda m, g, decay: g), MEMORY, "no momentum in it"),
        ("no decay", mi(mix=lambda m, g, decay: m + g), PLAIN, "decay takes no part"),
        ("own decay", mi(mix=lambda m, g, decay: 0.9 * m + g), PLAIN, "decay"),
        ("decay before the gradient", mi(mix=lambda m, g, decay: m + decay * g), PLAIN, "Multiply the old momentum"),
        ("average", mi(mix=lambda m, g, decay: decay * m + (1 - decay) * g), MEMORY, "moving average"),
        ("signs", mi(mix=lambda m, g, decay: decay * m + g.sign()), MEMORY, "add up signs"),
        ("sign as momentum", mi(mix=lambda m, g, decay: (decay * m + g).sign()), MEMORY, "keep the sign as momentum"),
        ("not normalised", mi(scale=lambda g: 1.0), MEMORY, "not normalised"),
        ("not normalised, summed", mi(scale=lambda g: 1.0, loss=nn.CrossEntropyLoss(reduction="sum")), MEMORY, "not normalised"),
        ("batch", mi(scale=lambda g: g.abs().mean()), MEMORY, "whole batch"),
        ("batch length", mi(scale=lambda g: g.norm()), MEMORY, "whole batch"),
        ("length", mi(scale=lambda g: g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)), MEMORY, "Euclidean length"),
        ("max", mi(scale=lambda g: g.abs().amax((1, 2, 3), keepdim=True)), MEMORY, "largest entry"),
        ("mean of signed", mi(scale=lambda g: g.mean((1, 2, 3), keepdim=True)), FGSM, "signs cancel"),
        ("steps of eps", mi(size=lambda eps, steps: eps), PLAIN, "Yours has the size eps"),
        ("2.5 eps / steps", mi(size=lambda eps, steps: 2.5 * eps / steps), FGSM, "eps / steps"),
        ("one step fewer", mi(count=lambda steps: max(1, steps - 1)), PLAIN, "one step too few"),
        ("one step more", mi(count=lambda steps: steps + 1), FGSM, "one step too many"),
        ("one step", mi_returns_early, PLAIN, "only one step"),
        ("stale", mi(stale=True), PLAIN, "only once, at x"),
        ("momentum itself", mi(step=lambda m: m), FGSM, "the momentum itself"),
        ("prediction", mi(labels=lambda model, x: model(x).argmax(1)), FGSM, "own prediction"),
        ("softmax", mi(loss=lambda z, y: F.cross_entropy(z.softmax(1), y)), FGSM, "logits, not probabilities"),
        ("nll", mi(loss=F.nll_loss), FGSM, "log-probabilities"),
        ("no box", mi(box=False), IN_BOX, "after every step"),
        ("box at the end", mi_box_at_the_end, IN_BOX, "inside the loop"),
        ("stale model", lambda model, *rest: momentum_reference(MODEL, *rest), FGSM, "reads MODEL from the notebook"),
        ("own eps", lambda model, x, y, eps, steps, decay: momentum_reference(model, x, y, 0.1, steps, decay), MEMORY, "the same for every eps"),
        ("0/0 of the batch", mi(scale=lambda g: g.abs().mean((1, 2, 3), keepdim=True), step=lambda m: m / m.abs()), BLIND, "clamp_min(1e-30)"),
        ("in place", mi_in_place, NO_TRACE, "changed x in place"),
        ("p.grad", mi_polluting, NO_TRACE, "gradients on the model's parameters"),
        ("mode", mi_changing_the_mode, NO_TRACE, "left it in evaluation mode"),
        ("attached", mi_attached, LIKE_X, ".detach()"),
        ("numpy", lambda *args: momentum_reference(*args).numpy(), LIKE_X, "NumPy"),
        ("float64", lambda *args: momentum_reference(*args).double(), LIKE_X, "Keep the type"),
        ("flat", lambda *args: momentum_reference(*args).flatten(1), LIKE_X, "Keep the shape"),
        ("tuple", lambda *args: (momentum_reference(*args), 0), LIKE_X, "one tensor only"),
        ("no return", lambda *args: None, LIKE_X, "End your function with return"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name} {case[0]}") for name, cases in WRONG.items() for case in cases],
)
def test_wrong_answers_are_refused_with_the_right_hint(name, case):
    assert_refused(name, *case[1:])


def test_every_exercise_has_answers_on_trial():
    here = {name for name, (checker, _) in engine._CHECKERS.items() if checker.__module__ == transfer.__name__}
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


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("jacobian_augment", augment(step=lambda g, lam: lam * with_noise(g).sign())),
        ("momentum_fgsm", mi(mix=lambda m, g, decay: decay * m + with_noise(g))),
    ],
)
def test_rounding_decides_nothing(name, answer):
    assert_passes(name, answer)
