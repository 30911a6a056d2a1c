"""Half an hour under load while an engine is killed every two minutes: is anything lost?

    python benchmarks/soak.py --json-out docs/results/soak.json

Two real engines, a core each, are supervised as `usersim serve` supervises its own. By turns the server process and
the core process of one of them gets SIGKILL. Lost is what ends neither in a whole answer nor in an explicit error.
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

# This folder holds a script of the name of a package of ours; look for that in the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil  # type: ignore[import-untyped]

from benchmarks._serving import OUTCOMES, Front, Tally, crowd, front, front_target
from benchmarks.serve import Question
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
    """The process of this engine that is to die; None while it is being started."""
    socket = engine.command.url.removeprefix("unix:")
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            if socket in line and "api_server" in " ".join(line) and "watchdog.py" not in " ".join(line):
                cores = [child for child in process.children() if "EngineCore" in child.name()]
                return (cores[0] if cores else None) if core else process
    return None


async def kill_by_turns(engines: list[Engine], every_s: float, killed: list[dict[str, Any]]) -> None:
    began = time.monotonic()
    for number in range(10**6):
        await asyncio.sleep(began + (number + 1) * every_s - time.monotonic())
        engine, core = engines[number % len(engines)], number % 4 >= 2
        found = victim(engine, core=core)
        if found is not None:
            found.send_signal(signal.SIGKILL)
        what = ("core" if core else "server") if found else "nothing: it is away"
        killed.append({"s": round(time.monotonic() - began), "engine": number % len(engines), "killed": what})
        console.print(f"{killed[-1]}")


async def soak(served: Front, engines: list[Engine], args: argparse.Namespace) -> dict[str, Any]:
    killed, memory, before = list[dict[str, Any]](), list[float](), await served.settled()

    async def beside(tally: Tally) -> None:
        killing = asyncio.ensure_future(kill_by_turns(engines, args.kill_every_s, killed))
        try:
            while True:
                await asyncio.sleep(10)
                memory.append(served.memory_mib())
                refused, lost = tally.errors.total(), tally.lost.total()
                console.print(
                    f"{tally.answered} answered, {refused} errors, {lost} lost, {memory[-1]:.0f} MiB"
                )
        finally:
            killing.cancel()

    began = time.monotonic()
    tally = await crowd(
        front_target(served.url),
        lambda index: Question(index, 24).to_front(),
        clients=args.clients,
        seconds=args.minutes * 60,
        beside=beside,
    )
    seconds, after = time.monotonic() - began, await served.settled()
    grown = {name: after.get(name, 0) - before.get(name, 0) for name in after}
    quarter = max(1, len(memory) // 4)
    return {
        "asked": tally.asked,
        "answered": tally.answered,
        "completed_share": tally.answered / tally.asked,
        "errors": dict(tally.errors),
        "lost": dict(tally.lost),
        "turns_per_minute": 60 * tally.answered / seconds,
        "turn_ms_p50": statistics.median(tally.milliseconds),
        "turn_ms_p99": statistics.quantiles(tally.milliseconds, n=100)[98],
        "seconds": seconds,
        "kills": killed,
        "restarts": [engine.restarts for engine in engines],
        "counters": grown,
        "counters_balance": grown["received"] == tally.asked
        and grown["received"] == sum(grown.get(name, 0) for name in OUTCOMES),
        "memory_mib_by_quarter": [
            statistics.median(memory[start : start + quarter]) for start in range(0, 4 * quarter, quarter)
        ],
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three minutes, two kills")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kill-every-s", type=float, default=120)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--json-out")
    args = parser.parse_args(argv)
    if args.quick:
        args.minutes, args.kill_every_s = 3.0, 70.0
    model, cores = resolve(None), sorted(os.sched_getaffinity(0))
    with supervised(model, cores[:1]) as first, supervised(model, cores[-1:]) as second:
        engines = [first, second]
        urls = [part for engine in engines for part in ("--engine-url", engine.command.url)]
        with front("--model", str(model), *urls) as served:
            figures = asyncio.run(soak(served, engines, args))
    config = {"minutes": args.minutes, "kill_every_s": args.kill_every_s, "clients": args.clients}
    figures["config"] = config | {"model": model.name, "cores": len(cores), "tokens": 24}
    emit_json(figures, stdout=args.json_out is None, path=args.json_out)
    return 1 if figures["lost"] or not figures["counters_balance"] else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
