"""Task of SimulatorArena maths tutoring: people's openings, where their final answer was right.

Rows have `user_queries`, `turk_final_answer`, `problem_1_correctness`, `type`, `math_expertise`. The file lacks the
problems, so the user knows only what the opening says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from collab_train.contexts import Context
from collab_train.rewards.answers import last_number
from collab_train.sources import field, rows, split_of
from usersim.types import Goal, Persona, Turn, UserProfile

USUAL_FILE = (
    "FILE, math_tutoring_annotations_redacted_for_benchmarking.json of github.com/microsoft/SimulatorArena"
)


@dataclass(frozen=True)
class SimulatorArenaMath:
    path: str | None = None

    @property
    def rewards(self) -> Mapping[str, float]:
        return {"accuracy": 1.0}

    def contexts(self) -> list[Context]:
        numbered_rows = enumerate(rows(self.path, "simulatorarena_math", USUAL_FILE))
        return [self._context(n, row) for n, row in numbered_rows if _solved(row)]

    def _context(self, number: int, row: dict[str, Any]) -> Context:
        final_answer = str(field(row, "turk_final_answer", number, self.path))
        subject, identifier = str(row.get("type") or "math").lower(), f"arena-math-{number}"
        level = row.get("math_expertise")
        persona = Persona(description=f"a student, mathematics: {level}") if level else None
        goal = Goal(summary=f"understand a problem of {subject} and find its answer")
        return Context(
            id=identifier,
            turns=(Turn(role="user", text=field(row, "user_queries", number, self.path)[0]),),
            profile=UserProfile(goal=goal, persona=persona),
            split=split_of(identifier),
            topic=subject,
            # People also write "There are 4 of them."
            metadata={
                "answer": (last_number(final_answer) if " " in final_answer.strip() else None)
                or final_answer.strip()
            },
        )


def _solved(row: dict[str, Any]) -> bool:
    return row.get("problem_1_correctness") == "correct" and bool(row.get("turk_final_answer"))


TASK = SimulatorArenaMath()
