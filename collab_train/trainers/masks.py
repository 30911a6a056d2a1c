"""Which tokens of a conversation an assistant is trained on: its own words and its ends of turn, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collab_train.rollout.simulation.best_path import Message
from usersim.errors import DataError
from usersim.rendering.chat_template import chat_ids

IGNORED = -100


def labelled(tokenizer: Any, messages: Sequence[Message], start: int) -> dict[str, list[int]]:
    """`input_ids` of the whole conversation, and `labels` on the assistant's turns from message `start` on.

    A label is on the words and on the end of turn that stops generation, not on what a template writes after it.
    Raises DataError for a template that does not write a longer conversation as a continuation of a shorter one.
    """
    ids = template_ids(tokenizer, messages, add_generation_prompt=False)
    labels = [IGNORED] * len(ids)
    for place, message in enumerate(messages):
        if place < start or message.role != "assistant":
            continue
        opened = template_ids(tokenizer, messages[:place], add_generation_prompt=True)
        closed = template_ids(tokenizer, messages[: place + 1], add_generation_prompt=False)
        if ids[: len(closed)] != closed or closed[: len(opened)] != opened:
            raise DataError(
                "this chat template rewrites earlier turns when the conversation goes on; "
                "train on single replies (leave out paths=…)"
            )
        stop = _end_of_turn(closed, len(opened), int(tokenizer.eos_token_id))
        labels[len(opened) : stop] = ids[len(opened) : stop]
    return {"input_ids": ids, "labels": labels}


def _end_of_turn(ids: Sequence[int], opened: int, end: int) -> int:
    """Behind the last end-of-turn token; behind everything where the template has none."""
    return next((at + 1 for at in range(len(ids) - 1, opened - 1, -1) if ids[at] == end), len(ids))


def common_length(prompt: Sequence[int], whole: Sequence[int]) -> int:
    """Tokens that `whole` begins with as `prompt` does: where its reply begins."""
    return next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
        min(len(prompt), len(whole)),
    )


def template_ids(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
    """`chat_ids` of a preference pair's messages."""
    return chat_ids(
        tokenizer,
        [message.model_dump() for message in messages],
        add_generation_prompt=add_generation_prompt,
    )
