"""What an answer may do while it is checked: how long it may run, what it shows, and what stays as it was.

This is for slips and shortcuts, such as an endless loop or a setting left behind. It is no protection from code that
means harm: an answer runs in the notebook's own process.
"""

from __future__ import annotations

import builtins
import ctypes
import io
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import cudnn

from .error_hints import CheckFailed

PRINTED = 2000  # characters of an answer's own output that are shown
GRACE = 0.5  # seconds that an answer gets to end in good order after it was told to
_HERE = str(Path(__file__).parent)


class TooSlow(BaseException):
    """The answer ran longer than it may. No Exception, so that an answer's `except Exception` lets it through."""


class _Over(BaseException):
    """The check is over, and nothing else is to be raised in it."""


# --- settings ---------------------------------------------------------------------------------------------------------


def _default_device() -> torch.device | None:
    """Return what set_default_device set; torch.get_default_device() also sees a `with torch.device(…)` around it."""
    context = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    return context.device if context is not None else None


# What sets it (the name is shown to the student), how to read it, and how to put it back.
_SETTINGS: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
    ("torch.set_default_dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("torch.set_default_device", _default_device, torch.set_default_device),
    ("torch.set_num_threads", torch.get_num_threads, torch.set_num_threads),
    ("torch.use_deterministic_algorithms", torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (
        "torch.autograd.set_detect_anomaly",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.autograd.set_detect_anomaly(*value),
    ),
    ("torch.set_float32_matmul_precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ("torch.autocast", partial(torch.is_autocast_enabled, "cpu"), partial(torch.set_autocast_enabled, "cpu")),
    *(
        (f"torch.backends.cudnn.{name}", partial(getattr, cudnn, name), partial(setattr, cudnn, name))
        for name in ("benchmark", "deterministic")
    ),
    ("np.seterr", np.geterr, lambda value: np.seterr(**value)),
    ("sys.setrecursionlimit", sys.getrecursionlimit, sys.setrecursionlimit),
)


def _settings() -> list[Any]:
    return [read() for _, read, _ in _SETTINGS]


def _put_back(before: list[Any]) -> list[str]:
    """Put the settings back, and return the names of those that had changed."""
    changed = []
    for value, (name, read, write) in zip(before, _SETTINGS, strict=True):
        if read() != value:
            write(value)
            changed.append(name)
    return changed


@contextmanager
def isolated() -> Iterator[None]:
    """Give the check settings and random streams of its own, and leave the notebook's as they are."""
    numbers, arrays, settings = random.getstate(), np.random.get_state(), _settings()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with (
                torch.random.fork_rng(devices),
                torch.enable_grad(),
                torch.device("cpu") if torch.get_default_device().type != "cpu" else nullcontext(),
            ):
                torch.default_generator.manual_seed(0)
                torch.set_default_dtype(torch.float32)
                torch.set_num_threads(1)  # for tensors as small as these, two threads spend their time waiting
                yield
        finally:
            random.setstate(numbers)
            np.random.set_state(arrays)  # noqa: NPY002
            _put_back(settings)


# --- what an answer shows ---------------------------------------------------------------------------------------------


@contextmanager
def _replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute of a module or an object."""
    own, before = name in vars(place), getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        if own:
            setattr(place, name, before)
        else:
            delattr(place, name)


def _shell() -> Any:
    """Return the notebook's IPython shell, or None outside of one."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


class Output:
    """Shows what an answer prints, displays and plots in its first call only: a check calls it twenty times and more."""

    def __init__(self) -> None:
        self.calls = 0
        self._figures: set[int] = set()
        self._told = False

    @contextmanager
    def shown_once(self) -> Iterator[None]:
        """Drop what is shown after the first call, and close the figures that were drawn after it."""
        with ExitStack() as stack:
            self._notice = sys.stdout
            stack.enter_context(redirect_stdout(_FirstCharacters(sys.stdout, self)))
            stack.enter_context(redirect_stderr(_FirstCharacters(sys.stderr, self)))
            if (publisher := getattr(_shell(), "display_pub", None)) is not None:  # display and the inline plt.show
                for name in ("publish", "clear_output"):
                    stack.enter_context(_replaced(publisher, name, self._in_first_call(getattr(publisher, name))))
            stack.callback(self._close_figures)
            yield

    def next_call(self) -> None:
        """Note that the answer is called."""
        self.calls += 1
        pyplot = sys.modules.get("matplotlib.pyplot")
        if self.calls == 2 and pyplot is not None and (open_ := pyplot.get_fignums()):
            self._figures = set(open_)
            pyplot.figure()  # for what the further calls draw without a figure of their own

    def in_first_call(self) -> bool:
        """Tell whether to show something, and say once that no more is shown."""
        if self.calls > 1 and not self._told:
            self._told = True
            self._notice.write("… (your function is called again and again; only its first call shows something)\n")
        return self.calls <= 1

    def _in_first_call(self, show: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: show(*args, **kwargs) if self.in_first_call() else None

    def _close_figures(self) -> None:
        pyplot = sys.modules.get("matplotlib.pyplot")
        if self.calls > 1 and pyplot is not None:
            for number in set(pyplot.get_fignums()) - self._figures:
                pyplot.close(number)


class _FirstCharacters(io.TextIOBase):
    """Passes on the first characters of what an answer prints in its first call, and drops the rest."""

    def __init__(self, stream: Any, output: Output):
        self.stream, self.output, self.left = stream, output, PRINTED

    def write(self, text: str) -> int:
        if self.left > 0 and text and self.output.in_first_call():
            self.stream.write(text[: self.left])
            self.left -= len(text)
            if self.left <= 0:
                self.stream.write("\n… (what your function prints after this is not shown)\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()


# --- how an answer ends -----------------------------------------------------------------------------------------------


@contextmanager
def no_exit(attempts: list[str]) -> Iterator[None]:
    """Turn what would end the kernel into SystemExit, and note it in `attempts`, since an answer may swallow that.

    input(), for which a check would wait without an end, is refused as well.
    """
    process = os.getpid()

    def refuse(name: str, leave: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        if os.getpid() != process:  # a child that the answer has forked may end as it likes
            leave(*args, **kwargs)
        attempts.append(name)
        raise SystemExit(*args[:1])

    def ask(prompt: object = "") -> str:
        raise RuntimeError("input() has nobody to ask while an answer is checked.")

    # In a notebook exit() and quit() raise nothing: they ask the shell to stop the kernel after the cell.
    ways = [(os, "_exit"), (os, "abort"), (builtins, "exit"), (builtins, "quit"), (_shell(), "ask_exit")]
    with ExitStack() as stack:
        stack.enter_context(_replaced(builtins, "input", ask))
        for place, name in ways:
            if (leave := getattr(place, name, None)) is not None:
                stack.enter_context(_replaced(place, name, partial(refuse, name, leave)))
        yield


class Watch:
    """Ends a check after so many seconds or when the student interrupts it, even if the answer catches every exception.

    In the main thread a timer interrupts whatever runs. Where the system has none (Windows) and in other threads, a
    second thread raises the exception: it is seen only when a call to C, such as time.sleep, is over, and code that
    catches it again and again goes on.
    """

    def __init__(self, seconds: float):
        self.reason: type[BaseException] | None = None
        self._seconds, self._alarms, self._running = seconds, 0, False
        self._handlers: dict[int, Any] = {}
        self._timer = False
        self._over, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> Watch:
        main = threading.current_thread() is threading.main_thread()
        self._thread, self._running, self._timer = threading.get_ident(), True, main and hasattr(signal, "setitimer")
        if main and callable(signal.getsignal(signal.SIGINT)):
            self._handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        if self._timer:
            self._handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._alarm)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
        else:
            threading.Thread(target=self._remind, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        if self._timer:
            signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            self._end_reminding()
        for number, before in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if before is None else before)  # None: it is not Python's

    def _alarm(self, signum: int, frame: FrameType | None) -> None:
        """Raise, and come back: after a while first, then after a few microseconds.

        An exception that comes again so soon comes up in the `except:` that has just caught the last one, or between
        two rounds of the loop, and nothing catches it there. The delay varies so that it falls everywhere.
        """
        if not self._running:
            return
        self.reason = self.reason or TooSlow
        self._alarms += 1
        checking = frame is None or os.path.dirname(frame.f_code.co_filename) == _HERE
        signal.setitimer(signal.ITIMER_REAL, GRACE if self._alarms == 1 else 1e-6 * (1 + self._alarms % 200))
        if not checking:  # the check's own code may finish what it does
            raise self.reason

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        """Do what the notebook does at an interrupt, and see to it that an answer does not swallow it."""
        try:
            self._handlers[signal.SIGINT](signum, frame)
        except KeyboardInterrupt:
            self.reason, self._alarms = KeyboardInterrupt, 1
            if self._timer:
                signal.setitimer(signal.ITIMER_REAL, GRACE)
            raise

    def _remind(self) -> None:
        for wait in (self._seconds, *[GRACE] * 9):
            if self._over.wait(wait):
                return
            with self._lock:
                if self._running:
                    self.reason = self.reason or TooSlow
                    self._raise(self.reason)

    def _end_reminding(self) -> None:
        """Take back an exception that is still to come: another one takes its place, and is caught here.

        With none in its place Python would go on waiting for it, and 3.11 then hangs as soon as it profiles something.
        """
        with suppress(_Over), self._lock:
            self._over.set()
            self._raise(_Over)
            while True:
                pass

    def _raise(self, reason: type[BaseException]) -> None:
        """Raise an exception in the thread that checks."""
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(reason))


class Answer:
    """A student's function, called so that each call finds the notebook's settings and the libraries as they were."""

    def __init__(self, function: Callable[..., Any], output: Output, undo: Callable[[], list[str]]):
        self._function, self._output, self._undo = function, output, undo
        self.changed: set[str] = set()  # settings
        self.replaced: set[str] = set()  # functions

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        settings = _settings()
        self._output.next_call()
        # Looking for replacements takes a third of a millisecond, and one check calls its answer 8000 times.
        undo = self._undo if self._output.calls < 20 or self._output.calls % 100 == 0 else list
        try:
            result = self._function(*args, **kwargs)
        finally:
            self.replaced.update(undo())
            self.changed.update(_put_back(settings))
        self._refuse_replacements()
        return _plain(result)

    def finish(self) -> None:
        """Look once more at what the answer did: what it returned may have run since.

        Raises:
            CheckFailed: it has replaced something.
        """
        self.replaced.update(self._undo())
        self._refuse_replacements()

    def _refuse_replacements(self) -> None:
        if self.replaced:
            what = f"your function replaced {', '.join(sorted(self.replaced))} by something else."
            raise CheckFailed(what, "Leave the libraries and the checks as they are, and return the result.")

    def note(self) -> str:
        """Return what to say about settings that the answer has changed, or nothing."""
        names = ", ".join(sorted(self.changed))
        text = f"Your function sets {names}, for the whole notebook. The check has put it back: leave it out, or set it in a cell of its own."
        return text if names else ""


def _plain(result: Any) -> Any:
    """Return a tensor of a class of its own as a Tensor: such a class decides what == and the like mean."""
    if type(result) in (list, tuple):
        plain = [_plain(item) for item in result]
        same = all(new is old for new, old in zip(plain, result, strict=True))
        return result if same else type(result)(plain)
    if not isinstance(result, Tensor) or type(result) in (Tensor, nn.Parameter):
        return result
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(result, Tensor)
