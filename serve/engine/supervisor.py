"""Supervised engine process: progress at start, restarts with back-off, and no process left behind.

    python -m serve.engine --model smollm2-135m-instruct --port 8001 --cores 1

runs one in the foreground until Ctrl-C or SIGTERM. The model may be any model folder, also a plain chat model.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import httpx2

from serve.config import EngineSettings
from serve.engine.address import free_address, request_status
from serve.engine.command import EngineCommand, engine_command
from serve.http.logs import print_status
from usersim.errors import BackendError
from usersim.storage.toml_config import load_config
from usersim.weights.default_model import resolve

log = logging.getLogger(__name__)
WATCHDOG = Path(__file__).with_name("watchdog.py")
STAGES = (
    (re.compile(r"non-default args"), "reading the model's config"),
    (re.compile(r"Initializing a V1 LLM engine"), "starting the core"),
    (re.compile(r"Starting to load model"), "loading the weights"),
    (re.compile(r"Warming up model for the compilation"), "compiling (kept for the next start)"),
    (re.compile(r"Warming up done"), "compiled"),
)
STARTUP_FAILURE = re.compile(r"EngineCore failed to start|Worker failed with error")
"""Log lines of a failed start. vLLM's server and worker processes can outlive its core process for minutes."""
DAMAGED_KERNEL = re.compile(
    r"(\S*/torch_compile_cache/(?:torch_aot_compile/)?[^/\s]+)/\S*\.so: (?:file too short|invalid ELF)"
)
"""Log line about a compiled kernel that was half-written when vLLM was killed; it makes every start fail."""


