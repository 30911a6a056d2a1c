"""Records: the types of everything that crosses a file, a process or a package."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Role = Literal["user", "assistant"]
NonEmpty = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Record(BaseModel):
    """Base of all records: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class TextRecord(Record):
    """Record that can be written as a bare string, the value of its first field, in Python and in files.

    `Goal("cook for friends", facets=["no oven", "one guest is vegetarian"])`.
    """

    def __init__(self, text: str | None = None, /, **fields: Any) -> None:
        first = next(iter(type(self).model_fields))
        super().__init__(**({} if text is None else {first: text}), **fields)

    # Lets pydantic build one from a dict without calling it, as for its own RootModel.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {next(iter(cls.model_fields)): value} if isinstance(value, str) else value


class Turn(Record):
    """One message of a conversation."""

    role: Role
    text: str


class Facet(TextRecord):
    """One separable requirement of a goal."""

    if TYPE_CHECKING:

        def __init__(self, text: str, *, turn: int | None = None) -> None: ...

    text: NonEmpty
    turn: int | None = Field(default=None, ge=1)
    """User turn (from 1) that first revealed it in the human conversation, if there is one."""


class Goal(TextRecord):
    """Goal of the user for the whole conversation. It is never shown to the assistant."""

    if TYPE_CHECKING:

        def __init__(
            self, summary: str, *, facets: Sequence[Facet | str] = (), provenance: str | None = None
        ) -> None: ...

    summary: NonEmpty
    """High-level wish without the user's own wording, continuing "You want to"."""
    facets: tuple[Facet, ...] = ()
    provenance: str | None = None
    """Author of the goal: an annotation file, a teacher model or a person."""


class Style(Record):
    """Writing style of a person, measured on their turns by `usersim.text.style.measure`; None: not stated."""

    words_per_turn: float | None = Field(default=None, ge=0)
    """Median number of words per user turn."""
    opening_words: float | None = Field(default=None, ge=0)
    """Number of words of the first turn."""
    lowercase_starts: float | None = Field(default=None, ge=0, le=1)
    """Share of turns whose first letter is lower case."""
    questions: float | None = Field(default=None, ge=0, le=1)
    """Share of turns with a question mark."""
    politeness: float | None = Field(default=None, ge=0, le=1)
    """Share of turns with please, thanks, sorry and the like."""
    end_punctuation: float | None = Field(default=None, ge=0, le=1)
    """Share of turns that end in . ! ? or similar."""
    turns: float | None = Field(default=None, ge=0)
    """Number of user turns until the person leaves."""
    typos: float | None = Field(default=None, ge=0, le=100)
    """Typos per 100 lower-case words of English prose (`usersim.text.spelling`); not stated below eight such words."""
    imperatives: float | None = Field(default=None, ge=0, le=1)
    """Share of turns that open with an imperative verb of a list, after words like "ok now please"."""
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


class Persona(TextRecord):
    """Character and style of a user, independent of the goal."""

    if TYPE_CHECKING:

        def __init__(
            self, description: str = "", *, style: Style | None = None, language: str = "en"
        ) -> None: ...

    description: str = ""
    style: Style | None = None
    language: str = "en"


class UserProfile(Record):
    """Goal and persona of a user. Both None: an unconditional user."""

    goal: Goal | None = None
    persona: Persona | None = None


EndedBy = Literal["user", "turn_cap", "cut", "unknown"]


class Conversation(Record):
    """Conversation between a user and an assistant, human or simulated."""

    id: NonEmpty
    origin: Literal["human", "simulated"]
    source: NonEmpty
    """Corpus of a human conversation, or simulator of a simulated one."""
    system: str | None = None
    """System prompt of the assistant; the user never sees it."""
    turns: tuple[Turn, ...]
    profile: UserProfile = UserProfile()
    ended_by: EndedBy = "unknown"
    """user: the person left, or the model sampled the end. turn_cap, cut: the simulation or the corpus stopped it, so
    the
    last turn says nothing about ending."""
    group: str | None = None
    """Conversations of one group (same person, same opening, near-duplicates) stay in one split."""
    user: str | None = None
    """Digest of the author's id, if the corpus has one; the cluster of confidence intervals."""
    flags: tuple[str, ...] = ()
    """Labels of the corpus for the text: `toxic`, `redacted` …"""
    satisfied: Literal["yes", "no", "unclear"] | None = None
    """Judgement if the person seems to have got what they wanted; None: not judged."""
    unsaid: tuple[NonEmpty, ...] = ()
    """Wishes or facts that this person plausibly had and never said. They are not part of the profile. Training mixes
    some
    into the facets, so that the number of facets does not predict when a person leaves."""

    @model_validator(mode="after")
    def _alternates(self) -> Conversation:
        check_alternation(self.turns)
        return self


def check_alternation(turns: tuple[Turn, ...] | list[Turn]) -> None:
    """Raises ValueError naming the first turn with the same role as the one before."""
    for index, (before, after) in enumerate(pairwise(turns), start=1):
        if before.role == after.role:
            raise ValueError(f"turns must alternate: turns {index - 1} and {index} are both {after.role!r}")


class UserTurn(Record):
    """Sampled user turn. The end of the conversation is a field, decided by a token id and never by a substring."""

    text: str
    """Text of the turn; empty if `ends`."""
    ends: bool
    end_probability: float = Field(ge=0, le=1)
    """P(end of conversation) at the first token, at temperature 1, before any ban or threshold."""
    finish: Literal["stop", "length", "end"]
    logprob: float
    """Sum of log-probabilities of the sampled tokens in nats, from the raw model (temperature 1)."""
    tokens: int = Field(ge=0)
    """Number of sampled tokens, end tokens included."""
    prompt_tokens: int = Field(default=0, ge=0)
    seed: int | None = None
    rejected: tuple[str, ...] = ()
    """Reasons of the attempts that the guards rejected before this one."""
    drawn_tokens: int | None = Field(default=None, ge=0, exclude_if=lambda count: count is None)
    """Tokens of all candidates drawn for it, where it is the best of several (`Sampling.best_of`)."""

    @property
    def cost_tokens(self) -> int:
        """Tokens drawn for the turn: of all candidates, or its own."""
        return self.tokens if self.drawn_tokens is None else self.drawn_tokens
