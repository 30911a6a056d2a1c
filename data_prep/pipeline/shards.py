"""The waiting room of a run: what the first pass has finished, kept so that an interrupted run goes on.

OUT/.prep/settings.json       what the shards were made with
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

from data_prep.cleaning.clean_batch import Cleaned, Step
from data_prep.dedup.signatures import Signatures
from data_prep.raw_chats import writable
from usersim.errors import ConfigError
from usersim.storage.records import atomic_writer, write_json

NAME = ".prep"
FORMAT = 2
"""Raise it when cleaning changes what it makes of the same chats."""


@dataclass(frozen=True)
class Shard:
    path: Path
    """Of the lines; its neighbours have the other suffixes."""
    read: list[int]
    """Chats read for it, in each batch."""
    sources: list[int]
    """The source of each batch."""
    kept: list[int]
    """Lines of each batch."""
    steps: list[dict[str, Step]]
    """Of each batch."""

    def lines(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8") as stream:
            yield from stream

    def signatures(self) -> Signatures:
        return Signatures.load(self.path.with_suffix(".npz"))

    def source_of_lines(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.repeat(np.asarray(self.sources, dtype=np.int64), self.kept)


class Shards:
    """Those in `out`, made with the same `cleaning`; others are thrown away."""

    def __init__(self, out: Path, cleaning: dict[str, Any]) -> None:
        self.path = out / NAME
        self._describe(writable({"format": FORMAT, **cleaning}))
        self.done: list[Shard] = []
        while (found := self._read(len(self.done))) is not None:
            self.done.append(found)

    def add(self, results: list[Cleaned]) -> Shard:
        stem = self.path / f"{len(self.done):06d}"
        with atomic_writer(stem.with_suffix(".jsonl")) as stream:
            stream.writelines(line + "\n" for result in results for line in result.lines)
        Signatures.concat([result.signatures for result in results]).save(stem.with_suffix(".npz"))
        shard = Shard(
            path=stem.with_suffix(".jsonl"),
            read=[result.read for result in results],
            sources=[result.source for result in results],
            kept=[len(result.lines) for result in results],
            steps=[result.steps for result in results],
        )
        write_json(stem.with_suffix(".json"), _to_json(shard))
        self.done.append(shard)
        return shard

    def remove(self) -> None:
        shutil.rmtree(self.path)

    def _describe(self, made_with: dict[str, Any]) -> None:
        note = self.path / "settings.json"
        try:
            is_same = json.loads(note.read_bytes()) == made_with
        except (FileNotFoundError, ValueError):
            is_same = False
        if not is_same:
            shutil.rmtree(self.path, ignore_errors=True)
            write_json(note, made_with)

    def _read(self, number: int) -> Shard | None:
        stem = self.path / f"{number:06d}"
        counts = stem.with_suffix(".json")
        try:
            return _from_json(counts, stem.with_suffix(".jsonl"))
        except (FileNotFoundError, ValueError):
            return None


def _to_json(shard: Shard) -> dict[str, Any]:
    steps = [
        {name: {"entered": s.entered, "rejected": s.rejected, "found": s.found} for name, s in batch.items()}
        for batch in shard.steps
    ]
    return {"read": shard.read, "sources": shard.sources, "kept": shard.kept, "steps": steps}


def _from_json(counts: Path, path: Path) -> Shard:
    value = json.loads(counts.read_text(encoding="utf-8"))
    steps = [
        {n: Step(s["entered"], Counter(s["rejected"]), Counter(s["found"])) for n, s in batch.items()}
        for batch in value.pop("steps")
    ]
    return Shard(path=path, steps=steps, **value)


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Two runs into one directory would take each other's shards for their own."""
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
