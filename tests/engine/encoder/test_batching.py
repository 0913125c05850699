"""The policy of batches: by length, the longest waiter first, little padding, every text once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from takeoff.engine.encoder.batching import FREE_PADDING, PADDING_SHARE, Batcher, WaitingText
from takeoff.engine.encoder.model import Tokens


def text(request_id: int, length: int, since: float = 0.0, index: int = 0) -> WaitingText:
    return WaitingText(request_id, index, Tokens([1] * length, [0] * length), since)


def lengths(batch: list[WaitingText]) -> list[int]:
    return [len(each.tokens) for each in batch]


def test_a_large_request_is_computed_from_its_longest_text_to_its_shortest() -> None:
    batcher = Batcher(3, 10_000, 0.0)
    batcher.add(text(1, length) for length in (5, 40, 10, 38, 7, 39))
    assert [lengths(batcher.take()) for _ in range(2)] == [[40, 39, 38], [10, 7, 5]]
    assert len(batcher) == 0


def test_the_oldest_request_is_in_the_next_batch_whatever_its_length() -> None:
    batcher = Batcher(2, 10_000, 0.0)
    batcher.add([text(1, 100, since=0.0)])
    batcher.add(text(i, 10, since=1.0) for i in range(2, 20))
    assert lengths(batcher.take()) == [100]
    batcher.add([text(50, 300, since=0.5)])
    assert batcher.take()[0].request_id == 50


def test_a_longer_text_joins_where_shorter_ones_leave_room() -> None:
    batcher = Batcher(3, 10_000, 0.0)
    batcher.add([text(1, 20, since=0.0), text(2, 30, since=1.0), text(3, 12, since=1.0)])
    assert lengths(batcher.take()) == [20, 12]
    batcher.add([text(4, 24, since=0.5)])
    assert lengths(batcher.take()) == [30, 24]


def test_a_batch_starts_when_it_is_full_or_its_oldest_text_has_waited() -> None:
    batcher = Batcher(4, 100, 0.010)
    assert batcher.due_in_s(0.0) is None
    batcher.add([text(1, 10, since=5.0)])
    assert batcher.due_in_s(5.004) == 5.0 + 0.010 - 5.004
    assert batcher.due_in_s(5.010) == 0.0
    batcher.add([text(2, 90, since=5.0)])  # as many tokens as a batch holds
    assert batcher.due_in_s(5.0) == 0.0
    batcher.remove(2)
    assert batcher.due_in_s(5.0) == 5.0 + 0.010 - 5.0
    batcher.add(text(i, 1, since=5.0) for i in range(3, 6))  # as many texts
    assert batcher.due_in_s(5.0) == 0.0


def test_a_cancelled_request_leaves_the_line_and_nobody_else_does() -> None:
    batcher = Batcher(8, 10_000, 0.0)
    batcher.add([text(1, 10), text(1, 11), text(2, 12)])
    batcher.remove(1)
    assert [each.request_id for each in batcher.take()] == [2]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 300)), min_size=1, max_size=60),
    st.integers(1, 16),
    st.integers(1, 1_000),
)
def test_batches_keep_every_bound_and_take_every_text_once(
    texts: list[tuple[int, int]], max_size: int, max_tokens: int
) -> None:
    batcher = Batcher(max_size, max_tokens, 0.0)
    waiting = [text(request, length, float(request), i) for i, (request, length) in enumerate(texts)]
    batcher.add(waiting)
    taken: list[WaitingText] = []
    while len(batcher):
        oldest = min(each.since for each in waiting if each not in taken)
        batch = batcher.take()
        longest, shortest = max(lengths(batch)), min(lengths(batch))
        assert oldest in [each.since for each in batch]
        assert len(batch) <= max_size
        assert len(batch) == 1 or len(batch) * longest <= max_tokens
        assert longest - shortest <= max(FREE_PADDING, PADDING_SHARE * longest)
        taken += batch
    assert sorted(each.index for each in taken) == list(range(len(texts)))
