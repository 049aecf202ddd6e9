"""Calls side by side, one process for each core: what `training.train_all` and `evaluation.compare` are made of."""

from __future__ import annotations

import gc
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from joblib import Parallel, delayed
from tqdm.auto import tqdm

# joblib replaces a worker whose memory has grown, and goes on: nothing that a reader of a notebook has to act on
warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)


def parallel_map(
    function: Callable[..., Any],
    *arguments: Iterable[Any],
    device: torch.device | str = "cpu",
    workers: int | None = None,
    progress: bool = True,
) -> list[Any]:
    """Return [function(a, b, …) for a, b, … in zip(*arguments)], computed side by side.

    Networks of the course's size gain next to nothing from a second thread, but two of them can be trained at once. A
    result does not depend on how many are: each call has one thread, and a global random stream of its own that
    follows from the caller's and the position in the list.

    Args:
        function: also one that was defined in a notebook. What it changes outside of itself is lost; return it.
        arguments: one or more sequences of the same length.
        device: on which the function computes. On a graphics card, which has room for one, calls run one by one.
        workers: processes, by default one for each thread of torch (OMP_NUM_THREADS); 1 stays in this process.
        progress: show a bar with the time left.

    Warnings arrive here, and as often as the filters of this process say.

    Raises:
        ValueError: arguments of different lengths, or fewer than one worker. And what the function raises.

    >>> parallel_map(max, [1, 5], [4, 2], workers=1, progress=False)
    [4, 5]
    """
    calls = list(zip(*arguments, strict=True))
    if workers is None:
        workers = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    if workers < 1:
        raise ValueError(f"workers counts processes, 1 or more; got {workers}.")
    first = int(torch.randint(2**31, ()))
    jobs = (delayed(_heard)(function, first + i, call, os.getpid()) for i, call in enumerate(calls))
    run = Parallel(n_jobs=min(workers, len(calls)) or 1, return_as="generator", pre_dispatch="all", batch_size=1)
    results = []
    bar = tqdm(run(jobs), total=len(calls), disable=not (progress and calls), unit="run", mininterval=1)
    for result, said in bar:
        results.append(result)
        for warning in said:
            warnings.warn(warning, stacklevel=2)
    return results


def _heard(function: Callable[..., Any], *details: Any) -> tuple[Any, list[Warning]]:
    """Return the result of `_alone`, and of another process the warnings, which a notebook would not show."""
    if os.getpid() == details[-1]:
        return _alone(function, *details), []
    with warnings.catch_warnings(record=True) as caught:
        result = _alone(function, *details)
    return result, [warning.message for warning in caught]


def _alone(function: Callable[..., Any], seed: int, arguments: tuple[Any, ...], parent: int) -> Any:
    if os.getpid() != parent:
        _end_with(parent)
        gc.collect()  # a notebook's function and its globals refer to each other: the last ones, with their images, go
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            return function(*arguments)
        finally:
            torch.set_num_threads(threads)


@cache  # one watch for each worker
def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed without a chance to tell."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    gc.freeze()  # what was imported stays, and need not be looked at again
