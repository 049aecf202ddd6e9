"""Exercises as data: what holds for each of them, and what the engine makes of them."""

import ast
import inspect
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import combinations

import answers
import numpy as np
import pytest
import torch
from conftest import assert_passes
from mutants import passes, solution, survivors
from torch import nn

from course_utils.exercises import check, engine
from course_utils.exercises.error_hints import CheckFailed
from course_utils.exercises.exercise import NO_RANDOMNESS, Case, Exercise
from course_utils.exercises.mistakes import Mistake
from course_utils.exercises.properties import KEEP_APART, close

CHECKERS = {name: getattr(checker, "__self__", None) for name, (checker, _) in engine._CHECKERS.items()}
EXERCISES = {name: exercise for name, exercise in CHECKERS.items() if isinstance(exercise, Exercise)}
MISTAKES = [
    pytest.param(
        name, mistake.words, function, id=f"{name} {mistake.words[:40]} {i}", marks=[pytest.mark.slow] * (i > 0)
    )
    for name, exercise in EXERCISES.items()
    for mistake in exercise.mistakes
    for i, function in enumerate(mistake.functions)
]

answers.load()

every_exercise = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES.keys())
every_mistake = pytest.mark.parametrize(("name", "words", "function"), MISTAKES)


def same(exercise, left, right):
    return all(exercise._agree(a, b) for a, b in zip(left, right, strict=True))


# --- every exercise ---------------------------------------------------------------------------------------------------


@every_exercise
def test_the_solution_of_the_notebook_passes(exercise):
    assert passes(exercise.name, ast.unparse(solution(exercise.name)))


@every_exercise
def test_whoever_leaves_the_work_to_the_course_is_told_so(exercise):
    result = check(exercise.name, lambda *arguments: exercise.reference(*arguments), strict=False)
    assert result.failed == "is written by hand"
    assert "leaves the work to the solution" in result.what


@every_mistake
def test_each_mistake_is_refused_with_its_own_words(name, words, function):
    result = check(name, function, strict=False)
    assert result.status == "failed"
    assert result.hint == words.strip()
    exercise = EXERCISES[name]
    assert result.failed in {f"returns {exercise.returns}", *(case.label for case in exercise.cases)}
    assert len(result.what) < 400


@every_exercise
def test_no_mistake_is_right_and_no_two_are_the_same(exercise):
    tried, right = exercise._explanations, exercise._rights
    assert not [words for words, result in tried if same(exercise, result, right)]
    assert not [(a, b) for (a, one), (b, other) in combinations(tried, 2) if a != b and same(exercise, one, other)]


def on_trial(readers, own):
    """Return answers for a test; those of the readers are tried in the fast tests."""
    rows = [(row, []) for row in readers] + [(row, [pytest.mark.slow]) for row in own]
    return [
        pytest.param(name, *known[1:], answer, id=f"{name} {known[0] if known else answer.__name__}", marks=marks)
        for (name, *known, answer), marks in rows
    ]


@pytest.mark.parametrize(("name", "answer"), on_trial(answers.RIGHT, answers.OWN_RIGHT))
def test_right_answers_pass(name, answer):
    assert_passes(name, answer)


@pytest.mark.parametrize(("name", "says", "answer"), on_trial(answers.WRONG, answers.OWN_WRONG))
def test_wrong_answers_are_refused_and_told_why(name, says, answer):
    result = check(name, answer, strict=False)
    assert result.status == "failed", result
    assert says in f"{result.what} {result.hint}"
    assert len(result.hint) < 420


def test_each_exercise_has_answers_on_trial():
    for given, least in ((answers.RIGHT + answers.OWN_RIGHT, 4), (answers.WRONG + answers.OWN_WRONG, 8)):
        counts = Counter(name for name, *_ in given)
        assert not [name for name in EXERCISES if counts[name] < least]


def frozen(value):
    """Return what tells whether an argument is as it was."""
    if isinstance(value, nn.Module):
        modes = [module.training for module in value.modules()]
        return (
            modes,
            [p.requires_grad for p in value.parameters()],
            {k: v.clone() for k, v in value.state_dict().items()},
        )
    if isinstance(value, list):
        return [frozen(entry) for entry in value]
    return value.clone() if isinstance(value, torch.Tensor) else str(value)


