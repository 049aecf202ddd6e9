"""Attacks inside a ball: the largest loss within eps of x. See the package's docstring for the shared arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..core.validation import (
    Box,
    Model,
    check_count,
    check_loss,
    checked_labels,
    checked_number,
    checked_radius,
    rounded_down,
)
from ..models.inference import frozen_eval, is_fooled
from .best_so_far import BestSoFar
from .gradients import as_loss, loss_and_input_grad, warn_if_masked
from .threat_model import (
    Neighbourhood,
    broadcast_like,
    draw_in_ball,
    project,
    projected,
    steepest_direction,
    uniform_noise,
)

Callback = Callable[[int, int, Tensor, Tensor], None]


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    targeted: bool = False,
    loss: str = "ce",
    clip: Box = (0.0, 1.0),
) -> Tensor:
    """Take one step of length eps along the gradient: x + eps·sign(∇ₓ loss), then clip to the box.

    Args:
        model, x, y, eps, targeted, loss, clip: see `course_utils.attacks`.
        norm: "linf" steps along the sign, "l2" along the gradient divided by its length.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks.

    >>> fgsm(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.1).shape
    torch.Size([1, 2])

    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", 2015.
    """
    eps = checked_radius(x, eps, norm, clip)
    y = checked_labels(y, x)
    check_loss(loss)
    if eps == 0 or x.numel() == 0:
        return x.detach().clone()
    with frozen_eval(model), torch.enable_grad():
        _, logits, gradient = loss_and_input_grad(model, x, y, loss)
    warn_if_masked(logits, gradient)
    sign = -1 if targeted else 1
    return projected(x.detach() + sign * eps * steepest_direction(gradient, norm), x.detach(), eps, norm, clip)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    steps: int = 40,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    targeted: bool = False,
    loss: str = "ce",
    clip: Box = (0.0, 1.0),
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Repeat gradient steps, each projected back into ball and box; keep the best iterate of every image.

    "Best" is: fooled before not fooled, then the higher loss; over all steps and all restarts.

    Args:
        model, x, y, eps, restarts, targeted, loss, clip, generator: see `course_utils.attacks`.
        norm: of the ball and of the step, as in `fgsm`.
        steps: of each restart. step_size: default 2.5·eps/steps.
        random_start: start from a uniform point of the ball instead of from x.
        callback: called as callback(restart, step, adv, loss) at the start point (step 0) and after each
            step, with copies: adv like x; the loss of each image (N,), cross-entropy or margin.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks; several restarts without a random start.

    >>> pgd(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.1, steps=3).shape
    torch.Size([1, 2])

    Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial attacks", 2018.
    """
    eps = checked_radius(x, eps, norm, clip)
    y = checked_labels(y, x)
    check_loss(loss)
    check_count("steps", steps)
    check_count("restarts", restarts)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} without random_start repeats one path: use random_start=True.")
    step_size = 2.5 * eps / steps if step_size is None else checked_number("step_size", step_size)
    step_size = rounded_down(step_size, x.dtype)  # as eps is, so that one step of eps is FGSM
    if eps == 0 or x.numel() == 0:
        return x.detach().clone()
    x = x.detach()
    centre = x.to(torch.promote_types(x.dtype, torch.float32))  # small steps would be lost in half precision
    sign = -1 if targeted else 1
    ball, found = Neighbourhood(centre, eps, norm, clip), BestSoFar(x)
    with frozen_eval(model), torch.enable_grad():
        for restart in range(restarts):
            point = ball.project(draw_in_ball(centre, eps, norm, generator) if random_start else centre)
            for step in range(steps + 1):
                adv = point if point.dtype == x.dtype else projected(point.to(x.dtype), x, eps, norm, clip)
                last = step == steps  # the last iterate is evaluated too, but needs no gradient
                value, logits, gradient = loss_and_input_grad(model, adv, y, loss, need_gradient=not last)
                if restart == step == 0:
                    warn_if_masked(logits, gradient)
                if step > 0 or random_start:  # x itself is no adversarial image
                    found.offer(adv, -sign * value, is_fooled(logits, y, targeted=targeted))
                if callback is not None:
                    callback(restart, step, adv.clone(), as_loss(value, loss))
                if not last:
                    move = steepest_direction(gradient.to(point), norm).mul_(sign * step_size)
                    point = ball.project(move.add_(point))
    return found.best


