"""Equality of two mathematical answers by math-verify, in a worker process with limits.

math-verify parses LaTeX and expressions with sympy, which may never finish on `9^{9^{9^9}}`. Its own timeouts use
signals, which work only in main threads, but rewards are scored in threads. So it runs in a process with a time and a
memory limit, which is restarted after it had to be killed.
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
"""Timeout of one comparison. Answers not proved equal by then count as different."""
START_S = 60.0
"""Timeout for the worker to import sympy, on a busy machine."""
CODE = re.compile(r"__|[\"';]|[A-Za-z]\.[A-Za-z]|\blambda\b")
"""Text that is code rather than mathematics. It must not reach the parser, which evaluates."""


def equal(answer: str, reference: str) -> bool:
    """True if math-verify proves the two equal; False for non-mathematics and after `WAIT_S`."""
    if CODE.search(answer) or CODE.search(reference):
        return False
    return _WORKER.ask([answer, reference]) is True


class Worker:
    """Worker process that answers one question at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, question: list[str]) -> object:
        """Returns the answer, or None after a timeout; the next question then starts a new process."""
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
