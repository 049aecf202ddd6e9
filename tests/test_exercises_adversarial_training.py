# ruff: noqa: E501 (one line for each wrong answer)
"""The checks of chapter 05: they accept every right answer, and say the right thing about every wrong one."""

import copy
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_passes, assert_refused, with_noise
from torch import nn

from course_utils import attacks, models, training
from course_utils.exercises import adversarial_training, check, engine
from course_utils.training import fitting

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))  # what a notebook may have lying around


def gradient(model, x, y, loss=F.cross_entropy):
    x = x.clone().detach().requires_grad_()
    return torch.autograd.grad(loss(model(x), y), x)[0]


def fgsm(model, x, y, eps, training=False, loss=F.cross_entropy):
    before = model.training
    g = gradient(model.train(training), x, y, loss)
    model.train(before)
    return (x + eps * g.sign()).clamp(0, 1)


def noise(x, eps):
    return eps * (2 * torch.rand_like(x) - 1)


def into_both(adv, x, eps):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)


def attacked(model):
    """The network as an attack sees it: in evaluation mode, apart from the one that is trained."""
    return copy.deepcopy(model).eval()


# --- right answers ----------------------------------------------------------------------------------------------------


def mixed_reference(model, x, y, eps, mix):
    adv = attacks.fgsm(model, x, y, eps)
    return (1 - mix) * F.cross_entropy(model(x), y) + mix * F.cross_entropy(model(adv), y)


def mixed_by_hand(model, x, y, eps, mix):
    mode = model.training
    model.eval()
    adv = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(adv), y, reduction="sum"), adv)
    adv = torch.clamp(adv.detach() + eps * torch.sign(g), 0, 1)
    model.train(mode)
    losses = torch.stack([F.cross_entropy(model(v), y) for v in (x, adv)])
    return losses @ torch.tensor([1 - mix, mix])


def mixed_with_backward(model, x, y, eps, mix):
    seen = copy.deepcopy(model).eval()
    adv = x.detach().clone()
    adv.requires_grad = True
    nn.CrossEntropyLoss()(seen(adv), y).backward()
    adv = (adv + eps * adv.grad.sign()).clamp(0, 1).detach()
    return nn.CrossEntropyLoss()(model(x), y).mul(1 - mix) + nn.CrossEntropyLoss()(model(adv), y).mul(mix)


def mixed_in_one_pass(model, x, y, eps, mix):
    both = torch.cat([x, attacks.fgsm(model, x, y, eps)])
    losses = F.cross_entropy(model(both), y.repeat(2), reduction="none")
    return (1 - mix) * losses[: len(x)].mean() + mix * losses[len(x) :].mean()


def mixed_from_the_library(model, x, y, eps, mix):
    return fitting._Objective(F.cross_entropy, training.Adversary("fgsm", eps), mix, "main")(model, x, y)[0]


def mixed_by_lerp(model, x, y, eps, mix):
    adv = training.ATTACKS["fgsm"](model, x, y, eps)
    return torch.lerp(F.nll_loss(model(x).log_softmax(1), y), F.nll_loss(model(adv).log_softmax(1), y), mix)


def rs_reference(model, x, y, eps, step_size):
    start = (x + noise(x, eps)).clamp(0, 1)
    return into_both(start + step_size * gradient(model, start, y).sign(), x, eps)


def rs_from_the_library(model, x, y, eps, step_size):
    return attacks.fgsm_rs(model, x, y, eps, step_size=step_size)


def rs_with_delta(model, x, y, eps, step_size):
    delta = torch.zeros_like(x).uniform_(-eps, eps)
    delta = torch.max(torch.min(delta, 1 - x), -x).requires_grad_()
    (g,) = torch.autograd.grad(nn.CrossEntropyLoss()(model(x + delta), y), delta)
    delta = torch.clamp(delta.detach() + step_size * torch.sign(g), -eps, eps)
    return x + torch.max(torch.min(delta, 1 - x), -x)


def rs_in_numpy(model, x, y, eps, step_size):
    start = x + torch.from_numpy(np.random.uniform(-eps, eps, x.shape)).float()  # noqa: NPY002
    start = start.clip(0, 1)
    g = gradient(copy.deepcopy(model).eval(), start, y, nn.CrossEntropyLoss(reduction="sum"))
    return (start + step_size * g.sign()).maximum(x - eps).minimum(x + eps).clip(0, 1)


def rs_one_by_one(model, x, y, eps, step_size):
    parts = zip((x + noise(x, eps)).clamp(0, 1).split(1), x.split(1), y.split(1), strict=True)
    return torch.cat([into_both(s + step_size * gradient(model, s, label).sign(), v, eps) for s, v, label in parts])


def rs_functional(model, x, y, eps, step_size):
    start = attacks.project(attacks.random_in_ball(x, eps), x, eps)
    g = torch.func.grad(lambda v: F.cross_entropy(model(v), y))(start)
    return attacks.project(start + step_size * g.sign(), x, eps).detach()


def rs_with_backward(model, x, y, eps, step_size):
    start = torch.empty_like(x).uniform_(-1, 1).mul(eps).add(x).clamp(0, 1).requires_grad_()
    F.cross_entropy(model(start), y).backward()
    model.zero_grad()
    with torch.no_grad():
        return into_both(start + step_size * start.grad.sign(), x, eps)


def schedule_reference(step, steps, eps, warmup):
    if step >= warmup * steps:
        return eps
    return eps * step / (warmup * steps)


def schedule_by_interpolation(step, steps, eps, warmup):
    return np.interp(step, [0, warmup * steps], [0, eps]) if warmup else eps


