"""Task of SimulatorArena documents: people's openings, their answers about their wish, and the final document.

Rows have `user_queries`, `intent`, `document_type`, `bullet_points_responses`, `document_history`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collab_train.contexts import Context
from collab_train.sources import field, rows, split_of
from usersim.types import Facet, Goal, Turn, UserProfile

USUAL_FILE = (
    "FILE, document_creation_annotations_for_benchmarking.json of github.com/microsoft/SimulatorArena"
)


@dataclass(frozen=True)
class SimulatorArenaDocuments:
    path: str | None = None

    @property
    def rewards(self) -> Mapping[str, float]:
        return {"bleu": 1.0}

    def contexts(self) -> list[Context]:
        numbered_rows = enumerate(rows(self.path, "simulatorarena_documents", USUAL_FILE))
        return [self._context(number, row) for number, row in numbered_rows if row.get("document_history")]

    def _context(self, number: int, row: dict[str, Any]) -> Context:
        names = ("user_queries", "intent", "document_type", "document_history")
        queries, intent, kind, versions = (field(row, name, number, self.path) for name in names)
        identifier = f"arena-document-{number}"
        wish = intent.partition(":")[2].strip() or intent
        wishes = [text for text in row.get("bullet_points_responses") or [] if text.strip()]
        return Context(
            id=identifier,
            turns=(Turn(role="user", text=queries[0]),),
            profile=UserProfile(
                goal=Goal(
                    summary=f"have a {kind} written: {wish[:1].lower()}{wish[1:]}",
                    facets=tuple(Facet(text=text) for text in wishes),
                    provenance="the person, asked beforehand",
                )
            ),
            split=split_of(identifier),
            topic=kind,
            reference=versions[-1],
        )


TASK = SimulatorArenaDocuments()
