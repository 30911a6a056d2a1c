"""Client of one vLLM engine: outstanding load, health probes, deadlines and recovery."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from serve.config import ServeLimits
from serve.http.errors import DeadlineError
from serve.http.metrics import EngineMetrics
from usersim.backends.vllm_http import HttpSampler
from usersim.errors import BackendError, UsersimError
from usersim.users.protocols import Draw

log = logging.getLogger(__name__)
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 0.25, 5.0


class EngineClient:
    """Client of one engine with its load and health.

    Args:
        connections: Size of the HTTP connection pool.
        probe_request: One-token request that proves that the engine works.
        verify: Check that a recovered engine still serves the same model; None: no check.
    """

    def __init__(
        self,
        url: str,
        *,
        limits: ServeLimits,
        connections: int,
        metrics: EngineMetrics,
        probe_request: Draw,
        verify: Callable[[str], Awaitable[None]] | None,
        on_health_change: Callable[[], None],
    ) -> None:
        self.url, self.limits, self.metrics = url, limits, metrics
        # `deadline` limits every wait; the HTTP client's own timeout must not fire first.
        self.sampler = HttpSampler(url, timeout_s=None, connections=connections)
        self.outstanding_samples = 0
        """Samples in flight on this engine."""
        self.is_healthy, self.is_hung = True, False
        self.first_recheck: asyncio.Future[None] | None = None
        """While unhealthy: done once the first probe has shown whether the failure was transient."""
        self._probe_request, self._verify, self._on_health_change = probe_request, verify, on_health_change
        self._last_answer_s = -1e9
        self._pending_waits: dict[asyncio.Timeout, float] = {}
        self._probe_task: asyncio.Task[bool] | None = None
        self._recovery_task: asyncio.Task[None] | None = None
        metrics.healthy.labels(url).set(1)
        metrics.outstanding.labels(url).set(0)
        metrics.failures.labels(url)

    def sampler_for(self, model: str | None) -> HttpSampler:
        """Returns the sampler for one model of the engine; None: the engine's default model."""
        return self.sampler if model is None else self.sampler.named(model)

    @contextmanager
    def track(self, samples: int) -> Iterator[None]:
        self._add(samples)
        try:
            yield
        finally:
            self._add(-samples)

    def _add(self, samples: int) -> None:
        self.outstanding_samples += samples
        self.metrics.outstanding.labels(self.url).set(self.outstanding_samples)

    @asynccontextmanager
    async def deadline(self, remaining_s: float) -> AsyncIterator[None]:
        """Limits one wait for this engine.

        Raises:
            DeadlineError: After `remaining_s` seconds.
            BackendError: If the engine was found to hang and its waits were cancelled.
        """
        try:
            async with asyncio.timeout(remaining_s) as wait:
                self._pending_waits[wait] = time.monotonic()
                try:
                    yield
                finally:
                    del self._pending_waits[wait]
        except TimeoutError:
            if self.is_hung:
                raise BackendError(f"engine {self.url}: does not respond", retryable=True) from None
            self.probe_if_healthy()
            raise DeadlineError(f"engine {self.url}: no answer within {remaining_s:.1f} s") from None
        self._record_answer()

    def cancel_waits(self) -> None:
        """Cancels all waits for this engine, so that their requests are retried on another."""
        now = asyncio.get_running_loop().time()
        for wait in self._pending_waits:
            if not wait.expired():
                wait.reschedule(now)

    def silence_s(self) -> float:
        """Returns the seconds without output while requests are pending; 0 without requests."""
        if not self._pending_waits:
            return 0.0
        return time.monotonic() - max(self._last_answer_s, min(self._pending_waits.values()))

    def probe_if_healthy(self) -> None:
        """Starts a probe of an engine that may hang."""
        if self.is_healthy:
            self._shared_probe()

    async def is_working(self, fresh_s: float = 0.0) -> bool:
        """Returns True if the engine answered within `fresh_s` seconds or answers a probe now.

        An unhealthy engine is not probed again: its recovery task does that.
        """
        if not self.is_healthy:
            return False
        return time.monotonic() - self._last_answer_s < fresh_s or await asyncio.shield(self._shared_probe())

    def mark_failed(self, reason: object, *, is_hung: bool = False) -> None:
        """Takes the engine out of rotation until a real completion works again."""
        self.metrics.failures.labels(self.url).inc()
        if not self.is_healthy:
            return
        log.warning("engine %s is out of rotation: %s", self.url, reason)
        self.is_hung = is_hung
        self.first_recheck = asyncio.get_running_loop().create_future()
        if is_hung:
            self._finish_recheck()
        self._set_healthy(False)
        self._recovery_task = asyncio.create_task(self._recover(FIRST_BACK_OFF_S if is_hung else 0.0))

    async def aclose(self) -> None:
        tasks = [task for task in (self._probe_task, self._recovery_task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.sampler.aclose()

    def _shared_probe(self) -> asyncio.Task[bool]:
        """Returns the running probe, or starts one. All callers share it."""
        if self._probe_task is None or self._probe_task.done():
            self._probe_task = asyncio.create_task(self._probe())
        return self._probe_task

    async def _probe(self) -> bool:
        try:
            await self._sample_one_token()
        except TimeoutError:
            # A busy engine may be slow to answer a probe: it hangs only if it is also silent.
            if not self._pending_waits or self.silence_s() > self.limits.silent_s:
                self.mark_failed(f"no token within {self.limits.probe_s:.1f} s", is_hung=True)
            return False
        except BackendError as error:
            self.mark_failed(error)
            return False
        return True

    async def _sample_one_token(self) -> None:
        async with asyncio.timeout(self.limits.probe_s):
            await self.sampler.sample(self._probe_request)
        self._last_answer_s = time.monotonic()

    async def _recover(self, delay_s: float) -> None:
        while True:
            await asyncio.sleep(delay_s)
            try:
                await self._sample_one_token()
                if self._verify is not None:
                    await self._verify(self.url)
            except (UsersimError, TimeoutError) as error:
                log.debug("engine %s is still down: %s", self.url, error)
                self._finish_recheck()
                delay_s = min(max(2 * delay_s, FIRST_BACK_OFF_S), LONGEST_BACK_OFF_S)
                delay_s *= random.uniform(0.8, 1.2)
            else:
                return self._mark_recovered()

    def _record_answer(self) -> None:
        """Records an answer, and restores an engine that keeps answering after a single failure.

        When the engine is full, its probe would wait behind all other requests.
        """
        self._last_answer_s = time.monotonic()
        if not self.is_healthy and not self.is_hung:
            if self._recovery_task is not None:
                self._recovery_task.cancel()
            self._mark_recovered()

    def _mark_recovered(self) -> None:
        log.warning("engine %s is back in rotation", self.url)
        self.is_hung = False
        self._set_healthy(True)
        self._finish_recheck()

    def _finish_recheck(self) -> None:
        if self.first_recheck is not None and not self.first_recheck.done():
            self.first_recheck.set_result(None)

    def _set_healthy(self, is_healthy: bool) -> None:
        self.is_healthy = is_healthy
        self.metrics.healthy.labels(self.url).set(is_healthy)
        self._on_health_change()
