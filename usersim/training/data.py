"""Training rows from conversations: rendered per epoch, with condition dropout seeded by (seed, epoch, index).

Neither conversations nor rows are held in memory: both are in files that are mapped or read one at a time.
"""

from __future__ import annotations

import random
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import torch
from datasets import Dataset, concatenate_datasets  # type: ignore[import-untyped]

from usersim.cli import tell_goals
from usersim.errors import DataError
from usersim.rendering.conditioning import drop_conditions
from usersim.rendering.renderer import Example, Renderer
from usersim.storage.records import read_records
from usersim.text.style import measure
from usersim.text.user_acts import Act, act_of
from usersim.types import Conversation, Persona, UserProfile

IGNORED = -100
PARAPHRASED = 0.25
"""Share of the conversations whose profile is paraphrased; the others have the canonical rendering of inference."""
COLUMNS = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
Row = dict[str, list[int]]


class DiskList(Sequence[Conversation]):
    """Conversations on disk in a temporary file, read one at a time: a million as objects take 10 GB."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the list
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])

    def append(self, conversation: Conversation) -> None:
        text = conversation.model_dump_json(exclude_defaults=True).encode()
        self._file.seek(self._ends[-1])
        self._file.write(text)
        self._ends.append(self._ends[-1] + len(text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        start, end = self._ends[range(len(self))[index]], self._ends[range(len(self))[index] + 1]
        self._file.seek(start)
        return Conversation.model_validate_json(self._file.read(end - start))


@dataclass(frozen=True)
class TrainingConversations:
    """Training conversations with counts."""

    conversations: Sequence[Conversation]
    with_goal: int
    without_goal_left_out: int


def load_corpus(
    paths: Sequence[str], *, keep_without_goal: float, seed: int, folder: Path | None = None
) -> TrainingConversations:
    """Loads all conversations with a goal and a seeded share of those without one.

    They are stored in a temporary file in `folder`. Raises DataError for simulated conversations or none at all.
    """
    conversations = DiskList(folder)
    with_goal = left_out = 0
    for path in paths:
        for conversation in read_records(path, Conversation):
            if conversation.origin != "human":
                raise DataError(f"{path}: {conversation.id} is simulated; a User LM learns from people only")
            rng = random.Random(f"{seed}:{conversation.source}:{conversation.id}")
            if conversation.profile.goal is None and rng.random() >= keep_without_goal:
                left_out += 1
                continue
            with_goal += conversation.profile.goal is not None
            conversations.append(conversation)
    tell_goals(", ".join(paths), len(conversations) + left_out, with_goal=with_goal)
    if not conversations:
        raise DataError(f"no conversations to train on in {', '.join(paths)}")
    return TrainingConversations(conversations, with_goal, left_out)


def training_rows(
    conversations: Sequence[Conversation],
    renderer: Renderer,
    *,
    max_tokens: int,
    epochs: int,
    seed: int,
    windows_per_conversation: int | None = None,
    openings: float = 0.0,
    borrowed: Mapping[int, Sequence[str]] | None = None,
) -> Iterator[Row]:
    """Yields the rows of `epochs` passes one after the other, each shuffled and with its own condition dropout.

    Args:
        conversations: Training conversations.
        renderer: Renderer of the base. Its settings decide on acts.
        max_tokens: Window size in tokens.
        epochs: Number of passes. Rows of all passes are yielded.
        seed: Seed of the order and of the dropout.
        windows_per_conversation: Maximum windows per conversation. None: all.
        openings: Share of conversations reduced to their opening, see `opening`.
        borrowed: Unsaid wishes by index of conversations without their own, see `usersim.training.borrowed_facets`.
    """
    for epoch in range(epochs):
        order = list(range(len(conversations)))
        random.Random(f"{seed}:{epoch}").shuffle(order)
        for index in order:
            rng = random.Random(f"{seed}:{epoch}:{index}")
            conversation = conversations[index]
            short = rng.random() < openings
            if short:
                conversation = opening(conversation)
            # An opening has no facets to be counted.
            unsaid = () if short else conversation.unsaid or (borrowed or {}).get(index, ())
            profile = drop_conditions(conversation.profile, rng, unsaid=unsaid)
            wording = rng if rng.random() < PARAPHRASED and not short else None
            acts = sample_acts(conversation, rng) if renderer.settings.acts and not short else ()
            windows = list(
                renderer.examples(
                    conversation, profile=profile, max_tokens=max_tokens, wording=wording, acts=acts
                )
            )
            yield from map(row, _subset(windows, windows_per_conversation, rng))


ACT_CONVERSATIONS = 0.5
ACT_TURNS: dict[Act, float] = {"asks": 0.25, "objects": 1.0, "corrects": 1.0, "answers": 1.0, "thanks": 1.0}
"""Probability that acts are noted in a conversation, and then for a turn by its act.

