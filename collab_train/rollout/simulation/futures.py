"""One future: the conversation simulated on from a history and a candidate reply."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collab_train.contexts import Context
from collab_train.rewards import count_tokens
from collab_train.rollout.accounting.results import Cost, Future, total_cost
from collab_train.rollout.engines.patience import patiently
from usersim.errors import EmptyReplyError, GuardError, UsersimError
from usersim.types import Turn, UserProfile, UserTurn
from usersim.users.dialogue import Assistant, converse
from usersim.users.protocols import User


@dataclass(frozen=True)
class Job:
    context: Context
    candidate: int
    index: int
    seed: int
    key: str

    @property
    def history(self) -> tuple[Turn, ...]:
        """Up to and with the candidate."""
        reply = Turn(role="assistant", text=self.context.candidates[self.candidate])
        return (*self.context.turns, reply)

    def future(self, **made: Any) -> Future:
        return Future(
            key=self.key,
            context=self.context.id,
            candidate=self.candidate,
            index=self.index,
            seed=self.seed,
            **made,
        )


class Meter:
    """Watches one conversation and adds up what was generated."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.counts: dict[str, int] = dict.fromkeys(Cost.COUNTS, 0)

    def __call__(self, turn: Turn | None, said: UserTurn | None) -> None:
        if said is not None:
            self._add(
                user_turns=1,
                user_turns_cut=said.finish == "length",
                user_tokens=said.tokens,
                user_prompt_tokens=said.prompt_tokens,
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
    """The first user turns of a candidate's futures: one request for all n, sent when the first of them starts.

    Turn i is drawn from seed + i, whichever futures are still missing: who resumes one asks for all n again, so
    that on a deterministic backend it says the same. A user that cannot be asked for n is asked for each.
    """

    def __init__(self, user: User, context: Context, n: int, seed: int, *, retries: int) -> None:
        self.user, self.context, self.n, self.seed, self.retries = user, context, n, seed, retries
        self._task: asyncio.Task[list[UserTurn] | UsersimError] | None = None

    async def get(self, index: int, profile: UserProfile, turns: Sequence[Turn], meter: Meter) -> UserTurn:
        if self.n == 1 or not hasattr(self.user, "sample"):
            return await self._alone(index, profile, turns, meter)
        if self._task is None:
            self._task = asyncio.create_task(self._ask(profile, turns, meter))
        # Shielded: a future that is stopped must not take the turns of the others along.
        said = await asyncio.shield(self._task)
        if isinstance(said, GuardError):  # of any one of them; the others may be fine
            return await self._alone(index, profile, turns, meter)
        if isinstance(said, UsersimError):
            raise said
        # They are one prompt, read once.
        return said[index] if index == 0 else said[index].model_copy(update={"prompt_tokens": 0})

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _ask(
        self, profile: UserProfile, turns: Sequence[Turn], meter: Meter
    ) -> list[UserTurn] | UsersimError:
        sample: Any = getattr(self.user, "sample")  # noqa: B009 - a `User` need not have it
        try:
            said: list[UserTurn] = await patiently(
                lambda shift: sample(
                    profile, turns, n=self.n, seed=self.seed + shift, affinity=self.context.id
                ),
                retries=self.retries,
                retried=meter.retried,
            )
        except UsersimError as error:
            return error
        return said

    async def _alone(self, index: int, profile: UserProfile, turns: Sequence[Turn], meter: Meter) -> UserTurn:
        return await patiently(
            lambda shift: one_turn(self.user, profile, turns, self.seed + index + shift, self.context.id),
            retries=self.retries,
            retried=meter.retried,
        )


async def one_turn(
    user: User, profile: UserProfile, turns: Sequence[Turn], seed: int | None, affinity: str
) -> UserTurn:
    """`affinity`: the conversations of one context share beginnings, so one engine of several should have them."""
    sample: Any = getattr(user, "sample", None)
    if sample is None:
        return await user(profile, turns, seed=seed)
    said: list[UserTurn] = await sample(profile, turns, seed=seed, affinity=affinity)
    return said[0]


async def simulate_future(
    job: Job,
    user: User,
    assistant: Assistant,
    *,
    w: int,
    first: FirstTurns,
    retries: int,
    meter: Meter,
    begun: Future | None = None,
) -> Future:
    """The conversation of at most `w` exchanges after the candidate; a UsersimError becomes the record's `error`.

    `begun`: the same future in a shorter window, to go on from.
    """
    before = begun.conversation if begun else None
    spoken = before.turns if before else job.history

    async def speak(profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None) -> UserTurn:
        if len(turns) == len(job.history):
            return await first.get(job.index, profile, turns, meter)
        return await patiently(
            lambda shift: one_turn(user, profile, turns, (seed or 0) + shift, job.context.id),
            retries=retries,
            retried=meter.retried,
        )

    async def reply(turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None) -> str:
        return await patiently(
            lambda shift: one_reply(assistant, turns, system=system, seed=(seed or 0) + shift),
            retries=retries,
            retried=meter.retried,
        )

    try:
        conversation = await converse(
            speak,
            reply,
            job.context.profile,
            turns=spoken,
            max_user_turns=w - (len(spoken) - len(job.history)) // 2,
            system=job.context.system,
            seed=job.seed,
            id=f"{job.context.id}/{job.candidate}/{job.index}",
            source=str(getattr(user, "name", "userlm")),
            watch=meter,
        )
    except UsersimError as error:
        return job.future(error=explained(error), cost=meter.cost())
    costs = [meter.cost(), *([begun.cost] if begun else [])]
    return job.future(conversation=conversation, cost=total_cost(costs))


async def one_reply(
    assistant: Assistant, turns: Sequence[Turn], *, system: str | None, seed: int | None
) -> str:
    text = (await assistant(turns, system=system, seed=seed)).strip()
    if not text:
        raise EmptyReplyError("an empty reply of the assistant")
    return text


def explained(error: UsersimError) -> str:
    return f"{type(error).__name__}: {error}"
