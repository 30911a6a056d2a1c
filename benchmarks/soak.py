"""Fault test of the API server: half an hour under load while an engine is killed every two minutes.

    python benchmarks/soak.py --json-out docs/results/soak.json

Two real engines, a core each, are supervised as by `usersim serve`. In turn, the server process or the core process
of one of them gets SIGKILL. A request is lost if it gets neither a complete answer nor an explicit error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# A script here has the name of a package; import that from the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil  # type: ignore[import-untyped]

from benchmarks._serving import OUTCOMES, ApiServer, LoadCounts, api_server, api_target, closed_loop_load
from benchmarks.serve import LoadRequest
from serve.config import EngineSettings
from serve.engine.address import private_socket
from serve.engine.command import engine_command
from serve.engine.supervisor import Engine
from usersim.cli import console, emit_json, run_main
from usersim.rendering.renderer import Renderer
from usersim.weights.default_model import resolve


@contextlib.contextmanager
def supervised(model: Path, cores: list[int]) -> Iterator[Engine]:
    window = Renderer.from_pretrained(model).settings.context_tokens
    settings = EngineSettings(eager=True, cores=tuple(cores), max_model_len=window)
    with private_socket() as path:
        command = engine_command(model, settings, listen=path)
        with Engine.from_settings(command, settings, progress=lambda _: None) as engine:
            engine.start()
            engine.supervise()
            yield engine


def victim(engine: Engine, *, core: bool) -> psutil.Process | None:
    """Returns the process to kill, the server or core process of an engine; None during its start."""
    socket = engine.command.url.removeprefix("unix:")
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if socket in line and "api_server" in " ".join(line) and "watchdog.py" not in " ".join(line):
                cores = [child for child in process.children() if "EngineCore" in child.name()]
                return (cores[0] if cores else None) if core else process
    return None


async def kill_by_turns(engines: list[Engine], every_s: float, killed: list[dict[str, Any]]) -> None:
    started = time.monotonic()
    for number in range(10**6):
        await asyncio.sleep(started + (number + 1) * every_s - time.monotonic())
        engine, core = engines[number % len(engines)], number % 4 >= 2
        process = victim(engine, core=core)
        if process is not None:
            process.send_signal(signal.SIGKILL)
        target = ("core" if core else "server") if process else "nothing: it is away"
        killed.append(
            {"s": round(time.monotonic() - started), "engine": number % len(engines), "killed": target}
        )
        console.print(f"{killed[-1]}")


async def soak(server: ApiServer, engines: list[Engine], args: argparse.Namespace) -> dict[str, Any]:
    killed, memory, before = list[dict[str, Any]](), list[float](), await server.settled()

    async def observe(tally: LoadCounts) -> None:
        killing = asyncio.ensure_future(kill_by_turns(engines, args.kill_every_s, killed))
        try:
            while True:
                await asyncio.sleep(10)
                memory.append(server.memory_mib())
                refused, lost = tally.errors.total(), tally.lost.total()
                console.print(
                    f"{tally.answered} answered, {refused} errors, {lost} lost, {memory[-1]:.0f} MiB"
                )
        finally:
            killing.cancel()

    began = time.monotonic()
    tally = await closed_loop_load(
        api_target(server.url),
        lambda index: LoadRequest(index, 24).to_api_server(),
        clients=args.clients,
        seconds=args.minutes * 60,
        observe=observe,
    )
    seconds, after = time.monotonic() - began, await server.settled()
    increase = {name: after.get(name, 0) - before.get(name, 0) for name in after}
    quarter = max(1, len(memory) // 4)
    return {
        "asked": tally.sent,
        "answered": tally.answered,
        "completed_share": tally.answered / tally.sent,
        "errors": dict(tally.errors),
        "lost": dict(tally.lost),
        "turns_per_minute": 60 * tally.answered / seconds,
        "turn_ms_p50": statistics.median(tally.milliseconds),
        "turn_ms_p99": statistics.quantiles(tally.milliseconds, n=100)[98],
        "seconds": seconds,
        "kills": killed,
        "restarts": [engine.restarts for engine in engines],
        "counters": increase,
        "counters_balance": increase["received"] == tally.sent
        and increase["received"] == sum(increase.get(name, 0) for name in OUTCOMES),
        "memory_mib_by_quarter": [
            statistics.median(memory[start : start + quarter]) for start in range(0, 4 * quarter, quarter)
        ],
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three minutes, two kills")
    parser.add_argument("--minutes", type=float, default=30, help="length in minutes (default: 30)")
    parser.add_argument(
        "--kill-every-s", type=float, default=120, help="seconds between kills (default: 120)"
    )
    parser.add_argument("--clients", type=int, default=24, help="concurrent clients (default: 24)")
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    args = parser.parse_args(argv)
    if args.quick:
        args.minutes, args.kill_every_s = 3.0, 70.0
    model, cores = resolve(None), sorted(os.sched_getaffinity(0))
    with supervised(model, cores[:1]) as first, supervised(model, cores[-1:]) as second:
        engines = [first, second]
        urls = [part for engine in engines for part in ("--engine-url", engine.command.url)]
        with api_server("--model", str(model), *urls) as server:
            figures = asyncio.run(soak(server, engines, args))
    config = {"minutes": args.minutes, "kill_every_s": args.kill_every_s, "clients": args.clients}
    figures["config"] = config | {"model": model.name, "cores": len(cores), "tokens": 24}
    emit_json(figures, stdout=args.json_out is None, path=args.json_out)
    return 1 if figures["lost"] or not figures["counters_balance"] else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
