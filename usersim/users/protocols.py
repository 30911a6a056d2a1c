"""What is asked of whoever draws tokens (`Sampler`) or plays the human (`User`), and how they answer."""

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
    """When a sampled end of conversation counts."""

    mode: Literal["sample", "never", "threshold", "greedy"] = "sample"
    """sample: as drawn. never: the end is banned. threshold: ends when P(end) ≥ threshold.
    greedy: ends when the end is the most likely first token. In the last two P(end) alone decides, and the words
    are drawn with the end banned."""
    threshold: float = Field(default=0.5, ge=0, le=1, strict=True)
    min_user_turns: int = Field(default=1, ge=0, strict=True)
    """The end is banned until the history holds this many user turns."""


@dataclass(frozen=True)
class Draw:
    """What a `Sampler` is asked for: `n` continuations of one prompt, the i-th of them from `seed + i`."""

    prompt_ids: Sequence[int]
    stop_ids: Sequence[int]
    watch_id: int
    """Whose probability at the first position is wanted."""
    sampling: Sampling
    n: int = 1
    seed: int | None = None
    ban_ids: Sequence[int] = ()
    affinity: str | None = None
    """Prompts with the same one share beginnings: where several engines serve, the same one should."""
    top_logprobs: int = 0
    """How many of the likeliest tokens are wanted beside each sampled one."""
    rank_watched: bool = False
    """`end_is_likeliest` is wanted, which may cost one more call to the engine."""


@dataclass(frozen=True)
class Sampled:
    """One continuation: `token_ids` include the stop token that ended it, `logprobs` are raw (temperature 1)."""

    token_ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"]
    end_probability: float
    """P(`watch_id`) at the first position, raw."""
    end_is_likeliest: bool
    """`watch_id` has the highest P of the first position; False where nobody asked (`Draw.rank_watched`)."""
    top_logprobs: Sequence[Mapping[int, float]] = ()
    """By position: log-probability by token id; empty where none were asked for."""


@dataclass(frozen=True)
class SampledPiece:
    """The next tokens of one continuation, as `Sampled` would have them; the last piece has `finish`."""

    token_ids: list[int]
    logprobs: list[float]
    end_probability: float
    end_is_likeliest: bool
    finish: Literal["stop", "length"] | None = None


class Sampler(Protocol):
    """Implemented by `backends.local` and `backends.http`; both draw sample i of n from seed + i."""

    async def sample(self, asked: Draw) -> list[Sampled]: ...

    def stream(self, asked: Draw) -> AsyncGenerator[SampledPiece, None]:
        """One continuation (`n` is 1), without `top_logprobs`. Closing it early stops the engine."""
        ...

    async def aclose(self) -> None: ...


class TurnPiece(Record):
    """The next words of a turn that is being said. The first piece has none: it says that a token is known."""

    text: str
    """Whole characters; the pieces add up to the text of the `UserTurn` that comes last."""
    end_probability: float = Field(ge=0, le=1)
    tokens: tuple[TokenLogprob, ...] = ()
    """Where they were asked for: what was sampled meanwhile, also what is not shown yet."""


class Leaving(Record):
    """Whether the user would leave now, without a word drawn."""

    end_probability: float = Field(ge=0, le=1)
    ends: bool
    prompt_tokens: int


class User(Protocol):
    """Whoever plays the human: a `UserLM`, the endpoint's client, a prompted model, a script."""

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn: ...


def as_profile(
    goal: str | Goal | UserProfile | None = None, persona: str | Persona | None = None
) -> UserProfile:
    """Goal and persona as a profile: strings or full objects alike, as everywhere in the public interface.

    Args:
        goal: What the user wants: a sentence, a `Goal`, or a whole `UserProfile`, which then has its own persona.
        persona: Who is talking and how: a sentence or a `Persona`.

    Raises:
        ConfigError: A persona beside a `UserProfile`.
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
    """A history as `Turn`s, of what a person would have seen of it.

    Args:
        turns: `Turn`s, chat messages (`{"role", "content"}` or `{"role", "text"}`) or the message objects of a
            client library. Left out: system, developer, tool and function messages, and an assistant's message that
            only calls tools. What an assistant said before and after such a call is one turn.

    Raises:
        ConfigError: A message that is none of these; it names which.
    """
    made: list[Turn] = []
    was_hidden = False
    for index, turn in enumerate(turns):
        if isinstance(turn, Turn):
            seen: Turn | None = turn
        else:
            seen = _seen(turn.model_dump() if isinstance(turn, BaseModel) else turn, index)
        if seen is None:
            was_hidden = True
            continue
        if was_hidden and made and made[-1].role == seen.role == "assistant":
            seen = Turn(role="assistant", text=f"{made.pop().text}\n\n{seen.text}")
        made.append(seen)
        was_hidden = False
    return made


HIDDEN_ROLES = ("system", "developer", "tool", "function")
"""Of messages that the person does not see."""


def _seen(message: Mapping[str, Any], index: int) -> Turn | None:
    """None for what the person does not see."""
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
