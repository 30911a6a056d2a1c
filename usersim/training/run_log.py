"""Log of a training run: progress bar on stderr, metrics.jsonl, samples.jsonl and optionally wandb."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from transformers import ProgressCallback

from usersim.rendering.renderer import Renderer
from usersim.storage.runs import METRICS, SAMPLES, RunDir
from usersim.training.config import TrainConfig
from usersim.training.data import TokenCounts
from usersim.training.samples import COLUMNS, write_samples
from usersim.types import Conversation

logger = logging.getLogger(__name__)


class RunLog(ProgressCallback):
    """Trainer callback that logs. Every process has one, since control flow must be equal; the main process writes."""

    def __init__(
        self,
        run: RunDir,
        renderer: Renderer,
        dev: Sequence[Conversation],
        amounts: TokenCounts,
        config: TrainConfig,
    ) -> None:
        super().__init__()
        self.run, self.renderer, self.dev, self.amounts, self.config = run, renderer, dev, amounts, config
        self.wandb = Wandb(run, config)
        self.started = time.monotonic() - max((line.get("elapsed_s", 0) for line in run.metrics()), default=0)
        self.busy_s, self.step_began, self.tokens = 0.0, 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]
        self.tokens, _ = self.amounts.after(state.global_step, batch=self.config.batch)
        if state.is_world_process_zero:
            self.wandb.start()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_step_end(args, state, control, **kwargs)  # type: ignore[no-untyped-call]
        self.busy_s += time.monotonic() - self.step_began
        # A mean since the last line would otherwise be cut in two by a resume.
        if state.global_step % self.config.steps_between_saves == 0:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        values = {key: value for key, value in logs.items() if key != "total_flos"}
        values |= self._speed(state.global_step)
        self.run.metric(step=state.global_step, elapsed_s=round(time.monotonic() - self.started, 1), **values)
        self.wandb.log(values, step=state.global_step)

    def _speed(self, step: int) -> dict[str, float]:
        """Returns the tokens trained on so far, and tokens per second since the last line without evaluation and
        saving."""
        tokens, supervised = self.amounts.after(step, batch=self.config.batch)
        speed: dict[str, float] = {"tokens": tokens, "supervised_tokens": supervised}
        if tokens > self.tokens and self.busy_s:
            speed["tokens_per_s"] = round((tokens - self.tokens) / self.busy_s, 1)
            self.tokens, self.busy_s = tokens, 0.0
        return speed

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not self.dev:
            return
        try:
            rows = write_samples(
                self.run, model, self.renderer, self.dev, step=state.global_step, seed=self.config.seed
            )
        except Exception:
            # Samples are for reading only: a failure must not lose hours of training.
            logger.warning("no samples at step %d", state.global_step, exc_info=True)
            return
        self.wandb.table(rows, step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_end(args, state, control, **kwargs)  # type: ignore[no-untyped-call]
        self.wandb.finish()


def rewind(run: RunDir, step: int) -> None:
    """Drops log lines after the checkpoint of `step`, since those steps are repeated."""
    run.keep(METRICS, lambda line: int(line["step"]) <= step)
    run.keep(SAMPLES, lambda line: int(line["id"].split("-")[1]) <= step)


class Wandb:
    """Optional wandb logging. An error in it gives one warning and disables it; the run continues."""

    def __init__(self, run: RunDir, config: TrainConfig) -> None:
        self.run, self.config = run, config
        self._live: Any = None

    def start(self) -> None:
        if self.config.wandb != "disabled":
            self._live = self._guarded(self._init)

    def _init(self) -> Any:
        import wandb

        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "usersim"),
            name=self.run.path.name,
            id=self._id(),
            resume="allow",
            dir=str(self.run.path),
            mode=self.config.wandb,
            config=self.config.model_dump(mode="json"),
            settings=wandb.Settings(init_timeout=30, login_timeout=30, silent=True, console="off"),
        )

    def _id(self) -> str:
        """Returns the wandb id of the run, the same after each resume."""
        file = self.run.path / "wandb-id"
        if not file.is_file():
            file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
        return file.read_text(encoding="utf-8").strip()

    def log(self, values: dict[str, Any], *, step: int) -> None:
        if self._live is not None:
            self._guarded(self._live.log, values, step=step)

    def table(self, rows: list[list[Any]], *, step: int) -> None:
        def send() -> None:
            import wandb

            self._live.log({"samples": wandb.Table(columns=list(COLUMNS), data=rows)}, step=step)

        if self._live is not None and rows:
            self._guarded(send)

    def finish(self) -> None:
        if self._live is not None:
            self._guarded(self._live.finish)
            self._live = None

    def _guarded(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self._live = None
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("wandb failed (%s); the run continues, its metrics are in %s", reason, METRICS)
            return None
