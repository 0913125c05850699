"""What a key may still use: exact in requests, in tokens and in what is open, and fair over time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import structs
from tests.keys.made import make_key
from tests.keys.test_keyring import Clock

from takeoff.errors import InvalidRequest, RateLimited
from takeoff.keys.account import Account, Spent


@dataclass
class Work:
    """A generation that says what it has used."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    reader_id: str = "smollm2"
    replica_ids: tuple[str, ...] = ()
    cached_tokens: int = 0
    queue_s: float = 0.0
    began_at: float = 0.0
    first_token_at: float | None = None
    ended_at: float | None = None


def account(clock: Clock, **limits: Any) -> Account:
    return Account(make_key("alice", **limits)[0], clock)


def ask(account: Account, work: Work | None = None) -> None:
    """A whole request, which has used what `work` says."""
    with account.visit(is_counted=True) as visit:
        if work is not None:
            with visit.work():
                visit.add(work)


def refusal(account: Account) -> RateLimited:
    with pytest.raises(RateLimited) as refused:
        ask(account)
    return refused.value


def test_a_minutes_requests_at_once_then_one_by_one() -> None:
    clock = Clock()
    alice = account(clock, requests_per_minute=3)
    for _ in range(3):
        ask(alice)
    refused = refusal(alice)
    assert refused.message == "the key 'alice' has used its 3 requests a minute; there is more in 20.0 s"
    assert (refused.retry_after_s, refused.of) == (pytest.approx(20.0), "requests")
    clock.now += 19.9
    assert refusal(alice).retry_after_s == pytest.approx(0.1), "refusals cost nothing"
    clock.now += 0.11
    ask(alice)
    assert refusal(alice).retry_after_s == pytest.approx(20.0, abs=0.1)


def test_who_comes_back_when_he_is_told_to_is_let_in_every_time_and_gets_his_rate() -> None:
    clock = Clock()
    alice = account(clock, requests_per_minute=7)
    num_served, started = 0, clock.now
    while clock.now < started + 600:
        try:
            ask(alice)
            num_served += 1
        except RateLimited as refused:
            clock.now += refused.retry_after_s + 1e-9
    assert num_served in (7 + 70 - 1, 7 + 70, 7 + 70 + 1)


def test_tokens_of_prompts_and_completions_are_counted_as_they_are_used() -> None:
    clock = Clock()
    alice = account(clock, tokens_per_minute=60)
    with alice.visit(is_counted=True) as visit:
        with visit.work():
            visit.add(work := Work(prompt_tokens=30))
        ask(alice)  # 30 are left
        work.completion_tokens = 29
        ask(alice)  # one is left
        work.completion_tokens = 40
        refused = refusal(alice)  # 10 too many, while it still runs
        assert (refused.retry_after_s, refused.of) == (pytest.approx(11.0), "tokens")
        assert refused.message == "the key 'alice' has used its 60 tokens a minute; there is more in 11.0 s"
        work.completion_tokens = 45
    assert refusal(alice).retry_after_s == pytest.approx(16.0), "what it used to its end"
    clock.now += 16.01
    ask(alice)


def test_over_time_no_prompt_gets_a_key_more_than_its_tokens() -> None:
    clock = Clock()
    alice = account(clock, tokens_per_minute=600)
    used, started = 0, clock.now
    while clock.now < started + 3_600:
        try:
            ask(alice, Work(prompt_tokens=2_000, completion_tokens=100, finish_reason="stop"))
            used += 2_100
        except RateLimited as refused:
            clock.now += refused.retry_after_s + 1e-6
    assert 600 * 60 <= used <= 600 * 61 + 2_100


def test_tokens_of_what_is_no_generation_count_once() -> None:
    clock = Clock()
    alice = account(clock, tokens_per_minute=100)
    with alice.visit(is_counted=True) as visit:
        visit.add_tokens(70, "minilm")
        ask(alice)
        ask(alice)
    ask(alice)
    ask(alice, Work(prompt_tokens=31, finish_reason="stop"))
    assert refusal(alice).retry_after_s == pytest.approx(2 * 0.6)


