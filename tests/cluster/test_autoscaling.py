"""How many replicas there should be: by numbers alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from takeoff.cluster.autoscaling import ByQueuedTokens, wanted

FOR_EACH = 1_000


@pytest.mark.parametrize(
    ("current", "queued", "load", "number"),
    [
        # it grows with what waits
        (0, 1, 0.0, 1),
        (1, 1_000, 1.0, 1),
        (1, 1_001, 1.0, 2),
        (1, 7_500, 1.0, 8),
        (2, 2_001, 0.0, 3),
        # it holds while the others would be too few for what waits
        (1, 1, 0.0, 1),
        (3, 3_000, 0.1, 3),
        (3, 2_001, 0.1, 3),
        # or for what runs
        (3, 0, 1.5, 3),
        (2, 0, 0.71, 2),
        # and shrinks one at a time
        (3, 2_000, 0.1, 2),
        (8, 0, 0.1, 7),
        (3, 0, 1.4, 2),
        (2, 0, 0.7, 1),
        # to none only when nothing is open
        (1, 0, 0.01, 1),
        (1, 0, 0.0, 0),
        (0, 0, 0.0, 0),
        (4, 0, 0.0, 0),
    ],
)
def test_what_is_wanted(current: int, queued: int, load: float, number: int) -> None:
    assert wanted(current, queued, load, FOR_EACH) == number


def test_load_that_goes_takes_them_away_one_after_the_other_and_none_comes_back() -> None:
    current, seen = 5, []
    for load in (2.0, 2.0, 2.0, 0.5, 0.5, 0.5, 0.0):
        current = wanted(current, 0, load, FOR_EACH)
        seen.append(current)
    assert seen == [4, 3, 3, 2, 1, 1, 0]


def test_the_policy_sums_what_replicas_tell() -> None:
    policy = ByQueuedTokens(FOR_EACH)
    told = {"queued_tokens": {"a": 1_500.0, "b": 1_000.0}, "load": {"a": 2.0, "b": 0.1}}
    assert policy(SimpleNamespace(current_num_replicas=2, aggregated_metrics=told)) == (3, {})
    told = {"queued_tokens": {"a": 0.0}, "load": {"a": 0.0}}
    assert policy(SimpleNamespace(current_num_replicas=1, aggregated_metrics=told)) == (0, {})


@pytest.mark.parametrize("told", [None, {}, {"load": {}}])
def test_where_nothing_is_told_nothing_waits(told: object) -> None:
    context = SimpleNamespace(current_num_replicas=0, aggregated_metrics=told)
    assert ByQueuedTokens(FOR_EACH)(context) == (0, {})
