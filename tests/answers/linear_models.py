"""Answers to the exercises of chapter 01, by readers who had not seen the checks."""

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong

# ---------------------------------------------------------------- worst_perturbation


@right("worst_perturbation")
def size_of_eps_with_the_sign_copied(w, eps):
    return torch.copysign(torch.full_like(w, eps), w)


@right("worst_perturbation")
def gradient_of_the_l1_norm(w, eps):
    v = w.detach().clone().requires_grad_()
    return eps * torch.autograd.grad(v.abs().sum(), v)[0]


@right("worst_perturbation")
def one_weight_at_a_time(w, eps):
    eta = torch.zeros_like(w).flatten()
    for i, weight in enumerate(w.flatten().tolist()):
        if weight != 0:
            eta[i] = eps if weight > 0 else -eps
    return eta.view_as(w)


@right("worst_perturbation")
def numpy_where_with_minus_eps_for_zero_weights(w, eps):
    v = w.detach().cpu().numpy()
    return torch.from_numpy(np.where(v > 0, eps, -eps).astype(v.dtype)).to(w.device)


@wrong(
    "worst_perturbation", "the weight itself is used instead of its sign", "You use w itself. Take its sign, times eps"
)
def weight_times_eps(w, eps):
    return eps * w


@wrong(
    "worst_perturbation",
    "the Euclidean norm is limited to eps, not each entry",
    "You divide by the length of w: that is the",
)
def euclidean_step(w, eps):
    return eps * w / w.norm().clamp_min(1e-12)


@wrong(
    "worst_perturbation",
    "only the largest weight is pushed the whole way, the others in proportion",
    "Only the largest weight gets the whole eps",
)
def scaled_by_the_largest(w, eps):
    return eps * w / w.abs().max().clamp_min(1e-30)


@wrong("worst_perturbation", "the output falls instead of rising", "You go against the weights, so the output")
def minus_sign(w, eps):
    return -eps * torch.sign(w)


@wrong("worst_perturbation", "negative weights get no change", "You move only the entries with weights of one")
def brighter_only(w, eps):
    return torch.where(w > 0, torch.full_like(w, eps), torch.zeros_like(w))


@wrong(
    "worst_perturbation",
    "only one entry is changed, the one with the largest weight",
    "You change only the entry with the largest",
)
def one_hot(w, eps):
    eta = torch.zeros(w.numel(), dtype=w.dtype)
    i = w.abs().argmax()
    eta[i] = eps * w.flatten()[i].sign()
    return eta.view(w.shape)


@wrong(
    "worst_perturbation",
    "weights near the guard 1e-8 are not pushed the whole way",
    "Also the smallest weight has a sign, and gets",
)
def weight_over_its_size(w, eps):
    return eps * w / (w.abs() + 1e-8)


@wrong("worst_perturbation", "w is overwritten", "Whoever called you still needs the original")
def in_place(w, eps):
    return w.data.sign_().mul_(eps)


@wrong("worst_perturbation", "a zero weight gives NaN, and so w·δ is NaN", "Look for a division by zero, such as g /")
def divided_by_its_size(w, eps):
    return eps * (w / w.abs())


# ---------------------------------------------------------------- to_uint8


@right("to_uint8")
def half_a_level_up_then_cut(x):
    return torch.floor(255 * x + 0.5).to(torch.uint8)


@right("to_uint8")
def numpy_rint(x):
    return torch.from_numpy(np.rint(x.detach().cpu().numpy().astype(np.float64) * 255).astype(np.uint8))


@right("to_uint8")
def nearest_of_256_levels(x):
    return (255 * x.unsqueeze(-1) - torch.arange(256)).abs().argmin(-1).byte()


@right("to_uint8")
def between_which_thresholds(x):
    thresholds = (torch.arange(255, dtype=torch.float64) + 0.5) / 255
    return torch.bucketize(x.double().contiguous(), thresholds).to(torch.uint8)


@wrong("to_uint8", "the fraction is cut off", "Converting to uint8 cuts off the fraction")
def cut_off(x):
    return (255 * x).to(torch.uint8)


@wrong(
    "to_uint8",
    "256 equal bins: exact levels come out right, but others not at the nearest level",
    "256·x cut off gives 256 bins of equal width",
)
def bins_of_256(x):
    return (256 * x).floor().clamp(max=255).byte()


@wrong("to_uint8", "256 levels, so that white wraps round to black", "With 256, white becomes 256, which has no")
def white_wraps(x):
    return (256 * x).round().int().to(torch.uint8)


