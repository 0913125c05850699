"""Who is unloaded for whom, by value per byte, and that nobody who serves is where another choice exists."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.service.serving import make_request, make_service, plan_sized, text_of, until, until_stopped

from takeoff.errors import NoRoom, NotReady
from takeoff.request import FinishReason
from takeoff.service.changes import Changes
from takeoff.service.engines import Commands, processes
from takeoff.service.reader import Reader, ReaderCalls, ReaderState
from takeoff.service.residency import HALF_LIFE_S, Candidate, Use, leaving
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings


def nothing(*_: object) -> None:
    """Nobody is told."""


CALLS = ReaderCalls(nothing, nothing, nothing, nothing, nothing)


def candidate(
    name: str, num_bytes: int, value: float, *, is_busy: bool = False, stays_s: float = 0
) -> Candidate:
    reader = Reader(name, ReaderSettings(), CALLS, Changes(), processes(Commands(), "off"))
    return Candidate(reader, num_bytes, is_busy, stays_s, value)


def names(candidates: list[Candidate]) -> list[str]:
    return [each.reader.reader_id for each in candidates]


def test_the_least_valuable_for_its_bytes_goes_first_and_only_as_many_as_must() -> None:
    three = [candidate("dear", 50, 3.0), candidate("cheap", 40, 1.0), candidate("middling", 40, 2.0)]
    assert names(leaving(three, 30)) == ["cheap"]
    assert names(leaving(three, 41)) == ["cheap", "middling"]
    assert names(leaving(three, 130)) == ["cheap", "middling", "dear"]
    assert leaving(three, 131) == []


def test_what_a_larger_one_makes_needless_stays() -> None:
    assert names(leaving([candidate("small", 10, 1.0), candidate("large", 90, 2.0)], 80)) == ["large"]


def test_who_serves_goes_only_where_nobody_else_would_do() -> None:
    busy = candidate("busy", 100, 0.1, is_busy=True)
    idle = candidate("idle", 100, 9.0)
    new = candidate("new", 100, 1.0, stays_s=5.0)
    assert names(leaving([busy, idle, new], 80)) == ["idle"]
    assert names(leaving([busy, new], 80)) == ["new"]
    assert names(leaving([busy], 80)) == ["busy"]


def test_a_request_counts_half_after_ten_minutes_and_a_stay_is_twice_the_loading() -> None:
    use = Use(load_s=3.0, loaded_at=1_000.0)
    use.count(1_000.0)
    use.count(1_000.0)
    assert use.recent(1_000.0 + HALF_LIFE_S) == pytest.approx(1.0)
    assert use.recent(1_000.0 + 2 * HALF_LIFE_S) == pytest.approx(0.5)
    assert (use.stays_s(1_000.0), use.stays_s(1_004.0), use.stays_s(1_007.0)) == (6.0, 2.0, 0.0)


async def add(service: Service, model: str, *, on_demand: bool = True, **settings: object) -> Reader:
    """One of 60 MB in a group of its name, on demand."""
    name = model.partition("@")[0]
    reader = await service.add_reader(
        ReaderSettings(model=model, consumer_group=name, on_demand=on_demand, **settings)
    )
    await until(lambda: reader.state is not ReaderState.LOADING)
    return reader


async def ask(service: Service, group: str, num_tokens: int = 5) -> str:
    return await text_of(await service.generate(make_request(group=group, max_new_tokens=num_tokens)))


def loads(service: Service, reader: Reader) -> float:
    value = service.metrics.registry.get_sample_value(
        "takeoff_reader_loads_total", {"reader": reader.reader_id}
    )
    return value or 0.0


def test_readers_beyond_the_memory_are_loaded_when_they_are_asked_for() -> None:
    async def run() -> None:
        service = make_service(plan_reader=plan_sized, memory_limit_gb=0.1)
        readers = [await add(service, f"{name}@60") for name in ("one", "two")]
        async with until_stopped(service):
            assert [reader.state for reader in readers] == [ReaderState.UNLOADED] * 2
            assert (service.status, service.is_ready, service.has_started) == ("unloaded", True, True)
            for _ in range(2):
                for reader in readers:
                    assert await ask(service, reader.group) == "1 2 3 4 5 "
                    assert [each.is_live for each in readers] == [each is reader for each in readers]
            assert [loads(service, reader) for reader in readers] == [2.0, 2.0]

    asyncio.run(run())


def test_a_pinned_reader_stays_and_what_does_not_fit_beside_it_is_refused_with_the_numbers() -> None:
    async def run() -> None:
        service = make_service(plan_reader=plan_sized, memory_limit_gb=0.1)
        pinned = await add(service, "pinned@50", on_demand=False)
        small = await add(service, "small@40")
        async with until_stopped(service):
            with pytest.raises(NoRoom, match="wide needs 60 MB, and there are 50 MB; of 100 MB others hold"):
                await add(service, "wide@60")
            assert await ask(service, "small") == "1 2 3 4 5 "
            assert (pinned.state, small.state) == (ReaderState.LIVE, ReaderState.LIVE)
            other = await add(service, "other@45", on_demand=False)
            assert (other.state, small.state) == (ReaderState.LIVE, ReaderState.UNLOADED)
            with pytest.raises(NotReady, match="small is unloaded: small needs 40 MB, and there are 5 MB"):
                await ask(service, "small")
            await service.remove_reader(other.reader_id)

    asyncio.run(run())


def test_who_has_open_requests_is_unloaded_last_and_finishes_them() -> None:
    async def run() -> None:
        service = make_service("--step-ms=10", plan_reader=plan_sized, memory_limit_gb=0.13)
        busy, idle, third = [await add(service, f"{name}@60@500") for name in ("busy", "idle", "third")]
        async with until_stopped(service):
            for _ in range(3):
                await ask(service, "idle")
            long = await service.generate(make_request(group="busy", max_new_tokens=150))
            await ask(service, "third")
            assert (busy.state, idle.state, third.state) == (
                ReaderState.LIVE,
                ReaderState.UNLOADED,
                ReaderState.LIVE,
            ), "idle is worth more, but serves nobody"
            other = await service.generate(make_request(group="third", max_new_tokens=400))
            waiting = asyncio.create_task(ask(service, "idle"))
            assert (await text_of(long)).split()[-1] == "150"
            assert await waiting == "1 2 3 4 5 "
            assert busy.state is ReaderState.UNLOADED
            assert third.state is ReaderState.LIVE
            other.end(FinishReason.CANCELLED)

    asyncio.run(run())


def test_a_load_of_two_models_that_never_ends_gives_each_its_time() -> None:
    """Without a stay each request would cost a loading."""

    async def run() -> None:
        service = make_service("--step-ms=1", plan_reader=plan_sized, memory_limit_gb=0.1)
        readers = [await add(service, f"{name}@60") for name in ("one", "two")]
        async with until_stopped(service):
            answered = dict.fromkeys(("one", "two"), 0)
            ends_at = time.monotonic() + 4.0

            async def client(group: str) -> None:
                while time.monotonic() < ends_at:
                    assert await ask(service, group) == "1 2 3 4 5 "
                    answered[group] += 1

            await asyncio.gather(*(client(group) for group in ("one", "two") for _ in range(2)))
            num_loads = sum(loads(service, reader) for reader in readers)
            assert min(answered.values()) > 20
            assert sum(answered.values()) > 10 * num_loads
            assert num_loads >= 3, "both had their turn"

    asyncio.run(run())


def test_a_reader_that_nobody_asks_is_unloaded_after_its_keep_alive() -> None:
    async def run() -> None:
        service = make_service("--step-ms=10", plan_reader=plan_sized)
        reader = await add(service, "one@60", keep_alive_s=0.3)
        async with until_stopped(service):
            await ask(service, "one", 60)
            assert reader.is_live, "its time counts from the end of the last request"
            started = time.monotonic()
            await until(lambda: reader.state is ReaderState.UNLOADED)
            assert 0.2 < time.monotonic() - started < 5.0
            assert await ask(service, "one") == "1 2 3 4 5 "

    asyncio.run(run())


def test_a_model_that_can_not_be_loaded_is_told_to_who_waits_and_not_tried_again_at_once() -> None:
    async def run() -> None:
        service = make_service(plan_reader=plan_sized)
        reader = await add(service, "broken@60")
        async with until_stopped(service):
            for _ in range(2):
                with pytest.raises(NotReady, match="broken is unloaded: the weights are damaged") as refused:
                    await ask(service, "broken")
                assert refused.value.retry_after_s is not None
            assert reader.state is ReaderState.UNLOADED
            assert reader.engine_pid is None

    asyncio.run(run())


def test_nothing_is_unloaded_for_a_request_that_has_left() -> None:
    async def run() -> None:
        service = make_service("--step-ms=10", plan_reader=plan_sized, memory_limit_gb=0.1)
        one, two = [await add(service, f"{name}@60@500") for name in ("one", "two")]
        async with until_stopped(service):
            await ask(service, "one")
            leaving_early = asyncio.create_task(ask(service, "two"))
            await asyncio.sleep(0.02)
            leaving_early.cancel()
            await asyncio.gather(leaving_early, return_exceptions=True)
            await asyncio.sleep(1.0)
            assert (one.state, two.state) == (ReaderState.LIVE, ReaderState.UNLOADED)

    asyncio.run(run())


def test_who_waits_for_a_model_is_told_at_once_when_the_server_drains() -> None:
    async def run() -> None:
        service = make_service(plan_reader=plan_sized, drain_timeout_s=7.0)
        reader = await add(service, "one@60")
        async with until_stopped(service):
            waiting = asyncio.create_task(ask(service, "one"))
            await until(lambda: reader.state is ReaderState.LOADING)
            await service.drain(7.0)
            with pytest.raises(NotReady, match="shutting down") as refused:
                await waiting
            assert refused.value.retry_after_s == 7.0
            assert reader.state is ReaderState.LOADING, "it did not wait for that"

    asyncio.run(run())