def schedule_in_torch(step, steps, eps, warmup):
    return eps if warmup == 0 else eps * torch.tensor(step / steps / warmup).clamp(max=1)


def schedule_from_the_library(step, steps, eps, warmup):
    return training.Adversary("fgsm", eps, warmup=warmup).at(step / steps).eps


def branch_reference(model, x, y, eps, branch):
    with branch(model, "auxiliary"):
        adv = attacks.fgsm(model, x, y, eps)
        adversarial = F.cross_entropy(model(adv), y)
    with branch(model, "main"):
        clean = F.cross_entropy(model(x), y)
    return (clean + adversarial) / 2


def branch_clean_first(model, x, y, eps, branch):
    with branch(model, "main"):
        losses = [F.cross_entropy(model(x), y)]
    with branch(model, "auxiliary"):
        losses.append(F.cross_entropy(model(training.ATTACKS["fgsm"](model, x, y, eps)), y))
    return torch.stack(losses).mean()


def branch_by_hand(model, x, y, eps, branch):
    mode = model.training
    with branch(model, "auxiliary"):
        adv = fgsm(model.eval(), x, y, eps)
    model.train(mode)
    loss = 0
    for name, images in (("main", x), ("auxiliary", adv)):
        with branch(model, name):
            loss = loss + 0.5 * nn.CrossEntropyLoss()(model(images), y)
    return loss


def branch_nested(model, x, y, eps, branch):
    with branch(model, "main"):
        with branch(model, "auxiliary") as network:
            adv = attacks.fgsm(network, x, y, eps)
            loss = F.nll_loss(network(adv).log_softmax(1), y)
        return 0.5 * loss + 0.5 * F.cross_entropy(model(x), y)


def branch_on_a_copy(model, x, y, eps, branch):
    twin = copy.deepcopy(model).eval()
    with branch(twin, "auxiliary"):
        adv = (x + eps * gradient(twin, x, y).sign()).clamp(0, 1)
    with branch(model, "auxiliary"):
        z = model(adv)
    with branch(model, "main"):
        return F.cross_entropy(torch.cat([z, model(x)]), y.repeat(2))


LADDER = ["transfer", "FGSM", "PGD-40", "PGD-40 x 5"]


def masked_reference(matrix):
    ladder = matrix[LADDER]
    return (ladder - ladder.cummin(axis=1)).max(axis=1).idxmax()


def masked_by_loops(matrix):
    best, largest = None, -1
    for name in matrix.index:
        for i, strong in enumerate(LADDER):
            for weak in LADDER[:i]:
                if matrix.loc[name, strong] - matrix.loc[name, weak] > largest:
                    best, largest = name, matrix.loc[name, strong] - matrix.loc[name, weak]
    return best


def masked_in_numpy(matrix):
    values = matrix[LADDER].to_numpy()
    gaps = values - np.minimum.accumulate(values, axis=1)
    return matrix.index[gaps.max(axis=1).argmax()]


def masked_by_pairs(matrix):
    gaps = [matrix[strong] - matrix[weak] for weak, strong in itertools.combinations(LADDER, 2)]
    return pd.concat(gaps, axis=1).max(axis=1).sort_values().index[-1]


def masked_with_clean(matrix):
    table = matrix.T.loc[["clean", *LADDER]]
    return (table - table.cummin()).max().idxmax()


def masked_by_apply(matrix):
    def rise(row):
        return max(row[s] - min(row[w] for w in LADDER[: i + 1]) for i, s in enumerate(LADDER))

    return max(matrix.index, key=lambda name: rise(matrix.loc[name]))


RIGHT = {
    "mixed_loss": [mixed_reference, mixed_by_hand, mixed_with_backward, mixed_in_one_pass, mixed_from_the_library, mixed_by_lerp],
    "fgsm_rs_step": [rs_reference, rs_from_the_library, rs_with_delta, rs_in_numpy, rs_one_by_one, rs_functional, rs_with_backward],
    "eps_schedule": [
        schedule_reference,
        schedule_by_interpolation,
        schedule_in_torch,
        schedule_from_the_library,
        lambda step, steps, eps, warmup: min(1.0, step / (warmup * steps)) * eps if warmup > 0 else eps,
        lambda step, steps, eps, warmup: eps * min(1, step / max(warmup * steps, 1e-9)) if step else eps * (warmup == 0),
    ],
    "branch_step": [branch_reference, branch_clean_first, branch_by_hand, branch_nested, branch_on_a_copy],
    "most_masked": [masked_reference, masked_by_loops, masked_in_numpy, masked_by_pairs, masked_with_clean, masked_by_apply],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "variant"), [(name, i) for name, variants in RIGHT.items() for i in range(len(variants))]
)
def test_right_answers_pass(name, variant):
    assert_passes(name, RIGHT[name][variant])


@pytest.mark.parametrize("seed", range(8))
def test_luck_refuses_no_right_answer(seed):
    """Each seed is another draw of the starts."""

    def lucky(*task):
        torch.rand(seed + 1)
        return rs_reference(*task)

    assert_passes("fgsm_rs_step", lucky)


@pytest.mark.parametrize("mode", [True, False])
def test_the_branch_step_is_the_librarys(mode):
    """On a network with the course's own dual batch norm the answer gives the loss that `fit` makes small."""
    torch.manual_seed(0)
    model = models.dual_batch_norm(models.small_cnn(batch_norm=True, dropout=0.0)).train(mode)
    for layer in model.modules():
        if isinstance(layer, models.DualBatchNorm2d):
            nn.init.uniform_(layer.auxiliary.weight, 0.2, 2.0)
    x, y = torch.rand(8, 1, 28, 28), torch.arange(8)
    objective = fitting._Objective(F.cross_entropy, training.Adversary("fgsm", 0.1), 0.5, "auxiliary")
    mine, its = copy.deepcopy(model), copy.deepcopy(model)
    torch.testing.assert_close(branch_reference(mine, x, y, 0.1, models.branch), objective(its, x, y)[0])
    for key, value in its.state_dict().items():
        torch.testing.assert_close(mine.state_dict()[key], value)