def bim(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    steps: int = 10,
    step_size: float | None = None,
    targeted: bool = False,
    loss: str = "ce",
    clip: Box = (0.0, 1.0),
    callback: Callback | None = None,
) -> Tensor:
    """Repeat FGSM in small steps from x itself: the basic iterative method, PGD without a random start.

    Args:
        model, x, y, eps, norm, steps, step_size, targeted, loss, clip, callback: as in `pgd`.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks.

    >>> bim(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.1, steps=3).shape
    torch.Size([1, 2])

    Kurakin, Goodfellow and Bengio, "Adversarial examples in the physical world", 2017.
    """
    options = {"norm": norm, "steps": steps, "step_size": step_size, "targeted": targeted, "loss": loss, "clip": clip}
    return pgd(model, x, y, eps, random_start=False, callback=callback, **options)


def mi_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int = 10,
    decay: float = 1.0,
    targeted: bool = False,
    loss: str = "ce",
    clip: Box = (0.0, 1.0),
) -> Tensor:
    """Take sign steps of length eps/steps along a momentum, and return the last point: an attack made to transfer.

    The momentum is decay times the last one, plus the gradient over the mean of its absolute values in each image.

    Args:
        model, x, y, eps, targeted, loss, clip: see `course_utils.attacks`; the ball is linf.
        steps: gradient steps. decay: of the momentum; with 0 each step follows its own gradient only.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks; a negative decay.

    >>> mi_fgsm(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.1, steps=3).shape
    torch.Size([1, 2])

    Dong et al., "Boosting adversarial attacks with momentum", 2018.
    """
    eps = checked_radius(x, eps, "linf", clip)
    y = checked_labels(y, x)
    check_loss(loss)
    check_count("steps", steps)
    decay = checked_number("decay", decay)
    if eps == 0 or x.numel() == 0:
        return x.detach().clone()
    centre = x.detach().to(torch.promote_types(x.dtype, torch.float32))  # small steps would be lost in half precision
    ball, point, momentum = Neighbourhood(centre, eps, "linf", clip), centre, torch.zeros_like(centre)
    step_size = -eps / steps if targeted else eps / steps
    with frozen_eval(model), torch.enable_grad():
        for step in range(steps):
            _, logits, gradient = loss_and_input_grad(model, point.to(x.dtype), y, loss)
            if step == 0:
                warn_if_masked(logits, gradient)
            size = gradient.to(point).abs().flatten(1).mean(1).clamp_min(torch.finfo(point.dtype).tiny)
            momentum = decay * momentum + gradient.to(point) / broadcast_like(size, point)
            point = ball.project(point + step_size * momentum.sign())
    return projected(point.to(x.dtype), x.detach(), eps, "linf", clip)


def fgsm_rs(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take one signed gradient step from a random point of the linf ball, and project it back.

    Args:
        model, x, y, eps, generator: see `course_utils.attacks`. step_size: default 1.25·eps.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks.

    >>> fgsm_rs(torch.nn.Linear(2, 2), torch.rand(3, 2), torch.tensor([0, 1, 0]), eps=0.1).shape
    torch.Size([3, 2])

    Wong, Rice and Kolter, "Fast is better than free: revisiting adversarial training", 2020.
    """
    step_size = 1.25 * eps if step_size is None else step_size
    start = uniform_noise(model, x, y, eps, generator=generator)
    return project(fgsm(model, start, y, step_size), x, eps)
