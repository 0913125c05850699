"""What is told of a search that has ended."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from takeoff.models.optimize.candidates import Candidate
from takeoff.models.optimize.goal import Measured, parse_goal
from takeoff.models.optimize.outcome import prediction
from takeoff.models.optimize.search import Found
from takeoff.models.stored import StoredModel

BEFORE = Candidate(threads=2, threads_prefill=2, batch=2048, ubatch=512)
SLOW = Measured({1: 0.010, 8: 0.040, 32: 0.120}, prefill_token_s=0.002, memory_bytes=100_000_000)
FAST = Measured({1: 0.008, 8: 0.024, 32: 0.064}, prefill_token_s=0.001, memory_bytes=140_000_000)


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        ("latency", "latency: predicted for 1 user, answer_s 1.32 s; before: 1.88 s"),
        ("throughput", "throughput: predicted for 32 users, tokens_s 230 tokens/s; before: 119 tokens/s"),
        (
            "itl_p99<0.1s, users=max",
            "itl_p99<0.1s, users=max: predicted for 13 users, itl_p99 97 ms; before: 6 users",
        ),
        (
            "ttft_p95<0.5s, users=max",
            "ttft_p95<0.5s, users=max: predicted for 1 user, ttft_p95 300 ms; "
            "before: nobody within the bounds",
        ),
        (
            "ttft_p95<0.1s, memory<1GB, users=max",
            "ttft_p95<0.1s, memory<1GB, users=max: no number of users keeps the bounds; "
            "the nearest is 1 user, ttft_p95 300 ms, memory 140 MB",
        ),
    ],
)
def test_the_goals_load_is_told_as_it_is_predicted(goal: str, told: str) -> None:
    weights = cast(StoredModel, SimpleNamespace(path=Path("weights.gguf")))
    found = Found(BEFORE, BEFORE, weights, SLOW, FAST, 1.5, None)
    assert prediction(found, parse_goal(goal)) == told
