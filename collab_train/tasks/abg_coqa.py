"""Abg-CoQA (Guo et al. 2021): questions about a story, some of which need asking back. For evaluation only.

`metadata.ambiguous` is yes or no; `clarifies` pays for asking back in the first case and answering in the second.
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
        found = rows(self.path, "abg_coqa", "FILE of github.com/MeiqiGuo/AKBC2021-Abg-CoQA")
        return [self._context(number, row) for number, row in enumerate(found)]

    def _context(self, number: int, row: dict[str, Any]) -> Context:
        names = ("id", "story", "target_turn", "ambiguity")
        identifier, story, asked, ambiguity = (field(row, name, number, self.path) for name in names)
        meant = _meant(row.get("clarification_turn") or {}, asked["answer"])
        goal = Goal(summary="learn something about a text", facets=(Facet(text=meant),) if meant else ())
        said = [text for turn in row["history_turns"] for text in (turn["question"], turn["answer"])]
        return Context(
            id=f"{identifier}-{number}",  # ids repeat: one story, several judgements
            turns=tuple(
                Turn(role="assistant" if at % 2 else "user", text=t)
                for at, t in enumerate([*said, asked["question"]])
            ),
            profile=UserProfile(goal=goal),
            system=SYSTEM.format(story.strip()),
            split="heldout",
            reference=asked["answer"],
            metadata={"ambiguous": "yes" if ambiguity == "ambiguous" else "no", "answer": asked["answer"]},
        )


def _meant(clarification: dict[str, Any], answer: str) -> str:
    """What the user would say when asked back: the reading that has the answer they were given."""
    readings = clarification.get("answers") or []
    fitting = [one["clr_ans"] for one in readings if one.get("org_ans") == answer]
    return str((fitting or [one["clr_ans"] for one in readings] or [""])[0]).strip()


TASK = AbgCoqa()
