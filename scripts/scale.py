"""`make test-scale`: load test of one API server over two real engines, directly and through vllm-router.

It runs the same turns three times: over both engines, over both while one is killed, and over vllm-router. It prints
the
number of turns per engine. Exit status 1 if a turn was lost or an engine was idle.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2

from usersim.cli import console, emit_json, run_main
from usersim.errors import BackendError, ConfigError, UsersimError
from usersim.remote.async_client import RemoteUser
from usersim.types import Turn
from usersim.users.protocols import Sampling, as_profile

GOALS = ("plan a cheap weekend trip", "write a cover letter", "understand tax brackets", "fix a leaking tap")
SERVED = re.compile(r"^vllm:request_success_total\{.*\} ([0-9.e+]+)$", re.MULTILINE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], ready: str, *, timeout_s: float = 300) -> Iterator[subprocess.Popen[str]]:
    """Runs a process until the block ends, after it answers 200 at `ready`. Then ends it and its children."""
    process = subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        began = time.monotonic()
        while not answers(ready):
            if process.poll() is not None or time.monotonic() - began > timeout_s:
                raise BackendError(f"{' '.join(argv[:4])} …: did not start (exit {process.poll()})")
            time.sleep(0.3)
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=15).status_code == 200
    except httpx2.HTTPError:
        return False


def engine(port: int, core: int) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    argv = [sys.executable, "-m", "serve.engine", "--model", "userlm-135m", "--port", str(port)]
    return running([*argv, "--cores", str(core), "eager=true"], f"http://127.0.0.1:{port}/health")


def front(urls: list[str], port: int) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    chosen = [part for url in urls for part in ("--engine-url", url)]
    argv = [sys.executable, "-m", "serve", "--port", str(port), *chosen]
    return running(argv, f"http://127.0.0.1:{port}/ready")


async def talk(url: str, chats: int, turns: int) -> Counter[str]:
    """Runs `chats` conversations at once, `turns` user turns each, with an assistant that asks questions."""
    user, tally = RemoteUser(url, timeout_s=300, max_retries=0), Counter[str]()

    async def chat(index: int) -> None:
        profile, history = as_profile(GOALS[index % len(GOALS)]), list[Turn]()
        for number in range(turns):
            try:
                turn = (
                    await user.sample(
                        profile, history, seed=100 * index + number, sampling=Sampling(max_tokens=24)
                    )
                )[0]
            except BackendError as error:
                tally["explicit errors" if "HTTP" in str(error) else "lost"] += 1
                return
            except UsersimError:
                tally["explicit errors"] += 1
                return
            tally["answered"] += 1
            if turn.ends:
                return
            question = Turn(role="assistant", text=f"I see. Could you tell me more about point {number}?")
            history += [Turn(role="user", text=turn.text), question]

    try:
        await asyncio.gather(*(chat(index) for index in range(chats)))
    finally:
        await user.aclose()
    return tally


def served(ports: list[int]) -> list[float]:
    """Returns the number of finished requests per engine; 0 for a stopped one."""
    counts = []
    for port in ports:
        try:
            text = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=15).text
        except httpx2.HTTPError:
            text = ""
        counts.append(sum(float(value) for value in SERVED.findall(text)))
    return counts


def arm(name: str, urls: list[str], engines: list[int], *, chats: int, turns: int) -> dict[str, Any]:
    before, port = served(engines), free_port()
    with front(urls, port):
        began = time.monotonic()
        tally = asyncio.run(talk(f"http://127.0.0.1:{port}", chats, turns))
        seconds = time.monotonic() - began
    each = [after - earlier for after, earlier in zip(served(engines), before, strict=True)]
    console.print(f"{name}: {dict(tally)}, by engine {each}, {seconds:.1f} s")
    return {**tally, "by_engine": each, "seconds": round(seconds, 1)}


def killed(urls: list[str], victim: subprocess.Popen[str], *, chats: int, turns: int) -> dict[str, Any]:
    """Runs the same load; one engine is killed by SIGKILL after a second."""
    port = free_port()

    async def load() -> Counter[str]:
        async def kill() -> None:
            await asyncio.sleep(1)
            os.killpg(victim.pid, signal.SIGKILL)

        tally, _ = await asyncio.gather(talk(f"http://127.0.0.1:{port}", chats, turns), kill())
        return tally

    with front(urls, port):
        tally = asyncio.run(load())
    console.print(f"one engine killed: {dict(tally)}")
    return dict(tally)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--router",
        default=".venv-router/bin/vllm-router",
        help="command of the router (default: .venv-router/bin/vllm-router)",
    )
    parser.add_argument("--chats", type=int, default=24)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json-out")
    args = parser.parse_args(argv)
    if shutil.which(args.router) is None:
        raise ConfigError(f"{args.router}: no such command; `make test-scale` installs it")
    size = {"chats": args.chats, "turns": args.turns}
    ports, router = [free_port(), free_port()], free_port()
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    routing = [args.router, "--worker-urls", *urls, "--host", "127.0.0.1", "--port", str(router)]
    routing += ["--policy", "round_robin", "--disable-retries", "--prometheus-port", str(free_port())]
    with engine(ports[0], 0), engine(ports[1], min(1, (os.cpu_count() or 1) - 1)) as second:
        results: dict[str, Any] = {"two_engines": arm("two engines", urls, ports, **size)}
        with running(routing, f"http://127.0.0.1:{router}/health"):
            results["router"] = arm("vllm-router", [f"http://127.0.0.1:{router}"], ports, **size)
        results["one_killed"] = killed(urls, second, **size)
    emit_json(results | size, stdout=args.json_out is None, path=args.json_out)
    idle = any(0 in results[name]["by_engine"] for name in ("two_engines", "router"))
    return 1 if idle or any(result.get("lost") for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
