"""A request that can't end in time is refused before it is begun, with the numbers; others are let in."""

from __future__ import annotations

import asyncio
import re

import pytest
from tests.service.serving import make_request, running_service, text_of

from takeoff.errors import Overloaded
from takeoff.request import FinishReason
from takeoff.service.service import Service

STEP = "--step-ms=10"


async def learn(service: Service) -> None:
    """Until the pace is known: beats come five times a second, and it takes two."""
    await text_of(await service.generate(make_request(max_new_tokens=60)))
    await asyncio.sleep(0.3)


def test_who_has_too_little_time_is_told_how_long_it_would_take() -> None:
    async def run() -> None:
        async with running_service(STEP, n_ctx_slot=1_000) as service:
            await learn(service)
            with pytest.raises(Overloaded) as refused:
                await service.generate(make_request(max_new_tokens=200, deadline_s=1.0))
            told = re.fullmatch(
                r"the request has 1\.0 s left, and the end of its 3 \+ 200 tokens would come in about "
                r"([\d.]+) s: 0 requests with 0 tokens are ahead, and the engine computes .*"
                r"completion tokens/s",
                refused.value.message,
            )
            assert told is not None, refused.value.message
            seconds = float(told[1])
            assert 2.0 < seconds < 8.0
            assert refused.value.retry_after_s == pytest.approx(max(seconds - 1.0, 1.0), abs=0.1)
            assert service.tally.num_accepted == 1
            generation = await service.generate(make_request(max_new_tokens=40, deadline_s=5.0))
            assert (await text_of(generation)).split()[-1] == "40"
            assert generation.finish_reason is FinishReason.LENGTH

    asyncio.run(run())


def test_what_waits_ahead_counts_and_who_states_no_length_wants_the_usual_one_then() -> None:
    async def run() -> None:
        async with running_service(STEP, n_ctx_slot=1_000) as service:
            await learn(service)
            wish = make_request(max_new_tokens=None, deadline_s=1.0)
            with await service.generate(wish) as cut_short:
                async for _ in cut_short:
                    pass
            assert cut_short.finish_reason is FinishReason.DEADLINE, "nobody was ahead, and it said no length"
            others = [await service.generate(make_request(max_new_tokens=900)) for _ in range(4)]
            with pytest.raises(Overloaded, match=r"4 requests with 3\d{3} tokens are ahead"):
                await service.generate(wish)
            assert service.tally.num_accepted == 2 + 4
            for generation in others:
                generation.end(FinishReason.CANCELLED)

    asyncio.run(run())


def test_before_anything_was_computed_nobody_is_refused_by_a_guess() -> None:
    async def run() -> None:
        async with running_service(STEP, n_ctx_slot=1_000) as service:
            generation = await service.generate(make_request(max_new_tokens=900, deadline_s=0.2))
            await text_of(generation)
            assert generation.finish_reason is FinishReason.DEADLINE

    asyncio.run(run())
