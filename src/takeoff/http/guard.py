"""Who may speak to us: keys, host names, origins. Pure ASGI, around every route without exception."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from takeoff.errors import Forbidden, TakeoffError, Unauthorized
from takeoff.http.refusals import error_response
from takeoff.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Guard:
    """Refuses a request before any route sees it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._digests = _digests(settings.api_key) if settings.api_key else []
        self._hosts = (
            LOOPBACK_NAMES | {settings.host.lower()} | {name.lower() for name in settings.allowed_host}
        )
        self._any_address = settings.host in ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope["method"], {name.lower(): value for name, value in scope["headers"]})
        except TakeoffError as exc:
            await error_response(scope["path"], exc)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _check(self, method: str, headers: dict[bytes, bytes]) -> None:
        """Raise Forbidden or Unauthorized; a stranger's page is refused before its key is looked at."""
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_our_name(_host_name(host)):
            raise Forbidden(f"the host name {host!r} is not served here; allow it with --allowed-host")
        origin = headers.get(b"origin")
        if method in _CHANGING and origin is not None and _netloc(origin) != host.lower():
            raise Forbidden(f"requests from pages of {origin.decode('latin-1')!r} are not allowed")
        if self._digests and not _is_one_of(_presented_key(headers), self._digests):
            raise Unauthorized("a valid API key is required: Authorization: Bearer KEY, or x-api-key: KEY")

    def _is_our_name(self, name: str) -> bool:
        return name in self._hosts or (self._any_address and _is_address(name))


def _digests(key: str) -> list[bytes]:
    """Of the bytes that clients make of a key: UTF-8, and Latin-1 where that can spell it."""
    spellings = {key.encode()}
    with contextlib.suppress(UnicodeEncodeError):
        spellings.add(key.encode("latin-1"))
    return [hashlib.sha256(spelling).digest() for spelling in spellings]


def _is_one_of(key: bytes, digests: list[bytes]) -> bool:
    """Whether it is a right key, in a time that says nothing of how near a wrong one came."""
    digest = hashlib.sha256(key).digest()
    return any(hmac.compare_digest(digest, right) for right in digests)


def _netloc(origin: bytes) -> str:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower()
    except ValueError:
        return ""


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


def _presented_key(headers: dict[bytes, bytes]) -> bytes:
    """The key in x-api-key, a Bearer token, or the password of HTTP Basic; empty if there is none."""
    if b"x-api-key" in headers:
        return headers[b"x-api-key"]
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    match scheme.lower():
        case b"bearer":
            return value.strip()
        case b"basic":
            try:
                return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        case _:
            return b""
