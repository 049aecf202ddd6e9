"""Attacks: everything that turns `(model, x, y)` into an adversarial `x`.

All of them keep the same promises. `x` holds images as floats inside `clip`, `(N, ...)`; `y` integer labels `(N,)`;
the model returns logits `(N, K)`. The answer is one new, detached tensor like `x`, inside the ball of radius `eps`
(pixel units, up to the rounding of x's own dtype) and inside the box. Neither the model (modes, `requires_grad`,
`.grad`, buffers) nor `x` keeps a trace, not even after an exception. Wrong input raises before anything is computed.

On the loss. Cross-entropy is log(1 + exp(m)) of the log-odds m = log Σ_{k≠y} exp z_k − z_y against the true class, so
both rise in the same direction. In floating point they part: for a confident model 1 − p_y rounds to 0 and takes
a part of the gradient, or all of it, along. The attacks therefore climb m, which never saturates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Model = Callable[[Tensor], Tensor]
Box = tuple[float, float] | None
Callback = Callable[[int, int, Tensor, Tensor], None]

NORMS = ("linf", "l2")


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
        model: maps images (N, ...) to logits (N, K).
        x: images in `clip`, (N, ...). y: labels (N,), or the labels to reach when `targeted`.
        eps: radius of the ball, pixel units.
        norm: "linf" steps along the sign, "l2" along the gradient divided by its length.
        targeted: step towards the labels `y` instead of away from them.
        loss: "ce" or "margin" (see `pgd`). clip: range of valid pixels, None for none.

    Raises:
        ValueError, TypeError: input of the wrong range, shape or type; a gradient that is not finite.
        RuntimeError: called under `torch.inference_mode()`.

    >>> line = nn.Linear(2, 2)
    >>> fgsm(line, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.1).shape
    torch.Size([1, 2])

    Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", 2015.
    """
    eps = _checked_radius(x, eps, norm, clip)
    y = _checked_labels(y, x)
    _check_loss(loss)
    if eps == 0 or x.numel() == 0:
        return x.detach().clone()
    with frozen(model), torch.enable_grad():
        _, logits, gradient = _climb(model, x, y, loss)
    _warn_if_masked(logits, gradient)
    sign = -1 if targeted else 1
    return _project(x.detach() + sign * eps * _direction(gradient, norm), x.detach(), eps, norm, clip)


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
        model, x, y, eps, targeted, clip: as in `fgsm`.
        norm: "linf" or "l2": the ball, and the step (sign, or gradient divided by its length).
        steps: gradient steps of each restart. step_size: pixel units, default 2.5·eps/steps.
        random_start: start from a uniform point of the ball instead of from x.
        restarts: independent starts.
        loss: "ce" (cross-entropy) or "margin" (largest other logit minus the true one).
        generator: source of the random starts; the global stream is then left alone.
        callback: called as callback(restart, step, adv, loss) at the start point (step 0) and after each
            step, with copies: adv like x; the loss of each image (N,), cross-entropy or margin.

    Raises:
        ValueError, TypeError, RuntimeError: as `fgsm`.

    >>> line = nn.Linear(2, 2)
    >>> pgd(line, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.1, steps=3).shape
    torch.Size([1, 2])

    Madry, Makelov, Schmidt, Tsipras and Vladu, "Towards deep learning models resistant to adversarial attacks", 2018.
    """
    eps = _checked_radius(x, eps, norm, clip)
    y = _checked_labels(y, x)
    _check_loss(loss)
    _check_count("steps", steps)
    _check_count("restarts", restarts)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} without random_start repeats one path: use random_start=True.")
    step_size = 2.5 * eps / steps if step_size is None else _checked_number("step_size", step_size)
    step_size = _rounded_down(step_size, x.dtype)  # as eps is, so that one step of eps is FGSM
    if eps == 0 or x.numel() == 0:
        return x.detach().clone()
    x = x.detach()
    centre = x.to(torch.promote_types(x.dtype, torch.float32))  # small steps would be lost in half precision
    sign = -1 if targeted else 1
    keeper = _BestPerImage(x)
    with frozen(model), torch.enable_grad():
        for restart in range(restarts):
            start = _random_in_ball(centre, eps, norm, generator) if random_start else centre
            point = _project(start, centre, eps, norm, clip)
            for step in range(steps + 1):
                adv = point if point.dtype == x.dtype else _project(point.to(x.dtype), x, eps, norm, clip)
                last = step == steps  # the last iterate is judged too, but needs no gradient
                value, logits, gradient = _climb(model, adv, y, loss, need_gradient=not last)
                if restart == step == 0:
                    _warn_if_masked(logits, gradient)
                if step > 0 or random_start:  # x itself is no adversarial image
                    keeper.offer(adv, logits.argmax(1).eq(y) == targeted, sign * value)
                if callback is not None:
                    callback(restart, step, adv.clone(), _as_loss(value, loss))
                if not last:
                    move = sign * step_size * _direction(gradient.to(point), norm)
                    point = _project(point + move, centre, eps, norm, clip)
    return keeper.best


def project(adv: Tensor, x: Tensor, eps: float, *, norm: str = "linf", clip: Box = (0.0, 1.0)) -> Tensor:
    """Return the points of the ball around x, and of the box, that stand for `adv`: first the ball, then the box.

    Rounding may leave `x + (adv - x)` outside the ball by one unit in the last place; such values move towards x.

    Args:
        adv: points to project, like x. x: centres in `clip`, (N, ...). eps: radius, pixel units.
        norm: "linf" or "l2". clip: range of valid pixels, None for none.

    Raises:
        ValueError, TypeError: `adv` not like x or not finite; x, eps, norm or clip refused as by `fgsm`.

    >>> project(torch.tensor([[0.9, 0.2]]), torch.tensor([[0.5, 0.5]]), 0.25)
    tensor([[0.7500, 0.2500]])
    """
    eps = _checked_radius(x, eps, norm, clip)
    if not isinstance(adv, Tensor) or adv.shape != x.shape or adv.dtype != x.dtype:
        got = f"{tuple(adv.shape)} {adv.dtype}" if isinstance(adv, Tensor) else type(adv).__name__
        raise ValueError(f"adv must be a tensor like x, {tuple(x.shape)} {x.dtype}; got {got}.")
    if not adv.isfinite().all():
        raise ValueError("adv contains NaN or infinite values, which no projection can repair.")
    if x.numel() == 0:
        return x.detach().clone()
    return _project(adv.detach(), x.detach(), eps, norm, clip)


def random_in_ball(x: Tensor, eps: float, *, norm: str = "linf", generator: torch.Generator | None = None) -> Tensor:
    """Return points drawn uniformly from the ball of radius eps around each image; not clipped to any box.

    In d dimensions almost all of an l2 ball lies near its surface: the mean distance from x is eps·d/(d+1).

    Args:
        x: centres, (N, ...). eps: radius, pixel units. norm: "linf" or "l2".
        generator: source of the draws; the global stream is then left alone.

    Raises:
        ValueError, TypeError: as `fgsm`.

    >>> noisy = random_in_ball(torch.zeros(3, 4), 0.1)
    >>> bool((noisy.abs() <= 0.1).all())
    True
    """
    eps = _checked_radius(x, eps, norm, None)
    if x.numel() == 0:
        return x.detach().clone()
    return _random_in_ball(x.detach(), eps, norm, generator)


def input_gradient(model: Model, x: Tensor, y: Tensor, *, loss: str = "ce") -> Tensor:
    """Return ∇ₓ of the loss of each image, (N, ...): of its own loss, not of a batch mean.

    "ce" is the cross-entropy, computed from the log-odds so that a confident model does not round it to zero.

    Args:
        model, x, y: as in `fgsm`; x may have any range. loss: "ce" or "margin".

    Raises:
        ValueError, TypeError, RuntimeError: as `fgsm`.

    >>> input_gradient(nn.Linear(2, 2), torch.rand(3, 2), torch.tensor([0, 1, 0])).shape
    torch.Size([3, 2])
    """
    _check_images(x, None)
    y = _checked_labels(y, x)
    _check_loss(loss)
    if x.numel() == 0:
        return x.detach().clone()
    with frozen(model), torch.enable_grad():
        value, _, gradient = _climb(model, x, y, loss)
    if loss == "ce":  # d log(1 + exp m)/dm = sigmoid(m)
        gradient = gradient * _per_image(value.sigmoid().to(gradient), gradient)
    return gradient


@contextmanager
def frozen(model: Model) -> Iterator[None]:
    """Put a model into eval mode with frozen parameters, and give every module and parameter its own flag back."""
    if not isinstance(model, nn.Module):
        yield
        return
    modes = {module: module.training for module in model.modules()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    try:
        for module in modes:
            module.training = False
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_(True)


class _BestPerImage:
    """The best iterate seen so far of every image, by (fooled, objective) in this order."""

    def __init__(self, x: Tensor):
        self.best = x.clone()
        self.fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.objective = torch.full((len(x),), -math.inf, device=x.device)

    def offer(self, adv: Tensor, fooled: Tensor, objective: Tensor) -> None:
        better = torch.where(fooled == self.fooled, objective > self.objective, fooled)
        self.best = torch.where(_per_image(better, adv), adv, self.best)
        self.fooled = self.fooled | fooled
        self.objective = torch.where(better, objective, self.objective)


def _climb(
    model: Model, x: Tensor, y: Tensor, loss: str, *, need_gradient: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the objective (N,), the logits (N, K) and the objective's gradient like x."""
    x = x.detach().clone().requires_grad_(True)  # always: a model may use gradients of its own
    logits = _logits(model, x, y)
    value = _objective(logits, y, loss)
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
    finite = gradient.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise ValueError(f"the gradient of image {bad} is not finite: a sign of it would silently mean 'no attack'.")
    return value.detach(), logits.detach(), gradient


