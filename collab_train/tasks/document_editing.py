"""Task of writing a document: Medium articles as in CollabLLM, or any rows of `text` and optionally `title`.

The goal is the subject, and its facets are the first sentences of the paragraphs. The opening names only the subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collab_train.contexts import Context
from collab_train.sources import field, pick, rows, sentences, split_of
from usersim.errors import DataError
from usersim.types import Facet, Goal, Turn, UserProfile

SHORTEST, LONGEST, MOST_FACETS = 50, 600, 8
"""Minimum and maximum words of a document, and maximum facets. Other documents are left out."""
OPENINGS = ("help me write an article about {}", "i want to write something about {}, can you help")


@dataclass(frozen=True)
class DocumentEditing:
    path: str | None = None

    @property
    def rewards(self) -> Mapping[str, float]:
        return {"bleu": 1.0}

    def contexts(self) -> list[Context]:
        numbered_rows = enumerate(rows(self.path, "document_editing", "hf:Kamaljp/medium_articles"))
        contexts = [
            self._context(n, row)
            for n, row in numbered_rows
            if SHORTEST <= len(str(row.get("text")).split()) <= LONGEST
        ]
        if not contexts:
            raise DataError(f"{self.path}: no `text` of {SHORTEST} to {LONGEST} words in it")
        return contexts

    def _context(self, number: int, row: dict[str, Any]) -> Context:
        text = str(field(row, "text", number, self.path))
        identifier = str(row.get("id") or f"document-{number}")
        subject = str(row.get("title") or sentences(text)[0]).strip(" .!?\"'")
        points = [sentences(part)[0] for part in text.split("\n") if sentences(part)]
        points = (points if len(points) > 1 else sentences(text))[:MOST_FACETS]
        facets = tuple(Facet(text=point) for point in points)
        return Context(
            id=identifier,
            turns=(Turn(role="user", text=pick(OPENINGS, identifier).format(subject)),),
            profile=UserProfile(goal=Goal(summary=f"have an article written on: {subject}", facets=facets)),
            split=split_of(identifier),
            reference=text,
        )


TASK = DocumentEditing()
