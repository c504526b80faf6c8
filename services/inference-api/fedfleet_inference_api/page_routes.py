"""The web pages and their files, which come from this package and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Response

PAGES = {"/": "index.html", "/live": "live.html", "/history": "history.html"}
FILES = (
    "style.css",
    "shell.js",
    "page.js",
    "drawing.js",
    "live.js",
    "streams.js",
    "history.js",
    "chart.js",
    "key.js",
    "icon.svg",
)
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Small files on a nearby machine: asking each time beats showing an old page after an upgrade.
HEADERS = {"cache-control": "no-cache"}


def page_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    for path, name in {**PAGES, **{f"/page/{name}": name for name in FILES}}.items():
        router.add_api_route(path, _show(name), methods=["GET"])
    return router


def _show(name: str) -> Callable[[], Coroutine[Any, Any, Response]]:
    """A handler (Any: of the framework's) that answers with a file, read once."""
    content = (files("fedfleet_inference_api") / "page" / name).read_bytes()
    media_type = MEDIA_TYPES[name.rpartition(".")[2]]

    async def show() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return show
