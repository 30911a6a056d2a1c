"""`usersim serve` as a process, in front of a fake engine that runs already."""

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from serve.__main__ import _bind, _reload_on_sighup, _serve, main, require_keys
from serve.app import create_app
from serve.config import ApiKey, ServeConfig
from serve.http.keys import KeyRing
from serve.http.logs import print_status
from usersim.cli import run_main
from usersim.errors import ConfigError
from usersim.rendering.renderer import Renderer
from usersim.storage.toml_config import load_config
from usersim.testing import ScriptedSampler
from usersim.users.userlm import UserLM
from usersim.weights.default_model import SHIPPED_ADAPTER, file_hash

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def serve(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(the process, what it said until it serves or stops)."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", *map(str, arguments)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stderr is not None
    output = ""
    for line in process.stderr:
        output += line
        if "serving at" in line:
            break
    try:
        yield process, output
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("how", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_serves_until_it_is_told_to_stop(
    fake_engine: Callable[..., str], model_folder: Path, how: signal.Signals, status: int
) -> None:
    engine = fake_engine()
    with serve("--model", model_folder, "--engine-url", engine, "--port", 0) as (process, output):
        url = re.findall(r"http://\S+", output)[-1]
        with httpx2.Client(trust_env=False) as client:
            answer = client.post(f"{url}/v1/user/turns", json={"model": "bytes", "goal": "x"})
            assert answer.status_code == 200
            assert client.get(f"{url}/ready").status_code == 200
        process.send_signal(how)
        assert process.wait(60) == status


@pytest.mark.parametrize(
    ("fault", "why"),
    [("tokens", "other tokens"), ("short", "--max-model-len 1024"), ("garbage", "has no")],
)
def test_an_engine_that_is_not_this_model_is_refused(
    fake_engine: Callable[..., str],
    model_folder: Path,
    fault: str,
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--model", str(model_folder), "--engine-url", fake_engine(fault), "--port", "0"]
    assert run_main(main, arguments) == 2
    assert why in capsys.readouterr().err


def test_a_taken_port_is_one_line_and_starts_no_engine(
    model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert run_main(main, ["--model", str(model_folder), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "in use" in error


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nowhere.toml"], "no such config file"),
        (["a.toml", "b.toml"], "one config file"),
        (["prot=8000"], "prot"),
        (["engine.cores=[9999]", "--dry-run"], "9999"),
        (["--port", "99999"], "65535"),
        (["--model", "nowhere", "--port", "0"], "nowhere"),
        (["--model", "nowhere", "--dry-run"], "nowhere"),
        (["--host", "0.0.0.0", "--port", "0"], "open_access=true"),
        (["--engine-url", "http://127.0.0.1:9", "--port", "0"], "127.0.0.1:9"),
    ],
)
def test_what_the_operator_can_fix_is_one_line_and_status_2(
    arguments: list[str], why: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--model" not in arguments:
        arguments = [*arguments, "--model", str(model_folder)]
    assert run_main(main, arguments) == 2
    assert why in capsys.readouterr().err


def test_dry_run_prints_the_plan_and_touches_nothing(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text("port = 8123\n[engine]\nkv_cache_gib = 7\n", encoding="utf-8")
    assert main([str(config), "--model", str(model_folder), "engine.eager=true", "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "--max-model-len 1024" in plan
    assert "--enforce-eager" in plan
    assert "VLLM_CPU_KVCACHE_SPACE=7" in plan
    assert "http://127.0.0.1:8123" in plan
    assert main(["--engine-url", "http://one", "--engine-url", "http://two", "--dry-run"]) == 0
    assert "http://two (runs already)" in capsys.readouterr().out


KEY = ApiKey(name="alice", sha256=hashlib.sha256(b"secret").hexdigest())


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)
    for thread in threading.enumerate():
        if thread.name == "reload":
            thread.join()


def test_sighup_reads_keys_and_aliases_anew_and_keeps_them_when_it_cannot(
    tmp_path: Path, fake_engine: Callable[..., str]
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text('[models]\ncoach = "v1"\n', encoding="utf-8")
    state = SimpleNamespace(keys=KeyRing((), is_open=True), service=SimpleNamespace(models={}))
    before = signal.getsignal(signal.SIGHUP)
    try:
        app: Any = SimpleNamespace(state=state)
        _reload_on_sighup(app, lambda: load_config(ServeConfig, config), (fake_engine(),))
        table = f'[[keys]]\nname = "alice"\nsha256 = "{KEY.sha256}"\n[models]\ncoach = "fake"\n'
        unserved = '[models]\ncoach = "nobody serves this"\n'
        for text in (table, "[[keys]]\nname = 1\n", "not TOML", unserved):
            config.write_text(text, encoding="utf-8")
            hang_up()
            assert state.service.models == {"coach": "fake"}
            match = state.keys.find([(b"authorization", b"Bearer secret")])
            assert match is not None
            assert match[0] == "alice"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_sighup_that_takes_the_last_key_away_lets_nobody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, keys = tmp_path / "serve.toml", tmp_path / "keys.toml"
    config.write_text(f'keys_file = "{keys}"\n', encoding="utf-8")
    state = SimpleNamespace(keys=KeyRing((KEY,)), service=SimpleNamespace(models={}))
    before = signal.getsignal(signal.SIGHUP)
    try:
        app: Any = SimpleNamespace(state=state)
        _reload_on_sighup(app, lambda: load_config(ServeConfig, config), ())
        keys.write_text("keys = []\n", encoding="utf-8")
        hang_up()
        assert (state.keys.is_open, state.keys.quotas) == (False, {})
        assert "every request is refused" in caplog.text
        config.write_text(
            "port = 8001\n", encoding="utf-8"
        )  # loopback without keys: open at a start, not here
        hang_up()
        assert not state.keys.is_open
        config.write_text("open_access = true\n", encoding="utf-8")
        hang_up()
        assert state.keys.is_open
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_a_door_that_is_open_to_others_has_to_be_asked_for(host: str) -> None:
    with pytest.raises(ConfigError, match="open_access=true"):
        require_keys(ServeConfig(host=host))
    require_keys(ServeConfig(host=host, keys=(KEY,)))
    require_keys(ServeConfig(host=host, open_access=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_ones_own_machine_needs_no_key(host: str) -> None:
    require_keys(ServeConfig(host=host))


def test_keys_and_open_access_contradict_each_other() -> None:
    with pytest.raises(ValidationError, match="open_access"):
        ServeConfig(keys=(KEY,), open_access=True)


def test_an_empty_keys_file_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("keys = []\n", encoding="utf-8")
    require_keys(ServeConfig(keys_file=str(path)))
    assert "every request is refused" in caplog.text


def test_a_port_that_another_process_took_meanwhile_is_said_so(model_folder: Path) -> None:
    listener = _bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    rival = socket.socket()
    rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    rival.bind(("127.0.0.1", port))
    rival.listen()
    user = UserLM(Renderer.from_pretrained(model_folder), ScriptedSampler())
    config = ServeConfig(port=port)
    with rival, listener, pytest.raises(ConfigError, match=f"{port}: another process began to listen"):
        _serve(create_app(config, user), listener, config)


def test_dry_run_names_the_folder_that_the_start_will_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USERSIM_HOME", str(tmp_path))
    digest = file_hash(SHIPPED_ADAPTER / "adapter_model.safetensors")[:12]
    for model in ([], ["--model", "userlm-135m"], ["--model", str(SHIPPED_ADAPTER)]):
        assert main([*model, "--engine-url", "http://one", "--dry-run"]) == 0
        assert capsys.readouterr().out.startswith(
            f"model   {tmp_path}/userlm-135m-{digest} (built at start)\n"
        )
    run_dir = tmp_path / "run"
    (run_dir / "model").mkdir(parents=True)
    (run_dir / "model" / "config.json").write_text("{}", encoding="utf-8")
    assert main(["--model", str(run_dir), "--engine-url", "http://one", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(f"model   {run_dir}/model")


def test_an_engine_with_markup_in_its_name_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_status("engine a[/INST]b [bold]: ready :smile:")
    assert capsys.readouterr().err == "engine a[/INST]b [bold]: ready :smile:\n"


def test_the_example_config_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(ROOT / "configs/serve.toml"), "--dry-run"]) == 0
    assert "http://127.0.0.1:8000" in capsys.readouterr().out
