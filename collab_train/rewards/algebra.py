"""Whether two expressions are equal for sympy, asked in a process that may be killed.

sympy evaluates what it parses and may take forever over `9**9**9**9`: so only digits, operators, single letters and
a few functions reach it, in a process with a time and a memory limit that is started again when it had to be killed.
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
WAIT_S = 5.0
"""For one comparison; what is not proved equal by then counts as different."""
START_S = 60.0
"""For the process to import sympy, on a busy machine."""
FUNCTIONS = frozenset({"sqrt", "sin", "cos", "tan", "log", "ln", "exp", "abs", "pi", "oo"})
ALLOWED = re.compile(r"[0-9a-z+\-*/().!\s]+")
LETTERS = re.compile(r"[a-z]+")


def equal(left: str, right: str) -> bool:
    """False also for what is not an expression, or takes longer than `WAIT_S`."""
    if not (_safe(left) and _safe(right)):
        return False
    return _WORKER.ask([left, right]) is True


def _safe(text: str) -> bool:
    # "__", quotes, dots between letters and words are not mathematics, and sympy would evaluate them.
    names = LETTERS.findall(text)
    return (
        ALLOWED.fullmatch(text) is not None
        and re.search(r"[a-z]\.|\.[a-z]", text) is None
        and all(name in FUNCTIONS or len(name) <= 3 for name in names)
    )


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
