"""Chats as token ids or text for models with a chat template: typed text never becomes a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from usersim.errors import ConfigError
from usersim.rendering.tokenizer_json import added_tokens, content_tokenizer

MARK = "\ue000{}\ue001"
"""Stands for a message while the template is filled in: private-use characters, which no text has."""
LOOKS_LIKE_CONTROL = re.compile(r"<(?=\|[\w ]{1,40}\|>|/?s>|(?:start|end)_of_turn>)|\[(?=/?INST\])")


def chat_ids(
    tokenizer: Any, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True
) -> list[int]:
    """The ids of `apply_chat_template`, but for messages that hold a control token: there it stays text.

    `tokenizer` is a fast one of transformers.
    """
    controls = tokenizer.get_added_vocab()
    if not any(control in message["content"] for message in messages for control in controls):
        ids = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
        )
        return [int(token) for token in ids]
    marked = [{**message, "content": MARK.format(i)} for i, message in enumerate(messages)]
    text = tokenizer.apply_chat_template(marked, add_generation_prompt=add_generation_prompt, tokenize=False)
    token_ids: list[int] = []
    encode = content_encoder(tokenizer)
    # Odd pieces are the numbers of messages.
    for place, piece in enumerate(re.split(MARK.format(r"(\d+)"), text)):
        if place % 2:
            token_ids += encode(messages[int(piece)]["content"])
        else:
            token_ids += tokenizer(piece, add_special_tokens=False).input_ids
    return token_ids


def content_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Encoder of message texts for a fast tokenizer of transformers: control tokens in a text stay text."""
    tokenizer_json = json.loads(tokenizer.backend_tokenizer.to_str())
    try:
        content = content_tokenizer(tokenizer_json, added_tokens(tokenizer_json))
    except ConfigError:  # not byte-level: SentencePiece
        return lambda text: list(
            tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )
    return lambda text: list(content.encode(text, add_special_tokens=False).ids)


def harmless(text: str, controls: Iterable[str] = ()) -> str:
    """`text` for what may read `<|im_end|>` or one of `controls` as a control token: with a zero-width space in it."""
    text = LOOKS_LIKE_CONTROL.sub(lambda match: f"{match[0]}\u200b", text)
    for control in controls:
        if len(control.strip()) > 1:
            text = text.replace(control, f"{control[0]}\u200b{control[1:]}")
    return text
