"""The application: routes, page and guard put together."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import minimind
from minimind.serve import bodies, errors, glass, ollama, rollout, routes, site, weights
from minimind.serve.guard import Guard
from minimind.serve.service import Service


def create_app(service: Service) -> FastAPI:
    """Everything that a service answers, as an ASGI application."""
    settings = service.settings
    app = FastAPI(
        title="MiniMind",
        version=minimind.__version__,
        description="An OpenAI-compatible server for one small model.",
        docs_url=None,  # FastAPI's pages load scripts from a CDN; `site` has one that works offline
        redoc_url=None,
    )
    errors.install(app)
    app.include_router(routes.router(service))
    app.include_router(ollama.router(service))
    if settings.rollout_root:
        updates = weights.Weights(service)
        app.include_router(rollout.router(updates, settings.rollout_root))
        app.include_router(weights.router(updates))
    app.include_router(site.router())
    if service.glass:
        app.include_router(glass.router(service.glass))
    bodies.describe(app)
    # The last added runs first: counting, then cross-origin headers (errors need them too), then the guard.
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],  # OpenAI's own client in a browser sends a dozen of its own
    )
    app.add_middleware(Counted, service=service)
    return app


class Counted:
    """ASGI middleware that counts requests by route and status, and answers HEAD wherever GET is answered."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.counter = app, service.metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and look at the status of the response."""

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")  # of the route: a path is the client's to invent
                self.counter.labels(path, message["status"]).inc()
            await send(message)

        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # answered as if it were; the server that we run in sends no body
        await self.app(scope, receive, counted if scope["type"] == "http" else send)
