"""Planted users that leave by a rule: never, by turn number, by facets, and on content (positive control)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.planted_material import FOLDS, Material, turn_rng
from eval.next_turn.turns import NextTurn, SimulatedTurns
from usersim.errors import DataError

SHRINKAGE = 5.0
"""Weight of the overall rate in a hazard, in prefixes."""
LAST_HAZARD = 8
"""Turn number from which hazards are pooled."""
LEAVES_ON_CONTENT, LEAVES_WITHOUT = 0.9, 0.05
CONTENT_SHARE = 0.3
"""Target share of answers with the word on which people are made to leave."""
CONTENT_WORD = re.compile(r"[a-z]{5,}")


def never_leaves(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    return _leaving("never_leaves", prefixes, material, seed, dict.fromkeys((p.id for p in prefixes), 0.0))


def leaves_by_turn_number(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """P(end) is the share of other folds' people of the source that left at that turn number.

    Fitted on these prefixes, like the baselines of leaving; from more people it would know more than they.
    """
    _check_endings(prefixes)
    fold_of, rates = material.fold_of(seed), dict[str, float]()
    for fold in range(FOLDS):
        fitted = [p for p in prefixes if p.position > 1 and fold_of[p.cluster] != fold]
        hazards = _hazards(fitted)
        for prefix in prefixes:
            if fold_of[prefix.cluster] == fold:
                rates[prefix.id] = hazards(prefix) if prefix.position > 1 else 0.0
    return _leaving("leaves_by_turn_number", prefixes, material, seed, rates)


def leaves_by_facets(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """P(end) from the number of facets minus the user turns so far, among other folds' people at the same count."""
    _check_endings(prefixes)
    if not any(p.goal is not None and p.goal.facets for p in prefixes):
        raise DataError("leaves_by_facets: no goal with facets")
    fold_of, rates = material.fold_of(seed), dict[str, float]()
    for fold in range(FOLDS):
        fitted = [p for p in prefixes if p.position > 1 and fold_of[p.cluster] != fold]
        overall = _rate(fitted, 0.2)
        by_rest = defaultdict(list)
        for prefix in fitted:
            by_rest[_facets_left(prefix)].append(prefix)
        for prefix in prefixes:
            if fold_of[prefix.cluster] == fold:
                rate = _rate(by_rest.get(_facets_left(prefix), []), overall)
                rates[prefix.id] = rate if prefix.position > 1 else 0.0
    return _leaving("leaves_by_facets", prefixes, material, seed, rates)


def ends_on_content(
    prefixes: Sequence[Prefix], material: Material, seed: int
) -> tuple[list[Prefix], SimulatedTurns]:
    """Positive control: people are made to leave on a word of the last answer, and the user knows the rule.

    From turn 2 on a person leaves with P = 0.9 if the last answer has the word, else with P = 0.05. The word has at
    least five letters, and its share among the answers is the nearest to 0.3.

    Returns:
        The prefixes with the planted ends, and the user with the P(end) of the rule. A conversation stops where the
        person leaves; one without an end has no closing prefix.
    """
    word = _planted_word(prefixes)
    by_conversation: dict[str, list[Prefix]] = {}
    for prefix in prefixes:
        by_conversation.setdefault(prefix.conversation, []).append(prefix)
    new_prefixes, rates = [], dict[str, float]()
    for own in by_conversation.values():
        for prefix in sorted(own, key=lambda p: p.position):
            rate = 0.0
            if prefix.position > 1:
                on_content = word in _content_words(prefix.answer or "")
                rate = LEAVES_ON_CONTENT if on_content else LEAVES_WITHOUT
            leaves = turn_rng(seed, "ends_on_content", prefix, "person").random() < rate
            if prefix.has_left and not leaves:
                break
            rates[prefix.id] = rate
            new_prefixes.append(prefix.model_copy(update={"text": None}) if leaves else prefix)
            if leaves:
                break
    turns = _leaving("ends_on_content", new_prefixes, material, seed, rates)
    return new_prefixes, turns


def _leaving(
    name: str, prefixes: Sequence[Prefix], material: Material, seed: int, rates: Mapping[str, float]
) -> SimulatedTurns:
    """The person's text; where the person left and it may stay, another person's at a similar position."""
    turns = {}
    for prefix in prefixes:
        rng = turn_rng(seed, name, prefix)
        ends = bool(rng.random() < rates[prefix.id])
        text = prefix.text if prefix.text is not None else material.another(prefix, rng)
        turns[prefix.id] = NextTurn(prefix=prefix.id, text=text, ends=ends, end_probability=rates[prefix.id])
    return SimulatedTurns(name, turns)


def _check_endings(prefixes: Sequence[Prefix]) -> None:
    if not any(prefix.has_left for prefix in prefixes):
        raise DataError("no conversation is known to have been ended by the person")


def _hazards(fitted: Sequence[Prefix]) -> Callable[[Prefix], float]:
    """P(leaves) by source and turn number, shrunk to the source's rate."""
    by_source, by_turn = defaultdict(list), defaultdict(list)
    for prefix in fitted:
        by_source[prefix.source].append(prefix)
        by_turn[prefix.source, min(prefix.position, LAST_HAZARD)].append(prefix)
    overall = _rate(fitted, 0.2)

    def hazard(prefix: Prefix) -> float:
        of_source = _rate(by_source.get(prefix.source, []), overall)
        return _rate(by_turn.get((prefix.source, min(prefix.position, LAST_HAZARD)), []), of_source)

    return hazard


def _rate(prefixes: Sequence[Prefix], prior: float) -> float:
    return (sum(p.has_left for p in prefixes) + SHRINKAGE * prior) / (len(prefixes) + SHRINKAGE)


def _facets_left(prefix: Prefix) -> int | None:
    """Number of facets minus the turns so far; None without facets."""
    if prefix.goal is None or not prefix.goal.facets:
        return None
    return max(-3, min(4, len(prefix.goal.facets) - (prefix.position - 1)))


def _content_words(answer: str) -> set[str]:
    return set(CONTENT_WORD.findall(answer.lower()))


def _planted_word(prefixes: Sequence[Prefix]) -> str:
    answers = [_content_words(p.answer or "") for p in prefixes if p.position > 1]
    counts = Counter(word for words in answers for word in words)
    if not counts:
        raise DataError("ends_on_content: the answers have no word of five letters")
    return min(counts, key=lambda word: (abs(counts[word] / len(answers) - CONTENT_SHARE), word))
