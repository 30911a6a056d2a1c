"""Baselines: a chat model that continues the conversation without instructions, and a nearest-neighbour user.

A third baseline, the chat model prompted to play the user, is the kind `chat` of `eval.next_turn.simulators.draw`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from eval.next_turn.prefixes import Prefix, prefixes_of, usable
from eval.papers.interaction_probe.model import UserHeader
from usersim.errors import ContextOverflowError, DataError
from usersim.rendering.chat_template import harmless
from usersim.stats.estimates import rng_for
from usersim.text.embeddings import Vectors, embed
from usersim.types import Conversation, Goal, Turn, UserProfile, UserTurn
from usersim.users.protocols import Draw, Sampler, Sampling

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>")
"""Tokens that end a document, by model family."""

WINDOW = 4096
"""Maximum tokens of history and turn, as for the shipped User LM; the oldest exchanges are dropped above it."""


class UnpromptedUser:
    """`User` without instructions: a chat model that continues the conversation in its template with the real roles.

    It can leave in the two ways of its text: the document ends after the answer, or the user's message is empty.
    P(end) = P(end of text) + (1 - P(end of text)) P(empty message), both uncalibrated.
    A chat model may give both almost no probability, and then never leaves: SmolLM2-135M-Instruct gave less than 1e-5
    at 8 prefixes of dev. That is reported as it is, without a fitted hazard.
    """

    def __init__(self, header: UserHeader, sampler: Sampler, sampling: Sampling, window: int) -> None:
        self.header, self.sampler, self.sampling, self.window = header, sampler, sampling, window
        self.end_of_text = _end_of_text(header)

    @classmethod
    def from_pretrained(cls, path: Path, sampler: Sampler, sampling: Sampling) -> Self:
        from transformers import AutoConfig, AutoTokenizer

        config: Any = AutoConfig.from_pretrained(path)
        header = UserHeader(AutoTokenizer.from_pretrained(path))
        return cls(header, sampler, sampling, min(WINDOW, int(config.max_position_embeddings)))

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        # Control tokens that a person typed stay text.
        history = [turn.model_copy(update={"text": harmless(turn.text)}) for turn in turns]
        prompt, stop = self.header.prompt(history), self.header.stop
        if len(prompt) + self.sampling.max_tokens > self.window:
            raise ContextOverflowError(f"the window is {self.window} tokens; this takes {len(prompt)}")
        request = Draw(prompt, [stop], stop, self.sampling, seed=seed)
        (completion,) = await self.sampler.sample(request)
        end_of_text = await self._end_of_text(history, request)
        text = self.header.decode([token for token in completion.token_ids if token != stop])
        return UserTurn(
            text=text,
            ends=False,
            end_probability=min(1.0, end_of_text + (1 - end_of_text) * completion.end_probability),
            finish=completion.finish,
            logprob=sum(completion.logprobs),
            tokens=len(completion.token_ids),
            prompt_tokens=len(prompt),
            seed=seed,
        )

    async def _end_of_text(self, turns: Sequence[Turn], request: Draw) -> float:
        """P(the document ends here) after the answer; 0 before the first turn."""
        if not turns:
            return 0.0
        prompt = self.header.closed(turns)
        one = Sampling(temperature=0, max_tokens=1)
        look = replace(request, prompt_ids=prompt, watch_id=self.end_of_text, sampling=one, seed=0)
        (completion,) = await self.sampler.sample(look)
        return completion.end_probability

    async def aclose(self) -> None:
        await self.sampler.aclose()


def _end_of_text(header: UserHeader) -> int:
    vocabulary = header.tokenizer.get_vocab()
    return next(
        (int(vocabulary[token]) for token in END_OF_TEXT if token in vocabulary),
        int(header.tokenizer.eos_token_id),
    )


@dataclass(frozen=True)
class _Contexts:
    """Training contexts of one position class, by embedding."""

    prefixes: list[Prefix]
    vectors: Vectors


class NearestUser:
    """`User` that repeats what the person said after the nearest training context.

    Contexts are compared at the same position (1, 2, 3, 4 and later). Openings are compared by their goals, later ones
    by the last answer and the user turn before it (mean of two cosines). The text is that of the nearest context at
    which the person went on. P(end) is the share of the `k` nearest whose person left; unknown ends do not count.

    Args:
        conversations: Training conversations.
        k: Number of contexts for P(end).
        most: Maximum contexts per class, drawn with `seed`.
        language: Language of the user turns; None for all.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        *,
        k: int = 25,
        most: int = 600,
        seed: int = 0,
        language: str | None = "en",
    ) -> None:
        measurable, _ = usable(conversations, language)
        self.k, self.name = k, "nearest"
        self._classes: dict[int, list[Prefix]] = {}
        for conversation in measurable:
            for prefix in prefixes_of(conversation):
                if prefix.position > 1 or prefix.goal is not None:
                    self._classes.setdefault(_class_of(prefix.position), []).append(prefix)
        rng = rng_for(seed, "training contexts")
        for number, prefixes in sorted(self._classes.items()):
            order = rng.permutation(len(prefixes))[:most]
            self._classes[number] = [prefixes[i] for i in sorted(order)]
        if not any(not prefix.has_left for prefixes in self._classes.values() for prefix in prefixes):
            raise DataError("no training context that has a user turn after it")
        self._indexed: dict[int, _Contexts] = {}
        self._lock = asyncio.Lock()

    async def __call__(
        self, profile: UserProfile, turns: Sequence[Turn], *, seed: int | None = None
    ) -> UserTurn:
        async with self._lock:  # one embedding at a time uses all cores
            return await asyncio.to_thread(self._nearest, profile.goal, turns, seed)

    def _nearest(self, goal: Goal | None, turns: Sequence[Turn], seed: int | None) -> UserTurn:
        position = 1 + sum(turn.role == "user" for turn in turns)
        contexts = self._contexts(self._available(_class_of(position)))
        cosines = contexts.vectors @ _context_vectors([(goal, turns)])[0]
        order = np.argsort(-cosines, kind="stable")
        nearest = [contexts.prefixes[i] for i in order]
        text = next(prefix.text for prefix in nearest if prefix.text is not None)
        near = nearest[: self.k]
        return UserTurn(
            text=text,
            ends=False,
            end_probability=sum(prefix.has_left for prefix in near) / len(near) if turns else 0.0,
            finish="stop",
            logprob=0.0,
            tokens=0,
            seed=seed,
        )

    def _available(self, number: int) -> int:
        """The class itself, else the nearest class in which a person went on."""
        speaking = [n for n, own in self._classes.items() if any(not prefix.has_left for prefix in own)]
        return min(speaking, key=lambda other: (abs(other - number), other))

    def _contexts(self, number: int) -> _Contexts:
        if number not in self._indexed:
            prefixes = self._classes[number]
            vectors = _context_vectors([(prefix.goal, prefix.history) for prefix in prefixes])
            self._indexed[number] = _Contexts(prefixes, vectors)
        return self._indexed[number]


def _class_of(position: int) -> int:
    return min(position, 4)


def _context_vectors(contexts: Sequence[tuple[Goal | None, Sequence[Turn]]]) -> Vectors:
    """Vectors (n, 2 d): answer and previous user turn side by side; an opening has its goal in both halves."""
    pairs = [_context_texts(goal, turns) for goal, turns in contexts]
    first, second = (embed([pair[half] for pair in pairs]) for half in (0, 1))
    vectors: Vectors = np.concatenate([first, second], axis=1) * np.float32(0.5**0.5)
    return vectors


def _context_texts(goal: Goal | None, turns: Sequence[Turn]) -> tuple[str, str]:
    if not turns:
        summary = goal.summary if goal else ""
        return summary, summary
    return turns[-1].text, turns[-2].text if len(turns) > 1 else ""
