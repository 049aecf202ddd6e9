"""Classical classifiers as models, their surrogates, and the attacks that need no gradient, against brute force."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from course_utils.attacks import fgsm, generate, neighbour_attack, pgd, tree_attack
from course_utils.data import load_images
from course_utils.evaluation import accuracy, confidence, correct
from course_utils.models import SklearnClassifier, fit_sklearn, predict, sklearn_models, surrogate
from course_utils.models.inference import frozen_eval

NAMES = tuple(sklearn_models.ESTIMATORS)
SMOOTH = tuple(name for name in NAMES if name != "tree")
every_name = pytest.mark.parametrize("name", NAMES)
every_smooth = pytest.mark.parametrize("name", SMOOTH)
EPS = 0.2


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(n=90, classes=3, *, seed=0, dtype=torch.float32):
    """Images (n, 1, 4, 4) about one random image for each class, with some overlap."""
    centres = torch.rand(classes, 1, 4, 4, generator=stream(9), dtype=dtype)
    y = torch.arange(n) % classes
    noise = torch.randn(n, 1, 4, 4, generator=stream(seed), dtype=dtype)
    return (centres[y] + 0.25 * noise).clamp(0, 1), y


FITTED = {(name, classes): fit_sklearn(name, *blobs(classes=classes)) for name in NAMES for classes in (2, 3, 5)}


def classifier_of(name, classes=3):
    return FITTED[name, classes]


def labels_of(classifier, x):
    return torch.as_tensor(classifier.estimator.predict(x.flatten(1).double().numpy()))


# the interface of a network


@every_name
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_argmax_is_what_the_classifier_predicts(name, classes):
    classifier, (x, _) = classifier_of(name, classes), blobs(400, classes, seed=1)
    assert torch.equal(classifier(x).argmax(1), labels_of(classifier, x))


def test_argmax_is_what_an_svm_predicts_where_its_probabilities_disagree():
    """The votes of an SVM, its decision function and a tie among neighbours each have a rule of their own."""
    x, y = blobs(60, 5)
    flat, queries = x.flatten(1).double().numpy(), torch.rand(500, 1, 4, 4, generator=stream(3))
    for estimator in (SVC(C=0.1, decision_function_shape="ovo"), KNeighborsClassifier(4), KNeighborsClassifier(2)):
        classifier = SklearnClassifier(estimator.fit(flat, y.numpy()))
        assert torch.equal(classifier(queries).argmax(1), labels_of(classifier, queries))


@every_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_shape_follow_x(name, dtype):
    classifier, (x, _) = classifier_of(name), blobs(7, seed=1)
    for images in (x.to(dtype), x.to(dtype).flatten(1), x.to(dtype).transpose(2, 3)):
        logits = classifier(images)
        assert (logits.dtype, logits.shape) == (dtype, (7, 3))
        assert not logits.requires_grad
    assert classifier(x[:0].to(dtype)).shape == (0, 3)


@every_name
def test_a_classifier_is_evaluated_as_any_model(name):
    classifier, (x, y) = classifier_of(name), blobs(50, seed=1)
    hits = labels_of(classifier, x) == y
    assert torch.equal(correct(classifier, x, y, batch_size=7), hits)
    assert accuracy(classifier, x, y) == pytest.approx(hits.float().mean().item())
    assert torch.equal(predict(lambda images: classifier(images), x), classifier(x))
    assert confidence(classifier, x).min() > 0.999
    with frozen_eval(classifier):
        assert torch.equal(classifier(x.requires_grad_()).argmax(1), labels_of(classifier, x.detach()))


def test_a_classifier_does_not_change_or_keep_x():
    classifier, (x, _) = classifier_of("knn"), blobs(5)
    before = x.clone()
    classifier.double()(x)
    assert torch.equal(x, before)
    assert "KNeighborsClassifier" in repr(classifier)


def test_there_is_no_gradient_through_a_classifier():
    x, y = blobs(5)
    with pytest.raises(ValueError, match="differentiable"):
        fgsm(classifier_of("logistic"), x, y, EPS)


@every_name
def test_classifiers_depend_on_their_data_and_seed_only(name):
    x, y = blobs(60)
    np.random.seed(0)  # noqa: NPY002 - the global stream that scikit-learn would fall back on
    first = fit_sklearn(name, x, y, seed=3)(x)
    np.random.seed(1)  # noqa: NPY002
    assert torch.equal(fit_sklearn(name, x, y, seed=3)(x), first)


@pytest.mark.parametrize(
    ("estimator", "error", "words"),
    [
        (LinearRegression(), TypeError, "fitted scikit-learn classifier"),
        (SVC, TypeError, "fitted scikit-learn classifier"),
        (nn.Linear(2, 2), TypeError, "fitted scikit-learn classifier"),
        (SVC(), ValueError, "not fitted"),
        (SVC().fit([[0.0], [1.0]], ["a", "b"]), ValueError, "0..K-1"),
        (SVC().fit([[0.0], [1.0]], [1, 2]), ValueError, "0..K-1"),
        (SVC().fit([[0.0], [1.0], [2.0]], [0, 1, 3]), ValueError, "0..K-1"),
        (KNeighborsClassifier(1).fit([[0.0], [1.0]], [0, 0]), ValueError, "K >= 2"),
        (DecisionTreeClassifier().fit([[0.0], [1.0]], [[0, 1], [1, 0]]), ValueError, "0..K-1"),
    ],
)
def test_what_is_no_classifier(estimator, error, words):
    with pytest.raises(error, match=words):
        SklearnClassifier(estimator)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (np.zeros((2, 1, 4, 4), dtype=np.float32), TypeError, "torch tensor"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), TypeError, "255"),
        (torch.zeros(2, 1, 4, 5), ValueError, r"fitted on 16 pixels.*\(1, 4, 5\)"),
        (torch.zeros(16), ValueError, "batch"),
        (torch.full((2, 1, 4, 4), math.nan), ValueError, "NaN"),
    ],
)
def test_images_that_a_classifier_refuses(images, error, words):
    with pytest.raises(error, match=words):
        classifier_of("tree")(images)


def test_fit_sklearn_refuses():
    x, y = blobs(20)
    with pytest.raises(ValueError, match="Did you mean 'rbf_svm'"):
        fit_sklearn("rbf", x, y)
    with pytest.raises(ValueError, match="one label for each"):
        fit_sklearn("knn", x, y[:9])
    with pytest.raises(TypeError, match="float"):
        fit_sklearn("knn", x.long(), y)
    with pytest.raises(ValueError, match="number the classes anew"):
        fit_sklearn("knn", x, y + 1)


# surrogates


@pytest.mark.parametrize("name", ["logistic", "linear_svm"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_linear_surrogates_are_exact(name, classes):
    classifier, (x, _) = classifier_of(name, classes), blobs(400, classes, seed=1)
    logits = surrogate(classifier).double()(x.double())
    scores = torch.tensor(classifier.estimator.decision_function(x.flatten(1).double().numpy()))
    if classes == 2:
        assert torch.allclose(logits[:, 1] - logits[:, 0], scores, atol=1e-5)
    else:
        assert torch.allclose(logits, scores, atol=1e-5)
    assert torch.equal(logits.argmax(1), labels_of(classifier, x))


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_surrogate_has_the_same_probabilities(classes):
    classifier, (x, _) = classifier_of("logistic", classes), blobs(50, classes, seed=1)
    expected = classifier.estimator.predict_proba(x.flatten(1).double().numpy())
    assert np.allclose(surrogate(classifier)(x).softmax(1).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("gamma", ["scale", "auto", 0.3])
def test_svm_surrogate_sums_the_pairs_decision_functions(classes, gamma):
    x, y = blobs(60, classes)
    svm = SVC(C=2, gamma=gamma, decision_function_shape="ovo").fit(x.flatten(1).double().numpy(), y.numpy())
    queries = torch.rand(30, 1, 4, 4, generator=stream(4), dtype=torch.float64)
    decisions = svm.decision_function(queries.flatten(1).numpy()).reshape(30, -1)
    expected = np.zeros((30, classes))
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    for decision, (i, j) in zip(decisions.T, pairs, strict=True):
        # With two classes scikit-learn's sign is the other way: positive for class 1.
        decision = -decision if classes == 2 else decision
        expected[:, i] += decision
        expected[:, j] -= decision
    assert np.allclose(surrogate(SklearnClassifier(svm)).double()(queries).numpy(), expected, atol=1e-5)


def test_neighbour_surrogate_is_the_smoothed_vote():
    """By its formula; sharp, it is the nearest neighbour; smooth, the class with most images."""
    x, y = blobs(31)
    classifier, queries = fit_sklearn("knn", x, y), blobs(20, seed=1)[0]
    distance = torch.cdist(queries.flatten(1), x.flatten(1)).square()
    for temperature in (0.05, 1.0):
        expected = torch.stack([(-distance[:, y == k] / temperature).logsumexp(1) for k in range(3)], dim=1)
        assert torch.allclose(surrogate(classifier, temperature=temperature)(queries), expected, atol=1e-3)
    assert torch.equal(surrogate(classifier, temperature=1e-4)(queries).argmax(1), y[distance.argmin(1)])
    assert (surrogate(classifier, temperature=1e6)(queries).argmax(1) == 0).all()


def test_default_temperature_follows_the_distances():
    """With all distances twice as large it is four times as high, so that the decision stays."""
    x, y = blobs(90)
    near, far = (surrogate(fit_sklearn("knn", scale * x, y)) for scale in (0.5, 1.0))
    assert far.temperature == pytest.approx(4 * near.temperature, rel=1e-4)
    gaps = torch.cdist(x.flatten(1), x.flatten(1)).square().fill_diagonal_(math.inf).amin(1)
    assert far.temperature == pytest.approx(gaps.median().item() / 5, rel=1e-3)


@every_smooth
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_surrogates_agree_with_their_classifiers(name, classes):
    classifier, (x, _) = classifier_of(name, classes), blobs(400, classes, seed=1)
    assert (surrogate(classifier)(x).argmax(1) == labels_of(classifier, x)).float().mean() > 0.85


@every_smooth
@pytest.mark.parametrize("classes", [2, 3])
def test_surrogate_gradients_are_those_of_finite_differences(name, classes):
    model = surrogate(classifier_of(name, classes)).double()
    x = blobs(3, classes, seed=1, dtype=torch.float64)[0].requires_grad_()
    assert torch.autograd.gradcheck(model, (x,), eps=1e-6, atol=1e-5)


@every_smooth
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_surrogates_follow_x(name, dtype):
    model, x = surrogate(classifier_of(name)), blobs(4)[0].to(dtype)
    assert model(x).dtype == dtype
    assert model(x).shape == (4, 3)


def test_surrogates_are_copies():
    classifier = fit_sklearn("logistic", *blobs())
    before = classifier.estimator.coef_.copy()
    for buffer in surrogate(classifier).buffers():
        buffer.zero_()
    assert np.array_equal(classifier.estimator.coef_, before)


def test_surrogate_says_what_to_do_instead():
    x, y = blobs(30)
    flat = x.flatten(1).numpy(), y.numpy()
    for estimator in (
        RandomForestClassifier(3),
        make_pipeline(StandardScaler(), LogisticRegression()),
        SVC(kernel="linear"),
    ):
        classifier = SklearnClassifier(estimator.fit(*flat))
        assert torch.equal(classifier(x).argmax(1), labels_of(classifier, x))
        with pytest.raises(TypeError, match="train a substitute"):
            surrogate(classifier)
        with pytest.raises(TypeError, match="train a substitute"):
            generate(classifier, x, y, EPS)
    with pytest.raises(TypeError, match="tree_attack"):
        surrogate(classifier_of("tree"))
    with pytest.raises(TypeError, match="attacked directly"):
        surrogate(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="Euclidean"):
        surrogate(SklearnClassifier(KNeighborsClassifier(p=1).fit(*flat)))
    with pytest.raises(ValueError, match="belongs to the nearest neighbours"):
        surrogate(classifier_of("rbf_svm"), temperature=1.0)
    with pytest.raises(ValueError, match="above 0"):
        surrogate(classifier_of("knn"), temperature=0)


# the tree


def smallest_change(tree, image, y):
    """The linf distance of the nearest point that the tree does not answer with y: a walk down all of its paths."""
    best = math.inf

    def walk(node, low, high):
        nonlocal best
        if tree.children_left[node] < 0:
            if tree.value[node, 0].argmax() != y:
                best = min(best, np.maximum(np.maximum(low - image, image - high), 0).max())
            return
        pixel, threshold = tree.feature[node], tree.threshold[node]
        left, right = high.copy(), low.copy()
        left[pixel], right[pixel] = min(high[pixel], threshold), max(low[pixel], threshold)
        walk(tree.children_left[node], low, left)
        walk(tree.children_right[node], right, high)

    walk(0, np.full(len(image), -math.inf), np.full(len(image), math.inf))
    return best


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_tree_attack_finds_the_smallest_change(classes, dtype):
    classifier, (x, y) = classifier_of("tree", classes), blobs(60, classes, seed=1)
    x = x.to(dtype)
    adv = tree_attack(classifier, x, y, 1.0)
    assert (labels_of(classifier, adv) != y).all()
    expected = [
        smallest_change(classifier.estimator.tree_, a.numpy(), k) for a, k in zip(x.double().flatten(1), y, strict=True)
    ]
    change = (adv.double() - x.double()).abs().flatten(1).amax(1)
    assert np.allclose(change.numpy(), expected, atol=2 * torch.finfo(dtype).eps if dtype.itemsize == 2 else 1e-6)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.01, 0.5))
def test_a_tree_is_fooled_if_and_only_if_the_nearest_leaf_is_within_eps(seed, depth, eps):
    generator = np.random.default_rng(seed)
    points, labels = generator.random((40, 3)), np.arange(40) % 3
    classifier = SklearnClassifier(DecisionTreeClassifier(max_depth=depth, random_state=0).fit(points, labels))
    x = torch.tensor(generator.random((20, 3)), dtype=torch.float32)
    y = classifier(x).argmax(1)
    adv = tree_attack(classifier, x, y, eps)
    tree = classifier.estimator.tree_
    distance = torch.tensor([smallest_change(tree, image, k) for image, k in zip(x.double().numpy(), y, strict=True)])
    clear = (distance - eps).abs() > 1e-6
    assert torch.equal((labels_of(classifier, adv) != y)[clear], (distance < eps)[clear])
    assert torch.equal((adv - x).abs().amax(1) <= eps, torch.ones(20, dtype=torch.bool))


def test_tree_attack_leaves_alone_what_is_wrong_already():
    classifier, (x, y) = classifier_of("tree"), blobs(30, seed=1)
    wrong = labels_of(classifier, x) != y
    assert wrong.any()
    assert torch.equal(tree_attack(classifier, x, y, EPS)[wrong], x[wrong])


@pytest.mark.filterwarnings("ignore:eps=")
def test_tree_attack_stays_in_the_box_of_pixels():
    """The way across the threshold at 1/2 is shut where pixels end at 0.4: nothing can be done."""
    classifier = fit_sklearn("tree", torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    x, y = torch.tensor([[0.3]]), torch.tensor([0])
    assert torch.equal(tree_attack(classifier, x, y, 1.0, clip=(0.0, 0.4)), x)
    assert classifier(tree_attack(classifier, x, y, 0.3)).argmax(1).tolist() == [1]
    assert classifier(tree_attack(classifier, x - 3, y, 5.0, clip=None)).argmax(1).tolist() == [1]


def test_a_tree_of_one_leaf_cannot_be_left():
    stump = DecisionTreeClassifier(min_samples_split=50).fit([[0.0], [1.0], [1.0]], [0, 1, 1])
    x = torch.tensor([[0.2], [0.9]])
    assert torch.equal(tree_attack(SklearnClassifier(stump), x, torch.tensor([1, 0]), 1.0), x)


# the nearest neighbours


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_neighbour_attack_steps_towards_the_nearest_image_of_another_class(seed, eps):
    x, y = blobs(12, seed=seed)
    classifier, (points, labels) = classifier_of("knn"), blobs()
    adv = neighbour_attack(classifier, x, y, eps)
    for image, label, moved in zip(x, y, adv, strict=True):
        others = points[labels != label]
        goal = others[(others - image).square().flatten(1).sum(1).argmin()]
        assert torch.allclose(moved, image + (goal - image).clamp(-eps, eps), atol=1e-6)


def test_with_eps_enough_a_neighbour_is_reached():
    x, y = blobs(12, seed=3)
    points, labels = blobs()
    one = SklearnClassifier(KNeighborsClassifier(1).fit(points.flatten(1).numpy(), labels.numpy()))
    assert (one(neighbour_attack(one, x, y, 1.0)).argmax(1) != y).all()


# what all of these attacks promise


def attacks_on(name):
    """Every way to attack a classifier: (x, y, eps, **options) -> adv."""
    classifier = classifier_of(name)
    yield lambda *args, **kw: generate(classifier, *args, batch_size=4, **kw)
    if name == "tree":
        yield lambda *args, **kw: tree_attack(classifier, *args, **kw)
    if name == "knn":
        yield lambda *args, **kw: neighbour_attack(classifier, *args, **kw)


@every_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [0.0, 1e-9, 8 / 255, 0.1, 0.3, 1.0])
def test_inside_ball_and_box(name, dtype, eps):
    x, y = blobs(10, seed=1)
    x = x.to(dtype)
    before = x.clone()
    for attack in attacks_on(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gradients that are zero in half precision
            adv = attack(x, y, eps)
        assert (adv.shape, adv.dtype, adv.requires_grad) == (x.shape, dtype, False)
        assert (adv.double() - x.double()).abs().max() <= eps + (torch.finfo(dtype).eps if dtype.itemsize == 2 else 0)
        assert (adv - x).abs().max() <= eps
        assert 0 <= adv.min() <= adv.max() <= 1
        assert torch.equal(x, before)
        assert adv.data_ptr() != x.data_ptr()


@every_name
def test_empty_batches(name):
    x, y = blobs(3)
    for attack in attacks_on(name):
        assert attack(x[:0], y[:0], EPS).shape == (0, 1, 4, 4)


@every_name
def test_attacks_refuse(name):
    x, y = blobs(6)
    for attack in attacks_on(name):
        for wrong, words in [
            ((x.numpy(), y, EPS), "torch tensor"),
            ((x, y[:4], EPS), "one label for each"),
            ((x, y + 3, EPS), "label 5"),
            ((x, y.float(), EPS), "integer labels"),
            ((x, y, -0.1), "not negative"),
            ((x + 1, y, EPS), "must lie in"),
        ]:
            with pytest.raises((ValueError, TypeError), match=words):
                attack(*wrong)


def test_attacks_refuse_another_classifier():
    x, y = blobs(6)
    with pytest.raises(TypeError, match="wraps a DecisionTreeClassifier"):
        tree_attack(classifier_of("knn"), x, y, EPS)
    with pytest.raises(TypeError, match="wraps a KNeighborsClassifier"):
        neighbour_attack(classifier_of("tree"), x, y, EPS)


# craft


def test_craft_attacks_a_network_as_the_attack_itself():
    network, (x, y) = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), blobs(20)
    assert torch.equal(generate(network, x, y, EPS, batch_size=7), fgsm(network, x, y, EPS))
    options = {"steps": 3, "random_start": False}
    assert torch.equal(generate(network, x, y, EPS, attack=pgd, **options), pgd(network, x, y, EPS, **options))


@every_smooth
def test_craft_attacks_the_surrogate(name):
    classifier, (x, y) = classifier_of(name), blobs(20)
    assert torch.equal(generate(classifier, x, y, EPS, batch_size=7), fgsm(surrogate(classifier), x, y, EPS))


@every_name
def test_crafted_images_fool_their_source(name):
    classifier, (x, y) = classifier_of(name), blobs(200, seed=1)
    assert accuracy(classifier, generate(classifier, x, y, 0.3), y) < 0.5 * accuracy(classifier, x, y)


def test_craft_refuses_what_a_tree_cannot_do():
    x, y = blobs(6)
    for options in ({"targeted": True}, {"norm": "l2"}):
        with pytest.raises(ValueError, match="untargeted and in norm"):
            generate(classifier_of("tree"), x, y, EPS, **options)
    adv = generate(classifier_of("tree"), x, y, EPS, attack=pgd, steps=3, norm="linf", clip=(0.0, 1.0))
    assert torch.equal(adv, tree_attack(classifier_of("tree"), x, y, EPS))


# real digits


@pytest.mark.parametrize(
    ("name", "low", "agree"),
    [
        ("logistic", 0.80, 1.0),
        ("linear_svm", 0.80, 1.0),
        ("rbf_svm", 0.86, 0.9),
        ("tree", 0.6, None),
        ("knn", 0.83, 0.9),
    ],
)
def test_on_digits(name, low, agree):
    """A quarter of the images: the accuracies one expects, surrogates that agree, source images that fool."""
    x, y = load_images(n=1000)
    images, labels = load_images(split="test", n=200)
    classifier = fit_sklearn(name, x, y)
    assert accuracy(classifier, images, labels) > low
    if agree is not None:
        same = surrogate(classifier)(images).argmax(1) == labels_of(classifier, images)
        assert same.float().mean() >= agree
    right = correct(classifier, images, labels)
    adv = generate(classifier, images[right], labels[right], 0.3)
    assert accuracy(classifier, adv, labels[right]) < 0.6
