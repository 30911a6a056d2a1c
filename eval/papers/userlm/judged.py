"""Judgements of an LLM in place of the rules, where a judge is configured: naturalness of first turns, and refused
diversions.

The judge does not see the author of a text and reads one text at a time, in an order that mixes the sides. Its
results are reported separately under its name, because LLM judges favour LLM text.
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
from eval.papers.userlm.wording import SpeakerSample
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
    judge: Judge,
    side: SpeakerSample,
    people: SpeakerSample,
    simulated_texts: Sequence[str],
    human_texts: Sequence[str],
    seed: int,
) -> list[Row]:
    """Returns the mean P(person) of first turns, 0 to 1; texts without an answer are left out."""
    texts = [*simulated_texts, *human_texts]
    scores = np.full(len(texts), np.nan)

    async def score_text(index: int) -> None:
        messages = [{"role": "system", "content": LIKENESS}, {"role": "user", "content": texts[index]}]
        try:
            scores[index] = (await judge.ask(messages, Likeness)).person / 100
        except NoAnswer:
            return

    order = rng_for(seed, "order of judging").permutation(len(texts))
    await asyncio.gather(*(score_text(int(index)) for index in order))
    simulated_mean, human_mean = (
        ratio(np.nan_to_num(part), (~np.isnan(part)).astype(np.float64), counts)
        for part, counts in _halves(scores, len(simulated_texts), side, people)
    )
    if simulated_mean is None or human_mean is None:
        return []
    return [
        Row(
            metric="naturalness",
            speaker=side.name,
            key="judged_openings",
            label="openings: P(person) by a judge",
            better="as people",
            value=simulated_mean.estimate,
            human=human_mean.estimate,
            gap=simulated_mean.less(human_mean),
            judge=judge.model,
        )
    ]


def _halves(
    scores: Floats, size: int, side: SpeakerSample, people: SpeakerSample
) -> list[tuple[Floats, Floats]]:
    return [(scores[:size], side.counts_BN), (scores[size:], people.counts_BN)]


async def intent_rows(
    judge: Judge, speaker: str, diversion_list: Sequence[Diversion], batch: Batch
) -> list[Row]:
    """Returns the share of `intent.intent_row` as judged by the LLM; turns without an answer are left out."""
    turns = [
        (batch.turns[f"intent {i}"], d) for i, d in enumerate(diversion_list) if f"intent {i}" in batch.turns
    ]

    async def is_accepted_turn(text: str, diversion: Diversion) -> bool | None:
        prompt = (
            f"User: {diversion.opening}\n\nAssistant: {diversion.line}\n\nNext message of the user: {text}"
        )
        messages = [{"role": "system", "content": TAKEN}, {"role": "user", "content": prompt}]
        try:
            return (await judge.ask(messages, Taken)).verdict == "accepted"
        except NoAnswer:
            return None

    staying_turns = [(turn.text, d) for turn, d in turns if not turn.ends]
    answers = await asyncio.gather(*(is_accepted_turn(text, d) for text, d in staying_turns))
    keeps_intent = [not is_accepted for is_accepted in answers if is_accepted is not None] + [True] * (
        len(turns) - len(staying_turns)
    )
    if not keeps_intent:
        return []
    return [
        Row(
            metric="intent adherence",
            speaker=speaker,
            key="keeps_intent_judged",
            label="does not accept a diversion, by a judge",
            better="higher",
            value=wilson(sum(keeps_intent), len(keeps_intent)),
            human=None,
            gap=None,
            judge=judge.model,
        )
    ]
