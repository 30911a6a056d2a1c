"""Contexts of user turns as token ids, in a model's chat template.

The context is a chat in the model's own template, without instructions, and the turn is its next user message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import TemplateError

from usersim.rendering.chat_template import MARK, content_encoder
from usersim.types import Turn

RENDERING = "1"
"""Version of the contexts' text; part of the journal's keys."""
CONTEXT_TOKENS = 256
ANSWER_TOKENS = 128
"""Maximum tokens of the last answer. The user turn before it and every older turn have `TURN_TOKENS`."""
TURN_TOKENS = 64
SMALLEST_TURN = 16
"""Minimum tokens of an older turn; below that it is left out instead of cut."""
SCORED_TOKENS = 128
"""Maximum scored tokens of a turn."""
ELLIPSIS = " […] "
READ_CHARACTERS = 64 * SCORED_TOKENS
"""Characters at either end of a text that are tokenized; bounds the cost of a paste of megabytes."""


class TurnContext(NamedTuple):
    """Token ids up to the beginning of a user turn."""

    ids: tuple[int, ...]
    lead: str
    """Text between the context and a turn: a space if the model has no chat template."""


class ChatRendering:
    """Renderer of contexts as token ids, in the model's chat template, else as "User:" and "Assistant:" lines.

    Args:
        tokenizer: Fast tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._encode = content_encoder(tokenizer)
        self._frame = lru_cache(maxsize=None)(self._frame_of)

    def history(self, turns: Sequence[Turn]) -> TurnContext:
        """Returns the end of a history as context, about `CONTEXT_TOKENS` long.

        The last exchange is always included. Older ones are added from the latest on while they fit. Without turns
        the context is only the header of a user turn.
        """
        messages: list[tuple[str, str, int]] = []
        room = CONTEXT_TOKENS
        rest = list(turns)
        while rest:
            limit = ANSWER_TOKENS if not messages else min(TURN_TOKENS, room // 2)
            if limit < SMALLEST_TURN:
                break
            answer = rest.pop()
            question = rest.pop() if rest and answer.role == "assistant" else None
            messages.append((answer.role, answer.text, limit))
            room -= len(self._clip(answer.text, limit))
            if question is not None:
                limit = min(TURN_TOKENS, max(room, SMALLEST_TURN))
                messages.append((question.role, question.text, limit))
                room -= len(self._clip(question.text, limit))
        return self._context(messages[::-1])

    def system_message(self, text: str) -> TurnContext:
        """Returns a context with a system message and no history."""
        return self._context([("system", text, CONTEXT_TOKENS)])

    def turn(self, context: TurnContext, text: str) -> tuple[tuple[int, ...], int]:
        """Returns (token ids, characters) of the scored part of a turn."""
        ids = self._encode(context.lead + text.strip()[:READ_CHARACTERS])
        scored = ids[:SCORED_TOKENS]
        if len(scored) == len(ids):
            return tuple(ids), len(text.strip()[:READ_CHARACTERS])
        return tuple(scored), len(
            str(self.tokenizer.decode(scored, clean_up_tokenization_spaces=False)).strip()
        )

    def _context(self, messages: Sequence[tuple[str, str, int]]) -> TurnContext:
        pieces, lead = self._frame(tuple(role for role, _, _ in messages))
        ids = list(pieces[0])
        for (_, text, limit), piece in zip(messages, pieces[1:], strict=True):
            ids += self._clip(text, limit, lead)
            ids += piece
        return TurnContext(tuple(ids), lead)

    def _clip(self, text: str, limit: int, lead: str = "") -> list[int]:
        """Head and tail of a text that is longer than `limit` tokens."""
        text = text.strip()
        is_long = len(text) > 2 * READ_CHARACTERS
        head = self._encode(lead + (text[:READ_CHARACTERS] if is_long else text))
        if not is_long and len(head) <= limit:
            return head
        mark = self._encode(ELLIPSIS)
        tail = self._encode(text[-READ_CHARACTERS:]) if is_long else head
        room = max(limit - len(mark), 2)
        return head[: room - room // 2] + mark + tail[-(room // 2) :]

    def _frame_of(self, roles: tuple[str, ...]) -> tuple[tuple[tuple[int, ...], ...], str]:
        """(token ids before, between and after the messages, up to the next user message; lead of a text)."""
        marks = [MARK.format(place) for place in range(len(roles) + 1)]
        if self.tokenizer.chat_template:
            messages = [
                {"role": role, "content": mark} for role, mark in zip([*roles, "user"], marks, strict=True)
            ]
            try:
                text = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
            except (TemplateError, ValueError, TypeError):  # a template that knows no system message, say
                text = ""
            if [int(place) for place in re.findall(MARK.format(r"(\d+)"), text)] == list(range(len(marks))):
                pieces = re.split(MARK.format(r"\d+"), text)[:-1]
                return tuple(tuple(self._controls(piece)) for piece in pieces), ""
        names = {"user": "User:", "assistant": "Assistant:", "system": ""}
        headers = [names[role] for role in (*roles, "user")]
        begin = [] if self.tokenizer.bos_token_id is None else [int(self.tokenizer.bos_token_id)]
        lines = [("\n\n" if place else "") + header for place, header in enumerate(headers)]
        return tuple(
            tuple((begin if not place else []) + self._encode(line)) for place, line in enumerate(lines)
        ), " "

    def _controls(self, piece: str) -> list[int]:
        return [int(token) for token in self.tokenizer(piece, add_special_tokens=False).input_ids]
