"""Task of Abg-CoQA (Guo et al. 2021): questions about a story, some of them ambiguous. For evaluation only.

`metadata.ambiguous` is yes or no. The reward `clarifies` is 1 for asking back if yes, and for answering if no.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collab_train.contexts import Context
from collab_train.sources import field, rows
from usersim.types import Facet, Goal, Turn, UserProfile

SYSTEM = "Answer questions about the text below, briefly. Where a question can mean several things, ask which.\n\n{}"


@dataclass(frozen=True)
class AbgCoqa:
    path: str | None = None

    @property
    def rewards(self) -> Mapping[str, float]:
        return {"clarifies": 1.0}

    def contexts(self) -> list[Context]:
        listed_rows = rows(self.path, "abg_coqa", "FILE of github.com/MeiqiGuo/AKBC2021-Abg-CoQA")
        return [self._context(number, row) for number, row in enumerate(listed_rows)]

    def _context(self, number: int, row: dict[str, Any]) -> Context:
        names = ("id", "story", "target_turn", "ambiguity")
        identifier, story, target, ambiguity = (field(row, name, number, self.path) for name in names)
        reading = _intended_reading(row.get("clarification_turn") or {}, target["answer"])
        goal = Goal(summary="learn something about a text", facets=(Facet(text=reading),) if reading else ())
        history = [text for turn in row["history_turns"] for text in (turn["question"], turn["answer"])]
        return Context(
            id=f"{identifier}-{number}",  # ids repeat: a story may have several judgements
            turns=tuple(
                Turn(role="assistant" if at % 2 else "user", text=t)
                for at, t in enumerate([*history, target["question"]])
            ),
            profile=UserProfile(goal=goal),
            system=SYSTEM.format(story.strip()),
            split="heldout",
            reference=target["answer"],
            metadata={"ambiguous": "yes" if ambiguity == "ambiguous" else "no", "answer": target["answer"]},
        )


def _intended_reading(clarification: dict[str, Any], answer: str) -> str:
    """Returns the reading of the question that has the given answer, for the user to state when asked."""
    readings = clarification.get("answers") or []
    matching = [reading["clr_ans"] for reading in readings if reading.get("org_ans") == answer]
    return str((matching or [reading["clr_ans"] for reading in readings] or [""])[0]).strip()


TASK = AbgCoqa()
