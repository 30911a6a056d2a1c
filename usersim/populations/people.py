"""People of chat logs, one conversation each: measured style, patience and persona traits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from usersim.errors import DataError
from usersim.populations.traits import traits_of
from usersim.text.style import measure
from usersim.types import Conversation, Style


@dataclass(frozen=True)
class LoggedPerson:
    """One person as a conversation of theirs shows them."""

    source: str
    style: Style
    """Measured anew. `turns` is the number of user turns seen, whether or not the person left by then."""
    leaves: bool
    """Whether the conversation ended by the person's own leaving, so that `turns` is their patience."""
    traits: frozenset[str] | None
    """None: the persona has no description."""

    @property
    def turns(self) -> int:
        return int(self.style.turns or 0)


def people_of(conversations: Iterable[Conversation]) -> list[LoggedPerson]:
    """One conversation of each person; where no `user` is recorded, each conversation is another person's.

    Which of a person's conversations counts follows from a hash of its id, so it does not depend on their order.

    Raises:
        DataError: a conversation is simulated.
    """
    chosen: dict[str, tuple[str, Conversation]] = {}
    for number, conversation in enumerate(conversations):
        if conversation.origin != "human":
            raise DataError(
                f"{conversation.id} is simulated; a population is fitted to and compared with people only"
            )
        if not any(turn.role == "user" for turn in conversation.turns):
            continue
        name = f"{conversation.source}\x1f{conversation.id}"
        person = f"u{conversation.user}" if conversation.user is not None else f"c{number}"
        key = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        if person not in chosen or key < chosen[person][0]:
            chosen[person] = key, conversation
    return [_person(conversation) for _, conversation in chosen.values()]


def _person(conversation: Conversation) -> LoggedPerson:
    persona = conversation.profile.persona
    description = persona.description.strip() if persona else ""
    return LoggedPerson(
        source=conversation.source,
        style=measure(conversation.turns),
        leaves=conversation.ended_by == "user",
        traits=traits_of(description) if description else None,
    )
