"""Generators: what they draw, how they are judged, and that they are trained once and without a trace."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from course_utils.models.generative import GAN, VAE, Generator, decoder, deep_image_prior, sample, sample_quality
from course_utils.training import train_gan, trained_gan, trained_vae


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def bars(n, *, seed=0):
    """Images (n, 1, 28, 28) of two kinds: the upper or the lower half is bright."""
    x = 0.1 * torch.rand(n, 1, 28, 28, generator=stream(seed))
    x[::2, :, :14] += 0.8
    x[1::2, :, 14:] += 0.8
    return x


def half(x):
    """Confident logits (N, 3): the bright half is the class, and nothing is of the third."""
    lead = 30 * (x[:, 0, :14].mean((1, 2)) - x[:, 0, 14:].mean((1, 2)))
    return torch.stack([lead, -lead, torch.full_like(lead, -99.0)], dim=1)


@pytest.fixture(scope="module")
def vae(session_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_CACHE", str(session_cache))
        return trained_vae(bars(200), latent=2, hidden=64, epochs=15, progress=False)


@pytest.mark.parametrize("generator", [decoder(latent=3), VAE(latent=3).generator, GAN(latent=3).generator])
def test_a_generator_maps_z_to_images(generator):
    assert generator.latent == 3
    images = sample(generator, 5, generator_rng=stream())
    assert images.shape == (5, 1, 28, 28)
    assert images.min() >= 0
    assert images.max() <= 1
    assert not images.requires_grad


def test_sampling_leaves_no_trace():
    generator = GAN(latent=2).generator
    torch.manual_seed(0)
    before, statistics = torch.get_rng_state(), generator[1].running_mean.clone()
    first, second = (sample(generator, 4, generator_rng=stream(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator[1].running_mean, statistics)
    assert generator.training


class TwoHalves(nn.Module):
    """Draws the upper half bright where the first number of z is above a threshold."""

    latent = 1

    def __init__(self, threshold=0.0):
        super().__init__()
        self.threshold = threshold

    def forward(self, z):
        x = torch.zeros(len(z), 1, 28, 28)
        x[z[:, 0] > self.threshold, :, :14] = 1.0
        x[z[:, 0] <= self.threshold, :, 14:] = 1.0
        return x


def test_quality_of_a_fair_generator_is_one_bit():
    quality = sample_quality(TwoHalves(), half, n=4000, generator_rng=stream())
    assert quality.entropy == pytest.approx(math.log(2), abs=1e-3)
    assert quality.confidence == pytest.approx(1)
    assert quality.classes == 2


def test_quality_sees_a_collapsed_and_an_unrecognisable_generator():
    collapsed = sample_quality(TwoHalves(-9.0), half, n=500, generator_rng=stream())
    assert collapsed.entropy == 0
    assert collapsed.classes == 1
    blurred = sample_quality(TwoHalves(), lambda x: half(x) / 1000, n=500, generator_rng=stream())
    assert blurred.confidence < 0.6
    assert blurred.classes == 0


def test_the_vae_reconstructs_and_draws_what_it_was_trained_on(vae):
    x = bars(40, seed=5)
    assert (vae(x) - x).square().mean() < 0.02
    assert torch.equal(vae(x), vae.generator(vae.encode(x)))
    assert sample_quality(vae.generator, half, n=300, generator_rng=stream()).classes == 2


def test_redrawn_images_differ_from_draw_to_draw_by_what_the_encoder_leaves_open(vae):
    network, x = copy.deepcopy(vae), bars(50)

    def redraw(seed):
        return network.sample_reconstruction(x, generator_rng=stream(seed))

    assert torch.equal(redraw(0), redraw(0))
    assert not torch.equal(redraw(0), redraw(1))
    assert not redraw(0).requires_grad
    with torch.no_grad():
        network.encoder[-1].bias[network.generator.latent :] -= 60  # nothing is left open
    assert torch.allclose(redraw(0), network(x), atol=1e-4)


def test_the_vae_is_trained_once(vae, monkeypatch):
    monkeypatch.setattr("course_utils.training.generative.fit", lambda *a, **k: pytest.fail("trained again"))
    again = trained_vae(bars(200), latent=2, hidden=64, epochs=15, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(vae.state_dict().values(), again.state_dict().values(), strict=True))
    assert not again.training


def test_a_larger_weight_of_the_divergence_pulls_the_guesses_to_zero(vae):
    x = bars(200)
    strict = trained_vae(x, latent=2, hidden=64, epochs=15, kl_weight=50.0, progress=False)
    assert strict.encode(x).square().mean() < vae.encode(x).square().mean() / 2


def test_the_gan_learns_to_draw_both_kinds():
    torch.manual_seed(3)
    gan = GAN(latent=2)
    state = torch.get_rng_state()
    train_gan(gan, bars(400), epochs=30, batch_size=40, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    quality = sample_quality(gan.generator, half, n=300, generator_rng=stream())
    assert quality.classes == 2
    assert quality.confidence > 0.9
    assert not gan.training
    assert all(p.requires_grad and (p.grad is None or not p.grad.any()) for p in gan.parameters())


def test_the_critic_is_no_steeper_than_its_norms_allow():
    gan = GAN(latent=2)
    gan(torch.randn(4, 2))
    for _ in range(30):  # the power iteration of the norms goes on with every pass
        gan.critic(torch.rand(2, 1, 28, 28))
    gan.eval()
    a, b = torch.rand(2, 50, 1, 28, 28, generator=stream())
    slope = (gan.critic(a) - gan.critic(b)).squeeze(1).abs() / (a - b).flatten(1).norm(dim=1)
    assert slope.max() <= 1.05


def test_the_gan_is_trained_once(empty_cache, monkeypatch):
    first = trained_gan(bars(40), latent=2, epochs=1, progress=False)
    monkeypatch.setattr("course_utils.training.generative.train_gan", lambda *a, **k: pytest.fail("trained again"))
    again = trained_gan(bars(40), latent=2, epochs=1, progress=False)
    assert torch.equal(
        sample(first.generator, 3, generator_rng=stream()), sample(again.generator, 3, generator_rng=stream())
    )


def test_a_trained_gan_can_be_sent_to_another_process_and_its_critic_keeps_its_norms(empty_cache):
    x = bars(40)
    gan = trained_gan(x, latent=2, epochs=2, progress=False)
    torch.testing.assert_close(pickle.loads(pickle.dumps(gan)).critic_logits(x), gan.critic_logits(x))
    norms = [torch.linalg.matrix_norm(layer.weight, 2) for layer in gan.critic if isinstance(layer, nn.Linear)]
    assert len(norms) == 3
    torch.testing.assert_close(torch.stack(norms), torch.ones(3), atol=0.1, rtol=0)


def test_the_image_prior_draws_the_image_before_its_noise():
    """Early on, what is drawn is nearer to the clean image than the noisy one is."""
    x = bars(2)
    noisy = (x + 0.3 * torch.randn(x.shape, generator=stream())).clamp(0, 1)
    drawn = deep_image_prior(noisy, steps=60)
    assert drawn.shape == x.shape
    assert (drawn - x).square().mean() < (noisy - x).square().mean() / 2


def test_the_image_prior_leaves_the_global_stream_alone_and_shows_its_way():
    x, seen = bars(2), []
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.no_grad():
        drawn = deep_image_prior(x, steps=3, callback=lambda step, images: seen.append((step, images.shape)))
    assert torch.equal(torch.get_rng_state(), before)
    assert seen == [(step, x.shape) for step in (1, 2, 3)]
    assert torch.equal(drawn, deep_image_prior(x, steps=3))


@pytest.mark.parametrize(
    ("call", "telling"),
    [
        (lambda x: trained_vae(x, progress=False), "expected images"),
        (lambda x: trained_gan(x, progress=False), "expected images"),
        (deep_image_prior, "expected images"),
    ],
)
def test_other_images_are_refused(call, telling):
    with pytest.raises(ValueError, match=telling):
        call(torch.rand(3, 1, 8, 8))
    with pytest.raises(ValueError, match="must lie in"):
        call(2 + torch.rand(3, 1, 28, 28))


def test_a_gan_of_one_image_and_a_diverging_one_are_refused():
    with pytest.raises(ValueError, match="two images"):
        train_gan(GAN(latent=2), bars(1), progress=False)
    with pytest.raises(FloatingPointError, match="smaller lr"):
        train_gan(GAN(latent=2), bars(8), epochs=2, batch_size=4, lr=math.inf, progress=False)


def test_the_generator_is_a_sequence_with_a_latent_size():
    assert Generator(4, nn.Linear(4, 2))(torch.zeros(1, 4)).shape == (1, 2)
