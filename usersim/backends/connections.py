"""HTTP clients of one address, one per event loop, connected at the first request."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from usersim.backends.vllm_http import http_client


class Connections:
    """HTTP clients by event loop, since a client only works on its own loop. Can be used on any loop.

    Pickling and copying keep only the configuration. Clients of closed loops, or of the parent before a fork, are
    unused.
    """

    def __init__(self, url: str, *, timeout_s: float | None, connections: int = 512) -> None:
        self.url, self.timeout_s, self.connections = url, timeout_s, connections
        self._clients: dict[asyncio.AbstractEventLoop, tuple[httpx2.AsyncClient, str]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _connections, (self.url, self.timeout_s, self.connections)

    def here(self) -> tuple[httpx2.AsyncClient, str]:
        """Returns the client of the running event loop, and the base URL for it."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            for other in [each for each in self._clients if each.is_closed()]:
                self._clients.pop(other, None)
            self._clients[loop] = http_client(
                self.url, timeout_s=self.timeout_s, connections=self.connections
            )
        return self._clients[loop]

    async def aclose(self) -> None:
        """Closes all clients; a later request reconnects."""
        here = asyncio.get_running_loop()
        for loop in list(self._clients):
            client, _ = self._clients.pop(loop)
            if loop is here:
                await client.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(client.aclose(), loop)


def _connections(url: str, timeout_s: float | None, connections: int) -> Connections:
    return Connections(url, timeout_s=timeout_s, connections=connections)
