"""HTTP transport over many small connection pools.

A pool of httpcore scans all of its connections for every request and every response. With hundreds of requests that
costs
more than a request itself. Small pools avoid it; each request goes to the least busy one.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from typing import cast

import httpx2

POOL_SIZE = 8
"""Connections per pool."""


class PooledTransport(httpx2.AsyncBaseTransport):
    """Transport with `connections` connections, rounded up to whole pools. Further requests wait, as in one pool."""

    def __init__(self, connections: int, *, idle_s: float, uds: str | None = None, tls: bool = True) -> None:
        self._most, self._uds = -(-connections // POOL_SIZE), uds
        self._limits = httpx2.Limits(
            max_connections=POOL_SIZE, max_keepalive_connections=POOL_SIZE, keepalive_expiry=idle_s
        )
        # Reading the certificates is the slowest step here.
        self._verify: ssl.SSLContext | bool = ssl.create_default_context() if tls else False
        self._pools: list[httpx2.AsyncHTTPTransport] = []
        self._busy: list[int] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        pool = self._pick_pool()
        self._busy[pool] += 1
        try:
            response = await self._pools[pool].handle_async_request(request)
        except BaseException:
            self._busy[pool] -= 1
            raise
        response.stream = _ReleasingStream(
            cast(httpx2.AsyncByteStream, response.stream), lambda: self._release(pool)
        )
        return response

    def _pick_pool(self) -> int:
        """Returns the index of the least busy pool, or of a new one if all are full."""
        least = min(self._busy, default=POOL_SIZE)
        if least < POOL_SIZE or len(self._pools) == self._most:
            return self._busy.index(least)
        self._pools.append(
            httpx2.AsyncHTTPTransport(
                uds=self._uds, limits=self._limits, verify=self._verify, trust_env=False
            )
        )
        self._busy.append(0)
        return len(self._pools) - 1

    def _release(self, pool: int) -> None:
        self._busy[pool] -= 1

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


class _ReleasingStream(httpx2.AsyncByteStream):
    """Response stream that calls `over` once when it is closed, read to its end or not."""

    def __init__(self, stream: httpx2.AsyncByteStream, over: Callable[[], None]) -> None:
        self._stream, self._over = stream, over

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        over, self._over = self._over, _no_op
        try:
            await self._stream.aclose()
        finally:
            over()


def _no_op() -> None:
    pass
