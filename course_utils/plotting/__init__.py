"""Static pictures, each with a text for those who cannot see it. Importing this room does not import torch.

- `figures`: axes, images, bars, lines, heat maps
"""

from .figures import COLOURS, class_bars, curves, figure, heatmap, image_grid, line, show, show_image

__all__ = ["COLOURS", "class_bars", "curves", "figure", "heatmap", "image_grid", "line", "show", "show_image"]