@wrong("to_uint8", "the type is still float", "Return a torch tensor that ends with")
def float_levels(x):
    return torch.round(x * 255)


@wrong(
    "to_uint8",
    "x is rounded before it is multiplied: only black and white are left",
    "You round x itself. Multiply by 255 first",
)
def rounded_too_early(x):
    return (x.round() * 255).to(torch.uint8)


@wrong("to_uint8", "x is overwritten with its levels", "Whoever called you still needs the original")
def levels_in_place(x):
    return x.data.mul_(255).round_().to(torch.uint8)


@wrong(
    "to_uint8",
    "a small constant mends 22.999998, but 254.7 is still cut off",
    "Converting to uint8 cuts off the fraction",
)
def a_little_more_then_cut(x):
    return (255 * x + 1e-3).to(torch.uint8)


@wrong(
    "to_uint8",
    "contrast is stretched from the darkest to the brightest pixel",
    "x is in [0, 1] already. Do not stretch it",
)
def full_contrast(x):
    low, high = x.min(), x.max()
    return (255 * (x - low) / (high - low).clamp_min(1e-12)).round().to(torch.uint8)


@wrong("to_uint8", "dimensions of size one are lost", "Keep the shape of x: look for a sum, a mean")
def squeezed(x):
    return torch.from_numpy(np.round(255 * x.squeeze().numpy()).astype("uint8"))


@wrong(
    "to_uint8",
    "half precision rounds 253.47 to 253.5 first, and so to 254",
    "Each pixel goes to the nearest of the levels",
)
def in_half_precision(x):
    return (255 * x).half().round().to(torch.uint8)


# ---------------------------------------------------------------- robust_loss


def worst_margin(w, b, x, y, eps):
    return y * (x @ w + b) - eps * w.abs().sum()


@right("robust_loss")
def loss_of_the_attacked_images(w, b, x, y, eps):
    adv = x - eps * y[:, None] * w.sign()
    return F.softplus(-y * (adv @ w + b)).mean()


@right("robust_loss")
def binary_cross_entropy_of_the_margin(w, b, x, y, eps):
    worst = worst_margin(w, b, x, y, eps)
    return F.binary_cross_entropy_with_logits(worst, torch.ones_like(worst))


@right("robust_loss")
def two_logits_and_cross_entropy(w, b, x, y, eps):
    f = (x * w).sum(1) + b - y * eps * w.norm(p=1)
    return F.cross_entropy(torch.stack([torch.zeros_like(f), f], dim=1), (y > 0).long())


@right("robust_loss")
def one_image_after_the_other(w, b, x, y, eps):
    reach, zero = eps * (w.relu() + (-w).relu()).sum(), torch.zeros((), dtype=w.dtype)
    losses = [torch.logaddexp(zero, (reach - y[i] * (torch.dot(w, x[i]) + b)).squeeze()) for i in range(len(x))]
    return sum(losses) / len(losses)


@wrong("robust_loss", "the paper's printed formula, wrong for y = -1", "You lower the output w·x + b for both")
def as_printed(w, b, x, y, eps):
    return F.softplus(y * (eps * w.abs().sum() - x @ w - b)).mean()


@wrong(
    "robust_loss",
    "the shift is detached: the value is right, the gradient lacks the worst case",
    "eps·‖w‖₁ takes no part in the gradient. Take",
)
def constant_shift(w, b, x, y, eps):
    return F.softplus(eps * w.detach().abs().sum() - y * (x @ w + b)).mean()


@wrong("robust_loss", "no gradient flows back", "Return the tensor itself, without .item()")
def a_new_tensor(w, b, x, y, eps):
    return torch.tensor(F.softplus(-worst_margin(w, b, x, y, eps)).mean().item())


@wrong("robust_loss", "the attacker helps: the margin is raised", "You raise the margin: the attack helps the")
def raised_margin(w, b, x, y, eps):
    return F.softplus(-(y * (x @ w + b) + eps * w.abs().sum())).mean()


@wrong("robust_loss", "the losses are added up, not averaged", "Take the mean over the images, not the sum.")
def total(w, b, x, y, eps):
    return F.softplus(-worst_margin(w, b, x, y, eps)).sum()


@wrong("robust_loss", "the margins are averaged before the loss", "Take the mean last: the mean of the losses is")
def loss_of_the_average_margin(w, b, x, y, eps):
    return F.softplus(-worst_margin(w, b, x, y, eps).mean())