def test_the_stand_in_behaves_as_dual_batch_norm():
    """Switching, switching back after an error, and refusing a name: as `models.branch` does it."""
    stand_in = adversarial_training._branch_task(4, (1, 6, 6), 5, 0.1).model
    real = models.dual_batch_norm(nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.BatchNorm1d(16)))
    for model, branch, chosen in ((stand_in, adversarial_training._branch, "chosen"), (real, models.branch, "branch")):
        with pytest.raises(RuntimeError, match=r"True, 'auxiliary'"), branch(model, "auxiliary") as inside:
            raise RuntimeError(inside is model, getattr(model[2], chosen))
        assert getattr(model[2], chosen) == "main"
        with pytest.raises(ValueError, match="branch must be"), branch(model, "aux"):
            pass


# --- wrong answers ----------------------------------------------------------------------------------------------------

NUMBER, NO_TRACE, MODES, SLOPE, OTHER = (
    "returns one number",
    "leaves no trace",
    "the attack sees",
    "its gradient",
    "works for other",
)
CLEAN, ADVERSARIAL, BETWEEN, ANEW = "mix = 0", "mix = 1", "in between", "makes its images anew"
LIKE_X, START, UNIFORM, STEP, BALL, BOX, NOTHING = (
    "returns new images",
    "starts at a random",
    "the start is uniform",
    "takes one signed step",
    "never ends",
    "stays inside",
    "eps = 0",
)
GROWS, REACHES, WHOLE, ENDS, MEMORY = "starts at 0", "reaches eps", "needs no whole", "warmup = 0", "has no memory"
BOTH, MADE, SET_TO, STATISTICS = (
    "eps = 0: one loss",
    "makes the adversarial",
    "whatever branch",
    "each branch's running",
)
NAME, BLACK_BOX, FGSM_IS, STEPS, STARTS, ADDS = (
    "returns the name",
    "finds the masked row: a black box",
    "finds the masked row: FGSM",
    "finds the masked row: more steps",
    "finds the masked row: restarts",
    "finds the masked row: it adds up",
)


def mix_of(combine=None, attack=fgsm, labels=None, loss=F.cross_entropy):
    """A mixed loss with another attack, labels of the adversarial images, loss or combine(clean, adversarial, mix)."""

    def answer(model, x, y, eps, mix):
        adv = attack(model, x, y, eps)
        clean, adversarial = loss(model(x), y), loss(model(adv), labels(model, adv) if labels else y)
        return combine(clean, adversarial, mix) if combine else (1 - mix) * clean + mix * adversarial

    return answer


def step_along(move):
    return lambda model, x, y, eps: (x + eps * move(gradient(model.eval(), x, y))).clamp(0, 1)


def in_train_mode(model, x, y, eps):
    return fgsm(model, x, y, eps, training=model.training)


def polluting(model, x, y, eps):
    mode = model.training
    adv = x.clone().requires_grad_()
    F.cross_entropy(model.eval()(adv), y).backward()
    model.train(mode)
    return (x + eps * adv.grad.sign()).clamp(0, 1)


def attached(model, x, y, eps):
    mode = model.training
    adv = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model.eval()(adv), y), adv)
    model.train(mode)
    return (adv + eps * g.sign()).clamp(0, 1)


def twice_differentiable(model, x, y, eps):
    mode = model.training
    adv = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model.eval()(adv), y), adv, create_graph=True)
    model.train(mode)
    return (x + eps * g.sign()).clamp(0, 1)


def left_in_eval(model, x, y, eps):
    return fgsm(model.eval(), x, y, eps)


def eval_and_back_too_late(model, x, y, eps, mix):
    mode = model.training
    value = mixed_reference(model.eval(), x, y, eps, mix)
    model.train(mode)
    return value


def on_a_copy(model, x, y, eps):
    return in_train_mode(copy.deepcopy(model), x, y, eps)


def remembering():
    """An attack that is made for the first batch of its kind only."""
    made = {}

    def attack(model, x, y, eps):
        key = (tuple(x.shape), eps, model.training)
        return made.setdefault(key, fgsm(model, x, y, eps))

    return attack


def remembering_the_network():
    """An attack that is made on the network of the first call."""
    known = {}

    def attack(model, x, y, eps):
        return fgsm(known.setdefault(tuple(x.shape), copy.deepcopy(model)), x, y, eps)

    return attack


def in_place(model, x, y, eps):
    adv = fgsm(model, x, y, eps)
    x += 0.01
    return adv


def mixes_images(model, x, y, eps, mix):
    return F.cross_entropy(model((1 - mix) * x + mix * fgsm(model, x, y, eps)), y)


def mixes_logits(model, x, y, eps, mix):
    return F.cross_entropy((1 - mix) * model(x) + mix * model(fgsm(model, x, y, eps)), y)


def rs(start=None, grad_at=None, since=None, size=None, move=torch.sign, put=into_both, labels=None, sign=1):
    """A step from a random start that differs from the right one in what the keywords say."""

    def answer(model, x, y, eps, step_size):
        first = (x + (start(x, eps) if start else noise(x, eps))).clamp(0, 1)
        at = grad_at(x, first, eps) if grad_at else first
        y = labels(model, first) if labels else y
        step = sign * (size(eps, step_size) if size else step_size) * move(gradient(model, at, y))
        return put((since(x, first) if since else first) + step, x, eps)

    return answer


