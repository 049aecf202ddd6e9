"""Answers to the exercises of chapter 07, by readers who had not seen the checks."""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F

from answers import right, wrong
from answers.adversarial_training import evaluating, fgsm, gradient
from course_utils import attacks, models

# ---------------------------------------------------------------- fgsm_rs_step


def project(adv, x, eps):
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)


def uniform(x, eps):
    return (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)


@right("fgsm_rs_step")
def stretch_shift_step(model, x, y, eps, step_size):
    start = (x + (2 * torch.rand_like(x) - 1) * eps).clamp(0, 1).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(start), y), start)
    adv = start.detach() + step_size * slope.sign()
    return (x + (adv - x).clamp(-eps, eps)).clamp(0, 1)


@right("fgsm_rs_step")
def between_two_borders(model, x, y, eps, step_size):
    low, high = x - eps, x + eps
    start = torch.lerp(low, high, torch.rand(x.shape, dtype=x.dtype, device=x.device)).clamp(0, 1)
    adv = start + step_size * gradient(model, start, y).sign()
    return torch.max(torch.min(adv, high), low).clamp(0, 1)


@right("fgsm_rs_step")
def mirrored_draw_image_by_image(model, x, y, eps, step_size):
    out = torch.empty_like(x)
    for i in range(len(x)):
        image = x[i : i + 1].detach()
        start = (image + (eps - 2 * eps * torch.rand_like(image))).clamp(0, 1).requires_grad_()
        F.cross_entropy(model(start), y[i : i + 1]).backward(inputs=[start])
        delta = start.detach() + step_size * start.grad.sign() - image
        out[i] = (image + delta.clamp(min=-eps, max=eps)).clamp(min=0, max=1)[0]
    return out


@right("fgsm_rs_step")
def in_place_on_a_copy_and_numpy(model, x, y, eps, step_size):
    start = torch.rand_like(x).sub_(0.5).mul_(2 * eps).add_(x).clamp_(0, 1)
    slope = np.sign(gradient(model, start, y).cpu().numpy())
    a = x.detach().cpu().numpy()
    adv = np.clip(start.detach().cpu().numpy() + step_size * slope, np.maximum(a - eps, 0), np.minimum(a + eps, 1))
    return torch.from_numpy(adv).to(x)


def from_start(model, x, y, eps, step_size, start):
    return project(start + step_size * gradient(model, start, y).sign(), x, eps)


@wrong(
    "fgsm_rs_step",
    "the random point is not clipped to [0, 1] before the step",
    "You clip to [0, 1] only at the end, and the",
)
def start_outside_the_box(model, x, y, eps, step_size):
    return from_start(model, x, y, eps, step_size, x + eps * (2 * torch.rand_like(x) - 1))


@wrong("fgsm_rs_step", "the random point lies above x only: 0 to eps", "Your start is one-sided. torch.rand draws")
def not_centred(model, x, y, eps, step_size):
    return from_start(model, x, y, eps, step_size, (x + eps * torch.rand_like(x)).clamp(0, 1))


@wrong("fgsm_rs_step", "all images of the batch get the same random change", "All images get the same noise. Draw one")
def one_draw_for_the_batch(model, x, y, eps, step_size):
    return from_start(model, x, y, eps, step_size, (x + eps * (2 * torch.rand_like(x[:1]) - 1)).clamp(0, 1))


@wrong(
    "fgsm_rs_step", "the gradient is taken at x, not at the random point", "You take the gradient at x. Take it at the"
)
def gradient_at_x(model, x, y, eps, step_size):
    return project(uniform(x, eps) + step_size * gradient(model, x, y).sign(), x, eps)


@wrong(
    "fgsm_rs_step", "the step is added to x, not to the random point", "There is no random start: the step begins at"
)
def step_from_x(model, x, y, eps, step_size):
    return project(x + step_size * gradient(model, uniform(x, eps), y).sign(), x, eps)


@wrong("fgsm_rs_step", "the ball is put around the random point", "Put the image back into the ball around x")
def ball_around_the_start(model, x, y, eps, step_size):
    start = uniform(x, eps)
    return project(start + step_size * gradient(model, start, y).sign(), start, eps)


@wrong(
    "fgsm_rs_step",
    "the point is uniform in the part of the ball inside the box, not clipped to it",
    "Draw from the whole ball, then clip: a pixel",
)
def uniform_inside_the_box(model, x, y, eps, step_size):
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    return from_start(model, x, y, eps, step_size, low + (high - low) * torch.rand_like(x))


@wrong(
    "fgsm_rs_step",
    "the random numbers are seeded inside, so every call has the same start",
    "Do not seed in your function: torch.rand",
)
def seeds_itself(model, x, y, eps, step_size):
    torch.manual_seed(0)
    return from_start(model, x, y, eps, step_size, uniform(x, eps))


@wrong("fgsm_rs_step", "the random point is normal, cut at eps, not uniform", "The start is not uniform in the ball")
def normal_start(model, x, y, eps, step_size):
    return from_start(model, x, y, eps, step_size, (x + (eps * torch.randn_like(x)).clamp(-eps, eps)).clamp(0, 1))


@wrong(
    "fgsm_rs_step", "numpy draws, so torch.manual_seed does not repeat it", "Draw with torch.rand or torch.rand_like"
)
def drawn_by_numpy(model, x, y, eps, step_size):
    noise = torch.from_numpy(np.random.uniform(-eps, eps, tuple(x.shape))).to(x)  # noqa: NPY002
    return from_start(model, x, y, eps, step_size, (x + noise).clamp(0, 1))


# ---------------------------------------------------------------- branch_step


