"""The way in and out of every request, as pure ASGI (a BaseHTTPMiddleware would hide disconnects)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import Problem, problem
from serve.metrics import Metrics

log = logging.getLogger(__name__)


class ClientGoneError(Exception):
    """Nobody is left to answer."""


REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")


class Door:
    """Names the request, counts its outcome, and turns what nobody expected into an envelope."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        name = _request_id(scope)
        # Unknown paths share one label: clients must not be able to grow the metrics.
        route = scope["path"] if scope["path"] in self.routes else "other"
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name)]
            await send(message)

        began = time.monotonic()
        self.metrics.in_flight.inc()
        try:
            await self.app(scope, receive, named)
        except Exception as error:
            if status:
                raise
            log.exception("request %s", name.decode())
            await problem(error).response()(scope, receive, named)
        finally:
            self.metrics.in_flight.dec()
            seconds = time.monotonic() - began
            self.metrics.finished(route, _outcome(status), seconds)
            log.info("%s %s %s %d %.0f ms", name.decode(), scope["method"], route, status, seconds * 1000)


class Intake:
    """Reads the whole body, up to a cap, then lets go of requests whose client hangs up before the answer.

    The cap holds while reading, whatever Content-Length says or leaves out. Cancelling closes the connection
    to the engine, which then stops generating.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            return await self.app(scope, receive, send)
        try:
            body = await self._read(receive)
        except ClientGoneError:
            return None
        if body is None:
            refusal = Problem(413, "request_too_large", f"the body exceeds {self.max_bytes} bytes").response()
            refusal.headers["Connection"] = "close"
            return await refusal(scope, receive, send)
        return await self._answer(body, scope, receive, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """None: too large."""
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.max_bytes:
                return None
        return bytes(body)

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        hangup, started = asyncio.ensure_future(receive()), False

        async def replay() -> Message:
            return whole.pop() if whole else await asyncio.shield(hangup)

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        answer = asyncio.ensure_future(self.app(scope, replay, noted))
        try:
            await asyncio.wait({answer, hangup}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done() or started:
                await answer
        finally:
            # Also when this task itself is cancelled, at a forced shutdown.
            for task in (answer, hangup):
                task.cancel()
            await asyncio.gather(answer, hangup, return_exceptions=True)


def _request_id(scope: Scope) -> bytes:
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()


def _outcome(status: int) -> str:
    """cancelled: the client left before an answer could start."""
    if not status:
        return "cancelled"
    return {2: "ok", 3: "ok", 4: "refused"}.get(status // 100, "failed")
