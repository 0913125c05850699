"""How long `takeoff serve` takes from its start to ready, and its memory beside its plan.

    python bench/start.py [serve options ...]

Starts the server five times, the first time to bring the model into the page cache. The last one is
then given more prompts than its slots and its prefix cache hold, so that what is planned is in use.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys

import psutil
from server import Server

from takeoff.bench.client import Work, complete
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import find_target

STARTS, PROMPTS, PROMPT_WORDS = 5, 40, 900


def planned_mb(server: Server) -> float:
    """The sum that the start-up text says."""
    found = re.search(r"together +([\d,]+) MB", server.said)
    assert found is not None, server.said
    return float(found[1].replace(",", ""))


def memory_mb(server: Server) -> float:
    """Of all its processes; pages that several share count once."""
    root = psutil.Process(server.process.pid)
    processes = [root, *root.children(recursive=True)]
    return sum(process.memory_full_info().pss for process in processes) / 1e6


async def fill(url: str) -> None:
    """Prompts in every slot, and more prefixes than the cache has room for."""
    target, prompts = find_target(url), Prompts(1)
    work = [Work(prompts.text(PROMPT_WORDS), 16) for _ in range(PROMPTS)]
    traces = await asyncio.gather(*(complete(target, each) for each in work))
    if errors := [trace.error for trace in traces if trace.error]:
        raise SystemExit(f"{len(errors)} requests failed: {errors[0]}")


def main() -> None:
    seconds = []
    for number in range(STARTS):
        server = Server(*sys.argv[1:])
        seconds.append(server.seconds)
        if number < STARTS - 1:
            server.stop()
    print(f"start to ready: {statistics.median(seconds[1:]):.2f} s, median of {STARTS - 1}")
    idle = memory_mb(server)
    asyncio.run(fill(server.url))
    planned, used = planned_mb(server), memory_mb(server)
    server.stop()
    print(f"memory: {planned:,.0f} MB planned, {idle:,.0f} MB when ready, {used:,.0f} MB in use")
    print(f"in use / planned: {used / planned:.2f}")


if __name__ == "__main__":
    main()
