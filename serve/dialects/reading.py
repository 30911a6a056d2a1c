"""What a client's messages come down to, and what it wants to read back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serve.errors import RequestError
from usersim.types import Facet, Goal, Turn, UserProfile, UserTurn

STOP = "###STOP###"
MARKER = re.compile(r"###[A-Z][A-Z_-]*###|\[\[[A-Z][A-Z _-]*\]\]|<\|[A-Z][A-Z_-]*\|>")
NAMED = re.compile(r'Use "([^"\n]{1,80})" as your response when')
NOTHING = "…"


@dataclass(frozen=True)
class Reading:
    profile: UserProfile
    history: list[Turn]
    """True roles."""
    write: Callable[[UserTurn], str]
    """The content for the client; never empty, not even for a turn that ends the conversation."""
    keys: frozenset[str] = frozenset()
    """Of the JSON object that `write` makes; none: it makes plain text."""
    may_end: bool = True
    """False: the client has no word for the end, so the end is banned unless the request says otherwise."""
    only_leaving: bool = False
    """The client asks no turn, but whether the user would leave."""


@dataclass(frozen=True)
class Ending:
    """The client's word for the end: said alone when the end was sampled, and never among ordinary words."""

    marker: str
    markers: frozenset[str]
    """Every word that would end the client's run."""

    @classmethod
    def of(cls, rules: str, *, default: str = STOP) -> Ending:
        """Read from the client's instructions: the marker that they name as the response to give; else
        `default`, where it is among those found or several are; else the one found."""
        named = [name for name in NAMED.findall(rules) if name.strip()]
        found = MARKER.findall(rules)
        marker = named[-1] if named else default
        if not named and found and default not in found:
            marker = found[0]
        return cls(marker, frozenset([marker, default, *named, *found]))

    def content(self, turn: UserTurn) -> str:
        return self.marker if turn.ends else self.without(turn.text)

    def without(self, text: str) -> str:
        """A user who copies a marker out of its goal must not end the client's run; nor may a turn be empty."""
        cleaned = text
        # Taking one out can join the halves of another.
        while any(marker in cleaned for marker in self.markers):
            for marker in self.markers:
                cleaned = cleaned.replace(marker, "")
        return (text if cleaned == text else cleaned.strip()) or NOTHING


def names_an_end(text: str) -> bool:
    return bool(MARKER.search(text) or NAMED.search(text))


def as_goal(summary: str, details: Iterable[str] = ()) -> Goal | None:
    """None where nothing is said."""
    facets = tuple(Facet(text=detail) for detail in details if detail.strip())
    if not summary.strip():
        return None
    return Goal(summary=summary, facets=facets)


def unrecognised(why: str) -> RequestError:
    return RequestError(why, code="unrecognized_prompt", param="messages", status=422)
