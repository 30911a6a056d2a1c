"""Task of GSM8K (Cobbe et al. 2021): arithmetic word problems. Rows have `question` and `answer` ("… #### 18")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from collab_train.contexts import Context
from collab_train.sources import field, problem_context, rows


@dataclass(frozen=True)
class Gsm8k:
    path: str | None = None

    @property
    def rewards(self) -> Mapping[str, float]:
        return {"accuracy": 1.0}

    def contexts(self) -> list[Context]:
        contexts = []
        for number, row in enumerate(rows(self.path, "gsm8k", "hf:openai/gsm8k:main@test")):
            question, answer = (str(field(row, name, number, self.path)) for name in ("question", "answer"))
            result = answer.rpartition("####")[2].strip()
            contexts.append(problem_context(f"gsm8k-{number}", question, result, "arithmetic"))
        return contexts


TASK = Gsm8k()
