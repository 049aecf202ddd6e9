"""Classical classifiers of scikit-learn behind the interface of a network, and how each of them is attacked.

A victim only has to answer; a source of adversarial images also needs a way to find them. Linear models, the RBF
support vector machine and nearest neighbours have a differentiable `surrogate`, which any attack can follow; a decision
tree has `tree_attack`. `craft` asks any source, network or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from .attacks import Box, Model, fgsm
from .attacks.geometry import projected
from .attacks.gradients import checked_logits
from .attacks.inputs import check_count, check_images, checked_labels, checked_number, checked_radius
from .names import nearest

# The logit of the answer, where the others are 0: a softmax makes it a probability of 1, a whole vote in an ensemble.
CERTAIN = 20.0

RECIPES = {
    "logistic": lambda seed: LogisticRegression(max_iter=1000),
    "linear_svm": lambda seed: LinearSVC(C=0.01, random_state=seed),  # with C=1 it would not converge on pixels
    "rbf_svm": lambda seed: SVC(C=10),
    "tree": lambda seed: DecisionTreeClassifier(random_state=seed),
    "knn": lambda seed: KNeighborsClassifier(n_neighbors=5),
}


class ClassicalVictim(nn.Module):
    """A fitted scikit-learn classifier as a model: images (N, ...) in, logits (N, K) of x's dtype and device out.

    Only its label speaks: the logits are 20 for the answer and 0 for the others, so that for every image their argmax
    is what `estimator.predict` says. There is no gradient through them: see `craft`.

    Args:
        estimator: fitted on flat images (N, pixels) and labels 0..K-1.

    Raises:
        TypeError: not a classifier. ValueError: not fitted, or labels that are not 0..K-1 with K >= 2.

    >>> tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    >>> ClassicalVictim(tree)(torch.tensor([[0.2], [0.9]])).argmax(1)
    tensor([0, 1])
    """

    def __init__(self, estimator: object):
        super().__init__()
        if not (isinstance(estimator, BaseEstimator) and is_classifier(estimator)):
            raise TypeError(f"expected a fitted scikit-learn classifier, got {estimator!r}.")
        try:
            check_is_fitted(estimator)
        except NotFittedError as error:
            raise ValueError(f"{estimator!r} is not fitted: call its fit(x.flatten(1).numpy(), y.numpy()).") from error
        classes = list(estimator.classes_)
        if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
            raise ValueError(
                f"the labels must be 0..K-1 without a gap, K >= 2, but the classifier knows {classes}: "
                "number the classes anew before you fit it."
            )
        self.estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) → (N, K): 20 for the label that the classifier gives, 0 for the others."""
        pixels = _as_numpy(_flat(self, x))
        labels = self.estimator.predict(pixels) if len(pixels) else []
        answers = torch.as_tensor(labels, dtype=torch.int64, device=x.device)
        return CERTAIN * F.one_hot(answers, len(self.estimator.classes_)).to(x.dtype)

    def extra_repr(self) -> str:
        return repr(self.estimator)


def fit_victim(name: str, x: Tensor, y: Tensor, *, seed: int = 0) -> ClassicalVictim:
    """Fit the named classical classifier; seconds for 4,000 digits.

    Args:
        name: "logistic", "linear_svm", "rbf_svm", "tree" or "knn" (5 neighbours).
        x: images (N, ...). y: labels (N,), 0..K-1. seed: of what the fit draws at random.

    Raises:
        ValueError, TypeError: unknown name; x, y refused as by `fgsm`; labels with a gap.

    >>> x, y = torch.tensor([[0.0], [0.1], [0.9], [1.0]]), torch.tensor([0, 0, 1, 1])
    >>> fit_victim("tree", x, y)(torch.tensor([[0.8]])).argmax(1)
    tensor([1])
    """
    if name not in RECIPES:
        raise ValueError(f"unknown classifier {name!r}. {nearest(name, RECIPES)}")
    check_images(x, None)
    y = checked_labels(y, x)
    with threadpool_limits(1, "blas"):  # beside another program two threads spend their time waiting for each other
        return ClassicalVictim(RECIPES[name](seed).fit(_as_numpy(x.flatten(1)), y.cpu().numpy()))


