"""Goals that are no scenario of `takeoff bench`: the bandwidth that the weights are read at, and a restart.

Both give what `takeoff bench --json` would: rounds of figures by server.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from servers import Setup, Start, running

from takeoff.bench.client import Work, complete
from takeoff.bench.machine import machine
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import find_target

READ_BYTES = 512 * 1024 * 1024  # of each thread: far more than any cache holds
READ_TIMES = 8
TOKENS = 64
PREFIX_WORDS = 800


def read_bandwidth(threads: int) -> float:
    """GB/s at which so many threads read memory that each has for itself; the best of several tries."""
    arrays = [np.ones(READ_BYTES // 8, np.int64) for _ in range(threads)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        rates = []
        for _ in range(READ_TIMES):
            began = time.perf_counter()
            list(pool.map(np.max, arrays))
            rates.append(threads * READ_BYTES / (time.perf_counter() - began) / 1e9)
    return max(rates)


def read_share(start: Callable[[int], Start], setup: Setup, logs: Path, rounds: int) -> dict[str, Any]:
    """One stream, its tokens/s times the bytes of the weights, and a read test before each round."""
    read, ours = [], []
    with running("takeoff", start, logs / "takeoff.log") as server:
        target, prompts = find_target(server.url), Prompts(1)
        asyncio.run(complete(target, Work(prompts.text(16), 8)))
        for _ in range(rounds):
            read.append(read_bandwidth(setup.cores))
            trace = asyncio.run(complete(target, Work(prompts.text(16), TOKENS)))
            if trace.error is not None or trace.tpot_s is None:
                raise SystemExit(f"the request failed: {trace.error}")
            ours.append(setup.model.stat().st_size / trace.tpot_s / 1e9)
            print(f"{1 / trace.tpot_s:.2f} tokens/s, {ours[-1]:.2f} of {read[-1]:.2f} GB/s", file=sys.stderr)
    return _result("one", "read", {"takeoff": ours, "read test": read}, start(0))


def restart(start: Callable[[int], Start], logs: Path, rounds: int) -> dict[str, Any]:
    """The TTFT of a prompt that the server has never seen, and of the same after its restart."""
    cold, again = [], []
    for number in range(rounds):
        prompt = Prompts(time.time_ns() + number).text(PREFIX_WORDS)
        for times in (cold, again):
            with running("takeoff", start, logs / "takeoff.log") as server:
                target = find_target(server.url)
                asyncio.run(complete(target, Work("Hello", 8)))
                trace = asyncio.run(complete(target, Work(prompt, 8)))
                if trace.error is not None:
                    raise SystemExit(f"the request failed: {trace.error}")
                times.append(trace.ttft_s)
    return _result("again", "ttft", {"cold": cold, "restarted": again}, start(0))


def _result(scenario: str, figure: str, rounds: dict[str, list[float]], start: Start) -> dict[str, Any]:
    figures = [{"name": figure, "rounds": rounds}]
    return {
        "conditions": {
            "began": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "load_average": [round(load, 2) for load in psutil.getloadavg()],
            "servers": {"takeoff": {"command": list(start.command)}},
        },
        "scenarios": [{"name": scenario, "figures": figures, "errors": {}, "runs": {}}],
    }
