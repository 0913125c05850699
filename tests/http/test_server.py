"""The listening socket itself: raw bytes in, raw bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator

import pytest
from tests.http.door import (
    HEALTH,
    LIMIT_S,
    OK,
    FakeService,
    Script,
    broken_script,
    open_door,
    request_bytes,
    run,
)

from takeoff.errors import StartError
from takeoff.http import server
from takeoff.http.server import listen
from takeoff.settings import Settings

HELLO_CHUNKS = "\r\n5\r\nHello\r\n7\r\n wörld\r\n1\r\n!\r\n0\r\n\r\n".encode()
NUM_WAITING = 2_000  # connections
END_OF_CHUNKS = b"\r\n0\r\n\r\n"


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("close", [True, False])
def test_a_stream_that_ends_has_its_last_chunk(close: bool) -> None:
    async def work() -> None:
        async with open_door() as door:
            headers = [b"connection: close"] if close else []
            client = await door.connect(request_bytes("/generate_stream", {"text": "a"}, *headers))
            data = await client.reader.readuntil(END_OF_CHUNKS)
            assert data.startswith(OK)
            assert b"transfer-encoding: chunked\r\n" in data
            assert data.endswith(HELLO_CHUNKS)

    run(work())


def test_a_stream_that_breaks_off_is_closed_without_its_last_chunk() -> None:
    async def work() -> None:
        async with open_door(FakeService(broken_script())) as door:
            data = await door.exchange(request_bytes("/generate_stream", {"text": "a"}))
            assert data.startswith(OK)
            assert data.endswith("5\r\nHello\r\n5\r\n wör\r\n".encode())
            assert await door.is_serving()

    run(work())


def test_an_answer_that_has_to_break_off_is_no_fault_of_ours_and_a_bug_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever ends his own request by its id would else fill the log with tracebacks."""

    async def read(script: Script) -> bytes:
        async with open_door(FakeService(script)) as door:
            return await door.exchange(request_bytes("/generate_stream", {"text": "a"}))

    assert run(read(broken_script())).endswith("5\r\n wör\r\n".encode())
    assert caplog.messages == []
    assert run(read(("Hello", ZeroDivisionError("a bug")))).endswith(b"5\r\nHello\r\n")
    assert caplog.messages == ["Exception in ASGI application\n"]


