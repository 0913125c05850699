"""Many requests in flight, bounded; each answer is written as soon as it is there."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator

import msgspec

from takeoff.batch.door import Door, Reply
from takeoff.batch.files import Answer, Line, LineError, Response

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
TRIES = 3  # of a request whose engine died: it is up again soon, unless this request kills it

_UNAVAILABLE = 503


class _Streamed(msgspec.Struct):
    stream: object = None


async def run_batch(
    door: Door, lines: Iterator[Line], num_open: int, on_answer: Callable[[Answer], None]
) -> None:
    """Ask all `lines`, `num_open` at a time; `on_answer` is called with each answer, in the order they come.

    Cancelling it cancels what is in flight. What `on_answer` raises ends it.
    """

    async def work() -> None:
        for line in lines:  # one iterator for all workers: each takes the next that nobody has
            on_answer(await _answer(door, line))

    workers = [asyncio.create_task(work()) for _ in range(num_open)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _answer(door: Door, line: Line) -> Answer:
    error = _unfit(line)
    if error is not None:
        return Answer.of(line, None, error)
    for _ in range(TRIES):
        reply = await door.post(line.url, bytes(line.body))
        if reply.status != _UNAVAILABLE:
            break
    return Answer.of(line, _response(reply))


def _unfit(line: Line) -> LineError | None:
    """Why a line can't be asked; None: the door will judge it."""
    if line.method != "POST":
        return LineError("invalid_method", f"method must be POST, got {line.method!r}")
    if line.url not in URLS:
        return LineError("invalid_url", f"url must be one of {', '.join(URLS)}, got {line.url!r}")
    try:
        streamed = msgspec.json.decode(line.body, type=_Streamed).stream
    except msgspec.ValidationError:
        return None
    return LineError("stream", "a batch has whole answers: leave stream out") if streamed else None


def _response(reply: Reply) -> Response:
    one_line = reply.body if b"\n" not in reply.body else msgspec.json.encode(msgspec.json.decode(reply.body))
    return Response(reply.status, f"req_{uuid.uuid4().hex}", msgspec.Raw(one_line))
