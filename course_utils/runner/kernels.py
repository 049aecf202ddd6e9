"""How a notebook of the course is executed: by which Python, in which environment, and what is kept of its outputs."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection
from typing import Any

import zmq
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.util import run_sync
from nbformat import NotebookNode
from traitlets import default

from ..core.settings import PROJECT, THREADS

LONGEST = 100_000  # characters kept of one output
_executing: dict[threading.Thread, Client] = {}


class ThisPython(AsyncKernelManager):
    """Starts kernels with the Python that runs the course, whatever a kernel called "python3" elsewhere may be."""

    @default("transport_encryption")
    def _encrypt_where_possible(self) -> str:
        return "auto" if zmq.has("curve") else "disabled"

    @property
    def kernel_spec(self) -> KernelSpec:
        from ipykernel.kernelspec import get_kernel_dict

        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        threads = {name: os.environ.get(name, value) for name, value in THREADS.items()}
        return KernelSpec(**get_kernel_dict(), env={"PYTHONPATH": path, **threads})


class Printed:
    """What a cell prints, piece by piece, as a reader would see it: bars that redraw their line leave the last state.

    Takes time in proportion to what is printed, and keeps the first and the last part of a text that is too long.

    >>> str(Printed("10 %\\r").add("100 %"))
    '100 %'
    """

    def __init__(self, text: str = ""):
        self._head, self._left_out = "", 0
        self._pieces, self._size = [text], len(text)

    def add(self, text: str) -> Printed:
        """Append a piece, and return all."""
        self._pieces.append(text)
        self._size += len(text)
        if self._size > 2 * LONGEST:  # seldom enough to stay linear, often enough not to fill the memory
            self._settle()
        return self

    def __str__(self) -> str:
        self._settle()
        [rest] = self._pieces
        if not self._left_out:
            return self._head + rest
        advice = f"one output keeps {LONGEST:,}: write long results to a file"
        return f"{self._head}\n[… {self._left_out:,} characters are left out here; {advice} …]\n{rest}"

    def _settle(self) -> None:
        text, half = _redrawn("".join(self._pieces)), LONGEST // 2
        if not self._head and len(text) > LONGEST:
            self._head, text = text[:half], text[half:]
        if self._head and len(text) > half:
            self._left_out += len(text) - half
            text = text[-half:]
        self._pieces, self._size = [text], len(text)


def _redrawn(text: str) -> str:
    """Carry out carriage returns and backspaces. nbclient's regular expressions are quadratic in a line's length."""
    if "\r" not in text and "\b" not in text:
        return text
    return "\n".join(map(_redrawn_line, text.split("\n")))


def _redrawn_line(line: str) -> str:
    line = line[line.rfind("\r", 0, max(len(line) - 1, 0)) + 1 :]  # at the end of a line it redraws nothing
    if "\b" not in line:
        return line
    kept: list[str] = []
    for letter in line:
        if letter != "\b":
            kept.append(letter)
        elif kept:
            kept.pop()
    return "".join(kept)


class Client(NotebookClient):
    """Runs a notebook; texts printed in a row become one output, in its place, and a text that is too long is cut.

    nbclient's own `coalesce_streams` puts all texts of a cell before its figures, and hangs on a long line.
    """

    _printed: tuple[NotebookNode, Printed] | None = None  # the output that the next text may belong to

    def __init__(self, nb: NotebookNode, folder: str, **options: Any):
        """Prepare to execute a notebook in a folder; papermill's `cwd` would move this whole process there."""
        super().__init__(
            nb,
            kernel_manager_class=ThisPython,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            store_widget_state=False,
            extra_arguments=["--log-level=CRITICAL"],  # else each kernel says on stderr that it was told to end
            **options,
        )

    async def async_execute(self, *args: Any, **options: Any) -> NotebookNode:
        _executing[threading.current_thread()] = self
        try:
            return await super().async_execute(*args, **options)
        finally:
            del _executing[threading.current_thread()]

    execute = run_sync(async_execute)

    def output(
        self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int
    ) -> NotebookNode | None:
        out = super().output(outs, msg, display_id, cell_index)
        if out is None:
            return None
        if out.output_type != "stream":
            self._finish_text()
            _shorten_texts(out)
        elif self._printed and len(outs) > 1 and outs[-2] is self._printed[0] and outs[-2].name == out.name:
            outs.pop()  # before the end of the cell, since updates of what is displayed count the outputs
            self._printed[1].add(out.text)
        else:
            self._finish_text()
            self._printed = out, Printed(out.text)
        return out

    async def async_execute_cell(self, cell: NotebookNode, *args: Any, **options: Any) -> NotebookNode:
        try:
            return await super().async_execute_cell(cell, *args, **options)
        finally:
            self._finish_text()

    execute_cell = run_sync(async_execute_cell)

    def _finish_text(self) -> None:
        if self._printed:
            out, printed = self._printed
            out.text, self._printed = str(printed), None


def _shorten_texts(out: NotebookNode) -> None:
    if out.output_type == "error":
        out.evalue, out.traceback = _shortened(out.evalue), [_shortened(line) for line in out.traceback]
    elif "text/plain" in out.data:
        out.data["text/plain"] = _shortened(out.data["text/plain"])


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else str(Printed(text))


def kill_kernels(threads: Collection[threading.Thread]) -> None:
    """Kill the kernels of the notebooks that these threads execute now: each execution then fails."""
    for thread, client in tuple(_executing.items()):
        process = getattr(getattr(client.km, "provisioner", None), "process", None)
        if thread in threads and process is not None:
            process.kill()