@every_exercise
def test_a_check_leaves_its_arguments_for_the_next_one(exercise):
    before = [[frozen(argument) for argument in arguments] for _, arguments in exercise.trials]
    check(exercise.name, exercise.reference, strict=False)
    check(exercise.name, exercise.mistakes[0].functions[0], strict=False)
    after = [[frozen(argument) for argument in arguments] for _, arguments in exercise.trials]
    assert close(after, before, tolerance=0)


@every_exercise
def test_a_stub_is_not_attempted(exercise):
    def stub(*arguments):
        raise NotImplementedError()

    assert check(exercise.name, stub, strict=True).status == "not attempted"


@every_exercise
def test_a_check_does_not_depend_on_the_notebooks_settings(exercise, odd_settings):
    anew = replace(exercise)  # with nothing computed yet
    takes = f"({', '.join(exercise.arguments)})"
    result = engine._run(exercise.name, anew.check, takes, partial(exercise.reference), list)
    assert result.failed == "is written by hand", result  # the last property: all others hold


def lines(name):
    """Return the expressions of the notebook's solution that join two operations or more."""
    operations = ast.Call | ast.BinOp | ast.Compare | ast.Subscript
    for node in ast.walk(solution(name)):
        if isinstance(node, ast.expr) and sum(isinstance(n, operations) for n in ast.walk(node)) >= 2:
            yield ast.unparse(node)


@every_exercise
def test_no_message_gives_the_line_away(exercise):
    messages = [mistake.words for mistake in exercise.mistakes] + [
        case.where for case in exercise.cases if isinstance(case, Case)
    ]
    assert not [(line, message) for line in lines(exercise.name) for message in messages if line in message]
    assert max(map(len, messages)) < 420


@every_exercise
def test_the_arguments_named_are_those_of_the_reference(exercise):
    assert {*exercise.batched, *exercise.untouched, exercise.like} <= {*exercise.arguments}
    takes = list(inspect.signature(exercise.reference).parameters)
    for function in (f for mistake in exercise.mistakes for f in mistake.functions):
        inspect.signature(function).bind(*takes)


