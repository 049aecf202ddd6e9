"""Answers to the exercises of chapter 06, by readers who had not seen the checks."""

import contextlib
import copy
import itertools
import math
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong
from course_utils import attacks


def gradient(model, x, y):
    points = x.detach().clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(points), y, reduction="sum"), points)[0]


def fgsm(model, x, y, eps):
    """Return FGSM's images, made in the mode that the network has."""
    return (x + eps * gradient(model, x, y).sign()).clamp(0, 1).detach()


@contextlib.contextmanager
def evaluating(model):
    """Switch every module to evaluation mode, and give each its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


# ---------------------------------------------------------------- mixed_loss


def mixture(model, x, adv, y, mix):
    return (1 - mix) * F.cross_entropy(model(x), y) + mix * F.cross_entropy(model(adv), y)


@right("mixed_loss")
def library_attack(model, x, y, eps, mix):
    adv = attacks.fgsm(model, x, y, eps)
    return torch.lerp(F.cross_entropy(model(x), y), F.cross_entropy(model(adv), y), mix)


@right("mixed_loss")
def attack_on_a_copy(model, x, y, eps, mix):
    twin = copy.deepcopy(model).eval()
    points = x.detach().clone().requires_grad_()
    F.nll_loss(twin(points).log_softmax(1), y, reduction="sum").backward()
    adv = torch.clip(x.detach() + eps * torch.sign(points.grad), 0, 1)
    return sum(w * F.cross_entropy(model(images), y) for w, images in ((1 - mix, x), (mix, adv)))


@right("mixed_loss")
def modes_given_back_one_by_one(model, x, y, eps, mix):
    with evaluating(model):
        adv = fgsm(model, x, y, eps)
    losses = []
    for images in (x, adv):
        losses.append(-model(images).log_softmax(1).gather(1, y[:, None]).mean())
    return losses[0] * (1 - mix) + losses[1] * mix


@right("mixed_loss")
def adversarial_half_first(model, x, y, eps, mix):
    adv = x.detach().clone()
    with evaluating(model):
        for i in range(len(x)):
            adv[i] += eps * gradient(model, x[i : i + 1], y[i : i + 1])[0].sign()
    loss = F.cross_entropy(model(adv.clamp_(0, 1)), y) * mix
    return loss + F.cross_entropy(model(x), y) * (1 - mix)


@wrong(
    "mixed_loss",
    "the attack is made in the mode in which the model came",
    "The attack looks at the network in evaluation",
)
def attack_in_training_mode(model, x, y, eps, mix):
    return mixture(model, x, fgsm(model, x, y, eps), y, mix)


@wrong("mixed_loss", "the losses are computed in evaluation mode, too", "The model was still in evaluation mode, from")
def losses_in_evaluation_mode(model, x, y, eps, mix):
    mode = model.training
    model.eval()
    loss = mixture(model, x, fgsm(model, x, y, eps), y, mix)
    model.train(mode)
    return loss


@wrong(
    "mixed_loss",
    "the model is in training mode afterwards, however it came",
    "After the attack the model is in training",
)
def always_back_to_training(model, x, y, eps, mix):
    model.eval()
    adv = fgsm(model, x, y, eps)
    model.train()
    return mixture(model, x, adv, y, mix)


@wrong("mixed_loss", "the two weights are exchanged", "The weights are swapped: mix belongs to the")
def weights_exchanged(model, x, y, eps, mix):
    adv = attacks.fgsm(model, x, y, eps)
    return mix * F.cross_entropy(model(x), y) + (1 - mix) * F.cross_entropy(model(adv), y)


@wrong("mixed_loss", "the losses are sums over the batch", "You sum over the images. The loss is a mean")
def sums_over_the_batch(model, x, y, eps, mix):
    clean, moved = (F.cross_entropy(model(z), y, reduction="sum") for z in (x, attacks.fgsm(model, x, y, eps)))
    return (1 - mix) * clean + mix * moved


@wrong(
    "mixed_loss",
    "the attack leaves its gradients on the weights, and the training step adds its own",
    "Leave .backward() to whoever called you: it",
)
def gradients_left_on_the_weights(model, x, y, eps, mix):
    points = x.detach().clone().requires_grad_()
    with evaluating(model):
        F.cross_entropy(model(points), y).backward()
    return mixture(model, x, (x + eps * points.grad.sign()).clamp(0, 1), y, mix)


@wrong(
    "mixed_loss",
    "the attack leads away from the network's own answers, not from the labels",
    "You attack the model's own prediction. Use",
)
def attack_on_its_own_answers(model, x, y, eps, mix):
    with evaluating(model), torch.no_grad():
        said = model(x).argmax(1)
    return mixture(model, x, attacks.fgsm(model, x, said, eps), y, mix)


MADE = {}


@wrong(
    "mixed_loss",
    "the images are made once for each batch and kept, though the network changes",
    "The images are those of attacks.fgsm, and the",
)
def images_kept(model, x, y, eps, mix):
    key = (x.sum().item(), tuple(x.shape), eps)
    if key not in MADE:
        MADE[key] = attacks.fgsm(model, x, y, eps)
    return mixture(model, x, MADE[key], y, mix)


@wrong(
    "mixed_loss",
    "all weights are thawed after the attack, also those that were frozen before",
    "Switch it back before you return, or leave it",
)
def thaws_everything(model, x, y, eps, mix):
    model.requires_grad_(False)
    with evaluating(model):
        adv = fgsm(model, x, y, eps)
    model.requires_grad_(True)
    return mixture(model, x, adv, y, mix)


@wrong(
    "mixed_loss",
    "the clean half is computed without a graph, so it does not train the weights",
    "The clean loss counts in the value, but not",
)
def clean_half_without_gradient(model, x, y, eps, mix):
    with torch.no_grad():
        clean = F.cross_entropy(model(x), y)
    return (1 - mix) * clean + mix * F.cross_entropy(model(attacks.fgsm(model, x, y, eps)), y)


# ---------------------------------------------------------------- eps_schedule


@right("eps_schedule")
def done_or_growing(step, steps, eps, warmup):
    if step >= warmup * steps:
        return eps
    return eps * step / (warmup * steps)


@right("eps_schedule")
def division_by_zero_caught(step, steps, eps, warmup):
    try:
        return float(eps * min(1.0, step / (steps * warmup)))
    except ZeroDivisionError:
        return float(eps)


@right("eps_schedule")
def interpolated(step, steps, eps, warmup):
    corner = warmup * steps
    return float(np.interp(step, [0.0, corner], [0.0, eps])) if corner > 0 else float(eps)


@right("eps_schedule")
def exact_fraction(step, steps, eps, warmup):
    end = Fraction(warmup) * steps
    share = Fraction(step) / end if step < end else Fraction(1)
    return float(share * Fraction(eps))


@wrong(
    "eps_schedule",
    "the end of the growth is rounded down to a whole step",
    "The number of growing steps is warmup * steps",
)
def whole_steps(step, steps, eps, warmup):
    end = int(warmup * steps)
    return eps if step >= end else eps * step / end


@wrong(
    "eps_schedule", "// makes a 0 of the share until the growth is over", "The radius jumps from 0 to eps. It grows by"
)
def floor_division(step, steps, eps, warmup):
    return eps if step >= warmup * steps else eps * (step // (warmup * steps))


@wrong(
    "eps_schedule",
    "<= divides 0 by 0 in step 0 of a training without warm-up",
    "With warmup = 0 no step is left to grow in",
)
def zero_over_zero(step, steps, eps, warmup):
    if step <= warmup * steps:
        return eps * step / (warmup * steps)
    return eps


@wrong("eps_schedule", "the radius goes on growing after the warm-up", "The radius goes on growing beyond eps. It")
def no_end(step, steps, eps, warmup):
    return eps * step / (warmup * steps) if warmup > 0 else eps


@wrong(
    "eps_schedule",
    "the steps are counted from 1, so the first one has a radius already",
    "You are one step off: steps count from 0, so",
)
def counted_from_one(step, steps, eps, warmup):
    return eps if step + 1 >= warmup * steps else eps * (step + 1) / (warmup * steps)


@wrong(
    "eps_schedule",
    "it grows by the share of the whole training and jumps to eps at the end of the warm-up",
    "While it grows, the radius is a share of eps",
)
def jumps_at_the_end(step, steps, eps, warmup):
    return eps * step / steps if step / steps < warmup else eps


@wrong("eps_schedule", "warmup is taken as a number of steps", "You divide by warmup alone, which is a share")
def warmup_in_steps(step, steps, eps, warmup):
    return eps * min(1, step / warmup) if warmup else eps


@wrong(
    "eps_schedule",
    "the guard makes one step of warm-up of none, so step 0 has the radius 0",
    "Without a warm-up the growth is over in step",
)
def at_least_one_step(step, steps, eps, warmup):
    return eps * min(1.0, step / max(1, warmup * steps))


@wrong("eps_schedule", "the warm-up is a share of steps - 1", "Divide by the number of growing steps, which")
def share_of_one_step_less(step, steps, eps, warmup):
    end = warmup * (steps - 1)
    return eps if step >= end else eps * step / end


@wrong("eps_schedule", "the radius is rounded to two decimals", "You round the radius. Return it as it is.")
def two_decimals(step, steps, eps, warmup):
    return eps if step >= warmup * steps else round(eps * step / (warmup * steps), 2)


# ---------------------------------------------------------------- most_masked

LADDER = ["transfer", "FGSM", "PGD-40", "PGD-40 x 5"]


@right("most_masked")
def above_the_lowest_so_far(matrix):
    ladder = matrix[LADDER]
    return (ladder - ladder.cummin(axis=1)).max(axis=1).idxmax()


@right("most_masked")
def all_pairs(matrix):
    gaps = {
        name: max(row[strong] - row[weak] for weak, strong in itertools.combinations(LADDER, 2))
        for name, row in matrix.iterrows()
    }
    return max(gaps, key=gaps.get)


@right("most_masked")
def accumulated_in_numpy(matrix):
    values = matrix.reindex(columns=LADDER).to_numpy(dtype=float)
    lead = values[:, 1:] - np.minimum.accumulate(values, axis=1)[:, :-1]
    return matrix.index[lead.max(axis=1).argmax()]


@right("most_masked")
def one_walk_down_each_row(matrix):
    best, answer = -math.inf, None
    for name in matrix.index:
        lowest = math.inf
        for column in LADDER:
            left = float(matrix.at[name, column])
            if left - lowest > best:
                best, answer = left - lowest, name
            lowest = min(lowest, left)
    return answer


wrong("most_masked", "it takes the longest way down from FGSM to PGD", "It is no sign of masking that a stronger")(
    lambda matrix: (matrix["FGSM"] - matrix["PGD-40 x 5"]).idxmax()
)

wrong("most_masked", "each attack is compared with its neighbour only", "You compare each attack with the next weaker")(
    lambda matrix: matrix[LADDER].diff(axis=1).max(axis=1).idxmax()
)

wrong(
    "most_masked",
    "the white box attacks alone are compared, without transfer",
    "You leave out transfer: a black box that does",
)(lambda matrix: above_the_lowest_so_far(matrix.assign(transfer=1.0)))

wrong(
    "most_masked",
    "only the last attack is asked whether it lies above a weaker one",
    "You compare the strongest attack with the",
)(lambda matrix: (matrix["PGD-40 x 5"] - matrix[LADDER[:3]].min(axis=1)).idxmax())

wrong(
    "most_masked",
    "each attack is compared with the mean of the weaker ones",
    "You compare each attack with the mean of",
)(lambda matrix: (matrix[LADDER] - matrix[LADDER].T.expanding().mean().shift().T).max(axis=1).idxmax())


@wrong(
    "most_masked", "the columns are taken in the order in which they come", "You take the columns as they stand. Their"
)
def columns_as_they_come(matrix):
    ladder = matrix.drop(columns="clean")
    return (ladder - ladder.cummin(axis=1)).max(axis=1).idxmax()


@wrong("most_masked", "the gaps of a row are added up", "You add up the rises of a row, or count them.")
def sum_of_the_gaps(matrix):
    ladder = matrix[LADDER]
    return (ladder - ladder.cummin(axis=1)).sum(axis=1).idxmax()


@wrong("most_masked", "the gap is a ratio, not a difference", "You take the rise in proportion to what is")
def largest_ratio(matrix):
    ladder = matrix[LADDER].to_numpy(dtype=float)
    lowest = np.maximum(np.minimum.accumulate(ladder, axis=1), 1e-9)
    return matrix.index[(ladder / lowest).max(axis=1).argmax()]


@wrong("most_masked", "it returns the number of the row, not its name", "That is the place of a row. Return its name")
def number_of_the_row(matrix):
    ladder = matrix[LADDER].to_numpy()
    return int((ladder - np.minimum.accumulate(ladder, axis=1)).max(axis=1).argmax())


@wrong(
    "most_masked", "the column clean is taken out of the caller's table", "Whoever called you still needs it: work on a"
)
def drops_a_column_of_the_table(matrix):
    matrix.drop(columns="clean", inplace=True)
    return above_the_lowest_so_far(matrix)
