"""Properties that many checks share, and how results are compared."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .engine import expect

NOT_ALONE = "an image comes back different when it is alone in its batch."
KEEP_APART = "The images must not influence one another: look for a mean, a norm or an index over the whole batch."


def call_with_copies(answer: Callable, *args: Any) -> Any:
    """Call the answer with copies of tensors, lists and models, and return what it returns."""
    with torch.enable_grad():
        result = answer(*(_copy(a) for a in args))
    expect(result is not None, "it returned None.", "End your function with return and the result.")
    what = f"it returned a {type(result).__name__}."
    hint = "Write return instead of yield, and def instead of async def."
    expect(not (inspect.isgenerator(result) or inspect.iscoroutine(result)), what, hint)
    return result


def as_number(value: Any, hint: str = "Return one number: the mean over all images.") -> float:
    """Return a number or a tensor of one element as a float."""
    is_number = isinstance(value, Real) or (isinstance(value, Tensor) and value.numel() == 1)
    what = f"it returned a tensor of shape {tuple(value.shape)}." if isinstance(value, Tensor) else _no_tensor(value)
    expect(is_number, what, TAKE_VALUES if _is_pair(value) else hint)
    number = float(value)
    expect(number == number, "it returned NaN.", "Look for a division 0/0, a logarithm of 0 or an exp that overflows.")
    return number


def as_share(value: Any, count: int) -> float:
    """Return a number as a float, if it can be a share of `count` images."""
    share = as_number(value, "Return one number: the share of the images, such as the mean of a tensor of booleans.")
    hint = "Return a share between 0 and 1: images counted, divided by images that could be counted."
    if share > 1:
        hint = "No share is larger than 1: what you count must be among what you divide by."
        if share >= 100 / count:  # the least percentage that is not 0
            hint = "That looks like a percentage. Return the share itself, between 0 and 1."
    if 1 < share <= count and abs(share - round(share)) < 1e-6:
        hint = "That looks like a number of images: divide it, or take .mean() instead of .sum()."
    expect(0 <= share <= 1, f"it gives {share:.4g}, which is no share of the images.", hint)
    return share


_NOT_A_TENSOR = {
    "ndarray": "Return a torch tensor, not a NumPy array: leave out .numpy().",
    "tuple": "Return one tensor only: no second value after a comma.",
    "list": "Return one tensor: torch.stack or torch.cat makes one of a list of tensors.",
}


TAKE_VALUES = "With a dimension, max, min, median and sort give two tensors. Take the first of them: .values."


def _is_pair(value: Any) -> bool:
    """Tell whether a value is what max, min, median or sort give with a dimension: values and their indices."""
    return isinstance(value, tuple) and hasattr(value, "values") and hasattr(value, "indices")


def _no_tensor(value: Any) -> str:
    kind = type(value).__name__
    return (
        f"it returned both results of {kind}, the values and their indices."
        if _is_pair(value)
        else f"it returned a {kind}."
    )


def as_tensor(value: Any, hint: str) -> Tensor:
    """Return value if it is a tensor; the hint is for what has no hint of its own."""
    hint = TAKE_VALUES if _is_pair(value) else _NOT_A_TENSOR.get(type(value).__name__, hint)
    if isinstance(value, list) and value and isinstance(value[0], Real):
        hint = "Return one tensor: torch.tensor makes one of a list of numbers."
    expect(isinstance(value, Tensor), _no_tensor(value), hint)
    return value


def as_tensor_like(value: Any, x: Tensor, name: str = "x") -> Tensor:
    """Return value if it is a finite float tensor of x's shape, dtype and device without a graph."""
    value = as_tensor(value, f"Return a torch tensor with the shape of {name}.")
    hint = f"Keep the shape of {name}: look for a sum, a mean, a flatten or an index too many."
    shapes = f"{name} has the shape {tuple(x.shape)}, your result {tuple(value.shape)}."
    expect(value.shape == x.shape, shapes, hint)
    hint = f"Keep the type of {name}, {x.dtype}."
    if value.dtype == torch.float64:
        hint += " NumPy and .double() make float64; .to(x.dtype) goes back."
    expect(value.dtype == x.dtype, f"it returned {value.dtype}.", hint)
    expect(value.device == x.device, f"it returned a tensor on {value.device}.", f"Stay on the device of {name}.")
    zero = "Look for a division by zero, such as g / g.abs() or g / g.norm() where g is 0, or for a root or logarithm of something negative."
    expect(value.isfinite().all(), "the result contains NaN or infinite values.", zero)
    hint = "Return result.detach(): otherwise the memory of the whole computation is kept alive."
    expect(not value.requires_grad, "the result still hangs on its gradient graph.", hint)
    return value