class Engine:
    """One engine process with its process group; a context manager that ends all its processes on exit.

    Args:
        stop_timeout_s: Seconds between SIGTERM and SIGKILL.
        probe_every_s: Interval and timeout of one-token probes.
        probe_misses: Failed probes in a row before a restart.
        progress: Consumer of status lines.
    """

    def __init__(
        self,
        command: EngineCommand,
        *,
        startup_timeout_s: float = 600,
        stop_timeout_s: float = 15,
        probe_every_s: float = 20,
        probe_misses: int = 3,
        progress: Callable[[str], None] = log.info,
    ) -> None:
        self.command = command
        self.startup_timeout_s, self.stop_timeout_s = startup_timeout_s, stop_timeout_s
        self.probe_every_s, self.probe_misses = probe_every_s, probe_misses
        self.restarts = 0
        self._progress = progress
        self._process: subprocess.Popen[str] | None = None
        self._lines: deque[str] = deque(maxlen=200)
        self._stopping, self._has_failed, self._removed_kernel = (threading.Event() for _ in range(3))
        self._watch_thread: threading.Thread | None = None
        self._output_thread: threading.Thread | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @classmethod
    def from_settings(
        cls, command: EngineCommand, settings: EngineSettings, *, progress: Callable[[str], None]
    ) -> Engine:
        return cls(
            command,
            startup_timeout_s=settings.startup_timeout_s,
            stop_timeout_s=settings.stop_timeout_s,
            probe_every_s=settings.probe_every_s,
            probe_misses=settings.probe_misses,
            progress=progress,
        )

    def last_lines(self, count: int = 12) -> str:
        return "\n".join(list(self._lines)[-count:])

    def start(self) -> float:
        """Starts the engine and returns the seconds until it answered.

        Raises:
            BackendError: With the engine's last log lines if it does not start, or if its port is taken.
        """
        started_s = time.monotonic()
        free_address(self.command.url)
        self._spawn()
        while not self._is_healthy():
            elapsed_s = time.monotonic() - started_s
            if self._stopping.is_set():
                raise BackendError(f"engine {self.command.name}: stopped while starting")
            if self._has_failed.is_set() and self._removed_kernel.is_set():
                self._progress(
                    f"engine {self.command.name}: removed damaged compiled kernels; starting again"
                )
                self._kill_group(graceful=False)
                self._spawn()
            elif not self.is_alive or self._has_failed.is_set() or elapsed_s > self.startup_timeout_s:
                raise self._startup_error(elapsed_s)
            time.sleep(0.1)
        return time.monotonic() - started_s

    def supervise(self) -> None:
        """Starts a thread that restarts a dead or hung engine after 1 s, then 2, 4 … 60 s while it keeps failing."""
        self._watch_thread = threading.Thread(
            target=self._restart_on_failure, name="engine-watch", daemon=True
        )
        self._watch_thread.start()

    def stop(self) -> None:
        """Ends every process of the engine; may be called twice."""
        self._stopping.set()
        if self._watch_thread is not None:
            # Before the join, to end a pending probe of a hung engine; the thread may start another engine meanwhile.
            self._kill_group()
            self._watch_thread.join()
        self._kill_group()

    def wait(self) -> None:
        """Blocks until the engine process exits."""
        if self._process is not None:
            self._process.wait()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self) -> None:
        self._has_failed.clear()
        self._removed_kernel.clear()
        # A separate session: Ctrl-C in the terminal reaches only the API server, which then stops the engine.
        self._process = subprocess.Popen(
            [sys.executable, "-IS", str(WATCHDOG), *self.command.argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | self.command.env,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._output_thread = threading.Thread(
            target=self._read_output, args=(self._process.stdout,), daemon=True
        )
        self._output_thread.start()

    def _read_output(self, output: IO[str]) -> None:
        """Keeps the engine's last lines, and reports milestones as progress."""
        reported_stages: set[str] = set()
        with output:
            for line in output:
                self._lines.append(line.rstrip())
                if kernel_match := DAMAGED_KERNEL.search(line):
                    shutil.rmtree(kernel_match[1], ignore_errors=True)
                    if not Path(kernel_match[1]).exists():
                        self._removed_kernel.set()
                if STARTUP_FAILURE.search(line):  # last: a line may match both, and `start` polls meanwhile
                    self._has_failed.set()
                log.debug("%s: %s", self.command.name, line.rstrip())
                stage = next((words for pattern, words in STAGES if pattern.search(line)), None)
                if stage and stage not in reported_stages:
                    reported_stages.add(stage)
                    self._progress(f"engine {self.command.name}: {stage}")

    def _is_healthy(self) -> bool:
        try:
            return self.is_alive and request_status(self.command.url, "GET", "/health", timeout_s=5) == 200
        except httpx2.HTTPError:
            return False

    def _can_generate(self) -> bool:
        """Requests one token. vLLM's /health is 200 even while its core hangs."""
        try:
            status = request_status(
                self.command.url,
                "POST",
                "/v1/completions",
                timeout_s=self.probe_every_s,
                json={"prompt": [0], "max_tokens": 1},
            )
        except httpx2.HTTPError:
            return False
        return status < 500 or status == 503  # 503: full, not hung

    def _startup_error(self, elapsed_s: float) -> BackendError:
        code = None if self._process is None else self._process.poll()
        what = f"exit status {code}" if code is not None else f"no answer after {elapsed_s:.0f} s"
        self._kill_group()
        return BackendError(
            f"engine {self.command.name} did not start ({what}); its last lines:\n{self.last_lines()}"
        )

    def _restart_on_failure(self) -> None:
        delay_s, start_s = 1.0, time.monotonic()
        while (reason := self._wait_for_failure()) is not None:
            delay_s = 1.0 if time.monotonic() - start_s > 60 else min(delay_s * 2, 60)
            log.error(
                "engine %s %s; again in %.0f s:\n%s", self.command.name, reason, delay_s, self.last_lines()
            )
            self._kill_group(graceful=False)
            if self._stopping.wait(delay_s):
                return
            start_s = time.monotonic()
            self.restarts += 1
            try:
                log.warning("engine %s is back after %.0f s", self.command.name, self.start())
            except BackendError as error:
                log.error("%s", error)

    def _wait_for_failure(self) -> str | None:
        """Blocks until the engine dies or hangs, and returns the reason; None after `stop`."""
        misses, probe_s = 0, time.monotonic() + self.probe_every_s
        while not self._stopping.wait(0.25):
            if not self.is_alive:
                return "died"
            if time.monotonic() < probe_s:
                continue
            misses = 0 if self._can_generate() else misses + 1
            if misses == self.probe_misses:
                return f"gave no token for {misses} probes"
            probe_s = time.monotonic() + self.probe_every_s
        return None

    def _kill_group(self, *, graceful: bool = True) -> None:
        """Kills the process group; with `graceful` after a SIGTERM, which a hung engine would ignore."""
        process = self._process
        if process is None:
            return
        if graceful and process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.stop_timeout_s)
        # Also if the group leader is gone: vLLM's core process survives a crash of its server.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if self._output_thread is not None:
            self._output_thread.join(5)  # so that the last lines are complete


def exit_on_sigterm() -> None:
    """Turns SIGTERM into SystemExit(0), so that context managers stop the engine."""

    def raise_exit(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, raise_exit)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serve.engine", description="Runs one vLLM engine in the foreground."
    )
    parser.add_argument("--model", required=True, help="model folder, or smollm2-135m-instruct")
    address = parser.add_mutually_exclusive_group(required=True)
    address.add_argument("--port", type=int, help="port on 127.0.0.1")
    address.add_argument("--uds", type=Path, help="Unix socket instead of a port")
    parser.add_argument("--name", help="model name for clients (default: name of the folder)")
    parser.add_argument("--cores", help="CPU cores, e.g. 0,1 (default: all cores of this process)")
    parser.add_argument("--dry-run", action="store_true", help="print the engine's command line and exit")
    parser.add_argument("settings", nargs="*", help="key=value of the engine settings, e.g. eager=true")
    args = parser.parse_intermixed_args(argv)
    cores = [] if args.cores is None else [f"cores=[{args.cores}]"]
    settings = load_config(EngineSettings, overrides=[*cores, *args.settings])
    model = Path(args.model) if args.dry_run else resolve(args.model)
    command = engine_command(model, settings, listen=args.uds or args.port, name=args.name)
    if args.dry_run:
        sys.stdout.write(f"{command}\n")
        return 0
    exit_on_sigterm()
    with Engine.from_settings(command, settings, progress=print_status) as engine:
        seconds = engine.start()
        print_status(f"engine {command.name}: answers at {command.url} after {seconds:.0f} s")
        engine.wait()
        raise BackendError(f"engine {command.name} died; its last lines:\n{engine.last_lines()}")
