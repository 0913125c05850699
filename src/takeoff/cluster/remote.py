"""A reader's engine that is many: replicas on machines of a Ray cluster, behind Ray Serve.

To the service it is one more engine. Each request goes to a replica that Ray Serve's router names; when a
replica is lost, the service is told which requests it had, and sends them again with what has come of them.
When one has come, it gets its part of those that still wait elsewhere in the same way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import msgspec

from takeoff.cluster.affinity import blocks_of
from takeoff.cluster.beats import Beats
from takeoff.cluster.link import Link, NewsLost, heard
from takeoff.cluster.wire import Described, Look, decode_answer, decode_look, encode
from takeoff.ipc.messages import (
    Cancel,
    Encode,
    EncodeFailed,
    EncoderDetokenize,
    EncoderLoaded,
    EncoderTokenize,
    Heartbeat,
    Loaded,
    Lost,
    Placed,
    Step,
    Submit,
)
from takeoff.request import FinishReason, TokenEvent
from takeoff.service.engine_watch import EngineCalls, FromAny, ToAny
from takeoff.service.replicas import ReplicaFacts

PLACE_S = 600.0  # a request waits this long for a replica that takes it: one may have to be started
LATE_S = 10.0  # the last news of a request come so long after its end at most
LOOK_EVERY_S = 1.0
LOOKING_S = 10.0  # for all replicas to answer
LEAVING_S = 1.0  # for a call that was cancelled to end
MOST_LOSSES = 8  # of one request, without a token between them
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 5.0  # before it is sent again

Question = Encode | EncoderTokenize | EncoderDetokenize

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a request is."""

    link: Link
    wire_id: int


