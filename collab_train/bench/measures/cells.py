"""Cells: an assistant with a user on a task, against the assistants it is compared with. The paper's Table 1."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from pydantic import Field

from collab_train.bench.measures.conversation_measures import MEASURES, Measures
from collab_train.bench.measures.intervals import Estimate, mean
from usersim.types import Record

Condition = tuple[str, str, str]
"""Task, user, assistant."""


@dataclass(frozen=True)
class Scored:
    condition: Condition
    context: str
    index: int
    measures: Measures | None
    failure: str | None = None


class Cell(Record):
    task: str
    user: str
    assistant: str
    contexts: int
    """With at least one conversation that came through and could be scored."""
    conversations: int
    failed: int
    """Conversations left out; they are never scored 0."""
    failures: dict[str, int] = Field(default_factory=dict)
    measures: dict[str, Estimate] = Field(default_factory=dict)
    """Means over contexts."""
    components: dict[str, float] = Field(default_factory=dict)
    """Means over conversations of the parts of R, unweighted."""
    differences: dict[str, dict[str, Estimate]] = Field(default_factory=dict)
    """By reference and measure: this assistant minus that one, over the contexts that both have."""


def cells(scored: Sequence[Scored], references: Sequence[str]) -> list[Cell]:
    grouped: dict[Condition, list[Scored]] = defaultdict(list)
    for one in scored:
        grouped[one.condition].append(one)
    made = []
    for (task, user, assistant), own in grouped.items():
        against = {
            name: grouped[task, user, name]
            for name in earlier(references, assistant)
            if (task, user, name) in grouped
        }
        made.append(_cell((task, user, assistant), own, against))
    return made


def earlier(references: Sequence[str], assistant: str) -> Sequence[str]:
    """What `assistant` is compared with: all of them, or if it is one itself, those before it."""
    return references[: references.index(assistant)] if assistant in references else references


def _cell(condition: Condition, own: list[Scored], against: dict[str, list[Scored]]) -> Cell:
    failed = [one.failure or "" for one in own if one.measures is None]
    parts = [one.measures.components for one in own if one.measures]
    by_measure = {name: by_context(values(own, name)) for name in MEASURES}
    return Cell(
        task=condition[0],
        user=condition[1],
        assistant=condition[2],
        contexts=len(by_measure["reward"]),
        conversations=len(parts),
        failed=len(failed),
        failures=dict(Counter(failed).most_common()),
        measures={name: mean(list(found.values())) for name, found in by_measure.items() if found},
        components={name: fmean(part[name] for part in parts) for name in (parts[0] if parts else ())},
        differences={name: dict(_differences(own, other)) for name, other in against.items()},
    )


def _differences(own: Sequence[Scored], other: Sequence[Scored]) -> Iterator[tuple[str, Estimate]]:
    for name in MEASURES:
        mine, theirs = values(own, name), values(other, name)
        pairs = by_context({place: mine[place] - theirs[place] for place in mine if place in theirs})
        if pairs:
            yield name, mean(list(pairs.values()))


def values(scored: Sequence[Scored], name: str) -> dict[tuple[str, int], float]:
    """By context and repetition."""
    found = ((one, one.measures.value(name)) for one in scored if one.measures)
    return {(one.context, one.index): value for one, value in found if value is not None}


def by_context(found: dict[tuple[str, int], float]) -> dict[str, float]:
    """Repetitions averaged: they share a goal, so they are not independent."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for (context, _), value in found.items():
        grouped[context].append(value)
    return {context: fmean(own) for context, own in grouped.items()}
