"""Goals that are no scenario of `takeoff bench`: the bandwidth that the weights are read at, and a restart.

Both give what `takeoff bench --json` would: rounds of figures by server.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from servers import Running, Setup, Start, running, takeoff

from takeoff.bench.client import Trace, Work, complete
from takeoff.bench.machine import machine
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import find_target

READ_BYTES = 512 * 1024 * 1024  # of each thread: far more than any cache holds
READ_TIMES = 8
TOKENS = 64
PREFIX_WORDS, DISK_MB = 800, "512"
WRITE_TIMEOUT_S = 30.0


def read_bandwidth(threads: int) -> float:
    """GB/s at which so many threads read memory that each has for itself; the median of several tries."""
    arrays = [np.ones(READ_BYTES // 8, np.int64) for _ in range(threads)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        rates = []
        for _ in range(READ_TIMES):
            began = time.perf_counter()
            list(pool.map(np.max, arrays))
            rates.append(threads * READ_BYTES / (time.perf_counter() - began) / 1e9)
    return statistics.median(rates)


def read_share(start: Callable[[int], Start], setup: Setup, logs: Path, rounds: int) -> dict[str, Any]:
    """One stream, its tokens/s times the bytes of the weights, and a read test before and after each round:
    what the machine's memory gives changes with what its neighbours do.
    """
    read, ours = [], []
    with running("takeoff", start, logs / "takeoff.log") as server:
        prompts = Prompts(1)
        _alone(server, Work(prompts.text(16), 8))
        for _ in range(rounds):
            before = read_bandwidth(setup.cores)
            tpot_s = _alone(server, Work(prompts.text(16), TOKENS)).tpot_s
            if tpot_s is None:
                raise SystemExit("a text of one piece has no tokens/s")
            ours.append(setup.model.stat().st_size / tpot_s / 1e9)
            read.append((before + read_bandwidth(setup.cores)) / 2)
            print(f"{1 / tpot_s:.2f} tokens/s, {ours[-1]:.2f} of {read[-1]:.2f} GB/s", file=sys.stderr)
    return _result("one", "read", {"takeoff": ours, "read test": read}, start(0))


def restart(setup: Setup, flags: tuple[str, ...], logs: Path, rounds: int) -> dict[str, Any]:
    """The TTFT of a prompt whose beginning the server has never seen, has in RAM, and has on disk after a
    restart. Each round begins with an empty folder of prefixes.
    """
    with tempfile.TemporaryDirectory() as folder:
        starts = [
            partial(
                takeoff,
                setup,
                flags=(*flags, "--home", f"{folder}/{number}", "--prefix-cache-disk-mb", DISK_MB),
            )
            for number in range(rounds)
        ]
        times = [_around_a_restart(start, logs / "takeoff.log") for start in starts]
    cold, kept, restarted = (list(each) for each in zip(*times, strict=True))
    return _result("again", "ttft", {"cold": cold, "RAM": kept, "restarted": restarted}, starts[0](0))


def _around_a_restart(start: Callable[[int], Start], log: Path) -> tuple[float, float, float]:
    """Seconds: computed, from RAM, and after a restart. The prompts end in words of their own."""
    prompts = Prompts(time.time_ns())
    beginning, *ends = prompts.text(PREFIX_WORDS), *(prompts.text(5) for _ in range(3))
    works = [Work(f"{beginning} {end}", 8) for end in ends]
    with running("takeoff", start, log) as server:
        _alone(server, Work("Hello", 8))
        cold, kept = (_alone(server, work).ttft_s for work in works[:2])
        _await_written(server)
    with running("takeoff", start, log) as server:
        _alone(server, Work("Hello", 8))
        restarted = _alone(server, works[2]).ttft_s
    print(f"{cold:.3f} s computed, {kept:.3f} s from RAM, {restarted:.3f} s after a restart", file=sys.stderr)
    return cold, kept, restarted


def _await_written(server: Running) -> None:
    """Until a prefix is on disk."""
    until = time.monotonic() + WRITE_TIMEOUT_S
    while time.monotonic() < until:
        with urllib.request.urlopen(f"{server.url}/metrics") as page:
            writes = re.search(rb"^takeoff_prefix_disk_writes_total (\S+)$", page.read(), re.MULTILINE)
        if writes is not None and float(writes[1]) > 0:
            return
        time.sleep(0.1)
    raise SystemExit("no prefix was written to disk")


def _alone(server: Running, work: Work) -> Trace:
    """What one request got that runs alone."""
    trace = asyncio.run(complete(find_target(server.url), work))
    if trace.error is not None:
        raise SystemExit(f"the request failed: {trace.error}")
    return trace


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
