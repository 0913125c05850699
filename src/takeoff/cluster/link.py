"""The stream of news from one replica to a door: whose they are, and whether any are missing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from takeoff.cluster.wire import Batch, decode_batch
from takeoff.ipc.messages import ImagesRead, Step
from takeoff.request import TokenEvent

OPENING_S = 10.0

logger = logging.getLogger(__name__)


class NewsLost(Exception):
    """What was said of a request may not have come: it must be computed again from what has come."""


@dataclass(frozen=True, slots=True)
class _Awaited:
    request_id: int
    ended: asyncio.Future[None]  # its terminal event has come, or NewsLost


class Link:
    """Of one replica. It is read only while requests of this door are open there."""

    def __init__(
        self,
        handle: Any,
        replica_id: str,
        door: str,
        serials: Iterator[int],
        take: Callable[[Step | ImagesRead], None],
    ) -> None:
        """`take` is told the news, with this door's ids of the requests. `serials` number its streams."""
        self.replica_id = replica_id
        self.address = ""  # that the replica sends the news of what is submitted now to
        self._handle = handle.options(method_name="news", stream=True)
        self._door = door
        self._serials = serials
        self._take = take
        self._awaited: dict[int, _Awaited] = {}  # by number on the wire
        self._reading: asyncio.Task[None] | None = None
        self._move()

    @property
    def num_open(self) -> int:
        return len(self._awaited)

    def expect(self, wire_id: int, request_id: int) -> asyncio.Future[None]:
        """A request is about to be sent to `address`; the result is done when its last news have come."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ended.add_done_callback(heard)
        self._awaited[wire_id] = _Awaited(request_id, ended)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name=f"news of {self.replica_id}")
        return ended

    def forget(self, wire_id: int) -> None:
        """What comes of it from here on is void."""
        self._awaited.pop(wire_id, None)

    def close(self) -> None:
        """Hear nothing more."""
        if self._reading is not None:
            self._reading.cancel()

    async def wait_closed(self) -> None:
        """Behind `close`."""
        if self._reading is not None:
            await asyncio.wait({self._reading})

    def _move(self) -> None:
        """A broken stream may still be written to for a while: what comes next must not end up there."""
        self.address = f"{self._door}/{next(self._serials)}"

    async def _read(self) -> None:
        try:
            while self._awaited:
                await self._read_once()
        except Exception as exc:
            why = str(exc) or type(exc).__name__  # a TimeoutError says nothing
            logger.warning("the news of replica %s broke off: %s", self.replica_id, why)
            self._move()
            for awaited in self._awaited.values():
                if not awaited.ended.done():
                    awaited.ended.set_exception(NewsLost(why))
        finally:
            self._reading = None

    async def _read_once(self) -> None:
        """One stream, until the replica ends it because nothing has been open for a while."""
        opening = self._handle.choose_replica(replica_id=self.replica_id)
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(OPENING_S):
                selection = await stack.enter_async_context(opening)
            stream = self._handle.dispatch(selection, self.address)
            try:
                await self._deliver_all(stream)
            except BaseException:
                stream.cancel()
                raise

    async def _deliver_all(self, stream: AsyncIterator[bytes]) -> None:
        number = 0
        async for data in stream:
            batch = decode_batch(data)
            if batch.number != number:
                raise NewsLost(f"batch {number} is missing")
            number += 1
            self._deliver(batch)

    def _deliver(self, batch: Batch) -> None:
        for message in batch.news:
            match message:
                case Step(events=events):
                    ours = [self._renamed(event) for event in events if event.request_id in self._awaited]
                    if ours:
                        self._take(Step(ours))
                    for event in events:
                        if event.finish_reason is not None:
                            self._end(event.request_id)
                case ImagesRead(request_id=wire_id):
                    awaited = self._awaited.get(wire_id)
                    if awaited is not None:
                        self._take(msgspec.structs.replace(message, request_id=awaited.request_id))

    def _renamed(self, event: TokenEvent) -> TokenEvent:
        return replace(event, request_id=self._awaited[event.request_id].request_id)

    def _end(self, wire_id: int) -> None:
        awaited = self._awaited.pop(wire_id, None)
        if awaited is not None and not awaited.ended.done():
            awaited.ended.set_result(None)


def heard(future: asyncio.Future[None]) -> None:
    """Whoever waits for it may have left: then its error is nobody's."""
    if not future.cancelled():
        future.exception()
