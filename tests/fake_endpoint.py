"""A chat endpoint on loopback that does what the test says: for faults that a real one shows only rarely."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """Of 10 prompt and 5 answer tokens; `raw` replaces the whole body."""

    text: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: str | None = None
    delay_s: float = 0.0
    finish: str = "stop"

    def body(self) -> bytes:
        if self.raw is not None:
            return self.raw.encode()
        message = {"role": "assistant", "content": self.text}
        usage = {"prompt_tokens": 10, "completion_tokens": 5}
        choices = [{"index": 0, "message": message, "finish_reason": self.finish}]
        return json.dumps({"choices": choices, "usage": usage}).encode()


Answer = Callable[[dict[str, Any], int], Reply]


class FakeEndpoint:
    """`bodies` are the requests in order; `answer` is given each and its number from 0."""

    def __init__(self, url: str, answer: Answer) -> None:
        self.url, self.answer = url, answer
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()

    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]


@contextmanager
def endpoint(answer: Answer) -> Iterator[FakeEndpoint]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            wanted = int(self.headers["Content-Length"])
            if len(sent := self.rfile.read(wanted)) < wanted:
                return  # the client was killed
            body = json.loads(sent)
            with fake.lock:
                number = len(fake.bodies)
                fake.bodies.append(body)
                fake.headers.append(dict(self.headers))
                fake.busy += 1
                fake.busiest = max(fake.busy, fake.busiest)
            reply = fake.answer(body, number)
            time.sleep(reply.delay_s)
            with fake.lock:
                fake.busy -= 1
            content = reply.body()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:
                self.close_connection = True  # it did not wait

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake = FakeEndpoint(f"http://127.0.0.1:{server.server_port}/v1", answer)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def dead_url() -> str:
    """Of a port at which nobody listens any more."""
    with endpoint(lambda body, number: Reply()) as gone:
        return gone.url
