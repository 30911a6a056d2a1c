"""`make embedded`: runs the experiment of docs/bench-assistants.md with vLLM engines.

    python scripts/embedded.py [pairs] [dpo] [online] [bench] [KEY=VALUE …]

    python scripts/embedded.py sft grpo table     # stages beyond the default hour

    python scripts/embedded.py ablation           # the same training on rewards of windows 0 to 3, after pairs

Each stage keeps finished work, so an interrupted one can be run again. Engines share two cores. KEY=VALUE goes to
`usersim collab bench`: clarify.path=coqa_abg_test.json clarify.limit=60
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx

from collab_train.bench.ablation import commands, specs
from collab_train.bench.conditions import BenchConfig
from usersim.storage.toml_config import load_config
from usersim.weights.default_model import BASE_NAME

CONFIGS, RUNS = Path("configs/collab/embedded"), Path("runs/embedded")
STARTED_S = 600
USER, BASE = 8100, 8101
"""Ports of the engines, as in the configs of `bench`."""


def main(argv: Sequence[str]) -> int:
    stages, options = [word for word in argv if "=" not in word], [word for word in argv if "=" in word]
    whole = ("pairs", "dpo", "online", "bench")
    does: dict[str, Callable[[], None]] = {
        "pairs": pairs,
        "dpo": lambda: usersim("collab", "dpo", str(CONFIGS / "dpo.toml")),
        "online": lambda: usersim("collab", "online-dpo", str(CONFIGS / "online.toml")),
        "bench": lambda: bench("bench", {"dpo": 8102, "online": 8103}, options, other_user=8104),
        "sft": lambda: usersim("collab", "sft", str(CONFIGS / "sft.toml")),
        "grpo": lambda: usersim("collab", "grpo", str(CONFIGS / "grpo.toml")),
        "table": lambda: bench("table", {"dpo": 8102, "sft": 8105, "grpo": 8106}, options),
        "ablation": lambda: ablation(options),
    }
    if unknown := set(stages) - set(does):
        raise SystemExit(f"embedded: no stage {', '.join(sorted(unknown))}; there are {', '.join(does)}")
    for stage in stages or whole:
        began = time.monotonic()
        does[stage]()
        say(f"{stage}: {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def pairs() -> None:
    with both_sides() as where:
        usersim("collab", "pairs", str(CONFIGS / "pairs.toml"), *where)


@contextlib.contextmanager
def both_sides() -> Iterator[tuple[str, ...]]:
    """Runs the engines for futures. Yields their options of `collab pairs`."""
    with serving(user(USER, kv_gib=4), assistant(BASE_NAME, BASE, kv_gib=4)):
        yield f"user={loopback(USER)}", f"assistant={loopback(BASE)}/v1", "concurrency=256"


def ablation(options: Sequence[str]) -> None:
    """Runs all rollouts with shared engines, then all trainings, then the benchmark of all models."""
    spec = load_config(BenchConfig, CONFIGS / "ablation.toml").ablation
    assert spec is not None
    lines = [shlex.split(line)[1:] for line in commands(spec)]
    with both_sides() as where:
        for line in lines[::2]:
            usersim(*line, *where)
    for line in lines[1::2]:
        usersim(*line)
    ports = {one: 8110 + place for place, one in enumerate(specs(spec))}
    listed = ", ".join(
        f'{{name = "{one.name}", address = "{loopback(port)}/v1", w = {one.w}, rewards = "{one.rewards}"}}'
        for one, port in ports.items()
    )
    runs = {str(Path(one.address).relative_to(RUNS)): port for one, port in ports.items()}
    bench("ablation", runs, [f"ablation.assistants=[{listed}]", *options, "--only", "ablation"])


def bench(
    config: str, ports: dict[str, int], options: Sequence[str], *, other_user: int | None = None
) -> None:
    """Benchmarks trained models. `ports`: ports of their engines, by run."""
    trained = {name: RUNS / f"{name}-merged" for name in ports}
    for name, folder in trained.items():
        shutil.rmtree(folder, ignore_errors=True)
        usersim("collab", "merge", str(RUNS / name), str(folder))
    # Eager: compiling five engines takes longer than the conversations.
    # The base model answers for two assistants and plays a user: the others go to the core of the users first.
    engines = [user(USER, eager="true"), assistant(BASE_NAME, BASE, eager="true")]
    engines += [
        assistant(str(trained[name]), port, name.replace("/", "-"), core=place // 2 % 2, eager="true")
        for place, (name, port) in enumerate(ports.items())
    ]
    if other_user:
        engines.append(user(other_user, model="runs/starts/userlm-135m-v2", eager="true"))
    with serving(*engines):
        usersim("collab", "bench", str(CONFIGS / f"{config}.toml"), *options)


def loopback(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def cores() -> tuple[int, int]:
    """Returns the cores for the engines of user and assistant."""
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def user(port: int, model: str | None = None, *, eager: str = "false", kv_gib: int = 1) -> list[str]:
    chosen = ["--model", model] if model else []
    engine = [f"engine.eager={eager}", f"engine.cores=[{cores()[0]}]", f"engine.kv_cache_gib={kv_gib}"]
    limits = ["sampling.max_tokens=48", "request_timeout_s=600", "log_requests=false"]
    return [sys.executable, "-m", "usersim", "serve", *chosen, "--port", str(port), *engine, *limits]


def assistant(
    model: str, port: int, name: str | None = None, *, core: int = 1, eager: str = "false", kv_gib: int = 1
) -> list[str]:
    named = ["--name", name] if name else []
    where = ["--port", str(port), "--cores", str(cores()[core]), *named]
    settings = [f"eager={eager}", f"kv_cache_gib={kv_gib}"]
    return [sys.executable, "-m", "serve.engine", "--model", model, *where, *settings]


@contextlib.contextmanager
def serving(*commands: list[str]) -> Iterator[None]:
    """Runs servers until the block ends, once all are ready. Their output is in runs/embedded/PORT.log."""
    RUNS.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        started = []
        for command in commands:
            port = command[command.index("--port") + 1]
            log = stack.enter_context((RUNS / f"{port}.log").open("w"))
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(stop, process)
            started.append((process, port, "ready" if "serve" in command else "health"))
        for process, port, path in started:
            wait_for(process, port, path)
        yield


def wait_for(process: subprocess.Popen[bytes], port: str, path: str) -> None:
    """Waits until a server is ready. Raises SystemExit if it ends or takes too long."""
    end = time.monotonic() + STARTED_S
    say(f"waiting for port {port}")
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=30, verify=False).status_code == 200:
                return
        time.sleep(1)
    raise SystemExit(f"embedded: no server answers on port {port}; see {RUNS}/{port}.log")


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def usersim(*words: str) -> None:
    say(f"usersim {' '.join(words)}")
    if code := subprocess.run([sys.executable, "-m", "usersim", *words]).returncode:
        raise SystemExit(code)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
