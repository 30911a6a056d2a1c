"""Judge or teacher model behind an OpenAI-compatible chat endpoint, with records as answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from usersim.chat_models.answer_cache import AnswerCache, key_of
from usersim.chat_models.client import ChatEndpoint, ChatSampling, Message, NoAnswer, with_note
from usersim.chat_models.structured import Unusable, json_schema, read_object
from usersim.chat_models.usage import ModelUsage
from usersim.types import Record

R = TypeVar("R", bound=Record)


class Judge:
    """Client with bounded concurrency, retries, a disk cache and counts in `usage`.

    The cache key is model, messages, schema and sampling. The URL is left out, since the same model at another address
    gives the same answer. Only answers that fit their schema are cached.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None = None,
        cache: Path | None = None,
        concurrency: int = 8,
        timeout_s: float = 120.0,
        max_retries: int = 5,
        backoff_s: float = 0.5,
        sampling: ChatSampling | None = None,
        price_in: float | None = None,
        price_out: float | None = None,
    ) -> None:
        self.model, self.sampling = model, sampling or ChatSampling()
        self.usage = ModelUsage(price_in, price_out)
        self.endpoint = ChatEndpoint(
            url,
            model,
            usage=self.usage,
            api_key=api_key,
            connections=concurrency,
            timeout_s=timeout_s,
            max_retries=max_retries,
            backoff_s=backoff_s,
        )
        self._cache = AnswerCache(cache) if cache is not None else None
        self._semaphore = asyncio.Semaphore(concurrency)

    async def ask(
        self, messages: Sequence[Message], schema: type[R], *, sampling: ChatSampling | None = None
    ) -> R:
        """Asks one question and returns the answer as a record.

        For a second sample of an answer to the same question, give another seed.

        Raises:
            NoAnswer: This question got no usable answer.
            EndpointDown: The endpoint is unavailable for all questions.
        """
        question, sampling = list(messages), sampling or self.sampling
        self.usage.questions += 1
        key = self._key(question, schema, sampling)
        if (cached := self._cached(key, schema)) is not None:
            self.usage.cache_hits += 1
            return cached
        async with self._semaphore:
            try:
                answer, text = await self._usable(question, schema, sampling)
            except NoAnswer as error:
                self.usage.failures[error.reason] += 1
                raise
        if self._cache is not None:
            self._cache.put(key, {"model": self.model, "text": text})
        return answer

    async def aclose(self) -> None:
        await self.endpoint.aclose()

    def _key(self, messages: list[Message], schema: type[Record], sampling: ChatSampling) -> str:
        return key_of(
            {
                "model": self.model,
                "messages": messages,
                "schema": json_schema(schema, portable=False),
                "sampling": sampling.model_dump(),
            }
        )

    def _cached(self, key: str, schema: type[R]) -> R | None:
        answer = self._cache.get(key) if self._cache is not None else None
        try:
            return None if answer is None else read_object(str(answer.get("text")), schema)
        except Unusable:
            return None

    async def _usable(
        self, messages: list[Message], schema: type[R], sampling: ChatSampling
    ) -> tuple[R, str]:
        """Returns a valid answer and its text. An invalid one is requested once more, with the reason."""
        try:
            return await self._answer(messages, schema, sampling)
        except Unusable as error:
            note = f"An earlier answer could not be used ({error}). Answer again, as asked."
        try:
            return await self._answer(with_note(messages, note), schema, sampling)
        except Unusable as error:
            raise NoAnswer(f"{self.endpoint.url}: {error}", reason=error.kind) from error

    async def _answer(
        self, messages: list[Message], schema: type[R], sampling: ChatSampling
    ) -> tuple[R, str]:
        text, cut = await self.endpoint.complete(messages, schema, sampling)
        try:
            return read_object(text, schema), text
        except Unusable as error:
            if not text.strip():
                raise Unusable("empty answer", "") from error
            if cut:
                raise Unusable("cut off at max_tokens", "it was too long") from error
            raise
