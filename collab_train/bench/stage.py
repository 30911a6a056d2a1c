"""Users and assistants of a benchmark, and the simulation of conversations not yet in the run directory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from collab_train.bench.conditions import BenchConfig, UserSpec, playing
from collab_train.bench.play import ConversationJob, Played, play
from collab_train.rollout.cache.cache_keys import assistant_cache_key, user_cache_key
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.engines.models import URLS, InTurns, open_assistant, open_user
from collab_train.rollout.simulation.gather import gather
from usersim.chat_models.openai_chat import ChatSettings
from usersim.users.policies import with_policy
from usersim.users.prompted import BY_NAME, PromptedUser, prompt_hash
from usersim.users.protocols import User


class Speakers:
    """Opens users and assistants. Users stay open; in-process assistants are opened one at a time."""

    def __init__(self, config: BenchConfig) -> None:
        self.config = config
        self._users: dict[tuple[str, str | None], Any] = {}
        self._cache_keys: dict[tuple[str, str], str] = {}
        self._in_turns = InTurns(config.concurrency)

    def user(self, spec: UserSpec) -> User:
        user_key = (spec.address, spec.prompt)
        if user_key not in self._users:
            self._users[user_key] = self._open(spec)
        user: User = self._users[user_key]
        return with_policy(user, spec.policy, seed=self.config.seed) if spec.policy else user

    def assistant(self, address: str) -> Any:
        settings = ChatSettings(temperature=self.config.temperature, max_tokens=self.config.assistant_tokens)
        return self._in_turns(open_assistant(address, settings))

    async def cache_keys(self, job: ConversationJob) -> tuple[str, str]:
        """Returns the cache keys of the assistant and the user: content hashes where the weights are local."""
        assistant = await self._cache_key("assistant", job.assistant.address)
        if job.user is None:
            return assistant, ""
        if job.user.prompt is None:
            return assistant, await self._cache_key("user", job.user.address)
        chat = await self._cache_key("assistant", job.user.address)
        return assistant, f"{chat} told {prompt_hash(BY_NAME[job.user.prompt])}"

    async def aclose(self) -> None:
        for user in self._users.values():
            await user.aclose()

    def _open(self, spec: UserSpec) -> Any:
        if spec.prompt is None:
            return self._in_turns(open_user(spec.address, max_tokens=self.config.user_tokens))
        settings = ChatSettings(temperature=1.0, max_tokens=self.config.user_tokens)
        chat = self._in_turns(open_assistant(spec.address, settings))
        return PromptedUser(chat, name=f"prompted-{spec.prompt}", prompt=BY_NAME[spec.prompt])

    async def _cache_key(self, kind: str, address: str) -> str:
        if (kind, address) not in self._cache_keys:
            ask = assistant_cache_key if kind == "assistant" else user_cache_key
            self._cache_keys[kind, address] = await ask(address, retries=self.config.retries)
        return self._cache_keys[kind, address]


@dataclass(frozen=True)
class JobResult:
    job: ConversationJob
    played: Played
    resumed: bool
    """True if the conversation was already in the run directory."""


async def play_conversations(
    jobs: Sequence[ConversationJob],
    speakers: Speakers,
    config: BenchConfig,
    journal: Journal[Played],
    *,
    done: Callable[[Played], None] = lambda played: None,
    reduce_total: Callable[[int], None] = lambda conversations: None,
) -> list[JobResult]:
    """Simulates the conversations that the journal does not hold; failed ones are simulated again.

    Jobs with equal keys are simulated once. `done` is called with every conversation, `reduce_total` once with the
    number of jobs that repeat another.

    Returns:
        One result per job, in the order of `jobs`.
    """
    settings, played = playing(config), {p.key: p for p in journal.read() if p.conversation is not None}
    keys = [await _key(job, speakers, config) for job in jobs]
    jobs_by_key = dict(zip(keys, jobs, strict=True))
    reduce_total(len(jobs) - len(jobs_by_key))
    for key in jobs_by_key.keys() & played.keys():
        done(played[key])
    resumed, missing = set(played), {key: job for key, job in jobs_by_key.items() if key not in played}
    users = {job.user.name: speakers.user(job.user) for job in missing.values() if job.user}

    async def play_job(key: str, job: ConversationJob, assistant: Any, gate: asyncio.Semaphore) -> None:
        user = users[job.user.name] if job.user else None
        async with gate:
            played[key] = await play(job, user, assistant, settings, key=key, retries=config.retries)
        journal.append(played[key])
        done(played[key])

    async def play_batch(addresses: Sequence[str], batch: Mapping[str, ConversationJob]) -> None:
        # An equal share for each engine: otherwise all conversations end up waiting for a slow one.
        share = max(1, config.concurrency // max(1, len(addresses)))
        open_assistants = {
            address: (speakers.assistant(address), asyncio.Semaphore(share)) for address in addresses
        }
        try:
            await gather(
                play_job(key, job, *open_assistants[job.assistant.address]) for key, job in batch.items()
            )
        finally:
            for assistant, _ in open_assistants.values():
                await assistant.aclose()

    remote, in_process = split_jobs(missing)
    await play_batch([*{job.assistant.address for job in remote.values()}], remote)
    for address, tasks in in_process.items():
        for batch_of_task in tasks.values():
            await play_batch([address], batch_of_task)
    return [JobResult(job, played[key], key in resumed) for key, job in zip(keys, jobs, strict=True)]


def split_jobs(
    missing: Mapping[str, ConversationJob],
) -> tuple[dict[str, ConversationJob], dict[str, dict[str, dict[str, ConversationJob]]]]:
    """Splits jobs into those of remote engines and those of in-process models.

    Remote jobs alternate between engines, so that all engines have work from the start. In-process jobs are grouped
    by address, so that one model is open at a time, and by task, because prompts in a batch are padded to the longest.
    """
    remote: dict[tuple[str, str], list[tuple[str, ConversationJob]]] = {}
    in_process: dict[str, dict[str, dict[str, ConversationJob]]] = {}
    for key, job in missing.items():
        address, user = job.assistant.address, job.user.address if job.user else ""
        if address.startswith(URLS):
            remote.setdefault((address, user), []).append((key, job))
        else:
            in_process.setdefault(address, {}).setdefault(job.task, {})[key] = job
    interleaved = chain.from_iterable(zip_longest(*remote.values()))
    return dict(item for item in interleaved if item is not None), in_process


async def _key(job: ConversationJob, speakers: Speakers, config: BenchConfig) -> str:
    assistant, user = await speakers.cache_keys(job)
    return job.key(playing(config), assistant=assistant, user=user)
