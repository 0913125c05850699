"""The tree finds what a comparison with every sequence finds, whatever was added and removed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from takeoff.engine.prefix_tree import PrefixTree, common_length

Tokens = tuple[int, ...]

sequences = st.lists(st.integers(0, 1), min_size=1, max_size=10).map(tuple)
steps = st.lists(st.tuples(sequences, st.booleans()), max_size=40)


def array(token_ids: Tokens) -> NDArray[np.int32]:
    return np.array(token_ids, np.int32)


def shared(a: Tokens, b: Tokens) -> int:
    return common_length(array(a), array(b))


def make_tree(*, can_trim: bool, now: list[float] | None = None) -> PrefixTree[Tokens]:
    times = now or [0.0]
    return PrefixTree(can_trim=can_trim, half_life=10.0, clock=lambda: times[0])


@given(steps, sequences, st.booleans())
def test_it_finds_what_a_look_at_every_sequence_finds(
    steps: list[tuple[Tokens, bool]], wanted: Tokens, can_trim: bool
) -> None:
    tree = make_tree(can_trim=can_trim)
    there: set[Tokens] = set()
    for token_ids, adds in steps:
        if adds:
            covered = {other for other in there if shared(other, token_ids) == len(other)}
            covered = covered if can_trim else covered & {token_ids}
            assert set(tree.covered_by("", array(token_ids))) == covered
            if can_trim and any(shared(other, token_ids) == len(token_ids) for other in there - covered):
                continue
            tree.add("", array(token_ids), token_ids)
            there = there - covered | {token_ids}
        elif there:
            tree.remove(least := min(there))
            there.remove(least)
    assert set(tree) == there
    common = max((shared(other, wanted) for other in there), default=0)
    assert tree.longest_common("", array(wanted)) == common
    found = tree.find("", array(wanted))
    if can_trim:
        assert (found[1] if found else 0) == common
        assert found is None or shared(found[0], wanted) == common
    else:
        whole = [other for other in there if shared(other, wanted) == len(other)]
        best = max(whole, key=len, default=None)
        assert found == (None if best is None else (best, len(best)))
    assert tree.find("another scope", array(wanted)) is None


@given(steps)
def test_together_the_items_are_worth_every_token_that_was_wanted_once(
    steps: list[tuple[Tokens, bool]],
) -> None:
    """Removing all but one, in any order, leaves it worth at least its own tokens."""
    tree = make_tree(can_trim=True)
    for token_ids, _ in steps:
        if tree.longest_common("", array(token_ids)) < len(token_ids):
            tree.add("", array(token_ids), token_ids)
    while len(tree) > 1:
        tree.remove(next(iter(tree)))
    for item in tree:
        assert tree.worth(item) == pytest.approx(len(item))


def test_a_token_counts_for_each_time_it_was_wanted_half_after_a_half_life() -> None:
    now = [0.0]
    tree = make_tree(can_trim=True, now=now)
    tree.add("", array((1, 2, 3, 4)), (1, 2, 3, 4))
    assert tree.worth((1, 2, 3, 4)) == 4
    tree.use((1, 2, 3, 4), 2)
    assert tree.worth((1, 2, 3, 4)) == 6
    now[0] = 10.0
    assert tree.worth((1, 2, 3, 4)) == 3
    tree.add("", array((1, 2, 9)), (1, 2, 9))
    assert tree.worth((1, 2, 9)) == 1, "its first two tokens are another's too"


def test_where_nothing_can_be_cut_a_snapshot_is_worth_what_lies_beyond_the_one_before_it() -> None:
    tree = make_tree(can_trim=False)
    for size in (4, 9):
        tree.add("", array(tuple(range(size))), tuple(range(size)))
    tree.add("", array((0, 1, 2, 3, 4, 7)), (0, 1, 2, 3, 4, 7))
    assert tree.worth(tuple(range(4))) == 4
    assert tree.worth(tuple(range(9))) == 5
    tree.use(tuple(range(9)), 9)
    assert (tree.worth(tuple(range(4))), tree.worth(tuple(range(9)))) == (4, 10)
    tree.remove(tuple(range(4)))
    assert tree.worth(tuple(range(9))) == 14
