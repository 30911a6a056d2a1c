"""What goes over the wire. Where we own the dialect an unknown field is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from usersim.sampling import EndPolicy
from usersim.types import Goal, Persona, Turn

MAX_MESSAGES, MAX_CHARACTERS, MAX_N = 512, 65_536, 16
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Message(BaseModel):
    """True roles: `user` is the simulated user."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: Text

    def turn(self) -> Turn:
        return Turn(role=self.role, text=self.content)


class SamplingFields(BaseModel):
    """Left out: the server's default."""

    n: int | None = Field(default=None, ge=1, le=MAX_N, description="default: 1")
    seed: Seed | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    end_of_conversation: EndPolicy | None = Field(
        default=None, description="mode sample|never|threshold|greedy, threshold, min_user_turns"
    )


class UserTurnRequest(SamplingFields):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "model": "userlm",
                "goal": "plan a cheap weekend trip",
                "persona": "student, terse, impatient",
                "messages": [],
            }
        },
    )

    model: str | None = Field(default=None, max_length=512, description="default: the model served")
    goal: Text | Goal | None = Field(
        default=None,
        validation_alias=AliasChoices("goal", "intent", "scenario", "instruction"),
        description="what the user wants: a sentence, or a Goal with facets; never shown to the assistant",
    )
    persona: Text | Persona | None = Field(
        default=None,
        validation_alias=AliasChoices("persona", "profile"),
        description="who is talking and how: a sentence, or a Persona with a measured style",
    )
    messages: list[Message] = Field(
        default=[], max_length=MAX_MESSAGES, description="alternating; empty, or ending with the assistant"
    )
    max_tokens: int | None = Field(default=None, ge=1, le=4096)
    conversation_id: str | None = Field(default=None, max_length=128, description="for correlation only")
    metadata: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_name_each(cls, given: Any) -> Any:
        """Two names of one field would be resolved silently."""
        if isinstance(given, dict):
            for names in (("goal", "intent", "scenario", "instruction"), ("persona", "profile")):
                used = [name for name in names if name in given]
                if len(used) > 1:
                    raise ValueError(f"{' and '.join(used)} are the same field; give one")
        return given


class SaidMessage(BaseModel):
    role: Literal["user"] = "user"
    content: str


class UserTurnChoice(BaseModel):
    index: int
    message: SaidMessage
    finish_reason: Literal["stop", "length", "end_of_conversation"]
    end_of_conversation: bool
    end_of_conversation_prob: float
    """At the first token, temperature 1, before any ban or threshold."""
    logprob: float
    tokens: int
    seed: int | None
    rejected: tuple[str, ...]
    """Why the guards threw earlier attempts away."""


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    # An object and never null: clients index into it.
    prompt_tokens_details: dict[str, int] = {"cached_tokens": 0}


class PromptFacts(BaseModel):
    template: str
    fingerprint: str
    """Equal fingerprints render equal token ids."""


class UserTurnResponse(BaseModel):
    id: str
    object: Literal["user.turn"] = "user.turn"
    created: int
    model: str
    choices: list[UserTurnChoice]
    usage: Usage
    prompt: PromptFacts


class ContentPart(BaseModel):
    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """Flipped roles: `user` is the agent under test, `assistant` the simulated user."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ContentPart]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatRequest(SamplingFields):
    """OpenAI's request. What means nothing here is ignored; what would change the answer is refused."""

    model: str = Field(max_length=512)
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    goal: Text | Goal | None = None
    """Beyond OpenAI: instead of the system message."""
    persona: Text | Persona | None = None
    """Beyond OpenAI."""


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
