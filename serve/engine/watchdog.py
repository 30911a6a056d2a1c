"""Stands between the front and the engine, so that no engine outlives its front, however that one dies.

Run by file path with the engine's command as arguments; imports nothing but the standard library. The front
holds the write end of this process's stdin: end of file means that the front is gone, even by SIGKILL.
(A parent death signal would not do: it is bound to a thread, and vLLM's own children would not get it.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def main(argv: list[str]) -> int:
    """The engine's exit status. Ends its process group (made by the front) when the front is gone."""
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
