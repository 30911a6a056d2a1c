"""Engines that clean batches: this process, a process pool, or Ray Data. Results keep their order."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Literal

from data_prep.cleaning.clean_batch import ChatBatch, CleanedBatch
from usersim.errors import BackendError, ConfigError

Work = Callable[[ChatBatch], CleanedBatch]

AHEAD = 2
"""Batches in flight per worker: enough that none is idle, few enough that memory stays flat."""
RAY_WINDOW = 32
"""Batches per worker passed to Ray Data at once."""


def run(
    engine: Literal["local", "ray"], workers: int, work: Work, batches: Iterable[ChatBatch]
) -> Iterator[CleanedBatch]:
    """Yields the cleaned batches in order; an error of a stage is raised here.

    Raises:
        BackendError: a worker died.
    """
    if engine == "ray":
        return _ray(workers, work, batches)
    return map(work, batches) if workers == 1 else _pool(workers, work, batches)


def _pool(workers: int, work: Work, batches: Iterable[ChatBatch]) -> Iterator[CleanedBatch]:
    in_flight: deque[Future[CleanedBatch]] = deque()
    # Not fork: it would copy threads of loaded libraries that hold locks.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            for batch in batches:
                in_flight.append(pool.submit(work, batch))
                if len(in_flight) >= AHEAD * workers:
                    yield in_flight.popleft().result()
            while in_flight:
                yield in_flight.popleft().result()
        except BrokenProcessPool as error:
            raise BackendError("a cleaning process died (out of memory?): use fewer --workers") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _ray(workers: int, work: Work, batches: Iterable[ChatBatch]) -> Iterator[CleanedBatch]:
    """Reads in the driver and cleans in `workers` Ray tasks. RAY_ADDRESS joins a running cluster."""
    ray = _start_ray(workers)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    compute = ray.data.TaskPoolStrategy(size=workers)
    source = iter(batches)
    try:
        while window := [{"batch": pickle.dumps(batch)} for batch in islice(source, RAY_WINDOW * workers)]:
            rows = ray.data.from_items(window, override_num_blocks=len(window))
            cleaned = rows.map_batches(
                _clean_rows, fn_kwargs={"work": pickle.dumps(work)}, batch_size=1, compute=compute
            )
            for row in cleaned.iter_rows():
                outcome = pickle.loads(row["cleaned"])
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome
    except ray.exceptions.RayError as error:
        raise BackendError(f"Ray: {str(error).strip().splitlines()[-1]}") from error
    finally:
        ray.shutdown()


def _clean_rows(rows: dict[str, Any], work: bytes) -> dict[str, Any]:
    clean: Work = pickle.loads(work)
    return {"cleaned": [pickle.dumps(_outcome(clean, pickle.loads(batch))) for batch in rows["batch"]]}


def _outcome(clean: Work, batch: ChatBatch) -> CleanedBatch | Exception:
    """Returns an exception as a result; Ray would retry the task and wrap the error."""
    try:
        return clean(batch)
    except Exception as error:
        return error


def _start_ray(workers: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    # Ray starts workers with niceness 15 by default.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'ray[data]>=2.50'") from error
    cluster = os.environ.get("RAY_ADDRESS")
    # A running cluster has its own resources.
    local: dict[str, Any] = {} if cluster else {"num_cpus": workers, "include_dashboard": False}
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.init(address=cluster, log_to_driver=False, logging_level=logging.ERROR, **local)
    return ray
