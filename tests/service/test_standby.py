"""An engine that stands by: it takes over from one that dies, and nobody notices when it dies itself."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.service.serving import (
    engine_pid,
    is_running,
    make_launch,
    make_request,
    make_service,
    text_of,
    until,
    until_stopped,
)

from takeoff.service import standby
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "DELAY_S", 0.05)


@asynccontextmanager
async def running(*options: str) -> AsyncIterator[Service]:
    """A service of scripted engines, one of which stands by."""
    service = make_service("--step-ms=20", *options)
    launch = make_launch(100_000)
    load = msgspec.structs.replace(launch.load, has_standby=True)
    service.launch("r1", ReaderSettings(), dataclasses.replace(launch, load=load))
    async with until_stopped(service):
        yield service


async def standby_pid(service: Service) -> int:
    reader = service.readers()[0]
    await until(lambda: reader.standby_pid is not None)
    assert reader.standby_pid is not None
    return reader.standby_pid


async def kill(service: Service, number: signal.Signals = signal.SIGKILL) -> None:
    """Kill the present engine, and wait for the next one."""
    reader = service.readers()[0]
    before = reader.num_restarts
    os.kill(engine_pid(service), number)
    await until(lambda: reader.num_restarts > before and reader.is_live)


def test_it_takes_over_with_all_that_the_dead_one_had_in_work_and_another_stands_by() -> None:
    async def run() -> None:
        async with running() as service:
            text = asyncio.create_task(text_of(await service.generate(make_request(max_new_tokens=100))))
            pids = {engine_pid(service)}
            for _ in range(3):
                waiting = await standby_pid(service)
                await kill(service)
                assert engine_pid(service) == waiting
                pids.add(waiting)
            assert await text == "".join(f"{n} " for n in range(1, 101))
            assert len(pids) == 4
            assert service.readers()[0].num_restarts == 3

    asyncio.run(run())


def test_its_own_death_costs_nothing_and_the_next_death_finds_a_fresh_engine() -> None:
    async def run() -> None:
        async with running() as service:
            generation = await service.generate(make_request(max_new_tokens=40))
            waiting, present = await standby_pid(service), engine_pid(service)
            os.kill(waiting, signal.SIGKILL)
            assert len((await text_of(generation)).split()) == 40
            assert engine_pid(service) == present
            assert service.readers()[0].num_restarts == 0
            await kill(service)
            assert engine_pid(service) not in (waiting, present)
            assert len((await text_of(await service.generate(make_request()))).split()) == 5

    asyncio.run(run())


def test_one_that_found_what_may_have_crashed_an_engine_does_not_take_over() -> None:
    async def run() -> None:
        async with running() as service:
            waiting = await standby_pid(service)
            await kill(service, signal.SIGABRT)
            assert engine_pid(service) != waiting, "the engine had been of no use, and its prefixes are gone"
            await until(lambda: not is_running(waiting))

    asyncio.run(run())


def test_both_are_gone_with_the_service() -> None:
    async def run() -> list[int]:
        async with running() as service:
            return [engine_pid(service), await standby_pid(service)]

    assert not any(map(is_running, asyncio.run(run())))


def test_one_that_is_still_getting_ready_is_ended_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "DELAY_S", 0.0)

    async def run() -> None:
        async with running():
            await asyncio.sleep(0.05)

    asyncio.run(run())
