"""The pages: start, playground, chat, and the API's description. Offline, no build step."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from takeoff.errors import NotFound

WEB = Path(__file__).parent / "web"

_PAGES = {
    "/": "index.html",
    "/docs": "docs.html",
    "/demos/chat": "chat.html",
    "/demos/playground": "playground.html",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_router() -> APIRouter:
    """Routes of the pages and their files. The files are read once, here."""
    files = {path.name: path.read_bytes() for path in WEB.iterdir() if path.suffix in _TYPES}
    router = APIRouter(include_in_schema=False)

    def answer(name: str) -> Response:
        if name not in files:
            raise NotFound(f"there is no file {name!r} here")
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=_HEADERS)

    @router.get("/web/{name}")
    async def web_file(name: str) -> Response:
        return answer(name)

    for route, name in _PAGES.items():
        router.add_api_route(route, lambda name=name: answer(name), methods=["GET"])
    return router
