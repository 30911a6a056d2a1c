"""The supervisor over a fake engine: a process with a child of its own, as vLLM has."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from serve.engine.address import private_socket
from serve.engine.command import EngineCommand
from serve.engine.supervisor import Engine
from usersim.errors import BackendError

HERE = Path(__file__).parent
FAKE_ENGINE = HERE.parent / "fake_engine.py"


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fake(fault: str = "none", port: int | None = None) -> EngineCommand:
    port = port or free_port()
    argv = (sys.executable, "-u", str(FAKE_ENGINE), str(port), fault)
    return EngineCommand(argv, {}, f"http://127.0.0.1:{port}", "fake")


def running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def eventually(what: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def pids(text: str) -> list[int]:
    return [int(line.split()[1]) for line in text.splitlines() if line.startswith("child ")]


def test_it_starts_and_leaves_nothing_behind() -> None:
    with Engine(fake()) as engine:
        engine.start()
        assert engine.is_alive
        (child,) = pids(engine.last_lines())
        assert running(child)
    assert not engine.is_alive
    eventually(lambda: not running(child))


def test_an_engine_that_does_not_start_shows_its_last_lines() -> None:
    with Engine(fake("no-start")) as engine, pytest.raises(BackendError) as raised:
        engine.start()
    assert "exit status 1" in str(raised.value)
    assert "loading the weights of something" in str(raised.value)
    assert "not enough memory for this model" in str(raised.value)


def test_an_engine_whose_core_failed_is_given_up_at_once() -> None:
    """vLLM's server and worker wait for each other for minutes then."""
    began = time.monotonic()
    with Engine(fake("failed-core")) as engine, pytest.raises(BackendError, match="failed to start"):
        engine.start()
    assert time.monotonic() - began < 300  # of a start-up time of 600 s


def test_compiled_kernels_that_a_kill_left_damaged_are_removed(tmp_path: Path) -> None:
    damaged = tmp_path / "torch_compile_cache" / "torch_aot_compile" / "c4247a"
    kernel = damaged / "inductor_cache" / "p2" / "k.main.so"
    kernel.parent.mkdir(parents=True)
    kernel.write_bytes(b"")
    other = damaged.with_name("another")
    other.mkdir()
    lines: list[str] = []
    with Engine(fake(f"damaged:{damaged}"), progress=lines.append) as engine:
        engine.start()
    assert not damaged.exists()
    assert other.exists()
    assert any("removed damaged compiled kernels" in line for line in lines)


def test_an_engine_that_never_answers_is_given_up_and_ended() -> None:
    with Engine(fake("never-ready"), startup_timeout_s=0.5) as engine:
        with pytest.raises(BackendError, match="no answer after"):
            engine.start()
        assert not engine.is_alive


def test_a_foreign_process_on_the_port_is_not_taken_for_the_engine() -> None:
    with Engine(fake()) as first:
        first.start()
        port = int(first.command.url.rpartition(":")[2])
        with Engine(fake(port=port)) as second, pytest.raises(BackendError, match="in use"):
            second.start()


def test_a_dead_engine_is_started_again() -> None:
    with Engine(fake()) as engine:
        engine.start()
        engine.supervise()
        (child,) = pids(engine.last_lines())
        assert engine._process is not None
        os.kill(engine._process.pid, signal.SIGKILL)
        eventually(lambda: engine.restarts == 1 and engine.is_alive and engine._is_healthy())
        eventually(lambda: not running(child))  # what the dead one left
    assert not engine.is_alive


@pytest.mark.parametrize("how", ["stopped", "core hangs"])
def test_an_engine_that_hangs_is_started_again(how: str) -> None:
    """Alive, and /health of the second is 200: only a real completion tells."""
    with Engine(fake(), probe_every_s=0.3, probe_misses=2) as engine:
        engine.start()
        engine.supervise()
        (child,) = pids(engine.last_lines())
        assert engine._process is not None
        if how == "stopped":
            os.killpg(engine._process.pid, signal.SIGSTOP)
        else:
            httpx2.post(f"{engine.command.url}/fault", json={"fault": "hang"}, trust_env=False)
        eventually(lambda: engine.restarts >= 1 and engine.is_alive and engine._can_generate())
        assert not running(child)


def test_an_engine_that_is_full_or_slow_now_and_then_is_left_alone() -> None:
    with Engine(fake(), probe_every_s=0.3, probe_misses=3) as engine:
        engine.start()
        httpx2.post(f"{engine.command.url}/fault", json={"fault": "503"}, trust_env=False)
        engine.supervise()
        time.sleep(3)
        assert engine.restarts == 0


def test_stopping_a_hung_engine_does_not_wait_for_its_probe() -> None:
    with Engine(fake("hang"), probe_every_s=0.1, probe_misses=1000, stop_timeout_s=60) as engine:
        engine.start()
        engine.probe_every_s = 600
        engine.supervise()
        time.sleep(0.5)
        began = time.monotonic()
    assert time.monotonic() - began < 60


def test_stopping_does_not_wait_for_a_restart_in_progress() -> None:
    with Engine(fake("no-start")) as engine:
        engine.supervise()
        time.sleep(0.3)
        began = time.monotonic()
    assert time.monotonic() - began < 30


OWNER = """
import sys
from tests_engine import fake
from serve.engine.supervisor import Engine
engine = Engine(fake())
engine.start()
print(engine._process.pid, engine.last_lines().split()[-1], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_survives_its_owner(how: signal.Signals, tmp_path: Path) -> None:
    # The owner is killed without a chance to clean up; SIGTERM without a handler is just as sudden.
    beside = tmp_path / "engine"
    beside.mkdir()
    (beside / "tests_engine.py").symlink_to(HERE / "test_engine.py")
    (tmp_path / "fake_engine.py").symlink_to(FAKE_ENGINE)
    path = os.pathsep.join([str(beside), str(HERE.parents[2])])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert owner.stdout is not None
    keeper, child = (int(word) for word in owner.stdout.readline().split())
    assert running(keeper)
    assert running(child)
    owner.send_signal(how)
    owner.communicate()
    eventually(lambda: not running(keeper) and not running(child))


def test_a_socket_path_is_private_and_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with private_socket() as path:
        assert len(str(path)) < 100
        assert path.parent.stat().st_mode & 0o077 == 0
    assert not path.parent.exists()
