from __future__ import annotations

import pytest

from takeoff.errors import Overloaded
from takeoff.service.admission import (
    FIRST_GUESS,
    MAX_RETRY_S,
    MIN_RETRY_S,
    Admission,
    DrainRate,
    Party,
)
from takeoff.service.backoff import LONGEST_WAIT_S, Backoff


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


ALICE, BOB, CAROL = (Party("primary", tenant) for tenant in ("alice", "bob", "carol"))


def make_admission(
    clock: Clock | None = None, *, max_requests: int = 10, max_tokens: int = 1_000
) -> Admission:
    return Admission(max_requests=max_requests, max_queued_tokens=max_tokens, clock=clock or Clock())


def test_the_time_to_come_back_is_the_excess_over_the_measured_rate() -> None:
    clock = Clock()
    admission = make_admission(clock)
    for _ in range(4):
        admission.enqueue(ALICE, 200)
    clock.now += 2.0
    admission.dequeue(ALICE, 200, served=True)
    admission.enqueue(ALICE, 400)
    with pytest.raises(Overloaded) as refused:
        admission.enqueue(ALICE, 500)
    assert refused.value.message == (
        "1000 tokens of prompts and their completions are waiting and 500 more would exceed the limit of 1000"
        "; 100 of them are begun in a second"
    )
    assert refused.value.retry_after_s == pytest.approx(5.0)
    assert admission.queued_tokens == 1_000


def test_an_empty_queue_takes_any_one_request() -> None:
    admission = make_admission(max_tokens=100)
    admission.enqueue(ALICE, 5_000)
    with pytest.raises(Overloaded):
        admission.enqueue(ALICE, 1)


def test_open_requests_are_bounded() -> None:
    admission = make_admission(max_requests=2)
    admission.enter(ALICE)
    admission.enter(ALICE)
    with pytest.raises(Overloaded, match="2 requests are open, the limit is 2"):
        admission.enter(ALICE)
    admission.leave(ALICE)
    admission.enter(ALICE)
    assert admission.open_requests == 2


def test_who_has_less_than_an_even_part_of_a_full_queue_gets_up_to_that() -> None:
    admission = make_admission(max_tokens=900)
    admission.enqueue(ALICE, 900)
    admission.enqueue(BOB, 400)
    with pytest.raises(Overloaded):
        admission.enqueue(BOB, 100)  # 500 of 900 are more than a half
    admission.enqueue(CAROL, 300)
    with pytest.raises(Overloaded):
        admission.enqueue(CAROL, 1)
    with pytest.raises(Overloaded):
        admission.enqueue(ALICE, 1)
    admission.enqueue(Party("other group", "alice"), 200)
    with pytest.raises(Overloaded):
        admission.enqueue(Party("one more", ""), 1)
    assert admission.queued_tokens == 2 * 900, "that is the end, for whomever"


def test_a_queue_that_drains_is_full_for_its_flood_first() -> None:
    admission = make_admission(max_requests=4)
    for _ in range(4):
        admission.enter(ALICE)
    for _ in range(2):
        admission.enter(BOB)
    for _ in range(2):
        admission.leave(ALICE)
        with pytest.raises(Overloaded):
            admission.enter(ALICE)
    admission.leave(BOB)
    admission.enter(BOB)
    assert admission.open_requests == 4


def test_a_completion_counts_as_stated_or_usual_and_not_as_far_more_than_usual() -> None:
    admission = make_admission()
    assert admission.tokens_of(100, 50, 4_000) == 150
    assert admission.tokens_of(100, 50_000, 4_000) == 100 + 4 * FIRST_GUESS
    assert admission.tokens_of(100, 50_000, 700) == 800
    assert admission.tokens_of(100, None, 4_000) == 100 + FIRST_GUESS
    for _ in range(200):
        admission.learn_completion(40)
    assert admission.tokens_of(100, None, 4_000) == 140
    assert admission.tokens_of(100, 50_000, 4_000) == 260
    assert admission.tokens_of(100, None, 10) == 110


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
