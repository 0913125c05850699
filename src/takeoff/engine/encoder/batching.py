"""Which texts are computed together: those of one length, and whoever waits longest is among them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from takeoff.engine.encoder.model import Tokens

# A text joins a batch if padding it costs at most this: a call has a fixed cost of its own, too.
FREE_PADDING = 16  # tokens
PADDING_SHARE = 0.25  # of the longest text of the batch


@dataclass(eq=False, slots=True)
class WaitingText:
    """One text of a request on its way into a batch."""

    request_id: int
    index: int  # among the texts of its request
    tokens: Tokens
    since: float  # when its request arrived, in seconds


class Batcher:
    """The texts that wait. A pure policy: it knows no clock and no model."""

    def __init__(self, max_batch_size: int, max_batch_tokens: int, duration_s: float) -> None:
        """A batch holds `max_batch_size` texts and, padded, `max_batch_tokens` tokens at most.

        A lone text is a batch whatever its length; `duration_s` is how long one waits for others.
        """
        self._max_size = max_batch_size
        self._max_tokens = max_batch_tokens
        self._duration_s = duration_s
        self._waiting: list[WaitingText] = []  # the longest first
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, texts: Iterable[WaitingText]) -> None:
        self._waiting.extend(texts)
        self._waiting.sort(key=_length, reverse=True)
        self._num_tokens = sum(map(_length, self._waiting))

    def remove(self, request_id: int) -> None:
        """Drop what still waits of a request."""
        self._waiting = [text for text in self._waiting if text.request_id != request_id]
        self._num_tokens = sum(map(_length, self._waiting))

    def due_in_s(self, now: float) -> float | None:
        """How long to wait for more texts; 0: a batch should start now; None: nothing waits."""
        if not self._waiting:
            return None
        if len(self._waiting) >= self._max_size or self._num_tokens >= self._max_tokens:
            return 0.0
        oldest = min(text.since for text in self._waiting)
        return max(oldest + self._duration_s - now, 0.0)

    def take(self) -> list[WaitingText]:
        """The next batch: the longest text of the oldest request, and those nearest in length.

        Shorter ones first, so that a large request is computed from its longest text to its shortest.
        """
        oldest = min(self._waiting, key=_arrival)
        start = next(i for i, text in enumerate(self._waiting) if _arrival(text) == _arrival(oldest))
        end = start + 1
        while end < len(self._waiting) and self._fits(start, end + 1):
            end += 1
        while start > 0 and self._fits(start - 1, end):
            start -= 1
        batch = self._waiting[start:end]
        del self._waiting[start:end]
        self._num_tokens -= sum(map(_length, batch))
        return batch

    def _fits(self, start: int, end: int) -> bool:
        longest, shortest = _length(self._waiting[start]), _length(self._waiting[end - 1])
        size = end - start
        padding = longest - shortest
        return (
            size <= self._max_size
            and size * longest <= self._max_tokens
            and padding <= max(FREE_PADDING, PADDING_SHARE * longest)
        )


def _length(text: WaitingText) -> int:
    return len(text.tokens)


def _arrival(text: WaitingText) -> tuple[float, int]:
    return text.since, text.request_id
