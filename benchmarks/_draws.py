"""Sources of people for repetitions: a file, or invented people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from eval.fidelity.metrics.texts.diversity import Diversity, passage
from eval.fidelity.metrics.texts.embedded import embedded, opening_turns, remember
from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.invented import invented
from eval.fidelity.samples.matching import person_of
from eval.fidelity.selftest.controls import as_simulated
from usersim.errors import DataError
from usersim.storage.records import read_conversations
from usersim.types import Conversation


@dataclass(frozen=True)
class PeopleSource:
    path: Path | None
    most: int | None = None
    """Draw from the first N people of the file; None: from all."""
    cached_embeddings: tuple[Sequence[str], Any] | None = None
    """Texts and their sentence embeddings, so that no process computes them again (joblib replaces its workers)."""

    def embedded(self, seed: int) -> PeopleSource:
        """Returns the source with all embeddings that the battery needs under this seed."""
        if self.path is None:
            return self
        people = self.all_people()
        texts = [text for person in people for text in opening_turns(person)]
        texts += [" ".join(passage(person, Diversity.words, seed)) for person in people]
        distinct = list(dict.fromkeys(texts))
        return replace(self, cached_embeddings=(distinct, embedded(distinct).astype(np.float32)))

    def all_people(self) -> list[Conversation]:
        """Returns one conversation of each person that is drawn from."""
        return _one_each(self.path)[: self.most] if self.path else []

    def draw(self, n: int, seed: int) -> list[Conversation]:
        """Returns `n` conversations of different people; raises DataError if the file has fewer."""
        if self.path is None:
            return invented(n, seed)
        if self.cached_embeddings is not None:
            remember(*self.cached_embeddings)
        people = self.all_people()
        if len(people) < n:
            raise DataError(f"{self.path}: {len(people)} different people or groups; {n} are needed")
        return [people[i] for i in np.random.default_rng(seed).permutation(len(people))[:n]]

    @staticmethod
    def relabelled(people: list[Conversation]) -> list[Conversation]:
        return as_simulated(people, "humans")


@cache
def _one_each(path: Path) -> list[Conversation]:
    """Returns one conversation per person or group, so that any split of them is a split of people."""
    conversations = list({person_of(c): c for c in read_conversations(path) if user_texts(c)}.values())
    return [conversations[i] for i in np.random.default_rng(0).permutation(len(conversations))]
