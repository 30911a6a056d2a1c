"""Response schemas of the endpoint's own dialect."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from usersim.types import UserProfile


class UserMessage(BaseModel):
    role: Literal["user"] = "user"
    content: str


class LikelyToken(BaseModel):
    id: int
    token: str
    bytes: list[int]
    logprob: float


class ContentToken(LikelyToken):
    top_logprobs: list[LikelyToken] = []


class TokenLogprobs(BaseModel):
    """Log-probabilities of all sampled tokens, including the end of the turn; they add up to `logprob`."""

    content: list[ContentToken]


FinishReason = Literal["stop", "length", "end_of_conversation"]


class TurnFacts(BaseModel):
    finish_reason: FinishReason
    end_of_conversation: bool
    end_of_conversation_prob: float
    """Probability at the first token, at temperature 1, before any ban or threshold."""
    logprob: float
    tokens: int
    seed: int | None
    rejected: tuple[str, ...]
    """Guards' reasons for rejecting earlier samples; in a stream their objections to this turn."""
    drawn_tokens: int | None = Field(default=None, exclude_if=lambda count: count is None)
    """Tokens of all candidates, where the turn is the best of several (`best_of`)."""


class UserTurnChoice(TurnFacts):
    index: int
    message: UserMessage
    logprobs: TokenLogprobs | None = None
    token_ids: list[int] | None = None


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    # Never null: clients index into it.
    prompt_tokens_details: dict[str, int] = {"cached_tokens": 0}


class PromptFacts(BaseModel):
    template: str
    fingerprint: str
    """Equal fingerprints mean equal token ids for equal conversations."""


class UserTurnResponse(BaseModel):
    id: str
    object: Literal["user.turn"] = "user.turn"
    created: int
    model: str
    system_fingerprint: str
    """Hash of weights' name, template and software version; equal fingerprints sample alike."""
    choices: list[UserTurnChoice]
    usage: CompletionUsage
    prompt: PromptFacts


class Delta(BaseModel):
    role: Literal["user"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """Choice of a chunk. The first has the role and P(end), the last the fields of `TurnFacts`."""

    index: int = 0
    delta: Delta
    logprobs: TokenLogprobs | None = None
    token_ids: list[int] | None = None
    finish_reason: FinishReason | None = None
    end_of_conversation: bool | None = None
    end_of_conversation_prob: float | None = None
    logprob: float | None = None
    tokens: int | None = None
    seed: int | None = None
    rejected: tuple[str, ...] | None = None


class UserTurnChunk(BaseModel):
    id: str
    object: Literal["user.turn.chunk"] = "user.turn.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None
    prompt: PromptFacts | None = None


class ErrorFacts(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class BatchResult(BaseModel):
    index: int
    status: int
    body: UserTurnResponse | None = None
    error: ErrorFacts | None = None


class BatchResponse(BaseModel):
    id: str
    object: Literal["user.turn.batch"] = "user.turn.batch"
    created: int
    results: list[BatchResult]
    """Results in the order of the items."""


class TerminationResponse(BaseModel):
    id: str
    object: Literal["user.termination"] = "user.termination"
    created: int
    model: str
    system_fingerprint: str
    end_of_conversation: bool
    end_of_conversation_prob: float
    usage: CompletionUsage
    prompt: PromptFacts


class ProfilesResponse(BaseModel):
    """Users drawn from the model's population."""

    id: str
    object: Literal["user.profiles"] = "user.profiles"
    created: int
    model: str
    system_fingerprint: str
    seed: int
    distance: float
    """Smallest distance of any sampled user to a person of the logs (see `usersim.populations`)."""
    profiles: list[UserProfile]
