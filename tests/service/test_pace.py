"""When a request would end, from what was measured; by numbers alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from takeoff.ipc.messages import Heartbeat
from takeoff.service.pace import GROWTH, PREFILL_SHARE, SAFETY, Ahead, Pace

NOTHING = Ahead(
    num_open=0,
    num_parties=1,
    waiting_prompt=0,
    waiting_completion=0,
    running_completion=0,
    own_prompt=0,
    own_completion=0,
)


def beat(prefilled: float, decoded: float, *, together: float = 1.0, running: int = 1) -> Heartbeat:
    """1,000 prompt tokens take a second, and so do 100 calls that decode."""
    counters = {
        "prefill_calls": prefilled / 100,
        "prefill_seconds": prefilled / 1_000,
        "prefill_tokens": prefilled,
        "decode_calls": decoded / together,
        "decode_seconds": decoded / together / 100,
        "sample_tokens": decoded,
    }
    return Heartbeat(int(prefilled + decoded), 0.0, running, 0, counters)


def paced(*, together: float = 1.0) -> Pace:
    """After a second of prompts and one of completions, without overhead."""
    pace = Pace()
    pace.take(beat(0, 0), 0.0)
    pace.take(beat(1_000, 100 * together, together=together), 2.0)
    for _ in range(100):
        pace.note_gap(0.01, 1)
    return pace


def test_before_anything_was_measured_nothing_is_predicted() -> None:
    pace = Pace()
    assert pace.seconds(10, 10, NOTHING, 4) is None
    pace.take(beat(0, 0), 0.0)
    pace.take(beat(1_000, 100), 2.0)
    assert pace.seconds(10, 10, NOTHING, 4) is None, "no stream has told how long it waits"


def test_an_idle_reader_takes_the_prompt_and_a_gap_for_each_token() -> None:
    expected = SAFETY * (0.2 / PREFILL_SHARE + 50 * 0.01)
    assert paced().seconds(200, 50, NOTHING, 1) == pytest.approx(expected)


def test_where_a_slot_is_free_only_prompts_are_ahead() -> None:
    busy = replace(NOTHING, num_open=3, waiting_prompt=500, running_completion=10_000)
    assert paced(together=4).seconds(200, 50, busy, 4) == pytest.approx(
        SAFETY * (0.7 / PREFILL_SHARE + 50 * 0.01)
    )


def test_gaps_are_expected_to_grow_while_there_are_free_slots() -> None:
    light, full = replace(NOTHING, num_open=1), replace(NOTHING, num_open=7)
    assert paced().seconds(0, 100, light, 8) == pytest.approx(SAFETY * (1 + 3 * GROWTH))
    assert paced().seconds(0, 100, full, 8) == pytest.approx(SAFETY * (1 + 7 * GROWTH))
    assert paced(together=8).seconds(0, 100, full, 8) == pytest.approx(SAFETY)


def test_without_a_free_slot_everything_that_waits_is_ahead() -> None:
    ahead = replace(
        NOTHING,
        num_open=12,
        waiting_prompt=1_000,
        waiting_completion=800,
        running_completion=400,
        own_prompt=1_000,
        own_completion=800,
    )
    wait_s = 1_000 / 1_000 + 800 / 400 + 400 / 400 / 2
    assert paced(together=4).seconds(0, 100, ahead, 4) == pytest.approx(SAFETY * (wait_s + 1.0))


def test_but_no_more_than_the_share_of_its_party() -> None:
    ahead = replace(
        NOTHING,
        num_open=500,
        num_parties=2,
        waiting_prompt=100_000,
        waiting_completion=100_000,
        running_completion=400,
        own_prompt=100,
        own_completion=40,
    )
    wait_s = 2 * (0.1 + 0.1) + 1.0 / 4
    assert paced(together=4).seconds(0, 100, ahead, 4) == pytest.approx(SAFETY * (wait_s + 1.0))


def test_what_else_the_machine_does_counts() -> None:
    pace = paced()
    pace.take(beat(2_000, 200), 6.0)
    alone, beside = paced().seconds(600, 0, NOTHING, 1), pace.seconds(600, 0, NOTHING, 1)
    assert alone is not None
    assert beside == pytest.approx(alone * 6 / 4)


def test_a_slower_engine_is_known_within_some_seconds_of_its_work_and_a_new_one_begins_at_zero() -> None:
    pace = paced()
    pace.take(beat(0, 0), 3.0)
    counters = {"prefill_seconds": 40.0, "prefill_tokens": 10_000.0}
    pace.take(Heartbeat(50, 0.0, 0, 0, counters), 50.0)
    expected = SAFETY * 0.4 / PREFILL_SHARE
    assert pace.seconds(100, 0, NOTHING, 1) == pytest.approx(expected, rel=0.15)
    assert pace.told.startswith("2")


def test_each_of_several_engines_has_its_part_of_what_is_ahead() -> None:
    ahead = Ahead(
        num_open=12,
        num_parties=3,
        waiting_prompt=1_000,
        waiting_completion=802,
        running_completion=401,
        own_prompt=100,
        own_completion=41,
    )
    assert ahead.for_each(1) == ahead
    assert ahead.for_each(4) == Ahead(
        num_open=3,
        num_parties=3,
        waiting_prompt=250,
        waiting_completion=200,
        running_completion=100,
        own_prompt=25,
        own_completion=10,
    )
    alone, shared = (paced().seconds(0, 0, each, 3) for each in (ahead, ahead.for_each(4)))
    assert alone is not None
    assert shared is not None
    assert shared == pytest.approx(alone / 4, rel=0.02)
