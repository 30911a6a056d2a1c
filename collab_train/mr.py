"""`usersim collab mr`: the multiturn-aware reward of candidate replies, as a table and as records.

usersim collab mr configs/collab/mr.toml
usersim collab mr configs/collab/mr.toml ids='["travel-01"]' candidates='["Sure!", "By train or by car?"]'
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from collab_train import rewards
from collab_train.candidates import Candidate, with_candidates
from collab_train.contexts import Context, read_contexts
from collab_train.journal import Journal
from collab_train.progress import progress
from collab_train.results import CandidateMR, ContextMR, Future, total_cost
from collab_train.rollout import RolloutConfig, multiturn_rewards, resumable
from collab_train.speakers import open_assistant, open_user
from collab_train.tasks import get_task
from usersim.api import run as run_async
from usersim.backends.chat import ChatSettings
from usersim.errors import BackendError, ConfigError
from usersim.records import write_json, write_records
from usersim.runs import RunDir
from usersim.types import NonEmpty


class MRConfig(RolloutConfig):
    out: str = "runs/collab-mr"
    user: str = "local"
    """`local` (the shipped User LM), the URL of a `usersim serve`, or a run directory or model folder."""
    assistant: str = "local"
    """`local` (the base model), an OpenAI-compatible URL[#model], a model folder, or a run of `collab dpo`."""
    task: str = "hidden_facets"
    contexts: str | None = None
    """A JSONL file of contexts instead of the task's."""
    split: Literal["train", "heldout", "all"] = "all"
    ids: tuple[str, ...] = ()
    """Only these contexts."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many contexts of each split, spread evenly over the file."""
    system: str | None = None
    """The assistant's system prompt where a context names none."""
    candidates: tuple[NonEmpty, ...] = ()
    """Replies to score in every chosen context."""
    sample_candidates: int = Field(default=2, ge=1)
    """Replies to sample from the assistant where none are given."""
    user_tokens: int = Field(default=64, ge=1)
    """Longest turn of a local user."""
    assistant_tokens: int = Field(default=160, ge=1)
    temperature: float = Field(default=0.8, ge=0, le=2)
    """The assistant's, for candidates and in the window."""


@dataclass(frozen=True)
class Scored:
    contexts: list[Context]
    """With their candidates; those for which no candidate could be sampled are missing."""
    results: list[ContextMR]
    failed_candidates: list[Candidate]
    resumed: int
    """Futures that the run directory already held."""
    wall_s: float


def choose_contexts(config: MRConfig) -> list[Context]:
    """The contexts of the config, ready to be scored. Everything that can be wrong with them is found here."""
    contexts = read_contexts(config.contexts) if config.contexts else get_task(config.task).contexts()
    if unknown := set(config.ids) - {context.id for context in contexts}:
        raise ConfigError(f"ids: there is no context {', '.join(sorted(unknown))}")
    contexts = [c for c in contexts if config.split in ("all", c.split)]
    if config.ids:
        contexts = [c for c in contexts if c.id in config.ids]
    contexts = [c for split in ("train", "heldout") for c in _spread(contexts, split, config.limit)]
    if not contexts:
        raise ConfigError(f"no contexts left with split={config.split!r} and ids={list(config.ids)}")
    contexts = [_completed(context, config) for context in contexts]
    rewards.check(contexts, _weights(config))
    return contexts


def _spread(contexts: list[Context], split: str, limit: int | None) -> list[Context]:
    listed = [c for c in contexts if c.split == split]
    take = min(limit or len(listed), len(listed))
    return [listed[i * len(listed) // take] for i in range(take)]


def _completed(context: Context, config: MRConfig) -> Context:
    return context.model_copy(
        update={
            "system": context.system or config.system,
            "candidates": config.candidates or context.candidates,
        }
    )


def _weights(config: MRConfig) -> dict[str, float]:
    if config.rewards or config.contexts:
        return config.rewards or {"facet_coverage": 1.0}
    return dict(get_task(config.task).rewards)


def plan(config: MRConfig, contexts: list[Context]) -> dict[str, Any]:
    """What a run amounts to. Token figures are upper bounds: turns are usually shorter, and users leave."""
    sampled = sum(config.sample_candidates for c in contexts if not c.candidates)
    candidates = sampled + sum(len(c.candidates) for c in contexts)
    turns = candidates * config.futures * config.w
    return {
        "contexts": len(contexts),
        "candidates": candidates,
        "candidates_to_sample": sampled,
        "futures": candidates * config.futures,
        "w": config.w,
        "n": config.futures,
        "rewards": _weights(config),
        "token_penalty": config.token_penalty,
        "user_turns_at_most": turns,
        "user_tokens_at_most": turns * config.user_tokens,
        "assistant_tokens_at_most": (turns + sampled) * config.assistant_tokens,
        "out": config.out,
    }


def run_mr(config: MRConfig, contexts: list[Context], run: RunDir) -> Scored:
    """Scores `contexts`, resuming what `run` already holds; writes results.jsonl and summary.json there."""
    scored = run_async(_score(config, contexts, run))
    write_records(run.path / "results.jsonl", scored.results)
    summary = summarise(scored)
    write_json(run.path / "summary.json", summary)
    run.metric(**summary)
    return scored


async def _score(config: MRConfig, contexts: list[Context], run: RunDir) -> Scored:
    started = time.monotonic()
    user = open_user(config.user, max_tokens=config.user_tokens)
    settings = ChatSettings(temperature=config.temperature, max_tokens=config.assistant_tokens)
    assistant = open_assistant(config.assistant, settings)
    try:
        filled, failed = await with_candidates(
            contexts,
            assistant,
            count=config.sample_candidates,
            seed=config.seed,
            concurrency=config.concurrency,
            journal=Journal(run.path / "candidates.jsonl", Candidate),
        )
        if not filled:
            raise BackendError(f"no candidate could be sampled; the first failure: {failed[0].error}")
        journal = Journal(run.path / "samples.jsonl", Future)
        identity = _identity(config, user.name)
        resumed = resumable(journal, filled, config, identity)
        total = sum(len(context.candidates) for context in filled) * config.futures
        with progress("futures", total) as bar:
            results = await multiturn_rewards(
                filled,
                user,
                assistant,
                config.model_copy(update={"rewards": _weights(config)}),
                journal=journal,
                identity=identity,
                done=bar,
            )
    finally:
        await user.aclose()
        await assistant.aclose()
    _refuse_nothing(results)
    return Scored(filled, results, failed, len(resumed), time.monotonic() - started)


def _identity(config: MRConfig, user_name: str) -> str:
    # The name of the shipped user carries the hash of its adapter: a new release must not resume old futures.
    names = {"user", "assistant", "user_tokens", "assistant_tokens", "temperature"}
    return json.dumps([config.model_dump(mode="json", include=names), user_name], sort_keys=True)


def _refuse_nothing(results: list[ContextMR]) -> None:
    candidates = [c for result in results for c in result.candidates]
    if all(c.mr is None for c in candidates):
        raise BackendError(f"every future failed; the first reason: {candidates[0].errors[0]}")


def summarise(scored: Scored) -> dict[str, Any]:
    candidates = [c for result in scored.results for c in result.candidates]
    known = [c.mr for c in candidates if c.mr is not None]
    cost = total_cost([c.cost for c in candidates])
    futures = sum(c.n + c.failed for c in candidates)
    simulated = futures - scored.resumed
    return {
        "contexts": len(scored.results),
        "candidates": len(candidates),
        "candidates_without_mr": sum(c.mr is None for c in candidates),
        "candidates_not_sampled": len(scored.failed_candidates),
        "mean_mr": fmean(known),
        "futures": futures,
        "futures_failed": sum(c.failed for c in candidates),
        "futures_resumed": scored.resumed,
        "wall_s": round(scored.wall_s, 2),
        "futures_per_minute": round(60 * simulated / scored.wall_s, 3),
        **cost.model_dump(),
    }


def best_first(result: ContextMR) -> list[CandidateMR]:
    """Candidates by falling reward; those without one last."""
    return sorted(result.candidates, key=lambda c: (c.mr is None, -(c.mr or 0.0)))
