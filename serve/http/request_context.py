"""What is known of one request while it is answered; whoever learns something writes it down here."""

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
    id: str
    method: str
    route: str
    """A route of ours or "other", never a path that the client made up."""
    deadline: float
    """On the monotonic clock, as every time here."""
    started_s: float = field(default_factory=time.monotonic)
    key: str | None = None
    """The name of the client's key."""
    quota: Quota | None = None
    """Of that key."""
    body_bytes: int = 0
    turns: int = 0
    """Asked for."""
    models: list[str] = field(default_factory=list)
    """The engines' names for what was asked for, where a name of ours stands for one of theirs."""
    engine: str | None = None
    """Who answered last."""
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    queued_s: float = 0.0
    retries: int = 0
    outcome: Outcome | None = None
    """None: what the status says."""
    request_body: bytes = b""
    response_body: bytes = b""
    """Both empty unless content is to be logged."""

    def remaining_s(self) -> float:
        return self.deadline - time.monotonic()

    def count_turns(self, turns: int) -> None:
        """Every turn counts for the quota as a request; the first was counted at the gate."""
        if self.quota is not None:
            self.quota.count(turns if self.turns else turns - 1)
        self.turns += turns


# Not in `Visit`: every item of a batch has its own, and each runs in a task of its own.
_model: ContextVar[str | None] = ContextVar("model", default=None)
_context: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def current() -> RequestContext | None:
    """The request on whose behalf this code runs; None outside of any."""
    return _context.get()


def enter(context: RequestContext) -> None:
    """For this task and those it starts."""
    _context.set(context)


def set_model(model: str | None) -> None:
    """Whatever this task draws from now on comes from this model of the engines, by their name for it."""
    _model.set(model)
    if (context := current()) is not None and model is not None and model not in context.models:
        context.models.append(model)


def current_model() -> str | None:
    return _model.get()
