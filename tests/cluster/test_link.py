"""News of a replica: told under the door's own ids, and whoever may have missed some is told that."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from tests.cluster.fake_handle import DOOR, Handle, Replica, Stream, make_submit, run
from tests.service.serving import until

from takeoff.cluster import link as link_module
from takeoff.cluster import outbox
from takeoff.cluster.link import Link, NewsLost
from takeoff.cluster.wire import Batch, encode
from takeoff.ipc.messages import ImagesRead, Step
from takeoff.request import FinishReason, TokenEvent


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "IDLE_S", 0.05)


def linked(replica: Replica) -> tuple[Link, list[Step | ImagesRead]]:
    told: list[Step | ImagesRead] = []
    return Link(Handle([replica]), replica.replica_id, DOOR, itertools.count(1), told.append), told


def submit(link: Link, replica: Replica, wire_id: int, request_id: int) -> asyncio.Future[None]:
    ended = link.expect(wire_id, request_id)
    replica.submit(link.address, encode(make_submit(wire_id)))
    return ended


def test_one_batch_of_a_step_is_told_as_one_step_under_the_doors_ids() -> None:
    async def work() -> None:
        replica = Replica("a")
        link, told = linked(replica)
        ended = [submit(link, replica, wire_id, 100 + wire_id) for wire_id in (1, 2)]
        await until(lambda: bool(replica.streams))
        for wire_id in (1, 2):
            replica.tell(wire_id, 7)
        await until(lambda: bool(told))
        tokens = [TokenEvent(request_id=request_id, token_ids=(7,)) for request_id in (101, 102)]
        assert told == [Step(tokens)]
        assert link.num_open == 2
        for wire_id in (1, 2):
            replica.tell(wire_id, ends=True)
        await asyncio.gather(*ended)
        assert (link.num_open, len(told)) == (0, 2)
        await until(lambda: link._reading is None)

    run(work())


def test_what_comes_of_a_request_that_is_not_awaited_any_more_is_void() -> None:
    async def work() -> None:
        replica = Replica("a")
        link, told = linked(replica)
        submit(link, replica, 1, 100)
        ended = submit(link, replica, 2, 100)  # the same, sent again
        link.forget(1)
        replica.outboxes[link.address].images(ImagesRead(1, 5))
        replica.tell(1, 7, ends=True)
        await until(lambda: bool(replica.streams))
        replica.outboxes[link.address].images(ImagesRead(2, 5))
        replica.tell(2, 8, ends=True)
        await ended
        length = FinishReason.LENGTH
        last = TokenEvent(request_id=100, token_ids=(8,), finish_reason=length)
        assert told == [ImagesRead(100, 5), Step([last])]
        await until(lambda: link._reading is None)

    run(work())


def test_a_stream_that_has_ended_is_opened_again_by_the_next_request() -> None:
    async def work() -> None:
        replica = Replica("a")
        link, told = linked(replica)
        for wire_id in (1, 2):
            ended = submit(link, replica, wire_id, wire_id)
            replica.tell(wire_id, 7, ends=True)
            await ended
            await until(lambda: link._reading is None)
        assert [step.events[0].request_id for step in told if isinstance(step, Step)] == [1, 2]
        assert len(replica.streams) == 2
        assert len(replica.outboxes) == 1, "nothing may be left behind in another"

    run(work())


@pytest.mark.parametrize("numbers", [[1], [0, 2], [0, 0]])
def test_a_batch_that_is_missing_is_told_to_all_that_are_open(
    numbers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gappy() -> AsyncIterator[bytes]:
        for number in numbers:
            yield encode(Batch(number, []))

    async def work() -> None:
        replica = Replica("a")
        stream = Stream(gappy(), asyncio.get_running_loop().create_future())
        monkeypatch.setattr(replica, "news", lambda _address: stream)
        link, _ = linked(replica)
        ended = [link.expect(wire_id, wire_id) for wire_id in (1, 2)]
        for each in ended:
            with pytest.raises(NewsLost, match="is missing"):
                await each
        assert stream.is_cancelled

    run(work())


def test_news_of_a_stream_that_broke_can_not_be_missed_by_those_that_came_later() -> None:
    """A replica may write into a broken stream for a while: it must not take what another waits for."""

    async def work() -> None:
        replica = Replica("a")
        link, told = linked(replica)
        broken = submit(link, replica, 1, 1)
        await until(lambda: bool(replica.streams))
        first = link.address
        replica.break_news("a network")
        with pytest.raises(NewsLost):
            await broken
        link.forget(1)
        ended = submit(link, replica, 2, 2)
        assert link.address != first
        assert replica.outboxes.keys() == {first, link.address}
        replica.tell(2, 8, ends=True)
        replica.tell(1, 7, ends=True)
        await ended
        length = FinishReason.LENGTH
        assert told == [Step([TokenEvent(request_id=2, token_ids=(8,), finish_reason=length)])]
        await until(lambda: link._reading is None)

    run(work())


def test_a_replica_that_takes_no_call_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "OPENING_S", 0.02)

    async def work() -> None:
        link, _ = linked(Replica("a", is_alive=False))
        with pytest.raises(NewsLost, match="TimeoutError"):
            await link.expect(1, 1)

    run(work())


def test_an_error_that_nobody_waits_for_is_not_logged_as_unheard() -> None:
    async def work() -> None:
        replica = Replica("a")
        link, _ = linked(replica)
        link.expect(1, 1)
        await until(lambda: bool(replica.streams))
        replica.die()
        await until(lambda: link._reading is None)

    run(work())


def test_a_closed_link_hears_nothing_and_leaves_no_task() -> None:
    async def work() -> None:
        replica = Replica("a")
        link, told = linked(replica)
        submit(link, replica, 1, 1)
        await until(lambda: bool(replica.streams))
        link.close()
        replica.tell(1, 7)
        await link.wait_closed()
        await link.wait_closed()
        assert told == []
        assert replica.streams[0].is_cancelled

    run(work())