def rs_only_clipped_at_the_end(model, x, y, eps, step_size):
    start = x + noise(x, eps)
    return into_both(start + step_size * gradient(model, start, y).sign(), x, eps)


def rs_polluting(model, x, y, eps, step_size):
    start = (x + noise(x, eps)).clamp(0, 1).requires_grad_()
    F.cross_entropy(model(start), y).backward()
    return into_both(start.detach() + step_size * start.grad.sign(), x, eps)


def rs_attached(model, x, y, eps, step_size):
    start = (x + noise(x, eps)).clamp(0, 1).requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
    return into_both(start + step_size * g.sign(), x, eps)


def rs_seeding(model, *rest):
    torch.manual_seed(0)
    return rs_reference(model, *rest)


def rs_unseeded(model, x, y, eps, step_size):
    generator = torch.Generator()
    generator.seed()
    start = (x + eps * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)
    return into_both(start + step_size * gradient(model, start, y).sign(), x, eps)


def rs_in_eval_mode(model, *rest):
    return rs_reference(model.eval(), *rest)


def rs_in_place(model, x, y, eps, step_size):
    centre = x.clone()
    x += noise(x, eps)
    x.clamp_(0, 1)
    return into_both(x + step_size * gradient(model, x, y).sign(), centre, eps)


def rs_without_box(model, x, y, eps, step_size):
    start = x + noise(x, eps)
    return x + (start + step_size * gradient(model, start, y).sign() - x).clamp(-eps, eps)


def counted():
    """A schedule that counts its own calls."""
    calls = itertools.count()
    return lambda step, steps, eps, warmup: schedule_reference(next(calls) % steps, steps, eps, warmup)


def never_falling():
    """A schedule that remembers, for each training, the largest radius so far."""
    largest = {}

    def answer(step, *plan):
        largest[plan] = max(largest.get(plan, 0.0), schedule_reference(step, *plan))
        return largest[plan]

    return answer


def steps_of(
    clean="main",
    made="auxiliary",
    adversarial="auxiliary",
    attack=fgsm,
    combine=lambda c, a: (c + a) / 2,
    loss=F.cross_entropy,
):
    """An AdvProp step with other branches, another attack, or another way to combine the losses; None leaves the branch."""

    def answer(model, x, y, eps, branch):
        def through(name, function):
            if name is None:
                return function()
            with branch(model, name):
                return function()

        adv = through(made, lambda: attack(model, x, y, eps))
        a = through(adversarial, lambda: loss(model(adv), y))
        return combine(through(clean, lambda: loss(model(x), y)), a)

    return answer  # fmt: skip


def one_pass(name):
    def answer(model, x, y, eps, branch):
        with branch(model, "auxiliary"):
            adv = fgsm(model, x, y, eps)
        with branch(model, name):
            return F.cross_entropy(model(torch.cat([x, adv])), y.repeat(2))

    return answer


def sets_the_branch(model, x, y, eps, branch):
    model[2].chosen = "auxiliary"
    adversarial = F.cross_entropy(model(fgsm(model, x, y, eps)), y)
    model[2].chosen = "main"
    return (F.cross_entropy(model(x), y) + adversarial) / 2


def looks_first(model, x, y, eps, branch):
    with branch(model, "main"):
        model(x).argmax(1)
    return branch_reference(model, x, y, eps, branch)


def looks_at_the_adversarial(model, x, y, eps, branch):
    with branch(model, "auxiliary"):
        model(fgsm(model, x, y, eps))
    return branch_reference(model, x, y, eps, branch)


def half_left_in_eval(model, *rest):
    loss = branch_reference(model, *rest)
    model[2].eval()
    return loss


def notebooks_branch(model, x, y, eps, branch):
    return branch_reference(model, x, y, eps, models.branch)


def gap(first, then):
    """The row with the largest accuracy under `first` minus that under `then`, of which the lowest counts."""
    return lambda m: (m[first] - m[then].min(axis=1)).idxmax()


def ladder(order, reduce="max"):
    return lambda m: getattr((m[order] - m[order].cummin(axis=1)).max(axis=1), f"idx{reduce}")()


def first_row(m):
    rises = (m[LADDER] - m[LADDER].cummin(axis=1)).max(axis=1)
    return rises[rises > 0.05].index[0]


def drops_clean(m):
    m.drop(columns="clean", inplace=True)
    return masked_reference(m)


def as_it_stands(m):
    return ladder([c for c in m.columns if c != "clean"])(m)


