# ruff: noqa: E501 (one line for each answer)
"""The engine and its sandbox: what a check says about odd answers, and what it does not let them do."""

import builtins
import contextlib
import functools
import inspect
import os
import random
import signal
import subprocess
import sys
import threading
import time
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from torch import nn

from course_utils import attacks
from course_utils.exercises import CheckResult, check, engine, error_hints, inputs, properties, sandbox

WEIGHTS = torch.randn(50, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def finalizers_may_be_interrupted(monkeypatch):
    """An alarm may come up in a finalizer. Python can only report that, and pytest's report may meet the next alarm."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


def targeted_fgsm(model, x, y, eps):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x - eps * gradient.sign()).clamp(0, 1).detach()


def test_a_stub_is_not_attempted(monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")

    def stub(model, x, y, eps):
        raise NotImplementedError()

    result = check("targeted_fgsm", stub)
    assert result.status == "not attempted"
    assert not result
    assert not result.passed
    assert "Write your answer" in repr(result)


def test_torchs_own_not_implemented_error_is_a_failure():
    result = check("worst_perturbation", lambda w, eps: F.softmax(w.long(), 0))
    assert (result.status, "not implemented for" in result.what) == ("failed", True)


def test_an_answer_that_is_half_written_fails():
    def half(w, eps):
        if eps == 0:
            raise NotImplementedError
        return eps * w.sign()

    result = check("worst_perturbation", half)
    assert result.status == "failed"
    assert "still to be written" in result.hint


def test_an_unknown_exercise_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'targeted_fgsm'"):
        check("targetd_fgsm", targeted_fgsm)
    with pytest.raises(ValueError, match=r"Known: .*to_uint8"):
        check("?", targeted_fgsm)
    with pytest.raises(ValueError, match="there is no exercise"):
        check(targeted_fgsm, "targeted_fgsm")


@pytest.mark.parametrize("answer", [None, torch.ones(3), 0.5, "targeted_fgsm", [targeted_fgsm]])
def test_something_else_than_a_function(answer):
    result = check("targeted_fgsm", answer)
    assert result.status == "failed"
    assert type(answer).__name__ in result.what
    assert "without brackets" in result.hint


def test_anything_that_can_be_called_will_do():
    class Attack:
        def __call__(self, model, x, y, eps, clip=(0, 1)):
            return targeted_fgsm(model, x, y, eps).clamp(*clip)

    assert check("targeted_fgsm", Attack())


@pytest.mark.parametrize("answer", [lambda: 1, lambda w: w, lambda w, eps, x: w, lambda w, *, eps: w])
def test_other_arguments_than_the_exercise_has(answer):
    result = check("worst_perturbation", answer)
    assert result.failed == "takes the arguments of the exercise"
    assert "(w, eps)" in result.what


class Rude(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")


def forever(depth):
    return forever(depth + 1)


@pytest.mark.parametrize(
    ("raised", "fragment"),
    [
        (SystemExit(1), "exit()"),
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (KeyError(), "KeyError."),
        (Rude(), "Rude."),
        (GeneratorExit(), "GeneratorExit"),
        (StopIteration(3), "StopIteration: 3"),
        (BaseExceptionGroup("several", [SystemExit()]), "several"),
        (RuntimeError("x" * 10_000), "x …"),
        (error_hints.CheckFailed("mine", "all mine"), "all mine"),
    ],
)
def test_an_answer_that_raises(raised, fragment):
    def answer(w, eps):
        raise raised

    result = check("worst_perturbation", answer)
    assert result.status == "failed"
    assert result.failed == "returns one change for each weight"
    assert fragment in f"{result.what} {result.hint}"
    assert "second line" not in repr(result)
    assert len(repr(result)) < 1000


def test_endless_recursion():
    assert "without an end" in check("worst_perturbation", lambda w, eps: forever(0)).hint


W64 = WEIGHTS.double()
IMAGES = torch.zeros(2, 3, 8, 8)
TYPES, FLOATS, LABELS, INDEX = "Two data types", "floats are needed", "Class labels", "An index takes"
TOO_LARGE, DIMENSION = "An index or a label is larger", "The tensor has fewer dimensions"


@pytest.mark.parametrize(
    ("compute", "hint"),
    [
        (lambda w: w @ W64, TYPES),
        (lambda w: w @ w.long(), TYPES),
        (lambda w: w.half() @ w, TYPES),
        (lambda w: w[None] @ W64, TYPES),
        (lambda w: w[None] @ W64[:, None], TYPES),
        (lambda w: w[None, None] @ W64[None, :, None], TYPES),
        (lambda w: torch.einsum("ni,i->n", w[None], w.long()), TYPES),
        (lambda w: torch.tensordot(w, W64, 1), TYPES),
        (lambda w: nn.Linear(50, 2)(w.double()), TYPES),
        (lambda w: nn.Linear(50, 2)(w.long()), TYPES),
        (lambda w: nn.Linear(50, 2)(w.half()), TYPES),
        (lambda w: F.linear(w[None], W64[None]), TYPES),
        (lambda w: nn.Conv2d(3, 4, 3)(IMAGES.double()), TYPES),
        (lambda w: nn.Conv2d(3, 4, 3)(IMAGES.byte()), TYPES),
        (lambda w: nn.Conv2d(3, 4, 3, bias=False)(IMAGES.half()), TYPES),
        (lambda w: nn.BatchNorm2d(3)(IMAGES.double()), TYPES),
        (lambda w: nn.LayerNorm(50)(w.double()), TYPES),
        (lambda w: F.grid_sample(IMAGES, torch.zeros(2, 4, 4, 2).double()), TYPES),
        (lambda w: F.binary_cross_entropy(w.sigmoid(), W64), TYPES),
        (lambda w: w.lerp(W64, 0.5), TYPES),
        (lambda w: w.clone().scatter_(0, torch.arange(50), W64), TYPES),
        (lambda w: w.clone().index_put_((torch.arange(50),), W64), TYPES),
        (lambda w: w.long().mean(), FLOATS),
        (lambda w: w.long().norm(), FLOATS),
        (lambda w: w.long().softmax(0), FLOATS),
        (lambda w: F.cross_entropy(w[None].long(), torch.tensor([1])), FLOATS),
        (lambda w: w.long().requires_grad_(), FLOATS),
        (lambda w: w.long().add_(w), FLOATS),
        (lambda w: (w > 0) - (w < 0), FLOATS),
        (lambda w: torch.rand_like(w.long()), FLOATS),
        (lambda w: F.cross_entropy(w[None], torch.tensor([1.0])), LABELS),
        (lambda w: F.nll_loss(w[None], torch.tensor([1], dtype=torch.int32)), LABELS),
        (lambda w: w[w], INDEX),
        (lambda w: w.gather(0, w), INDEX),
        (lambda w: w.index_select(0, w), INDEX),
        (lambda w: F.embedding(w, w[:, None]), INDEX),
        (lambda w: w[50], TOO_LARGE),
        (lambda w: w[torch.tensor([50])], TOO_LARGE),
        (lambda w: w.gather(0, torch.tensor([50])), TOO_LARGE),
        (lambda w: w.select(0, 50), TOO_LARGE),
        (lambda w: w.tolist()[50], TOO_LARGE),
        (lambda w: w.numpy()[50], TOO_LARGE),
        (lambda w: F.embedding(torch.tensor([50]), w[:, None]), TOO_LARGE),
        (lambda w: F.cross_entropy(w[None], torch.tensor([50])), TOO_LARGE),
        (lambda w: w.amax(1), DIMENSION),
        (lambda w: w.sum((1, 2, 3)), DIMENSION),
        (lambda w: w[:, 0], DIMENSION),
        (lambda w: w.sum()[0], DIMENSION),
        (lambda w: w[None] @ w[None], "The shapes in a matrix product"),
        (lambda w: w[None] @ w[:3], "The shapes in a matrix product"),
        (lambda w: w @ w[:3], "The shapes in a matrix product"),
        (lambda w: nn.Linear(3, 2)(w), "The shapes in a matrix product"),
        (lambda w: w[None, None] @ w[None, None], "The shapes in a matrix product"),
    ],
)
def test_shapes_and_data_types_that_do_not_fit(compute, hint):
    def answer(w, eps):
        compute(w)
        raise AssertionError("torch has computed it")

    assert check("worst_perturbation", answer).hint.startswith(
        (hint, f"Here are whole numbers or booleans where {hint}")
    )


def with_gradients(use):
    """An answer that returns use(model, x, y), where x is a copy that records gradients."""
    return lambda model, x, y, eps: use(model, x.clone().requires_grad_(), y)


def x_grad_after(backward):
    def use(model, x, y):
        backward(model, x, y)
        return x + x.grad.sign()

    return with_gradients(use)


def step_in_place(model, x, y):
    x += torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (torch.no_grad()(with_gradients(lambda model, x, y: F.cross_entropy(model(x), y).backward())), "requires_grad_()"),
        (with_gradients(lambda model, x, y: F.cross_entropy(model(x).detach(), y).backward()), "requires_grad_()"),
        (with_gradients(lambda model, x, y: torch.autograd.grad(model(x.detach() + 0).sum(), x)), "the very x"),
        (with_gradients(lambda model, x, y: F.cross_entropy(model(x), y, reduction="none").backward()), "one number first"),
        (with_gradients(lambda model, x, y: torch.autograd.grad(model(x).sum(), x).sign()), "(gradient,) ="),
        (with_gradients(step_in_place), "Write a new tensor"),
        (x_grad_after(lambda model, x, y: F.cross_entropy(model(x.detach()), y).backward()), "x.grad"),
        (x_grad_after(lambda model, x, y: F.cross_entropy(model(x), y.float()).backward()), "whole numbers"),
    ],
)  # fmt: skip
def test_gradients_that_cannot_be_computed(answer, hint):
    assert hint in check("targeted_fgsm", answer).hint


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (torch.Tensor.numpy, "NumPy"),
        (lambda adv: (adv, 1), "One tensor only"),
        (list, "torch.stack"),
        (torch.Tensor.double, "x.dtype"),
        (lambda adv: adv.flatten(1), "Keep the shape"),
        (lambda adv: adv[0], "Keep the shape"),
        (lambda adv: adv.requires_grad_(), ".detach()"),
        (lambda adv: None, "End your function with return"),
    ],
)
def test_results_of_the_wrong_kind(change, hint):
    assert hint.lower() in check("targeted_fgsm", lambda *task: change(targeted_fgsm(*task))).hint.lower()


def test_two_tensors_are_no_number():
    result = check("robust_loss", lambda w, b, x, y, eps: (x @ w + b).sort())
    assert "the values and their indices" in result.what
    assert ".values" in result.hint


def test_help_on_the_check_names_its_arguments():
    assert "undo" not in check.__doc__
    assert {"strict", "answer"} <= {*inspect.signature(check).parameters}


def in_cell(source, file):
    """Run the source of a cell under the name that a kernel would give it, and return what it defines."""
    names = {"torch": torch}
    exec(compile(source, file, "exec"), names)
    return names


CELLS = ("/tmp/ipykernel_12/345.py", r"C:\Temp\ipykernel_12\345.py", "<ipython-input-3-0123456789ab>")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "library", ["/home/ipython/lib/tools.py", "/usr/lib/ipykernel/kernelbase.py", "/tmp/ipykernel_12/678.py"]
)
def test_the_line_of_an_error_is_the_students_own(cell, library):
    helper = in_cell("\n" * 40 + "def ask(x):\n    raise ValueError('no answer')", library)["ask"]
    names = in_cell("def answer(w, eps):\n    return ask(w)", cell)
    names["ask"] = helper
    for answer in (names["answer"], functools.partial(names["answer"]), torch.no_grad()(names["answer"])):
        assert check("worst_perturbation", answer).what == "it raised ValueError in line 2 of the cell: no answer"


def test_only_a_cell_has_lines_of_a_cell():
    answer = in_cell("def answer(w, eps):\n    raise ValueError('no')", "/home/ipython/ipykernel/course.py")["answer"]
    assert check("worst_perturbation", answer).what == "it raised ValueError: no"


def test_a_misspelt_name():
    assert "misspelt" in check("to_uint8", lambda x: torhc.round(x)).hint  # noqa: F821


def sign_step(w, eps):
    return eps * w.sign()


def meddling(meddle):
    """A right answer that does something else first."""

    def answer(w, eps):
        meddle()
        return sign_step(w, eps)

    return answer


needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")


def interrupt():
    signal.raise_signal(signal.SIGINT)


def interrupt_in_vain():
    with contextlib.suppress(BaseException):
        interrupt()


@pytest.mark.parametrize("meddle", [interrupt, interrupt_in_vain])
def test_the_interrupt_button_works(meddle):
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        check("worst_perturbation", meddling(meddle))
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_answer_cannot_press_the_interrupt_button():
    def answer(w, eps):
        raise KeyboardInterrupt

    result = check("worst_perturbation", answer)
    assert result.status == "failed"
    assert "KeyboardInterrupt" in result.what
    assert "Interrupt button" in result.hint


def swallow():
    while True:
        try:
            time.sleep(60)
        except:  # noqa: E722
            continue


def swallow_while_computing():
    while True:
        try:
            torch.ones(100).sum()
        except:  # noqa: E722
            continue


def swallow_twice():
    while True:
        with contextlib.suppress(BaseException):
            try:
                time.sleep(0.01)
            except BaseException:
                time.sleep(0.01)


def swallow_and_keep():
    kept = []
    while True:
        try:
            while True:
                try:
                    time.sleep(0.01)
                except BaseException as error:
                    kept.append(error)
        except BaseException as error:
            kept.append(error)


@needs_timer
@pytest.mark.parametrize("loop", [swallow, swallow_while_computing, swallow_twice, swallow_and_keep])
def test_an_answer_that_never_ends(monkeypatch, loop):
    monkeypatch.setattr(engine, "SECONDS", 0.1)
    monkeypatch.setattr(sandbox, "GRACE", 0.05)
    handler = signal.getsignal(signal.SIGALRM)
    start = time.monotonic()
    result = check("worst_perturbation", meddling(loop))
    assert time.monotonic() - start < 20
    assert "never ends" in result.hint
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@needs_timer
def test_the_interrupt_button_ends_a_loop_that_swallows_it(monkeypatch):
    monkeypatch.setattr(sandbox, "GRACE", 0.05)
    with pytest.raises(KeyboardInterrupt):
        check("worst_perturbation", meddling(lambda: (interrupt_in_vain(), swallow())))


@needs_timer
def test_a_right_answer_that_comes_too_late(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.1)

    def dawdle():
        with contextlib.suppress(BaseException):
            time.sleep(60)

    assert "more than 0.1 seconds" in check("worst_perturbation", meddling(dawdle)).what


def checked_in_a_thread(name, answer):
    results = []
    thread = threading.Thread(target=lambda: results.append(check(name, answer)))
    thread.start()
    thread.join()
    return results[0]


def test_an_answer_outside_the_main_thread_and_another_one_after_it():
    assert checked_in_a_thread("targeted_fgsm", targeted_fgsm)
    assert check("targeted_fgsm", targeted_fgsm)


def test_an_answer_that_never_ends_outside_the_main_thread(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.1)

    def loop():
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    assert "never ends" in checked_in_a_thread("worst_perturbation", meddling(loop)).hint


def test_the_limit_holds_where_the_system_has_no_timer(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.1)
    monkeypatch.delattr(signal, "setitimer", raising=False)
    loop = "def loop():\n    while True:\n        pass"
    assert "never ends" in check("worst_perturbation", meddling(in_cell(loop, "cell")["loop"])).hint


class Shell:
    """What a check needs of a notebook's shell."""

    def __init__(self):
        self.display_pub = types.SimpleNamespace(publish=lambda data: self.shown.append(data), clear_output=None)
        self.shown, self.ends = [], False

    def ask_exit(self):
        self.ends = True


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    return shell


WAYS_OUT = {
    "exit": lambda shell: exit(),
    "quit": lambda shell: quit(1),
    "sys.exit": lambda shell: sys.exit(0),
    "os._exit": lambda shell: os._exit(0),
    "os.abort": lambda shell: os.abort(),
    "exit() of a notebook": lambda shell: shell.ask_exit(),
}


@pytest.mark.parametrize("way", WAYS_OUT)
def test_leaving_is_refused(shell, way):
    before = os._exit, os.abort, builtins.exit, vars(shell).keys()
    result = check("worst_perturbation", meddling(lambda: WAYS_OUT[way](shell)))
    assert result.status == "failed"
    assert "Do not call exit()" in result.hint
    assert not shell.ends
    assert not sys.stdin.closed
    assert (os._exit, os.abort, builtins.exit, vars(shell).keys()) == before


def test_an_answer_cannot_ask(shell):
    before = builtins.input
    result = check("worst_perturbation", meddling(lambda: input("eps? ")))
    assert "leave out input()" in result.hint
    assert builtins.input is before


def test_leaving_is_refused_even_if_the_answer_goes_on(shell):
    def leave():
        with contextlib.suppress(BaseException):
            shell.ask_exit()

    assert "Do not call exit()" in check("worst_perturbation", meddling(leave)).hint


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_of_the_answers_own_may_end():
    ended = []

    def fork():
        if ended:
            return
        if (child := os.fork()) == 0:
            os._exit(3)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    assert check("worst_perturbation", meddling(fork))
    assert ended == [3]


def yes(*args, **kwargs):
    return True


REPLACEMENTS = {
    "torch.equal": (torch, "equal", yes),
    "Tensor.equal": (torch.Tensor, "equal", yes),
    "Tensor.__le__": (torch.Tensor, "__le__", lambda a, b: torch.ones(1, dtype=torch.bool)),
    "Tensor.all": (torch.Tensor, "all", yes),
    "cross_entropy": (F, "cross_entropy", lambda z, y, **kwargs: z.sum()),
    "Module.__call__": (nn.Module, "__call__", lambda self, x: torch.zeros(len(x), 10)),
    "all": (builtins, "all", yes),
    "expect": (engine, "expect", yes),
    "expect of another module": (properties, "expect", yes),
    "close": (properties, "close", yes),
    "all of a module": (properties, "all", yes),
    "code": (engine.expect, "__code__", yes.__code__),
    "a function that makes inputs": (inputs, "unsaturated_network", yes),
    "a constant": (inputs, "SHAPE", (1, 1, 1)),
    "_run": (engine, "_run", lambda name, *_: CheckResult(name, "passed")),
    "CheckResult": (CheckResult, "__bool__", yes),
    "targeted_fgsm": (attacks, "fgsm", yes),
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_what_the_notebook_has_replaced_is_not_used(monkeypatch, name):
    monkeypatch.setattr(*REPLACEMENTS[name], raising=False)
    passed = [
        check("targeted_fgsm", targeted_fgsm),
        check("targeted_fgsm", lambda model, x, y, eps: x),
        check("worst_perturbation", sign_step),
    ]
    replaced = getattr(*REPLACEMENTS[name][:2]) is REPLACEMENTS[name][2]
    monkeypatch.undo()
    assert [result.status for result in passed] == ["passed", "failed", "passed"]
    assert [bool(result) for result in passed] == [True, False, True]
    assert replaced or name == "code"


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_an_answer_that_replaces_something_is_refused(name):
    place, key, value = REPLACEMENTS[name]
    before = getattr(place, key, None)
    result = check("worst_perturbation", meddling(lambda: setattr(place, key, value)))
    after = getattr(place, key, None)
    if after is not before:  # for the tests to come
        setattr(place, key, before)
    assert after is before
    assert result.status == "failed"
    assert result.what.startswith("your function replaced ")


def test_a_replaced_checker_is_not_used(monkeypatch):
    monkeypatch.setitem(engine._CHECKERS, "targeted_fgsm", (lambda answer: iter(()), "(model, x, y, eps)"))
    assert not check("targeted_fgsm", lambda model, x, y, eps: x)


COMPILES = """
import torch
from course_utils.exercises import check
def answer(w, eps):
    weights = w.clone().requires_grad_()
    optimizer = torch.optim.Adam([weights])
    weights.sum().backward()
    optimizer.step()
    torch.compile(lambda w: w + 1, backend="eager")(w)
    torch.fx.symbolic_trace(torch.nn.ReLU())
    torch.jit.trace(torch.nn.ReLU(), torch.ones(1, 2))
    return eps * w.sign()
for _ in range(2):
    check("worst_perturbation", answer, strict=True)
"""


@pytest.mark.slow
def test_what_torch_replaces_itself_is_no_fault_of_the_answer():
    subprocess.run([sys.executable, "-c", COMPILES], check=True)


def test_a_tensor_that_agrees_with_everything_does_not_pass():
    class Yes(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return torch.tensor(True)

    assert not check("worst_perturbation", lambda w, eps: torch.zeros_like(w).as_subclass(Yes))
    assert check("worst_perturbation", lambda w, eps: sign_step(w, eps).as_subclass(Yes))


SETTINGS = {
    "torch.set_default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch.set_default_device": lambda: torch.set_default_device("meta"),
    "torch.set_num_threads": lambda: torch.set_num_threads(2),
    "torch.use_deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "torch.autograd.set_detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "torch.set_float32_matmul_precision": lambda: torch.set_float32_matmul_precision("high"),
    "torch.autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "torch.backends.cudnn.benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "np.seterr": lambda: np.seterr(divide="raise"),
    "sys.setrecursionlimit": lambda: sys.setrecursionlimit(5000),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_an_answer_leaves_behind_are_put_back(name):
    before = sandbox._settings()

    def answer(w, eps):
        result = sign_step(w, eps)
        SETTINGS[name]()
        return result

    result = check("worst_perturbation", answer)
    after = sandbox._settings()
    sandbox._put_back(before)
    assert after == before
    assert result
    assert f"Your function sets {name}," in repr(result)
    assert result.note in result._repr_html_()


def test_what_is_no_setting_of_the_answer_is_no_note():
    with warnings.catch_warnings(), np.errstate(divide="raise"), torch.autograd.set_detect_anomaly(True):
        before = warnings.filters[:]
        result = check("worst_perturbation", meddling(lambda: warnings.simplefilter("error")))
        assert torch.is_anomaly_enabled()
        assert warnings.filters == before
    assert result
    assert not result.note


def test_plots_are_shown_once():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    pyplot.close("all")
    mine, axes = pyplot.subplots()
    pyplot.figure(mine.number)
    try:
        assert check("worst_perturbation", meddling(lambda: pyplot.subplots()[1].plot([1, 2])))
        assert len(pyplot.get_fignums()) == 2
        pyplot.close(pyplot.get_fignums()[-1])
        assert check("worst_perturbation", meddling(lambda: pyplot.plot([1, 2])))
        assert pyplot.get_fignums() == [mine.number]
        assert len(axes.lines) == 1
    finally:
        pyplot.close("all")


def test_displays_are_shown_once(shell, capsys):
    assert check("worst_perturbation", meddling(lambda: shell.display_pub.publish("picture")))
    assert shell.shown == ["picture"]
    shell.display_pub.publish("another")
    assert shell.shown == ["picture", "another"]
    assert "only its first call shows something" in capsys.readouterr().out


ANSWERS = {"worst_perturbation": sign_step, "targeted_fgsm": targeted_fgsm}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_notebooks_own_state_is_left_alone(name):
    def settings():
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            numpy_state[1].tolist(),
            numpy_state[2:],
            torch.is_grad_enabled(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            os.getcwd(),
        )

    def meddle(*args):
        torch.manual_seed(3)
        torch.rand(3), random.random(), np.random.seed(3)  # noqa: NPY002
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        return args[0]

    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            before = settings()
            assert check(name, ANSWERS[name])
            assert check(name, meddle).status == "failed"
            assert settings() == before


def test_checks_do_not_depend_on_the_notebooks_settings():
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.device("meta"):
            assert all(check(name, answer) for name, answer in ANSWERS.items())
    finally:
        torch.set_default_dtype(torch.float32)


IN_A_NOTEBOOK = """
def answer(w, eps):
    display("shown"), plt.plot([1, 2]), plt.show(), plt.figure(), plt.plot([1, 2])
    return eps * w.sign()
check("worst_perturbation", answer)
---
def answer(w, eps):
    exit()
check("worst_perturbation", answer)
---
def answer(w, eps):

    input("?")
check("worst_perturbation", answer)
---
display("alive")
"""


@pytest.mark.slow
def test_what_a_notebook_shows():
    setup = "import matplotlib.pyplot as plt\nfrom course_utils.exercises import check"
    cells = [new_code_cell(source) for source in (setup, *IN_A_NOTEBOOK.split("---\n"))]
    NotebookClient(new_notebook(cells=cells), timeout=300).execute()
    _, plots, leaves, asks, last = (
        [output.get("data", {}).get("text/plain", "") for output in cell.outputs] for cell in cells
    )
    assert sum("shown" in text for text in plots) == 1
    assert sum("Figure" in text for text in plots) == 2  # one shown by show(), one at the end of the cell
    assert any("worst_perturbation: passed" in text for text in plots)
    assert "it raised SystemExit in line 2 of the cell" in leaves[0]
    assert "in line 3 of the cell" in asks[0]
    assert last == ["'alive'"]


def test_prints_are_shown_but_not_without_end(capsys):
    def answer(w, eps):
        print("w has the shape", w.shape)
        return eps * w.sign()

    assert check("worst_perturbation", answer)
    assert capsys.readouterr().out.count("w has the shape torch.Size([50])") == 1

    def chatty(w, eps):
        print("again and again " * 100_000)
        return eps * w.sign()

    assert check("worst_perturbation", chatty)
    assert len(capsys.readouterr().out) < 3000


def test_warnings_of_an_answer_are_no_failure():
    def answer(w, eps):
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
        return eps * w.sign()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check("worst_perturbation", answer)


def test_students_text_is_escaped():
    class Script(Exception):
        pass

    def answer(w, eps):
        raise Script("<script>alert('&')</script>")

    result = check("worst_perturbation", answer)
    assert "<script>alert" in repr(result)
    assert "<script>" not in result._repr_html_()
    assert "&lt;script&gt;" in result._repr_html_()
    assert "<b>" not in CheckResult("<b>", "failed", ("<b>",), "<b>", "<b>", "<b>")._repr_html_()


def test_what_a_result_says():
    passed, failed = check("targeted_fgsm", targeted_fgsm), check("targeted_fgsm", lambda model, x, y, eps: x)
    assert passed.status == "passed"
    assert repr(passed).count("✓") == len(passed.passed) == passed._repr_html_().count("✓")
    assert repr(failed).count("✗") == 1
    assert "What happened: " in repr(failed)
    assert "Hint: " in failed._repr_html_()
    assert (bool(passed), bool(failed)) == (True, False)


@pytest.mark.parametrize(("value", "raises"), [("1", True), ("0", False), ("", False)])
def test_strict_raises_for_failures_only(monkeypatch, value, raises):
    monkeypatch.setenv("COURSE_STRICT", value)
    assert check("targeted_fgsm", targeted_fgsm)
    if raises:
        with pytest.raises(AssertionError, match="Nothing changed"):
            check("targeted_fgsm", lambda model, x, y, eps: x)
    else:
        assert not check("targeted_fgsm", lambda model, x, y, eps: x)


def test_no_two_checkers_have_one_name():
    with pytest.raises(ValueError, match="targeted_fgsm"):
        engine.exercise("targeted_fgsm")(lambda answer: iter(()))
