"""The embedded task: everyday goals whose 3-4 facets the user keeps back until asked, or until missed.

All goals are our own writing. The opening gives the topic away and none of the facets; whole topics are held
out. `facet_coverage` pays for a facet only where the assistant ends up serving it (`usersim.text.facets`).
With a path: goals of one's own in the same JSON Lines, with `"split": "heldout"` where they are to be held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collab_train.contexts import Context
from usersim.errors import DataError
from usersim.storage.records import read_jsonl
from usersim.types import Facet, Goal, Turn, UserProfile

GOALS = Path(__file__).with_name("hidden_facets.jsonl")
HELD_OUT_TOPICS = frozenset({"garden", "gifts", "music", "photo", "vehicles"})


@dataclass(frozen=True)
class HiddenFacets:
    path: str | None = None

    @property
    def rewards(self) -> Mapping[str, float]:
        return {"facet_coverage": 1.0}

    def contexts(self) -> list[Context]:
        made, path = [], self.path or GOALS
        for line, row in read_jsonl(path):
            try:
                made.append(_context(row))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}:{line}: needs id, topic, summary, opening, facets of text and phrases ({error})"
                ) from error
        return made


def _context(row: dict[str, Any]) -> Context:
    facets = tuple(Facet(text=facet["text"]) for facet in row["facets"])
    goal = Goal(summary=row["summary"], facets=facets, provenance="collab_train")
    held_out = row.get("split", "heldout" if row["topic"] in HELD_OUT_TOPICS else "train")
    return Context(
        id=row["id"],
        turns=(Turn(role="user", text=row["opening"]),),
        profile=UserProfile(goal=goal),
        phrases=tuple(tuple(facet["phrases"]) for facet in row["facets"]),
        topic=row["topic"],
        split=held_out,
    )


TASK = HiddenFacets()
