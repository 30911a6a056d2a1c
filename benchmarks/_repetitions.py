"""Many repetitions over processes; each finished one is kept in a journal, so that a long run can continue."""

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


class Journal:
    """JSON Lines: a line of settings, then a row per finished repetition. Without a path nothing is kept."""

    def __init__(self, path: Path | None, settings: Row) -> None:
        self.path, self.rows = path, list[Row]()
        head = json.dumps({"settings": settings}, sort_keys=True)
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        if lines and lines[0] and lines[0] != head:
            raise DataError(
                f"{path} holds repetitions under other settings; give another --work, or delete it"
            )
        for line in lines[1:]:
            try:
                self.rows.append(json.loads(line))
            except ValueError:
                break  # the line that was being written when the run was stopped
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = [head, *(json.dumps(row) for row in self.rows)]
        path.write_text("\n".join(whole) + "\n", encoding="utf-8")

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self.path:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")


def repeat(
    part: str, journal: Journal, count: int, one: Callable[[int], Row], processes: int | None = None
) -> list[Row]:
    """`one(index)` for every index below `count` that the journal lacks; all rows of this part, by index."""
    done = {row["index"] for row in journal.rows if row["part"] == part}
    left = [index for index in range(count) if index not in done]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(part, total=count, completed=len(done))
        tasks: Sequence[Callable[[], Row]] = [partial(one, index) for index in left]
        for index, row in zip(left, in_order(tasks, processes or cores()), strict=True):
            journal.add({"part": part, "index": index, **row})
            bar.advance(task)
    rows = [row for row in journal.rows if row["part"] == part and row["index"] < count]
    return sorted(rows, key=lambda row: row["index"])
