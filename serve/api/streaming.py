"""Responses as server-sent events: `data: {…}` per event, then `data: [DONE]`.

An error before the first event is an ordinary response with its own status. A later error is an event before [DONE],
on which OpenAI's client raises, and the request counts as failed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve.http import request_context
from serve.http.errors import error_envelope
from serve.http.request_context import Outcome
from usersim.errors import UsersimError

log = logging.getLogger(__name__)
KEEP_ALIVE_S = 15.0
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # proxies must not buffer events
DONE, COMMENT = b"data: [DONE]\n\n", b": keep-alive\n\n"


def frame(event: BaseModel | dict[str, Any]) -> bytes:
    text = event.model_dump_json() if isinstance(event, BaseModel) else json.dumps(event, ensure_ascii=False)
    return b"data: " + text.encode() + b"\n\n"


def error_body(error: Exception) -> dict[str, Any]:
    """Error envelope as in an ordinary response."""
    envelope: dict[str, Any] = json.loads(bytes(error_envelope(error).response().body))
    return envelope


class EventStream(Response):
    """Server-sent events with back-pressure: reads the next event after the last was sent.

    Sends keep-alive comments, and closes `events` when the client disconnects.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[BaseModel | dict[str, Any], None], *, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self.events, self.keep_alive_s = events, keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        next_event = self._next()
        writer = _Writer(self, send)
        try:
            while True:
                futures: list[asyncio.Future[Any]] = [disconnect, next_event]
                await asyncio.wait(futures, timeout=self.keep_alive_s, return_when=asyncio.FIRST_COMPLETED)
                if disconnect.done():
                    _set_outcome("cancelled")
                    return
                if not next_event.done():
                    await writer.write(COMMENT)
                    continue
                if (event := next_event.result()) is None:
                    return await writer.end()
                await writer.write(frame(event))
                next_event = self._next()
        except Exception as error:
            if not writer.started:
                raise
            await writer.fail(error)
        finally:
            for task in (disconnect, next_event):
                task.cancel()
            await asyncio.gather(disconnect, next_event, return_exceptions=True)
            await self.events.aclose()

    def _next(self) -> asyncio.Future[BaseModel | dict[str, Any] | None]:
        async def read_next() -> BaseModel | dict[str, Any] | None:
            return await anext(self.events, None)

        return asyncio.ensure_future(read_next())


class _Writer:
    def __init__(self, response: Response, send: Send) -> None:
        self.response, self.send, self.started = response, send, False

    async def write(self, data: bytes, *, more: bool = True) -> None:
        if not self.started:
            self.started = True
            head = {"status": self.response.status_code, "headers": self.response.raw_headers}
            await self.send({"type": "http.response.start", **head})
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def end(self) -> None:
        await self.write(DONE, more=False)

    async def fail(self, error: Exception) -> None:
        _set_outcome("failed")
        if isinstance(error, UsersimError):
            log.warning("%s", error)
        else:
            log.error("in a stream", exc_info=error)
        await self.write(frame(error_body(error)) + DONE, more=False)


async def _wait_for_disconnect(receive: Receive) -> None:
    message: Message = {}
    while message.get("type") != "http.disconnect":
        message = await receive()


def _set_outcome(outcome: Outcome) -> None:
    if (context := request_context.current()) is not None:
        context.outcome = outcome
