"""`usersim serve [CONFIG] [key=value…]`: the engine, then the front; Ctrl-C or SIGTERM stops both."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from serve.app import create_app
from serve.config import EngineSettings, ServeConfig
from serve.engine.address import private_socket
from serve.engine.command import engine_command
from serve.engine.supervisor import Engine, exit_on_sigterm
from serve.http.keys import load_keys
from serve.http.logs import Sink, make_logging_nonblocking, print_status
from serve.http.protocol import bounded_protocol
from serve.http.shutdown import Server
from serve.routing.load_balancer import LoadBalancer, check_engine, check_models
from usersim.cli import run_main
from usersim.decoding.parameters import Sampling
from usersim.errors import ConfigError, UsersimError
from usersim.populations.record import population_file, read_population
from usersim.populations.sample import Population
from usersim.rendering.renderer import SETTINGS_FILE, Renderer
from usersim.storage.toml_config import load_config
from usersim.users.userlm import UserLM
from usersim.weights.default_model import BASE_NAME, SHIPPED_ADAPTER, USERLM_NAME, file_hash, home, resolve

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    config, reload_config, dry_run = _arguments(argv)
    require_keys(config)
    if dry_run:
        sys.stdout.write(plan(config))
        return 0
    exit_on_sigterm()
    if _has_no_terminal():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to read anew
    with ExitStack() as stack:
        # Before anything slow: a taken port should not cost an engine's start.
        listener = stack.enter_context(_bind(config.host, config.port))
        path = resolve(config.model)
        renderer = Renderer.from_pretrained(path)
        engine = None if config.engine_urls else _start_engine(stack, path, config, renderer)
        urls = (engine.command.url,) if engine else config.engine_urls
        asyncio.run(_check_engines(urls, renderer, config))
        load_balancer = LoadBalancer(
            urls,
            timeout_s=config.request_timeout_s,
            limits=config.limits,
            samples_per_engine=config.samples_per_engine(),
            renderer=renderer,
        )
        user = UserLM(
            renderer,
            load_balancer,
            sampling=sampling_of(config, renderer),
            end=config.end,
            guards=config.guards,
            name=path.name,
        )
        app = create_app(
            config, user, population=_population(config.model), log_sink=_open_log_sinks(stack, config)
        )
        if engine:
            engine.keep_running()
            app.state.service.metrics.restarts.set_function(lambda: engine.restarts)
        _reload_on_sighup(app, reload_config, urls)
        _freeze_garbage_collector()
        _serve(app, listener, config)
    return 0


def _arguments(argv: list[str]) -> tuple[ServeConfig, Callable[[], ServeConfig], bool]:
    """(the config, how to read it anew, whether to stop after the plan)."""
    parser = argparse.ArgumentParser(
        prog="usersim serve", description=__doc__, epilog="the keys of its config: usersim keys serve"
    )
    parser.add_argument("settings", nargs="*", metavar="CONFIG | key=value", help="a TOML file, overrides")
    parser.add_argument("--port", type=int)
    parser.add_argument("--host")
    parser.add_argument("--model", help="a User LM folder or run directory (default: the shipped one)")
    parser.add_argument(
        "--engine-url", action="append", dest="engine_urls", help="a running vLLM; may be repeated"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    args = parser.parse_intermixed_args(argv)
    files = [setting for setting in args.settings if "=" not in setting]
    if len(files) > 1:
        raise ConfigError(f"one config file at most, not {', '.join(files)}")
    overrides = [setting for setting in args.settings if "=" in setting]
    flags = {
        key: value
        for key, value in vars(args).items()
        if key in ServeConfig.model_fields and value is not None
    }

    def read() -> ServeConfig:
        config = load_config(ServeConfig, files[0] if files else None, overrides)
        return ServeConfig.model_validate(config.model_dump(exclude_unset=True) | flags)

    return read(), read, args.dry_run


def plan(config: ServeConfig) -> str:
    """What would happen, without building a model or touching a port."""
    path = _model_path(config.model)
    is_built = (path / SETTINGS_FILE).is_file()
    lines = [f"model   {path}{'' if is_built else ' (built at start)'}"]
    if config.engine_urls:
        lines += [f"engine  {url} (runs already)" for url in config.engine_urls]
    else:
        settings = _engine_settings(config, Renderer.from_pretrained(path) if is_built else None)
        lines += [f"engine  {engine_command(path, settings, listen=Path('engine.sock'))}"]
    return "\n".join([*lines, f"front   http://{config.host}:{config.port}"]) + "\n"


def sampling_of(config: ServeConfig, renderer: Renderer) -> Sampling:
    """Default sampling parameters: what the config sets, then the model's own choice, then the general defaults."""
    model_sampling = renderer.settings.decoding or Sampling()
    return model_sampling.model_copy(update=config.sampling.model_dump(exclude_unset=True))


def _model_path(model: str | None) -> Path:
    """Where the model is, or will be built; raises ConfigError where there is none to be found."""
    if model == BASE_NAME:
        return home() / BASE_NAME
    is_shipped = model in (None, USERLM_NAME)
    adapters = [SHIPPED_ADAPTER] if is_shipped or model is None else [Path(model) / "adapter", Path(model)]
    for adapter in adapters:
        if (weights := adapter / "adapter_model.safetensors").is_file():
            return home() / f"{USERLM_NAME}-{file_hash(weights)[:12]}"
    return resolve(model)


