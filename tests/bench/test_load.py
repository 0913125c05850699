"""Who asks when, and what comes out, against a server whose delays are known."""

from __future__ import annotations

import asyncio
import random
import statistics
from dataclasses import replace

import pytest
from tests.bench.scripted import Pace, scripted

from takeoff.bench.apis import Work
from takeoff.bench.client import Trace, complete
from takeoff.bench.goodput import LOWEST_RATE, PRECISION, highest_rate
from takeoff.bench.load import arrive, keep_busy, poisson_times
from takeoff.bench.measures import Hopes, Promise, busy, goodput, latencies
from takeoff.bench.prompts import Prompts
from takeoff.bench.runs import Terms, leave_mid_stream, poisson, search_goodput
from takeoff.bench.server_metrics import idle_after

LATE_S = 0.03  # how late a timer or a socket may be on a machine that has other work


def test_arrivals_are_poisson_at_the_rate_and_the_same_for_a_seed() -> None:
    times = poisson_times(random.Random(7), 50.0, 200.0)
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    assert times == poisson_times(random.Random(7), 50.0, 200.0)
    assert times != poisson_times(random.Random(8), 50.0, 200.0)
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 200.0
    assert len(times) == pytest.approx(10_000, abs=4 * 100), "four standard deviations"
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05), "exponential gaps"


@pytest.mark.anyio
async def test_requests_leave_at_their_times_however_slow_the_server() -> None:
    """One at a time takes 0.2 s, they come every 0.1 s: the queue grows, and the figures show it."""
    times = [0.1 * number for number in range(6)]
    async with scripted(lambda _: Pace(first_s=0.2), max_running=1) as server:
        run = await arrive(server.target, [Work("a", 1)] * 6, times, warm_up_s=0.05)
    begun = run.since - 0.05
    assert [at - begun for at in server.arrived_at] == pytest.approx(times, abs=LATE_S)
    assert [t.ttft_s for t in run.traces] == pytest.approx([0.2 + 0.1 * n for n in range(6)], abs=3 * LATE_S)
    assert [t.is_warm_up for t in run.traces] == [True] + [False] * 5
    late = latencies(run.traces)["ttft_p95"]
    assert (late.num_values, late.value) == (5, pytest.approx(0.7, abs=3 * LATE_S))


@pytest.mark.anyio
async def test_ttft_itl_and_tpot_are_the_servers_delays() -> None:
    """Of 21 requests one in ten begins late; one in three has wide gaps."""

    def pace(number: int) -> Pace:
        return Pace(0.3 if number % 10 == 9 else 0.1, 0.08 if number % 3 == 2 else 0.02)

    async with scripted(pace) as server:
        run = await keep_busy(server.target, [Work("a", 5)] * 21, 3)
    readings = busy(run)
    assert len(run.traces) == 21
    assert sum(trace.is_warm_up for trace in run.traces) == 3
    assert readings["ttft_p50"].value == pytest.approx(0.1, abs=LATE_S)
    assert readings["ttft_p95"].value == pytest.approx(0.3, abs=LATE_S)
    assert 15 <= readings["ttft_p50"].num_values <= 18
    assert readings["itl_p50"].value == pytest.approx(0.02, abs=0.01)
    assert readings["itl_p99"].value == pytest.approx(0.08, abs=LATE_S)
    assert readings["tpot_p50"].value == pytest.approx(0.02, abs=0.01)
    assert readings["tpot_p99"].value == pytest.approx(0.08, abs=LATE_S)
    tokens = sum(1 for trace in run.traces for at in trace.text_at if run.since < at <= run.until)
    assert readings["rate"].value == pytest.approx(tokens / (run.until - run.since))


@pytest.mark.anyio
async def test_refusals_are_told_by_status_and_are_no_good_requests() -> None:
    statuses = {1: 429, 4: 503, 5: 429, 6: 500}
    terms = Terms(Promise(1.0, 0.1), rate=40.0, duration_s=0.5, levels=())
    async with scripted(lambda number: Pace(status=statuses.get(number, 200))) as server:
        outcome = await poisson(terms)(server.target, Prompts(3))
    assert (outcome.refusals(429), outcome.refusals(503)) == (2, 1)
    assert outcome.errors == ["status 500: busy"]
    counted = [trace for trace in outcome.traces if not trace.is_warm_up]
    bad = sum(trace.status != 200 for trace in counted)
    assert bad >= 2
    share = outcome.figures["good_share"]
    assert (share.num_values, share.value) == (len(counted), pytest.approx(1 - bad / len(counted)))
    assert outcome.figures["offered"].value == len(counted) / 0.5
    assert not outcome.points[0].is_kept


