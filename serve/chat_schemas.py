"""OpenAI's chat completion as it goes over the wire, as far as it means anything for a simulated user."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from serve.answers import Usage
from serve.schemas import MAX_MESSAGES, SamplingFields, Text
from usersim.types import Goal, Persona


class ContentPart(BaseModel):
    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """Whose words they are depends on the dialect: in a flipped chat the agent under test is `user`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[ContentPart] | None = None
    tool_calls: list[Any] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and not self.is_tool_traffic:
            raise ValueError("content is missing")
        return self

    @property
    def is_tool_traffic(self) -> bool:
        """Between an agent and its tools: a person in a chat does not see it."""
        return self.role in ("tool", "function") or bool(self.tool_calls)

    @property
    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class ChatRequest(SamplingFields):
    """OpenAI's request. What means nothing here is ignored; what would change the answer is refused."""

    model: str = Field(max_length=512)
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    goal: Text | Goal | None = None
    """Beyond OpenAI: instead of the goal in the messages."""
    persona: Text | Persona | None = None
    """Beyond OpenAI: instead of the persona in the messages."""
    conversation_id: str | None = Field(default=None, max_length=128)
    """Beyond OpenAI, as in a turn's request."""

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class ChatSaid(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """OpenAI's choice; what it lacks rides along as further keys, which OpenAI's client keeps."""

    index: int
    message: ChatSaid
    finish_reason: Literal["stop", "length"]
    logprobs: None = None
    end_of_conversation: bool
    end_of_conversation_prob: float
    logprob: float
    tokens: int
    seed: int | None
    rejected: tuple[str, ...]


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
