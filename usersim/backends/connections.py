"""HTTP clients of one address: one for each event loop that asks, connected when it asks."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from usersim.backends.vllm_http import http_client


class Connections:
    """A client belongs to the event loop that made it; this can be used on any, pickled and copied.

    Only the configuration is pickled and copied. A loop that is over, or of the parent before a fork, costs nothing.
    """

    def __init__(self, url: str, *, timeout_s: float | None, connections: int = 512) -> None:
        self.url, self.timeout_s, self.connections = url, timeout_s, connections
        self._clients: dict[asyncio.AbstractEventLoop, tuple[httpx2.AsyncClient, str]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _connections, (self.url, self.timeout_s, self.connections)

    def here(self) -> tuple[httpx2.AsyncClient, str]:
        """The client of the running event loop, and the base URL to use with it."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            for other in [each for each in self._clients if each.is_closed()]:
                self._clients.pop(other, None)
            self._clients[loop] = http_client(
                self.url, timeout_s=self.timeout_s, connections=self.connections
            )
        return self._clients[loop]

    async def aclose(self) -> None:
        """Closes every client; a later request connects anew."""
        here = asyncio.get_running_loop()
        for loop in list(self._clients):
            client, _ = self._clients.pop(loop)
            if loop is here:
                await client.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(client.aclose(), loop)


def _connections(url: str, timeout_s: float | None, connections: int) -> Connections:
    return Connections(url, timeout_s=timeout_s, connections=connections)
