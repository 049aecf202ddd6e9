"""Accuracy, robust accuracy, the report on one attack, the worst of several; T21, T28 to T31 and T33."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from course_utils.attacks import fgsm, pgd
from course_utils.core import wilson
from course_utils.defences.robust_manifold import latent_attack
from course_utils.evaluation import (
    AttackReport,
    accuracy,
    accuracy_under_attack,
    accuracy_within,
    compare_transfer,
    confidence,
    correct,
    distances,
    evaluate_attack,
    masking_tests,
    patch_success,
    robustness_to_transformations,
    transfer_matrix,
    worst_case,
)
from course_utils.models import RBFNetwork, predict
from course_utils.training import Oracle


class Threshold(nn.Module):
    """One pixel, class 1 above 1/2: its robust accuracy at any eps is known exactly."""

    def forward(self, x):
        z = 10 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-z, z], dim=1)


class Frail(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.head = nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        self.fails = False

    def forward(self, x):
        if self.fails:
            raise ArithmeticError("this model fails")
        return self.head(self.drop(self.norm(x)))


def grid(n=100):
    """Pixels 0.005, 0.015, …, and the labels by which the model is right about all of them."""
    x = (torch.arange(n) + 0.5).div(n).view(n, 1, 1, 1)
    return x, (x.flatten() > 0.5).long()


def test_accuracy_counts():
    x, y = grid()
    assert accuracy(Threshold(), x, y) == 1.0
    y[:25] = 1 - y[:25]
    assert accuracy(Threshold(), x, y) == pytest.approx(0.75)
    assert correct(Threshold(), x, y).tolist() == [False] * 25 + [True] * 75


@pytest.mark.parametrize("batch_size", [1, 7, 100, 1000])
def test_batches_do_not_matter(batch_size):
    x, y = grid()
    assert torch.equal(predict(Threshold(), x, batch_size=batch_size), predict(Threshold(), x))
    assert accuracy_under_attack(Threshold(), x, y, 0.1, attack=fgsm, batch_size=batch_size) == pytest.approx(0.8)


@pytest.mark.parametrize("attack", [fgsm, pgd])
@pytest.mark.parametrize("eps", [0.0, 0.1, 0.2, 0.45])
def test_robust_accuracy_of_a_threshold(attack, eps):
    """All within eps of 1/2 are fooled, no one else: a share of 2*eps."""
    x, y = grid()
    assert accuracy_under_attack(Threshold(), x, y, eps, attack=attack) == pytest.approx(1 - 2 * eps)


def test_t28_denominators():
    """100 images, 20 wrong from the start, 16 of the other 80 fooled: 0.80, 0.64 and 0.20."""
    x, y = grid()
    y[:10], y[-10:] = 1, 0
    adv = fgsm(Threshold(), x, y, 0.08)
    report = evaluate_attack(Threshold(), x, adv, y)
    assert report.n == 100
    assert (report.clean_correct, report.robust_correct) == (80, 64)
    assert report.clean_accuracy == pytest.approx(0.80)
    assert report.robust_accuracy == pytest.approx(0.64)
    assert report.success_rate == pytest.approx(0.20)
    assert report.interval == wilson(64, 100)
    assert report.linf == pytest.approx(0.08)
    assert accuracy_under_attack(Threshold(), x, y, 0.08, attack=fgsm) == pytest.approx(0.64)
    text = str(report)
    assert "clean accuracy  80.0 % (71.1–86.7, n = 100)" in text
    assert "robust accuracy 64.0 %" in text
    assert "success rate    20.0 % (12.7–30.0, n = 80)" in text


def test_t28_an_attack_that_repairs_a_wrong_answer_is_not_robustness():
    """Over all images, right before and after: 'fooled' images that the attack makes right do not count."""
    x, y = grid()
    y = 1 - y  # the model is wrong about everything
    repair = lambda model, x, y, eps: fgsm(model, x, y, eps, targeted=True)  # noqa: E731
    assert accuracy_under_attack(Threshold(), x, y, 0.1, attack=repair) == 0
    report = evaluate_attack(Threshold(), x, repair(Threshold(), x, y, 0.1), y)
    assert (report.clean_accuracy, report.robust_accuracy) == (0, 0)
    assert math.isnan(report.success_rate)
    assert "none was correct" in str(report)


def test_report_measures_the_largest_change():
    x, y = torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    adv = x.clone()
    adv[1] = torch.tensor([[0.3, 0.4], [0.0, 0.0]])
    report = evaluate_attack(Threshold(), x, adv, y)
    assert (report.linf, report.l2) == pytest.approx((0.4, 0.5))


@settings(max_examples=25)
@given(st.integers(1, 40), st.floats(0, 0.5), st.integers(0, 1000))
def test_robust_is_never_above_clean(n, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(n, 6, generator=generator), torch.randint(3, (n,), generator=generator)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = nn.Linear(6, 3)
    clean = accuracy(model, x, y)
    harmless = accuracy_under_attack(model, x, y, eps, attack=lambda model, x, y, eps: x)
    robust = accuracy_under_attack(model, x, y, eps, steps=3, generator=generator)
    assert robust <= clean == harmless
    report = evaluate_attack(model, x, fgsm(model, x, y, eps), y)
    assert report.robust_accuracy <= report.clean_accuracy == pytest.approx(clean)
    assert math.isnan(report.success_rate) or 0 <= report.success_rate <= 1


def test_options_reach_the_attack():
    x, y = grid(10)
    seen = []

    def attack(model, x, y, eps, *, steps, norm):
        seen.append((len(x), eps, steps, norm))
        return x

    accuracy_under_attack(Threshold(), x, y, 0.3, attack=attack, batch_size=4, steps=7, norm="l2")
    assert seen == [(4, 0.3, 7, "l2"), (4, 0.3, 7, "l2"), (2, 0.3, 7, "l2")]


def test_t21_t29_evaluation_is_in_eval_mode_and_leaves_no_trace():
    model = Frail().train()
    model.norm.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = torch.rand(20, 8), torch.zeros(20, dtype=torch.int64)
    rng = torch.get_rng_state()
    first = predict(model, x)
    assert torch.equal(predict(model, x, batch_size=20), first)
    confidence(model, x)
    evaluate_attack(model, x, x.clone(), y)
    accuracy_under_attack(model, x, y, 0.1, attack=fgsm)
    assert torch.equal(torch.get_rng_state(), rng)
    assert [m.training for m in (model, model.norm, model.drop, model.head)] == [True, False, True, True]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not first.requires_grad


def test_modes_are_restored_after_an_exception():
    model = Frail().train()
    model.fails = True
    for judge in (predict, confidence):
        with pytest.raises(ArithmeticError):
            judge(model, torch.rand(4, 8))
    assert model.training
    assert model.drop.training
    assert all(p.requires_grad for p in model.parameters())


def test_models_that_change_their_input_in_place():
    def model(x):
        x -= 0.5
        return torch.cat([-x, x], dim=1)

    x = torch.rand(5, 1)
    before = x.clone()
    predict(model, x)
    assert torch.equal(x, before)


def test_confidence_of_a_softmax():
    model = nn.Linear(4, 3)
    x = torch.rand(6, 4)
    assert torch.allclose(confidence(model, x), model(x).softmax(1).amax(1).detach())


def test_confidence_of_an_rbf_network_is_its_own():
    """Far from all templates it is sure of nothing, where a softmax of the same logits would be sure."""
    model = RBFNetwork(torch.eye(10).view(10, 1, 2, 5)).train()
    with torch.no_grad():
        model.log_beta.zero_()
    near, far = torch.eye(10).view(10, 1, 2, 5), torch.full((1, 1, 2, 5), 5.0)
    assert torch.allclose(confidence(model, near), torch.ones(10), atol=1e-5)
    assert confidence(model, far).item() < 1e-6
    assert model(far).softmax(1).max() > 0.09
    assert model.training


def test_t30_worst_case_is_point_wise():
    one, two = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert worst_case(one, two).tolist() == [True, False, False, False]
    assert worst_case(one).tolist() == one.tolist()
    assert worst_case(one, two).float().mean() < min(one.float().mean(), two.float().mean())
    assert worst_case(one, two).dtype == torch.bool


@pytest.mark.parametrize(
    ("masks", "error"),
    [
        ([], ValueError),
        ([torch.ones(3).bool(), torch.ones(4).bool()], ValueError),
        ([torch.ones(3)], TypeError),
        ([torch.ones(3).bool(), torch.ones(3, dtype=torch.uint8)], TypeError),
    ],
)
def test_worst_case_refuses(masks, error):
    with pytest.raises(error, match=r"expected masks|masks must be boolean"):
        worst_case(*masks)


def test_evaluation_refuses():
    x, y = grid(10)
    with pytest.raises(ValueError, match="at least one image"):
        accuracy(Threshold(), x[:0], y[:0])
    with pytest.raises(ValueError, match="at least one image"):
        accuracy_under_attack(Threshold(), x[:0], y[:0], 0.1)
    with pytest.raises(ValueError, match="one label for each of the 10 images"):
        accuracy(Threshold(), x, y[:9])
    with pytest.raises(ValueError, match="one label for each of the 10 images"):
        accuracy(Threshold(), x, nn.functional.one_hot(y))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        accuracy(Threshold(), x, y, batch_size=0)
    with pytest.raises(ValueError, match="shape of x"):
        evaluate_attack(Threshold(), x, x[:5], y)
    with pytest.raises(ValueError, match="finite and not negative"):
        accuracy_under_attack(Threshold(), x, y, -0.1)


# What an attack refuses, no evaluation counts

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
ANSWERS = torch.arange(6) % 3


class Draws(nn.Module):
    """A generator of images like IMAGES."""

    latent = 2

    def forward(self, z):
        return (z.sum(1).view(-1, 1, 1, 1) / 10).sigmoid().expand(-1, 3, 8, 8)


# Everything that asks a model for classes, as (model, x, y) -> result
JUDGES = {
    "predict": lambda model, x, y: predict(model, x),
    "correct": correct,
    "accuracy": accuracy,
    "confidence": lambda model, x, y: confidence(model, x),
    "accuracy_under_attack": lambda model, x, y: accuracy_under_attack(
        model, x, y, 0.1, attack=lambda model, x, y, eps: x
    ),
    "evaluate_attack": lambda model, x, y: evaluate_attack(model, x, x, y),
    "masking_tests": lambda model, x, y: masking_tests(model, x, y, 0.1, steps=1),
    "transfer_matrix": lambda model, x, y: transfer_matrix({"one": model}, {"one": model}, x, y, 0.1),
    "compare_transfer": lambda model, x, y: compare_transfer(
        [model], {"one": model}, x, y, {"none": lambda model, x, y: x}, workers=1, progress=False
    ),
    "survival": lambda model, x, y: robustness_to_transformations(model, x, {"none": x}, y, {}),
    "survival target": lambda model, x, y: robustness_to_transformations(
        lambda x: nn.functional.one_hot(ANSWERS, 3).float(), x, {"none": x}, ANSWERS, {}, target=y
    ),
    "Oracle": lambda model, x, y: Oracle(model)(x),
    "patch_success": lambda model, x, y: patch_success(model, x, {}, 0),
    "latent_attack": lambda model, x, y: latent_attack(model, Draws(), torch.randn(6, 2), y, steps=1),
}
WITHOUT_LABELS = {"predict", "confidence", "Oracle", "patch_success"}


def every_judge(*but):
    return pytest.mark.parametrize("name", [name for name in JUDGES if name not in but])


def flat(x):
    return x.flatten(1)[:, :3]


BAD_MODELS = {
    "one logit": (lambda x: flat(x)[:, :1], ValueError, r"K >= 2 .* torch\.stack"),
    "a flat answer": (lambda x: flat(x)[:, 0], ValueError, r"logits \(N, K\)"),
    "a place too many": (lambda x: flat(x)[:, :, None, None], ValueError, r"got \(6, 3, 1, 1\).*nn\.Flatten"),
    "one row": (lambda x: flat(x)[:1], ValueError, "6 images"),
    "tuple": (lambda x: (flat(x), flat(x)), TypeError, "one tensor of logits .* got a tuple: .*forward"),
    "dict": (lambda x: {"logits": flat(x)}, TypeError, "got a dict: .*forward"),
    "array": (lambda x: flat(x).numpy(), TypeError, "got a ndarray"),
    "integers": (lambda x: flat(x).long(), TypeError, r"floating-point logits.*votes\.float\(\)"),
    "NaN": (lambda x: flat(x) * math.nan, ValueError, r"image 0 .* nan\. .*finite"),
    "one NaN": (lambda x: torch.cat([flat(x)[:, :2], x.flatten(1)[:, :1].log() * 0 / 0], 1), ValueError, "finite"),
    "infinite": (lambda x: flat(x) / 0, ValueError, r"image 0 .* inf\. .*finite"),
}


@every_judge("survival target")
@pytest.mark.parametrize(("model", "error", "message"), BAD_MODELS.values(), ids=BAD_MODELS)
def test_models_that_an_attack_refuses_are_not_judged(name, model, error, message):
    with pytest.raises(error, match=message):
        JUDGES[name](model, IMAGES, ANSWERS)


@every_judge(*WITHOUT_LABELS)
@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (ANSWERS.numpy(), TypeError, r"6 integer labels, got a ndarray: use torch\.as_tensor"),
        (ANSWERS.tolist(), TypeError, "6 integer labels, got a list"),
        (ANSWERS.float(), TypeError, "integer labels, got torch.float32"),
        (ANSWERS > 1, TypeError, "integer labels, got torch.bool"),
        (ANSWERS[:5], ValueError, "one label for each of the 6 images"),
        (ANSWERS - 1, ValueError, "labels start at 0, got -1"),
        (ANSWERS + 1, ValueError, "label 3, but the model has 3 outputs"),
    ],
)
def test_labels_that_an_attack_refuses_are_not_judged(name, y, error, message):
    with pytest.raises(error, match=message):
        JUDGES[name](flat, IMAGES, y)


@every_judge("latent_attack")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.numpy(), TypeError, r"torch tensor, got a ndarray: use torch\.as_tensor"),
        (lambda x: (255 * x).byte(), TypeError, r"must hold floats .* torch\.uint8"),
        (lambda x: x * math.nan, ValueError, "NaN or infinite values; image 0"),
        (lambda x: x / 0, ValueError, "NaN or infinite values"),
    ],
)
def test_images_that_an_attack_refuses_are_not_judged(name, change, error, message):
    with pytest.raises(error, match=message):
        JUDGES[name](flat, change(IMAGES), ANSWERS)


BAD_ADVERSARIAL = {
    "NaN": (lambda x: x * math.nan, ValueError, "adv contains NaN .* image 0"),
    "one NaN": (
        lambda x: x.masked_fill(torch.arange(192).view(3, 8, 8) == 5, math.nan),
        ValueError,
        "adv contains NaN",
    ),
    "array": (lambda x: x.numpy(), TypeError, "adv must be a torch tensor"),
    "integers": (lambda x: x.long(), TypeError, "adv must hold floats"),
    "shape": (lambda x: x[:, :1], ValueError, "adv must have the shape of x"),
    "short": (lambda x: x[:1], ValueError, "adv must have the shape of x"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_ADVERSARIAL.values(), ids=BAD_ADVERSARIAL)
def test_what_is_no_adversarial_image_is_no_success(change, error, message):
    calls = []
    with pytest.raises(error, match=message):
        evaluate_attack(calls.append, IMAGES, change(IMAGES), ANSWERS)
    assert not calls
    with pytest.raises(error, match=message):
        distances(IMAGES, change(IMAGES))
    with pytest.raises(error, match=message):
        accuracy_under_attack(flat, IMAGES, ANSWERS, 0.1, attack=lambda model, x, y, eps: change(x))


def test_minus_infinity_is_the_logarithm_of_a_probability_of_zero():
    """A model may rule a class out; only the largest logit names the class."""
    z = torch.log(torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0]]))
    assert predict(lambda x: z, IMAGES[:2]).argmax(1).tolist() == [2, 1]
    assert confidence(lambda x: z, IMAGES[:2]).tolist() == pytest.approx([0.75, 1.0])


def test_masks_must_be_tensors():
    with pytest.raises(TypeError, match=r"boolean tensors, .* got ndarray"):
        worst_case(np.ones(3, dtype=bool))


def test_report_is_frozen():
    report = AttackReport(n=10, clean_correct=8, robust_correct=2, linf=0.1, l2=0.2)
    with pytest.raises(AttributeError):
        report.n = 5
    assert report.success_rate == pytest.approx(0.75)


def test_robust_accuracy_refuses_a_targeted_attack():
    x, y = torch.rand(3, 4), torch.tensor([0, 1, 0])
    with pytest.raises(ValueError, match="evaluate_attack"):
        accuracy_under_attack(torch.nn.Linear(4, 2), x, y, 0.1, targeted=True)


def test_distances_of_known_changes():
    x = torch.zeros(2, 1, 2, 2)
    adv = torch.tensor([[0.3, 0.0, -0.4, 0.0], [0.1, 0.1, 0.1, 0.1]]).view(2, 1, 2, 2)
    torch.testing.assert_close(distances(x, adv), torch.tensor([0.5, 0.2]))
    torch.testing.assert_close(distances(x, adv, measure="linf"), torch.tensor([0.4, 0.1]))
    torch.testing.assert_close(distances(x, adv, measure="rms"), torch.tensor([0.25, 0.1]))


def test_distances_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="measure"):
        distances(torch.zeros(1, 4), torch.zeros(1, 4), measure="l1")
    with pytest.raises(ValueError, match="shape"):
        distances(torch.zeros(1, 4), torch.zeros(2, 4))


def test_accuracy_within_counts_what_is_wrong_already_and_what_was_never_fooled():
    distance, budgets = torch.tensor([0.0, 0.5, 0.5, torch.inf]), torch.tensor([0.5, 0.0, 0.49, 9.0])
    assert accuracy_within(distance, budgets).tolist() == [0.25, 0.75, 0.75, 0.25]
    assert accuracy_within(distance, torch.tensor([])).shape == (0,)


@pytest.mark.parametrize(
    "distance", [torch.tensor([]), torch.tensor([-1.0]), torch.tensor([torch.nan]), torch.rand(2, 2)]
)
def test_accuracy_within_refuses_what_are_no_distances(distance):
    with pytest.raises(ValueError, match="at least 0"):
        accuracy_within(distance, torch.tensor([1.0]))
