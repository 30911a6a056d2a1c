"""Training log of an assistant: a progress bar on stderr, metrics.jsonl, and wandb if enabled."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from usersim.cli import console
from usersim.errors import BackendError
from usersim.storage.runs import METRICS, RunDir
from usersim.training.run_log import Wandb

Rows = Callable[[], Sequence[Sequence[Any]]]
"""Function that returns example conversations as rows of `COLUMNS`."""
COLUMNS = ("step", "context", "goal", "mr", "conversation")


class CollabWandb(Wandb):
    """wandb run of the User LM's training, with a table of conversations added."""

    def conversations(self, rows: Sequence[Sequence[Any]], *, step: int) -> None:
        def send() -> None:
            import wandb

            table = wandb.Table(columns=list(COLUMNS), data=[list(row) for row in rows])
            self._live.log({"conversations": table}, step=step)

        if self._live is not None and rows:
            self._guarded(send)


class Bars:
    """Progress bars: training steps, and futures within a step."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=console)
        self._steps: TaskID | None = None
        self._futures: TaskID | None = None

    def start(self, step: int, steps: int) -> None:
        self._steps = self.progress.add_task("steps", completed=step, total=steps, note="")
        self.progress.start()

    def step(self, step: int, note: str) -> None:
        if self._steps is not None:
            self.progress.update(self._steps, completed=step, note=note)

    def futures(self, total: int) -> None:
        if self._steps is None:
            return
        if self._futures is not None:
            self.progress.remove_task(self._futures)
        self._futures = self.progress.add_task("futures", total=total, note="")

    def future(self, failed: int) -> None:
        if self._futures is not None:
            note = f"{failed} failed" if failed else ""
            self.progress.update(self._futures, advance=1, note=note)

    def stop(self) -> None:
        self.progress.stop()


class TrainLog(TrainerCallback):
    """Callback that logs training. It runs in every process, but only the main one writes."""

    def __init__(self, run: RunDir, config: Any, bars: Bars, rows: Rows = lambda: ()) -> None:
        self.run, self.bars, self.rows = run, bars, rows
        self.wandb = CollabWandb(run, config)
        self.started = time.monotonic() - max((line.get("elapsed_s", 0) for line in run.metrics()), default=0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        # A killed run logged steps after its last checkpoint; they will be repeated.
        self.run.keep(METRICS, lambda line: int(line["step"]) <= state.global_step)
        self.bars.start(state.global_step, state.max_steps)
        self.wandb.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "train_runtime" in logs:
            return
        _refuse_not_finite(logs, state.global_step)
        if not state.is_world_process_zero:
            return
        values = {key: value for key, value in logs.items() if key != "total_flos"}
        elapsed = round(time.monotonic() - self.started, 1)
        self.run.metric(step=state.global_step, elapsed_s=elapsed, **values)
        self.wandb.log(values, step=state.global_step)
        self.wandb.conversations(self.rows(), step=state.global_step)
        reward = values.get("mr")
        self.bars.step(state.global_step, "" if reward is None else f"MR {reward:+.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bars.stop()
            self.wandb.finish()


def _refuse_not_finite(logs: dict[str, Any], step: int) -> None:
    """Raises an error before the step is saved, so that the run resumes from the previous checkpoint."""
    for name in ("loss", "grad_norm"):
        value = logs.get(name)
        if value is not None and not math.isfinite(value):
            raise BackendError(f"{name} is not finite at step {step}; lower lr (the last checkpoint is kept)")
