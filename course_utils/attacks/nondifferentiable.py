"""Attacks on scikit-learn's classifiers, of which some have no gradient. Shared arguments: the package's docstring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor

from ..core.validation import Box, Model, check_count, check_images, checked_labels, checked_radius
from ..models.inference import checked_logits
from ..models.sklearn_models import (
    SklearnClassifier,
    checked_classifier,
    flat_pixels,
    squared_distances,
    surrogate,
    training_images,
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
    """Attack any source model: a network or a classifier's surrogate with `attack`, a tree with `tree_attack`.

    Args:
        source: a network, or a SklearnClassifier. x, y, eps: see `course_utils.attacks`.
        attack: called as attack(model, x, y, eps, **attack_kwargs), batch by batch. Of the keywords `tree_attack` takes
            `clip` only: it has one norm, and no targets.

    Raises:
        TypeError: a classifier without a surrogate. ValueError, TypeError, RuntimeError: as the attack.

    >>> generate(torch.nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), 0.1).shape
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


def tree_attack(classifier: SklearnClassifier, x: Tensor, y: Tensor, eps: float, *, clip: Box = (0.0, 1.0)) -> Tensor:
    """Move each image to the nearest leaf of a decision tree that predicts another class than y.

    A leaf is a box: a range for each pixel on its path. To enter it, every pixel outside its range moves to the end of
    the range; the largest of these moves is the leaf's linf distance. The smallest over all leaves is the exact minimal
    change; where it exceeds eps, the image is projected back into the ball.

    Args:
        classifier: of a DecisionTreeClassifier. x, y, eps, clip: see `course_utils.attacks`.

    Returns:
        Images like x; unchanged where the tree predicts another class than y already, or no leaf lies inside `clip`.

    Raises:
        ValueError, TypeError: as all attacks; another classifier than a tree.

    >>> from course_utils.models import fit_sklearn
    >>> x, y = torch.tensor([[0.0], [0.1], [0.9], [1.0]]), torch.tensor([0, 0, 1, 1])
    >>> tree_attack(fit_sklearn("tree", x, y), torch.tensor([[0.75]]), torch.tensor([1]), eps=0.3)
    tensor([[0.5000]])

    Papernot, McDaniel and Goodfellow, "Transferability in machine learning", 2016.
    """
    checked_classifier(classifier, DecisionTreeClassifier)
    eps = checked_radius(x, eps, "linf", clip)
    y = checked_labels(y, x)
    x = x.detach()
    if x.numel() == 0:
        return x.clone()
    pixels = _checked_pixels(classifier, x, y)
    low, high = (-math.inf, math.inf) if clip is None else clip
    goal, smallest = pixels.clone(), pixels.new_full((len(x),), math.inf)
    for label, path, least, most in _leaves(classifier.estimator, x):
        before = pixels[:, path]
        after = before.clamp(least, most)
        change = (after - before).abs().amax(1)
        inside = ((after >= low) & (after <= high)).all(1)
        better = (y != label) & inside & (change < smallest)
        rows = better.nonzero()
        goal[better] = pixels[better]
        goal[rows, path] = after[better]
        smallest = torch.where(better, change, smallest)
    return projected(goal.view_as(x), x, eps, "linf", clip)


def _leaves(estimator: DecisionTreeClassifier, x: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield each leaf's label, the pixels (P,) that its path compares, and their smallest and largest values in it.

    The values are those that x's dtype can hold: a branch is "at most the threshold", or above it.
    """
    tree = estimator.tree_
    labels = tree.value[:, 0].argmax(1)
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
            yield int(labels[node]), torch.tensor(list(ranges), device=x.device), low, high
            continue
        pixel = int(tree.feature[node])
        low, high = ranges.get(pixel, (-math.inf, math.inf))
        nodes.append((tree.children_left[node], ranges | {pixel: (low, min(high, at_most[node]))}))
        nodes.append((tree.children_right[node], ranges | {pixel: (max(low, above[node]), high)}))


def neighbour_attack(
    classifier: SklearnClassifier, x: Tensor, y: Tensor, eps: float, *, clip: Box = (0.0, 1.0)
) -> Tensor:
    """Move each pixel by at most eps towards the nearest (l2) training image of another class than y.

    It needs the training images and no gradient. An attack on the `surrogate` succeeds more often.

    Args:
        classifier: of a KNeighborsClassifier. x, y, eps, clip: see `course_utils.attacks`.

    Raises:
        ValueError, TypeError: as all attacks; another classifier than nearest neighbours.

    >>> from course_utils.models import fit_sklearn
    >>> x, y = torch.tensor([[0.0], [0.1], [0.2], [0.8], [0.9], [1.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> neighbour_attack(fit_sklearn("knn", x, y), torch.tensor([[0.25]]), torch.tensor([0]), eps=0.5)
    tensor([[0.7500]])
    """
    checked_classifier(classifier, KNeighborsClassifier)
    eps = checked_radius(x, eps, "linf", clip)
    y = checked_labels(y, x)
    x = x.detach()
    if x.numel() == 0:
        return x.clone()
    pixels = _checked_pixels(classifier, x, y)
    pixels = pixels.to(torch.promote_types(x.dtype, torch.float32))  # half precision would blur the distances
    points, labels = training_images(classifier.estimator)
    points, labels = torch.tensor(points).to(pixels), torch.tensor(labels, device=x.device)
    distances = squared_distances(pixels, points).masked_fill(labels == y.unsqueeze(1), math.inf)
    return projected(points[distances.argmin(1)].to(x).view_as(x), x, eps, "linf", clip)


def _checked_pixels(classifier: SklearnClassifier, x: Tensor, y: Tensor) -> Tensor:
    """Return the images as rows of pixels, or refuse those, and labels, that the classifier was not fitted for."""
    pixels = flat_pixels(classifier, x)
    checked_logits(classifier, x[:1], y)
    return pixels
