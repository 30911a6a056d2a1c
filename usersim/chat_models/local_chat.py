"""Chat model in this process with its own chat template: the default assistant without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from usersim.backends.transformers_local import LocalSampler
from usersim.chat_models.openai_chat import ChatSettings
from usersim.errors import ContextOverflowError, EmptyReplyError
from usersim.rendering.chat_template import chat_ids
from usersim.types import Turn
from usersim.users.protocols import Draw, Sampling


class LocalChat:
    """Chat model with the interface of `HttpChat`, over a transformers model that may be in training."""

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
        prompt = chat_ids(self.tokenizer, messages)
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
