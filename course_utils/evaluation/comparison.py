"""Models × inputs × seeds: which images each model gets right, in one table with intervals."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch import Tensor

from ..core.intervals import Difference, paired_difference, wilson
from ..core.parallel import parallel_map
from ..core.validation import Model, check_adversarial, check_count, check_images, checked_labels
from .metrics import correct

Attack: TypeAlias = Callable[[Model, Tensor, Tensor], Tensor]
BATCH = 256  # images that are attacked at once


@dataclass(frozen=True)
class After:
    """An attack on those images only that another input of the comparison left right; the others stay wrong.

    Args:
        name: of the earlier input: an attack, or as many images as x. attack: called as attack(model, x, y).
    """

    name: str
    attack: Attack


Input: TypeAlias = Tensor | tuple[Tensor, Tensor] | Attack | After


@dataclass(frozen=True, repr=False)
class Comparison:
    """Which images each model got right on each input. In a notebook it shows itself as a table.

    Args:
        frame: one row for each model, seed and input: model, seed, input, n, correct, accuracy (correct / n) and its
            95 % Wilson interval low, high.
        masks: by (model, input, seed), which images (n,) were right.
        images: by (model, input, seed), what the attacks made of x, alike.
        transposed: show inputs × models, for few models and many inputs.
    """

    frame: pd.DataFrame
    masks: Mapping[tuple[Hashable, Hashable, int], Tensor]
    images: Mapping[tuple[Hashable, Hashable, int], Tensor]
    transposed: bool = False

    @property
    def T(self) -> Comparison:
        """The same comparison, whose table has inputs as rows."""
        return replace(self, transposed=not self.transposed)

    def table(self) -> pd.DataFrame:
        """Return accuracies, models × inputs, each the mean over the seeds; NaN where a model did not meet an input."""
        models, inputs = (self.frame[column].drop_duplicates().tolist() for column in ("model", "input"))
        rows = [[self._rows(model, name).accuracy.mean() for name in inputs] for model in models]
        table = pd.DataFrame(rows, pd.Index(models, tupleize_cols=False), pd.Index(inputs, tupleize_cols=False))
        return table.T if self.transposed else table

    def by_seed(self, model: Hashable, name: Hashable) -> list[float]:
        """Return a model's accuracy on an input, seed by seed.

        Raises:
            KeyError: no such model or input.
        """
        found = self._rows(model, name).accuracy.tolist()
        if not found:
            raise KeyError(f"{model!r} was not compared on {name!r}.")
        return found

    def mask(self, model: Hashable, name: Hashable, seed: int = 0) -> Tensor:
        """Return which images (n,) a model got right."""
        return self.masks[model, name, seed]

    def difference(self, model: Hashable, first: Hashable, second: Hashable, seed: int = 0) -> Difference:
        """Return a model's accuracy on a second input minus that on a first, image by image, with its 95 % interval.

        Raises:
            KeyError: no such model or input. ValueError: the inputs hold different numbers of images.
        """
        before, after = self.mask(model, first, seed), self.mask(model, second, seed)
        return _difference(first, before, second, after)

    def lead(self, model: Hashable, other: Hashable, name: Hashable, seed: int = 0) -> Difference:
        """Return a model's accuracy on an input minus that of another model, image by image, with its 95 % interval.

        Raises:
            KeyError: no such model or input. ValueError: the models met different numbers of images.
        """
        mine, theirs = self.mask(model, name, seed), self.mask(other, name, seed)
        return _difference(other, theirs, model, mine)

    def masks_of(self, model: Hashable, seed: int = 0) -> list[Tensor]:
        """Return the masks (n,) of all inputs of a model, in their order: what `worst_case` takes."""
        return [mask for (name, _, number), mask in self.masks.items() if (name, number) == (model, seed)]

    def __str__(self) -> str:
        return (100 * self.table()).to_string(float_format="{:.1f} %".format, na_rep="–")

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        table = self.table()
        rows = [["", *table.columns], ["---"] * (1 + len(table.columns))]
        rows += [[row, *(self._cell(row, column) for column in table.columns)] for row in table.index]
        sizes, seeds = self.frame.n.unique(), self.frame.groupby("model", sort=False).seed.nunique()
        kinds = ["95 % Wilson interval in brackets"] if seeds.min() == 1 else []
        kinds += [f"mean of {seeds.max()} seeds (lowest–highest)"] if seeds.max() > 1 else []
        n = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes.min():,} to {sizes.max():,}"
        lines = ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
        return "\n".join(lines) + f"\n\nImages classified correctly, {' or '.join(kinds)}; n = {n}."

    def _rows(self, model: Hashable, name: Hashable) -> pd.DataFrame:
        pairs = zip(self.frame.model, self.frame.input, strict=True)
        return self.frame[[pair == (model, name) for pair in pairs]]

    def _cell(self, row: Hashable, column: Hashable) -> str:
        rows = self._rows(*((column, row) if self.transposed else (row, column)))
        if rows.empty:
            return "–"
        seeds = len(rows) > 1
        low, high = (rows.accuracy.min(), rows.accuracy.max()) if seeds else (rows.low.iloc[0], rows.high.iloc[0])
        digits = 1 if rows.n.min() >= 1000 else 0
        return f"{100 * rows.accuracy.mean():.{digits}f} % ({100 * low:.{digits}f}–{100 * high:.{digits}f})"


def _difference(first: Hashable, before: Tensor, second: Hashable, after: Tensor) -> Difference:
    """Return the share of a second mask minus that of a first one, image by image."""
    if len(before) != len(after):
        raise ValueError(f"a pair needs the same images: {first!r} has {len(before)}, {second!r} {len(after)}.")
    return paired_difference(int((after & ~before).sum()), int((before & ~after).sum()), len(before))


def compare(
    models: Mapping[Any, Model | Sequence[Model]],
    x: Tensor,
    y: Tensor,
    inputs: Mapping[Any, Input] | Callable[[Any], Mapping[Any, Input]],
    *,
    parts: int = 1,
    workers: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Show every model every input, and count what it gets right; several models at once.

    Under an attack an image counts if the model is right before and after it. Images that are given count as they are.
    An attack that draws from the global random stream gets a stream of its own for each
    model, seed and part, which follows from the caller's: the number of workers changes nothing.

    Args:
        models: by name, one model, or a list of the same model from several seeds.
        x, y: the images (N, ...) that are attacked, and their labels (N,).
        inputs: by name: images, whose labels are the first of y; a pair (images, labels); an attack that is made on
            each model, called as attack(model, x, y), such as an `Adversary` or partial(attacks.fgsm, eps=0.1); or
            `After`. Or a function of a model's name that returns them, where models meet different inputs.
        parts: cut the images into so many parts, which are attacked at once: for few models and slow attacks.
        workers: processes, see `parallel_map`. progress: show a bar.

    Raises:
        ValueError, TypeError: before any computing: no model, no input, something that is no input, labels that do not
            match, an `After` whose input does not come before it. As `correct`, and as the attacks.

    >>> from course_utils.attacks import fgsm
    >>> x, line = torch.rand(9, 2), torch.nn.Linear(2, 2)
    >>> inputs = {"clean": x, "FGSM": lambda model, x, y: fgsm(model, x, y, 0.1)}
    >>> compare({"line": line}, x, line(x).argmax(1), inputs, progress=False).frame.correct[0].item()
    9
    """
    check_images(x, None)
    y = checked_labels(y, x) if len(y) == len(x) else y
    check_count("parts", parts)
    cases = list(_cases(models, x, y, inputs))
    jobs = [(model, *_part(x, y, some, i, parts)) for _, _, model, some in cases for i in range(parts)]
    found = parallel_map(_answers, *zip(*jobs, strict=True), device=x.device, workers=workers, progress=progress)
    masks, images, rows = {}, {}, []
    for number, (name, seed, _, some) in enumerate(cases):
        pieces = found[number * parts : (number + 1) * parts]
        for column, value in some.items():
            mask = torch.cat([piece[column][0] for piece in pieces])
            masks[name, column, seed] = mask
            if not isinstance(value, tuple):
                images[name, column, seed] = torch.cat([piece[column][1] for piece in pieces])
            n, right = len(mask), int(mask.sum())
            rows.append((name, seed, column, n, right, right / n, *wilson(right, n)))
    names = ["model", "seed", "input", "n", "correct", "accuracy", "low", "high"]
    return Comparison(pd.DataFrame(rows, columns=names), masks, images)


