"""Cells of the results table: measures of one assistant with one user on one task (CollabLLM, Table 1)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from pydantic import Field

from collab_train.bench.measures.conversation_measures import MEASURES, Measures
from collab_train.bench.measures.intervals import IntervalEstimate, mean
from usersim.types import Record

Condition = tuple[str, str, str]
"""Task, user, assistant."""


@dataclass(frozen=True)
class ScoredConversation:
    condition: Condition
    context: str
    index: int
    measures: Measures | None
    failure: str | None = None


class BenchCell(Record):
    task: str
    user: str
    assistant: str
    contexts: int
    """Number of contexts with at least one scored conversation."""
    conversations: int
    failed: int
    """Number of failed conversations. They are left out, never scored 0."""
    failures: dict[str, int] = Field(default_factory=dict)
    measures: dict[str, IntervalEstimate] = Field(default_factory=dict)
    """Means over contexts, by measure."""
    components: dict[str, float] = Field(default_factory=dict)
    """Unweighted components of R, means over conversations."""
    differences: dict[str, dict[str, IntervalEstimate]] = Field(default_factory=dict)
    """Paired differences by reference and measure: this assistant minus the reference, over shared contexts."""


def cells(scored: Sequence[ScoredConversation], references: Sequence[str]) -> list[BenchCell]:
    grouped: dict[Condition, list[ScoredConversation]] = defaultdict(list)
    for conversation in scored:
        grouped[conversation.condition].append(conversation)
    table = []
    for (task, user, assistant), conversations in grouped.items():
        against = {
            name: grouped[task, user, name]
            for name in references_of(references, assistant)
            if (task, user, name) in grouped
        }
        table.append(_cell((task, user, assistant), conversations, against))
    return table


def references_of(references: Sequence[str], assistant: str) -> Sequence[str]:
    """Returns the references that `assistant` is compared with: all, or those before it if it is one itself."""
    return references[: references.index(assistant)] if assistant in references else references


def _cell(
    condition: Condition,
    conversations: list[ScoredConversation],
    against: dict[str, list[ScoredConversation]],
) -> BenchCell:
    failures = [conversation.failure or "" for conversation in conversations if conversation.measures is None]
    parts = [conversation.measures.components for conversation in conversations if conversation.measures]
    by_measure = {name: by_context(values(conversations, name)) for name in MEASURES}
    return BenchCell(
        task=condition[0],
        user=condition[1],
        assistant=condition[2],
        contexts=len(by_measure["reward"]),
        conversations=len(parts),
        failed=len(failures),
        failures=dict(Counter(failures).most_common()),
        measures={
            name: mean(list(by_context_values.values()))
            for name, by_context_values in by_measure.items()
            if by_context_values
        },
        components={name: fmean(part[name] for part in parts) for name in (parts[0] if parts else ())},
        differences={
            name: dict(_differences(conversations, reference)) for name, reference in against.items()
        },
    )


def _differences(
    conversations: Sequence[ScoredConversation], reference: Sequence[ScoredConversation]
) -> Iterator[tuple[str, IntervalEstimate]]:
    for name in MEASURES:
        values_here, values_there = values(conversations, name), values(reference, name)
        pairs = by_context(
            {
                sample: values_here[sample] - values_there[sample]
                for sample in values_here
                if sample in values_there
            }
        )
        if pairs:
            yield name, mean(list(pairs.values()))


def values(scored: Sequence[ScoredConversation], name: str) -> dict[tuple[str, int], float]:
    """Returns the values of one measure by context and repetition."""
    measured = (
        (conversation, conversation.measures.value(name)) for conversation in scored if conversation.measures
    )
    return {
        (conversation.context, conversation.index): value
        for conversation, value in measured
        if value is not None
    }


def by_context(values_by_sample: dict[tuple[str, int], float]) -> dict[str, float]:
    """Returns means over repetitions, which share a goal and so are not independent."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for (context, _), value in values_by_sample.items():
        grouped[context].append(value)
    return {context: fmean(repetitions) for context, repetitions in grouped.items()}
