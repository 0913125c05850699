"""What a step costs beside the kernels, counted in function calls, grows no faster than the sequences."""

from __future__ import annotations

import sys
from types import FrameType

from tests.engine.simulated import SimulatedRun

STEPS = 16


def calls_of_steps(run: SimulatedRun) -> int:
    """Functions that STEPS steps call, those written in C too."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        for _ in range(STEPS):
            run.engine.step()
    finally:
        sys.setprofile(before)
    return count


def steady(num_sequences: int) -> int:
    run = SimulatedRun(n_slots=num_sequences, itl_slo_ms=60_000.0)
    run.start_streams(range(num_sequences))
    return calls_of_steps(run)


def changing(num_sequences: int) -> int:
    """At each step an eighth of the sequences end, and as many are admitted, moved and prefilled."""
    run = SimulatedRun(n_slots=num_sequences, itl_slo_ms=60_000.0)
    for request_id in range(8 * num_sequences):
        run.submit(request_id, 20, max_new_tokens=2 + request_id % 8 if request_id < num_sequences else 9)
    for _ in range(24):
        run.engine.step()
    ended = sum(len(times) for times in run.told_at.values())
    calls = calls_of_steps(run)
    told = sum(len(times) for times in run.told_at.values()) - ended
    assert told > 0.8 * num_sequences * STEPS, "the slots were full"
    return calls


def test_a_step_of_256_sequences_costs_four_times_one_of_64() -> None:
    assert steady(256) < 4.2 * steady(64)


def test_departures_and_arrivals_cost_in_proportion_too() -> None:
    assert changing(256) < 4.4 * changing(64)
