"""The doors over a scripted service, in this process, asked over real sockets.

A case is the name of a door, and what is sent to it: requests with a mark between them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator

import uvloop
from bench.fuzzing.exchange import Answer, Line, check, has_body
from bench.fuzzing.nasty import INTEGERS, TEXTS, damaged, json_text, value
from bench.fuzzing.requests import Route, form_of, headers_of, request_to, routes_of, sample_json, written
from bench.fuzzing.target import Found, Place
from fastapi import FastAPI
from tests.http.door import MAKERS, PORTS, FakeReader, FakeService

from takeoff.http.resuming import KeptStreams
from takeoff.http.server import DoorServer, listen
from takeoff.http.takeoff_pro import IMAGE_PART, JSON_PART
from takeoff.settings import Settings

NEXT, LEAVE = b"\n--next--\n", b"\n--leave--\n"  # behind LEAVE the connection is gone, whatever was to come
LOG_S = 0.05
SOON = {"header_timeout_s": 0.5, "body_timeout_s": 0.5}  # for requests that lack their end
WORDS = tuple(f"wörd{n} " for n in range(12))
MANY_WORDS = WORDS * 10  # more than is kept of a stream
RESUMED = {
    "front": [
        ("/v1/completions", {"prompt": "a", "stream": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "stream": True}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 9, "stream": True}),
    ],
    "openai": [("/v1/responses", {"input": "a", "stream": True})],
    "takeoff": [("/generate_stream", {"text": "a"}), ("/generate_stream", {"text": ["a", "b"]})],
}
_TOKEN = re.compile(rb"^id: ([^\r\n]*):([0-9]+)$", re.MULTILINE)


class Errors(logging.Handler):
    """What the server's log says that an error of ours would say."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(logging.Formatter().format(record))


class Served:
    """All doors, in a thread with a loop of their own."""

    def __init__(self, settings: Settings, script: tuple[str, ...]) -> None:
        self.service = FakeService(script)
        self.errors = Errors()
        self.ports: dict[str, int] = {}
        self.routes: list[Route] = []
        self._settings = settings
        self._script = script
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="doors", daemon=True)

    def __enter__(self) -> Served:
        logging.getLogger().addHandler(self.errors)
        self._thread.start()
        self._is_up.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(10.0)

    def add_to(self, app: FastAPI) -> None:
        """For whoever needs routes more."""

    def renew(self) -> None:
        """The service as it was at the beginning."""
        service = self.service
        for each in (service.generations, service.encodings, service.calls):
            each.clear()
        service.fleet = [FakeReader("smollm2")]

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        streams, self._doors = KeptStreams(self._settings), []
        for name, make in MAKERS.items():
            app = make(self.service, self._settings, ports=PORTS, streams=streams)
            self.add_to(app)
            door = DoorServer(app, self._settings, listen("127.0.0.1", 0))
            self.routes += routes_of(name, app.openapi())
            self.routes += [
                Route(name, "GET", path, (), None, False) for path in ("/", "/healthz", "/nothing")
            ]
            self.ports[name] = door.port
            self._doors.append(door)
        running = [asyncio.create_task(door.serve()) for door in self._doors]
        self._loop.call_later(0.2, self._is_up.set)
        await asyncio.gather(*running)

    def _stop(self) -> None:
        for door in self._doors:
            door.stop()
            door.cut()


