"""Planted users: users with one known fault each, built from the given conversations.

Each is a deterministic function of (prefixes, material, seed). Every turn has its own random stream, so a prefix gets
the same turn for any set of requested prefixes. No metric uses the word lists of the `planted_*` modules. Text users
leave where the person left; leaving users write the person's text. The description of each user, and the metrics
meant for it, are in `eval.next_turn.selftest.planted_table`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.next_turn.prefixes import Prefix
from eval.next_turn.selftest.planted_gibberish import (
    gibberish_characters,
    gibberish_words,
    shuffled_some,
    shuffled_words,
)
from eval.next_turn.selftest.planted_leaving import (
    ends_on_content,
    leaves_by_facets,
    leaves_by_turn_number,
    never_leaves,
)
from eval.next_turn.selftest.planted_material import Material, PlantedTurns, Planter
from eval.next_turn.selftest.planted_table import TABLE
from eval.next_turn.selftest.planted_text import (
    assistant_voice,
    deaf,
    drifting,
    everything_at_once,
    goal_read_out,
    goal_swapped,
    near_copies,
    no_objections,
    replay,
    thanks_added,
    thread_lost,
)
from eval.next_turn.turns import SimulatedTurns, read_turns
from usersim.errors import DataError


def plant(name: str, prefixes: Sequence[Prefix], material: Material, seed: int) -> PlantedTurns:
    """Builds the planted user of that name (`planted_table.TABLE`) at these prefixes.

    Raises:
        DataError: It cannot be built from this material; the message gives the reason.
    """
    if name == "ends_on_content":
        new_prefixes, turns = ends_on_content(prefixes, material, seed)
        return PlantedTurns(name, tuple(new_prefixes), turns)
    turns = PLANTERS[name](prefixes, material, seed)
    if not turns.turns:
        raise DataError(f"{name}: " + "; ".join(turns.failed or ["no prefixes"]))
    return PlantedTurns(name, tuple(prefixes), turns)


def prompted_base(prefixes: Sequence[Prefix], material: Material, seed: int) -> SimulatedTurns:
    """Turns of a prompted base model from a file; turns at other prefixes are left out."""
    if material.prompted is None:
        raise DataError("prompted_base: no file of drawn turns was given")
    turns_of_file = read_turns(material.prompted, "prompted_base")
    prefix_ids = {p.id for p in prefixes}
    turns = {name: turn for name, turn in turns_of_file.turns.items() if name in prefix_ids}
    missing = sum(not p.has_left and p.id not in turns for p in prefixes)
    failed = {"no turn in the file": missing} if missing else {}
    return SimulatedTurns("prompted_base", turns, failed, turns_of_file.note)


PLANTERS: Mapping[str, Planter] = {
    planter.__name__: planter
    for planter in (
        gibberish_words,
        gibberish_characters,
        shuffled_words,
        shuffled_some,
        deaf,
        thread_lost,
        replay,
        goal_swapped,
        goal_read_out,
        everything_at_once,
        drifting,
        no_objections,
        thanks_added,
        assistant_voice,
        near_copies,
        never_leaves,
        leaves_by_turn_number,
        leaves_by_facets,
        prompted_base,
    )
}
"""All except `ends_on_content`, which also changes the prefixes."""
NAMES = tuple(user.name for user in TABLE)
