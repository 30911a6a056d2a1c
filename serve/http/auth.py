"""Authentication middleware: shutdown check, host check, API key and quota, before any body is read."""

from __future__ import annotations

import math

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.config import is_loopback
from serve.http import request_context
from serve.http.errors import ErrorEnvelope
from serve.http.keys import KeyRing
from serve.http.quota import Quota
from serve.http.shutdown import Shutdown

PUBLIC_PATHS = frozenset(
    {"/", "/health", "/ready", "/version", "/openapi.json", "/docs", "/docs/oauth2-redirect"}
)
BYTES_PER_TOKEN = 4
PUBLIC_PAGES = ("/playground", "/static-offline-docs")
"""Pages that need no key. The requests that their scripts send do."""


class AuthMiddleware:
    """Pure ASGI middleware that refuses requests during shutdown, without a valid key, or over quota.

    Args:
        protect_metrics: True if /metrics needs a key as well.
        host: Listening address. While no key is needed, requests for other host names are refused. None: no check.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        shutdown: Shutdown,
        keys: KeyRing,
        protect_metrics: bool,
        host: str | None = None,
    ) -> None:
        self.app, self.shutdown, self.keys, self.host = app, shutdown, keys, host
        self.public_paths = PUBLIC_PATHS if protect_metrics else PUBLIC_PATHS | {"/metrics"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed_host(scope["headers"]):
            return await _foreign_host_response()(scope, receive, send)
        if scope["type"] != "http" or self._is_public(scope["path"]):
            return await self.app(scope, receive, send)
        if self.shutdown.refuses_requests:
            envelope = ErrorEnvelope(
                503, "engine_unavailable", "the server is shutting down; try again", retry=True
            )
            response = envelope.response()
            response.headers["Connection"] = "close"
            return await response(scope, receive, send)
        self.shutdown.in_flight += 1
        try:
            await self._authenticate(scope, receive, send)
        finally:
            self.shutdown.in_flight -= 1

    def _is_allowed_host(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Rejects foreign Host headers (DNS rebinding by a browser page). A missing header is accepted."""
        if self.host is None or not self.keys.is_open:
            return True
        names = [_hostname(value) for header, value in headers if header == b"host"]
        return all(is_loopback(name) or name == self.host.lower() for name in names)

    def _is_public(self, path: str) -> bool:
        return path in self.public_paths or any(
            path == page or path.startswith(f"{page}/") for page in PUBLIC_PAGES
        )

    async def _authenticate(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.keys.is_open:
            return await self.app(scope, receive, send)
        context, match = request_context.current(), self.keys.find(scope["headers"])
        if context is not None:
            context.key = match[0] if match else "invalid"
            context.quota = match[1] if match else None
        if match is None:
            return await _invalid_key_response()(scope, receive, send)
        quota = match[1]
        charge = _TokenCharge(quota)

        async def send_with_quota(message: Message) -> None:
            if message["type"] == "http.response.start":
                charge.was_refused = 400 <= message["status"] < 500
                charge.apply()
                message["headers"] = [*message.get("headers", []), *quota.headers()]
            elif not message.get("more_body", False):
                charge.apply()  # before the client can ask for more
            await send(message)

        if wait_s := quota.admit():
            return await _quota_response(wait_s)(scope, receive, send_with_quota)
        try:
            await self.app(scope, receive, send_with_quota)
        finally:
            charge.apply()


class _TokenCharge:
    """Token count of one request, charged to its quota once, also when the client disconnects.

    A refused body is charged as if it were a prompt.
    """

    def __init__(self, quota: Quota) -> None:
        self.quota, self.charged_tokens, self.was_refused = quota, 0, False

    def apply(self) -> None:
        if (context := request_context.current()) is not None:
            tokens = context.prompt_tokens + context.sampled_tokens
            if self.was_refused:
                tokens = max(tokens, context.body_bytes // BYTES_PER_TOKEN)
            self.quota.charge_tokens(tokens - self.charged_tokens)
            self.charged_tokens = tokens


def _hostname(host: bytes) -> str:
    """Host name without port and trailing dot."""
    text = host.decode("latin-1").lower().strip()
    return text[1 : text.find("]")] if text.startswith("[") else text.partition(":")[0].rstrip(".")


def _foreign_host_response() -> JSONResponse:
    return ErrorEnvelope(
        421,
        "foreign_host",
        "this server answers requests to localhost only; for other names configure keys, or set open_access=true",
    ).response()


def _invalid_key_response() -> JSONResponse:
    """Same message for every reason, so that it reveals nothing about the keys."""
    response = ErrorEnvelope(
        401, "invalid_api_key", "send a valid API key: Authorization: Bearer KEY"
    ).response()
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _quota_response(wait_s: float) -> JSONResponse:
    message = "this key's requests or tokens per minute are used up"
    return ErrorEnvelope(
        429, "rate_limit_exceeded", message, retry=True, retry_after_s=math.ceil(wait_s)
    ).response()
