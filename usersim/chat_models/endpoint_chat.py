"""`HttpChat` for any endpoint: it adapts to refused parameters, strips reasoning and counts tokens."""

from __future__ import annotations

import re
from typing import Any

from usersim.chat_models.openai_chat import HttpChat
from usersim.chat_models.structured import Dialect
from usersim.errors import BackendError

THINKING = re.compile(r"(?:\A(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z))\s*", re.DOTALL)
"""Reasoning block. Some templates put the opening tag into the prompt, so the reply has only the closing one."""
REFUSED = ("HTTP 400", "HTTP 422")


class EndpointChat(HttpChat):
    """Chat client that counts `replies`, replies `cut` at max_tokens, and the tokens that the endpoint reports."""

    replies = cut = prompt_tokens = completion_tokens = 0
    dialect = Dialect(form="text")

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        if body is None:
            return await super()._request(method, path, None)
        while True:
            dialect = self.dialect
            try:
                answer = await super()._request(method, path, _adapt_body(body, dialect))
            except BackendError as error:
                refusal = str(error)
                adapted = dialect.after(refusal) if any(code in refusal for code in REFUSED) else None
                if adapted is None:
                    raise
                if self.dialect == dialect:  # else another call has changed it meanwhile
                    self.dialect = adapted
                continue
            return self._counted(answer)

    def _counted(self, answer: Any) -> Any:
        """Counts a response and strips its reasoning; other shapes are left to the caller."""
        try:
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text = choice["message"]["content"]
            if isinstance(text, str):
                choice["message"]["content"] = THINKING.sub("", text)
            self.replies += 1
            self.cut += choice.get("finish_reason") == "length"
            self.prompt_tokens += int(usage.get("prompt_tokens") or 0)
            self.completion_tokens += int(usage.get("completion_tokens") or 0)
        except (KeyError, TypeError, IndexError, AttributeError, ValueError):
            pass
        return answer

    def counts(self) -> dict[str, int]:
        names = ("replies", "cut", "prompt_tokens", "completion_tokens")
        return {name: getattr(self, name) for name in names}


def _adapt_body(body: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    adapted = {key: value for key, value in body.items() if key != "max_tokens"}
    adapted[dialect.limit] = body["max_tokens"]
    if not dialect.temperature:  # models without one lack the other
        del adapted["temperature"], adapted["top_p"]
    return adapted
