"""Conversations into the rows a trainer takes: rendered anew for each epoch, thinned by (seed, epoch, index)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from usersim.conditioning import thin
from usersim.errors import DataError
from usersim.records import read_conversations
from usersim.render import Example, Renderer
from usersim.types import Conversation

IGNORED = -100
PARAPHRASED = 0.5
"""Share of the conversations whose profile is put in drawn words; the others have the words of inference."""


@dataclass(frozen=True)
class Corpus:
    conversations: list[Conversation]
    without_goal_left_out: int


def load_corpus(paths: Sequence[str], *, keep_without_goal: float, seed: int) -> Corpus:
    """All conversations with a goal and a seeded share of those without one."""
    kept: list[Conversation] = []
    left_out = 0
    for path in paths:
        for conversation in read_conversations(path):
            if conversation.origin != "human":
                raise DataError(f"{path}: {conversation.id} is simulated; a User LM learns from people only")
            rng = random.Random(f"{seed}:{conversation.source}:{conversation.id}")
            if conversation.profile.goal is None and rng.random() >= keep_without_goal:
                left_out += 1
                continue
            kept.append(conversation)
    if not kept:
        raise DataError(f"no conversations to train on in {', '.join(paths)}")
    return Corpus(kept, left_out)


def training_rows(
    conversations: Sequence[Conversation],
    renderer: Renderer,
    *,
    max_tokens: int,
    epochs: int,
    seed: int,
    windows_per_conversation: int | None = None,
) -> Iterator[dict[str, list[int]]]:
    """`epochs` passes in a row, each shuffled and thinned on its own, so that one sequential pass trains all."""
    for epoch in range(epochs):
        order = list(range(len(conversations)))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        for index in order:
            rng = random.Random(f"{seed}:{epoch}:{index}")
            conversation = conversations[index]
            profile = thin(conversation.profile, rng)
            wording = rng if rng.random() < PARAPHRASED else None
            windows = list(
                renderer.examples(conversation, profile=profile, max_tokens=max_tokens, wording=wording)
            )
            yield from map(row, _some(windows, windows_per_conversation, rng))


def _some(windows: list[Example], most: int | None, rng: random.Random) -> list[Example]:
    """The opening window always, then random ones in order: the opening says most about goal and persona."""
    if most is None or len(windows) <= most:
        return windows
    return [windows[0], *(windows[i] for i in sorted(rng.sample(range(1, len(windows)), most - 1)))]


def row(example: Example) -> dict[str, list[int]]:
    labels = [token if on else IGNORED for token, on in zip(example.ids, example.supervised, strict=True)]
    return {"input_ids": example.ids, "labels": labels}


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """One row without padding: position ids restart and `cu_seq_lens` (0 and every end, int32) part the windows.

    `usersim.packed` and flash attention read them, so that no window attends to another.
    """
    ends = list(accumulate((len(row["input_ids"]) for row in rows), initial=0))
    bounds = torch.tensor(ends, dtype=torch.int32)
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "labels": torch.tensor([[label for row in rows for label in row["labels"]]]),
        "position_ids": torch.tensor([[i for row in rows for i in range(len(row["input_ids"]))]]),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(len(row["input_ids"]) for row in rows),
        "max_length_k": max(len(row["input_ids"]) for row in rows),
    }
