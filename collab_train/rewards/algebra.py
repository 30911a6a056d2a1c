"""Whether two answers are equal for math-verify, asked in a process that may be killed.

math-verify reads LaTeX and expressions with sympy, which may take forever over `9^{9^{9^9}}`. It guards itself by
signals, which work in main threads only, and rewards are scored in threads: so it runs in a process with a time and a
memory limit that is started again when it had to be killed.
"""

from __future__ import annotations

import contextlib
import json
import re
import select
import subprocess
import sys
import threading
from pathlib import Path

WORKER = Path(__file__).with_name("algebra_worker.py")
WAIT_S = 10.0
"""For one comparison; what is not proved equal by then counts as different."""
START_S = 60.0
"""For the process to import sympy, on a busy machine."""
CODE = re.compile(r"__|[\"';]|[A-Za-z]\.[A-Za-z]|\blambda\b")
"""What is no mathematics, and should not come near a parser that evaluates."""


def equal(given: str, wanted: str) -> bool:
    """False also for what is not mathematics, or takes longer than `WAIT_S`."""
    if CODE.search(given) or CODE.search(wanted):
        return False
    return _WORKER.ask([given, wanted]) is True


class Worker:
    """One process, one question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: list[str]) -> object:
        """None when there was no answer in time; the process is then a new one."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
            answer = self._line(process, WAIT_S)
            if answer is None:
                self._stop()
            return answer

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            pipe = subprocess.PIPE
            command = [sys.executable, "-I", str(WORKER)]
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
            )
            self._line(self._process, START_S)
        return self._process

    def _line(self, process: subprocess.Popen[str], wait_s: float) -> object:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], wait_s)
        line = process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


_WORKER = Worker()
