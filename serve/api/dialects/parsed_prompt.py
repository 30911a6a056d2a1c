"""Result of parsing a client's prompt, and the stop markers that clients use for the end of a conversation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serve.http.errors import RequestError
from usersim.types import Facet, Goal, Turn, UserProfile, UserTurn

DEFAULT_STOP_MARKER = "###STOP###"
MARKER = re.compile(r"###[A-Z][A-Z_-]*###|\[\[[A-Z][A-Z _-]*\]\]|<\|[A-Z][A-Z_-]*\|>")
QUOTED_MARKER = re.compile(r'Use "([^"\n]{1,80})" as your response when')
SENTENCE = re.compile(r"[^.!?\n]+[.!?\n]*")
ENDING_WORD = re.compile(
    r"\b(?:ends?|ending|finish|finished|done|over|completed?|leave|stop|terminate|satisfied|goodbye|nothing else)\b",
    re.IGNORECASE,
)
REQUESTED_MARKER = re.compile(
    r"\b(?i:say|write|reply|respond|answer|output|type|send|use|emit|return|generate|print)"
    r"(?i:\s{1,3}(?:only|just|with|exactly|the|word|words|token|phrase|message|a|back)){0,4}\s{0,3}:?\s{0,3}[\"'`*“\u2018]{0,3}"
    r"(\[[A-Z][A-Z _-]{1,40}\]|\{[A-Z][A-Z _-]{1,40}\}|</[A-Za-z][\w-]{1,40}>|<[A-Z][A-Z_-]{1,40}>"
    r"|(?!JSON\b|YAML\b|HTML\b|TRUE\b|FALSE\b|NONE\b|NULL\b|ONLY\b|VALID\b)[A-Z][A-Z_-]{3,40}\b)"
)
"""Stop markers in other forms, accepted only in a sentence about ending that asks for them."""
EMPTY_TURN = "…"


@dataclass(frozen=True)
class ParsedPrompt:
    """Profile and history of a client's prompt, with the format of its replies."""

    profile: UserProfile
    history: list[Turn]
    """Turns with true roles."""
    format_reply: Callable[[UserTurn], str]
    """Builds the reply's content; never empty, not even for a turn that ends the conversation."""
    reply_keys: frozenset[str] = frozenset()
    """Keys of the JSON object that `format_reply` builds; empty: it builds plain text."""
    may_end: bool = True
    """False: the client has no stop marker, so the end is banned unless the request sets an end policy."""
    only_termination: bool = False
    """True: the client wants no turn, only the decision whether the user would leave."""


@dataclass(frozen=True)
class StopMarker:
    """Stop marker of a client: the whole reply when the end was sampled, and never part of another reply."""

    marker: str
    markers: frozenset[str]
    """All markers that would end the client's run."""

    @classmethod
    def from_instructions(cls, rules: str, *, default: str = DEFAULT_STOP_MARKER) -> StopMarker:
        """Reads the marker from a client's instructions.

        In this order: the quoted response that they ask for, `default` if they contain it or no marker, their first
        marker.
        """
        quoted = [name for name in QUOTED_MARKER.findall(rules) if name.strip()]
        matches = MARKER.findall(rules) or _requested_markers(rules)
        marker = quoted[-1] if quoted else default
        if not quoted and matches and default not in matches:
            marker = matches[0]
        return cls(marker, frozenset([marker, default, *quoted, *matches]))

    def content(self, turn: UserTurn) -> str:
        return self.marker if turn.ends else self.strip_markers(turn.text)

    def strip_markers(self, text: str) -> str:
        """Removes markers that the user copied from its goal, which would end the client's run; never empty."""
        cleaned = text
        # Removing one marker can join the halves of another.
        while any(marker in cleaned for marker in self.markers):
            for marker in self.markers:
                cleaned = cleaned.replace(marker, "")
        result = text if cleaned == text else cleaned.strip()
        return result if result.strip() else EMPTY_TURN


def _requested_markers(rules: str) -> list[str]:
    sentences = (sentence[0] for sentence in SENTENCE.finditer(rules))
    return [
        word
        for sentence in sentences
        if ENDING_WORD.search(sentence)
        for word in REQUESTED_MARKER.findall(sentence)
    ]


def names_end_marker(text: str, *, only_explicit: bool = False) -> bool:
    """Returns True if the text names a stop marker; `only_explicit`: in a form with no other meaning."""
    return bool(
        MARKER.search(text) or QUOTED_MARKER.search(text) or (not only_explicit and _requested_markers(text))
    )


def drop_end_instructions(text: str) -> str:
    """Removes sentences that ask for a stop marker: they instruct an actor and are no part of a person's goal.

    If nothing else remains, removes only the marker.
    """
    sentences = [sentence[0] for sentence in SENTENCE.finditer(text)]
    wishes = [
        sentence
        for sentence in sentences
        if not (ENDING_WORD.search(sentence) and names_end_marker(sentence))
    ]
    if len(wishes) == len(sentences):
        return text
    return "".join(wishes).strip() or MARKER.sub("", text).strip()


def as_goal(summary: str, details: Iterable[str] = ()) -> Goal | None:
    """Builds a goal; None if the summary is empty."""
    facets = tuple(Facet(text=detail) for detail in details if detail.strip())
    if not summary.strip():
        return None
    return Goal(summary=summary, facets=facets)


def unrecognised(reason: str) -> RequestError:
    return RequestError(reason, code="unrecognized_prompt", param="messages", status=422)
