"""An ensemble: several models as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class _Ensemble(nn.Module):
    def __init__(self, members: Sequence[nn.Module], weights: Tensor):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("log_weights", weights.log())

    def forward(self, x: Tensor) -> Tensor:
        # Clones: some models normalise their input in place.
        log_probabilities = torch.stack([member(x.clone()).log_softmax(1) for member in self.members])
        return (log_probabilities + self.log_weights.to(log_probabilities).view(-1, 1, 1)).logsumexp(0)


def ensemble_logits(models: Sequence[nn.Module], *, weights: Sequence[float] | None = None) -> nn.Module:
    """Return the ensemble of models as one model: logits log Σᵢ wᵢ·softmax(zᵢ), for any attack.

    It is computed from the logits, so that confident members do not round it to log 0. A SklearnClassifier may be a
    member, with probabilities 0 and 1 and without a gradient. The members are not copied.

    Args:
        models: with the same K classes. weights: one for each, at least 0, scaled to sum 1; default all equal.

    Raises:
        ValueError: no models, or weights that do not match. TypeError: a member that is no nn.Module.

    >>> bool((ensemble_logits([nn.Linear(4, 3), nn.Linear(4, 3)])(torch.rand(2, 4)).exp().sum(1) - 1 < 1e-6).all())
    True

    Liu, Chen, Liu and Song, "Delving into transferable adversarial examples and black-box attacks", 2017.
    """
    models = list(models)
    others = [type(model).__name__ for model in models if not isinstance(model, nn.Module)]
    if not models:
        raise ValueError("expected at least one model, got none.")
    if others:
        raise TypeError(f"every member must be a model (nn.Module), got {', '.join(others)}.")
    share = torch.as_tensor([1.0] * len(models) if weights is None else list(weights), dtype=torch.float32)
    if share.shape != (len(models),) or not share.isfinite().all() or share.min() < 0 or share.sum() == 0:
        raise ValueError(f"expected {len(models)} weights of at least 0, not all 0; got {weights}.")
    return _Ensemble(models, share / share.sum())
