"""Sampling of candidate replies from the assistant, stored so that a repeated run scores the same ones."""

from __future__ import annotations

import asyncio
import hashlib
import json

from collab_train.contexts import Context
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.engines.patience import retry
from collab_train.rollout.simulation.futures import error_text, one_reply
from collab_train.rollout.simulation.gather import gather
from collab_train.rollout.simulation.rollout import context_seed
from usersim.errors import UsersimError
from usersim.types import NonEmpty, Record
from usersim.users.dialogue import Assistant

SEED = 7_777_777
"""Seed offset, so that candidates and futures have different seeds."""


class Candidate(Record):
    context: NonEmpty
    index: int
    text: str = ""
    error: str | None = None
    key: str = ""
    """Hash of everything that its text depends on."""


class Candidates:
    """Samples `count` replies for contexts that have none, with bounded concurrency.

    `cache_key` identifies the assistant and its sampling in the keys of the journal.
    """

    def __init__(
        self,
        assistant: Assistant,
        *,
        count: int,
        seed: int,
        gate: asyncio.Semaphore,
        journal: Journal[Candidate] | None = None,
        cache_key: str = "",
        retries: int = 0,
    ) -> None:
        self.assistant, self.count, self.seed = assistant, count, seed
        self.gate, self.journal, self.cache_key, self.retries = gate, journal, cache_key, retries
        self.failed = list[Candidate]()
        self._by_key = {c.key: c for c in journal.read() if c.error is None} if journal else {}

    async def fill(self, context: Context) -> Context:
        """Returns `context` with its distinct sampled replies; it has none if all samples failed."""
        if context.candidates:
            return context
        samples = await gather(self._one(context, index) for index in range(self.count))
        self.failed += [c for c in samples if c.error is not None]
        texts = tuple(dict.fromkeys(c.text for c in samples if c.error is None))
        return context.model_copy(update={"candidates": texts})

    async def _one(self, context: Context, index: int) -> Candidate:
        seed = context_seed(self.seed, context.id) + SEED + index
        key = _key(context, seed, self.cache_key)
        if key in self._by_key:
            return self._by_key[key]
        async with self.gate:
            sample = await self._sample(context, index, seed, key)
        if self.journal:
            self.journal.append(sample)
        return sample

    async def _sample(self, context: Context, index: int, seed: int, key: str) -> Candidate:
        try:
            text = await retry(
                lambda shift: one_reply(
                    self.assistant, context.turns, system=context.system, seed=seed + shift
                ),
                retries=self.retries,
            )
        except UsersimError as error:
            return Candidate(context=context.id, index=index, error=error_text(error), key=key)
        return Candidate(context=context.id, index=index, text=text, key=key)


def _key(context: Context, seed: int, cache_key: str) -> str:
    prompt = context.model_dump(mode="json", include={"id", "turns", "system"})
    return hashlib.sha256(json.dumps([prompt, seed, cache_key], sort_keys=True).encode()).hexdigest()[:24]
