"""Conversion of futures to other windows than they were simulated in.

The seed of a turn depends on its position, so an exchange does not depend on how many may follow. A future of window 3
therefore contains those of windows 0, 1 and 2, and can be extended to 4. All windows together cost as much as the
longest.
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
    """Returns the number of user turns after the first `history` turns."""
    return sum(turn.role == "user" for turn in conversation.turns[history:])


def remaining(conversation: Conversation, history: int, w: int) -> int:
    """Returns the number of exchanges left in a window of `w`; 0 after the user has left."""
    return 0 if conversation.ended_by == "user" else max(0, w - exchanges(conversation, history))


def cut(future: Future, history: int, w: int) -> Future:
    """Cuts `future` to a window of `w`. After `w` exchanges, it is not known if the user leaves next."""
    conversation = future.conversation
    if conversation is None or exchanges(conversation, history) < w:
        return future
    shorter = conversation.model_copy(
        update={"turns": conversation.turns[: history + 2 * w], "ended_by": "turn_cap"}
    )
    return future.model_copy(update={"conversation": shorter})


def copy_futures(run: RunDir, source: str) -> None:
    """Copies the candidates and futures of another run into `run`, unless it has some.

    Those with other seeds, models or contexts have other keys and are ignored.

    Raises:
        ConfigError: the other run has no candidates or futures.
    """
    files = [Path(source) / name for name in (CANDIDATES, SAMPLES)]
    if absent := [str(path) for path in files if not path.is_file()]:
        raise ConfigError(
            f"reuse: {', '.join(absent)} is not there; name the folder of a run of `collab pairs`"
        )
    for path in files:
        if not (run.path / path.name).exists():
            temporary = run.path / f".{path.name}"
            shutil.copyfile(path, temporary)
            temporary.rename(run.path / path.name)
