"""The one error table: what went wrong → HTTP status and OpenAI's error envelope, on every path."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from usersim.errors import BackendError, GuardError, RenderError, UsersimError

log = logging.getLogger(__name__)
RETRY_AFTER_S = 2
MAX_MESSAGE = 500
"""Characters: a complaint must not carry a megabyte of somebody's input back."""


class RequestError(Exception):
    """A request that this endpoint refuses, said in its own words."""

    def __init__(
        self, message: str, *, code: str = "invalid_request", param: str | None = None, status: int = 400
    ) -> None:
        super().__init__(message)
        self.code, self.param, self.status = code, param, status


@dataclass(frozen=True)
class Problem:
    status: int
    code: str
    message: str
    param: str | None = None
    retry: bool | None = None
    """True: worth repeating, with Retry-After. False: tells clients that retry every 5xx not to."""

    def response(self) -> JSONResponse:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message[:MAX_MESSAGE], "type": kind, "param": self.param, "code": self.code}
        headers = {}
        if self.retry:
            headers["Retry-After"] = str(RETRY_AFTER_S)
        elif self.retry is False:
            headers["x-should-retry"] = "false"
        return JSONResponse({"error": error}, status_code=self.status, headers=headers)


def problem(error: Exception) -> Problem:
    """The table."""
    match error:
        case RequestError():
            return Problem(error.status, error.code, str(error), error.param)
        case RequestValidationError():
            return _invalid(error.errors())
        case RenderError():
            # litellm recognises an overflow by this text, so the text is a contract anyway.
            overflow = str(error).startswith("This model's maximum context length")
            code = "context_length_exceeded" if overflow else "invalid_request"
            return Problem(400, code, str(error), "messages")
        case GuardError():
            return Problem(500, "guards_exhausted", str(error), retry=False)
        # The engine's own words stay in the log: they name sockets and paths.
        case BackendError(retryable=True):
            return Problem(503, "engine_unavailable", "the engine does not answer; try again", retry=True)
        case BackendError():
            return Problem(502, "engine_protocol_error", "the engine gave no usable answer", retry=False)
        case UsersimError():
            return Problem(500, "internal_error", str(error), retry=False)
        case HTTPException():
            return _http(error)
    return Problem(500, "internal_error", "an error in the server; its log has the traceback", retry=False)


def _invalid(complaints: Sequence[Mapping[str, Any]]) -> Problem:
    """The first complaint, without the input that caused it."""
    first = complaints[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return Problem(400, "invalid_json", f"the body is not JSON ({first['ctx']['error']})")
    more = f" (+{len(complaints) - 1} more)" if len(complaints) > 1 else ""
    message = str(first["msg"]).removeprefix("Value error, ")
    return Problem(400, "invalid_request", f"{where + ': ' if where else ''}{message}{more}", where or None)


def _http(error: HTTPException) -> Problem:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
    return Problem(error.status_code, codes.get(error.status_code, "invalid_request"), str(error.detail))


def install(app: FastAPI) -> None:
    """Every error that FastAPI sees becomes an envelope; the rest is caught by `middleware.Door`."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        if isinstance(error, BackendError):
            log.warning("%s", error)
        return problem(error).response()

    for kind in (RequestError, RequestValidationError, UsersimError, HTTPException):
        app.add_exception_handler(kind, answer)
