"""GET / and the files of the web page, which come from this package and nowhere else."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "key.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# Small files on a nearby machine: asking each time beats showing an old page after an upgrade.
HEADERS = {"cache-control": "no-cache"}


def page_router() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    folder = files("fedfleet_inference_api") / "page"
    contents = {name: (folder / name).read_bytes() for name in MEDIA_TYPES}

    def show(name: str) -> Response:
        return Response(contents[name], media_type=MEDIA_TYPES[name], headers=HEADERS)

    @router.get("/")
    async def index() -> Response:
        return show("index.html")

    @router.get("/page/style.css")
    async def style() -> Response:
        return show("style.css")

    @router.get("/page/page.js")
    async def script() -> Response:
        return show("page.js")

    @router.get("/page/key.js")
    async def key_script() -> Response:
        return show("key.js")

    @router.get("/page/icon.svg")
    async def icon() -> Response:
        return show("icon.svg")

    return router
