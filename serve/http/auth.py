"""Who may come in, as pure ASGI before any body is read: nobody once the front is leaving, else those with a key
and something left of their quota."""

from __future__ import annotations

import math

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.config import is_loopback
from serve.http import request_context as visit
from serve.http.errors import Problem
from serve.http.keys import KeyRing
from serve.http.quota import Quota
from serve.http.shutdown import Drain

OPEN = frozenset({"/", "/health", "/ready", "/version", "/openapi.json", "/docs", "/docs/oauth2-redirect"})
BYTES_PER_TOKEN = 4
OPEN_PAGES = ("/playground", "/static-offline-docs")
"""Pages are no secret; what they ask for needs the visitor's key."""


class Gate:
    """`host`: where the front listens, if requests that name another are refused while no key is asked for."""

    def __init__(
        self, app: ASGIApp, *, drain: Drain, keys: KeyRing, protect_metrics: bool, host: str | None = None
    ) -> None:
        self.app, self.drain, self.keys, self.host = app, drain, keys, host
        self.open = OPEN if protect_metrics else OPEN | {"/metrics"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_meant(scope["headers"]):
            return await _foreign()(scope, receive, send)
        if scope["type"] != "http" or self._is_open(scope["path"]):
            return await self.app(scope, receive, send)
        if self.drain.refusing:
            leaving = Problem(503, "engine_unavailable", "this server is leaving; try again", retry=True)
            response = leaving.response()
            response.headers["Connection"] = "close"
            return await response(scope, receive, send)
        self.drain.in_flight += 1
        try:
            await self._admit(scope, receive, send)
        finally:
            self.drain.in_flight -= 1

    def _is_meant(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """A page whose name now points at this machine may have a browser ask in that name (DNS rebinding); a program
        may leave the name out."""
        if self.host is None or not self.keys.open:
            return True
        names = [_name(value) for header, value in headers if header == b"host"]
        return all(is_loopback(name) or name == self.host.lower() for name in names)

    def _is_open(self, path: str) -> bool:
        return path in self.open or any(path == page or path.startswith(f"{page}/") for page in OPEN_PAGES)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.keys.open:
            return await self.app(scope, receive, send)
        request, found = visit.current(), self.keys.find(scope["headers"])
        if request is not None:
            request.key = found[0] if found else "invalid"
            request.quota = found[1] if found else None
        if found is None:
            return await _unknown()(scope, receive, send)
        quota = found[1]
        bill = _Bill(quota)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                bill.refused = 400 <= message["status"] < 500
                bill.settle()
                message["headers"] = [*message.get("headers", []), *quota.headers()]
            elif not message.get("more_body", False):
                bill.settle()  # before the client can ask for more
            await send(message)

        if wait_s := quota.admit():
            return await _over(wait_s)(scope, receive, told)
        try:
            await self.app(scope, receive, told)
        finally:
            bill.settle()


class _Bill:
    """The tokens of one request, charged once, whether its client stayed to the end or not. A body that was refused
    costs what it would have as a prompt."""

    def __init__(self, quota: Quota) -> None:
        self.quota, self.charged, self.refused = quota, 0, False

    def settle(self) -> None:
        if (request := visit.current()) is not None:
            tokens = request.prompt_tokens + request.sampled_tokens
            if self.refused:
                tokens = max(tokens, request.body_bytes // BYTES_PER_TOKEN)
            self.quota.charge(tokens - self.charged)
            self.charged = tokens


def _name(host: bytes) -> str:
    """Without the port and the root's dot."""
    text = host.decode("latin-1").lower().strip()
    return text[1 : text.find("]")] if text.startswith("[") else text.partition(":")[0].rstrip(".")


def _foreign() -> JSONResponse:
    return Problem(
        421,
        "foreign_host",
        "this server answers requests to localhost only; for other names configure keys, or say open_access=true",
    ).response()


def _unknown() -> JSONResponse:
    """The same words for every reason."""
    response = Problem(401, "invalid_api_key", "send a valid API key: Authorization: Bearer KEY").response()
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _over(wait_s: float) -> JSONResponse:
    message = "this key's requests or tokens per minute are used up"
    return Problem(
        429, "rate_limit_exceeded", message, retry=True, retry_after_s=math.ceil(wait_s)
    ).response()
