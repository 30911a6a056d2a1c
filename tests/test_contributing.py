"""The examples of CONTRIBUTING.md and docs/tasks.md name nothing that they do not import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    (path, code)
    for page in ("CONTRIBUTING.md", "docs/tasks.md")
    for code, path in re.findall(
        r"```python\n(# (\S+\.py)\n.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL
    )
]


def test_there_are_examples() -> None:
    assert len(FILES) >= 9


@pytest.mark.parametrize(("path", "code"), FILES, ids=[path for path, _ in FILES])
def test_an_example_is_complete(path: str, code: str) -> None:
    command = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "F",
        "--stdin-filename",
        path,
        "-",
    ]
    done = subprocess.run(command, input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
