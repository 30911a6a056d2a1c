"""Parallel repetitions with a journal of the finished ones, so that a long run can resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from eval.fidelity.parallel import cores, in_order
from usersim.cli import console
from usersim.errors import DataError

Row = dict[str, Any]


class RepetitionLog:
    """Journal in JSON Lines: settings, then a row per finished repetition. Without a path, nothing is saved."""

    def __init__(self, path: Path | None, settings: Row) -> None:
        self.path, self.rows = path, list[Row]()
        head = json.dumps({"settings": settings}, sort_keys=True)
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        if lines and lines[0] and lines[0] != head:
            raise DataError(
                f"{path} holds repetitions with other settings; give another --work folder, or delete it"
            )
        for line in lines[1:]:
            try:
                self.rows.append(json.loads(line))
            except ValueError:
                break  # unfinished line of an interrupted run
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = [head, *(json.dumps(row) for row in self.rows)]
        path.write_text("\n".join(whole) + "\n", encoding="utf-8")

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self.path:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")


def repeat(
    part: str, journal: RepetitionLog, count: int, one: Callable[[int], Row], processes: int | None = None
) -> list[Row]:
    """Runs `one(index)` for each index below `count` missing in the journal; returns all rows of the part by index."""
    done = {row["index"] for row in journal.rows if row["part"] == part}
    missing = [index for index in range(count) if index not in done]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(part, total=count, completed=len(done))
        tasks: Sequence[Callable[[], Row]] = [partial(one, index) for index in missing]
        for index, row in zip(missing, in_order(tasks, processes or cores()), strict=True):
            journal.add({"part": part, "index": index, **row})
            bar.advance(task)
    rows = [row for row in journal.rows if row["part"] == part and row["index"] < count]
    return sorted(rows, key=lambda row: row["index"])
