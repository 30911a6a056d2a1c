"""Chat messages to a Conversation: roles, stop marks, what is left out and counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from usersim.types import Conversation, EndedBy, Role, Turn, UserProfile

MARKS: dict[str, EndedBy] = {
    "###STOP###": "user",
    "###TRANSFER###": "cut",
    "###OUT-OF-SCOPE###": "cut",
    "###DONE###": "user",
    "[[TERMINATE CHAT]]": "user",
    "<|endconversation|>": "user",
    "[DONE]": "user",
}
"""Words of a simulated user that end a conversation. Transferred to a human agent, or off the script: not the user's
own wish to leave."""
SILENT_ROLES = frozenset({"tool", "function"})
ROLES: dict[str, Role] = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
SYSTEM = frozenset({"system", "developer"})


class Excluded(ValueError):
    """One conversation cannot be taken over; the message is the same words for the same reason."""


@dataclass
class Converted:
    """What came out of a file. `excluded`: conversations by reason; `notes`: what was done to those that were kept."""

    conversations: list[Conversation] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def take(self, made: Iterator[tuple[str, Any]]) -> Converted:
        """Of (id, a call that makes the conversation or raises Excluded). An id that repeats gets a number."""
        seen: Counter[str] = Counter()
        for name, make in made:
            try:
                conversation = make()
            except Excluded as error:
                self.excluded[str(error)] += 1
                continue
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.excluded[f"not of this layout ({type(error).__name__})"] += 1
                continue
            seen[name] += 1
            unique = name if seen[name] == 1 else f"{name}~{seen[name]}"
            self.conversations.append(conversation.model_copy(update={"id": unique}))
        return self


def conversation(
    messages: object,
    *,
    source: str,
    origin: Literal["human", "simulated"] = "simulated",
    marks: Mapping[str, EndedBy] = MARKS,
    ended_by: EndedBy = "unknown",
    profile: UserProfile | None = None,
    group: str | None = None,
    notes: Counter[str],
) -> Conversation:
    """Turns in order: messages of tools and those without text left out, neighbours of one role joined by a blank line.

    A stop mark that begins or ends a user's message, or ends a line of it, ends the message there and
    decides `ended_by`; what was said before the mark stays, what came later is dropped. A mark inside a sentence, a
    list or code is what the user talks about. Without a mark the end is `ended_by`. Raises Excluded.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise Excluded("no messages")
    system, spoken = None, list[tuple[Role, str]]()
    for message in messages:
        role, text = _read(message)
        if role in SYSTEM:
            system = text or system
        elif role in SILENT_ROLES:
            notes["messages of tools left out"] += 1
        elif role not in ROLES:
            raise Excluded(f"a message of role {role!r}")
        elif not text:
            notes["messages without text left out"] += 1
        else:
            spoken.append((ROLES[role], text))
    turns, ended_by = _until_mark(spoken, marks, ended_by, notes)
    joined = _joined(turns, notes)
    if not any(turn.role == "user" for turn in joined):
        raise Excluded("no user turn")
    return Conversation(
        id="unnamed",
        origin=origin,
        source=source,
        system=system,
        turns=tuple(joined),
        profile=profile or UserProfile(),
        ended_by=ended_by,
        group=group,
    )


def _read(message: object) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise Excluded("a message that is no object")
    content = message.get("content")
    if isinstance(content, list):  # OpenAI's parts
        texts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(text for text in texts if isinstance(text, str))
    if not isinstance(content, str | None):
        raise Excluded("a message whose content is no text")
    return str(message.get("role")), (content or "").strip()


def _until_mark(
    spoken: Sequence[tuple[Role, str]],
    marks: Mapping[str, EndedBy],
    ended_by: EndedBy,
    notes: Counter[str],
) -> tuple[list[tuple[Role, str]], EndedBy]:
    if not marks:
        return list(spoken), ended_by
    any_mark = _standing(marks)
    for place, (role, text) in enumerate(spoken):
        found = any_mark.search(text) if role == "user" else None
        if found is not None:
            mark = found["mark"] or found["first"]
            notes[f"ended by {mark}"] += 1
            if later := len(spoken) - place - 1:
                notes["messages after a stop mark left out"] += later
            last = text[: found.start()].strip()
            return [*spoken[:place], *([(role, last)] if last else [])], marks[mark]
    return list(spoken), ended_by


def _standing(marks: Mapping[str, EndedBy]) -> re.Pattern[str]:
    """A mark that ends or begins a message, or ends a line, with the emphasis and quotes around it."""
    either = "|".join(map(re.escape, sorted(marks, key=len, reverse=True)))
    around = r"[*_`\"'~ \t]*"
    return re.compile(
        rf"{around}(?P<mark>{either}){around}[.!]?{around}(?=\n|\Z)|\A{around}(?P<first>{either})"
    )


def _joined(spoken: Sequence[tuple[Role, str]], notes: Counter[str]) -> list[Turn]:
    turns: list[Turn] = []
    for role, text in spoken:
        if turns and turns[-1].role == role:
            notes["messages joined to the one before"] += 1
            turns[-1] = Turn(role=role, text=f"{turns[-1].text}\n\n{text}")
        else:
            turns.append(Turn(role=role, text=text))
    return turns
