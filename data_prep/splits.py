"""Groups of conversations that must not be parted, and the split each group falls into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from data_prep.chats import RawChat
from data_prep.stages import digest, normalise
from usersim.errors import ConfigError

SPLITS = ("train", "dev", "test")


def parse_fractions(text: str) -> tuple[float, float, float]:
    """`0.9,0.05,0.05`."""
    try:
        train, dev, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--split-fractions {text!r}: write train,dev,test, e.g. 0.9,0.05,0.05") from error
    if min(train, dev, test) < 0 or abs(train + dev + test - 1) > 1e-6:
        raise ConfigError(f"--split-fractions {text!r}: three shares of at least 0 that add up to 1")
    return train, dev, test


def labels(chat: RawChat) -> tuple[str, ...]:
    """What ties a chat to others: the person, where known, and the wording of the opening."""
    opening = digest("opening", normalise(chat.user_texts[0]))
    return (opening,) if chat.user_key is None else (opening, digest("person", chat.user_key))


@dataclass
class Groups:
    """Connected components over labels, each named by its smallest label whatever came first."""

    parent: dict[str, str] = field(default_factory=dict)

    def add(self, labels: tuple[str, ...]) -> None:
        first, *others = (self.root(label) for label in labels)
        for other in others:
            low, high = sorted((first, other))
            self.parent[high] = low
            first = low

    def root(self, label: str) -> str:
        self.parent.setdefault(label, label)
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label


def split_of(group: str, *, seed: int, fractions: tuple[float, float, float]) -> str:
    """By the group's name and the seed alone: adding data moves no group, corpora agree on it."""
    drawn = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    position = int.from_bytes(drawn[:8], "big") / 2**64
    if position < fractions[0]:
        return "train"
    # Not `< train + dev`: with a share of 0 for test, rounding must not put a group there.
    return "dev" if fractions[2] == 0 or position < fractions[0] + fractions[1] else "test"
