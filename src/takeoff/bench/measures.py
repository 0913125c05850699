"""What is computed from traces: percentiles by nearest rank, rates, and how much kept a promise."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from takeoff.bench.client import Trace
from takeoff.bench.load import Traffic

PERCENTS = (50, 95, 99)


class Reading(NamedTuple):
    """A figure's value, and how many values it is made of."""

    value: float
    num_values: int = 1


Readings = dict[str, Reading]


@dataclass(frozen=True, slots=True)
class Promise:
    """A service level: bounds of the time to the first token and of the gaps after it, in seconds."""

    ttft_s: float
    itl_s: float

    def is_kept_for(self, trace: Trace) -> bool:
        """One user's request: whole, begun in time, and 99 % of its gaps within the bound."""
        if trace.error is not None or not trace.text_at or trace.ttft_s > self.ttft_s:
            return False
        gaps = trace.gaps()
        return not gaps or nearest_rank(gaps, 99) <= self.itl_s

    def is_kept(self, readings: Readings) -> bool:
        """All of them together: p95 of TTFT and p99 of ITL within the bounds."""
        return (
            "ttft_p95" in readings
            and readings["ttft_p95"].value <= self.ttft_s
            and ("itl_p99" not in readings or readings["itl_p99"].value <= self.itl_s)
        )


@dataclass(eq=False, slots=True)
class Hopes:
    """Whether a promise can still be kept for so many requests and gaps, told of each piece that comes."""

    promise: Promise
    num_requests: int
    num_gaps: int  # at most
    num_late: int = 0
    num_long: int = 0

    def are_gone_after(self, trace: Trace) -> bool:
        """Count the trace's last piece; True once too many are beyond the bounds, whatever still comes."""
        if len(trace.text_at) == 1:
            self.num_late += trace.ttft_s > self.promise.ttft_s
        else:
            self.num_long += trace.text_at[-1] - trace.text_at[-2] > self.promise.itl_s
        return self.num_late > self.num_requests - _rank(
            self.num_requests, 95
        ) or self.num_long > self.num_gaps - _rank(self.num_gaps, 99)


def nearest_rank(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed; of at least one value."""
    return sorted(values)[max(_rank(len(values), percent), 1) - 1]


def _rank(count: int, percent: float) -> int:
    return math.ceil(count * percent / 100)


def spread(name: str, values: Sequence[float], percents: Iterable[int] = PERCENTS) -> Readings:
    """NAME_p50, NAME_p95 and NAME_p99; nothing of no values."""
    return {
        f"{name}_p{percent}": Reading(nearest_rank(values, percent), len(values))
        for percent in percents
        if values
    }


def latencies(traces: Sequence[Trace], since: float = 0.0, until: float = float("inf")) -> Readings:
    """TTFT, ITL and TPOT of requests that began to answer in the span, warm-up excluded; in seconds.

    Gaps of every request count, if they end in the span. A gap is between two arrivals of text.
    """
    begun = [t for t in traces if not t.is_warm_up and t.text_at and since < t.text_at[0] <= until]
    return {
        **spread("ttft", [trace.ttft_s for trace in begun]),
        **spread("itl", [gap for trace in traces for gap in trace.gaps(since, until)]),
        **spread("tpot", [trace.tpot_s for trace in begun if trace.tpot_s is not None]),
    }


def token_rate(traces: Sequence[Trace], since: float, until: float) -> Readings:
    """`rate`: tokens a second that came in the span; nothing of an empty span.

    A piece of text may be several tokens: a request's count as its pieces' share of them.
    """
    if until <= since:
        return {}
    tokens = 0.0
    for trace in traces:
        if trace.text_at:
            pieces = bisect.bisect_right(trace.text_at, until) - bisect.bisect_right(trace.text_at, since)
            tokens += trace.completion_tokens * pieces / len(trace.text_at)
    return {"rate": Reading(tokens / (until - since), round(tokens))}


def busy(run: Traffic) -> Readings:
    """Tokens/s and latencies of a run in the span that counts."""
    return {
        **token_rate(run.traces, run.since, run.until),
        **latencies(run.traces, run.since, run.until),
    }


def goodput(traces: Sequence[Trace], promise: Promise, duration_s: float) -> Readings:
    """The share of requests for which the promise was kept, and how many a second; warm-up excluded."""
    counted = [trace for trace in traces if not trace.is_warm_up]
    if not counted:
        return {}
    good = sum(promise.is_kept_for(trace) for trace in counted)
    return {
        "good_share": Reading(good / len(counted), len(counted)),
        "good_rate": Reading(good / duration_s, len(counted)),
    }
