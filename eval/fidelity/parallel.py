"""Parallel execution of independent tasks, with results in order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(tasks: Sequence[Callable[[], T]], processes: int) -> Iterator[T]:
    """Yields the results in the order of the tasks; with `processes=1` no process is started.

    Tasks and results must be picklable. Ctrl-C ends the workers. Each worker runs linear algebra in one thread,
    because the processes already fill the cores.
    """
    if processes == 1 or len(tasks) < 2:
        yield from (task() for task in tasks)
        return
    # Not fork: OpenMP in a forked child of a process that has used it hangs.
    from joblib import Parallel, delayed, parallel_config  # type: ignore[import-untyped]

    with parallel_config(backend="loky", inner_max_num_threads=1):
        yield from Parallel(n_jobs=min(processes, len(tasks)), return_as="generator")(
            delayed(task)() for task in tasks
        )
