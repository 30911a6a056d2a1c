"""The baseline to beat: a general chat model *prompted* to play the user, in flipped roles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from usersim.conditioning import style_words
from usersim.types import Turn, UserProfile, UserTurn

STOP = "[DONE]"
PLAIN = """\
Play a real person who is typing to an AI assistant. You are not the assistant and you never help anybody.
{about}
Write only the person's next message, the way people really type: short, plain, sometimes careless, no
greetings or thanks unless it fits. Tell what you want bit by bit, not all at once. Do not repeat yourself.
When you have what you came for, or have lost patience, write {stop} and nothing else."""
IMPERSONAL = """\
This is the log of a chat between a person and an AI assistant. You continue the person's side of it.
{about}
Give the person's next message word for word, nothing before or after it. People write few words, ask one
thing at a time, skip punctuation and seldom explain themselves.
If the person would close the chat here, answer {stop}."""
SECOND_PERSON = """\
You are a human with a question for a chatbot. The messages that you receive are the chatbot's.
{about}
Type your next message as you would into a search box or to a friend. You do not know the answer and you do not
explain things. Never offer help. Once you are done with the chatbot, type {stop}."""
EXAMPLES = """\
You type the messages of a person who uses an AI assistant.
{about}
Messages by such people look like this:
- how do i center a div
- Write a short poem about my cat, she is grey
- no, the second one. in python please
- why?
- ok and what about the cost
Write the one message that this person sends next, in that manner. If there is nothing left to ask: {stop}"""
PROMPTS = {
    "plain": PLAIN,
    "impersonal": IMPERSONAL,
    "second_person": SECOND_PERSON,
    "examples": EXAMPLES,
}
"""Several, since one may suit a model badly: `usersim eval model` takes the one with the best likelihood on dev."""
OPENING = "(The chat window is open. Type your first message.)"


class Chat(Protocol):
    async def complete(
        self, messages: list[dict[str, str]], *, system: str | None = None, seed: int | None = None
    ) -> str: ...

    async def aclose(self) -> None: ...


class PromptedUser:
    """A `User` over `HttpChat` or `LocalChat`. It has no end probability to offer: 1.0 when it stopped, else 0.0."""

    def __init__(self, chat: Chat, *, name: str = "prompted", prompt: str = PLAIN) -> None:
        self.chat, self.name, self.prompt = chat, name, prompt

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        system = self.prompt.format(about=_about(profile), stop=STOP)
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
