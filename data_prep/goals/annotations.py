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
    """One line of a goals file: a goal with facets by turn, or with bare constraints."""

    id: NonEmpty
    goal: NonEmpty
    facets: tuple[Facet, ...] = ()
    constraints: tuple[NonEmpty, ...] = ()
    persona: str | None = None
    satisfied: Literal["yes", "no", "unclear"] | None = None
    unsaid: tuple[NonEmpty, ...] = ()
    """Wishes or knowledge that the person plausibly had and never stated."""
    provenance: str | None = None
    """Writer of the goal (default: the name of the file)."""

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
    """Annotation and provenance by id."""
    personas: dict[str, str] = field(default_factory=dict)
    """Free-text persona by id; masking may replace it before joining."""
    masked: set[str] = field(default_factory=set)
    """Ids whose persona is already masked."""
    counts: Counter[str] = field(default_factory=Counter)
    by_provenance: Counter[str] = field(default_factory=Counter)
    """Joined goals by provenance."""
    chats_by_id: Counter[str] = field(default_factory=Counter)
    """Chats in the sources by annotated id."""
    overlaps: array[float] = field(default_factory=lambda: array("f"))
    """Share of each joined summary that is the wording of the person."""

    def add(self, annotation: Annotation, provenance: str, *, masked: bool = False) -> None:
        """Adds an annotation; the first of an id counts. `masked`: its persona is already masked."""
        if annotation.id in self.by_id:
            self.counts["repeated_ids"] += 1
            return
        self.by_id[annotation.id] = (annotation, annotation.provenance or provenance)
        if annotation.persona:
            self.personas[annotation.id] = annotation.persona
        if masked:
            self.masked.add(annotation.id)

    def count_chat(self, id_: str) -> None:
        if id_ in self.by_id:
            self.chats_by_id[id_] += 1

    def joinable_personas(self) -> Iterator[tuple[str, str, str]]:
        """Yields (id, persona, goal summary) of the annotations whose chat is in a source."""
        for id_, persona in self.personas.items():
            if self.chats_by_id[id_]:
                yield id_, persona, phrase(self.by_id[id_][0].goal)

    def replace_personas(self, personas: Mapping[str, str]) -> None:
        self.personas |= personas

    def join(self, conversation: Conversation) -> Conversation:
        """Returns the conversation with its goal. Facets first revealed after the last kept turn are left out."""
        annotation, provenance = self.by_id.get(conversation.id, (None, ""))
        if annotation is None:
            return conversation
        if self.chats_by_id[conversation.id] > 1:
            # Several chats have this id, and the annotation belongs to an unknown one of them.
            self.counts["ambiguous_ids"] += 1
            return conversation
        texts = user_texts(conversation)
        requirements = annotation.requirements
        facets = tuple(facet for facet in requirements if facet.turn is None or facet.turn <= len(texts))
        goal = Goal(summary=phrase(annotation.goal), facets=facets, provenance=provenance)
        persona = conversation.profile.persona or Persona()
        description = self.personas.get(conversation.id, persona.description)
        persona = persona.model_copy(update={"description": description})
        # A verdict on a chat that was cut here is about turns that are gone.
        is_whole = len(facets) == len(requirements)
        satisfied = (annotation.satisfied if is_whole else None) or conversation.satisfied
        self._count(goal, len(requirements), texts, satisfied is not None)
        profile = UserProfile(goal=goal, persona=persona)
        update = {"profile": profile, "satisfied": satisfied, "unsaid": annotation.unsaid}
        return conversation.model_copy(update=update)

    def _count(self, goal: Goal, annotated_facets: int, texts: list[str], satisfied: bool) -> None:
        self.counts["joined"] += 1
        self.counts["facets_joined"] += len(goal.facets)
        self.counts["facets_after_last_turn"] += annotated_facets - len(goal.facets)
        self.counts["satisfied_joined"] += satisfied
        self.by_provenance[goal.provenance or ""] += 1
        self.overlaps.append(overlap(goal.summary, texts))

    def summary(self) -> dict[str, Any]:
        """Returns the counts of the join; `id_not_in_source` and `conversation_rejected` count annotations."""
        annotations, joined = len(self.by_id), self.counts["joined"]
        ambiguous = self.counts["ambiguous_ids"]
        return {
            "annotations": annotations,
            "id_not_in_source": annotations - len(self.chats_by_id),
            "conversation_rejected": len(self.chats_by_id) - joined - ambiguous,
            "ambiguous_ids": ambiguous,
            **{name: self.counts[name] for name in JOIN_COUNTS},
            "provenance": dict(self.by_provenance.most_common()),
            "wording_shared_with_user": overlap_figures(self.overlaps),
        }


def overlap_figures(overlaps: array[float], bound: float = MAX_OVERLAP) -> dict[str, float] | None:
    """Summarises the shares of word n-grams that summaries have in common with the person; None without a summary."""
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
    """Rewrites a goal so that it continues "You want to": no "User wants to", no capital, no full stop."""
    text = LEAD.sub(lambda lead: "" if lead["to"] else "get ", goal.strip())
    text = re.sub(r"^to (?=\w)", "", text, flags=re.IGNORECASE).rstrip(".").strip() or goal.strip()
    word = text.split()[0]
    return text[0].lower() + text[1:] if word[1:].islower() else text


def read_goals(paths: Iterable[Path]) -> Goals:
    """Reads goal files; the first annotation of an id counts.

    Raises:
        DataError: a missing, empty or malformed file, with its line.
    """
    goals = Goals()
    for path in paths:
        empty = True
        for annotation in read_records(path, Annotation):
            empty = False
            goals.add(annotation, path.name.split(".jsonl")[0])
        if empty:
            raise DataError(f"{path}: no annotation in it; expected one JSON object a line")
    return goals