LAST_IS_FREE = "the last adv of the loop has no graph, and x.clone() has none"
KEEPS_GRAPH = "the graph of all steps is kept, which costs memory; the gradient at the point is the same"
ONE_NUMBER = "a tensor of one element is a number, too"
OWN_Z = "either of the two calls makes a z of its own, which is all that the gradient asks for"
SQUARED = "a difference and its negative have the same square"
OWN_COPY = "either of clone and detach gives a tensor on which requires_grad_() leaves the argument alone"
SAME_SIGN = "the mean over the batch has the same sign as the sum"
NO_GRAPH = "a sum of gradients has no graph"
ALSO_SURVIVES = "any attack will do: this one survives JPEG, too, with more, fewer, longer or shorter steps"
SYMMETRIC = "the uniform distribution from −eps to eps is symmetric"
EQUIVALENT = {  # changes to a solution that make no difference, and why
    ("largest_change", "return (x - adv).abs().flatten(1).amax(1)"): "a difference and its negative have the same size",
    ("pgd", "return adv"): LAST_IS_FREE,
    ("pgd", "adv = adv + step_size * gradient.sign()"): KEEPS_GRAPH,
    ("targeted_pgd", "return adv"): LAST_IS_FREE,
    ("targeted_pgd", "adv = adv - step_size * gradient.sign()"): KEEPS_GRAPH,
    ("l2_step", "loss = F.cross_entropy(model(x), y)"): "the length takes the mean's factor out",
    (
        "l2_step",
        "gradient = gradient / gradient.amax((1, 2, 3), keepdim=True).clamp_min(1e-37)",
    ): "of an image's gradient some entry is positive and of the size of the largest",
    ("l2_step", "lengths = gradient.flatten(1).norm(dim=1).clamp_min(2)"): "the gradients are longer than that",
    ("success_rate", "return (before & ~after).sum() / before.sum().item()"): ONE_NUMBER,
    ("success_rate", "return (before & ~after).sum().item() / before.sum()"): ONE_NUMBER,
    ("exact_accuracy", "return stays.float().mean()"): ONE_NUMBER,
    ("exact_accuracy", "stays = torch.ones_like(y)"): "1 & True is 1",
    ("exact_accuracy", "for rival in range(len(bias)):"): "there is one bias for each class",
    (
        "exact_accuracy",
        "stays = stays & ((lead >= fall) | (y == rival))",
    ): "who wins a tie is a convention; no case has one",
    ("exact_accuracy", "lead = logits.gather(1, y[:, None])[:, -1] - logits[:, rival]"): "the first column is the last",
    (
        "exact_accuracy",
        "fall = eps * (weight[rival] - weight[y]).abs().sum(1)",
    ): "a difference has the size of its negative",
    ("projection_step", "z = z.clone().requires_grad_()"): OWN_Z,
    ("projection_step", "z = z.detach().requires_grad_()"): OWN_Z,
    ("projection_step", "distance = (x - generator(z)).square().sum()"): SQUARED,
    ("best_restart", "errors = (x - drawn).square().sum((2, 3, 4))"): SQUARED,
    ("momentum_fgsm", "return adv"): LAST_IS_FREE,
    ("momentum_fgsm", "adv = (adv + eps / steps * momentum.sign()).clamp(0, 1)"): KEEPS_GRAPH,
    ("fgsm_in_levels", "x = x.clone().requires_grad_()"): OWN_COPY,
    ("fgsm_in_levels", "x = x.detach().requires_grad_()"): OWN_COPY,
    ("fgsm_in_levels", "loss = F.cross_entropy(model(x), y)"): SAME_SIGN,
    ("fgsm_in_levels", "return (255 * adv / 255).detach()"): "whole levels leave only float32's noise to round",
    ("targeted_step", "adv = adv.clone().requires_grad_()"): OWN_COPY,
    ("targeted_step", "adv = adv.detach().requires_grad_()"): OWN_COPY,
    ("targeted_step", "loss = F.cross_entropy(model(adv), target)"): SAME_SIGN,
    ("eot_gradient", "x = x.clone().requires_grad_()"): OWN_COPY,
    ("eot_gradient", "x = x.detach().requires_grad_()"): OWN_COPY,
    ("eot_gradient", "return total / samples"): NO_GRAPH,
    ("eot_gradient", "total += torch.autograd.grad(loss, x)[-1]"): "there is one gradient, the first and the last",
    ("survive_jpeg", "loss = F.cross_entropy(model(attacks.jpeg(adv)), y)"): SAME_SIGN,
    ("survive_jpeg", "adv = adv.detach() + eps / 4 / gradient.sign()"): "to divide by a sign is to multiply by it",
    **{("survive_jpeg", f"for _ in range({n}):"): ALSO_SURVIVES for n in ("10 + 1", "10 - 1", "11", "9")},
    **{
        ("survive_jpeg", f"adv = adv.detach() + {step}"): ALSO_SURVIVES
        for step in (
            "(eps / 4 + gradient.sign())",
            "gradient.sign()",
            "eps * 4 * gradient.sign()",
            "4 / eps * gradient.sign()",
            "eps * gradient.sign()",
            "4 * gradient.sign()",
            "x / 4 * gradient.sign()",
            "eps / 5 * gradient.sign()",
            "eps / 3 * gradient.sign()",
        )
    },
    ("n_fgsm_step", "start = (x - noise * (2 * torch.rand_like(x) - 1)).clamp(0, 1).requires_grad_()"): SYMMETRIC,
    ("n_fgsm_step", "start = (x + noise * (1 - 2 * torch.rand_like(x))).clamp(0, 1).requires_grad_()"): SYMMETRIC,
}


@pytest.mark.slow
@every_exercise
def test_a_check_notices_every_change_to_the_solution(exercise):
    known = {change for name, change in EQUIVALENT if name == exercise.name}
    assert set(survivors(exercise.name)) == known


# --- the engine -------------------------------------------------------------------------------------------------------


def scaled(x, scale):
    return scale * x


def numbers(n, scale):
    return 1.0 + torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1), scale


TOY = Exercise(
    "a toy",
    reference=scaled,
    cases=[
        Case("scales", [partial(numbers, 3, 2.0), partial(numbers, 3, 3.0)], "Multiply."),
        Case("scales other sizes", [partial(numbers, 4, 0.5)], "Take the size from x."),
    ],
    mistakes=[
        Mistake("That is x.", lambda x, scale: x),
        Mistake("You square the scale.", lambda x, scale: scale * scale * x),
        Mistake("You add.", lambda x, scale: x + scale, lambda x, scale: scale + x + 1),
        Mistake("You double.", lambda x, scale: x + x + 1),
    ],
    batched=("x",),
    untouched=("x",),
    explain=lambda got, right, x, scale: "Too large." if (got > right).all() else "",
)


