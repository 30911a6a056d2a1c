"""Runner of the stages of `usersim adapt`: skips finished ones, resumes stopped ones, sets outdated results aside."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Literal, NamedTuple

import usersim
from usersim.adapt.stages import RESULT, Argv, Pipeline, Stage, command_text, package_versions
from usersim.adapt.state import FileHashes, StageState, config_hash, read_state, write_state
from usersim.cli import console
from usersim.errors import DataError, UsersimError
from usersim.storage.locks import locked
from usersim.storage.records import write_json

REPLACED = "replaced"
"""Folder for outdated results in the run directory."""
INTERRUPTED = 130
GRACE_S = 30.0
"""Time that a terminated command has for saving its state."""
Execute = Callable[[Argv], int]
Estimates = Mapping[str, float]
"""Estimated seconds by stage."""


class StageStatus(NamedTuple):
    """Status of a stage."""

    kind: Literal["done", "new", "resumes", "anew"]
    changes: tuple[str, ...]
    """Changed inputs, for which it runs again."""
    now: StageState
    before: StageState | None

    def __str__(self) -> str:
        if self.kind != "anew":
            return self.kind
        names = [Path(name).name if "/" in name else name for name in self.changes]
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        return f"anew: {', '.join(names[:2])}{more} changed"


def stage_status(pipeline: Pipeline, stage: Stage, hashes: FileHashes) -> StageStatus:
    """Returns a stage's status, by comparing its inputs with those of its last result."""
    inputs = {**hashes.of_all(stage.inputs()), **package_versions(stage.packages)}
    now = StageState(
        stage=stage.name,
        status="started",
        version=usersim.__version__,
        config_sha256=config_hash(stage.config),
        inputs=inputs,
    )
    before = read_state(pipeline.run, stage.name)
    if before is None:
        return StageStatus("new", (), now, None)
    if changes := now.changes_since(before):
        return StageStatus("anew", tuple(changes), now, before)
    if before.status == "started":
        return StageStatus("resumes", (), now, before)
    outputs = hashes.of_all(map(Path, before.outputs))
    if damaged := [name for name, digest in before.outputs.items() if outputs[name] != digest]:
        return StageStatus("resumes", tuple(damaged), now, before)
    if before.left_out is not None and stage.left_out() is None:
        return StageStatus("resumes", (), now, before)
    return StageStatus("done", (), now, before)


def run_stages(
    pipeline: Pipeline,
    *,
    execute: Execute | None = None,
    estimate: Callable[[], Estimates] | None = None,
    again: str | None = None,
) -> Path:
    """Runs every stage that is not done, in order.

    Args:
        pipeline: Pipeline of stages. They run in its order.
        execute: Function that runs a command and returns its exit status. Default: a subprocess.
        estimate: Function that returns seconds by stage. It is called once the final splits are known.
        again: Name of a stage to run again although its inputs are unchanged.

    Returns:
        The folder with the User LM.

    Raises:
        DataError: No User LM can be trained on these data.
        UsersimError: A stage failed; the same command resumes it.
    """
    pipeline.run.mkdir(parents=True, exist_ok=True)
    with locked(pipeline.run):
        hashes = FileHashes(pipeline.run / "state" / "hashes.json")
        write_json(pipeline.run / "config.json", pipeline.config.model_dump(mode="json"))
        progress = _Progress(pipeline)
        for number, stage in enumerate(pipeline.stages, start=1):
            status = stage_status(pipeline, stage, hashes)
            if stage.name == again and status.kind == "done":
                status = status._replace(kind="anew", changes=("--again",))
            if status.kind == "done":
                console.print(f"[{number}/{len(pipeline.stages)}] {stage.name}: done before", style="dim")
            else:
                progress.begins(number, stage, status)
                _run_stage(pipeline, stage, status, hashes, execute or run_command)
                progress.ended(stage)
            if stage.checks_data:
                _check_data(pipeline)
                progress.estimate = estimate
        hashes.keep()
    return pipeline.result


