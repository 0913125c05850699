"""Clients that hold what they can: connections, headers, answers. Who is served meanwhile does not notice."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.cli.test_serve import LIMIT_S, Server, serving
from tests.e2e.processes import Stream, child_of, completion, metric, wait_until

ENGINE = "takeoff.engine.process"
HEADER_S = 2.0
USUAL_FILES = 1_024  # that most systems allow a process, if it does not ask for more
NUM_IDLE, NUM_SLOW = 1_020, 100
OWN = 3  # connections that the test's own library keeps for a while
NUM_SIPPING, MOST_KEPT_BYTES = 4, 4 << 20


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[Server]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL_FILES, hard))
    flags = ("--max-slots", "4", "--context", "1024", "--prefix-cache-mb", "0", "--deterministic")
    limit = ("--header-timeout-s", str(HEADER_S))
    with serving("--model", str(smollm2_path), "--port", "0", *flags, *limit) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * NUM_IDLE)), hard))
        server.wait_ready()
        yield server
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def url(server: Server) -> str:
    return next(line.split()[2] for line in server.said.splitlines() if line.startswith("ready at "))


@pytest.fixture(scope="module")
def alone(url: str) -> str:
    """What the sea is, when nobody disturbs."""
    return completion(url, "The sea is", 60)


def connect(url: str, data: bytes = b"", receive_bytes: int | None = None) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(LIMIT_S)
    sock.connect((host, int(port)))
    sock.sendall(data)
    return sock


def wait_descriptors(server: Server, num: int) -> None:
    front = psutil.Process(server.process.pid)
    wait_until(lambda: front.num_fds() <= num + OWN, f"the server holds {num} descriptors again")


def rest_of(sock: socket.socket) -> bytes:
    """What is still to be had from a connection that is closed."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65_536):
            data += piece
    return data


def test_a_thousand_idle_connections_leave_room_for_clients_and_for_another_engine(
    server: Server, url: str, alone: str
) -> None:
    """More than a process may usually have files open; each is closed when its time for a header is over."""
    num_before = psutil.Process(server.process.pid).num_fds()
    stream = Stream(url, "The sea is", 60)
    stream.next_piece()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(url)) for _ in range(NUM_IDLE)]
        child_of(server, ENGINE).send_signal(signal.SIGKILL)
        assert completion(url, "The sea is", 60) == alone
        assert stream.rest() == alone
        assert stream.is_whole
        stream.close()
        for each in held:
            assert each.recv(65_536).startswith(b"HTTP/1.1 408 "), "it was told why it was closed"
        assert time.monotonic() - started < LIMIT_S
    wait_descriptors(server, num_before)


def test_headers_that_come_byte_by_byte_hold_up_nobody(server: Server, url: str, alone: str) -> None:
    num_before = psutil.Process(server.process.pid).num_fds()
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(connect(url, b"POST /v1/completions HTTP/1.1\r\nx: "))
            for _ in range(NUM_SLOW)
        ]
        until = time.monotonic() + HEADER_S + 1.0
        stream = Stream(url, "The sea is", 60)
        while time.monotonic() < until:
            for each in slow:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    each.send(b"a")
            time.sleep(0.1)
        assert stream.rest() == alone
        stream.close()
        wait_descriptors(server, num_before)


def test_readers_of_a_byte_a_second_hold_neither_slots_nor_memory_and_lose_nothing(
    server: Server, url: str, alone: str
) -> None:
    """What they don't take is the kernel's; of more than that they are cut off (see test_slow_clients.py)."""
    front = psutil.Process(server.process.pid)
    num_before, bytes_before = front.num_fds(), front.memory_info().rss
    fields = {"prompt": "Once upon a time", "max_tokens": 200, "ignore_eos": True, "stream": True}
    body = json.dumps({**fields, "logprobs": 20}).encode()
    lines = ("POST /v1/completions HTTP/1.1", "host: localhost", "connection: close")
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connect(url, head + body, 4_096)) for _ in range(NUM_SIPPING)]
        wait_until(lambda: metric(url, "takeoff_requests_running") == NUM_SIPPING, "all of them decode")
        assert completion(url, "The sea is", 60) == alone
        while metric(url, "takeoff_requests_open"):
            for each in slow:
                each.recv(1)
            time.sleep(1.0)
            assert front.memory_info().rss - bytes_before < NUM_SIPPING * MOST_KEPT_BYTES
        wait_descriptors(server, num_before)
        assert all(rest_of(each).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for each in slow)
