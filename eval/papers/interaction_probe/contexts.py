"""Places where a person asked, was answered, and went on: what the probe puts a model before."""

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
class Context:
    """`others`: places of the contexts whose answers stand in for a wrong one."""

    id: str
    query: str
    answer: str
    followup: str
    """What the person really said next."""
    others: tuple[int, ...] = ()


def contexts(
    conversations: Sequence[Conversation], count: int, wrong: int, seed: int, forbidden: Sequence[str] = ()
) -> tuple[list[Context], Counter[str]]:
    """(at most `count` first exchanges with a real follow-up, what was left out by reason).

    Longer ones are left out and not cut, since the person saw the whole answer. So is text that holds a control
    token of the model (`forbidden`). Each context gets `wrong` answers of others. Raises DataError for too few.
    """
    excluded: Counter[str] = Counter()
    kept: dict[str, Conversation] = {}
    for conversation in conversations:
        group = person_of(conversation)
        reason = _unfit(conversation, forbidden)
        if reason or group in kept:
            excluded[reason or "same person or opening as another"] += 1
        else:
            kept[group] = conversation
    if len(kept) < max(LEAST, wrong + 1):
        raise DataError(
            f"{len(kept)} usable first exchanges with a follow-up, {max(LEAST, wrong + 1)} are needed; left out: "
            f"{dict(excluded)}"
        )
    rng = rng_for(seed, "contexts")
    chosen = [list(kept.values())[i] for i in rng.permutation(len(kept))[:count]]
    excluded["beyond --n"] = len(kept) - len(chosen)
    made = []
    for index, conversation in enumerate(chosen):
        places = np.delete(np.arange(len(chosen)), index)
        texts = [turn.text.strip() for turn in conversation.turns[:3]]
        others = tuple(int(i) for i in rng.choice(places, size=min(wrong, len(places)), replace=False))
        made.append(Context(conversation.id, texts[0], texts[1], texts[2], others))
    return made, +excluded


def _unfit(conversation: Conversation, forbidden: Sequence[str]) -> str | None:
    turns = conversation.turns
    if not turns or turns[0].role != "user":
        return "does not begin with the user"
    if len(turns) < 3:
        return "no follow-up"
    sizes = [len(turn.text.split()) for turn in turns[:3]]
    if not all(sizes):
        return "an empty turn"
    if any(size > most for size, most in zip(sizes, (QUERY_WORDS, ANSWER_WORDS, FOLLOW_WORDS), strict=True)):
        return "too long"
    if any(token in turn.text for turn in turns[:3] for token in forbidden):
        return "holds a control token"
    return None
