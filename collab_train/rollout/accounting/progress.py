"""Progress bar of a rollout, on stderr, and table of its results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from collab_train.rollout.accounting.results import CandidateMR, Future
from usersim.cli import console


class Bar:
    """Progress bar. It is called with every finished future, simulated now or before."""

    def __init__(self, display: Progress, task: TaskID, total: int) -> None:
        self._display, self._task, self._total, self._failed = display, task, total, 0

    def __call__(self, future: Future) -> None:
        self._failed += future.conversation is None
        failed = f"{self._failed} failed" if self._failed else ""
        self._display.update(self._task, advance=1, failed=failed)

    def reduce_total(self, futures: int) -> None:
        """Reduces the total by `futures` that are not needed."""
        self._total -= futures
        self._display.update(self._task, total=self._total)


@contextmanager
def progress(label: str, total: int) -> Iterator[Bar]:
    """Shows finished and total items, and the remaining time at the recent rate."""
    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=console, speed_estimate_period=120) as display:
        yield Bar(display, display.add_task("", total=total, failed=""), total)


def candidate_table(title: str, candidates: Sequence[CandidateMR]) -> Group:
    """Table with one row per candidate: MR with 95 % interval, futures, mean components. The texts follow it."""
    names = list(dict.fromkeys(name for c in candidates for name in c.components))
    table = Table(title=escape(title), title_justify="left")
    for name in ("", "MR", "95 % interval", "futures", *names):
        table.add_column(name.replace("_", " "), justify="right")
    for number, candidate in enumerate(candidates, start=1):
        parts = [f"{candidate.components[name]:.3g}" if candidate.components else "-" for name in names]
        table.add_row(str(number), *_reward(candidate), *parts)
    return Group(table, *(Text(f"  {n}  {_flat(c.text)}") for n, c in enumerate(candidates, start=1)))


def _reward(candidate: CandidateMR) -> tuple[str, str, str]:
    mr = "-" if candidate.mr is None else f"{candidate.mr:+.3f}"
    interval = "-" if candidate.interval is None else "{:+.2f} to {:+.2f}".format(*candidate.interval)
    return mr, interval, f"{candidate.n}" + (f" ({candidate.failed} failed)" if candidate.failed else "")


def _flat(text: str, limit: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
