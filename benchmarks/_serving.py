"""What the serving benchmarks share: the front as a process of its own, and a load that costs little itself."""

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
class Tally:
    """How requests ended. lost: neither a whole answer nor an explicit error."""

    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    """Of the answered ones."""
    moments: list[float] = field(default_factory=list)
    """When they were answered, on the monotonic clock."""

    def rate(self, began: float, ended: float) -> float:
        """Answers a second between two moments."""
        return sum(began <= moment <= ended for moment in self.moments) / (ended - began)

    def add(self, other: Tally) -> None:
        self.answered += other.answered
        self.errors += other.errors
        self.lost += other.lost
        self.milliseconds += other.milliseconds
        self.moments += other.moments

    @property
    def asked(self) -> int:
        return self.answered + self.errors.total() + self.lost.total()


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    url: str
    path: str


def front_target(url: str) -> Target:
    return Target(url, "/v1/user/turns")


def engine_target(url: str) -> Target:
    return Target(url, "/v1/completions")


@contextlib.asynccontextmanager
async def client(url: str, connections: int) -> AsyncIterator[httpx2.AsyncClient]:
    socket = url.removeprefix("unix:") if url.startswith("unix:") else None
    transport = PooledTransport(connections, idle_s=60, uds=socket, tls=False)
    base = "http://engine" if socket else url
    async with httpx2.AsyncClient(transport=transport, base_url=base, timeout=600) as made:
        yield made


async def ask(http: httpx2.AsyncClient, target: Target, body: bytes, tally: Tally) -> float | None:
    """One request into the tally. Seconds to wait before another, where the answer says so."""
    began = time.perf_counter()
    try:
        response = await http.post(target.path, content=body, headers={"content-type": "application/json"})
        answer = response.json()
    except (httpx2.HTTPError, ValueError) as error:
        tally.lost[type(error).__name__] += 1
        return None
    if response.status_code != 200:
        told = answer.get("error") if isinstance(answer, dict) else None
        code = f"{response.status_code} {told.get('code')}" if told else str(response.status_code)
        (tally.errors if told else tally.lost)[code] += 1
        return float(response.headers.get("retry-after", 1))
    tally.answered += 1
    tally.milliseconds.append(1000 * (time.perf_counter() - began))
    tally.moments.append(time.monotonic())
    return None


async def steady(
    target: Target,
    body: Callable[[int], bytes],
    *,
    engine_url: str,
    clients: int,
    warm_s: float,
    seconds: float,
) -> tuple[Tally, float]:
    """What comes back within so many seconds of a load that never pauses, and the tokens a second that the engine
    samples meanwhile by its own count: whole answers come in waves, which a window cuts anywhere. What is under way
    at the end is let go."""
    warm, counted, numbers = Tally(), Tally(), iter(range(10**9))
    until = time.monotonic() + warm_s
    async with client(target.url, clients) as http, client(engine_url, 1) as engine:

        async def one() -> None:
            while True:
                tally = Tally()
                wait_s = await ask(http, target, body(next(numbers)), tally)
                (counted if time.monotonic() > until else warm).add(tally)
                await asyncio.sleep(wait_s or 0)

        asking = [asyncio.ensure_future(one()) for _ in range(clients)]
        await asyncio.sleep(warm_s)
        before, began = await _generated(engine), time.monotonic()
        await asyncio.sleep(seconds)
        rate = (await _generated(engine) - before) / (time.monotonic() - began)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return counted, rate


async def _generated(engine: httpx2.AsyncClient) -> float:
    text = (await engine.get("/metrics")).text
    return sum(
        float(n) for n in re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", text, re.MULTILINE)
    )


async def crowd(
    target: Target,
    body: Callable[[int], bytes],
    *,
    clients: int,
    seconds: float,
    beside: Callable[[Tally], Awaitable[None]] | None = None,
) -> Tally:
    """Clients that ask again and again for so long, waiting for Retry-After where they are sent away. What is
    under way at the end may finish."""
    tally, until, numbers = Tally(), time.monotonic() + seconds, iter(range(10**9))
    async with client(target.url, clients) as http:

        async def one() -> None:
            while time.monotonic() < until:
                wait_s = await ask(http, target, body(next(numbers)), tally)
                if wait_s:
                    await asyncio.sleep(min(wait_s, max(0.0, until - time.monotonic())))

        watching = asyncio.ensure_future(beside(tally)) if beside else None
        await asyncio.gather(*(one() for _ in range(clients)))
        if watching:
            watching.cancel()
    return tally


@dataclass(frozen=True)
class Front:
    url: str
    pid: int
    said: list[str]
    """Its warnings."""

    def memory_mib(self) -> float:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE_MIB

    async def counters(self) -> dict[str, float]:
        """Sums over the labels of what came in and of its outcomes."""
        async with client(self.url, 1) as http:
            text = (await http.get("/metrics")).text
        found: dict[str, float] = {"received": 0.0}
        for line in text.splitlines():
            if line.startswith("usersim_requests_received_total"):
                found["received"] += _turns(line)
            elif outcome := re.match(r'usersim_requests_total\{outcome="(\w+)"', line):
                found[outcome[1]] = found.get(outcome[1], 0.0) + _turns(line)
        return found

    async def settled(self, timeout_s: float = 60) -> dict[str, float]:
        """The counters once every request that came in has its outcome: what a load let go of may still end."""
        until = time.monotonic() + timeout_s
        while True:
            found = await self.counters()
            if found["received"] == sum(found.get(name, 0) for name in OUTCOMES) or time.monotonic() > until:
                return found
            await asyncio.sleep(0.5)


def _turns(line: str) -> float:
    """Only the route under load: the question for the counters is a request itself."""
    return float(line.rsplit(" ", 1)[1]) if 'route="/v1/user/turns"' in line else 0.0


@contextlib.contextmanager
def front(*arguments: str) -> Iterator[Front]:
    """`usersim serve` as it is in use, its request lines read by nobody in particular."""
    command = [sys.executable, "-m", "serve", "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said: list[str] = []
    try:
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"serving at (http://\S+)", line):
                # A pipe that nobody empties would fill.
                threading.Thread(target=said.extend, args=(process.stderr,), daemon=True).start()
                said.clear()
                yield Front(found[1], process.pid, said)
                return
        raise BackendError(f"the front did not start: {''.join(said)}")
    finally:
        process.terminate()
        process.wait(60)
