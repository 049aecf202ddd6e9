"""What an exception in a student's answer usually means, said in words."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any


class CheckFailed(Exception):
    """A property does not hold: what was seen, and a hint at why."""

    def __init__(self, what: str, hint: str):
        super().__init__(what)
        self.what, self.hint = what, hint.strip()


_DEVICES = (
    "Two tensors are on different devices. Make new ones where x is: torch.zeros(…, device=x.device), .to(x.device)."
)
_INDEX = "An index takes whole numbers or booleans: convert with .long(), or compare, as in x > 0."
_LABELS = "Class labels are whole numbers: pass the labels as they came, without .float()."
_FLOATS = "Here are whole numbers or booleans where floats are needed. Convert with .float(), and mind that torch.tensor([1, 2]) makes whole numbers, torch.tensor([1.0, 2.0]) floats."
_TOO_LARGE = "An index or a label is larger than the tensor has room for. It counts from 0, so the last one is the size minus 1. A size written as a number, such as 10 classes, fits one data set only: take it from the shape of an argument."
_DIMENSION = "The tensor has fewer dimensions than you ask for: print its shape. They count from 0, so a tensor (N, n) has the dimensions 0 and 1."
_SHAPES = "The shapes in a matrix product do not fit. Print them: x is (N, n) and w is (n,), as in x @ w."
_TYPES = "Two data types (dtypes) meet that do not fit together. NumPy and .double() make float64, .half() float16, and a tensor of whole numbers is int64. Bring both to one type: .to(x.dtype), or .float() for torch's usual float32."

# A part of PyTorch's or Python's message (any case), and what to try. The first that fits is shown.
_HINTS = (
    ("does not require grad", "The loss does not know what to differentiate by. Call x = x.clone().detach().requires_grad_() first, then compute model(x) from this x, without torch.no_grad(), .detach() or .data on the way to the loss."),
    ("not have been used in the graph", "The loss does not depend on the tensor you differentiate by. Compute model(x) from the very x that got requires_grad_(), not from a copy of it, and after that call."),
    ("a leaf variable that requires grad", "You change x in place (x += …, x[…] = … or a function ending in _) while it records gradients. Write a new tensor: adv = x + …."),
    ("modified by an inplace operation", "Something was changed in place (+=, [...] = or a function ending in _) that the gradient still needs. Write a new tensor instead."),
    ("only for scalar outputs", "The loss has one value per image. Reduce it to one number first, with .sum()."),
    ("of scalar outputs", "The loss has one value per image. Reduce it to one number first, with .sum()."),
    ("backward through the graph a second time", "Two gradients are taken through one forward pass. Call model(x) anew for each, or take one gradient only."),
    ("'nonetype' object has no attribute", "Something is None that you take for a tensor. Most often it is x.grad: it exists only after loss.backward(), and only if this very x had requires_grad_() before model(x)."),
    ("nonetype", "Something is None that you take for a tensor. Most often it is x.grad: it exists only after loss.backward(), and only if this very x had requires_grad_() before model(x)."),
    ("can't call numpy()", "A tensor that records gradients cannot become an array. Stay with torch: no NumPy needed."),
    ("'tuple' object has no attribute", "That is a tuple: torch.autograd.grad returns one, with one gradient for each input. Write (gradient,) = torch.autograd.grad(loss, x)."),
    ("can't multiply sequence", "That is a tuple: torch.autograd.grad returns one, with one gradient for each input. Write (gradient,) = torch.autograd.grad(loss, x)."),
    ("'bool' object has no attribute", "A comparison gave one single bool. Did you compare a tuple? x.max(1) returns values and indices: take x.argmax(1)."),
    ("expected target dtype", _LABELS),
    ("expected scalar type long", _LABELS),
    *((part, _DEVICES) for part in ("tensors to be on the same device", "torch.cuda.")),
    *((part, _INDEX) for part in ("used as indices", "for index", "argument #1 'indices'", "only applicable to index")),
    *((f"not implemented for '{name}'", _FLOATS) for name in ("long", "int", "short", "char", "byte", "bool")),
    ("could not infer output dtype", _FLOATS),
    ("expected a floating point", _FLOATS),
    ("only support floating point", _FLOATS),
    ("only supports floating-point", _FLOATS),
    ("tensors of floating point", _FLOATS),
    ("integral inputs not supported", _FLOATS),
    ("can't be cast to the desired output type", _FLOATS),
    ("operator, with two bool tensors", _FLOATS),
    ("not implemented for 'half'", "float16 is not supported here: compute in float32, with .float()."),
    ("same dtype", _TYPES),  # matrix products, linear layers, attention, scatter
    ("same scalar type", _TYPES),  # index_add_
    ("share same datatype", _TYPES),  # normalisation layers
    ("should be the same", _TYPES),  # convolutions: "Input type (…) and weight type (…) should be the same"
    ("expected scalar type", _TYPES),  # products of batches, einsum, grid_sample
    ("expected dtype", _TYPES),  # lerp
    ("found dtype", _TYPES),  # losses
    ("dtypes match", _TYPES),  # x[…] = …
    ("equal to src.dtype", _TYPES),  # scatter_
    ("does not match weight dtype", _TYPES),  # recurrent layers
    ("type promoting not supported", _TYPES),  # PReLU
    ("to match target batch_size", "The loss needs one label for each row of model(x): pass all labels with all images."),
    ("boolean value of tensor", "`if`, `and`, `not` want one truth value, a tensor has many: use torch.where, &, ~."),
    ("only one element tensors", "float(…), int(…) and functions of math take one number. Work with whole tensors: torch has the same functions."),
    ("elements cannot be converted to scalar", "float(…), int(…) and .item() take a tensor with one element. Work with whole tensors, or reduce them first with .mean() or .sum()."),
    ("shapes cannot be multiplied", _SHAPES),
    ("size mismatch, got input", _SHAPES),
    ("inconsistent tensor size", _SHAPES),
    ("two dimensions of batch2", _SHAPES),
    ("must match the size", "Two shapes do not fit together: print both. Was the sum taken over another dimension? (N,) fits (N, C, H, W) after .view(-1, 1, 1, 1); (N, n) with weights (n,) is x @ w; the classes are dimension 1, as in argmax(1). And a size written as a number fits one data set only."),
    *((part, _TOO_LARGE) for part in ("is out of bounds", "index out of range", "out of range for tensor")),
    *((part, _DIMENSION) for part in ("dimension out of range", "too many indices", "dimension specified as", "invalid index of a 0-dim")),
    ("is invalid for input of size", "The number of entries is another one: print the shape. Do not write sizes such as 784 or 28 as numbers, but take them from x.shape; and a mask such as v[v > 0] may drop more entries than you think."),
    ("the shape of the mask", "A mask has the shape of the tensor that it selects from. Take numbers such as that of the classes from .shape, and do not write them yourself."),
    ("class values must be smaller than num_classes", "Do not write the number of classes as a number: the model tells it, as model(x).shape[1]."),
    ("one positional argument", "Use the arguments in the order in which the exercise names them."),
    ("has nobody to ask", "Your function gets all that it needs as its arguments: leave out input()."),
    ("is not defined", "The name is misspelt, or the cell that defines it has not been run."),
    ("cannot access local variable", "The variable is used before it gets a value: look at the order of your lines."),
    ("maximum recursion depth", "Your function calls itself without an end."),
)  # fmt: skip


def arguments_fit(answer: Callable[..., Any], takes: str) -> str:
    """Return what is wrong with the arguments that the answer takes, or nothing; `takes` is as in "(model, x)"."""
    names = _names(takes)
    try:
        signature = inspect.signature(answer)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return ""
    try:
        signature.bind(*names)
    except TypeError:
        return f"your function takes {signature}, and the exercise calls it with {takes}."
    return ""


def _names(takes: str) -> list[str]:
    return [name for name in takes.strip("()").replace(" ", "").split(",") if name]


def explain(error: BaseException, answer: Callable[..., Any], takes: str) -> tuple[str, str]:
    """Return what happened when the answer raised, and a hint at the likely cause."""
    if isinstance(error.__cause__, StopIteration):  # a generator turns it into a RuntimeError
        error = error.__cause__
    try:
        text = (str(error).splitlines() or [""])[0]
    except Exception:
        text = ""
    what = f"it raised {type(error).__name__}{_where(error, answer)}{': ' if text else '.'}{text}"
    if isinstance(error, SystemExit):
        return what, "Do not call exit(), quit() or the like: end your function with return and the result."
    if isinstance(error, KeyboardInterrupt):
        return what, "Leave KeyboardInterrupt to the Interrupt button: end your function with return and the result."
    if not {"model", "generator"} & set(_names(takes)) and "does not require grad" in text:
        hint = (
            "There is nothing to differentiate in here: return the result, and leave .backward() to the training loop."
        )
        return what, hint
    known = (hint for part, hint in _HINTS if part in text.lower())
    return what, next(known, f"Call your function by hand on one small input, as {takes}, and read the traceback.")


# What IPython calls the code of a cell, in Jupyter and in a terminal. A folder or a package may have "ipython" in its name.
_CELL = re.compile(r"[\\/]ipykernel_\d+[\\/][^\\/]+\.py$|^<ipython-input-")


def _where(error: BaseException, answer: Callable[..., Any]) -> str:
    """Return the line of the student's cell in which the error came up, if it is there."""
    cells = [f for f in traceback.extract_tb(error.__traceback__) if _CELL.search(f.filename)]
    own = [f for f in cells if f.filename == _file(answer)] or cells  # a helper may stand in another cell
    return f" in line {own[-1].lineno} of the cell" if own else ""


def _file(answer: Callable[..., Any]) -> str:
    """Return the name of the file, or of the cell, in which the answer is written, or nothing."""
    while isinstance(answer, partial):
        answer = answer.func
    answer = inspect.unwrap(answer)
    code = getattr(answer, "__code__", None) or getattr(type(answer).__call__, "__code__", None)
    return getattr(code, "co_filename", "")
