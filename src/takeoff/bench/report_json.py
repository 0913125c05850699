"""Everything that was measured, every round and every request of it, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from takeoff.bench.client import REFUSALS, Trace
from takeoff.bench.comparison import Measured
from takeoff.bench.runs import Outcome
from takeoff.bench.target import Target

PLACES = 5  # of a time in seconds


def as_json(
    measured: Sequence[Measured],
    targets: Sequence[Target],
    conditions: dict[str, Any],
    sentences: Sequence[str],
) -> dict[str, Any]:
    """The whole report. Times of a request are seconds from the run's first request."""
    names = [target.name for target in targets]
    return {
        "conditions": conditions,
        "targets": [
            {"name": target.name, "url": target.url, "api": target.api.name, "model": target.model}
            for target in targets
        ],
        "scenarios": [
            {
                "name": each.scenario.name,
                "title": each.scenario.title,
                "streams": each.scenario.num_streams,
                "figures": [
                    {
                        "name": figure.name,
                        "unit": figure.unit,
                        "higher_is_better": figure.higher_is_better,
                        "count": {name: each.count(name, figure.name) for name in names},
                        "rounds": {name: each.values(name, figure.name) for name in names},
                        "median": {name: each.median(name, figure.name) for name in names},
                        "ratio": {name: each.ratio(names[0], name, figure.name) for name in names[1:]},
                    }
                    for figure in each.scenario.figures
                ],
                "errors": {name: each.errors(name) for name in names},
                "refusals": {
                    name: {str(status): each.refusals(name, status) for status in REFUSALS} for name in names
                },
                "runs": {name: [_run(outcome) for outcome in each.outcomes[name]] for name in names},
            }
            for each in measured
        ],
        "verdict": list(sentences),
    }


def _run(outcome: Outcome) -> dict[str, Any]:
    origin = min((trace.sent_at for trace in outcome.traces), default=0.0)
    return {
        "memory_bytes": outcome.memory_bytes,
        "client_share_of_a_core": round(outcome.client_share, 3),
        "others_share_of_a_core": None if outcome.others_share is None else round(outcome.others_share, 3),
        "client_late_p99_s": round(outcome.lateness_s, PLACES),
        "rates": [
            {
                "requests_per_s": point.rate,
                "is_kept": point.is_kept,
                "figures": {name: reading.value for name, reading in point.readings.items()},
            }
            for point in outcome.points
        ],
        "requests": [_request(trace, origin) for trace in outcome.traces],
    }


def _request(trace: Trace, origin: float) -> dict[str, Any]:
    planned = None if trace.planned_at is None else round(trace.planned_at - origin, PLACES)
    return {
        "planned": planned,
        "sent": round(trace.sent_at - origin, PLACES),
        "text": [round(at - origin, PLACES) for at in trace.text_at],
        "ended": round(trace.ended_at - origin, PLACES),
        "prompt_tokens": trace.prompt_tokens,
        "cached_tokens": trace.cached_tokens,
        "completion_tokens": trace.completion_tokens,
        "status": trace.status,
        "error": trace.error,
        "left": trace.has_left,
        "warm_up": trace.is_warm_up,
        "kind": trace.kind,
    }
