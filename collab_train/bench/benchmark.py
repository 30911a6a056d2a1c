"""Benchmark of assistants: lists the conversations, simulates them, scores them and builds the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain
from typing import Any

from collab_train import rewards
from collab_train.bench import ablation
from collab_train.bench.conditions import (
    AssistantSpec,
    BenchConfig,
    Part,
    missing,
    playing,
)
from collab_train.bench.measures.cells import BenchCell, ScoredConversation, cells
from collab_train.bench.measures.conversation_measures import Measures, measure
from collab_train.bench.play import ConversationJob, Played
from collab_train.bench.single_replies import generalise, safety
from collab_train.bench.stage import JobResult, Speakers, play_conversations
from collab_train.contexts import Context
from collab_train.rewards import Episode, Tools
from collab_train.rewards.registry import find
from collab_train.rollout.accounting.progress import progress
from collab_train.rollout.accounting.results import total_cost
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.simulation.futures import error_text
from collab_train.rollout.simulation.gather import gather
from collab_train.rollout.simulation.rollout import unique
from usersim.api import run as run_async
from usersim.errors import BackendError, ConfigError, UsersimError
from usersim.storage.runs import RunDir

Jobs = dict[Part, list[ConversationJob]]


def jobs_of(config: BenchConfig, parts: Sequence[Part]) -> Jobs:
    """Returns the conversations of each part.

    Raises:
        UsersimError: a task or a file of the config is wrong. All such errors are raised here, before any simulation.
    """
    jobs: Jobs = {}
    if {"table", "ablation"} & set(parts):
        tasks = {task.name: list(unique(task.heldout())) for task in config.tasks}
    if "table" in parts:
        jobs["table"] = _conversations(config, config.assistants, tasks)
    if "ablation" in parts:
        jobs["ablation"] = _conversations(config, _ablated(config), tasks)
    if "clarify" in parts:
        assert config.clarify is not None
        jobs["clarify"] = _replies(config, generalise.TASK, generalise.contexts(config.clarify))
    if "safety" in parts:
        assert config.safety is not None
        jobs["safety"] = _replies(config, safety.TASK, safety.contexts(config.safety))
    return jobs


def _ablated(config: BenchConfig) -> tuple[AssistantSpec, ...]:
    """Trained assistants, after the references that they are compared with."""
    assert config.ablation is not None
    references = (spec for spec in config.assistants if spec.name in config.compared)
    return (*references, *ablation.specs(config.ablation))


def _conversations(
    config: BenchConfig, assistants: Sequence[AssistantSpec], tasks: dict[str, list[Context]]
) -> list[ConversationJob]:
    return [
        ConversationJob(task, assistant, user, context, index)
        for task, contexts in tasks.items()
        for user in config.users
        for assistant in assistants
        for context in contexts
        for index in range(config.repeats)
    ]


def _replies(config: BenchConfig, task: str, contexts: Sequence[Context]) -> list[ConversationJob]:
    return [
        ConversationJob(task, assistant, None, context)
        for assistant in config.assistants
        for context in contexts
    ]


def plan(config: BenchConfig, jobs: Jobs) -> dict[str, Any]:
    """Returns the size of a run. Token counts are upper bounds and ignore results already in the run directory."""
    all_jobs = list(chain.from_iterable(jobs.values()))
    turns = sum(config.turns for job in all_jobs if job.user)
    return {
        "assistants": [spec.name for spec in config.assistants],
        "users": [user.name for user in config.users],
        "conversations": {part: len(part_jobs) for part, part_jobs in jobs.items()},
        "user_turns_at_most": turns,
        "user_tokens_at_most": turns * config.user_tokens,
        "assistant_tokens_at_most": (turns + len(all_jobs)) * config.assistant_tokens,
        "not_there": missing(_specs(jobs)),
        "ablation_commands": ablation.commands(config.ablation, config.tasks[0].name)
        if config.ablation and not config.ablation.assistants
        else [],
        "out": config.out,
    }


def _specs(jobs: Jobs) -> tuple[AssistantSpec, ...]:
    return tuple({job.assistant.name: job.assistant for job in chain.from_iterable(jobs.values())}.values())


def run_bench(config: BenchConfig, jobs: Jobs, *, speakers: Speakers | None = None) -> dict[str, Any]:
    """Simulates the conversations that `config.out` does not hold yet and returns the report as JSON.

    Args:
        config: the benchmark.
        jobs: the conversations, from `jobs_of`.
        speakers: users and assistants to use instead of the config's.

    Raises:
        ConfigError: the weights of an assistant are missing.
        BackendError: every conversation failed.
    """
    if speakers is None and (names := missing(_specs(jobs))):
        raise ConfigError(
            f"assistants {', '.join(names)}: no model at their addresses; train them first "
            "(--dry-run prints the commands of the ablation) or leave them out of the config"
        )
    run = RunDir(config.out, playing(config))
    return run_async(_run(config, jobs, run, speakers or Speakers(config)))


async def _run(config: BenchConfig, jobs: Jobs, run: RunDir, speakers: Speakers) -> dict[str, Any]:
    started = time.monotonic()
    tools = rewards.open_tools(config)
    try:
        _check(config, jobs, tools)
        results = await _play(config, jobs, run, speakers)
        report: dict[str, Any] = {}
        for part, part_results in results.items():
            report[part] = await _part(part, part_results, config, tools, speakers)
        identities = await _identities(config, jobs, speakers)
    finally:
        await tools.aclose()
        await speakers.aclose()
    return {
        **report,
        "cost": _cost(results, time.monotonic() - started),
        "identities": identities,
        "judge": tools.judge.usage.summary() if tools.judge else None,
    }


def _check(config: BenchConfig, jobs: Jobs, tools: Tools) -> None:
    for task in config.tasks:
        contexts = [
            job.context for job in chain.from_iterable(jobs.values()) if job.task == task.name and job.user
        ]
        weights = config.required_rewards(task.weights())
        weights_without_user = {
            name: weight for name, weight in weights.items() if find(name).needs != "user"
        }
        rewards.check(contexts, weights_without_user, tools)


async def _play(
    config: BenchConfig, jobs: Jobs, run: RunDir, speakers: Speakers
) -> dict[Part, list[JobResult]]:
    journal = Journal(run.path / "conversations.jsonl", Played)
    all_jobs = list(chain.from_iterable(jobs.values()))
    with progress("conversations", len(all_jobs)) as bar:
        results = iter(
            await play_conversations(
                all_jobs, speakers, config, journal, done=bar, reduce_total=bar.reduce_total
            )
        )
    by_part = {part: [next(results) for _ in part_jobs] for part, part_jobs in jobs.items()}
    played = [record.played for record in chain.from_iterable(by_part.values())]
    if all(record.conversation is None for record in played):
        raise BackendError(f"every conversation failed; the first error: {played[0].error}")
    return by_part


async def _part(
    part: Part, results: list[JobResult], config: BenchConfig, tools: Tools, speakers: Speakers
) -> list[dict[str, Any]]:
    references = config.compared
    if part == "clarify":
        return [row.model_dump(mode="json") for row in generalise.asking(results, references)]
    if part == "safety":
        judged = await safety.judge_refusals(results, tools.judge) if tools.judge else {}
        return [row.model_dump(mode="json") for row in safety.refusing(results, references, judged)]
    cells = [cell.model_dump(mode="json") for cell in await score_cells(results, config, tools, speakers)]
    if part == "ablation":
        assert config.ablation is not None
        trained = {spec.name: spec for spec in ablation.specs(config.ablation)}
        for cell in cells:
            spec = trained.get(cell["assistant"])
            cell |= {"w": spec.w if spec else None, "rewards": spec.rewards if spec else None}
    return cells


async def score_cells(
    results: Sequence[JobResult], config: BenchConfig, tools: Tools, speakers: Speakers
) -> list[BenchCell]:
    weights = {task.name: task.weights() for task in config.tasks}

    async def score_result(result: JobResult) -> ScoredConversation:
        job, played = result.job, result.played
        measures: Measures | None = None
        failure = played.error
        if played.conversation is not None:
            job_tools = Tools(tools.judge, speakers.user(job.user) if job.user else None)
            try:
                episode = Episode(job.context, played.conversation)
                measures = await measure(episode, weights[job.task], config, job_tools)
            except UsersimError as error:
                failure = error_text(error)
        return ScoredConversation(job.condition, job.context.id, job.index, measures, failure)

    return cells(await gather(score_result(result) for result in results), config.compared)


async def _identities(config: BenchConfig, jobs: Jobs, speakers: Speakers) -> dict[str, dict[str, str]]:
    """Cache keys of the models behind each assistant and user name."""
    cache_keys: dict[str, dict[str, str]] = {"assistants": {}, "users": {}}
    for job in chain.from_iterable(jobs.values()):
        assistant, user = await speakers.cache_keys(job)
        cache_keys["assistants"][job.assistant.name] = assistant
        if job.user:
            cache_keys["users"][job.user.name] = user
    return cache_keys


def _cost(results: dict[Part, list[JobResult]], wall_s: float) -> dict[str, Any]:
    """Cost of the conversations in the report, by assistant. A conversation used in two parts counts once."""
    unique_results = {result.played.key: result for result in chain.from_iterable(results.values())}
    names = dict.fromkeys(result.job.assistant.name for result in unique_results.values())
    return {
        "conversations": len(unique_results),
        "resumed": sum(result.resumed for result in unique_results.values()),
        "failed": sum(result.played.conversation is None for result in unique_results.values()),
        "wall_s": round(wall_s, 1),
        "by_assistant": {
            name: total_cost(
                [
                    result.played.cost
                    for result in unique_results.values()
                    if result.job.assistant.name == name
                ]
            ).model_dump()
            for name in names
        },
    }
