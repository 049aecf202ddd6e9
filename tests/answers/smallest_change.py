"""Answers to the exercises of chapter 04."""

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong
from course_utils import attacks

# ---------------------------------------------------------------- nearest_border


def to_each_class(weight, bias, x, y, size=lambda slope: slope.norm(dim=2)):
    """Leads over each class divided by the size of their slopes, (n, K); infinite for y itself."""
    logits = x @ weight.T + bias
    far = (logits.gather(1, y[:, None]) - logits) / size(weight[y][:, None] - weight)
    return far.masked_fill(F.one_hot(y, len(bias)).bool(), torch.inf)


@right("nearest_border")
def image_by_image_and_class_by_class(weight, bias, x, y):
    found = []
    for image, label in zip(x, y.tolist(), strict=True):
        logits = weight @ image + bias
        far = [
            (logits[label] - logits[k]) / torch.dist(weight[label], weight[k]) for k in range(len(bias)) if k != label
        ]
        found.append(max(min(far), torch.tensor(0.0)))
    return torch.stack(found)


@right("nearest_border")
def in_numpy(weight, bias, x, y):
    w, b, images, labels = (t.detach().numpy() for t in (weight, bias, x, y))
    rows = np.arange(len(images))
    logits = images.astype(np.float64) @ w.T.astype(np.float64) + b
    leads, slopes = logits[rows, labels][:, None] - logits, np.linalg.norm(w[labels][:, None] - w[None], axis=2)
    slopes[rows, labels] = 1
    far = leads / slopes
    far[rows, labels] = np.inf
    return torch.from_numpy(np.maximum(far.min(axis=1), 0)).float()


@right("nearest_border")
def loop_over_rivals(weight, bias, x, y):
    logits, best = x @ weight.T + bias, torch.full((len(x),), torch.inf)
    for k in range(len(weight)):
        far = (logits[torch.arange(len(x)), y] - logits[:, k]) / torch.linalg.vector_norm(weight[y] - weight[k], dim=1)
        best = torch.where(y == k, best, torch.minimum(best, far))
    return F.relu(best)


@right("nearest_border")
def without_the_own_column(weight, bias, x, y):
    others = torch.arange(len(bias)) != y[:, None]
    logits = F.linear(x, weight, bias)
    leads = logits[torch.arange(len(y)), y][:, None] - logits[others].view(len(y), -1)
    return (leads / torch.cdist(weight, weight)[y][others].view(len(y), -1)).min(dim=1).values.clamp(min=0)


@wrong("nearest_border", "the lead is not divided", "That is the lead itself")
def lead_alone(weight, bias, x, y):
    return to_each_class(weight, bias, x, y, lambda slope: torch.ones(slope.shape[:2])).amin(1).clamp_min(0)


@wrong("nearest_border", "the 1-norm of the slope, as in chapter 01", "distance in the max norm")
def max_norm(weight, bias, x, y):
    return to_each_class(weight, bias, x, y, lambda slope: slope.abs().sum(2)).amin(1).clamp_min(0)


@wrong("nearest_border", "the squared length", "squared length")
def squared(weight, bias, x, y):
    return to_each_class(weight, bias, x, y, lambda slope: slope.square().sum(2)).amin(1).clamp_min(0)


@wrong("nearest_border", "negative for images that are wrong", "gets a negative distance")
def signed(weight, bias, x, y):
    return to_each_class(weight, bias, x, y).amin(1)


@wrong("nearest_border", "the absolute value for images that are wrong", "not the way back")
def absolute(weight, bias, x, y):
    return to_each_class(weight, bias, x, y).abs().amin(1)


@wrong("nearest_border", "the farthest border", "farthest border")
def farthest(weight, bias, x, y):
    far = to_each_class(weight, bias, x, y)
    return far.masked_fill(far.isinf(), 0).amax(1)


@wrong("nearest_border", "the class with the second-largest logit", "the class with the next logit alone")
def runner_up(weight, bias, x, y):
    logits = x @ weight.T + bias
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    lead = logits.gather(1, y[:, None]) - logits.gather(1, rival[:, None])
    return (lead[:, 0] / (weight[y] - weight[rival]).norm(dim=1)).clamp_min(0)


