"""What printing, cameras and files do to an image, and the expectation over it (EOT) for attacks.

Every transformation takes images (N, C, H, W) in [0, 1] and returns new ones of the same shape. A random one draws for
each image anew, from its generator; the global random stream is then left alone. All are differentiable; rounding and
JPEG have the gradient of the identity (straight-through estimator).
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
GREY = [0.5]  # of the corners that a rotated image leaves empty
BATCH = 8  # photos in one forward pass: on a CPU faster than 32, whose activations do not fit into its cache

Transformation = Callable[[Tensor, torch.Generator | None], Tensor]


# Transformations ------------------------------------------------------------------------------------------------------


def quantise(x: Tensor) -> Tensor:
    """Round pixels to 256 levels, as an 8-bit file does; straight-through gradient.

    >>> (quantise(torch.full((1, 1, 1, 1), 0.3)) * 255).item()
    76.0
    """
    check_batch(x)
    return straight_through((x * 255).round() / 255, x)


def jpeg(x: Tensor, quality: int = 75) -> Tensor:
    """Write each image as a JPEG file and read it back; straight-through gradient.

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
    decoded = [_jpeg_round_trip(image, quality) for image in x.detach().cpu()]
    return straight_through(torch.stack(decoded).to(x), x) if decoded else x.clone()


def _jpeg_round_trip(image: Tensor, quality: int) -> Tensor:
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


def resize_and_back(x: Tensor, scale: float) -> Tensor:
    """Shrink height and width by a factor of at most 1, then enlarge again."""
    check_batch(x)
    height, width = x.shape[-2:]
    small = F.resize(x, _sides(x, _checked_fraction("scale", scale)), antialias=True)
    return F.resize(small, [height, width], antialias=True).clamp(0, 1)


