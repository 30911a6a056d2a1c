"""Positive control of leaving: people whose ends are planted on the last answer, and a user who knows the rule.

If the gain of this user is not above 0, the numbers of leaving cannot see what they are for at this n.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from eval.next_turn.prefixes import Prefix
from eval.next_turn.turns import NextTurn, SimulatedTurns
from usersim.stats.estimates import rng_for

LIKELY, UNLIKELY = 0.5, 0.05


def content_control(prefixes: Sequence[Prefix], seed: int) -> tuple[list[Prefix], SimulatedTurns]:
    """Prefixes with planted ends, and the turns of a user who knows where they are likely.

    The person leaves with probability 0.5 where the last answer is longer than the median of the answers, else with
    0.05. Turn number and facets play no part. What came after a planted end is left out; a conversation without one
    is kept up to its last turn that is known.

    Args:
        prefixes: Real prefixes, in the order of their conversations.
        seed: Of the planted ends.
    """
    lengths = [
        len(prefix.answer) for prefix in prefixes if prefix.answer is not None and prefix.position >= 2
    ]
    middle = median(lengths) if lengths else 0
    planted: list[Prefix] = []
    turns: dict[str, NextTurn] = {}
    ended_conversations: set[str] = set()
    for prefix in prefixes:
        if prefix.conversation in ended_conversations:
            continue
        if prefix.position < 2 or prefix.answer is None:
            planted.append(prefix)
            continue
        probability = LIKELY if len(prefix.answer) > middle else UNLIKELY
        leaves = bool(rng_for(seed, f"planted end {prefix.id}").random() < probability)
        if prefix.has_left and not leaves:
            continue  # the planted person would go on, and it is not known with what
        planted.append(prefix.model_copy(update={"text": None}) if leaves else prefix)
        turns[prefix.id] = NextTurn(
            prefix=prefix.id, text=prefix.text or "ok", ends=leaves, end_probability=probability
        )
        if leaves:
            ended_conversations.add(prefix.conversation)
    return planted, SimulatedTurns("knows planted ends", turns, note="positive control of leaving")
