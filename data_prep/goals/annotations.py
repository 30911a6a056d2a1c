"""Goal annotations from files, joined to conversations by id."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from pydantic import model_validator

from data_prep.goals.overlap import MAX_OVERLAP, N, overlap, user_texts
from usersim.errors import DataError
from usersim.storage.records import read_records
from usersim.types import Conversation, Facet, Goal, NonEmpty, Persona, Record, UserProfile

LEAD = re.compile(
    r"^(?:(?:the )?(?:user|person|human)|they|you) (?:wants?|seeks?|needs?|aims?|intends?|tries|try|"
    r"(?:is|are) trying|would like)(?P<to> to)? ",
    re.IGNORECASE,
)

JOIN_COUNTS = ("joined", "facets_joined", "facets_after_last_turn", "satisfied_joined", "repeated_ids")


class Annotation(Record):
    """One line of a goals file: facets with turns, or bare constraints; beside them what was never said."""

    id: NonEmpty
    goal: NonEmpty
    facets: tuple[Facet, ...] = ()
    constraints: tuple[NonEmpty, ...] = ()
    persona: str | None = None
    satisfied: Literal["yes", "no", "unclear"] | None = None
    unsaid: tuple[NonEmpty, ...] = ()
    """What this person plausibly wanted or knew and never said."""
    provenance: str | None = None
    """Who wrote it. Not said: the file's name counts."""

    @model_validator(mode="after")
    def _one_form(self) -> Annotation:
        if self.facets and self.constraints:
            raise ValueError("facets and constraints are two forms of the same thing: give one")
        return self

    @property
    def requirements(self) -> tuple[Facet, ...]:
        return self.facets or tuple(Facet(text=text) for text in self.constraints)


@dataclass
class Goals:
    by_id: dict[str, tuple[Annotation, str]] = field(default_factory=dict)
    """The annotation of an id, and who wrote it."""
    personas: dict[str, str] = field(default_factory=dict)
    """Free-text persona of an id; may be replaced before joining, so that it does not give the goal away."""
    masked: set[str] = field(default_factory=set)
    """Ids whose persona was masked before: it does not give the goal away."""
    counts: Counter[str] = field(default_factory=Counter)
    by_provenance: Counter[str] = field(default_factory=Counter)
    """Of the goals joined."""
    seen: Counter[str] = field(default_factory=Counter)
    """How often the source has each annotated id."""
    overlaps: array[float] = field(default_factory=lambda: array("f"))
    """Share of each joined summary that is the person's own wording."""

    def add(self, annotation: Annotation, provenance: str, *, masked: bool = False) -> None:
        """The first annotation of an id counts. `masked`: its persona does not give the goal away."""
        if annotation.id in self.by_id:
            self.counts["repeated_ids"] += 1
            return
        self.by_id[annotation.id] = (annotation, annotation.provenance or provenance)
        if annotation.persona:
            self.personas[annotation.id] = annotation.persona
        if masked:
            self.masked.add(annotation.id)

    def see(self, id_: str) -> None:
        if id_ in self.by_id:
            self.seen[id_] += 1

    def personas_seen(self) -> Iterator[tuple[str, str, str]]:
        """(id, persona, goal summary) of the annotations whose chat the source has."""
        for id_, persona in self.personas.items():
            if self.seen[id_]:
                yield id_, persona, phrase(self.by_id[id_][0].goal)

    def replace_personas(self, personas: Mapping[str, str]) -> None:
        self.personas |= personas

    def join(self, conversation: Conversation) -> Conversation:
        """Facets first revealed after the last turn kept are left out: nobody voices them."""
        annotation, provenance = self.by_id.get(conversation.id, (None, ""))
        if annotation is None:
            return conversation
        if self.seen[conversation.id] > 1:
            # Which of the chats with this id was annotated is not known.
            self.counts["ambiguous_ids"] += 1
            return conversation
        texts = user_texts(conversation)
        given = annotation.requirements
        facets = tuple(facet for facet in given if facet.turn is None or facet.turn <= len(texts))
        goal = Goal(summary=phrase(annotation.goal), facets=facets, provenance=provenance)
        persona = conversation.profile.persona or Persona()
        written = self.personas.get(conversation.id, persona.description)
        persona = persona.model_copy(update={"description": written})
        # A verdict on a chat whose end was cut off here speaks of turns that nobody can see.
        whole = len(facets) == len(given)
        satisfied = (annotation.satisfied if whole else None) or conversation.satisfied
        self._count(goal, len(given), texts, satisfied is not None)
        profile = UserProfile(goal=goal, persona=persona)
        joined = {"profile": profile, "satisfied": satisfied, "unsaid": annotation.unsaid}
        return conversation.model_copy(update=joined)

    def _count(self, goal: Goal, given: int, texts: list[str], satisfied: bool) -> None:
        self.counts["joined"] += 1
        self.counts["facets_joined"] += len(goal.facets)
        self.counts["facets_after_last_turn"] += given - len(goal.facets)
        self.counts["satisfied_joined"] += satisfied
        self.by_provenance[goal.provenance or ""] += 1
        self.overlaps.append(overlap(goal.summary, texts))

    def summary(self) -> dict[str, Any]:
        """`id_not_in_source` and `conversation_rejected` are of annotations, like `joined`."""
        known, joined = len(self.by_id), self.counts["joined"]
        ambiguous = self.counts["ambiguous_ids"]
        return {
            "annotations": known,
            "id_not_in_source": known - len(self.seen),
            "conversation_rejected": len(self.seen) - joined - ambiguous,
            "ambiguous_ids": ambiguous,
            **{name: self.counts[name] for name in JOIN_COUNTS},
            "provenance": dict(self.by_provenance.most_common()),
            "wording_shared_with_user": overlap_figures(self.overlaps),
        }


def overlap_figures(overlaps: array[float], bound: float = MAX_OVERLAP) -> dict[str, float] | None:
    """Of summaries: the share of word n-grams that the person wrote too. None without any summary."""
    if not overlaps:
        return None
    return {
        "ngram_words": N,
        "median": round(median(overlaps), 4),
        "mean": round(fmean(overlaps), 4),
        "bound": bound,
        "share_above_bound": round(sum(value > bound for value in overlaps) / len(overlaps), 4),
    }


def phrase(goal: str) -> str:
    """Reads on from "You want to": no "User wants to", no capital, no full stop."""
    text = LEAD.sub(lambda lead: "" if lead["to"] else "get ", goal.strip())
    text = re.sub(r"^to (?=\w)", "", text, flags=re.IGNORECASE).rstrip(".").strip() or goal.strip()
    word = text.split()[0]
    return text[0].lower() + text[1:] if word[1:].islower() else text


def read_goals(paths: Iterable[Path]) -> Goals:
    """The first annotation of an id counts. Raises DataError naming path:line."""
    goals = Goals()
    for path in paths:
        empty = True
        for annotation in read_records(path, Annotation):
            empty = False
            goals.add(annotation, path.name.split(".jsonl")[0])
        if empty:
            raise DataError(f"{path}: no annotation in it")
    return goals