@right("branch_step")
def two_blocks(model, x, y, eps, branch):
    with branch(model, "main"):
        clean = F.cross_entropy(model(x), y)
    with branch(model, "auxiliary"):
        loss = F.cross_entropy(model(attacks.fgsm(model, x, y, eps)), y)
    return (clean + loss) / 2


@right("branch_step")
def three_blocks_attack_by_hand(model, x, y, eps, branch):
    with branch(model, "auxiliary"), evaluating(model):
        adv = fgsm(model, x, y, eps)
    losses = []
    for name, images in {"main": x, "auxiliary": adv}.items():
        with branch(model, name):
            losses.append(-model(images).log_softmax(1)[torch.arange(len(y)), y].mean())
    return torch.stack(losses).mean()


@right("branch_step")
def auxiliary_first_on_an_exit_stack(model, x, y, eps, branch):
    with contextlib.ExitStack() as stack:
        stack.enter_context(branch(model, "auxiliary"))
        total = 0.5 * F.cross_entropy(model(attacks.fgsm(model, x, y, eps)), y)
    with contextlib.ExitStack() as stack:
        stack.enter_context(branch(model, "main"))
        total = total + 0.5 * F.cross_entropy(model(x), y)
    return total


@right("branch_step")
def a_function_for_each_branch(model, x, y, eps, branch):
    def logits(name, images):
        with branch(model, name):
            return model(images)

    points = x.detach().clone().requires_grad_()
    with evaluating(model):
        F.cross_entropy(logits("auxiliary", points), y, reduction="sum").backward(inputs=[points])
    adv = points.detach().add_(points.grad.sign_(), alpha=eps).clamp_(0, 1)
    return sum(F.nll_loss(F.log_softmax(logits(n, z), 1), y) for n, z in (("main", x), ("auxiliary", adv))) / 2


@wrong("branch_step", "the images are made through the main branch", "You make the adversarial images through the")
def made_through_main(model, x, y, eps, branch):
    with branch(model, "main"):
        adv = attacks.fgsm(model, x, y, eps)
        clean = F.cross_entropy(model(x), y)
    with branch(model, "auxiliary"):
        return (clean + F.cross_entropy(model(adv), y)) / 2


@wrong(
    "branch_step",
    "the clean images go through the auxiliary branch as well",
    "Both losses go through the auxiliary branch.",
)
def all_through_auxiliary(model, x, y, eps, branch):
    with branch(model, "auxiliary"):
        adv = attacks.fgsm(model, x, y, eps)
        return (F.cross_entropy(model(x), y) + F.cross_entropy(model(adv), y)) / 2


@wrong("branch_step", "the two branches are exchanged", "The branches are swapped. Clean images go")
def branches_exchanged(model, x, y, eps, branch):
    with branch(model, "auxiliary"):
        clean = F.cross_entropy(model(x), y)
    with branch(model, "main"):
        return (clean + F.cross_entropy(model(attacks.fgsm(model, x, y, eps)), y)) / 2


@wrong(
    "branch_step",
    "the attack is made in training mode and moves the running statistics",
    "The attack looks at the network in evaluation",
)
def attack_moves_statistics(model, x, y, eps, branch):
    with branch(model, "main"):
        clean = F.cross_entropy(model(x), y)
    with branch(model, "auxiliary"):
        return (clean + F.cross_entropy(model(fgsm(model, x, y, eps)), y)) / 2


@wrong("branch_step", "it returns the sum of the two losses", "That is the sum of the two losses. Return the")
def sum_of_two(model, x, y, eps, branch):
    return 2 * two_blocks(model, x, y, eps, branch)


@wrong(
    "branch_step", "branch is called without with, which switches nothing", "Everything goes through one branch. Clean"
)
def called_without_with(model, x, y, eps, branch):
    branch(model, "main")
    clean = F.cross_entropy(model(x), y)
    branch(model, "auxiliary")
    adv = attacks.fgsm(model, x, y, eps)
    return (clean + F.cross_entropy(model(adv), y)) / 2


@wrong(
    "branch_step",
    "it switches with the notebook's models.branch, not with the function passed in",
    "Choose the branch with the last argument, and",
)
def switch_of_the_notebook(model, x, y, eps, branch):
    return two_blocks(model, x, y, eps, models.branch)


@wrong(
    "branch_step",
    "the losses are computed in evaluation mode, so the running statistics learn nothing",
    "The model was still in evaluation mode, from",
)
def statistics_stand_still(model, x, y, eps, branch):
    mode = model.training
    model.eval()
    loss = two_blocks(model, x, y, eps, branch)
    model.train(mode)
    return loss


@wrong(
    "branch_step",
    "the loss of the adversarial images is computed after the block, in the layers' own branch",
    "You make the images through the auxiliary",
)
def loss_after_the_block(model, x, y, eps, branch):
    with branch(model, "main"):
        clean = F.cross_entropy(model(x), y)
    with branch(model, "auxiliary"):
        adv = attacks.fgsm(model, x, y, eps)
    return (clean + F.cross_entropy(model(adv), y)) / 2


@wrong(
    "branch_step",
    "a second look at the adversarial images moves the running statistics once more",
    "In training mode every pass moves batch",
)
def looks_twice(model, x, y, eps, branch):
    with branch(model, "main"):
        clean = F.cross_entropy(model(x), y)
    with branch(model, "auxiliary"):
        adv = attacks.fgsm(model, x, y, eps)
        with torch.no_grad():
            looks_twice.fooled = int((model(adv).argmax(1) != y).sum())
        return (clean + F.cross_entropy(model(adv), y)) / 2
