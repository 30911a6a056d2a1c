"""Embedded task: everyday goals whose 3-4 facets the user withholds until asked or until they are missing.

The goals were written for this project. The opening reveals the topic but no facet. Whole topics are held out.
`facet_coverage` counts a facet only if the assistant serves it in the end (`usersim.text.facets`). With a path, the
task reads other goals from JSON Lines of the same form; `"split": "heldout"` holds one out.
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
        contexts, path = [], self.path or GOALS
        for line, row in read_jsonl(path):
            try:
                contexts.append(_context(row))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}:{line}: needs id, topic, summary, opening, facets of text and phrases ({error})"
                ) from error
        return contexts


def _context(row: dict[str, Any]) -> Context:
    facets = tuple(Facet(text=facet["text"]) for facet in row["facets"])
    goal = Goal(summary=row["summary"], facets=facets, provenance="collab_train")
    split = row.get("split", "heldout" if row["topic"] in HELD_OUT_TOPICS else "train")
    return Context(
        id=row["id"],
        turns=(Turn(role="user", text=row["opening"]),),
        profile=UserProfile(goal=goal),
        phrases=tuple(tuple(facet["phrases"]) for facet in row["facets"]),
        topic=row["topic"],
        split=split,
    )


TASK = HiddenFacets()