def test_a_clients_library_sees_that_a_stream_broke_off() -> None:
    async def work() -> None:
        async with open_door(FakeService(broken_script())) as door:
            await asyncio.to_thread(read_broken, door.port)

    def read_broken(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        connection.request("POST", "/generate_stream", json.dumps({"text": "a"}))
        response = connection.getresponse()
        with pytest.raises(http.client.IncompleteRead) as broken:
            response.read()
        assert broken.value.partial.decode() == "Hello wör"
        connection.close()

    run(work())


def test_an_openai_stream_that_breaks_off_ends_with_an_error_and_no_done() -> None:
    async def work() -> None:
        async with open_door(FakeService(broken_script())) as door:
            body = {"prompt": "a", "stream": True}
            client = await door.connect(request_bytes("/v1/completions", body))
            data = await client.reader.readuntil(END_OF_CHUNKS)
            assert b'"code":"engine_failed"' in data
            assert b"[DONE]" not in data

    run(work())


# --- leaving ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate_stream", {"text": "a"}),
        ("/generate", {"text": "a"}),
        ("/v1/completions", {"prompt": "a", "stream": True}),
        ("/v1/completions", {"prompt": "a"}),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_client_that_hangs_up_is_noticed_without_a_token(
    path: str, body: dict[str, object], first: bool
) -> None:
    """Nothing is generated meanwhile: it is the closed connection that cancels."""

    async def work() -> None:
        service = FakeService(("x",) * 1_000_000)
        service.gate = asyncio.Event()
        async with open_door(service) as door:
            client = await door.connect(request_bytes(path, body))
            await service.taken.wait()
            (generation,) = service.generations
            await generation.is_asked.wait()
            if first:
                service.gate.set()
                await asyncio.sleep(0)
                service.gate.clear()
            client.leave()
            await generation.is_cancelled.wait()
            await asyncio.sleep(0.05)
            assert generation.num_cancelled == 1
            assert await door.is_serving()

    run(work())


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: localhost\r\n", b"GET", b"\r\n"])
def test_a_header_that_never_ends_is_refused_after_its_time(sent: bytes) -> None:
    async def work() -> None:
        async with open_door(header_timeout_s=0.2) as door:
            started = time.monotonic()
            data = await door.exchange(sent)
            assert data.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert data.endswith(b'{"detail":"the header did not arrive within 0.2 s"}')
            assert time.monotonic() - started >= 0.19  # the loop counts whole milliseconds
            assert await door.is_serving()

    run(work())


def test_bytes_that_trickle_give_a_header_no_more_time() -> None:
    async def work() -> None:
        async with open_door(header_timeout_s=0.3) as door:
            client = await door.connect(b"GET / HTTP/1.1\r\nx: ")
            reading = asyncio.create_task(client.rest())
            started = time.monotonic()
            while not reading.done():
                client.send(b"a")
                await asyncio.sleep(0.02)
            assert (await reading).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - started < LIMIT_S / 2

    run(work())


def test_a_header_without_end_is_refused_at_its_limit() -> None:
    async def work() -> None:
        async with open_door(max_header_bytes=2_000) as door:
            data = await door.exchange(b"GET / HTTP/1.1\r\nx: " + b"a" * 3_000)
            assert data.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
            assert data.endswith(b'{"detail":"the header has more than 2000 bytes"}')
            assert await door.is_serving()

    run(work())


@pytest.mark.parametrize("where", ["value", "name", "path", "many"])
def test_a_whole_header_is_held_to_the_same_limit(where: str) -> None:
    """However many bytes come at once."""

    def header(num_bytes: int) -> bytes:
        filling = b"a" * num_bytes
        match where:
            case "value":
                return request_bytes("/healthz", None, b"x: " + filling)
            case "name":
                return request_bytes("/healthz", None, filling + b": x")
            case "path":
                return request_bytes("/healthz?" + filling.decode())
            case _:
                return request_bytes("/healthz", None, *[b"x: " + b"a" * 9] * (num_bytes // 10))

    async def work() -> None:
        async with open_door(max_header_bytes=2_000) as door:
            client = await door.connect(header(1_900))
            assert (await client.answer()).startswith(OK)
            for num_bytes in (2_100, 60_000):
                data = await door.exchange(header(num_bytes))
                assert data.startswith(b"HTTP/1.1 431 "), data
                assert data.count(b"HTTP/1.1") == 1

    run(work())


# --- connections --------------------------------------------------------------------------------


def test_too_many_connections_with_requests_are_refused_until_one_closes() -> None:
    async def work() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        async with open_door(service, max_connections=2) as door:
            held = [await door.connect(request_bytes("/generate", {"text": "a"})) for _ in range(2)]
            while len(service.generations) < 2:  # noqa: ASYNC110  (no event tells)
                await asyncio.sleep(0.005)
            for _ in range(5):
                data = await door.exchange(HEALTH)
                assert data.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
                assert data.endswith(b'{"detail":"2 connections are open, which is the limit"}')
            held[0].leave()
            once = request_bytes("/healthz", None, b"connection: close")
            while not (await door.exchange(once)).startswith(OK):  # noqa: ASYNC110  (no event tells)
                await asyncio.sleep(0.005)
            service.gate.set()
            assert b'"message"' in await held[1].answer()

    run(work())


@pytest.mark.parametrize(
    "limits", [{"max_connections": 3}, {"max_connections_per_client": 3}], ids=["all", "of one address"]
)
def test_of_too_many_connections_the_one_gives_way_that_was_longest_without_a_request(
    limits: dict[str, int],
) -> None:
    """The order is that of their last requests, of those that never had one that of their coming."""

    async def work() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        async with open_door(service, **limits) as door:
            busy = await door.connect(HEALTH + request_bytes("/generate", {"text": "a"}))
            assert (await busy.answer()).startswith(OK)
            await service.taken.wait()
            half = await door.connect(b"GET /healthz HT")
            idle = await door.connect(HEALTH)
            assert (await idle.answer()).startswith(OK)
            newest = await door.connect(HEALTH)
            assert (await newest.answer()).startswith(OK)
            assert await half.rest() == b"", "its header has never been whole"
            await asyncio.sleep(0.01)
            idle.send(HEALTH)
            assert (await idle.answer()).startswith(OK)
            again = await door.connect(HEALTH)
            assert (await again.answer()).startswith(OK)
            assert await newest.rest() == b"", "the other has had an answer since"
            service.gate.set()
            assert b'"message"' in await busy.answer()

    run(work())


def test_two_thousand_connections_that_only_wait_keep_nobody_out() -> None:
    """More than are allowed: half of them give way, each new client is answered, and a stream goes on."""

    async def work() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        async with open_door(service, header_timeout_s=60.0) as door:
            stream = await door.connect(request_bytes("/generate", {"text": "a"}))
            await service.taken.wait()
            first = await door.connect()
            held = [await door.connect() for _ in range(NUM_WAITING)]
            assert await first.rest() == b""
            for _ in range(20):
                client = await door.connect(HEALTH)
                assert (await client.answer()).startswith(OK)
            await asyncio.sleep(0.05)
            closed = sum(each.reader.at_eof() for each in held)
            num_open = 1 + len(held) - closed + 20
            assert num_open == Settings().max_connections == 1_024
            service.gate.set()
            assert b'"message"' in await stream.answer()

    run(work())


def test_a_connection_serves_one_request_after_the_other_also_ahead_of_answers() -> None:
    async def work() -> None:
        async with open_door() as door:
            client = await door.connect()
            for _ in range(3):
                client.send(HEALTH)
                assert (await client.answer()).startswith(OK)
            client.send(request_bytes("/generate", {"text": "a"}) + HEALTH * 2)
            assert b'"message"' in await client.answer()
            assert b'"live"' in await client.answer()
            assert b'"live"' in await client.answer()

    run(work())


@pytest.mark.parametrize("stray", [b"", b"\r\n"])
def test_an_idle_connection_is_closed_even_if_it_sends_what_is_no_request(
    stray: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.2)

    async def work() -> None:
        async with open_door() as door:
            client = await door.connect(HEALTH)
            assert (await client.answer()).startswith(OK)
            client.send(stray)
            assert await client.rest() == b""

    run(work())


def test_a_refused_body_that_goes_on_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.3)

    async def work() -> None:
        async with open_door(api_key="secret") as door:
            head = b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n"
            client = await door.connect(head)
            assert (await client.answer()).startswith(b"HTTP/1.1 401 ")
            closed = asyncio.create_task(client.rest())
            while not closed.done():
                client.send(b"x" * 100)
                await asyncio.sleep(0.02)
            assert await closed == b""

    run(work())


def test_the_wait_for_a_next_request_never_ends_a_running_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request's header is half here when the first answer ends, and is answered slowly."""
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.1)

    async def work() -> None:
        service = FakeService()
        async with open_door(service) as door:
            service.gate = asyncio.Event()
            client = await door.connect(request_bytes("/generate", {"text": "a"}))
            await service.taken.wait()
            service.taken.clear()
            second = request_bytes("/generate_stream", {"text": "b"})
            client.send(second[:20])
            await asyncio.sleep(0.02)
            service.gate.set()
            assert b'"message"' in await client.answer()
            service.gate = asyncio.Event()
            client.send(second[20:])
            await service.taken.wait()
            await asyncio.sleep(0.3)
            service.gate.set()
            assert b"Hello" in await client.reader.readuntil(END_OF_CHUNKS)

    run(work())


# --- what is not HTTP ---------------------------------------------------------------------------

POST = b"POST /generate HTTP/1.1\r\nhost: localhost\r\n"
BODY = b'{"text":"a"}'
NOT_HTTP = [
    POST + b"content-length: abc\r\n\r\n" + BODY,
    POST + b"content-length: -1\r\n\r\n" + BODY,
    POST + b"content-length: +12\r\n\r\n" + BODY,
    POST + b"content-length: 1_2\r\n\r\n" + BODY,
    POST + b"content-length: 12, 12\r\n\r\n" + BODY,
    POST + b"content-length: 0x0c\r\n\r\n" + BODY,
    POST + b"content-length: 99999999999999999999999999\r\n\r\n" + BODY,
    POST + b"content-length: 12\r\ncontent-length: 13\r\n\r\n" + BODY + b"x",
    POST + b"content-length: 12\r\ncontent-length: 12\r\n\r\n" + BODY,
    POST + b"content-length: 12\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nxyz\r\n" + BODY,
    POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    POST + b"bad header: x\r\n\r\n",
    POST + b"x: a\x00b\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 60,
    b"\x00" * 100,
    b"SSH-2.0-OpenSSH_9.0\r\n",
]


@pytest.mark.parametrize("data", NOT_HTTP)
def test_what_is_not_http_is_refused_and_reaches_nobody(data: bytes) -> None:
    async def work() -> None:
        service = FakeService()
        async with open_door(service, header_timeout_s=0.5) as door:
            answer = await door.exchange(data)
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer
            assert answer.endswith(b'{"detail":"Invalid HTTP request received."}')
            assert service.requests == []
            assert await door.is_serving()

    run(work())


def test_garbage_behind_a_request_writes_nothing_into_its_answer() -> None:
    async def work() -> None:
        service = FakeService(("Hello",) * 1_000_000)
        async with open_door(service) as door:
            client = await door.connect(request_bytes("/generate_stream", {"text": "a"}))
            data = await client.reader.readuntil(b"Hello")
            client.send(b"\x00garbage\r\n\r\n")
            data += await client.rest()
            assert data.count(b"HTTP/1.1") == 1
            assert not data.endswith(END_OF_CHUNKS)
            await service.generations[0].is_cancelled.wait()

    run(work())


# --- bodies -------------------------------------------------------------------------------------


def test_a_body_that_trickles_is_refused_after_its_time() -> None:
    async def work() -> None:
        async with open_door(body_timeout_s=0.3) as door:
            client = await door.connect(POST + b"content-length: 1000\r\n\r\n")
            reading = asyncio.create_task(client.rest())
            while not reading.done():
                client.send(b" ")
                await asyncio.sleep(0.02)
            data = await reading
            assert data.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert data.endswith(b'{"detail":"the body did not arrive within 0.3 s"}')

    run(work())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_far_too_much_still_reads_why(chunked: bool) -> None:
    """One that first sends all and then reads must not find the connection reset."""

    def pieces() -> Iterator[bytes]:
        for _ in range(80):
            yield b"x" * 125_000

    def send(port: int) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        body = pieces() if chunked else b"x" * 10_000_000
        connection.request(
            "POST",
            "/generate",
            body,
            encode_chunked=chunked,
            headers={"transfer-encoding": "chunked"} if chunked else {},
        )
        response = connection.getresponse()
        answer = (response.status, response.read())
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200, "and may go on with the same connection"
        connection.close()
        return answer

    async def work() -> None:
        async with open_door() as door:
            status, body = await asyncio.to_thread(send, door.port)
            assert status == 413
            assert b"2097152" in body
            assert chunked or b"10000000" in body

    run(work())


def test_a_client_that_asks_before_it_sends_is_answered_at_once() -> None:
    async def work() -> None:
        async with open_door() as door:
            large = b"content-length: 5000000\r\nexpect: 100-continue\r\n\r\n"
            client = await door.connect(POST + large)
            assert (await client.answer()).startswith(b"HTTP/1.1 413 ")
            client = await door.connect(POST + b"content-length: 12\r\nexpect: 100-continue\r\n\r\n")
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(BODY)
            assert (await client.answer()).startswith(OK)

    run(work())


# --- opening and closing ------------------------------------------------------------------------


def test_a_port_in_use_and_a_host_that_is_none_are_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"can't listen on 127.0.0.1 port {port}: Address already"):
            listen("127.0.0.1", port)
    for host in ("256.0.0.1", "203.0.113.7", "x" * 70, "a..b", "no such host"):
        with pytest.raises(StartError, match="can't listen on") as refused:
            listen(host, 0)
        assert refused.value.hint is not None