def random_crop(x: Tensor, scale: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Cut out a window of height and width times `scale`, anywhere, and enlarge it to the old size."""
    check_batch(x)
    (height, width), window = x.shape[-2:], _sides(x, _checked_fraction("scale", scale))

    def cropped(image: Tensor) -> Tensor:
        top, left = random_integer(height - window[0], generator), random_integer(width - window[1], generator)
        return F.resized_crop(image, top, left, *window, [height, width], antialias=True)

    return _each(x, cropped)


def random_resize_and_pad(x: Tensor, scale: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Shrink by a random factor between `scale` and 1, and pad with zeros at random.

    Xie et al., "Mitigating adversarial effects through randomization", 2018.
    """
    check_batch(x)
    scale, (height, width) = _checked_fraction("scale", scale), x.shape[-2:]

    def padded(image: Tensor) -> Tensor:
        small = F.resize(image, _sides(x, random_uniform(scale, 1, generator)), antialias=True)
        down, right = height - small.shape[-2], width - small.shape[-1]
        top, left = random_integer(down, generator), random_integer(right, generator)
        return F.pad(small, [left, top, right - left, down - top])

    return _each(x, padded)


def random_rotation(x: Tensor, degrees: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Rotate about the centre by up to so many degrees, either way; empty corners become grey."""
    check_batch(x)
    degrees = checked_number("degrees", degrees)
    return _each(x, lambda image: F.rotate(image, random_uniform(-degrees, degrees, generator), BILINEAR, fill=GREY))


def random_perspective(x: Tensor, distortion: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Move each corner inwards by up to `distortion` times width and height (below 0.5), as seen at an angle."""
    check_batch(x)
    height, width = x.shape[-2:]
    corners = torch.tensor([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])
    inwards = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    farthest = _checked_fraction("distortion", distortion, below=0.5) * torch.tensor([width - 1, height - 1])

    def tilted(image: Tensor) -> Tensor:
        moved = corners + inwards * farthest * _draw(torch.rand, (4, 2), generator).cpu()
        return F.perspective(image, corners.tolist(), moved.tolist(), fill=GREY)

    return _each(x, tilted)


def random_brightness_contrast(x: Tensor, change: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Multiply brightness, then contrast, by a factor between 1 − change and 1 + change each."""
    check_batch(x)
    change = _checked_fraction("change", change)

    def changed(image: Tensor) -> Tensor:
        brightness, contrast = (random_uniform(1 - change, 1 + change, generator) for _ in range(2))
        return F.adjust_contrast(F.adjust_brightness(image, brightness), contrast)

    return _each(x, changed)


def gaussian_noise(x: Tensor, sigma: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Add Gaussian noise of standard deviation sigma, pixel units, and clip to [0, 1]."""
    check_batch(x)
    return (x + checked_number("sigma", sigma) * _draw(torch.randn, x.shape, generator).to(x)).clamp(0, 1)


def print_and_photograph(x: Tensor, *, strength: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Imitate a printer and a hand-held camera: perspective, rotation, brightness, contrast, blur, noise, JPEG.

    Args:
        x: images (N, 1 or 3, H, W). strength: 0 (only the JPEG file, quality 95) to 2; 1 rotates by up to 10°, moves
            corners by up to 10 %, changes brightness and contrast by up to 20 %, blurs by 0.7 pixels, adds noise of
            standard deviation 0.02, and writes JPEG of quality 75.
        generator: see `course_utils.attacks`.

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
    x = random_brightness_contrast(x, 0.2 * strength, generator=generator)
    x = blur(x, 0.7 * strength)
    x = gaussian_noise(x, 0.02 * strength, generator=generator)
    return jpeg(x, round(95 - 20 * strength))


TRANSFORMATIONS: dict[str, Transformation] = {
    "8-bit file": lambda x, _: quantise(x),
    "light ± 20 %": lambda x, generator: random_brightness_contrast(x, 0.2, generator=generator),
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
    """Expectation over transformation: log-probabilities averaged over newly drawn transformations of the image.

    Any attack on it maximises the expected loss, inside its own ball and box around the untransformed x. With one
    sample its gradient is an unbiased estimate of the paper's, of E[log p(y | t(x))]; with several, a loss normalises
    the mean of the log-probabilities anew, which brings in a small bias. Each call draws anew: evaluate the result
    with another seed. The iterate that PGD keeps as the best is the best for few draws only.

    Args:
        model: see `course_utils.attacks`. transformation: called as transformation(x, generator).
        samples: draws for every image in one call. generator: their source; None for the global stream.

    Raises:
        ValueError, TypeError: samples is no whole number of at least 1.

    >>> from course_utils.attacks import pgd
    >>> flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    >>> eot = EOTModel(flat, TRANSFORMATIONS["rotation ± 10°"], samples=4)
    >>> pgd(eot, torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), 8 / 255, steps=3).shape
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
        transformed = torch.cat([self.transformation(x, self.generator) for _ in range(self.samples)])
        return self.model(transformed).log_softmax(1).unflatten(0, (self.samples, len(x))).mean(0)


# Draws and checks -----------------------------------------------------------------------------------------------------


def random_uniform(low: float, high: float, generator: torch.Generator | None) -> float:
    """Draw a number between low and high."""
    return low + (high - low) * _draw(torch.rand, (), generator).item()


def random_integer(highest: int, generator: torch.Generator | None) -> int:
    """Draw one of the numbers 0 to highest, all with equal chance."""
    return int(random_uniform(0, highest + 1, generator))


def _draw(kind: Callable[..., Tensor], shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return kind(shape, generator=generator, device="cpu" if generator is None else generator.device)


def _checked_fraction(name: str, value: float, *, below: float = math.inf) -> float:
    value = checked_number(name, value)
    if value > 1 or value >= below:
        raise ValueError(f"{name} must be from 0 to {'below ' * (below < 1)}{min(below, 1)}, got {value:g}.")
    return value


def _sides(x: Tensor, scale: float) -> list[int]:
    """Return height and width times scale, whole pixels."""
    return [max(1, round(scale * side)) for side in x.shape[-2:]]


def _each(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change the images one by one, each with its own draws; interpolation may leave [0, 1] by rounding."""
    return torch.cat([change(image) for image in x.split(1)]).clamp(0, 1) if len(x) else x.clone()


def straight_through(value: Tensor, x: Tensor) -> Tensor:
    """Return value with the gradient of x: the straight-through estimator (Bengio, Léonard and Courville 2013)."""
    return value.detach() + (x - x.detach())
