"""Client of an OpenAI-compatible chat endpoint, with retries, back-off and detection of an outage."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from typing import Any

import httpx2

from usersim.backends.vllm_http import http_client
from usersim.chat_models.structured import Dialect, instruction, response_format
from usersim.chat_models.usage import ModelUsage
from usersim.decoding.noise import non_negative
from usersim.errors import BackendError, ConfigError
from usersim.types import Record

Message = dict[str, str]

RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
FATAL_STATUS = {401: "check the API key", 402: "the account has no credit", 404: "check URL and model"}
LONGEST_WAIT_S, LONGEST_BACKOFF_S = 120.0, 30.0
MAX_CONSECUTIVE_FAILURES = 3


class NoAnswer(BackendError):
    """A question got no usable answer. `reason` is a fixed text per cause, for counting."""

    def __init__(
        self, message: str, *, reason: str, retryable: bool = False, wait_s: float | None = None
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.reason, self.wait_s = reason, wait_s


class EndpointDown(BackendError):
    """The endpoint is unavailable, so that no later question would be answered."""


class ChatSampling(Record):
    """Sampling parameters of a chat request."""

    temperature: float | None = 0.0
    """Temperature; None: the endpoint's default."""
    max_tokens: int = 1024
    seed: int | None = None


class ChatEndpoint:
    """Endpoint `POST {url}/v1/chat/completions`. Unsupported parameters are remembered in `dialect`."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        usage: ModelUsage,
        api_key: str | None,
        connections: int,
        timeout_s: float,
        max_retries: int,
        backoff_s: float,
    ) -> None:
        if not url.startswith(("http://", "https://", "unix:")):
            raise ConfigError(f"{url}: the URL of an endpoint starts with http://, https:// or unix:")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
            raise ConfigError("the API key is empty or has invalid characters")
        self.url, self.model, self.usage = url, model, usage
        self.timeout_s, self.max_retries, self.backoff_s = timeout_s, max_retries, backoff_s
        self.dialect = Dialect()
        self._key = api_key
        self._failures_in_a_row = 0
        self._answered = 0.0
        self._down: str | None = None
        try:
            self._client, self._base = http_client(url, timeout_s=timeout_s, connections=connections)
            if not httpx2.URL(self._base).host:
                raise ConfigError(f"{url}: the URL has no host")
        except (httpx2.InvalidURL, ValueError) as error:
            raise ConfigError(f"{url}: not a URL ({error})") from error

    async def complete(
        self, messages: list[Message], schema: type[Record], sampling: ChatSampling
    ) -> tuple[str, bool]:
        """Requests a completion, with retries. Returns its text, and True if it was cut off."""
        began, tries = time.monotonic(), 0
        while True:
            if self._down is not None:
                raise EndpointDown(self._down)
            try:
                return await self._try(messages, schema, sampling)
            except NoAnswer as error:
                if not error.retryable:
                    raise
                if tries == self.max_retries:
                    self._give_up(error, began)
                    raise
                wait_s = error.wait_s
            if wait_s is None:
                wait_s = min(self.backoff_s * 2**tries, LONGEST_BACKOFF_S) * random.uniform(0.5, 1)
            tries += 1
            self.usage.retries += 1
            await asyncio.sleep(wait_s)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _give_up(self, error: NoAnswer, began: float) -> None:
        """Raises EndpointDown if the endpoint is unreachable, or several questions in a row failed without a
        success."""
        is_unreachable = error.reason == "cannot be reached" and self._answered < began
        self._failures_in_a_row += MAX_CONSECUTIVE_FAILURES if is_unreachable else 1
        if self._failures_in_a_row >= MAX_CONSECUTIVE_FAILURES:
            self._stop(str(error))

    def _stop(self, message: str) -> None:
        self._down = message
        raise EndpointDown(message)

    async def _try(
        self, messages: list[Message], schema: type[Record], sampling: ChatSampling
    ) -> tuple[str, bool]:
        while True:
            dialect = self.dialect
            response = await self._post(self._body(dialect, messages, schema, sampling))
            adapted = dialect.after(response.text) if response.status_code in (400, 422) else None
            if adapted is None:
                break
            if self.dialect == dialect:  # else another question has changed it meanwhile
                self.dialect = adapted
        self._check(response)
        completion = self._read(response)
        self._failures_in_a_row, self._answered = 0, time.monotonic()
        return completion

    def _body(
        self, dialect: Dialect, messages: list[Message], schema: type[Record], sampling: ChatSampling
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": with_note(messages, instruction(dialect.form, schema)),
            dialect.limit: sampling.max_tokens,
        }
        if dialect.temperature and sampling.temperature is not None:
            body["temperature"] = sampling.temperature
        if sampling.seed is not None:
            body["seed"] = non_negative(sampling.seed)
        if (form := response_format(dialect.form, schema)) is not None:
            body["response_format"] = form
        return body

    async def _post(self, body: dict[str, Any]) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        path = f"{self._base}/v1/chat/completions"
        self.usage.requests += 1
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._client.post(path, json=body, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise self._transport(
                "cannot be reached", f"cannot be reached ({error or type(error).__name__})"
            ) from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            raise self._transport("no answer in time", f"no answer within {self.timeout_s:g} s") from error
        except httpx2.HTTPError as error:
            raise self._transport(
                "connection broke", f"the connection broke ({error or type(error).__name__})"
            ) from error
        finally:
            self.usage.seconds += time.monotonic() - began

    def _transport(self, reason: str, detail: str) -> NoAnswer:
        return NoAnswer(f"{self.url}: {detail}", reason=reason, retryable=True)

    def _check(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status == 200:
            return
        message = f"{self.url}: HTTP {status}: {self._excerpt(response)}"
        if status in FATAL_STATUS:
            self._stop(f"{message}; {FATAL_STATUS[status]}")
        if status == 429 and "insufficient_quota" in response.text:
            self._stop(f"{message}; {FATAL_STATUS[402]}")
        is_retryable = status >= 500 or status in RETRYABLE_STATUS
        if not is_retryable:
            self._failures_in_a_row = 0
        wait_s = _retry_after(response.headers.get("Retry-After")) if is_retryable else None
        raise NoAnswer(message, reason=f"HTTP {status}", retryable=is_retryable, wait_s=wait_s)

    def _read(self, response: httpx2.Response) -> tuple[str, bool]:
        try:
            answer = response.json()
            choice = answer["choices"][0]
            text, finish = choice["message"].get("content"), choice.get("finish_reason")
            usage = answer.get("usage") or {}
            self.usage.prompt_tokens += int(usage.get("prompt_tokens") or 0)
            self.usage.completion_tokens += int(usage.get("completion_tokens") or 0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            message = f"{self.url}: the response is not a chat completion: {self._excerpt(response)}"
            raise NoAnswer(message, reason="no chat completion", retryable=True) from error
        return text if isinstance(text, str) else "", finish == "length"

    def _excerpt(self, response: httpx2.Response) -> str:
        """Returns the beginning of a response in one line for error messages, without the key."""
        text = " ".join(response.text.split())
        return (text.replace(self._key, "…") if self._key else text)[:200]


def with_note(messages: list[Message], note: str) -> list[Message]:
    """Appends a note to the last message, since some chat templates refuse two messages in a row by one role."""
    if not note:
        return messages
    *before, last = messages
    return [*before, {**last, "content": f"{last['content']}\n\n{note}"}]


def _retry_after(value: str | None) -> float | None:
    """Returns the seconds of a Retry-After header (seconds or a date), at most `LONGEST_WAIT_S`."""
    if value is None:
        return None
    try:
        wait_s = float(value)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(0.0, wait_s), LONGEST_WAIT_S)
