"""1,000 multiturn-aware rewards while engines are killed: is anything lost, changed or computed twice?

    python benchmarks/mr_kills.py --json-out docs/results/mr-kills.json

The same candidates twice against two real engines: undisturbed, and disturbed. Then the assistant's engine gets
SIGKILL after a third of the futures, the user's after two thirds (both are started again by their supervisor), and
the rollout itself ends in between and is resumed. Exit status 1 if a finished future changed or came twice, one was
lost (refused by the user's guards is not lost), or the mean reward leaves the undisturbed run's interval; `paired` is
the sharper comparison, whose own interval leaves out 0 in one sound run of twenty. Exact equality on the
deterministic local models is a test of the suite (tests/collab_train/rollout/test_resume.py).
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

# This folder is no package; look for our own beside it.
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


class Kills:
    """Called with every finished future; kills at a third and two thirds, and ends the rollout half-way."""

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
    """SIGKILL to the engine's server; how many processes that were."""
    found = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline() == list(engine.command.argv):
                process.send_signal(signal.SIGKILL)
                found += 1
    return found


class StoppedError(Exception):
    """The rollout ends here, as when its process is killed: what is in flight is lost."""


def contexts_of(evaluations: int) -> list[Context]:
    """Rewards are of candidates: half as many contexts, each of the embedded task as often as needed."""
    listed, wanted = get_task("hidden_facets").contexts(), evaluations // len(CANDIDATES)
    return [
        listed[i % len(listed)].model_copy(
            update={"id": f"{i}-{listed[i % len(listed)].id}", "candidates": CANDIDATES}
        )
        for i in range(wanted)
    ]


async def evaluate(
    engines: Engines,
    contexts: list[Context],
    config: RolloutConfig,
    path: Path,
    assistant_tokens: int,
    seen: Callable[[Future], None] = lambda future: None,
) -> list[ContextMR]:
    user = connect(engines.front_url, timeout_s=600)
    settings = ChatSettings(temperature=TEMPERATURE, max_tokens=assistant_tokens)
    name = engines.assistant.command.name
    assistant = HttpChat(engines.assistant_url, model=name, settings=settings, timeout_s=600)
    try:
        with progress("futures", len(contexts) * len(CANDIDATES) * config.futures) as bar:

            def done(future: Future) -> None:
                bar(future)
                seen(future)

            journal = Journal(path, Future)
            return await multiturn_rewards(contexts, user, assistant, config, journal=journal, done=done)
    finally:
        await user.aclose()
        await assistant.aclose()


async def disturbed(
    engines: Engines, contexts: list[Context], config: RolloutConfig, path: Path, assistant_tokens: int
) -> tuple[list[ContextMR], dict[str, Any]]:
    total = len(contexts) * len(CANDIDATES) * config.futures
    kills = Kills(engines, total)
    try:
        await evaluate(engines, contexts, config, path, assistant_tokens, kills)
    except StoppedError:
        console.print(f"the rollout was ended after {kills.done} futures")
    kept = path.read_bytes()
    kills.done = 0  # those that were finished are told of again
    results = await evaluate(engines, contexts, config, path, assistant_tokens, kills)
    after = path.read_bytes()
    records = Journal(path, Future).read()
    finished = Counter(future.key for future in records if future.conversation is not None)
    before = [future for future in records[: kept.count(b"\n")] if future.conversation is not None]
    failures = Counter[str]()
    for candidate in (c for result in results for c in result.candidates):
        failures.update(candidate.failures)
    return results, {
        "kills": kills.killed,
        "restarts": [engines.user.restarts, engines.assistant.restarts],
        "futures": total,
        "finished_before_the_stop": len(before),
        "finished_byte_identical": after.startswith(kept),
        "simulated_twice": sum(count > 1 for count in finished.values()),
        "futures_failed": dict(failures.most_common()),
        "futures_lost": sum(n for why, n in failures.items() if not why.startswith("GuardError")),
        "retries": total_cost([c.cost for result in results for c in result.candidates]).retries,
    }


def paired(one: list[ContextMR], other: list[ContextMR]) -> dict[str, Any]:
    """Difference of the rewards, averaged over the candidates of a context: they share seeds."""
    differences = []
    for first, second in zip(one, other, strict=True):
        pairs = zip(first.candidates, second.candidates, strict=True)
        known = [b.mr - a.mr for a, b in pairs if a.mr is not None and b.mr is not None]
        differences += [fmean(known)] if known else []
    low, high = interval(differences) or (0.0, 0.0)
    return {"difference": fmean(differences), "interval": [low, high], "contexts": len(differences)}


def mean(results: list[ContextMR]) -> dict[str, Any]:
    known = [c.mr for result in results for c in result.candidates if c.mr is not None]
    return {"mean_mr": fmean(known), "interval": interval(known), "n": len(known)}


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
        "undisturbed": mean(plain),
        "disturbed": mean(results),
        "paired": paired(plain, results),
        "wall_s": {"undisturbed": seconds[1] - seconds[0], "disturbed": seconds[2] - seconds[1]},
        "config": {**config.model_dump(mode="json"), **_limits(args), "cores": len(os.sched_getaffinity(0))},
    }


def _limits(args: argparse.Namespace) -> dict[str, int]:
    return {"user_tokens": USER_TOKENS, "assistant_tokens": args.assistant_tokens}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="60 rewards")
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--w", type=int, default=2)
    parser.add_argument("--n", type=int, default=3)
    parser.add_argument("--assistant-tokens", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--json-out", metavar="FILE")
    args = parser.parse_args(argv)
    if args.quick:
        args.evaluations = 60
    with two_engines(eager=True, user_tokens=USER_TOKENS, keep_running=True) as engines:
        figures = asyncio.run(run(engines, args))
    emit_json(figures, stdout=args.json_out is None, path=args.json_out)
    return 0 if sound(figures) else 1


def sound(figures: dict[str, Any]) -> bool:
    low, high = figures["undisturbed"]["interval"]
    kept = figures["finished_byte_identical"] and not figures["simulated_twice"]
    return kept and not figures["futures_lost"] and low <= figures["disturbed"]["mean_mr"] <= high


if __name__ == "__main__":
    sys.exit(run_main(main))
