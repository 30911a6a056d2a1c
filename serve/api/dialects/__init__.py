"""Client dialects: prompt formats that are parsed into conversations, with the reply format of each.

A served model name selects `auto`, which recognises the dialect; a suffix such as `-deepeval` selects that dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serve.api.chat_schemas import ChatMessage
from serve.api.dialects import azure, collabllm, deepeval, flipped, lost_in_conversation
from serve.api.dialects.parsed_prompt import ParsedPrompt, unrecognised


class SinglePrompt(Protocol):
    """Protocol of dialect modules that parse a whole conversation from one message."""

    def recognises(self, text: str) -> bool: ...

    def read(self, text: str) -> ParsedPrompt: ...


SINGLE_PROMPT_DIALECTS: dict[str, SinglePrompt] = {
    "lost-in-conversation": lost_in_conversation,
    "deepeval": deepeval,
    "azure": azure,
    # Last: recognised by marks anywhere in the text, which a prompt of another dialect may quote.
    "collabllm": collabllm,
}
AUTO = "auto"
NAMES = ("flipped", *SINGLE_PROMPT_DIALECTS)


def aliases(names: Sequence[str]) -> list[str]:
    """All model names that clients may use."""
    suffixed = [f"{name}-{dialect}" for name in names for dialect in NAMES if dialect_of(name) == AUTO]
    return [*names, *suffixed]


def dialect_of(model: str) -> str:
    """Dialect that the suffix of a model name selects; AUTO without one."""
    return next((name for name in NAMES if model.endswith(f"-{name}")), AUTO)


def served_name(model: str, names: Sequence[str]) -> str:
    """Model name without the dialect suffix, if the name without it is a served one."""
    if model in names or model not in aliases(names):
        return model
    return model.removesuffix(f"-{dialect_of(model)}")


def read(dialect: str, messages: Sequence[ChatMessage]) -> tuple[str, ParsedPrompt]:
    """Parses messages in a dialect, or in the recognised one for AUTO.

    Returns:
        The dialect's name and the parsed prompt.

    Raises:
        RequestError: With status 422 if the messages are not in the dialect, or in no known one.
    """
    if dialect == "flipped":
        return dialect, flipped.read(messages)
    if dialect != AUTO:
        return dialect, SINGLE_PROMPT_DIALECTS[dialect].read(_only_message(messages))
    if len(messages) == 1 and messages[0].role != "assistant":
        return _read_single_prompt(messages)
    if flipped.is_native(messages):
        return "native", flipped.read_native(messages)
    return "flipped", flipped.read(messages)


def _only_message(messages: Sequence[ChatMessage]) -> str:
    if len(messages) != 1:
        raise unrecognised("this dialect takes exactly one message, with the whole prompt")
    return messages[0].text


def _read_single_prompt(messages: Sequence[ChatMessage]) -> tuple[str, ParsedPrompt]:
    text = _only_message(messages)
    for name, dialect in SINGLE_PROMPT_DIALECTS.items():
        if dialect.recognises(text):
            return name, dialect.read(text)
    if messages[0].role in ("system", "developer") and flipped.is_opening(text):
        return "flipped", flipped.read(messages)
    raise unrecognised(
        "a single message in no known dialect (judges' prompts are refused, too); "
        "for an opening turn send it as system message under a model name that ends in -flipped"
    )
