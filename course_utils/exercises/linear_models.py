"""Checks of chapter 01: the worst case of a linear model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from . import mistakes
from .engine import exercise, expect
from .properties import (
    Mistakes,
    as_number,
    as_share,
    as_tensor_like,
    call_with_copies,
    close,
    diagnose_mistake,
    expect_close,
    no_side_effects,
    shown,
    with_hint,
)


def _linear_problem(d: int, n: int, seed: int, strengths: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A linear model w, b and images x with labels y = ±1, some of them wrong; no margin lies on a border."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(d, generator=generator) + 0.4
    b = 0.5 - 0.5 * w.sum()
    x = torch.rand(4 * n, d, generator=generator)
    score = x @ w + b
    flipped = torch.rand(4 * n, generator=generator) < torch.where(score > 0, 0.25, 0.1)
    y = score.sign() * torch.where(flipped, -1.0, 1.0)
    borders = torch.tensor([0.0, *strengths]) * w.abs().sum()
    clear = ((score.abs()[:, None] - borders).abs() > 1e-3).all(1)
    return w, b, x[clear][:n], y[clear][:n]


def _worst_mistakes(w: Tensor, eps: float) -> Mistakes:
    sign, size = w.sign(), "Every entry must have the size eps: "
    return (
        (torch.zeros_like(w), "Nothing changes at all: each entry may move by eps, so move it."),
        (-eps * sign, "You go against the weights, so the output falls: leave out the minus."),
        (eps * w, "You multiply by w itself. Take its sign: how far a pixel may move does not depend on its weight."),
        (w, "That is w itself. Take its sign, and multiply by eps."),
        (sign, "You forgot to multiply by eps."),
        (eps * w / w.norm(), "That is the best change of the length ‖η‖₂ = eps. Here each entry alone has a limit: take the sign."),
        (w / w.norm(), "You divide by the length of w. Here each entry alone has a limit: take the sign, times eps."),
        (eps * w / w.abs().max(), "Only the largest weight gets the whole eps that way: take the sign, not w / w.abs().max()."),
        (eps * w / w.abs().sum(), "You share eps out among the entries. Each of them may have the whole eps: take the sign."),
        (w.clamp(-eps, eps), "You clip w to ±eps, which leaves small weights small: take the sign, times eps."),
        (eps * sign.abs(), "The change must follow the sign of each weight, also of the negative ones."),
        (torch.full_like(w, eps), "You push every entry up. Where a weight is negative, pushing down raises the output."),
        (eps * w.abs(), "Take w.sign(), not w.abs(): the direction matters, the size of the weight does not."),
        (eps * (w > 0), "You leave the negative weights alone: their entries help when they go down by eps."),
        (eps**2 * sign, size + "you multiply by eps twice."),
        (eps / 255 * sign, size + "it is in pixel units already, so do not divide by 255."),
        (eps * sign / len(w), size + "do not divide by the number of entries."),
        (eps * sign / len(w) ** 0.5, size + "do not divide by √n, that belongs to the Euclidean length."),
        *with_hint("That number is the gain w·η. Return the change η itself, one entry for each weight.", eps * w.abs().sum(), (eps * sign) @ w),
        (w + eps * sign, "That is w after the change. Return the change η alone: eps times a sign."),
    )  # fmt: skip


@exercise("worst_perturbation", takes="(w, eps)")
def _worst_perturbation(answer: Callable) -> Iterator[str]:
    def why() -> str:
        hint = "w·η is largest when every η_i has the sign of w_i and the full size eps: eps times a sign."
        same = close(eta, call_with_copies(answer, w, eps / 2))
        return diagnose_mistake(eta, _worst_mistakes(w, eps), mistakes.USE_EPS if same else hint)

    yield "returns one change for each weight"
    w, eps = _linear_problem(50, 1, 0, ())[0], 0.1
    eta = as_tensor_like(call_with_copies(answer, w, eps), w, "w", _worst_mistakes(w, eps))

    yield "no entry is changed by more than eps"
    largest = eta.abs().max().item()
    expect(largest <= eps + 1e-6, f"with eps = {eps} the largest change is {largest:.3g}.", why)

    yield "w·η is as large as it can be: eps·‖w‖₁"
    for d, eps in ((50, 0.1), (1, 0.5), (784, 0.007)):
        w = _linear_problem(d, 1, d, ())[0]
        eta = as_tensor_like(call_with_copies(answer, w, eps), w, "w")
        best, got = (eps * w.abs().sum()).item(), (w @ eta).item()
        what = f"with {d} weights and eps = {eps} it gives w·η = {got:.4g}, {best:.4g} is possible; the largest change is {eta.abs().max():.3g}."
        expect(abs(got - best) <= 1e-4 * best and eta.abs().max() <= eps + 1e-6, what, why)

    yield "eps = 0 changes nothing"
    eta = as_tensor_like(call_with_copies(answer, w, 0.0), w, "w")
    expect(not eta.any(), "with eps = 0 something changes.", "Every entry is at most eps in size, so eps = 0 leaves 0.")

    yield "copes with weights of zero and near zero"
    w = torch.tensor([1.0, 0.0, -2.0, 0.0001])
    eta = as_tensor_like(call_with_copies(answer, w, 0.3), w, "w")
    what = f"for w = (1, 0, −2, 0.0001) and eps = 0.3 it gives ({shown(eta)})."
    hint = "Also the smallest weight has a sign, and gets the whole eps. Only for 0 itself any change will do."
    expect(eta.abs().max() <= 0.3 + 1e-6 and close(eta[w != 0], torch.tensor([0.3, -0.3, 0.3]), 1e-3), what, hint)

    yield "leaves w as it was"
    no_side_effects(answer, "w eps", w, 0.3)


def _accuracy_mistakes(w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> Mistakes:
    score = x @ w + b
    margin, fall = y * score, eps * w.abs().sum()

    def share(condition: Tensor) -> float:
        return condition.float().mean().item()

    clipped = (x - eps * y[:, None] * w.sign()).clamp(0, 1)
    fewer = "The worst fall of the margin is eps·‖w‖₁, eps times the sum of the absolute weights. "
    rule = "Image i is right when y_i·(w·x_i + b) is positive."
    if eps == 0:
        return (
            (share(y * (x @ w) > 0), "Did you forget b? " + rule),
            (share(score > 0), "Did you forget y? The labels are −1 and +1. " + rule),
            (share(margin < 0), "You count the wrong ones. " + rule),
            (share((score > 0) == y), "The labels y are −1 and +1, not 0 and 1. " + rule),
            (margin.mean().item(), "That is the mean of the margins. Count how many of them are positive. " + rule),
            (1.0, "An image that is wrong without any attack counts as wrong: compare with y. " + rule),
        )
    return (
        (share(margin > 0), "That is the accuracy without an attack: eps takes no part in it, or one too small to matter. " + fewer),
        (share(y * (score - fall) > 0), "You lower the output w·x + b for both classes. An attack on an image with y = −1 raises it: lower y·(w·x + b)."),
        (share(y * (score + fall) > 0), "You raise the output w·x + b for both classes. An attack on an image with y = +1 lowers it: lower y·(w·x + b)."),
        (share(margin > -fall), "You raise the margin: the attack helps the model. Subtract eps·‖w‖₁ from y·(w·x + b)."),
        (share(margin > eps * w.norm()), "That is the length ‖w‖₂. For a limit on every single pixel the sum of absolute values counts. " + fewer),
        (share(margin > eps * w.square().sum()), "You sum the squares of the weights, or step along w itself instead of its sign. " + fewer),
        (share(margin > eps * w.abs().max()), "That is the largest weight alone, but all pixels change at once. " + fewer),
        *with_hint("Weights of different sign cancel in w.sum(). " + fewer, share(margin > eps * w.sum()), share(margin > -eps * w.sum())),
        (share(y * ((x - eps) @ w + b) > 0), "You lower every pixel. The worst change goes up or down with the sign of each weight. " + fewer),
        (share(y * ((x + eps) @ w + b) > 0), "You raise every pixel. The worst change goes up or down with the sign of each weight. " + fewer),
        (share(margin > eps * w.abs().mean()), "You take the mean of the absolute weights. All pixels change at once, so take the sum. " + fewer),
        (share(margin > eps * fall), "You multiply by eps twice. " + fewer),
        (share(margin > 2 * fall), "You subtract eps·‖w‖₁ twice. " + fewer),
        (share(margin > eps), "You subtract eps itself from the margin. " + fewer),
        (share(score.abs() > fall), "An image that is wrong without an attack counts as wrong: use y·(w·x + b), not its absolute value."),
        (share(score > fall), "Did you forget y? The labels are −1 and +1, and the margin is y·(w·x + b)."),
        (share((score - fall > 0) == y), "The labels y are −1 and +1, not 0 and 1. " + rule),
        (share(margin < fall), "That is the share that the attack can break. Count the images that survive."),
        (share(margin > fall) / max(share(margin > 0), 1e-9), "You divide by the images that are right without an attack. An accuracy is a share of all images."),
        (share(y * (clipped @ w + b) > 0), "You clip the images. Here the change has no limit but eps, and then the margin falls by exactly eps·‖w‖₁."),
        (share(y * (x @ w) > fall), "Did you forget b? " + rule),
    )  # fmt: skip


@exercise("robust_accuracy", takes="(w, b, x, y, eps)")
def _robust_accuracy(answer: Callable) -> Iterator[str]:
    strengths = (0.01, 0.03, 0.06)
    w, b, x, y = problem = _linear_problem(20, 800, 0, strengths)

    def why() -> str:
        hint = "An image survives when its margin y·(w·x + b) is larger than the worst fall of it, eps·‖w‖₁."
        wrongs = _accuracy_mistakes(*problem, eps) if n > 1 else ()
        if close(share, as_number(call_with_copies(answer, *problem, eps / 4)), 0):
            return diagnose_mistake(share, wrongs[:1], mistakes.USE_EPS)
        return diagnose_mistake(share, wrongs, hint)

    yield "returns one share between 0 and 1"
    as_share(call_with_copies(answer, *problem, 0.0), len(x))

    yield "is the ordinary accuracy for eps = 0"
    share = as_share(call_with_copies(answer, *problem, 0.0), len(x))
    plain = (y * (x @ w + b) > 0).float().mean().item()
    hint = "The labels y are −1 and +1: image i is right when y_i·(w·x_i + b) is positive."
    what = f"it gives {share:.4f}; {plain:.4f} of these images are classified correctly."
    expect_close(share, plain, what, hint, _accuracy_mistakes(*problem, 0.0), 1e-6)

    yield "is the exact accuracy under the worst change of size eps"
    for d, n, eps in ((20, 800, 0.03), (20, 800, 0.06), (20, 800, 0.01), (7, 90, 0.03), (7, 1, 0.01)):
        w, b, x, y = problem = _linear_problem(d, n, 20 - d, strengths)
        share = as_share(call_with_copies(answer, *problem, eps), n)
        exact = (y * (x @ w + b) > eps * w.abs().sum()).float().mean().item()
        what = f"for {n} images of {d} pixels and eps = {eps} it gives {share:.4f}; {exact:.4f} is exact."
        expect(abs(share - exact) < 1e-6, what, why)

    yield "leaves its arguments as they were"
    no_side_effects(answer, "w b x y eps", *problem, 0.01)


def _rounding_mistakes(x: Tensor) -> Mistakes:
    return (
        ((255 * x).long(), "Converting to uint8 cuts off the fraction: 254.75 becomes 254. Round first: (255 * x).round()."),
        ((255 * x).ceil().long(), "You round up, so 3.2 becomes 4. Take the nearest level: (255 * x).round()."),
        (255 * x.round().long(), "You round x itself, which leaves black and white only. Multiply by 255 first."),
        (255 * x.long(), "You convert to whole numbers before you multiply, which leaves black and white only."),
        ((256 * x).long(), "256·x cut off gives 256 bins of equal width, not the nearest of the levels k/255: (255 * x).round()."),
        ((256 * x).round().long(), "Multiply by 255, not by 256: white is the level 255, and grey is 255·x."),
        ((255.999 * x).long(), "255.999·x cut off gives bins of equal width, not the nearest of the levels k/255: (255 * x).round()."),
    )  # fmt: skip


@exercise("to_uint8", takes="(x)")
def _to_uint8(answer: Callable) -> Iterator[str]:
    def level(value: float) -> int:
        return int(call_with_copies(answer, torch.tensor([[[0.0, value, 1.0]]])).flatten()[1])

    yield "returns whole numbers of the type torch.uint8, in the shape of x"
    for shape in ((2, 1, 4, 4), (7, 11)):
        levels = call_with_copies(answer, torch.rand(shape))
        kind = type(levels).__name__
        expect(isinstance(levels, Tensor), f"it returned a {kind}.", "Return a torch tensor: x itself is one.")
        hint = "End with .to(torch.uint8): an 8-bit image holds whole numbers from 0 to 255."
        expect(levels.dtype == torch.uint8, f"it returned {levels.dtype}.", hint)
        what = f"x has the shape {shape}, your result {tuple(levels.shape)}."
        expect(levels.shape == shape, what, "Keep the shape of x: no flatten, no index, no mean.")

    yield "black is 0 and white is 255"
    black, grey, white = call_with_copies(answer, torch.tensor([[0.0, 0.5, 1.0]])).flatten().tolist()
    hint = "Multiply by 255: the levels go from 0 to 255."
    if (black, white) == (255, 0):
        hint = "Black is 0 and white is 255: you turned the image into its negative."
    elif (black, grey, white) == (0, 128, 0):
        hint = "Multiply by 255: with 256, white becomes 256, which has no room in 8 bits and starts again at 0."
    elif white == 1:
        hint = "Multiply by 255 before you convert: 1.0 alone becomes the level 1."
    expect((black, white) == (0, 255), f"0.0 became {black} and 1.0 became {white}.", hint)

    yield "a pixel's level does not depend on the other pixels"
    dark = call_with_copies(answer, torch.tensor([[51.0, 102.0]]) / 255).flatten().tolist()
    first = [level(51 / 255), level(102 / 255)]
    what = f"in a dark image 0.2 and 0.4 became {dark[0]} and {dark[1]}; beside black and white they become {first[0]} and {first[1]}."
    hint = "x is in [0, 1] already. Do not divide by its maximum or subtract its minimum: a dark image must stay dark."
    expect(dark == first, what, hint)

    yield "all 256 levels k/255 survive the way there and back"
    generator = torch.Generator().manual_seed(0)
    grid = torch.randperm(256, generator=generator)
    between = 0.996 * torch.rand(254, generator=generator) - 0.498
    x = (torch.randperm(254, generator=generator) + 1 + between) / 255
    back = call_with_copies(answer, grid.view(1, 16, 16) / 255).long().flatten()
    levels = call_with_copies(answer, x.view(2, 127)).long().flatten()
    otherwise = "(255 * x).round().to(torch.uint8) takes the nearest of the levels."
    hint = diagnose_mistake(levels, _rounding_mistakes(x), otherwise)
    for i in (back != grid).nonzero()[:1, 0]:
        what = f"{(back != grid).sum()} of the 256 levels came back changed: {grid[i]}/255 became {back[i]}."
        expect(False, what, hint)

    yield "a step of 8/255 stays a step of 8 levels"
    start = torch.arange(8, 248).flip(0)
    for step in (8, -8):
        new = call_with_copies(answer, start / 255 + step / 255).long()
        off = new - start != step
        for i in off.nonzero()[:1, 0]:
            what = f"{off.sum()} of 240 levels did not move by {step} levels; for example {start[i]} went to {new[i]}."
            expect(False, what, hint)

    yield "values between two levels go to the nearest one"
    what = f"0.4999 is 127.47 levels and became {level(0.4999)}; 0.999 is 254.75 levels and became {level(0.999)}."
    expect(torch.equal(levels, (255 * x).round().long()), what, hint)

    yield "leaves x as it was"
    no_side_effects(answer, "x", x)


def _loss_mistakes(w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> Mistakes:
    score = x @ w + b
    margin, fall = y * score, eps * w.abs().sum()
    mean = F.softplus(-margin).mean()
    form = "Use F.softplus(−margin).mean() with the margin y·(w·x + b): softplus(z) is log(1 + exp(z))."
    inside = "The attack lowers every margin y·(w·x + b) by eps·‖w‖₁. "
    if eps == 0:
        return (
            (mean * len(x), "Take the mean over the images, not the sum."),
            (F.softplus(margin).mean(), "Check the sign: a large margin is good and must give a small loss, softplus of −margin."),
            (F.softplus(-y * (x @ w)).mean(), "Did you forget b? The margin is y·(w·x + b)."),
            (F.softplus(-score).mean(), "Did you forget y? The margin is y·(w·x + b)."),
            (-mean, "The sign is wrong: a loss is small when the model is right."),
            ((-margin).mean(), "That is the mean of −margin. " + form),
            (F.softplus(-margin.mean()), "Take the mean last: the mean of the losses is not the loss of the mean margin."),
            (F.relu(1 - margin).mean(), "That is the hinge loss. " + form),
            (F.relu(-margin).mean(), "relu cuts the loss off at 0. " + form),
            (torch.exp(-margin).mean(), "That is exp(−margin), without log(1 + …). " + form),
            (torch.sigmoid(-margin).mean(), "That is the mean probability of a mistake. " + form),
            (mean / torch.tensor(2.0).log(), "Use the natural logarithm, torch.log. " + form),
            (F.binary_cross_entropy_with_logits(score, y), "That function wants labels 0 and 1, and yours are −1 and +1. " + form),
            ((margin < 0).float().mean(), "That is the error rate, which has no gradient. " + form),
        )  # fmt: skip
    clipped = (x - eps * y[:, None] * w.sign()).clamp(0, 1)
    return (
        (mean, "eps takes no part in it. " + inside),
        (F.softplus(-y * (clipped @ w + b)).mean(), "You clip the images. Here the change has no limit but eps. " + inside),
        (F.softplus(eps * fall - margin).mean(), "You multiply by eps twice. " + inside),
        (F.softplus(2 * fall - margin).mean(), "You subtract eps·‖w‖₁ twice. " + inside),
        (F.softplus(y * (fall - score)).mean(), "That is the formula as printed in the paper, right for y = +1 only: eps·‖w‖₁ must not be multiplied by y."),
        (F.softplus(-y * (score + fall)).mean(), "You raise the output w·x + b for both labels, which helps the images with y = +1. Subtract eps·‖w‖₁ from y·(w·x + b)."),
        (F.softplus(-margin - fall).mean(), "You raise the margin: the attack helps the model. Subtract eps·‖w‖₁ from y·(w·x + b)."),
        (mean + fall, "You add eps·‖w‖₁ to the loss, which is an ordinary penalty. It belongs inside softplus: " + inside),
        (mean - fall, "You subtract eps·‖w‖₁ from the loss. It belongs inside softplus: " + inside),
        (F.softplus(eps * w.norm() - margin).mean(), "That is the length ‖w‖₂. For a limit on every single pixel w.abs().sum() counts. " + inside),
        (F.softplus(eps * w.square().sum() - margin).mean(), "You sum the squares of the weights, or step along w itself instead of its sign. " + inside),
        (F.softplus(eps * w.abs().max() - margin).mean(), "That is the largest weight alone, but all pixels change at once. " + inside),
        (F.softplus(eps * w.sum() - margin).mean(), "Weights of different sign cancel in w.sum(): take w.abs().sum(). " + inside),
        (F.softplus(eps * w.abs().mean() - margin).mean(), "You take the mean of the absolute weights. All pixels change at once, so take the sum. " + inside),
        (F.softplus(eps - margin).mean(), "You subtract eps itself from the margin. " + inside),
        (F.softplus(w.abs().sum() - margin).mean(), "You forgot eps. " + inside),
    )  # fmt: skip


@exercise("robust_loss", takes="(w, b, x, y, eps)")
def _robust_loss(answer: Callable) -> Iterator[str]:
    def truth(w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
        return F.softplus(eps * w.abs().sum() - y * (x @ w + b)).mean()

    def problem(d: int, n: int) -> tuple[Tensor, ...]:
        return _linear_problem(d, n, 20 - d, ())

    def why() -> str:
        hint = "The attack lowers every margin y·(w·x + b) by eps·‖w‖₁, so softplus of eps·‖w‖₁ − y·(w·x + b)."
        same = close(got, as_number(call_with_copies(answer, *problem(d, n), eps / 4)))
        return diagnose_mistake(got, _loss_mistakes(*problem(d, n), eps), mistakes.USE_EPS if same else hint, 1e-4)

    yield "returns one number"
    as_number(call_with_copies(answer, *problem(20, 300), 0.1))

    yield "is the mean logistic loss for eps = 0"
    got, plain = as_number(call_with_copies(answer, *problem(20, 300), 0.0)), truth(*problem(20, 300), 0.0).item()
    hint = "Use F.softplus(−y * (x @ w + b)).mean()."
    what = f"it gives {got:.4f}; the mean of log(1 + exp(−y·(w·x + b))) is {plain:.4f}."
    wrongs = _loss_mistakes(*problem(20, 300), 0.0)
    expect(abs(got - plain) < 1e-4, what, diagnose_mistake(got, wrongs, hint, 1e-4 * max(1, abs(got))))

    yield "is the loss under the worst change of size eps"
    for d, n, eps in ((20, 300, 0.1), (20, 300, 0.03), (7, 60, 0.2), (7, 1, 0.1)):
        got, exact = as_number(call_with_copies(answer, *problem(d, n), eps)), truth(*problem(d, n), eps).item()
        what = f"for {n} images of {d} pixels and eps = {eps} it gives {got:.4f}; {exact:.4f} is exact."
        expect(abs(got - exact) < 1e-4 * max(1, exact), what, why)

    yield "has a gradient with respect to w and b"

    def gradients(loss: Callable) -> tuple[Tensor | None, ...]:
        w, b, x, y = problem(20, 300)
        w, b = w.requires_grad_(), b.requires_grad_()
        with torch.enable_grad():
            value = loss(w, b, x, y, 0.1)
        hint = "Return the tensor itself, without .item(), float(), .detach() or torch.no_grad(): training needs its gradient."
        graph = isinstance(value, Tensor) and value.requires_grad
        expect(graph, "the result carries no gradient back to w.", hint)
        return torch.autograd.grad(value, (w, b), allow_unused=True)

    (got_w, got_b), (exact_w, exact_b) = gradients(answer), gradients(truth)
    frozen = gradients(lambda w, b, x, y, eps: F.softplus(eps * w.detach().abs().sum() - y * (x @ w + b)).mean())[0]
    hint = "Build the loss from the very w and b that are passed in, without .detach(), .data, .item() or torch.tensor(…)."  # fmt: skip
    if close(got_w, frozen, 1e-4):
        hint = "eps·‖w‖₁ takes no part in the gradient. Use w.abs().sum() of the w passed in, without .item() or .detach()."
    expect(close(got_w, exact_w, 1e-4), "its gradient for w is not that of the worst-case loss.", hint)
    expect(close(got_b, exact_b, 1e-4), "its gradient for b is not that of the worst-case loss.", hint)

    yield "leaves its arguments as they were"
    no_side_effects(answer, "w b x y eps", *problem(20, 300), 0.1)
