"""What a replica says to a door: a message for each step, whose events come in the order they were told."""

from __future__ import annotations

import asyncio

import pytest
from tests.cluster.fake_handle import run

from takeoff.cluster import outbox
from takeoff.cluster.outbox import Outbox
from takeoff.cluster.wire import Batch, decode_batch
from takeoff.ipc.messages import ImagesRead, Step
from takeoff.request import TokenEvent


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "IDLE_S", 0.05)


def event(request_id: int, token_id: int) -> TokenEvent:
    return TokenEvent(request_id=request_id, token_ids=(token_id,), text="a")


async def all_of(box: Outbox) -> list[Batch]:
    return [decode_batch(data) async for data in box.batches()]


def test_a_step_of_many_requests_is_one_batch_and_batches_are_numbered() -> None:
    async def work() -> None:
        box = Outbox()
        box.num_open = 3
        reading = asyncio.create_task(all_of(box))
        for step in range(2):
            for request_id in range(3):
                box.event(event(request_id, step))
            await asyncio.sleep(0.01)
        box.num_open = 0
        steps = [Step([event(request_id, step) for request_id in range(3)]) for step in range(2)]
        assert await reading == [Batch(0, [steps[0]]), Batch(1, [steps[1]])]

    run(work())


def test_what_was_said_before_anybody_read_comes_first() -> None:
    async def work() -> None:
        box = Outbox()
        box.event(event(1, 7))
        box.images(ImagesRead(2, 5))
        assert await all_of(box) == [Batch(0, [ImagesRead(2, 5), Step([event(1, 7)])])]

    run(work())


def test_a_stream_lasts_while_a_request_is_open_and_ends_a_while_later() -> None:
    async def work() -> None:
        box = Outbox()
        box.num_open = 1
        reading = asyncio.create_task(all_of(box))
        await asyncio.sleep(0.2)
        assert not reading.done()
        box.num_open = 0
        assert await asyncio.wait_for(reading, 1.0) == []

    run(work())


def test_a_second_stream_ends_the_first_and_gets_all_that_follows() -> None:
    async def work() -> None:
        box = Outbox()
        box.num_open = 1
        first = asyncio.create_task(all_of(box))
        await asyncio.sleep(0)
        second = asyncio.create_task(all_of(box))
        await asyncio.sleep(0)
        box.event(event(1, 7))
        assert await first == []
        box.num_open = 0
        assert await second == [Batch(0, [Step([event(1, 7)])])]

    run(work())
