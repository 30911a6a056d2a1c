"""Futures in another window than they were simulated in.

What is said in an exchange does not depend on how many may follow: turns draw from seeds of their position. So a
future of window 3 holds those of windows 0, 1 and 2, and goes on to 4: all windows cost as much as the longest.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from collab_train.rollout.accounting.results import Future
from usersim.errors import ConfigError
from usersim.storage.runs import SAMPLES, RunDir
from usersim.types import Conversation

CANDIDATES = "candidates.jsonl"


def exchanges(conversation: Conversation, history: int) -> int:
    """User turns after the first `history` turns."""
    return sum(turn.role == "user" for turn in conversation.turns[history:])


def remaining(conversation: Conversation, history: int, w: int) -> int:
    """Exchanges that a window of `w` still has room for; none after the user has left."""
    return 0 if conversation.ended_by == "user" else max(0, w - exchanges(conversation, history))


def cut(future: Future, history: int, w: int) -> Future:
    """`future` as a window of `w` ends it: after `w` exchanges nobody knows yet whether the user leaves."""
    made = future.conversation
    if made is None or exchanges(made, history) < w:
        return future
    shorter = made.model_copy(update={"turns": made.turns[: history + 2 * w], "ended_by": "turn_cap"})
    return future.model_copy(update={"conversation": shorter})


def take_over(run: RunDir, source: str) -> None:
    """Begins `run` with the candidates and futures of another run; nothing where it holds some already.

    Those with other seeds, speakers or contexts have other keys, and are as if they were not there.
    """
    found = [Path(source) / name for name in (CANDIDATES, SAMPLES)]
    if absent := [str(path) for path in found if not path.is_file()]:
        raise ConfigError(
            f"reuse: {', '.join(absent)} is not there; name the folder of a run of `collab pairs`"
        )
    for path in found:
        if not (run.path / path.name).exists():
            temporary = run.path / f".{path.name}"
            shutil.copyfile(path, temporary)
            temporary.rename(run.path / path.name)
