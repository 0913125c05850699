"""Clients that take nothing of what they asked for, and those that open one connection after the other."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.http.door import HEALTH, OK, Client, FakeService, OpenDoor, open_door, request_bytes, run

from takeoff.http import server

PIECE = "x" * 100_000
SCRIPT = (PIECE,) * 300  # more than the kernel holds for anyone
IS_CUT_S = 0.3


async def lazy(door: OpenDoor, data: bytes) -> Client:
    """A client with little room for what it does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (door.host, door.port))
    client = Client(*await asyncio.open_connection(sock=sock, limit=4_096))
    client.send(data)
    return client


async def until_nobody_is_there(door: OpenDoor) -> None:
    """Until the one connection that is allowed is free again."""
    while not (await door.exchange(request_bytes("/healthz", None, b"connection: close"))).startswith(OK):  # noqa: ASYNC110  (no event tells)
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/generate_stream", ()), ("/generate", ()), ("/generate", (b"connection: close",))],
    ids=["streamed", "whole", "whole and the last"],
)
def test_a_client_that_takes_nothing_is_cut_off_and_its_request_cancelled(
    path: str, headers: tuple[bytes, ...]
) -> None:
    async def work() -> None:
        service = FakeService(SCRIPT)
        async with open_door(service, send_timeout_s=IS_CUT_S, max_connections=1) as door:
            client = await lazy(door, request_bytes(path, {"text": "a"}, *headers))
            await service.taken.wait()
            (generation,) = service.generations
            if path == "/generate_stream":
                await generation.is_cancelled.wait()
                assert generation.completion_tokens < len(SCRIPT)
            await until_nobody_is_there(door)
            client.leave()

    run(work())


def test_an_end_that_nobody_takes_is_cut_off_too() -> None:
    """What is left is less than the server would wait for, and the connection is closing already."""

    async def work() -> None:
        service = FakeService((PIECE,) * 30)
        async with open_door(service, send_timeout_s=IS_CUT_S, max_connections=1) as door:
            client = await lazy(door, request_bytes("/generate", {"text": "a"}, b"connection: close"))
            taken = 0
            while taken < 30 * len(PIECE) // 2:
                taken += len(await client.reader.read(65_536))
            await until_nobody_is_there(door)
            client.leave()

    run(work())


def test_a_client_that_is_slow_but_takes_something_gets_all() -> None:
    async def work() -> None:
        async with open_door(FakeService((PIECE,) * 30), send_timeout_s=IS_CUT_S) as door:
            client = await lazy(door, request_bytes("/generate", {"text": "a"}, b"connection: close"))
            started = asyncio.get_running_loop().time()
            size = 0
            while piece := await client.reader.read(65_536):
                size += len(piece)
                await asyncio.sleep(0.01)
            assert size > 30 * len(PIECE)
            assert asyncio.get_running_loop().time() - started > 2 * IS_CUT_S
            client.leave()

    run(work())


def test_a_client_that_takes_too_little_is_cut_off_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sip now and then it would else hold what is to be sent to it for as long as it likes."""
    monkeypatch.setattr(server, "LEAST_TAKEN_BYTES_PER_S", 200_000)

    async def sip(client: Client) -> None:
        while await client.reader.read(4_096):  # noqa: ASYNC110  (nothing to wait for: it is slow)
            await asyncio.sleep(0.1)

    async def work() -> None:
        service = FakeService(SCRIPT)
        async with open_door(service, send_timeout_s=IS_CUT_S, max_connections=1) as door:
            client = await lazy(door, request_bytes("/generate_stream", {"text": "a"}))
            await service.taken.wait()
            (generation,) = service.generations
            sipping = asyncio.create_task(sip(client))
            await generation.is_cancelled.wait()
            assert generation.completion_tokens < len(SCRIPT)
            await until_nobody_is_there(door)
            sipping.cancel()
            client.leave()

    run(work())


def test_of_one_address_no_more_connections_are_served_than_are_allowed() -> None:
    async def work() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        async with open_door(
            service, host="0.0.0.0", allowed_host=("localhost",), max_connections_per_client=2
        ) as door:
            held = [await door.connect(request_bytes("/generate", {"text": "a"})) for _ in range(2)]
            while len(service.generations) < 2:  # noqa: ASYNC110  (no event tells)
                await asyncio.sleep(0.005)
            refused = await door.exchange(HEALTH)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert refused.endswith(
                b'{"detail":"2 connections of this address are open, which is the limit"}'
            )
            other = Client(
                *await asyncio.open_connection("127.0.0.1", door.port, local_addr=("127.0.0.2", 0))
            )
            other.send(HEALTH)
            assert (await other.answer()).startswith(OK), "another address"
            other.leave()
            held[0].leave()
            await until_nobody_is_there(door)

    run(work())