def craft(
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

    >>> craft(nn.Linear(2, 2), torch.tensor([[0.5, 0.5]]), torch.tensor([0]), 0.1).shape
    torch.Size([1, 2])
    """
    check_count("batch_size", batch_size)
    check_images(x, None)
    y = checked_labels(y, x)
    if isinstance(source, ClassicalVictim):
        if isinstance(source.estimator, DecisionTreeClassifier):
            if attack_kwargs.get("targeted") or attack_kwargs.get("norm", "linf") != "linf":
                raise ValueError(f'a tree is attacked untargeted and in norm "linf" only, got {attack_kwargs}.')
            return tree_attack(source, x, y, eps, clip=attack_kwargs.get("clip", (0.0, 1.0)))
        source = surrogate(source).to(x.device)
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return torch.cat([attack(source, *part, eps, **attack_kwargs) for part in parts])


# Differentiable surrogates ------------------------------------------------------------------------------------------


def surrogate(victim: ClassicalVictim, *, temperature: float | None = None) -> nn.Module:
    """Return a differentiable model (N, ...) → logits (N, K) that decides as the classifier does, or nearly.

    - logistic regression and linear SVM: the same W·x + b, the same decision;
    - RBF SVM: class k gets the sum of its pairwise decision functions. The SVM counts the signs of these; their sum
      answers the same for about 96 % of the digits, and its gradient fools more often than that of a sharper sigmoid;
    - nearest neighbours: class k gets log Σ exp(−‖x − xᵢ‖²/temperature) over its training images xᵢ, which agrees with
      the vote of the five nearest for about 95 % of the digits.

    Args:
        temperature: of the nearest neighbours, squared pixel units; low: the nearest alone decides, high: all do.
            Default a fifth of the median squared distance between a training image and the next.

    Raises:
        TypeError: no ClassicalVictim, or a classifier without a surrogate; the message says what to do instead.
        ValueError: a temperature that is not positive, or for another classifier.

    >>> x, y = torch.tensor([[0.0], [0.1], [0.9], [1.0]]), torch.tensor([0, 0, 1, 1])
    >>> surrogate(fit_victim("knn", x, y))(torch.tensor([[0.8]])).argmax(1)
    tensor([1])

    Papernot, McDaniel and Goodfellow, "Transferability in machine learning", 2016.
    """
    estimator = _checked_victim(victim, object).estimator
    if isinstance(estimator, KNeighborsClassifier):
        return _Neighbours(*_training_images(estimator), temperature)
    if temperature is not None:
        raise ValueError(f"temperature belongs to the nearest neighbours, {estimator!r} has none.")
    if isinstance(estimator, LogisticRegression | LinearSVC):
        return _Linear(estimator)
    if isinstance(estimator, SVC) and estimator.kernel == "rbf":
        return _Machine(estimator)
    instead = (
        "a decision tree has steps and no slope: use tree_attack"
        if isinstance(estimator, DecisionTreeClassifier)
        else "train a substitute on its answers (transfer.train_substitute) and attack that"
    )
    raise TypeError(f"{estimator!r} has no differentiable surrogate: {instead}.")


class _Surrogate(nn.Module):
    """Fixed arrays as buffers, and logits that follow x's dtype."""

    def __init__(self, **arrays: np.ndarray):
        super().__init__()
        for name, values in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.array(values, dtype=np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        own = next(self.buffers())
        return self.logits(x.flatten(1).to(own.dtype)).to(x.dtype)


class _Linear(_Surrogate):
    def __init__(self, estimator: LogisticRegression | LinearSVC):
        weight, bias = estimator.coef_, np.broadcast_to(estimator.intercept_, len(estimator.coef_))
        if len(weight) == 1:  # two classes share one score z: their logits are −z/2 and z/2
            weight, bias = np.outer([-0.5, 0.5], weight), np.outer([-0.5, 0.5], bias).ravel()
        super().__init__(weight=weight, bias=bias)

    def logits(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class _Machine(_Surrogate):
    """Each decision function is linear in the kernels exp(−γ‖x − s‖²) of the support vectors s, and so is their sum."""

    def __init__(self, estimator: SVC):
        classes, ends = len(estimator.classes_), np.cumsum(estimator.n_support_)
        vectors = [slice(end - n, end) for n, end in zip(estimator.n_support_, ends, strict=True)]
        weight, bias = np.zeros((classes, ends[-1])), np.zeros(classes)
        # A pair's function is positive for its first class; scikit-learn turns the sign where there is one pair only.
        sign = -1 if classes == 2 else 1
        pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
        for (i, j), intercept in zip(pairs, sign * estimator.intercept_, strict=True):
            # Row j − 1 of dual_coef_ tells class i's vectors from class j; row i tells class j's from class i.
            for part, row in ((vectors[i], j - 1), (vectors[j], i)):
                weight[i, part] += sign * estimator.dual_coef_[row, part]
                weight[j, part] -= sign * estimator.dual_coef_[row, part]
            bias[i] += intercept
            bias[j] -= intercept
        super().__init__(vectors=estimator.support_vectors_, weight=weight, bias=bias)
        self.gamma = float(estimator._gamma)  # "scale" and "auto" as the number that was used

    def logits(self, x: Tensor) -> Tensor:
        return (-self.gamma * _squared_distances(x, self.vectors)).exp() @ self.weight.T + self.bias


class _Neighbours(_Surrogate):
    def __init__(self, points: np.ndarray, labels: np.ndarray, temperature: float | None):
        super().__init__(points=points[labels.argsort(kind="stable")])
        self.counts = np.bincount(labels).tolist()
        if temperature is None:
            some = self.points[:: math.ceil(len(points) / 500)]
            # The second smallest: the smallest is each image's distance to itself.
            temperature = _squared_distances(some, self.points).kthvalue(2, dim=1).values.median().item() / 5
        self.temperature = checked_number("temperature", temperature)
        if self.temperature == 0:
            raise ValueError("temperature must be above 0: 1e-3 lets the nearest image alone decide.")

    def logits(self, x: Tensor) -> Tensor:
        closeness = -_squared_distances(x, self.points) / self.temperature
        return torch.stack([of_class.logsumexp(1) for of_class in closeness.split(self.counts, dim=1)], dim=1)


def _squared_distances(x: Tensor, points: Tensor) -> Tensor:
    """Return ‖x − p‖² of each pair, (N, P), multiplied out: one matrix product."""
    return (x.square().sum(1, keepdim=True) - 2 * x @ points.T + points.square().sum(1)).clamp_min(0)


# Attacks without a gradient -----------------------------------------------------------------------------------------


def tree_attack(victim: ClassicalVictim, x: Tensor, y: Tensor, eps: float, *, clip: Box = (0.0, 1.0)) -> Tensor:
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
    >>> tree_attack(fit_victim("tree", x, y), torch.tensor([[0.75]]), torch.tensor([1]), eps=0.3)
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


def neighbour_attack(victim: ClassicalVictim, x: Tensor, y: Tensor, eps: float, *, clip: Box = (0.0, 1.0)) -> Tensor:
    """Move each pixel by at most eps towards the nearest (l2) training image of another class than y.

    It needs the training images and no gradient. An attack on the `surrogate` fools more often.

    Args:
        victim: of a KNeighborsClassifier. x, y, eps, clip: as in `fgsm`.

    Raises:
        ValueError, TypeError: as `fgsm`; another classifier than nearest neighbours.

    >>> x, y = torch.tensor([[0.0], [0.1], [0.2], [0.8], [0.9], [1.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    >>> neighbour_attack(fit_victim("knn", x, y), torch.tensor([[0.25]]), torch.tensor([0]), eps=0.5)
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


def _training_images(estimator: KNeighborsClassifier) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat images (N, pixels) and labels (N,) that the nearest neighbours are looked for among."""
    if estimator.effective_metric_ != "euclidean":
        raise TypeError(f"only Euclidean neighbours can be attacked, got metric {estimator.effective_metric_!r}.")
    return estimator._fit_X, estimator._y


# What both of them ask of their input -------------------------------------------------------------------------------


def _checked_victim(victim: ClassicalVictim, kind: type) -> ClassicalVictim:
    if not isinstance(victim, ClassicalVictim):
        raise TypeError(f"expected a ClassicalVictim, got {type(victim).__name__}: a network is attacked directly.")
    if not isinstance(victim.estimator, kind):
        raise TypeError(f"expected a victim that wraps a {kind.__name__}, got {victim.estimator!r}.")
    return victim


def _pixels_of_known(victim: ClassicalVictim, x: Tensor, y: Tensor) -> Tensor:
    """Return the images as rows of pixels, or refuse those, and labels, that the classifier does not know."""
    pixels = _flat(victim, x)
    checked_logits(victim, x[:1], y)
    return pixels


def _as_numpy(x: Tensor) -> np.ndarray:
    """Return a copy in double precision, which the classifiers compute in."""
    return x.detach().cpu().to(torch.float64, copy=True).numpy()


def _flat(victim: ClassicalVictim, x: Tensor) -> Tensor:
    """Return the images as rows of pixels (N, pixels), or refuse those that the classifier cannot take."""
    check_images(x, None)
    expected = victim.estimator.n_features_in_
    if len(x) and x[0].numel() != expected:
        raise ValueError(f"the classifier was fitted on {expected} pixels, got images of shape {tuple(x.shape[1:])}.")
    return x.flatten(1)
