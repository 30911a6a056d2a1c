"""A log that cannot be written must cost lines, never answers."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from serve.app import create_app
from serve.config import ServeConfig
from serve.http.logs import Sink, SinkHandler
from tests.serve.conftest import serving
from tests.serve.engines import eventually
from usersim.testing import ScriptedSampler
from usersim.users.userlm import UserLM

LINE = "x" * 1000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def read(end: int, lines: int) -> list[dict[str, object]]:
    with os.fdopen(os.dup(end)) as text:
        return [json.loads(text.readline()) for _ in range(lines)]


def test_lines_come_out_whole_and_in_order(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    for number in range(50):
        sink.put(json.dumps({"number": number}))
    sink.close()
    assert [line["number"] for line in read(pipe[0], 50)] == list(range(50))
    assert sink.dropped == 0


def test_a_full_disk_costs_lines_only() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    sink = Sink(full)
    for _ in range(10):
        sink.put(LINE)
    eventually(lambda: sink.dropped == 10)
    sink.close()
    os.close(full)


def test_a_reader_that_went_away_costs_lines_only(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    sink = Sink(pipe[1])
    sink.put(LINE)
    eventually(lambda: sink.dropped == 1)


def test_nobody_waits_for_a_pipe_that_is_not_read(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1], capacity=100)
    handler = SinkHandler(sink)
    began = time.monotonic()
    for _ in range(1000):
        sink.put(LINE)
        handler.emit(logging.LogRecord("a", logging.ERROR, "a.py", 1, "%s", (LINE,), None))
    assert time.monotonic() - began < 5
    assert sink.dropped > 1500
    # Its thread must be gone before the number of this pipe belongs to another.
    os.close(pipe[0])
    sink.close(timeout_s=60)


def logged(pipe: tuple[int, int], renderer, words, **settings: object) -> list[dict[str, object]]:
    """The lines of an answered and of a refused request."""
    sink, config = Sink(pipe[1]), ServeConfig.model_validate({"names": ["userlm"], **settings})
    user = UserLM(renderer, ScriptedSampler(words("secret answer")), name="bytes")
    with serving(create_app(config, user, log_sink=sink)) as url:
        head = {"X-Request-ID": "r-1"}
        httpx2.post(f"{url}/v1/user/turns", json={"goal": "secret goal"}, headers=head, trust_env=False)
        httpx2.post(f"{url}/somewhere/secret", json={"gaol": "secret"}, trust_env=False)
    return read(pipe[0], 2)


def test_a_request_is_one_line_without_content(pipe: tuple[int, int], renderer, words) -> None:
    first, second = logged(pipe, renderer, words)
    assert first["request"] == "r-1"
    assert (first["route"], first["status"], first["outcome"]) == ("/v1/user/turns", 200, "ok")
    assert first["sampled_tokens"] == len("secret answer") + 1
    assert int(str(first["prompt_tokens"])) > 10
    assert float(str(first["ms"])) > 0
    assert (second["route"], second["status"], second["outcome"]) == ("other", 404, "refused")
    assert "secret" not in json.dumps([first, second])


def test_content_is_logged_when_asked_for(pipe: tuple[int, int], renderer, words) -> None:
    first, _ = logged(pipe, renderer, words, log_content=True)
    assert json.loads(str(first["asked"])) == {"goal": "secret goal"}
    assert "secret answer" in str(first["answered"])


SERVER = """
import sys
from serve.__main__ import _open_log_sinks
from serve.config import ServeConfig
from contextlib import ExitStack
import logging
logging.basicConfig(stream=sys.stderr)
with ExitStack() as stack:
    sink = _open_log_sinks(stack, ServeConfig())
    for _ in range(2000):
        sink.put("x" * 1000)
        logging.error("%s", "y" * 1000)
    open(sys.argv[1], "w").write("served")
"""


@pytest.mark.parametrize("sink", ["/dev/full", "closed pipe", "pipe that nobody reads"])
def test_the_process_goes_on_and_ends_well_without_its_output(sink: str, tmp_path: Path) -> None:
    reader, writer = os.pipe() if "pipe" in sink else (None, os.open(sink, os.O_WRONLY))
    if sink == "closed pipe" and reader is not None:
        os.close(reader)
    done = tmp_path / "done"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(done)],
        stdout=writer,
        stderr=writer,
        cwd=Path(__file__).parents[3],
    )
    os.close(writer)
    process.wait(120)
    assert done.read_text(encoding="utf-8") == "served"
    if sink != "pipe that nobody reads":
        assert process.returncode == 0
    if reader is not None and sink != "closed pipe":
        os.close(reader)
