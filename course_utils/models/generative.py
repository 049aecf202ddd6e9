"""Generative networks for digits: a variational autoencoder, a small GAN, and the deep image prior.

A generator maps z (N, latent) to images in [0, 1]; its attribute `latent` is the length of z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..core.validation import Model, check_count, check_images
from .inference import frozen_eval, predict

IMAGE = (1, 28, 28)
PIXELS = 784


class Generator(nn.Sequential):
    """Layers from z (N, latent) to images in [0, 1], with the attribute `latent`."""

    def __init__(self, latent: int, *layers: nn.Module):
        super().__init__(*layers)
        self.latent = latent


def decoder(*, latent: int = 20, hidden: int = 500) -> Generator:
    """Return a generator of images (N, 1, 28, 28) with one hidden layer of ReLUs: the decoder of a VAE.

    >>> decoder(latent=2)(torch.zeros(3, 2)).shape
    torch.Size([3, 1, 28, 28])
    """
    check_count("latent", latent)
    layers = nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, PIXELS), nn.Sigmoid(), nn.Unflatten(1, IMAGE)
    return Generator(latent, *layers)


def sample(generator: nn.Module, n: int, *, generator_rng: torch.Generator | None = None) -> Tensor:
    """Generate n images from standard normal z.

    Args:
        generator: has an attribute `latent`. generator_rng: source of z; the global random stream is then left alone.

    >>> sample(decoder(latent=2), 5).shape
    torch.Size([5, 1, 28, 28])
    """
    check_count("n", n)
    device = next((p.device for p in generator.parameters()), torch.device("cpu"))
    source = device if generator_rng is None else generator_rng.device
    z = torch.randn(n, generator.latent, generator=generator_rng, device=source).to(device)
    with frozen_eval(generator), torch.no_grad():
        return generator(z)


class SampleQuality(NamedTuple):
    """What a classifier predicts for the images of a generator."""

    entropy: float  # of the distribution over the classes, nats; ln K if all are generated equally often
    confidence: float  # mean of the largest class probability
    classes: int  # those predicted for at least 1 % of the images with a probability above 0.9


def sample_quality(
    generator: nn.Module, classifier: Model, *, n: int = 1000, generator_rng: torch.Generator | None = None
) -> SampleQuality:
    """Evaluate n random images: are all classes generated, and does the classifier recognise them?

    A good generator has both a high entropy of classes and a high confidence, as in the inception score. Neither
    tells whether images of one class differ from each other.

    Args:
        generator, n, generator_rng: as in `sample`. classifier: maps its images to logits (N, K).

    >>> sample_quality(decoder(latent=2), lambda x: 9 * x.flatten(1)[:, :3], n=10).classes <= 3
    True
    """
    probabilities = predict(classifier, sample(generator, n, generator_rng=generator_rng)).softmax(1)
    sure, label = probabilities.max(1)
    share = label.bincount(minlength=probabilities.shape[1]) / n
    sure_share = label[sure > 0.9].bincount(minlength=probabilities.shape[1]) / n
    entropy = torch.special.entr(share).sum().item()
    return SampleQuality(entropy, sure.mean().item(), int((sure_share >= 0.01).sum()))


# The variational autoencoder ----------------------------------------------------------------------------------------


class VAE(nn.Module):
    """A variational autoencoder: an encoder from images to distributions of z, and a generator from z to images.

    Called on images it reconstructs them from the mean of the encoder's distribution: an autoencoder.

    Args:
        latent: length of z. hidden: units of the one hidden layer of each half.

    >>> vae = VAE(latent=2)
    >>> vae.encode(torch.rand(3, 1, 28, 28)).shape, vae(torch.rand(3, 1, 28, 28)).shape
    (torch.Size([3, 2]), torch.Size([3, 1, 28, 28]))

    Kingma and Welling, "Auto-encoding variational Bayes", 2014.
    """

    def __init__(self, *, latent: int = 20, hidden: int = 500):
        super().__init__()
        self.generator = decoder(latent=latent, hidden=hidden)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, 28, 28) → mean and log-variance of the normal distribution of z, (N, latent) each."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) → the mean of the posterior, (N, latent)."""
        return self.posterior(x)[0]

    @torch.no_grad()
    def sample_reconstruction(self, x: Tensor, *, generator_rng: torch.Generator | None = None) -> Tensor:
        """(N, 1, 28, 28) → reconstructions from a z drawn from the posterior of each image, alike."""
        mean, log_variance = self.posterior(x)
        source = mean.device if generator_rng is None else generator_rng.device
        noise = torch.randn(mean.shape, generator=generator_rng, device=source).to(mean)
        return self.generator(mean + noise * (log_variance / 2).exp())

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) → reconstructions G(E(x)), alike."""
        return self.generator(self.encode(x))


def _check_digits(x: Tensor) -> None:
    check_images(x, (0.0, 1.0))
    if x.shape[1:] != IMAGE or not len(x):
        raise ValueError(f"expected images (N, 1, 28, 28), at least one; got {tuple(x.shape)}.")


# The generative adversarial network ---------------------------------------------------------------------------------


class GAN(nn.Module):
    """A generator, and the critic that it is trained against: a classifier of real against generated images.

    Each layer of the critic has spectral norm 1, which bounds its Lipschitz constant (Miyato et al. 2018).

    Args:
        latent: length of z.

    >>> GAN(latent=2).critic(torch.rand(3, 1, 28, 28)).shape
    torch.Size([3, 1])

    Goodfellow et al., "Generative adversarial nets", 2014.
    """

    LOGIT_SCALE = 6.0  # with spectral norm 1 throughout, the logits alone are too small to learn from

    def __init__(self, *, latent: int = 20):
        super().__init__()
        check_count("latent", latent)
        layers = nn.Linear(latent, 128), nn.BatchNorm1d(128), nn.ReLU()
        layers += nn.Linear(128, 256), nn.BatchNorm1d(256), nn.ReLU()
        layers += nn.Linear(256, PIXELS), nn.Sigmoid(), nn.Unflatten(1, IMAGE)
        self.generator = Generator(latent, *layers)
        self.critic = nn.Sequential(
            nn.Flatten(),
            spectral_norm(nn.Linear(PIXELS, 192)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(192, 96)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Linear(96, 1)),
        )

    def critic_logits(self, x: Tensor) -> Tensor:
        """(N, 1, 28, 28) → the critic's log-odds that each image is real, (N,)."""
        return self.LOGIT_SCALE * self.critic(x).squeeze(1)

    def forward(self, z: Tensor) -> Tensor:
        """(N, latent) → images (N, 1, 28, 28)."""
        return self.generator(z)


