"""Record of a context: conversation history, hidden user profile, and candidate replies to score."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from usersim.errors import DataError
from usersim.storage.records import explain, read_jsonl
from usersim.types import Goal, NonEmpty, Persona, Record, Turn, UserProfile, check_alternation
from usersim.users.protocols import as_profile

Split = Literal["train", "heldout"]


class Context(Record):
    id: NonEmpty
    turns: tuple[Turn, ...]
    """History. It ends with the user turn that the candidates answer."""
    profile: UserProfile = UserProfile()
    candidates: tuple[NonEmpty, ...] = ()
    """Replies to score. Empty: they are sampled from the assistant."""
    system: str | None = None
    """System prompt of the assistant."""
    split: Split = "train"
    topic: str = ""
    phrases: tuple[tuple[NonEmpty, ...], ...] = ()
    """Phrases that mark each facet of the goal as served. Empty: the content words of the facet."""
    reference: str | None = None
    """Reference text of a perfect result, for rewards by similarity (`bleu`)."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Inputs of rewards: `answer` (`accuracy`), `tests` and `entry_point` (`pass_rate`), `ambiguous`."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Context:
        check_alternation(self.turns)
        if not self.turns or self.turns[-1].role != "user":
            raise ValueError("turns must end with the user's turn that the candidates answer")
        facets = self.profile.goal.facets if self.profile.goal else ()
        if self.phrases and len(self.phrases) != len(facets):
            raise ValueError(f"{len(self.phrases)} lists of phrases for {len(facets)} facets")
        return self


def read_contexts(path: str | Path) -> list[Context]:
    """Reads contexts from JSON Lines of {id, turns, profile | goal and persona, candidates?, …}.

    Turns have `text` or `content`.

    Raises:
        DataError: a line is invalid, an id repeats, or the file is empty.
    """
    contexts: dict[str, Context] = {}
    for number, value in read_jsonl(path):
        location = f"{path}:{number}"
        try:
            context = Context.model_validate(_plain(value))
        except ValidationError as error:
            raise DataError(f"{location}: {explain(error)}") from error
        except (TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{location}: needs an object with id and turns ({error})") from error
        if context.id in contexts:
            raise DataError(f"{location}: id {context.id!r} repeats an earlier line")
        contexts[context.id] = context
    if not contexts:
        raise DataError(f"{path}: no contexts in it")
    return list(contexts.values())


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Converts `messages`, `content`, and a goal or persona given as a string to the fields of the record."""
    value = dict(value)
    turns = value.pop("turns", None) or value.pop("messages", ())
    value["turns"] = [{("text" if k == "content" else k): v for k, v in turn.items()} for turn in turns]
    if "goal" in value or "persona" in value:
        if "profile" in value:
            raise ValueError("give profile, or goal and persona, not both")
        goal, persona = value.pop("goal", None), value.pop("persona", None)
        value["profile"] = as_profile(
            Goal.model_validate(goal) if isinstance(goal, dict) else goal,
            Persona.model_validate(persona) if isinstance(persona, dict) else persona,
        )
    return value
