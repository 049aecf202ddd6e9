"""Train a VAE and a GAN."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from ..core.validation import check_count
from ..models.generative import GAN, VAE, _check_digits, take_step
from ..models.inference import frozen_eval
from .fitting import fit
from .zoo import load_or_train


class _Elbo(nn.Module):
    """The two terms of a VAE's loss for each image, (N, 2): reconstruction and weighted KL divergence, nats."""

    def __init__(self, vae: VAE, weight: float):
        super().__init__()
        self.vae, self.weight = vae, weight

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.vae.posterior(x)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        *layers, _sigmoid, _shape = self.vae.generator  # from the logits: the logarithm of a rounded 1 is no loss
        logits = nn.Sequential(*layers)(z)
        error = F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none").sum(1)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return torch.stack([error, self.weight * divergence], dim=1)


def _total(terms: Tensor, _labels: Tensor) -> Tensor:
    return terms.sum(1).mean()


def trained_vae(
    x: Tensor,
    *,
    latent: int = 20,
    hidden: int = 500,
    epochs: int = 60,
    lr: float = 3e-3,
    kl_weight: float = 0.5,
    seed: int = 0,
    progress: bool = True,
) -> VAE:
    """Return a VAE trained on images: from the cache, or trained now and kept there.

    Args:
        x: images in [0, 1], (N, 1, 28, 28). latent, hidden: as in `VAE`. epochs, lr: of `training.fit`.
        kl_weight: of the divergence from the standard normal: less of it draws sharper, and leaves more gaps in z.
        seed: of weights, order and noise. progress: show a bar with the time left.

    Raises:
        ValueError, TypeError: what are no such images. KeyboardInterrupt: Ctrl-C; half a training is not kept.
    """
    _check_digits(x)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae = VAE(latent=latent, hidden=hidden).to(x.device)
    settings = {"epochs": epochs, "lr": lr, "seed": seed}

    def train(vae: nn.Module) -> None:
        no_labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        history = fit(_Elbo(vae, kl_weight), x, no_labels, loss=_total, progress=progress, **settings)
        if history.interrupted:
            raise KeyboardInterrupt

    return load_or_train(vae, train, name="vae", data=(x,), recipe=settings | {"kl_weight": kl_weight})


def train_gan(
    gan: GAN,
    x: Tensor,
    *,
    epochs: int = 25,
    lr: float = 1.5e-3,
    batch_size: int = 80,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Train critic and generator in turns, with the non-saturating loss; leave the GAN in eval mode.

    The critic learns to tell batches apart, log(1 + exp(−D(x))) + log(1 + exp(D(G(z)))); the generator to be taken for
    real, log(1 + exp(−D(G(z)))). What is kept is a running mean of the generator's weights: the weights themselves
    circle around what they look for.

    Args:
        gan: changed in place. x: images in [0, 1], (N, 1, 28, 28), at least two. epochs: passes over the images.
        lr: of both Adams, without momentum. batch_size: images of a step. seed: of order and z. progress: show a bar.

    Raises:
        ValueError, TypeError: what are no such images. FloatingPointError: a loss is no longer finite.
    """
    _check_digits(x)
    check_count("epochs", epochs)
    size = min(batch_size, len(x))
    if size < 2:
        raise ValueError(f"the generator's batch norm needs two images at a time, got {size}.")
    steps = len(x) // size
    critic_optimizer, generator_optimizer = (
        torch.optim.Adam(part.parameters(), lr, betas=(0.0, 0.99), fused=True) for part in (gan.critic, gan.generator)
    )
    mean = AveragedModel(gan.generator, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), tqdm(total=epochs * steps, disable=not progress, unit="step") as bar:
        torch.manual_seed(seed)
        gan.train()
        for _ in range(epochs):
            for index in torch.randperm(len(x), device=x.device)[: steps * size].split(size):
                drawn = gan.generator(torch.randn(size, gan.generator.latent, device=x.device))
                real, drawn_logits = gan.critic_logits(torch.cat([x[index], drawn.detach()])).split(size)
                take_step(critic_optimizer, F.softplus(-real).mean() + F.softplus(drawn_logits).mean(), lr)
                with frozen_eval(gan.critic):
                    take_step(generator_optimizer, F.softplus(-gan.critic_logits(drawn)).mean(), lr)
                mean.update_parameters(gan.generator)
                bar.update()
    gan.generator.load_state_dict(mean.module.state_dict())
    gan.zero_grad()
    gan.eval()


def trained_gan(x: Tensor, *, latent: int = 20, epochs: int = 25, seed: int = 0, progress: bool = True) -> GAN:
    """Return a GAN trained on images: from the cache, or trained now and kept there.

    Its critic has ordinary layers again, whose weights have the norm that they were trained with: the two can be sent
    to another process.

    Args:
        x: images in [0, 1], (N, 1, 28, 28). latent: as in `GAN`. epochs, seed, progress: as in `train_gan`.

    Raises:
        ValueError, TypeError, FloatingPointError: as `train_gan`.
    """
    _check_digits(x)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        gan = GAN(latent=latent).to(x.device)
    settings = {"epochs": epochs, "seed": seed}
    load_or_train(
        gan, lambda gan: train_gan(gan, x, progress=progress, **settings), name="gan", data=(x,), recipe=settings
    )
    for layer in gan.critic:
        if is_parametrized(layer):
            remove_parametrizations(layer, "weight")
    return gan
