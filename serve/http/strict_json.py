"""Strict JSON parsing: NaN, infinity, lone surrogates, duplicate names and invalid UTF-8 answer 400."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from serve.http.bounds import TooManyError, check_size


def parse(body: bytes) -> Any:
    """Parses a request body.

    Raises:
        json.JSONDecodeError: If the body is not JSON.
        HTTPException: With status 400 if Python's parser accepts the body and the JSON standard does not, or if a
            list or object is too large.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            parse_constant=_reject_constant,
            parse_float=_finite_float,
            object_pairs_hook=_reject_duplicate_names,
        )
        if b"\\u" in body:  # UTF-8 itself has no lone surrogates, an escape may be one
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        check_size(value)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError:
        raise HTTPException(400, "the body is not UTF-8") from None
    except UnicodeEncodeError:
        raise HTTPException(400, "the body holds a lone surrogate, which is not text") from None
    except TooManyError as error:
        raise HTTPException(400, str(error)) from None
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not acceptable JSON ({error})") from None
    return value


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _reject_duplicate_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object; rejects duplicate names, of which some parsers take the first and others the last."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name appears twice in one object")
    return value


def _finite_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is out of range")
    return value


class StrictRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """Route that parses its body with `parse` and names the expected content type if it is not JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            strict = StrictRequest(request.scope, request.receive)
            try:
                return await handle(strict)
            except RequestValidationError as error:
                if isinstance(error.body, bytes):
                    raise HTTPException(
                        400, "send a JSON object with Content-Type: application/json"
                    ) from error
                raise

        return handle_strictly
