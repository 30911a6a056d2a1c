"""Likelihood of real user turns (metric M6) and P(end), under a simulator with accessible weights.

Scored tokens are the user's words and the end of the turn, never the end of the conversation. Of a message
longer than the limits of the renderer only the head is scored, as in training.
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
    """Score of one user turn.

    Attributes:
        nats: Negative log-likelihood of the scored tokens.
        tokens: Number of scored tokens.
        characters: Number of characters of the scored words.
        end_probability: P(the user leaves instead of writing this turn).
    """

    nats: float
    tokens: int
    characters: int
    end_probability: float


@dataclass(frozen=True)
class ConversationScore:
    """Scores of one conversation.

    Attributes:
        turns: One score per user turn, in order.
        closing: P(end) after the last answer, if the person is known to have left there; else None.
    """

    turns: tuple[TurnScore, ...]
    closing: float | None


class Scorer(Protocol):
    """Scorer of the user turns of a conversation under a goal and persona."""

    def score(self, conversation: Conversation, profile: UserProfile) -> ConversationScore: ...


class UserScorer:
    """Scorer with a User LM: the rendering of training, one unpadded sequence at a time."""

    def __init__(self, model: Any, renderer: Renderer) -> None:
        self.model, self.renderer = model, renderer

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype: torch.dtype | None = None) -> UserScorer:
        """Loads a User LM in the precision that an engine uses on this device; log-probabilities are fp32."""
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
                        characters=len(self.renderer.decode(_without_end_of_turn(ids, self.renderer))),
                        end_probability=ends,
                    )
                )
        return ConversationScore(tuple(turns), closing)

    @torch.inference_mode()
    def _runs(self, example: Example) -> Iterator[tuple[list[int], list[float], float]]:
        """Yields (positions, log-probabilities, P(end) at the first position) of each contiguous supervised span."""
        positions = [i for i, supervised in enumerate(example.supervised) if supervised]
        if not positions:
            return
        device = self.model.device
        ids = torch.tensor([example.ids], device=device)
        rows = torch.tensor(positions, device=device)
        # The logits that predict position p are at p - 1; only those are computed.
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
    """Scorer with a chat model prompted to play the user, in its chat template with flipped roles (baseline).

    It reads and is scored on the same shortened messages as the User LM. Its P(end) is the probability of the whole
    string `[DONE]`. The oldest turns are dropped if its context window is full.
    """

    def __init__(self, model: Any, tokenizer: Any, renderer: Renderer, prompt: str = PLAIN) -> None:
        self.model, self.tokenizer, self.renderer, self.prompt = model, tokenizer, renderer, prompt
        self._stop_ids = self._encode(STOP)
        self._kv_cache: Any = None
        self._cached_ids: list[int] = []

    @classmethod
    def from_pretrained(
        cls, path: str | Path, renderer: Renderer, *, dtype: torch.dtype | None = None
    ) -> Self:
        return cls(load_causal_lm(path, dtype), AutoTokenizer.from_pretrained(path), renderer)

    def with_prompt(self, prompt: str) -> PromptedScorer:
        """Returns a scorer with the same model and another prompt."""
        return PromptedScorer(self.model, self.tokenizer, self.renderer, prompt)

    def score(self, conversation: Conversation, profile: UserProfile) -> ConversationScore:
        shortened = [Turn(role=t.role, text=_join(shorten(self.renderer, t))) for t in conversation.turns]
        turns = []
        for index, turn in enumerate(conversation.turns):
            if turn.role == "user":
                head, cut = shorten(self.renderer, turn)
                turns.append(self._turn_score(shortened[:index], profile, head, whole=not cut))
        closing = None
        if conversation.ended_by == "user" and shortened and shortened[-1].role == "assistant":
            closing = self._end_probability(
                self._fitting_prompt(shortened, profile, room=len(self._stop_ids))
            )
        return ConversationScore(tuple(turns), closing)

    def _turn_score(self, before: list[Turn], profile: UserProfile, head: str, *, whole: bool) -> TurnScore:
        target = self._encode(head) + ([int(self.tokenizer.eos_token_id)] if whole else [])
        prompt = self._fitting_prompt(before, profile, room=max(len(target), len(self._stop_ids)))
        end = self._end_probability(prompt)
        logprobs = self._logprobs(prompt, target)
        return TurnScore(-sum(logprobs), len(target), len(head), end)

    def _end_probability(self, prompt: list[int]) -> float:
        return float(torch.tensor(sum(self._logprobs(prompt, self._stop_ids))).exp())

    def _fitting_prompt(self, before: list[Turn], profile: UserProfile, *, room: int) -> list[int]:
        window = int(self.model.config.max_position_embeddings) - room
        while True:
            ids = self._prompt_ids(before, profile)
            if len(ids) <= window or len(before) < 2:
                return ids
            before = before[2:]

    def _prompt_ids(self, before: list[Turn], profile: UserProfile) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            prompted_messages(before, profile, self.prompt),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return ids

    @torch.inference_mode()
    def _logprobs(self, prompt: list[int], continuation: list[int]) -> list[float]:
        """Log-probabilities of `continuation` after `prompt`; the prefix shared with the last call is cached."""
        ids = prompt + continuation[:-1]
        keep = min(_common_prefix_length(self._cached_ids, ids), len(prompt) - 1)
        if keep == 0:
            self._kv_cache = None
        elif keep < len(self._cached_ids):
            self._kv_cache.crop(keep - len(self._cached_ids))
        new_ids = torch.tensor([ids[keep:]], device=self.model.device)
        out = self.model(
            input_ids=new_ids,
            past_key_values=self._kv_cache,
            use_cache=True,
            logits_to_keep=len(continuation),
        )
        self._kv_cache, self._cached_ids = out.past_key_values, ids
        logprobs_TV = torch.log_softmax(out.logits[0].float(), -1)
        chosen = torch.tensor(continuation, device=self.model.device).unsqueeze(1)
        values: list[float] = logprobs_TV.gather(1, chosen).squeeze(1).double().tolist()
        return values

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


class UnpromptedScorer(PromptedScorer):
    """Scorer with a chat model in its chat template with the real roles, without instructions."""

    def _prompt_ids(self, before: list[Turn], profile: UserProfile) -> list[int]:
        placeholder = (
            "PERSON"  # the text that the template puts before a user message is cut out by rendering one
        )
        messages = [{"role": turn.role, "content": turn.text} for turn in before]
        text: str = self.tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": placeholder}], tokenize=False
        )
        return self._encode(text.rpartition(placeholder)[0])


def prompted_messages(
    turns: Sequence[Turn], profile: UserProfile, prompt: str = PLAIN
) -> list[dict[str, str]]:
    """Returns the messages that `PromptedUser` sends, recorded from a real call."""
    sent: list[dict[str, str]] = []

    class RecordingChat:
        async def complete(
            self, messages: list[dict[str, str]], *, system: str | None = None, seed: int | None = None
        ) -> str:
            sent.extend([{"role": "system", "content": system or ""}, *messages])
            return STOP

        async def aclose(self) -> None:
            """Does nothing."""

    asyncio.run(_take_turn(PromptedUser(RecordingChat(), prompt=prompt), profile, turns))
    return sent


async def _take_turn(user: PromptedUser, profile: UserProfile, turns: Sequence[Turn]) -> None:
    await user(profile, turns)


def shorten(renderer: Renderer, turn: Turn) -> tuple[str, str]:
    """Returns (head, tail with its mark, or an empty string) of a message as the User LM reads it."""
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


def _without_end_of_turn(ids: Sequence[int], renderer: Renderer) -> list[int]:
    return [i for i in ids if i != renderer.settings.end_of_turn_id]


def _common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))


def load_causal_lm(path: str | Path, dtype: torch.dtype | None) -> Any:
    """Loads a model for scoring on the default device.

    Args:
        path: Folder of the weights.
        dtype: Precision; None: that of the device.

    Raises:
        BackendError: The model cannot be loaded.
    """
    device = default_device()
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or torch_dtype(device))
    except (OSError, ValueError) as error:
        raise BackendError(f"{path}: the model cannot be loaded ({error})") from error
    return model.to(device).eval()
