"""Obedience to requested user acts, and fluency of such turns beside turns without a request.

A model trained with acts (`acts` in `userlm.json`) draws a turn for each act, and one without an act, at human
prefixes. The rules that detect an act differ from those that labelled the training turns
(`usersim.text.user_acts.act_of`): a shared rule would only show that the model learnt the rule.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from eval.fidelity.metrics.texts.lexical import stems
from eval.likelihood.drawing import DrawJournal
from eval.next_turn.metrics.acts import thanks
from eval.next_turn.metrics.values import ClusterSums, Values, estimate
from eval.next_turn.prefixes import Prefix
from usersim.stats.estimates import Estimate
from usersim.text.user_acts import ACTS, Act
from usersim.types import UserProfile, UserTurn
from usersim.users.userlm import UserLM

FREE = "free"
"""Key of the turns without a requested act."""

QUESTION_WORDS = re.compile(
    r"(?:^|[.!,;]\s*)(?:\w+\W+){0,2}(?:what|how|why|when|where|which|who|whose|whats|hows|can|could|would|will|is|are|"
    r"do|does|did|should|any)\b"
)
DISSENT = re.compile(
    r"\b(?:no|not|nope|\w+n't|doesnt|didnt|isnt|dont|cant|wont|wrong|incorrect|false|errors?|fail(?:s|ed)?|missing|missed|"
    r"mistake|instead|still|already|disagree|nonsense|bad|broken|useless)\b"
)
"""Words of dissent anywhere in the first sentence: broader than the phrases that labelled the training turns."""
OWN_WORDS = re.compile(
    r"\b(?:i (?:mean|meant|wanted|should have|forgot|was)|my (?:mistake|bad|fault)|sorry|actually|oops|rather|scratch|"
    r"correction|rephrase|typo|instead|wait|let me|to clarify|it should be|make that)\b"
)
REQUEST_OPENINGS = re.compile(
    r"\W*(?:can|could|would|will|what|how|why|which|who|when|where|write|give|make|explain|list|please|do|tell|show)\b"
)


def is_seen(act: Act, prefix: Prefix, text: str) -> bool:
    """Returns True if the turn performs the act, by rules that did not label the training turns.

    Args:
        act: Requested act.
        prefix: Prefix that the turn replies to.
        text: Text of the turn.
    """
    plain = " ".join(text.replace("’", "'").split()).lower()  # noqa: RUF001
    first = re.split(r"(?<=[.!?])\s|\n", plain, maxsplit=1)[0][:200]
    if act == "thanks":
        return thanks(text)
    if act == "asks":
        return plain.rstrip(" \"')").endswith("?") or "?" in first or QUESTION_WORDS.match(first) is not None
    if act == "objects":
        return DISSENT.search(first) is not None
    if act == "corrects":
        return OWN_WORDS.search(first) is not None
    # An answer is a statement, not a question or a request. A long one must share words with the question.
    question = (prefix.answer or "")[-200:]
    if plain.endswith("?") or REQUEST_OPENINGS.match(plain):
        return False
    return True if len(plain.split()) <= 12 else not stems(text).isdisjoint(stems(question))


def askable(act: Act, prefix: Prefix) -> bool:
    """Returns True if the act is possible at the prefix: `answers` needs a question of the assistant."""
    return prefix.answer is not None and (act != "answers" or "?" in prefix.answer[-200:])


def draw_acts(
    user: UserLM,
    prefixes: Sequence[Prefix],
    journal: DrawJournal,
    *,
    concurrency: int = 48,
    done: Callable[[], None] | None = None,
) -> dict[str, dict[str, str]]:
    """Draws a turn for each act and one without, at each prefix where the act is possible.

    The end of the conversation is banned, so every request returns a turn. An interrupted run resumes.

    Args:
        user: User LM trained with acts.
        prefixes: Prefixes from the second user turn on.
        journal: Turns on disk.
        concurrency: Maximum number of concurrent requests.
        done: Called after every turn.

    Returns:
        Texts by act (`FREE`: no act) and prefix id.
    """
    return asyncio.run(_draw_all(user, prefixes, journal, concurrency, done))


async def _draw_all(
    user: UserLM,
    prefixes: Sequence[Prefix],
    journal: DrawJournal,
    concurrency: int,
    done: Callable[[], None] | None,
) -> dict[str, dict[str, str]]:
    slots = asyncio.Semaphore(concurrency)
    texts: dict[str, dict[str, str]] = {name: {} for name in (FREE, *ACTS)}

    async def one(act: Act | None, prefix: Prefix) -> None:
        key = f"{act or FREE} {prefix.id}"
        async with slots:
            turn: UserTurn | None = journal.turns.get(key)
            if turn is None:
                completions = await user.sample(
                    UserProfile(goal=prefix.goal), prefix.history, seed=zlib.crc32(key.encode()), act=act
                )
                turn = completions[0]
                journal.add(key, turn)
        texts[act or FREE][prefix.id] = turn.text
        if done:
            done()

    try:
        await asyncio.gather(
            *(one(None, prefix) for prefix in prefixes),
            *(one(act, prefix) for act in ACTS for prefix in prefixes if askable(act, prefix)),
        )
    finally:
        await user.aclose()
    return texts


def seen_share(act: Act, prefixes: Sequence[Prefix], texts: Mapping[str, str]) -> Estimate:
    """Share of turns that perform the act, over prefixes that have a turn and where the act is possible."""
    places = [prefix for prefix in prefixes if prefix.id in texts and askable(act, prefix)]
    values = Values.of([float(is_seen(act, prefix, texts[prefix.id])) for prefix in places])
    return estimate(ClusterSums.of(values, [prefix.cluster for prefix in places]), is_share=True)


def paired(
    prefixes: Sequence[Prefix], act_values: Sequence[tuple[Sequence[int], Values]], free: Values
) -> tuple[ClusterSums, ClusterSums]:
    """Sums of a metric over turns with a requested act, and over turns without one at the same prefixes.

    Args:
        prefixes: Prefixes with a turn without an act.
        act_values: For each act: indices into `prefixes`, values there.
        free: Values of the turns without an act, at all prefixes.

    Returns:
        (sums with an act, sums without), over the same clusters.
    """
    rows = np.array([i for places, _ in act_values for i in places], dtype=np.int64)
    together = Values(
        np.concatenate([values.numerator_P for _, values in act_values]),
        np.concatenate([values.denominator_P for _, values in act_values]),
    )
    clusters = [prefixes[i].cluster for i in rows]
    own = Values(free.numerator_P[rows], free.denominator_P[rows])
    return ClusterSums.of(together, clusters), ClusterSums.of(own, clusters)
