"""Pictures inside a page: a figure as a data URI, and a notebook's thumbnail."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:  # two seconds to import, which the page of a sweep does without
    import nbformat

THUMBNAIL_SIZE = (640, 300)  # at most, in pixels; pages show it at half of that, sharp on screens with fine pixels
MAX_PIXELS = 20_000_000  # a picture that is larger is no figure of a chapter


@dataclass(frozen=True)
class Picture:
    """What an <img> says: its source, which holds the picture itself, its alt text, and its size in pixels."""

    src: str
    alt: str
    width: int
    height: int

    @classmethod
    def from_png(cls, png: bytes, alt: str) -> Picture:
        """Return the picture in the bytes of a PNG.

        Raises:
            OSError: the bytes are no picture.
        """
        width, height = Image.open(io.BytesIO(png)).size
        return cls(f"data:image/png;base64,{base64.b64encode(png).decode()}", alt, width, height)


def thumbnail(nb: nbformat.NotebookNode) -> Picture | None:
    """Return a small copy of a notebook's largest figure that has an alt text; None if it has no figure.

    The largest figure shows most: rows of attacked images, a matrix, surfaces. Its size is the same in every run, so
    that a chapter keeps its thumbnail.
    """
    from ..plotting.figures import packed_png  # imports matplotlib

    found = max(_figures(nb), key=lambda figure: figure[0].width * figure[0].height, default=None)
    if found is None:
        return None
    image, alt = found
    small = image.convert("RGBA")
    small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small).convert("RGB")
    small.thumbnail(THUMBNAIL_SIZE, Image.Resampling.LANCZOS)
    return Picture.from_png(packed_png(small), alt)


def _figures(nb: nbformat.NotebookNode) -> Iterator[tuple[Image.Image, str]]:
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            png = output.get("data", {}).get("image/png")
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            image = _decode(png) if png and alt else None
            if image:
                yield image, str(alt)


def _decode(png: str) -> Image.Image | None:
    """Return the picture in an output, or None where there is none: the page is written without a broken figure."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(png)), formats=["PNG"])
        if image.width * image.height > MAX_PIXELS:
            return None
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow raises all four
        return None
    return image
