"""Images in [0, 1] with their labels, from checked files only: nothing is fetched at import.

- `digits`: MNIST and Fashion-MNIST, (N, 1, 28, 28)
- `photos`: photographs, (3, H, W) each, and how a network trained on ImageNet wants them
"""

from .digits import DATASETS, SPLITS, load_images
from .photos import load_photos, preprocess, read_photo, save_png

__all__ = ["DATASETS", "SPLITS", "load_images", "load_photos", "preprocess", "read_photo", "save_png"]
