"""Classifiers of scikit-learn behind the interface of a network, and their differentiable surrogates.

The target of a transfer attack only has to predict; its source also needs a way to find adversarial images. Linear
models, the RBF support vector machine and nearest neighbours have a differentiable `surrogate` for any gradient-based
attack; for a decision tree there is `attacks.tree_attack`. `attacks.generate` attacks any source, network or not.
"""

from __future__ import annotations

import math

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

from ..core.suggestions import did_you_mean
from ..core.validation import check_images, checked_labels, checked_number

# The logit of the predicted class, where the others are 0: softmax makes it a probability of 1, also in an ensemble.
LABEL_LOGIT = 20.0

ESTIMATORS = {
    "logistic": lambda seed: LogisticRegression(max_iter=1000),
    "linear_svm": lambda seed: LinearSVC(C=0.01, random_state=seed),  # with C=1 it would not converge on pixels
    "rbf_svm": lambda seed: SVC(C=10),
    "tree": lambda seed: DecisionTreeClassifier(random_state=seed),
    "knn": lambda seed: KNeighborsClassifier(n_neighbors=5),
}


class SklearnClassifier(nn.Module):
    """A fitted scikit-learn classifier as a model: images (N, ...) in, logits (N, K) of x's dtype and device out.

    The logits hold the label only: 20 for the class that `estimator.predict` gives and 0 for the others. There is no
    gradient through them: see `attacks.generate`.

    Args:
        estimator: fitted on flat images (N, pixels) and labels 0..K-1.

    Raises:
        TypeError: not a classifier. ValueError: not fitted, or labels that are not 0..K-1 with K >= 2.

    >>> tree = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    >>> SklearnClassifier(tree)(torch.tensor([[0.2], [0.9]])).argmax(1)
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
        """(N, ...) → (N, K): 20 for the predicted class, 0 for the others."""
        pixels = _as_numpy(flat_pixels(self, x))
        labels = self.estimator.predict(pixels) if len(pixels) else []
        predicted = torch.as_tensor(labels, dtype=torch.int64, device=x.device)
        return LABEL_LOGIT * F.one_hot(predicted, len(self.estimator.classes_)).to(x.dtype)

    def extra_repr(self) -> str:
        return repr(self.estimator)


def fit_sklearn(name: str, x: Tensor, y: Tensor, *, seed: int = 0) -> SklearnClassifier:
    """Fit the named scikit-learn classifier; seconds for 4,000 digits.

    Args:
        name: "logistic", "linear_svm", "rbf_svm", "tree" or "knn" (5 neighbours).
        x: images (N, ...). y: labels (N,), 0..K-1. seed: of what the fit draws at random.

    Raises:
        ValueError, TypeError: unknown name; x, y as all attacks; labels with a gap.

    >>> x, y = torch.tensor([[0.0], [0.1], [0.9], [1.0]]), torch.tensor([0, 0, 1, 1])
    >>> fit_sklearn("tree", x, y)(torch.tensor([[0.8]])).argmax(1)
    tensor([1])
    """
    if name not in ESTIMATORS:
        raise ValueError(f"unknown classifier {name!r}. {did_you_mean(name, ESTIMATORS)}")
    check_images(x, None)
    y = checked_labels(y, x)
    with threadpool_limits(1, "blas"):  # beside another program two threads spend their time waiting for each other
        return SklearnClassifier(ESTIMATORS[name](seed).fit(_as_numpy(x.flatten(1)), y.cpu().numpy()))


# Differentiable surrogates ------------------------------------------------------------------------------------------


def surrogate(classifier: SklearnClassifier, *, temperature: float | None = None) -> nn.Module:
    """Return a differentiable model (N, ...) → logits (N, K) that predicts what the classifier does, or nearly.

    - logistic regression and linear SVM: the same W·x + b, the same prediction;
    - RBF SVM: class k gets the sum of its pairwise decision functions. The SVM counts the signs of these; their sum
      predicts the same for about 96 % of the digits, and its gradient succeeds more often than a sharper sigmoid's;
    - nearest neighbours: class k gets log Σ exp(−‖x − xᵢ‖²/temperature) over its training images xᵢ, which agrees with
      the vote of the five nearest for about 95 % of the digits.

    Args:
        temperature: of the nearest neighbours, squared pixel units; low: the nearest alone decides, high: all do.
            Default a fifth of the median squared distance between a training image and the next.

    Raises:
        TypeError: no SklearnClassifier, or a classifier without a surrogate; the message says what to do instead.
        ValueError: a temperature that is not positive, or for another classifier.

    >>> x, y = torch.tensor([[0.0], [0.1], [0.9], [1.0]]), torch.tensor([0, 0, 1, 1])
    >>> surrogate(fit_sklearn("knn", x, y))(torch.tensor([[0.8]])).argmax(1)
    tensor([1])

    Papernot, McDaniel and Goodfellow, "Transferability in machine learning", 2016.
    """
    estimator = checked_classifier(classifier, object).estimator
    if isinstance(estimator, KNeighborsClassifier):
        return _Neighbours(*training_images(estimator), temperature)
    if temperature is not None:
        raise ValueError(f"temperature belongs to the nearest neighbours, {estimator!r} has none.")
    if isinstance(estimator, LogisticRegression | LinearSVC):
        return _LinearModel(estimator)
    if isinstance(estimator, SVC) and estimator.kernel == "rbf":
        return _KernelSVM(estimator)
    instead = (
        "a decision tree is piecewise constant and has no gradient: use attacks.tree_attack"
        if isinstance(estimator, DecisionTreeClassifier)
        else "train a substitute on its labels (training.train_substitute) and attack that"
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


class _LinearModel(_Surrogate):
    def __init__(self, estimator: LogisticRegression | LinearSVC):
        weight, bias = estimator.coef_, np.broadcast_to(estimator.intercept_, len(estimator.coef_))
        if len(weight) == 1:  # two classes share one score z: their logits are −z/2 and z/2
            weight, bias = np.outer([-0.5, 0.5], weight), np.outer([-0.5, 0.5], bias).ravel()
        super().__init__(weight=weight, bias=bias)

    def logits(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class _KernelSVM(_Surrogate):
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
        return (-self.gamma * squared_distances(x, self.vectors)).exp() @ self.weight.T + self.bias


class _Neighbours(_Surrogate):
    def __init__(self, points: np.ndarray, labels: np.ndarray, temperature: float | None):
        super().__init__(points=points[labels.argsort(kind="stable")])
        self.counts = np.bincount(labels).tolist()
        if temperature is None:
            some = self.points[:: math.ceil(len(points) / 500)]
            # The second smallest: the smallest is each image's distance to itself.
            temperature = squared_distances(some, self.points).kthvalue(2, dim=1).values.median().item() / 5
        self.temperature = checked_number("temperature", temperature)
        if self.temperature == 0:
            raise ValueError("temperature must be above 0: 1e-3 lets the nearest image alone decide.")

    def logits(self, x: Tensor) -> Tensor:
        closeness = -squared_distances(x, self.points) / self.temperature
        return torch.stack([of_class.logsumexp(1) for of_class in closeness.split(self.counts, dim=1)], dim=1)


def squared_distances(x: Tensor, points: Tensor) -> Tensor:
    """Return ‖x − p‖² of each pair, (N, P), multiplied out: one matrix product."""
    return (x.square().sum(1, keepdim=True) - 2 * x @ points.T + points.square().sum(1)).clamp_min(0)


def training_images(estimator: KNeighborsClassifier) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat images (N, pixels) and labels (N,) among which the nearest neighbours are searched."""
    if estimator.effective_metric_ != "euclidean":
        raise TypeError(f"only Euclidean neighbours can be attacked, got metric {estimator.effective_metric_!r}.")
    return estimator._fit_X, estimator._y


# Checks that the attacks on them need, too --------------------------------------------------------------------------


def checked_classifier(classifier: SklearnClassifier, kind: type) -> SklearnClassifier:
    """Return the classifier, or refuse what wraps no estimator of this kind."""
    if not isinstance(classifier, SklearnClassifier):
        raise TypeError(
            f"expected a SklearnClassifier, got {type(classifier).__name__}: a network is attacked directly."
        )
    if not isinstance(classifier.estimator, kind):
        raise TypeError(f"expected a SklearnClassifier that wraps a {kind.__name__}, got {classifier.estimator!r}.")
    return classifier


def _as_numpy(x: Tensor) -> np.ndarray:
    """Return a copy in double precision, which the classifiers compute in."""
    return x.detach().cpu().to(torch.float64, copy=True).numpy()


def flat_pixels(classifier: SklearnClassifier, x: Tensor) -> Tensor:
    """Return the images as rows of pixels (N, pixels), or refuse those that the classifier cannot take."""
    check_images(x, None)
    expected = classifier.estimator.n_features_in_
    if len(x) and x[0].numel() != expected:
        raise ValueError(f"the classifier was fitted on {expected} pixels, got images of shape {tuple(x.shape[1:])}.")
    return x.flatten(1)
