"""Multiturn-aware rewards by forward simulation: MR(reply | history, goal) = mean of R over n futures of window w.

Every future of every candidate of every context is a conversation of its own; all are in flight at once under
one bound and none waits for another. Future j of a context draws from the same seed whatever the candidate
(common random numbers).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import AliasChoices, Field

from collab_train import rewards
from collab_train.contexts import Context
from collab_train.journal import Journal
from collab_train.results import ContextMR, Cost, Future, candidate_mr
from usersim.config import Config
from usersim.dialogue import Assistant, converse
from usersim.errors import ConfigError, UsersimError
from usersim.sampling import User
from usersim.types import Turn, UserTurn


class RolloutConfig(Config):
    w: int = Field(default=2, ge=0, le=32)
    """Window: user turns simulated after the candidate, each answered. 0: the immediate reward of the candidate."""
    n: int = Field(default=3, ge=1, le=256)
    """Futures per candidate; with w = 0 there is nothing random and one is scored."""
    token_penalty: float = Field(default=5e-4, ge=0, validation_alias=AliasChoices("token_penalty", "lambda"))
    """λ: reward lost per token that the user reads or writes in the window; also accepted as `lambda`."""
    rewards: dict[str, float] = Field(default_factory=dict)
    """Extrinsic rewards by name → weight; empty: the task's own."""
    concurrency: int = Field(default=32, ge=1)
    """Futures in flight at once."""
    seed: int = 0

    @property
    def futures(self) -> int:
        return self.n if self.w else 1


@dataclass(frozen=True)
class Job:
    context: Context
    candidate: int
    index: int
    seed: int
    key: str


Done = Callable[[Future], None]


async def multiturn_rewards(
    contexts: Sequence[Context],
    user: User,
    assistant: Assistant,
    config: RolloutConfig,
    *,
    journal: Journal[Future] | None = None,
    identity: str = "",
    done: Done = lambda future: None,
) -> list[ContextMR]:
    """The reward of every candidate of every context, in their order.

    A future that fails with a UsersimError is recorded, counted and left out. With a `journal`, futures that
    finished before are not simulated again; `identity` names user and assistant in their keys.
    """
    weights = config.rewards or {"facet_coverage": 1.0}
    rewards.check(list(contexts), weights)
    todo = jobs(contexts, config, identity)
    known = resumable(journal, contexts, config, identity) if journal else {}
    gate = asyncio.Semaphore(config.concurrency)

    async def one(job: Job) -> Future:
        if job.key in known:
            made = known[job.key]
        else:
            async with gate:
                made = await simulate_future(job, user, assistant, config.w)
            if journal:
                journal.append(made)
        done(made)
        return made

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(job)) for job in todo]
    made = {
        (job.context.id, job.candidate, job.index): task.result()
        for job, task in zip(todo, tasks, strict=True)
    }
    return [_context_mr(context, made, weights, config) for context in contexts]


def resumable(
    journal: Journal[Future], contexts: Sequence[Context], config: RolloutConfig, identity: str
) -> dict[str, Future]:
    """The finished futures of `journal` that this very rollout would simulate, by key."""
    wanted = {job.key for job in jobs(contexts, config, identity)}
    return {f.key: f for f in journal.read() if f.conversation is not None and f.key in wanted}


def jobs(contexts: Sequence[Context], config: RolloutConfig, identity: str = "") -> list[Job]:
    """Every future to simulate. Raises ConfigError for a context without candidates or a repeated id."""
    if len({context.id for context in contexts}) < len(contexts):
        raise ConfigError("context ids repeat; every context needs its own")
    return list(_jobs(contexts, config, identity))


def _jobs(contexts: Sequence[Context], config: RolloutConfig, identity: str) -> Iterator[Job]:
    for context in contexts:
        if not context.candidates:
            raise ConfigError(f"context {context.id}: no candidates to score")
        for candidate, text in enumerate(context.candidates):
            for index in range(config.futures):
                seed = context_seed(config.seed, context.id) + index
                yield Job(context, candidate, index, seed, _key(context, text, seed, config.w, identity))


def context_seed(seed: int, context_id: str) -> int:
    """The same for every candidate of a context, another for every context, wherever it stands in its file."""
    return seed * 1_000_003 + zlib.crc32(context_id.encode())


def _key(context: Context, candidate: str, seed: int, w: int, identity: str) -> str:
    # What is only scored by, phrases and reference, may change without simulating anew; so may split and topic.
    seen = context.model_dump(mode="json", include={"id", "turns", "profile", "system"})
    parts = json.dumps([seen, candidate, seed, w, identity], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:24]


async def simulate_future(job: Job, user: User, assistant: Assistant, w: int) -> Future:
    """The conversation on from history and candidate; a UsersimError becomes the record's `error`."""
    context, meter, started = job.context, Meter(), time.monotonic()
    base = {
        "key": job.key,
        "context": context.id,
        "candidate": job.candidate,
        "index": job.index,
        "seed": job.seed,
    }
    reply = Turn(role="assistant", text=context.candidates[job.candidate])
    try:
        conversation = await converse(
            user,
            assistant,
            context.profile,
            turns=[*context.turns, reply],
            max_user_turns=w,
            system=context.system,
            seed=job.seed,
            id=f"{context.id}/{job.candidate}/{job.index}",
            source=str(getattr(user, "name", "userlm")),
            watch=meter,
        )
    except UsersimError as error:
        failure = f"{type(error).__name__}: {error}"
        return Future.model_validate({**base, "error": failure, "cost": meter.cost(started)})
    return Future.model_validate({**base, "conversation": conversation, "cost": meter.cost(started)})


class Meter:
    """Watches one conversation and adds up what was generated."""

    def __init__(self) -> None:
        self.user_tokens = self.user_prompt_tokens = self.assistant_tokens = 0

    def __call__(self, turn: Turn | None, said: UserTurn | None) -> None:
        if said is not None:
            self.user_tokens += said.tokens
            self.user_prompt_tokens += said.prompt_tokens
        elif turn is not None:
            self.assistant_tokens += rewards.count_tokens(turn.text)

    def cost(self, started: float) -> Cost:
        return Cost(
            user_tokens=self.user_tokens,
            user_prompt_tokens=self.user_prompt_tokens,
            assistant_tokens=self.assistant_tokens,
            seconds=round(time.monotonic() - started, 3),
        )


def _context_mr(
    context: Context,
    made: dict[tuple[str, int, int], Future],
    weights: dict[str, float],
    config: RolloutConfig,
) -> ContextMR:
    candidates = []
    for number, text in enumerate(context.candidates):
        futures = [made[context.id, number, index] for index in range(config.futures)]
        scored, failed = [], []
        for future in futures:
            if future.conversation is None:
                failed.append(future.error or "no conversation")
                continue
            try:
                episode = rewards.Episode(context, future.conversation)
                scored.append(rewards.reward(episode, weights, config.token_penalty))
            except UsersimError as error:
                failed.append(f"{type(error).__name__}: {error}")
        candidates.append(candidate_mr(text, scored, failed, [f.cost for f in futures]))
    return ContextMR(id=context.id, candidates=tuple(candidates))
