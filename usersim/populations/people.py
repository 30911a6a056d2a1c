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
    """Person of chat logs, measured on one of their conversations."""

    source: str
    style: Style
    """Style measured on the conversation. `turns` is its number of user turns, also if it was cut."""
    leaves: bool
    """True if the person ended the conversation, so that `turns` is their patience."""
    traits: frozenset[str] | None
    """Traits of the persona; None if it has no description."""

    @property
    def turns(self) -> int:
        return int(self.style.turns or 0)


def people_of(conversations: Iterable[Conversation]) -> list[LoggedPerson]:
    """Measures one conversation per person; without a recorded `user`, each conversation is another person's.

    The conversation is chosen by a hash of its id, so the choice does not depend on their order.

    Raises:
        DataError: A conversation is simulated.
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
