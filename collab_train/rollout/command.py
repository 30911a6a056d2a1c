"""`usersim collab mr`: multiturn-aware rewards of candidate replies, as a table and as records.

usersim collab mr configs/collab/mr.toml
usersim collab mr configs/collab/mr.toml ids='["travel-01"]' candidates='["Sure!", "By train or by car?"]'
"""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from pydantic import Field

from collab_train import rewards
from collab_train.contexts import Context, read_contexts
from collab_train.rollout.accounting.cost import ConversationUsage, count_usage
from collab_train.rollout.accounting.progress import progress
from collab_train.rollout.accounting.results import Future
from collab_train.rollout.cache.cache_keys import assistant_cache_key, user_cache_key
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.cache.windows import CANDIDATES
from collab_train.rollout.engines.models import URLS, InTurns, open_assistant, open_user
from collab_train.rollout.scored import ScoredRun, summarise
from collab_train.rollout.simulation.best_path import collect
from collab_train.rollout.simulation.candidates import Candidate, Candidates
from collab_train.rollout.simulation.rollout import Rollout, RolloutConfig, unique
from collab_train.tasks import get_task
from usersim.api import run as run_async
from usersim.chat_models.openai_chat import ChatSettings
from usersim.cli import tell_goals
from usersim.errors import BackendError, ConfigError
from usersim.storage.records import write_json, write_records
from usersim.storage.runs import SAMPLES, RunDir
from usersim.types import NonEmpty


class MRConfig(RolloutConfig):
    out: str = "runs/collab-mr"
    user: str = "local"
    """User: `local` (the shipped User LM), the URL of a `usersim serve`, or a run directory or model folder."""
    assistant: str = "local"
    """Assistant: `local` (the base model), an OpenAI-compatible URL[#model], a model folder, or a training run."""
    task: str = "hidden_facets"
    task_path: str | None = None
    """File of the task, or hf:NAME, for tasks that read one (docs/tasks.md)."""
    contexts: str | None = None
    """JSONL file of contexts, instead of those of the task."""
    split: Literal["train", "heldout", "all"] = "all"
    ids: tuple[str, ...] = ()
    """Ids of the contexts to use. Empty: all."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of contexts of each split, spread evenly over the file."""
    system: str | None = None
    """System prompt of the assistant, for contexts without one."""
    candidates: tuple[NonEmpty, ...] = ()
    """Replies to score in every context, instead of the contexts' own."""
    sample_candidates: int = Field(default=2, ge=1)
    """Number of replies to sample from the assistant for a context without candidates."""
    user_tokens: int = Field(default=64, ge=1)
    """Maximum tokens of a turn of a local user."""
    assistant_tokens: int = Field(default=160, ge=1)
    temperature: float = Field(default=0.8, ge=0, le=2)
    """Sampling temperature of the assistant, for candidates and in the window."""
    exact: bool = False
    """True: in-process models decode one conversation at a time. This is slower, but a seed always gives the same
    words. In a batch, rounding depends on the other conversations."""
    user_engine: str | None = None
    """URL of the vLLM behind a `usersim serve`, for its count of prefilled tokens (/metrics). The assistant's engine is
    read at its own URL."""


def choose_contexts(config: MRConfig) -> list[Context]:
    """Returns the contexts of the config, ready to be scored.

    Raises:
        UsersimError: the config or a context is wrong. All such errors are raised here, before any simulation.
    """
    contexts = _all_contexts(config)
    if unknown := set(config.ids) - {context.id for context in contexts}:
        raise ConfigError(f"ids: unknown context {', '.join(sorted(unknown))}")
    contexts = [c for c in contexts if config.split in ("all", c.split)]
    if config.ids:
        contexts = [c for c in contexts if c.id in config.ids]
    contexts = [c for split in ("train", "heldout") for c in _spread(contexts, split, config.limit)]
    if not contexts:
        raise ConfigError(f"no contexts left with split={config.split!r} and ids={list(config.ids)}")
    contexts = [_completed(context, config) for context in contexts]
    rewards.check(contexts, config.required_rewards(reward_weights(config)))
    return contexts


def _all_contexts(config: MRConfig) -> list[Context]:
    if config.contexts:
        contexts = read_contexts(config.contexts)
        with_goal = sum(context.profile.goal is not None for context in contexts)
        tell_goals(config.contexts, len(contexts), with_goal=with_goal)
        return contexts
    return get_task(config.task, config.task_path).contexts()


