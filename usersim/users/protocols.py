"""Protocols for token samplers and simulated users, with their request and response types."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

from usersim.decoding.parameters import Sampling as Sampling
from usersim.errors import ConfigError
from usersim.rendering.token_text import TokenLogprob
from usersim.types import Goal, Persona, Record, Turn, UserProfile, UserTurn


class EndPolicy(Record):
    """Rule that decides when the simulated user ends the conversation."""

    mode: Literal["sample", "never", "threshold", "greedy"] = "sample"
    """sample: ends when the end token is sampled. never: the end token is banned.
    threshold: ends when P(end) ≥ threshold. greedy: ends when the end is the most likely first token.
    In the last two P(end) alone decides, and the words are sampled with the end banned."""
    threshold: float = Field(default=0.5, ge=0, le=1, strict=True)
    min_user_turns: int = Field(default=1, ge=0, strict=True)
    """The end is banned until the history holds this many user turns."""


@dataclass(frozen=True)
class Draw:
    """Sampling request: `n` continuations of one prompt. Continuation i is sampled with `seed + i`."""

    prompt_ids: Sequence[int]
    stop_ids: Sequence[int]
    watch_id: int
    """Token id whose first-position probability is reported; the end-of-conversation token."""
    sampling: Sampling
    n: int = 1
    seed: int | None = None
    ban_ids: Sequence[int] = ()
    affinity: str | None = None
    """Routing key. Requests with equal keys share a prompt prefix and are sent to the same engine."""
    top_logprobs: int = 0
    """Number of most likely tokens reported beside each sampled one."""
    rank_watched: bool = False
    """Also report `end_is_likeliest`, which may cost one more call to the engine."""


@dataclass(frozen=True)
class Sampled:
    """One sampled continuation. `token_ids` include the stop token; `logprobs` are raw (temperature 1), in nats."""

    token_ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
    end_probability: float
    """P(`watch_id`) at the first position, raw."""
    end_is_likeliest: bool
    """True if `watch_id` is the most likely first token; False unless the request set `Draw.rank_watched`."""
    top_logprobs: Sequence[Mapping[int, float]] = ()
    """Per position: log-probability by token id; empty unless requested."""


@dataclass(frozen=True)
class SampledPiece:
    """Streamed tokens of one continuation, with the fields of `Sampled`. Only the last piece has `finish`."""

    token_ids: list[int]
    logprobs: list[float]
    end_probability: float
    end_is_likeliest: bool
    finish: Literal["stop", "length"] | None = None


class Sampler(Protocol):
    """Token sampler, implemented by `usersim.backends`. Sample i of n uses seed + i."""

    async def sample(self, request: Draw) -> list[Sampled]: ...

    def stream(self, request: Draw) -> AsyncGenerator[SampledPiece, None]:
        """Streams one continuation (`n` is 1), without `top_logprobs`. Closing the generator early stops the engine."""
        ...

    async def aclose(self) -> None: ...


class TurnPiece(Record):
    """Streamed text of a user turn. The first piece is empty: it reports that the first token was sampled."""

    text: str
    """Whole characters; the pieces add up to the text of the `UserTurn` that comes last."""
    end_probability: float = Field(ge=0, le=1)
    tokens: tuple[TokenLogprob, ...] = ()
    """Tokens sampled since the last piece, also those whose text is not shown yet; empty unless requested."""


class Leaving(Record):
    """Termination decision: P(end) and whether the user leaves now, without sampling a turn."""

    end_probability: float = Field(ge=0, le=1)
    ends: bool
    prompt_tokens: int


class User(Protocol):
    """Simulated user: a `UserLM`, a client of the endpoint, a prompted chat model or a script."""

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn: ...


def as_profile(
    goal: str | Goal | UserProfile | None = None, persona: str | Persona | None = None
) -> UserProfile:
    """Builds a `UserProfile` from a goal and a persona, each a string or a full object.

    Args:
        goal: What the user wants: a sentence, a `Goal`, or a whole `UserProfile`, which then has its own persona.
        persona: The user's character and writing style: a sentence or a `Persona`.

    Returns:
        The profile. An empty or missing string leaves its part None.

    Raises:
        ConfigError: A persona is given beside a `UserProfile`.
    """
    if isinstance(goal, UserProfile):
        if persona is not None:
            raise ConfigError("a UserProfile has its own persona; give one or the other")
        return goal
    if isinstance(goal, str):
        goal = Goal(goal) if goal.strip() else None
    if isinstance(persona, str):
        persona = Persona(persona.strip()) if persona.strip() else None
    return UserProfile(goal=goal, persona=persona)


def as_turns(turns: Sequence[Turn | Mapping[str, Any] | BaseModel]) -> list[Turn]:
    """Converts a chat history to `Turn`s, keeping only what a person sees of it.

    Args:
        turns: `Turn`s, chat messages (`{"role", "content"}` or `{"role", "text"}`) or the message objects of a
            client library. System, developer, tool and function messages are left out, and so are assistant messages
            that only call tools. Assistant texts before and after such a call become one turn.

    Returns:
        The visible turns, in order.

    Raises:
        ConfigError: A message has none of these forms; the error names its index.
    """
    history: list[Turn] = []
    was_hidden = False
    for index, turn in enumerate(turns):
        if isinstance(turn, Turn):
            visible_turn: Turn | None = turn
        else:
            visible_turn = _visible_turn(turn.model_dump() if isinstance(turn, BaseModel) else turn, index)
        if visible_turn is None:
            was_hidden = True
            continue
        if was_hidden and history and history[-1].role == visible_turn.role == "assistant":
            visible_turn = Turn(role="assistant", text=f"{history.pop().text}\n\n{visible_turn.text}")
        history.append(visible_turn)
        was_hidden = False
    return history


HIDDEN_ROLES = ("system", "developer", "tool", "function")
"""Roles of messages that the user does not see."""


def _visible_turn(message: Mapping[str, Any], index: int) -> Turn | None:
    """Returns the message as a turn; None if the user does not see it."""
    if not isinstance(message, Mapping):
        raise ConfigError(f"turn {index}: needs role and content, got {str(message)[:80]!r}")
    role, content = message.get("role"), message.get("text", message.get("content"))
    if role in HIDDEN_ROLES:
        return None
    calls_tools = bool(message.get("tool_calls") or message.get("function_call"))
    if role == "assistant" and not content and (calls_tools or content is None):
        return None
    if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if role not in ("user", "assistant"):
        raise ConfigError(f"turn {index}: needs role user or assistant, got {role!r}")
    if not isinstance(content, str):
        raise ConfigError(f"turn {index}: needs a text, got {sorted(message)} with {type(content).__name__}")
    return Turn(role="user" if role == "user" else "assistant", text=content)