@pytest.mark.anyio
async def test_goodput_counts_those_who_were_served_in_time() -> None:
    async with scripted(lambda number: Pace(first_s=0.25 if number % 4 == 0 else 0.0)) as server:
        times = [0.01 * number for number in range(20)]
        run = await arrive(server.target, [Work("a", 2)] * 20, times, 0.0)
    readings = goodput(run.traces, Promise(0.15, 0.15), 0.2)
    assert readings["good_share"].value == 0.75
    assert readings["good_rate"].value == pytest.approx(75.0)


@pytest.mark.anyio
async def test_those_who_leave_are_gone_and_those_who_stay_get_all() -> None:
    async with scripted(lambda _: Pace(gap_s=0.01)) as server:
        outcome = await leave_mid_stream(server.target, Prompts(1))
        assert (server.num_left, server.num_open) == (8, 0)
    left = [trace for trace in outcome.traces if trace.has_left]
    assert outcome.errors == []
    assert outcome.figures["left"] == (8, 16)
    assert all(8 <= len(trace.text_at) <= 64 for trace in left)
    assert len({len(trace.text_at) for trace in left}) > 3, "at pieces of chance"
    assert [len(trace.text_at) for trace in outcome.traces if not trace.has_left] == [128] * 8
    assert outcome.figures["itl_p50"].num_values == 8 * 127
    assert outcome.figures["itl_p50"].value == pytest.approx(0.011, abs=0.005)
    assert outcome.figures["freed"].value < 0.5


@pytest.mark.anyio
async def test_a_server_that_hangs_is_an_error_after_its_time() -> None:
    async with scripted(lambda _: Pace(first_s=0.6)) as server:
        trace = await complete(replace(server.target, timeout_s=0.2), Work("a", 1))
        await asyncio.sleep(0.5)  # the server's end of it
    assert trace.error == "no end after 0.2 s"
    assert trace.seconds == pytest.approx(0.2, abs=LATE_S)


@pytest.mark.anyio
@pytest.mark.parametrize(("limit", "first"), [(7.3, 1.0), (0.4, 3.0), (1.0, 1.0), (240.0, 4.0)])
async def test_the_search_finds_the_highest_rate(limit: float, first: float) -> None:
    tried: list[float] = []

    async def keeps(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = await highest_rate(keeps, first)
    assert limit / PRECISION <= found <= limit
    assert len(tried) <= 12


@pytest.mark.anyio
async def test_the_search_gives_up_on_a_server_that_keeps_no_promise() -> None:
    tried: list[float] = []

    async def keeps(rate: float) -> bool:
        tried.append(rate)
        return False

    assert await highest_rate(keeps, 0.4) == 0.0
    assert tried == [0.4, 0.2, 0.1, LOWEST_RATE]


@pytest.mark.anyio
async def test_the_rate_of_a_real_queue_is_found_and_every_rate_is_told() -> None:
    """Two at a time, each 0.1 s: 20 requests/s at most, and less with room for chance."""
    terms = Terms(Promise(0.4, 0.1), rate=12.0, duration_s=0.8, levels=())
    async with scripted(lambda _: Pace(first_s=0.1), max_running=2) as server:
        outcome = await search_goodput(terms)(server.target, Prompts(5))
    rate = outcome.figures["max_rate"].value
    assert 6.0 <= rate < 48.0
    kept = [point.rate for point in outcome.points if point.is_kept]
    broken = [point.rate for point in outcome.points if not point.is_kept]
    assert max(kept) == rate
    assert broken
    assert outcome.figures["ttft_p95"].value <= 0.4
    assert outcome.errors == []


@pytest.mark.anyio
async def test_arrivals_that_have_broken_a_promise_are_given_up() -> None:
    """Of 500 requests 25 may begin late, and here every one does."""
    hopes = Hopes(Promise(0.05, 0.1), 500, 500)
    times = [number / 100 for number in range(500)]
    async with scripted(lambda _: Pace(first_s=0.2)) as server:
        run = await arrive(server.target, [Work("a", 2)] * 500, times, 0.0, hopes.are_gone_after)
        assert await idle_after(server.target) is not None
        assert 26 <= len(server.bodies) < 200, "the rest was never sent"
    assert hopes.num_late == 26
    assert len(run.traces) < len(server.bodies), "who still waited was given up"


def test_hope_is_gone_with_the_first_gap_too_many() -> None:
    hopes = Hopes(Promise(1.0, 0.1), 2, 100)
    slow = [Trace(0.0, text_at=[0.5, 0.5 + gap]) for gap in (0.2, 0.05, 0.2)]
    assert [hopes.are_gone_after(trace) for trace in slow] == [False, False, True], "1 of 100 may be long"
