"""Access log and body limit, as pure ASGI middleware (a BaseHTTPMiddleware would hide disconnects)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http import request_context
from serve.http.errors import ErrorEnvelope, error_envelope
from serve.http.logs import MAX_CONTENT_BYTES, access_log_line
from serve.http.metrics import Metrics
from serve.http.request_context import Outcome, RequestContext

log = logging.getLogger(__name__)
REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")
GRACE_S = 5.0
"""Seconds after the deadline for sending the timeout error, or for a client that reads slowly."""


class ClientDisconnectedError(Exception):
    """Raised when the client disconnects while its body is read."""


@dataclass
class ResponseProgress:
    """Status of a response and whether its last part was sent."""

    status: int = 0
    is_complete: bool = False

    def update(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)

    def outcome(self, context: RequestContext) -> Outcome:
        """Outcome for the metrics; "cancelled" if the client disconnected before the end of the response."""
        if context.outcome is not None:
            return context.outcome
        if not self.is_complete:
            return "cancelled"
        return "ok" if self.status < 400 else "refused" if self.status < 500 else "failed"


class AccessLogMiddleware:
    """Outermost middleware: request id, metrics, access log, and error envelopes for unexpected exceptions.

    Args:
        routes: Known paths. All other paths are counted as "other".
        timeout_s: Seconds until the request's deadline.
        write: Consumer of access log lines; None: no access log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        routes: frozenset[str],
        timeout_s: float,
        write: Callable[[str], None] | None,
        log_content: bool,
    ) -> None:
        self.app, self.metrics, self.routes, self.timeout_s = app, metrics, routes, timeout_s
        self.write, self.log_content = write, log_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        context, progress = self._new_context(scope), ResponseProgress()

        async def send_with_headers(message: Message) -> None:
            progress.update(message)
            if message["type"] == "http.response.start":
                headers = [(b"x-request-id", context.id.encode())]
                if context.models:
                    model_names = ", ".join(context.models).encode("latin-1", "replace")
                    headers.append((b"x-userlm-model", model_names))
                message["headers"] = [*message.get("headers", []), *headers]
            elif self.log_content:
                context.response_body += message.get("body", b"")[:MAX_CONTENT_BYTES]
            await send(message)

        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        request_context.enter(context)
        self.metrics.request_started(context)
        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            context.outcome = "failed"
            if progress.status:
                raise
            log.exception("request %s", context.id)
            await error_envelope(error).response()(scope, receive, send_with_headers)
        finally:
            self._finish(context, progress)

    def _new_context(self, scope: Scope) -> RequestContext:
        # Unknown paths share one label: clients must not be able to grow the metrics.
        route = scope["path"] if scope["path"] in self.routes else "other"
        request_id = dict(scope["headers"]).get(b"x-request-id", b"")
        name = request_id.decode() if REQUEST_ID.fullmatch(request_id) else uuid.uuid4().hex
        return RequestContext(name, scope["method"], route, deadline=time.monotonic() + self.timeout_s)

    def _finish(self, context: RequestContext, progress: ResponseProgress) -> None:
        seconds, outcome = time.monotonic() - context.started_s, progress.outcome(context)
        self.metrics.request_finished(context, outcome, seconds)
        if self.write is not None:
            self.write(access_log_line(context, progress.status, outcome, seconds))


class BodyLimitMiddleware:
    """Middleware that reads the whole body up to a limit, and cancels requests on disconnect or timeout.

    The limit is enforced while reading, whatever Content-Length says. Cancelling closes the connection to the
    engine, which then stops generating.

    Args:
        app: The next ASGI application.
        max_bytes: Largest body in bytes.
        body_s: Longest time for receiving the body, in seconds.
        log_content: True if bodies are kept for the access log.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, body_s: float, log_content: bool) -> None:
        self.app, self.max_bytes, self.body_s, self.log_content = app, max_bytes, body_s, log_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        try:
            async with asyncio.timeout(self.body_s):
                body = await self._read_body(receive)
        except ClientDisconnectedError:
            return None
        except TimeoutError:
            return await _refuse_and_close(
                ErrorEnvelope(408, "request_timeout", "the body took too long"), scope, receive, send
            )
        if body is None:
            refusal = ErrorEnvelope(413, "request_too_large", f"the body exceeds {self.max_bytes} bytes")
            return await _refuse_and_close(refusal, scope, receive, send)
        context = request_context.current()
        if self.log_content and context is not None:
            context.request_body = body
        return await self._answer(body, scope, receive, send, context)

    async def _read_body(self, receive: Receive) -> bytes | None:
        """Returns the body, or None if it is too large."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnectedError
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if (context := request_context.current()) is not None:
                context.body_bytes = len(body)
            if len(body) > self.max_bytes:
                return None
        return bytes(body)

    async def _answer(
        self, body: bytes, scope: Scope, receive: Receive, send: Send, context: RequestContext | None
    ) -> None:
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        disconnect, progress = asyncio.ensure_future(receive()), ResponseProgress()

        async def replay() -> Message:
            return unread.pop() if unread else await asyncio.shield(disconnect)

        async def send_and_record(message: Message) -> None:
            progress.update(message)
            await send(message)

        response = asyncio.ensure_future(self.app(scope, replay, send_and_record))
        timeout_s = None if context is None else context.remaining_s() + GRACE_S
        refusal = None
        try:
            await asyncio.wait({response, disconnect}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if response.done() or progress.is_complete:
                return await response
            if not disconnect.done() and context is not None:
                context.outcome = "failed"
                refusal = ErrorEnvelope(504, "timeout", "the answer took too long; try again", retry=True)
        except asyncio.CancelledError:  # the server shuts down before the response is ready
            refusal = ErrorEnvelope(
                503, "engine_unavailable", "the server is shutting down; try again", retry=True
            )
            raise
        finally:
            for task in (response, disconnect):
                task.cancel()
            await asyncio.gather(response, disconnect, return_exceptions=True)
            if refusal is not None and not progress.status:
                await _refuse_and_close(refusal, scope, receive, send)


async def _refuse_and_close(refusal: ErrorEnvelope, scope: Scope, receive: Receive, send: Send) -> None:
    response = refusal.response()
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
