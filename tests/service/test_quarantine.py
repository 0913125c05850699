"""Which requests an engine is given after a death: the policy alone."""

from __future__ import annotations

from takeoff.service.quarantine import Quarantine


def with_open(*request_ids: int) -> Quarantine:
    quarantine = Quarantine()
    quarantine.loaded()
    for request_id in request_ids:
        assert quarantine.add(request_id) == [request_id]
    return quarantine


def test_after_one_crash_all_go_on_in_the_order_in_which_they_came() -> None:
    quarantine = with_open(3, 1, 2)
    assert quarantine.died([1], is_crash=True) is None
    assert quarantine.add(4) == [], "there is no engine"
    assert quarantine.loaded() == [3, 1, 2, 4]


def test_suspects_of_two_crashes_are_tried_one_at_a_time_and_the_others_come_after_them() -> None:
    quarantine = with_open(1, 2, 3, 4)
    quarantine.died([2, 3], is_crash=True)
    assert quarantine.loaded() == [1, 2, 3, 4]
    quarantine.died([2, 3, 4], is_crash=True)
    assert quarantine.loaded() == [2]
    assert quarantine.add(5) == []
    assert quarantine.answered(2) == [3]
    assert quarantine.died([3], is_crash=True) == 3
    quarantine.left(3)
    assert quarantine.loaded() == [1, 2, 4, 5]
    assert quarantine.add(6) == [6]


def test_who_has_made_a_token_since_is_no_suspect() -> None:
    quarantine = with_open(1, 2)
    for _ in range(10):
        assert quarantine.died([1, 2], is_crash=True) is None
        assert quarantine.loaded() == [1, 2]
        quarantine.answered(1)
        quarantine.answered(2)


def test_a_kill_from_outside_fails_nobody_however_often() -> None:
    quarantine = with_open(1, 2)
    for _ in range(100):
        assert quarantine.died([1, 2], is_crash=False) is None
        assert quarantine.loaded() == [1, 2]
    quarantine.died([1, 2], is_crash=True)
    quarantine.loaded()
    quarantine.died([1, 2], is_crash=True)
    for _ in range(100):
        assert quarantine.loaded() == [1]
        assert quarantine.died([1], is_crash=False) is None
    assert quarantine.loaded() == [1]
    assert quarantine.answered(1) == [2]


def test_a_crash_between_calls_suspects_those_that_were_given_no_token_by_that_engine() -> None:
    quarantine = with_open(1, 2, 3)
    quarantine.answered(1)
    quarantine.died([], is_crash=True)
    assert quarantine.loaded() == [1, 2, 3]
    quarantine.answered(1)
    quarantine.died([], is_crash=True)
    assert quarantine.loaded() == [2]
    assert quarantine.answered(2) == [3]
    assert quarantine.died([], is_crash=True) == 3


def test_a_crash_in_the_call_of_others_convicts_nobody_and_begins_with_an_empty_engine() -> None:
    quarantine = with_open(1, 2)
    quarantine.died([1, 2], is_crash=True)
    quarantine.loaded()
    quarantine.died([1, 2], is_crash=True)
    assert quarantine.loaded() == [1]
    assert quarantine.answered(1) == [2]
    assert quarantine.died([1, 2], is_crash=True) is None, "1 was in that call as well"
    assert quarantine.loaded() == [2]
    assert quarantine.died([2], is_crash=True) == 2
    quarantine.left(2)
    assert quarantine.loaded() == [1]


def test_a_crash_while_an_engine_loads_neither_accuses_nor_absolves() -> None:
    quarantine = with_open(1, 2)
    quarantine.died([2], is_crash=True)
    quarantine.died([], is_crash=True)
    assert quarantine.loaded() == [1, 2]
    quarantine.died([2], is_crash=True)
    quarantine.died([], is_crash=True)
    assert quarantine.loaded() == [2]
    assert quarantine.died([2], is_crash=True) == 2


def test_who_leaves_while_on_trial_or_in_line_holds_nobody_up() -> None:
    quarantine = with_open(1, 2, 3, 4)
    for _ in range(2):
        quarantine.died([1, 2, 3], is_crash=True)
        sent = quarantine.loaded()
    assert sent == [1]
    assert quarantine.left(2) == []
    assert quarantine.left(1) == [3]
    assert quarantine.left(3) == [4]


def test_an_engine_that_dies_idle_accuses_nobody() -> None:
    quarantine = with_open()
    for _ in range(5):
        assert quarantine.died([], is_crash=True) is None
        assert quarantine.loaded() == []
    assert quarantine.add(1) == [1]
