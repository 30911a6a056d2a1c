"""Candidate replies sampled from the assistant, kept on disk so that a re-run scores the same ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from collab_train.contexts import Context
from collab_train.journal import Journal
from collab_train.rollout import context_seed
from usersim.dialogue import Assistant
from usersim.errors import UsersimError
from usersim.types import NonEmpty, Record


class Candidate(Record):
    context: NonEmpty
    index: int
    text: str = ""
    error: str | None = None


async def with_candidates(
    contexts: Sequence[Context],
    assistant: Assistant,
    *,
    count: int,
    seed: int,
    concurrency: int,
    journal: Journal[Candidate] | None = None,
) -> tuple[list[Context], list[Candidate]]:
    """`contexts` with `count` sampled replies where they had none, and the samples that failed.

    Equal replies are kept once, so a context may come back with fewer; one without any is left out.
    """
    known = {(c.context, c.index): c for c in journal.read() if c.error is None} if journal else {}
    gate = asyncio.Semaphore(concurrency)

    async def one(context: Context, index: int) -> Candidate:
        if (context.id, index) in known:
            return known[context.id, index]
        async with gate:
            made = await _sample(
                context, index, assistant, context_seed(seed, context.id) + 7_777_777 + index
            )
        if journal:
            journal.append(made)
        return made

    async with asyncio.TaskGroup() as group:
        tasks = {
            context.id: [group.create_task(one(context, index)) for index in range(count)]
            for context in contexts
            if not context.candidates
        }
    made = {identifier: [task.result() for task in listed] for identifier, listed in tasks.items()}
    failed = [c for listed in made.values() for c in listed if c.error is not None]
    return [c for context in contexts if (c := _fill(context, made.get(context.id))).candidates], failed


def _fill(context: Context, made: list[Candidate] | None) -> Context:
    if made is None:
        return context
    texts = tuple(dict.fromkeys(c.text for c in made if c.error is None))
    return context.model_copy(update={"candidates": texts})


async def _sample(context: Context, index: int, assistant: Assistant, seed: int) -> Candidate:
    try:
        text = (await assistant(context.turns, system=context.system, seed=seed)).strip()
    except UsersimError as error:
        return Candidate(context=context.id, index=index, error=f"{type(error).__name__}: {error}")
    return Candidate(context=context.id, index=index, text=text, error=None if text else "an empty reply")
