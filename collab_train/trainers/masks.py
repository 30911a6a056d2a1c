"""Loss masks: an assistant is trained only on its own words and its end-of-turn tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from collab_train.rollout.simulation.best_path import Message
from usersim.errors import DataError
from usersim.rendering.chat_template import chat_ids

IGNORED = -100


def labelled(tokenizer: Any, messages: Sequence[Message], start: int) -> dict[str, list[int]]:
    """Returns `input_ids` of a conversation, and `labels` on the assistant's turns from message `start` on.

    Labels cover the words and the end-of-turn token that stops generation, but not what the template writes after it.

    Raises:
        DataError: the template does not render a longer conversation as a continuation of a shorter one.
    """
    ids = template_ids(tokenizer, messages, add_generation_prompt=False)
    labels = [IGNORED] * len(ids)
    for index, message in enumerate(messages):
        if index < start or message.role != "assistant":
            continue
        prefix_ids = template_ids(tokenizer, messages[:index], add_generation_prompt=True)
        turn_ids = template_ids(tokenizer, messages[: index + 1], add_generation_prompt=False)
        if ids[: len(turn_ids)] != turn_ids or turn_ids[: len(prefix_ids)] != prefix_ids:
            raise DataError(
                "this chat template rewrites earlier turns when the conversation goes on; "
                "train on single replies (remove paths=…)"
            )
        stop = _end_of_turn(turn_ids, len(prefix_ids), int(tokenizer.eos_token_id))
        labels[len(prefix_ids) : stop] = ids[len(prefix_ids) : stop]
    return {"input_ids": ids, "labels": labels}


def _end_of_turn(ids: Sequence[int], start: int, end_id: int) -> int:
    """Returns the position after the last end-of-turn token, or the length if there is none."""
    return next((at + 1 for at in range(len(ids) - 1, start - 1, -1) if ids[at] == end_id), len(ids))


def common_length(prompt: Sequence[int], conversation: Sequence[int]) -> int:
    """Returns the length of the common prefix, which is where the reply in `conversation` begins."""
    return next(
        (i for i, (a, b) in enumerate(zip(prompt, conversation, strict=False)) if a != b),
        min(len(prompt), len(conversation)),
    )


def template_ids(tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
    """Returns the token ids of messages under the chat template."""
    return chat_ids(
        tokenizer,
        [message.model_dump() for message in messages],
        add_generation_prompt=add_generation_prompt,
    )
