"""Acts that a User LM is asked for: does the turn do what was asked, and is it as fluent as one that was not asked?

A model that was trained to be told acts (`acts` in `userlm.json`) draws a turn for each act, and one without, at
people's prefixes. Whether the act is seen is decided by rules other than those that labelled the training turns
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
"""Key of the turns that no act was asked for."""

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
    """True where the turn does what was asked, by rules that did not label the training turns.

    Args:
        act: The act that was asked for.
        prefix: What the turn replies to.
        text: The turn.
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
    # An answer states something: it is no question and no request, or takes up words of what was asked.
    question = (prefix.answer or "")[-200:]
    if plain.endswith("?") or REQUEST_OPENINGS.match(plain):
        return False
    return True if len(plain.split()) <= 12 else not stems(text).isdisjoint(stems(question))


def askable(act: Act, prefix: Prefix) -> bool:
    """Only where the assistant asked something can a person answer it."""
    return prefix.answer is not None and (act != "answers" or "?" in prefix.answer[-200:])


def draw_asked(
    user: UserLM,
    prefixes: Sequence[Prefix],
    journal: DrawJournal,
    *,
    concurrency: int = 48,
    done: Callable[[], None] | None = None,
) -> dict[str, dict[str, str]]:
    """Turns by act (`FREE` for none asked) and prefix id; the end is banned, so that every prefix has one.

    Args:
        user: A User LM that was trained to be told acts.
        prefixes: Prefixes from the second user turn on.
        journal: Turns already drawn; an interrupted run goes on where it stopped.
        concurrency: Requests under way at a time.
        done: Called after every turn.
    """
    return asyncio.run(_draw_all(user, prefixes, journal, concurrency, done))


async def _draw_all(
    user: UserLM,
    prefixes: Sequence[Prefix],
    journal: DrawJournal,
    concurrency: int,
    done: Callable[[], None] | None,
) -> dict[str, dict[str, str]]:
    gate = asyncio.Semaphore(concurrency)
    texts: dict[str, dict[str, str]] = {name: {} for name in (FREE, *ACTS)}

    async def one(act: Act | None, prefix: Prefix) -> None:
        key = f"{act or FREE} {prefix.id}"
        async with gate:
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
    """Share of the turns that do what was asked, over the prefixes with a turn and where it could be asked."""
    places = [prefix for prefix in prefixes if prefix.id in texts and askable(act, prefix)]
    values = Values.of([float(is_seen(act, prefix, texts[prefix.id])) for prefix in places])
    return estimate(ClusterSums.of(values, [prefix.cluster for prefix in places]), is_share=True)


def paired(
    prefixes: Sequence[Prefix], asked: Sequence[tuple[Sequence[int], Values]], free: Values
) -> tuple[ClusterSums, ClusterSums]:
    """Sums of a metric over the asked turns of all acts, and over the free turns at the same prefixes.

    Args:
        prefixes: Prefixes with a free turn.
        asked: For each act, places in `prefixes` and the metric's values there.
        free: The metric of the free turns at all prefixes.
    """
    rows = np.array([i for places, _ in asked for i in places], dtype=np.int64)
    together = Values(
        np.concatenate([values.numerator_P for _, values in asked]),
        np.concatenate([values.denominator_P for _, values in asked]),
    )
    clusters = [prefixes[i].cluster for i in rows]
    own = Values(free.numerator_P[rows], free.denominator_P[rows])
    return ClusterSums.of(together, clusters), ClusterSums.of(own, clusters)
