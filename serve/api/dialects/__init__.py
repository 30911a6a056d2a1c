"""How clients write a conversation down, and what they want to read back: a dialect by the model's name.

Every served name stands for `auto`; with a suffix for the dialect of that name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from serve.api.chat_schemas import ChatMessage
from serve.api.dialects import azure, collabllm, deepeval, flipped, lost_in_conversation
from serve.api.dialects.parsed_prompt import ParsedPrompt, unrecognised


class SinglePrompt(Protocol):
    """A module that reads the whole conversation out of one message."""

    def recognises(self, text: str) -> bool: ...

    def read(self, text: str) -> ParsedPrompt: ...


SINGLE_PROMPT_DIALECTS: dict[str, SinglePrompt] = {
    "lost-in-conversation": lost_in_conversation,
    "deepeval": deepeval,
    "azure": azure,
    # Last: it is known by marks anywhere in the text, which somebody may quote to one of the others.
    "collabllm": collabllm,
}
AUTO = "auto"
NAMES = ("flipped", *SINGLE_PROMPT_DIALECTS)


def aliases(names: Sequence[str]) -> list[str]:
    """Everything a client may call the model."""
    suffixed = [f"{name}-{dialect}" for name in names for dialect in NAMES if dialect_of(name) == AUTO]
    return [*names, *suffixed]


def dialect_of(model: str) -> str:
    return next((name for name in NAMES if model.endswith(f"-{name}")), AUTO)


def served_name(model: str, names: Sequence[str]) -> str:
    """The name without its suffix where that is what makes it a served one."""
    if model in names or model not in aliases(names):
        return model
    return model.removesuffix(f"-{dialect_of(model)}")


def read(dialect: str, messages: Sequence[ChatMessage]) -> tuple[str, ParsedPrompt]:
    """(the dialect it was read in, the reading); raises RequestError 422 for a prompt that is no such one."""
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
        raise unrecognised("this dialect takes one message that holds everything")
    return messages[0].text


def _read_single_prompt(messages: Sequence[ChatMessage]) -> tuple[str, ParsedPrompt]:
    text = _only_message(messages)
    for name, dialect in SINGLE_PROMPT_DIALECTS.items():
        if dialect.recognises(text):
            return name, dialect.read(text)
    if messages[0].role in ("system", "developer") and flipped.is_opening(text):
        return "flipped", flipped.read(messages)
    raise unrecognised(
        "a lone message that no dialect recognises, and a judge's question is not a user's; "
        "for a user's first words send it as system message under a name that ends in -flipped"
    )
