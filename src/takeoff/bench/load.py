"""Who asks when: all at once, so many at any time, or at times that were drawn beforehand."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from takeoff.bench.apis import Work
from takeoff.bench.client import Trace, complete
from takeoff.bench.target import Target


@dataclass(eq=False, slots=True)
class Traffic:
    """The traces of some work, and the span that counts: warmed up, and all clients still asking."""

    traces: list[Trace]
    since: float
    until: float


async def at_once(target: Target, work: Sequence[Work]) -> list[Trace]:
    """Everyone asks now."""
    return await asyncio.gather(*(complete(target, each) for each in work))


async def keep_busy(target: Target, work: Sequence[Work], num_clients: int) -> Traffic:
    """Each client asks for the next piece of work as soon as it has an answer, until none is left.

    The first request of each client is warm-up: all of them begin at once, as nobody's users do. The
    span is from the last one's first text to when the first client finds nothing left to ask.
    """
    waiting = iter(work)
    traces: list[Trace] = []
    ended: list[float] = []
    begun = time.perf_counter()

    async def client() -> None:
        is_first = True
        for each in waiting:
            trace = await complete(target, each)
            trace.is_warm_up, is_first = is_first, False
            traces.append(trace)
        ended.append(time.perf_counter())

    await asyncio.gather(*(client() for _ in range(num_clients)))
    since = max((trace.text_at[0] for trace in traces if trace.is_warm_up and trace.text_at), default=begun)
    return Traffic(traces, since, min(ended))


async def arrive(
    target: Target,
    work: Sequence[Work],
    times_s: Sequence[float],
    warm_up_s: float,
    is_hopeless: Callable[[Trace], bool] = lambda _: False,
) -> Traffic:
    """Send each piece of work at its time, however many are still waiting for an answer.

    Latencies count from the planned time, so that neither a slow server nor a late client can hide a
    queue. What arrives before `warm_up_s` is warm-up. `is_hopeless` is asked after every piece of text of
    the others: once it says so, all that is still open is given up, and has no trace.
    """
    started = time.perf_counter()
    visits: list[asyncio.Task[Trace]] = []

    def on_text(trace: Trace) -> None:
        if is_hopeless(trace):
            for visit in visits:
                visit.cancel()

    async def visit(each: Work, time_s: float) -> Trace:
        planned_at = started + time_s
        await asyncio.sleep(max(0.0, planned_at - time.perf_counter()))
        is_warm_up = time_s < warm_up_s
        trace = await complete(target, each, planned_at=planned_at, on_text=None if is_warm_up else on_text)
        trace.is_warm_up = is_warm_up
        return trace

    visits += [asyncio.create_task(visit(each, at)) for each, at in zip(work, times_s, strict=True)]
    await asyncio.gather(*visits, return_exceptions=True)
    traces = [visit.result() for visit in visits if not visit.cancelled()]
    return Traffic(traces, started + warm_up_s, max((trace.ended_at for trace in traces), default=started))


def poisson_times(draw: random.Random, rate: float, duration_s: float) -> list[float]:
    """Seconds from the start at which requests arrive: independent of each other, `rate` a second."""
    times: list[float] = []
    time_s = draw.expovariate(rate)
    while time_s < duration_s:
        times.append(time_s)
        time_s += draw.expovariate(rate)
    return times