class RemoteEngine:
    """See `takeoff.service.engines.Engine`."""

    progress = 1.0
    pid = None
    standby_pid = None

    def __init__(
        self,
        described: Described,
        handle: Any,
        door: str,
        calls: EngineCalls,
        on_look: Callable[[dict[str, Heartbeat]], None],
    ) -> None:
        """`handle` is of the replicas' deployment, `door` the name that they know us by.

        `on_look` is told what the replicas' engines said last, by replica, whenever they were asked; at the
        end of none.
        """
        self.loaded: Loaded | EncoderLoaded = described.loaded
        self.num_restarts = 0
        self.last_heartbeat_at = time.time()
        self._handle = handle
        self._submit_handle = handle.options(method_name="submit")
        self._ask_handle = handle.options(method_name="ask")
        self._door = door
        self._calls = calls
        self._on_look = on_look
        self._wire_ids = itertools.count(1)
        self._streams = itertools.count(1)
        self._links: dict[str, Link] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by request
        self._losses: Counter[int] = Counter()  # of requests, since a token
        self._silent: dict[int, _Place] = {}  # of requests that are placed and have no token from there yet
        self._beats = Beats()
        self._looks: list[Look] = []
        self._looking: asyncio.Task[None] | None = None

    @property
    def replicas(self) -> list[ReplicaFacts]:
        """Those that answered lately."""
        return [
            ReplicaFacts(look.replica_id, look.node, self._num_open(look.replica_id)) for look in self._looks
        ]

    def start(self) -> None:
        """It is loaded: replicas that are not there yet are waited for by each request."""
        asyncio.get_running_loop().call_soon(self._calls.on_loaded)
        self._looking = asyncio.create_task(self._look(), name="look at replicas")

    def send(self, message: ToAny) -> None:
        """Returns at once; what comes of it is told to the reader."""
        match message:
            case Submit():
                self._in_background(message.request_id, self._generate(message))
            case Encode() | EncoderTokenize() | EncoderDetokenize():
                self._in_background(message.request_id, self._ask(message))
            case Cancel(request_id=request_id):
                self._losses.pop(request_id, None)
                self._silent.pop(request_id, None)
                task = self._tasks.pop(request_id, None)
                if task is not None:
                    task.cancel()

    async def stop(self) -> None:
        """Take leave of the replicas, which go on without us. Idempotent."""
        tasks = [*self._tasks.values(), *([] if self._looking is None else [self._looking])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._links.values():
            link.close()
        await asyncio.gather(*(link.wait_closed() for link in self._links.values()))
        self._on_look({})

    # --- requests --------------------------------------------------------------------------------

    def _in_background(self, request_id: int, work: Any) -> None:
        task = asyncio.create_task(work, name=f"request {request_id}")
        self._tasks[request_id] = task
        task.add_done_callback(lambda done: self._done(request_id, done))

    def _done(self, request_id: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(request_id) is task:
            del self._tasks[request_id]

    async def _generate(self, submit: Submit) -> None:
        """Have a request computed by one replica; if that is lost, the reader is told."""
        request_id = submit.request_id
        losses = self._losses[request_id]
        if losses:
            await asyncio.sleep(_wait_s(losses))
        try:
            await self._compute(submit)
            self._losses.pop(request_id, None)
        except Exception as exc:
            self._lost(request_id, exc)

    async def _compute(self, submit: Submit) -> None:
        wire_id = next(self._wire_ids)
        data = encode(msgspec.structs.replace(submit, request_id=wire_id))
        routing = self._submit_handle.choose_replica(
            blocks=blocks_of(submit),
            prompt=len(submit.prompt_token_ids) + len(submit.emitted_token_ids),
            completion=submit.sampling.max_new_tokens or 0,
        )
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(PLACE_S):
                selection = await stack.enter_async_context(routing)
            link = self._link(selection.replica_id)
            self._calls.on_message(Placed(submit.request_id, selection.replica_id))
            ended = link.expect(wire_id, submit.request_id)
            stack.callback(link.forget, wire_id)
            place = self._silent[submit.request_id] = _Place(link, wire_id)
            stack.callback(self._has_left, submit.request_id, place)
            response = self._submit_handle.dispatch(selection, link.address, data)
            computing = asyncio.ensure_future(_result_of(response))
            computing.add_done_callback(heard)
            try:
                await asyncio.wait({computing, ended}, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    await _uncancelled(computing)
                async with asyncio.timeout(LATE_S):
                    await ended
                await asyncio.wait({computing}, timeout=LATE_S)  # all is said: how it ends is all the same
            finally:
                if not computing.done():
                    response.cancel()
                    computing.cancel()
                    await asyncio.wait({computing}, timeout=LEAVING_S)

    def _has_left(self, request_id: int, place: _Place) -> None:
        if self._silent.get(request_id) is place:
            del self._silent[request_id]

    def _share_out(self, num_come: int, num_all: int) -> None:
        """Replicas have come: they get their part of what waits for slots, the youngest of it."""
        num_waiting = min(len(self._silent), self._beats.total().waiting)
        number = num_waiting * num_come // num_all
        moved = list(self._silent)[len(self._silent) - number :]
        for request_id in moved:
            place = self._silent.pop(request_id)
            place.link.forget(place.wire_id)  # at once: of what comes from there now nothing counts
            self._tasks.pop(request_id).cancel()
        if moved:
            self._calls.on_message(Lost(moved))

    def _lost(self, request_id: int, exc: Exception) -> None:
        self._losses[request_id] += 1
        logger.warning("request %d has lost its replica: %s", request_id, _shortly(exc))
        if self._losses[request_id] < MOST_LOSSES:
            self._calls.on_message(Lost([request_id]))
            return
        del self._losses[request_id]
        error = f"{MOST_LOSSES} replicas in a row were lost with this request: {_shortly(exc)}"
        failed = TokenEvent(request_id=request_id, finish_reason=FinishReason.FAILED, error=error)
        self._calls.on_message(Step([failed]))

    async def _ask(self, question: Question) -> None:
        data = encode(question)
        for losses in itertools.count(1):
            try:
                async with asyncio.timeout(PLACE_S):
                    answer = decode_answer(await self._ask_handle.remote(data))
            except Exception as exc:
                if losses < MOST_LOSSES:
                    await asyncio.sleep(_wait_s(losses))
                    continue
                answer = EncodeFailed(question.request_id, _shortly(exc), "engine_failed")
            self._calls.on_message(answer)
            return

    # --- replicas --------------------------------------------------------------------------------

    def _link(self, replica_id: str) -> Link:
        link = self._links.get(replica_id)
        if link is None:
            link = self._links[replica_id] = Link(
                self._handle, replica_id, self._door, self._streams, self._take
            )
        return link

    def _take(self, message: FromAny) -> None:
        if isinstance(message, Step):
            for event in message.events:
                self._losses.pop(event.request_id, None)
                self._silent.pop(event.request_id, None)
        self._calls.on_message(message)

    def _num_open(self, replica_id: str) -> int:
        link = self._links.get(replica_id)
        return 0 if link is None else link.num_open

    async def _look(self) -> None:
        """Ask the replicas now and then how they are."""
        while True:
            try:
                response = self._handle.broadcast("look", self._door)
                answers = await response.results_async(timeout_s=LOOKING_S, return_exceptions=True)
                looks = [decode_look(answer) for answer in answers if not isinstance(answer, BaseException)]
            except Exception as exc:
                logger.debug("no replica answers: %s", exc)
                looks = []
            self._note(looks)
            await asyncio.sleep(LOOK_EVERY_S)

    def _note(self, looks: list[Look]) -> None:
        self._looks = looks
        names = {look.replica_id for look in looks}
        for replica_id in [
            name for name, link in self._links.items() if name not in names and not link.num_open
        ]:
            self._links.pop(replica_id).close()
        self._beats.keep(names)
        self.num_restarts = sum(look.restarts for look in looks)
        beats = {look.replica_id: look.beat for look in looks if look.beat is not None}
        num_come = sum(name not in self._beats for name in beats)
        for name, beat in beats.items():
            self._beats.take(name, beat)
        if 0 < num_come < len(beats):
            self._share_out(num_come, len(beats))
        if looks:
            self.last_heartbeat_at = time.time()
            self._calls.on_message(self._beats.total())
        self._on_look(beats)


def _wait_s(losses: int) -> float:
    """Before what was lost so often is sent again."""
    return min(FIRST_WAIT_S * 2.0**losses, LONGEST_WAIT_S)


async def _result_of(response: Any) -> None:
    await response


async def _uncancelled(call: asyncio.Task[None]) -> None:
    """Raises NewsLost: Ray Serve has cancelled the call, not we."""
    await asyncio.wait({call})
    if call.cancelled():
        raise NewsLost("the call was cancelled")
    call.result()


def _shortly(exc: Exception) -> str:
    """Ray's errors hold whole tracebacks."""
    if isinstance(exc, NewsLost):
        return f"its news broke off ({_first_line(str(exc))})"
    return f"{type(exc).__name__}: {_first_line(str(exc))}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]
