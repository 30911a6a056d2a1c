"""How many samples may be with the engines at once, and the queue before them: first come, first served."""

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

# Set in the task that a place was given to: a later draw of the same request (the guards threw the first away)
# goes to the head of the queue and is never refused for its length. What was accepted is finished.
_was_admitted: ContextVar[bool] = ContextVar("was_admitted", default=False)


class Admission:
    def __init__(self, capacity: int, limits: ServeLimits, metrics: EngineMetrics) -> None:
        self.capacity, self.limits, self.metrics = capacity, limits, metrics
        self.in_use = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def slots(self, samples: int, remaining_s: float) -> AsyncIterator[None]:
        """Holds places for so many samples; raises OverloadedError at once when the queue is full."""
        # One request may be larger than everything there is; alone, it may pass.
        weight = min(samples, self.capacity)
        started_s = time.monotonic()
        await self._acquire(weight, remaining_s)
        self.metrics.observe_queue_time(time.monotonic() - started_s)
        try:
            yield
        finally:
            self._release(weight)

    def resize(self, capacity: int) -> None:
        """Engines came or went. Who is in stays in."""
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
            raise OverloadedError("the queue is full")
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
                raise DeadlineError("waited for a place until the deadline") from None
            raise OverloadedError("waited too long for a place") from None
        except asyncio.CancelledError:
            self._abandon(waiter)
            raise

    def _abandon(self, waiter: tuple[int, asyncio.Future[None]]) -> None:
        weight, granted = waiter
        if granted.done() and not granted.cancelled():  # the place came while we were leaving
            self._release(weight)
            return
        if waiter in self._queue:
            self._queue.remove(waiter)
        self._grant_waiting()  # whoever stood behind may be lighter

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
        # After `resize` somebody in the queue may weigh more than all places.
        return self.in_use + weight <= self.capacity or not self.in_use

    def _take(self, weight: int) -> None:
        self.in_use += weight
        self.metrics.samples_in_flight.set(self.in_use)