@wrong("nearest_border", "y is its own rival, and 0/0 becomes 0", "among its own rivals")
def own_rival(weight, bias, x, y):
    logits = x @ weight.T + bias
    far = (logits.gather(1, y[:, None]) - logits) / (weight[y][:, None] - weight).norm(dim=2)
    return torch.nan_to_num(far).amin(1).clamp_min(0)


@wrong("nearest_border", "0/0 makes NaN", "0/0 is NaN: leave this class out")
def nan(weight, bias, x, y):
    logits = x @ weight.T + bias
    return ((logits.gather(1, y[:, None]) - logits) / (weight[y][:, None] - weight).norm(dim=2)).amin(1).clamp_min(0)


@wrong("nearest_border", "the weights of y only", "weights of y alone")
def own_weights(weight, bias, x, y):
    logits = x @ weight.T + bias
    lead = logits.gather(1, y[:, None])[:, 0] - logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return (lead / weight[y].norm(dim=1)).clamp_min(0)


@wrong("nearest_border", "the bias is left out", "forget the bias")
def no_bias(weight, bias, x, y):
    return to_each_class(weight, 0 * bias, x, y).amin(1).clamp_min(0)


@wrong("nearest_border", "the prediction instead of the label", "model's answer, not from y")
def from_the_prediction(weight, bias, x, y):
    return to_each_class(weight, bias, x, (x @ weight.T + bias).argmax(1)).amin(1)


@wrong("nearest_border", "the smallest over the whole batch", "one number for all images")
def one_for_all(weight, bias, x, y):
    return to_each_class(weight, bias, x, y).min()


@wrong("nearest_border", "a table with a distance for each class", "one distance for each class")
def a_table(weight, bias, x, y):
    logits = x @ weight.T + bias
    return (logits.gather(1, y[:, None]) - logits) / (weight[y][:, None] - weight).norm(dim=2)


@wrong("nearest_border", "values and indices of min", "Take the first of them")
def both_results(weight, bias, x, y):
    return to_each_class(weight, bias, x, y).min(dim=1)


@wrong("nearest_border", "what DeepFool finds, 2 % too long", "The border to class k")
def by_deepfool(weight, bias, x, y):
    model = torch.nn.Linear(weight.shape[1], len(bias))
    model.load_state_dict({"weight": weight, "bias": bias})
    return (attacks.deepfool(model, x, y, clip=None) - x).norm(dim=1)


@wrong("nearest_border", "infinite for images that are wrong", "Where the model is wrong already, the distance is 0")
def infinite_where_wrong(weight, bias, x, y):
    far = to_each_class(weight, bias, x, y).amin(1)
    return far.where(far > 0, torch.inf)


@wrong("nearest_border", "the two next logits only", "the next two logits only")
def two_rivals(weight, bias, x, y):
    far, logits = to_each_class(weight, bias, x, y), x @ weight.T + bias
    rivals = logits.scatter(1, y[:, None], -torch.inf).topk(min(2, len(bias) - 1), dim=1).indices
    return far.gather(1, rivals).amin(1).clamp_min(0)


@wrong(
    "nearest_border", "one length over all images and classes", "You divide by one length for all images and classes"
)
def one_length(weight, bias, x, y):
    return to_each_class(weight, bias, x, y, lambda slope: slope.norm()).amin(1).clamp_min(0)


@wrong("nearest_border", "0.001 is added to each length", "You guard the length with a number that is not tiny")
def guarded(weight, bias, x, y):
    return to_each_class(weight, bias, x, y, lambda slope: slope.norm(dim=2) + 1e-3).amin(1).clamp_min(0)


@wrong("nearest_border", "entries chosen with a mask, of which too many are dropped", "a mask such as v[v > 0]")
def mask_drops_too_many(weight, bias, x, y):
    far = to_each_class(weight, bias, x, y, lambda slope: slope.norm(dim=2) + (slope == 0).all(2))
    return far[far > 0.2].view(len(x), -1).amin(1)


