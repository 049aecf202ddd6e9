"""Photographs: those that come with packages and those of the reader, as float tensors (3, H, W) in [0, 1]."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from io import BytesIO
from numbers import Integral
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.files import atomic_write

SAMPLES = {
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
}

# Those whose decoders come with Pillow or add themselves to it; its other formats are rare, and one runs programs.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
MAX_SIDE = 4096  # pixels; a photo of this size takes 200 MB
MAX_ASPECT_RATIO = 30  # a longer picture is no photo, and resizing it takes gigabytes


def load_photos(source: str | Path | None = None) -> dict[str, Tensor]:
    """Return photos by name, each (3, H, W) in [0, 1] in its own size, with values k/255.

    Args:
        source: a picture or a folder of pictures (hidden files and folders in it are left out); None for the six
            that come with scikit-image, scikit-learn and matplotlib, which need no network.

    Photos are rotated by their EXIF orientation, transparent ones composited on white. Those with more than 4096 pixels
    on a side are made smaller, with a warning; another warning names the files in a folder that are no pictures.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: nothing in it can be read; the message says why.

    >>> photos = load_photos()
    >>> list(photos), photos["coffee"].shape
    (['chelsea', 'coffee', 'rocket', 'china', 'flower', 'grace_hopper'], torch.Size([3, 400, 600]))
    """
    if source is None:
        return {name: read_photo(_sample(*place)) for name, place in SAMPLES.items()}
    path = Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}: correct the path.")
    return _folder(path) if path.is_dir() else {path.stem: read_photo(path)}


def _sample(package: str, place: str) -> Path:
    spec = find_spec(package)  # finds the folder without importing the package
    path = Path(spec.origin).parent / place if spec else Path(package, place)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: reinstall {package}, with the version in requirements.txt.")
    return path


def _folder(folder: Path) -> dict[str, Tensor]:
    files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    photos, skipped = {}, []
    for name, file in zip(_names(files), files, strict=True):
        try:
            photos[name] = read_photo(file)
        except ValueError as error:
            skipped.append(str(error))
    reasons = "\n".join(skipped)
    if not photos:
        found = f"none of its {len(files)} files can be read:\n{reasons}" if files else "it holds no files."
        raise ValueError(
            f"there is no photo in {folder}: {found}\nPut JPEG or PNG files there, or name another folder."
        )
    if skipped:
        warnings.warn(f"left out {len(skipped)} of {len(files)} files in {folder}:\n{reasons}", stacklevel=3)
    return photos


def _names(files: list[Path]) -> list[str]:
    """Return names without suffix, but with it where two files would get the same."""
    stems, names = [file.stem for file in files], {file.name for file in files}
    return [f.name if stems.count(f.stem) > 1 or f.stem in names else f.stem for f in files]


def read_photo(file: str | Path | bytes | memoryview) -> Tensor:
    """Return one picture, as `load_photos` does: (3, H, W) in [0, 1], values k/255.

    Args:
        file: its path, or what is in it (as `ipywidgets.FileUpload` gives it).

    Raises:
        FileNotFoundError: no such file. ValueError: it is no picture, damaged, or too large; the message says which.
    """
    is_content = isinstance(file, bytes | memoryview)
    name = "the picture" if is_content else str(file)
    try:
        with BytesIO(file) if is_content else Path(file).expanduser().open("rb") as stream:
            picture = _decoded(stream, name)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {name}: correct the path.") from None
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}.") from error
    if max(picture.size) > MAX_SIDE:
        was = "{} by {}".format(*picture.size)
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        now = "{} by {}".format(*picture.size)
        warnings.warn(f"{name} has {was} pixels: it is used at {now}.", stacklevel=2)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255).contiguous()


def _decoded(stream: BinaryIO, name: str) -> Image.Image:
    """Return a picture upright, in RGB."""
    head = stream.read(12)
    stream.seek(0)
    Image.init()
    try:
        with warnings.catch_warnings():
            # Large, but not too large to be made smaller
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(stream, formats=[f for f in FORMATS if f in Image.OPEN])
            return _rgb(ImageOps.exif_transpose(picture))
    except Image.UnidentifiedImageError:
        raise ValueError(f"{name} {_kind(head)}") from None
    except Image.DecompressionBombError:
        most = 2 * Image.MAX_IMAGE_PIXELS // 10**6
        raise ValueError(f"{name} has more than {most} million pixels: make it smaller first.") from None
    except Exception as error:  # each of Pillow's decoders has errors of its own
        raise ValueError(
            f"{name} cannot be decoded ({error}): it may be damaged or cut off. Take another copy, or save it as PNG."
        ) from error


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # Pillow would cut off what is above 255
        return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of unknown range")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def _kind(head: bytes) -> str:
    """Say what a file is that Pillow does not know, by its first bytes."""
    if not head:
        return "is empty."
    if head[4:8] == b"ftyp":
        return (
            "is a HEIC picture or a video, or damaged, whatever its name says: export it as JPEG "
            "(iPhone: Settings, Camera, Formats, Most Compatible)."
        )
    return "is no picture of a known kind (JPEG, PNG, WebP, GIF, BMP, TIFF)."


def save_png(x: Tensor, path: str | Path) -> None:
    """Write a picture as an 8-bit PNG, each value rounded to the nearest k/255; `read_photo` reads it back.

    Args:
        x: (3, H, W) in [0, 1]. path: of the file, which ends in .png.

    Raises:
        ValueError: another shape, values outside [0, 1], another ending. OSError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_png(torch.full((3, 2, 2), 0.25), Path(folder, "grey.png"))
    ...     read_photo(Path(folder, "grey.png"))[0, 0, 0] * 255
    tensor(64.)
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".png":
        raise ValueError(f"expected a file name that ends in .png, got {path.name!r}: JPEG would change the pixels.")
    _check(x)
    pixels = (x.detach().cpu() * 255).round().byte()  # truncating would leave a ball of 8-bit radius
    with atomic_write(path) as part:
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(part, format="PNG")


