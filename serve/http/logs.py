"""Non-blocking logs: a full disk or an unread pipe never delays a response."""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from serve.http.request_context import RequestContext
from usersim.cli import console

MAX_CONTENT_BYTES = 64 * 1024
BATCH_DELAY_S = 0.25
"""Seconds between batches of lines. Waking a thread for each line would cost a tenth of a request."""


def print_status(message: str) -> None:
    """Prints a status line to the terminal; a broken stderr must not stop the server."""
    with suppress(OSError):
        console.print(message, markup=False, emoji=False)


class Sink:
    """Writer of log lines to a file descriptor, in its own thread.

    Args:
        descriptor: File descriptor to write to.
        capacity: Longest queue in lines. Lines beyond it are dropped and counted in `dropped`.
    """

    def __init__(self, descriptor: int, *, capacity: int = 10_000) -> None:
        self.dropped = 0
        self._descriptor, self._capacity = descriptor, capacity
        # Not a Queue: a signal handler may log while this same thread holds the queue's lock.
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write, name="log-sink", daemon=True)
        self._writer.start()

    def put(self, line: str) -> None:
        if self._lines.qsize() < self._capacity:
            self._lines.put(line.encode("utf-8", "replace") + b"\n")
        else:
            self.dropped += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Writes the queued lines, for at most `timeout_s` seconds."""
        self._closing.set()
        self._lines.put(None)
        self._writer.join(timeout_s)

    def _write(self) -> None:
        more = True
        while more:
            lines = [self._lines.get()]
            self._closing.wait(BATCH_DELAY_S)
            lines += [self._lines.get() for _ in range(self._lines.qsize())]
            more = None not in lines
            self._write_lines([line for line in lines if line is not None])

    def _write_lines(self, lines: list[bytes]) -> None:
        for line in lines:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except OSError:
                self.dropped += 1


class SinkHandler(logging.Handler):
    """Logging handler that writes through a `Sink`."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.sink.put(self.format(record))
        except Exception:
            self.sink.dropped += 1


def make_logging_nonblocking(sink: Sink) -> None:
    """Replaces the root logger's handlers with one that writes to `sink` in the same format."""
    root = logging.getLogger()
    handler = SinkHandler(sink)
    for old in root.handlers[:]:
        handler.setFormatter(old.formatter)
        root.removeHandler(old)
    root.addHandler(handler)


def access_log_line(context: RequestContext, status: int, outcome: str, seconds: float) -> str:
    """JSON line for one request; with request and response bodies only where the context holds them."""
    facts: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request": context.id,
        "method": context.method,
        "route": context.route,
        "status": status,
        "outcome": outcome,
        "ms": round(seconds * 1000, 1),
        "queued_ms": round(context.queued_s * 1000, 1),
        "prompt_tokens": context.prompt_tokens,
        "sampled_tokens": context.sampled_tokens,
        "key": context.key,
        "models": context.models,
        "engine": context.engine,
        "retries": context.retries,
    }
    if context.request_body or context.response_body:
        facts["asked"] = _text(context.request_body)
        facts["answered"] = _text(context.response_body)
    return json.dumps(facts, ensure_ascii=False)


def _text(body: bytes) -> str:
    return body[:MAX_CONTENT_BYTES].decode("utf-8", "replace")