def close(a: Any, b: Any, tolerance: float = 1e-5) -> bool:
    """Tell whether two results agree: numbers and tensors in shape and up to the tolerance, texts as they are."""
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    if isinstance(a, tuple | list | dict) or isinstance(b, tuple | list | dict):
        return type(a) is type(b) and len(a) == len(b) and all(close(x, y, tolerance) for x, y in _pairs(a, b))
    if not all(isinstance(value, Tensor | Real) for value in (a, b)):
        return False
    a, b = torch.as_tensor(a).detach(), torch.as_tensor(b).detach()
    if a.shape != b.shape or a.device != b.device:
        return False
    if torch.bool in (a.dtype, b.dtype):
        return bool((a == b).all())
    return bool((((a - b).abs() <= tolerance) | (a == b)).all())


def _pairs(a: Any, b: Any) -> Iterable[tuple[Any, Any]]:
    return ((a[key], b.get(key)) for key in a) if isinstance(a, dict) else zip(a, b, strict=True)


def differences(got: Any, right: Any, tolerance: float, name: str = "it") -> str:
    """Return in words how a result differs from the right one."""
    if isinstance(right, dict):
        parts = {k: v for k, v in right.items() if not close(got[k], v, tolerance)}
        return "; ".join(differences(got[k], v, tolerance, k) for k, v in parts.items())
    if isinstance(right, tuple):
        return "; ".join(
            differences(g, r, tolerance) for g, r in zip(got, right, strict=True) if not close(g, r, tolerance)
        )
    if not isinstance(right, Tensor) or right.numel() == 1:
        return f"{name} is {_in_words(got)}, right is {_in_words(right)}"
    wrong = (got != right) if right.dtype == torch.bool else (got - right).abs() > tolerance
    count = f"{100 * wrong.float().mean():.0f} % of the values of {name if name != 'it' else 'the result'} are wrong"
    low, high, low_right, high_right = (f"{v.float():.3g}" for r in (got, right) for v in (r.min(), r.max()))
    return f"{count}: they go from {low} to {high}, right is {low_right} to {high_right}"


def _in_words(value: Any) -> str:
    return f"{float(value):.4g}" if isinstance(value, Tensor | Real) else str(value)


def shown(values: Tensor) -> str:
    """Return numbers in words."""
    return ", ".join(f"{v:.3g}" for v in values.tolist())


def percent_off(images: Tensor, right: Tensor) -> float:
    """Return how many per cent of the pixels are not the right ones."""
    return 100 * (~torch.isclose(images, right, atol=1e-5)).float().mean().item()


def misplaced(setting: str, model: nn.Module, y: Tensor, x: Tensor, images: Tensor, right: Tensor, of: str = "") -> str:
    """Return in words how far the images and their loss for y are from the right ones; the attack began at x."""
    before, got, best = (f"{F.cross_entropy(model(v), y):.3g}" for v in (x, images, right))
    off = f"{setting}{percent_off(images, right):.0f} % of the pixels are not where they should be"
    return f"{off}." if got == best else f"{off}: the loss{of} went from {before} to {got}, and not to {best}."


def changed_in_place(answer: Callable, names: Iterable[str], arguments: dict[str, Any]) -> str:
    """Return the name of the first tensor among these arguments that the answer changes, or nothing."""
    copies = {name: _copy(argument) for name, argument in arguments.items()}
    with suppress(Exception):  # an answer may fail on some arguments; here it is asked only what it changes
        answer(*copies.values())
    tensors = (name for name in names if isinstance(arguments[name], Tensor))
    return next((name for name in tensors if not torch.equal(copies[name].detach(), arguments[name])), "")


def in_both_modes(answer: Callable, names: str, model: nn.Module, *args: Any) -> None:
    """Refuse side effects, as `no_side_effects` does, in evaluation mode and in training mode."""
    for training in (False, True):
        no_side_effects(answer, names, copy.deepcopy(model).train(training), *args)


