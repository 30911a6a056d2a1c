"""Multiturn-aware rewards by forward simulation: MR(reply | history, goal) = mean of R over n futures of window w.

Every future of every candidate of every context is a conversation of its own; all are in flight at once under
one bound and none waits for another. Future j of a context draws from the same seed whatever the candidate
(common random numbers).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import Field

from collab_train import rewards
from collab_train.contexts import Context
from collab_train.rollout.accounting.results import ContextMR, Cost, Future, candidate_mr
from collab_train.rollout.cache import windows
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.simulation.futures import FirstTurns, Job, Meter, explained, simulate_future
from collab_train.rollout.simulation.gather import all_or_first_error, together
from collab_train.rollout.simulation.successive_elimination import Race
from usersim.errors import ConfigError, UsersimError
from usersim.users.dialogue import Assistant
from usersim.users.protocols import User


class RolloutConfig(rewards.RewardConfig):
    w: int = Field(default=2, ge=0, le=32)
    """Window: user turns simulated after the candidate, each answered. 0: the immediate reward of the candidate."""
    n: int = Field(default=3, ge=1, le=256)
    """Futures per candidate; with w = 0 there is nothing random and one is scored."""
    racing: float | None = Field(default=None, gt=0, lt=1)
    """Stop the futures of candidates that are surely worse than the best, with this chance of a wrong stop per
    context (`racing.Race`). None: all n of each. What is in flight decides who is stopped, so runs differ."""
    concurrency: int = Field(default=32, ge=1)
    """Futures in flight at once; the first turns of a candidate's n futures are one request."""
    retries: int = Field(default=8, ge=0)
    """Further tries of a call that an engine did not answer, after 1, 2, 4, 8, 16, 16 … s: 79 s in all."""
    seed: int = 0

    @property
    def futures(self) -> int:
        return self.n if self.w else 1

    @property
    def weights(self) -> dict[str, float]:
        return self.rewards or {"facet_coverage": 1.0}


Done = Callable[[Future], None]


@dataclass
class Outcome:
    """What became of one future. Neither `scored` nor `failure`: a race stopped it."""

    cost: Cost = field(default_factory=Cost)
    future: Future | None = None
    scored: rewards.Scored | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Rewarded:
    result: ContextMR
    futures: tuple[Future, ...]
    """Those that have a conversation, by candidate and index."""


class Rollout:
    """Rewards of any number of contexts, asked for at any time, under one bound.

    A future that fails with a UsersimError is recorded, counted and left out. With a `journal`, futures that
    finished before are not simulated again; `identity` names user and assistant in their keys.
    """

    def __init__(
        self,
        user: User,
        assistant: Assistant,
        config: RolloutConfig,
        *,
        journal: Journal[Future] | None = None,
        identity: str = "",
        tools: rewards.Tools | None = None,
        done: Done = lambda future: None,
    ) -> None:
        self.user, self.assistant, self.config = user, assistant, config
        self.journal, self.identity, self.done = journal, identity, done
        self.tools = tools or rewards.Tools(user=user)
        self.gate = asyncio.Semaphore(config.concurrency)
        self.resumed = 0
        """Futures that the journal already held."""
        self._known = {f.key: f for f in journal.read() if f.conversation is not None} if journal else {}

    async def reward(self, context: Context) -> Rewarded:
        """Raises ConfigError or DataError for a context that cannot be scored."""
        rewards.check([context], self.config.required_rewards(self.config.weights), self.tools)
        listed = self.jobs(context)
        outcomes = {(job.candidate, job.index): Outcome() for job in listed}
        seed, n = self._first_seed(context), self.config.futures
        firsts = [
            FirstTurns(self.user, context, n, seed, retries=self.config.retries) for _ in context.candidates
        ]
        try:
            await self._run(listed, firsts, outcomes)
        finally:
            for first in firsts:
                first.close()
        return _rewarded(context, outcomes, n)

    async def _run(
        self, listed: list[Job], firsts: list[FirstTurns], outcomes: dict[tuple[int, int], Outcome]
    ) -> None:
        racing, tasks = self.config.racing, dict[tuple[int, int], asyncio.Task[None]]()
        race = Race(len(firsts), self.config.futures, racing) if racing else None
        if race:  # the j-th futures of all candidates are compared, so they should be there together
            listed = sorted(listed, key=lambda job: job.index)

        async def one(job: Job) -> None:
            outcome = outcomes[job.candidate, job.index]
            await self._future(job, firsts[job.candidate], outcome)
            if race and outcome.scored:
                stopped = race.add(job.candidate, job.index, outcome.scored[0])
                for place, task in tasks.items():
                    if place[0] in stopped:
                        task.cancel()

        tasks |= {(job.candidate, job.index): asyncio.create_task(one(job)) for job in listed}
        await all_or_first_error(tasks.values())

    async def _future(self, job: Job, first: FirstTurns, outcome: Outcome) -> None:
        made = windows.cut(await self._made(job, first, outcome), len(job.history), self.config.w)
        outcome.future, outcome.cost = made, made.cost
        self.done(made)
        if made.conversation is None:
            outcome.failure = made.error or "no conversation"
            return
        try:
            # Outside the gate: engines go on while a judge or a sandbox works.
            episode = rewards.Episode(job.context, made.conversation)
            outcome.scored = await rewards.score(episode, self.config.weights, self.config, self.tools)
        except UsersimError as error:
            outcome.failure = explained(error)

    async def _made(self, job: Job, first: FirstTurns, outcome: Outcome) -> Future:
        """What there is, in this window or a longer one; otherwise simulated, or gone on with."""
        known = self._known.get(job.key)
        begun = known.conversation if known else None
        if known and begun and not windows.remaining(begun, len(job.history), self.config.w):
            self.resumed += 1
            return known
        made = await self._simulated(job, first, outcome, known)
        if self.journal:
            self.journal.append(made)
        if made.conversation is not None:
            self._known[made.key] = made
        return made

    async def _simulated(self, job: Job, first: FirstTurns, outcome: Outcome, begun: Future | None) -> Future:
        async with self.gate:
            meter = Meter()
            try:
                return await simulate_future(
                    job,
                    self.user,
                    self.assistant,
                    w=self.config.w,
                    first=first,
                    retries=self.config.retries,
                    meter=meter,
                    begun=begun,
                )
            finally:  # what a stopped one has cost counts as well
                outcome.cost = meter.cost()

    def jobs(self, context: Context) -> list[Job]:
        return list(_jobs(context, self.config, self.identity))

    def _first_seed(self, context: Context) -> int:
        # Clear of `dialogue`'s seeds of later turns, which are multiples of 1009 and 7919 apart.
        return context_seed(self.config.seed, context.id) * 1_009 + 500


