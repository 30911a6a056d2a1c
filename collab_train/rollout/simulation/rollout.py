"""Multiturn-aware rewards by forward simulation: MR(reply | history, goal) = mean of R over n futures of window w.

Each future of each candidate is a separate conversation. All run concurrently up to one limit, and none waits for
another. Future j of a context has the same seed for every candidate (common random numbers).
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
from collab_train.rollout.simulation.futures import FirstTurns, FutureJob, Meter, error_text, simulate_future
from collab_train.rollout.simulation.gather import all_or_first_error, gather
from collab_train.rollout.simulation.successive_elimination import Race
from usersim.errors import ConfigError, UsersimError
from usersim.users.dialogue import Assistant
from usersim.users.protocols import User


class RolloutConfig(rewards.RewardConfig):
    w: int = Field(default=2, ge=0, le=32)
    """Window: user turns simulated after the candidate, each with a reply. 0: only the candidate is scored."""
    n: int = Field(default=3, ge=1, le=256)
    """Futures per candidate. With w = 0 nothing is random, and there is one."""
    racing: float | None = Field(default=None, gt=0, lt=1)
    """Chance δ of a wrong stop per context, for stopping candidates that are clearly worse than the best (`Race`).
    None: no stopping. Timing decides which futures are stopped, so runs differ."""
    concurrency: int = Field(default=32, ge=1)
    """Maximum concurrent futures. The first turns of a candidate's n futures are one request."""
    retries: int = Field(default=8, ge=0)
    """Retries of a call that an engine did not answer, after 1, 2, 4, 8, 16, 16 … s: 79 s by default."""
    seed: int = 0

    @property
    def futures(self) -> int:
        return self.n if self.w else 1

    @property
    def weights(self) -> dict[str, float]:
        return self.rewards or {"facet_coverage": 1.0}


Done = Callable[[Future], None]


@dataclass
class FutureOutcome:
    """Outcome of one future. If both `scored` and `failure` are None, a race stopped it."""

    cost: Cost = field(default_factory=Cost)
    future: Future | None = None
    scored: rewards.Scored | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Rewarded:
    result: ContextMR
    futures: tuple[Future, ...]
    """Futures that have a conversation, by candidate and index."""


class Rollout:
    """Computes multiturn-aware rewards of contexts, with bounded concurrency over all of them.

    A future that fails with a UsersimError is recorded, counted and left out. With a `journal`, finished futures are
    not simulated again. `cache_key` identifies user and assistant in their keys.
    """

    def __init__(
        self,
        user: User,
        assistant: Assistant,
        config: RolloutConfig,
        *,
        journal: Journal[Future] | None = None,
        cache_key: str = "",
        tools: rewards.Tools | None = None,
        done: Done = lambda future: None,
    ) -> None:
        self.user, self.assistant, self.config = user, assistant, config
        self.journal, self.cache_key, self.done = journal, cache_key, done
        self.tools = tools or rewards.Tools(user=user)
        self.gate = asyncio.Semaphore(config.concurrency)
        self.resumed = 0
        """Number of futures that were already in the journal."""
        self._by_key = {f.key: f for f in journal.read() if f.conversation is not None} if journal else {}

    async def reward(self, context: Context) -> Rewarded:
        """Scores the candidates of a context.

        Raises:
            ConfigError, DataError: the context cannot be scored.
        """
        rewards.check([context], self.config.required_rewards(self.config.weights), self.tools)
        jobs = self.jobs(context)
        outcomes = {(job.candidate, job.index): FutureOutcome() for job in jobs}
        seed, n = self._first_seed(context), self.config.futures
        firsts = [
            FirstTurns(self.user, context, n, seed, retries=self.config.retries) for _ in context.candidates
        ]
        try:
            await self._run(jobs, firsts, outcomes)
        finally:
            for first in firsts:
                first.close()
        return _rewarded(context, outcomes, n)

    async def _run(
        self, jobs: list[FutureJob], firsts: list[FirstTurns], outcomes: dict[tuple[int, int], FutureOutcome]
    ) -> None:
        racing, tasks = self.config.racing, dict[tuple[int, int], asyncio.Task[None]]()
        race = Race(len(firsts), self.config.futures, racing) if racing else None
        if race:  # the j-th futures of all candidates are compared, so they are started together
            jobs = sorted(jobs, key=lambda job: job.index)

        async def run_job(job: FutureJob) -> None:
            outcome = outcomes[job.candidate, job.index]
            await self._future(job, firsts[job.candidate], outcome)
            if race and outcome.scored:
                stopped = race.add(job.candidate, job.index, outcome.scored[0])
                for job_index, task in tasks.items():
                    if job_index[0] in stopped:
                        task.cancel()

        tasks |= {(job.candidate, job.index): asyncio.create_task(run_job(job)) for job in jobs}
        await all_or_first_error(tasks.values())

    async def _future(self, job: FutureJob, first: FirstTurns, outcome: FutureOutcome) -> None:
        future = windows.cut(
            await self._stored_or_simulated(job, first, outcome), len(job.history), self.config.w
        )
        outcome.future, outcome.cost = future, future.cost
        self.done(future)
        if future.conversation is None:
            outcome.failure = future.error or "no conversation"
            return
        try:
            # Outside the gate, so that engines keep working during a judge call or a sandbox run.
            episode = rewards.Episode(job.context, future.conversation)
            outcome.scored = await rewards.score(episode, self.config.weights, self.config, self.tools)
        except UsersimError as error:
            outcome.failure = error_text(error)

    async def _stored_or_simulated(self, job: FutureJob, first: FirstTurns, outcome: FutureOutcome) -> Future:
        """Returns the stored future if it fills the window; otherwise extends or simulates it."""
        stored = self._by_key.get(job.key)
        conversation = stored.conversation if stored else None
        if stored and conversation and not windows.remaining(conversation, len(job.history), self.config.w):
            self.resumed += 1
            return stored
        future = await self._simulated(job, first, outcome, stored)
        if self.journal:
            self.journal.append(future)
        if future.conversation is not None:
            self._by_key[future.key] = future
        return future

    async def _simulated(
        self, job: FutureJob, first: FirstTurns, outcome: FutureOutcome, previous: Future | None
    ) -> Future:
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
                    previous=previous,
                )
            finally:  # a stopped future has a cost, too
                outcome.cost = meter.cost()

    def jobs(self, context: Context) -> list[FutureJob]:
        return list(_jobs(context, self.config, self.cache_key))

    def _first_seed(self, context: Context) -> int:
        # Different from the seeds of later turns in `dialogue`, which are multiples of 1009 and 7919 apart.
        return context_seed(self.config.seed, context.id) * 1_009 + 500


