"""Second pass: finds duplicates, groups and splits over all shards, joins goals and writes the files."""

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
from data_prep.dedup.duplicates import DuplicateVerdict, judge
from data_prep.dedup.signatures import hash64
from data_prep.frozen import frozen_ids
from data_prep.personas.goal_leak import mask_personas
from data_prep.pipeline.counts import changed, step_rows, verdict_rows, versions, warnings
from data_prep.pipeline.run_context import PrepRun
from data_prep.pipeline.shards import ChatShard
from data_prep.pipeline.splits import SPLITS, assign, lengths
from data_prep.raw_chats import writable
from data_prep.settings import PrepSettings
from data_prep.sources import resolve
from data_prep.sources.licences import LICENCES
from usersim.errors import DataError
from usersim.storage.records import atomic_writer, write_json
from usersim.types import Conversation

EXAMPLES = 12
"""Example conversations per split on the page."""
LEFT_OUT = -1
"""Code for no split: a duplicate, or too close to a held-out conversation."""

Codes = np.ndarray[Any, np.dtype[np.int8]]


def finish(run: PrepRun, shards: Sequence[ChatShard], *, started: float, text: bool) -> dict[str, Any]:
    """Runs the second pass and returns the datasheet; `started` is the monotonic start time of the run."""
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
    codes = assign_splits(settings, chats, verdict)
    personas = _personas(run)
    profiles = {name: Profile(seed=settings.seed, examples=EXAMPLES) for name in SPLITS}
    with ExitStack() as files:
        _write(run, own, verdict, codes, profiles, files)
        counts = {
            "sources": [source.report.summary() for source in run.sources[: len(settings.sources)]],
            "held_out": [source.report.summary() for source in run.sources[len(settings.sources) :]],
            "steps": [*step_rows(own), *verdict_rows(verdict, codes)],
            **changed(own),
            "duplicates": verdict.stats,
            "goals": run.goals.summary(),
            "personas": personas,
            "splits": {name: profile.summary() for name, profile in profiles.items()},
            "split_lengths": lengths(codes[codes != LEFT_OUT], chats.turns[codes != LEFT_OUT]),
            "source_notes": {
                source.report.name: LICENCES[kind]
                for requested, source in zip(settings.sources, run.sources, strict=False)
                if (kind := resolve(requested.spec)[0]) in LICENCES
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
    """Columns over all conversations of the shards, in order."""

    source: np.ndarray[Any, np.dtype[np.int64]]
    turns: np.ndarray[Any, np.dtype[np.int64]]
    frozen: np.ndarray[Any, np.dtype[np.bool_]]
    """True for a conversation on the frozen test list of its source."""


def columns(settings: PrepSettings, own: Sequence[ChatShard]) -> Columns:
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


def assign_splits(settings: PrepSettings, chats: Columns, verdict: DuplicateVerdict) -> Codes:
    """Returns the index into SPLITS of each conversation; LEFT_OUT for duplicates and near held-out ones."""
    is_kept = verdict.reason == 0
    codes = np.full(len(is_kept), LEFT_OUT, dtype=np.int8)
    codes[is_kept] = assign(
        groups=verdict.group[is_kept],
        turns=chats.turns[is_kept],
        source=chats.source[is_kept],
        fractions=settings.fractions(),
        frozen=chats.frozen[is_kept],
        has_frozen=[bool(chats.frozen[chats.source == i].any()) for i in range(len(settings.sources))],
        seed=settings.seed,
    )
    codes[is_kept & verdict.held_out & (codes != SPLITS.index("test"))] = LEFT_OUT
    return codes


PACKAGED = {"sharegpt": "sharegpt", "arena": "chatbot_arena"}
"""Frozen lists used by default, by kind of source, unless split fractions are set."""


def _frozen(settings: PrepSettings, index: int, ids: np.ndarray[Any, np.dtype[np.uint64]]) -> Any:
    """Returns which chats of a source are on its frozen list. A list set in the settings must match some."""
    source = settings.sources[index]
    list_name = source.frozen_test
    has_fractions = "split_fractions" in source.model_fields_set | settings.model_fields_set
    name = list_name or (None if has_fractions else PACKAGED.get(resolve(source.spec)[0]))
    if name is None:
        return np.zeros(len(ids), dtype=bool)
    frozen = frozen_ids(name)
    hashes = np.fromiter((hash64(id_) for id_ in frozen), dtype=np.uint64, count=len(frozen))
    is_frozen = np.isin(ids, hashes)
    if list_name and not is_frozen.any():
        raise DataError(f"{list_name}: none of its {len(frozen)} ids is in {source.spec}")
    return is_frozen


def _personas(run: PrepRun) -> dict[str, Any] | None:
    """Masks or drops free-text personas; returns the counts, with goal leakage before and after."""
    personas = {id_: (persona, goal) for id_, persona, goal in run.goals.joinable_personas()}
    if not personas or run.settings.personas == "raw":
        return None
    if run.settings.personas == "none":
        run.goals.replace_personas(dict.fromkeys(personas, ""))
        return {"left_out": len(personas)}
    raw = {id_: text for id_, text in personas.items() if id_ not in run.goals.masked}
    before = {"masked_before": len(personas) - len(raw)} if len(raw) < len(personas) else {}
    if not raw:
        return before
    run.notice("masking personas", 0)
    masked = mask_personas(raw, seed=run.settings.seed)
    run.goals.replace_personas(masked.personas)
    return masked.model_dump(mode="json", exclude={"personas"}) | before


def _write(
    run: PrepRun,
    own: Sequence[ChatShard],
    verdict: DuplicateVerdict,
    codes: Codes,
    profiles: dict[str, Profile],
    files: ExitStack,
) -> None:
    """Writes the splits. A split without conversations leaves no file."""
    folder, writers = run.settings.out, dict[str, IO[Any]]()
    lines = (line for shard in own for line in shard.lines())
    for number, line in enumerate(lines):
        if codes[number] == LEFT_OUT:
            continue
        name = SPLITS[codes[number]]
        if name not in writers:
            writers[name] = files.enter_context(atomic_writer(folder / f"{name}.jsonl"))
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
            # A file of an earlier run must not remain as a split of this one.
            (folder / f"{name}.jsonl").unlink(missing_ok=True)


def write_datasheet(
    out: Path, sheet: dict[str, Any], examples: dict[str, list[Conversation]], *, text: bool
) -> None:
    with atomic_writer(out / "datasheet.html") as stream:
        stream.write(render_datasheet(sheet, examples, text=text))
    write_json(out / "datasheet.json", sheet)
