"""Task of MATH, level 5 (Hendrycks et al. 2021).

Rows have `problem`, `level`, `type` or `subject`, and `solution` or `answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collab_train.contexts import Context
from collab_train.rewards.answers import stated_answer
from collab_train.sources import field, problem_context, rows
from usersim.errors import DataError


@dataclass(frozen=True)
class MathHard:
    path: str | None = None

    @property
    def rewards(self) -> Mapping[str, float]:
        return {"accuracy": 1.0}

    def contexts(self) -> list[Context]:
        contexts = []
        for number, row in enumerate(rows(self.path, "math_hard", "hf:lighteval/MATH-Hard@test")):
            if str(row.get("level", 5))[-1] != "5":
                continue
            answer = row.get("answer") or stated_answer(str(field(row, "solution", number, self.path)))
            if not answer:
                continue  # a solution without a \boxed answer cannot be compared
            subject = str(row.get("type") or row.get("subject") or "math").lower()
            problem = str(field(row, "problem", number, self.path))
            contexts.append(problem_context(f"math-{number}", problem, str(answer), subject))
        if not contexts:
            raise DataError(f"{self.path}: no problem of level 5 in it")
        return contexts


TASK = MathHard()
