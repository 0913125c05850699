"""A door: one listening socket, uvicorn behind it, limits of headers and time that uvicorn does not have."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import socket
import sys
import termios
from collections.abc import Iterable, Iterator
from typing import Any, cast

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from takeoff.errors import StartError
from takeoff.http.request_log import RequestLog
from takeoff.http.streaming import BrokenOff
from takeoff.http.tls import tls_context
from takeoff.settings import Settings

KEEP_ALIVE_S = 30  # a connection waits this long for its next request
LEAST_TAKEN_BYTES_PER_S = 240  # of an answer, by a client that is not cut off for being slow

_REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

logger = logging.getLogger(__name__)


def listen(host: str, port: int, *, flag: str = "--port", shares_port: bool = False) -> socket.socket:
    """Take a port; 0 takes a free one. `shares_port`: others of this user who say so too may have it as well.

    Raises:
        StartError: it is in use, or the address is not this machine's.
    """
    try:
        return _bound_socket(host, port, shares_port=shares_port)
    except (OSError, UnicodeError) as exc:  # the second: a host that is no name at all
        raise StartError(
            f"can't listen on {host} port {port}: {getattr(exc, 'strerror', exc)}",
            hint=f"stop what listens there, or choose another with {flag}",
        ) from exc


class DoorServer:
    """Serves an app on a socket from `listen`. Signals are the caller's."""

    def __init__(
        self, app: ASGIApp, settings: Settings, sock: socket.socket, log: RequestLog | None = None
    ) -> None:
        """`log` is told of connections that are refused.

        Raises:
            SettingsError: the certificate or its key can't be used.
        """
        self._socket = sock
        config = uvicorn.Config(
            app,
            http=_limited_protocol(settings, log),
            loop="none",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=512,
        )
        config.load()
        config.ssl = tls_context(settings)
        self._server = _Server(config, settings.header_timeout_s)

    @property
    def port(self) -> int:
        return cast(int, self._socket.getsockname()[1])

    async def serve(self) -> None:
        """Accept and answer until `stop`, then until what is open has ended."""
        await self._server.serve(sockets=[self._socket])

    def stop(self) -> None:
        """Accept nothing more and close what is idle; `serve` returns when the rest has ended."""
        self._server.should_exit = True

    def cut(self) -> None:
        """Close what is still open."""
        self._server.force_exit = True
        for protocol in list(self._server.server_state.connections):
            protocol.transport.abort()


def _bound_socket(host: str, port: int, *, shares_port: bool) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, handshake_timeout_s: float) -> None:
        super().__init__(config)
        self._handshake_timeout_s = handshake_timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections; a TLS handshake has its time, of which uvicorn makes a minute."""
        config, loop = self.config, asyncio.get_running_loop()

        def create_protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state={}
            )

        self.servers = [
            await loop.create_server(
                create_protocol,
                sock=sock,
                ssl=config.ssl,
                ssl_handshake_timeout=None if config.ssl is None else self._handshake_timeout_s,
                backlog=config.backlog,
            )
            for sock in sockets or ()
        ]
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the program."""
        yield


