"""Watchdog process between the API server and the engine: kills the engine when the server dies, even by SIGKILL.

Run by file path with the engine's command as arguments; imports the standard library only. The API server holds the
write end of this process's stdin, so end of file means that the server is gone. A parent death signal would not
suffice: it is bound to a thread, and vLLM's own child processes would not get it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(argv: list[str]) -> int:
    """Runs the engine and returns its exit status; kills the process group when the API server is gone."""
    engine = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, lambda *_: engine.terminate())
    threading.Thread(target=_kill_group_at_eof, daemon=True).start()
    return engine.wait()


def _kill_group_at_eof() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
