"""Candidate replies sampled from the assistant, kept on disk so that a re-run scores the same ones."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence

from collab_train.contexts import Context
from collab_train.rollout.cache.journal import Journal
from collab_train.rollout.engines.patience import patiently
from collab_train.rollout.simulation.futures import explained, one_reply
from collab_train.rollout.simulation.gather import together
from collab_train.rollout.simulation.rollout import context_seed
from usersim.errors import UsersimError
from usersim.types import NonEmpty, Record
from usersim.users.dialogue import Assistant

SEED = 7_777_777
"""Away from the seeds of futures."""


class Candidate(Record):
    context: NonEmpty
    index: int
    text: str = ""
    error: str | None = None
    key: str = ""
    """Hash of everything its text depends on."""


class Candidates:
    """Samples `count` replies to a context that has none, at any time, under one bound.

    `identity` names the assistant and its sampling in the keys of the journal.
    """

    def __init__(
        self,
        assistant: Assistant,
        *,
        count: int,
        seed: int,
        gate: asyncio.Semaphore,
        journal: Journal[Candidate] | None = None,
        identity: str = "",
        retries: int = 0,
    ) -> None:
        self.assistant, self.count, self.seed = assistant, count, seed
        self.gate, self.journal, self.identity, self.retries = gate, journal, identity, retries
        self.failed = list[Candidate]()
        self._known = {c.key: c for c in journal.read() if c.error is None} if journal else {}

    async def fill(self, context: Context) -> Context:
        """`context` with its sampled replies. Equal ones are kept once; where all samples failed it has none."""
        if context.candidates:
            return context
        made = await together(self._one(context, index) for index in range(self.count))
        self.failed += [c for c in made if c.error is not None]
        texts = tuple(dict.fromkeys(c.text for c in made if c.error is None))
        return context.model_copy(update={"candidates": texts})

    async def _one(self, context: Context, index: int) -> Candidate:
        seed = context_seed(self.seed, context.id) + SEED + index
        key = _key(context, seed, self.identity)
        if key in self._known:
            return self._known[key]
        async with self.gate:
            made = await self._sample(context, index, seed, key)
        if self.journal:
            self.journal.append(made)
        return made

    async def _sample(self, context: Context, index: int, seed: int, key: str) -> Candidate:
        try:
            text = await patiently(
                lambda shift: one_reply(
                    self.assistant, context.turns, system=context.system, seed=seed + shift
                ),
                retries=self.retries,
            )
        except UsersimError as error:
            return Candidate(context=context.id, index=index, error=explained(error), key=key)
        return Candidate(context=context.id, index=index, text=text, key=key)


async def with_candidates(
    contexts: Sequence[Context],
    assistant: Assistant,
    *,
    count: int,
    seed: int,
    concurrency: int,
    journal: Journal[Candidate] | None = None,
    identity: str = "",
    retries: int = 0,
) -> tuple[list[Context], list[Candidate]]:
    """`contexts` with `count` sampled replies where they had none, and the samples that failed.

    A context without any is left out.
    """
    candidates = Candidates(
        assistant,
        count=count,
        seed=seed,
        gate=asyncio.Semaphore(concurrency),
        journal=journal,
        identity=identity,
        retries=retries,
    )
    filled = await together(candidates.fill(context) for context in contexts)
    return [context for context in filled if context.candidates], candidates.failed


def _key(context: Context, seed: int, identity: str) -> str:
    seen = context.model_dump(mode="json", include={"id", "turns", "system"})
    return hashlib.sha256(json.dumps([seen, seed, identity], sort_keys=True).encode()).hexdigest()[:24]
