"""The texts that a demo asks for, and a client that notes what comes of each, and when."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import httptools
import msgspec

from takeoff.bench.told import Told

SILENCE_S = 300.0  # a stream without news for so long hangs
MAX_ERROR_CHARACTERS = 300

OPENINGS = (
    "The lighthouse keeper opened his diary and wrote:",
    "Once upon a time, in a village by the sea,",
    "To bake a good loaf of bread,",
    "The old bridge over the river was built when",
    "My neighbour keeps bees. Every morning in spring",
    "A cat has nine lives, and this one",
    "Chapter one. The storm had been raging for three days when",
    "On the far side of the moon, the engineers",
    "Long before there were clocks, people",
    "The first thing that you learn about mountains is",
    "Rain fell on the city, and the tram to the harbour",
    "My grandfather used to say that a good machine",
    "In the morning the ship was gone, and on the beach",
    "The recipe was simple:",
    "There are three reasons why birds",
    "The last train of the evening left the station, and",
)


@dataclass(frozen=True, slots=True)
class Door:
    """Where a server answers, and the key that it asks for."""

    host: str
    port: int
    key: str


def bodies(streams: int, tokens: int) -> list[dict[str, Any]]:
    """What the streams ask for, the same each time: `tokens` tokens each, sampled with a seed of its own."""
    return [
        {
            "model": "primary",
            "prompt": OPENINGS[number % len(OPENINGS)],
            "max_tokens": tokens,
            "temperature": 0.7,
            "seed": number,
            "ignore_eos": True,
            "stream": True,
            "logprobs": 0,  # says which tokens a piece of text is made of
        }
        for number in range(streams)
    ]


async def listen(door: Door, body: dict[str, Any], told: Told) -> None:
    """Ask for a stream and read it to its end. What goes wrong becomes `told.error`."""
    told.asked_at = time.monotonic()
    try:
        async with asyncio.timeout(SILENCE_S) as limit:
            reader, writer = await asyncio.open_connection(door.host, door.port)
            try:
                writer.write(_request(door, body))
                await _read(reader, told, limit)
            finally:
                writer.close()
    except TimeoutError:
        told.error = f"no text for {SILENCE_S:g} s"
    except (OSError, httptools.HttpParserError) as exc:
        told.error = f"the connection broke off: {exc}"
    if not told.is_over:
        told.error = "the stream ended without its end"


async def _read(reader: asyncio.StreamReader, told: Told, limit: asyncio.Timeout) -> None:
    answer = _Answer(told)
    num_news = 0
    while not told.is_over and (data := await reader.read(65_536)):
        answer.feed(data)
        if len(told.news) > num_news:  # a ping is no news
            num_news = len(told.news)
            limit.reschedule(asyncio.get_running_loop().time() + SILENCE_S)


def _request(door: Door, body: dict[str, Any]) -> bytes:
    content = msgspec.json.encode(body)
    head = (
        "POST /v1/completions HTTP/1.1",
        f"host: {door.host}:{door.port}",
        f"authorization: Bearer {door.key}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        "connection: close",
    )
    return "\r\n".join([*head, "", ""]).encode() + content


class _Answer:
    """Writes the events of an answer into `told`."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._parser = httptools.HttpResponseParser(self)
        self._pending = b""  # a line whose end is still to come; all of an answer that is no stream

    def feed(self, data: bytes) -> None:
        """Raises httptools.HttpParserError: these are not the bytes of such an answer."""
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._pending += body
        if self._parser.get_status_code() == 200:
            *lines, self._pending = self._pending.split(b"\n")
            for line in lines:
                self._take(line.strip())

    def on_message_complete(self) -> None:
        if (status := self._parser.get_status_code()) != 200:
            text = self._pending.decode("utf-8", "replace")
            self._told.error = f"HTTP {status}: {text[:MAX_ERROR_CHARACTERS]}"

    def _take(self, line: bytes) -> None:
        data = line.removeprefix(b"data:").strip()
        if self._told.is_over or not line.startswith(b"data:"):
            return
        if data == b"[DONE]":
            self._told.is_whole = True
            return
        event: dict[str, Any] = msgspec.json.decode(data)
        if "error" in event:
            self._told.error = str(event["error"]["message"])[:MAX_ERROR_CHARACTERS]
            return
        for choice in event["choices"]:
            self._told.add(choice["text"], len((choice.get("logprobs") or {}).get("tokens", ())))
