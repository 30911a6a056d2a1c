"""Chats as token ids or text for models with a chat template; message text never becomes a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from usersim.errors import ConfigError
from usersim.rendering.tokenizer_json import added_tokens, content_tokenizer

MARK = "\ue000{}\ue001"
"""Placeholder of a message while the template is rendered: private-use characters, which do not occur in texts."""
LOOKS_LIKE_CONTROL = re.compile(r"<(?=\|[\w ]{1,40}\|>|/?s>|(?:start|end)_of_turn>)|\[(?=/?INST\])")


def chat_ids(
    tokenizer: Any, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True
) -> list[int]:
    """Returns the ids of `apply_chat_template`, except that control tokens in a message stay text.

    Args:
        tokenizer: Fast tokenizer of transformers.
        messages: Chat messages with `role` and `content`.
        add_generation_prompt: Append the header of the assistant's next message.
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
    # Odd pieces are indices of messages.
    for position, piece in enumerate(re.split(MARK.format(r"(\d+)"), text)):
        if position % 2:
            token_ids += encode(messages[int(piece)]["content"])
        else:
            token_ids += tokenizer(piece, add_special_tokens=False).input_ids
    return token_ids


def content_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Returns an encoder of message texts for a fast tokenizer of transformers; control tokens stay text."""
    tokenizer_json = json.loads(tokenizer.backend_tokenizer.to_str())
    try:
        content = content_tokenizer(tokenizer_json, added_tokens(tokenizer_json))
    except ConfigError:  # not byte-level: SentencePiece
        return lambda text: list(
            tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )
    return lambda text: list(content.encode(text, add_special_tokens=False).ids)


def harmless(text: str, controls: Iterable[str] = ()) -> str:
    """Inserts a zero-width space into each string that could be read as a control token, and into each of
    `controls`."""
    text = LOOKS_LIKE_CONTROL.sub(lambda match: f"{match[0]}\u200b", text)
    for control in controls:
        if len(control.strip()) > 1:
            text = text.replace(control, f"{control[0]}\u200b{control[1:]}")
    return text
