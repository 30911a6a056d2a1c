"""Contexts of the probe: exchanges in which a person asked, was answered, and wrote a follow-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eval.fidelity.samples.matching import person_of
from usersim.errors import DataError
from usersim.stats.estimates import rng_for
from usersim.types import Conversation

QUERY_WORDS = 150
ANSWER_WORDS = 250
FOLLOW_WORDS = 150
LEAST = 12


@dataclass(frozen=True)
class ProbeContext:
    """One exchange. `others` holds indices of the contexts whose answers serve as wrong ones."""

    id: str
    query: str
    answer: str
    followup: str
    """The person's real next turn."""
    others: tuple[int, ...] = ()


def contexts(
    conversations: Sequence[Conversation], count: int, wrong: int, seed: int, forbidden: Sequence[str] = ()
) -> tuple[list[ProbeContext], Counter[str]]:
    """Returns (at most `count` first exchanges with a real follow-up, exclusions by reason).

    Longer exchanges are left out and not cut, because the person saw the whole answer. So is text with a control
    token of the model (`forbidden`). Each context gets `wrong` answers of others. Raises DataError for too few.
    """
    excluded: Counter[str] = Counter()
    usable: dict[str, Conversation] = {}
    for conversation in conversations:
        group = person_of(conversation)
        reason = _unfit(conversation, forbidden)
        if reason or group in usable:
            excluded[reason or "same person or opening as another"] += 1
        else:
            usable[group] = conversation
    if len(usable) < max(LEAST, wrong + 1):
        raise DataError(
            f"{len(usable)} usable first exchanges with a follow-up, {max(LEAST, wrong + 1)} are needed; left out: "
            f"{dict(excluded)}"
        )
    rng = rng_for(seed, "contexts")
    sampled = [list(usable.values())[i] for i in rng.permutation(len(usable))[:count]]
    excluded["beyond --n"] = len(usable) - len(sampled)
    context_list = []
    for index, conversation in enumerate(sampled):
        other_indices = np.delete(np.arange(len(sampled)), index)
        texts = [turn.text.strip() for turn in conversation.turns[:3]]
        others = tuple(
            int(i) for i in rng.choice(other_indices, size=min(wrong, len(other_indices)), replace=False)
        )
        context_list.append(ProbeContext(conversation.id, texts[0], texts[1], texts[2], others))
    return context_list, +excluded


def _unfit(conversation: Conversation, forbidden: Sequence[str]) -> str | None:
    turns = conversation.turns
    if not turns or turns[0].role != "user":
        return "does not begin with the user"
    if len(turns) < 3:
        return "no follow-up"
    sizes = [len(turn.text.split()) for turn in turns[:3]]
    if not all(sizes):
        return "an empty turn"
    if any(
        size > limit for size, limit in zip(sizes, (QUERY_WORDS, ANSWER_WORDS, FOLLOW_WORDS), strict=True)
    ):
        return "too long"
    if any(token in turn.text for turn in turns[:3] for token in forbidden):
        return "holds a control token"
    return None