WRONG = {
    "mixed_loss": [
        ("float", lambda *task: mixed_reference(*task).item(), NUMBER, "without .item()"),
        ("detached", lambda *task: mixed_reference(*task).detach(), NUMBER, "without torch.no_grad()"),
        ("no_grad", torch.no_grad()(mixed_reference), NUMBER, "graph"),
        ("new tensor", lambda *task: torch.tensor(mixed_reference(*task).item()), NUMBER, "torch.tensor"),
        ("one for each image", mix_of(loss=nn.CrossEntropyLoss(reduction="none")), NUMBER, "mean over the images"),
        ("images", lambda model, x, y, eps, mix: fgsm(model, x, y, eps), NUMBER, "do not return the images"),
        ("both losses", lambda *task: (mixed_reference(*task), 0), NUMBER, "one tensor"),
        ("no return", lambda *task: None, NUMBER, "End your function with return"),
        ("training step", lambda *task: mixed_reference(*task).backward(), NUMBER, "None"),
        ("backward inside", lambda *task: (lambda loss: (loss.backward(), loss)[1])(mixed_reference(*task)), NO_TRACE, "p.grad"),
        ("sum", mix_of(loss=nn.CrossEntropyLoss(reduction="sum")), CLEAN, "sum over the images"),
        ("divided by n", mix_of(lambda c, a, mix: ((1 - mix) * c + mix * a) / 6), CLEAN, "divide by the number of images"),
        ("swapped", mix_of(lambda c, a, mix: mix * c + (1 - mix) * a), CLEAN, "weights are swapped"),
        ("added", mix_of(lambda c, a, mix: c + a), CLEAN, "add the two losses"),
        ("half of each", mix_of(lambda c, a, mix: (c + a) / 2), CLEAN, "whatever mix is"),
        ("clean with weight 1", mix_of(lambda c, a, mix: c + mix * a), ADVERSARIAL, "weight 1 − mix"),
        ("adversarial with weight 1", mix_of(lambda c, a, mix: (1 - mix) * c + a), CLEAN, "has the weight mix"),
        ("halved again", mix_of(lambda c, a, mix: ((1 - mix) * c + mix * a) / 2), CLEAN, "no further division"),
        ("minus", mix_of(lambda c, a, mix: -(1 - mix) * c - mix * a), CLEAN, "The sign is wrong"),
        ("softmax", mix_of(loss=lambda z, y: F.cross_entropy(z.softmax(1), y)), CLEAN, "logits, not probabilities"),
        ("nll", mix_of(loss=F.nll_loss), CLEAN, "log-probabilities"),
        ("clean only", mix_of(lambda c, a, mix: c), ADVERSARIAL, "adversarial images take no part"),
        ("adversarial only", mix_of(lambda c, a, mix: a), CLEAN, "clean images take no part"),
        ("mixed images", mixes_images, BETWEEN, "mix the images"),
        ("mixed logits", mixes_logits, BETWEEN, "mix the logits"),
        ("downhill", mix_of(attack=step_along(lambda g: -g.sign())), ADVERSARIAL, "downhill"),
        ("no sign", mix_of(attack=step_along(lambda g: g)), ADVERSARIAL, "Take its sign"),
        ("no eps", mix_of(attack=lambda model, x, y, eps: fgsm(model, x, y, 1.0)), ADVERSARIAL, "multiply the sign by eps"),
        ("no box", mix_of(attack=lambda model, x, y, eps: x + eps * gradient(model, x, y).sign()), ADVERSARIAL, "Clip the adversarial images"),
        ("prediction", mix_of(attack=lambda model, x, y, eps: fgsm(model, x, model(x).argmax(1), eps)), ADVERSARIAL, "own prediction"),
        ("labels of the prediction", mix_of(labels=lambda model, adv: model(adv).argmax(1)), ADVERSARIAL, "keep the labels y"),
        ("other order", mix_of(attack=lambda model, x, y, eps: fgsm(model, x, y, eps).flip(0)), ADVERSARIAL, "another order"),
        ("noise", mix_of(attack=lambda model, x, y, eps: (x + noise(x, eps)).clamp(0, 1)), ADVERSARIAL, "attacks.fgsm"),
        ("p.grad", mix_of(attack=polluting), NO_TRACE, "gradients on the model's parameters"),
        ("in place", mix_of(attack=in_place), CLEAN, "right is"),
        ("left in eval", mix_of(attack=left_in_eval), NO_TRACE, "left it in evaluation mode"),
        ("all in eval", eval_and_back_too_late, MODES, "still in evaluation mode"),
        ("attack in train mode", mix_of(attack=in_train_mode), MODES, "model.eval() before your attack"),
        ("always in train mode", mix_of(attack=lambda *task: fgsm(*task, training=True)), ADVERSARIAL, "model.eval() before your attack"),
        ("another batch's images", mix_of(attack=remembering()), ADVERSARIAL, "those of an earlier call"),
        ("another network's images", mix_of(attack=remembering_the_network()), ANEW, "those of an earlier call"),
        ("clean part detached", mix_of(lambda c, a, mix: (1 - mix) * c.item() + mix * a), SLOPE, "The clean loss counts in the value"),
        ("adversarial loss cut", mix_of(lambda c, a, mix: (1 - mix) * c + mix * a.detach()), SLOPE, "The adversarial loss counts"),
        ("new leaf", lambda *task: mixed_reference(*task).detach().requires_grad_(), SLOPE, "with its graph"),
        ("through the attack", mix_of(attack=attached), SLOPE, "detach them"),
        ("second order", mix_of(attack=twice_differentiable), SLOPE, "detach them"),
        ("own eps", lambda model, x, y, eps, mix: mixed_reference(model, x, y, 0.1, mix), OTHER, "nothing but the arguments"),
        ("own mix", lambda model, x, y, eps, mix: mixed_reference(model, x, y, eps, 0.5), CLEAN, "whatever mix is"),
        ("stale model", lambda model, *rest: mixed_reference(MODEL, *rest), CLEAN, "reads MODEL from the notebook"),
    ],
    "fgsm_rs_step": [
        ("x", lambda model, x, *rest: x.clone(), START, "no random start"),
        ("no random start", rs(start=lambda x, eps: torch.zeros_like(x)), START, "no random start"),
        ("seeded", rs_seeding, START, "Do not seed"),
        ("own generator", rs_unseeded, START, "torch.manual_seed"),
        ("one-sided", rs(start=lambda x, eps: eps * torch.rand_like(x)), UNIFORM, "one-sided"),
        ("one-sided below", rs(start=lambda x, eps: -eps * torch.rand_like(x)), UNIFORM, "one-sided"),
        ("half as wide", rs(start=lambda x, eps: eps * (torch.rand_like(x) - 0.5)), UNIFORM, "half of the ball"),
        ("normal", rs(start=lambda x, eps: eps * torch.randn_like(x)), UNIFORM, "not uniform"),
        ("narrow normal", rs(start=lambda x, eps: eps / 3 * torch.randn_like(x)), UNIFORM, "not uniform"),
        ("corners", rs(start=lambda x, eps: eps * torch.randn_like(x).sign()), UNIFORM, "corners"),
        ("without eps", rs(start=lambda x, eps: 2 * torch.rand_like(x) - 1), UNIFORM, "not uniform"),
        ("one number for each image", rs(start=lambda x, eps: eps * (2 * torch.rand(len(x), 1, 1, 1) - 1)), UNIFORM, "one for each pixel"),
        ("one number", rs(start=lambda x, eps: eps * (2 * torch.rand(1) - 1)), UNIFORM, "one for each pixel"),
        ("one noise for all", rs(start=lambda x, eps: noise(x[:1], eps)), UNIFORM, "All images get the same noise"),
        ("own step", rs(size=lambda eps, step_size: 1.25 * eps), UNIFORM, "the same for every step_size"),
        ("step of eps", rs(size=lambda eps, step_size: eps), UNIFORM, "the same for every step_size"),
        ("gradient at x", rs(grad_at=lambda x, start, eps: x), STEP, "You take the gradient at x"),
        ("another start for the gradient", rs(grad_at=lambda x, start, eps: x + noise(x, eps)), STEP, "Draw one start"),
        ("no step", rs(sign=0), STEP, "You take no step"),
        ("downhill", rs(sign=-1), STEP, "downhill"),
        ("no sign", rs(move=lambda g: g), STEP, "Take its sign"),
        ("times eps", rs(size=lambda eps, step_size: eps * step_size), STEP, "multiply it by eps"),
        ("prediction", rs(labels=lambda model, start: model(start).argmax(1)), STEP, "own prediction"),
        ("no projection", rs(put=lambda adv, x, eps: adv.clamp(0, 1)), BALL, "leaves the ball"),
        ("ball around the start", rs(put=lambda adv, x, eps: adv), BALL, "leaves the ball"),
        ("wide ball", rs(put=lambda adv, x, eps: into_both(adv, x, 1.5 * eps)), BALL, "leaves the ball"),
        ("corner", rs(put=lambda adv, x, eps: into_both(x + eps * (adv - x).sign(), x, eps)), UNIFORM, "corners"),
        ("no box", rs_without_box, BOX, "end with .clamp(0, 1)"),
        ("box at the end only", rs_only_clipped_at_the_end, BOX, "Clip the start as well"),
        ("p.grad", rs_polluting, NO_TRACE, "gradients on the model's parameters"),
        ("attached", rs_attached, LIKE_X, ".detach()"),
        ("mode", rs_in_eval_mode, NO_TRACE, "left it in evaluation mode"),
        ("in place", rs_in_place, NO_TRACE, "changed x in place"),
        ("numpy", lambda *task: rs_reference(*task).numpy(), LIKE_X, "NumPy"),
        ("change alone", lambda model, x, *rest: rs_reference(model, x, *rest) - x, UNIFORM, "ball"),
        ("stale model", lambda model, *rest: rs_reference(MODEL, *rest), UNIFORM, "reads MODEL"),
        ("no return", lambda *task: None, LIKE_X, "End your function with return"),
    ],
    "eps_schedule": [
        ("constant", lambda step, steps, eps, warmup: eps, GROWS, "no warm-up"),
        ("whole division", lambda step, steps, eps, warmup: eps * min(1, step // (warmup * steps)), GROWS, "//"),
        ("whole division of steps", lambda step, steps, eps, warmup: eps * (step // steps), GROWS, "//"),
        ("int of the share", lambda step, steps, eps, warmup: eps * int(step / steps), GROWS, "int(…)"),
        ("beyond eps", lambda step, steps, eps, warmup: eps * step / (warmup * steps), REACHES, "beyond eps"),
        ("max", lambda step, steps, eps, warmup: eps * max(1, step / (warmup * steps)), GROWS, "Use min"),
        ("whole training", lambda step, steps, eps, warmup: eps * step / steps, GROWS, "over the whole training"),
        ("to the last step", lambda step, steps, eps, warmup: eps * step / max(steps - 1, 1), GROWS, "over the whole training"),
        ("warmup as steps", lambda step, steps, eps, warmup: eps * min(1, step / warmup), GROWS, "a share of the training"),
        ("one step early", lambda step, steps, eps, warmup: eps * min(1, (step + 1) / (warmup * steps)), GROWS, "one step off"),
        ("one step late", lambda step, steps, eps, warmup: eps * min(1, max(0, step - 1) / (warmup * steps)), GROWS, "one step off"),
        ("steps - 1", lambda step, steps, eps, warmup: eps * min(1, step / (warmup * (steps - 1))), GROWS, "not by warmup * (steps - 1)"),
        ("never reaches eps", lambda step, steps, eps, warmup: eps * min(1, step / (warmup * steps + 1)), GROWS, "one step off"),
        ("stays just below", lambda step, steps, eps, warmup: schedule_reference(min(step, max(0, math.ceil(warmup * steps) - 1)), steps, eps, warmup), REACHES, "right is 0.25"),
        ("rounds down", lambda step, steps, eps, warmup: eps * min(1, step / max(1, int(warmup * steps))), WHOLE, "without rounding"),
        ("rounds up", lambda step, steps, eps, warmup: eps * min(1, step / max(1, math.ceil(warmup * steps))), WHOLE, "without rounding"),
        ("int makes 0", lambda step, steps, eps, warmup: eps * min(1, step / int(warmup * steps)) if warmup else eps, WHOLE, "make 0 of it"),
        ("the rest", lambda step, steps, eps, warmup: eps * min(1, step / ((1 - warmup) * steps)), GROWS, "1 − warmup"),
        ("grows later", lambda step, steps, eps, warmup: eps * max(0, (step - warmup * steps) / (steps - warmup * steps)), GROWS, "grow after it"),
        ("shrinks", lambda step, steps, eps, warmup: eps * max(0, 1 - step / (warmup * steps)), GROWS, "shrinks"),
        ("jumps", lambda step, steps, eps, warmup: eps * (step >= warmup * steps), GROWS, "jumps"),
        ("times warmup", lambda step, steps, eps, warmup: eps * warmup * step / steps, GROWS, "multiply by warmup"),
        ("falls back", lambda step, steps, eps, warmup: eps * step / (warmup * steps) if step < warmup * steps else 0, REACHES, "falls back"),
        ("share alone", lambda step, steps, eps, warmup: min(1, step / (warmup * steps)), GROWS, "Multiply by eps"),
        ("stopped at eps", lambda step, steps, eps, warmup: min(eps, step / (warmup * steps)), GROWS, "Stop it at 1"),
        ("square", lambda step, steps, eps, warmup: eps * min(1, step / (warmup * steps)) ** 2, GROWS, "not linear"),
        ("cosine", lambda step, steps, eps, warmup: eps * (1 - math.cos(math.pi * min(1, step / (warmup * steps)))) / 2, GROWS, "not linear"),
        ("divides by zero", lambda step, steps, eps, warmup: eps * min(1, step / (warmup * steps)), ENDS, "return eps then"),
        ("0/0", lambda step, steps, eps, warmup: eps * (torch.tensor(float(step)) / (warmup * steps)).clamp(max=1), ENDS, "0/0"),
        ("0 for no warm-up", lambda step, steps, eps, warmup: schedule_reference(step, steps, eps, warmup) if warmup else 0.0, ENDS, "The radius is 0"),
        ("counts its calls", counted(), GROWS, "right is"),
        ("never falls", never_falling(), MEMORY, "without a counter"),
        ("own eps", lambda step, steps, eps, warmup: schedule_reference(step, steps, 0.3, warmup), REACHES, "nothing but the arguments"),
        ("list", lambda step, steps, eps, warmup: [schedule_reference(s, steps, eps, warmup) for s in range(steps)], NUMBER, "the radius of this step"),
        ("no return", lambda *task: None, NUMBER, "End your function with return"),
    ],
    "branch_step": [
        ("float", lambda *task: branch_reference(*task).item(), NUMBER, "without .item()"),
        ("no_grad", torch.no_grad()(branch_reference), NUMBER, "graph"),
        ("both losses", steps_of(combine=lambda c, a: (c, a)), NUMBER, "one tensor"),
        ("all main", steps_of(made="main", adversarial="main"), BOTH, "Everything goes through the main branch"),
        ("no branches", steps_of(None, None, None), BOTH, "main branch"),
        ("all auxiliary", steps_of(clean="auxiliary"), BOTH, "clean images go through the auxiliary"),
        ("swapped", steps_of("auxiliary", "main", "main"), MADE, "The branches are swapped"),
        ("losses swapped", steps_of("auxiliary", "auxiliary", "main"), MADE, "swapped"),
        ("attack on main", steps_of(made="main"), MADE, "You make the adversarial images through the main branch"),
        ("attack outside the block", steps_of(made=None), MADE, "put the attack inside"),
        ("trained on main", steps_of(adversarial="main"), BOTH, "main branch"),
        ("main taken for granted", steps_of(clean=None), SET_TO, "need not be the main one"),
        ("sum", steps_of(combine=lambda c, a: c + a), BOTH, "sum of the two losses"),
        ("quarter", steps_of(combine=lambda c, a: (c + a) / 4), BOTH, "divide by two twice"),
        ("clean only", steps_of(combine=lambda c, a: c), BOTH, "adversarial images take no part"),
        ("adversarial only", steps_of(combine=lambda c, a: a), BOTH, "clean images take no part"),
        ("sum over images", steps_of(loss=nn.CrossEntropyLoss(reduction="sum")), BOTH, "mean"),
        ("one pass, main", one_pass("main"), BOTH, "main branch"),
        ("one pass, auxiliary", one_pass("auxiliary"), BOTH, "auxiliary branch"),
        ("downhill", steps_of(attack=step_along(lambda g: -g.sign())), MADE, "downhill"),
        ("no sign", steps_of(attack=step_along(lambda g: g)), MADE, "Take its sign"),
        ("clean images for adversarial ones", steps_of(attack=lambda model, x, y, eps: x), MADE, "attacks.fgsm"),
        ("attack in train mode", steps_of(attack=in_train_mode), STATISTICS, "model.eval() before your attack"),
        ("attack on a copy in train mode", steps_of(attack=on_a_copy), MODES, "model.eval() before your attack"),
        ("left in eval", steps_of(attack=left_in_eval), STATISTICS, "still in evaluation mode"),
        ("all in eval", lambda model, *rest: branch_reference(model.eval(), *rest), STATISTICS, "still in evaluation mode"),
        ("half left in eval", half_left_in_eval, STATISTICS, "left it, or a part of it"),
        ("looks first", looks_first, STATISTICS, "the main branch were moved by 2 batches"),
        ("looks at the adversarial images", looks_at_the_adversarial, STATISTICS, "the auxiliary branch were moved by 2 batches"),
        ("branch left behind", sets_the_branch, SET_TO, "Do not set the branch by hand"),
        ("p.grad", steps_of(attack=polluting), NO_TRACE, "gradients on the model's parameters"),
        ("through the attack", steps_of(attack=attached), SLOPE, "detach them"),
        ("clean loss cut", steps_of(combine=lambda c, a: (c.detach() + a) / 2), SLOPE, "The clean loss counts in the value"),
        ("adversarial loss cut", steps_of(combine=lambda c, a: (c + a.item()) / 2), SLOPE, "The adversarial loss counts"),
        ("the notebook's branch", notebooks_branch, NUMBER, "not models.branch"),
        ("unknown branch", steps_of(made="aux"), NUMBER, "'main' or 'auxiliary'"),
        ("own eps", lambda model, x, y, eps, branch: branch_reference(model, x, y, 0.1, branch), BOTH, "right is"),
        ("no return", lambda *task: None, NUMBER, "End your function with return"),
    ],
    "most_masked": [
        ("lowest accuracy", lambda m: m.min(axis=1).idxmin(), BLACK_BOX, "honestly measured"),
        ("lowest mean", lambda m: m[LADDER].mean(axis=1).idxmin(), BLACK_BOX, "honestly measured"),
        ("lowest worst case", lambda m: m["PGD-40 x 5"].idxmin(), BLACK_BOX, "honestly measured"),
        ("highest FGSM", lambda m: m["FGSM"].idxmax(), BLACK_BOX, "may be earned"),
        ("highest worst case", lambda m: m.min(axis=1).idxmax(), BLACK_BOX, "may be earned"),
        ("highest clean", lambda m: m["clean"].idxmax(), BLACK_BOX, "without an attack"),
        ("lowest transfer", lambda m: m["transfer"].idxmin(), STEPS, "transfer does best"),
        ("FGSM minus PGD", gap("FGSM", ["PGD-40"]), BLACK_BOX, "no sign of masking"),
        ("FGSM minus worst case", gap("FGSM", LADDER), BLACK_BOX, "no sign of masking"),
        ("clean minus worst case", gap("clean", LADDER), BLACK_BOX, "honestly measured"),
        ("ignores transfer", ladder(LADDER[1:]), BLACK_BOX, "You leave out transfer"),
        ("reversed", ladder(LADDER[::-1]), BLACK_BOX, "no sign of masking"),
        ("least masked", ladder(LADDER, "min"), BLACK_BOX, "idxmax, not idxmin"),
        ("transfer and the strongest only", lambda m: (m["PGD-40 x 5"] - m["transfer"]).idxmax(), FGSM_IS, "strongest attack only"),
        ("transfer and the best only", lambda m: (m[LADDER[1:]].min(axis=1) - m["transfer"]).idxmax(), FGSM_IS, "the best of the others only"),
        ("transfer and FGSM only", lambda m: (m["FGSM"] - m["transfer"]).idxmax(), STEPS, "FGSM with transfer only"),
        ("PGD and FGSM only", lambda m: (m["PGD-40"] - m["FGSM"]).idxmax(), BLACK_BOX, "PGD with FGSM only"),
        ("neighbours only", lambda m: m[LADDER].diff(axis=1).max(axis=1).idxmax(), ADDS, "next weaker one only"),
        ("columns as they stand", as_it_stands, BLACK_BOX, "Their order means nothing"),
        ("columns as they stand, with clean", lambda m: ladder(list(m.columns))(m), BLACK_BOX, "Their order means nothing"),
        ("first that is masked", first_row, BLACK_BOX, "masked most"),
        ("first row", lambda m: m.index[0], BLACK_BOX, "first row"),
        ("last row", lambda m: m.index[-1], BLACK_BOX, "last row"),
        ("a name", lambda m: "FGSM", BLACK_BOX, "the same name for every table"),
        ("place", lambda m: int((m[LADDER] - m[LADDER].cummin(axis=1)).max(axis=1).argmax()), NAME, "Return its name"),
        ("gap", lambda m: (m[LADDER] - m[LADDER].cummin(axis=1)).max(axis=1).max(), NAME, ".idxmax() in place of .max()"),
        ("gaps", lambda m: (m[LADDER] - m[LADDER].cummin(axis=1)).max(axis=1), NAME, "more than one value"),
        ("column", lambda m: (m[LADDER] - m[LADDER].cummin(axis=1)).max().idxmax(), NAME, "axis=1"),
        ("row", lambda m: m.loc[masked_reference(m)], NAME, "more than one value"),
        ("misspelt", lambda m: m["PGD"].idxmax(), NAME, "KeyError"),
        ("in place", drops_clean, "leaves the table", "changed the table in place"),
        ("no return", lambda m: None, NAME, "End your function with return"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, case, id=f"{name} {case[0]}") for name, cases in WRONG.items() for case in cases],
)
def test_wrong_answers_are_refused_with_the_right_hint(name, case):
    assert_refused(name, *case[1:])


def test_every_exercise_has_answers_on_trial():
    here = {
        name for name, (checker, _) in engine._CHECKERS.items() if checker.__module__ == adversarial_training.__name__
    }
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
        ("mixed_loss", mix_of(attack=lambda model, x, y, eps: (x + eps * with_noise(gradient(attacked(model), x, y)).sign()).clamp(0, 1))),
        ("fgsm_rs_step", rs(move=lambda g: with_noise(g).sign())),
        ("branch_step", steps_of(attack=lambda model, x, y, eps: (x + eps * with_noise(gradient(attacked(model), x, y)).sign()).clamp(0, 1))),
    ],
)  # fmt: skip
def test_rounding_decides_nothing(name, answer):
    assert_passes(name, answer)
