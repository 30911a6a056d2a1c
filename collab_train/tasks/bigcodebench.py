"""Task of BigCodeBench (Zhuo et al. 2024): functions to write, checked by unit tests.

Rows have `task_id`, `instruct_prompt`, `code_prompt`, `test`, `entry_point`, `libs`. The opening shows the signature,
which the tests need and an assistant cannot guess. The specification stays with the user.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from collab_train.contexts import Context
from collab_train.sources import field, rows, sentences, split_of
from usersim.types import Facet, Goal, Turn, UserProfile

OPENING = "i need a python function, can you write it? it has to start like this:\n```python\n{}\n```"
REFUSED = {"multiprocessing", "socket", "subprocess"}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BigCodeBench:
    path: str | None = None

    @property
    def rewards(self) -> Mapping[str, float]:
        return {"pass_rate": 1.0}

    def contexts(self) -> list[Context]:
        listed_rows = list(enumerate(rows(self.path, "bigcodebench", "hf:bigcode/bigcodebench@v0.1.2")))
        usable = [(number, row) for number, row in listed_rows if _runs(row.get("libs") or [])]
        if unusable_count := len(listed_rows) - len(usable):
            log.warning(
                "bigcodebench: %d of %d rows cannot run here and are left out",
                unusable_count,
                len(listed_rows),
            )
        return [self._context(number, row) for number, row in usable]

    def _context(self, number: int, row: dict[str, Any]) -> Context:
        names = ("task_id", "instruct_prompt", "code_prompt", "test", "entry_point")
        identifier, instructions, stub, tests, entry = (
            str(field(row, name, number, self.path)) for name in names
        )
        facets = [
            Facet(text=text)
            for text in sentences(instructions.partition("You should write self-contained")[0])
        ]
        return Context(
            id=identifier,
            turns=(Turn(role="user", text=OPENING.format(stub.rstrip())),),
            profile=UserProfile(goal=Goal(summary="have a Python function written", facets=tuple(facets))),
            split=split_of(identifier),
            metadata={"tests": tests, "entry_point": entry, "prefix": f"{stub.rstrip()}\n    pass\n\n"},
        )


def _runs(libs: str | list[str]) -> bool:
    packages = ast.literal_eval(libs) if isinstance(libs, str) else libs
    return not REFUSED & set(packages) and all(find_spec(name.partition(".")[0]) for name in packages)


TASK = BigCodeBench()
