"""What an exception in a student's answer usually means, said in words."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from typing import Any

# A part of PyTorch's or Python's message (any case), and what to try. The first that fits is shown.
_CURES = (
    (
        "does not require grad",
        "The loss does not know what to differentiate by. Call x = x.clone().detach().requires_grad_() first, then "
        "compute model(x) from this x, without torch.no_grad(), .detach() or .data on the way to the loss.",
    ),
    (
        "not have been used in the graph",
        "The loss does not depend on the tensor you differentiate by. Compute model(x) from the very x that got "
        "requires_grad_(), not from a copy of it, and after that call.",
    ),
    (
        "a leaf variable that requires grad",
        "You change x in place (x += …, x[…] = … or a function ending in _) while it records gradients. "
        "Write a new tensor: adv = x + ….",
    ),
    (
        "modified by an inplace operation",
        "Something was changed in place (+=, [...] = or a function ending in _) that the gradient still needs. "
        "Write a new tensor instead.",
    ),
    ("only for scalar outputs", "The loss has one value per image. Reduce it to one number first, with .sum()."),
    ("of scalar outputs", "The loss has one value per image. Reduce it to one number first, with .sum()."),
    (
        "backward through the graph a second time",
        "Two gradients are taken through one forward pass. Call model(x) anew for each, or take one gradient only.",
    ),
    (
        "'nonetype' object has no attribute",
        "Something is None that you take for a tensor. Most often it is x.grad: it exists only after loss.backward(), "
        "and only if this very x had requires_grad_() before model(x).",
    ),
    (
        "nonetype",
        "Something is None that you take for a tensor. Most often it is x.grad: it exists only after loss.backward(), "
        "and only if this very x had requires_grad_() before model(x).",
    ),
    ("can't call numpy()", "A tensor that records gradients cannot become an array. Stay with torch: no NumPy needed."),
    (
        "'tuple' object has no attribute",
        "That is a tuple: torch.autograd.grad returns one, with one gradient for each input. Write (gradient,) = torch.autograd.grad(loss, x).",
    ),
    (
        "'bool' object has no attribute",
        "A comparison gave one single bool. Did you compare a tuple? x.max(1) returns values and indices: take x.argmax(1).",
    ),
    ("expected target dtype", "Class labels are whole numbers: pass the labels as they came, without .float()."),
    (
        "to match target batch_size",
        "The loss needs one label for each row of model(x): pass all labels with all images.",
    ),
    ("boolean value of tensor", "`if`, `and`, `not` want one truth value, a tensor has many: use torch.where, &, ~."),
    (
        "only one element tensors",
        "float(…), int(…) and functions of math take one number. Work with whole tensors: torch has the same functions.",
    ),
    (
        "elements cannot be converted to scalar",
        "float(…), int(…) and .item() take a tensor with one element. Work with whole tensors, or reduce them first with .mean() or .sum().",
    ),
    ("mat1 and mat2", "The shapes in a matrix product do not fit. Print them: x is (N, n) and w is (n,), as in x @ w."),
    (
        "must match the size",
        "Two shapes do not fit together: print both. To combine (N,) with (N, C, H, W), write .view(-1, 1, 1, 1); (N, n) with weights (n,) is x @ w; the classes are dimension 1, as in argmax(1). And a size written as a number fits one data set only.",
    ),
    ("is invalid for input of size", "Do not write sizes such as 784 or 28 as numbers: take them from x.shape."),
    (
        "class values must be smaller than num_classes",
        "Do not write the number of classes as a number: the model tells it, as model(x).shape[1].",
    ),
    ("one positional argument", "Use the arguments in the order in which the exercise names them."),
    ("is not defined", "The name is misspelt, or the cell that defines it has not been run."),
    ("cannot access local variable", "The variable is used before it gets a value: look at the order of your lines."),
    ("maximum recursion depth", "Your function calls itself without an end."),
)


def arguments_fit(answer: Callable[..., Any], takes: str) -> str:
    """Return what is wrong with the arguments that the answer takes, or nothing; `takes` is as in "(model, x)"."""
    names = [name for name in takes.strip("()").replace(" ", "").split(",") if name]
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return ""
    try:
        signature.bind(*names)
    except TypeError:
        return f"your function takes {signature}, and the exercise calls it with {takes}."
    return ""


def explain(error: BaseException, takes: str) -> tuple[str, str]:
    """Return what happened when the answer raised, and a hint at the likely cause."""
    if isinstance(error.__cause__, StopIteration):  # a generator turns it into a RuntimeError
        error = error.__cause__
    try:
        text = (str(error).splitlines() or [""])[0]
    except Exception:
        text = ""
    what = f"it raised {type(error).__name__}{_where(error)}{': ' if text else '.'}{text}"
    if isinstance(error, SystemExit):
        return what, "Do not call exit(): end your function with return and the result."
    if "model" not in takes and "does not require grad" in text:
        return (
            what,
            "There is nothing to differentiate in here: return the result, and leave .backward() to the training loop.",
        )
    known = (cure for part, cure in _CURES if part in text.lower())
    return what, next(known, f"Call your function by hand on one small input, as {takes}, and read the traceback.")


def _where(error: BaseException) -> str:
    """Return the line of the student's cell that raised, if it is there."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if "ipykernel" in f.filename or "ipython" in f.filename]
    return f" in line {own[-1].lineno} of the cell" if own else ""
