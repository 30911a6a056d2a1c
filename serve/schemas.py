"""Request schemas of the endpoint's own dialect, in which an unknown field is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    FailFast,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from usersim.text.user_acts import Act
from usersim.types import Facet, Goal, Persona, Turn, UserProfile
from usersim.users.protocols import EndPolicy, as_profile

MAX_MESSAGES, MAX_CHARACTERS, MAX_N, MAX_BATCH, MAX_TOP_LOGPROBS = 512, 65_536, 16, 64, 20
MAX_PROFILES, MAX_BEST_OF = 512, 16
Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)]
Label = Annotated[str, StringConstraints(max_length=512)]
AS_TEXT, AS_OBJECT, AS_PARTS = "as text", "as an object", "as parts"
"""Tags of the forms of a field; left out of error messages."""


class HashableFailFast(FailFast):
    """FailFast for lists in unions, whose metadata must be hashable."""

    __hash__ = object.__hash__


class GoalInput(Goal):
    """A `Goal` whose validation stops at the first invalid facet."""

    facets: Annotated[tuple[Facet, ...], HashableFailFast()] = ()


def _form_of(value: Any) -> str | None:
    """Tag of a value's form; None for an unknown form."""
    forms = {str: AS_TEXT, dict: AS_OBJECT, list: AS_PARTS}
    return next(
        (form for kind, form in forms.items() if isinstance(value, kind)),
        AS_OBJECT if isinstance(value, BaseModel) else None,
    )


def form_discriminator(message: str) -> Discriminator:
    """Discriminator by form; `message` is the error for a value of no known form."""
    return Discriminator(_form_of, custom_error_type="form", custom_error_message=message)


GoalField = Annotated[
    Annotated[Text, Tag(AS_TEXT)] | Annotated[GoalInput, Tag(AS_OBJECT)],
    form_discriminator("Input should be a sentence, or an object with summary and facets"),
]
PersonaField = Annotated[
    Annotated[Text, Tag(AS_TEXT)] | Annotated[Persona, Tag(AS_OBJECT)],
    form_discriminator("Input should be a sentence, or an object with description and style"),
]
GOAL_DESCRIPTION = "what the user wants: a sentence, or a Goal with facets; never shown to the assistant"
PERSONA_DESCRIPTION = "who is talking and how: a sentence, or a Persona with a measured style"


class ConversationMessage(BaseModel):
    """Message with true roles: `user` is the simulated user."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: Text

    def turn(self) -> Turn:
        return Turn(role=self.role, text=self.content)


class SamplingFields(BaseModel):
    """Sampling parameters; unset fields take the server's defaults."""

    n: int | None = Field(default=None, ge=1, le=MAX_N, strict=True, description="default: 1")
    seed: Seed | None = Field(
        default=None, description="the same seed and prompt give the same turn; responses report the seed"
    )
    common_noise: bool | None = Field(
        default=None,
        strict=True,
        description="true: a seed gives the same noise for every prompt (common random numbers)",
    )
    temperature: float | None = Field(default=None, ge=0, le=2, strict=True)
    top_p: float | None = Field(default=None, gt=0, le=1, strict=True)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000, strict=True, description="0: off")
    best_of: int | None = Field(
        default=None,
        ge=1,
        le=MAX_BEST_OF,
        strict=True,
        description="candidates drawn for each turn, of which the model's discriminator chooses; all count as drawn",
    )
    end_of_conversation: EndPolicy | None = Field(
        default=None, description="mode sample|never|threshold|greedy, threshold, min_user_turns"
    )


class ConversationInput(BaseModel):
    """Profile of the user and the conversation so far."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, max_length=512, description="default: the model served")
    goal: GoalField | None = Field(
        default=None,
        validation_alias=AliasChoices("goal", "intent", "scenario", "instruction"),
        description=GOAL_DESCRIPTION,
    )
    persona: PersonaField | None = Field(
        default=None,
        validation_alias=AliasChoices("persona", "profile"),
        description=PERSONA_DESCRIPTION,
    )
    messages: Annotated[list[ConversationMessage], HashableFailFast()] = Field(
        default=[], max_length=MAX_MESSAGES, description="alternating; empty, or ending with the assistant"
    )
    conversation_id: str | None = Field(
        default=None,
        max_length=128,
        description="routing key: turns of one conversation go to the same engine, whose prefix cache holds the "
        "history; nothing is stored",
    )
    metadata: dict[Label, Label] | None = Field(
        default=None, max_length=16, description="for the client's own use; ignored"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_two_names(cls, values: Any) -> Any:
        """Refuses two names of one field, which pydantic would resolve silently."""
        if isinstance(values, dict):
            for names in (("goal", "intent", "scenario", "instruction"), ("persona", "profile")):
                used = [name for name in names if name in values]
                if len(used) > 1:
                    raise ValueError(f"{' and '.join(used)} are the same field; give one")
        return values

    def profile(self) -> UserProfile:
        return as_profile(self.goal, self.persona)

    def turns(self) -> list[Turn]:
        return [message.turn() for message in self.messages]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(
        default=False, strict=True, description="a last chunk with `usage` and no choices"
    )


class UserTurnRequest(ConversationInput, SamplingFields):
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

    max_tokens: int | None = Field(default=None, ge=1, le=4096, strict=True)
    act: Act | None = Field(
        default=None,
        description="act of the turn, for models trained with acts; not for the opening turn",
    )
    logprobs: bool = Field(
        default=False, strict=True, description="every sampled token with its log-probability"
    )
    top_logprobs: int = Field(
        default=0,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        strict=True,
        description="number of likeliest tokens per position; needs logprobs",
    )
    return_token_ids: bool = Field(default=False, strict=True)
    stream: bool = Field(default=False, strict=True, description="server-sent events; one turn, not n")
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _check_combinations(self) -> UserTurnRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.stream and self.top_logprobs:
            raise ValueError("top_logprobs are not available in a stream")
        if self.stream and (self.n or 1) > 1:
            raise ValueError("a stream has one turn; leave n out")
        if self.stream and (self.best_of or 1) > 1:
            raise ValueError("a stream has one candidate; leave best_of out")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options needs stream: true")
        return self

    @property
    def logprob_count(self) -> int | None:
        """Number of likeliest tokens per position; None: no log-probabilities at all."""
        return self.top_logprobs if self.logprobs or self.return_token_ids else None


class TerminationRequest(ConversationInput):
    end_of_conversation: EndPolicy | None = Field(
        default=None,
        description="mode never and greedy as for a turn; every other mode decides by the threshold",
    )


class ProfilesRequest(BaseModel):
    """Request for users sampled from the model's population."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"n": 3, "seed": 1}})

    model: str | None = Field(default=None, max_length=512, description="default: the model served")
    n: int = Field(default=1, ge=1, le=MAX_PROFILES, strict=True)
    seed: Seed | None = Field(
        default=None, description="the same seed gives the same users; a larger n begins with them"
    )


class BatchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # Validated one by one, so that an invalid item fails alone.
    items: Annotated[
        list[Annotated[dict[str, Any], WithJsonSchema({"$ref": "#/components/schemas/UserTurnRequest"})]],
        HashableFailFast(),
    ] = Field(min_length=1, max_length=MAX_BATCH)
