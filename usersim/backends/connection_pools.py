"""Many small connection pools behind one client.

A pool of httpcore looks at all of its connections for every request and once more for every answer: with hundreds
under way that costs more than the request itself. A lane holds few, and the least busy one is taken.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from typing import cast

import httpx2

LANE = 8
"""Connections."""


class Lanes(httpx2.AsyncBaseTransport):
    """As many connections as asked for, rounded up to whole lanes; further requests wait, as in one pool."""

    def __init__(self, connections: int, *, idle_s: float, uds: str | None = None, tls: bool = True) -> None:
        self._most, self._uds = -(-connections // LANE), uds
        self._limits = httpx2.Limits(
            max_connections=LANE, max_keepalive_connections=LANE, keepalive_expiry=idle_s
        )
        # Reading the certificates takes longer than everything else here.
        self._verify: ssl.SSLContext | bool = ssl.create_default_context() if tls else False
        self._pools: list[httpx2.AsyncHTTPTransport] = []
        self._busy: list[int] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        lane = self._lane()
        self._busy[lane] += 1
        try:
            response = await self._pools[lane].handle_async_request(request)
        except BaseException:
            self._busy[lane] -= 1
            raise
        response.stream = _Released(cast(httpx2.AsyncByteStream, response.stream), lambda: self._leave(lane))
        return response

    def _lane(self) -> int:
        """The least busy one; a new one when all are full."""
        least = min(self._busy, default=LANE)
        if least < LANE or len(self._pools) == self._most:
            return self._busy.index(least)
        self._pools.append(
            httpx2.AsyncHTTPTransport(
                uds=self._uds, limits=self._limits, verify=self._verify, trust_env=False
            )
        )
        self._busy.append(0)
        return len(self._pools) - 1

    def _leave(self, lane: int) -> None:
        self._busy[lane] -= 1

    async def aclose(self) -> None:
        for pool in self._pools:
            await pool.aclose()


class _Released(httpx2.AsyncByteStream):
    """Tells once that the answer is over, read to its end or not."""

    def __init__(self, stream: httpx2.AsyncByteStream, over: Callable[[], None]) -> None:
        self._stream, self._over = stream, over

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.__aiter__()

    async def aclose(self) -> None:
        over, self._over = self._over, _nothing
        try:
            await self._stream.aclose()
        finally:
            over()


def _nothing() -> None:
    pass
