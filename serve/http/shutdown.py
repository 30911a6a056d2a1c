"""Graceful shutdown: /ready fails first, then new requests are refused, then the process ends."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn


class Shutdown:
    """State of the graceful shutdown, derived from the time since it began, so that no task has to advance it.

    Args:
        delay_s: Seconds during which requests are still accepted while /ready is 503.
        timeout_s: Seconds after that for requests in flight to finish.
    """

    def __init__(self, delay_s: float, timeout_s: float) -> None:
        self.delay_s, self.timeout_s = delay_s, timeout_s
        self.in_flight = 0
        self._start_s: float | None = None

    def begin(self, *, delay: bool = True) -> None:
        if self._start_s is None:
            self._start_s = time.monotonic()
            self.delay_s = self.delay_s if delay else 0.0

    @property
    def has_begun(self) -> bool:
        return self._start_s is not None

    @property
    def refuses_requests(self) -> bool:
        return self._elapsed_s() >= self.delay_s

    @property
    def is_complete(self) -> bool:
        return self.refuses_requests and (
            not self.in_flight or self._elapsed_s() >= self.delay_s + self.timeout_s
        )

    def _elapsed_s(self) -> float:
        return -1.0 if self._start_s is None else time.monotonic() - self._start_s


class Server(uvicorn.Server):
    """uvicorn server whose first SIGTERM or Ctrl-C starts the graceful shutdown; the second ends it at once."""

    def __init__(
        self, config: uvicorn.Config, shutdown: Shutdown, *, progress: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self.shutdown_state, self._progress = shutdown, progress

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        self._progress(f"serving at http://{host}:{port} (try /docs)")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._captured_signals.append(sig)
        if self.shutdown_state.has_begun:
            self.should_exit = self.force_exit = True
        # Ctrl-C comes from a terminal: there is no load balancer to wait for.
        self.shutdown_state.begin(delay=sig == signal.SIGTERM)

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self.shutdown_state.is_complete
        return await super().on_tick(counter)
