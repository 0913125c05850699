"""How each scenario is run: what a server is asked, and the figures of what came.

Prompts, lengths and times are drawn from `Prompts`, so that two servers get the same work in a round and
no round repeats the prompts of an earlier one.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from takeoff.bench.apis import Work
from takeoff.bench.client import Trace, complete
from takeoff.bench.goodput import highest_rate
from takeoff.bench.load import arrive, at_once, keep_busy, poisson_times
from takeoff.bench.measures import (
    Hopes,
    Promise,
    Reading,
    Readings,
    busy,
    goodput,
    latencies,
    nearest_rank,
    spread,
    token_rate,
)
from takeoff.bench.prompts import Prompts
from takeoff.bench.server_metrics import idle_after
from takeoff.bench.target import Target

LEAVE_AFTER_S = 2.0
SMALL_WORDS, SMALL_TOKENS = 20, 16  # the small request that somebody waits for
WARM_UP_SHARE = 0.1  # of the time in which requests arrive
ANSWER_TOKENS = 100  # of requests that arrive at a rate
LEAST_ARRIVALS = 10  # on average, in a probe of a rate


@dataclass(frozen=True, slots=True)
class Terms:
    """What the user may set of the scenarios."""

    promise: Promise
    rate: float  # requests/s
    duration_s: float  # of arrivals
    levels: tuple[int, ...]  # streams at a time


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """What arrivals at a rate met."""

    rate: float  # requests/s
    readings: Readings  # none of a run that was given up
    is_kept: bool  # the promise


@dataclass(eq=False, slots=True)
class Outcome:
    """The figures of one run of a scenario, by name, and every request's trace.

    `client_share` is what the client took of a core, `others_share` what other programs took, in cores;
    `memory_bytes` what the server held afterwards.
    """

    figures: Readings
    traces: list[Trace] = field(default_factory=list)
    points: list[LoadPoint] = field(default_factory=list)
    client_share: float = 0.0
    others_share: float | None = None
    memory_bytes: int | None = None

    @property
    def errors(self) -> list[str]:
        """Refusals are none: they are counted apart."""
        return [trace.error for trace in self.traces if trace.error is not None and not trace.is_refused]

    def refusals(self, status: int) -> int:
        return sum(trace.status == status for trace in self.traces)

    @property
    def lateness_s(self) -> float:
        """p99 of how much later than planned the client turned to a request; 0 where nothing was planned."""
        late = [trace.began_at - trace.planned_at for trace in self.traces if trace.planned_at is not None]
        return nearest_rank(late, 99) if late else 0.0


Run = Callable[[Target, Prompts], Awaitable[Outcome]]


def busy_streams(num_streams: int) -> Run:
    """Keep so many streams busy with texts of different lengths."""

    async def run(target: Target, prompts: Prompts) -> Outcome:
        work = [Work(prompts.text(32), prompts.number(32, 192)) for _ in range(3 * num_streams + 1)]
        return await _busy_outcome(target, work, num_streams)

    return run


async def random_ends(target: Target, prompts: Prompts) -> Outcome:
    """Texts that may end at each token: most soon, some late, so that slots become free at any time."""
    work = [Work(prompts.text(32), prompts.lifetime(64, 256)) for _ in range(48)]
    return await _busy_outcome(target, work, 8)


async def mixed(target: Target, prompts: Prompts) -> Outcome:
    """Eight clients; of each four requests three are short and one is long, in an order of chance."""
    work = [
        Work(prompts.text(prompts.number(600, 800)), prompts.number(16, 64), kind="long")
        if place % 4 == 0
        else Work(prompts.text(prompts.number(20, 60)), prompts.number(32, 96), kind="short")
        for place in range(40)
    ]
    prompts.draw.shuffle(work)
    run = await keep_busy(target, work, 8)

    def figures() -> Readings:
        readings = busy(run)
        for kind in ("short", "long"):
            times = [t.ttft_s for t in run.traces if t.kind == kind and not t.is_warm_up]
            readings |= spread(f"ttft_{kind}", times)
        return readings

    return _outcome(run.traces, figures)


async def repeat_input(target: Target, prompts: Prompts) -> Outcome:
    """One client has a document written again, as editors of texts and of JSON are asked to do."""
    work = []
    for _ in range(4):
        records = prompts.records(8)
        prompt = f"The records:\n{records}\n\nThe same records, but the first is done:\n{records[:24]}"
        work.append(Work(prompt, 192))
    return await _busy_outcome(target, work, 1)


async def _busy_outcome(target: Target, work: Sequence[Work], num_clients: int) -> Outcome:
    run = await keep_busy(target, work, num_clients)
    return _outcome(run.traces, lambda: busy(run))


async def shared_prefix(target: Target, prompts: Prompts) -> Outcome:
    prefix = prompts.text(800)
    traces = await at_once(target, [Work(f"{prefix} {prompts.text(20)}", 16) for _ in range(16)])

    def figures() -> Readings:
        slowest = max(trace.ttft_s for trace in traces)
        return {**latencies(traces), "ttft_max": Reading(slowest, len(traces))}

    return _outcome(traces, figures)


async def prompts_between(target: Target, prompts: Prompts) -> Outcome:
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
    arrivals = await at_once(target, [Work(prompts.text(900), 8) for _ in range(4)])
    streams = await asyncio.gather(*running)
    traces = streams + arrivals

    def figures() -> Readings:
        settled = max(trace.text_at[0] for trace in streams)
        computed = max(trace.text_at[0] for trace in arrivals)
        alone = [gap for trace in streams for gap in trace.gaps(settled, arrived)]
        beside = [gap for trace in streams for gap in trace.gaps(arrived, computed)]
        if not alone or not beside:  # the server sends so much at once that nobody sees a gap
            return {}
        undisturbed, disturbed = statistics.median(alone), nearest_rank(beside, 99)
        return {
            "gap_p99_ratio": Reading(disturbed / undisturbed, len(beside)),
            "gap_alone": Reading(undisturbed, len(alone)),
            "gap_p99": Reading(disturbed, len(beside)),
            "prompts_done": Reading(computed - arrived, len(arrivals)),
            **token_rate(traces, started, max(trace.ended_at for trace in traces)),
        }

    return _outcome(traces, figures)


def _set_when_far(is_far: asyncio.Event) -> Callable[[Trace], None]:
    def on_text(trace: Trace) -> None:
        if len(trace.text_at) == 64:
            is_far.set()

    return on_text


async def clients_leave(target: Target, prompts: Prompts) -> Outcome:
    """Sixteen clients leave in the middle of their work; how long does the next small request take?"""
    small = [await complete(target, Work(prompts.text(SMALL_WORDS), SMALL_TOKENS)) for _ in range(3)]
    leavers = [asyncio.ensure_future(complete(target, Work(prompts.text(300), 400))) for _ in range(16)]
    await asyncio.sleep(LEAVE_AFTER_S)
    for leaver in leavers:
        leaver.cancel()
    await asyncio.gather(*leavers, return_exceptions=True)
    after = await complete(target, Work(prompts.text(SMALL_WORDS), SMALL_TOKENS))

    def figures() -> Readings:
        idle = statistics.median(trace.seconds for trace in small)
        return {
            "ratio": Reading(after.seconds / idle),
            "after": Reading(after.seconds),
            "idle": Reading(idle, len(small)),
        }

    return _outcome([*small, after], figures)


async def leave_mid_stream(target: Target, prompts: Prompts) -> Outcome:
    """Of sixteen streams every other is left at a piece of chance; the rest go on to their ends.

    Those that are left could go on for so long that even pieces of many tokens don't end them before.
    `freed`: seconds from the last stream's end until the server's own metrics show no open request.
    """
    work = [
        Work(prompts.text(32), 512, leave_after=prompts.number(4, 32))
        if place % 2
        else Work(prompts.text(32), 128)
        for place in range(16)
    ]
    traces = await at_once(target, work)
    freed = await idle_after(target)

    def figures() -> Readings:
        stayed = [trace for trace in traces if not trace.has_left]
        shown = {"left": Reading(len(traces) - len(stayed), len(traces))}
        if freed is not None:
            shown["freed"] = Reading(freed)
        return {**latencies(stayed), **shown}

    return _outcome(traces, figures)


async def _arrivals(
    target: Target, prompts: Prompts, rate: float, terms: Terms, *, to_the_end: bool
) -> Outcome:
    """Prompts of about 300 tokens with a common start of 200, answers of 100, at times of chance.

    Unless it is to go `to_the_end`, it is given up as soon as the promise can't be kept any more.
    """
    duration_s = terms.duration_s if to_the_end else max(terms.duration_s, LEAST_ARRIVALS / rate)
    warm_up_s = duration_s * WARM_UP_SHARE
    times = poisson_times(prompts.draw, rate, warm_up_s + duration_s)
    prefix = prompts.text(200)
    work = [Work(f"{prefix} {prompts.text(100)}", ANSWER_TOKENS) for _ in times]
    num_requests = sum(time_s >= warm_up_s for time_s in times)
    hopes = Hopes(terms.promise, num_requests, num_requests * (ANSWER_TOKENS - 1))
    is_hopeless = (lambda _: False) if to_the_end else hopes.are_gone_after
    run = await arrive(target, work, times, warm_up_s, is_hopeless)
    counted = [trace for trace in run.traces if not trace.is_warm_up]
    readings = {
        **goodput(run.traces, terms.promise, duration_s),
        **token_rate(run.traces, run.since, run.until),
        **latencies([trace for trace in counted if trace.error is None]),
        "offered": Reading(num_requests / duration_s, num_requests),
    }
    if len(run.traces) < len(work):
        return Outcome({}, run.traces, [LoadPoint(rate, {}, is_kept=False)])
    is_kept = terms.promise.is_kept(readings) and all(trace.error is None for trace in counted)
    return Outcome(readings, run.traces, [LoadPoint(rate, readings, is_kept)])


def poisson(terms: Terms) -> Run:
    async def run(target: Target, prompts: Prompts) -> Outcome:
        return await _arrivals(target, prompts, terms.rate, terms, to_the_end=True)

    return run


def search_goodput(terms: Terms) -> Run:
    """What breaks the promise at rates above the highest is no error: only the best run's traces count."""

    async def run(target: Target, prompts: Prompts) -> Outcome:
        probes: list[Outcome] = []

        async def keeps(rate: float) -> bool:
            probes.append(await _arrivals(target, prompts, rate, terms, to_the_end=False))
            await idle_after(target)
            return probes[-1].points[0].is_kept

        rate = await highest_rate(keeps, terms.rate)
        points = [probe.points[0] for probe in probes]
        best = next((probe for probe in probes if probe.points[0].rate == rate), Outcome({}))
        return Outcome({**best.figures, "max_rate": Reading(rate, len(probes))}, best.traces, points)

    return run


def _outcome(traces: list[Trace], figures: Callable[[], Readings]) -> Outcome:
    """Figures are only those of runs in which every request got what it asked for."""
    failed = any(trace.error is not None for trace in traces)
    return Outcome({} if failed else figures(), traces)