class Doors:
    """Requests to the doors; what they are is `made`'s to say."""

    limit_s = 15.0
    may_be_late = False
    memory_bytes: int | None = None
    watches_caller = False  # it is the client

    def __init__(self, served: Served, made: Callable[[random.Random], bytes], *, is_kept_open: bool) -> None:
        self._served = served
        self._made = made
        self._is_kept_open = is_kept_open
        self._lines = {name: Line(port) for name, port in served.ports.items()}

    def make(self, chance: random.Random) -> bytes:
        return self._made(chance)

    def run(self, case: bytes) -> bool:
        self._served.renew()
        may_break_off = LEAVE in case or b"DELETE /" in case
        try:
            is_accepted = self._all_asked(case, may_break_off=may_break_off)
        except Found:
            time.sleep(LOG_S)  # the log says the same a moment later
            self._served.errors.records.clear()
            raise
        records, self._served.errors.records = self._served.errors.records, []
        if may_break_off:  # so it is done, and so it is told
            records = [each for each in records if "BrokenOff" not in each]
        if records:
            where = re.findall(r'takeoff/(\S+)", line (\d+)', records[0])
            raise Found(f"an error in the log, {':'.join(where[-1]) if where else ''}", records[0][-4_000:])
        return is_accepted

    def _all_asked(self, case: bytes, *, may_break_off: bool) -> bool:
        name, _, sent = case.partition(b"\n")
        line = self._lines.get(name.decode("latin-1"), self._lines["front"])
        is_accepted = False  # as the last request is
        for request in re.split(b"(?<=\n--next--\n)|(?<=\n--leave--\n)", sent):
            if request.endswith(LEAVE):
                line.leave(request.removesuffix(LEAVE))
                is_accepted = True
            elif request:
                is_accepted = self._asked(line, request.removesuffix(NEXT), may_break_off=may_break_off)
        if not self._is_kept_open:
            line.close()
        return is_accepted

    def _asked(self, line: Line, request: bytes, *, may_break_off: bool) -> bool:
        answer = line.ask(request, has_body=has_body(request))
        target = request.split(b" ", 2)[1:2] or [b""]
        check_events(answer)
        return check(answer, target[0].decode("latin-1"), may_break_off=may_break_off)


def check_events(answer: Answer) -> None:
    """The numbers of a kept stream's events go up by one."""
    numbers = [int(number) for _, number in _TOKEN.findall(answer.body)]
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise Found("events that are not in order", f"{numbers[:50]}")


@contextlib.contextmanager
def routes(_place: Place) -> Iterator[Doors]:
    """Every route of every door, by its own description."""
    with Served(Settings(resume_max_s=1.0, **SOON), WORDS) as served:

        def made(chance: random.Random) -> bytes:
            route = chance.choice(served.routes)
            return f"{route.door}\n".encode() + request_to(route, chance)

        yield Doors(served, made, is_kept_open=True)


@contextlib.contextmanager
def wire(_place: Place) -> Iterator[Doors]:
    """Bytes that are no HTTP, or hardly: lengths, chunks, headers, lines, and several requests in one."""
    with Served(Settings(header_timeout_s=0.03, body_timeout_s=0.03), WORDS[:2]) as served:

        def made(chance: random.Random) -> bytes:
            route = chance.choice(served.routes)
            return f"{route.door}\n".encode() + _bent(request_to(route, chance), chance)

        yield Doors(served, made, is_kept_open=False)


@contextlib.contextmanager
def multipart(_place: Place) -> Iterator[Doors]:
    """Bodies of several parts."""
    with Served(Settings(**SOON), WORDS[:2]) as served:
        yield Doors(served, form, is_kept_open=True)


@contextlib.contextmanager
def resume(_place: Place) -> Iterator[Doors]:
    """Streams that are left, picked up and ended, by ids and numbers right and wrong."""
    settings = Settings(resume_max_s=2.0, resume_kb=16, max_resumable=4, **SOON)
    with Served(settings, MANY_WORDS) as served:
        yield Doors(served, _resumed, is_kept_open=True)


