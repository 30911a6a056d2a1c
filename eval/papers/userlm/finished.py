"""The metrics of finished conversations: diversity, decomposition with relevance, naturalness. Equal n throughout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.matching import person_of
from eval.papers.userlm import naturalness, wording
from eval.papers.userlm.metric_rows import Settings, Tally
from eval.papers.userlm.wording import UNIGRAM, Side
from usersim.stats.estimates import largest_half, rng_for
from usersim.types import Conversation

LEAST = 10
"""Conversations per side below which nothing is measured."""
WORD = re.compile(UNIGRAM)


def measure_finished(
    name: str,
    given: Sequence[Conversation],
    human: Sequence[Conversation],
    settings: Settings,
    tally: Tally,
    step: Callable[[], None],
) -> None:
    """Adds to `tally`; `step` is called three times."""
    excluded: Counter[str] = Counter()
    ours, theirs = speaking(given, excluded), speaking(human, Counter())
    sides = equal_sides(name, ours, theirs, settings)
    if sides is None:
        tally.missing[f"{name}: first-turn diversity, naturalness"] = _too_few(ours, theirs)
    else:
        tally.rows.append(wording.first_turns(*sides))
        step()
        for view in naturalness.VIEWS:
            row = naturalness.naturalness(*sides, theirs, view, settings.seed)
            if row is None:
                tally.missing[f"{name}: naturalness of {view}"] = "too little could be scored out of fold"
            else:
                tally.rows.append(row)
    step()
    _decomposition(name, ours, theirs, settings, tally, excluded)
    step()
    if +excluded:
        tally.excluded[name] = dict(+excluded)


def _decomposition(
    name: str,
    ours: Sequence[Conversation],
    theirs: Sequence[Conversation],
    settings: Settings,
    tally: Tally,
    excluded: Counter[str],
) -> None:
    mine, humans = ([c for c in side if c.profile.goal] for side in (ours, theirs))
    excluded["no goal (intent decomposition)"] = len(ours) - len(mine)
    sides = equal_sides(name, mine, humans, settings)
    if sides is None:
        tally.missing[f"{name}: intent decomposition"] = f"with a goal: {_too_few(mine, humans)}"
        return
    found = [wording.decompose(side.conversations, settings.seed) for side in sides]
    tally.rows += wording.decomposition_rows(sides[0], found[0], sides[1], found[1])
    tally.curves += [wording.by_turn(side, table) for side, table in zip(sides, found, strict=True)]


def equal_sides(
    name: str, ours: Sequence[Conversation], theirs: Sequence[Conversation], settings: Settings
) -> tuple[Side, Side] | None:
    """Equally many, so few that disjoint halves of the people are as large; None below `LEAST`."""
    n = min(len(ours), largest_half([person_of(c) for c in theirs]), settings.max_n)
    if n < LEAST:
        return None
    mine, humans = (
        [given[i] for i in rng_for(settings.seed, purpose).permutation(len(given))[:n]]
        for given, purpose in ((ours, f"subsample {name}"), (theirs, "human subsample"))
    )
    return (
        Side.of(name, mine, settings.bootstrap, settings.seed),
        Side.of("people", humans, settings.bootstrap, settings.seed),
    )


def speaking(given: Sequence[Conversation], excluded: Counter[str]) -> list[Conversation]:
    """Those whose first user turn has a word or a mark; the others are counted."""
    kept = [c for c in given if any(WORD.search(text) for text in user_texts(c)[:1])]
    excluded["nothing in the first user turn"] = len(given) - len(kept)
    return kept


def _too_few(ours: Sequence[Conversation], theirs: Sequence[Conversation]) -> str:
    return (
        f"too few conversations ({len(ours)} simulated, {len(theirs)} human; {LEAST} and {2 * LEAST} needed)"
    )
