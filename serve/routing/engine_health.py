"""One engine as the front sees it: how much it has to do, whether it works, and how it comes back."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from serve.config import Limits
from serve.http.errors import DeadlineError
from serve.http.metrics import EngineMetrics
from usersim.backends.vllm_http import HttpSampler
from usersim.errors import BackendError, UsersimError
from usersim.users.protocols import Draw

log = logging.getLogger(__name__)
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 0.25, 5.0


class Upstream:
    """`check` says whether an engine that comes back is still the right one; `changed` hears of its health."""

    def __init__(
        self,
        url: str,
        *,
        limits: Limits,
        connections: int,
        metrics: EngineMetrics,
        proof: Draw,
        check: Callable[[str], Awaitable[None]] | None,
        changed: Callable[[], None],
    ) -> None:
        self.url, self.limits, self.metrics = url, limits, metrics
        # Deadlines are kept here, for every wait; the client's own must not come first.
        self.sampler = HttpSampler(url, timeout_s=None, connections=connections)
        self.samples = 0
        """Outstanding."""
        self.healthy, self.hung = True, False
        self.verdict: asyncio.Future[None] | None = None
        """While set aside: done once a first probe has said whether that was a hiccup."""
        self._proof, self._check, self._changed = proof, check, changed
        self._lived_s = -1e9
        self._waits: dict[asyncio.Timeout, float] = {}
        self._proving: asyncio.Task[bool] | None = None
        self._returning: asyncio.Task[None] | None = None
        metrics.healthy.labels(url).set(1)
        metrics.outstanding.labels(url).set(0)
        metrics.failures.labels(url)

    def named(self, model: str | None) -> HttpSampler:
        """None: whatever the engine serves first."""
        return self.sampler if model is None else self.sampler.named(model)

    @contextmanager
    def work(self, samples: int) -> Iterator[None]:
        self._add(samples)
        try:
            yield
        finally:
            self._add(-samples)

    def _add(self, samples: int) -> None:
        self.samples += samples
        self.metrics.outstanding.labels(self.url).set(self.samples)

    @asynccontextmanager
    async def patience(self, left_s: float) -> AsyncIterator[None]:
        """Around every wait for this engine. DeadlineError after `left_s`; BackendError when it was given up."""
        try:
            async with asyncio.timeout(left_s) as wait:
                self._waits[wait] = time.monotonic()
                try:
                    yield
                finally:
                    del self._waits[wait]
        except TimeoutError:
            if self.hung:
                raise BackendError(f"engine {self.url}: hangs", retryable=True) from None
            self.suspect()
            raise DeadlineError(f"engine {self.url}: no answer within {left_s:.1f} s") from None
        self._answered()

    def abandon(self) -> None:
        """What waits for this engine goes elsewhere."""
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(now)

    def quiet_s(self) -> float:
        """For how long nothing has come though something was asked for; 0 without work."""
        if not self._waits:
            return 0.0
        return time.monotonic() - max(self._lived_s, min(self._waits.values()))

    def suspect(self) -> None:
        """It may hang: a probe decides."""
        if self.healthy:
            self._prove()

    async def works(self, fresh_s: float = 0.0) -> bool:
        """Whether it answered within the last seconds, or does now. An engine set aside is not asked again."""
        if not self.healthy:
            return False
        return time.monotonic() - self._lived_s < fresh_s or await asyncio.shield(self._prove())

    def failed(self, why: object, *, hung: bool = False) -> None:
        """Set aside, until a real completion works again."""
        self.metrics.failures.labels(self.url).inc()
        if not self.healthy:
            return
        log.warning("engine %s is set aside: %s", self.url, why)
        self.hung = hung
        self.verdict = asyncio.get_running_loop().create_future()
        if hung:
            self._decided()
        self._set_healthy(False)
        self._returning = asyncio.create_task(self._return(FIRST_BACK_OFF_S if hung else 0.0))

    async def aclose(self) -> None:
        tasks = [task for task in (self._proving, self._returning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.sampler.aclose()

    def _prove(self) -> asyncio.Task[bool]:
        """One at a time, shared by whoever asks."""
        if self._proving is None or self._proving.done():
            self._proving = asyncio.create_task(self._proves())
        return self._proving

    async def _proves(self) -> bool:
        try:
            await self._one_token()
        except TimeoutError:
            # A busy engine may be slow over a probe: only silence is a sign.
            if not self._waits or self.quiet_s() > self.limits.silent_s:
                self.failed(f"no token within {self.limits.probe_s:.1f} s", hung=True)
            return False
        except BackendError as error:
            self.failed(error)
            return False
        return True

    async def _one_token(self) -> None:
        async with asyncio.timeout(self.limits.probe_s):
            await self.sampler.sample(self._proof)
        self._lived_s = time.monotonic()

    async def _return(self, delay_s: float) -> None:
        while True:
            await asyncio.sleep(delay_s)
            try:
                await self._one_token()
                if self._check is not None:
                    await self._check(self.url)
            except (UsersimError, TimeoutError) as error:
                log.debug("engine %s is still away: %s", self.url, error)
                self._decided()
                delay_s = min(max(2 * delay_s, FIRST_BACK_OFF_S), LONGEST_BACK_OFF_S)
                delay_s *= random.uniform(0.8, 1.2)
            else:
                return self._back()

    def _answered(self) -> None:
        """To somebody. An engine that was set aside for one failure and goes on answering others is none to shun:
        when it is full, its probe would wait behind all of them."""
        self._lived_s = time.monotonic()
        if not self.healthy and not self.hung:
            if self._returning is not None:
                self._returning.cancel()
            self._back()

    def _back(self) -> None:
        log.warning("engine %s is back", self.url)
        self.hung = False
        self._set_healthy(True)
        self._decided()

    def _decided(self) -> None:
        if self.verdict is not None and not self.verdict.done():
            self.verdict.set_result(None)

    def _set_healthy(self, healthy: bool) -> None:
        self.healthy = healthy
        self.metrics.healthy.labels(self.url).set(healthy)
        self._changed()
