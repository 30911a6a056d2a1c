"""Counts of a split, updated while it is written.

Memory is bounded except for groups and users, which take 8 bytes each per conversation to be counted exactly.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xxhash import xxh3_64_intdigest

from data_prep.datasheet.histogram import (
    CHARACTERS,
    FEW,
    GROUPS,
    NUMBERS,
    PRECISION,
    SHARES,
    TURNS,
    WORDS,
    rounded,
    summarise,
    top,
)
from usersim.types import Conversation, Goal, Persona, Style, Turn

READ_CHARS = 800
"""Characters from which the words of a longer turn are estimated."""
TOP = 15
"""Names listed; the others are summed."""
CLIP_CHARS = 2_000
CLIP_TURNS = 40
"""Limits of an example; a single turn can be 50 MB."""

STYLE_SHARES = frozenset(
    name
    for name, info in Style.model_fields.items()
    if any(getattr(limit, "le", None) == 1 for limit in info.metadata)
)

TOTALS = (
    "conversations",
    "turns",
    "user_turns",
    "with_system",
    "with_flags",
    "with_goal",
    "with_facets",
    "facets",
    "with_persona",
    "with_style",
)
NAMED = ("sources", "languages", "flags", "ended_by", "satisfied", "goal_provenance")
NUMBERED = {
    "user_turns_per_conversation": TURNS,
    "words_per_user_turn": WORDS,
    "characters_per_conversation": CHARACTERS,
    "facets_per_goal": FEW,
    "first_reveal_turn": TURNS,
}
"""Histograms and their bins."""


class Profile:
    """Profile of a split. The result is independent of the order of conversations and of merges."""

    def __init__(self, *, seed: int = 0, examples: int = 12) -> None:
        self._seed, self._sample_size = seed % 2**64, examples
        self._totals: Counter[str] = Counter()
        self._named: dict[str, Counter[str]] = {name: Counter() for name in NAMED}
        self._numbered: dict[str, Counter[float]] = {name: Counter() for name in NUMBERED}
        self._style: dict[str, Counter[Any]] = {name: Counter() for name in Style.model_fields}
        self._groups, self._users = array("Q"), array("Q")
        self._sample: dict[tuple[int, str], Conversation] = {}
        self._largest: list[tuple[int, str]] = []
        """Heap of the negated keys of `_sample`; the next one to be removed is in front."""

    def add(self, conversation: Conversation) -> None:
        self._count_turns(conversation.turns)
        self._count_names(conversation)
        self._count_goal(conversation.profile.goal)
        self._count_persona(conversation.profile.persona)
        if conversation.group is not None:
            self._groups.append(_hash(conversation.group))
        if conversation.user is not None:
            self._users.append(_hash(conversation.user))
        if self._sample_size:
            self._offer(self._key(conversation), conversation)

    def merge(self, other: Profile) -> None:
        """Adds the counts of another profile with the same seed."""
        self._totals.update(other._totals)
        for mine, others in (
            (self._named, other._named),
            (self._numbered, other._numbered),
            (self._style, other._style),
        ):
            for name, counts in others.items():
                mine[name].update(counts)  # type: ignore[arg-type]
        self._groups.extend(other._groups)
        self._users.extend(other._users)
        for key, conversation in other._sample.items():
            self._offer(key, conversation)

    @property
    def examples(self) -> list[Conversation]:
        """Random examples chosen by the seed; long turns are clipped."""
        return [self._sample[key] for key in sorted(self._sample)]

    def summary(self) -> dict[str, Any]:
        groups, users = _sizes(self._groups), _sizes(self._users)
        numbered = {name: summarise(self._numbered[name], edges) for name, edges in NUMBERED.items()}
        return {
            **{name: self._totals[name] for name in TOTALS},
            "median_words_per_user_turn": numbered["words_per_user_turn"]["median"],
            "groups": sum(groups.values()),
            "largest_group": max(groups, default=0),
            "users": sum(users.values()),
            "largest_user": max(users, default=0),
            **{name: top(counts, TOP) for name, counts in self._named.items()},
            **numbered,
            "group_sizes": summarise(groups, GROUPS),
            "style": {name: _style_summary(name, counts) for name, counts in self._style.items() if counts},
            "precision": PRECISION,
        }

    def _count_turns(self, turns: Sequence[Turn]) -> None:
        words = self._numbered["words_per_user_turn"]
        user_turns = characters = 0
        for turn in turns:
            text = turn.text
            characters += len(text)
            if turn.role == "user":
                user_turns += 1
                words[rounded(words_of(text))] += 1
        self._totals["conversations"] += 1
        self._totals["turns"] += len(turns)
        self._totals["user_turns"] += user_turns
        self._numbered["user_turns_per_conversation"][rounded(user_turns)] += 1
        self._numbered["characters_per_conversation"][rounded(characters)] += 1

    def _count_names(self, conversation: Conversation) -> None:
        self._named["sources"][conversation.source] += 1
        self._named["ended_by"][conversation.ended_by] += 1
        if conversation.satisfied is not None:
            self._named["satisfied"][conversation.satisfied] += 1
        for flag in conversation.flags:
            self._named["flags"][flag] += 1
        self._totals["with_system"] += conversation.system is not None
        self._totals["with_flags"] += bool(conversation.flags)

    def _count_goal(self, goal: Goal | None) -> None:
        if goal is None:
            return
        self._totals["with_goal"] += 1
        self._totals["with_facets"] += bool(goal.facets)
        self._totals["facets"] += len(goal.facets)
        self._named["goal_provenance"][goal.provenance or "not stated"] += 1
        self._numbered["facets_per_goal"][rounded(len(goal.facets))] += 1
        reveals = self._numbered["first_reveal_turn"]
        for facet in goal.facets:
            if facet.turn is not None:
                reveals[rounded(facet.turn)] += 1

    def _count_persona(self, persona: Persona | None) -> None:
        if persona is None:
            return
        self._totals["with_persona"] += bool(persona.description)
        self._named["languages"][persona.language] += 1
        if persona.style is None:
            return
        self._totals["with_style"] += 1
        for name, value in persona.style.__dict__.items():
            if value is not None:
                if isinstance(value, float | int):
                    value = round(value, 2) if name in STYLE_SHARES else rounded(value)
                self._style[name][value] += 1

    def _key(self, conversation: Conversation) -> tuple[int, str]:
        name = f"{conversation.source}\x1f{conversation.id}"
        return xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"), seed=self._seed), name

    def _offer(self, key: tuple[int, str], conversation: Conversation) -> None:
        """Adds a conversation to the sample if its key is among the smallest."""
        if len(self._sample) >= self._sample_size and key[0] >= -self._largest[0][0]:
            return
        if key not in self._sample:
            self._sample[key] = _clipped(conversation)
            heapq.heappush(self._largest, (-key[0], key[1]))
        if len(self._sample) > self._sample_size:
            number, name = heapq.heappop(self._largest)
            del self._sample[-number, name]


def words_of(text: str) -> int:
    """Counts the words (runs without a space) of a turn; an estimate for a long turn."""
    if len(text) <= READ_CHARS:
        return len(text.split())
    return round(len(text[:READ_CHARS].split()) * len(text) / READ_CHARS)


def across(profiles: Mapping[str, Profile]) -> dict[str, int]:
    """Counts groups and users that occur in more than one split."""
    return {
        "groups": _in_several([profile._groups for profile in profiles.values()]),
        "users": _in_several([profile._users for profile in profiles.values()]),
    }


def _in_several(columns: Sequence[array[int]]) -> int:
    distinct = [np.unique(_to_array(column)) for column in columns]
    _, splits_per_hash = np.unique(np.concatenate([*distinct, _to_array(array("Q"))]), return_counts=True)
    return int((splits_per_hash > 1).sum())


def _sizes(hashes: array[int]) -> Counter[float]:
    """Counts groups by size."""
    sizes = np.unique(_to_array(hashes), return_counts=True)[1]
    values, counts = np.unique(sizes, return_counts=True)
    return Counter({int(size): int(count) for size, count in zip(values, counts, strict=True)})


def _to_array(hashes: array[int]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array(hashes, dtype=np.uint64)


def _hash(text: str) -> int:
    return xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _style_summary(name: str, counts: Counter[Any]) -> dict[str, Any]:
    if all(isinstance(value, float | int) for value in counts):
        return summarise(counts, SHARES if name in STYLE_SHARES else NUMBERS)
    return {"n": counts.total(), "values": top(Counter({str(v): n for v, n in counts.items()}), TOP)}


def _clipped(conversation: Conversation) -> Conversation:
    turns = tuple(
        turn if len(turn.text) <= CLIP_CHARS else Turn(role=turn.role, text=turn.text[:CLIP_CHARS] + " […]")
        for turn in conversation.turns[:CLIP_TURNS]
    )
    return conversation.model_copy(update={"turns": turns})
