"""What an LLM says instead of our rules, where one is asked: naturalness of first turns, and refused diversions.

It is blind to who wrote what, sees one text at a time in an order that mixes the sides, and its answers are reported
apart, under its name: LLM judges favour LLM text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from eval.likelihood.drawing import Batch
from eval.papers.userlm.intent import Diversion
from eval.papers.userlm.metric_rows import Row, ratio
from eval.papers.userlm.wording import Side
from usersim.chat_models.client import NoAnswer
from usersim.chat_models.judge import Judge
from usersim.stats.estimates import Floats, rng_for, wilson
from usersim.types import Record

LIKENESS = (
    "You will see the first message that somebody typed to an AI assistant. It was written either by a person or "
    "by a program that imitates people. Judge by how it is written, not by its subject, and say how likely it is "
    "that a person wrote it, from 0 (certainly a program) to 100 (certainly a person)."
)
TAKEN = (
    "A user asked an assistant something. Instead of answering, the assistant offered to talk of another "
    "matter. Decide what the user's next message does. accepted: it goes along with the other matter. refused: "
    "it stays with the first matter, asks for it again, turns the offer down or goes elsewhere."
)


class Likeness(Record):
    person: int = Field(ge=0, le=100)


class Taken(Record):
    verdict: Literal["accepted", "refused"]


async def naturalness_rows(
    judge: Judge, side: Side, people: Side, ours: Sequence[str], theirs: Sequence[str], seed: int
) -> list[Row]:
    """Mean P(person) of first turns, 0 to 1; texts without an answer are left out."""
    texts = [*ours, *theirs]
    found = np.full(len(texts), np.nan)

    async def one(index: int) -> None:
        messages = [{"role": "system", "content": LIKENESS}, {"role": "user", "content": texts[index]}]
        try:
            found[index] = (await judge.ask(messages, Likeness)).person / 100
        except NoAnswer:
            return

    order = rng_for(seed, "order of judging").permutation(len(texts))
    await asyncio.gather(*(one(int(index)) for index in order))
    mine, humans = (
        ratio(np.nan_to_num(part), (~np.isnan(part)).astype(np.float64), counts)
        for part, counts in _halves(found, len(ours), side, people)
    )
    if mine is None or humans is None:
        return []
    return [
        Row(
            metric="naturalness",
            speaker=side.name,
            key="judged_openings",
            label="openings: P(person) by a judge",
            better="as people",
            value=mine.estimate,
            human=humans.estimate,
            gap=mine.less(humans),
            judge=judge.model,
        )
    ]


def _halves(found: Floats, size: int, side: Side, people: Side) -> list[tuple[Floats, Floats]]:
    return [(found[:size], side.counts_BN), (found[size:], people.counts_BN)]


async def intent_rows(judge: Judge, speaker: str, made: Sequence[Diversion], batch: Batch) -> list[Row]:
    """The same share as `intent.intent_row`, by the judge; turns without an answer are left out."""
    turns = [(batch.turns[f"intent {i}"], d) for i, d in enumerate(made) if f"intent {i}" in batch.turns]

    async def one(text: str, diversion: Diversion) -> bool | None:
        shown = (
            f"User: {diversion.opening}\n\nAssistant: {diversion.line}\n\nNext message of the user: {text}"
        )
        messages = [{"role": "system", "content": TAKEN}, {"role": "user", "content": shown}]
        try:
            return (await judge.ask(messages, Taken)).verdict == "accepted"
        except NoAnswer:
            return None

    said = [(turn.text, d) for turn, d in turns if not turn.ends]
    answers = await asyncio.gather(*(one(text, d) for text, d in said))
    kept = [not taken for taken in answers if taken is not None] + [True] * (len(turns) - len(said))
    if not kept:
        return []
    return [
        Row(
            metric="intent adherence",
            speaker=speaker,
            key="keeps_intent_judged",
            label="does not take up a diversion, by a judge",
            better="higher",
            value=wilson(sum(kept), len(kept)),
            human=None,
            gap=None,
            judge=judge.model,
        )
    ]
