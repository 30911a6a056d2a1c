"""Progress display of `usersim prep`: pass, chats done and chats per second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from data_prep.pipeline.run_context import Notice
from usersim.cli import console


class ChatSpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


@contextmanager
def progress() -> Iterator[Notice]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.completed:,.0f} chats"),
        ChatSpeedColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        passes: dict[str, int] = {}

        def notice(pass_name: str, done: int) -> None:
            if pass_name not in passes:
                for task in passes.values():
                    display.stop_task(display.tasks[task].id)
                passes[pass_name] = len(passes)
                display.add_task(pass_name, total=None)
            display.update(display.tasks[passes[pass_name]].id, completed=done)

        yield notice
