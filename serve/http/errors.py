"""Error table: maps exceptions to HTTP status codes and OpenAI's error envelope, for every route."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve.schemas import AS_OBJECT, AS_PARTS, AS_TEXT
from usersim.errors import BackendError, ContextOverflowError, GuardError, RenderError, UsersimError

log = logging.getLogger(__name__)
RETRY_AFTER_S = (1, 5)
"""Range of Retry-After, in seconds. Jittered, so that clients refused together do not retry together."""
MAX_RETRY_AFTER_S = 120
"""Longest Retry-After: openai-python does not retry after a longer one."""
MAX_MESSAGE = 500
"""Longest error message in characters: an error must not echo a megabyte of the client's input."""
UNION_TAGS = {"body", AS_TEXT, AS_OBJECT, AS_PARTS}
"""Parts of a pydantic error location that are not names in the client's body."""
PYDANTIC_TYPE_NAME = re.compile(r"a valid dictionary or (?:instance|object).*")
ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class RequestError(Exception):
    """Raised for a request that the endpoint refuses, with its error code, parameter and status."""

    def __init__(
        self, message: str, *, code: str = "invalid_request", param: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.status = code, param, status


class OverloadedError(BackendError):
    """Raised when the admission queue is full or a request waited too long in it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class DeadlineError(BackendError):
    """Raised when the time for a request is over, whether the engine still works on it or hangs."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


@dataclass(frozen=True)
class ErrorEnvelope:
    """HTTP error response in OpenAI's envelope."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry: bool | None = None
    """True: sends Retry-After. False: tells clients that retry every 5xx not to. None: sends neither."""
    retry_after_s: int | None = None
    """Seconds for Retry-After. None: a random value in RETRY_AFTER_S."""

    def response(self) -> JSONResponse:
        kind = ERROR_TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message[:MAX_MESSAGE], "type": kind, "param": self.param, "code": self.code}
        headers = {}
        if self.retry:
            after = self.retry_after_s or random.randint(*RETRY_AFTER_S)
            headers["Retry-After"] = str(min(after, MAX_RETRY_AFTER_S))
        elif self.retry is False:
            headers["x-should-retry"] = "false"
        return JSONResponse({"error": error}, status_code=self.status, headers=headers)


def error_envelope(error: Exception) -> ErrorEnvelope:
    """Maps an exception to its status, code and message."""
    match error:
        case RequestError():
            return ErrorEnvelope(error.status, error.code, str(error), error.param)
        case RequestValidationError():
            return _validation_envelope(error.errors())
        case ContextOverflowError():
            return ErrorEnvelope(400, "context_length_exceeded", str(error), "messages")
        case RenderError():
            return ErrorEnvelope(400, "invalid_request", str(error), "messages")
        case GuardError():
            return ErrorEnvelope(500, "guards_exhausted", str(error), retry=False)
        case OverloadedError():
            return ErrorEnvelope(503, "overloaded", "too many requests at once; try again later", retry=True)
        case DeadlineError():
            return ErrorEnvelope(504, "timeout", "the answer took too long; try again", retry=True)
        # The engine's own message stays in the log: it names sockets and paths.
        case BackendError(retryable=True):
            return ErrorEnvelope(
                503, "engine_unavailable", "the engine does not answer; try again", retry=True
            )
        case BackendError():
            return ErrorEnvelope(
                502, "engine_protocol_error", "the engine gave no usable answer", retry=False
            )
        case UsersimError():
            return ErrorEnvelope(500, "internal_error", str(error), retry=False)
        case HTTPException():
            return _http_envelope(error)
    return ErrorEnvelope(
        500, "internal_error", "an error in the server; its log has the traceback", retry=False
    )


def _validation_envelope(validation_errors: Sequence[Mapping[str, Any]]) -> ErrorEnvelope:
    """Envelope of the first validation error, without the input that caused it."""
    first = validation_errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in UNION_TAGS)
    if first["type"] == "json_invalid":
        return ErrorEnvelope(400, "invalid_json", f"the body is not JSON ({first['ctx']['error']})")
    more = f" (+{len(validation_errors) - 1} more)" if len(validation_errors) > 1 else ""
    message = PYDANTIC_TYPE_NAME.sub("an object", str(first["msg"]).removeprefix("Value error, "))
    return ErrorEnvelope(
        400, "invalid_request", f"{where + ': ' if where else ''}{message}{more}", where or None
    )


def _not_found_message(path: str, app: FastAPI) -> str:
    """404 message; hints at /v1 if the path exists there."""
    if f"/v1{path}" in {getattr(route, "path", None) for route in app.routes}:
        return f"no route {path}; use /v1{path}: an OpenAI client's base URL ends in /v1"
    return "no such route; GET / lists the routes"


def _http_envelope(error: HTTPException) -> ErrorEnvelope:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
    return ErrorEnvelope(
        error.status_code, codes.get(error.status_code, "invalid_request"), str(error.detail)
    )


def install_handlers(app: FastAPI) -> None:
    """Adds exception handlers that answer with envelopes; `AccessLogMiddleware` catches all other exceptions."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, HTTPException) and error.status_code == 404:
            error = HTTPException(404, _not_found_message(request.url.path, app))
        # Overload refusals are counted in the metrics, not logged one by one.
        if isinstance(error, BackendError) and not isinstance(error, OverloadedError):
            log.warning("%s", error)
        response = error_envelope(error).response()
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    for kind in (RequestError, RequestValidationError, UsersimError, HTTPException):
        app.add_exception_handler(kind, answer)
