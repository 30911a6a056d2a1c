"""M6, how likely real user turns are under a simulator whose weights we hold, and where it expects the end.

Scored tokens are the user's words and the end of the turn, never the end of the conversation. Of a message
longer than the render limits only the head is scored, as in training.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from usersim.errors import BackendError
from usersim.rendering.renderer import Example, Renderer
from usersim.types import Conversation, Role, Turn, UserProfile
from usersim.users.prompted import PLAIN, STOP, PromptedUser
from usersim.weights.precision import default_device, torch_dtype


@dataclass(frozen=True)
class TurnScore:
    nats: float
    """Negative log-likelihood of the scored tokens."""
    tokens: int
    characters: int
    """Of the scored words."""
    end_probability: float
    """P(the user leaves here instead of writing this turn)."""


@dataclass(frozen=True)
class ConversationScore:
    turns: tuple[TurnScore, ...]
    """One per user turn, in order."""
    closing: float | None
    """P(end) after the last answer, where the person is known to have left there."""


class Scorer(Protocol):
    def score(self, conversation: Conversation, profile: UserProfile) -> ConversationScore: ...


class UserScorer:
    """A User LM: training's own rendering, one unpadded sequence at a time."""

    def __init__(self, model: Any, renderer: Renderer) -> None:
        self.model, self.renderer = model, renderer

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype | None = None) -> UserScorer:
        """In the precision of this machine, as an engine computes; log-probabilities are taken in fp32."""
        renderer = Renderer.from_pretrained(path)
        return cls(load_causal_lm(path, dtype), renderer)

    def score(self, conversation: Conversation, profile: UserProfile) -> ConversationScore:
        end_id = self.renderer.settings.end_of_conversation_id
        turns: list[TurnScore] = []
        closing = None
        settings = self.renderer.settings
        for example in self.renderer.examples(conversation, profile=profile):
            for positions, logprobs, raw in self._runs(example):
                ends = settings.end_probability(raw, user_turns=len(turns))
                ids = [example.ids[position] for position in positions]
                if ids == [end_id]:
                    closing = ends
                    continue
                turns.append(
                    TurnScore(
                        nats=-sum(logprobs),
                        tokens=len(ids),
                        characters=len(self.renderer.decode(_words(ids, self.renderer))),
                        end_probability=ends,
                    )
                )
        return ConversationScore(tuple(turns), closing)

    @torch.inference_mode()
    def _runs(self, example: Example) -> Iterator[tuple[list[int], list[float], float]]:
        """(positions, their log-probabilities, P(end) at the first) of every unbroken supervised stretch."""
        positions = [i for i, supervised in enumerate(example.supervised) if supervised]
        if not positions:
            return
        device = self.model.device
        ids = torch.tensor([example.ids], device=device)
        rows = torch.tensor(positions, device=device)
        # The logits that predict position p stand at p - 1; none are computed anywhere else.
        logits_PV = self.model(input_ids=ids, logits_to_keep=rows - 1, use_cache=False).logits[0].float()
        logprobs_PV = torch.log_softmax(logits_PV, -1)
        chosen_P = logprobs_PV.gather(1, ids[0, rows].unsqueeze(1)).squeeze(1).double().tolist()
        end_P = logprobs_PV[:, self.renderer.settings.end_of_conversation_id].double().exp().tolist()
        start = 0
        for index in range(1, len(positions) + 1):
            if index == len(positions) or positions[index] != positions[index - 1] + 1:
                yield positions[start:index], chosen_P[start:index], end_P[start]
                start = index


