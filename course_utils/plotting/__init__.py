"""Static pictures, each with a text for those who cannot see it. Importing this room does not import torch.

- `figures`: axes, images, changes, bars, lines, heat maps, the paths of an attack
"""

from .figures import (
    COLOURS,
    changes,
    class_bars,
    class_curves,
    curves,
    figure,
    heatmap,
    image_grid,
    line,
    show,
    show_image,
    two_pixel_paths,
)

__all__ = [
    "COLOURS",
    "changes",
    "class_bars",
    "class_curves",
    "curves",
    "figure",
    "heatmap",
    "image_grid",
    "line",
    "show",
    "show_image",
    "two_pixel_paths",
]
