"""Assistants of known relative quality, made from one base model: the ground truth of a planted ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from usersim.types import Turn
from usersim.users.dialogue import Assistant

LEVELS = {"larger": 4, "normal": 3, "smaller": 2, "truncated": 1, "off_topic": 0, "evasive": 0}
"""Quality levels; higher is better, and equal levels are not compared.

- larger, normal, smaller: twice, once and half the tokens of the same model
- truncated: the first quarter of the normal reply
- off_topic: answers an unrelated request
- evasive: asks and refuses
"""
TRUNCATED_SHARE = 0.25
"""Share of a reply's words that `Truncated` keeps."""
LEAST_WORDS = 3
DECOYS = (
    "Explain how a bicycle gear shifter works.",
    "Describe the life of bees over one year.",
    "Tell me how to season a cast-iron pan.",
    "Give me an overview of the rules of curling.",
    "Say how volcanoes come into being.",
)
AND_NEXT = "Go on, with more detail."
EVASIONS = (
    "Could you tell me a little more about what you have in mind?",
    "I am not sure that I can help with that.",
    "Before I begin, what exactly would you like to achieve?",
    "I am sorry, but I would rather not give advice on this.",
    "That depends on many things. What do you think yourself?",
    "Unfortunately I cannot say anything about this at the moment.",
)

MakeAssistant = Callable[[int], Assistant]
"""Factory of the base model with a token budget per reply."""


class Truncated:
    """Breaks off in the middle of a sentence after the first quarter of the words."""

    def __init__(self, base: Assistant) -> None:
        self.base = base

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        words = (await self.base(turns, system=system, seed=seed)).split()
        first_words = words[: max(LEAST_WORDS, int(TRUNCATED_SHARE * len(words)))]
        return " ".join(first_words).rstrip(".!?:;,")


class OffTopic:
    """Gives fluent answers of the base model to an unrelated request; the same decoy within one conversation."""

    def __init__(self, base: Assistant) -> None:
        self.base = base

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        opening = next(turn.text for turn in turns if turn.role == "user")
        requests = iter([self._decoy(opening)])
        swapped = [
            Turn(role="user", text=next(requests, AND_NEXT)) if turn.role == "user" else turn
            for turn in turns
        ]
        return await self.base(swapped, system=system, seed=seed)

    def _decoy(self, opening: str) -> str:
        """Returns the decoy that shares the fewest words with the opening; ties depend on the opening's length."""
        opening_words = set(opening.lower().split())
        start = len(opening) % len(DECOYS)
        rotated = DECOYS[start:] + DECOYS[:start]
        return min(rotated, key=lambda decoy: len(opening_words & set(decoy.lower().split())))


class Evasive:
    """Never helps: asks back and refuses in turn. Calls no model."""

    async def __call__(
        self, turns: Sequence[Turn], *, system: str | None = None, seed: int | None = None
    ) -> str:
        reply_count = sum(turn.role == "assistant" for turn in turns)
        return EVASIONS[reply_count % len(EVASIONS)]


def planted_assistants(make: MakeAssistant, tokens: int) -> dict[str, Assistant]:
    """Returns the assistants by name, as in `LEVELS`; `tokens` is the budget of the normal one."""
    normal = make(tokens)
    return {
        "larger": make(2 * tokens),
        "normal": normal,
        "smaller": make(max(1, tokens // 2)),
        "truncated": Truncated(normal),
        "off_topic": OffTopic(normal),
        "evasive": Evasive(),
    }
