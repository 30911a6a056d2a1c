"""Every key of MATH and GSM8K against itself, and every reference solution against its key.

The files are not part of the repository: USERSIM_TASKS names the folder with math_test.jsonl, gsm8k_test.jsonl and
gsm8k_train.jsonl.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collab_train.rewards.answers import same, stated_answer
from collab_train.rewards.maths import accuracy
from tests.reported_inputs.run_cases import _episode

TASKS = os.environ.get("USERSIM_TASKS", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TASKS, reason="USERSIM_TASKS names no folder of task files"),
]


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(TASKS, name).read_text(encoding="utf-8").split("\n") if line]


def keys() -> list[tuple[str, str]]:
    """(reference solution, key)"""
    maths = [(row["solution"], stated_answer(row["solution"]) or "") for row in rows("math_test.jsonl")]
    school = [row["answer"] for name in ("gsm8k_test.jsonl", "gsm8k_train.jsonl") for row in rows(name)]
    return maths + [(answer, answer.rpartition("####")[2].strip()) for answer in school]


def loose(key: str) -> str:
    """With spaces where LaTeX ignores them."""
    return re.sub(r"&|\\\\|(?<!\\)[{}]", lambda match: f" {match[0]} ", key)


@pytest.mark.parametrize("change", [str, loose], ids=["as it is", "with spaces"])
def test_every_key_is_the_same_as_itself(change: Callable[[str], str]) -> None:
    assert [key for _, key in keys() if not same(change(key), key)] == []


def test_every_reference_solution_is_right() -> None:
    wrong = [key for solution, key in keys() if accuracy(_episode([solution], metadata={"answer": key})) != 1]
    assert wrong == []


def test_every_matrix_is_the_same_as_itself_without_spaces() -> None:
    matrices = [key for _, key in keys() if "matrix}" in key]
    assert len(matrices) == 72
    assert [key for key in matrices if not same("".join(key.split()), key)] == []
    assert [key for key in matrices if not same(loose(key), key)] == []


def test_a_key_between_others_or_denied_is_not_right() -> None:
    numbers = [key for _, key in keys() if key.isdigit()]
    assert [key for key in numbers if same(f"{int(key) - 1} or {key} or {int(key) + 1}", key)] == []
    assert [key for key in numbers if same(f"not {key}", key)] == []
