"""Attacks on scikit-learn's classifiers, of which some have no gradient to follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from ..core.validation import Box, Model, check_count, check_images, checked_labels, checked_radius
from ..models.inference import checked_logits
from ..models.sklearn_models import (
    SklearnClassifier,
    _checked_victim,
    _flat,
    _squared_distances,
    _training_images,
    surrogate,
)
from .gradient_based import fgsm
from .threat_model import projected


def generate(
    source: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    attack: Callable[..., Tensor] = fgsm,
    batch_size: int = 256,
    **attack_kwargs: object,
) -> Tensor:
    """Return a source's adversarial images: `attack` on the network or on the classifier's surrogate; `tree_attack`.

    Args:
        source: a network, or a ClassicalVictim. x, y, eps: as in `fgsm`.
        attack: called as attack(model, x, y, eps, **attack_kwargs), batch by batch. A tree has no gradient to
            follow: of the keywords it takes `clip`, and refuses those that ask for another ball or another aim.

    Raises:
        TypeError: a classifier without an attack of its own. ValueError, TypeError, RuntimeError: as the attack.

    >>> generate(nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), 0.1).shape
    torch.Size([1, 2])
    """
    check_count("batch_size", batch_size)
    check_images(x, None)
    y = checked_labels(y, x)
    if isinstance(source, SklearnClassifier):
        if isinstance(source.estimator, DecisionTreeClassifier):
            if attack_kwargs.get("targeted") or attack_kwargs.get("norm", "linf") != "linf":
                raise ValueError(f'a tree is attacked untargeted and in norm "linf" only, got {attack_kwargs}.')
            return tree_attack(source, x, y, eps, clip=attack_kwargs.get("clip", (0.0, 1.0)))
        source = surrogate(source).to(x.device)
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return torch.cat([attack(source, *part, eps, **attack_kwargs) for part in parts])


# Attacks without a gradient -----------------------------------------------------------------------------------------


def tree_attack(victim: SklearnClassifier, x: Tensor, y: Tensor, eps: float, *, clip: Box = (0.0, 1.0)) -> Tensor:
    """Move each image to the nearest leaf of a decision tree that answers another class than y.

    A leaf is a box: a range for each pixel on its path. To enter it, every pixel outside its range moves to the end of
    the range; the largest of these moves is the leaf's linf distance. The smallest over all leaves is the exact minimal
    change; where it exceeds eps, the image stops on the way.

    Args:
        victim: of a DecisionTreeClassifier. x, y, eps, clip: as in `fgsm`.

    Returns:
        Images like x; unchanged where the tree says another class than y already, or no leaf lies inside `clip`.

    Raises:
        ValueError, TypeError: as `fgsm`; another classifier than a tree.

    >>> x, y = torch.tensor([[0.0], [0.1], [0.9], [1.0]]), torch.tensor([0, 0, 1, 1])
    >>> tree_attack(fit_sklearn("tree", x, y), torch.tensor([[0.75]]), torch.tensor([1]), eps=0.3)
    tensor([[0.5000]])

    Papernot, McDaniel and Goodfellow, "Transferability in machine learning", 2016.
    """
    _checked_victim(victim, DecisionTreeClassifier)
    eps = checked_radius(x, eps, "linf", clip)
    y = checked_labels(y, x)
    x = x.detach()
    if x.numel() == 0:
        return x.clone()
    pixels = _pixels_of_known(victim, x, y)
    low, high = (-math.inf, math.inf) if clip is None else clip
    goal, smallest = pixels.clone(), pixels.new_full((len(x),), math.inf)
    for leaf in _leaves(victim.estimator, x):
        before = pixels[:, leaf.pixels]
        after = before.clamp(leaf.low, leaf.high)
        change = (after - before).abs().amax(1)
        inside = ((after >= low) & (after <= high)).all(1)
        better = (y != leaf.answer) & inside & (change < smallest)
        rows = better.nonzero()
        goal[better] = pixels[better]
        goal[rows, leaf.pixels] = after[better]
        smallest = torch.where(better, change, smallest)
    return projected(goal.view_as(x), x, eps, "linf", clip)


@dataclass(frozen=True)
class _Leaf:
    answer: int
    pixels: Tensor  # those that its path asks about
    low: Tensor  # their smallest and largest values in the leaf
    high: Tensor


def _leaves(estimator: DecisionTreeClassifier, x: Tensor) -> Iterator[_Leaf]:
    """Yield the leaves with ranges that x's dtype can hold: the path's way is "at most the threshold", or above it."""
    tree = estimator.tree_
    answers = tree.value[:, 0].argmax(1)
    threshold = torch.tensor(tree.threshold)
    # The tree rounds every pixel to float32 before it compares, so finer steps would be lost.
    at_most = threshold.to(torch.float32 if x.dtype == torch.float64 else x.dtype)
    at_most = torch.where(at_most > threshold, at_most.nextafter(torch.full_like(at_most, -math.inf)), at_most)
    above = at_most.nextafter(torch.full_like(at_most, math.inf)).tolist()
    at_most = at_most.tolist()
    nodes = [(0, {})] if tree.node_count > 1 else []  # from a single leaf there is no way to another
    while nodes:
        node, ranges = nodes.pop()
        if tree.children_left[node] < 0:
            low, high = x.new_tensor(list(ranges.values())).T
            yield _Leaf(int(answers[node]), torch.tensor(list(ranges), device=x.device), low, high)
            continue
        pixel = int(tree.feature[node])
        low, high = ranges.get(pixel, (-math.inf, math.inf))
        nodes.append((tree.children_left[node], ranges | {pixel: (low, min(high, at_most[node]))}))
        nodes.append((tree.children_right[node], ranges | {pixel: (max(low, above[node]), high)}))


def neighbour_attack(victim: SklearnClassifier, x: Tensor, y: Tensor, eps: float, *, clip: Box = (0.0, 1.0)) -> Tensor:
    """Move each pixel by at most eps towards the nearest (l2) training image of another class than y.

    It needs the training images and no gradient. An attack on the `surrogate` fools more often.

    Args:
        victim: of a KNeighborsClassifier. x, y, eps, clip: as in `fgsm`.

    Raises:
        ValueError, TypeError: as `fgsm`; another classifier than nearest neighbours.

    >>> x, y = torch.tensor([[0.0], [0.1], [0.2], [0.8], [0.9], [1.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> neighbour_attack(fit_sklearn("knn", x, y), torch.tensor([[0.25]]), torch.tensor([0]), eps=0.5)
    tensor([[0.7500]])
    """
    _checked_victim(victim, KNeighborsClassifier)
    eps = checked_radius(x, eps, "linf", clip)
    y = checked_labels(y, x)
    x = x.detach()
    if x.numel() == 0:
        return x.clone()
    pixels = _pixels_of_known(victim, x, y)
    pixels = pixels.to(torch.promote_types(x.dtype, torch.float32))  # half precision would blur the distances
    points, labels = _training_images(victim.estimator)
    points, labels = torch.tensor(points).to(pixels), torch.tensor(labels, device=x.device)
    distances = _squared_distances(pixels, points).masked_fill(labels == y.unsqueeze(1), math.inf)
    return projected(points[distances.argmin(1)].to(x).view_as(x), x, eps, "linf", clip)


def _pixels_of_known(victim: SklearnClassifier, x: Tensor, y: Tensor) -> Tensor:
    """Return the images as rows of pixels, or refuse those, and labels, that the classifier does not know."""
    pixels = _flat(victim, x)
    checked_logits(victim, x[:1], y)
    return pixels
