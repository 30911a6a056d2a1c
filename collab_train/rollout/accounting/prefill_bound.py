"""Lower bound of the prompt tokens that an engine with a prefix cache must compute for multiturn-aware rewards.

`prefill_bound` computes it from sizes, for planning. `PrefixCache` computes it from the token ids of requests, to judge
a run. Both assume one engine per side, append-only prompts, and a cache that never evicts and that keeps the KV of
generated tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Mean sizes over a run, in tokens."""

    policy_history: int
    """H: history with system prompt, in the prompt of the assistant."""
    user_history: int
    """F + G + H': template, goal and history, in the prompt of the user model."""
    candidate: int
    """a0: a candidate reply."""
    user: int
    """u: a user turn."""
    assistant: int
    """a: a reply within the window."""
    glue: int = 0
    """τ: turn headers and ends that an exchange adds to a prompt."""


@dataclass(frozen=True)
class PrefillBound:
    policy: int
    user: int


def prefill_bound(
    sizes: Sizes,
    *,
    candidates: int,
    futures: int,
    window: int,
    block: int | None = None,
    sampled: bool = True,
) -> PrefillBound:
    """Tokens to prefill for one context with C candidates of n futures of w exchanges.

        policy = H + C·n·w·(u + τ)                             (+ C·a0 where candidates are given, not sampled)
        user   = (F + G + H') + C·(a0 + τ) + C·n·(w - 1)·(a + τ)

    The first user turns of a candidate are one request for n.

    With blocks of b tokens, only whole blocks are shared, and the last token of a prompt is always computed. A prompt
    of P tokens, K of them cached, then costs P - b·⌊min(K, P - 1) / b⌋ for each continuation of a request. The last
    sampled token of a reply is not cached when the next prompt comes. `block=None` shares single tokens, as in the
    formula above.
    """
    user_tokens = _user(sizes, candidates, futures, window, block) if window else 0
    return PrefillBound(_policy(sizes, candidates, futures, window, block, sampled), user_tokens)


def computed(prompt: int, cached: int, block: int | None) -> int:
    """Returns the tokens of a prompt to compute when its first `cached` tokens are in the cache."""
    return prompt - (cached if block is None else block * (min(cached, prompt - 1) // block))


def _policy(
    sizes: Sizes, candidates: int, futures: int, window: int, block: int | None, sampled: bool
) -> int:
    uncached, start_length = int(block is not None), sizes.policy_history + sizes.candidate
    if sampled:
        total = sizes.policy_history + (candidates - 1) * computed(
            sizes.policy_history, sizes.policy_history, block
        )
        cached = [start_length - uncached] * candidates * futures
    else:
        total = 0
        cached = [
            start_length if j else sizes.policy_history if c else 0
            for c in range(candidates)
            for j in range(futures)
        ]
    step = sizes.user + sizes.glue
    for start in cached if window else []:
        prompt = start_length + step
        total += computed(prompt, start, block)
        for _ in range(1, window):
            before, prompt = prompt + sizes.assistant - uncached, prompt + sizes.assistant + step
            total += computed(prompt, before, block)
    return total


def _user(sizes: Sizes, candidates: int, futures: int, window: int, block: int | None) -> int:
    uncached, first = int(block is not None), sizes.user_history + sizes.candidate + sizes.glue
    total = 0
    for candidate in range(candidates):
        total += computed(first, sizes.user_history if candidate else 0, block)
        total += (futures - 1) * computed(first, first, block)
        for turn in range(1, window):
            before = first + (turn - 1) * (sizes.user + sizes.assistant + sizes.glue) + sizes.user - uncached
            prompt = before + uncached + sizes.assistant + sizes.glue
            total += futures * computed(prompt, before, block)
    return total


class PrefixCache:
    """Model of an unlimited prefix cache: all whole blocks so far, keyed by block and prefix."""

    def __init__(self, block: int = 16) -> None:
        self.block = block
        self._block_keys = set[int]()

    def read(self, prompt_ids: Sequence[int], *, n: int = 1) -> int:
        """Returns the tokens to compute for `n` continuations of a prompt, and caches the prompt."""
        blocks = self._blocks(prompt_ids)
        usable = (len(prompt_ids) - 1) // self.block
        hits = next((i for i, key in enumerate(blocks[:usable]) if key not in self._block_keys), usable)
        self._block_keys.update(blocks)
        return len(prompt_ids) - hits * self.block + (n - 1) * (len(prompt_ids) - usable * self.block)

    def wrote(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> None:
        """Caches generated tokens, except the last, whose KV was never computed."""
        self._block_keys.update(self._blocks([*prompt_ids, *completion_ids[:-1]]))

    def _blocks(self, ids: Sequence[int]) -> list[int]:
        keys, key = list[int](), 0
        for start in range(0, len(ids) - self.block + 1, self.block):
            key = hash((key, *ids[start : start + self.block]))
            keys.append(key)
        return keys
