"""`usersim serve [CONFIG] [key=value…]`: starts an engine and the API server; Ctrl-C or SIGTERM stops both."""

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
from usersim.users.discriminator import discriminator_of
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
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the handler that reloads the config is installed
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
        sampling = sampling_of(config, renderer)
        user = UserLM(
            renderer,
            load_balancer,
            sampling=sampling,
            end=config.end,
            guards=config.guards,
            name=path.name,
            discriminator=discriminator_of(path, renderer, best_of=sampling.best_of),
        )
        app = create_app(
            config, user, population=_population(config.model), log_sink=_open_log_sinks(stack, config)
        )
        if engine:
            engine.supervise()
            app.state.service.metrics.restarts.set_function(lambda: engine.restarts)
        _reload_on_sighup(app, reload_config, urls)
        _freeze_garbage_collector()
        _serve(app, listener, config)
    return 0


def _arguments(argv: list[str]) -> tuple[ServeConfig, Callable[[], ServeConfig], bool]:
    """Returns the config, a function that reloads it, and True if only the plan is to be printed."""
    parser = argparse.ArgumentParser(
        prog="usersim serve", description=__doc__, epilog="config keys: usersim keys serve"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="CONFIG | key=value", help="TOML file, overrides of its keys"
    )
    parser.add_argument("--port", type=int, help="port of the API server (default: 8000)")
    parser.add_argument("--host", help="listening address (default: 127.0.0.1)")
    parser.add_argument("--model", help="User LM folder or run directory (default: the shipped model)")
    parser.add_argument(
        "--engine-url",
        action="append",
        dest="engine_urls",
        help="URL of a running vLLM engine; may be repeated (default: start one)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print model, engine command and address, then exit"
    )
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
    """Describes the model, engines and address of a config, without building a model or binding a port."""
    path = _model_path(config.model)
    is_built = (path / SETTINGS_FILE).is_file()
    lines = [f"model   {path}{'' if is_built else ' (built at start)'}"]
    if config.engine_urls:
        lines += [f"engine  {url} (runs already)" for url in config.engine_urls]
    else:
        settings = _engine_settings(config, Renderer.from_pretrained(path) if is_built else None)
        lines += [f"engine  {engine_command(path, settings, listen=Path('engine.sock'))}"]
    return "\n".join([*lines, f"server  http://{config.host}:{config.port}"]) + "\n"


def sampling_of(config: ServeConfig, renderer: Renderer) -> Sampling:
    """Default sampling parameters: the config's values, else the model's `decoding`, else the general defaults."""
    model_sampling = renderer.settings.decoding or Sampling()
    return model_sampling.model_copy(update=config.sampling.model_dump(exclude_unset=True))


def _model_path(model: str | None) -> Path:
    """Folder of the model, also if it is still to be built; raises ConfigError if there is no such model."""
    if model == BASE_NAME:
        return home() / BASE_NAME
    is_shipped = model in (None, USERLM_NAME)
    adapters = [SHIPPED_ADAPTER] if is_shipped or model is None else [Path(model) / "adapter", Path(model)]
    for adapter in adapters:
        if (weights := adapter / "adapter_model.safetensors").is_file():
            return home() / f"{USERLM_NAME}-{file_hash(weights)[:12]}"
    return resolve(model)


def _population(model: str | None) -> Population | None:
    """Reads the population in the model's folder; None if it has none."""
    file = population_file(model)
    return Population(read_population(file)) if file.is_file() else None


def _engine_settings(config: ServeConfig, renderer: Renderer | None) -> EngineSettings:
    """Engine settings with the model's training context as `max_model_len`, unless the config sets it."""
    if config.engine.max_model_len or renderer is None:
        return config.engine
    return config.engine.model_copy(update={"max_model_len": renderer.settings.context_tokens})


def _start_engine(stack: ExitStack, path: Path, config: ServeConfig, renderer: Renderer) -> Engine:
    settings = _engine_settings(config, renderer)
    command = engine_command(path, settings, listen=stack.enter_context(private_socket()))
    engine = stack.enter_context(Engine.from_settings(command, settings, progress=print_status))
    print_status(f"engine {command.name}: starting on cores {list(settings.bound_cores())}")
    print_status(f"engine {command.name}: ready after {engine.start():.0f} s")
    return engine


async def _check_engines(urls: tuple[str, ...], renderer: Renderer, config: ServeConfig) -> None:
    await asyncio.gather(*(check_engine(url, renderer) for url in urls))
    await _check_engine_models(urls, config)


async def _check_engine_models(urls: tuple[str, ...], config: ServeConfig) -> None:
    await asyncio.gather(*(check_models(url, config.models.values()) for url in urls if config.models))


def _bind(host: str, port: int) -> socket.socket:
    """Binds the port without listening: connections are refused until the server can answer them."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port}: {error.strerror}; choose another --port") from error
    return listener


def require_keys(config: ServeConfig) -> None:
    """Raises ConfigError if other machines could send requests without a key and `open_access` is not set."""
    if not config.wants_keys and not config.is_open:
        raise ConfigError(
            f"{config.host} can be reached by other machines and no keys are configured: make one with "
            "`python -m serve.http.keys NAME`, or set open_access=true to serve without keys"
        )
    if config.wants_keys and not load_keys(config):
        log.warning("no keys are configured yet: every request is refused")


def _open_log_sinks(stack: ExitStack, config: ServeConfig) -> Sink | None:
    """Opens sinks that never block: stdout for the access log (returned), stderr for all other log lines."""
    # A stream that was closed at start is None; its descriptor may have been reused.
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
    """Installs a SIGHUP handler that reloads keys and aliases without a restart.

    An unreadable config, or an alias for a model that an engine does not serve, changes nothing. At a terminal no
    handler is installed: there SIGHUP means that the terminal was closed.
    """

    def reload() -> None:
        try:
            config = read()
            keys = load_keys(config)
            asyncio.run(_check_engine_models(urls, config))
            app.state.keys.replace(keys, is_open=config.is_open, open_access=config.open_access)
            app.state.service.models = config.models
            log.warning("SIGHUP: reloaded keys and aliases")
            if not keys and not app.state.keys.is_open:
                log.error(
                    "no keys are left: every request is refused; set open_access=true to serve without keys"
                )
        except UsersimError as error:
            log.error("SIGHUP: keys and aliases are unchanged: %s", error)

    # In a thread, because the engines are queried: requests do not wait for that.
    if _has_no_terminal():
        signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=reload, name="reload").start())


def _freeze_garbage_collector() -> None:
    """Excludes all loaded objects from garbage collection, and collects less often.

    With Python's default thresholds collection is a quarter of the cost of a request.
    """
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
        # Longer than clients keep an idle connection (5 s in httpx). The client must close first: otherwise a
        # request sent at that moment gets no response.
        timeout_keep_alive=75,
        # The graceful shutdown is complete by then; remaining requests get an error.
        timeout_graceful_shutdown=1,
    )
    server = Server(settings, app.state.shutdown, progress=print_status)
    try:
        server.run(sockets=[listener])
    except OSError as error:
        # The port is bound but not listening: another process may listen first. uvloop then reports
        # "Bad file descriptor".
        raise ConfigError(
            f"{config.host}:{config.port}: another process began to listen on this port; choose another --port"
        ) from error
    if not server.started:
        raise UsersimError("the API server did not start; see its log lines above")


if __name__ == "__main__":
    sys.exit(run_main(main))
