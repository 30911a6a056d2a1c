"""What `usersim prep` shows while it works: the pass, how many, and how many a second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from data_prep.pipeline.run_context import Notice
from usersim.cli import console


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


@contextmanager
def progress() -> Iterator[Notice]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.completed:,.0f} chats"),
        Rate(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        passes: dict[str, int] = {}

        def notice(what: str, done: int) -> None:
            if what not in passes:
                for task in passes.values():
                    shown.stop_task(shown.tasks[task].id)
                passes[what] = len(passes)
                shown.add_task(what, total=None)
            shown.update(shown.tasks[passes[what]].id, completed=done)

        yield notice
