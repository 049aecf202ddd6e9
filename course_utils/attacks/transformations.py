"""What happens to a picture on its way to the camera, who survives it, and an attack that expects it.

Every transformation takes images (N, C, H, W) in [0, 1] and returns new ones of the same shape. A random one draws for
each image anew, from its generator; the global random stream is then left alone. All let gradients through: those of
the steps that have none (rounding, JPEG) pass as if nothing had happened.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn

from ..core.validation import Model, check_batch, check_count, checked_number
from ..core.vision import torchvision

F = torchvision.transforms.functional
BILINEAR = torchvision.transforms.InterpolationMode.BILINEAR
GREY = [0.5]  # what is seen beside a picture that was turned
BATCH = 8  # photos that a network looks at in one go: on a CPU faster than 32, whose activations leave its cache

Transformation = Callable[[Tensor, torch.Generator | None], Tensor]


# Transformations ------------------------------------------------------------------------------------------------------


def quantise(x: Tensor) -> Tensor:
    """Round pixels to 256 levels, as an 8-bit file does; the gradient passes straight through.

    >>> (quantise(torch.full((1, 1, 1, 1), 0.3)) * 255).item()
    76.0
    """
    check_batch(x)
    return _straight_through((x * 255).round() / 255, x)


def jpeg(x: Tensor, quality: int = 75) -> Tensor:
    """Write each image as a JPEG file and read it back; the gradient passes straight through.

    Args:
        x: images (N, 1 or 3, H, W). quality: 1 to 95, in the units of libjpeg.

    Raises:
        ValueError, TypeError: another number of channels; a quality outside of its range.

    >>> jpeg(torch.rand(2, 3, 16, 16), quality=50).shape
    torch.Size([2, 3, 16, 16])
    """
    check_batch(x)
    if x.shape[1] not in (1, 3):
        raise ValueError(f"JPEG takes grey or RGB images, (N, 1 or 3, H, W); got shape {tuple(x.shape)}.")
    check_count("quality", quality)
    if quality > 95:
        raise ValueError(f"quality must be 1 to 95, got {quality}.")
    decoded = [_through_a_file(image, quality) for image in x.detach().cpu()]
    return _straight_through(torch.stack(decoded).to(x), x) if decoded else x.clone()


def _through_a_file(image: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    F.to_pil_image(quantise(image[None])[0]).save(file, "JPEG", quality=quality)
    return F.to_tensor(Image.open(file))


def blur(x: Tensor, sigma: float) -> Tensor:
    """Smooth with a Gaussian of standard deviation sigma, in pixels; three of them must fit into the image.

    >>> blur(torch.rand(2, 3, 16, 16), 1.5).shape
    torch.Size([2, 3, 16, 16])
    """
    check_batch(x)
    sigma = checked_number("sigma", sigma)
    reach = math.ceil(3 * sigma)
    if reach >= min(x.shape[-2:]):
        raise ValueError(f"sigma={sigma:g} reaches {reach} pixels, too far for images of {tuple(x.shape[-2:])}.")
    return F.gaussian_blur(x, 2 * reach + 1, sigma).clamp(0, 1) if sigma else x.clone()


def resize_and_back(x: Tensor, share: float) -> Tensor:
    """Shrink height and width to a share of theirs, then enlarge again."""
    check_batch(x)
    height, width = x.shape[-2:]
    small = F.resize(x, _sides(x, _checked_share(share)), antialias=True)
    return F.resize(small, [height, width], antialias=True).clamp(0, 1)


def random_crop(x: Tensor, share: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Cut out a window of a share of height and width, anywhere, and enlarge it to the old size."""
    check_batch(x)
    (height, width), window = x.shape[-2:], _sides(x, _checked_share(share))

    def cropped(image: Tensor) -> Tensor:
        top, left = place(height - window[0], generator), place(width - window[1], generator)
        return F.resized_crop(image, top, left, *window, [height, width], antialias=True)

    return _each(x, cropped)