# ---------------------------------------------------------------- accuracy_within


@right("accuracy_within")
def one_budget_at_a_time(distance, budgets):
    return torch.stack([(distance > budget).float().mean() for budget in budgets])


@right("accuracy_within")
def from_what_is_fooled(distance, budgets):
    return 1 - (distance.unsqueeze(1) <= budgets.unsqueeze(0)).float().mean(dim=0)


@right("accuracy_within")
def by_searching_a_sorted_list(distance, budgets):
    fooled = torch.searchsorted(distance.sort().values, budgets, right=True)
    return 1 - fooled / len(distance)


@right("accuracy_within")
def numpy_table(distance, budgets):
    table = distance.numpy()[None, :] > budgets.numpy()[:, None]
    return torch.tensor(table.mean(axis=1), dtype=torch.float32)


@wrong("accuracy_within", "the share that is fooled", "That is the share that is fooled")
def fooled_share(distance, budgets):
    return (distance[:, None] <= budgets).float().mean(0)


@wrong("accuracy_within", "a change as long as the budget counts as too long", "exactly as long as the budget")
def not_quite(distance, budgets):
    return (distance[:, None] >= budgets).float().mean(0)


@wrong("accuracy_within", "numbers of images", "You count images")
def numbers(distance, budgets):
    return (distance[:, None] > budgets).sum(0).float()


@wrong("accuracy_within", "per cent", "That is a percentage")
def per_cent(distance, budgets):
    return 100 * (distance[:, None] > budgets).float().mean(0)


@wrong("accuracy_within", "only images that were right", "images that the model gets right only")
def of_the_right_ones(distance, budgets):
    return (distance[distance > 0][:, None] > budgets).float().mean(0)


@wrong("accuracy_within", "images without a change are left out", "images that nothing fooled")
def of_the_finite_ones(distance, budgets):
    return (distance[distance.isfinite()][:, None] > budgets).float().mean(0)


@wrong("accuracy_within", "images without a change count as fooled", "nothing fooled as fooled")
def infinite_is_fooled(distance, budgets):
    distance = torch.nan_to_num(distance, posinf=0.0)
    return (distance[:, None] > budgets).float().mean(0)


@wrong("accuracy_within", "the mean over the budgets", "mean goes over the budgets")
def over_budgets(distance, budgets):
    return (distance[:, None] > budgets).float().mean(1)


@wrong("accuracy_within", "one number", "one number for all budgets")
def one_number(distance, budgets):
    return (distance[:, None] > budgets).float().mean()


@wrong("accuracy_within", "the table itself", "table of images × budgets")
def the_table(distance, budgets):
    return (distance[:, None] > budgets).float()


@wrong("accuracy_within", "a tensor of booleans has no mean", "")
def mean_of_booleans(distance, budgets):
    return (distance[:, None] > budgets).mean(0)


@wrong("accuracy_within", "images and budgets side by side", "Every image meets every budget")
def side_by_side(distance, budgets):
    return (distance > budgets).float().mean()


@wrong("accuracy_within", "the mean distance is compared", "the mean distance with the budgets")
def mean_distance(distance, budgets):
    return (distance.mean() > budgets).float()


@wrong("accuracy_within", "a list of numbers", "Return one tensor")
def a_list(distance, budgets):
    return [(distance > budget).float().mean().item() for budget in budgets]


@wrong("accuracy_within", "the budgets are sorted in place", "Whoever called you still needs the original")
def sorts_in_place(distance, budgets):
    order = budgets.argsort()
    budgets.copy_(budgets[order])
    shares = (distance[:, None] > budgets).float().mean(0)
    return shares[order.argsort()]


@wrong("accuracy_within", "one share in each row", "keepdim=True leaves a dimension")
def a_column(distance, budgets):
    return (distance[None] > budgets[:, None]).float().mean(1, keepdim=True)


@wrong("accuracy_within", "the first budget is left out", "A budget is missing")
def without_the_first(distance, budgets):
    return (distance[:, None] > budgets[1:]).float().mean(0)


