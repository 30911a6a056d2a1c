"""A chat model in this process, prompted through its own chat template: the default assistant without a server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from usersim.backends.chat import ChatSettings
from usersim.backends.local import LocalSampler
from usersim.errors import ContextOverflowError, EmptyReplyError
from usersim.sampling import Draw, Sampling
from usersim.types import Turn

STAND_IN = "\ue0f1"
"""Private-use character in the place of a control token that a message spells out."""


def template_ids(
    tokenizer: Any, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool
) -> list[int]:
    """Ids of the chat template. Control tokens that a message spells out ("<|im_end|>") are text, not tokens."""
    tokens = [token for token in tokenizer.all_special_tokens if token]
    typed = re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))) if tokens else None
    spelled = [text for message in messages for text in (typed.findall(message["content"]) if typed else [])]
    if typed is None or not spelled:
        ids: list[int] = tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
        )
        return ids
    cleared = [
        {**message, "content": typed.sub(STAND_IN, message["content"].replace(STAND_IN, "\ufffd"))}
        for message in messages
    ]
    rendered = tokenizer.apply_chat_template(
        cleared, add_generation_prompt=add_generation_prompt, tokenize=False
    )
    pieces = rendered.split(STAND_IN)
    ids = tokenizer.encode(pieces[0], add_special_tokens=False)
    for text, piece in zip(spelled, pieces[1:], strict=True):
        ids += tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


class LocalChat:
    """The same two calls as `HttpChat`, over a transformers model that may be live in training."""

    def __init__(self, model: Any, tokenizer: Any, *, settings: ChatSettings | None = None) -> None:
        self.sampler, self.tokenizer = LocalSampler(model), tokenizer
        self.settings = settings or ChatSettings()

    @classmethod
    def from_pretrained(cls, path: str | Path, *, settings: ChatSettings | None = None) -> LocalChat:
        sampler = LocalSampler.from_pretrained(path)
        return cls(sampler.model, AutoTokenizer.from_pretrained(path), settings=settings)

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        return await self.complete(messages, system=system, seed=seed)

    async def complete(
        self, messages: list[dict[str, str]], *, system: str | None = None, seed: int | None = None
    ) -> str:
        if system:
            messages = [{"role": "system", "content": system}, *messages]
        prompt = template_ids(self.tokenizer, messages, add_generation_prompt=True)
        end = int(self.tokenizer.eos_token_id)
        settings = self.settings
        config = getattr(self.sampler.model, "config", None)
        window = getattr(config, "max_position_embeddings", None)
        if window and len(prompt) + settings.max_tokens > window:
            raise ContextOverflowError(
                f"the assistant's window is {window} tokens; this conversation takes {len(prompt)}, "
                f"and its reply may take {settings.max_tokens}"
            )
        sampling = Sampling(
            temperature=settings.temperature, top_p=settings.top_p, max_tokens=settings.max_tokens
        )
        sampled = await self.sampler.sample(Draw(prompt, [end], end, sampling, seed=seed))
        text = str(self.tokenizer.decode(sampled[0].token_ids, skip_special_tokens=True)).strip()
        if not text:
            raise EmptyReplyError("the local assistant gave an empty reply")
        return text

    async def aclose(self) -> None:
        """Nothing to close."""
