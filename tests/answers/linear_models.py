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