@wrong("accuracy_within", "0.001 more than the budget is allowed", "You allow a little more than the budget")
def with_a_tolerance(distance, budgets):
    return (distance[:, None] > budgets + 1e-3).float().mean(0)


# ---------------------------------------------------------------- l2_pgd_step


def length(change):
    return change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def back_into_ball(new, x, eps):
    return x + (new - x) * (eps / length(new - x).clamp_min(1e-30)).clamp(max=1)


def unit(g):
    g = g / g.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
    return g / length(g).clamp_min(torch.finfo(g.dtype).tiny)


def put_back(new, x, eps):
    return back_into_ball(new, x, eps).clamp(0, 1)


@right("l2_pgd_step")
def as_the_hints_say(point, gradient, x, eps, step_size):
    gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-37)
    new = point + step_size * gradient / length(gradient).clamp_min(1)
    return (x + (new - x) * (eps / length(new - x).clamp_min(1e-30)).clamp(max=1)).clamp(0, 1)


@wrong("l2_pgd_step", "the length of a tiny gradient rounds to 0 and the step grows", "by its largest entry first")
def guard_of_the_length_only(point, gradient, x, eps, step_size):
    return put_back(point + step_size * gradient / length(gradient).clamp_min(1e-30), x, eps)


@wrong("l2_pgd_step", "a tiny gradient is taken for zero", "by its largest entry first")
def only_where_there_is_a_length(point, gradient, x, eps, step_size):
    size = length(gradient)
    return put_back(point + torch.where(size > 0, step_size * gradient / size, 0 * gradient), x, eps)


@wrong("l2_pgd_step", "normalised with the default guard of F.normalize", "Guard the division by something tiny only")
def normalised_with_1e_12(point, gradient, x, eps, step_size):
    return put_back(point + step_size * F.normalize(gradient.flatten(1)).view_as(x), x, eps)


@wrong("l2_pgd_step", "the sign of the gradient", "That is the sign step of the max norm")
def sign_step(point, gradient, x, eps, step_size):
    return put_back(point + step_size * gradient.sign(), x, eps)


@right("l2_pgd_step")
def loop_in_double_precision(point, gradient, x, eps, step_size):
    out = []
    for p, g, c in zip(point.double(), gradient.double(), x.double(), strict=True):
        new = p + step_size * g / g.norm() if g.any() else p
        distance = torch.dist(new, c)
        out.append(c + (new - c) * (eps / distance) if distance > eps else new)
    return torch.stack(out).clamp(0, 1).to(point.dtype)


@right("l2_pgd_step")
def normalize_and_renorm(point, gradient, x, eps, step_size):
    g = gradient.double().flatten(1)
    change = (point - x).flatten(1) + step_size * F.normalize(g, dim=1, eps=1e-300)
    return (x + change.renorm(p=2, dim=0, maxnorm=eps).view_as(x)).clamp(0, 1).to(point.dtype)


@right("l2_pgd_step")
def numpy_only_those_that_need_it(point, gradient, x, eps, step_size):
    new, g, centre = (t.detach().numpy().astype(np.float64) for t in (point, gradient, x))
    size = np.sqrt((g**2).sum((1, 2, 3)))
    new[size > 0] += step_size * g[size > 0] / size[size > 0, None, None, None]
    far = np.sqrt(((new - centre) ** 2).sum((1, 2, 3)))
    out = far > eps
    new[out] = centre[out] + eps * (new - centre)[out] / far[out, None, None, None]
    return torch.from_numpy(new.clip(0, 1)).to(point.dtype)


@wrong(
    "l2_pgd_step",
    "the guard 1e-8 is added to the length and eats small gradients",
    "Guard the division by something tiny only",
)
def guard_added(point, gradient, x, eps, step_size):
    return put_back(point + step_size * gradient / (length(gradient) + 1e-8), x, eps)


@wrong("l2_pgd_step", "a zero gradient makes NaN", "Look for a division by zero, such as g /")
def zero_over_zero(point, gradient, x, eps, step_size):
    return put_back(point + step_size * gradient / length(gradient), x, eps)