@wrong(
    "robust_loss", "the norm is an ordinary penalty outside of the loss", "You add eps·‖w‖₁ to the loss or subtract it"
)
def penalty_outside(w, b, x, y, eps):
    return F.softplus(-y * (x @ w + b)).mean() + eps * w.abs().sum()


@wrong(
    "robust_loss",
    "exp overflows, so that a margin of -100 costs infinity",
    "exp(z) is infinite in float32 for z above 88",
)
def log_of_one_plus_exp(w, b, x, y, eps):
    return torch.log(1 + torch.exp(-worst_margin(w, b, x, y, eps))).mean()


@wrong("robust_loss", "the minus before the worst margin is missing", "Check the sign: a large margin is good and")
def sign_of_the_margin_lost(w, b, x, y, eps):
    return F.softplus(worst_margin(w, b, x, y, eps)).mean()


@wrong("robust_loss", "the attacked images are clipped to [0, 1]", "You clip the images. Here the change has no")
def loss_of_clipped_images(w, b, x, y, eps):
    adv = torch.clamp(x - eps * y.unsqueeze(1) * torch.sign(w), 0, 1)
    return F.softplus(-y * (adv @ w + b)).mean()


# ---------------------------------------------------------------- exact_accuracy


@right("exact_accuracy")  # who wins a tie is a convention
def ties_count(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return (lead >= fall).all(1).float().mean().item()


@right("exact_accuracy")  # who wins a tie is a convention
def zero_lead_is_own(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return ((lead > fall) | (lead == 0)).all(1).float().mean().item()


@right("exact_accuracy")
def vectorised(weight, bias, x, y, eps):
    z = F.linear(x, weight, bias)
    lead = z.gather(1, y[:, None]) - z
    fall = eps * torch.cdist(weight, weight, p=1)[y]
    own = F.one_hot(y, len(weight)).bool()
    return (lead - fall).masked_fill(own, torch.inf).amin(1).gt(0).float().mean().item()


@right("exact_accuracy")
def attack_each_rival(weight, bias, x, y, eps):
    rows = torch.arange(len(y))
    stays = torch.ones(len(y), dtype=torch.bool)
    for j in range(len(weight)):
        adv = x - eps * torch.sign(weight[y] - weight[j])
        z = adv @ weight.T + bias
        stays &= (z[rows, y] > z[:, j]) | (y == j)
    return float(stays.double().mean())


@right("exact_accuracy")
def python_loops(weight, bias, x, y, eps):
    good = 0
    for image, label in zip(x, y.tolist(), strict=True):
        z = weight @ image + bias
        good += all(
            z[label] - z[j] > eps * (weight[label] - weight[j]).abs().sum() for j in range(len(weight)) if j != label
        )
    return good / len(x)


@right("exact_accuracy")
def raised_rivals(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    gain = torch.stack([eps * torch.linalg.vector_norm(weight[y] - w, ord=1, dim=1) for w in weight], dim=1)
    raised = z + gain
    rivals = raised.scatter(1, y.unsqueeze(1), float("-inf")).max(dim=1).values
    return (z[torch.arange(len(y)), y] > rivals).sum().item() / len(y)


@right("exact_accuracy")
def in_float64_by_numpy(weight, bias, x, y, eps):
    w, b, v, t = weight.double().numpy(), bias.double().numpy(), x.double().numpy(), y.numpy()
    z = v @ w.T + b
    lead = z[np.arange(len(t)), t][:, None] - z
    fall = eps * np.abs(w[t][:, None, :] - w[None]).sum(-1)
    ok = (lead > fall) | (np.arange(len(w)) == t[:, None])
    return float(ok.all(1).mean())


@wrong(
    "exact_accuracy",
    "the lead falls by eps·‖w_y‖₁ only: the rival's weights are forgotten",
    "let the logit of the label fall alone",
)
def no_factor_for_rival(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    top = z.gather(1, y[:, None])[:, 0]
    rest = z.clone()
    rest[torch.arange(len(y)), y] = -torch.inf
    return (top - rest.amax(1) > eps * weight[y].abs().sum(1)).float().mean().item()


@wrong(
    "exact_accuracy",
    "only the strongest rival on the clean image is compared, not every j",
    "class with the next logit alone",
)
def only_runner_up(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    rest = z.clone()
    rest[torch.arange(len(y)), y] = -torch.inf
    j = rest.argmax(1)
    lead = z[torch.arange(len(y)), y] - z[torch.arange(len(y)), j]
    return (lead > eps * (weight[y] - weight[j]).abs().sum(1)).float().mean().item()


@wrong(
    "exact_accuracy",
    "Euclidean norm of w_y − w_j: that is the worst change in L2, not in the max norm",
    "Euclidean length",
)
def l2_norm(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).norm(dim=2)
    ok = (lead > fall) | F.one_hot(y, len(weight)).bool()
    return ok.all(1).float().mean().item()


@wrong("exact_accuracy", "‖w_y‖₁ − ‖w_j‖₁ in place of ‖w_y − w_j‖₁", "subtract the two sums")
def difference_of_norms(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    l1 = weight.abs().sum(1)
    lead = z.gather(1, y[:, None]) - z
    ok = (lead > eps * (l1[y][:, None] - l1)) | F.one_hot(y, len(weight)).bool()
    return ok.all(1).float().mean().item()


@wrong(
    "exact_accuracy",
    "‖w_y‖₁ + ‖w_j‖₁: an upper bound of the fall (interval bounds), too pessimistic",
    "add the two rows' sums",
)
def sum_of_norms(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    l1 = weight.abs().sum(1)
    lead = z.gather(1, y[:, None]) - z
    ok = (lead > eps * (l1[y][:, None] + l1)) | F.one_hot(y, len(weight)).bool()
    return ok.all(1).float().mean().item()


@wrong(
    "exact_accuracy",
    "the label competes with itself: its lead over itself is 0 > 0, so no image stays right",
    "among its own rivals",
)
def own_label_competes(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    stays = torch.ones(len(y), dtype=torch.bool)
    for j in range(len(weight)):
        lead = z.gather(1, y[:, None])[:, 0] - z[:, j]
        stays &= lead > eps * (weight[y] - weight[j]).abs().sum(1)
    return stays.float().mean().item()


@wrong("exact_accuracy", "keeps its lead over *some* rival (or in place of and)", "ahead of any")
def any_rival(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    stays = torch.zeros(len(y), dtype=torch.bool)
    for j in range(len(weight)):
        lead = z.gather(1, y[:, None])[:, 0] - z[:, j]
        stays |= (lead > eps * (weight[y] - weight[j]).abs().sum(1)) & (y != j)
    return stays.float().mean().item()


@wrong("exact_accuracy", "mean over all pairs (image, rival), not over images", "pairs of an image and a rival")
def mean_over_pairs(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).float().mean().item()


@wrong(
    "exact_accuracy",
    "one gradient step of the cross-entropy: an attack, so only an upper bound",
    "along the gradient of the loss",
)
def fgsm(weight, bias, x, y, eps):
    v = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(v @ weight.T + bias, y, reduction="sum"), v)
    return (((x + eps * g.sign()) @ weight.T + bias).argmax(1) == y).float().mean().item()


@wrong("exact_accuracy", "the worst change for each rival, but clipped to [0, 1]", "You clip the images")
def clipped(weight, bias, x, y, eps):
    stays = torch.ones(len(y), dtype=torch.bool)
    for j in range(len(weight)):
        diff = weight[y] - weight[j]
        adv = (x - eps * diff.sign()).clamp(0, 1)
        z = adv @ weight.T + bias
        stays &= (z.gather(1, y[:, None])[:, 0] > z[:, j]) | (y == j)
    return stays.float().mean().item()


@wrong("exact_accuracy", "the bias is forgotten", "forget the bias")
def no_bias(weight, bias, x, y, eps):
    z = x @ weight.T
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong(
    "exact_accuracy",
    "starts from the predicted class, so an image that was wrong and stays wrong counts (stability, not accuracy)",
    "not whether it stays right",
)
def predicted_label(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    p = z.argmax(1)
    lead = z.gather(1, p[:, None]) - z
    fall = eps * (weight[p][:, None] - weight[None]).abs().sum(2)
    return ((lead > fall) | F.one_hot(p, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "2·eps: 'both logits move'", "twice as much")
def twice_eps(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = 2 * eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "range(10): right for ten classes only", "such as 10 classes")
def ten_classes(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    stays = torch.ones(len(y), dtype=torch.bool)
    for j in range(10):
        lead = z.gather(1, y[:, None])[:, 0] - z[:, j]
        stays &= (lead > eps * (weight[y] - weight[j]).abs().sum(1)) | (y == j)
    return stays.float().mean().item()


@wrong("exact_accuracy", "returns the share that is fooled, 1 − accuracy", "can break")
def fooled_share(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return 1 - ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "share of the initially right images, not of all", "share of all images")
def success_denominator(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    stays = ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1)
    return (stays.sum() / (z.argmax(1) == y).sum()).item()


@wrong("exact_accuracy", "the weights are summed with their signs, without abs", "take absolute values before it")
def without_abs(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).sum(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "only the strongest pixel: max in place of the sum", "largest difference alone")
def max_weight(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().amax(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "a percentage, 0 to 100", "percentage")
def percent(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return 100 * ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "the number of images, not their share", "number of images")
def count(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return float(((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).sum())


@wrong(
    "exact_accuracy",
    "lead over the runner-up, fall of the rival with the largest ‖w_y − w_j‖₁: two different rivals, too pessimistic",
    "may belong to two rivals",
)
def strongest_of_both(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    rest = z.scatter(1, y[:, None], -torch.inf)
    lead = z.gather(1, y[:, None])[:, 0] - rest.amax(1)
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2).amax(1)
    return (lead > fall).float().mean().item()


@wrong("exact_accuracy", "mean over the pixels in place of the sum", "mean of the absolute differences")
def mean_over_pixels(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().mean(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "one truth value for each image: the mean is forgotten", "Return one number")
def tensor(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1)


@wrong("exact_accuracy", "stays is overwritten in each round: only the last class counts", "One class alone counts")
def last_rival_wins(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    for j in range(len(weight)):
        lead = z.gather(1, y[:, None])[:, 0] - z[:, j]
        stays = (lead > eps * (weight[y] - weight[j]).abs().sum(1)) | (y == j)
    return stays.float().mean().item()


@wrong("exact_accuracy", "weight[y[0]] for all images: the label of the first image only", "the fall of one label")
def first_label(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y[0]] - weight).abs().sum(1)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "right value, but centres the caller's bias in place", "needs the original")
def bias_in_place(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = (weight[y][:, None] - weight[None]).abs().sum(2).mul_(eps)
    bias -= bias.mean()
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "range(K − 1): the last class is never a rival", "leave out the first or the last class")
def last_class_left_out(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    stays = torch.ones(len(y), dtype=torch.bool)
    for j in range(len(weight) - 1):
        lead = z.gather(1, y[:, None])[:, 0] - z[:, j]
        stays &= (lead > eps * (weight[y] - weight[j]).abs().sum(1)) | (y == j)
    return stays.float().mean().item()


@wrong("exact_accuracy", "softmax probabilities in place of logits", "Probabilities are no linear function")
def probabilities(weight, bias, x, y, eps):
    z = (x @ weight.T + bias).softmax(1)
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "one attack against the average of all rivals", "average of the other classes")
def mean_rival(weight, bias, x, y, eps):
    others = (weight.sum(0) - weight[y]) / (len(weight) - 1)
    z = (x - eps * (weight[y] - others).sign()) @ weight.T + bias
    return (z.argmax(1) == y).float().mean().item()


@wrong(
    "exact_accuracy",
    "attacks the clean runner-up and asks who is first then (an attack, not the worst case)",
    "class with the next logit alone",
)
def step_to_runner_up(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    j = z.scatter(1, y[:, None], -torch.inf).argmax(1)
    adv = x - eps * (weight[y] - weight[j]).sign()
    return ((adv @ weight.T + bias).argmax(1) == y).float().mean().item()


@wrong("exact_accuracy", "forty steps of PGD: a strong attack, still a search", "with one step or many")
def pgd(weight, bias, x, y, eps):
    adv = x.clone()
    for _ in range(40):
        v = adv.clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(v @ weight.T + bias, y, reduction="sum"), v)
        adv = torch.minimum(torch.maximum(adv + eps / 10 * g.sign(), x - eps), x + eps)
    return ((adv @ weight.T + bias).argmax(1) == y).float().mean().item()


@wrong("exact_accuracy", "the lead falls by eps·d: the weights are forgotten", "eps times the number of pixels")
def eps_times_d(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    return ((lead > eps * x.shape[1]) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "|lead|: an image that is wrong by far counts as safe", "not its absolute value")
def absolute_lead(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = (z.gather(1, y[:, None]) - z).abs()
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong("exact_accuracy", "right value, rounded to one digit", "round the share")
def rounded(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2)
    return round(((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item(), 1)


@wrong("exact_accuracy", "the attacker changes the bias, too: ‖w_y − w_j‖₁ + |b_y − b_j|", "The bias stays as it is")
def bias_in_the_fall(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * ((weight[y][:, None] - weight[None]).abs().sum(2) + (bias[y][:, None] - bias).abs())
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong(
    "exact_accuracy", "eps relative to the pixel: the change is eps·x, so black pixels never change", "a black one, too"
)
def relative_eps(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * ((weight[y][:, None] - weight[None]).abs() * x[:, None].abs()).sum(2)
    return ((lead > fall) | F.one_hot(y, len(weight)).bool()).all(1).float().mean().item()


@wrong(
    "exact_accuracy",
    "only the label's logit is lowered, by the largest fall over all rivals",
    "may belong to two rivals",
)
def argmax_of_lowered(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(2).amax(1)
    z[torch.arange(len(y)), y] -= fall
    return (z.argmax(1) == y).float().mean().item()


@wrong("exact_accuracy", "transposed: sums over classes, not over pixels", "over another dimension")
def wrong_axis(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    lead = z.gather(1, y[:, None]) - z
    fall = eps * (weight[y][:, None] - weight[None]).abs().sum(1)
    return (lead > fall).all(1).float().mean().item()


@wrong("exact_accuracy", "z[:, y] has the logits of all labels for every image", "picks the logits of all labels")
def columns_of_all_labels(weight, bias, x, y, eps):
    z = x @ weight.T + bias
    stays = torch.ones(len(y), dtype=torch.bool)
    for j in range(len(weight)):
        lead = z[:, y] - z[:, [j]]
        stays = stays & ((lead > eps * (weight[y] - weight[j]).abs().sum(1)) | (y == j))
    return stays.float().mean().item()


# ---------------------------------------------------------------- what another reader tried


@wrong("worst_perturbation", "a weight is compared with eps instead of 0", "You compare a weight with eps")
def compared_with_eps(w, eps):
    return torch.where(w > eps, eps, -eps)


def _asked(weight, bias, x, y, eps, rivals):
    """Return the accuracy if only the rivals (n, k) that a function chooses from leads and differences are asked."""
    logits = x @ weight.T + bias
    differences = weight[y][:, None] - weight[None]
    own = F.one_hot(y, len(weight)).bool()
    lead = (logits.gather(1, y[:, None]) - logits).masked_fill(own, torch.inf)
    worst = (lead - eps * differences.abs().sum(2)).gather(1, rivals(lead, differences))
    return (worst > 0).all(1).float().mean().item()


@wrong("exact_accuracy", "only the nearest rival in the Euclidean distance is asked", "measured in another norm")
def nearest_in_the_euclidean_norm(weight, bias, x, y, eps):
    return _asked(weight, bias, x, y, eps, lambda lead, d: (lead / d.norm(dim=2)).argmin(1, keepdim=True))


@wrong("exact_accuracy", "three classes with the next logits are asked", "the few classes with the next logits")
def three_next_logits(weight, bias, x, y, eps):
    return _asked(weight, bias, x, y, eps, lambda lead, d: lead.topk(min(3, len(weight) - 1), largest=False).indices)


@wrong("exact_accuracy", "classes that are anybody's label are left out", "the label of any image")
def labels_of_others_are_left_out(weight, bias, x, y, eps):
    logits = x @ weight.T + bias
    stays = torch.ones(len(x), dtype=torch.bool)
    for j in range(len(weight)):
        if j not in y:
            stays &= logits.gather(1, y[:, None])[:, 0] - logits[:, j] > eps * (weight[y] - weight[j]).abs().sum(1)
    return stays.float().mean()


@wrong("robust_loss", "the root of 0 has no gradient, and training begins there", "as it is: the root of a square")
def root_of_squares(w, b, x, y, eps):
    return F.softplus(-(y * (x @ w + b) - eps * w.pow(2).sqrt().sum())).mean()


@wrong("robust_loss", "a number under the root changes the sum", "a number added under the root")
def smooth_absolute_value(w, b, x, y, eps):
    return F.softplus(-(y * (x @ w + b) - eps * (w * w + 1e-8).sqrt().sum())).mean()


@wrong("robust_loss", "the graph is cut, and a new leaf takes its place", "Neither w nor b takes part")
def a_new_leaf(w, b, x, y, eps):
    return torch.tensor(F.softplus(-(y * (x @ w + b) - eps * w.abs().sum())).mean().item(), requires_grad=True)


@wrong("to_uint8", "one is added before rounding", "do not add 1 or a half")
def half_and_rounded(x):
    return (x * 255 + 0.5).round().byte()


@wrong("to_uint8", "a gamma curve", "without a root or a power")
def gamma(x):
    return (x.sqrt() * 255).round().byte()
