"""Chat client of OpenAI-compatible endpoints, for assistants and prompted users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2

from usersim.backends.connections import Connections
from usersim.decoding.noise import non_negative
from usersim.errors import BackendError, EmptyReplyError
from usersim.rendering.chat_template import harmless
from usersim.types import Record, Turn


class ChatSettings(Record):
    """Sampling parameters of a chat model."""

    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 160


class HttpChat:
    """Chat client of `POST {url}/v1/chat/completions`; an `Assistant`, and the chat model of a `PromptedUser`."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        settings: ChatSettings | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self.url, self.model = url, model
        self.settings = settings or ChatSettings()
        self._connections = Connections(url, timeout_s=timeout_s)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        return await self.complete(messages, system=system, seed=seed)

    async def complete(
        self, messages: list[dict[str, str]], *, system: str | None = None, seed: int | None = None
    ) -> str:
        """Returns the text of one reply. Raises BackendError, also for an empty reply."""
        if system:
            messages = [{"role": "system", "content": system}, *messages]
        messages = [{**message, "content": harmless(message["content"])} for message in messages]
        if self.model is None:
            self.model = await self._only_model()
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            **self.settings.model_dump(),
        }
        if seed is not None:
            body["seed"] = non_negative(seed)
        answer = await self._request("POST", "/v1/chat/completions", body)
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, TypeError, IndexError) as error:
            raise BackendError(f"{self.url}: the response has no {error}") from error
        if not isinstance(text, str) or not text.strip():
            raise EmptyReplyError(f"{self.url}: an empty reply")
        return text.strip()

    async def _only_model(self) -> str:
        answer = await self._request("GET", "/v1/models", None)
        return str(answer["data"][0]["id"])

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        client, base = self._connections.here()
        try:
            response = await client.request(method, base + path, json=body, headers=self._headers)
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise BackendError(f"{self.url}: {reason}", retryable=True) from error
        if response.status_code != 200:
            raise BackendError(
                f"{self.url}: HTTP {response.status_code}: {response.text[:300]}",
                retryable=response.status_code >= 500 or response.status_code == 429,
            )
        try:
            return response.json()
        except ValueError as error:
            raise BackendError(f"{self.url}: the response is not JSON", retryable=True) from error

    async def aclose(self) -> None:
        await self._connections.aclose()
