"""Runs on other machines, by way of dask.distributed (the extra `cluster`)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, nullcontext

from ..core.machine import cores

CONNECT_SECONDS = 30  # for the first connection, and for one that is lost to come back


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
            yield client.get_executor(pure=False)
