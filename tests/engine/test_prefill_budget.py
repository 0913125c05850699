from __future__ import annotations

import pytest

from takeoff.engine.call_cost import Cost, Work
from takeoff.engine.prefill_budget import MIN_PREFILL_TOKENS, PrefillBudget, Room

COST = Cost(fixed=0.010, per_token=0.001, per_pair=1e-9)
EIGHT = Work(1, 8, 0)  # a decode of eight sequences: 18 ms
NOBODY = Work(0, 0, 0)


def room(decoding: Work, itl_slo_s: float | None = None, cost: Cost = COST, spent_s: float = 0.0) -> Room:
    return PrefillBudget(itl_slo_s=itl_slo_s, guess=cost).room(decoding, spent_s=spent_s, max_tokens=2_000)


def fitting(room: Room, start: int = 0) -> int:
    return room.fitting(start, wanted=100_000)


def test_by_default_a_gap_lasts_three_decode_steps() -> None:
    many = Work(1, 32, 0)  # 42 ms
    assert fitting(room(many)) == pytest.approx(2 * 42 - 10, abs=1)


def test_beside_few_streams_a_gap_may_be_what_nobody_sees() -> None:
    one, quick = Work(1, 1, 0), COST._replace(fixed=0.003)  # 4 ms
    assert fitting(room(one, cost=quick)) == pytest.approx(30 - 4 - 3, abs=1)
    assert fitting(room(EIGHT)) == pytest.approx(2 * 18 - 10, abs=1), "three steps are longer"


def test_however_long_drafts_make_the_steps_a_call_may_take_as_long_as_a_step_without() -> None:
    budget = PrefillBudget(itl_slo_s=None, guess=COST._replace(fixed=0.030))
    many = Work(1, 32, 0)  # 62 ms
    for _ in range(30):
        budget.learn_decode(many, 0.180, has_drafts=True)
    assert fitting(budget.room(many, spent_s=0.0, max_tokens=2_000)) == pytest.approx(62 - 30, abs=1)


def test_a_step_with_drafts_leaves_less_of_the_gap() -> None:
    budget = PrefillBudget(itl_slo_s=0.100, guess=COST)
    for _ in range(20):
        budget.learn_decode(EIGHT, 0.054, has_drafts=True)
    assert fitting(budget.room(EIGHT, spent_s=0.0, max_tokens=2_000)) == pytest.approx(100 - 54 - 10, abs=1)
    for _ in range(20):
        budget.learn_decode(EIGHT, 0.018)
    assert fitting(budget.room(EIGHT, spent_s=0.0, max_tokens=2_000)) == pytest.approx(72, abs=1)


def test_a_stated_gap_is_what_decode_and_prefill_share() -> None:
    assert fitting(room(EIGHT, itl_slo_s=0.100)) == pytest.approx(100 - 18 - 10, abs=1)


def test_what_was_done_since_the_last_tokens_is_part_of_the_gap() -> None:
    assert fitting(room(EIGHT, itl_slo_s=0.100, spent_s=0.020)) == pytest.approx(52, abs=1)


def test_with_nothing_to_decode_a_call_is_bounded_so_that_cancellations_are_noticed() -> None:
    assert fitting(room(NOBODY)) == pytest.approx(90, abs=1)


def test_prefill_makes_progress_even_where_decode_alone_takes_the_whole_gap() -> None:
    assert fitting(room(EIGHT, itl_slo_s=0.010)) == MIN_PREFILL_TOKENS


def test_a_slice_deep_in_a_prompt_is_shorter_for_what_attention_takes() -> None:
    cost = COST._replace(per_pair=1e-7)
    shallow, deep = (fitting(room(EIGHT, itl_slo_s=0.228, cost=cost), start) for start in (0, 30_000))
    assert shallow == pytest.approx(199, abs=2)
    assert deep == pytest.approx(50, abs=2), "at 30,000 a token costs four times as much"


def test_slices_of_one_call_share_its_time_and_another_length_takes_a_pass() -> None:
    shared = room(EIGHT, itl_slo_s=0.128)
    shared.take(0, 60)
    assert fitting(shared) == pytest.approx(40 - 10, abs=1)
    shared.take(0, 30)
    assert fitting(shared) == 0, "the least that a call holds is not given to every slice of it"


def test_prompts_of_one_length_are_computed_in_one_pass_and_not_cut_to_slivers() -> None:
    shared = room(EIGHT, itl_slo_s=0.078)  # 50 tokens
    shared.take(0, 20)
    assert shared.fitting(0, wanted=20) == 20
    shared.take(0, 20)
    assert shared.fitting(0, wanted=20) == 0, "ten would leave ten"
    assert fitting(shared) == 0
    shared = room(EIGHT, itl_slo_s=0.070)  # 42 tokens
    shared.take(0, 20)
    assert shared.fitting(0, wanted=20) == 20
    assert shared.fitting(0, wanted=22) == 0, "twenty would leave two"
    assert shared.fitting(0, wanted=40) == 20


def test_on_a_slow_machine_no_call_is_expected_to_take_over_a_second() -> None:
    slow = Cost(fixed=0.2, per_token=0.1, per_pair=1e-9)
    assert fitting(room(NOBODY, cost=slow)) in (7, 8), "sixteen tokens would take 1.8 s"
    assert fitting(room(NOBODY, cost=slow._replace(per_token=3.0))) == 1, "one can't be cut"
    assert fitting(room(NOBODY, cost=slow._replace(fixed=1.2))) == 16, "calls of one would take as long"


def test_a_wide_gap_does_not_make_a_call_of_over_a_second() -> None:
    assert fitting(room(EIGHT, itl_slo_s=10.0)) == pytest.approx(990, abs=1)


def test_a_call_holds_no_more_tokens_than_its_buffer() -> None:
    assert fitting(room(EIGHT, itl_slo_s=0.9, cost=COST._replace(per_token=1e-5))) == 2_000
