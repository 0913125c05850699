from __future__ import annotations

import pytest

from takeoff.engine.prefill_budget import MIN_PREFILL_TOKENS, PrefillBudget


def learnt(itl_slo_s: float | None, decode_s: float, token_s: float) -> PrefillBudget:
    budget = PrefillBudget(itl_slo_s=itl_slo_s, token_s=token_s)
    budget.learn_decode(decode_s)
    return budget


def test_by_default_a_gap_lasts_three_decode_steps() -> None:
    assert learnt(None, decode_s=0.030, token_s=0.001).tokens(is_decoding=True) == 60


def test_a_stated_gap_is_what_decode_and_prefill_share() -> None:
    assert learnt(0.100, decode_s=0.040, token_s=0.001).tokens(is_decoding=True) == 60


def test_with_nothing_to_decode_a_call_is_bounded_so_that_cancellations_are_noticed() -> None:
    assert learnt(None, decode_s=0.030, token_s=0.001).tokens(is_decoding=False) == 100


def test_prefill_makes_progress_even_where_decode_alone_takes_the_whole_gap() -> None:
    assert learnt(0.010, decode_s=0.040, token_s=0.001).tokens(is_decoding=True) == MIN_PREFILL_TOKENS


def test_the_budget_follows_what_prefill_costs() -> None:
    budget = learnt(0.140, decode_s=0.040, token_s=0.001)
    for _ in range(50):
        budget.learn_prefill(100, 0.4)
    assert budget.tokens(is_decoding=True) == pytest.approx(25, abs=1)
