"""Goal annotations from files, joined to conversations by id."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import model_validator

from usersim.errors import DataError
from usersim.records import read_records
from usersim.types import Conversation, Facet, Goal, NonEmpty, Persona, Record, UserProfile

LEAD = re.compile(r"^(?:the )?user (?:wants|seeks|needs|aims|intends|is trying) to ", re.IGNORECASE)

JOIN_COUNTS = ("joined", "facets_joined", "facets_after_last_turn", "repeated_ids")


class Annotation(Record):
    """One line of a goals file: facets with turns, or bare constraints."""

    id: NonEmpty
    goal: NonEmpty
    facets: tuple[Facet, ...] = ()
    constraints: tuple[NonEmpty, ...] = ()
    persona: str | None = None
    satisfied: Literal["yes", "no", "unclear"] | None = None
    """Not carried over: no record has a place for it yet."""

    @model_validator(mode="after")
    def _one_form(self) -> Annotation:
        if self.facets and self.constraints:
            raise ValueError("facets and constraints are two forms of the same thing: give one")
        return self


@dataclass
class Goals:
    by_id: dict[str, tuple[Annotation, str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    """How often the source has each annotated id."""

    def see(self, id_: str) -> None:
        if id_ in self.by_id:
            self.seen[id_] += 1

    def join(self, conversation: Conversation) -> Conversation:
        """Facets first revealed after the last turn kept are left out: nobody voices them."""
        annotation, provenance = self.by_id.get(conversation.id, (None, None))
        if annotation is None:
            return conversation
        if self.seen[conversation.id] > 1:
            # Which of the chats with this id was annotated is not known.
            self.counts["ambiguous_ids"] += 1
            return conversation
        user_turns = sum(turn.role == "user" for turn in conversation.turns)
        given = annotation.facets or tuple(Facet(text=text) for text in annotation.constraints)
        facets = tuple(facet for facet in given if facet.turn is None or facet.turn <= user_turns)
        self.counts["joined"] += 1
        self.counts["facets_joined"] += len(facets)
        self.counts["facets_after_last_turn"] += len(given) - len(facets)
        goal = Goal(summary=phrase(annotation.goal), facets=facets, provenance=provenance)
        persona = conversation.profile.persona or Persona()
        persona = persona.model_copy(update={"description": annotation.persona or ""})
        return conversation.model_copy(update={"profile": UserProfile(goal=goal, persona=persona)})

    def summary(self) -> dict[str, int]:
        """`id_not_in_source` and `conversation_rejected` are of annotations, like `joined`."""
        known, joined = len(self.by_id), self.counts["joined"]
        ambiguous = self.counts["ambiguous_ids"]
        return {
            "annotations": known,
            "id_not_in_source": known - len(self.seen),
            "conversation_rejected": len(self.seen) - joined - ambiguous,
            "ambiguous_ids": ambiguous,
            **{name: self.counts[name] for name in JOIN_COUNTS},
        }


def phrase(goal: str) -> str:
    """Reads on from "You want to": no "User wants to", no capital, no full stop."""
    text = LEAD.sub("", goal.strip()).rstrip(".").strip() or goal.strip()
    word = text.split()[0]
    return text[0].lower() + text[1:] if word[1:].islower() else text


def read_goals(paths: Iterable[Path]) -> Goals:
    """The first annotation of an id counts. Raises DataError naming path:line."""
    goals = Goals()
    for path in paths:
        empty = True
        for annotation in read_records(path, Annotation):
            empty = False
            if annotation.id in goals.by_id:
                goals.counts["repeated_ids"] += 1
            else:
                goals.by_id[annotation.id] = (annotation, path.name.split(".jsonl")[0])
        if empty:
            raise DataError(f"{path}: no annotation in it")
    return goals