def _logits(model: Model, x: Tensor, y: Tensor) -> Tensor:
    try:
        logits = model(x.clone())  # some models normalise their input in place
    except RuntimeError as error:
        error.add_note(f"x is {tuple(x.shape)}, {x.dtype} on {x.device}; {_describe_parameters(model)}.")
        raise
    if not isinstance(logits, Tensor):
        raise TypeError(f"the model must return one tensor of logits (N, K), got a {type(logits).__name__}.")
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ValueError(
            f"the model must return logits (N, K) with K >= 2 for {len(x)} images, got {tuple(logits.shape)}. "
            "A single logit z of a binary model becomes torch.stack([-z, z], dim=1)."
        )
    if not logits.is_floating_point():
        raise TypeError(f"the model must return floating-point logits, got {logits.dtype}.")
    if y.max() >= logits.shape[1]:
        raise ValueError(f"y holds label {int(y.max())}, but the model has {logits.shape[1]} outputs (0 the first).")
    return logits


def _objective(logits: Tensor, y: Tensor, loss: str) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    index = y.unsqueeze(1)
    others = logits.scatter(1, index, -math.inf)
    strongest = others.logsumexp(1) if loss == "ce" else others.amax(1)
    return strongest - logits.gather(1, index).squeeze(1)


def _as_loss(objective: Tensor, loss: str) -> Tensor:
    """Return what the objective stands for, in a new tensor: cross-entropy is log(1 + exp(m)) of the log-odds m."""
    return F.softplus(objective) if loss == "ce" else objective.clone()


