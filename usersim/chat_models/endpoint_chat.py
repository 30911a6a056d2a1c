"""`HttpChat` for endpoints of any make: parameters that one refuses are left out, thinking is cut, all is counted."""

from __future__ import annotations

import re
from typing import Any

from usersim.chat_models.openai_chat import HttpChat
from usersim.chat_models.structured import Dialect
from usersim.errors import BackendError

THINKING = re.compile(r"(?:\A(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z))\s*", re.DOTALL)
"""Some templates write the opening tag into the prompt, so that only the closing one is in the reply."""
REFUSED = ("HTTP 400", "HTTP 422")


class EndpointChat(HttpChat):
    """Counts `replies`, those `cut` at max_tokens, and the tokens that the endpoint says it took."""

    replies = cut = prompt_tokens = completion_tokens = 0
    dialect = Dialect(form="text")

    async def _request(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        if body is None:
            return await super()._request(method, path, None)
        while True:
            dialect = self.dialect
            try:
                answer = await super()._request(method, path, _spoken(body, dialect))
            except BackendError as error:
                refusal = str(error)
                adapted = dialect.after(refusal) if any(code in refusal for code in REFUSED) else None
                if adapted is None:
                    raise
                if self.dialect == dialect:  # else another call has adapted it meanwhile
                    self.dialect = adapted
                continue
            return self._counted(answer)

    def _counted(self, answer: Any) -> Any:
        """Without the thinking; an answer of another shape is left to the caller to complain about."""
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


def _spoken(body: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    said = {key: value for key, value in body.items() if key != "max_tokens"}
    said[dialect.limit] = body["max_tokens"]
    if not dialect.temperature:  # models that refuse one refuse the other
        del said["temperature"], said["top_p"]
    return said
