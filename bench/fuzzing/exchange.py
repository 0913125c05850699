"""A request as bytes on a socket, the answer as bytes, and what every answer must be."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from dataclasses import dataclass
from typing import Any

from bench.fuzzing.target import Found

ANSWER_S = 10.0  # with nothing to read for so long, the server hangs
MAX_ANSWER_BYTES = 64 << 20
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [^\r\n]*")
_ERROR_KEYS = {"message", "type", "param", "code"}
# Of ours, the ends that a request can bring about: its own time is over, it was ended, or nothing is ready.
_ALLOWED_5XX = {503: ("/livez", "/readyz", "/startupz", "/healthz"), 504: ()}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `status` is 0 where the server closed without an answer."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    is_whole: bool = True  # else the body broke off
    closes: bool = True

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each == name), None)


class Line:
    """A connection to a door, opened when it is needed and anew when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._unread = b""

    def ask(self, request: bytes, *, has_body: bool = True) -> Answer:
        """Send, and read one answer.

        Raises:
            Found: what came is not HTTP, or nothing came.
        """
        for is_last in (self._socket is None, True):
            answer = self._asked(request, has_body=has_body)
            if answer.status or is_last:
                return answer
        raise AssertionError

    def leave(self, request: bytes) -> None:
        """Send, and be gone with the first that comes."""
        self.close()
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_S)
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(request)
            self._received()
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._unread = None, b""

    def _asked(self, request: bytes, *, has_body: bool) -> Answer:
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=ANSWER_S)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused while it is sent
                self._socket.sendall(request)
            answer = self._answer(has_body=has_body)
        except TimeoutError as exc:
            self.close()
            raise Found("no answer", f"nothing came for {ANSWER_S:g} s") from exc
        except ConnectionResetError:
            self.close()
            return Answer(0)
        if answer.closes:
            self.close()
        return answer

    def _answer(self, *, has_body: bool) -> Answer:
        head = self._until(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head = self._until(b"\r\n\r\n")
        if not head:
            self.close()
            return Answer(0)
        first, *lines = head[:-4].split(b"\r\n")
        match = _STATUS.fullmatch(first)
        if match is None:
            raise Found("an answer that is not HTTP", repr(head[:300]))
        headers = tuple(_header(line) for line in lines)
        answer = Answer(int(match[1]), headers)
        body, is_whole, closes = self._body(answer, has_body=has_body)
        closes = closes or (answer.header("connection") or "").lower() == "close"
        return Answer(answer.status, headers, body, is_whole, closes)

    def _body(self, answer: Answer, *, has_body: bool) -> tuple[bytes, bool, bool]:
        """The body, whether it is whole, and whether the connection ended with it."""
        if not has_body or answer.status in (204, 304):
            return b"", True, False
        length = answer.header("content-length")
        if length is not None:
            body = self._exactly(int(length))
            return body, len(body) == int(length), len(body) != int(length)
        if answer.header("transfer-encoding") == "chunked":
            return self._chunks()
        body = b""
        while piece := self._more():
            body += piece
        return body, True, True

    def _chunks(self) -> tuple[bytes, bool, bool]:
        body = b""
        while True:
            line = self._until(b"\r\n")
            if not line:
                return body, False, True
            try:
                size = int(line, 16)
            except ValueError:
                raise Found("an answer whose chunks are none", repr(line[:100])) from None
            piece = self._exactly(size + 2)
            if len(piece) != size + 2:
                return body, False, True
            body += piece[:-2]
            if size == 0:
                return body, True, False

    def _until(self, end: bytes) -> bytes:
        """All up to `end` and with it; nothing, if it ends before."""
        while end not in self._unread:
            piece = self._received()
            if not piece:
                return b""
            self._unread += piece
        found, _, self._unread = self._unread.partition(end)
        return found + end

    def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size and (piece := self._received()):
            self._unread += piece
        found, self._unread = self._unread[:size], self._unread[size:]
        return found

    def _more(self) -> bytes:
        found, self._unread = self._unread or self._received(), b""
        return found

    def _received(self) -> bytes:
        assert self._socket is not None
        return self._socket.recv(1 << 18)


def _header(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    if not colon or not re.fullmatch(rb"[a-z0-9-]+", name.lower()) or re.search(rb"[\0-\x08\n-\x1f]", value):
        raise Found("a header that is none", repr(line[:200]))
    return name.decode().lower(), value.strip().decode("latin-1")


def has_body(request: bytes) -> bool:
    """Whether the answer to a request has one. Empty lines may stand before a request."""
    return re.match(rb"[\r\n]*HEAD ", request) is None


def check(answer: Answer, path: str, *, may_break_off: bool = False) -> bool:
    """Whether the request was accepted, of an answer that is as it must be.

    `may_break_off`: its stream was ended, or another connection has taken what it was to get.

    Raises:
        Found: it is not: our fault by its status, an error in no shape of ours, or a body that breaks off.
    """
    if not answer.is_whole and not may_break_off:
        raise Found("an answer that breaks off", f"{answer.status} after {len(answer.body)} bytes")
    if answer.status < 400:
        return answer.status != 0
    if answer.status >= 500:
        paths = _ALLOWED_5XX.get(answer.status)
        if paths is None or (paths and not path.startswith(paths)):
            raise Found(f"{answer.status}", f"{path[:200]}: {answer.body[:600]!r}")
    if answer.body or answer.header("content-length") not in (None, "0"):
        check_error(answer, path)
    return False


def check_error(answer: Answer, path: str) -> None:
    """An error has the shape of one of our APIs."""
    if not answer.body:  # of HEAD
        return
    if not (answer.header("content-type") or "").startswith("application/json"):
        raise Found("an error that is not JSON", f"{answer.status} {path[:200]}: {answer.headers}")
    try:
        body: Any = json.loads(answer.body)
    except ValueError as exc:
        raise Found("an error that is not JSON", f"{answer.status}: {exc}: {answer.body[:300]!r}") from exc
    match body:
        case {"detail": str() | [_, *_]} if len(body) == 1:
            return
        case {"error": {"message": str(), **inner}} if len(body) == 1 and inner.keys() <= _ERROR_KEYS:
            return
        case {"type": "error", "error": {"type": str(), "message": str()}, "request_id": str()}:
            return
        case _ if answer.status == 503:  # of a probe: readers by state
            return
        case _:
            raise Found("an error in no shape of ours", f"{answer.status}: {answer.body[:300]!r}")