# The deep image prior -------------------------------------------------------------------------------------------------


def deep_image_prior(
    x: Tensor,
    *,
    steps: int = 150,
    lr: float = 0.01,
    seed: int = 0,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Fit an untrained convolutional network to each image, from a fixed noise, and stop early.

    The network fits smooth strokes before it fits noise: stopped early, it is a projection that needs no training
    images. Each image has a network of its own; all of them are trained at once, as groups of one network.

    Args:
        x: a few images in [0, 1], (N, 1, 28, 28). steps: of Adam. lr: its step. seed: of weights and noise.
        callback: called as callback(step, images) with the output of the networks after each step.

    Returns:
        Images like x.

    Raises:
        ValueError, TypeError: other images than these. FloatingPointError: the loss is no longer finite.

    >>> deep_image_prior(torch.rand(2, 1, 28, 28), steps=2).shape
    torch.Size([2, 1, 28, 28])

    Ulyanov, Vedaldi and Lempitsky, "Deep image prior", 2018.
    """
    _check_digits(x)
    check_count("steps", steps)
    count, x = len(x), x.detach()
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(seed)
        network = _untrained(count).to(x.device)
        noise = torch.rand(1, 8 * count, 7, 7, device=x.device)
        optimizer = torch.optim.Adam(network.parameters(), lr)
        for step in range(1, steps + 1):
            output = network(noise).view_as(x)
            take_step(optimizer, (output - x).square().sum(), lr)
            if callback is not None:
                callback(step, output.detach())
        with torch.no_grad():
            return network(noise).view_as(x)


def _untrained(count: int, channels: int = 16) -> nn.Sequential:
    """Return so many networks side by side, each from its 8 × 7 × 7 noise to an image."""

    def block(inputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs * count, channels * count, 3, padding=1, groups=count)
        return [convolution, nn.GroupNorm(count, channels * count), nn.LeakyReLU(0.2)]

    upsample = nn.Upsample(scale_factor=2, mode="bilinear")
    last = nn.Conv2d(channels * count, count, 3, padding=1, groups=count)
    return nn.Sequential(*block(8), upsample, *block(channels), upsample, *block(channels), last, nn.Sigmoid())


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> None:
    """Take one step of the optimizer on the loss.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    if not loss.isfinite():
        raise FloatingPointError(f"a loss became {loss.item()}: try a smaller lr than {lr:g}.")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
