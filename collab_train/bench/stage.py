"""Everybody who speaks, and the playing of all that is not there yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from collab_train.bench.conditions import BenchConfig, UserSpec, playing
from collab_train.bench.play import Job, Played, play
from collab_train.rollout.cache.cache_keys import assistant_identity, user_identity
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.engines.models import URLS, InTurns, open_assistant, open_user
from collab_train.rollout.simulation.gather import together
from usersim.chat_models.openai_chat import ChatSettings
from usersim.users.policies import with_policy
from usersim.users.prompted import BY_NAME, PromptedUser, prompt_hash
from usersim.users.protocols import User


class Speakers:
    """Users stay open; assistants of this process are opened one at a time."""

    def __init__(self, config: BenchConfig) -> None:
        self.config = config
        self._users: dict[tuple[str, str | None], Any] = {}
        self._identities: dict[tuple[str, str], str] = {}
        self._in_turns = InTurns(config.concurrency)

    def user(self, spec: UserSpec) -> User:
        place = (spec.address, spec.prompt)
        if place not in self._users:
            self._users[place] = self._open(spec)
        user: User = self._users[place]
        return with_policy(user, spec.policy, seed=self.config.seed) if spec.policy else user

    def assistant(self, address: str) -> Any:
        settings = ChatSettings(temperature=self.config.temperature, max_tokens=self.config.assistant_tokens)
        return self._in_turns(open_assistant(address, settings))

    async def identities(self, job: Job) -> tuple[str, str]:
        """Of the assistant and the user, by content where there is one."""
        assistant = await self._identity("assistant", job.assistant.address)
        if job.user is None:
            return assistant, ""
        if job.user.prompt is None:
            return assistant, await self._identity("user", job.user.address)
        chat = await self._identity("assistant", job.user.address)
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

    async def _identity(self, kind: str, address: str) -> str:
        if (kind, address) not in self._identities:
            ask = assistant_identity if kind == "assistant" else user_identity
            self._identities[kind, address] = await ask(address, retries=self.config.retries)
        return self._identities[kind, address]


@dataclass(frozen=True)
class Performance:
    job: Job
    played: Played
    resumed: bool
    """The run directory held it already."""


async def perform(
    jobs: Sequence[Job],
    speakers: Speakers,
    config: BenchConfig,
    journal: Journal[Played],
    *,
    done: Callable[[Played], None] = lambda played: None,
    fewer: Callable[[int], None] = lambda conversations: None,
) -> list[Performance]:
    """In the order of `jobs`. What failed before is played again; what finished is not.

    `done` hears of every conversation, `fewer` of jobs that are the same conversation as another.
    """
    shared, known = playing(config), {p.key: p for p in journal.read() if p.conversation is not None}
    keys = [await _key(job, speakers, config) for job in jobs]
    different = dict(zip(keys, jobs, strict=True))
    fewer(len(jobs) - len(different))
    for key in different.keys() & known.keys():
        done(known[key])
    resumed, missing = set(known), {key: job for key, job in different.items() if key not in known}
    users = {job.user.name: speakers.user(job.user) for job in missing.values() if job.user}

    async def one(key: str, job: Job, assistant: Any, gate: asyncio.Semaphore) -> None:
        user = users[job.user.name] if job.user else None
        async with gate:
            known[key] = await play(job, user, assistant, shared, key=key, retries=config.retries)
        journal.append(known[key])
        done(known[key])

    async def all_of(addresses: Sequence[str], listed: Mapping[str, Job]) -> None:
        # As many with each: a slow engine would end up with all of them waiting for it.
        share = max(1, config.concurrency // max(1, len(addresses)))
        open_ = {address: (speakers.assistant(address), asyncio.Semaphore(share)) for address in addresses}
        try:
            await together(one(key, job, *open_[job.assistant.address]) for key, job in listed.items())
        finally:
            for assistant, _ in open_.values():
                await assistant.aclose()

    remote, here = grouped(missing)
    await all_of([*{job.assistant.address for job in remote.values()}], remote)
    for address, tasks in here.items():
        for own in tasks.values():
            await all_of([address], own)
    return [Performance(job, known[key], key in resumed) for key, job in zip(keys, jobs, strict=True)]


def grouped(missing: Mapping[str, Job]) -> tuple[dict[str, Job], dict[str, dict[str, dict[str, Job]]]]:
    """Those of engines, which all have something to do from the start; those of this process by address, so that one
    model is open at a time, and by task: in one batch, every prompt takes as much as the longest."""
    remote: dict[tuple[str, str], list[tuple[str, Job]]] = {}
    here: dict[str, dict[str, dict[str, Job]]] = {}
    for key, job in missing.items():
        address, user = job.assistant.address, job.user.address if job.user else ""
        if address.startswith(URLS):
            remote.setdefault((address, user), []).append((key, job))
        else:
            here.setdefault(address, {}).setdefault(job.task, {})[key] = job
    in_turn = chain.from_iterable(zip_longest(*remote.values()))
    return dict(one for one in in_turn if one is not None), here


async def _key(job: Job, speakers: Speakers, config: BenchConfig) -> str:
    assistant, user = await speakers.identities(job)
    return job.key(playing(config), assistant=assistant, user=user)
