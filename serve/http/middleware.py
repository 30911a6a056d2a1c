"""The way in and out of every request, as pure ASGI (a BaseHTTPMiddleware would hide disconnects)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http import request_context as visit
from serve.http.errors import Problem, problem
from serve.http.logs import CONTENT_BYTES, line
from serve.http.metrics import Metrics
from serve.http.request_context import Outcome, Visit

log = logging.getLogger(__name__)
REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")
SLACK_S = 5.0
"""What a request may take beyond its deadline: to say that it is over, or for a client that reads slowly."""


class ClientGoneError(Exception):
    """Nobody is left to answer."""


@dataclass
class Sent:
    """How far an answer got."""

    status: int = 0
    whole: bool = False

    def note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.whole = not message.get("more_body", False)

    def outcome(self, request: Visit) -> Outcome:
        """cancelled: the client left before it had the whole answer."""
        if request.outcome is not None:
            return request.outcome
        if not self.whole:
            return "cancelled"
        return "ok" if self.status < 400 else "refused" if self.status < 500 else "failed"


class Door:
    """Names the request, counts and logs its outcome, and turns what nobody expected into an envelope."""

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
        request, sent = self._visit(scope), Sent()

        async def named(message: Message) -> None:
            sent.note(message)
            if message["type"] == "http.response.start":
                headers = [(b"x-request-id", request.id.encode())]
                if request.models:
                    answered_by = ", ".join(request.models).encode("latin-1", "replace")
                    headers.append((b"x-userlm-model", answered_by))
                message["headers"] = [*message.get("headers", []), *headers]
            elif self.log_content:
                request.answered += message.get("body", b"")[:CONTENT_BYTES]
            await send(message)

        if scope["method"] == "HEAD":  # the server leaves the body out
            scope = {**scope, "method": "GET"}
        visit.enter(request)
        self.metrics.came_in(request)
        try:
            await self.app(scope, receive, named)
        except Exception as error:
            request.outcome = "failed"
            if sent.status:
                raise
            log.exception("request %s", request.id)
            await problem(error).response()(scope, receive, named)
        finally:
            self._leave(request, sent)

    def _visit(self, scope: Scope) -> Visit:
        # Unknown paths share one label: clients must not be able to grow the metrics.
        route = scope["path"] if scope["path"] in self.routes else "other"
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        return Visit(name, scope["method"], route, deadline=time.monotonic() + self.timeout_s)

    def _leave(self, request: Visit, sent: Sent) -> None:
        seconds, outcome = time.monotonic() - request.began, sent.outcome(request)
        self.metrics.finished(request, outcome, seconds)
        if self.write is not None:
            self.write(line(request, sent.status, outcome, seconds))


class Intake:
    """Reads the whole body, up to a cap, then lets go of requests whose client hangs up before the answer is
    out, and of those whose time is over.

    The cap holds while reading, whatever Content-Length says or leaves out. Cancelling closes the connection
    to the engine, which then stops generating.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, body_s: float, log_content: bool) -> None:
        self.app, self.max_bytes, self.body_s, self.log_content = app, max_bytes, body_s, log_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        try:
            async with asyncio.timeout(self.body_s):
                body = await self._read(receive)
        except ClientGoneError:
            return None
        except TimeoutError:
            return await _close(
                Problem(408, "request_timeout", "the body took too long"), scope, receive, send
            )
        if body is None:
            refusal = Problem(413, "request_too_large", f"the body exceeds {self.max_bytes} bytes")
            return await _close(refusal, scope, receive, send)
        request = visit.current()
        if self.log_content and request is not None:
            request.asked = body
        return await self._answer(body, scope, receive, send, request)

    async def _read(self, receive: Receive) -> bytes | None:
        """None: too large."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if (request := visit.current()) is not None:
                request.body_bytes = len(body)
            if len(body) > self.max_bytes:
                return None
        return bytes(body)

    async def _answer(
        self, body: bytes, scope: Scope, receive: Receive, send: Send, request: Visit | None
    ) -> None:
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        hangup, sent = asyncio.ensure_future(receive()), Sent()

        async def replay() -> Message:
            return unread.pop() if unread else await asyncio.shield(hangup)

        async def noted(message: Message) -> None:
            sent.note(message)
            await send(message)

        answer = asyncio.ensure_future(self.app(scope, replay, noted))
        time_s = None if request is None else request.left_s() + SLACK_S
        refusal = None
        try:
            await asyncio.wait({answer, hangup}, timeout=time_s, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() or sent.whole:
                return await answer
            if not hangup.done() and request is not None:
                request.outcome = "failed"
                refusal = Problem(504, "timeout", "the answer took too long; try again", retry=True)
        except asyncio.CancelledError:  # the server ends before the answer is there
            refusal = Problem(503, "engine_unavailable", "the server ends; try again", retry=True)
            raise
        finally:
            for task in (answer, hangup):
                task.cancel()
            await asyncio.gather(answer, hangup, return_exceptions=True)
            if refusal is not None and not sent.status:
                await _close(refusal, scope, receive, send)


async def _close(refusal: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    response = refusal.response()
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
