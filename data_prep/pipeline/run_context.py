"""One run of `usersim prep`: what was asked, what is read, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from data_prep.cleaning.clean_batch import Cleaned
from data_prep.goals.annotations import Goals
from data_prep.raw_chats import Source
from data_prep.settings import Settings

Notice = Callable[[str, int], None]
"""(what is going on, chats or conversations done so far), for a progress display."""


def quiet(what: str, done: int) -> None:
    """No progress display."""


@dataclass
class Run:
    settings: Settings
    notice: Notice = quiet
    goals: Goals = field(default_factory=Goals)
    sources: list[Source] = field(default_factory=list)
    """Those of the run, then the held-out ones."""
    resumed: int = 0
    """Chats whose cleaning an earlier, interrupted run had finished."""

    def is_own(self, result: Cleaned) -> bool:
        return result.source < len(self.settings.sources)
