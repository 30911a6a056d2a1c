"""What both engines were asked in a rollout, from its futures: the prompts, and the floor for prefilling them."""

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
class Request:
    """Token ids: a prompt, and each of its continuations with the token that ended it."""

    prompt: list[int]
    said: list[list[int]]


@dataclass
class Asked:
    """In an order in which they can have been asked."""

    user: list[Request] = field(default_factory=list)
    assistant: list[Request] = field(default_factory=list)


class Prompts:
    def __init__(self, user_model: Path, assistant_model: Path) -> None:
        from transformers import AutoTokenizer

        self.renderer = Renderer.from_pretrained(user_model)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(assistant_model)

    def asked(self, contexts: Sequence[Context], futures: Sequence[Future]) -> Asked:
        asked, by_id, first = Asked(), {c.id: c for c in contexts}, dict[tuple[str, int], Request]()
        for future in sorted(futures, key=lambda f: (f.context, f.candidate, f.index)):
            context, place = by_id[future.context], (future.context, future.candidate)
            opening, *later = self._user(context, future)
            first.setdefault(place, Request(opening.prompt, [])).said.extend(opening.said)
            asked.user += later
            asked.assistant += self._assistant(context, future)
        asked.user = [*first.values(), *asked.user]
        return asked

    def _user(self, context: Context, future: Future) -> Iterator[Request]:
        assert future.conversation is not None
        turns, settings = future.conversation.turns, self.renderer.settings
        for at in range(len(context.turns) + 1, len(turns), 2):
            words = [*self.renderer.encode(turns[at].text.strip()), settings.end_of_turn_id]
            yield Request(self.renderer.prompt(context.profile, turns[:at]), [words])
        if future.conversation.ended_by == "user":
            yield Request(self.renderer.prompt(context.profile, turns), [[settings.end_of_conversation_id]])

    def _assistant(self, context: Context, future: Future) -> Iterator[Request]:
        assert future.conversation is not None
        turns = future.conversation.turns
        for at in range(len(context.turns) + 2, len(turns), 2):
            prompt = self._chat(context, turns[:at], reply=True)
            whole = self._chat(context, turns[: at + 1], reply=False)
            end = len(whole) - whole[::-1].index(self.tokenizer.eos_token_id)
            yield Request(prompt, [whole[len(prompt) : end]])

    def _chat(self, context: Context, turns: Sequence[Turn], *, reply: bool) -> list[int]:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        if context.system:
            messages = [{"role": "system", "content": context.system}, *messages]
        ids: list[int] = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=reply, tokenize=True, return_dict=False
        )
        return ids


def floors(warm: Asked, asked: Asked, *, block: int) -> dict[str, int]:
    """Tokens that each engine must prefill for `asked`, when `warm` was asked before."""
    found = {}
    for side in ("user", "assistant"):
        cache, total = PrefixCache(block), 0
        for counts, requests in ((False, getattr(warm, side)), (True, getattr(asked, side))):
            for request in requests:
                total += counts * cache.read(request.prompt, n=len(request.said))
                for said in request.said:
                    cache.wrote(request.prompt, said)
        found[side] = total
    return found
