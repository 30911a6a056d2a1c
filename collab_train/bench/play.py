"""Simulation of whole benchmark conversations between one assistant and one user."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from collab_train.bench.conditions import AssistantSpec, Playing, UserSpec
from collab_train.contexts import Context
from collab_train.rollout.accounting.results import Future
from collab_train.rollout.engines.patience import retry
from collab_train.rollout.simulation.futures import Meter, error_text, one_reply, one_turn
from collab_train.rollout.simulation.rollout import context_seed
from usersim.errors import UsersimError
from usersim.types import Conversation, NonEmpty, Turn, UserProfile, UserTurn
from usersim.users.dialogue import Assistant, converse
from usersim.users.protocols import User


class Played(Future):
    """Record of one benchmark conversation. It has no candidate reply; `index` counts repetitions."""

    candidate: int = 0
    assistant: NonEmpty
    user: str
    task: NonEmpty


@dataclass(frozen=True)
class ConversationJob:
    """One conversation to simulate. Its seed depends only on the context, so all assistants and users share it."""

    task: str
    assistant: AssistantSpec
    user: UserSpec | None
    """None: the assistant replies once."""
    context: Context
    index: int = 0

    @property
    def condition(self) -> tuple[str, str, str]:
        return self.task, self.user.name if self.user else "", self.assistant.name

    def seed(self, playing: Playing) -> int:
        return context_seed(playing.seed, self.context.id) + self.index

    def key(self, playing: Playing, *, assistant: str, user: str) -> str:
        """Hash of everything that the text depends on; `assistant` and `user` are cache keys (`cache_keys`)."""
        context = self.context.model_dump(mode="json", include={"id", "turns", "profile"})
        system = self.assistant.system_for(self.context)
        user_settings = [self.user.prompt, self.user.policy] if self.user else None
        parts = [playing.model_dump(mode="json"), context, system, assistant, user, user_settings, self.index]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


async def play(
    job: ConversationJob, user: User | None, assistant: Assistant, playing: Playing, *, key: str, retries: int
) -> Played:
    """Simulates one conversation. A UsersimError of either side is stored in the record's `error`."""
    meter, context_id = Meter(), job.context.id

    async def speak(profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None) -> UserTurn:
        assert user is not None  # never called where there are no user turns
        return await retry(
            lambda shift: one_turn(user, profile, turns, (seed or 0) + shift, context_id),
            retries=retries,
            retried=meter.retried,
        )

    async def reply(turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None) -> str:
        return await retry(
            lambda shift: one_reply(assistant, turns, system=system, seed=(seed or 0) + shift),
            retries=retries,
            retried=meter.retried,
        )

    conversation: Conversation | None = None
    error = None
    try:
        conversation = await converse(
            speak,
            reply,
            job.context.profile,
            turns=job.context.turns,
            max_user_turns=playing.turns if job.user else 0,
            system=job.assistant.system_for(job.context),
            seed=job.seed(playing),
            id="/".join((*job.condition, job.context.id, str(job.index))),
            source=str(getattr(user, "name", "nobody")),
            watch=meter,
        )
    except UsersimError as failure:
        error = error_text(failure)
    return Played(
        key=key,
        context=job.context.id,
        index=job.index,
        seed=job.seed(playing),
        assistant=job.assistant.name,
        user=job.user.name if job.user else "",
        task=job.task,
        conversation=conversation,
        error=error,
        cost=meter.cost(),
    )
