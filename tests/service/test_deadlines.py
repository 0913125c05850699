"""A request that is given a time ends when it is over, wherever it is then."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from tests.service.serving import (
    engine_pid,
    make_request,
    make_service,
    running_service,
    text_of,
    until,
)

from takeoff.errors import DeadlineExceeded
from takeoff.request import EncodeRequest, FinishReason, Task


def test_a_stream_ends_at_its_deadline_with_what_it_has_said_and_the_engine_stops() -> None:
    async def run() -> None:
        async with running_service(n_ctx_slot=100_000) as service:
            others = await service.generate(make_request(max_new_tokens=None))
            started = asyncio.get_running_loop().time()
            generation = await service.generate(make_request(max_new_tokens=None, deadline_s=0.3))
            with generation:
                events = [event async for event in generation]
            assert 0.25 < asyncio.get_running_loop().time() - started < 5
            text = "".join(event.text for event in events)
            assert text == "".join(f"{n} " for n in range(1, generation.completion_tokens + 1))
            assert generation.completion_tokens > 5
            assert generation.finish_reason is events[-1].finish_reason is FinishReason.DEADLINE
            assert service.tally.num_ended[FinishReason.DEADLINE] == 1
            said = others.completion_tokens
            await until(lambda: others.completion_tokens > said)
            others.end(FinishReason.CANCELLED)

    asyncio.run(run())


def test_a_request_that_ends_before_its_deadline_is_left_alone() -> None:
    async def run() -> None:
        async with running_service() as service:
            generation = await service.generate(make_request(deadline_s=0.2))
            assert await text_of(generation) == "1 2 3 4 5 "
            await asyncio.sleep(0.3)
            assert generation.finish_reason is FinishReason.LENGTH
            assert service.tally.num_ended[FinishReason.DEADLINE] == 0

    asyncio.run(run())


def test_the_deadline_of_a_prompt_that_is_prepared_is_an_error_that_says_so() -> None:
    async def run() -> None:
        async with running_service(prepare_timeout_s=1.0) as service:
            with pytest.raises(DeadlineExceeded, match=r"the 0\.1 s that the request was given were over"):
                await service.generate(make_request("hang for ever", deadline_s=0.1))
            with pytest.raises(DeadlineExceeded):
                await service.count_tokens(make_request("hang for ever", deadline_s=0.1))
            assert service.tally.num_accepted == 0
            assert 'takeoff_requests_refused_total{code="deadline_exceeded"} 1.0' in (
                service.metrics.render().decode()
            )

    asyncio.run(run())


def test_the_deadline_of_a_request_that_waits_for_a_reader_is_an_error() -> None:
    async def run() -> None:
        service = make_service(reserved_consumers=("later",))
        with pytest.raises(DeadlineExceeded):
            await service.generate(make_request(group="later", deadline_s=0.1))
        with pytest.raises(DeadlineExceeded):
            await service.encode(EncodeRequest(task=Task.EMBED, texts=("a",), group="later", deadline_s=0.1))
        await service.stop()

    asyncio.run(run())


def test_the_deadline_holds_while_a_dead_engine_is_replaced() -> None:
    async def run() -> None:
        async with running_service(n_ctx_slot=100_000) as service:
            generation = await service.generate(make_request(max_new_tokens=None, deadline_s=1.0))
            await anext(generation)
            os.kill(engine_pid(service), signal.SIGKILL)
            with generation:
                events = [event async for event in generation]
            assert events[-1].finish_reason is FinishReason.DEADLINE
            assert await text_of(await service.generate(make_request())) == "1 2 3 4 5 "
            assert service.readers()[0].num_restarts == 1

    asyncio.run(run())
