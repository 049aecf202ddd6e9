"""Worker processes of this machine: one that dies costs its own task and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

# A server that has imported papermill once forks workers at once, without the threads of the process that asks.
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
PRELOADED = ["course_utils.runner.kernels"]


class WorkerLost(BrokenExecutor):
    """The process that did a task is gone."""


class NoWorker(RuntimeError):
    """No process can be started."""


class Workers(ThreadPoolExecutor):
    """An executor of `count` processes. In ProcessPoolExecutor one dead process takes every task with it.

    As with that one, a script calls it under `if __name__ == "__main__"`.

    >>> with Workers(2) as pool:  # doctest: +SKIP
    ...     pool.submit(pow, 2, 10).result()
    1024
    """

    def __init__(self, count: int):
        super().__init__(count)
        self._processes: set[_Process] = set()
        self._is_killed = False
        self._mine = threading.local()

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        return super().submit(self._do, fn, args, kwargs)

    def __exit__(self, kind: type | None, *error: Any) -> bool | None:
        if kind is not None:  # Ctrl-C, for one: nobody waits for what runs
            self.kill()
        result = super().__exit__(kind, *error)
        self.kill()
        return result

    def kill(self) -> None:
        """End all processes at once; what waits is cancelled."""
        self._is_killed = True
        self.shutdown(wait=False, cancel_futures=True)
        for process in list(self._processes):
            process.kill()

    def _do(self, fn: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        process = getattr(self._mine, "process", None)
        if process is None:
            process = self._mine.process = _Process()
            self._processes.add(process)
            if self._is_killed:
                process.kill()
        try:
            is_good, value = process.ask((fn, args, kwargs))
        except (EOFError, OSError):
            self._processes.discard(process)
            self._mine.process = None
            raise WorkerLost("the worker process died") from None
        if is_good:
            return value
        raise value


class _Process:
    """One process that does a task at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context(_METHOD)
        if _METHOD == "forkserver":
            context.set_forkserver_preload(PRELOADED)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, dict(os.environ)), daemon=True)
        try:
            self.process.start()
            theirs.close()  # so that its death closes the connection
            self.connection.recv()
        except (RuntimeError, EOFError, ConnectionError) as error:
            self._explain(error)

    def _explain(self, error: Exception) -> None:
        if isinstance(error, RuntimeError) or self._exit_code() > 0:
            raise NoWorker(
                'a worker process cannot start. A script must call this under `if __name__ == "__main__":`'
            ) from error
        raise WorkerLost("the worker process died") from None

    def _exit_code(self) -> int:
        self.process.join()
        return self.process.exitcode or 0

    def ask(self, task: tuple) -> tuple[bool, Any]:
        self.connection.send(task)
        return self.connection.recv()

    def kill(self) -> None:
        self.process.kill()


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server that forks has kept that of its own start
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the sweep, which ends its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    connection.send("ready")
    while True:
        try:
            fn, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            answer = True, fn(*args, **kwargs)
        except Exception as error:
            answer = False, error
        connection.send(answer)


def _die_with_parent() -> None:
    """End this process as soon as the one that started it is gone, even by SIGKILL; kernels do so by themselves."""
    multiprocessing.parent_process().join()
    os._exit(1)