def refusal(answer, exercise=TOY):
    """Return the property that fails and the hint, or nothing."""
    label = ""
    try:
        for label in exercise.check(answer):  # noqa: B007 (asked for after the loop)
            pass
    except CheckFailed as failure:
        return label, failure.hint
    return None


def in_place(x, scale):
    return x.mul_(scale)


def seeds(x, scale):
    torch.manual_seed(0)
    return scale * x


def draws(draw):
    def answer(x, scale):
        draw()
        return scale * x

    return answer


def kept(x, scale, results=[]):  # noqa: B006
    results.append(scale * x)
    return results[0]


def of_the_whole_batch(x, scale):
    return scale * x * (1 if len(x) > 1 else 2)


def test_a_right_answer_has_all_properties():
    first, *cases, alone, trace, own = TOY.check(lambda x, scale: scale * x)
    assert first == "returns new images like x"
    assert cases == ["scales", "scales other sizes"]
    assert alone == "gives an image alone what it gives it in a batch"
    assert trace == "leaves x as before"
    assert own == "is written by hand"


@pytest.mark.parametrize(
    ("answer", "label", "hint"),
    [
        (lambda x, scale: x, "scales", "That is x."),
        (lambda x, scale: scale**2 * x, "scales", "You square the scale."),
        (lambda x, scale: scale + 1 + x, "scales", "You add."),
        (lambda x, scale: scale * x + torch.rand(()), "scales", NO_RANDOMNESS),
        (lambda x, scale: 2 * x, "scales", "The result is the same for every scale."),
        (lambda x, scale: scale * x + 0.5, "scales", "Too large."),
        (lambda x, scale: scale * x - 0.5, "scales", "Multiply."),
        (lambda x, scale: scale * x if len(x) < 4 else scale * x - 1, "scales other sizes", "Take the size from x."),
        (kept, "scales", "You return the very tensor"),
        (of_the_whole_batch, "gives an image alone", KEEP_APART),
        (in_place, "leaves x", "Whoever called you still needs the original"),
        (seeds, "leaves x", "There is no randomness"),
        (draws(partial(torch.rand, 1)), "leaves x", "There is no randomness"),
        (draws(np.random.rand), "leaves x", "There is no randomness"),
        (draws(random.random), "leaves x", "There is no randomness"),
        (lambda x, scale: (scale * x).double(), "returns", "Keep the type"),
    ],
)
def test_what_is_said_about_a_wrong_answer(answer, label, hint):
    failed, said = refusal(answer)
    assert failed.startswith(label)
    assert said.startswith(hint)


def test_a_coincidence_on_one_case_is_not_the_mistake():
    """An answer with a number of its own agrees with a mistake where the number happens to be the same."""
    failed, said = refusal(lambda x, scale: 4.0 * x)  # the square of the first scale
    assert (failed, said.split(".")[0]) == ("scales", "The result is the same for every scale")


def test_the_mistake_that_explains_most_is_named():
    first = Mistake("Two is two.", lambda x, scale: 2 * scale * x if scale == 2 else x)
    exercise = Exercise("toy", scaled, TOY.cases, [first, Mistake("You double it.", lambda x, scale: 2 * scale * x)])
    assert refusal(lambda x, scale: 2 * scale * x, exercise) == ("scales", "You double it.")


def test_an_answer_that_fails_elsewhere_is_still_diagnosed():
    def answer(x, scale):
        if scale == 3:
            raise RuntimeError
        return x

    assert refusal(answer) == ("scales", "That is x.")


def test_what_happened_is_told_in_numbers():
    with pytest.raises(CheckFailed) as failure:
        list(TOY.check(lambda x, scale: x))
    wanted = "with scale = 2 100 % of the values of the result are wrong: they go from 1 to 3, right is 2 to 6;"
    assert failure.value.what == wanted + " they are up to 0 away from x, right is 3."


def test_the_shape_is_asked_on_the_typical_call():
    sizes = []

    def answer(x, scale):
        sizes.append(len(x))
        return scale * x

    list(Exercise("toy", scaled, TOY.cases, [], typical=partial(numbers, 7, 1.0), untouched=("x",)).check(answer))
    assert sizes[0] == 7


def test_an_argument_that_is_not_named_may_change():
    exercise = Exercise("toy", scaled, TOY.cases, [])
    assert refusal(in_place, exercise) is None


def test_no_two_exercises_have_one_name():
    with pytest.raises(ValueError, match="pgd"):
        Exercise("pgd", scaled, TOY.cases, []).register()
