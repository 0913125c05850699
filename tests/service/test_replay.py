"""Requests outlive their engine: the service's policy, over engines of scripted tokens."""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import pairwise

import pytest
from tests.service.fake_engine import POISON, SLOW_POISON
from tests.service.serving import engine_pid, make_request, running_service, text_of, until

from takeoff.errors import EngineFailed
from takeoff.request import FinishReason
from takeoff.service.service import Service


def counted(num_tokens: int) -> str:
    return "".join(f"{n} " for n in range(1, num_tokens + 1))


async def kill(service: Service, number: signal.Signals) -> None:
    """Kill the present engine, and wait for the next one."""
    reader = service.readers()[0]
    before = reader.num_restarts
    os.kill(engine_pid(service), number)
    await until(lambda: reader.num_restarts > before and reader.is_live)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_streams_go_on_where_they_were_however_often_their_engine_is_killed(number: signal.Signals) -> None:
    async def run() -> None:
        async with running_service("--step-ms=20", n_ctx_slot=100_000) as service:
            generations = [await service.generate(make_request(max_new_tokens=60)) for _ in range(4)]
            texts = [asyncio.create_task(text_of(generation)) for generation in generations]
            for _ in range(3):
                told = generations[0].completion_tokens
                await until(lambda told=told: generations[0].completion_tokens > told)
                await kill(service, number)
            assert await asyncio.gather(*texts) == [counted(60)] * 4
            assert [generation.completion_tokens for generation in generations] == [60] * 4
            assert service.tally.num_ended == {FinishReason.LENGTH: 4}
            page = service.metrics.render().decode()
            assert "takeoff_completion_tokens_total 240.0" in page
            assert "takeoff_requests_replayed_total 12.0" in page

    asyncio.run(run())


def test_requests_without_a_token_and_those_that_come_while_no_engine_is_up_are_served() -> None:
    async def run() -> None:
        async with running_service("--step-ms=100000", n_ctx_slot=100_000) as service:
            waiting = asyncio.create_task(text_of(await service.generate(make_request())))
            os.kill(engine_pid(service), signal.SIGKILL)
            await until(lambda: not service.readers()[0].is_live)
            coming = asyncio.create_task(service.generate(make_request()))
            await until(lambda: service.readers()[0].is_live)
            generation = await coming
            assert service.tally.num_open == 2
            assert service.tally.num_ended.total() == 0
            with generation:
                pass
            waiting.cancel()

    asyncio.run(run())


def test_who_leaves_while_no_engine_is_up_is_not_computed_by_the_next() -> None:
    async def run() -> None:
        async with running_service("--step-ms=20", n_ctx_slot=100_000) as service:
            leaver = await service.generate(make_request(max_new_tokens=None))
            stayer = await service.generate(make_request(max_new_tokens=30))
            await anext(leaver)
            os.kill(engine_pid(service), signal.SIGKILL)
            await until(lambda: not service.readers()[0].is_live)
            with leaver:
                pass
            assert await text_of(stayer) == counted(30)
            assert leaver.finish_reason is FinishReason.CANCELLED
            assert leaver.completion_tokens < 30

    asyncio.run(run())


def test_of_a_request_that_kills_every_engine_the_others_notice_a_pause_only() -> None:
    async def run() -> None:
        async with running_service("--step-ms=20", n_ctx_slot=100_000) as service:
            others = [await service.generate(make_request(max_new_tokens=100)) for _ in range(3)]
            texts = [asyncio.create_task(text_of(generation)) for generation in others]
            poison = await service.generate(make_request((1, POISON)))
            told = r"dies of this request, which it computed alone: .*SIGABRT"
            with pytest.raises(EngineFailed, match=told) as died:
                await text_of(poison)
            assert died.value.hint is None, "to send it again would kill three engines more"
            assert service.readers()[0].num_restarts <= 4
            assert await asyncio.gather(*texts) == [counted(100)] * 3
            assert service.tally.num_ended == {FinishReason.LENGTH: 3, FinishReason.FAILED: 1}

    asyncio.run(run())


def test_a_request_that_kills_engines_later_on_keeps_the_text_that_it_had() -> None:
    async def run() -> None:
        async with running_service("--step-ms=20", n_ctx_slot=100_000) as service:
            other = asyncio.create_task(text_of(await service.generate(make_request(max_new_tokens=50))))
            poison = await service.generate(make_request((1, SLOW_POISON)))
            with poison:
                told = "".join([(await anext(poison)).text for _ in range(3)])
                with pytest.raises(EngineFailed, match="dies of this request"):
                    await anext(poison)
            assert told == counted(3)
            assert await other == counted(50)

    asyncio.run(run())


def test_an_engine_that_is_killed_again_and_again_while_it_loads_fails_nobody() -> None:
    async def run() -> None:
        async with running_service("--step-ms=20", n_ctx_slot=100_000) as service:
            text = asyncio.create_task(text_of(await service.generate(make_request(max_new_tokens=20))))
            killed: list[int] = []
            while len(killed) < 3:
                await until(lambda: service.readers()[0].engine_pid not in (None, *killed[-1:]))
                killed.append(engine_pid(service))
                os.kill(killed[-1], signal.SIGKILL)
            assert await text == counted(20)
            assert all(one != other for one, other in pairwise(killed))

    asyncio.run(run())


def test_a_completion_whose_last_token_is_missing_gets_it_from_another_engine() -> None:
    async def run() -> None:
        async with running_service("--step-ms=300", n_ctx_slot=7) as service:
            generation = await service.generate(make_request((1, 2, 3), max_new_tokens=None))
            with generation:
                text = "".join([(await anext(generation)).text for _ in range(3)])
                os.kill(engine_pid(service), signal.SIGKILL)
                text += "".join([event.text async for event in generation])
            assert text == counted(generation.completion_tokens)
            assert generation.finish_reason is FinishReason.LENGTH

    asyncio.run(run())
