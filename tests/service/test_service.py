"""The service's policy, over engine and preparer processes of scripted answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal

import pytest
from tests.service.serving import (
    assert_balanced,
    engine_pid,
    is_running,
    launch,
    make_request,
    make_service,
    preparer_pid,
    running_service,
    text_of,
    until,
)

from takeoff.errors import (
    EngineFailed,
    InvalidRequest,
    ModelError,
    NotFound,
    NotReady,
    Overloaded,
    PreparerFailed,
    PromptTooLong,
    TakeoffError,
)
from takeoff.request import FinishReason, Request, SamplingParams


def test_a_text_is_prepared_generated_and_counted() -> None:
    async def run() -> None:
        async with running_service() as service:
            generation = await service.generate(make_request("four words of text"))
            assert await text_of(generation) == "1 2 3 4 5 "
            assert generation.finish_reason is FinishReason.LENGTH
            assert (generation.prompt_tokens, generation.cached_tokens, generation.completion_tokens) == (
                4,
                2,
                5,
            )
            page = service.metrics.render().decode()
            assert "takeoff_requests_accepted_total 1.0" in page
            assert 'takeoff_requests_ended_total{reason="length"} 1.0' in page
            assert "takeoff_prompt_tokens_total 4.0" in page
            assert "takeoff_completion_tokens_total 5.0" in page
            assert "takeoff_ttft_seconds_count 1.0" in page
            assert "takeoff_itl_seconds_count 4.0" in page

    asyncio.run(run())


def test_the_completion_is_cut_to_the_room_that_the_prompt_leaves() -> None:
    async def run() -> None:
        async with running_service(n_ctx_slot=10) as service:
            for asked in (None, 100):
                generation = await service.generate(make_request((1, 2, 3), max_new_tokens=asked))
                await text_of(generation)
                assert generation.completion_tokens == 7
                assert generation.finish_reason is FinishReason.LENGTH

    asyncio.run(run())


def test_what_can_never_succeed_is_refused_with_its_numbers() -> None:
    async def run() -> None:
        async with running_service(n_ctx_slot=10) as service:
            with pytest.raises(PromptTooLong, match="has 10 tokens, but a sequence holds 10"):
                await service.generate(make_request(tuple(range(10))))
            with pytest.raises(InvalidRequest, match="empty"):
                await service.generate(make_request(""))
            with pytest.raises(InvalidRequest, match="empty"):
                await service.generate(make_request(()))
            for token_id in (50_000, -1, 10**30):
                says = f"the token id {token_id}, and the vocabulary ends at 49999"
                with pytest.raises(InvalidRequest, match=f"prompt has {says}"):
                    await service.generate(make_request((token_id,)))
                biased = SamplingParams(logit_bias={1: 1.0, token_id: 1.0})
                with pytest.raises(InvalidRequest, match=f"logit_bias has {says}"):
                    await service.generate(Request(prompt=(1,), sampling=biased))
            with pytest.raises(InvalidRequest, match=r"lone surrogate \(U\+D800\) at position 3"):
                await service.generate(make_request("abc\ud800"))
            with pytest.raises(NotFound, match="no group 'other', only primary"):
                await service.generate(make_request(group="other"))
            with pytest.raises(InvalidRequest, match="refused") as refused:
                await service.generate(make_request("refuse this"))
            assert refused.value.hint == "be nice"
            assert service.tally.num_accepted == 0
            assert await text_of(await service.generate(make_request())) == "1 2 3 4 5 "

    asyncio.run(run())


def test_leaving_a_generation_ends_it_as_cancelled() -> None:
    async def run() -> None:
        async with running_service() as service:
            with await service.generate(make_request(max_new_tokens=None)):
                pass  # before the first token is asked for
            with await service.generate(make_request(max_new_tokens=None)) as generation:
                await anext(generation)
            assert generation.finish_reason is FinishReason.CANCELLED
            assert service.tally.num_ended[FinishReason.CANCELLED] == 2
            assert service.tally.num_open == 0

    asyncio.run(run())


def test_events_of_a_slow_consumer_are_merged() -> None:
    async def run() -> None:
        async with running_service() as service:
            generation = await service.generate(make_request(max_new_tokens=20))
            await until(lambda: generation.finish_reason is not None)
            events = [event async for event in generation]
            assert len(events) == 1
            assert events[0].token_ids == tuple(range(1, 21))
            assert events[0].finish_reason is FinishReason.LENGTH
            assert events[0].cached_tokens == 2

    asyncio.run(run())


def test_without_replay_a_killed_engine_fails_its_requests_and_the_next_is_served_by_another() -> None:
    async def run() -> None:
        async with running_service(n_ctx_slot=100_000, replay=False) as service:
            generation = await service.generate(make_request(max_new_tokens=None))
            await anext(generation)
            os.kill(engine_pid(service), signal.SIGKILL)
            with pytest.raises(EngineFailed, match=r"while serving: it was killed by signal 9 \(SIGKILL\)"):
                await text_of(generation)
            assert generation.finish_reason is FinishReason.FAILED
            assert await text_of(await service.generate(make_request())) == "1 2 3 4 5 "
            assert service.readers()[0].num_restarts == 1
            assert "takeoff_engine_restarts_total 1.0" in service.metrics.render().decode()

    asyncio.run(run())


def test_an_engine_that_is_stopped_for_a_moment_is_left_alone_and_one_that_stays_stopped_is_killed() -> None:
    async def run() -> None:
        async with running_service(n_ctx_slot=100_000) as service:
            pid = engine_pid(service)
            generation = await service.generate(make_request(max_new_tokens=None))
            await anext(generation)
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.5)
            os.kill(pid, signal.SIGCONT)
            await anext(generation)
            assert engine_pid(service) == pid
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: service.readers()[0].num_restarts == 1)
            told = service.readers()[0].error
            assert told is not None
            assert "was stopped by a signal for 1 s" in told
            assert await text_of(await service.generate(make_request())) == "1 2 3 4 5 "
            assert not is_running(pid)
            await until(lambda: service.readers()[0].is_live)
            with generation:
                await anext(generation)

    asyncio.run(run())


def test_a_model_that_cannot_be_loaded_says_why() -> None:
    async def run(option: str, message: str) -> None:
        service = make_service(*option.split("=", 1))
        launch(service)
        with pytest.raises(ModelError, match=message):
            await service.wait_ready()
        with pytest.raises(NotReady, match=f"the model scripted is failed: {message}"):
            await service.generate(make_request())
        assert service.status == f"failed: {service.readers()[0].error}"
        await service.stop()

    asyncio.run(run("--load-error=no such tensor", "no such tensor"))
    asyncio.run(run("--die-loading", "the engine died while loading the model"))


def test_a_hanging_preparer_is_killed_at_the_deadline_and_those_behind_it_are_served() -> None:
    async def run() -> None:
        async with running_service(prepare_timeout_s=0.5) as service:
            pid = preparer_pid(service)
            hanging = asyncio.create_task(service.generate(make_request("hang for ever")))
            behind = [asyncio.create_task(service.generate(make_request("two words"))) for _ in range(3)]
            with pytest.raises(PreparerFailed, match=r"took more than 0\.5 s"):
                await hanging
            for task in behind:
                assert await text_of(await task) == "1 2 3 4 5 "
            assert not is_running(pid)
            assert "takeoff_preparer_restarts_total 1.0" in service.metrics.render().decode()

    asyncio.run(run())


def test_a_stopped_or_killed_preparer_is_replaced() -> None:
    async def run() -> None:
        async with running_service(prepare_timeout_s=0.5) as service:
            await text_of(await service.generate(make_request("warm up")))
            os.kill(preparer_pid(service), signal.SIGSTOP)
            with pytest.raises(PreparerFailed, match="took more than"):
                await service.generate(make_request("two words"))
            assert await text_of(await service.generate(make_request("two words"))) == "1 2 3 4 5 "
            with pytest.raises(PreparerFailed, match="died while preparing"):
                await service.generate(make_request("die now"))
            assert await text_of(await service.generate(make_request("two words"))) == "1 2 3 4 5 "

    asyncio.run(run())


def test_a_preparer_that_dies_while_idle_costs_no_request() -> None:
    async def run() -> None:
        async with running_service() as service:
            await text_of(await service.generate(make_request("warm up")))
            for _ in range(2):
                pid = preparer_pid(service)
                os.kill(pid, signal.SIGKILL)
                await until(lambda pid=pid: preparer_pid(service) not in (pid, None))
                assert await text_of(await service.generate(make_request("two words"))) == "1 2 3 4 5 "
            assert "takeoff_preparer_restarts_total 2.0" in service.metrics.render().decode()

    asyncio.run(run())


def test_a_long_text_delays_no_short_one() -> None:
    async def run() -> None:
        async with running_service(n_ctx_slot=100_000, prepare_timeout_s=5.0) as service:
            long = asyncio.create_task(service.generate(make_request("hang " + "x" * 70_000)))
            assert await text_of(await service.generate(make_request("two words"))) == "1 2 3 4 5 "
            assert not long.done()
            long.cancel()

    asyncio.run(run())


def test_too_many_requests_or_waiting_tokens_are_refused_with_a_time_to_come_back() -> None:
    async def run() -> None:
        options = {"max_requests": 3, "max_queued_tokens": 18}
        async with running_service("--step-ms=100000", n_ctx_slot=64, **options) as service:
            first = await service.generate(make_request(tuple(range(8))))
            with pytest.raises(
                Overloaded,
                match="13 tokens of prompts and their completions are waiting and 8 more would exceed the "
                "limit of 18",
            ) as refused:
                await service.generate(make_request((1, 2, 3)))
            assert 1.0 <= refused.value.retry_after_s <= 600.0
            others = [await service.generate(make_request((1,), max_new_tokens=1)) for _ in range(2)]
            with pytest.raises(Overloaded, match="3 requests are open, the limit is 3"):
                await service.generate(make_request((1,), max_new_tokens=1))
            for generation in (first, *others):
                with generation:
                    pass
            assert service.queued_tokens == 0
            assert (
                'takeoff_requests_refused_total{code="overloaded"} 2.0' in service.metrics.render().decode()
            )

    asyncio.run(run())


def test_what_one_key_has_filled_is_not_full_for_another() -> None:
    async def run() -> None:
        options = {"max_requests": 4, "max_queued_tokens": 40}
        async with running_service("--step-ms=100000", n_ctx_slot=64, **options) as service:
            with contextlib.ExitStack() as stack:
                for tenant, num_more in (("key:flood", 4), ("key:light", 2)):
                    for _ in range(num_more):
                        stack.enter_context(await service.generate(make_request(tenant=tenant)))
                for tenant in ("key:flood", "key:light"):
                    with pytest.raises(Overloaded, match="6 requests are open, the limit is 4"):
                        await service.generate(make_request(tenant=tenant))
                other = await service.generate(make_request(tenant="key:third"))
                stack.enter_context(other)
                assert service.queued_tokens == 7 * 8
            assert service.queued_tokens == 0

    asyncio.run(run())


def test_draining_lets_open_requests_finish_and_refuses_new_ones() -> None:
    async def run() -> None:
        async with running_service("--step-ms=20") as service:
            reading = asyncio.create_task(text_of(await service.generate(make_request(max_new_tokens=10))))
            draining = asyncio.create_task(service.drain(20.0))
            await asyncio.sleep(0)
            assert not service.is_ready
            with pytest.raises(NotReady, match="shutting down"):
                await service.generate(make_request())
            await draining
            assert (await reading).split()[-1] == "10"

    asyncio.run(run())


def test_draining_breaks_off_visibly_what_does_not_finish() -> None:
    async def run() -> None:
        async with running_service("--step-ms=20", n_ctx_slot=100_000) as service:
            generation = await service.generate(make_request(max_new_tokens=None))
            await service.drain(0.2)
            with pytest.raises(EngineFailed, match=r"the server stopped 0\.2 s after it was told to"):
                await text_of(generation)
            assert service.tally.num_ended[FinishReason.FAILED] == 1

    asyncio.run(run())


def test_stopping_ends_every_process_and_may_be_repeated() -> None:
    async def run() -> None:
        service = make_service()
        launch(service)
        await service.wait_ready()
        await text_of(await service.generate(make_request("two words")))
        pids = service.readers()[0].pids
        assert len(pids) == 2
        await service.stop()
        await service.stop()
        assert not any(is_running(pid) for pid in pids)
        with pytest.raises(NotReady):
            await service.generate(make_request())

    asyncio.run(run())


def test_the_books_balance_under_random_cancels_and_deaths() -> None:
    async def client(service: object, chance: random.Random) -> None:
        request = make_request("some words here", max_new_tokens=chance.randint(1, 40))
        try:
            with await service.generate(request) as generation:  # type: ignore[attr-defined]
                leave_after = chance.randint(0, 30)
                async for _ in generation:
                    if generation.completion_tokens > leave_after:
                        return
        except TakeoffError:
            return

    async def run() -> None:
        chance = random.Random(7)
        async with running_service(n_ctx_slot=100) as service:
            for _ in range(3):
                clients = [asyncio.create_task(client(service, chance)) for _ in range(40)]
                await asyncio.sleep(0.02)
                for task in chance.sample(clients, 10):
                    task.cancel()
                if chance.random() < 0.7:
                    os.kill(engine_pid(service), signal.SIGKILL)
                await asyncio.gather(*clients, return_exceptions=True)
                await service.wait_ready()
            assert_balanced(service)
            assert service.tally.num_accepted > 20

    asyncio.run(run())
