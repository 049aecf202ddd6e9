"""A chapter's own parameters cell decides what may be set, and to what."""

import json
from pathlib import Path

import numpy as np
import pytest

from course_utils.runner import chapters, parameters


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eps": 1}, 1.0),
        ({"eps": np.float32(0.5)}, 0.5),
        ({"n_eval": np.int64(7)}, 7),
        ({"augment": np.bool_(True)}, True),
        ({"dataset": "mnist"}, "mnist"),
        ({"budgets": (0, 1)}, [0.0, 1.0]),
        ({"budgets": np.array([0.5])}, [0.5]),
        ({"target": 3}, 3),
        ({"target": None}, None),
        ({"target": "cat"}, "cat"),
    ],
)
def test_good_values_become_plain_python(notebook, given, expected):
    (value,) = parameters.check_parameters("01_a", parameters.read_parameters(notebook), given).values()
    assert value == expected
    assert type(value) is type(expected)
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epz": 0.1}, "no parameter 'epz'. Did you mean 'eps'"),
        ({'HACK = __import__("os").getpid(); zz': 1}, "no parameter"),
        ({"eps; import os": 1}, "no parameter"),
        ({"eps": "0.1"}, "must be a number, like 0.1, got '0.1'"),
        ({"eps": True}, "must be a number"),
        ({"eps": None}, "must be a number"),
        ({"eps": float("nan")}, "finite"),
        ({"target": float("inf")}, "finite"),
        ({"eps": 8}, "must lie in 0 to 1, got 8"),
        ({"budgets": [0.1, -1]}, "must lie in 0 to 1, got -1"),
        ({"budgets": [0.1, "a"]}, "must be a number"),
        ({"budgets": 0.1}, "must be a list"),
        ({"n_eval": 10.0}, "whole number"),
        ({"n_eval": True}, "whole number"),
        ({"augment": 1}, "true or false"),
        ({"dataset": "mnits"}, "one of mnist5k, mnist, got 'mnits'. Did you mean 'mnist'"),
        ({"dataset": 5}, "must be text"),
        ({"target": [1]}, "a number, text"),
        ({"target": {1, 2}}, "a number, text"),
        ({"target": Path("x")}, "a number, text"),
        ({"n_eval": 2**63}, "n_eval must fit into 64 bits"),
        ({"eps": 10**400}, "eps must fit into 64 bits"),
        ({"target": -(10**5000)}, "target must fit into 64 bits"),
        ({"target": "\ud800"}, "text that UTF-8 can store"),
        ({"dataset": "mnist\n"}, "one of mnist5k, mnist"),
        ({"eps ": 0.1}, "no parameter 'eps '"),
        ({"__import__": 1}, "no parameter"),
        ({3: 1}, "no parameter 3"),
    ],
)
def test_bad_parameters_are_refused(notebook, given, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(".", r"\.")):
        parameters.check_parameters("01_a", parameters.read_parameters(notebook), given)


@pytest.mark.parametrize(
    "source", ["a = b = 1", "a = 1 / 2", "a = f()", "import os", "a = [1,\n 2]", "a = 1\na = 2", "a ="]
)
def test_a_parameters_cell_of_anything_but_literals_is_refused(source):
    with pytest.raises(ValueError, match="parameter"):
        parameters.parse_parameters(source)


def test_comments_give_limits_and_choices():
    found = parameters.parse_parameters(
        "a = 1  # steps, 1 to 1e3\nb = 'x # 0 to 1'  # one of: x, 'y'\nc = 2  # added to 3"
    )
    assert found["a"].limits == (1, 1000)
    assert (found["b"].limits, found["b"].choices) == (None, ("x", "y"))
    assert found["c"].limits is None


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("8/255", 0.1, 8 / 255),
        ("1e-3", 0.1, 1e-3),
        ("7", 1, 7),
        ("true", False, True),
        ("False", True, False),
        ("[1,2]", [3], [1, 2]),
        ("0.1, 8/255", [0.1], [0.1, 8 / 255]),
        ("[]", [1], []),
        ("mnist", "mnist5k", "mnist"),
        ("007", "x", "007"),
        ("none", None, None),
        ("3", None, 3),
        ("cat", None, "cat"),
        ("many", 1, "many"),
        ("1/0", 0.1, "1/0"),
    ],
)
def test_typed_values(text, default, value):
    assert parameters.parse_value(text, default) == value


@pytest.mark.parametrize(
    ("text", "default", "values"),
    [
        ("0.05, 8/255,1e-3", 0.1, [0.05, 8 / 255, 1e-3]),
        ("0:3", 7, [0, 1, 2]),
        ("-2:5:3", 7, [-2, 1, 4]),
        ("3:0:-1", 7, [3, 2, 1]),
        ("0:2", None, [0, 1]),
        ("0:2", 0.5, [0, 1]),
        ("0:2", "x", ["0:2"]),
        ("mnist,fashion_mnist", "x", ["mnist", "fashion_mnist"]),
        ('"a,b", c', "x", ["a,b", "c"]),
        ("true,false", False, [True, False]),
        ("[0.1, 0.2],[8/255]", [0.3], [[0.1, 0.2], [8 / 255]]),
        ("1,many", 1, [1, "many"]),
        ("0.1:0.3", 0.1, ["0.1:0.3"]),
    ],
)
def test_several_typed_values(text, default, values):
    assert list(parameters.parse_values(text, default)) == values


@pytest.mark.parametrize("text", ["", " , ", "3:3", "5:0", "0:5:0"])
def test_no_values_are_refused(text):
    with pytest.raises(ValueError, match="expected values"):
        parameters.parse_values(text, 1)


def test_a_huge_range_is_not_written_out():
    assert len(parameters.parse_values("0:1000000000000", 1)) == 10**12


def test_presets(course):
    assert parameters.load_preset("quick") == {}
    (course / "presets").mkdir()
    (course / "presets" / "full.yaml").write_text('all: {n_eval: 9, other: 1}\n"01": {eps: 0.3}\n')
    preset = parameters.load_preset("full")
    first, second = chapters.chapters()
    assert parameters.preset_parameters(preset, first) == {"n_eval": 9, "eps": 0.3}
    assert parameters.preset_parameters(preset, second) == {"n_eval": 9}
    with pytest.raises(ValueError, match=r"no preset 'ful'\. Did you mean 'full'"):
        parameters.load_preset("ful")
