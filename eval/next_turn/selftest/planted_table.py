"""Table of planted users with the metrics meant for each, fixed before the first run on test data.

A planted user is *caught* if a metric meant for it differs from people in the expected direction, with a
Holm-adjusted p below `ALPHA`. Holm's adjustment covers all metrics of that user. If several metrics are meant for one
user, one of them suffices (`needs="any"`). The reason is that the table fixes a group of numbers ("coherence with
answer and history") and not the scorer. The report names the metrics that caught it, and both scorers' agreement.

The two clocks and the positive control test the metrics of leaving and need all of theirs (`needs="all"`). A clock
adds nothing to its own baseline (upper bound of the gain below `CLOCK_BOUND`); ends planted on content do.

Directions follow from the construction of a user; "different" stands where it fixes none. Word-trigram gibberish is
cut from people's own turns, so an n-gram model may find it too smooth or too rough. A user that says everything at
once is closer to its goal in the opening and further from it later.
"""

from __future__ import annotations

from typing import Literal

from usersim.types import Record

Direction = Literal["lower", "higher", "different", "bounded", "above"]
"""Expected direction of the planted user's number relative to people's.

`bounded` (a gain of at most `CLOCK_BOUND`) and `above` (0) refer to the number itself.
"""
ALPHA = 0.01
CLOCK_BOUND = 0.02


class Expectation(Record):
    """Metric with the expected effect of the planted user on it."""

    key: str
    direction: Direction


class PlantedUserSpec(Record):
    """Row of the table."""

    name: str
    label: str
    description: str
    """Description of its turns, in one sentence."""
    expectations: tuple[Expectation, ...]
    needs: Literal["any", "all"] = "any"
    changes: Literal["text", "leaving"] = "text"
    """Text users leave where the person left; leaving users write the person's text."""


def _each(direction: Direction, *keys: str) -> tuple[Expectation, ...]:
    return tuple(Expectation(key=key, direction=direction) for key in keys)


def _both_scorers(direction: Direction, *names: str, positions: str = "") -> tuple[Expectation, ...]:
    return _each(direction, *(f"{name}.{s}{positions}" for name in names for s in ("lm", "embedding")))


TOLD_APART = _each(
    "higher", *(f"told_apart.{family}.{turn}" for family in "ab" for turn in ("1", "2", "3+", "all"))
)
ROUGH = _each("higher", "fluency.lm", "fluency.ngram")
NOT_LISTENING = _both_scorers("lower", "coherence.answer", "coherence.history")

TABLE: tuple[PlantedUserSpec, ...] = (
    PlantedUserSpec(
        name="gibberish_words",
        label="gibberish (word trigrams)",
        description=(
            "every turn drawn from a word-trigram model of other people's turns, at the "
            "person's number of words"
        ),
        expectations=(*_each("higher", "fluency.lm"), *_each("different", "fluency.ngram")),
    ),
    PlantedUserSpec(
        name="gibberish_characters",
        label="gibberish (characters)",
        description="every turn drawn from a character-trigram model of other people's turns, at the person's length",
        expectations=ROUGH,
    ),
    PlantedUserSpec(
        name="shuffled_words",
        label="shuffled words",
        description="all words of every turn in random order",
        expectations=ROUGH,
    ),
    PlantedUserSpec(
        name="shuffled_some",
        label="30 % of the words shuffled",
        description="three words in ten of every turn change places among themselves",
        expectations=ROUGH,
    ),
    PlantedUserSpec(
        name="deaf",
        label="deaf",
        description="every turn is another person's, of another conversation at a like position",
        expectations=NOT_LISTENING,
    ),
    PlantedUserSpec(
        name="thread_lost",
        label="thread lost from turn 3",
        description="the person's own turns 1 and 2, then the turns of one other conversation",
        expectations=(*NOT_LISTENING, *_both_scorers("lower", "coherence.history", positions=".3+")),
    ),
    PlantedUserSpec(
        name="replay",
        label="nearest training chat replayed",
        description=(
            "the person's turns of the training conversation with the nearest opening, "
            "whatever the assistant says"
        ),
        expectations=(*NOT_LISTENING, *_each("higher", "copying.training")),
    ),
    PlantedUserSpec(
        name="goal_swapped",
        label="goal swapped with the nearest",
        description="every turn is that of the person with the nearest other goal at the same position",
        expectations=(
            *_both_scorers("lower", "coherence.goal"),
            *_each("lower", "facts.supported"),
            *_each("higher", "facts.contradicted"),
            *TOLD_APART,
        ),
    ),
    PlantedUserSpec(
        name="goal_read_out",
        label="goal read out",
        description="turn k says the goal's facet k word for word, after the last the summary",
        expectations=(
            *_both_scorers("higher", "coherence.goal"),
            *_each("higher", "facts.supported"),
            *TOLD_APART,
        ),
    ),
    PlantedUserSpec(
        name="everything_at_once",
        label="everything at once",
        description="the opening holds all of the person's turns, every later turn is a short acknowledgement",
        expectations=(*_both_scorers("different", "coherence.goal"), *TOLD_APART),
    ),
    PlantedUserSpec(
        name="drifting",
        label="numbers and names drift",
        description="numbers and names of later turns replaced by others",
        expectations=(*_each("lower", "facts.supported"), *_each("higher", "facts.contradicted")),
    ),
    PlantedUserSpec(
        name="no_objections",
        label="objections removed",
        description="turns that object replaced by calm turns of other people at a like position",
        expectations=_each("lower", "acts.objects"),
    ),
    PlantedUserSpec(
        name="thanks_added",
        label="thanks added",
        description="thanks put before 40 % of the later turns",
        expectations=_each("higher", "acts.thanks"),
    ),
    PlantedUserSpec(
        name="assistant_voice",
        label="the assistant's voice",
        description="20 % of the later turns are sentences of the assistant of another conversation",
        expectations=_each("higher", "acts.voice"),
    ),
    PlantedUserSpec(
        name="near_copies",
        label="near-copies of the reference",
        description="the person's own turn with a word or two replaced",
        expectations=_each("higher", "copying.reference"),
    ),
    PlantedUserSpec(
        name="never_leaves",
        label="never leaves",
        description="the person's words, and P(end) of 0 everywhere",
        expectations=_each("lower", "leaving.rate"),
        changes="leaving",
    ),
    PlantedUserSpec(
        name="leaves_by_turn_number",
        label="leaves by turn number",
        description="the person's words, P(end) is the share that left at that turn in other folds",
        expectations=_each("bounded", "leaving.gain.turn"),
        needs="all",
        changes="leaving",
    ),
    PlantedUserSpec(
        name="leaves_by_facets",
        label="leaves by counting facets",
        description="the person's words, P(end) from the facets that are left at that turn, fitted on other folds",
        expectations=_each("bounded", "leaving.gain.facets"),
        needs="all",
        changes="leaving",
    ),
    PlantedUserSpec(
        name="ends_on_content",
        label="ends planted on content (positive control)",
        description="people leave because of what the last answer says, and the planted user knows it",
        expectations=_each("above", "leaving.gain.turn", "leaving.gain.facets", "leaving.gain.both"),
        needs="all",
        changes="leaving",
    ),
    PlantedUserSpec(
        name="prompted_base",
        label="the prompted base",
        description="a base model with our best prompt, drawn before",
        expectations=TOLD_APART,
    ),
)


def row(name: str) -> PlantedUserSpec:
    """Returns the planted user of that name. Raises KeyError."""
    return {user.name: user for user in TABLE}[name]