def _cases(models: Any, x: Tensor, y: Tensor, inputs: Any) -> Iterator[tuple[Hashable, int, Model, dict[str, Any]]]:
    """Yield name, seed, model and inputs of each row, or refuse."""
    if not isinstance(models, Mapping) or not models:
        raise TypeError("compare needs a mapping with at least one model by name, such as {'CNN': cnn}.")
    for name, versions in models.items():
        some = inputs(name) if callable(inputs) else inputs
        if not isinstance(some, Mapping) or not some:
            raise TypeError(f"{name!r} needs a mapping with at least one input by name, such as {{'clean': x}}.")
        checked: dict[str, Any] = {}
        for column, value in some.items():
            checked[column] = _checked_input(column, value, x, y, checked)
        versions = versions if isinstance(versions, list | tuple) else [versions]
        if not versions or not all(map(callable, versions)):
            raise TypeError(f"{name!r} must be a model, or a list of one model from several seeds.")
        for seed, model in enumerate(versions):
            yield name, seed, model, checked


def _checked_input(column: str, value: Any, x: Tensor, y: Tensor, earlier: Mapping[str, Any]) -> Any:
    """Return images with their labels, or an attack; or refuse."""
    if isinstance(value, Tensor):
        if len(value) > len(y):
            raise ValueError(f"{column!r} has {len(value)} images and y {len(y)} labels: give a pair (images, labels).")
        value = value, y[: len(value)]
    if isinstance(value, tuple) and len(value) == 2:
        images, labels = value
        check_images(images, None, f"the images of {column!r}")
        if not len(images):
            raise ValueError(f"{column!r} holds no image.")
        return images, checked_labels(labels, images)
    if not (isinstance(value, After) or callable(value)):
        kind = type(value).__name__
        raise TypeError(f"{column!r} must be images, a pair (images, labels) or an attack(model, x, y); got a {kind}.")
    if len(x) == 0 or len(y) != len(x):
        raise ValueError(f"an attack needs one label for each image: got {len(x)} images and {len(y)} labels.")
    if isinstance(value, After):
        before = earlier.get(value.name)
        if before is None or (isinstance(before, tuple) and len(before[0]) != len(x)):
            raise ValueError(f"{column!r} goes on after {value.name!r}, which must come before it and be as long as x.")
    return value