@wrong("l2_pgd_step", "one length of the gradient for the whole batch", "You divide by the length of the whole batch")
def gradient_of_the_batch(point, gradient, x, eps, step_size):
    return put_back(point + step_size * gradient / gradient.norm().clamp_min(1e-30), x, eps)


@wrong("l2_pgd_step", "one distance from x for the whole batch", "You take one length for the whole batch when")
def ball_of_the_batch(point, gradient, x, eps, step_size):
    change = point + step_size * unit(gradient) - x
    return (x + change * min(1.0, eps / max(change.norm().item(), 1e-12))).clamp(0, 1)


@wrong(
    "l2_pgd_step", "images inside the ball are pushed out to its surface", "You move every image to the surface of the"
)
def always_on_the_surface(point, gradient, x, eps, step_size):
    change = point + step_size * unit(gradient) - x
    return (x + eps * unit(change)).clamp(0, 1)


@wrong(
    "l2_pgd_step", "clipped to [0, 1] before the ball instead of after it", "You clip to [0, 1] before you go back into"
)
def box_before_ball(point, gradient, x, eps, step_size):
    return back_into_ball((point + step_size * unit(gradient)).clamp(0, 1), x, eps)


@wrong(
    "l2_pgd_step", "the ball lies around the old point, not around x", "You keep to a ball around point. The ball is"
)
def ball_around_the_point(point, gradient, x, eps, step_size):
    return put_back(point + step_size * unit(gradient), point, eps)


@wrong("l2_pgd_step", "the old point is put back, and only then moved", "You never put the image back into the ball")
def ball_before_the_step(point, gradient, x, eps, step_size):
    return (back_into_ball(point, x, eps) + step_size * unit(gradient)).clamp(0, 1)


@wrong("l2_pgd_step", "point is changed in place", "Whoever called you still needs the original")
def point_moves(point, gradient, x, eps, step_size):
    point += step_size * unit(gradient)
    return put_back(point, x, eps)


@wrong("l2_pgd_step", "an image outside the ball goes back to x", "You take an image that left the ball back to")
def too_far_means_back_to_x(point, gradient, x, eps, step_size):
    new = point + step_size * unit(gradient)
    return torch.where(length(new - x) > eps, x, new).clamp(0, 1)


@wrong(
    "l2_pgd_step",
    "divided by the largest entry of the batch first",
    "You divide by the largest entry of the whole batch",
)
def largest_of_the_batch(point, gradient, x, eps, step_size):
    gradient = gradient / gradient.abs().max().clamp_min(1e-37)
    return put_back(point + step_size * gradient / length(gradient).clamp_min(1e-12), x, eps)


@wrong(
    "l2_pgd_step", "the largest entry, not the largest size", "You divide by the largest entry, and not by the largest"
)
def largest_without_abs(point, gradient, x, eps, step_size):
    gradient = gradient / gradient.amax((1, 2, 3), keepdim=True).clamp_min(1e-37)
    return put_back(point + step_size * gradient / length(gradient).clamp_min(1e-12), x, eps)


@wrong("l2_pgd_step", "a length of the gradient for each channel", "You take it over another part of the tensor")
def gradient_of_each_channel(point, gradient, x, eps, step_size):
    return put_back(
        point + step_size * F.normalize(gradient.double().flatten(2), dim=2, eps=1e-300).view_as(x).float(), x, eps
    )


@wrong("l2_pgd_step", "a length of the change for each channel", "You take one length for each channel")
def ball_of_each_channel(point, gradient, x, eps, step_size):
    change = point + step_size * unit(gradient) - x
    size = change.norm(dim=(2, 3), keepdim=True).clamp_min(1e-12)
    return (x + change * (eps / size).clamp(max=1)).clamp(0, 1)


@wrong("l2_pgd_step", "the image is shortened, not its change", "Your ball lies around 0")
def ball_around_zero(point, gradient, x, eps, step_size):
    new = point + step_size * unit(gradient)
    return (new * (eps / length(new).clamp_min(1e-12)).clamp(max=1)).clamp(0, 1)
