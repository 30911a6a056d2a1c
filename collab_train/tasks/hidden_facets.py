"""The embedded task: everyday goals whose 3-4 facets the user keeps back until asked, or until missed.

All goals are our own writing. The opening gives the topic away and none of the facets; whole topics are held
out. `facet_coverage` pays for a facet only where the assistant ends up serving it (`collab_train.served`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from collab_train.contexts import Context
from usersim.records import read_jsonl
from usersim.types import Facet, Goal, Turn, UserProfile

GOALS = Path(__file__).with_name("hidden_facets.jsonl")
HELD_OUT_TOPICS = frozenset({"garden", "gifts"})


class HiddenFacets:
    @property
    def rewards(self) -> Mapping[str, float]:
        return {"facet_coverage": 1.0}

    def contexts(self) -> list[Context]:
        return list(_contexts())


@cache
def _contexts() -> tuple[Context, ...]:
    contexts = []
    for _, row in read_jsonl(GOALS):
        facets = tuple(Facet(text=facet["text"]) for facet in row["facets"])
        goal = Goal(summary=row["summary"], facets=facets, provenance="collab_train")
        contexts.append(
            Context(
                id=row["id"],
                turns=(Turn(role="user", text=row["opening"]),),
                profile=UserProfile(goal=goal),
                phrases=tuple(tuple(facet["phrases"]) for facet in row["facets"]),
                topic=row["topic"],
                split="heldout" if row["topic"] in HELD_OUT_TOPICS else "train",
            )
        )
    return tuple(contexts)


TASK = HiddenFacets()
