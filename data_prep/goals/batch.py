"""Goals for many conversations: bounded concurrency, each result kept at once, failures counted and left out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from data_prep.goals.annotations import Annotation
from data_prep.goals.journal import GoalJournal, key_of
from data_prep.goals.providers import GoalProvider, accepted
from usersim.chat_models.client import EndpointDown, NoAnswer
from usersim.errors import BackendError, UsersimError
from usersim.types import Conversation


@dataclass
class GoalRun:
    order: list[str] = field(default_factory=list)
    """Keys of the conversations read, in their order."""
    ids: set[str] = field(default_factory=set)
    resumed: int = 0
    repeated_ids: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    first_error: str | None = None

    async def write(
        self,
        provider: GoalProvider,
        conversations: Iterable[Conversation],
        journal: GoalJournal,
        *,
        concurrency: int,
        max_overlap: float,
        done: Callable[[], None],
    ) -> None:
        """Raises the first error that concerns more than one conversation; `journal` has what was done before."""
        waiting = self._missing(conversations, journal, done)

        async def work() -> None:
            for conversation in waiting:
                try:
                    made = await provider.annotate(conversation)
                except EndpointDown:
                    raise
                except BackendError as error:
                    self._fail(error)
                else:
                    made = accepted(made, conversation, max_overlap=max_overlap)
                    if isinstance(made, Annotation) and made.provenance is None:
                        made = made.model_copy(update={"provenance": provider.name})
                    journal.add(conversation, made)
                done()
                await asyncio.sleep(0)  # a provider that never waits must leave room for Ctrl-C

        stopped: UsersimError | None = None
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(work())
        except* UsersimError as errors:
            stopped = next(error for error in errors.exceptions if isinstance(error, UsersimError))
        if stopped is not None:
            raise stopped

    def _missing(
        self, conversations: Iterable[Conversation], journal: GoalJournal, done: Callable[[], None]
    ) -> Iterator[Conversation]:
        """One after another, whichever worker asks; in memory there are only those being worked on."""
        for conversation in conversations:
            if conversation.id in self.ids:
                # Goals are joined by id, so there can be only one.
                self.repeated_ids += 1
                done()
                continue
            self.ids.add(conversation.id)
            key = key_of(conversation)
            self.order.append(key)
            if key in journal:
                self.resumed += 1
                done()
            else:
                yield conversation

    def _fail(self, error: BackendError) -> None:
        reason = error.reason if isinstance(error, NoAnswer) else type(error).__name__
        self.failed[reason] += 1
        self.first_error = self.first_error or str(error)
