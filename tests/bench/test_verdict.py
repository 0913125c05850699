"""The last sentence."""

from __future__ import annotations

from takeoff.bench.client import Trace
from takeoff.bench.comparison import Measured
from takeoff.bench.measures import Promise, Reading
from takeoff.bench.prompts import Prompts
from takeoff.bench.runs import Outcome
from takeoff.bench.scenarios import Scenario
from takeoff.bench.target import Target
from takeoff.bench.verdict import verdict

PROMISE = Promise(1.0, 0.1)
BOUNDS = "(promised: TTFT p95 ≤ 1 s and ITL p99 ≤ 100 ms)."


async def never(target: Target, prompts: Prompts) -> Outcome:
    raise AssertionError


def level(num_streams: int, itl_p99: float = 0.05, error: str | None = None, status: int = 200) -> Measured:
    figures = {
        "rate": Reading(20.0 * num_streams),
        "tpot_p50": Reading(0.04),
        "ttft_p95": Reading(0.3),
        "itl_p99": Reading(itl_p99),
    }
    outcome = Outcome({} if error else figures, [Trace(0.0, error=error, status=status)])
    return Measured(Scenario(f"s{num_streams}", "", (), never, num_streams), {"a": [outcome]})


def test_it_says_how_many_users_get_which_service_and_where_it_ends() -> None:
    sweep = [level(32, itl_p99=0.15), level(1), level(8)]
    assert verdict(sweep, "a", PROMISE) == (
        "a on this machine carries 8 users at once at 25 tokens/s each with TTFT p95 300 ms and "
        f"ITL p99 50 ms, while with 32 at once they get TTFT p95 300 ms and ITL p99 150 ms {BOUNDS}"
    )
    assert verdict(sweep[1:2], "a", PROMISE) == (
        f"a on this machine carries 1 user at 25 tokens/s with TTFT p95 300 ms and ITL p99 50 ms {BOUNDS}"
    )


def test_a_service_that_fails_carries_nobody() -> None:
    for failed in (level(8, error="died"), level(8, error="status 429", status=429)):
        assert "8 at once requests failed (promised" in verdict([level(1), failed], "a", PROMISE)
    assert "carries no user as promised, while with 1 at once" in verdict([level(1, 0.2)], "a", PROMISE)


def test_a_rate_is_told_and_nothing_measured_is_said_so() -> None:
    rate = Measured(Scenario("goodput", "", (), never), {"a": [Outcome({"max_rate": Reading(1.5)})]})
    assert "ITL p99 50 ms, and 1.5 requests/s that arrive at random" in verdict(
        [level(1), rate], "a", PROMISE
    )
    assert "was not measured" in verdict([], "a", PROMISE)
