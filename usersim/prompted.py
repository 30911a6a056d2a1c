"""The baseline to beat: a general chat model *prompted* to play the user, in flipped roles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from usersim.conditioning import style_words
from usersim.types import Turn, UserProfile, UserTurn

STOP = "[DONE]"
PROMPT = """\
Play a real person who is typing to an AI assistant. You are not the assistant and you never help anybody.
{about}
Write only the person's next message, the way people really type: short, plain, sometimes careless, no
greetings or thanks unless it fits. Tell what you want bit by bit, not all at once. Do not repeat yourself.
When you have what you came for, or have lost patience, write {stop} and nothing else."""
OPENING = "(The chat window is open. Type your first message.)"


class Chat(Protocol):
    async def complete(
        self, messages: list[dict[str, str]], *, system: str | None = None, seed: int | None = None
    ) -> str: ...

    async def aclose(self) -> None: ...


class PromptedUser:
    """A `User` over `HttpChat` or `LocalChat`. It has no end probability to offer: 1.0 when it stopped, else 0.0."""

    def __init__(self, chat: Chat, *, name: str = "prompted") -> None:
        self.chat, self.name = chat, name

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        system = PROMPT.format(about=_about(profile), stop=STOP)
        flipped = [{"role": "user", "content": OPENING}] if not turns or turns[0].role == "user" else []
        for turn in turns:
            role = "user" if turn.role == "assistant" else "assistant"
            flipped.append({"role": role, "content": turn.text})
        text = (await self.chat.complete(flipped, system=system, seed=seed)).strip()
        ends = text.startswith(STOP) or text.endswith(STOP)
        return UserTurn(
            text="" if ends else text,
            ends=ends,
            end_probability=1.0 if ends else 0.0,
            finish="end" if ends else "stop",
            logprob=0.0,
            tokens=0,
            seed=seed,
        )

    async def aclose(self) -> None:
        await self.chat.aclose()


def _about(profile: UserProfile) -> str:
    lines = []
    if profile.goal:
        lines.append(f"What the person wants: {profile.goal.summary}.")
        lines += [f"- {facet.text}" for facet in profile.goal.facets]
    if profile.persona and profile.persona.description:
        lines.append(f"Who the person is: {profile.persona.description}.")
    if profile.persona and profile.persona.style and (traits := style_words(profile.persona.style)):
        lines.append(f"How the person writes: {', '.join(traits)}.")
    return "\n".join(lines)
