"""What every other room needs: where the course runs, files written whole, checks of arguments, intervals.

- `settings`: device, seeds, and the folders for downloads and trained networks
- `machine`: cores and GPUs; `parallel`: several small trainings or attacks side by side
- `files`: files that are written whole or not at all
- `validation`: what images, labels, radii and counts must be, for attacks and all others
- `intervals`: shares, and differences of pairs, with their 95 % intervals
- `suggestions`: "did you mean …?"
- `templates`: the pages that are written, from the folder `templates`
- `vision`: the only place that imports torchvision

A chapter uses `choose_device`, `describe`, `seed_everything` and `percent`. Importing this room does not import torch.
"""

from .intervals import percent, wilson
from .settings import PROJECT, choose_device, describe, seed_everything

__all__ = ["PROJECT", "choose_device", "describe", "percent", "seed_everything", "wilson"]
