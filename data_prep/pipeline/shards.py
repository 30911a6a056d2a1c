"""Shards of finished batches, saved by the first pass so that an interrupted run can resume.

OUT/.prep/settings.json       settings of the run that wrote the shards
OUT/.prep/000000.jsonl        conversations, one a line
OUT/.prep/000000.npz          their signatures
OUT/.prep/000000.json         counts; written last, so a shard without it was not finished
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.cleaning.clean_batch import CleanedBatch, StageCounts
from data_prep.dedup.signatures import Signatures
from data_prep.raw_chats import writable
from usersim.errors import ConfigError
from usersim.storage.records import atomic_writer, write_json

NAME = ".prep"
FORMAT = 2
"""Version of the cleaning; raise it when the same chats are cleaned differently."""


@dataclass(frozen=True)
class ChatShard:
    path: Path
    """File of conversations; the other files of the shard differ in suffix."""
    read: list[int]
    """Chats read, by batch."""
    sources: list[int]
    """Source index, by batch."""
    line_counts: list[int]
    """Conversations kept, by batch."""
    steps: list[dict[str, StageCounts]]
    """Stage counts, by batch."""

    def lines(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8") as stream:
            yield from stream

    def signatures(self) -> Signatures:
        return Signatures.load(self.path.with_suffix(".npz"))

    def source_of_lines(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.repeat(np.asarray(self.sources, dtype=np.int64), self.line_counts)


class ShardStore:
    """Shards in an output folder. Shards written with other settings are deleted."""

    def __init__(self, out: Path, cleaning: dict[str, Any]) -> None:
        self.path = out / NAME
        self._describe(writable({"format": FORMAT, **cleaning}))
        self.done: list[ChatShard] = []
        while (shard := self._read(len(self.done))) is not None:
            self.done.append(shard)

    def add(self, results: list[CleanedBatch]) -> ChatShard:
        stem = self.path / f"{len(self.done):06d}"
        with atomic_writer(stem.with_suffix(".jsonl")) as stream:
            stream.writelines(line + "\n" for result in results for line in result.lines)
        Signatures.concat([result.signatures for result in results]).save(stem.with_suffix(".npz"))
        shard = ChatShard(
            path=stem.with_suffix(".jsonl"),
            read=[result.read for result in results],
            sources=[result.source for result in results],
            line_counts=[len(result.lines) for result in results],
            steps=[result.steps for result in results],
        )
        write_json(stem.with_suffix(".json"), _to_json(shard))
        self.done.append(shard)
        return shard

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def _describe(self, settings: dict[str, Any]) -> None:
        file = self.path / "settings.json"
        try:
            is_same = json.loads(file.read_bytes()) == settings
        except (FileNotFoundError, ValueError):
            is_same = False
        if not is_same:
            shutil.rmtree(self.path, ignore_errors=True)
            write_json(file, settings)

    def _read(self, number: int) -> ChatShard | None:
        stem = self.path / f"{number:06d}"
        counts = stem.with_suffix(".json")
        try:
            return _from_json(counts, stem.with_suffix(".jsonl"))
        except (FileNotFoundError, ValueError):
            return None


def _to_json(shard: ChatShard) -> dict[str, Any]:
    steps = [
        {
            name: {"entered": s.entered, "rejected": s.rejected, "found": s.changed}
            for name, s in batch.items()
        }
        for batch in shard.steps
    ]
    return {"read": shard.read, "sources": shard.sources, "kept": shard.line_counts, "steps": steps}


def _from_json(counts: Path, path: Path) -> ChatShard:
    value = json.loads(counts.read_text(encoding="utf-8"))
    steps = [
        {n: StageCounts(s["entered"], Counter(s["rejected"]), Counter(s["found"])) for n, s in batch.items()}
        for batch in value.pop("steps")
    ]
    return ChatShard(path=path, steps=steps, line_counts=value.pop("kept"), **value)


@contextmanager
def lock_output(out: Path) -> Iterator[None]:
    """Context manager that locks an output folder, so that two runs never share shards."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".prep.lock").open("w")
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written to ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{out}: another `usersim prep` is writing there") from error
        yield
        (out / ".prep.lock").unlink(missing_ok=True)
