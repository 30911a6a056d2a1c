"""The FastAPI application over a User LM; needs no torch and starts nothing by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST

import usersim
from serve import chat, errors, native
from serve.config import ServeConfig
from serve.errors import Problem
from serve.middleware import Door, Intake
from serve.service import Service
from usersim.sampling import UserLM

DESCRIPTION = """A language model of the *human* side of a chat. `/v1/user/turns` takes a hidden goal, a
persona and the conversation so far, and gives the user's next turn with the probability that the
conversation ends here; `/v1/chat/completions` is the same user for tools that speak OpenAI's interface:
roles are flipped."""


def create_app(config: ServeConfig, user: UserLM) -> FastAPI:
    """`app.state.service` holds what is counted. The app closes `user` when it shuts down."""
    service = Service(config, user)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await user.aclose()

    app = FastAPI(
        title="User LM",
        description=DESCRIPTION,
        version=usersim.__version__,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service = service
    routers = (native.router(service), chat.router(service), operations(service))
    for router in routers:
        app.include_router(router)
    errors.install(app)
    # The last one added is the outermost.
    app.add_middleware(Intake, max_bytes=config.max_body_bytes)
    paths = frozenset(str(getattr(route, "path", "")) for router in routers for route in router.routes)
    app.add_middleware(Door, metrics=service.metrics, routes=paths)
    return app


def operations(service: Service) -> APIRouter:
    """What machines ask: is it alive, can it serve, what has it done."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/health", summary="This process is alive")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.get("/ready", summary="The engine answered a real completion within the last seconds")
    async def ready() -> Response:
        if await service.ready():
            return Response('{"status":"ready"}', media_type="application/json")
        return Problem(503, "engine_unavailable", "the engine does not answer", retry=True).response()

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
