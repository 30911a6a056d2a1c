"""Many small pools that together behave as one."""

import asyncio
from collections import Counter

import httpx2
import pytest

from usersim.backends.connection_pools import POOL_SIZE, PooledTransport


async def _serve(held: asyncio.Event | None = None) -> tuple[asyncio.Server, str, Counter[str]]:
    """Answers, once `held` is set; counts the connections and the most requests at once."""
    seen: Counter[str] = Counter()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen["connections"] += 1
        try:
            while (await reader.readline()).startswith(b"GET"):
                while (await reader.readline()).strip():
                    pass
                seen["now"] += 1
                seen["most"] = max(seen["most"], seen["now"])
                if held:
                    await held.wait()
                seen["now"] -= 1
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", seen


async def _until(seen: Counter[str], now: int) -> None:
    async with asyncio.timeout(60):
        while seen["now"] < now:
            await asyncio.sleep(0.01)


def test_no_more_requests_at_once_than_connections_and_none_is_lost() -> None:
    async def ask() -> None:
        held = asyncio.Event()
        server, url, seen = await _serve(held)
        async with httpx2.AsyncClient(
            transport=PooledTransport(2 * POOL_SIZE, idle_s=600, tls=False), timeout=60
        ) as client:
            asking = [asyncio.ensure_future(client.get(url)) for _ in range(5 * POOL_SIZE)]
            await _until(seen, now=2 * POOL_SIZE)
            await asyncio.sleep(0.1)  # for one too many, if there were one
            held.set()
            answers = await asyncio.gather(*asking)
        assert [answer.text for answer in answers] == ["ok"] * 5 * POOL_SIZE
        assert seen["most"] == 2 * POOL_SIZE
        server.close()
        await asyncio.sleep(0.3)

    asyncio.run(ask())


def test_connections_are_used_again() -> None:
    async def ask() -> None:
        server, url, seen = await _serve()
        async with httpx2.AsyncClient(
            transport=PooledTransport(512, idle_s=600, tls=False), timeout=60
        ) as client:
            for _ in range(20):
                await client.get(url)
        assert seen["connections"] == 1
        server.close()
        await asyncio.sleep(0.3)

    asyncio.run(ask())


def test_a_request_that_fails_or_is_cancelled_leaves_its_place() -> None:
    async def ask() -> None:
        held = asyncio.Event()
        server, url, seen = await _serve(held)
        lanes = PooledTransport(POOL_SIZE, idle_s=600, tls=False)
        async with httpx2.AsyncClient(transport=lanes, timeout=60) as client:
            with pytest.raises(httpx2.ConnectError):
                await client.get("http://127.0.0.1:9/")
            asking = [asyncio.ensure_future(client.get(url)) for _ in range(POOL_SIZE)]
            await _until(seen, now=POOL_SIZE)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            held.set()
            async with client.stream("GET", url):
                pass  # not read
            assert lanes._busy == [0]
            assert (await client.get(url)).text == "ok"
        server.close()
        await asyncio.sleep(0.3)

    asyncio.run(ask())
