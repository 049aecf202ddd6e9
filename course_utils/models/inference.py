"""Call a model in eval mode, frozen and without gradients, and check its logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..core.validation import Model, check_count, check_images


@contextmanager
def frozen_eval(model: Model) -> Iterator[None]:
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


def is_fooled(logits: Tensor, y: Tensor, *, targeted: bool = False) -> Tensor:
    """Return for which logits (N, K) an attack succeeds, (N,): the class is not y; when targeted, it is y.

    The class is the argmax, for every attack and every evaluation: where y is tied with another class and still the
    argmax, the attack fails. NaN, which argmax takes for the largest, is refused by `check_logits`.
    """
    return logits.argmax(1).eq(y) == targeted


def checked_logits(model: Model, x: Tensor, y: Tensor | None = None) -> Tensor:
    """Return the model's logits (N, K) for x, or raise an error that describes what it returned instead."""
    try:
        logits = model(x.clone())  # some models normalise their input in place
    except RuntimeError as error:
        error.add_note(f"x is {tuple(x.shape)}, {x.dtype} on {x.device}; {_describe_parameters(model)}.")
        raise
    check_logits(logits, len(x), y)
    return logits


def check_logits(logits: Tensor, count: int, y: Tensor | None = None) -> None:
    """Refuse what are no logits (N, K) of so many images, each with a largest one, and labels beyond them."""
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model must return one tensor of logits (N, K), got a {type(logits).__name__}: "
            "wrap it in an nn.Module whose forward returns the logits only."
        )
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        hint = "A single logit z (N,) of a binary model becomes torch.stack([-z, z], dim=1)."
        if logits.ndim > 2:
            hint = "End it with nn.Flatten(), or with a mean over the places in the image."
        raise ValueError(
            f"the model must return logits (N, K) with K >= 2 for {count} images, got {tuple(logits.shape)}. {hint}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"the model must return floating-point logits, got {logits.dtype}: votes become votes.float().")
    largest = logits.detach().amax(1)
    if not largest.isfinite().all():
        bad = int((~largest.isfinite()).nonzero()[0])
        raise ValueError(
            f"the largest logit of image {bad} of the batch is {largest[bad].item()}. "
            "It must be finite to name a class: look for NaN weights, a division by zero, an overflow."
        )
    if y is not None and y.max() >= logits.shape[1]:
        raise ValueError(f"y holds label {int(y.max())}, but the model has {logits.shape[1]} outputs (0 the first).")


def _describe_parameters(model: Model) -> str:
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    kinds = sorted({f"{p.dtype} on {p.device}" for p in parameters})
    return f"the model's parameters are {', '.join(kinds)}" if kinds else "the model has no parameters"


def predict(model: Model, x: Tensor, *, batch_size: int = 512) -> Tensor:
    """Return the logits (N, K) of images x (N, ...), in eval mode, without gradients, batch by batch.

    Raises:
        ValueError, TypeError: no images; images, a batch size or a model that all attacks refuse, NaN included.
    """
    check_images(x, None)
    return batched_logits(model, x, None, batch_size)


def batched_logits(model: Model, x: Tensor, y: Tensor | None, batch_size: int) -> Tensor:
    """Return the logits as `predict` does, after a check that labels y (N,) are among the classes."""
    if len(x) == 0:
        raise ValueError("expected at least one image, got none.")
    check_count("batch_size", batch_size)
    with frozen_eval(model), torch.no_grad():
        return torch.cat([checked_logits(model, batch, y) for batch in x.split(batch_size)])