def _direction(gradient: Tensor, norm: str) -> Tensor:
    """Return the steepest unit step of each image; zero where the gradient is."""
    if norm == "linf":
        return gradient.sign()
    tiny = torch.finfo(gradient.dtype).tiny
    # Divided by the largest entry first: squares of small gradients would round to zero.
    scaled = gradient / _per_image(gradient.abs().flatten(1).amax(1).clamp_min(tiny), gradient)
    return scaled / _per_image(scaled.flatten(1).norm(dim=1).clamp_min(tiny), gradient)


def _random_in_ball(x: Tensor, eps: float, norm: str, generator: torch.Generator | None) -> Tensor:
    device = x.device if generator is None else generator.device
    draw = {"device": device, "dtype": torch.promote_types(x.dtype, torch.float32), "generator": generator}
    if norm == "linf":
        noise = (2 * torch.rand(x.shape, **draw) - 1) * eps
    else:
        radius = eps * torch.rand(len(x), **draw) ** (1 / x[0].numel())
        direction = _direction(torch.randn(x.shape, **draw), "l2")
        noise = direction * _per_image(radius, x)
    return _project(x + noise.to(x), x, eps, norm, None)


def _project(adv: Tensor, x: Tensor, eps: float, norm: str, clip: Box) -> Tensor:
    return _project_linf(adv, x, eps, clip) if norm == "linf" else _project_l2(adv, x, eps, clip)


def _project_linf(adv: Tensor, x: Tensor, eps: float, clip: Box) -> Tensor:
    adv = _clamp(torch.minimum(torch.maximum(adv, x - eps), x + eps), clip)
    while (outside := (adv - x).abs() > eps).any():
        adv = torch.where(outside, torch.nextafter(adv, x), adv)
    return adv


def _project_l2(adv: Tensor, x: Tensor, eps: float, clip: Box) -> Tensor:
    direction, radius = _direction(adv - x, "l2"), eps
    beyond = _is_beyond(adv, x, eps)
    less = torch.finfo(x.dtype).eps  # a power of 1/2: doubled again and again it reaches 1, where adv is x
    while beyond.any():
        adv = torch.where(beyond, x + radius * direction, adv)
        beyond = _is_beyond(_clamp(adv, clip), x, eps)  # by rounding
        radius, less = eps * (1 - less), 2 * less
    return _clamp(adv, clip)