def _population(model: str | None) -> Population | None:
    """The population that lies with the model; None where there is none."""
    file = population_file(model)
    return Population(read_population(file)) if file.is_file() else None


def _engine_settings(config: ServeConfig, renderer: Renderer | None) -> EngineSettings:
    """The engine's window is the one that the model was trained with, unless the config says otherwise."""
    if config.engine.max_model_len or renderer is None:
        return config.engine
    return config.engine.model_copy(update={"max_model_len": renderer.settings.context_tokens})


def _start_engine(stack: ExitStack, path: Path, config: ServeConfig, renderer: Renderer) -> Engine:
    settings = _engine_settings(config, renderer)
    command = engine_command(path, settings, listen=stack.enter_context(private_socket()))
    engine = stack.enter_context(Engine.of(command, settings, progress=print_status))
    print_status(f"engine {command.name}: starting on cores {list(settings.bound_cores())}")
    print_status(f"engine {command.name}: ready after {engine.start():.0f} s")
    return engine


async def _check_engines(urls: tuple[str, ...], renderer: Renderer, config: ServeConfig) -> None:
    await asyncio.gather(*(check_engine(url, renderer) for url in urls))
    await _check_engine_models(urls, config)


async def _check_engine_models(urls: tuple[str, ...], config: ServeConfig) -> None:
    await asyncio.gather(*(check_models(url, config.models.values()) for url in urls if config.models))


def _bind(host: str, port: int) -> socket.socket:
    """Bound and not yet listening: connections are refused until the front can answer them."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port}: {error.strerror}; choose another --port") from error
    return listener


def require_keys(config: ServeConfig) -> None:
    """Raises ConfigError where other machines could ask without a key, and that was not asked for."""
    if not config.wants_keys and not config.is_open:
        raise ConfigError(
            f"{config.host} is open to others and no keys are configured: make one with "
            "`python -m serve.http.keys NAME`, "
            "or say open_access=true to let anyone ask"
        )
    if config.wants_keys and not load_keys(config):
        log.warning("no keys are configured yet: nobody gets in")


def _open_log_sinks(stack: ExitStack, config: ServeConfig) -> Sink | None:
    """stdout for requests, stderr for the process's own lines; neither may hold up an answer."""
    # A stream that was closed at the start is None, and its number belongs to something else by now.
    if sys.stderr is not None:
        stderr_sink = Sink(sys.stderr.fileno())
        make_logging_nonblocking(stderr_sink)
        stack.callback(stderr_sink.close)
    if not config.log_requests or sys.stdout is None:
        return None
    stdout_sink = Sink(sys.stdout.fileno())
    stack.callback(stdout_sink.close)
    return stdout_sink


def _reload_on_sighup(app: FastAPI, read: Callable[[], ServeConfig], urls: tuple[str, ...]) -> None:
    """Keys and aliases change without a restart; what cannot be read, and an alias for a model that some engine
    does not serve, leave them as they are.

    Not at a terminal: there the signal says that it was closed, and whoever did that wants no orphan.
    """

    def reload() -> None:
        try:
            config = read()
            keys = load_keys(config)
            asyncio.run(_check_engine_models(urls, config))
            app.state.keys.replace(keys, is_open=config.is_open, open_access=config.open_access)
            app.state.service.models = config.models
            log.warning("read the config anew")
            if not keys and not app.state.keys.is_open:
                log.error("no keys are left: nobody gets in; say open_access=true to let anyone ask")
        except UsersimError as error:
            log.error("SIGHUP: the config stays as it is: %s", error)

    # In a thread: the engines are asked, and nobody who is served waits for that.
    if _has_no_terminal():
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=reload, name="reload").start())


def _freeze_garbage_collector() -> None:
    """What is loaded by now stays for good: the garbage collector need not look through it again and again. With
    Python's own thresholds that is a quarter of what a request costs."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)


def _has_no_terminal() -> bool:
    return sys.stdin is None or not sys.stdin.isatty()


def _serve(app: FastAPI, listener: socket.socket, config: ServeConfig) -> None:
    settings = uvicorn.Config(
        app,
        http=bounded_protocol(config.max_head_bytes, config.limits.head_s),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # Longer than clients keep an idle connection (5 s in httpx): who closes first must be the client, or a
        # request that is on its way just then gets no answer.
        timeout_keep_alive=75,
        # By then the drain is over: whoever is left is told so.
        timeout_graceful_shutdown=1,
    )
    server = Server(settings, app.state.shutdown, progress=print_status)
    try:
        server.run(sockets=[listener])
    except OSError as error:
        # Bound is not listening: another process may listen first. uvloop then says "Bad file descriptor".
        raise ConfigError(
            f"{config.host}:{config.port}: another process began to listen there meanwhile; choose another --port"
        ) from error
    if not server.started:
        raise UsersimError("the front did not start; its log lines are above")


if __name__ == "__main__":
    sys.exit(run_main(main))
