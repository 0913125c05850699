"""A deployment handle as of Ray Serve, and replicas behind it that say what a test tells them to.

They have the outboxes of real ones; nothing here is a process, and Ray is not needed.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.service.serving import LIMIT_S, make_load, until

from takeoff.cluster.outbox import Outbox
from takeoff.cluster.remote import RemoteEngine
from takeoff.cluster.wire import Described, Look, decode_submit, encode
from takeoff.ipc.messages import Heartbeat, Loaded, Submit
from takeoff.request import FinishReason, SamplingParams, TokenEvent
from takeoff.service.engine_watch import EngineCalls, FromAny

DOOR = "door"


class ReplicaDied(Exception):
    """As Ray says it of an actor."""


@dataclass(frozen=True)
class Selection:
    replica_id: str
    node_ip: str


class Call:
    """The response of a call."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self.ended.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        return self.ended.__await__()


class Stream:
    """The response of a call that streams; it breaks when `broken` is told why."""

    def __init__(self, batches: AsyncIterator[bytes], broken: asyncio.Future[None]) -> None:
        self.is_cancelled = False
        self._batches = batches
        self._broken = broken

    def cancel(self) -> None:
        self.is_cancelled = True

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        coming = asyncio.ensure_future(anext(self._batches))
        try:
            await asyncio.wait({coming, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            if self._broken.done():
                self._broken.result()
            return coming.result()
        finally:
            coming.cancel()
            with suppress(BaseException):
                await coming


@dataclass(eq=False)
class Replica:
    """One of them; `answers` what it is asked."""

    replica_id: str
    answers: Callable[[bytes], Awaitable[bytes]] | None = None
    beat: Heartbeat | None = None
    is_alive: bool = True
    submits: list[Submit] = field(default_factory=list)  # as they came
    streams: list[Stream] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)  # by number on the wire
    outboxes: dict[str, Outbox] = field(default_factory=dict)
    _addresses: dict[int, str] = field(default_factory=dict)
    _broken: list[asyncio.Future[None]] = field(default_factory=list)

    def submit(self, address: str, data: bytes) -> Call:
        submit = decode_submit(data)
        call = self.calls[submit.request_id] = Call()
        if not self.is_alive:
            call.ended.set_exception(ReplicaDied("it is gone"))
            return call
        self.submits.append(submit)
        self._addresses[submit.request_id] = address
        outbox = self._outbox(address)
        outbox.num_open += 1
        call.ended.add_done_callback(lambda _: setattr(outbox, "num_open", outbox.num_open - 1))
        return call

    def news(self, address: str) -> Stream:
        self._broken.append(asyncio.get_running_loop().create_future())
        self.streams.append(Stream(self._outbox(address).batches(), self._broken[-1]))
        return self.streams[-1]

    def tell(self, wire_id: int, *token_ids: int, ends: bool = False, address: str | None = None) -> None:
        """What a step did to one request; with `ends` it was its last."""
        reason = FinishReason.LENGTH if ends else None
        event = TokenEvent(request_id=wire_id, token_ids=token_ids, finish_reason=reason)
        self._outbox(self._addresses[wire_id] if address is None else address).event(event)
        if ends and not self.calls[wire_id].ended.done():
            self.calls[wire_id].ended.set_result(None)

    def break_news(self, why: str) -> None:
        """Of the present stream: its calls go on."""
        self._broken[-1].set_exception(ReplicaDied(why))

    def die(self) -> None:
        self.is_alive = False
        for ended in [*(call.ended for call in self.calls.values()), *self._broken]:
            if not ended.done():
                ended.set_exception(ReplicaDied("its machine is off\n  at a place\n"))
                ended.exception()

    def look(self) -> bytes:
        if not self.is_alive:
            raise ReplicaDied("it is gone")
        return encode(Look(self.replica_id, "10.0.0.1", self.beat, 0))

    def _outbox(self, address: str) -> Outbox:
        return self.outboxes.setdefault(address, Outbox())


@dataclass(frozen=True)
class Handle:
    """Of all `replicas`; the first that lives is chosen, and a call without one waits."""

    replicas: list[Replica]
    method: str = ""
    chosen: list[dict[str, Any]] = field(default_factory=list)  # what was said of calls

    def options(self, *, method_name: str, stream: bool = False) -> Handle:
        return Handle(self.replicas, method_name, self.chosen)

    @asynccontextmanager
    async def choose_replica(self, **said: Any) -> AsyncIterator[Selection]:
        self.chosen.append(said)
        name = said.get("replica_id")

        def fitting() -> list[Replica]:
            return [each for each in self.replicas if each.is_alive and name in (None, each.replica_id)]

        await until(lambda: bool(fitting()))
        yield Selection(fitting()[0].replica_id, "10.0.0.1")

    def dispatch(self, selection: Selection, *said: Any) -> Call | Stream:
        [replica] = [each for each in self.replicas if each.replica_id == selection.replica_id]
        response: Call | Stream = getattr(replica, self.method)(*said)
        return response

    async def remote(self, data: bytes) -> bytes:
        answers = self.replicas[0].answers
        assert answers is not None
        return await answers(data)

    def broadcast(self, method: str, door: str) -> Broadcast:
        assert door == DOOR
        return Broadcast(self.replicas, method)


@dataclass(frozen=True)
class Broadcast:
    replicas: list[Replica]
    method: str

    async def results_async(self, *, timeout_s: float, return_exceptions: bool) -> list[Any]:
        results: list[Any] = []
        for replica in self.replicas:
            try:
                results.append(getattr(replica, self.method)())
            except ReplicaDied as exc:
                if not return_exceptions:
                    raise
                results.append(exc)
        return results


def make_submit(request_id: int, *prompt: int, emitted: tuple[int, ...] = ()) -> Submit:
    sampling = SamplingParams(max_new_tokens=10, seed=1)
    return Submit(request_id, list(prompt or (1, 2, 3)), sampling, "", emitted_token_ids=list(emitted))


@asynccontextmanager
async def remote_engine(*replicas: Replica) -> AsyncIterator[tuple[RemoteEngine, list[FromAny]]]:
    """An engine of these replicas, and what it tells but heartbeats; it is stopped in the end."""
    told: list[FromAny] = []

    def take(message: FromAny) -> None:
        if not isinstance(message, Heartbeat):
            told.append(message)

    load, loaded = make_load(), Loaded(1, 64, 4, 1_000, True, 0.0)
    described = Described("r1", "{}", "m", "generate", load, loaded, b"{}")
    calls = EngineCalls(take, lambda: None, lambda _death, _restarted: None, lambda _loaded: load)
    engine = RemoteEngine(described, Handle(list(replicas)), DOOR, calls, lambda _beats: None)
    engine.start()
    try:
        yield engine, told
    finally:
        await engine.stop()


def run(work: Coroutine[Any, Any, None]) -> None:
    """`work` to its end; afterwards there is no task left, and no error that nobody has heard of."""
    unheard: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: unheard.append(context))
        async with asyncio.timeout(LIMIT_S):
            await work
        assert asyncio.all_tasks() == {asyncio.current_task()}
        gc.collect()

    asyncio.run(watched())
    gc.collect()
    assert unheard == []
