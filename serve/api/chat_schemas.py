"""Request and response schemas of OpenAI's chat completion, with the fields that apply to a simulated user."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, Tag, model_validator

from serve.api.responses import CompletionUsage
from serve.schemas import (
    AS_PARTS,
    AS_TEXT,
    GOAL_DESCRIPTION,
    MAX_MESSAGES,
    PERSONA_DESCRIPTION,
    GoalField,
    HashableFailFast,
    PersonaField,
    SamplingFields,
    Text,
    form_discriminator,
)

TOOL_ROLES = ("tool", "function")
StopText = Annotated[str, StringConstraints(min_length=1, max_length=512)]


class ContentPart(BaseModel):
    type: Literal["text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _read_part(cls, values: Any) -> Any:
        """Reads a refusal as text; names the type of any other part in the error."""
        kind = values.get("type") if isinstance(values, dict) else None
        if kind == "refusal":
            return {"type": "text", "text": values.get("refusal")}
        if isinstance(kind, str) and kind != "text":
            raise ValueError(f"a part of type {kind[:40]!r}; only text is read here")
        return values


class ChatMessage(BaseModel):
    """Message of a chat. The dialect decides on its side: in a flipped chat the agent under test is `user`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: (
        Annotated[
            Annotated[Text, Tag(AS_TEXT)] | Annotated[list[ContentPart], HashableFailFast(), Tag(AS_PARTS)],
            form_discriminator("Input should be text, or a list of parts"),
        ]
        | None
    ) = None
    tool_calls: list[Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_tool_results(cls, values: Any) -> Any:
        """Drops tool results, however long, and reads the refusal of an agent that says nothing else."""
        if not isinstance(values, dict):
            return values
        if values.get("role") in TOOL_ROLES:
            return values | {"content": None}
        if values.get("content") is None and values.get("refusal") is not None:
            return values | {"content": values["refusal"]}
        return values

    @model_validator(mode="after")
    def _check_content(self) -> ChatMessage:
        if self.content is None and not self.is_tool_traffic:
            raise ValueError("content is missing")
        return self

    @property
    def is_tool_traffic(self) -> bool:
        """True for messages between an agent and its tools only, which a person in a chat does not see."""
        return self.role in TOOL_ROLES or (bool(self.tool_calls) and not self.text.strip())

    @property
    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "\n".join(part.text for part in self.content)


class ChatStreamOptions(BaseModel):
    include_usage: bool | None = Field(default=None, strict=True)


class ChatRequest(SamplingFields):
    """OpenAI's request. Fields that would change the answer are refused; unknown others are ignored and reported."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "model": "userlm",
                "messages": [
                    {
                        "role": "system",
                        "content": "You want a cheap weekend trip. Say ###STOP### when you are done.",
                    },
                    {"role": "user", "content": "Hi! How can I help you today?"},
                ],
            }
        },
    )

    model: str = Field(max_length=512)
    messages: Annotated[list[ChatMessage], HashableFailFast()] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        description="roles flipped: the agent speaks as `user`, and last; the system message holds the user's goal",
    )
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    max_completion_tokens: int | None = Field(default=None, ge=1, strict=True)
    stop: (
        Annotated[
            Annotated[StopText, Tag(AS_TEXT)] | Annotated[list[StopText], HashableFailFast(), Tag(AS_PARTS)],
            form_discriminator("Input should be text, or a list of texts"),
        ]
        | None
    ) = Field(default=None, description="the turn is cut before the first of these")
    stream: bool | None = Field(default=None, strict=True)
    stream_options: ChatStreamOptions | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    goal: GoalField | None = Field(
        default=None, description=f"beyond OpenAI, instead of the goal in the messages: {GOAL_DESCRIPTION}"
    )
    persona: PersonaField | None = Field(
        default=None,
        description=f"beyond OpenAI, instead of the persona in the messages: {PERSONA_DESCRIPTION}",
    )
    conversation_id: str | None = Field(
        default=None, max_length=128, description="beyond OpenAI, as in /v1/user/turns"
    )

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class ChatReply(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """OpenAI's choice with further keys, which OpenAI's client keeps."""

    index: int
    message: ChatReply
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
    usage: CompletionUsage
