from __future__ import annotations

import pytest

from takeoff.errors import Overloaded
from takeoff.service.admission import MAX_RETRY_S, MIN_RETRY_S, Admission, DrainRate
from takeoff.service.backoff import LONGEST_WAIT_S, Backoff


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_to_come_back_is_the_excess_over_the_measured_rate() -> None:
    clock = Clock()
    admission = Admission(max_requests=10, max_queued_tokens=1_000, clock=clock)
    for _ in range(4):
        admission.enqueue(200)
    clock.now += 2.0
    admission.dequeue(200, served=True)  # 100 tokens/s
    admission.enqueue(400)
    with pytest.raises(Overloaded, match="1000 prompt tokens are waiting and 500 more") as refused:
        admission.enqueue(500)
    assert refused.value.retry_after_s == pytest.approx(5.0)
    assert admission.queued_tokens == 1_000


def test_an_empty_queue_takes_any_one_prompt() -> None:
    admission = Admission(max_requests=10, max_queued_tokens=100, clock=Clock())
    admission.enqueue(5_000)
    with pytest.raises(Overloaded):
        admission.enqueue(1)


def test_open_requests_are_bounded() -> None:
    admission = Admission(max_requests=2, max_queued_tokens=100, clock=Clock())
    admission.enter()
    admission.enter()
    with pytest.raises(Overloaded, match="2 requests are open, the limit is 2"):
        admission.enter()
    admission.leave()
    admission.enter()
    assert admission.open_requests == 2


def test_idle_time_does_not_lower_a_rate() -> None:
    clock = Clock()
    rate = DrainRate(clock)
    clock.now += 1.0
    rate.add(100)
    clock.now += 3_600.0
    rate.restart()
    clock.now += 1.0
    rate.add(100)
    assert rate.seconds_for(1_000) == pytest.approx(10.0)


def test_an_old_rate_is_forgotten() -> None:
    clock = Clock()
    rate = DrainRate(clock)
    clock.now += 30.0
    rate.add(30)
    for _ in range(300):
        clock.now += 1.0
        rate.add(100)
    assert rate.seconds_for(1_000) == pytest.approx(10.0, rel=0.01)


def test_a_time_to_come_back_is_always_sensible() -> None:
    clock = Clock()
    rate = DrainRate(clock)
    assert rate.seconds_for(1e9) == MIN_RETRY_S
    clock.now += 1.0
    rate.add(1)
    assert rate.seconds_for(1e9) == MAX_RETRY_S
    assert rate.seconds_for(0.001) == MIN_RETRY_S


def test_the_first_restart_is_at_once_and_a_storm_waits_longer_and_longer() -> None:
    backoff = Backoff()
    assert [backoff.after(1.0) for _ in range(4)] == [0.0, 0.5, 1.0, 2.0]
    assert [backoff.after(1.0) for _ in range(20)][-1] == LONGEST_WAIT_S
    assert backoff.after(3_600.0) == 0.0