def preprocess(
    photos: Tensor | Iterable[Tensor] | Mapping[str, Tensor], size: int = 224, *, resize: int | None = None
) -> Tensor:
    """Return photos as one batch (N, 3, size, size) in [0, 1]: resized by the short side, then cut to the middle.

    Bilinear and antialiased, as torchvision's networks expect it. The values are k/255 again, as a file would hold
    them.

    Args:
        photos: one (3, H, W) in [0, 1], several, or several by name. size: pixels of the square.
        resize: pixels of the short side before cropping; by default 256/224 of `size`.

    Raises:
        ValueError: no photos, another shape, values outside [0, 1], more than thirty times as long as wide,
            a resize below size.

    >>> preprocess(load_photos()).shape
    torch.Size([6, 3, 224, 224])
    """
    resize = round(size * 256 / 224) if resize is None else resize
    if not (isinstance(size, Integral) and isinstance(resize, Integral) and 1 <= size <= resize):
        raise ValueError(f"expected whole numbers 1 <= size <= resize, got size={size!r}, resize={resize!r}.")
    if isinstance(photos, Mapping):
        photos = photos.values()
    several = [photos] if isinstance(photos, Tensor) and photos.dim() == 3 else list(photos)
    if not several:
        raise ValueError("expected at least one photo, got none.")
    return torch.stack([_square(photo, size, resize) for photo in several])


def _square(photo: Tensor, size: int, resize: int) -> Tensor:
    from ..core.vision import torchvision

    transform = torchvision.transforms.functional
    _check(photo)
    height, width = photo.shape[-2:]
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"a picture of {width} by {height} pixels is too narrow: cut a square out of it first.")
    resized = transform.resize(photo, [resize], antialias=True)
    return transform.center_crop(resized, [size, size]).mul(255).round().div(255)


def _check(photo: Tensor) -> None:
    if not isinstance(photo, Tensor) or photo.dim() != 3 or photo.shape[0] != 3 or not photo.is_floating_point():
        got = f"{photo.dtype} {tuple(photo.shape)}" if isinstance(photo, Tensor) else type(photo).__name__
        raise ValueError(f"expected a float tensor (3, H, W), got {got}: load pictures with data.load_photos.")
    if not photo.numel() or not (photo.min() >= 0 and photo.max() <= 1):  # a NaN is not in the range either
        raise ValueError("expected values in [0, 1] and at least one pixel: data.load_photos gives such pictures.")
