"""Who may speak to us: keys and their scopes, host names, origins. Pure ASGI, around every route.

A route asks for a key of its door's scope, one that nobody thought of too. `OPEN_PATHS` are the exception.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from contextlib import ExitStack
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from takeoff.errors import Forbidden, TakeoffError, Unauthorized
from takeoff.http.notes import current_note
from takeoff.http.refusals import error_response
from takeoff.http.resuming import KeptStream, KeptStreams, current_stream
from takeoff.http.terms import ID, terms_of
from takeoff.http.visiting import current_visit
from takeoff.keys.account import Account
from takeoff.keys.key import Scope as KeyScope
from takeoff.keys.keyring import Keyring
from takeoff.settings import Settings

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


# To everyone, for load balancers and probes; without a query.
OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/startupz"})


class Guard:
    """Refuses a request before any route sees it."""

    def __init__(
        self, app: ASGIApp, settings: Settings, keys: Keyring, scope: KeyScope, streams: KeptStreams
    ) -> None:
        """`scope` is what the door's routes ask for, but those that tell of all its users."""
        self._app = app
        self._keys = keys
        self._streams = streams
        self._max_resume_s = settings.resume_max_s
        self._scope = scope
        self._scopes = {"/metrics": (KeyScope.METRICS,), "/status": (scope, KeyScope.METRICS)}
        self._hosts = (
            LOOPBACK_NAMES | {settings.host.lower()} | {name.lower() for name in settings.allowed_host}
        )
        self._any_address = settings.host in ("0.0.0.0", "::")  # noqa: S104  (compared, not bound)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_counted = scope["method"] == "POST" and self._scope is KeyScope.INFERENCE
        note = current_note.get()
        with ExitStack() as stack:
            try:
                headers = {name.lower(): value for name, value in scope["headers"]}
                account = self._checked(scope, headers)
                terms = terms_of(headers if is_counted else {}, self._max_resume_s)
                note.request_id = terms.request_id if is_counted else None
                visit = note.visit = stack.enter_context(
                    account.visit(terms.request_id, terms.timeout_s, is_counted=is_counted)
                )
                stream: KeptStream | None = None
                if terms.resume_s is not None:
                    place = self._streams.place(account.tenant, terms.request_id, terms.resume_s)
                    stream = stack.enter_context(place)
            except TakeoffError as exc:
                await error_response(scope["path"], exc)(scope, receive, send)
                return
            tokens = current_visit.set(visit), current_stream.set(stream)
            try:
                await self._app(scope, receive, _naming(visit.request_id, send) if is_counted else send)
            finally:
                current_visit.reset(tokens[0])
                current_stream.reset(tokens[1])
                if visit.rest is not None:
                    leaving = stack.pop_all()
                    visit.rest.add_done_callback(lambda _: leaving.close())

    def _checked(self, scope: Scope, headers: dict[bytes, bytes]) -> Account:
        """Whose request it is.

        Raises:
            Forbidden: of a stranger's page, before its key is looked at; or the key has not the scope.
            Unauthorized: there is no key, or none of ours.
        """
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_our_name(_host_name(host)):
            raise Forbidden(f"the host name {host!r} is not served here; allow it with --allowed-host")
        origin = headers.get(b"origin")
        if scope["method"] in _CHANGING and origin is not None and _netloc(origin) != host.lower():
            raise Forbidden(f"requests from pages of {origin.decode('latin-1')!r} are not allowed")
        account = current_note.get().account = self._keys.account_of(_presented_key(headers))
        if scope["path"] in OPEN_PATHS and not (account.is_stranger and scope["query_string"]):
            return account
        if account.is_stranger:
            raise Unauthorized("a valid API key is required: Authorization: Bearer KEY, or x-api-key: KEY")
        scopes = self._scopes.get(scope["path"], (self._scope,))
        if not any(map(account.has, scopes)):
            raise Forbidden(
                f"the API key {account.name!r} does not open this: it takes the scope {' or '.join(scopes)}"
            )
        return account

    def _is_our_name(self, name: str) -> bool:
        return name in self._hosts or (self._any_address and _is_address(name))


def _naming(request_id: str, send: Send) -> Send:
    """A `send` whose answer says what its request is called."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            name = (ID.lower().encode(), request_id.encode())
            message = {**message, "headers": [*message["headers"], name]}
        await send(message)

    return named


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