def random_resize_and_pad(x: Tensor, share: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Shrink to a random size, of at least a share of height and width, and put it anywhere on black.

    Xie et al., "Mitigating adversarial effects through randomization", 2018.
    """
    check_batch(x)
    share, (height, width) = _checked_share(share), x.shape[-2:]

    def padded(image: Tensor) -> Tensor:
        small = F.resize(image, _sides(x, uniform(share, 1, generator)), antialias=True)
        down, right = height - small.shape[-2], width - small.shape[-1]
        top, left = place(down, generator), place(right, generator)
        return F.pad(small, [left, top, right - left, down - top])

    return _each(x, padded)


def random_rotation(x: Tensor, degrees: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Turn about the centre by up to so many degrees, either way; what comes in at the corners is grey."""
    check_batch(x)
    degrees = checked_number("degrees", degrees)
    return _each(x, lambda image: F.rotate(image, uniform(-degrees, degrees, generator), BILINEAR, fill=GREY))


def random_perspective(x: Tensor, share: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Move each corner inwards by up to a share of width and height, below a half: as seen at an angle."""
    check_batch(x)
    height, width = x.shape[-2:]
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    inwards = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    farthest = _checked_share(share, below=0.5) * torch.tensor([width - 1, height - 1])

    def tilted(image: Tensor) -> Tensor:
        moved = corners + inwards * farthest * _draw(torch.rand, (4, 2), generator).cpu()
        return F.perspective(image, corners.tolist(), moved.tolist(), fill=GREY)

    return _each(x, tilted)


def random_light(x: Tensor, change: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Multiply brightness, then contrast, by a factor between 1 − change and 1 + change each."""
    check_batch(x)
    change = _checked_share(change)

    def lit(image: Tensor) -> Tensor:
        brightness, contrast = (uniform(1 - change, 1 + change, generator) for _ in range(2))
        return F.adjust_contrast(F.adjust_brightness(image, brightness), contrast)

    return _each(x, lit)


def gaussian_noise(x: Tensor, sigma: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Add Gaussian noise of standard deviation sigma, pixel units, and clip to [0, 1]."""
    check_batch(x)
    return (x + checked_number("sigma", sigma) * _draw(torch.randn, x.shape, generator).to(x)).clamp(0, 1)


def print_and_photograph(x: Tensor, *, strength: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Do to each image what a printer and a hand-held camera do: tilt, turn, light, blur, noise, JPEG.

    Args:
        x: images (N, 1 or 3, H, W). strength: 0 (only the JPEG file, quality 95) to 2; 1 turns by up to 10°, moves
            corners by up to 10 %, changes brightness and contrast by up to 20 %, blurs by 0.7 pixels, adds noise of
            standard deviation 0.02, and writes JPEG of quality 75.
        generator: source of all draws.

    Raises:
        ValueError, TypeError: a strength outside of 0 to 2; as `jpeg`.

    >>> print_and_photograph(torch.rand(2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 32, 32])
    """
    strength = checked_number("strength", strength)
    if strength > 2:
        raise ValueError(f"strength must be 0 to 2, got {strength:g}.")
    x = random_perspective(x, 0.1 * strength, generator=generator)
    x = random_rotation(x, 10 * strength, generator=generator)
    x = random_light(x, 0.2 * strength, generator=generator)
    x = blur(x, 0.7 * strength)
    x = gaussian_noise(x, 0.02 * strength, generator=generator)
    return jpeg(x, round(95 - 20 * strength))


TRANSFORMATIONS: dict[str, Transformation] = {
    "8-bit file": lambda x, _: quantise(x),
    "light ± 20 %": lambda x, generator: random_light(x, 0.2, generator=generator),
    "noise, σ = 0.02": lambda x, generator: gaussian_noise(x, 0.02, generator=generator),
    "blur, σ = 1 pixel": lambda x, _: blur(x, 1.0),
    "resize to 75 % and back": lambda x, _: resize_and_back(x, 0.75),
    "JPEG, quality 75": lambda x, _: jpeg(x, 75),
    "crop of 90 %": lambda x, generator: random_crop(x, 0.9, generator=generator),
    "resize to 90 % or more, pad": lambda x, generator: random_resize_and_pad(x, 0.9, generator=generator),
    "rotation ± 10°": lambda x, generator: random_rotation(x, 10, generator=generator),
    "print and photograph, half": lambda x, generator: print_and_photograph(x, strength=0.5, generator=generator),
    "print and photograph": lambda x, generator: print_and_photograph(x, generator=generator),
}


class EOTModel(nn.Module):
    """The model behind a transformation: logits are log-probabilities averaged over newly drawn views of the image.

    Any attack on it expects the transformations, inside its own ball and box around the untransformed x. With one
    view it climbs E[log p(y | t(x))] of the paper by single draws; with several, a loss normalises the mean of the log
    probabilities anew, so that its gradient is near the expectation's, not equal. Each call draws anew: judge the
    result with draws of another seed. PGD keeps its best iterate as judged by few draws: with very few, by luck.

    Args:
        model: maps images (N, C, H, W) to logits (N, K). transformation: called as transformation(x, generator).
        samples: views of every image in one call. generator: source of their draws; None for the global stream.

    Raises:
        ValueError, TypeError: samples is no whole number of at least 1.

    >>> from course_utils.attacks import pgd
    >>> flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    >>> seen = EOTModel(flat, TRANSFORMATIONS["rotation ± 10°"], samples=4)
    >>> pgd(seen, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), 8 / 255, steps=3).shape
    torch.Size([2, 3, 8, 8])

    Athalye, Engstrom, Ilyas and Kwok, "Synthesizing robust adversarial examples", 2018.
    """

    def __init__(
        self,
        model: Model,
        transformation: Transformation,
        *,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_count("samples", samples)
        self.model, self.transformation, self.samples, self.generator = model, transformation, samples, generator

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] → (N, K)."""
        views = torch.cat([self.transformation(x, self.generator) for _ in range(self.samples)])
        return self.model(views).log_softmax(1).unflatten(0, (self.samples, len(x))).mean(0)


# Draws and checks -----------------------------------------------------------------------------------------------------


def uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    """Draw a number between low and high."""
    return low + (high - low) * _draw(torch.rand, (), generator).item()


def place(room: int, generator: torch.Generator | None) -> int:
    """Draw one of the places 0 to room, all with equal chance."""
    return int(uniform(0, room + 1, generator))


def _draw(kind: Callable[..., Tensor], shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return kind(shape, generator=generator, device="cpu" if generator is None else generator.device)


def _checked_share(share: float, *, below: float = math.inf) -> float:
    share = checked_number("the share", share)
    if share > 1 or share >= below:
        raise ValueError(f"the share must be from 0 to {'below ' * (below < 1)}{min(below, 1)}, got {share:g}.")
    return share


def _sides(x: Tensor, share: float) -> list[int]:
    """Return a share of height and width, whole pixels."""
    return [max(1, round(share * side)) for side in x.shape[-2:]]


def _each(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the images one by one, each with its own draws; interpolation may leave [0, 1] by rounding."""
    return torch.cat([change(image) for image in x.split(1)]).clamp(0, 1) if len(x) else x.clone()


def _straight_through(seen: Tensor, x: Tensor) -> Tensor:
    return seen.detach() + (x - x.detach())
