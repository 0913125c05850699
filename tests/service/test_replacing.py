"""A reader in the place of another under open requests: which of the two answers, and that none fails."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tests.service.serving import is_running, make_request, plan_sized, running_service, text_of, until

from takeoff.errors import EngineFailed, InvalidRequest, NoRoom, NotFound
from takeoff.request import FinishReason
from takeoff.service.reader import ReaderState
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings

OLD, NEW = "old@100@300", "new@100@30"  # told apart by how long a text may be, the prompt taken off
OLD_WORDS, NEW_WORDS = 297, 27
ROOM_FOR_BOTH, ROOM_FOR_ONE = 0.25, 0.15  # GB


async def add(service: Service, model: str, **settings: object) -> None:
    reader = await service.add_reader(ReaderSettings(model=model, consumer_group="chat", **settings))
    await until(lambda: reader.state is not ReaderState.LOADING)


async def words(service: Service, name: str = "chat") -> int:
    """Of the longest text there can be, which tells which model it is."""
    generation = await service.generate(make_request(group=name, max_new_tokens=None))
    return len((await text_of(generation)).split())


async def asking(service: Service, told: list[int]) -> None:
    """One request after the other, without end."""
    while True:
        told.append(await words(service))


def num_failed(service: Service) -> int:
    return service.tally.num_ended[FinishReason.FAILED]


@pytest.mark.parametrize("limit_gb", [ROOM_FOR_BOTH, ROOM_FOR_ONE])
def test_a_reader_is_replaced_under_its_requests_and_each_is_answered_by_one_of_the_two(
    limit_gb: float,
) -> None:
    async def run() -> None:
        async with running_service(
            "--step-ms=2", plan_reader=plan_sized, memory_limit_gb=limit_gb
        ) as service:
            await add(service, OLD)
            old = service.readers()[1]
            long = asyncio.create_task(words(service, "old-100-300"))
            told: list[int] = []
            clients = [asyncio.create_task(asking(service, told)) for _ in range(4)]
            await until(lambda: len(told) > 4)
            new = await service.replace_reader(
                "old-100-300", ReaderSettings(model=NEW, consumer_group="chat")
            )
            num_before = len(told)
            assert (new.reader_id, new.is_live) == ("old-100-300", True)
            assert await words(service) == await words(service, "old-100-300") == NEW_WORDS
            await until(lambda: told[-4:] == [NEW_WORDS] * 4)
            assert await long == OLD_WORDS
            for client in clients:
                client.cancel()
            results = await asyncio.gather(*clients, return_exceptions=True)
            assert all(isinstance(each, asyncio.CancelledError) for each in results), results
            assert set(told) == {OLD_WORDS, NEW_WORDS}
            assert set(told[: num_before - 8]) <= {OLD_WORDS, NEW_WORDS}
            await until(lambda: len(service.readers()) == 2)
            assert not any(map(is_running, old.pids))
            assert num_failed(service) == 0

    asyncio.run(run())


def test_the_old_serves_while_the_new_loads_where_both_fit() -> None:
    async def run() -> None:
        async with running_service(plan_reader=plan_sized, memory_limit_gb=ROOM_FOR_BOTH) as service:
            await add(service, OLD)
            replacing = asyncio.create_task(
                service.replace_reader("old-100-300", ReaderSettings(model=NEW, consumer_group="chat"))
            )
            await until(lambda: len(service.readers()) == 3)
            old, new = service.readers()[1:]
            assert (old.reader_id, old.state) == ("old-100-300", ReaderState.LIVE)
            assert (new.reader_id, new.state) == ("old-100-300-2", ReaderState.LOADING)
            assert await words(service) == OLD_WORDS
            await replacing
            assert (old.reader_id, new.reader_id) == ("old-100-300-2", "old-100-300")

    asyncio.run(run())


@pytest.mark.parametrize("limit_gb", [ROOM_FOR_BOTH, ROOM_FOR_ONE])
def test_a_model_that_can_not_be_loaded_leaves_all_as_it_was(limit_gb: float) -> None:
    async def run() -> None:
        async with running_service(
            "--step-ms=1", plan_reader=plan_sized, memory_limit_gb=limit_gb
        ) as service:
            await add(service, OLD)
            told: list[int] = []
            client = asyncio.create_task(asking(service, told))
            settings = ReaderSettings(model="broken@100", consumer_group="chat")
            with pytest.raises(EngineFailed, match="broken could not be loaded: the weights are damaged"):
                await service.replace_reader("old-100-300", settings)
            count = len(told)
            await until(lambda: len(told) > count)
            assert set(told) == {OLD_WORDS}
            assert not client.done()
            client.cancel()
            states = [(reader.reader_id, reader.state) for reader in service.readers()]
            assert states == [("r1", ReaderState.LIVE), ("old-100-300", ReaderState.LIVE)]
            assert num_failed(service) == 0

    asyncio.run(run())


def test_what_can_not_take_the_place_is_refused_before_anything_is_ended() -> None:
    async def run() -> None:
        async with running_service(plan_reader=plan_sized, memory_limit_gb=ROOM_FOR_ONE) as service:
            await add(service, OLD)
            pids = service.readers()[1].pids
            for model, group, error, words_ in (
                ("vast@151", "chat", NoRoom, "vast needs 151 MB, and there are 150 MB"),
                (NEW, "other", InvalidRequest, "'old-100-300' serves the group 'chat', not 'other'"),
            ):
                settings = ReaderSettings(model=model, consumer_group=group)
                with pytest.raises(error, match=words_):
                    await service.replace_reader("old-100-300", settings)
            with pytest.raises(NotFound, match="no reader 'nobody'"):
                await service.replace_reader("nobody", ReaderSettings(model=NEW))
            assert service.readers()[1].pids == pids
            assert await words(service) == OLD_WORDS

    asyncio.run(run())


def test_the_death_of_the_old_engine_meanwhile_fails_nobody() -> None:
    async def run() -> None:
        async with running_service(
            "--step-ms=10", plan_reader=plan_sized, memory_limit_gb=ROOM_FOR_ONE
        ) as service:
            await add(service, OLD)
            old = service.readers()[1]
            generation = await service.generate(make_request(group="chat", max_new_tokens=60))
            await anext(generation)
            settings = ReaderSettings(model=NEW, consumer_group="chat")
            replacing = asyncio.create_task(service.replace_reader("old-100-300", settings))
            await until(lambda: old.state is ReaderState.DRAINING)
            waiting = asyncio.create_task(words(service))
            assert old.engine_pid is not None
            os.kill(old.engine_pid, signal.SIGKILL)
            assert (await text_of(generation)).split()[-1] == "60"
            await replacing
            assert await waiting == NEW_WORDS

    asyncio.run(run())


def test_removing_the_new_one_while_it_loads_calls_the_replacement_off() -> None:
    async def run() -> None:
        async with running_service(plan_reader=plan_sized, memory_limit_gb=ROOM_FOR_BOTH) as service:
            await add(service, OLD)
            settings = ReaderSettings(model=NEW, consumer_group="chat")
            replacing = asyncio.create_task(service.replace_reader("old-100-300", settings))
            await until(lambda: len(service.readers()) == 3)
            await service.remove_reader("old-100-300-2")
            with pytest.raises(NotFound, match="removed meanwhile"):
                await replacing
            assert await words(service, "old-100-300") == OLD_WORDS

    asyncio.run(run())
