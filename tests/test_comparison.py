"""Models × inputs × seeds against the plain loop."""

from functools import partial

import pytest
import torch
from torch import nn

from course_utils.attacks import fgsm, pgd
from course_utils.core import wilson
from course_utils.core.intervals import paired_difference
from course_utils.evaluation import After, accuracy_under_attack, compare, correct, worst_case
from course_utils.training import Adversary

X = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def line(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()


MODELS = {"one": [line(0), line(1)], "two": [line(2), line(3)]}
FGSM = partial(fgsm, eps=0.02)


def quiet(*arguments, **options):
    return compare(*arguments, progress=False, **{"workers": 1} | options)


def test_it_is_the_plain_loop():
    inputs = {"clean": X, "few": X[:7], "others": (X.flip(0), Y.flip(0)), "FGSM": FGSM, "PGD": Adversary("pgd", 0.03)}
    torch.manual_seed(4)
    found = quiet(MODELS, X, Y, inputs)
    torch.manual_seed(4)
    first, expected = int(torch.randint(2**31, ())), []
    for number, (name, i) in enumerate((name, i) for name in MODELS for i in range(2)):
        model = MODELS[name][i]
        torch.manual_seed(first + number)  # each model and seed has a stream of its own
        clean = correct(model, X, Y)
        masks = {
            "clean": clean,
            "few": correct(model, X[:7], Y[:7]),
            "others": correct(model, X.flip(0), Y.flip(0)),
            "FGSM": clean & correct(model, fgsm(model, X, Y, 0.02), Y),
            "PGD": clean & correct(model, pgd(model, X, Y, 0.03), Y),
        }
        for column, mask in masks.items():
            assert torch.equal(found.mask(name, column, i), mask)
            n, right = len(mask), int(mask.sum())
            expected.append((name, i, column, n, right, right / n, *wilson(right, n)))
    assert [tuple(row) for row in found.frame.itertuples(index=False)] == expected
    robust = [accuracy_under_attack(net, X, Y, 0.02, attack=fgsm) for net in MODELS["two"]]
    assert found.by_seed("two", "FGSM") == pytest.approx(robust)


def test_table_is_the_mean_over_seeds_in_the_order_of_what_was_given():
    found = quiet(dict(reversed(MODELS.items())), X, Y, {"b": FGSM, "a": X})
    table = found.table()
    assert list(table.index) == ["two", "one"]
    assert list(table.columns) == ["b", "a"]
    assert table.loc["one", "b"] == sum(found.by_seed("one", "b")) / 2
    assert found.T.table().equals(table.T)
    assert found.T.T.table().equals(table)


def random_attack(model, x, y):
    return (x + 0.1 * torch.rand_like(x)).clamp(0, 1)


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_results_do_not_depend_on_the_number_of_workers(parts):
    found = []
    for workers in (1, 2):
        torch.manual_seed(9)
        found.append(quiet(MODELS, X, Y, {"random": random_attack, "clean": X[:10]}, workers=workers, parts=parts))
    one, two = found
    assert one.frame.equals(two.frame)
    assert all(torch.equal(one.masks[key], two.masks[key]) for key in one.masks)
    assert all(torch.equal(one.images[key], two.images[key]) for key in one.images)


@pytest.mark.parametrize("parts", [2, 3, 50])
def test_parts_change_nothing_of_an_attack_without_chance(parts):
    inputs = {"clean": X, "few": X[:1], "FGSM": FGSM, "more": After("FGSM", partial(fgsm, eps=0.05))}
    whole, cut = quiet(MODELS, X, Y, inputs), quiet(MODELS, X, Y, inputs, parts=parts)
    assert whole.frame.equals(cut.frame)


def test_after_goes_on_with_what_was_left():
    seen = []

    def second(model, x, y):
        seen.append(x)
        return fgsm(model, x, y, 0.1)

    model = MODELS["one"][0]
    found = quiet({"one": model}, X, Y, {"clean": X, "FGSM": After("clean", FGSM), "second": After("FGSM", second)})
    first = correct(model, X, Y) & correct(model, fgsm(model, X, Y, 0.02), Y)
    assert torch.equal(found.mask("one", "FGSM"), first)
    assert torch.equal(torch.cat(seen), X[first])
    assert torch.equal(found.mask("one", "second"), first & correct(model, fgsm(model, X, Y, 0.1), Y))
    assert torch.equal(found.images["one", "second", 0][~first], X[~first])
    assert torch.equal(worst_case(*found.masks_of("one")), found.mask("one", "second"))


def test_nothing_left_is_not_attacked():
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    with torch.no_grad():
        wrong[1].weight.zero_()
        wrong[1].bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    few = Y != 2
    inputs = {"clean": X[few], "attack": After("clean", lambda *_: pytest.fail("attacked"))}
    assert quiet({"wrong": wrong}, X[few], Y[few], inputs).frame.correct.tolist() == [0, 0]


def test_models_may_meet_different_inputs():
    found = quiet(MODELS, X, Y, lambda name: {"clean": X} | ({"FGSM": FGSM} if name == "two" else {}))
    assert found.table().isna().values.tolist() == [[False, True], [False, False]]
    assert "| one |" in found._repr_markdown_()
    assert found._repr_markdown_().count("–  |") + found._repr_markdown_().count("| – |") == 1
    with pytest.raises(KeyError, match="'one' was not compared on 'FGSM'"):
        found.by_seed("one", "FGSM")


def test_it_shows_itself_as_a_table():
    single = quiet({"a|b": MODELS["one"][0]}, X, Y, {"clean": X})
    right = single.frame.correct[0]
    low, high = wilson(right, 40)
    shown = single._repr_markdown_()
    assert shown.splitlines()[0] == "|  | clean |"
    assert f"| a\\|b | {100 * right / 40:.0f} % ({100 * low:.0f}–{100 * high:.0f}) |" in shown
    assert shown.endswith("95 % Wilson interval in brackets; n = 40.")
    assert "mean of 2 seeds (lowest–highest)" in quiet(MODELS, X, Y, {"clean": X})._repr_markdown_()
    assert f"{100 * right / 40:.1f} %" in str(single) == repr(single)


def test_tuples_are_names_like_others():
    found = quiet({("one", 0): MODELS["one"][0]}, X, Y, {("clean", 1): X})
    assert found.table().index.tolist() == [("one", 0)]
    assert found.by_seed(("one", 0), ("clean", 1)) == [found.frame.accuracy[0]]
    found._repr_markdown_()


@pytest.mark.parametrize(
    ("models", "inputs", "message"),
    [
        ({}, {"clean": X}, "at least one model by name"),
        ([line(0)], {"clean": X}, "at least one model by name"),
        ({"a": []}, {"clean": X}, "'a' must be a model, or a list"),
        ({"a": 3}, {"clean": X}, "'a' must be a model, or a list"),
        (MODELS, {}, "at least one input by name"),
        (MODELS, X, "at least one input by name"),
        (MODELS, lambda name: None, "'one' needs a mapping with at least one input"),
        (MODELS, {"clean": "x"}, "'clean' must be images, a pair .* got a str"),
        (MODELS, {"clean": (X, Y, Y)}, "'clean' must be images, a pair .* got a tuple"),
        (MODELS, {"clean": X[:0]}, "'clean' holds no image"),
        (MODELS, {"clean": torch.cat([X, X])}, "80 images and y 40 labels: give a pair"),
        (MODELS, {"clean": (X, Y[:9])}, "label"),
        (MODELS, {"more": After("FGSM", FGSM), "FGSM": FGSM}, "must come before it"),
        (MODELS, {"few": X[:9], "more": After("few", FGSM)}, "as long as x"),
    ],
)
def test_wrong_input_is_refused(models, inputs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        quiet(models, X, Y, inputs)


def test_an_attack_needs_labels_and_a_count_of_parts():
    with pytest.raises(ValueError, match="one label for each image"):
        quiet(MODELS, X[:9], Y, {"FGSM": FGSM})
    with pytest.raises(ValueError, match="parts"):
        quiet(MODELS, X, Y, {"clean": X}, parts=0)
    with pytest.raises(ValueError, match="shape"):
        quiet(MODELS, X, Y, {"bad": lambda model, x, y: x[:, :, 1:]})


def test_the_caller_draws_one_number():
    torch.manual_seed(3)
    quiet(MODELS, X, Y, {"random": random_attack})
    after = torch.rand(1)
    torch.manual_seed(3)
    torch.randint(2**31, ())
    assert torch.equal(after, torch.rand(1))


def test_a_difference_is_that_of_the_accuracies_and_counts_pairs():
    found = quiet(MODELS, X, Y, {"clean": X, "FGSM": FGSM, "few": X[:7]})
    clean, attacked = found.mask("two", "clean", 1), found.mask("two", "FGSM", 1)
    expected = paired_difference(int((attacked & ~clean).sum()), int((clean & ~attacked).sum()), len(X))
    assert found.difference("two", "clean", "FGSM", 1) == expected
    assert expected.value == pytest.approx(found.by_seed("two", "FGSM")[1] - found.by_seed("two", "clean")[1])
    assert found.difference("one", "FGSM", "FGSM").value == 0
    with pytest.raises(ValueError, match="'clean' has 40, 'few' 7"):
        found.difference("one", "clean", "few")


def test_a_lead_compares_two_models_on_the_same_images():
    found = quiet(MODELS, X, Y, lambda name: {"clean": X, "some": X[:7] if name == "one" else X})
    mine, theirs = found.mask("two", "clean"), found.mask("one", "clean")
    expected = paired_difference(int((mine & ~theirs).sum()), int((theirs & ~mine).sum()), len(X))
    assert found.lead("two", "one", "clean") == expected
    assert expected.value == pytest.approx((mine.sum() - theirs.sum()).item() / len(X))
    assert found.lead("one", "one", "clean").value == 0
    with pytest.raises(ValueError, match="'one' has 7, 'two' 40"):
        found.lead("two", "one", "some")