def _is_beyond(adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Return which images, (N, 1, ...), are farther than eps from x in l2."""
    distance = (adv - x).flatten(1)
    if 0 < eps < 1e-12:  # the squares of such numbers round to zero in float32
        distance, eps = distance / eps, 1.0
    return _per_image(distance.norm(dim=1) > eps, x)


def _clamp(adv: Tensor, clip: Box) -> Tensor:
    return adv if clip is None else adv.clamp(*clip)


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


def _checked_radius(x: Tensor, eps: float, norm: str, clip: Box) -> float:
    """Refuse a ball or box that cannot be, and x outside of it; return eps as a number that x's dtype can hold."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}.")
    _check_box(clip)
    _check_images(x, clip)
    eps = _checked_number("eps", eps)
    widest = 1.0 if clip is None else clip[1] - clip[0]
    if norm == "linf" and eps > widest:
        warnings.warn(
            f"eps={eps:g} is wider than the whole box of pixels ({widest:g}). eps is in pixel units: "
            "a budget given in 8-bit levels is divided by 255, as in eps=8/255.",
            stacklevel=3,
        )
    return _rounded_down(eps, x.dtype)


def _rounded_down(value: float, dtype: torch.dtype) -> float:
    """Return the next number below that dtype can hold: the float32 nearest to 0.3 is larger than 0.3."""
    nearest = torch.tensor(value, dtype=dtype)
    return (nearest if nearest.item() <= value else nearest.nextafter(torch.zeros_like(nearest))).item()


def _check_loss(loss: str) -> None:
    if loss not in ("ce", "margin"):
        raise ValueError(f'loss must be "ce" or "margin", got {loss!r}.')
    if torch.is_inference_mode_enabled():
        raise RuntimeError("attacks need gradients, which torch.inference_mode() forbids: call them outside of it.")


def _check_images(x: Tensor, clip: Box) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch tensor, got a {type(x).__name__}: use torch.as_tensor(x).")
    if not x.is_floating_point():
        raise TypeError(f"x must hold floats in [0, 1], got {x.dtype}: 8-bit images become x.float() / 255.")
    if x.ndim < 2:
        raise ValueError(f"x must be a batch (N, ...), got shape {tuple(x.shape)}: one image becomes x.unsqueeze(0).")
    if not x.isfinite().all():
        raise ValueError("x contains NaN or infinite values.")
    if clip is not None and x.numel() and (x.min() < clip[0] or x.max() > clip[1]):
        raise ValueError(
            f"x must lie in clip={clip}, got values from {x.min().item():.4g} to {x.max().item():.4g}. "
            "Normalise inside the model (models.Normalize), not before; or pass the box your pixels have."
        )


def _checked_labels(y: Tensor, x: Tensor) -> Tensor:
    if not isinstance(y, Tensor):
        raise TypeError(f"y must be a tensor of {len(x)} integer labels, got a {type(y).__name__}.")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must hold integer labels, got {y.dtype}: one-hot or soft labels become y.argmax(1).")
    if y.shape != x.shape[:1]:
        raise ValueError(f"y must hold one label for each of the {len(x)} images, got shape {tuple(y.shape)}.")
    if y.numel() and y.min() < 0:
        raise ValueError(f"labels start at 0, got {int(y.min())}.")
    # A copy: labels made under inference_mode could not be used in a gradient otherwise.
    return y.detach().to(device=x.device, dtype=torch.int64, copy=True)


def _checked_number(name: str, value: float) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be one number in pixel units, got {value!r}.")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be finite and not negative, got {value}.")
    return float(value)


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")


def _check_box(clip: Box) -> None:
    if clip is None:
        return
    if not isinstance(clip, tuple | list) or len(clip) != 2 or not all(isinstance(bound, Real) for bound in clip):
        raise TypeError(f"clip must be (lowest, highest) pixel value or None, got {clip!r}.")
    if not clip[0] < clip[1]:
        raise ValueError(f"clip must be (lowest, highest) with lowest < highest, got {clip}.")


def _describe_parameters(model: Model) -> str:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    kinds = sorted({f"{p.dtype} on {p.device}" for p in parameters})
    return f"the model's parameters are {', '.join(kinds)}" if kinds else "the model has no parameters"


def _warn_if_masked(outputs: Tensor, gradient: Tensor) -> None:
    total = outputs.sum(1)
    if outputs.min() >= 0 and outputs.max() <= 1 and torch.allclose(total, torch.ones_like(total), atol=1e-3):
        warnings.warn(
            "the model's outputs look like probabilities, not logits: where softmax saturates its gradient is zero "
            "and the attack looks weaker than it is. Attack the model without its last softmax.",
            stacklevel=3,
        )
    share = gradient.flatten(1).eq(0).all(1).float().mean().item()
    if share > 0:
        warnings.warn(
            f"{100 * share:.0f} % of the gradients are exactly zero: those images cannot be attacked by following "
            "them. The model hides its gradient (saturation, rounding, a dead layer); it need not be robust.",
            stacklevel=3,
        )
