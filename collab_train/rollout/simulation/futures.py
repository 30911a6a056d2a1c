"""Simulation of one future: the conversation after a history and a candidate reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collab_train.contexts import Context
from collab_train.rewards import count_tokens
from collab_train.rollout.accounting.results import Cost, Future, total_cost
from collab_train.rollout.engines.patience import retry
from usersim.errors import EmptyReplyError, GuardError, UsersimError
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.dialogue import Assistant, converse
from usersim.users.protocols import User


@dataclass(frozen=True)
class FutureJob:
    context: Context
    candidate: int
    index: int
    seed: int
    key: str

    @property
    def history(self) -> tuple[Turn, ...]:
        """Turns up to and including the candidate."""
        reply = Turn(role="assistant", text=self.context.candidates[self.candidate])
        return (*self.context.turns, reply)

    def future(self, **fields: Any) -> Future:
        return Future(
            key=self.key,
            context=self.context.id,
            candidate=self.candidate,
            index=self.index,
            seed=self.seed,
            **fields,
        )


class Meter:
    """Observer of a conversation that counts generated turns and tokens."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.counts: dict[str, int] = dict.fromkeys(Cost.COUNTS, 0)

    def __call__(self, turn: Turn | None, user_turn: UserTurn | None) -> None:
        if user_turn is not None:
            self._add(
                user_turns=1,
                user_turns_cut=user_turn.finish == "length",
                user_tokens=user_turn.tokens,
                user_prompt_tokens=user_turn.prompt_tokens,
            )
        elif turn is not None:
            self._add(assistant_turns=1, assistant_tokens=count_tokens(turn.text))

    def retried(self) -> None:
        self._add(retries=1)

    def cost(self) -> Cost:
        return Cost(**self.counts, seconds=round(time.monotonic() - self.started, 3))

    def _add(self, **counts: int) -> None:
        for name, count in counts.items():
            self.counts[name] += count


class FirstTurns:
    """First user turns of a candidate's futures: one request for all n, sent when the first future starts.

    Turn i is sampled with seed + i. A resumed run requests all n again, even if only some futures are missing, so that
    a deterministic backend returns the same turns. A user without `sample` gets one request per future.
    """

    def __init__(self, user: User, context: Context, n: int, seed: int, *, retries: int) -> None:
        self.user, self.context, self.n, self.seed, self.retries = user, context, n, seed, retries
        self._task: asyncio.Task[list[UserTurn] | UsersimError] | None = None

    async def get(self, index: int, profile: UserProfile, turns: Sequence[Turn], meter: Meter) -> UserTurn:
        if self.n == 1 or not hasattr(self.user, "sample"):
            return await self._alone(index, profile, turns, meter)
        if self._task is None:
            self._task = asyncio.create_task(self._ask(profile, turns, meter))
        # Shielded: cancelling one future must not cancel the turns of the others.
        user_turns = await asyncio.shield(self._task)
        if isinstance(user_turns, GuardError):  # raised by any one of them; the others may be valid
            return await self._alone(index, profile, turns, meter)
        if isinstance(user_turns, UsersimError):
            raise user_turns
        # All have one prompt, which is prefilled once.
        return user_turns[index] if index == 0 else user_turns[index].model_copy(update={"prompt_tokens": 0})

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _ask(
        self, profile: UserProfile, turns: Sequence[Turn], meter: Meter
    ) -> list[UserTurn] | UsersimError:
        sample: Any = getattr(self.user, "sample")  # noqa: B009 - optional for a `User`
        try:
            user_turns: list[UserTurn] = await retry(
                lambda shift: sample(
                    profile, turns, n=self.n, seed=self.seed + shift, affinity=self.context.id
                ),
                retries=self.retries,
                retried=meter.retried,
            )
        except UsersimError as error:
            return error
        return user_turns

    async def _alone(self, index: int, profile: UserProfile, turns: Sequence[Turn], meter: Meter) -> UserTurn:
        return await retry(
            lambda shift: one_turn(self.user, profile, turns, self.seed + index + shift, self.context.id),
            retries=self.retries,
            retried=meter.retried,
        )


async def one_turn(
    user: User, profile: UserProfile, turns: Sequence[Turn], seed: int | None, affinity: str
) -> UserTurn:
    """Samples one user turn.

    `affinity` is the context id. Conversations of one context share a prefix, so they go to the same engine.
    """
    sample: Any = getattr(user, "sample", None)
    if sample is None:
        return await user(profile, turns, seed=seed)
    user_turns: list[UserTurn] = await sample(profile, turns, seed=seed, affinity=affinity)
    return user_turns[0]


async def simulate_future(
    job: FutureJob,
    user: User,
    assistant: Assistant,
    *,
    w: int,
    first: FirstTurns,
    retries: int,
    meter: Meter,
    previous: Future | None = None,
) -> Future:
    """Simulates one future. A UsersimError is stored in the record's `error`.

    There are at most `w` exchanges after the candidate. `previous` is the same future in a shorter window, to continue
    from.
    """
    previous_conversation = previous.conversation if previous else None
    turns_before = previous_conversation.turns if previous_conversation else job.history

    async def speak(profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None) -> UserTurn:
        if len(turns) == len(job.history):
            return await first.get(job.index, profile, turns, meter)
        return await retry(
            lambda shift: one_turn(user, profile, turns, (seed or 0) + shift, job.context.id),
            retries=retries,
            retried=meter.retried,
        )

    async def reply(turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None) -> str:
        return await retry(
            lambda shift: one_reply(assistant, turns, system=system, seed=(seed or 0) + shift),
            retries=retries,
            retried=meter.retried,
        )

    try:
        conversation = await converse(
            speak,
            reply,
            job.context.profile,
            turns=turns_before,
            max_user_turns=w - (len(turns_before) - len(job.history)) // 2,
            system=job.context.system,
            seed=job.seed,
            id=f"{job.context.id}/{job.candidate}/{job.index}",
            source=str(getattr(user, "name", "userlm")),
            watch=meter,
        )
    except UsersimError as error:
        return job.future(error=error_text(error), cost=meter.cost())
    costs = [meter.cost(), *([previous.cost] if previous else [])]
    return job.future(conversation=conversation, cost=total_cost(costs))


async def one_reply(
    assistant: Assistant, turns: Sequence[Turn], *, system: str | None, seed: int | None
) -> str:
    text = (await assistant(turns, system=system, seed=seed)).strip()
    if not text:
        raise EmptyReplyError("the assistant returned an empty reply")
    return text


def error_text(error: UsersimError) -> str:
    return f"{type(error).__name__}: {error}"
