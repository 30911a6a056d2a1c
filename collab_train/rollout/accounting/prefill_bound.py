"""The fewest prompt tokens that an engine with a prefix cache can compute for multiturn-aware rewards.

By sizes (`prefill_floor`), to plan with; by the token ids that were really asked for (`PrefixCache`), to judge a run.
Both assume one engine a side, a cache that never evicts and keeps the KV of generated tokens, and append-only prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Tokens, means over a run."""

    policy_history: int
    """H: the history with the system prompt, as the assistant reads it."""
    user_history: int
    """F + G + H': template, goal and history, as the user model reads them."""
    candidate: int
    """a0"""
    user: int
    """u: a turn of the user."""
    assistant: int
    """a: a reply within the window."""
    glue: int = 0
    """τ: headers and ends of turns that an exchange adds to a prompt."""


@dataclass(frozen=True)
class Floor:
    policy: int
    user: int


def prefill_floor(
    sizes: Sizes,
    *,
    candidates: int,
    futures: int,
    window: int,
    block: int | None = None,
    sampled: bool = True,
) -> Floor:
    """Tokens to prefill for one context with C candidates of n futures of w exchanges.

        policy = H + C·n·w·(u + τ)                             (+ C·a0 where candidates are given, not sampled)
        user   = (F + G + H') + C·(a0 + τ) + C·n·(w - 1)·(a + τ)

    The first user turns of a candidate are one request for n. With blocks of b tokens only whole ones are shared
    and the last token of a prompt is always computed: a prompt of P tokens, K of which are known, costs
    P - b·⌊min(K, P - 1) / b⌋, for every continuation of a request for several; the last sampled token of a reply
    is not known yet when the next prompt comes. `block=None` shares token by token, which is the formula above.
    """
    user = _user(sizes, candidates, futures, window, block) if window else 0
    return Floor(_policy(sizes, candidates, futures, window, block, sampled), user)


def computed(prompt: int, known: int, block: int | None) -> int:
    """Tokens of a prompt to compute when its first `known` are in the cache."""
    return prompt - (known if block is None else block * (min(known, prompt - 1) // block))


def _policy(z: Sizes, candidates: int, futures: int, window: int, block: int | None, sampled: bool) -> int:
    unsaid, whole = int(block is not None), z.policy_history + z.candidate
    if sampled:
        total = z.policy_history + (candidates - 1) * computed(z.policy_history, z.policy_history, block)
        known = [whole - unsaid] * candidates * futures
    else:
        total = 0
        known = [
            whole if j else z.policy_history if c else 0 for c in range(candidates) for j in range(futures)
        ]
    step = z.user + z.glue
    for start in known if window else []:
        prompt = whole + step
        total += computed(prompt, start, block)
        for _ in range(1, window):
            before, prompt = prompt + z.assistant - unsaid, prompt + z.assistant + step
            total += computed(prompt, before, block)
    return total


def _user(z: Sizes, candidates: int, futures: int, window: int, block: int | None) -> int:
    unsaid, first = int(block is not None), z.user_history + z.candidate + z.glue
    total = 0
    for candidate in range(candidates):
        total += computed(first, z.user_history if candidate else 0, block)
        total += (futures - 1) * computed(first, first, block)
        for turn in range(1, window):
            before = first + (turn - 1) * (z.user + z.assistant + z.glue) + z.user - unsaid
            prompt = before + unsaid + z.assistant + z.glue
            total += futures * computed(prompt, before, block)
    return total


class PrefixCache:
    """An engine's prefix cache without limits: every whole block that it has seen, behind the same beginning."""

    def __init__(self, block: int = 16) -> None:
        self.block = block
        self._known = set[int]()

    def read(self, prompt_ids: Sequence[int], *, n: int = 1) -> int:
        """Tokens to compute for `n` continuations of a prompt, which is known from then on."""
        blocks = self._blocks(prompt_ids)
        usable = (len(prompt_ids) - 1) // self.block
        hits = next((i for i, key in enumerate(blocks[:usable]) if key not in self._known), usable)
        self._known.update(blocks)
        return len(prompt_ids) - hits * self.block + (n - 1) * (len(prompt_ids) - usable * self.block)

    def wrote(self, prompt_ids: Sequence[int], said_ids: Sequence[int]) -> None:
        """What was generated is known, but for its last token, which was sampled and never computed."""
        self._known.update(self._blocks([*prompt_ids, *said_ids[:-1]]))

    def _blocks(self, ids: Sequence[int]) -> list[int]:
        keys, key = list[int](), 0
        for start in range(0, len(ids) - self.block + 1, self.block):
            key = hash((key, *ids[start : start + self.block]))
            keys.append(key)
        return keys