class PromptedScorer:
    """The baseline: a chat model told to play the user, in its own chat template with flipped roles.

    Reads and is scored on the same shortened messages as the User LM. It leaves by writing `[DONE]`; the
    probability of that whole string is its P(end). Its oldest turns are dropped where its window is full.
    """

    def __init__(self, model: Any, tokenizer: Any, renderer: Renderer, prompt: str = PLAIN) -> None:
        self.model, self.tokenizer, self.renderer, self.prompt = model, tokenizer, renderer, prompt
        self._stop = self._encode(STOP)
        self._cache: Any = None
        self._cached: list[int] = []

    @classmethod
    def from_pretrained(
        cls, path: str | Path, renderer: Renderer, *, dtype: torch.dtype | None = None
    ) -> Self:
        return cls(load_causal_lm(path, dtype), AutoTokenizer.from_pretrained(path), renderer)

    def told(self, prompt: str) -> PromptedScorer:
        """The same model under another prompt."""
        return PromptedScorer(self.model, self.tokenizer, self.renderer, prompt)

    def score(self, conversation: Conversation, profile: UserProfile) -> ConversationScore:
        shown = [Turn(role=t.role, text=_join(shorten(self.renderer, t))) for t in conversation.turns]
        turns = []
        for index, turn in enumerate(conversation.turns):
            if turn.role == "user":
                head, cut = shorten(self.renderer, turn)
                turns.append(self._turn(shown[:index], profile, head, whole=not cut))
        closing = None
        if conversation.ended_by == "user" and shown and shown[-1].role == "assistant":
            closing = self._end(self._prompt(shown, profile, room=len(self._stop)))
        return ConversationScore(tuple(turns), closing)

    def _turn(self, before: list[Turn], profile: UserProfile, head: str, *, whole: bool) -> TurnScore:
        target = self._encode(head) + ([int(self.tokenizer.eos_token_id)] if whole else [])
        prompt = self._prompt(before, profile, room=max(len(target), len(self._stop)))
        end = self._end(prompt)
        logprobs = self._logprobs(prompt, target)
        return TurnScore(-sum(logprobs), len(target), len(head), end)

    def _end(self, prompt: list[int]) -> float:
        return float(torch.tensor(sum(self._logprobs(prompt, self._stop))).exp())

    def _prompt(self, before: list[Turn], profile: UserProfile, *, room: int) -> list[int]:
        window = int(self.model.config.max_position_embeddings) - room
        while True:
            ids = self._ask(before, profile)
            if len(ids) <= window or len(before) < 2:
                return ids
            before = before[2:]

    def _ask(self, before: list[Turn], profile: UserProfile) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            prompted_messages(before, profile, self.prompt),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return ids

    @torch.inference_mode()
    def _logprobs(self, prompt: list[int], continuation: list[int]) -> list[float]:
        """Of `continuation` after `prompt`; what this prompt shares with the last one is not computed again."""
        ids = prompt + continuation[:-1]
        keep = min(_common(self._cached, ids), len(prompt) - 1)
        if keep == 0:
            self._cache = None
        elif keep < len(self._cached):
            self._cache.crop(keep - len(self._cached))
        fed = torch.tensor([ids[keep:]], device=self.model.device)
        out = self.model(
            input_ids=fed,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=len(continuation),
        )
        self._cache, self._cached = out.past_key_values, ids
        logprobs_TV = torch.log_softmax(out.logits[0].float(), -1)
        chosen = torch.tensor(continuation, device=self.model.device).unsqueeze(1)
        found: list[float] = logprobs_TV.gather(1, chosen).squeeze(1).double().tolist()
        return found

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


class UnpromptedScorer(PromptedScorer):
    """The base in its own template with the true roles, told nothing: what it expects people to type."""

    def _ask(self, before: list[Turn], profile: UserProfile) -> list[int]:
        place = "PERSON"  # what the template writes around a user message is found by writing one
        messages = [{"role": turn.role, "content": turn.text} for turn in before]
        text: str = self.tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": place}], tokenize=False
        )
        return self._encode(text.rpartition(place)[0])


def prompted_messages(
    turns: Sequence[Turn], profile: UserProfile, prompt: str = PLAIN
) -> list[dict[str, str]]:
    """Exactly what `PromptedUser` sends: its own call, overheard."""
    heard: list[dict[str, str]] = []

    class Listener:
        async def complete(
            self, messages: list[dict[str, str]], *, system: str | None = None, seed: int | None = None
        ) -> str:
            heard.extend([{"role": "system", "content": system or ""}, *messages])
            return STOP

        async def aclose(self) -> None:
            """Nothing to close."""

    asyncio.run(_say(PromptedUser(Listener(), prompt=prompt), profile, turns))
    return heard


async def _say(user: PromptedUser, profile: UserProfile, turns: Sequence[Turn]) -> None:
    await user(profile, turns)


def shorten(renderer: Renderer, turn: Turn) -> tuple[str, str]:
    """(head, tail with its mark or nothing) of a message as `render` shows it to the User LM."""
    limits: dict[Role, tuple[int, int]] = {
        "user": (renderer.settings.limits.user_head, renderer.settings.limits.user_tail),
        "assistant": (renderer.settings.limits.assistant_head, renderer.settings.limits.assistant_tail),
    }
    head, tail = limits[turn.role]
    ids, mark = renderer.encode(turn.text.strip()), " […] "
    if len(ids) <= head + len(renderer.encode(mark)) + tail:
        return turn.text.strip(), ""
    return renderer.decode(ids[:head]), mark + renderer.decode(ids[-tail:])


def _join(parts: tuple[str, str]) -> str:
    return parts[0] + parts[1]


def _words(ids: Sequence[int], renderer: Renderer) -> list[int]:
    return [i for i in ids if i != renderer.settings.end_of_turn_id]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))


def load_causal_lm(path: str | Path, dtype: torch.dtype | None) -> Any:
    """Model for scoring on this machine's device, by default in its precision. Raises BackendError."""
    device = default_device()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or torch_dtype(device))
    except (OSError, ValueError) as error:
        raise BackendError(f"{path}: the model cannot be loaded ({error})") from error
    return model.to(device).eval()