def no_side_effects(answer: Callable, names: str, *args: Any) -> None:
    """Refuse an answer that changes one of its arguments or leaves a trace on it; `names` as in "model x y", _ is free."""
    copies = [_copy(a) for a in args]
    answer(*copies)
    hint = "Write `with torch.no_grad():` around the lines that need it; that switches back at its end."
    expect(torch.is_grad_enabled(), "your function left gradients switched off everywhere.", hint)
    for name, before, after in zip(names.split(), args, copies, strict=True):
        if name == "_":
            continue
        if isinstance(before, nn.Module):
            _same_model(before, after)
        if isinstance(before, Tensor):
            _same_tensor(before, after, name)
        if isinstance(before, list):
            _same_list(before, after, name)


def _copy(argument: Any) -> Any:
    if isinstance(argument, nn.Module):
        return copy.deepcopy(argument)
    if isinstance(argument, list):
        return [_copy(item) for item in argument]
    return argument.clone() if isinstance(argument, Tensor) else argument


def _same_tensor(before: Tensor, after: Tensor, name: str) -> None:
    hint = "Whoever called you still needs the original: write new = x + … instead of x += …, x[…] = … or x.data, and mind the functions ending in _, which change their tensor."
    expect(torch.equal(before, after), f"your function changed {name} in place.", hint)
    what = f"your function left requires_grad or a .grad on {name}."
    hint = "A second call would add to that gradient. Make a tensor of your own first: x = x.clone().detach().requires_grad_()."
    expect(not after.requires_grad and after.grad is None, what, hint)


def _same_list(before: list, after: list, name: str) -> None:
    what = f"your function left {len(after)} entries in the list {name}, of {len(before)}."
    hint = f"Go through it with for … in {name}: append, pop and the like change the list of whoever called you."
    expect(len(before) == len(after), what, hint)
    turned = all(any(torch.equal(old, new) for new in after) for old in before if isinstance(old, Tensor))
    same = all(torch.equal(old, new) for old, new in zip(before, after, strict=True) if isinstance(old, Tensor))
    what = f"your function changed the order of the list {name}."
    expect(same or not turned, what, "Whoever called you still needs it: reversed(…) or a copy leaves the list alone.")
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if isinstance(old, Tensor):
            _same_tensor(old, new, f"{name}[{i}]")


def _same_model(before: nn.Module, after: nn.Module) -> None:
    what = "your function left gradients on the model's parameters."
    hint = "loss.backward() adds to every p.grad, and the next training step would use them. Ask for the one gradient you need: torch.autograd.grad(loss, x)."
    expect(all(p.grad is None or not p.grad.any() for p in after.parameters()), what, hint)
    weights = after.state_dict()
    same = all(torch.equal(old, weights[key]) for key, old in before.state_dict().items())
    expect(
        same,
        "your function changed the model's weights.",
        "The model stays as it is: change what you were asked to change, and give no optimizer its parameters.",
    )
    flags = [(p.requires_grad, q.requires_grad) for p, q in zip(before.parameters(), after.parameters(), strict=True)]
    what = "your function left the model's parameters without requires_grad: it cannot be trained any more."
    hint = "Switch it back before you return, or leave it alone: torch.autograd.grad(loss, x) needs no frozen model."
    expect(all(now or not then for then, now in flags), what, hint)
    what = "your function switched requires_grad on for parameters of the model that were frozen."
    expect(all(then or not now for then, now in flags), what, hint)
    what = f"the model came in {_mode(before)} mode, and your function left it in {_mode(after)} mode."
    hint = "Leave the mode alone, or switch it back before you return: whoever called you may be in the middle of training."
    expect([m.training for m in before.modules()] == [m.training for m in after.modules()], what, hint)


def _mode(model: nn.Module) -> str:
    return "training" if model.training else "evaluation"


def loss_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Callable = F.cross_entropy) -> Tensor:
    """Return the gradient of each image's own loss, like x."""
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(model(x), y, reduction="sum"), x)[0]


def strong_pixels(gradient: Tensor) -> Tensor:
    """Tell for each pixel whether the sign of its gradient is no matter of rounding."""
    return gradient.abs() > 1e-3 * broadcast_like(gradient.abs().flatten(1).amax(1))


def norms(images: Tensor) -> Tensor:
    """Return each image's Euclidean norm, (N,)."""
    return images.flatten(1).norm(dim=1)


def broadcast_like(values: Tensor) -> Tensor:
    """Return values (N,) in a shape that multiplies images (N, C, H, W)."""
    return values.view(-1, 1, 1, 1)
