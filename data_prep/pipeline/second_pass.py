"""Second pass: duplicates, groups and splits over all shards, goals joined, files written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_prep.datasheet.page import render_datasheet
from data_prep.datasheet.profile import Profile, across
from data_prep.dedup.duplicates import Verdict, judge
from data_prep.dedup.signatures import hash64
from data_prep.frozen import frozen_ids
from data_prep.personas.goal_leak import mask_personas
from data_prep.pipeline.counts import changed, step_rows, verdict_rows, versions, warnings
from data_prep.pipeline.run_context import Run
from data_prep.pipeline.shards import Shard
from data_prep.pipeline.splits import SPLITS, assign, lengths
from data_prep.raw_chats import writable
from data_prep.settings import Settings
from data_prep.sources import resolve
from data_prep.sources.licences import LICENCES
from usersim.errors import DataError
from usersim.storage.records import atomic_writer, write_json
from usersim.types import Conversation

EXAMPLES = 12
"""Example conversations of each split on the page."""
LEFT_OUT = -1
"""In place of a split: a duplicate, or too close to a held-out conversation."""

Codes = np.ndarray[Any, np.dtype[np.int8]]


def finish(run: Run, shards: Sequence[Shard], *, started: float, text: bool) -> dict[str, Any]:
    settings = run.settings
    own = [shard for shard in shards if shard.sources[0] < len(settings.sources)]
    held_out = [shard for shard in shards if shard.sources[0] >= len(settings.sources)]
    run.notice("comparing", 0)
    chats = columns(settings, own)
    verdict = judge(
        [shard.signatures for shard in own],
        held_out=[shard.signatures for shard in held_out],
        template_count=settings.duplicates.template_count,
        near_duplicate=settings.duplicates.near_duplicate,
        first=chats.frozen,
    )
    placed = place(settings, chats, verdict)
    personas = _personas(run)
    profiles = {name: Profile(seed=settings.seed, examples=EXAMPLES) for name in SPLITS}
    with ExitStack() as files:
        _write(run, own, verdict, placed, profiles, files)
        counts = {
            "sources": [source.report.summary() for source in run.sources[: len(settings.sources)]],
            "held_out": [source.report.summary() for source in run.sources[len(settings.sources) :]],
            "steps": [*step_rows(own), *verdict_rows(verdict, placed)],
            **changed(own),
            "duplicates": verdict.stats,
            "goals": run.goals.summary(),
            "personas": personas,
            "splits": {name: profile.summary() for name, profile in profiles.items()},
            "split_lengths": lengths(placed[placed != LEFT_OUT], chats.turns[placed != LEFT_OUT]),
            "source_notes": {
                opened.report.name: LICENCES[kind]
                for asked, opened in zip(settings.sources, run.sources, strict=False)
                if (kind := resolve(asked.spec)[0]) in LICENCES
            },
            "across_splits": across(profiles),
            "seed": settings.seed,
            "settings": settings.model_dump(mode="json"),
            "versions": versions(),
            "resumed_chats": run.resumed,
            "seconds": round(time.monotonic() - started, 1),
        }
        sheet: dict[str, Any] = writable(counts | {"warnings": warnings(counts)})
        examples = {name: profile.examples for name, profile in profiles.items()}
        write_datasheet(settings.out, sheet, examples, text=text)
    return sheet


@dataclass(frozen=True)
class Columns:
    """Of every line, in order."""

    source: np.ndarray[Any, np.dtype[np.int64]]
    turns: np.ndarray[Any, np.dtype[np.int64]]
    frozen: np.ndarray[Any, np.dtype[np.bool_]]
    """On the frozen test list of its source."""


def columns(settings: Settings, own: Sequence[Shard]) -> Columns:
    source = np.concatenate([shard.source_of_lines() for shard in own] or [np.zeros(0, np.int64)])
    turns, ids = np.zeros(len(source), np.int64), np.zeros(len(source), np.uint64)
    done = 0
    for shard in own:
        table = shard.signatures().table
        rows = slice(done, done + len(table))
        turns[rows], ids[rows], done = table["turns"], table["id"], rows.stop
    frozen = np.zeros(len(source), dtype=bool)
    for index in range(len(settings.sources)):
        frozen[source == index] = _frozen(settings, index, ids[source == index])
    return Columns(source, turns, frozen)


def place(settings: Settings, chats: Columns, verdict: Verdict) -> Codes:
    """Index into SPLITS for each line, LEFT_OUT for duplicates and for what a held-out source forbids."""
    kept = verdict.reason == 0
    placed = np.full(len(kept), LEFT_OUT, dtype=np.int8)
    placed[kept] = assign(
        groups=verdict.group[kept],
        turns=chats.turns[kept],
        source=chats.source[kept],
        fractions=settings.fractions(),
        frozen=chats.frozen[kept],
        has_frozen=[bool(chats.frozen[chats.source == i].any()) for i in range(len(settings.sources))],
        seed=settings.seed,
    )
    placed[kept & verdict.held_out & (placed != SPLITS.index("test"))] = LEFT_OUT
    return placed


PACKAGED = {"sharegpt": "sharegpt", "arena": "chatbot_arena"}
"""Frozen lists that hold by themselves, by kind of source, unless other fractions are asked for."""


def _frozen(settings: Settings, index: int, ids: np.ndarray[Any, np.dtype[np.uint64]]) -> Any:
    """Which of the chats of a source are on its frozen list. One that was asked for must match some."""
    source = settings.sources[index]
    asked = source.frozen_test
    chosen = "split_fractions" in source.model_fields_set | settings.model_fields_set
    name = asked or (None if chosen else PACKAGED.get(resolve(source.spec)[0]))
    if name is None:
        return np.zeros(len(ids), dtype=bool)
    wanted = frozen_ids(name)
    hashes = np.fromiter((hash64(id_) for id_ in wanted), dtype=np.uint64, count=len(wanted))
    found = np.isin(ids, hashes)
    if asked and not found.any():
        raise DataError(f"{asked}: none of its {len(wanted)} ids is in {source.spec}")
    return found


def _personas(run: Run) -> dict[str, Any] | None:
    """What is done to free-text personas, and how much of the goal they gave away before and after."""
    written = {id_: (persona, goal) for id_, persona, goal in run.goals.personas_seen()}
    if not written or run.settings.personas == "raw":
        return None
    if run.settings.personas == "none":
        run.goals.replace_personas(dict.fromkeys(written, ""))
        return {"left_out": len(written)}
    raw = {id_: text for id_, text in written.items() if id_ not in run.goals.masked}
    before = {"masked_before": len(written) - len(raw)} if len(raw) < len(written) else {}
    if not raw:
        return before
    run.notice("masking personas", 0)
    masked = mask_personas(raw, seed=run.settings.seed)
    run.goals.replace_personas(masked.personas)
    return masked.model_dump(mode="json", exclude={"personas"}) | before


def _write(
    run: Run,
    own: Sequence[Shard],
    verdict: Verdict,
    placed: Codes,
    profiles: dict[str, Profile],
    files: ExitStack,
) -> None:
    """Second pass. A split that stays empty leaves no file."""
    out, writers = run.settings.out, dict[str, IO[Any]]()
    lines = (line for shard in own for line in shard.lines())
    for number, line in enumerate(lines):
        if placed[number] == LEFT_OUT:
            continue
        name = SPLITS[placed[number]]
        if name not in writers:
            writers[name] = files.enter_context(atomic_writer(out / f"{name}.jsonl"))
        conversation = run.goals.join(Conversation.model_validate_json(line))
        conversation = conversation.model_copy(update={"group": f"{verdict.group[number]:016x}"})
        writers[name].write(conversation.model_dump_json(exclude_defaults=True) + "\n")
        profiles[name].add(conversation)
        if number % 1000 == 0:
            run.notice("writing", number)
    if not writers:
        specs = ", ".join(source.spec for source in run.settings.sources)
        raise DataError(f"{specs}: no conversation was left after cleaning")
    for name in SPLITS:
        if name not in writers:
            # One of an earlier run would otherwise pass for this one's.
            (out / f"{name}.jsonl").unlink(missing_ok=True)


def write_datasheet(
    out: Path, sheet: dict[str, Any], examples: dict[str, list[Conversation]], *, text: bool
) -> None:
    with atomic_writer(out / "datasheet.html") as stream:
        stream.write(render_datasheet(sheet, examples, text=text))
    write_json(out / "datasheet.json", sheet)
