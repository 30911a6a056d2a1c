"""Conversations into the rows a trainer takes: rendered anew for each epoch, thinned by (seed, epoch, index).

Neither conversations nor rows are held in memory: both lie in files that are mapped or read one at a time.
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
"""Share of the conversations whose profile is put in drawn words; the others have the words of inference."""
COLUMNS = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
Row = dict[str, list[int]]


class Shelf(Sequence[Conversation]):
    """Conversations in an unnamed file, read back one at a time: a million of them as objects take 10 GB."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the shelf
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
class Corpus:
    conversations: Sequence[Conversation]
    with_goal: int
    without_goal_left_out: int


def load_corpus(
    paths: Sequence[str], *, keep_without_goal: float, seed: int, folder: Path | None = None
) -> Corpus:
    """All conversations with a goal and a seeded share of those without one; `folder`: where they are shelved."""
    kept = Shelf(folder)
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
            kept.append(conversation)
    tell_goals(", ".join(paths), len(kept) + left_out, with_goal=with_goal)
    if not kept:
        raise DataError(f"no conversations to train on in {', '.join(paths)}")
    return Corpus(kept, with_goal, left_out)


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
    """`epochs` passes in a row, each shuffled and thinned on its own, so that one sequential pass trains all.

    `openings`: the share of conversations of which only the opening is taken, see `opening`. `borrowed`: by index,
    what stands for the unsaid of a conversation that has none, see `usersim.training.borrowed_facets`.
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
            acts = told_acts(conversation, rng) if renderer.settings.acts and not short else ()
            windows = list(
                renderer.examples(
                    conversation, profile=profile, max_tokens=max_tokens, wording=wording, acts=acts
                )
            )
            yield from map(row, _some(windows, windows_per_conversation, rng))


TOLD_CONVERSATIONS = 0.5
TOLD_TURNS: dict[Act, float] = {"asks": 0.25, "objects": 1.0, "corrects": 1.0, "answers": 1.0, "thanks": 1.0}
"""Chance that acts are told in a conversation, and then of each turn: 38 % of people's later turns ask, 4 % answer, 2 %
object, fewer than 1 % correct or thank, so that the rare ones would hardly be learnt at one rate for all."""


def told_acts(conversation: Conversation, rng: random.Random) -> list[Act | None]:
    """What is told of each user turn: in half of the conversations nothing, in the others few."""
    if rng.random() >= TOLD_CONVERSATIONS:
        return []
    told: list[Act | None] = []
    answer: str | None = None
    for turn in conversation.turns:
        if turn.role == "assistant":
            answer = turn.text
        else:
            act, draw = act_of(turn.text, answer), rng.random()
            told.append(act if act is not None and draw < TOLD_TURNS[act] else None)
    return told


def opening(conversation: Conversation) -> Conversation:
    """Up to the first user turn, with the style of that very turn.

    How somebody writes on average says little of any one message, and a short window costs little: openings are
    where a model learns what the words for style mean. What takes several turns to show is not known of one, and the
    persona's text and the goal's facets are left to whole conversations.
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


def _some(windows: list[Example], most: int | None, rng: random.Random) -> list[Example]:
    """The opening window always, then random ones in order: the opening says most about goal and persona."""
    if most is None or len(windows) <= most:
        return windows
    return [windows[0], *(windows[i] for i in sorted(rng.sample(range(1, len(windows)), most - 1)))]


def row(example: Example) -> Row:
    """Up to the last supervised token: nothing is learnt after it."""
    used = max((i + 1 for i, on in enumerate(example.supervised) if on), default=len(example.ids))
    ids, supervised = example.ids[:used], example.supervised[:used]
    labels = [token if on else IGNORED for token, on in zip(ids, supervised, strict=True)]
    return {"input_ids": ids, "labels": labels}


def without_labels(row: Row) -> Row:
    """Stands in where another process has a row and this one has none left; adds nothing to any sum."""
    return {"input_ids": row["input_ids"][:2], "labels": [IGNORED] * len(row["input_ids"][:2])}


def write_rows(rows: Iterable[Row], file: Path) -> int:
    """An Arrow stream, to be mapped by `Dataset.from_file`; returns how many."""
    left, count = iter(rows), 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, COLUMNS) as stream:
        while some := list(islice(left, 1000)):
            stream.write_batch(pa.RecordBatch.from_pylist(some, schema=COLUMNS))
            count += len(some)
    return count


def even_out(rows: Dataset, multiple: int) -> Dataset:
    """`rows` and as many without labels as make a multiple: else several processes would see some rows twice."""
    missing = -len(rows) % multiple
    if not missing:
        return rows
    blanks = Dataset.from_list([without_labels(rows[0])] * missing, features=rows.features)
    return concatenate_datasets([rows, blanks])


@dataclass(frozen=True)
class Amounts:
    """`tokens[n]` and `supervised[n]`: how many the first n rows hold."""

    tokens: Any
    supervised: Any

    @classmethod
    def of(cls, rows: Dataset) -> Amounts:
        counts = [np.zeros((1, 2), dtype=np.int64)]
        for some in rows.with_format("arrow").iter(1000):
            ends = np.cumsum(some["input_ids"].combine_chunks().value_lengths().to_numpy())
            labels = some["labels"].combine_chunks().flatten().to_numpy()
            supervised = np.add.reduceat(labels != IGNORED, np.concatenate([[0], ends[:-1]]), dtype=np.int64)
            counts.append(np.stack([np.diff(ends, prepend=0), supervised], axis=1))
        tokens, supervised = np.cumsum(np.concatenate(counts), axis=0).T
        return cls(tokens, supervised)

    def after(self, steps: int, *, batch: int) -> tuple[int, int]:
        """(tokens, supervised tokens) trained on in `steps` steps; the last step of a pass may be smaller."""
        rows = len(self.tokens) - 1
        passes, rest = divmod(steps, -(-rows // batch))
        last = min(rest * batch, rows)
        return tuple(int(passes * sums[-1] + sums[last]) for sums in (self.tokens, self.supervised))  # type: ignore[return-value]


def collate(rows: Sequence[Row]) -> dict[str, Any]:
    """One row without padding: position ids restart and nothing attends from one window to another.

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
