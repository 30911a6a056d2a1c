"""Fault test of multiturn-aware rewards: 1,000 rewards while engines are killed.

    python benchmarks/mr_kills.py --json-out docs/results/mr-kills.json

The same candidates are scored twice on two real engines, undisturbed and disturbed. In the disturbed run, the
assistant's engine gets SIGKILL after a third of the futures, the user's after two thirds. Their supervisor restarts
both. The rollout itself ends half-way and is resumed.

Exit status 1 means that a finished future changed or came twice, one was lost, or the mean reward left the interval of
the undisturbed run. A future refused by the user's guards is not lost. `paired` is the sharper comparison; its interval
excludes 0 in one sound run of twenty. Exact equality on the deterministic local models is a test of the suite
(tests/collab_train/rollout/test_resume.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

# Scripts here import the packages of the checkout.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil  # type: ignore[import-untyped]

from benchmarks._mr_engines import TEMPERATURE, USER_TOKENS, Engines, two_engines
from benchmarks.mr import CANDIDATES
from collab_train.contexts import Context
from collab_train.rollout.accounting.progress import progress
from collab_train.rollout.accounting.results import ContextMR, Future, interval, total_cost
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.simulation.rollout import RolloutConfig, multiturn_rewards
from collab_train.tasks import get_task
from serve.engine.supervisor import Engine
from usersim.api import connect
from usersim.chat_models.openai_chat import ChatSettings, HttpChat
from usersim.cli import console, emit_json, run_main


class EngineKiller:
    """Callback per finished future that kills engines at a third and two thirds, and ends the rollout half-way."""

    def __init__(self, engines: Engines, total: int) -> None:
        self.due = [(total // 3, engines.assistant), (2 * total // 3, engines.user)]
        self.stop_at: int | None = total // 2
        self.done, self.killed = 0, list[dict[str, Any]]()

    def __call__(self, future: Future) -> None:
        self.done += future.conversation is not None
        while self.due and self.done >= self.due[0][0]:
            _, engine = self.due.pop(0)
            self.killed.append(
                {"after_futures": self.done, "engine": engine.command.name, "processes": kill(engine)}
            )
            console.print(f"killed {self.killed[-1]}")
        if self.stop_at is not None and self.done >= self.stop_at:
            self.stop_at = None
            raise StoppedError


def kill(engine: Engine) -> int:
    """Sends SIGKILL to the server of an engine; returns the number of processes."""
    killed = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline() == list(engine.command.argv):
                process.send_signal(signal.SIGKILL)
                killed += 1
    return killed


class StoppedError(Exception):
    """End of the rollout, as if its process were killed; futures in flight are lost."""


def contexts_of(evaluations: int) -> list[Context]:
    """Returns the contexts for a number of rewards, one per candidate; contexts of the embedded task repeat."""
    contexts, count = get_task("hidden_facets").contexts(), evaluations // len(CANDIDATES)
    return [
        contexts[i % len(contexts)].model_copy(
            update={"id": f"{i}-{contexts[i % len(contexts)].id}", "candidates": CANDIDATES}
        )
        for i in range(count)
    ]


async def evaluate(
    engines: Engines,
    contexts: list[Context],
    config: RolloutConfig,
    path: Path,
    assistant_tokens: int,
    on_future: Callable[[Future], None] = lambda future: None,
) -> list[ContextMR]:
    user = connect(engines.api_url, timeout_s=600)
    settings = ChatSettings(temperature=TEMPERATURE, max_tokens=assistant_tokens)
    name = engines.assistant.command.name
    assistant = HttpChat(engines.assistant_url, model=name, settings=settings, timeout_s=600)
    try:
        with progress("futures", len(contexts) * len(CANDIDATES) * config.futures) as bar:

            def done(future: Future) -> None:
                bar(future)
                on_future(future)

            journal = Journal(path, Future)
            return await multiturn_rewards(contexts, user, assistant, config, journal=journal, done=done)
    finally:
        await user.aclose()
        await assistant.aclose()


async def disturbed(
    engines: Engines, contexts: list[Context], config: RolloutConfig, path: Path, assistant_tokens: int
) -> tuple[list[ContextMR], dict[str, Any]]:
    total = len(contexts) * len(CANDIDATES) * config.futures
    killer = EngineKiller(engines, total)
    try:
        await evaluate(engines, contexts, config, path, assistant_tokens, killer)
    except StoppedError:
        console.print(f"the rollout was ended after {killer.done} futures")
    journal_before = path.read_bytes()
    killer.done = 0  # the callback runs again for finished futures
    results = await evaluate(engines, contexts, config, path, assistant_tokens, killer)
    after = path.read_bytes()
    records = Journal(path, Future).read()
    finished = Counter(future.key for future in records if future.conversation is not None)
    before = [future for future in records[: journal_before.count(b"\n")] if future.conversation is not None]
    failures = Counter[str]()
    for candidate in (c for result in results for c in result.candidates):
        failures.update(candidate.failures)
    return results, {
        "kills": killer.killed,
        "restarts": [engines.user.restarts, engines.assistant.restarts],
        "futures": total,
        "finished_before_the_stop": len(before),
        "finished_byte_identical": after.startswith(journal_before),
        "simulated_twice": sum(count > 1 for count in finished.values()),
        "futures_failed": dict(failures.most_common()),
        "futures_lost": sum(n for reason, n in failures.items() if not reason.startswith("GuardError")),
        "retries": total_cost([c.cost for result in results for c in result.candidates]).retries,
    }


def paired(one: list[ContextMR], other: list[ContextMR]) -> dict[str, Any]:
    """Returns the paired difference of rewards, averaged over the candidates of a context, which share seeds."""
    differences = []
    for first, second in zip(one, other, strict=True):
        pairs = zip(first.candidates, second.candidates, strict=True)
        scored = [b.mr - a.mr for a, b in pairs if a.mr is not None and b.mr is not None]
        differences += [fmean(scored)] if scored else []
    low, high = interval(differences) or (0.0, 0.0)
    return {"difference": fmean(differences), "interval": [low, high], "contexts": len(differences)}


def mean_reward(results: list[ContextMR]) -> dict[str, Any]:
    rewards = [c.mr for result in results for c in result.candidates if c.mr is not None]
    return {"mean_mr": fmean(rewards), "interval": interval(rewards), "n": len(rewards)}


async def run(engines: Engines, args: argparse.Namespace) -> dict[str, Any]:
    contexts, tokens = contexts_of(args.evaluations), args.assistant_tokens
    config = RolloutConfig(w=args.w, n=args.n, token_penalty=1e-3, concurrency=args.concurrency)
    with tempfile.TemporaryDirectory() as folder:
        seconds = [time.monotonic()]
        plain = await evaluate(engines, contexts, config, Path(folder) / "undisturbed.jsonl", tokens)
        seconds.append(time.monotonic())
        results, figures = await disturbed(
            engines, contexts, config, Path(folder) / "disturbed.jsonl", tokens
        )
        seconds.append(time.monotonic())
    return {
        **figures,
        "evaluations": len(contexts) * len(CANDIDATES),
        "undisturbed": mean_reward(plain),
        "disturbed": mean_reward(results),
        "paired": paired(plain, results),
        "wall_s": {"undisturbed": seconds[1] - seconds[0], "disturbed": seconds[2] - seconds[1]},
        "config": {**config.model_dump(mode="json"), **_limits(args), "cores": len(os.sched_getaffinity(0))},
    }


def _limits(args: argparse.Namespace) -> dict[str, int]:
    return {"user_tokens": USER_TOKENS, "assistant_tokens": args.assistant_tokens}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 rewards")
    parser.add_argument("--evaluations", type=int, default=1000, help="rewards (default: 1000)")
    parser.add_argument("--w", type=int, default=2, help="turns of each side in a future (default: 2)")
    parser.add_argument("--n", type=int, default=3, help="futures per candidate (default: 3)")
    parser.add_argument(
        "--assistant-tokens", type=int, default=32, help="most tokens of a reply (default: 32)"
    )
    parser.add_argument("--concurrency", type=int, default=128, help="futures in flight (default: 128)")
    parser.add_argument("--json-out", metavar="FILE", help="write the result to FILE")
    args = parser.parse_args(argv)
    if args.quick:
        args.evaluations = 60
    with two_engines(eager=True, user_tokens=USER_TOKENS, keep_running=True) as engines:
        figures = asyncio.run(run(engines, args))
    emit_json(figures, stdout=args.json_out is None, path=args.json_out)
    return 0 if is_sound(figures) else 1


def is_sound(figures: dict[str, Any]) -> bool:
    low, high = figures["undisturbed"]["interval"]
    is_intact = figures["finished_byte_identical"] and not figures["simulated_twice"]
    return is_intact and not figures["futures_lost"] and low <= figures["disturbed"]["mean_mr"] <= high


if __name__ == "__main__":
    sys.exit(run_main(main))
