"""A byte-level tokenizer of a few kilobytes, the real app on a real socket, and a fake engine process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from serve.app import create_app
from serve.config import ServeConfig
from serve.http.protocol import bounded_protocol
from usersim.rendering.renderer import Renderer, RenderSettings
from usersim.users.userlm import UserLM

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
START, TURN_END, END = 256, 257, 258


def byte_tokenizer() -> dict[str, Any]:
    """Every byte is a token (its rank in GPT-2's alphabet), and there are three control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endconversation|>"])
    return json.loads(tokenizer.to_str())


SETTINGS = RenderSettings(
    chat_format="chatml", end_of_turn_id=TURN_END, end_of_conversation_id=END, context_tokens=1024
)


@pytest.fixture(scope="session")
def renderer() -> Renderer:
    return Renderer(byte_tokenizer(), SETTINGS)


@pytest.fixture(scope="session")
def words(renderer: Renderer) -> Callable[[str], list[int]]:
    """Token ids of a text followed by the end of the turn."""
    return lambda text: [*renderer.encode(text), TURN_END]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a User LM that the API server needs; no weights."""
    folder = tmp_path_factory.mktemp("models") / "bytes"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()), encoding="utf-8")
    (folder / "userlm.json").write_text(SETTINGS.model_dump_json(), encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


@contextlib.contextmanager
def serving(app: Any, config: ServeConfig | None = None) -> Iterator[str]:
    config = config or ServeConfig()
    http = bounded_protocol(config.max_head_bytes, config.limits.head_s)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on", http=http, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def start_server(renderer: Renderer) -> Iterator[Callable[..., str]]:
    """Function that starts the real app over a sampler on a real socket and returns its URL."""
    with contextlib.ExitStack() as stack:

        def start(sampler: Any, **settings: Any) -> str:
            config = ServeConfig.model_validate({"names": ["userlm"], **settings})
            user = UserLM(
                renderer,
                sampler,
                sampling=config.sampling,
                end=config.end,
                guards=config.guards,
                name="bytes",
            )
            return stack.enter_context(serving(create_app(config, user), config))

        yield start


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=120, trust_env=False) as client:
        yield client


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def fake_engine() -> Iterator[Callable[..., str]]:
    """`fake_engine(fault=…)`: the URL of a process that answers like vLLM, or fails in the way asked for."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(fault: str = "none") -> str:
        port = free_port()
        command = [sys.executable, FAKE_ENGINE, str(port), fault]
        processes.append(subprocess.Popen(command, start_new_session=True))
        url = f"http://127.0.0.1:{port}"
        for _ in range(1200):
            with contextlib.suppress(httpx2.HTTPError):
                httpx2.get(f"{url}/health", trust_env=False)
                return url
            time.sleep(0.05)
        raise AssertionError("the fake engine did not start")

    yield start
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)  # its child would outlive it, as vLLM's core would
        process.wait()
