"""FastAPI application over a User LM; needs no torch and starts no process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST

import usersim
from serve.api import chat, native, playground, promptfoo
from serve.api.service import Service
from serve.config import ServeConfig
from serve.http import errors
from serve.http.auth import AuthMiddleware
from serve.http.errors import ErrorEnvelope
from serve.http.keys import KeyRing, load_keys
from serve.http.logs import Sink
from serve.http.middleware import AccessLogMiddleware, BodyLimitMiddleware
from serve.http.shutdown import Shutdown
from serve.routing.load_balancer import LoadBalancer
from usersim.populations.sample import Population
from usersim.users.userlm import UserLM

DESCRIPTION = """A language model of the *human* side of a chat. `/v1/user/turns` takes a hidden goal, a
persona and the conversation so far. It returns the user's next turn with the probability that the conversation
ends here. `/v1/user/profiles` draws users from the model's population. `/v1/chat/completions` is the same user for
tools that use OpenAI's interface, in the tool's own dialect, chosen by the model's name or by the prompt."""

INDEX = {
    "turns": "POST /v1/user/turns, /v1/user/turns/batch, /v1/user/termination",
    "users": "POST /v1/user/profiles",
    "openai": "base URL …/v1: POST /v1/chat/completions, GET /v1/models",
    "promptfoo": "POST /compat/promptfoo/task",
    "pages": "/docs, /playground",
    "operations": "/health, /ready, /version, /metrics",
}


def create_app(
    config: ServeConfig,
    user: UserLM,
    *,
    population: Population | None = None,
    log_sink: Sink | None = None,
) -> FastAPI:
    """Builds the application with its routes and middleware.

    Args:
        user: The User LM; closed at shutdown.
        population: Population for /v1/user/profiles; None: 404.
        log_sink: Sink of the access log; None: no access log.

    Returns:
        The application. Its `state` holds `service` (counters and aliases), `shutdown` and `keys`.
    """
    service = Service(config, user, population)
    shutdown, keys = (
        Shutdown(config.drain_delay_s, config.drain_timeout_s),
        KeyRing(load_keys(config), is_open=config.is_open),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await user.aclose()

    app = FastAPIOffline(
        title="User LM",
        description=DESCRIPTION,
        version=usersim.__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service, app.state.shutdown, app.state.keys = service, shutdown, keys
    # `AuthMiddleware` checks the keys; this only documents them in /docs and in the OpenAPI document.
    dependencies = [] if keys.is_open else [Depends(HTTPBearer(auto_error=False))]
    for dialect in (native, chat, promptfoo):
        app.include_router(dialect.router(service), dependencies=dependencies)
    app.include_router(operations(service, shutdown))
    app.include_router(playground.router(service))
    errors.install_handlers(app)
    if isinstance(user.sampler, LoadBalancer):
        service.metrics.include(user.sampler.metrics)
    if log_sink is not None:
        service.metrics.log_dropped.set_function(lambda: log_sink.dropped)
    # The middleware added last is the outermost.
    app.add_middleware(
        BodyLimitMiddleware,
        max_bytes=config.max_body_bytes,
        body_s=config.limits.body_s,
        log_content=config.log_content,
    )
    app.add_middleware(
        AuthMiddleware,
        shutdown=shutdown,
        keys=keys,
        protect_metrics=config.protect_metrics,
        host=None if config.open_access else config.host,
    )
    app.add_middleware(
        AccessLogMiddleware,
        metrics=service.metrics,
        routes=frozenset(str(getattr(route, "path", "")) for route in app.routes),
        timeout_s=config.request_timeout_s,
        write=log_sink.put if log_sink is not None else None,
        log_content=config.log_content,
    )
    return app


def operations(service: Service, shutdown: Shutdown) -> APIRouter:
    """Routes for operations: index, liveness, readiness, metrics and version."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/", summary="Index of the routes")
    async def index() -> dict[str, str]:
        return INDEX

    @routes.get("/health", summary="This process is alive")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/ready", summary="The engine answered a real completion within the last seconds")
    async def ready() -> Response:
        if shutdown.has_begun:
            return ErrorEnvelope(
                503, "engine_unavailable", "the server is shutting down", retry=True
            ).response()
        sampler = service.user.sampler
        # Every other sampler runs in this process.
        is_working = not isinstance(sampler, LoadBalancer) or await sampler.ready(service.config.ready_for_s)
        service.metrics.engine_up.set(is_working)
        if is_working:
            return Response('{"status":"ready"}', media_type="application/json")
        return ErrorEnvelope(503, "engine_unavailable", "the engine does not answer", retry=True).response()

    @routes.get("/metrics", summary="Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @routes.get("/version")
    async def version() -> dict[str, str]:
        renderer = service.user.renderer
        return {
            "version": usersim.__version__,
            "model": service.user.name,
            "template": renderer.settings.template,
            "fingerprint": renderer.fingerprint,
        }

    return routes
