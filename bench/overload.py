"""Five times as many requests as can be computed, each with a deadline: what is kept, what refused how fast.

    python bench/overload.py [--seconds 60] [--times 5] [--deadline 8] [flags of takeoff serve]

First as many clients as there are slots ask one request after the other: their rate of requests that end is
the peak. Then requests come at random, so many times as often, with X-Request-Timeout. Memory is that of all
processes of the server.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil
from server import ONE_DOOR, Server

from takeoff.bench.client import Trace, Work, complete
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import Target

CLIENTS = 16
PROMPT_WORDS, TOKENS = 60, (20, 120)  # the shortest and the longest completion
REFUSED_WITHIN_S = 0.02
PATIENCE_S = 5.0  # that a client waits beyond the deadline for what the server says


class Hurried(Target):
    """A server that is told how long each request may take."""

    @property
    def headers(self) -> dict[str, str]:
        return {"x-request-timeout": f"{self.timeout_s - PATIENCE_S:g}"}


class Rates(NamedTuple):
    """Of requests that ended in time: so many a second, and tokens of their prompts and completions."""

    requests: float
    prompt_tokens: float
    completion_tokens: float

    @property
    def tokens(self) -> float:
        return self.prompt_tokens + self.completion_tokens

    def told(self) -> str:
        parts = f"{self.prompt_tokens:.0f} of prompts and {self.completion_tokens:.0f} of completions"
        return f"{self.requests:.2f} requests/s; {self.tokens:.0f} tokens/s, {parts}"


def rates(traces: list[Trace], until: float, seconds: float) -> Rates:
    good = [trace for trace in traces if trace.error is None and trace.ended_at <= until]
    prompt_tokens = sum(trace.prompt_tokens for trace in good)
    completion_tokens = sum(trace.completion_tokens for trace in good)
    return Rates(len(good) / seconds, prompt_tokens / seconds, completion_tokens / seconds)


def make_work(prompts: Prompts) -> Work:
    return Work(prompts.text(PROMPT_WORDS), prompts.number(*TOKENS))


async def keep_asking(
    target: Target,
    prompts: Prompts,
    until: float,
    traces: list[Trace],
    make: Callable[[Prompts], Work] = make_work,
) -> None:
    while time.perf_counter() < until:
        traces.append(await complete(target, make(prompts)))


async def tokens_per_s(
    target: Target,
    streams: int,
    seconds: float,
    *,
    ramp_s: float = 0.0,
    make: Callable[[Prompts], Work] = make_work,
) -> float:
    """That came within the time, `ramp_s` after the streams began: also those of completions that end behind
    it."""
    traces: list[Trace] = []
    since = time.perf_counter() + ramp_s
    until = since + seconds
    asking = (keep_asking(target, Prompts(number), until, traces, make) for number in range(streams))
    await asyncio.gather(*asking)
    errors = [trace.error for trace in traces if trace.error is not None]
    assert not errors, errors[0]
    return sum(_tokens_within(trace, since, until) for trace in traces) / seconds


def _tokens_within(trace: Trace, since: float, until: float) -> float:
    """Of its completion, as far as its pieces of text came in that time."""
    share = sum(since <= at <= until for at in trace.text_at) / len(trace.text_at)
    return share * trace.completion_tokens


async def peak(target: Target, seconds: float) -> Rates:
    """Of as many clients as there are slots."""
    traces: list[Trace] = []
    until = time.perf_counter() + seconds
    await asyncio.gather(*(keep_asking(target, Prompts(number), until, traces) for number in range(CLIENTS)))
    return rates(traces, until, seconds)


async def overload(target: Target, per_second: float, seconds: float) -> list[Trace]:
    """Requests that come whether others have ended or not."""
    prompts = Prompts(99)
    asked: list[asyncio.Task[Trace]] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        asked.append(asyncio.create_task(complete(target, make_work(prompts))))
        await asyncio.sleep(prompts.draw.expovariate(per_second))
    return await asyncio.gather(*asked)


def memory_mb(server: Server) -> float:
    process = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of the overload")
    parser.add_argument("--times", type=float, default=5.0, help="the peak")
    parser.add_argument("--deadline", type=float, default=8.0, help="seconds that each request has")
    options, flags = parser.parse_known_args()
    server = Server(*ONE_DOOR, "--max-slots", str(CLIENTS), "--context", "1024", *flags)
    try:
        host, port = server.url.removeprefix("http://").split(":")
        target = Hurried("server", host, int(port), "primary", timeout_s=options.deadline + PATIENCE_S)
        asyncio.run(peak(target, 10.0))  # so that all memory that is needed once is there
        best = asyncio.run(peak(target, 30.0))
        before = memory_mb(server)
        traces = asyncio.run(overload(target, options.times * best.requests, options.seconds))
        after = memory_mb(server)
    finally:
        server.stop()
    report(traces, best, options.seconds)
    print(f"memory: {before:.0f} MB before, {after:.0f} MB after")


def report(traces: list[Trace], best: Rates, seconds: float) -> None:
    started = min(trace.sent_at for trace in traces)
    kept = [trace for trace in traces if trace.error is None]
    refused = [trace for trace in traces if trace.status == 429]
    num_admitted = len(traces) - len(refused)
    good = rates(traces, started + seconds, seconds)
    print(f"peak: {best.told()}")
    print(f"then {len(traces) / seconds:.1f} requests/s for {seconds:g} s")
    print(f"goodput: {good.told()}")
    shares = good.requests / best.requests, good.tokens / best.tokens
    print(f"of the peak: {shares[0]:.0%} of requests, {shares[1]:.0%} of tokens")
    print(f"deadlines kept: {len(kept)} of {num_admitted} admitted, {len(kept) / num_admitted:.1%}")
    cuts = statistics.quantiles([trace.seconds for trace in kept], n=100)
    print(f"they took {cuts[49]:.1f} s in the median, {cuts[94]:.1f} s at p95, {cuts[98]:.1f} s at p99")
    if len(refused) > 1:
        times = [trace.seconds for trace in refused]
        cuts = statistics.quantiles(times, n=100)
        late = sum(each >= REFUSED_WITHIN_S for each in times)
        print(
            f"refused: {len(refused)} of {len(traces)}, within {cuts[49] * 1e3:.1f} ms in the median, "
            f"{cuts[98] * 1e3:.1f} ms at p99; {late} took {REFUSED_WITHIN_S * 1e3:g} ms or longer"
        )
    others = {trace.error for trace in traces if trace.error and trace.status not in (429, 504)}
    print("other ends:", "; ".join(sorted(others)[:5]) or "none")


if __name__ == "__main__":
    main()
