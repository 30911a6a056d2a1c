"""The endpoint's client: everything a local `UserLM` does, over `POST /v1/user/turns`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2

from usersim.backends.http import http_client
from usersim.errors import BackendError, GuardError, RenderError
from usersim.sampling import EndPolicy, Sampling
from usersim.types import Turn, UserProfile, UserTurn


class RemoteUser:
    """A `User` behind HTTP. Sampling, end policy and guards are the server's unless given here."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "userlm",
        api_key: str | None = None,
        timeout_s: float = 120.0,
    ) -> None:
        self.url, self.model, self.name = url, model, model
        self._client, self._base = http_client(url, timeout_s=timeout_s)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        return (await self.sample(profile, turns, seed=seed))[0]

    async def sample(
        self,
        profile: UserProfile,
        turns: Sequence[Turn],
        *,
        n: int = 1,
        seed: int | None = None,
        sampling: Sampling | None = None,
        end: EndPolicy | None = None,
    ) -> list[UserTurn]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": turn.role, "content": turn.text} for turn in turns],
            "n": n,
            "seed": seed,
        }
        if profile.goal:
            body["goal"] = profile.goal.model_dump(exclude_defaults=True)
        if profile.persona:
            body["persona"] = profile.persona.model_dump(exclude_defaults=True)
        if sampling:
            body |= sampling.model_dump(exclude_unset=True)
        if end:
            body["end_of_conversation"] = end.model_dump(exclude_unset=True)
        answer = await self._post("/v1/user/turns", body)
        return [_turn(choice, answer["usage"]) for choice in answer["choices"]]

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            response = await self._client.post(self._base + path, json=body, headers=self._headers)
        except httpx2.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise BackendError(f"{self.url}: {reason}", retryable=True) from error
        if response.status_code != 200:
            raise _error(self.url, response)
        return response.json()

    async def aclose(self) -> None:
        await self._client.aclose()


def _turn(choice: dict[str, Any], usage: dict[str, Any]) -> UserTurn:
    return UserTurn(
        text=choice["message"]["content"],
        ends=choice["end_of_conversation"],
        end_probability=choice["end_of_conversation_prob"],
        finish="end" if choice["end_of_conversation"] else choice["finish_reason"],
        logprob=choice["logprob"],
        tokens=choice["tokens"],
        prompt_tokens=usage["prompt_tokens"],
        seed=choice["seed"],
        rejected=tuple(choice["rejected"]),
    )


def _error(url: str, response: httpx2.Response) -> Exception:
    try:
        error = response.json()["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        message, code = response.text[:300], None
    if code == "guards_exhausted":
        return GuardError(message, reasons={})
    if response.status_code == 400:
        return RenderError(message)
    # The server says of each 5xx whether another try may help.
    told_not_to = response.headers.get("x-should-retry") == "false"
    retryable = response.status_code == 429 or (response.status_code >= 500 and not told_not_to)
    return BackendError(f"{url}: HTTP {response.status_code}: {message}", retryable=retryable)
