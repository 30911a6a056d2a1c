"""The table planted user -> metrics meant for it, fixed before the first run on test data.

A planted user is *caught* where a metric meant for it differs from people in the expected direction, with a
Holm-adjusted p below `ALPHA`. Holm's adjustment is over all metrics of that user, the others included. Several metrics
may be meant for one user. One of them suffices (`needs="any"`), because issue and table name the group of numbers
("coherence with answer and history") and not the scorer. Which of them caught it, and whether both scorers did, is
reported.
The two clocks and the positive control are tests of the instrument itself and need all of theirs (`needs="all"`).
A clock adds nothing to its own baseline (upper bound of the gain below `CLOCK_BOUND`); ends planted on content do.

Directions follow from how a user is made. "different" stands where the making fixes none. Word-trigram gibberish is
cut from people's own turns, so that an n-gram model may find it too smooth as well as too rough. A user that says
everything at once is nearer to its goal in the opening and further from it later.
"""

from __future__ import annotations

from typing import Literal

from usersim.types import Record

Direction = Literal["lower", "higher", "different", "bounded", "above"]
"""Direction of the planted user's number against people's; `bounded` (a gain not above `CLOCK_BOUND`) and `above` (0)
are read off the number itself."""
ALPHA = 0.01
CLOCK_BOUND = 0.02


class Expectation(Record):
    """A metric and what the planted user does to it."""

    key: str
    direction: Direction


class PlantedUserSpec(Record):
    """A row of the table."""

    name: str
    label: str
    description: str
    """Description of its turns, in a sentence."""
    meant: tuple[Expectation, ...]
    needs: Literal["any", "all"] = "any"
    changes: Literal["text", "leaving"] = "text"
    """Text users leave where the person left; leaving users write the person's words."""


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
        meant=(*_each("higher", "fluency.lm"), *_each("different", "fluency.ngram")),
    ),
    PlantedUserSpec(
        name="gibberish_characters",
        label="gibberish (characters)",
        description="every turn drawn from a character-trigram model of other people's turns, at the person's length",
        meant=ROUGH,
    ),
    PlantedUserSpec(
        name="shuffled_words",
        label="shuffled words",
        description="all words of every turn in random order",
        meant=ROUGH,
    ),
    PlantedUserSpec(
        name="shuffled_some",
        label="30 % of the words shuffled",
        description="three words in ten of every turn change places among themselves",
        meant=ROUGH,
    ),
    PlantedUserSpec(
        name="deaf",
        label="deaf",
        description="every turn is another person's, of another conversation at a like position",
        meant=NOT_LISTENING,
    ),
    PlantedUserSpec(
        name="thread_lost",
        label="thread lost from turn 3",
        description="the person's own turns 1 and 2, then the turns of one other conversation",
        meant=(*NOT_LISTENING, *_both_scorers("lower", "coherence.history", positions=".3+")),
    ),
    PlantedUserSpec(
        name="replay",
        label="nearest training chat replayed",
        description=(
            "the person's turns of the training conversation with the nearest opening, "
            "whatever the assistant says"
        ),
        meant=(*NOT_LISTENING, *_each("higher", "copying.training")),
    ),
    PlantedUserSpec(
        name="goal_swapped",
        label="goal swapped with the nearest",
        description="every turn is that of the person with the nearest other goal at the same position",
        meant=(
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
        meant=(*_both_scorers("higher", "coherence.goal"), *_each("higher", "facts.supported"), *TOLD_APART),
    ),
    PlantedUserSpec(
        name="everything_at_once",
        label="everything at once",
        description="the opening holds all of the person's turns, every later turn is a short acknowledgement",
        meant=(*_both_scorers("different", "coherence.goal"), *TOLD_APART),
    ),
    PlantedUserSpec(
        name="drifting",
        label="numbers and names drift",
        description="numbers and names of later turns replaced by others",
        meant=(*_each("lower", "facts.supported"), *_each("higher", "facts.contradicted")),
    ),
    PlantedUserSpec(
        name="no_objections",
        label="objections removed",
        description="turns that object replaced by calm turns of other people at a like position",
        meant=_each("lower", "acts.objects"),
    ),
    PlantedUserSpec(
        name="thanks_added",
        label="thanks added",
        description="thanks put before 40 % of the later turns",
        meant=_each("higher", "acts.thanks"),
    ),
    PlantedUserSpec(
        name="assistant_voice",
        label="the assistant's voice",
        description="20 % of the later turns are sentences of the assistant of another conversation",
        meant=_each("higher", "acts.voice"),
    ),
    PlantedUserSpec(
        name="near_copies",
        label="near-copies of the reference",
        description="the person's own turn with a word or two replaced",
        meant=_each("higher", "copying.reference"),
    ),
    PlantedUserSpec(
        name="never_leaves",
        label="never leaves",
        description="the person's words, and P(end) of 0 everywhere",
        meant=_each("lower", "leaving.rate"),
        changes="leaving",
    ),
    PlantedUserSpec(
        name="leaves_by_turn_number",
        label="leaves by turn number",
        description="the person's words, P(end) is the share that left at that turn in other folds",
        meant=_each("bounded", "leaving.gain.turn"),
        needs="all",
        changes="leaving",
    ),
    PlantedUserSpec(
        name="leaves_by_facets",
        label="leaves by counting facets",
        description="the person's words, P(end) from the facets that are left at that turn, fitted on other folds",
        meant=_each("bounded", "leaving.gain.facets"),
        needs="all",
        changes="leaving",
    ),
    PlantedUserSpec(
        name="ends_on_content",
        label="ends planted on content (positive control)",
        description="people leave because of what the last answer says, and the planted user knows it",
        meant=_each("above", "leaving.gain.turn", "leaving.gain.facets", "leaving.gain.both"),
        needs="all",
        changes="leaving",
    ),
    PlantedUserSpec(
        name="prompted_base",
        label="the prompted base",
        description="a base model with our best prompt, drawn before",
        meant=TOLD_APART,
    ),
)


def row(name: str) -> PlantedUserSpec:
    """The planted user of that name. Raises KeyError."""
    return {user.name: user for user in TABLE}[name]
