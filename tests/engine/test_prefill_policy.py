"""Whole engines on a machine whose calls take a stated time: what streams and prompts have to wait."""

from __future__ import annotations

import statistics

import pytest
from tests.engine.simulated import SMALL, SimulatedRun

from takeoff.engine.call_cost import Cost
from takeoff.engine.prefill_budget import GAP_IN_DECODE_STEPS

STREAMS = range(8)
LONG = 100


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def test_beside_a_prompt_of_30000_tokens_gaps_stay_three_decode_steps() -> None:
    run = SimulatedRun(noise=0.05, disturbed=0.005)
    alone = statistics.median(run.start_streams(STREAMS))
    run.kernels.longest_s, since = 0.0, run.now
    run.submit(LONG, 30_000, max_new_tokens=1)
    run.run_until_begun([LONG])
    gaps = run.gaps(STREAMS, since)
    assert len(gaps) > 8 * 500
    since = run.now
    for _ in range(30):  # the streams' texts have grown, and their steps are slower
        run.engine.step()
    alone = max(alone, statistics.median(run.gaps(STREAMS, since)))
    assert quantile(gaps, 0.5) < 1.1 * GAP_IN_DECODE_STEPS * alone
    assert quantile(gaps, 0.98) < 1.3 * GAP_IN_DECODE_STEPS * alone
    assert run.kernels.longest_s < 0.3


def test_a_stated_gap_is_kept_to_the_depth_of_30000_tokens_and_used() -> None:
    run = SimulatedRun(itl_slo_ms=100.0, noise=0.05)
    run.start_streams(STREAMS)
    since = run.now
    run.submit(LONG, 30_000, max_new_tokens=1)
    run.run_until_begun([LONG])
    gaps = run.gaps(STREAMS, since)
    assert quantile(gaps, 0.95) < 0.112
    assert quantile(gaps, 0.5) > 0.085, "what the streams can bear is prefill's"


def test_beside_fifty_short_prompts_gaps_stay_three_decode_steps() -> None:
    run = SimulatedRun(noise=0.05)
    alone = statistics.median(run.start_streams(STREAMS))
    since = run.now
    shorts = range(200, 250)
    for request_id in shorts:
        run.submit(request_id, 20 + request_id % 40, max_new_tokens=2)
    run.run_until_begun(shorts)
    assert quantile(run.gaps(STREAMS, since), 0.98) < 1.2 * GAP_IN_DECODE_STEPS * alone


@pytest.mark.parametrize("deterministic", [False, True])
def test_short_prompts_do_not_wait_for_a_long_one_nor_it_for_them(deterministic: bool) -> None:
    alone = SimulatedRun(deterministic=deterministic)
    alone.start_streams(range(4))
    since = alone.now
    alone.submit(LONG, 30_000, max_new_tokens=1)
    alone.run_until_begun([LONG])
    long_alone_s = alone.now - since

    run = SimulatedRun(deterministic=deterministic)
    run.start_streams(range(4))
    since = run.now
    run.submit(LONG, 30_000, max_new_tokens=1)
    waited: list[float] = []
    short = 200
    while not run.told_at[LONG]:  # somebody with a short prompt is there at any time
        run.submit(short, 60, max_new_tokens=1)
        asked_at = run.now
        run.run_until_begun([short])
        waited.append(run.now - asked_at)
        short += 1
    assert quantile(waited, 0.95) < 0.6, f"beside one whose prompt takes {long_alone_s:.0f} s"
    assert max(waited) < 3.0, "who comes when little of the long one is left waits for that"
    assert run.told_at[LONG][0] - since < 2.2 * long_alone_s


def test_prompts_of_like_length_are_prefilled_one_after_the_other() -> None:
    run = SimulatedRun()
    lengths = {1: 900, 2: 880, 3: 910, 4: 600, 5: 900}
    for request_id, length in lengths.items():
        run.submit(request_id, length, max_new_tokens=1)
    run.run_until_begun(list(lengths))
    begun = [run.told_at[request_id][0] for request_id in lengths]
    assert begun == sorted(begun), "the last is begun no later, and all others sooner, than by turns"


def test_whoever_waits_for_a_long_prompts_beginning_counts_as_short() -> None:
    """The second prompt shares 200 tokens of the first's 20,000, and comes after another long one."""
    run = SimulatedRun(cache_bytes=1 << 20)
    run.submit(1, 30_000, max_new_tokens=1)
    run.engine.step()
    run.submit(2, 20_000, max_new_tokens=1)
    run.engine.step()
    asked_at = run.now
    run.submit(3, 260, max_new_tokens=1, like=2, shared=200)
    run.run_until_begun([3])
    assert run.now - asked_at < 3.0
    assert not run.told_at[1]
    assert not run.told_at[2]


@pytest.mark.parametrize("itl_slo_ms", [None, 10_000.0])
def test_no_call_takes_over_a_second_on_a_machine_fifty_times_slower(itl_slo_ms: float | None) -> None:
    run = SimulatedRun(Cost(*(50 * cost for cost in SMALL)), itl_slo_ms=itl_slo_ms, noise=0.03)
    run.kernels.longest_s = 0.0  # of the warm-up
    run.submit(1, 2_000, max_new_tokens=30)
    run.submit(2, 500, max_new_tokens=3)
    while not run.engine.is_idle:
        run.engine.step()
    assert run.kernels.longest_s < 1.2
