"""Metrics of finished conversations: diversity, decomposition with relevance, naturalness; at equal n throughout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.matching import person_of
from eval.papers.userlm import naturalness, wording
from eval.papers.userlm.metric_rows import MetricTally, UserLMSettings
from eval.papers.userlm.wording import UNIGRAM, SpeakerSample
from usersim.stats.estimates import largest_half, rng_for
from usersim.types import Conversation

LEAST = 10
"""Conversations per side below which nothing is measured."""
WORD = re.compile(UNIGRAM)


def measure_finished(
    name: str,
    conversations: Sequence[Conversation],
    human: Sequence[Conversation],
    settings: UserLMSettings,
    tally: MetricTally,
    step: Callable[[], None],
) -> None:
    """Measures a simulator and adds the results to `tally`; calls `step` three times."""
    excluded: Counter[str] = Counter()
    simulated_speaking, human_speaking = speaking(conversations, excluded), speaking(human, Counter())
    sides = equal_sides(name, simulated_speaking, human_speaking, settings)
    if sides is None:
        tally.missing[f"{name}: first-turn diversity, naturalness"] = _too_few(
            simulated_speaking, human_speaking
        )
    else:
        tally.rows.append(wording.first_turns(*sides))
        step()
        for view in naturalness.VIEWS:
            row = naturalness.naturalness(*sides, human_speaking, view, settings.seed)
            if row is None:
                tally.missing[f"{name}: naturalness of {view}"] = "too little could be scored out of fold"
            else:
                tally.rows.append(row)
    step()
    _decomposition(name, simulated_speaking, human_speaking, settings, tally, excluded)
    step()
    if +excluded:
        tally.excluded[name] = dict(+excluded)


def _decomposition(
    name: str,
    simulated: Sequence[Conversation],
    human: Sequence[Conversation],
    settings: UserLMSettings,
    tally: MetricTally,
    excluded: Counter[str],
) -> None:
    simulated_with_goal, human_with_goal = (
        [c for c in side if c.profile.goal] for side in (simulated, human)
    )
    excluded["no goal (intent decomposition)"] = len(simulated) - len(simulated_with_goal)
    sides = equal_sides(name, simulated_with_goal, human_with_goal, settings)
    if sides is None:
        tally.missing[f"{name}: intent decomposition"] = (
            f"with a goal: {_too_few(simulated_with_goal, human_with_goal)}"
        )
        return
    decompositions = [wording.decompose(side.conversations, settings.seed) for side in sides]
    tally.rows += wording.decomposition_rows(sides[0], decompositions[0], sides[1], decompositions[1])
    tally.curves += [wording.by_turn(side, table) for side, table in zip(sides, decompositions, strict=True)]


def equal_sides(
    name: str, simulated: Sequence[Conversation], human: Sequence[Conversation], settings: UserLMSettings
) -> tuple[SpeakerSample, SpeakerSample] | None:
    """Returns two samples of equal size, at most half of the people's; None below `LEAST`."""
    n = min(len(simulated), largest_half([person_of(c) for c in human]), settings.max_n)
    if n < LEAST:
        return None
    simulated_sample, human_sample = (
        [conversations[i] for i in rng_for(settings.seed, purpose).permutation(len(conversations))[:n]]
        for conversations, purpose in ((simulated, f"subsample {name}"), (human, "human subsample"))
    )
    return (
        SpeakerSample.of(name, simulated_sample, settings.bootstrap, settings.seed),
        SpeakerSample.of("people", human_sample, settings.bootstrap, settings.seed),
    )


def speaking(conversations: Sequence[Conversation], excluded: Counter[str]) -> list[Conversation]:
    """Returns the conversations whose first user turn has a word or a mark; the others are counted."""
    with_words = [c for c in conversations if any(WORD.search(text) for text in user_texts(c)[:1])]
    excluded["nothing in the first user turn"] = len(conversations) - len(with_words)
    return with_words


def _too_few(simulated: Sequence[Conversation], human: Sequence[Conversation]) -> str:
    return f"too few conversations ({len(simulated)} simulated, {len(human)} human; {LEAST} and {2 * LEAST} needed)"
