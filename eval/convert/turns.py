"""Conversion of chat messages to a Conversation: roles, stop marks, and counts of what is left out."""

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
"""Marks of a simulated user that end a conversation. Transfers to a human agent and leaving the script are not the
user's own wish to leave."""
SILENT_ROLES = frozenset({"tool", "function"})
ROLES: dict[str, Role] = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
SYSTEM = frozenset({"system", "developer"})


class Excluded(ValueError):
    """Conversation that cannot be converted; equal reasons have equal messages."""


@dataclass
class Converted:
    """Result of a conversion. `excluded` counts conversations by reason; `notes` counts changes to the converted
    ones."""

    conversations: list[Conversation] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def take(self, named_calls: Iterator[tuple[str, Any]]) -> Converted:
        """Adds conversations from (id, a call that returns the conversation or raises Excluded). A repeated id gets
        a number."""
        name_counts: Counter[str] = Counter()
        for name, call in named_calls:
            try:
                conversation = call()
            except Excluded as error:
                self.excluded[str(error)] += 1
                continue
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self.excluded[f"not of this layout ({type(error).__name__})"] += 1
                continue
            name_counts[name] += 1
            unique = name if name_counts[name] == 1 else f"{name}~{name_counts[name]}"
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
    """Builds a conversation from messages in order. Messages of tools and those without text are left out;
    neighbours of one role are joined by a blank line.

    A stop mark ends a user's message where it begins or ends the message, or ends a line of it. It decides
    `ended_by`: text before the mark stays, later text is dropped. A mark inside a sentence, a list or code is
    part of the text. Without a mark the end is `ended_by`. Raises Excluded.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise Excluded("no messages")
    system, raw_turns = None, list[tuple[Role, str]]()
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
            raw_turns.append((ROLES[role], text))
    kept_turns, ended_by = _until_mark(raw_turns, marks, ended_by, notes)
    turn_list = _joined(kept_turns, notes)
    if not any(turn.role == "user" for turn in turn_list):
        raise Excluded("no user turn")
    return Conversation(
        id="unnamed",
        origin=origin,
        source=source,
        system=system,
        turns=tuple(turn_list),
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
    raw_turns: Sequence[tuple[Role, str]],
    marks: Mapping[str, EndedBy],
    ended_by: EndedBy,
    notes: Counter[str],
) -> tuple[list[tuple[Role, str]], EndedBy]:
    if not marks:
        return list(raw_turns), ended_by
    any_mark = _mark_pattern(marks)
    for index, (role, text) in enumerate(raw_turns):
        match = any_mark.search(text) if role == "user" else None
        if match is not None:
            mark = match["mark"] or match["first"]
            notes[f"ended by {mark}"] += 1
            if later := len(raw_turns) - index - 1:
                notes["messages after a stop mark left out"] += later
            last = text[: match.start()].strip()
            return [*raw_turns[:index], *([(role, last)] if last else [])], marks[mark]
    return list(raw_turns), ended_by


def _mark_pattern(marks: Mapping[str, EndedBy]) -> re.Pattern[str]:
    """Returns a pattern for a mark that ends or begins a message, or ends a line, with the emphasis and quotes
    around it."""
    either = "|".join(map(re.escape, sorted(marks, key=len, reverse=True)))
    around = r"[*_`\"'~ \t]*"
    return re.compile(
        rf"{around}(?P<mark>{either}){around}[.!]?{around}(?=\n|\Z)|\A{around}(?P<first>{either})"
    )


def _joined(raw_turns: Sequence[tuple[Role, str]], notes: Counter[str]) -> list[Turn]:
    turns: list[Turn] = []
    for role, text in raw_turns:
        if turns and turns[-1].role == role:
            notes["messages joined to the one before"] += 1
            turns[-1] = Turn(role=role, text=f"{turns[-1].text}\n\n{text}")
        else:
            turns.append(Turn(role=role, text=text))
    return turns
