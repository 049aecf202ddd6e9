"""What a gradient-based attack reads from a model: the logits, the adversarial loss and its gradient.

Cross-entropy is log(1 + exp(m)) of the log-odds m = log Σ_{k≠y} exp z_k − z_y against the true class, so both increase
together. In floating point they differ: for a confident model 1 − p_y rounds to 0, and with it a part of the gradient
or all of it. The attacks therefore maximise m, which never saturates.
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.validation import Model, check_images, check_loss, checked_labels, is_finite
from ..models.inference import checked_logits, frozen_eval
from .threat_model import broadcast_like


def input_gradient(model: Model, x: Tensor, y: Tensor, *, loss: str = "ce") -> Tensor:
    """Return ∇ₓ of the loss of each image, (N, ...): of its own loss, not of a batch mean.

    "ce" is the cross-entropy, computed from the log-odds so that a confident model does not round it to zero.

    Args:
        model, x, y, loss: see `course_utils.attacks`; x may have any range.

    Raises:
        ValueError, TypeError, RuntimeError: as all attacks.

    >>> input_gradient(torch.nn.Linear(2, 2), torch.rand(3, 2), torch.tensor([0, 1, 0])).shape
    torch.Size([3, 2])
    """
    check_images(x, None)
    y = checked_labels(y, x)
    check_loss(loss)
    if x.numel() == 0:
        return x.detach().clone()
    with frozen_eval(model), torch.enable_grad():
        value, _, gradient = loss_and_input_grad(model, x, y, loss)
    if loss == "ce":  # d log(1 + exp m)/dm = sigmoid(m)
        gradient = gradient * broadcast_like(value.sigmoid().to(gradient), gradient)
    return gradient


def loss_and_input_grad(
    model: Model, x: Tensor, y: Tensor, loss: str, *, need_gradient: bool = True, target: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the adversarial loss (N,), the logits (N, K) and the gradient of the loss, like x."""
    x = (x.clone() if x.is_inference() else x).detach().requires_grad_(True)  # a model may use gradients of its own
    logits = checked_logits(model, x, y)
    value = adversarial_loss(logits, y, loss, target)
    if not value.isfinite().all():
        bad = int((~value.isfinite()).nonzero()[0])
        raise ValueError(f"the loss of image {bad} is {value[bad].item()}: the model's logits must be finite.")
    if not need_gradient:
        return value.detach(), logits.detach(), None
    if not value.requires_grad:
        raise ValueError("the model's logits do not depend on x by differentiable steps (.detach(), NumPy, argmax?).")
    (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if gradient is None:
        raise ValueError("the model's logits do not depend on x: there is no gradient to follow.")
    if not is_finite(gradient):
        bad = int((~gradient.isfinite().flatten(1).all(1)).nonzero()[0])
        raise ValueError(f"the gradient of image {bad} is not finite: a sign of it would silently mean 'no attack'.")
    return value.detach(), logits.detach(), gradient


def adversarial_loss(logits: Tensor, y: Tensor, loss: str, target: Tensor | None = None) -> Tensor:
    """Return what an untargeted attack maximises, (N,): the log-odds against y for "ce", the margin, or "dlr".

    With a target the other class is the target; "dlr", the difference of logits ratio, divides the margin by a
    difference of two logits of the same image, so that it does not depend on their scale.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    index = y.unsqueeze(1)
    if target is not None:
        other = logits.gather(1, target.unsqueeze(1)).squeeze(1)
    else:
        others = logits.scatter(1, index, -math.inf)
        other = others.logsumexp(1) if loss == "ce" else others.amax(1)
    margin = other - logits.gather(1, index).squeeze(1)
    return margin / _spread(logits, targeted=target is not None) if loss == "dlr" else margin


def _spread(logits: Tensor, *, targeted: bool) -> Tensor:
    """Return what the DLR loss divides by, (N,): z₁ − z₃ of the sorted logits, targeted z₁ − (z₃ + z₄)/2."""
    wanted = 4 if targeted else 3
    if logits.shape[1] < wanted:
        raise ValueError(f'loss="dlr" needs {wanted} classes or more, the model has {logits.shape[1]}: use "margin".')
    largest = logits.topk(wanted, dim=1).values
    return (largest[:, 0] - largest[:, 2:].mean(1)).clamp_min(torch.finfo(logits.dtype).tiny)


def as_loss(value: Tensor, loss: str) -> Tensor:
    """Return the loss that an `adversarial_loss` stands for, in a new tensor: log(1 + exp(m)) of the log-odds m."""
    return F.softplus(value) if loss == "ce" else value.clone()


def warn_if_masked(outputs: Tensor, gradient: Tensor, *, stacklevel: int = 3) -> None:
    """Warn of outputs that look like probabilities, and of gradients that are exactly zero."""
    total = outputs.sum(1)
    if outputs.min() >= 0 and outputs.max() <= 1 and torch.allclose(total, torch.ones_like(total), atol=1e-3):
        warnings.warn(
            "the model's outputs look like probabilities, not logits: where softmax saturates its gradient is zero "
            "and the attack looks weaker than it is. Attack the model without its last softmax.",
            stacklevel=stacklevel,
        )
    share = gradient.flatten(1).abs().amax(1).eq(0).float().mean().item()
    if share > 0:
        warnings.warn(
            f"{100 * share:.0f} % of the gradients are exactly zero: those images cannot be attacked by following "
            "them. The model hides its gradient (saturation, rounding, a dead layer); it need not be robust.",
            stacklevel=stacklevel,
        )
