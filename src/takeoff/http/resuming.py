"""Streams that outlive their connection, where their client asked for it: each event is kept, with a number.

The stream is made by a task of its own, and connections read what it has made. Memory is bounded: so many
streams, so many bytes of each. A stream whose events nobody takes waits when its bytes are full; of those
that were taken the oldest are forgotten first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from contextvars import ContextVar

from starlette.types import Receive, Scope, Send

from takeoff.errors import Gone, InvalidRequest, NotFound, Overloaded
from takeoff.http.ports import Generation
from takeoff.http.streaming import EVENT_STREAM, BrokenOff, KeepAlive, KeptAliveResponse
from takeoff.http.terms import ID, RESUME
from takeoff.settings import Settings

RETRY_AFTER_S = 5.0  # when all places are taken: a stream may end at any time

logger = logging.getLogger(__name__)


class KeptStream:
    """The events of one stream, from the first that is kept to the last that was made."""

    def __init__(
        self, request_id: str, grace_s: float, max_bytes: int, on_forgotten: Callable[[], None]
    ) -> None:
        """`grace_s`: so long it is kept without a connection; then `on_forgotten` is called."""
        self.request_id = request_id
        self.keep_alive: KeepAlive | None = None
        self._grace_s = grace_s
        self._max_bytes = max_bytes
        self._on_forgotten = on_forgotten
        self._task: asyncio.Task[None] | None = None  # makes it
        self._events: dict[int, bytes] = {}
        self._last = 0  # the number of the event made last
        self._taken = 0  # and of the one that a connection took last
        self._num_bytes = self._num_untaken_bytes = 0
        self._is_whole: bool | None = None  # None: it goes on
        self._num_connections = 0
        self._grace: asyncio.TimerHandle | None = None
        self._is_forgotten = False
        self._news = asyncio.Event()

    @property
    def is_begun(self) -> bool:
        return self._task is not None

    @property
    def is_idle(self) -> bool:
        """It has ended, and nobody reads it."""
        return self._is_whole is not None and self._num_connections == 0

    def begin(
        self, generations: list[Generation], body: AsyncGenerator[bytes, None], keep_alive: KeepAlive | None
    ) -> asyncio.Task[None]:
        """Make it of `body`, whose pieces are events; the generations end with the task at the latest."""
        self.keep_alive = keep_alive
        self._task = asyncio.create_task(self._make(generations, body), name="kept stream")
        return self._task

    async def events(self, after: int) -> AsyncGenerator[bytes, None]:
        """Those behind number `after`, as they come.

        Raises:
            BrokenOff: it did; or the connection is so slow that its next event is forgotten.
        """
        while True:
            while after < self._last:
                after += 1
                event = self._events.get(after)
                if event is None:
                    raise BrokenOff(f"event {after} of {self.request_id} is not kept any more")
                self._take(after)
                yield event
            if self._is_whole is not None:
                break
            await self._news.wait()
        if not self._is_whole:
            raise BrokenOff(f"the stream of {self.request_id} broke off")

    def check(self, after: int) -> None:
        """Whether it can go on behind number `after`.

        Raises:
            InvalidRequest: there is no such event.
            Gone: the next one is forgotten.
        """
        if after > self._last:
            raise InvalidRequest(f"the stream has {self._last} events so far, and not {after}", param="after")
        first = min(self._events, default=1)
        if after + 1 < first:
            raise Gone(
                f"the events before {first} are forgotten: of a stream the last {self._max_bytes} bytes are "
                "kept",
                param="after",
                hint="serve with a larger --resume-kb",
            )

    @contextmanager
    def connected(self) -> Iterator[None]:
        """While somebody reads it, its time does not run."""
        self._num_connections += 1
        self._stop_waiting()
        try:
            yield
        finally:
            self._num_connections -= 1
            if self._num_connections == 0:
                self._grace = asyncio.get_running_loop().call_later(self._grace_s, self.forget)

    def forget(self) -> None:
        """End it if it goes on, and keep nothing of it. Idempotent."""
        if self._is_forgotten:
            return
        self._is_forgotten = True
        self._stop_waiting()
        if self._task is not None:
            self._task.cancel()
        self._events.clear()
        self._on_forgotten()

    async def _make(self, generations: list[Generation], body: AsyncGenerator[bytes, None]) -> None:
        is_whole = False
        try:
            with ExitStack() as stack:
                for generation in generations:
                    stack.enter_context(generation)
                async with aclosing(body):
                    async for event in body:
                        await self._add(event)
            is_whole = True
        except BrokenOff as exc:
            logger.debug("the stream of %s broke off: %s", self.request_id, exc)
        except Exception:  # the root of the task: whoever reads the stream sees it break off
            logger.exception("the stream of %s failed", self.request_id)
        finally:
            self._is_whole = is_whole
            self._tell()

    async def _add(self, event: bytes) -> None:
        """Keep one event more, once there is room."""
        while self._num_untaken_bytes >= self._max_bytes:
            await self._news.wait()
        self._last += 1
        named = b"id: %b:%d\n%b" % (self.request_id.encode(), self._last, event)
        self._events[self._last] = named
        self._num_bytes += len(named)
        self._num_untaken_bytes += len(named)
        self._trim()
        self._tell()

    def _take(self, number: int) -> None:
        """A connection takes an event."""
        if number > self._taken:
            self._taken = number
            self._num_untaken_bytes -= len(self._events[number])
            self._trim()
            self._tell()

    def _trim(self) -> None:
        """Forget the oldest of the events that were taken, while there are too many bytes."""
        while self._num_bytes > self._max_bytes:
            oldest = next(iter(self._events))
            if oldest >= self._taken:
                return
            self._num_bytes -= len(self._events.pop(oldest))

    def _stop_waiting(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class KeptStreams:
    """Those of all doors, each its key's."""

    def __init__(self, settings: Settings) -> None:
        self._max_streams = settings.max_resumable
        self._max_bytes = settings.resume_kb << 10
        self._streams: dict[tuple[str, str], KeptStream] = {}

    @contextmanager
    def place(self, tenant: str, request_id: str, grace_s: float) -> Iterator[KeptStream]:
        """Room for the stream of a request, to be begun inside; else it is given back.

        Raises:
            InvalidRequest: a stream of that id is kept.
            Overloaded: there is no room.
        """
        key = tenant, request_id
        if key in self._streams:
            raise InvalidRequest(
                f"a stream of a request {request_id!r} is kept",
                param=ID,
                hint=f"go on with it by GET /v1/requests/{request_id}, or take another id",
            )
        self._make_room()
        stream = KeptStream(request_id, grace_s, self._max_bytes, lambda: self._drop(key))
        self._streams[key] = stream
        try:
            yield stream
        finally:
            if not stream.is_begun:
                stream.forget()

    def find(self, tenant: str, request_id: str) -> KeptStream:
        """Raises NotFound: none of that id is kept of the tenant's."""
        stream = self._streams.get((tenant, request_id))
        if stream is None or not stream.is_begun:
            raise NotFound(
                f"no stream of a request {request_id[:128]!r} is kept",
                param="request_id",
                hint=f"ask for it with the header {RESUME}",
            )
        return stream

    def _make_room(self) -> None:
        """Forget a stream that has ended and that nobody reads, the oldest, if all places are taken."""
        if len(self._streams) < self._max_streams:
            return
        idle = next((stream for stream in self._streams.values() if stream.is_idle), None)
        if idle is None:
            raise Overloaded(
                f"{self._max_streams} streams are kept for their clients, which is the limit: "
                f"come again, or leave out {RESUME}",
                retry_after_s=RETRY_AFTER_S,
            )
        idle.forget()

    def _drop(self, key: tuple[str, str]) -> None:
        del self._streams[key]


# In the tasks of a request whose stream is to be kept.
current_stream: ContextVar[KeptStream | None] = ContextVar("current_stream", default=None)


def refuse_resume(what: str) -> None:
    """Of an answer that is no stream of events.

    Raises:
        InvalidRequest: its client wants to pick it up again.
    """
    if current_stream.get() is not None:
        raise InvalidRequest(f"{RESUME} is for streams of events: {what} can't be picked up", param=RESUME)


class ResumedResponse(KeptAliveResponse):
    """A kept stream, from behind the event of number `after` on."""

    def __init__(self, stream: KeptStream, after: int) -> None:
        """Raises as `KeptStream.check`."""
        stream.check(after)
        super().__init__(stream.events(after), EVENT_STREAM, stream.keep_alive)
        self.headers[ID] = stream.request_id
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stream.connected():
            await super().__call__(scope, receive, send)
