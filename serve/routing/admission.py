"""How many samples may be with the engines at once, and the queue before them: first come, first served."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from serve.config import Limits
from serve.http import request_context as visit
from serve.http.errors import DeadlineError, OverloadedError
from serve.http.metrics import EngineMetrics

# Set in the task that a place was given to: a later draw of the same request (the guards threw the first away)
# goes to the head of the queue and is never refused for its length. What was accepted is finished.
_let_in: ContextVar[bool] = ContextVar("let_in", default=False)


class Admission:
    def __init__(self, places: int, limits: Limits, metrics: EngineMetrics) -> None:
        self.places, self.limits, self.metrics = places, limits, metrics
        self.taken = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def place(self, samples: int, left_s: float) -> AsyncIterator[None]:
        """Holds places for so many samples; raises OverloadedError at once when the queue is full."""
        # One request may be larger than everything there is; alone, it may pass.
        weight = min(samples, self.places)
        began = time.monotonic()
        await self._enter(weight, left_s)
        self.metrics.waited(time.monotonic() - began)
        try:
            yield
        finally:
            self._leave(weight)

    def resize(self, places: int) -> None:
        """Engines came or went. Who is in stays in."""
        self.places = places
        self._grant()

    async def _enter(self, weight: int, left_s: float) -> None:
        if not self._queue and self._fits(weight):
            self._take(weight)
        else:
            await self._wait(weight, left_s)
        if visit.current() is not None:
            _let_in.set(True)

    async def _wait(self, weight: int, left_s: float) -> None:
        again = _let_in.get()
        if len(self._queue) >= self.limits.max_waiting and not again:
            self.metrics.refused.labels("full").inc()
            raise OverloadedError("the queue is full")
        waiter = (weight, asyncio.get_running_loop().create_future())
        (self._queue.appendleft if again else self._queue.append)(waiter)
        self.metrics.waiting.set(len(self._queue))
        try:
            async with asyncio.timeout(min(self.limits.wait_s, left_s)):
                await waiter[1]
        except TimeoutError:
            self._give_up(waiter)
            self.metrics.refused.labels("waited").inc()
            if left_s < self.limits.wait_s:
                raise DeadlineError("waited for a place until the deadline") from None
            raise OverloadedError("waited too long for a place") from None
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise

    def _give_up(self, waiter: tuple[int, asyncio.Future[None]]) -> None:
        weight, granted = waiter
        if granted.done() and not granted.cancelled():  # the place came while we were leaving
            self._leave(weight)
            return
        if waiter in self._queue:
            self._queue.remove(waiter)
        self._grant()  # whoever stood behind may be lighter

    def _leave(self, weight: int) -> None:
        self.taken -= weight
        self._grant()

    def _grant(self) -> None:
        while self._queue and self._fits(self._queue[0][0]):
            weight, waiter = self._queue.popleft()
            if not waiter.cancelled():
                self._take(weight)
                waiter.set_result(None)
        self.metrics.waiting.set(len(self._queue))
        self.metrics.taken.set(self.taken)

    def _fits(self, weight: int) -> bool:
        # After `resize` somebody in the queue may weigh more than all places.
        return self.taken + weight <= self.places or not self.taken

    def _take(self, weight: int) -> None:
        self.taken += weight
        self.metrics.taken.set(self.taken)
