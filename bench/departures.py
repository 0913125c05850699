"""Clients that leave: what they ask, at which moment they go, and how. All of it drawn, none of it polite."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httptools

LIMIT_S = 120.0  # against hanging only
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, and what is unsent is thrown away
TEXT = "the sea was calm and a ship of old wood went by while gulls cried over the harbour"


class Moment(StrEnum):
    """When a client goes."""

    HEADER = "within the header"
    BODY = "within the body"
    SENT = "when all is sent"
    PREPARED = "a moment later"  # in the tokenizer, or the queue
    TRIED = "while its schema is tried"
    PREFILL = "in prefill or the queue"
    DECODE = "in decode"
    END = "at the last byte"
    STAYS = "not at all"


class Way(StrEnum):
    """How it goes."""

    CLOSE = "close"
    RST = "reset"
    HALF = "half-close"  # of its half: what it is told it still reads
    DELETE = "DELETE by id"
    TIMEOUT = "X-Request-Timeout"


# How often, of a hundred; the rest stays.
MOMENTS = {
    Moment.HEADER: 5,
    Moment.BODY: 5,
    Moment.SENT: 12,
    Moment.PREPARED: 18,
    Moment.TRIED: 8,
    Moment.PREFILL: 15,
    Moment.DECODE: 20,
    Moment.END: 7,
    Moment.STAYS: 10,
}
BY_SOCKET = (Way.CLOSE, Way.RST, Way.HALF)
LONGEST_TIMEOUT_S = 8.0
WAIT_S = {Moment.PREPARED: 0.03, Moment.TRIED: 0.08, Moment.PREFILL: 0.4}  # at most
ENDS = (
    b'"finish_reason":"',
    b"[DONE]",
    b"message_stop",
    b"\r\n0\r\n",
)  # what stands in the last bytes of a stream


@dataclass(frozen=True, slots=True)
class Door:
    """One way to ask for a text. `body` takes the prompt, the most tokens, and whether to stream."""

    name: str
    port: str  # of `ports`
    body: Callable[[str, int, bool], tuple[str, dict[str, Any]]]


def _completions(prompt: str, tokens: int, stream: bool) -> tuple[str, dict[str, Any]]:
    fields = {"prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": stream}
    return "/v1/completions", fields


def _chat(prompt: str, tokens: int, stream: bool) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": prompt}]
    return "/v1/chat/completions", {"messages": messages, "max_tokens": tokens, "stream": stream}


def _messages(prompt: str, tokens: int, stream: bool) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": prompt}]
    return "/v1/messages", {"messages": messages, "max_tokens": tokens, "stream": stream}


def _first(prompt: str, tokens: int, stream: bool) -> tuple[str, dict[str, Any]]:
    path = "/generate_stream" if stream else "/generate"
    return path, {"text": prompt, "generate_max_length": tokens}


def _pro(prompt: str, tokens: int, stream: bool) -> tuple[str, dict[str, Any]]:
    path = "/generate_stream" if stream else "/generate"
    return path, {"text": prompt, "max_new_tokens": tokens}


COMPLETIONS = Door("completions", "front", _completions)
DOORS = (
    COMPLETIONS,
    Door("chat", "front", _chat),
    Door("messages", "front", _messages),
    Door("v1", "front", _first),
    Door("pro", "takeoff", _pro),
)


@dataclass(frozen=True, slots=True)
class Visit:
    """One client's request, and how it will go."""

    name: str  # X-Request-Id
    door: Door
    path: str
    body: bytes
    moment: Moment
    way: Way
    wait_s: float = 0.0
    timeout_s: float | None = None
    num_pieces: int = 0  # of the answer, read before it goes
    cut: float = 1.0  # the share of the header or the body that is sent
    is_second: bool = False  # on a connection that has had an answer
    secret: str | None = None  # the API key


@dataclass(eq=False, slots=True)
class Seen:
    """What a client saw."""

    status: int | None = None
    is_whole: bool = False
    num_pieces: int = 0
    data: bytearray = field(default_factory=bytearray)
    error: str | None = None


