"""Goals for many conversations, with bounded concurrency. Results are saved at once; failures are counted."""

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
    """State and counts of one run of `usersim data goals`."""

    order: list[str] = field(default_factory=list)
    """Journal keys of the conversations, in their order."""
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
        """Writes the goals of all conversations to the journal.

        Args:
            journal: finished results, which are not repeated.
            concurrency: conversations at a time.
            max_overlap: largest share of n-grams that the person wrote.
            done: called after each conversation.

        Raises:
            UsersimError: an error that concerns more than one conversation; the journal keeps earlier results.
        """
        missing = self._missing(conversations, journal, done)

        async def work() -> None:
            for conversation in missing:
                try:
                    result = await provider.annotate(conversation)
                except EndpointDown:
                    raise
                except BackendError as error:
                    self._fail(error)
                else:
                    result = accepted(result, conversation, max_overlap=max_overlap)
                    if isinstance(result, Annotation) and result.provenance is None:
                        result = result.model_copy(update={"provenance": provider.name})
                    journal.add(conversation, result)
                done()
                await asyncio.sleep(0)  # a provider that never waits must leave room for Ctrl-C

        fatal: UsersimError | None = None
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(work())
        except* UsersimError as errors:
            fatal = next(error for error in errors.exceptions if isinstance(error, UsersimError))
        if fatal is not None:
            raise fatal

    def _missing(
        self, conversations: Iterable[Conversation], journal: GoalJournal, done: Callable[[], None]
    ) -> Iterator[Conversation]:
        """Yields the conversations without a result, one at a time to whichever worker asks; bounds memory."""
        for conversation in conversations:
            if conversation.id in self.ids:
                # Goals are joined by id, so an id has only one.
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
