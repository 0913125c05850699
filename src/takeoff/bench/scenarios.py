"""What is measured: each scenario is one piece of work that a server is given, and its figures.

Every scenario draws its prompts from `Prompts`, so that two servers get the same work in a round
and no round repeats the prompts of an earlier one.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from takeoff.bench.client import Trace, Work, complete
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import Target

LEAVE_AFTER_S = 2.0
SMALL_WORDS, SMALL_TOKENS = 20, 16  # the small request that somebody waits for


@dataclass(eq=False, slots=True)
class Outcome:
    """The figures of one run of a scenario, by name, and every request's trace."""

    figures: dict[str, float]
    traces: list[Trace] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        return [trace.error for trace in self.traces if trace.error is not None]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a scenario yields."""

    name: str
    unit: str
    higher_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    figures: tuple[Figure, ...]  # the first is the one to look at
    run: Callable[[Target, Prompts], Awaitable[Outcome]]


async def _one_stream(target: Target, prompts: Prompts) -> Outcome:
    trace = await complete(target, Work(prompts.text(32), 128))
    return _outcome([trace], lambda: {"rate": trace.completion_tokens / trace.seconds, "ttft": trace.ttft_s})


def _streams(num_streams: int, num_requests: int) -> Callable[[Target, Prompts], Awaitable[Outcome]]:
    async def run(target: Target, prompts: Prompts) -> Outcome:
        """Keep `num_streams` busy with requests of different lengths, until there are no more.

        The rate is that of the time in which all of them were busy: tokens that came until the
        first stream found nothing left to ask.
        """
        work = iter([Work(prompts.text(32), prompts.number(32, 192)) for _ in range(num_requests)])
        traces: list[Trace] = []
        started = time.perf_counter()
        ended: list[float] = []

        async def stream() -> None:
            traces.extend([await complete(target, each) for each in work])
            ended.append(time.perf_counter())

        await asyncio.gather(*(stream() for _ in range(num_streams)))
        until = min(ended)
        return _outcome(traces, lambda: _busy_figures(traces, started, until))

    return run


def _busy_figures(traces: list[Trace], started: float, until: float) -> dict[str, float]:
    # A piece of text may be several tokens: what came until then is counted as its share of them.
    tokens = sum(
        trace.completion_tokens * np.searchsorted(trace.text_at, until, "right") / len(trace.text_at)
        for trace in traces
    )
    gaps = [gap for trace in traces for gap in trace.gaps()]
    return {
        "rate": float(tokens) / (until - started),
        "itl_p50": _percentile(gaps, 50),
        "itl_p99": _percentile(gaps, 99),
        "ttft": statistics.median(trace.ttft_s for trace in traces),
    }


async def _shared_prefix(target: Target, prompts: Prompts) -> Outcome:
    prefix = prompts.text(800)
    traces = await _all_at_once(target, [Work(f"{prefix} {prompts.text(20)}", 16) for _ in range(16)])
    return _outcome(
        traces,
        lambda: {
            "ttft": statistics.median(trace.ttft_s for trace in traces),
            "ttft_max": max(trace.ttft_s for trace in traces),
        },
    )


async def _prompts_between(target: Target, prompts: Prompts) -> Outcome:
    """Eight streams decode; when each has come 64 pieces far, four long prompts arrive at once."""
    started = time.perf_counter()
    far = [asyncio.Event() for _ in range(8)]

    async def stream(is_far: asyncio.Event, work: Work) -> Trace:
        try:
            return await complete(target, work, on_text=_set_when_far(is_far))
        finally:
            is_far.set()  # one that failed never comes so far

    running = [asyncio.ensure_future(stream(is_far, Work(prompts.text(32), 320))) for is_far in far]
    await asyncio.gather(*(is_far.wait() for is_far in far))
    arrived = time.perf_counter()
    arrivals = await _all_at_once(target, [Work(prompts.text(900), 8) for _ in range(4)])
    streams = await asyncio.gather(*running)
    traces = streams + arrivals

    def figures() -> dict[str, float]:
        settled = max(trace.text_at[0] for trace in streams)
        computed = max(trace.text_at[0] for trace in arrivals)
        alone = [gap for trace in streams for gap in trace.gaps(settled, arrived)]
        beside = [gap for trace in streams for gap in trace.gaps(arrived, computed)]
        tokens = sum(trace.completion_tokens for trace in traces)
        return {
            "gap_p99_ratio": _percentile(beside, 99) / statistics.median(alone),
            "gap_alone": statistics.median(alone),
            "gap_p99": _percentile(beside, 99),
            "prompts_done": computed - arrived,
            "rate": tokens / (max(trace.ended_at for trace in traces) - started),
        }

    return _outcome(traces, figures)


def _set_when_far(is_far: asyncio.Event) -> Callable[[Trace], None]:
    def on_text(trace: Trace) -> None:
        if len(trace.text_at) == 64:
            is_far.set()

    return on_text


async def _clients_leave(target: Target, prompts: Prompts) -> Outcome:
    """Sixteen clients leave in the middle of their work; how long does the next small request take?"""
    small = [await complete(target, Work(prompts.text(SMALL_WORDS), SMALL_TOKENS)) for _ in range(3)]
    leavers = [asyncio.ensure_future(complete(target, Work(prompts.text(300), 400))) for _ in range(16)]
    await asyncio.sleep(LEAVE_AFTER_S)
    for leaver in leavers:
        leaver.cancel()
    await asyncio.gather(*leavers, return_exceptions=True)
    after = await complete(target, Work(prompts.text(SMALL_WORDS), SMALL_TOKENS))
    idle = statistics.median(trace.seconds for trace in small)
    return _outcome(
        [*small, after], lambda: {"ratio": after.seconds / idle, "after": after.seconds, "idle": idle}
    )


async def _all_at_once(target: Target, work: list[Work]) -> list[Trace]:
    return await asyncio.gather(*(complete(target, each) for each in work))


def _outcome(traces: list[Trace], figures: Callable[[], dict[str, float]]) -> Outcome:
    """Figures are only those of runs in which every request got what it asked for."""
    failed = any(trace.error is not None for trace in traces)
    return Outcome({} if failed else figures(), traces)


def _percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")


_RATE = Figure("rate", "tokens/s", higher_is_better=True)
_TTFT = Figure("ttft", "s")
_BUSY = (_RATE, Figure("itl_p50", "s"), Figure("itl_p99", "s"), _TTFT)

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("one", "1 stream of 128 tokens", (_RATE, _TTFT), _one_stream),
    Scenario("eight", "8 streams of 32 to 192 tokens", _BUSY, _streams(8, 32)),
    Scenario("thirty-two", "32 streams of 32 to 192 tokens", _BUSY, _streams(32, 96)),
    Scenario(
        "shared-prefix",
        "16 requests at once with a common prefix of 800 words, cold",
        (_TTFT, Figure("ttft_max", "s")),
        _shared_prefix,
    ),
    Scenario(
        "prompts-between",
        "8 streams decode while four prompts of 900 words arrive",
        (
            Figure("gap_p99_ratio", "x alone"),
            Figure("gap_alone", "s"),
            Figure("gap_p99", "s"),
            Figure("prompts_done", "s"),
            _RATE,
        ),
        _prompts_between,
    ),
    Scenario(
        "clients-leave",
        "16 clients leave in the middle, then a small request",
        (Figure("ratio", "x idle"), Figure("after", "s"), Figure("idle", "s")),
        _clients_leave,
    ),
)


def find_scenarios(names: list[str]) -> Iterator[Scenario]:
    """The scenarios of these names, in their own order; all of them if there are no names."""
    return (scenario for scenario in SCENARIOS if not names or scenario.name in names)
