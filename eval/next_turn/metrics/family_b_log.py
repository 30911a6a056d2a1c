"""Log of every use of discriminator family B.

Family B is evidence only if nothing is tuned against it. Each use is one line of a JSON Lines file in the repository,
and a page with its numbers shows how many uses of that model came before.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from usersim.storage.records import append_line, whole_lines
from usersim.types import Record

LOG = "docs/results/family-b.jsonl"
"""Path of the log, from the root of the repository."""


class FamilyBUse(Record):
    """One use of family B on the turns of one simulator."""

    date: str
    """Time in UTC, ISO 8601 to the second."""
    code: str
    """Commit of the checkout (`+changes` if files differ from it), or version of the installed package."""
    model: str
    """Name of the simulator, with a hash of its weights if available."""
    command: str
    prefixes: int


def log_use(
    path: str | Path, model: str, command: str, prefixes: int, *, date: datetime | None = None
) -> int:
    """Appends one use; returns its number among the uses of the model, from 1.

    Raises:
        BackendError: The file cannot be written.
    """
    when = (date or datetime.now(UTC)).astimezone(UTC)
    use = FamilyBUse(
        date=when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        code=code_version(),
        model=model,
        command=command,
        prefixes=prefixes,
    )
    append_line(path, use.model_dump_json())
    return count(path, model)


def count(path: str | Path, model: str | None = None) -> int:
    """Returns the number of uses in the log, of one model or of all; 0 if there is no file."""
    return sum(model is None or use.model == model for use in uses(path))


def uses(path: str | Path) -> list[FamilyBUse]:
    """Returns the uses in order; malformed lines are skipped."""
    log = []
    for _, _, value in whole_lines(path):
        try:
            log.append(FamilyBUse.model_validate(value))
        except ValidationError:
            continue
    return log


def code_version() -> str:
    """Returns the commit of the checkout that this code runs from, or the version of the installed package."""
    folder = Path(__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    # An installed package may lie inside a foreign repository: only a tracked file is of this checkout.
    if commit and _git(folder, "ls-files", Path(__file__).name):
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    try:
        return version("usersim-lm")
    except PackageNotFoundError:
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
