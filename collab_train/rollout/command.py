"""`usersim collab mr`: the multiturn-aware reward of candidate replies, as a table and as records.

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
from collab_train.rollout.accounting.cost import Spending, counted
from collab_train.rollout.accounting.progress import progress
from collab_train.rollout.accounting.results import Future
from collab_train.rollout.cache.cache_keys import assistant_identity, user_identity
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.cache.windows import CANDIDATES
from collab_train.rollout.engines.models import URLS, InTurns, open_assistant, open_user
from collab_train.rollout.scored import Scored, summarise
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
    """`local` (the shipped User LM), the URL of a `usersim serve`, or a run directory or model folder."""
    assistant: str = "local"
    """`local` (the base model), an OpenAI-compatible URL[#model], a model folder, or a run of `collab dpo`."""
    task: str = "hidden_facets"
    task_path: str | None = None
    """The file that the task reads, or hf:NAME, for tasks that read one (docs/tasks.md)."""
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
    exact: bool = False
    """Models of this process decode one conversation at a time: slower, but the same seed then gives
    the same words whatever else is in flight. Together, rounding depends on who is decoded with whom."""
    user_engine: str | None = None
    """URL of the vLLM behind a `usersim serve`: its /metrics say what was really prefilled. The assistant's own
    URL is asked without being told."""


def choose_contexts(config: MRConfig) -> list[Context]:
    """The contexts of the config, ready to be scored. Everything that can be wrong with them is found here."""
    contexts = _all_contexts(config)
    if unknown := set(config.ids) - {context.id for context in contexts}:
        raise ConfigError(f"ids: there is no context {', '.join(sorted(unknown))}")
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


def reward_weights(config: MRConfig) -> dict[str, float]:
    if config.rewards or config.contexts:
        return config.rewards or {"facet_coverage": 1.0}
    return dict(get_task(config.task, config.task_path).rewards)


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
        "rewards": reward_weights(config),
        "token_penalty": config.token_penalty,
        "user_turns_at_most": turns,
        "user_tokens_at_most": turns * config.user_tokens,
        "assistant_tokens_at_most": (turns + sampled) * config.assistant_tokens,
        "out": config.out,
    }


def run_mr(config: MRConfig, contexts: list[Context], run: RunDir, *, turns: int = 1) -> Scored:
    """Scores `contexts`, and the `turns` - 1 that follow the best replies, resuming what `run` already holds; writes
    results.jsonl and summary.json there."""
    scored = run_async(_score(config, contexts, run, turns))
    write_records(run.path / "results.jsonl", scored.results)
    summary = summarise(scored)
    write_json(run.path / "summary.json", summary)
    run.metric(**summary)
    return scored


async def _score(config: MRConfig, contexts: list[Context], run: RunDir, turns: int) -> Scored:
    started = time.monotonic()
    user, assistant = open_speakers(config)
    tools = rewards.open_tools(config, user)
    own = config.assistant if config.assistant.startswith(URLS) else None
    sides = Spending({"user": (counted(user), config.user_engine), "assistant": (counted(assistant), own)})
    try:
        rewards.check(contexts, config.required_rewards(reward_weights(config)), tools)
        who = await _identity(config, user.name)
        await sides.begin()
        with progress("futures", _futures(config, contexts, turns)) as bar:
            rollout = Rollout(
                user,
                assistant,
                config.model_copy(update={"rewards": reward_weights(config)}),
                journal=Journal(run.path / SAMPLES, Future),
                identity=who,
                tools=tools,
                done=bar,
            )
            candidates = Candidates(
                assistant,
                count=config.sample_candidates,
                seed=config.seed,
                gate=rollout.gate,
                journal=Journal(run.path / CANDIDATES, Candidate),
                identity=who,
                retries=config.retries,
            )
            steps = await collect(unique(contexts), rollout, candidates, turns=turns, fewer=bar.fewer)
        cost = await sides.end()
    finally:
        await tools.aclose()
        await user.aclose()
        await assistant.aclose()
    wall_s = time.monotonic() - started
    scored = Scored(steps, candidates.failed, rollout.resumed, wall_s, cost)
    _refuse_nothing(scored)
    return scored


def open_speakers(config: MRConfig) -> tuple[Any, Any]:
    user = open_user(config.user, max_tokens=config.user_tokens)
    settings = ChatSettings(temperature=config.temperature, max_tokens=config.assistant_tokens)
    assistant = open_assistant(config.assistant, settings)
    if config.exact:
        return user, assistant
    in_turns = InTurns(config.concurrency)
    return in_turns(user), in_turns(assistant)


def _futures(config: MRConfig, contexts: list[Context], turns: int) -> int:
    """At most; replies after the first of a context are always sampled."""
    first = sum(len(context.candidates) or config.sample_candidates for context in contexts)
    return (first + (turns - 1) * len(contexts) * config.sample_candidates) * config.futures


async def _identity(config: MRConfig, user_name: str) -> str:
    names = {"user", "assistant", "user_tokens", "assistant_tokens", "temperature", "exact"}
    required_rewards = config.model_dump(mode="json", include=names)
    who = [
        await user_identity(config.user, retries=config.retries),
        await assistant_identity(config.assistant, retries=config.retries),
    ]
    return json.dumps([required_rewards, user_name, who], sort_keys=True)


def _refuse_nothing(scored: Scored) -> None:
    if not scored.scored:
        raise BackendError(
            f"no candidate could be sampled; the first failure: {scored.failed_candidates[0].error}"
        )
    candidates = [c for result in scored.results for c in result.candidates]
    if all(c.mr is None for c in candidates):
        raise BackendError(f"every future failed; the first reason: {candidates[0].errors[0]}")
