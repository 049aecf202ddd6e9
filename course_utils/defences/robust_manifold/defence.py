"""The defence: project an image to the range of a generator, then classify it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...core.validation import check_count
from .latent_pairs import Encoder
from .projection import implicit, latent_size, project_to_range, unrolled


class ManifoldDefense(nn.Module):
    """Project, regenerate, classify: logits C(G(z*)) with z* = argmin ‖G(z) − x‖².

    The projection is an optimisation without a gradient in x: by default gradient-based attacks are refused. Three
    options provide a gradient, for adaptive attacks.

    Args:
        classifier: maps images to logits. generator: maps z (N, latent) to images.
        encoder: its output is the first start, such as `VAE.encode`; None for random starts only.
        steps, restarts, lr: of `project_to_range`.
        bpda: replace the projection's gradient by the identity's (backward pass differentiable approximation, Athalye
            et al. 2018).
        differentiable: classify G(z) after `unroll` steps of gradient descent, through which the gradient flows: from
            the encoder's output, or, without an encoder, from z*.
        implicit: differentiate z* as a function of x, as a minimum (see `projection.implicit`).
        seed: None draws new starts from the global random stream in every call (a randomised defence). A number gives
            every image in every call the same starts: the logits then do not depend on the rest of the batch.

    Raises:
        ValueError: more than one of bpda, differentiable, implicit.
        ValueError, TypeError, FloatingPointError: when called, as `project_to_range`.

    >>> from course_utils import models
    >>> defence = ManifoldDefense(models.mlp(), models.decoder(latent=2), steps=5, seed=0)
    >>> defence(torch.rand(3, 1, 28, 28)).shape
    torch.Size([3, 10])

    Ilyas, Jalal, Asteri, Daskalakis and Dimakis, "The robust manifold defense", 2017.
    """

    def __init__(
        self,
        classifier: nn.Module,
        generator: nn.Module,
        *,
        encoder: Encoder | None = None,
        steps: int = 60,
        restarts: int = 2,
        lr: float = 0.2,
        bpda: bool = False,
        differentiable: bool = False,
        unroll: int = 40,
        implicit: bool = False,
        seed: int | None = None,
    ):
        super().__init__()
        if bpda + differentiable + implicit > 1:
            raise ValueError("bpda, differentiable and implicit are gradients for one projection: choose one.")
        latent_size(generator)
        for name, count in (("steps", steps), ("restarts", restarts)):
            check_count(name, count)
        self.classifier, self.generator, self.encoder = classifier, generator, encoder
        self.steps, self.restarts, self.lr = steps, restarts, lr
        self.bpda, self.differentiable, self.implicit = bpda, differentiable, implicit
        self.unroll, self.seed = unroll, seed

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] → logits (N, K)."""
        return self.classifier(self.purify(x))

    def purify(self, x: Tensor) -> Tensor:
        """Return the projected images G(z*), like x."""
        if self.differentiable:
            start = self.project(x)[0] if self.encoder is None else self.encoder(x.clone())
            return self.generator(unrolled(self.generator, x, start, steps=self.unroll))
        z, x_star = self.project(x)
        if self.implicit:
            return self.generator(implicit(self.generator, x, z))
        return x + (x_star - x).detach() if self.bpda else x_star

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z* (N, latent) and G(z*), without gradients."""
        x = x.detach()
        options = {"steps": self.steps, "restarts": self.restarts, "lr": self.lr}
        return project_to_range(self.generator, x, init=self._starts(x), **options)

    def _starts(self, x: Tensor) -> Tensor | None:
        """Return the starts that are given, (S, N, latent); `project_to_range` draws the others."""
        with torch.no_grad():
            starts = [] if self.encoder is None else [self.encoder(x.clone()).unsqueeze(0)]
        missing = self.restarts - len(starts)
        if self.seed is not None and missing:
            stream = torch.Generator().manual_seed(self.seed)
            drawn = torch.randn(missing, 1, latent_size(self.generator), generator=stream)
            starts.append(drawn.to(x).expand(-1, len(x), -1))
        return torch.cat(starts) if starts else None