def _part(x: Tensor, y: Tensor, inputs: dict[str, Any], i: int, parts: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return the i-th part of all images and labels; no x where nothing is attacked."""

    def piece(tensor: Tensor) -> Tensor:
        part = tensor.tensor_split(parts)[i]
        is_view = part.untyped_storage().nbytes() > part.nbytes
        return part.clone() if is_view else part  # a view would travel to another process with the whole

    some = {name: tuple(map(piece, value)) if isinstance(value, tuple) else value for name, value in inputs.items()}
    if all(isinstance(value, tuple) for value in inputs.values()):
        return x[:0].clone(), y[:0].clone(), some
    return piece(x), piece(y), some


def _answers(model: Model, x: Tensor, y: Tensor, inputs: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Return by input which images (n,) the model gets right, and what an attack made of x."""
    found: dict[str, tuple[Tensor, Tensor | None]] = {}
    nothing = torch.ones(0, dtype=torch.bool, device=x.device)
    clean = correct(model, x, y) if len(x) else nothing
    for name, value in inputs.items():
        if isinstance(value, tuple):
            found[name] = (correct(model, *value) if len(value[0]) else nothing), None
            continue
        mask, chosen, attack = clean.clone(), torch.arange(len(x), device=x.device), value
        if isinstance(value, After):
            mask, attack = found[value.name][0].clone(), value.attack
            chosen = mask.nonzero().flatten()
        images = x.clone()
        for part in chosen.split(BATCH):
            if len(part):
                images[part] = _checked_attack(attack, model, x[part], y[part])
                mask[part] &= correct(model, images[part], y[part])
        found[name] = mask, images
    return found


def _checked_attack(attack: Attack, model: Model, x: Tensor, y: Tensor) -> Tensor:
    adv = attack(model, x, y)
    check_adversarial(adv, x)
    return adv