Of people's later turns 38 % ask, 4 % answer, 2 % object, fewer than 1 % correct or thank. At one rate for all the rare
ones would hardly be learnt.
"""


def sample_acts(conversation: Conversation, rng: random.Random) -> list[Act | None]:
    """Samples the acts noted before user turns: none in half of the conversations, few in the others."""
    if rng.random() >= ACT_CONVERSATIONS:
        return []
    acts: list[Act | None] = []
    answer: str | None = None
    for turn in conversation.turns:
        if turn.role == "assistant":
            answer = turn.text
        else:
            act, draw = act_of(turn.text, answer), rng.random()
            acts.append(act if act is not None and draw < ACT_TURNS[act] else None)
    return acts


def opening(conversation: Conversation) -> Conversation:
    """Cuts a conversation after its first user turn and measures the style on that turn.

    A person's average style says little about any one message, and a short window costs little. So openings teach a
    model the meaning of style phrases. Attributes that need several turns are unknown. The persona's description and
    the goal's facets are left to whole conversations.
    """
    first = next((i for i, turn in enumerate(conversation.turns) if turn.role == "user"), None)
    if first is None:
        return conversation
    turns = conversation.turns[: first + 1]
    unknown = dict.fromkeys(("turns", "pushback", "length_spread"))
    goal = conversation.profile.goal and conversation.profile.goal.model_copy(update={"facets": ()})
    persona = Persona(style=measure(turns).model_copy(update=unknown))
    profile = UserProfile(goal=goal, persona=persona)
    return conversation.model_copy(update={"turns": turns, "profile": profile, "ended_by": "unknown"})


def _subset(windows: list[Example], most: int | None, rng: random.Random) -> list[Example]:
    """Returns the opening window and random later ones in order; the opening says most about goal and persona."""
    if most is None or len(windows) <= most:
        return windows
    return [windows[0], *(windows[i] for i in sorted(rng.sample(range(1, len(windows)), most - 1)))]


def row(example: Example) -> Row:
    """Returns the row of an example, cut after the last supervised token."""
    used = max((i + 1 for i, on in enumerate(example.supervised) if on), default=len(example.ids))
    ids, supervised = example.ids[:used], example.supervised[:used]
    labels = [token if on else IGNORED for token, on in zip(ids, supervised, strict=True)]
    return {"input_ids": ids, "labels": labels}


def without_labels(row: Row) -> Row:
    """Returns a filler row without labels, for a process that has fewer rows than others."""
    return {"input_ids": row["input_ids"][:2], "labels": [IGNORED] * len(row["input_ids"][:2])}


def write_rows(rows: Iterable[Row], file: Path) -> int:
    """Writes rows as an Arrow stream for `Dataset.from_file`. Returns their number."""
    remaining, count = iter(rows), 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, COLUMNS) as stream:
        while chunk := list(islice(remaining, 1000)):
            stream.write_batch(pa.RecordBatch.from_pylist(chunk, schema=COLUMNS))
            count += len(chunk)
    return count


def even_out(rows: Dataset, multiple: int) -> Dataset:
    """Pads `rows` with filler rows to a multiple, so that no process gets a row twice."""
    missing = -len(rows) % multiple
    if not missing:
        return rows
    fillers = Dataset.from_list([without_labels(rows[0])] * missing, features=rows.features)
    return concatenate_datasets([rows, fillers])


@dataclass(frozen=True)
class TokenCounts:
    """Cumulative token counts: `tokens[n]` and `supervised[n]` are those of the first n rows."""

    tokens: Any
    supervised: Any

    @classmethod
    def of(cls, rows: Dataset) -> TokenCounts:
        counts = [np.zeros((1, 2), dtype=np.int64)]
        for chunk in rows.with_format("arrow").iter(1000):
            ends = np.cumsum(chunk["input_ids"].combine_chunks().value_lengths().to_numpy())
            labels = chunk["labels"].combine_chunks().flatten().to_numpy()
            supervised = np.add.reduceat(labels != IGNORED, np.concatenate([[0], ends[:-1]]), dtype=np.int64)
            counts.append(np.stack([np.diff(ends, prepend=0), supervised], axis=1))
        tokens, supervised = np.cumsum(np.concatenate(counts), axis=0).T
        return cls(tokens, supervised)

    def after(self, steps: int, *, batch: int) -> tuple[int, int]:
        """Returns the tokens and supervised tokens of `steps` steps; the last step of a pass may be smaller."""
        rows = len(self.tokens) - 1
        passes, rest = divmod(steps, -(-rows // batch))
        last = min(rest * batch, rows)
        return tuple(int(passes * sums[-1] + sums[last]) for sums in (self.tokens, self.supervised))  # type: ignore[return-value]


def collate(rows: Sequence[Row]) -> dict[str, Any]:
    """Concatenates rows to one without padding: position ids restart, and windows do not attend to each other.

    `usersim.training.packed_attention` reads `windows` (lengths), flash attention `cu_seq_lens` (0 and every
    end, int32).
    """
    lengths = [len(row["input_ids"]) for row in rows]
    bounds = torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32)
    return {
        "input_ids": torch.tensor([[token for row in rows for token in row["input_ids"]]]),
        "labels": torch.tensor([[label for row in rows for label in row["labels"]]]),
        "position_ids": torch.tensor([[i for row in rows for i in range(len(row["input_ids"]))]]),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "windows": lengths,  # integers: reading `cu_seq_lens` back from a GPU in every layer would stall it
    }
