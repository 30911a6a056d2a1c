"""State of one run of `usersim prep`: settings, sources, goals and progress callback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from data_prep.cleaning.clean_batch import CleanedBatch
from data_prep.goals.annotations import Goals
from data_prep.raw_chats import Source
from data_prep.settings import PrepSettings

Notice = Callable[[str, int], None]
"""Progress callback: (name of the pass, chats or conversations done so far)."""


def quiet(what: str, done: int) -> None:
    """Progress callback that shows nothing."""


@dataclass
class PrepRun:
    settings: PrepSettings
    notice: Notice = quiet
    goals: Goals = field(default_factory=Goals)
    sources: list[Source] = field(default_factory=list)
    """Sources of the run, then the held-out ones."""
    resumed: int = 0
    """Chats cleaned by an earlier, interrupted run."""

    def is_own(self, result: CleanedBatch) -> bool:
        """Returns whether a batch comes from a source of the run, not a held-out one."""
        return result.source < len(self.settings.sources)