def _limited_protocol(settings: Settings, log: RequestLog | None) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with limits on header bytes and time, and on connections.

    No ASGI middleware sees a request whose header never ends, so this must be below.
    """
    answers = logging.getLogger("takeoff.http.answers")
    answers.addFilter(_is_a_fault)
    moments = itertools.count()  # the clock has the same time for several

    class LimitedProtocol(HttpToolsProtocol):
        header_bytes = 0
        header_timer: asyncio.TimerHandle | None = None
        send_timer: asyncio.TimerHandle | None = None
        waits_since: int | None = None  # when, in order, it began to; None: a request is in work

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.logger = answers
            if (full := self._full()) is None:
                self.waits_since = next(moments)
                self._start_timer()
            else:
                self._refuse(503, full)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch_sending()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_watching()
            if self.transport.is_closing():
                self._watch_sending()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():
                self._watch_sending()
            elif self.cycle is None or self.cycle.response_complete:  # the last that came: none is behind
                self.waits_since = next(moments)

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._watch_sending()

        def data_received(self, data: bytes) -> None:
            in_header = self.header_timer is not None
            super().data_received(data)
            if in_header and self.header_timer is not None:
                self.header_bytes += len(data)
                if self.header_bytes > settings.max_header_bytes:
                    self._refuse_header()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            super()._unset_keepalive_if_required()
            if self.header_timer is None:
                self._start_timer()

        def on_headers_complete(self) -> None:
            self._stop_timer()
            self.waits_since = None
            super()._unset_keepalive_if_required()
            self.header_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if self.header_bytes > settings.max_header_bytes:
                self._refuse_header()
                raise httptools.HttpParserError("the header is too large")  # ends the parsing
            self.header_bytes = 0
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, msg)

        def _unset_keepalive_if_required(self) -> None:
            """Not for any byte that comes: only a request ends the wait for one."""

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_watching()
            super()._unset_keepalive_if_required()
            super().connection_lost(exc)

        def _is_answering(self) -> bool:
            cycle = self.cycle
            is_under_way = cycle is not None and cycle.response_started and not cycle.response_complete
            return bool(self.pipeline) or is_under_way

        def _start_timer(self) -> None:
            self.header_timer = self.loop.call_later(settings.header_timeout_s, self._header_is_late)

        def _stop_timer(self) -> None:
            if self.header_timer is not None:
                self.header_timer.cancel()
                self.header_timer = None

        def _watch_sending(self) -> None:
            """From here on nothing is added to what is to be sent, so it gets less or nobody takes it."""
            if self.send_timer is None:
                size = _unsent_bytes(self.transport)
                self.send_timer = self.loop.call_later(settings.send_timeout_s, self._check_sending, size)

        def _stop_watching(self) -> None:
            if self.send_timer is not None:
                self.send_timer.cancel()
                self.send_timer = None

        def _check_sending(self, size: int) -> None:
            self.send_timer = None
            taken = size - _unsent_bytes(self.transport)
            if taken >= min(size, LEAST_TAKEN_BYTES_PER_S * settings.send_timeout_s):
                self._watch_sending()
            else:
                self.transport.abort()

        def _full(self) -> str | None:
            """Why there is no room for this connection; None: there is, or another has made it."""
            most = settings.max_connections
            if len(self.connections) > most and not _made_room(self.connections, most):
                return f"{most} connections are open, which is the limit"
            if (most := settings.max_connections_per_client or 0) and len(self.connections) > most:
                host = _host(self.transport)
                if not _made_room([each for each in self.connections if _host(each.transport) == host], most):
                    return f"{most} connections of this address are open, which is the limit"
            return None

        def _header_is_late(self) -> None:
            self._refuse(408, f"the header did not arrive within {settings.header_timeout_s:g} s")

        def _refuse_header(self) -> None:
            self._refuse(431, f"the header has more than {settings.max_header_bytes} bytes")

        def _refuse(self, status: int, message: str) -> None:
            self._stop_timer()
            if self.transport.is_closing():
                return
            if self._is_answering():
                self.transport.close()  # that answer breaks off: there is no place for ours in it
                return
            if log is not None:
                port = self.transport.get_extra_info("sockname")[1]
                log.refused(_host(self.transport), port, status, message)
            body = f'{{"detail":"{message}"}}'.encode()
            head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
            head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
            self.transport.close()
            self._watch_sending()

    return cast(type[asyncio.Protocol], LimitedProtocol)


def _made_room(connections: Iterable[Any], most: int) -> bool:
    """Whether `most` of them are open at most, if need be without the one that has longest had no request.

    Any that waits for one may be closed at any time; so who only holds connections keeps nobody out.
    """
    present = [each for each in connections if not each.transport.is_closing()]
    if len(present) <= most:
        return True
    waiting = [each for each in present if each.waits_since is not None]
    longest = min(waiting, key=lambda each: each.waits_since, default=None)
    if longest is not None:
        longest.transport.close()
    return longest is not None


def _is_a_fault(record: logging.LogRecord) -> bool:
    """Not of an answer that had to break off: its client sees that, and the request log tells why."""
    return record.exc_info is None or not isinstance(record.exc_info[1], BrokenOff)


def _host(transport: asyncio.BaseTransport) -> str:
    """The other side's address; of a connection that is lost none."""
    name = transport.get_extra_info("peername")
    return str(name[0]) if name else ""


def _unsent_bytes(transport: asyncio.Transport) -> int:
    """What the other side has not taken yet: of ours, and on Linux of what the kernel holds of it.

    It asks for more only when a good part of its megabytes is gone, for which a slow client takes long.
    """
    size = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sys.platform == "linux" and sock is not None and sock.fileno() >= 0:
        size += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return size