async def multiturn_rewards(
    contexts: Sequence[Context],
    user: User,
    assistant: Assistant,
    config: RolloutConfig,
    *,
    journal: Journal[Future] | None = None,
    cache_key: str = "",
    tools: rewards.Tools | None = None,
    done: Done = lambda future: None,
) -> list[ContextMR]:
    """Computes the multiturn-aware rewards of all candidates; see `Rollout`.

    Args:
        journal: stored futures to resume from.
        cache_key: identifies user and assistant in the journal.
        tools: models that rewards call.
        done: called with each finished future.

    Returns:
        One result per context, in their order.

    Raises:
        ConfigError: a context has no candidates, or an id repeats.
    """
    rollout = Rollout(user, assistant, config, journal=journal, cache_key=cache_key, tools=tools, done=done)
    for context in unique(contexts):
        rewards.check([context], config.required_rewards(config.weights), rollout.tools)
        rollout.jobs(context)
    return [rewarded.result for rewarded in await gather(rollout.reward(context) for context in contexts)]


def unique(contexts: Sequence[Context]) -> Sequence[Context]:
    if len({context.id for context in contexts}) < len(contexts):
        raise ConfigError("context ids repeat; each context needs its own")
    return contexts


def _jobs(context: Context, config: RolloutConfig, cache_key: str) -> Iterator[FutureJob]:
    if not context.candidates:
        raise ConfigError(f"context {context.id}: no candidates to score")
    for candidate, text in enumerate(context.candidates):
        for index in range(config.futures):
            seed = context_seed(config.seed, context.id) + index
            yield FutureJob(context, candidate, index, seed, _key(context, text, seed, cache_key))


def context_seed(seed: int, context_id: str) -> int:
    """Returns the seed of a context, which depends only on its id and the seed of the run."""
    return seed * 1_000_003 + zlib.crc32(context_id.encode())


def _key(context: Context, candidate: str, seed: int, cache_key: str) -> str:
    # Not in the key, so that changes need no new simulation: phrases, reference, split, topic and window (`windows`).
    prompt = context.model_dump(mode="json", include={"id", "turns", "profile", "system"})
    parts = json.dumps([prompt, candidate, seed, cache_key], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


def _rewarded(context: Context, outcomes: dict[tuple[int, int], FutureOutcome], n: int) -> Rewarded:
    candidates, futures = [], []
    for number, text in enumerate(context.candidates):
        candidate_outcomes = [outcomes[number, index] for index in range(n)]
        scored = [outcome.scored for outcome in candidate_outcomes if outcome.scored]
        failed = [outcome.failure for outcome in candidate_outcomes if outcome.failure]
        stopped = len(candidate_outcomes) - len(scored) - len(failed)
        costs = [outcome.cost for outcome in candidate_outcomes]
        candidates.append(candidate_mr(text, scored, failed, costs, stopped=stopped))
        futures += [
            outcome.future
            for outcome in candidate_outcomes
            if outcome.future is not None and outcome.future.conversation is not None
        ]
    return Rewarded(ContextMR(id=context.id, candidates=tuple(candidates)), tuple(futures))
