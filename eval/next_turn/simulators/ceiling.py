"""Human ceiling: turns that other people write at the same prefixes, in the form of a simulator.

File format, JSON Lines of `AnnotatedTurn`, one line for each annotator and prefix:

    {"prefix": "c17@2", "person": "annotator-3", "text": "and by train?"}
    {"prefix": "c17@3", "person": "annotator-3", "ends": true}

An annotator sees what a simulator gets: the goal, if there is one, and the history up to the prefix. Then the
annotator writes the next user turn, or leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from eval.next_turn.prefixes import Prefix
from eval.next_turn.turns import NextTurn, SimulatedTurns
from usersim.errors import DataError
from usersim.stats.estimates import rng_for
from usersim.storage.records import read_records
from usersim.types import NonEmpty

CEILING = "other people"
OWN = "by the person of the conversation"
UNKNOWN = "at a prefix that is not measured"


class AnnotatedTurn(NextTurn):
    """Next turn of another person at a prefix. One line of a ceiling file."""

    person: NonEmpty
    """Id of the annotator, the same in every line of one person."""


def read_annotated(path: str | Path) -> list[AnnotatedTurn]:
    """Reads a ceiling file. Raises DataError for two turns of a person at one prefix, and for an empty file."""
    turns: list[AnnotatedTurn] = []
    pairs: set[tuple[str, str]] = set()
    for number, turn in enumerate(read_records(path, AnnotatedTurn), start=1):
        if (turn.prefix, turn.person) in pairs:
            raise DataError(f"{path}:{number}: a second turn of {turn.person!r} at prefix {turn.prefix!r}")
        pairs.add((turn.prefix, turn.person))
        turns.append(turn)
    if not turns:
        raise DataError(
            f"{path}: no turns in it; one line for each annotator and prefix: {{prefix, person, text, ends}}"
        )
    return turns


def pooled(turns: Sequence[AnnotatedTurn], prefixes: Sequence[Prefix], seed: int) -> SimulatedTurns:
    """Returns all annotators as one simulator, measured like any other.

    A prefix has one turn. Of several annotators one is drawn with `seed`, so that every prefix has the same weight.

    Args:
        turns: Turns of the annotators.
        prefixes: Measured prefixes. A turn elsewhere, or by the person of the conversation, is counted in `failed`.
        seed: Seed of the draw.

    Raises:
        DataError: No turn of another person is left.
    """
    usable, left_out = _usable(turns, prefixes)
    by_prefix: dict[str, list[AnnotatedTurn]] = {}
    for turn in usable:
        by_prefix.setdefault(turn.prefix, []).append(turn)
    turns_by_prefix = {}
    for prefix, candidates in by_prefix.items():
        by_name = sorted(candidates, key=lambda turn: turn.person)
        turns_by_prefix[prefix] = by_name[rng_for(seed, f"annotator {prefix}").integers(len(by_name))]
    people = len({turn.person for turn in usable})
    note = f"{people} annotators, {len(usable)} turns at {len(turns_by_prefix)} prefixes, one drawn for each"
    return SimulatedTurns(CEILING, dict(turns_by_prefix), failed=left_out, note=note)


def by_person(turns: Sequence[AnnotatedTurn], prefixes: Sequence[Prefix]) -> list[SimulatedTurns]:
    """Returns each annotator as a simulator, by name. Excludes, counts and raises like `pooled`."""
    usable, _ = _usable(turns, prefixes)
    annotators = []
    for person in sorted({turn.person for turn in usable}):
        own = {turn.prefix: turn for turn in usable if turn.person == person}
        _, left_out = _split([turn for turn in turns if turn.person == person], prefixes)
        annotators.append(
            SimulatedTurns(person, dict(own), failed=left_out, note=f"an annotator, {len(own)} prefixes")
        )
    return annotators


def _usable(
    turns: Sequence[AnnotatedTurn], prefixes: Sequence[Prefix]
) -> tuple[list[AnnotatedTurn], dict[str, int]]:
    usable, left_out = _split(turns, prefixes)
    if not usable:
        counts = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DataError(f"no turn of another person at a measured prefix: {counts}")
    return usable, left_out


def _split(
    turns: Sequence[AnnotatedTurn], prefixes: Sequence[Prefix]
) -> tuple[list[AnnotatedTurn], dict[str, int]]:
    cluster_of = {prefix.id: prefix.cluster for prefix in prefixes}
    usable, left_out = [], Counter[str]()
    for turn in turns:
        cluster = cluster_of.get(turn.prefix)
        if cluster is None or cluster == turn.person:
            left_out[UNKNOWN if cluster is None else OWN] += 1
        else:
            usable.append(turn)
    return usable, dict(left_out)
