"""A fake engine that a test can kill, stop, start again and give faults to while it runs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FakeEngine:
    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self, fault: str = "none") -> None:
        command = [sys.executable, FAKE_ENGINE, str(self.port), fault]
        self.process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        eventually(self.answers)

    def answers(self) -> bool:
        with contextlib.suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.url}/health", trust_env=False).status_code == 200
        return False

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.wait()

    def fault(self, name: str, times: int = -1) -> None:
        httpx2.post(f"{self.url}/fault", json={"fault": name, "times": times}, trust_env=False)

    def seen(self) -> dict[str, Any]:
        report: dict[str, Any] = httpx2.get(f"{self.url}/seen", trust_env=False).json()
        return report

    def turns(self) -> int:
        """Number of sampling requests received, without probes."""
        return sum(request["body"]["max_tokens"] > 1 for request in self.seen()["requests"])

    def hung(self) -> dict[str, int]:
        counts: dict[str, int] = httpx2.get(f"{self.url}/hung", trust_env=False).json()
        return counts


def eventually(what: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def _pair() -> Iterator[tuple[FakeEngine, FakeEngine]]:
    engines = FakeEngine(), FakeEngine()
    yield engines
    for engine in engines:
        engine.kill()


@pytest.fixture
def pair(_pair: tuple[FakeEngine, FakeEngine]) -> tuple[FakeEngine, FakeEngine]:
    """Two engines that work, whatever the last test did to them."""
    for engine in _pair:
        if engine.process.poll() is not None:
            engine.start()
        engine.signal(signal.SIGCONT)
        engine.fault("none")
    return _pair
