"""The pages: start, playground, chat, and the API's description. Offline, no build step."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from takeoff.errors import NotFound
from takeoff.http.refusals import error_response

WEB = Path(__file__).parent / "web"

_PAGES = {
    "/": "index.html",
    "/docs": "docs.html",
    "/demos/chat": "chat.html",
    "/demos/playground": "playground.html",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_OUR_POLICY = f"{_POLICY}; require-trusted-types-for 'script'"  # no text can become markup, by mistake either
_DOCS_POLICY = f"{_POLICY}; img-src 'self' data:"  # Swagger UI's style sheet has its icons inside
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_router(door: Literal["front", "takeoff"]) -> APIRouter:
    """Routes of the pages for the `door` whose API they use. Their files are read once, here."""
    paths = [path for path in WEB.rglob("*") if path.suffix in _TYPES]
    files = {path.relative_to(WEB).as_posix(): path.read_bytes() for path in paths}
    files["door.js"] = files[f"doors/{door}.js"]
    etags = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in files.items()}
    router = APIRouter(include_in_schema=False)

    def answer(request: HttpRequest, name: str) -> Response:
        if name not in files:
            return error_response(request.url.path, NotFound(f"there is no file {name!r} here"))
        headers = {**_HEADERS, "etag": etags[name]}
        headers["content-security-policy"] = _DOCS_POLICY if name == "docs.html" else _OUR_POLICY
        if request.headers.get("if-none-match") == etags[name]:
            return Response(status_code=304, headers=headers)
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=headers)

    @router.get("/web/{name:path}")
    async def web_file(request: HttpRequest, name: str) -> Response:
        return answer(request, name)

    def add_page(route: str, name: str) -> None:
        @router.get(route)
        async def page(request: HttpRequest) -> Response:
            return answer(request, name)

    for route, name in _PAGES.items():
        add_page(route, name)
    return router
