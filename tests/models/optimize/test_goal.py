"""What users may ask a search for, and what is predicted of a load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from takeoff.errors import SettingsError
from takeoff.models.optimize.goal import Measured, Predicted, parse_goal

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "optimize.md"
SLOW = Measured({1: 0.010, 8: 0.040, 32: 0.120}, prefill_token_s=0.002, memory_bytes=1_000)
FAST = Measured({1: 0.008, 8: 0.024, 32: 0.064}, prefill_token_s=0.001, memory_bytes=1_400)


def test_a_step_between_measured_numbers_of_streams_lies_on_the_line_through_them() -> None:
    assert Predicted(SLOW, 20).step_s == pytest.approx(0.080)
    assert Predicted(SLOW, 56).step_s == pytest.approx(0.200)
    assert Predicted(Measured({1: 0.01}, 0.002, 0), 4).step_s == pytest.approx(0.04)


def test_an_answer_takes_its_prefill_and_its_steps() -> None:
    assert Predicted(SLOW, 1).answer_s == pytest.approx(300 * 0.002 + 128 * 0.010)
    assert Predicted(SLOW, 8).tokens_s == pytest.approx(8 * 128 / (8 * 300 * 0.002 + 128 * 0.040))


@pytest.mark.parametrize(
    ("goal", "gain"),
    [
        ("latency", (0.6 + 1.28) / (0.3 + 1.024)),
        ("throughput", (32 * 0.6 + 128 * 0.12) / (32 * 0.3 + 128 * 0.064)),
        ("itl_p99<0.1s, users=max", None),
    ],
)
def test_the_faster_setting_gains_by_the_goal(goal: str, gain: float | None) -> None:
    gained = parse_goal(goal).gain(FAST, SLOW, SLOW)
    # of users=max: 0.1 s are 3 steps of 33 ms; 6 users have such steps before, 13 after
    assert gained == pytest.approx(13 / 6 if gain is None else gain)


def test_a_goal_for_memory_bears_no_great_loss_of_speed() -> None:
    goal = parse_goal("memory")
    small_and_slow = Measured({1: 0.02, 8: 0.08, 32: 0.3}, 0.004, 500)
    small = Measured(SLOW.step_s, SLOW.prefill_token_s, 500)
    assert goal.gain(small, SLOW, SLOW) == pytest.approx(2.0)
    assert goal.gain(small_and_slow, SLOW, SLOW) == 0.0


def test_a_setting_that_keeps_the_bounds_beats_one_that_does_not() -> None:
    goal = parse_goal("ttft_p95<0.5s, users=max")
    assert goal.served(SLOW, SLOW) is None
    assert goal.served(FAST, SLOW) == Predicted(FAST, 1)
    assert goal.gain(FAST, SLOW, SLOW) == float("inf")
    assert goal.gain(SLOW, FAST, SLOW) == 0.0


def test_where_no_setting_keeps_the_bounds_the_nearer_one_gains() -> None:
    goal = parse_goal("ttft_p95<0.1s, tokens_s>1, users=max")
    assert goal.served(FAST, SLOW) is None
    assert goal.nearest(FAST, SLOW) == Predicted(FAST, 1)
    assert goal.gain(FAST, SLOW, SLOW) == pytest.approx(0.6 / 0.3)
    assert goal.gain(SLOW, FAST, SLOW) == pytest.approx(0.3 / 0.6)


def test_of_equally_many_users_those_who_get_more_tokens_are_served_better() -> None:
    goal = parse_goal("itl_p99<35ms, users=max")
    little_faster = Measured({1: 0.009, 8: 0.038, 32: 0.115}, 0.0019, 1_000)
    assert goal.served(SLOW, SLOW) == Predicted(SLOW, 1)
    assert goal.served(little_faster, SLOW) == Predicted(little_faster, 1)
    gained = goal.gain(little_faster, SLOW, SLOW)
    assert gained == pytest.approx((300 * 0.002 + 128 * 0.010) / (300 * 0.0019 + 128 * 0.009))


def test_prompts_wait_for_those_before_them_the_more_the_more_there_are() -> None:
    assert Predicted(FAST, 1).ttft_p95 == pytest.approx(0.3)
    # of 2 users only the other one can be before, at the end of a step of 10.3 ms
    assert Predicted(FAST, 2).ttft_p95 == pytest.approx(2 * 0.3 + 0.0103, rel=0.01)
    # 8 users: prefill takes 2.4 of 5.472 s; 3.63 prompts are before one in twenty
    assert Predicted(FAST, 8).ttft_p95 == pytest.approx(0.3 * 4.63 + 0.024, rel=0.01)
    assert Predicted(FAST, 16).ttft_p95 > 1.25 * Predicted(FAST, 4).ttft_p95


def test_one_user_needs_no_steps_of_many() -> None:
    assert parse_goal("latency").streams == (1,)
    assert parse_goal("ttft_p95<1s, users=max").streams == (1, 8, 32)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fastest", "'fastest' is not understood"),
        ("speed=max", "'speed=max' is not understood"),
        ("users=max, tokens_s=max", "2 figures to make as large or small"),
        ("ttft_p95<1s", "0 figures to make as large or small"),
        ("ttft_p95<1h, users=max", "no value that is understood"),
        ("ttft_p95<, users=max", "no value that is understood"),
        ("ttft_p95=1s, users=max", "ttft_p95 can be bounded by < or >"),
        ("memory<0GB, users=max", "memory is bounded by 0GB"),
        ("tokens_s=max, users=2.5", "users must be a whole number"),
        ("", "'' is not understood"),
    ],
)
def test_what_is_not_understood_is_told_with_what_is(text: str, told: str) -> None:
    with pytest.raises(SettingsError, match="--goal") as refused:
        parse_goal(text)
    assert told in refused.value.message
    assert "users=max" in str(refused.value.hint)


def test_the_goals_of_the_guide_are_understood() -> None:
    goals = re.findall(r"^\| `\"?([^`\"]+)\"?` \|", GUIDE.read_text(), re.MULTILINE)
    assert goals.pop(0) == "--goal"  # the heading
    assert len(goals) == 4
    assert [parse_goal(goal).text for goal in goals] == goals
