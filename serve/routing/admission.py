"""Admission control: limits the samples in flight on all engines, with a first-in first-out queue."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from serve.config import ServeLimits
from serve.http import request_context
from serve.http.errors import DeadlineError, OverloadedError
from serve.http.metrics import EngineMetrics

# True in the task of an admitted request. Its later sampling calls (after the guards rejected a turn) go to the head
# of the queue and are never refused for its length: accepted requests are finished.
_was_admitted: ContextVar[bool] = ContextVar("was_admitted", default=False)


class Admission:
    """Semaphore over samples with a bounded queue.

    Args:
        capacity: Samples in flight on all engines together.
        limits: Length of the queue and longest wait.
        metrics: Gauges of queue and samples in flight.
    """

    def __init__(self, capacity: int, limits: ServeLimits, metrics: EngineMetrics) -> None:
        self.capacity, self.limits, self.metrics = capacity, limits, metrics
        self.in_use = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def slots(self, samples: int, remaining_s: float) -> AsyncIterator[None]:
        """Holds slots for `samples` samples.

        Raises:
            OverloadedError: At once if the queue is full, or after `limits.wait_s` seconds in it.
            DeadlineError: If the request's deadline passes in the queue.
        """
        # A request larger than the capacity is admitted when it is alone.
        weight = min(samples, self.capacity)
        started_s = time.monotonic()
        await self._acquire(weight, remaining_s)
        self.metrics.observe_queue_time(time.monotonic() - started_s)
        try:
            yield
        finally:
            self._release(weight)

    def resize(self, capacity: int) -> None:
        """Changes the capacity when engines fail or recover. Admitted requests keep their slots."""
        self.capacity = capacity
        self._grant_waiting()

    async def _acquire(self, weight: int, remaining_s: float) -> None:
        if not self._queue and self._fits(weight):
            self._take(weight)
        else:
            await self._wait_in_queue(weight, remaining_s)
        if request_context.current() is not None:
            _was_admitted.set(True)

    async def _wait_in_queue(self, weight: int, remaining_s: float) -> None:
        was_admitted = _was_admitted.get()
        if len(self._queue) >= self.limits.max_waiting and not was_admitted:
            self.metrics.refusals.labels("full").inc()
            raise OverloadedError("the admission queue is full")
        waiter = (weight, asyncio.get_running_loop().create_future())
        (self._queue.appendleft if was_admitted else self._queue.append)(waiter)
        self.metrics.queue_length.set(len(self._queue))
        try:
            async with asyncio.timeout(min(self.limits.wait_s, remaining_s)):
                await waiter[1]
        except TimeoutError:
            self._abandon(waiter)
            self.metrics.refusals.labels("waited").inc()
            if remaining_s < self.limits.wait_s:
                raise DeadlineError("the deadline passed in the admission queue") from None
            raise OverloadedError("waited too long in the admission queue") from None
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise

    def _abandon(self, waiter: tuple[int, asyncio.Future[None]]) -> None:
        weight, granted = waiter
        if granted.done() and not granted.cancelled():  # granted while the waiter gave up
            self._release(weight)
            return
        if waiter in self._queue:
            self._queue.remove(waiter)
        self._grant_waiting()  # the next waiter may need fewer slots

    def _release(self, weight: int) -> None:
        self.in_use -= weight
        self._grant_waiting()

    def _grant_waiting(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            weight, waiter = self._queue.popleft()
            if not waiter.cancelled():
                self._take(weight)
                waiter.set_result(None)
        self.metrics.queue_length.set(len(self._queue))
        self.metrics.samples_in_flight.set(self.in_use)

    def _fits(self, weight: int) -> bool:
        # After `resize` a waiter may need more than the whole capacity.
        return self.in_use + weight <= self.capacity or not self.in_use

    def _take(self, weight: int) -> None:
        self.in_use += weight
        self.metrics.samples_in_flight.set(self.in_use)