def test_a_port_is_shared_by_those_who_say_so_and_by_nobody_else() -> None:
    with listen("127.0.0.1", 0, shares_port=True) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", port, shares_port=True) as second:
            assert second.getsockname() == first.getsockname()
            for sock in (first, second):
                sock.listen()
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
            accepted = [_num_waiting(sock) for sock in (first, second)]
            assert sum(accepted) == 64
            assert min(accepted) > 0, "each gets its part"
            for client in clients:
                client.close()
        with pytest.raises(StartError, match=f"port {port}: Address already in use"):
            listen("127.0.0.1", port)
    with listen("127.0.0.1", 0) as alone:
        alone.listen()
        with pytest.raises(StartError, match="Address already in use"):
            listen("127.0.0.1", alone.getsockname()[1], shares_port=True)


def _num_waiting(sock: socket.socket) -> int:
    """Connections that nobody has accepted yet."""
    sock.setblocking(False)
    number = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.accept()[0].close()
            number += 1
    return number


def test_the_ipv6_loopback_is_served() -> None:
    async def work() -> None:
        async with open_door(host="::1") as door:
            client = await door.connect(b"GET /healthz HTTP/1.1\r\nhost: [::1]:%d\r\n\r\n" % door.port)
            assert (await client.answer()).startswith(OK)

    run(work())


def test_stopping_lets_a_running_stream_finish_and_lets_nobody_in() -> None:
    async def work() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        async with open_door(service) as door:
            idle = await door.connect(HEALTH)
            await idle.answer()
            client = await door.connect(request_bytes("/generate_stream", {"text": "a"}))
            await service.taken.wait()
            door.stop()
            assert await idle.rest() == b""
            with pytest.raises(ConnectionRefusedError):
                await door.connect()
            service.gate.set()
            assert (await client.rest()).endswith(HELLO_CHUNKS)
            await door.serving

    run(work())


def test_cutting_closes_what_is_still_open() -> None:
    async def work() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        async with open_door(service) as door:
            client = await door.connect(request_bytes("/generate_stream", {"text": "a"}))
            await service.taken.wait()
            door.stop()
            await asyncio.sleep(0.05)
            assert not door.serving.done()
            door.cut()
            await door.serving
            assert not (await client.rest()).endswith(END_OF_CHUNKS)

    run(work())
