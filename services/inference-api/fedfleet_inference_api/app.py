"""Makes the web application of an inference service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import chain

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route, WebSocketRoute

from fedfleet.errors import FedFleetError, InvalidInput
from fedfleet_inference_api import scopes
from fedfleet_inference_api.access import Access
from fedfleet_inference_api.answers import HTTP_CODES, error_json, error_response
from fedfleet_inference_api.body_limit import BodyLimit
from fedfleet_inference_api.camera_routes import camera_router
from fedfleet_inference_api.config import MIB
from fedfleet_inference_api.event_routes import event_router
from fedfleet_inference_api.guard import Guard
from fedfleet_inference_api.health_routes import health_router
from fedfleet_inference_api.history_routes import history_router
from fedfleet_inference_api.keys import KeyRing
from fedfleet_inference_api.model_routes import model_router
from fedfleet_inference_api.page_routes import page_router
from fedfleet_inference_api.predict_routes import predict_router
from fedfleet_inference_api.served_routes import served_router
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.v2_routes import v2_router

DESCRIPTION = """Answers what an image shows with the newest version of a federated model.

Every answer names the version, the round and the SHA-256 of the weights that gave it."""


def create_app(service: InferenceService) -> FastAPI:
    """The application; it starts the service's threads when it is started, and stops them."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            service.start()  # what has begun before a part fails is ended, too
            yield
        finally:
            await asyncio.to_thread(service.stop)

    config, metrics = service.config, service.metrics
    keys = KeyRing(service.store.access) if config.asks_for_keys else None
    app = FastAPI(
        title="FedFleet inference",
        version="1",
        description=DESCRIPTION,
        docs_url=None,  # the framework's pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
        middleware=[
            Middleware(Access, metrics=metrics, is_draining=lambda: service.is_draining),
            Middleware(Guard, config=config, keys=keys, metrics=metrics),
            Middleware(
                BodyLimit,
                max_bytes=config.max_body_bytes,
                in_flight_bytes=config.bodies_mb * MIB,
            ),
        ],
    )
    routers = [make(service) for make in (predict_router, model_router, health_router)]
    routers += [served_router(service), v2_router(service)]
    routers += [history_router(service), camera_router(service.station)]
    routers += [event_router(service.station.hub, service.station.names), page_router()]
    scopes.check_complete(routes_of(app.routes, *(router.routes for router in routers)))
    for router in routers:
        app.include_router(router)
    _handle_errors(app, service)
    return app


def routes_of(*routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Method and path of each route; no other kind has a line in any table."""
    for route in chain(*routes):
        if isinstance(route, WebSocketRoute):
            yield scopes.WEBSOCKET, route.path
            continue
        assert isinstance(route, Route), f"{route} is no route of HTTP"
        for method in route.methods or ():
            yield method, route.path


def _handle_errors(app: FastAPI, service: InferenceService) -> None:
    @app.exception_handler(FedFleetError)
    async def ours(request: Request, error: FedFleetError) -> JSONResponse:
        service.metrics.errors.labels(error.code).inc()
        return error_response(error, path=request.url.path)

    @app.exception_handler(RequestValidationError)
    async def parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        invalid = InvalidInput("; ".join(_describe(item) for item in error.errors()))
        service.metrics.errors.labels(invalid.code).inc()
        return error_response(invalid, path=request.url.path)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTP_CODES.get(error.status_code, InvalidInput.code)
        service.metrics.errors.labels(code).inc()
        message = f"{request.method} {request.url.path}: {error.detail}"
        path = request.url.path
        return error_json(error.status_code, code, message, error.headers, path=path)


def _describe(item: dict[str, object]) -> str:
    """One parameter's mistake: where, what was sent, what is wrong."""
    location = item.get("loc")
    where = ".".join(str(part) for part in location) if isinstance(location, tuple) else "request"
    return f"{where} = {str(item.get('input'))[:50]!r}: {item.get('msg')}"
