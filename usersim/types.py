"""The records: everything that crosses a file, a process or a package is one of these."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Role = Literal["user", "assistant"]
NonEmpty = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Record(BaseModel):
    """Frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Wording(Record):
    """A record that a bare string stands for: its first field, in Python and in files alike.

    `Goal("cook for friends", facets=["no oven", "one guest is vegetarian"])`.
    """

    def __init__(self, text: str | None = None, /, **fields: Any) -> None:
        first = next(iter(type(self).model_fields))
        super().__init__(**({} if text is None else {first: text}), **fields)

    # Pydantic then builds one from a dict without calling it, as it does for its own RootModel.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {next(iter(cls.model_fields)): given} if isinstance(given, str) else given


class Turn(Record):
    role: Role
    text: str


class Facet(Wording):
    """One separable requirement of a goal."""

    if TYPE_CHECKING:

        def __init__(self, text: str, *, turn: int | None = None) -> None: ...

    text: NonEmpty
    turn: int | None = Field(default=None, ge=1)
    """The user turn (from 1) that first revealed it in the human trace, where there is one."""


class Goal(Wording):
    """What the user wants over the whole conversation. Never shown to the assistant."""

    if TYPE_CHECKING:

        def __init__(
            self, summary: str, *, facets: Sequence[Facet | str] = (), provenance: str | None = None
        ) -> None: ...

    summary: NonEmpty
    """High level, none of the user's wording, reads on from "You want to"."""
    facets: tuple[Facet, ...] = ()
    provenance: str | None = None
    """Who wrote it: an annotation file, a teacher model, a person."""


class Style(Record):
    """How somebody writes, measured from their own turns by `usersim.text.style.measure`; None = not stated."""

    words_per_turn: float | None = Field(default=None, ge=0)
    """Median words of a user turn."""
    opening_words: float | None = Field(default=None, ge=0)
    """Words of the first turn."""
    lowercase_starts: float | None = Field(default=None, ge=0, le=1)
    """Share of turns whose first letter is lower case."""
    questions: float | None = Field(default=None, ge=0, le=1)
    """Share of turns with a question mark."""
    politeness: float | None = Field(default=None, ge=0, le=1)
    """Share of turns with please, thanks, sorry and the like."""
    end_punctuation: float | None = Field(default=None, ge=0, le=1)
    """Share of turns that end in . ! ? or similar."""
    turns: float | None = Field(default=None, ge=0)
    """User turns until the person leaves."""
    typos: float | None = Field(default=None, ge=0, le=100)
    """Typos per 100 lower-case words of English prose (`usersim.text.spelling`); not stated below eight such words."""
    imperatives: float | None = Field(default=None, ge=0, le=1)
    """Share of turns that open with a bare verb of a list, after words like "ok now please"."""
    pushback: float | None = Field(default=None, ge=0, le=1)
    """Share of the turns after the first that object or correct: "no", "that's not", "I said", "you didn't"."""
    chat_speak: float | None = Field(default=None, ge=0, le=1)
    """Share of turns with an abbreviation of chat or a dropped apostrophe: u, pls, idk, im, dont."""
    first_person: float | None = Field(default=None, ge=0, le=1)
    """Share of turns whose prose says I, my, mine or myself."""
    expressive_marks: float | None = Field(default=None, ge=0, le=1)
    """Share of turns whose prose has "!", "??" or dots ("...")."""
    code_share: float | None = Field(default=None, ge=0, le=1)
    """Share of the characters that are code: inside ``` fences, or in lines that look like it."""
    line_breaks: float | None = Field(default=None, ge=0, le=1)
    """Share of turns of more than one line."""
    length_spread: float | None = Field(default=None, ge=0)
    """Mean over turns of |ln((1 + words) / (1 + median words))|; not stated for one turn."""


class Persona(Wording):
    """Who is talking and how; says nothing about the goal."""

    if TYPE_CHECKING:

        def __init__(
            self, description: str = "", *, style: Style | None = None, language: str = "en"
        ) -> None: ...

    description: str = ""
    style: Style | None = None
    language: str = "en"


class UserProfile(Record):
    """The only place where goal and persona meet. Both None: an unconditional user."""

    goal: Goal | None = None
    persona: Persona | None = None


EndedBy = Literal["user", "turn_cap", "cut", "unknown"]


class Conversation(Record):
    id: NonEmpty
    origin: Literal["human", "simulated"]
    source: NonEmpty
    """Corpus of a human conversation, name of the simulator of a simulated one."""
    system: str | None = None
    """The assistant's system prompt; the user never sees it."""
    turns: tuple[Turn, ...]
    profile: UserProfile = UserProfile()
    ended_by: EndedBy = "unknown"
    """user: the person left, or the model sampled the end. turn_cap, cut: we or the corpus stopped it, so
    the last turn says nothing about ending."""
    group: str | None = None
    """Conversations of one group (same person, same opening, near-duplicates) stay in one split."""
    user: str | None = None
    """Digest of who wrote it, where the corpus says so; the cluster of intervals."""
    flags: tuple[str, ...] = ()
    """What the corpus says about the text: `toxic`, `redacted` …"""
    satisfied: Literal["yes", "no", "unclear"] | None = None
    """Whether the person seemed to have got what they wanted, where somebody judged it."""
    unsaid: tuple[NonEmpty, ...] = ()
    """What this person plausibly wanted or knew and never said. No part of the profile, so nothing shows it; training
    mixes some into the facets, for their number must not say when a person leaves."""

    @model_validator(mode="after")
    def _alternates(self) -> Conversation:
        check_alternation(self.turns)
        return self


def check_alternation(turns: tuple[Turn, ...] | list[Turn]) -> None:
    """Raises ValueError naming the first turn that repeats its predecessor's role."""
    for index, (before, after) in enumerate(pairwise(turns), start=1):
        if before.role == after.role:
            raise ValueError(f"turns must alternate: turns {index - 1} and {index} are both {after.role!r}")


class UserTurn(Record):
    """One sampled user turn. The end is a field, decided by a token id and never by a substring."""

    text: str
    """Empty when `ends`."""
    ends: bool
    end_probability: float = Field(ge=0, le=1)
    """P(end of conversation) at the first token, at temperature 1 and before any ban or threshold."""
    finish: Literal["stop", "length", "end"]
    logprob: float
    """Sum over the sampled tokens, nats, raw model distribution (temperature 1)."""
    tokens: int = Field(ge=0)
    """Sampled tokens, end tokens included."""
    prompt_tokens: int = Field(default=0, ge=0)
    seed: int | None = None
    rejected: tuple[str, ...] = ()
    """Reasons of the guards for the attempts thrown away before this one."""
    drawn_tokens: int | None = Field(default=None, ge=0, exclude_if=lambda count: count is None)
    """Tokens of all candidates drawn for it, where it is the best of several (`Sampling.best_of`)."""

    @property
    def cost_tokens(self) -> int:
        """Tokens that it cost: of all its candidates, or its own."""
        return self.tokens if self.drawn_tokens is None else self.drawn_tokens
