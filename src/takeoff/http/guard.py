"""Who may speak to us: keys, host names, origins. Pure ASGI, around every route without exception."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from takeoff.errors import Forbidden, TakeoffError, Unauthorized
from takeoff.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Guard:
    """Refuses a request before any route sees it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._digest = _digest(settings.api_key) if settings.api_key else None
        self._hosts = (
            LOOPBACK_NAMES | {settings.host.lower()} | {name.lower() for name in settings.allowed_host}
        )
        self._any_address = settings.host in ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        try:
            self._check(scope["method"], headers)
        except TakeoffError as exc:
            response = JSONResponse({"detail": exc.message}, exc.status)
            if isinstance(exc, Unauthorized):
                response.headers["www-authenticate"] = 'Bearer realm="takeoff", Basic realm="takeoff"'
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, method: str, headers: dict[str, str]) -> None:
        """Raise Forbidden or Unauthorized; a stranger's page is refused before its key is looked at."""
        host = headers.get("host", "")
        if not self._is_our_name(_host_name(host)):
            raise Forbidden(f"the host name {host!r} is not served here; allow it with --allowed-host")
        origin = headers.get("origin")
        if method in _CHANGING and origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise Forbidden(f"requests from pages of {origin!r} are not allowed")
        if self._digest is not None and not hmac.compare_digest(
            _digest(_presented_key(headers)), self._digest
        ):
            raise Unauthorized("a valid API key is required: Authorization: Bearer KEY, or x-api-key: KEY")

    def _is_our_name(self, name: str) -> bool:
        return name in self._hosts or (self._any_address and _is_address(name))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, in lower case."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    """An address can't be rebound to another machine by DNS as a name can."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _presented_key(headers: dict[str, str]) -> str:
    """The key in x-api-key, a Bearer token, or the password of HTTP Basic; "" if there is none."""
    if "x-api-key" in headers:
        return headers["x-api-key"]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            try:
                return base64.b64decode(value, validate=True).decode("latin-1").partition(":")[2]
            except binascii.Error:
                return ""
        case _:
            return ""
