"""Sample of conversations for the self-test, with notes on what is too small or missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.next_turn.prefixes import Prefix, prefixes_of, stratified, usable
from eval.next_turn.selftest.planted_material import Material
from eval.next_turn.selftest.selftest_record import (
    SelfTestConfig,
)
from usersim.errors import DataError
from usersim.types import Conversation

FEW, FEW_CLUSTERS = 50, 20


@dataclass(frozen=True)
class SelfTestSample:
    """Conversations of a self-test."""

    prefixes: tuple[Prefix, ...]
    """Prefixes of the measured conversations."""
    material: Material
    """All usable conversations, the material of planted users."""
    excluded: Counter[str]
    notes: tuple[str, ...]


def sample(
    conversations: Sequence[Conversation],
    config: SelfTestConfig,
    *,
    training: Sequence[Conversation] = (),
    prompted: Any = None,
) -> SelfTestSample:
    """Samples usable conversations by strata; returns them with notes for the report.

    Raises:
        DataError: Fewer than two people.
    """
    by_id = {conversation.id: conversation for conversation in reversed(conversations)}
    distinct = [conversation for conversation in conversations if by_id[conversation.id] is conversation]
    measurable, excluded = usable(distinct, config.language)
    if len(distinct) < len(conversations):
        excluded["a second one with the same id"] = len(conversations) - len(distinct)
    people_sample = stratified(measurable, config.n, config.seed)
    prefixes = tuple(prefix for c in people_sample for prefix in prefixes_of(c))
    people = len({prefix.cluster for prefix in prefixes})
    if people < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in excluded.items()) or "none"
        raise DataError(
            f"a self-test needs conversations of at least two people; usable: {people} (left out: {reasons})"
        )
    goals = sum(c.profile.goal is not None for c in people_sample)
    ends = sum(c.ended_by == "user" and c.turns[-1].role == "assistant" for c in people_sample)
    notes = []
    if len(people_sample) < config.n:
        notes.append(f"{len(people_sample)} conversations could be used where {config.n} were wanted.")
    if len(people_sample) < FEW:
        notes.append(f"Fewer than {FEW} conversations: most planted users cannot be caught with so few.")
    if people < FEW_CLUSTERS:
        notes.append(f"Only {people} different people: intervals over so few are too narrow.")
    notes += [f"{count} conversations left out: {reason}." for reason, count in sorted(excluded.items())]
    if goals < len(people_sample):
        notes.append(
            f"{len(people_sample) - goals} of {len(people_sample)} conversations have no goal: "
            "numbers on goals leave them out."
        )
    if ends < len(people_sample):
        notes.append(
            f"Of {len(people_sample) - ends} of {len(people_sample)} conversations it is not known who ended them."
        )
    if not training:
        notes.append("No training conversations were given: copying from training could not be told.")
    material = Material(tuple(p for c in measurable for p in prefixes_of(c)), tuple(training), prompted)
    return SelfTestSample(prefixes, material, excluded, tuple(notes))
