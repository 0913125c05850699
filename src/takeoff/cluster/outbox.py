"""What a replica has to say to one door: gathered, and sent a step at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from takeoff.cluster.wire import Batch, News, encode
from takeoff.ipc.messages import ImagesRead, Step
from takeoff.request import TokenEvent

IDLE_S = 2.0  # the stream of news ends when the door has had no request here for so long


class Outbox:
    """All requests of a door share one stream of batches, so a step costs one message."""

    def __init__(self) -> None:
        self.num_open = 0  # requests of the door
        self._events: list[TokenEvent] = []
        self._others: list[News] = []
        self._changed = asyncio.Event()
        self._reading = 0  # number of the stream that is read: an older one ends

    def event(self, event: TokenEvent) -> None:
        self._events.append(event)
        self._changed.set()

    def images(self, message: ImagesRead) -> None:
        self._others.append(message)
        self._changed.set()

    async def batches(self) -> AsyncIterator[bytes]:
        """All that is said from here on, until nothing has been open for a while."""
        self._reading += 1
        mine, number = self._reading, 0
        idle_since = time.monotonic()
        while mine == self._reading:
            news = self._taken()
            if news:
                yield encode(Batch(number, news))
                number += 1
                continue
            now = time.monotonic()
            if self.num_open:
                idle_since = now
            elif now - idle_since > IDLE_S:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), IDLE_S / 2)
            except TimeoutError:
                continue

    def _taken(self) -> list[News]:
        self._changed.clear()
        news = self._others
        if self._events:
            news.append(Step(self._events))
        self._events, self._others = [], []
        return news
