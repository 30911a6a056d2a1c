"""uvicorn HTTP protocol that limits the head of a request in bytes and in time, before authentication.

uvicorn with httptools has neither limit. A growing header is copied with every piece received, and an unfinished head
keeps its connection open. Bytes between and after the pieces of a chunked body count towards the same limit.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.http.errors import ErrorEnvelope


class HeadTooLargeError(Exception):
    """Raised to stop the parser at a head over the size limit."""


class BoundedHeadProtocol(HttpToolsProtocol):
    """Protocol that answers 431 to a head over `max_head_bytes`, and 408 to one incomplete after `head_s` seconds."""

    max_head_bytes = 32 * 1024
    head_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._received = 0
        """Bytes since the parser last reported a head, body or piece of a body; at most one read too many."""
        self._head_started = False
        """True while a head is being received."""
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._received > self.max_head_bytes:
            self._refuse_size()
        elif self.cycle is None or self.cycle.response_complete:
            self._start_head_timer()
        else:
            self._stop_head_timer()

    def on_message_begin(self) -> None:
        self._head_started = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_started = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.max_head_bytes:
            self._too_large = True
            raise HeadTooLargeError
        self._received = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._received = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._received = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._head_started:  # pipelined: the next head arrived meanwhile
            self._start_head_timer()

    def send_400_response(self, msg: str) -> None:
        """Overrides uvicorn's answer to every parser error."""
        if self._too_large:
            self._refuse_size()
        elif self._can_answer():
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _start_head_timer(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.head_s, self._on_head_timeout)

    def _stop_head_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_head_timeout(self) -> None:
        if self.transport.is_closing():
            return
        if self._head_started:
            self._refuse(ErrorEnvelope(408, "request_timeout", "the request's head took too long"))
        else:
            self.transport.close()

    def _refuse_size(self) -> None:
        message = f"the request line and headers exceed {self.max_head_bytes} bytes"
        self._refuse(ErrorEnvelope(431, "request_header_fields_too_large", message))

    def _can_answer(self) -> bool:
        """True if data written now would be the response to the request being read, not part of an earlier one."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self.cycle.more_body and not self.cycle.response_started and not self.pipeline

    def _refuse(self, envelope: ErrorEnvelope) -> None:
        if not self._can_answer():
            self.transport.close()
            return
        response = envelope.response()
        headers = [*response.raw_headers, (b"connection", b"close")]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[envelope.status] + lines + b"\r\n" + bytes(response.body))
        self.transport.close()


def bounded_protocol(max_head_bytes: int, head_s: float) -> type[asyncio.Protocol]:
    """Builds the protocol class for uvicorn's `http` setting."""
    return type("Bounded", (BoundedHeadProtocol,), {"max_head_bytes": max_head_bytes, "head_s": head_s})