def draw_visit(draw: random.Random, name: str, secrets: Sequence[str] = ()) -> Visit:
    """The next of a series that only the seed decides; of somebody with one of the keys, if there are any."""
    moment = draw.choices(list(MOMENTS), list(MOMENTS.values()))[0]
    streamed = draw.random() < (0.9 if moment in (Moment.DECODE, Moment.END) else 0.6)
    door = COMPLETIONS if moment is Moment.TRIED else draw.choice(DOORS)
    words = draw.randint(150, 400) if moment is Moment.PREFILL else draw.randint(3, 40)
    prompt = f"{name}: " + " ".join(draw.choices(TEXT.split(), k=words))
    path, fields = door.body(prompt, draw.randint(1, 40 if moment is Moment.DECODE else 12), streamed)
    if moment is Moment.TRIED:
        names = [f"{name}_{number}" for number in range(draw.randint(1, 60))]
        properties = {each: {"type": "string", "pattern": r"\d{3}"} for each in names}
        fields["guided_json"] = {"type": "object", "properties": properties, "additionalProperties": False}
    wait_s = draw.uniform(0.0, WAIT_S.get(moment, 0.0))
    way = draw.choice(BY_SOCKET)
    if moment in WAIT_S and draw.random() < 0.4:
        way = draw.choice((Way.DELETE, Way.TIMEOUT))
    return Visit(
        name,
        door,
        path,
        json.dumps(fields).encode(),
        moment,
        way,
        wait_s,
        timeout_s=draw.uniform(0.02, LONGEST_TIMEOUT_S) if way is Way.TIMEOUT else None,
        num_pieces=draw.randint(1, 12) if streamed else 1,
        cut=draw.uniform(0.05, 0.95),
        is_second=draw.random() < 0.3,
        secret=draw.choice(secrets) if secrets else None,
    )


class Client:
    """One connection that sends raw bytes, and reads answers as far as it likes."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        self.expect()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def expect(self) -> None:
        """What comes from now on is another answer."""
        self.seen = Seen()
        self._parser = httptools.HttpResponseParser(_Reading(self.seen))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, enough: Callable[[Seen], bool] = lambda _seen: False) -> Seen:
        """The answer, up to where it is enough or whole or breaks off; called again it goes on."""
        seen = self.seen
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while not seen.is_whole and not enough(seen):
                data = await self.reader.read(65_536)
                if not data:
                    break
                seen.data += data
                self._parser.feed_data(data)
                seen.status = self._parser.get_status_code()
        return seen

    def leave(self, way: Way) -> None:
        if way is Way.RST:
            sock: socket.socket = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if way is Way.HALF:
            self.writer.write_eof()
        else:
            self.writer.close()


class _Reading:
    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def on_body(self, _body: bytes) -> None:
        self._seen.num_pieces += 1

    def on_message_complete(self) -> None:
        self._seen.is_whole = True


def request_parts(visit: Visit, host: str) -> tuple[bytes, bytes]:
    lines = [
        f"POST {visit.path} HTTP/1.1",
        f"host: {host}",
        "content-type: application/json",
        f"content-length: {len(visit.body)}",
        f"x-request-id: {visit.name}",
        *_key(visit),
    ]
    if visit.timeout_s is not None:
        lines.append(f"x-request-timeout: {visit.timeout_s:.4f}")
    return "\r\n".join([*lines, "", ""]).encode(), visit.body


def _key(visit: Visit) -> list[str]:
    return [] if visit.secret is None else [f"x-api-key: {visit.secret}"]


async def pay(visit: Visit, host: str, ports: dict[str, int]) -> Seen:
    """Make a visit; returns what it saw of its answer. Never longer than `LIMIT_S`."""
    try:
        async with asyncio.timeout(LIMIT_S), Client(host, ports[visit.door.port]) as client:
            return await _pay(visit, client, ports)
    except TimeoutError:
        return Seen(error=f"{visit.name} hung: {visit.moment}, {visit.way}")
    except OSError as exc:
        return Seen(error=f"{visit.name}: {exc}")


async def _pay(visit: Visit, client: Client, ports: dict[str, int]) -> Seen:
    head, body = request_parts(visit, client.host)
    if visit.is_second:
        client.send(f"GET /livez HTTP/1.1\r\nhost: {client.host}\r\n\r\n".encode())
        await client.read()
        client.expect()
    if visit.moment is Moment.HEADER:
        client.send(head[: int(len(head) * visit.cut)])
    elif visit.moment is Moment.BODY:
        client.send(head + body[: int(len(body) * visit.cut)])
    else:
        client.send(head + body)
    if visit.moment is Moment.STAYS or visit.way is Way.TIMEOUT:
        return await client.read()
    if visit.moment is Moment.DECODE:
        await client.read(lambda seen: seen.num_pieces >= visit.num_pieces)
    elif visit.moment is Moment.END:
        await client.read(lambda seen: any(end in seen.data for end in ENDS))
    else:
        await asyncio.sleep(visit.wait_s)
    if visit.way is Way.DELETE:
        await _end_by_id(visit, client.host, ports["front"])
        return await client.read()
    client.leave(visit.way)
    return await client.read() if visit.way is Way.HALF else client.seen


async def _end_by_id(visit: Visit, host: str, port: int) -> None:
    """From another connection; it may have ended, or not have begun."""
    lines = [f"DELETE /v1/requests/{visit.name} HTTP/1.1", f"host: {host}", *_key(visit)]
    async with Client(host, port) as client:
        client.send("\r\n".join([*lines, "", ""]).encode())
        await client.read()
