"""The last sentence: how many users a server carries, and at what service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from takeoff.bench.client import REFUSALS
from takeoff.bench.comparison import Measured
from takeoff.bench.measures import Promise, Reading


@dataclass(frozen=True, slots=True)
class _Level:
    """So many users at a time, and the service they got; medians of the rounds."""

    num_users: int
    rate: float  # tokens/s of all of them
    tokens_per_s: float  # of each
    ttft_p95: float
    itl_p99: float


def verdict(measured: Sequence[Measured], target: str, promise: Promise) -> str:
    """One sentence about one server."""
    bounds = f"TTFT p95 ≤ {_seconds(promise.ttft_s)} and ITL p99 ≤ {_seconds(promise.itl_s)}"
    carried = [*_users(measured, target, promise), *_rates(measured, target)]
    if not carried:
        return (
            f"{target}: how many users it carries was not measured; run the scenarios of streams, or goodput."
        )
    return f"{target} on this machine carries {', and '.join(carried)} (promised: {bounds})."


def _users(measured: Sequence[Measured], target: str, promise: Promise) -> list[str]:
    """The most users for whom, and for all fewer ones, the promise was kept."""
    sweep = sorted(
        (each for each in measured if each.scenario.num_streams), key=lambda m: m.scenario.num_streams or 0
    )
    best: _Level | None = None
    for each in sweep:
        level = _level(each, target)
        if level is None or not _is_kept(level, promise):
            return [_upto(best, each.scenario.num_streams or 0, level)]
        best = level
    return [_service(best)] if best else []


def _upto(best: _Level | None, failed_at: int, failed: _Level | None) -> str:
    why = "requests failed" if failed is None else _latencies(failed)
    so_far = _service(best) if best else "no user as promised"
    return f"{so_far}, while with {failed_at} at once {f'they get {why}' if failed else why}"


def _service(level: _Level) -> str:
    users = "1 user" if level.num_users == 1 else f"{level.num_users} users at once"
    each = "" if level.num_users == 1 else " each"
    return f"{users} at {level.tokens_per_s:.3g} tokens/s{each} with {_latencies(level)}"


def _latencies(level: _Level) -> str:
    return f"TTFT p95 {_seconds(level.ttft_p95)} and ITL p99 {_seconds(level.itl_p99)}"


def _rates(measured: Sequence[Measured], target: str) -> list[str]:
    rates = [each.median(target, "max_rate") for each in measured]
    return [f"{rate:.3g} requests/s that arrive at random" for rate in rates if rate is not None]


def _level(measured: Measured, target: str) -> _Level | None:
    """None where a request failed or was refused, for that is no service."""
    if measured.errors(target) or any(measured.refusals(target, status) for status in REFUSALS):
        return None
    figures = [measured.median(target, name) for name in ("rate", "tpot_p50", "ttft_p95", "itl_p99")]
    rate, tpot, ttft, itl = (0.0 if value is None else value for value in figures)
    if None in figures[:3] or tpot == 0:
        return None
    return _Level(measured.scenario.num_streams or 0, rate, 1 / tpot, ttft, itl)


def _is_kept(level: _Level, promise: Promise) -> bool:
    return promise.is_kept({"ttft_p95": Reading(level.ttft_p95), "itl_p99": Reading(level.itl_p99)})


def _seconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