def _spread(contexts: list[Context], split: str, limit: int | None) -> list[Context]:
    own_contexts = [c for c in contexts if c.split == split]
    count = min(limit or len(own_contexts), len(own_contexts))
    return [own_contexts[i * len(own_contexts) // count] for i in range(count)]


def _completed(context: Context, config: MRConfig) -> Context:
    return context.model_copy(
        update={
            "system": context.system or config.system,
            "candidates": config.candidates or context.candidates,
        }
    )


def reward_weights(config: MRConfig) -> dict[str, float]:
    if config.rewards or config.contexts:
        return config.rewards or {"facet_coverage": 1.0}
    return dict(get_task(config.task, config.task_path).rewards)


def plan(config: MRConfig, contexts: list[Context]) -> dict[str, Any]:
    """Returns the size of a run. Token counts are upper bounds: turns are usually shorter, and users leave."""
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
        "rewards": reward_weights(config),
        "token_penalty": config.token_penalty,
        "user_turns_at_most": turns,
        "user_tokens_at_most": turns * config.user_tokens,
        "assistant_tokens_at_most": (turns + sampled) * config.assistant_tokens,
        "out": config.out,
    }


def run_mr(config: MRConfig, contexts: list[Context], run: RunDir, *, turns: int = 1) -> ScoredRun:
    """Scores candidate replies, resuming from `run`, and writes results.jsonl and summary.json there.

    Args:
        config: the run.
        contexts: contexts to score.
        run: run directory.
        turns: assistant turns to score along the best replies of each context.
    """
    scored = run_async(_score(config, contexts, run, turns))
    write_records(run.path / "results.jsonl", scored.results)
    summary = summarise(scored)
    write_json(run.path / "summary.json", summary)
    run.metric(**summary)
    return scored


async def _score(config: MRConfig, contexts: list[Context], run: RunDir, turns: int) -> ScoredRun:
    started = time.monotonic()
    user, assistant = open_speakers(config)
    tools = rewards.open_tools(config, user)
    assistant_engine = config.assistant if config.assistant.startswith(URLS) else None
    usage = ConversationUsage(
        {
            "user": (count_usage(user), config.user_engine),
            "assistant": (count_usage(assistant), assistant_engine),
        }
    )
    try:
        rewards.check(contexts, config.required_rewards(reward_weights(config)), tools)
        cache_key = await _cache_key(config, user.name)
        await usage.begin()
        with progress("futures", _max_futures(config, contexts, turns)) as bar:
            rollout = Rollout(
                user,
                assistant,
                config.model_copy(update={"rewards": reward_weights(config)}),
                journal=Journal(run.path / SAMPLES, Future),
                cache_key=cache_key,
                tools=tools,
                done=bar,
            )
            candidates = Candidates(
                assistant,
                count=config.sample_candidates,
                seed=config.seed,
                gate=rollout.gate,
                journal=Journal(run.path / CANDIDATES, Candidate),
                cache_key=cache_key,
                retries=config.retries,
            )
            steps = await collect(
                unique(contexts), rollout, candidates, turns=turns, reduce_total=bar.reduce_total
            )
        cost = await usage.end()
    finally:
        await tools.aclose()
        await user.aclose()
        await assistant.aclose()
    wall_s = time.monotonic() - started
    scored = ScoredRun(steps, candidates.failed, rollout.resumed, wall_s, cost)
    _require_a_reward(scored)
    return scored


def open_speakers(config: MRConfig) -> tuple[Any, Any]:
    user = open_user(config.user, max_tokens=config.user_tokens)
    settings = ChatSettings(temperature=config.temperature, max_tokens=config.assistant_tokens)
    assistant = open_assistant(config.assistant, settings)
    if config.exact:
        return user, assistant
    in_turns = InTurns(config.concurrency)
    return in_turns(user), in_turns(assistant)


def _max_futures(config: MRConfig, contexts: list[Context], turns: int) -> int:
    """Returns the maximum number of futures. Replies after the first turn are always sampled."""
    first = sum(len(context.candidates) or config.sample_candidates for context in contexts)
    return (first + (turns - 1) * len(contexts) * config.sample_candidates) * config.futures


async def _cache_key(config: MRConfig, user_name: str) -> str:
    names = {"user", "assistant", "user_tokens", "assistant_tokens", "temperature", "exact"}
    settings = config.model_dump(mode="json", include=names)
    model_keys = [
        await user_cache_key(config.user, retries=config.retries),
        await assistant_cache_key(config.assistant, retries=config.retries),
    ]
    return json.dumps([settings, user_name, model_keys], sort_keys=True)


def _require_a_reward(scored: ScoredRun) -> None:
    if not scored.scored:
        raise BackendError(
            f"no candidate could be sampled; the first error: {scored.failed_candidates[0].error}"
        )
    candidates = [c for result in scored.results for c in result.candidates]
    if all(c.mr is None for c in candidates):
        raise BackendError(f"every future failed; the first error: {candidates[0].errors[0]}")