def _run_stage(
    pipeline: Pipeline, stage: Stage, current: StageStatus, hashes: FileHashes, execute: Execute
) -> None:
    folder = pipeline.run / stage.name
    if current.kind in ("new", "anew") and stage.name != RESULT:
        _set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = current.before.seconds if current.kind == "resumes" and current.before else 0.0
    started = time.monotonic()

    def record(status: Literal["started", "done"], **facts: object) -> None:
        seconds = round(earlier + time.monotonic() - started, 1)
        update = {"status": status, "seconds": seconds, **facts}
        write_state(pipeline.run, current.now.model_copy(update=update))

    record("started")
    try:
        stage.prepare()
        reason = stage.left_out()
        commands = () if reason else tuple(stage.commands())
        if reason:
            console.print(f"      left out: {reason}", style="yellow")
        for argv in commands:
            console.print(f"      {command_text(argv)}", style="dim", soft_wrap=True)
            if (code := execute(argv)) != 0:
                if code == INTERRUPTED:
                    raise KeyboardInterrupt
                raise UsersimError(
                    f"{stage.name}: stopped with exit status {code} ({command_text(argv)}); its message is above. "
                    "Fix that and run the same command again: finished work is kept"
                )
        stage.finish()
    except BaseException:
        record("started")
        hashes.keep()
        raise
    files = sorted({file for pattern in stage.outputs for file in folder.glob(pattern) if file.is_file()})
    record(
        "done",
        outputs=hashes.of_all(files),
        commands=tuple(map(command_text, commands)),
        left_out=reason,
    )
    hashes.keep()


def _check_data(pipeline: Pipeline) -> None:
    """Prints warnings about the data. Raises DataError if no User LM can be trained on them."""
    judged = pipeline.feasibility()
    if judged.stop:
        raise DataError(judged.stop)
    for warning in judged.warnings:
        console.print(f"      {warning}", style="yellow", soft_wrap=True)


def _set_aside(folder: Path) -> None:
    """Moves outdated results away, since they can hold hours of training."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    replaced = folder.parent / REPLACED
    replaced.mkdir(exist_ok=True)
    number = 1 + sum(1 for _ in replaced.glob(f"{folder.name}-*"))
    while (target := replaced / f"{folder.name}-{number}").exists():
        number += 1
    folder.rename(target)
    console.print(f"      earlier results are in {target}; delete them when they are not needed", style="dim")


class _Progress:
    """Progress lines before and after a stage, with the remaining time.

    Estimates are scaled by the measured times of finished stages.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.estimates: Estimates = {}
        self.estimate: Callable[[], Estimates] | None = None
        """Called once, before the next stage that runs."""
        self._stages = pipeline.stages
        self._began, self._planned_s, self._taken_s = 0.0, 0.0, 0.0

    def begins(self, number: int, stage: Stage, status: StageStatus) -> None:
        if self.estimate is not None:
            self.estimates, self.estimate = self.estimate(), None
        self._began = time.monotonic()
        words = f"[{number}/{len(self._stages)}] {stage.name}: {stage.title}"
        if status.kind != "new":
            words += f" ({status})"
        rest = [s.name for s in self._stages[number - 1 :] if s.left_out() is None]
        if any(name in self.estimates for name in rest):
            pace = self._pace()
            own = self.estimates.get(stage.name, 0.0) * pace
            left = sum(self.estimates.get(name, 0.0) for name in rest) * pace
            end = datetime.now() + timedelta(seconds=left)
            words += f"; about {duration(own)}, all stages about {duration(left)} (until {end:%a %H:%M})"
        console.print(words, soft_wrap=True)

    def ended(self, stage: Stage) -> None:
        seconds = time.monotonic() - self._began
        if stage.name in self.estimates:
            self._planned_s += self.estimates[stage.name]
            self._taken_s += seconds
        console.print(f"      done in {duration(seconds)}", style="dim")

    def _pace(self) -> float:
        if self._planned_s < 60:
            return 1.0
        return min(5.0, max(0.2, self._taken_s / self._planned_s))


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_command(argv: Argv) -> int:
    """Runs a command and returns its exit status.

    Its output goes to stderr. Interrupts and SIGTERM are passed on to it.
    """
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=2)

    def stop(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        return _exit_status(process.wait())
    except KeyboardInterrupt:
        _end(process)
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def run_quietly(argv: Argv) -> int:
    """Runs a command and returns its exit status. Its output is shown only if it fails."""
    process = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if process.returncode != 0:
        console.print(process.stderr.strip(), soft_wrap=True)
    return _exit_status(process.returncode)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Waits for an interrupted command, then terminates it. Signals of a terminal reach it directly."""
    for stop, wait_s in ((process.terminate, 5.0), (process.kill, GRACE_S)):
        try:
            process.wait(wait_s)
            return
        except subprocess.TimeoutExpired:
            stop()
    process.wait()


def _exit_status(code: int) -> int:
    """Returns the exit status as a shell reports it: 128 plus the signal."""
    return 128 - code if code < 0 else code
