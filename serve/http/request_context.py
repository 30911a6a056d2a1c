"""Request-scoped context (a ContextVar) for logs, metrics and quotas."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from serve.http.quota import Quota

Outcome = Literal["ok", "refused", "failed", "cancelled"]


@dataclass
class RequestContext:
    """State of one request, filled in while it is processed. All times are on the monotonic clock."""

    id: str
    method: str
    route: str
    """A known route or "other", never an arbitrary path of the client."""
    deadline: float
    started_s: float = field(default_factory=time.monotonic)
    key: str | None = None
    """Name of the client's key."""
    quota: Quota | None = None
    """Quota of that key."""
    body_bytes: int = 0
    turns: int = 0
    """Number of turns requested."""
    models: list[str] = field(default_factory=list)
    """Engine model names behind the requested aliases."""
    engine: str | None = None
    """URL of the last engine used."""
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    queued_s: float = 0.0
    retries: int = 0
    outcome: Outcome | None = None
    """None: derived from the HTTP status."""
    request_body: bytes = b""
    response_body: bytes = b""
    """Both bodies are empty unless content is logged."""

    def remaining_s(self) -> float:
        return self.deadline - time.monotonic()

    def count_turns(self, turns: int) -> None:
        """Charges every turn to the quota as a request. `AuthMiddleware` has counted the first."""
        if self.quota is not None:
            self.quota.count_requests(turns if self.turns else turns - 1)
        self.turns += turns


# Not in `RequestContext`: every item of a batch has its own model and runs in its own task.
_model: ContextVar[str | None] = ContextVar("model", default=None)
_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def current() -> RequestContext | None:
    """Returns the context of the current request; None outside of a request."""
    return _context.get()


def enter(context: RequestContext) -> None:
    """Sets the context for this task and the tasks it starts."""
    _context.set(context)


def set_model(model: str | None) -> None:
    """Sets the engine model for this task; None: the engine's default model."""
    _model.set(model)
    if (context := current()) is not None and model is not None and model not in context.models:
        context.models.append(model)


def current_model() -> str | None:
    return _model.get()
