"""What a client's messages come down to, and what it wants to read back."""

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
"""Other forms of a word for the end: only where a sentence about ending asks for it."""
EMPTY_TURN = "…"


@dataclass(frozen=True)
class ParsedPrompt:
    profile: UserProfile
    history: list[Turn]
    """True roles."""
    format_reply: Callable[[UserTurn], str]
    """The content for the client; never empty, not even for a turn that ends the conversation."""
    reply_keys: frozenset[str] = frozenset()
    """Of the JSON object that `write` makes; none: it makes plain text."""
    may_end: bool = True
    """False: the client has no word for the end, so the end is banned unless the request says otherwise."""
    only_termination: bool = False
    """The client asks no turn, but whether the user would leave."""


@dataclass(frozen=True)
class StopMarker:
    """The client's word for the end: said alone when the end was sampled, and never among ordinary words."""

    marker: str
    markers: frozenset[str]
    """Every word that would end the client's run."""

    @classmethod
    def from_instructions(cls, rules: str, *, default: str = DEFAULT_STOP_MARKER) -> StopMarker:
        """Read from the client's instructions: the marker that they name as the response to give; else
        `default`, where it is among those found or several are; else the one found."""
        quoted = [name for name in QUOTED_MARKER.findall(rules) if name.strip()]
        matches = MARKER.findall(rules) or _requested_markers(rules)
        marker = quoted[-1] if quoted else default
        if not quoted and matches and default not in matches:
            marker = matches[0]
        return cls(marker, frozenset([marker, default, *quoted, *matches]))

    def content(self, turn: UserTurn) -> str:
        return self.marker if turn.ends else self.strip_markers(turn.text)

    def strip_markers(self, text: str) -> str:
        """A user who copies a marker out of its goal must not end the client's run; nor may a turn be empty."""
        cleaned = text
        # Taking one out can join the halves of another.
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
    """`surely`: in a form that stands for nothing else."""
    return bool(
        MARKER.search(text) or QUOTED_MARKER.search(text) or (not only_explicit and _requested_markers(text))
    )


def drop_end_instructions(text: str) -> str:
    """`text` less the sentences that ask for a word at the end: instructions for an actor, and no wish of a person.
    Less that word alone where nothing else stands in it."""
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
    """None where nothing is said."""
    facets = tuple(Facet(text=detail) for detail in details if detail.strip())
    if not summary.strip():
        return None
    return Goal(summary=summary, facets=facets)


def unrecognised(reason: str) -> RequestError:
    return RequestError(reason, code="unrecognized_prompt", param="messages", status=422)
