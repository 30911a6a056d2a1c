"""Incremental decoding of token ids to text, and per-token log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from usersim.rendering.renderer import END_OF_CONVERSATION, Renderer
from usersim.types import Record, UserTurn


class TokenLogprob(Record):
    """Token with its raw log-probability (temperature 1), in nats."""

    id: int
    text: str
    """Decoded text: U+FFFD for an incomplete character, empty for an end of turn."""
    bytes: tuple[int, ...]
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    """Most likely tokens of this position, in descending order."""


class DetailedTurn(UserTurn):
    """User turn with its sampled tokens, the end token included."""

    trace: tuple[TokenLogprob, ...] = ()
    """Sampled tokens; empty if P(end) decided the end, without a sampled token."""


def trace(
    renderer: Renderer,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    tops: Sequence[Mapping[int, float]] = (),
) -> tuple[TokenLogprob, ...]:
    beside: Sequence[Mapping[int, float]] = tops or [{}] * len(token_ids)
    return tuple(
        _named(renderer, token, logprob, top)
        for token, logprob, top in zip(token_ids, logprobs, beside, strict=True)
    )


def _named(
    renderer: Renderer, token: int, logprob: float, top: Mapping[int, float] | None = None
) -> TokenLogprob:
    raw = _bytes(renderer, token)
    ranked = sorted((top or {}).items(), key=lambda item: -item[1])
    return TokenLogprob(
        id=token,
        text=raw.decode("utf-8", errors="replace"),
        bytes=tuple(raw),
        logprob=logprob,
        top=tuple(_named(renderer, each, value) for each, value in ranked),
    )


def _bytes(renderer: Renderer, token: int) -> bytes:
    if token == renderer.settings.end_of_conversation_id:
        return END_OF_CONVERSATION.encode()
    # decode() loses the bytes of a token that is half a character.
    piece = renderer._tokenizer.id_to_token(token)
    return b"" if piece is None or token in renderer.control_ids else bytes(_alphabet()[c] for c in piece)


@cache
def _alphabet() -> dict[str, int]:
    """Returns GPT-2's byte alphabet: printable Latin-1 maps to itself, the other bytes to U+0100 and on."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = (byte for byte in range(256) if byte not in own)
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


class TextStream:
    """Incremental decoder of a turn. Its pieces add up to the text of `Renderer.read` for all ids.

    Incomplete characters and white space are held back until more text follows. Text after a control id is dropped.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._ids: list[int] = []
        self._over = False
        self.shown = ""

    def push(self, token_ids: Sequence[int]) -> str:
        """Adds token ids. Returns the new text to show."""
        for token in token_ids:
            self._over = self._over or token in self._renderer.control_ids
            if not self._over:
                self._ids.append(token)
        sure = self._renderer.decode(self._ids).rstrip("\ufffd").strip()
        return self._show(sure)

    def finish(self, text: str) -> str:
        """Returns the rest of the whole `text` that was not shown yet."""
        return self._show(text)

    def _show(self, text: str) -> str:
        fresh = text[len(self.shown) :]
        self.shown += fresh
        return fresh
