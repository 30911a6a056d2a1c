"""`usersim serve [CONFIG] [key=value…]`: the engine, then the front; Ctrl-C or SIGTERM stops both."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from serve.app import create_app
from serve.command import engine_command
from serve.config import EngineSettings, ServeConfig
from serve.engine import Engine, exit_on_sigterm, private_socket
from serve.pool import EnginePool, check_engine
from usersim.cli import console, run_main
from usersim.config import load_config
from usersim.errors import ConfigError, UsersimError
from usersim.model import USERLM_NAME, home, resolve
from usersim.render import SETTINGS_FILE, Renderer
from usersim.sampling import UserLM

DRAIN_S = 30


def main(argv: list[str]) -> int:
    config, dry_run = _arguments(argv)
    if dry_run:
        sys.stdout.write(plan(config))
        return 0
    exit_on_sigterm()
    with ExitStack() as stack:
        # Before anything slow: a taken port should not cost an engine's start.
        listener = stack.enter_context(_bind(config.host, config.port))
        path = resolve(config.model)
        renderer = Renderer.from_pretrained(path)
        engine = None if config.engine_urls else _engine(stack, path, config, renderer)
        urls = (engine.command.url,) if engine else config.engine_urls
        asyncio.run(_check(urls, renderer))
        user = UserLM(
            renderer,
            EnginePool(urls, timeout_s=config.request_timeout_s),
            sampling=config.sampling,
            end=config.end,
            guards=config.guards,
            name=path.name,
        )
        app = create_app(config, user)
        if engine:
            engine.keep_running()
            app.state.service.metrics.restarts.set_function(lambda: engine.restarts)
        _serve(app, listener)
    return 0


def _arguments(argv: list[str]) -> tuple[ServeConfig, bool]:
    parser = argparse.ArgumentParser(prog="usersim serve", description=__doc__)
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
    config = load_config(ServeConfig, files[0] if files else None, overrides)
    flags = {
        key: value
        for key, value in vars(args).items()
        if key in ServeConfig.model_fields and value is not None
    }
    return ServeConfig.model_validate(config.model_dump() | flags), args.dry_run


def plan(config: ServeConfig) -> str:
    """What would happen, without building a model or touching a port."""
    path = Path(config.model) if config.model else home() / USERLM_NAME
    built = (path / SETTINGS_FILE).is_file()
    lines = [f"model   {path}{'' if built else ' (built at start)'}"]
    if config.engine_urls:
        lines += [f"engine  {url} (runs already)" for url in config.engine_urls]
    else:
        settings = _settings(config, Renderer.from_pretrained(path) if built else None)
        lines += [f"engine  {engine_command(path, settings, listen=Path('engine.sock'))}"]
    return "\n".join([*lines, f"front   http://{config.host}:{config.port}"]) + "\n"


def _settings(config: ServeConfig, renderer: Renderer | None) -> EngineSettings:
    """The engine's window is the one that the model was trained with, unless the config says otherwise."""
    if config.engine.max_model_len or renderer is None:
        return config.engine
    return config.engine.model_copy(update={"max_model_len": renderer.settings.context_tokens})


def _engine(stack: ExitStack, path: Path, config: ServeConfig, renderer: Renderer) -> Engine:
    settings = _settings(config, renderer)
    command = engine_command(path, settings, listen=stack.enter_context(private_socket()))
    engine = stack.enter_context(Engine.of(command, settings, progress=console.print))
    console.print(f"engine {command.name}: starting on cores {list(settings.bound_cores())}")
    console.print(f"engine {command.name}: ready after {engine.start():.0f} s")
    return engine


async def _check(urls: tuple[str, ...], renderer: Renderer) -> None:
    await asyncio.gather(*(check_engine(url, renderer) for url in urls))


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


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        console.print(f"serving at http://{host}:{port} (try /docs)")


def _serve(app: FastAPI, listener: socket.socket) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    try:
        server.run(sockets=[listener])
    except OSError as error:  # somebody else began to listen on the port meanwhile
        raise ConfigError(f"the front cannot listen: {error.strerror}") from error
    if not server.started:
        raise UsersimError("the front did not start; its log lines are above")


if __name__ == "__main__":
    sys.exit(run_main(main))