def test_what_is_in_work_is_counted_to_its_end_and_not_longer() -> None:
    clock = Clock()
    alice = account(clock, max_open=2)
    with ExitStack() as stack:
        visits = [stack.enter_context(alice.visit(is_counted=True)) for _ in range(3)]
        works = [Work(), Work()]
        for visit, work in zip(visits[:2], works, strict=True):
            with visit.work():
                visit.add(work)
        with (
            pytest.raises(
                RateLimited, match="2 texts of the key 'alice' are in work, the limit is 2"
            ) as refused,
            visits[2].work(),
        ):
            pass
        assert refused.value.of == "requests"
        works[0].finish_reason = "stop"
        with visits[2].work(), pytest.raises(RateLimited), visits[1].work():
            pass
        with visits[2].work():
            pass


def test_the_wait_for_a_place_is_how_long_requests_take() -> None:
    clock = Clock()
    alice = account(clock, max_open=1)
    for _ in range(4):
        with alice.visit(is_counted=True) as visit, visit.work():
            clock.now += 5.0
        for _ in range(20):  # that ask for no text say nothing of it
            ask(alice)
        clock.now += 100.0  # nor does the time between them
    with (
        alice.visit(is_counted=True) as first,
        first.work(),
        alice.visit(is_counted=True) as second,
        pytest.raises(RateLimited) as refused,
        second.work(),
    ):
        pass
    assert refused.value.retry_after_s == pytest.approx(5.0, rel=0.3)


def test_a_request_that_alone_has_too_many_texts_is_told_that_it_can_never_be_served() -> None:
    alice = account(Clock(), max_open=2)
    with alice.visit(is_counted=True) as visit:
        for _ in range(2):
            with visit.work():
                visit.add(Work())
        with pytest.raises(InvalidRequest, match="more than 2 texts or choices"), visit.work():
            pass


def test_a_failed_request_gives_its_place_back() -> None:
    alice = account(Clock(), max_open=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), alice.visit(is_counted=True) as visit, visit.work():
            raise ZeroDivisionError
    with alice.visit(is_counted=True) as visit, visit.work():
        pass


def test_a_changed_limit_keeps_what_was_used() -> None:
    clock = Clock()
    key, _ = make_key("alice", requests_per_minute=2)
    alice = Account(key, clock)
    ask(alice)
    ask(alice)
    alice.take_limits(structs.replace(key, requests_per_minute=4))
    ask(alice)
    ask(alice)
    assert refusal(alice).retry_after_s == pytest.approx(15.0)
    alice.take_limits(structs.replace(key, requests_per_minute=None))
    for _ in range(10):
        ask(alice)


def test_what_is_not_counted_has_no_limit() -> None:
    alice = account(Clock(), requests_per_minute=1)
    for _ in range(5):
        with alice.visit(is_counted=False):
            pass
    ask(alice)
    refusal(alice)


def test_limits_hold_over_servers_that_tell_each_other() -> None:
    clock = Clock()
    here, there = (account(clock, requests_per_minute=4, tokens_per_minute=100) for _ in range(2))
    ask(here, Work(prompt_tokens=30, completion_tokens=20, finish_reason="stop"))
    ask(here)
    assert here.spent() == (2, 50, 0)
    assert here.spent() == (0, 0, 0), "each is told once"
    there.take_spent("door", Spent(2, 50, 0))
    ask(there)
    ask(there, Work(prompt_tokens=60, finish_reason="stop"))
    assert refusal(there).of == "tokens"
    clock.now += 60
    ask(there)


def test_what_is_open_elsewhere_counts_until_nothing_is_heard() -> None:
    clock = Clock()
    alice = account(clock, max_open=2)
    alice.take_spent("door", Spent(0, 0, 1))
    with alice.visit(is_counted=True) as visit, visit.work():
        with alice.visit(is_counted=True) as other, pytest.raises(RateLimited), other.work():
            pass
        assert alice.spent().num_open == 1
        clock.now += 6
        with alice.visit(is_counted=True) as other, other.work():
            pass
