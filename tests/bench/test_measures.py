"""Figures of traces whose times are known."""

from __future__ import annotations

import math

import pytest

from takeoff.bench.client import Trace
from takeoff.bench.measures import Promise, Reading, goodput, latencies, nearest_rank, spread, token_rate


def trace(sent_at: float, *text_at: float, **fields: object) -> Trace:
    made = Trace(sent_at, list(text_at), text_at[-1] if text_at else sent_at, completion_tokens=len(text_at))
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("percent", "rank"), [(50, 50), (95, 95), (99, 99), (100, 100), (0, 1), (0.5, 1), (98.5, 99)]
)
def test_a_percentile_is_a_value_that_was_measured(percent: float, rank: int) -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert nearest_rank(values, percent) == rank


def test_few_values_make_no_false_tail_and_their_number_is_told() -> None:
    assert spread("ttft", [3.0, 1.0, 2.0]) == {
        "ttft_p50": Reading(2.0, 3),
        "ttft_p95": Reading(3.0, 3),
        "ttft_p99": Reading(3.0, 3),
    }
    assert spread("ttft", []) == {}


def test_ttft_itl_and_tpot_are_the_ones_of_the_span_without_warm_up() -> None:
    traces = [
        trace(0.0, 9.0, 9.5, is_warm_up=True),  # its gap ends before the span
        trace(10.0, 10.5, 10.75, 11.75),
        trace(11.0, 11.25, 11.375),
        trace(30.0, 31.0, 40.0),  # after the span
    ]
    readings = latencies(traces, since=9.75, until=20.0)
    assert readings["ttft_p50"] == Reading(0.25, 2)
    assert readings["ttft_p99"] == Reading(0.5, 2)
    assert readings["itl_p50"] == Reading(0.25, 3)
    assert readings["itl_p99"] == Reading(1.0, 3)
    assert readings["tpot_p99"] == Reading(1.25 / 2, 2)


def test_the_wait_since_the_planned_time_is_the_servers() -> None:
    assert trace(12.0, 12.5, planned_at=10.0).ttft_s == 2.5


def test_pieces_of_several_tokens_count_as_their_share() -> None:
    whole = trace(0.0, 1.0, 2.0, 3.0, 4.0, completion_tokens=8)
    assert token_rate([whole], since=1.5, until=3.5) == {"rate": Reading(2.0, 4)}
    assert token_rate([whole], since=2.0, until=2.0) == {}


def test_good_is_a_whole_request_in_time_with_99_percent_of_its_gaps_in_bounds() -> None:
    promise = Promise(ttft_s=1.0, itl_s=0.1)
    steady = [1.0 + number * 0.0625 for number in range(200)]
    one_slow = [*steady, steady[-1] + 0.5]  # 1 of 200 gaps
    three_slow = [*one_slow, one_slow[-1] + 0.5, one_slow[-1] + 1.0]
    traces = [
        trace(0.5, *one_slow),
        trace(0.5, *three_slow),
        trace(-0.5, *steady),  # begun too late
        trace(0.5, *steady, error="died"),
        trace(0.5, error="status 429", status=429),
        trace(-9.0, *steady, is_warm_up=True),
    ]
    assert [promise.is_kept_for(each) for each in traces[:5]] == [True, False, False, False, False]
    assert goodput(traces, promise, duration_s=4.0) == {
        "good_share": Reading(0.2, 5),
        "good_rate": Reading(0.25, 5),
    }
    assert goodput(traces[5:], promise, duration_s=4.0) == {}


def test_a_promise_to_all_is_about_p95_and_p99() -> None:
    promise = Promise(ttft_s=1.0, itl_s=0.1)
    kept = {"ttft_p95": Reading(1.0), "ttft_p99": Reading(9.0), "itl_p99": Reading(0.1)}
    assert promise.is_kept(kept)
    assert not promise.is_kept({**kept, "ttft_p95": Reading(math.nextafter(1, 2))})
    assert not promise.is_kept({**kept, "itl_p99": Reading(0.101)})
    assert not promise.is_kept({}), "nobody was answered"
