"""What the client saw of one streamed completion, and the figures that follow from it.

Terms, as every figure of this package uses them. All times are the client's, from one monotonic clock.

sent      the moment before the connection is opened; opening it is part of every time below.
event     one server-sent event that carries text. An event without text (a role, a usage count,
          text held back until a character is whole) is not one.
arrival   one read from the socket that brought text. Events read together are one arrival, so a
          server gains nothing by cutting the same bytes into more events.
TTFT      time to first token: from sent to the first arrival.
ITL       inter-token latency, also "gap": from one arrival to the next of the same stream. A server
          that sends several tokens at once has fewer and longer gaps.
TPOT      time per output token: from the first to the last arrival, over the completion tokens but one.
tokens    completion tokens as the server's `usage` counts them. Where a part of a completion is
          counted (a window of time), each of its events stands for an equal share of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Gap(NamedTuple):
    """The silence between two arrivals of one stream."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    def overlaps(self, start_s: float, end_s: float) -> bool:
        return self.end_s > start_s and self.start_s < end_s


@dataclass(eq=False, slots=True)
class Trace:
    """One completion as it came in; filled by the stream that receives it."""

    sent_s: float
    arrivals_s: list[float] = field(default_factory=list)
    arrival_events: list[int] = field(default_factory=list)  # events of each arrival
    end_s: float | None = None  # when the stream ended; None while it runs or when it was dropped
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None

    def add_arrival(self, now_s: float, num_events: int) -> None:
        self.arrivals_s.append(now_s)
        self.arrival_events.append(num_events)

    @property
    def num_events(self) -> int:
        return sum(self.arrival_events)

    @property
    def num_tokens(self) -> int:
        """Completion tokens; of a stream that was dropped, as many as events came."""
        return self.num_events if self.completion_tokens is None else self.completion_tokens

    @property
    def first_s(self) -> float:
        """When the first text came. A completed trace has one."""
        return self.arrivals_s[0]

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float:
        """Seconds per token after the first; 0.0 for a completion of one token."""
        return (self.arrivals_s[-1] - self.first_s) / max(self.num_tokens - 1, 1)

    @property
    def duration_s(self) -> float:
        """From sent to the end of the stream."""
        end_s = self.arrivals_s[-1] if self.end_s is None else self.end_s
        return end_s - self.sent_s

    @property
    def gaps(self) -> list[Gap]:
        return [Gap(*pair) for pair in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)]

    def tokens_between(self, start_s: float, end_s: float) -> float:
        """Tokens that arrived in (start_s, end_s]."""
        events = sum(
            num_events
            for time_s, num_events in zip(self.arrivals_s, self.arrival_events, strict=True)
            if start_s < time_s <= end_s
        )
        return events * self.num_tokens / self.num_events if events else 0.0


def median(values: Iterable[float]) -> float:
    return percentile(values, 50)


def percentile(values: Iterable[float], q: float) -> float:
    """Linear between ranks; `q` in [0, 100]. `values` must not be empty."""
    return float(np.percentile(np.fromiter(values, dtype=np.float64), q))