def _bent(request: bytes, chance: random.Random) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    for _ in range(chance.choice((0, 1, 1, 2))):
        head += b"\r\n" + chance.choice(_odd_lines(chance))
    if chance.random() < 0.15:
        head = head.replace(
            b"HTTP/1.1", chance.choice((b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9.9", b"", b"X"))
        )
    if chance.random() < 0.1:
        head = head.replace(b"\r\n", chance.choice((b"\n", b"\r", b"\r\n\r\n", b"\r\n ")))
    if chance.random() < 0.1:
        first, *rest = head.split(b" ", 2)
        path = chance.choice(
            (b"*", b"http://x/y", b"//", b"/" + b"a" * 40_000, b"/\0", b"/\xff", b"x", b"/%", b"")
        )
        head = b" ".join([first, path, *rest[1:]])
    if chance.random() < 0.15:
        body = chance.choice(_CHUNKS) + body
    whole = head + b"\r\n\r\n" + body
    if chance.random() < 0.4:
        whole = damaged(whole, chance, 3)
    if chance.random() < 0.1:
        whole += whole
    return (
        chance.choice(
            (b"", b"", b"", b"", b"\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\0\xa5")
        )
        + whole
    )


def _odd_lines(chance: random.Random) -> tuple[bytes, ...]:
    number = str(chance.choice(INTEGERS)).encode()
    return (
        *(
            b"content-length: " + number,
            b"content-length: 1",
            b"content-length: 0x5",
            b"content-length: 1, 1",
        ),
        *(
            b"content-length:",
            b"content-length: 00000000000000000005",
            b"content-length : 5",
            b"content-length: +5",
        ),
        *(b"transfer-encoding: chunked", b"transfer-encoding: gzip, chunked", b"transfer-encoding: xchunked"),
        *(
            b"transfer-encoding: chunked, identity",
            b"Transfer-Encoding:\tchunked",
            b"expect: 100-continue",
            b"expect: x",
        ),
        *(
            b"connection: close",
            b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x",
            b"upgrade: h2c",
        ),
        *(
            b"host: evil.test",
            b"host:",
            b"host: [",
            b"host: localhost:99999999",
            b"host: a b",
            b"x" * 40_000 + b": 1",
        ),
        *(
            b"x: " + b"y" * 40_000,
            b"\r\n".join(b"x%d: 1" % n for n in range(3_000)),
            b"x: \0",
            b"x\0: 1",
            b": 1",
        ),
        *(
            b" folded: 1",
            b"no colon",
            b"x: \xff\xfe",
            b"x: \x01",
            b"te: trailers",
            b"trailer: x",
            b"keep-alive: 0",
        ),
        *(
            b"forwarded: for=x",
            b"x-forwarded-for: 1.2.3.4",
            b"range: bytes=0-1,5-",
            b"if-none-match: *",
            b"accept-encoding: *",
        ),
    )


_CHUNKS = (
    *(
        b"5\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"-1\r\n",
        b"g\r\n",
        b"5;x=" + b"y" * 9_000 + b"\r\n",
    ),
    *(
        b"0\r\nx: y\r\n\r\n",
        b"0\r\n\r\n0\r\n\r\n",
        b"5\nhello\n",
        b"00000000000000000000005\r\nhello\r\n",
        b"5\r\nhi\r\n",
    ),
)


def form(chance: random.Random) -> bytes:
    """A form with a text and a file, in some of the ways in which one can go wrong."""
    body = sample_json({"text": chance.choice(("Hello", "a <image> b", ["a", "b"])), "max_new_tokens": 3})
    if chance.random() < 0.3:
        body = json_text(value(chance))
    size = chance.choice((1, 100, 100, 100, 2_000, 66_000)) if chance.random() < 0.98 else 1_200_000
    image = chance.randbytes(min(size, 2_000)) * (1 + size // 2_000)
    name = chance.choice(("a.png", "", "../../a", "a.exe", "a\\", *TEXTS[1:3], "x" * 300))
    file = f'; filename="{name}"'
    parts = [(JSON_PART, "", body), (IMAGE_PART, file, image)]
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        place = chance.randrange(len(parts)) if parts else 0
        pick = chance.random()
        if pick < 0.2 and parts:
            del parts[place]
        elif pick < 0.4:
            parts.insert(place, (chance.choice((JSON_PART, IMAGE_PART, "other", *TEXTS[:4])), "", b"x"))
        elif pick < 0.8 and parts:
            name, more, content = parts[place]
            parts[place] = (name, more + chance.choice(_MORE), content)
        else:
            parts += [("x", "", b"1")] * chance.choice((1, 5, 2_000))
    boundary = chance.choice(("x", "----b", "a" * 70, "a" * 300, "b c", "'()+_,-./:=?", ""))
    whole = form_of(parts, boundary)
    if chance.random() < 0.3:
        whole = damaged(whole, chance, 3)
    told = (
        boundary
        if chance.random() < 0.9
        else chance.choice(("y", "", "é", '"x"', "x; boundary=y", "x" * 5_000))
    )
    name = chance.choice(("multipart/form-data", "Multipart/Form-Data", "multipart/mixed"))
    kind = f"{name}; boundary={told}" if chance.random() < 0.95 else name
    path = chance.choice(("/image_generate", "/image_generate", "/image_generate_stream", "/generate"))
    headers = [*headers_of(chance), ("content-type", kind)]
    return b"takeoff\n" + written("POST", path, whole, headers, chance)


_MORE = (
    *(
        "\r\ncontent-type: application/json",
        "\r\ncontent-type: text/plain; charset=utf-16",
        "\r\ncontent-type: \0",
    ),
    *(
        "\r\ncontent-transfer-encoding: base64",
        "\r\n" + "x" * 9_000 + ": 1",
        "\r\nx: 1" * 500,
        "; name=other",
        "\r\n",
    ),
    *(
        "; filename*=utf-8''%ff",
        '; filename="a',
        '\r\ncontent-disposition: form-data; name="z"',
        "\r\n\r\n--x",
        "\0",
    ),
    *(
        "\r\ncontent-type: multipart/mixed; boundary=z",
        "\r\ncontent-type: text/plain; charset=nothing",
        "; _charset_=x",
    ),
)


def _resumed(chance: random.Random) -> bytes:
    """A stream that is kept, and what comes behind."""
    door = chance.choice(tuple(RESUMED))
    name = (
        f"r{chance.randrange(10**9)}"
        if chance.random() < 0.9
        else chance.choice(("mine", "a:b", "=", "~" * 128))
    )
    path, body = chance.choice(RESUMED[door])
    headers = [("x-request-id", name)]
    if chance.random() < 0.9:
        headers.append(("x-resume", chance.choice(("0.05", "1", "2", "2", "0", "3", "-1", "x"))))
    requests = [written("POST", path, sample_json(body), headers, chance)]
    ends = [chance.choice((NEXT, LEAVE))]
    for _ in range(chance.randint(1, 3)):
        called = (
            name
            if chance.random() < 0.85
            else chance.choice(("nobody", "%00", "%ff", "a/b", "", "x" * 200, "r%3A1"))
        )
        after = chance.choice((0, 1, 5, 12, 40, 300, 10**6, *INTEGERS[-12:]))
        more: list[tuple[str, str]] = []
        if chance.random() < 0.7:
            words = (
                f"{called}:{after}",
                f"{name}:{after}",
                f"{after}",
                f"{name}:",
                f"{name}:-1",
                "\xff",
                f"{name}:٣",
            )
            said = chance.choice(words[:2] if chance.random() < 0.6 else words)
            more.append(("last-event-id", said.encode("utf-8").decode("latin-1")))
        query = chance.choice(
            ("", "", f"?after={after}", "?after=", "?after=x", f"?after={after}&after=1", "?x=1")
        )
        method = chance.choice(("GET", "GET", "GET", "GET", "DELETE", "POST", "HEAD"))
        requests.append(written(method, f"/v1/requests/{called}{query}", None, more, chance))
        ends.append(chance.choice((NEXT, NEXT, LEAVE)))
    return f"{door}\n".encode() + b"".join(a + b for a, b in zip(requests, ends, strict=True))
