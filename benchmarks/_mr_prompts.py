"""Prompts of both engines in a rollout, rebuilt from its futures, and the lower bound of prefilled tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collab_train.contexts import Context
from collab_train.rollout.accounting.prefill_bound import PrefixCache
from collab_train.rollout.accounting.results import Future
from usersim.rendering.renderer import Renderer
from usersim.types import Turn


@dataclass
class EnginePrompt:
    """Token ids of a prompt, and of each continuation with the token that ended it."""

    prompt: list[int]
    continuations: list[list[int]]


@dataclass
class RolloutPrompts:
    """Prompts of both engines, in a possible order of requests."""

    user: list[EnginePrompt] = field(default_factory=list)
    assistant: list[EnginePrompt] = field(default_factory=list)


class Prompts:
    def __init__(self, user_model: Path, assistant_model: Path) -> None:
        from transformers import AutoTokenizer

        self.renderer = Renderer.from_pretrained(user_model)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(assistant_model)

    def of_futures(self, contexts: Sequence[Context], futures: Sequence[Future]) -> RolloutPrompts:
        """Returns the prompts of both engines that led to these futures."""
        prompts, by_id, first = (
            RolloutPrompts(),
            {c.id: c for c in contexts},
            dict[tuple[str, int], EnginePrompt](),
        )
        for future in sorted(futures, key=lambda f: (f.context, f.candidate, f.index)):
            context, candidate_key = by_id[future.context], (future.context, future.candidate)
            opening, *later = self._user(context, future)
            first.setdefault(candidate_key, EnginePrompt(opening.prompt, [])).continuations.extend(
                opening.continuations
            )
            prompts.user += later
            prompts.assistant += self._assistant(context, future)
        prompts.user = [*first.values(), *prompts.user]
        return prompts

    def _user(self, context: Context, future: Future) -> Iterator[EnginePrompt]:
        assert future.conversation is not None
        turns, settings = future.conversation.turns, self.renderer.settings
        for index in range(len(context.turns) + 1, len(turns), 2):
            words = [*self.renderer.encode(turns[index].text.strip()), settings.end_of_turn_id]
            yield EnginePrompt(self.renderer.prompt(context.profile, turns[:index]), [words])
        if future.conversation.ended_by == "user":
            yield EnginePrompt(
                self.renderer.prompt(context.profile, turns), [[settings.end_of_conversation_id]]
            )

    def _assistant(self, context: Context, future: Future) -> Iterator[EnginePrompt]:
        assert future.conversation is not None
        turns = future.conversation.turns
        for index in range(len(context.turns) + 2, len(turns), 2):
            prompt = self._chat(context, turns[:index], reply=True)
            whole = self._chat(context, turns[: index + 1], reply=False)
            end = len(whole) - whole[::-1].index(self.tokenizer.eos_token_id)
            yield EnginePrompt(prompt, [whole[len(prompt) : end]])

    def _chat(self, context: Context, turns: Sequence[Turn], *, reply: bool) -> list[int]:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        if context.system:
            messages = [{"role": "system", "content": context.system}, *messages]
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=reply, tokenize=True, return_dict=False
        )
        return ids


def prefill_bounds(warm_prompts: RolloutPrompts, prompts: RolloutPrompts, *, block: int) -> dict[str, int]:
    """Returns the tokens that each engine must prefill for `prompts`, with the blocks of `warm_prompts` cached."""
    bounds = {}
    for side in ("user", "assistant"):
        cache, total = PrefixCache(block), 0
        for is_counted, requests in ((False, getattr(warm_prompts, side)), (True, getattr(prompts, side))):
            for request in requests:
                total += is_counted * cache.read(request.prompt, n=len(request.continuations))
                for continuation in request.continuations:
                    cache.wrote(request.prompt, continuation)
        bounds[side] = total
    return bounds