async def multiturn_rewards(
    contexts: Sequence[Context],
    user: User,
    assistant: Assistant,
    config: RolloutConfig,
    *,
    journal: Journal[Future] | None = None,
    identity: str = "",
    tools: rewards.Tools | None = None,
    done: Done = lambda future: None,
) -> list[ContextMR]:
    """The reward of every candidate of every context, in their order; see `Rollout`.

    Raises ConfigError for a context without candidates or a repeated id.
    """
    rollout = Rollout(user, assistant, config, journal=journal, identity=identity, tools=tools, done=done)
    for context in unique(contexts):
        rewards.check([context], config.required_rewards(config.weights), rollout.tools)
        rollout.jobs(context)
    return [made.result for made in await together(rollout.reward(context) for context in contexts)]


def unique(contexts: Sequence[Context]) -> Sequence[Context]:
    if len({context.id for context in contexts}) < len(contexts):
        raise ConfigError("context ids repeat; every context needs its own")
    return contexts


def _jobs(context: Context, config: RolloutConfig, identity: str) -> Iterator[Job]:
    if not context.candidates:
        raise ConfigError(f"context {context.id}: no candidates to score")
    for candidate, text in enumerate(context.candidates):
        for index in range(config.futures):
            seed = context_seed(config.seed, context.id) + index
            yield Job(context, candidate, index, seed, _key(context, text, seed, identity))


def context_seed(seed: int, context_id: str) -> int:
    """The same for every candidate of a context, another for every context, wherever it stands in its file."""
    return seed * 1_000_003 + zlib.crc32(context_id.encode())


def _key(context: Context, candidate: str, seed: int, identity: str) -> str:
    # What is only scored by, phrases and reference, may change without simulating anew; so may split and topic, and the
    # window (`windows`).
    seen = context.model_dump(mode="json", include={"id", "turns", "profile", "system"})
    parts = json.dumps([seen, candidate, seed, identity], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


def _rewarded(context: Context, outcomes: dict[tuple[int, int], Outcome], n: int) -> Rewarded:
    candidates, futures = [], []
    for number, text in enumerate(context.candidates):
        own = [outcomes[number, index] for index in range(n)]
        scored = [outcome.scored for outcome in own if outcome.scored]
        failed = [outcome.failure for outcome in own if outcome.failure]
        stopped = len(own) - len(scored) - len(failed)
        costs = [outcome.cost for outcome in own]
        candidates.append(candidate_mr(text, scored, failed, costs, stopped=stopped))
        futures += [o.future for o in own if o.future is not None and o.future.conversation is not None]
    return Rewarded(ContextMR(id=context.id, candidates=tuple(candidates)), tuple(futures))
