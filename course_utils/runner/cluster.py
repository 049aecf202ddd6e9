"""Runs on other machines, by way of dask.distributed (the extra `cluster`)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core.machine import cores

if TYPE_CHECKING:
    import distributed

CONNECT_SECONDS = 30  # for the first connection, and for one that is lost to come back
TOPIC = "course-run-begun"


class DaskExecutor(Executor):
    """An executor over a dask client whose futures tell which runs have begun; those of dask's own do not.

    >>> executor = DaskExecutor(distributed.Client("tcp://node7:8786"))  # doctest: +SKIP
    """

    def __init__(self, client: distributed.Client):
        self.client = client
        self._futures: dict[str, Future] = {}
        client.subscribe_topic(TOPIC, self._begin)

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        key, future = f"course-{uuid.uuid4().hex}", Future()
        self._futures[key] = future
        task = self.client.submit(_announced, key, fn, args, kwargs, key=key, pure=False)
        task.add_done_callback(partial(self._finish, key))
        future.add_done_callback(lambda future: task.cancel() if future.cancelled() else None)  # also keeps the task
        return future

    def _begin(self, event: tuple[float, str]) -> None:
        future = self._futures.get(event[1])
        if future and not future.running():  # a task that lost its worker begins again
            with suppress(InvalidStateError):
                future.set_running_or_notify_cancel()

    def _finish(self, key: str, task: distributed.Future) -> None:
        future = self._futures.pop(key)
        with suppress(InvalidStateError):  # it has been cancelled
            if task.status == "finished":
                future.set_result(task.result())
            else:
                future.set_exception(task.exception() if task.status == "error" else ConnectionError(task.status))


def _announced(key: str, fn: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    from distributed import get_worker

    get_worker().log_event(TOPIC, key)
    return fn(*args, **kwargs)


@contextmanager
def connect(address: str, workers: int | None = None) -> Iterator[Executor]:
    """Yield an executor for `sweeps.run_sweep` that hands runs to the workers of a dask scheduler.

    Args:
        address: "local" for a cluster on this machine, else where a scheduler listens, like tcp://node7:8786.
        workers: of the local cluster, default one for each core; each runs one notebook at a time.

    Raises:
        ValueError: dask.distributed is not installed, or nobody answers at the address.

    >>> with connect("tcp://node7:8786") as executor:  # doctest: +SKIP
    ...     run_sweep("notebooks/solutions/02_fgsm.ipynb", grid(seed=range(8)), "build/fgsm", executor=executor)
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ValueError("a scheduler takes dask.distributed: python -m pip install -e '.[cluster]'") from None
    if address == "local":
        place = LocalCluster(n_workers=workers or cores(), threads_per_worker=1, dashboard_address=None)
    else:
        place = nullcontext(address)
    with place as scheduler:
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise ValueError(f"no scheduler answers at {address}: {error}") from None
        with client:
            yield DaskExecutor(client)
