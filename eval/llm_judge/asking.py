"""Concurrent questions to the judge, with a progress bar."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.llm_judge.questions import ANSWERS, Item, label_of
from usersim.chat_models.client import NoAnswer
from usersim.chat_models.judge import Judge
from usersim.cli import console
from usersim.stats.estimates import rng_for


async def ask(judge: Judge, items: Sequence[Item], seed: int) -> dict[str, str]:
    """Asks all items in an order that mixes tasks and sources; unusable answers are left out. Raises EndpointDown."""
    answers: dict[str, str] = {}
    columns = (TextColumn("questions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=len(items))

        async def ask_item(item: Item) -> None:
            with suppress(NoAnswer):  # counted in judge.usage and as unanswered
                answers[item.key] = label_of(await judge.ask(item.messages(), ANSWERS[item.task]))
            progress.advance(bar)

        order = rng_for(seed, "order of judging").permutation(len(items))
        try:
            await asyncio.gather(*(ask_item(items[i]) for i in order))
        finally:
            await judge.aclose()
    return answers
