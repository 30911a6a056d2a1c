"""Shared parts of the serving benchmarks: the API server as a separate process, and a load generator."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from usersim.backends.connection_pools import PooledTransport
from usersim.errors import BackendError

PAGE_MIB = 4096 / 2**20
OUTCOMES = ("ok", "refused", "failed", "cancelled")


@dataclass
class LoadCounts:
    """Outcomes of requests. `lost` counts those with neither a complete answer nor an explicit error."""

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    """Latencies of the answered requests."""
    moments: list[float] = field(default_factory=list)
    """Times of the answers on the monotonic clock."""

    def rate(self, start: float, end: float) -> float:
        """Returns the answers per second between two times."""
        return sum(start <= moment <= end for moment in self.moments) / (end - start)

    def add(self, other: LoadCounts) -> None:
        self.answered += other.answered
        self.errors += other.errors
        self.lost += other.lost
        self.milliseconds += other.milliseconds
        self.moments += other.moments

    @property
    def sent(self) -> int:
        return self.answered + self.errors.total() + self.lost.total()


@dataclass(frozen=True)
class Target:
    """URL and path of the requests."""

    url: str
    path: str


def api_target(url: str) -> Target:
    return Target(url, "/v1/user/turns")


def engine_target(url: str) -> Target:
    return Target(url, "/v1/completions")


@contextlib.asynccontextmanager
async def client(url: str, connections: int) -> AsyncIterator[httpx2.AsyncClient]:
    socket = url.removeprefix("unix:") if url.startswith("unix:") else None
    transport = PooledTransport(connections, idle_s=60, uds=socket, tls=False)
    base = "http://engine" if socket else url
    async with httpx2.AsyncClient(transport=transport, base_url=base, timeout=600) as http:
        yield http


async def ask(http: httpx2.AsyncClient, target: Target, body: bytes, tally: LoadCounts) -> float | None:
    """Sends one request and counts it; returns the seconds to wait before the next, if the answer states them."""
    began = time.perf_counter()
    try:
        response = await http.post(target.path, content=body, headers={"content-type": "application/json"})
        answer = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        tally.lost[type(error).__name__] += 1
        return None
    if response.status_code != 200:
        error_body = answer.get("error") if isinstance(answer, dict) else None
        code = f"{response.status_code} {error_body.get('code')}" if error_body else str(response.status_code)
        (tally.errors if error_body else tally.lost)[code] += 1
        return float(response.headers.get("retry-after", 1))
    tally.answered += 1
    tally.milliseconds.append(1000 * (time.perf_counter() - began))
    tally.moments.append(time.monotonic())
    return None


async def steady_load(
    target: Target,
    body: Callable[[int], bytes],
    *,
    engine_url: str,
    clients: int,
    warm_s: float,
    seconds: float,
) -> tuple[LoadCounts, float]:
    """Measures a constant load within a window.

    The token rate comes from the engine's own counter: complete answers arrive in waves that a window cuts. Requests in
    flight at the end are cancelled.

    Returns:
        Outcomes within the window, and generated tokens per second.
    """
    warm, measured, numbers = LoadCounts(), LoadCounts(), iter(range(10**9))
    window_start = time.monotonic() + warm_s
    async with client(target.url, clients) as http, client(engine_url, 1) as engine:

        async def send_requests() -> None:
            while True:
                tally = LoadCounts()
                wait_s = await ask(http, target, body(next(numbers)), tally)
                (measured if time.monotonic() > window_start else warm).add(tally)
                await asyncio.sleep(wait_s or 0)

        tasks = [asyncio.ensure_future(send_requests()) for _ in range(clients)]
        await asyncio.sleep(warm_s)
        before, began = await _generated(engine), time.monotonic()
        await asyncio.sleep(seconds)
        rate = (await _generated(engine) - before) / (time.monotonic() - began)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return measured, rate


async def _generated(engine: httpx2.AsyncClient) -> float:
    text = (await engine.get("/metrics")).text
    return sum(
        float(n) for n in re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", text, re.MULTILINE)
    )


async def closed_loop_load(
    target: Target,
    body: Callable[[int], bytes],
    *,
    clients: int,
    seconds: float,
    observe: Callable[[LoadCounts], Awaitable[None]] | None = None,
) -> LoadCounts:
    """Runs clients that send requests for `seconds` and honour Retry-After; requests in flight may finish."""
    tally, end, numbers = LoadCounts(), time.monotonic() + seconds, iter(range(10**9))
    async with client(target.url, clients) as http:

        async def send_requests() -> None:
            while time.monotonic() < end:
                wait_s = await ask(http, target, body(next(numbers)), tally)
                if wait_s:
                    await asyncio.sleep(min(wait_s, max(0.0, end - time.monotonic())))

        observer = asyncio.ensure_future(observe(tally)) if observe else None
        await asyncio.gather(*(send_requests() for _ in range(clients)))
        if observer:
            observer.cancel()
    return tally


@dataclass(frozen=True)
class ApiServer:
    url: str
    pid: int
    warnings: list[str]
    """Log lines after the start; only warnings are logged."""

    def memory_mib(self) -> float:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_MIB

    async def counters(self) -> dict[str, float]:
        """Returns received requests and their outcomes, summed over labels."""
        async with client(self.url, 1) as http:
            text = (await http.get("/metrics")).text
        counts: dict[str, float] = {"received": 0.0}
        for line in text.splitlines():
            if line.startswith("usersim_requests_received_total"):
                counts["received"] += _turns(line)
            elif outcome := re.match(r'usersim_requests_total\{outcome="(\w+)"', line):
                counts[outcome[1]] = counts.get(outcome[1], 0.0) + _turns(line)
        return counts

    async def settled(self, timeout_s: float = 60) -> dict[str, float]:
        """Returns the counters once every received request has an outcome; cancelled ones may still be running."""
        deadline = time.monotonic() + timeout_s
        while True:
            counts = await self.counters()
            if (
                counts["received"] == sum(counts.get(name, 0) for name in OUTCOMES)
                or time.monotonic() > deadline
            ):
                return counts
            await asyncio.sleep(0.5)


def _turns(line: str) -> float:
    """Returns the value of a counter line for the route under load, else 0."""
    return float(line.rsplit(" ", 1)[1]) if 'route="/v1/user/turns"' in line else 0.0


@contextlib.contextmanager
def api_server(*arguments: str) -> Iterator[ApiServer]:
    """Runs `usersim serve` in a process of its own."""
    command = [sys.executable, "-m", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log_lines: list[str] = []
    try:
        for line in process.stderr:
            log_lines.append(line)
            if address := re.search(r"serving at (http://\S+)", line):
                # An unread pipe would fill up and block the server.
                threading.Thread(target=log_lines.extend, args=(process.stderr,), daemon=True).start()
                log_lines.clear()
                yield ApiServer(address[1], process.pid, log_lines)
                return
        raise BackendError(f"the API server did not start: {''.join(log_lines)}")
    finally:
        process.terminate()
        process.wait(60)
